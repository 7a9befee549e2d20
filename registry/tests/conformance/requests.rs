//! Short ways to write requests and to get a registry of either kind.

use rustic_registry::{
    Advance, AgentKey, Announce, Claim, ClaimOutcome, Claimed, Documents, Epoch, HostId, HostState, IfFull,
    Incarnation, MemoryRegistry, OnDisconnect, Phase, RedisRegistry, RedisSettings, Registry, ReleaseGuard, Renew,
    Resources, Restore, SpecDigest, UnixMillis, Unplace, View,
    dev_server::{Admin, DevServer, Durability},
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// A registry of either kind.
pub(crate) type Store = Arc<dyn Registry>;

pub(crate) const LONG: Duration = Duration::from_secs(600);

pub(crate) fn memory() -> Arc<dyn Registry> {
    let wall = || UnixMillis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64);
    Arc::new(MemoryRegistry::new(wall))
}

/// A Redis of this test's own.
pub(crate) struct TestRedis {
    server: DevServer,
    _dir: tempfile::TempDir,
}

impl TestRedis {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = DevServer::start(dir.path(), Durability::None).unwrap();
        Self { server, _dir: dir }
    }

    /// Where it is.
    pub(crate) fn url(&self) -> String {
        self.server.url()
    }

    /// A connection past the registry.
    pub(crate) fn admin(&self) -> Admin {
        self.server.admin()
    }

    /// An empty registry: each has a prefix of its own.
    pub(crate) fn registry(&self) -> Arc<dyn Registry> {
        let prefix = uuid::Uuid::new_v4().to_string();
        Arc::new(RedisRegistry::new(&RedisSettings { prefix, ..RedisSettings::new(&self.server.url()) }).unwrap())
    }
}

pub(crate) fn key(guild: &str, agent: &str) -> AgentKey {
    AgentKey { guild: guild.parse().unwrap(), agent: agent.parse().unwrap() }
}

pub(crate) fn host(id: &str) -> HostId {
    id.parse().unwrap()
}

pub(crate) fn life(id: &str) -> Incarnation {
    id.parse().unwrap()
}

pub(crate) fn announce(id: &str, incarnation: &str, slots: f64) -> Announce {
    let mut capacity = Resources::default();
    capacity.set("slots", slots).unwrap();
    capacity.set("cpus", 4.0).unwrap();
    Announce {
        host: host(id),
        incarnation: life(incarnation),
        address: format!("{id}:50052"),
        dns_name: format!("{id}.hosts.example"),
        capacity,
        labels: BTreeMap::from([("zone".to_owned(), "a".to_owned())]),
        version: "0.1.0".to_owned(),
        ttl: LONG,
        highest_epoch: Epoch(0),
        succeeds: None,
        knew: None,
        hold: LONG,
    }
}

/// Announces the life that follows one that has certainly ended.
pub(crate) fn succeed(id: &str, ended: &str, incarnation: &str, slots: f64) -> Announce {
    Announce { succeeds: Some(life(ended)), ..announce(id, incarnation, slots) }
}

pub(crate) fn renew(id: &str, incarnation: &str, ttl: Duration) -> Renew {
    Renew {
        host: host(id),
        incarnation: life(incarnation),
        ttl,
        state: HostState::Ready,
        highest_epoch: Epoch(0),
        told: None,
    }
}

pub(crate) fn claim(key: &AgentKey, request: &str, digest: &str, candidates: &[&str]) -> Claim {
    Claim {
        key: key.clone(),
        name: format!("name of {}", key.agent),
        request_id: request.parse().unwrap(),
        digest: SpecDigest(digest.to_owned()),
        demand: Resources::one_slot(),
        on_disconnect: OnDisconnect::Stop,
        documents: Documents { spec: "{ \"id\": 1.50 }".to_owned(), launch: vec![0, 255, 10].into() },
        candidates: candidates.iter().map(|h| host(h)).collect(),
        if_full: IfFull::Refuse,
        knew: None,
        hold: LONG,
        patience: LONG,
    }
}

/// Every write of these tests is a later one.
static WRITES: AtomicU64 = AtomicU64::new(1);

pub(crate) fn advance(key: &AgentKey, epoch: Epoch, phase: Phase) -> Advance {
    Advance {
        key: key.clone(),
        epoch,
        phase,
        pid: (phase == Phase::Running).then_some(42),
        restarts: 0,
        reason: String::new(),
        last_lines: if phase == Phase::Failed { vec!["one".to_owned(), "two".to_owned()] } else { vec![] },
        exit: None,
        knew: None,
        sequence: WRITES.fetch_add(1, Ordering::Relaxed),
    }
}

/// What the host tells of an agent after the store was lost.
pub(crate) fn restore(key: &AgentKey, epoch: Epoch, id: &str, incarnation: &str, knew: &str) -> Restore {
    let told = claim(key, "the request", "d", &[]);
    Restore {
        advance: Advance { knew: Some(knew.to_owned()), ..advance(key, epoch, Phase::Running) },
        host: host(id),
        incarnation: life(incarnation),
        name: told.name,
        request_id: told.request_id,
        digest: told.digest,
        demand: told.demand,
        on_disconnect: told.on_disconnect,
        documents: told.documents,
        machine_id: 3,
        created: UnixMillis(77),
        had: Some("a lost one".to_owned()),
    }
}

pub(crate) fn unplace(key: &AgentKey, epoch: Epoch, guard: ReleaseGuard, reason: &str) -> Unplace {
    Unplace { key: key.clone(), epoch, guard, reason: reason.to_owned(), knew: None }
}

pub(crate) async fn claimed(store: &Store, key: &AgentKey, request: &str, hosts: &[&str]) -> Claimed {
    match store.claim(&claim(key, request, "d", hosts)).await.unwrap() {
        ClaimOutcome::Claimed(claimed) => claimed,
        other => panic!("expected a claim, got {other:?}"),
    }
}

pub(crate) async fn used_slots(store: &Store, id: &str) -> u64 {
    let view = store.hosts().await.unwrap();
    view.hosts.iter().find(|h| h.host == host(id)).map(|h| h.used.milli("slots")).unwrap()
}

pub(crate) async fn phase(store: &Store, key: &AgentKey) -> Option<Phase> {
    store.get(key, View::Basic).await.unwrap().map(|r| r.phase)
}
