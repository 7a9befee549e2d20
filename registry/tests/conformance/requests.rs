//! Short ways to write requests and to get a registry of either kind.

use rustic_registry::{
    Advance, AgentKey, AgentReason, Announce, Announced, Bring, Claim, ClaimOutcome, Claimed, Condition, Documents,
    Epoch, FirstStart, FormerState, GuildKey, HostId, HostLife, HostState, IfFull, Incarnation, Index, MachineId,
    MemoryRegistry, OnDisconnect, Phase, RedisRegistry, RedisSettings, Registry, ReleaseGuard, ReleaseOutcome, Renew,
    Renewal, Resources, Restore, Retire, Scope, SpecDigest, Stops, StoreLife, Unassign, UnixMillis, View,
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

pub(crate) const TTL: Duration = Duration::from_secs(10);

/// [`TTL`] with the grace after it.
pub(crate) const LASTS: Duration = Duration::from_secs(13);

/// Asked after every stop of these tests.
pub(crate) const JUST_NOW: Stops = Stops(1 << 40);

pub(crate) fn memory() -> Arc<dyn Registry> {
    Arc::new(MemoryRegistry::new(wall))
}

pub(crate) fn wall() -> UnixMillis {
    UnixMillis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64)
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
        // Every test has the rights that the documents name, and no others.
        assert_eq!(server.admin().run(&least_rights()), "+OK");
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
        let url = self.server.url().replacen("://", "://rustic:password@", 1);
        Arc::new(RedisRegistry::new(&RedisSettings { prefix, ..RedisSettings::new(&url) }).unwrap())
    }
}

/// The command in the documents that makes the user, for any prefix.
pub(crate) fn least_rights() -> String {
    let text = include_str!("../../../docs/redis.md");
    let command = text.lines().find(|line| line.starts_with("ACL SETUSER rustic on")).unwrap();
    command.replace("~{rustic}*", "~{*}*")
}

pub(crate) fn machine(number: u32) -> MachineId {
    MachineId::new(number).unwrap()
}

/// Those of `organization`, or of `organization/guild`.
pub(crate) fn within(name: &str) -> Index {
    let organization = |id: &str| id.parse().unwrap();
    Index::Within(match name.split_once('/') {
        None => Scope::Organization(organization(name)),
        Some((of, id)) => Scope::Guild(GuildKey { organization: organization(of), id: id.parse().unwrap() }),
    })
}

pub(crate) fn key(guild: &str, agent: &str) -> AgentKey {
    let (organization, guild) = guild.split_once('/').unwrap_or(("o", guild));
    AgentKey::parse(organization, guild, agent).unwrap()
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
        state: HostState::Ready,
        cordoned: false,
        ttl: TTL,
        lasts: LASTS,
        highest_epoch: Epoch(0),
        highest_life: HostLife(0),
        succeeds: None,
        store_life: None,
        reported: None,
    }
}

/// A host comes, and the store settles: nobody that it does not know of may run anything.
pub(crate) async fn arrive(store: &Store, request: &Announce) -> Announced {
    let announced = store.announce(request).await.unwrap();
    store.settle(&announced.store_life, true).await.unwrap();
    assert!(!store.hosts().await.unwrap().held, "somebody has not reported");
    announced
}

/// Announces the life that follows one that has certainly ended.
pub(crate) fn succeed(id: &str, ended: &str, incarnation: &str, slots: f64) -> Announce {
    Announce { succeeds: Some(life(ended)), ..announce(id, incarnation, slots) }
}

/// Renews the lease that was given.
pub(crate) fn renew(id: &str, incarnation: &str, lease: &Announced) -> Renew {
    Renew {
        host: host(id),
        incarnation: life(incarnation),
        life: lease.life,
        state: HostState::Ready,
        highest_epoch: Epoch(0),
        store_life: lease.store_life.clone(),
        reported: false,
    }
}

/// Renews, and says that it has reported all that it runs.
pub(crate) fn report_all(id: &str, incarnation: &str, lease: &Announced) -> Renew {
    Renew { reported: true, ..renew(id, incarnation, lease) }
}

pub(crate) async fn is_held(store: &Store, request: &Renew) -> bool {
    matches!(store.renew(request).await.unwrap(), Renewal::Held { .. })
}

/// What an observer quotes who sees a process as it is now.
pub(crate) async fn seen(store: &Store, id: &str, incarnation: &str) -> Retire {
    let view = store.hosts().await.unwrap();
    let lease = view.hosts.iter().find(|h| h.host == host(id) && h.incarnation == life(incarnation));
    let former = view.former.iter().find(|f| f.host == host(id) && f.incarnation == life(incarnation));
    let seen = lease.map(|h| (h.life, h.renewals)).or(former.map(|f| f.renewal)).unwrap();
    Retire { host: host(id), incarnation: life(incarnation), seen, store_life: view.store_life.unwrap() }
}

