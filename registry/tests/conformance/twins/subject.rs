//! A store of either kind, what its callers know of it, and how it comes into another life.

use super::op::{Lease, Sight};
use crate::requests::*;
use rustic_registry::{
    Announce, Announced, Bring, Epoch, FormerState, HostLife, MemoryRegistry, RedisRegistry, RedisSettings, Retire,
    Stops, StoreLife,
    dev_server::{DevServer, Durability},
    memory::Snapshot,
};
use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path, sync::Arc};

/// Both stores count epochs from here, whatever their clocks say.
pub(super) const FIRST: Epoch = Epoch(1 << 52);

/// A Redis that keeps every write, so that it can be started again with all it had, or with what it had before.
pub(super) struct KeepingRedis {
    server: DevServer,
    dir: tempfile::TempDir,
}

impl KeepingRedis {
    pub(super) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = DevServer::start(dir.path(), Durability::EveryWrite).unwrap();
        Self { server, dir }
    }
}

/// What a store stands on.
enum Ground<'a> {
    Memory { registry: Arc<MemoryRegistry>, snapshot: Option<Box<Snapshot>> },
    Redis { redis: &'a mut KeepingRedis, prefix: String, snapshot: Option<tempfile::TempDir> },
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

/// A store, and what its callers know of it.
pub(super) struct Subject<'a> {
    ground: Ground<'a>,
    pub(super) store: Store,
    /// Its lives, in the order in which they were seen.
    pub(super) lives: Vec<StoreLife>,
    /// Leases of each process.
    leases: BTreeMap<(u8, u8), Vec<Announced>>,
}

impl<'a> Subject<'a> {
    pub(super) async fn memory() -> Self {
        let registry = Arc::new(MemoryRegistry::new(wall));
        Self::begin(registry.clone(), Ground::Memory { registry, snapshot: None }).await
    }

    pub(super) async fn redis(redis: &'a mut KeepingRedis) -> Self {
        let prefix = uuid::Uuid::new_v4().to_string();
        let store = connect(redis, &prefix);
        Self::begin(store, Ground::Redis { redis, prefix, snapshot: None }).await
    }

    async fn begin(store: Store, ground: Ground<'a>) -> Self {
        let mut subject = Self { ground, store, lives: vec![], leases: BTreeMap::new() };
        subject.be_born(false).await;
        subject.look().await;
        subject.store.settle(&subject.known(0), true).await.unwrap();
        subject
    }

    /// Somebody comes, and is gone again: only the epochs stay.
    async fn be_born(&self, brought: bool) {
        if brought {
            let seen = Bring { highest_epoch: FIRST, ..bring(&store_life("elsewhere.1")) };
            self.store.bring(&seen).await.unwrap();
        } else {
            let first = Announce { highest_epoch: FIRST, ..announce("first", "i", 1.0) };
            self.store.announce(&first).await.unwrap();
            self.store.depart(&host("first"), &life("i")).await.unwrap();
        }
    }

    fn see(&mut self, store: &StoreLife) -> usize {
        let known = self.lives.iter().position(|life| life == store);
        known.unwrap_or_else(|| {
            self.lives.push(store.clone());
            self.lives.len() - 1
        })
    }

    pub(super) async fn look(&mut self) {
        if let Some(store) = self.store.hosts().await.unwrap().store_life {
            self.see(&store);
        }
    }

    pub(super) fn known(&self, back: u8) -> StoreLife {
        let at = self.lives.len().checked_sub(1 + usize::from(back));
        at.map_or_else(|| store_life("elsewhere.1"), |at| self.lives[at].clone())
    }

    pub(super) fn lease(&self, host: u8, life: u8, which: Lease) -> Announced {
        let none = Announced {
            store_life: self.known(0),
            life: HostLife(0),
            returned: 0,
            stops: Stops(0),
            highest_epoch: FIRST,
        };
        let leases = self.leases.get(&(host, life)).map(Vec::as_slice).unwrap_or_default();
        let latest = leases.last().cloned().unwrap_or(none);
        match which {
            Lease::Latest => latest,
            Lease::Former => leases.iter().rev().nth(1).cloned().unwrap_or(latest),
            Lease::MadeUp => Announced { life: HostLife(latest.life.0 + 1), ..latest },
            Lease::OfAnotherStore => Announced { store_life: self.known(1), ..latest },
        }
    }

    pub(super) async fn announce(&mut self, host: u8, incarnation: u8, request: &Announce) -> String {
        let lease = self.store.announce(request).await.unwrap();
        let store = self.see(&lease.store_life);
        let answer = format!(
            "{:?} returned {} {:?} {:?} in life {store}",
            lease.life, lease.returned, lease.stops, lease.highest_epoch
        );
        self.leases.entry((host, incarnation)).or_default().push(lease);
        answer
    }

