//! What the engine does when a host does not do what it is asked, over the registry in memory and a host whose answers the test chooses.

use super::*;
use crate::{
    answer::{self, HostAnswer, Refused},
    changes::Changes,
    channels::Callee,
    fakes::Unreliable,
};
use async_trait::async_trait;
use rustic_core::placement::Policy;
use rustic_proto::{
    agent::v1 as agent_pb, agent_host::v1 as pb, launch::Launch, reason::Reason, status::with_reason,
};
use rustic_registry::{
    Advance, Announce, Claim, ClaimOutcome, Documents, Epoch, FirstStart, HostId, HostLife, HostState, IfFull,
    MemoryRegistry, Resources, Retire, SpecDigest, Stops, UnixMillis,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, atomic::Ordering},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Status, TimeoutExpired};

const TTL: Duration = Duration::from_secs(10);
const GRACE: Duration = Duration::ZERO;

/// What a host answers instead of yes.
type Answer = fn() -> Status;

/// Hosts whose answer is the same to every call.
struct Hosts {
    registry: Arc<MemoryRegistry>,
    answer: Answer,
    /// A host is retired while it is called.
    retires: bool,
    called: Mutex<Vec<HostId>>,
}

impl Hosts {
    async fn call<T>(&self, host: &Callee) -> HostAnswer<T> {
        self.called.lock().expect("not poisoned").push(host.host.clone());
        if self.retires {
            retire(&self.registry).await;
        }
        answer::read(Err((self.answer)()))
    }
}

#[async_trait]
impl HostCalls for Hosts {
    async fn create_agent(
        &self,
        host: &Callee,
        _message: pb::CreateAgentRequest,
        _deadline: Instant,
    ) -> HostAnswer<pb::CreateAgentResponse> {
        self.call(host).await
    }

    async fn stop_agent(
        &self,
        host: &Callee,
        _message: pb::StopAgentRequest,
        _deadline: Instant,
    ) -> HostAnswer<pb::StopAgentResponse> {
        self.call(host).await
    }

    fn retain(&self, _hosts: &BTreeSet<HostId>) {}
}

struct World {
    registry: Arc<MemoryRegistry>,
    hosts: Arc<Hosts>,
    engine: Engine,
}

/// Hosts h-0 and h-1, agent g/a on h-0 if it has an `on_disconnect`, and an engine that has seen the hosts.
async fn world(agent: Option<OnDisconnect>, retires: bool, answer: Answer) -> World {
    let registry = Arc::new(MemoryRegistry::new(|| UnixMillis(1_000_000)));
    for host in ["h-0", "h-1"] {
        registry.announce(&announce(host)).await.expect("in memory");
    }
    let store = registry.hosts().await.expect("in memory").store_life.expect("it has a life");
    registry.settle(&store, true).await.expect("in memory");
    if let Some(on_disconnect) = agent {
        runs(&registry, on_disconnect).await;
    }
    let hosts = Arc::new(Hosts { registry: registry.clone(), answer, retires, called: Mutex::default() });
    let engine = engine(registry.clone(), hosts.clone()).await;
    World { registry, hosts, engine }
}

/// An engine that has seen the hosts.
async fn engine(registry: Arc<dyn Registry>, hosts: Arc<dyn HostCalls>) -> Engine {
    let changes = Arc::new(Changes::default());
    let fleet = Arc::new(Fleet::new(registry.clone(), Policy::LeastLoaded, changes.clone()));
    fleet.refresh().await.expect("in memory");
    let leases = Leases { longest: TTL, drift: 0.0, new_registry: true };
    Engine::new(registry, fleet, hosts, leases, changes, Wake::default())
}

fn announce(host: &str) -> Announce {
    Announce {
        host: host.parse().expect("an id"),
        incarnation: format!("life-{host}").parse().expect("an id"),
        address: format!("{host}:1"),
        dns_name: String::new(),
        capacity: Resources::one_slot(),
        labels: BTreeMap::new(),
        version: String::new(),
        state: HostState::Ready,
        cordoned: false,
        ttl: TTL,
        lasts: TTL,
        highest_epoch: Epoch(0),
        highest_life: HostLife::default(),
        succeeds: None,
        store_life: None,
        reported: None,
    }
}

fn key() -> AgentKey {
    AgentKey::parse("default", "g", "a").expect("an id")
}

/// The agent runs on h-0.
async fn runs(registry: &MemoryRegistry, on_disconnect: OnDisconnect) {
    let claim = Claim {
        key: key(),
        name: "a".to_owned(),
        request_id: "r".parse().expect("an id"),
        digest: SpecDigest("d".to_owned()),
        demand: Resources::one_slot(),
        on_disconnect,
        documents: Documents { spec: "{}".to_owned(), launch: vec![1].into() },
        candidates: vec!["h-0".parse().expect("an id")].into(),
        if_full: IfFull::Refuse,
        waits: None,
        if_namesakes: rustic_registry::IfNamesakes::Ignore,
        first_start: FirstStart::MustSucceed,
        store_life: None,
        asked: Stops::default(),
    };
    let ClaimOutcome::Claimed(claimed) = registry.claim(&claim).await.expect("in memory") else {
        panic!("there is room")
    };
    for (sequence, phase) in [(1, Phase::Starting), (2, Phase::Running)] {
        let advance = Advance {
            key: key(),
            epoch: claimed.epoch,
            phase,
            pid: Some(1),
            restarts: 0,
            condition: None,
            last_lines: vec![],
            exit: None,
            store_life: None,
            sequence,
        };
        registry.advance(&advance).await.expect("in memory");
    }
}