/// Retires a process that has not renewed since it was looked at.
pub(crate) async fn retire(store: &Store, id: &str, incarnation: &str) -> bool {
    let request = seen(store, id, incarnation).await;
    store.retire(&request).await.unwrap()
}

/// What is known of a former process.
pub(crate) async fn former(store: &Store, id: &str, incarnation: &str) -> Option<FormerState> {
    let view = store.hosts().await.unwrap();
    let it = view.former.into_iter().find(|f| f.host == host(id) && f.incarnation == life(incarnation));
    it.map(|f| f.state)
}

/// Takes an agent whose process has ended.
pub(crate) async fn take(store: &Store, key: &AgentKey, epoch: Epoch) -> ReleaseOutcome {
    store.unassign(&unassign(key, epoch, ReleaseGuard::Ended, "its host is gone")).await.unwrap()
}

/// A name of a store's life.
pub(crate) fn store_life(name: &str) -> StoreLife {
    StoreLife(name.to_owned())
}

/// What an engine brings that has seen nothing.
pub(crate) fn bring(former_store_life: &StoreLife) -> Bring {
    Bring {
        former_store_life: former_store_life.clone(),
        hosts: vec![],
        stopped: vec![],
        highest_epoch: Epoch(0),
        highest_life: HostLife(0),
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
        candidates: candidates.iter().map(|h| host(h)).collect::<Vec<_>>().into(),
        if_full: IfFull::Refuse,
        waits: None,
        if_namesakes: rustic_registry::IfNamesakes::Ignore,
        first_start: FirstStart::MustSucceed,
        store_life: None,
        asked: JUST_NOW,
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
        condition: None,
        last_lines: if phase == Phase::Failed { vec!["one".to_owned(), "two".to_owned()] } else { vec![] },
        exit: None,
        store_life: None,
        sequence: WRITES.fetch_add(1, Ordering::Relaxed),
    }
}

/// What the host reports of an agent after the store was lost.
pub(crate) fn restore(key: &AgentKey, epoch: Epoch, id: &str, incarnation: &str, store_life: &StoreLife) -> Restore {
    let request = claim(key, "the request", "d", &[]);
    Restore {
        advance: Advance { store_life: Some(store_life.clone()), ..advance(key, epoch, Phase::Running) },
        host: host(id),
        incarnation: life(incarnation),
        name: request.name,
        request_id: request.request_id,
        digest: request.digest,
        takes: request.demand.clone(),
        demand: request.demand,
        on_disconnect: request.on_disconnect,
        documents: request.documents,
        machine_id: machine(3),
        created: UnixMillis(77),
        former_store_life: Some(StoreLife("a lost one".to_owned())),
    }
}

/// Why an agent waits for another host.
pub(crate) fn moves(why: &str) -> Condition {
    Condition::new(AgentReason::HostLost, why)
}

pub(crate) fn unassign(key: &AgentKey, epoch: Epoch, guard: ReleaseGuard, why: &str) -> Unassign {
    Unassign { key: key.clone(), epoch, guard, condition: moves(why), store_life: None }
}

pub(crate) async fn claimed(store: &Store, key: &AgentKey, request: &str, hosts: &[&str]) -> Claimed {
    claimed_by(store, &claim(key, request, "d", hosts)).await
}

/// Claims an agent that outlives its host's lease.
pub(crate) async fn claimed_to_keep(store: &Store, key: &AgentKey, hosts: &[&str]) -> Claimed {
    let keep = Claim { on_disconnect: OnDisconnect::Keep, ..claim(key, "r", "d", hosts) };
    claimed_by(store, &keep).await
}

/// The same, asked for before anything was stopped.
pub(crate) fn asked_first(request: Claim) -> Claim {
    Claim { asked: Stops(0), ..request }
}

pub(crate) async fn claimed_by(store: &Store, request: &Claim) -> Claimed {
    match store.claim(request).await.unwrap() {
        ClaimOutcome::Claimed(claimed) => claimed,
        other => panic!("expected a claim, got {other:?}"),
    }
}

pub(crate) async fn used_slots(store: &Store, id: &str) -> u64 {
    let view = store.hosts().await.unwrap();
    view.hosts.iter().find(|h| h.host == host(id)).map(|h| h.used.milli("slots")).unwrap()
}

pub(crate) async fn phase(store: &Store, key: &AgentKey) -> Option<Phase> {
    store.get(key, View::Basic).await.unwrap().map(|r| r.phase())
}