    /// What an observer quotes.
    pub(super) async fn sight(&self, at: u8, process: u8, sight: Sight) -> Retire {
        let (id, incarnation) = (host_id(at), process_id(process));
        let view = self.store.hosts().await.unwrap();
        let lease = view.hosts.iter().find(|h| h.host.as_str() == id && h.incarnation.as_str() == incarnation);
        let former = view.former.iter().find(|f| f.host.as_str() == id && f.incarnation.as_str() == incarnation);
        let exact = lease.map(|h| (h.life, h.renewals)).or(former.map(|f| f.renewal));
        let (lease, renewals) = exact.unwrap_or(Retire::HOLDS_NO_LEASE);
        Retire {
            host: host(&id),
            incarnation: life(&incarnation),
            seen: match sight {
                Sight::Exact | Sight::OfAnotherStore => (lease, renewals),
                Sight::RenewedSince => (lease, renewals + 1),
                Sight::FormerLease => (HostLife(lease.0.saturating_sub(1)), renewals),
                Sight::Nothing => Retire::HOLDS_NO_LEASE,
            },
            store_life: if let Sight::OfAnotherStore = sight { self.known(1) } else { view.store_life.unwrap() },
        }
    }

    pub(super) async fn recover(&mut self, retire: bool) -> String {
        let view = self.store.hosts().await.unwrap();
        let mut answer = String::new();
        let number = |text: &str| text.trim_start_matches(['h', 'i', '-']).parse().unwrap();
        for record in &view.hosts {
            let (at, process) = (number(record.host.as_str()), number(record.incarnation.as_str()));
            if retire {
                let request = self.sight(at, process, Sight::Exact).await;
                write!(answer, "{} ", self.store.retire(&request).await.unwrap()).unwrap();
            } else {
                let back =
                    Announce { store_life: Some(self.known(0)), ..announce(&host_id(at), &process_id(process), 3.0) };
                answer += &self.announce(at, process, &back).await;
                let report_all =
                    report_all(&host_id(at), &process_id(process), &self.lease(at, process, Lease::Latest));
                write!(answer, " {:?} ", self.store.renew(&report_all).await.unwrap()).unwrap();
            }
        }
        for former in view.former.iter().filter(|f| f.state == FormerState::Awaited) {
            let (at, process) = (number(former.host.as_str()), number(former.incarnation.as_str()));
            let request = self.sight(at, process, Sight::Exact).await;
            write!(answer, "{} ", self.store.retire(&request).await.unwrap()).unwrap();
        }
        let settled = self.store.settle(&view.store_life.unwrap(), true).await.unwrap();
        write!(answer, "settled {settled}").unwrap();
        answer
    }

    pub(super) fn snapshot(&mut self) {
        match &mut self.ground {
            Ground::Memory { registry, snapshot } => *snapshot = Some(Box::new(registry.snapshot())),
            Ground::Redis { redis, snapshot, .. } => {
                let held = tempfile::tempdir().unwrap();
                copy(&redis.dir.path().join("appendonlydir"), held.path());
                *snapshot = Some(held);
            }
        }
    }

    pub(super) fn restart(&mut self, from_snapshot: bool) {
        match &mut self.ground {
            Ground::Memory { registry, snapshot } => {
                let held = snapshot.clone().filter(|_| from_snapshot);
                registry.restart_from(held.map_or_else(|| registry.snapshot(), |held| *held));
            }
            Ground::Redis { redis, prefix, snapshot } => {
                redis.server.kill();
                if let Some(held) = snapshot.as_ref().filter(|_| from_snapshot) {
                    let data = redis.dir.path().join("appendonlydir");
                    fs::remove_dir_all(&data).unwrap();
                    copy(held.path(), &data);
                }
                redis.server.restart().unwrap();
                self.store = connect(redis, prefix);
            }
        }
    }

    pub(super) async fn wipe(&mut self, brought: bool) {
        match &self.ground {
            Ground::Memory { registry, .. } => registry.wipe(),
            Ground::Redis { redis, .. } => redis.server.wipe(),
        }
        self.be_born(brought).await;
    }
}

fn connect(redis: &KeepingRedis, prefix: &str) -> Store {
    let settings = RedisSettings { prefix: prefix.to_owned(), ..RedisSettings::new(&redis.server.url()) };
    Arc::new(RedisRegistry::new(&settings).unwrap())
}

pub(super) fn host_id(n: u8) -> String {
    format!("h-{n}")
}

pub(super) fn process_id(n: u8) -> String {
    format!("i{n}")
}
