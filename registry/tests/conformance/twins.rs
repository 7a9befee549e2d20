//! The same random operations on both stores must answer and hold the same, also when both lose what they had.

use crate::requests::*;
use proptest::prelude::*;
use rustic_registry::{
    Advance, AgentKey, AgentRecord, Announce, Announced, Bring, Claim, ClaimOutcome, Cordon, Epoch, EventId,
    ExitStatus, FormerState, HostLife, HostRecord, HostState, IfFull, Index, LastExit, MemoryRegistry, OnDisconnect,
    Phase, Queue, RedisRegistry, RedisSettings, Registry, ReleaseGuard, Remember, Renew, Resources, Restore, Retire,
    Stops, StoreLife, UnixMillis, View,
    dev_server::{DevServer, Durability},
    memory::Snapshot,
};
use std::time::Duration;
use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path, sync::Arc};

/// Which life of the store somebody knows: one that was seen, counted from the latest, or one of another store.
type Known = Option<u8>;

#[derive(Debug, Clone)]
enum Op {
    Announce {
        host: u8,
        life: u8,
        succeeds: Option<u8>,
        slots: u8,
        knew: Known,
        told: Known,
        cordoned: bool,
        high: bool,
    },
    Renew {
        host: u8,
        life: u8,
        lease: Lease,
        draining: bool,
        told: bool,
        high: bool,
    },
    Depart {
        host: u8,
        life: u8,
    },
    Cordon {
        host: u8,
        on: bool,
    },
    Retire {
        host: u8,
        life: u8,
        seen: Sight,
    },
    Forget {
        host: u8,
        life: u8,
    },
    Claim {
        agent: u8,
        request: u8,
        digest: u8,
        half_cpus: u8,
        if_full: IfFull,
        keep: bool,
        hosts: Vec<u8>,
        asked: u8,
        knew: Known,
    },
    Advance {
        agent: u8,
        epoch_back: u8,
        phase: Phase,
        exit: Option<i32>,
        late: bool,
        knew: Known,
    },
    Release {
        agent: u8,
        epoch_back: u8,
        guard: ReleaseGuard,
    },
    Unplace {
        agent: u8,
        epoch_back: u8,
        guard: ReleaseGuard,
        knew: Known,
    },
    Place {
        agent: u8,
        epoch_back: u8,
        hosts: Vec<u8>,
    },
    Bury {
        agent: u8,
    },
    Restore {
        agent: u8,
        epoch_back: u8,
        host: u8,
        life: u8,
        phase: Phase,
        keep: bool,
        knew: Known,
        had: Known,
    },
    Remember {
        agent: u8,
        epoch_back: u8,
        waits: bool,
        had: Known,
    },
    Bring {
        had: Known,
        hosts: Vec<(u8, u8)>,
        stopped: Vec<(u8, u8)>,
        high: bool,
    },
    Settle {
        store: Known,
        watched: bool,
    },
    /// All hosts tell or are retired, and the store settles.
    Recover {
        retire: bool,
    },
    Snapshot,
    Restart {
        from_snapshot: bool,
    },
    Wipe {
        brought: bool,
    },
}

#[derive(Debug, Clone, Copy)]
enum Lease {
    Latest,
    Former,
    MadeUp,
    OfAnotherStore,
}

#[derive(Debug, Clone, Copy)]
enum Sight {
    Exact,
    RenewedSince,
    FormerLease,
    Nothing,
    OfAnotherStore,
}

fn phases() -> impl Strategy<Value = Phase> + Clone {
    prop::sample::select(vec![
        Phase::Pending,
        Phase::Starting,
        Phase::Running,
        Phase::Restarting,
        Phase::Stopping,
        Phase::Failed,
    ])
}

fn guards() -> impl Strategy<Value = ReleaseGuard> + Clone {
    prop::sample::select(vec![
        ReleaseGuard::Reaped,
        ReleaseGuard::Vouched,
        ReleaseGuard::Unaccepted,
        ReleaseGuard::Unhosted,
        ReleaseGuard::Failed,
        ReleaseGuard::Ended,
    ])
}

/// Mostly nothing, or the latest life.
fn known() -> impl Strategy<Value = Known> + Clone {
    prop::sample::select(vec![None, None, None, Some(0), Some(0), Some(1), Some(2), Some(9)])
}

fn named() -> impl Strategy<Value = Known> + Clone {
    prop::sample::select(vec![Some(0), Some(0), Some(1), Some(2), Some(9), Some(9)])
}

