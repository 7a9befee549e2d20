//! Short ways to write requests and to get a registry of either kind.

use rustic_registry::{
    Advance, AgentKey, Announce, Claim, Documents, Epoch, HostId, HostState, IfFull, Incarnation, MemoryRegistry,
    OnDisconnect, Phase, RedisRegistry, RedisSettings, Registry, Renew, Resources, SpecDigest, UnixMillis,
    dev_server::{DevServer, Durability},
};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

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
        capacity,
        labels: BTreeMap::from([("zone".to_owned(), "a".to_owned())]),
        version: "0.1.0".to_owned(),
        ttl: LONG,
        highest_epoch: Epoch(0),
        succeeds: None,
    }
}

/// Announces the life that follows one that has certainly ended.
pub(crate) fn succeed(id: &str, ended: &str, incarnation: &str, slots: f64) -> Announce {
    Announce { succeeds: Some(life(ended)), ..announce(id, incarnation, slots) }
}

pub(crate) fn renew(id: &str, incarnation: &str, ttl: Duration) -> Renew {
    Renew { host: host(id), incarnation: life(incarnation), ttl, state: HostState::Ready, highest_epoch: Epoch(0) }
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
    }
}

pub(crate) fn advance(key: &AgentKey, epoch: Epoch, phase: Phase) -> Advance {
    Advance {
        key: key.clone(),
        epoch,
        phase,
        pid: (phase == Phase::Running).then_some(42),
        restarts: 0,
        reason: String::new(),
        exit: None,
    }
}