async fn retire(registry: &MemoryRegistry) {
    let view = registry.hosts().await.expect("in memory");
    let Some(host) = view.hosts.iter().find(|h| h.host.as_str() == "h-0") else { return };
    let seen = (host.life, host.renewals);
    let (host, incarnation) = (host.host.clone(), host.incarnation.clone());
    let store = view.store_life.clone().expect("it has a life");
    assert!(registry.retire(&Retire { host, incarnation, seen, store_life: store }).await.expect("in memory"));
}

impl World {
    async fn is_recorded(&self) -> bool {
        self.registry.get(&key(), View::Basic).await.expect("in memory").is_some()
    }

    async fn stop(&self, if_silent: IfSilent) -> Result<(), EngineError> {
        self.engine.stop(&key(), GRACE, if_silent).await.map(|_exit| ())
    }

    fn calls(&self) -> Vec<String> {
        self.hosts.called.lock().expect("not poisoned").iter().map(ToString::to_string).collect()
    }
}

fn busy() -> Status {
    with_reason(Reason::TooManyCalls, "2 calls are under way", &[])
}

fn broken() -> Status {
    Status::from_error("broken pipe".into())
}

#[tokio::test(start_paused = true)]
async fn a_busy_host_is_not_silent_and_force_takes_nothing_from_it() {
    for if_silent in [IfSilent::Refuse, IfSilent::Force] {
        for on_disconnect in [OnDisconnect::Stop, OnDisconnect::Keep] {
            // Retired meanwhile: for all that the engine knows the agent runs, since its host answers.
            let world = world(Some(on_disconnect), true, busy).await;
            let error = world.stop(if_silent).await.expect_err("the host did nothing");
            assert!(matches!(&error, EngineError::Host { refusal, .. } if refusal.refused() == Refused::Busy));
            assert!(error.is_retryable() && world.is_recorded().await, "{error}");
            assert_eq!(Reason::of(&error.into()), Some(Ok(Reason::TooManyCalls)));
            assert_eq!(world.calls(), ["h-0"], "whoever is busy is not called again at once");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_force_a_silent_host_may_still_run_the_agent() {
    let world = world(Some(OnDisconnect::Stop), false, broken).await;
    let error = world.stop(IfSilent::Refuse).await.expect_err("nobody answers");
    assert!(matches!(error, EngineError::HostSilent { .. }) && world.is_recorded().await, "{error}");
}

#[tokio::test(start_paused = true)]
async fn force_on_a_host_that_is_not_retired_says_when_it_works() {
    let closed = || with_reason(Reason::HostWithoutLease, "no lease", &[]);
    for status in [broken as Answer, closed] {
        let world = world(Some(OnDisconnect::Keep), false, status).await;
        let error = world.stop(IfSilent::Force).await.expect_err("the host is not retired");
        assert!(world.is_recorded().await);
        let text = error.to_string();
        assert!(text.contains("force works once the host is retired, one lease and its grace after"), "{text}");
        assert!(text.contains(status().message()) && !text.contains("retry"), "{text}");
        assert_eq!(Reason::of(&error.into()), Some(Ok(Reason::HostNotRetired)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_retired_while_it_is_asked_is_not_waited_for() {
    for (on_disconnect, if_silent, removed) in [
        (OnDisconnect::Stop, IfSilent::Refuse, true),
        (OnDisconnect::Stop, IfSilent::Force, true),
        (OnDisconnect::Keep, IfSilent::Refuse, false),
        (OnDisconnect::Keep, IfSilent::Force, true),
    ] {
        let world = world(Some(on_disconnect), true, broken).await;
        let stopped = world.stop(if_silent).await;
        let seen = (stopped.is_ok(), !world.is_recorded().await);
        assert_eq!(seen, (removed, removed), "{on_disconnect:?} {if_silent:?}: {stopped:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_goes_only_if_its_host_says_that_it_does_not_have_the_agent() {
    let not_found = world(Some(OnDisconnect::Stop), false, || Status::not_found("no route")).await;
    let error = not_found.stop(IfSilent::Refuse).await.expect_err("who knows what was not found");
    assert!(not_found.is_recorded().await, "{error}");
    let unknown = || with_reason(Reason::AgentUnknown, "not here", &[]);
    let unknown = world(Some(OnDisconnect::Stop), false, unknown).await;
    unknown.stop(IfSilent::Refuse).await.expect("it was asked twice");
    assert_eq!((unknown.is_recorded().await, unknown.calls().len()), (false, 2));
}

#[tokio::test(start_paused = true)]
async fn a_restart_over_a_silent_host_says_that_it_does_not_answer() {
    let late = || Status::from_error(Box::new(TimeoutExpired(())));
    let world = world(Some(OnDisconnect::Stop), false, late).await;
    let deadline = Instant::now() + TTL;
    let error =
        world.engine.restart(&key(), GRACE, agent_pb::WaitMode::Running, deadline).await.expect_err("no answer");
    assert!(matches!(error, EngineError::HostSilent { .. }) && error.is_retryable(), "{error}");
    assert_eq!(tonic::Code::Unavailable, error.code());
}

#[tokio::test(start_paused = true)]
async fn an_agent_goes_past_hosts_that_cannot_take_it_and_its_caller_gets_the_reason_of_the_last_one() {
    let full = || with_reason(Reason::HostFull, "full", &[]);
    let closed = || with_reason(Reason::HostStopping, "stopping", &[]);
    for (status, reason) in [
        (busy as Answer, Reason::TooManyCalls),
        (broken, Reason::HostUnreachable),
        (full, Reason::HostFull),
        (closed, Reason::HostStopping),
    ] {
        let world = world(None, false, status).await;
        let error = world.engine.create(&creation()).await.expect_err("no host takes it");
        let mut called = world.calls();
        called.sort();
        assert_eq!(called, ["h-0", "h-1"], "each once: {error}");
        assert!(!world.is_recorded().await, "no claim is left: {error}");
        assert!(error.is_retryable(), "{error}");
        assert_eq!(Reason::of(&error.into()), Some(Ok(reason)));
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_is_claimed_anew_at_every_try_is_given_up_with_that_reason() {
    let stale = || with_reason(Reason::EpochStale, "another epoch", &[]);
    let world = world(Some(OnDisconnect::Stop), false, stale).await;
    let error = world.stop(IfSilent::Refuse).await.expect_err("it moves too quickly");
    assert!(error.is_retryable() && world.is_recorded().await, "{error}");
    assert_eq!(Reason::of(&error.into()), Some(Ok(Reason::AgentRestless)));
}

#[tokio::test(start_paused = true)]
async fn a_create_whose_deadline_is_over_claims_nothing() {
    let world = world(None, false, broken).await;
    let late = Creation { deadline: Instant::now(), ..creation() };
    let error = world.engine.create(&late).await.expect_err("it is too late");
    assert!(world.calls().is_empty() && !world.is_recorded().await, "{error}");
    assert_eq!(Reason::of(&error.into()), Some(Ok(Reason::TooLate)));
}

/// A host that runs the agent, after which the registry cannot be read.
struct Runs(Arc<Unreliable>);

#[async_trait]
impl HostCalls for Runs {
    async fn create_agent(
        &self,
        host: &Callee,
        _message: pb::CreateAgentRequest,
        _deadline: Instant,
    ) -> HostAnswer<pb::CreateAgentResponse> {
        self.0.fails.store(true, Ordering::Relaxed);
        let agent = agent_pb::Agent {
            agent_id: "a".to_owned(),
            host_id: host.host.to_string(),
            phase: agent_pb::AgentPhase::Running.into(),
            ..Default::default()
        };
        Ok(pb::CreateAgentResponse { agent: Some(agent), timings: None })
    }

    async fn stop_agent(
        &self,
        host: &Callee,
        _message: pb::StopAgentRequest,
        _deadline: Instant,
    ) -> HostAnswer<pb::StopAgentResponse> {
        panic!("{} is asked to stop it", host.host)
    }

    fn retain(&self, _hosts: &BTreeSet<HostId>) {}
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_runs_is_no_error_though_the_registry_cannot_be_read_any_more() {
    let registry = Arc::new(Unreliable::new(MemoryRegistry::new(|| UnixMillis(1_000_000))));
    registry.announce(&announce("h-0")).await.expect("in memory");
    let store = registry.hosts().await.expect("in memory").store_life.expect("it has a life");
    registry.settle(&store, true).await.expect("in memory");
    let engine = engine(registry.clone(), Arc::new(Runs(registry.clone()))).await;
    let created = engine.create(&creation()).await.expect("the host runs it");
    assert_eq!((created.agent.phase(), &*created.agent.host_id), (agent_pb::AgentPhase::Running, "h-0"));
    assert!(registry.fails.load(Ordering::Relaxed), "it was asked");
}

fn creation() -> Creation {
    let command = agent_pb::CommandRuntime { argv: vec!["true".to_owned()] };
    let message = agent_pb::AgentLaunch {
        agent_spec: r#"{"id": "a", "name": "A"}"#.to_owned(),
        guild_spec: r#"{"id": "g"}"#.to_owned(),
        runtime: Some(agent_pb::Runtime { kind: Some(agent_pb::runtime::Kind::Command(command)) }),
        ..agent_pb::AgentLaunch::default()
    };
    Creation {
        launch: Launch::check(Some(message.into())).expect("a valid launch"),
        request_id: "r".parse().expect("an id"),
        wait: agent_pb::WaitMode::Running,
        first_start: pb::FirstStart::Unspecified,
        pending: PendingPolicy::Refuse,
        deadline: Instant::now() + TTL,
        caller_gone: CancellationToken::new(),
    }
}