// Few names, so that operations meet.
fn of_hosts() -> impl Strategy<Value = Op> {
    let lease = prop::sample::select(vec![
        Lease::Latest,
        Lease::Latest,
        Lease::Latest,
        Lease::Former,
        Lease::MadeUp,
        Lease::OfAnotherStore,
    ]);
    let sight = prop::sample::select(vec![
        Sight::Exact,
        Sight::Exact,
        Sight::Exact,
        Sight::RenewedSince,
        Sight::FormerLease,
        Sight::Nothing,
        Sight::OfAnotherStore,
    ]);
    let process = || (0..3u8, 0..3u8);
    let flag = any::<bool>;
    prop_oneof![
        6 => (process(), prop::option::of(0..3u8), 1..4u8, known(), known(), flag(), flag()).prop_map(
            |((host, life), succeeds, slots, knew, told, cordoned, high)| {
                Op::Announce { host, life, succeeds, slots, knew, told, cordoned, high }
            }
        ),
        4 => (process(), lease, flag(), flag(), flag()).prop_map(|((host, life), lease, draining, told, high)| {
            Op::Renew { host, life, lease, draining, told, high }
        }),
        1 => process().prop_map(|(host, life)| Op::Depart { host, life }),
        1 => (0..3u8, flag()).prop_map(|(host, on)| Op::Cordon { host, on }),
        4 => (process(), sight).prop_map(|((host, life), seen)| Op::Retire { host, life, seen }),
        2 => process().prop_map(|(host, life)| Op::Forget { host, life }),
    ]
}

fn of_agents() -> impl Strategy<Value = Op> {
    let hosts = || prop::collection::vec(0..3u8, 0..4);
    let if_full = prop::sample::select(vec![IfFull::Refuse, IfFull::Wait]);
    let agent = || (0..4u8, 0..3u8);
    let flag = any::<bool>;
    prop_oneof![
        6 => ((0..4u8, 0..2u8, 0..2u8), 0..6u8, if_full, flag(), hosts(), 0..6u8, known()).prop_map(
            |((agent, request, digest), half_cpus, if_full, keep, hosts, asked, knew)| {
                Op::Claim { agent, request, digest, half_cpus, if_full, keep, hosts, asked, knew }
            }
        ),
        5 => (agent(), phases(), prop::option::of(-9..200i32), prop::bool::weighted(0.1), known()).prop_map(
            |((agent, epoch_back), phase, exit, late, knew)| Op::Advance { agent, epoch_back, phase, exit, late, knew }
        ),
        3 => (agent(), guards()).prop_map(|((agent, epoch_back), guard)| Op::Release { agent, epoch_back, guard }),
        3 => (agent(), guards(), known())
            .prop_map(|((agent, epoch_back), guard, knew)| Op::Unplace { agent, epoch_back, guard, knew }),
        2 => (agent(), hosts()).prop_map(|((agent, epoch_back), hosts)| Op::Place { agent, epoch_back, hosts }),
        1 => (0..4u8).prop_map(|agent| Op::Bury { agent }),
    ]
}

fn of_lives() -> impl Strategy<Value = Op> {
    let flag = any::<bool>;
    let told = prop::sample::select(vec![Phase::Starting, Phase::Running, Phase::Stopping, Phase::Failed]);
    prop_oneof![
        5 => ((0..4u8, 0..4u8), (0..3u8, 0..3u8), told, flag(), known(), known()).prop_map(
            |((agent, epoch_back), (host, life), phase, keep, knew, had)| {
                Op::Restore { agent, epoch_back, host, life, phase, keep, knew, had }
            }
        ),
        3 => (0..4u8, 0..4u8, flag(), named())
            .prop_map(|(agent, epoch_back, waits, had)| Op::Remember { agent, epoch_back, waits, had }),
        2 => (
            named(),
            prop::collection::vec((0..3u8, 0..3u8), 0..3),
            prop::collection::vec((0..4u8, 0..4u8), 0..3),
            flag()
        )
            .prop_map(|(had, hosts, stopped, high)| Op::Bring { had, hosts, stopped, high }),
        2 => (named(), flag()).prop_map(|(store, watched)| Op::Settle { store, watched }),
        3 => flag().prop_map(|retire| Op::Recover { retire }),
        1 => Just(Op::Snapshot),
        1 => flag().prop_map(|from_snapshot| Op::Restart { from_snapshot }),
        1 => flag().prop_map(|brought| Op::Wipe { brought }),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![6 => of_agents(), 4 => of_hosts(), 3 => of_lives()]
}

/// Both stores count epochs from here, whatever their clocks say.
const FIRST: Epoch = Epoch(1 << 52);

/// A Redis that keeps every write, so that it can be started again with all it had, or with what it had before.
struct KeepingRedis {
    server: DevServer,
    dir: tempfile::TempDir,
}

impl KeepingRedis {
    fn start() -> Self {
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
struct Subject<'a> {
    ground: Ground<'a>,
    store: Store,
    /// Its lives, in the order in which they were seen.
    lives: Vec<StoreLife>,
    /// Leases of each process.
    leases: BTreeMap<(u8, u8), Vec<Announced>>,
}

impl<'a> Subject<'a> {
    async fn memory() -> Self {
        let registry = Arc::new(MemoryRegistry::new(wall));
        Self::begin(registry.clone(), Ground::Memory { registry, snapshot: None }).await
    }

    async fn redis(redis: &'a mut KeepingRedis) -> Self {
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

    async fn look(&mut self) {
        if let Some(store) = self.store.hosts().await.unwrap().store {
            self.see(&store);
        }
    }

    fn known(&self, back: u8) -> StoreLife {
        let at = self.lives.len().checked_sub(1 + usize::from(back));
        at.map_or_else(|| store_life("elsewhere.1"), |at| self.lives[at].clone())
    }

    fn lease(&self, host: u8, life: u8, which: Lease) -> Announced {
        let none = Announced { store: self.known(0), life: HostLife(0), returned: 0, stops: Stops(0) };
        let leases = self.leases.get(&(host, life)).map(Vec::as_slice).unwrap_or_default();
        let latest = leases.last().cloned().unwrap_or(none);
        match which {
            Lease::Latest => latest,
            Lease::Former => leases.iter().rev().nth(1).cloned().unwrap_or(latest),
            Lease::MadeUp => Announced { life: HostLife(latest.life.0 + 1), ..latest },
            Lease::OfAnotherStore => Announced { store: self.known(1), ..latest },
        }
    }

    async fn announce(&mut self, host: u8, incarnation: u8, request: &Announce) -> String {
        let lease = self.store.announce(request).await.unwrap();
        let store = self.see(&lease.store);
        let answer = format!("{:?} returned {} {:?} in life {store}", lease.life, lease.returned, lease.stops);
        self.leases.entry((host, incarnation)).or_default().push(lease);
        answer
    }

    /// What an observer quotes.
    async fn sight(&self, at: u8, process: u8, sight: Sight) -> Retire {
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
            store: if let Sight::OfAnotherStore = sight { self.known(1) } else { view.store.unwrap() },
        }
    }

    async fn recover(&mut self, retire: bool) -> String {
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
                    Announce { knew: Some(self.known(0)), ..announce(&host_id(at), &process_id(process), 3.0) };
                answer += &self.announce(at, process, &back).await;
                let tell = tell(&host_id(at), &process_id(process), &self.lease(at, process, Lease::Latest));
                write!(answer, " {:?} ", self.store.renew(&tell).await.unwrap()).unwrap();
            }
        }
        for former in view.former.iter().filter(|f| f.state == FormerState::Awaited) {
            let (at, process) = (number(former.host.as_str()), number(former.incarnation.as_str()));
            let request = self.sight(at, process, Sight::Exact).await;
            write!(answer, "{} ", self.store.retire(&request).await.unwrap()).unwrap();
        }
        let settled = self.store.settle(&view.store.unwrap(), true).await.unwrap();
        write!(answer, "settled {settled}").unwrap();
        answer
    }

    fn snapshot(&mut self) {
        match &mut self.ground {
            Ground::Memory { registry, snapshot } => *snapshot = Some(Box::new(registry.snapshot())),
            Ground::Redis { redis, snapshot, .. } => {
                let held = tempfile::tempdir().unwrap();
                copy(&redis.dir.path().join("appendonlydir"), held.path());
                *snapshot = Some(held);
            }
        }
    }

    fn restart(&mut self, from_snapshot: bool) {
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

    async fn wipe(&mut self, brought: bool) {
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

fn host_id(n: u8) -> String {
    format!("h-{n}")
}

fn process_id(n: u8) -> String {
    format!("i{n}")
}

/// Highest epoch and lease that a caller brings.
fn highest(high: bool) -> (Epoch, HostLife) {
    if high { (Epoch(FIRST.0 + 100), HostLife(100)) } else { (Epoch(0), HostLife(0)) }
}

fn on_disconnect(keep: bool) -> OnDisconnect {
    if keep { OnDisconnect::Keep } else { OnDisconnect::Stop }
}

/// Two guilds, one with a name full of separators.
fn agent_key(agent: u8) -> AgentKey {
    key(if agent.is_multiple_of(2) { "g" } else { "g{:}%" }, &format!("a:{agent}"))
}

/// Epoch of an agent's record, less than that, or more, by how much a caller is behind.
async fn epoch_of(store: &dyn Registry, agent: u8, back: u8) -> Epoch {
    let record = store.get(&agent_key(agent), View::Basic).await.unwrap();
    let current = record.map_or(FIRST, |r| r.epoch);
    match back {
        0 => current,
        1 => Epoch(current.0 - 1),
        more => Epoch(current.0 + u64::from(more)),
    }
}

impl Subject<'_> {
    /// Applies one operation and tells the answer, without what depends on the clock or on chance.
    async fn apply(&mut self, op: &Op) -> String {
        match op {
            Op::Snapshot => {
                self.snapshot();
                String::new()
            }
            Op::Restart { from_snapshot } => {
                self.restart(*from_snapshot);
                String::new()
            }
            Op::Wipe { brought } => {
                self.wipe(*brought).await;
                String::new()
            }
            Op::Recover { retire } => {
                self.look().await;
                self.recover(*retire).await
            }
            Op::Announce { .. } | Op::Renew { .. } | Op::Depart { .. } | Op::Cordon { .. } => self.of_host(op).await,
            Op::Retire { .. } | Op::Forget { .. } | Op::Bring { .. } | Op::Settle { .. } => self.of_engine(op).await,
            Op::Restore { .. } | Op::Remember { .. } => self.of_teller(op).await,
            Op::Claim { .. }
            | Op::Advance { .. }
            | Op::Release { .. }
            | Op::Unplace { .. }
            | Op::Place { .. }
            | Op::Bury { .. } => self.of_agent(op).await,
        }
    }

    async fn of_host(&mut self, op: &Op) -> String {
        match *op {
            Op::Announce { host, life: i, succeeds, slots, knew, told, cordoned, high } => {
                let (highest_epoch, highest_life) = highest(high);
                let request = Announce {
                    succeeds: succeeds.map(|ended| life(&process_id(ended))),
                    knew: knew.map(|back| self.known(back)),
                    told: told.map(|back| self.known(back)),
                    cordoned,
                    highest_epoch,
                    highest_life,
                    ..announce(&host_id(host), &process_id(i), f64::from(slots))
                };
                self.announce(host, i, &request).await
            }
            Op::Renew { host, life, lease, draining, told, high } => {
                let lease = self.lease(host, life, lease);
                let request = Renew {
                    state: if draining { HostState::Draining } else { HostState::Ready },
                    told,
                    highest_epoch: highest(high).0,
                    ..renew(&host_id(host), &process_id(life), &lease)
                };
                format!("{:?}", self.store.renew(&request).await.unwrap())
            }
            Op::Depart { host: id, life: i } => {
                self.store.depart(&host(&host_id(id)), &life(&process_id(i))).await.unwrap();
                String::new()
            }
            Op::Cordon { host: id, on } => {
                let cordon = if on { Cordon::On } else { Cordon::Off };
                format!("{:?}", self.store.cordon(&host(&host_id(id)), cordon).await.unwrap())
            }
            _ => unreachable!("not of a host: {op:?}"),
        }
    }

    async fn of_engine(&mut self, op: &Op) -> String {
        match op {
            Op::Retire { host, life, seen } => {
                let request = self.sight(*host, *life, *seen).await;
                format!("{:?}", self.store.retire(&request).await.unwrap())
            }
            Op::Forget { host: id, life: i } => {
                format!("{:?}", self.store.forget(&host(&host_id(*id)), &life(&process_id(*i))).await.unwrap())
            }
            Op::Bring { had, hosts, stopped, high } => {
                let (highest_epoch, highest_life) = highest(*high);
                let mut request =
                    Bring { highest_epoch, highest_life, ..bring(&self.known(had.unwrap_or_default())) };
                for (id, i) in hosts {
                    request.hosts.push((host(&host_id(*id)), life(&process_id(*i)), LASTS));
                }
                for (agent, back) in stopped {
                    let epoch = if *back == 3 { Epoch(0) } else { epoch_of(&*self.store, *agent, *back).await };
                    request.stopped.push((agent_key(*agent), epoch));
                }
                self.store.bring(&request).await.unwrap();
                String::new()
            }
            Op::Settle { store, watched } => {
                self.look().await;
                let store = self.known(store.unwrap_or_default());
                format!("{:?}", self.store.settle(&store, *watched).await.unwrap())
            }
            _ => unreachable!("not of an engine: {op:?}"),
        }
    }

    async fn of_teller(&mut self, op: &Op) -> String {
        match *op {
            Op::Restore { agent, epoch_back, host, life, phase, keep, knew, had } => {
                let key = agent_key(agent);
                let epoch = epoch_of(&*self.store, agent, epoch_back).await;
                let told = restore(&key, epoch, &host_id(host), &process_id(life), &self.known(0));
                let request = Restore {
                    advance: Advance { knew: knew.map(|back| self.known(back)), ..advance(&key, epoch, phase) },
                    on_disconnect: on_disconnect(keep),
                    had: had.map(|back| self.known(back)),
                    ..told
                };
                format!("{:?}", self.store.restore(&request).await.unwrap())
            }
            Op::Remember { agent, epoch_back, waits, had } => {
                let epoch = epoch_of(&*self.store, agent, epoch_back).await;
                let request = Remember {
                    record: remembered(agent_key(agent), epoch, waits),
                    had: self.known(had.unwrap_or_default()),
                };
                format!("{:?}", self.store.remember(&request).await.unwrap())
            }
            _ => unreachable!("nothing to tell: {op:?}"),
        }
    }

    async fn of_agent(&mut self, op: &Op) -> String {
        let life = |known: &Known| known.map(|back| self.known(back));
        let store = &*self.store;
        match op {
            Op::Claim { agent, request, digest, half_cpus, if_full, keep, hosts, asked, knew } => {
                let hosts: Vec<_> = hosts.iter().map(|h| host_id(*h)).collect();
                let hosts: Vec<_> = hosts.iter().map(String::as_str).collect();
                let mut demand = Resources::one_slot();
                demand.set("cpus", f64::from(*half_cpus) / 2.0).unwrap();
                let request = Claim {
                    demand,
                    if_full: *if_full,
                    on_disconnect: on_disconnect(*keep),
                    asked: if *asked < 2 { Stops(u64::from(*asked)) } else { JUST_NOW },
                    knew: life(knew),
                    ..claim(&agent_key(*agent), &format!("r{request}"), &format!("d{digest}"), &hosts)
                };
                match store.claim(&request).await.unwrap() {
                    ClaimOutcome::Exists(record) => format!("{:?}", timeless(*record)),
                    other => format!("{other:?}"),
                }
            }
            Op::Advance { agent, epoch_back, phase, exit, late, knew } => {
                let key = agent_key(*agent);
                let epoch = epoch_of(store, *agent, *epoch_back).await;
                let exit = exit.map(|n| if n < 0 { ExitStatus::Signal(-n) } else { ExitStatus::Code(n) });
                let mut request = Advance { exit, restarts: 3, knew: life(knew), ..advance(&key, epoch, *phase) };
                if *late {
                    request.sequence = 0;
                }
                format!("{:?}", store.advance(&request).await.unwrap())
            }
            Op::Release { agent, epoch_back, guard } => {
                let epoch = epoch_of(store, *agent, *epoch_back).await;
                format!("{:?}", store.release(&agent_key(*agent), epoch, *guard).await)
            }
            Op::Unplace { agent, epoch_back, guard, knew } => {
                let epoch = epoch_of(store, *agent, *epoch_back).await;
                let request = rustic_registry::Unplace {
                    knew: life(knew),
                    ..unplace(&agent_key(*agent), epoch, *guard, "moved")
                };
                format!("{:?}", store.unplace(&request).await)
            }
            Op::Place { agent, epoch_back, hosts } => {
                let epoch = epoch_of(store, *agent, *epoch_back).await;
                let hosts: Vec<_> = hosts.iter().map(|h| host(&host_id(*h))).collect();
                format!("{:?}", store.place(&agent_key(*agent), epoch, &hosts).await.unwrap())
            }
            Op::Bury { agent } => format!("{:?}", store.bury(&agent_key(*agent)).await),
            _ => unreachable!("not of an agent: {op:?}"),
        }
    }

    /// Everything a store holds, as text.
    async fn holds(&self) -> String {
        let store = &*self.store;
        let mut text = String::new();
        let view = store.hosts().await.unwrap();
        let at = view.store.and_then(|life| self.lives.iter().position(|known| *known == life));
        writeln!(text, "{at:?} {} {} {:?}", view.held, view.pending, view.stops).unwrap();
        for host in view.hosts {
            writeln!(text, "{:?}", HostRecord { renewed: UnixMillis(0), ..host }).unwrap();
        }
        for former in view.former {
            writeln!(text, "{former:?}").unwrap();
        }
        for queue in [Queue::Pending, Queue::Unaccepted] {
            let agents = store.oldest(queue, 0, 100, View::Basic).await.unwrap();
            let mut names: Vec<_> = agents.into_iter().map(|r| r.key.to_string()).collect();
            if queue == Queue::Pending {
                // Times of the two stores differ by less than a millisecond, which may be enough for another order.
                names.sort();
            }
            writeln!(text, "{queue:?} {names:?}").unwrap();
        }
        let guilds = ["g", "g{:}%"].map(|guild| Index::Guild(guild.parse().unwrap()));
        let hosts = ["h-0", "h-1", "h-2"].map(|id| Index::Host(host(id)));
        for index in [Index::All].into_iter().chain(guilds).chain(hosts) {
            let page = store.list(&index, None, 100, View::Full).await.unwrap();
            writeln!(text, "{index:?}").unwrap();
            for record in page.agents {
                writeln!(text, "  {:?}", timeless(record)).unwrap();
            }
        }
        let events = store.events(EventId::default(), 1000, Duration::ZERO).await.unwrap();
        let events: Vec<_> = events.entries.into_iter().map(|(_, event)| event).collect();
        writeln!(text, "{events:?}").unwrap();
        let leases = store.look().await.unwrap();
        writeln!(text, "{:?} {:?}", leases.store.is_some(), leases.leases).unwrap();
        text
    }
}

fn timeless(record: AgentRecord) -> AgentRecord {
    AgentRecord {
        created: UnixMillis(0),
        accepted: record.accepted.map(|_| UnixMillis(0)),
        running: record.running.map(|_| UnixMillis(0)),
        last_exit: record.last_exit.map(|e| LastExit { at: UnixMillis(0), ..e }),
        ..record
    }
}

/// An agent that no host runs, as an engine has it.
fn remembered(key: AgentKey, epoch: Epoch, waits: bool) -> AgentRecord {
    let told = claim(&key, "the request", "d0", &[]);
    AgentRecord {
        key,
        name: told.name,
        phase: if waits { Phase::Pending } else { Phase::Failed },
        host: None,
        incarnation: None,
        epoch,
        request_id: told.request_id,
        digest: told.digest,
        demand: told.demand,
        machine_id: 2,
        restarts: 1,
        on_disconnect: told.on_disconnect,
        pid: None,
        reason: "it was so".to_owned(),
        last_lines: vec!["last".to_owned()],
        last_exit: Some(LastExit { status: ExitStatus::Code(1), at: UnixMillis(5) }),
        created: UnixMillis(77),
        accepted: None,
        running: None,
        first_start: told.first_start,
        documents: Some(told.documents),
    }
}

#[test]
fn twins_agree_on_every_answer_and_on_all_they_hold() {
    let mut redis = KeepingRedis::start();
    let redis = std::cell::RefCell::new(&mut redis);
    let config = ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(ops in prop::collection::vec(op(), 1..80))| {
        let mut redis = redis.borrow_mut();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (mut real, mut twin) = (Subject::redis(*redis).await, Subject::memory().await);
            for (step, op) in ops.iter().enumerate() {
                let answers = (real.apply(op).await, twin.apply(op).await);
                prop_assert_eq!(&answers.0, &answers.1, "answers differ at step {} {:?}", step, op);
            }
            prop_assert_eq!(real.holds().await, twin.holds().await);
            Ok(())
        })?;
    });
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn room_in_use_is_what_the_agents_on_a_host_reserved(ops in prop::collection::vec(op(), 1..200)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut subject = Subject::memory().await;
            for op in &ops {
                subject.apply(op).await;
                for host in subject.store.hosts().await.unwrap().hosts {
                    let on = subject.store.list(&Index::Host(host.host.clone()), None, 100, View::Basic).await.unwrap();
                    let mut reserved = Resources::default();
                    // What a former process still holds is not taken from the process of now.
                    let own = on.agents.iter().filter(|r| r.incarnation.as_ref() == Some(&host.incarnation));
                    own.for_each(|r| reserved.add(&r.demand));
                    prop_assert_eq!(&host.used, &reserved);
                }
            }
            Ok(())
        })?;
    }
}
