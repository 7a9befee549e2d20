//! A host in memory, for tests: the registry's twin, and processes that do what a test wants.

use crate::{
    agent::{Deaths, FirstStart, HostContext, Launching},
    ambient::Ambient,
    lease::{Lease, LeaseRenewer, LeaseTimes},
    output::Tail,
    process::Signal,
    runtime::{Order, Process, ProcessEvent, PythonStatus, Runtime, StartError},
    starts::Starts,
    supervisor::{Creation, HostSettings, Supervisor},
    watchdog::BootTime,
    zygote::Imports,
};
use async_trait::async_trait;
use rustic_proto::{
    agent::v1::{self as agent_pb, runtime::Kind},
    launch::Launch,
};
use rustic_registry::{
    AgentKey, AgentRecord, Announce, Claim, ClaimOutcome, Claimed, Epoch, ExitStatus, HostLife, HostState, IfFull,
    MemoryRegistry, Registry as _, Resources, UnixMillis, View,
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::{CancellationToken, DropGuard};

const TIMES: LeaseTimes =
    LeaseTimes { ttl: Duration::from_secs(10), renew_every: Duration::from_secs(3), margin: Duration::from_secs(2) };

/// A host that holds its lease, until it is dropped.
pub(crate) struct FakeHost {
    pub(crate) registry: Arc<MemoryRegistry>,
    pub(crate) runtime: Arc<FakeRuntime>,
    pub(crate) context: HostContext,
    _lease: DropGuard,
}

impl FakeHost {
    /// Announces itself and waits for its lease.
    pub(crate) async fn start() -> Self {
        let start = Instant::now();
        let clock = move || UnixMillis(1_000_000 + start.elapsed().as_millis() as u64);
        let registry = Arc::new(MemoryRegistry::new(clock));
        let mut capacity = Resources::default();
        capacity.set(rustic_registry::resources::SLOTS, 10.0).expect("a capacity");
        let announce = Announce {
            host: "h-0".parse().expect("valid"),
            incarnation: "i".parse().expect("valid"),
            address: "h-0:1".to_owned(),
            dns_name: String::new(),
            capacity,
            labels: BTreeMap::new(),
            version: String::new(),
            state: HostState::Ready,
            cordoned: false,
            ttl: TIMES.ttl,
            lasts: TIMES.ttl + TIMES.margin,
            highest_epoch: Epoch(0),
            highest_life: HostLife::default(),
            succeeds: None,
            store_life: None,
            reported: None,
        };
        let runtime = Arc::new(FakeRuntime::default());
        let (renewer, lease) =
            LeaseRenewer::new(announce.clone(), TIMES, registry.clone(), Ambient::MACHINE, Box::new(|_| ()));
        let context = HostContext {
            host: announce.host,
            incarnation: announce.incarnation,
            registry: registry.clone(),
            runtime: runtime.clone(),
            starts: Starts::new(2, Duration::from_secs(1)),
            deaths: Deaths::new(3),
            lease: lease.clone(),
            ambient: Ambient::MACHINE,
        };
        let stop = CancellationToken::new();
        tokio::spawn(renewer.run(stop.clone()));
        let mut lease = lease;
        while lease.current().state != Lease::Held {
            lease.changed().await;
        }
        // Nobody has used its registry before.
        let store = lease.store().expect("it is known with the lease");
        assert!(registry.settle(&store, false).await.expect("in memory"));
        Self { registry, runtime, context, _lease: stop.drop_guard() }
    }

    /// A supervisor over it.
    pub(crate) fn supervisor(&self) -> Arc<Supervisor> {
        let settings = HostSettings {
            launch_patience: Duration::from_secs(2),
            max_agents: 10,
            start_timeout: Duration::from_secs(10),
            stop_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(10),
        };
        Supervisor::new(settings, self.context.clone())
    }

    /// A request for an agent.
    pub(crate) fn creation(agent: &str) -> Creation {
        Creation {
            launch: launch(agent),
            request_id: format!("r-{agent}").parse().expect("valid"),
            claim: None,
            first_start: FirstStart::FollowsPolicy,
        }
    }

    /// What an agent's task is started with, after its claim was made.
    pub(crate) async fn claimed(&self, agent: &str) -> Launching {
        let Creation { launch, request_id, first_start, .. } = Self::creation(agent);
        let claim = Claim {
            key: launch.key.clone(),
            name: launch.name.clone(),
            request_id: request_id.clone(),
            digest: launch.digest.clone(),
            demand: launch.demand.clone(),
            on_disconnect: launch.on_disconnect,
            documents: launch.documents(),
            candidates: vec![self.context.host.clone()].into(),
            if_full: IfFull::Refuse,
            waits: None,
            if_namesakes: rustic_registry::IfNamesakes::Ignore,
            first_start: rustic_registry::FirstStart::FollowsPolicy,
            store_life: self.context.lease.store(),
            asked: self.context.lease.stops(),
        };
        let ClaimOutcome::Claimed(claimed) = self.registry.claim(&claim).await.expect("in memory") else {
            panic!("there is room");
        };
        let Claimed { epoch, machine_id, takes, .. } = claimed;
        let launch = Arc::new(launch);
        let order = Order { launch, epoch, machine_id, takes, skip: vec![], state: None, memory: None };
        Launching { order, request_id, first_start, start_timeout: Duration::from_secs(10), claim: None }
    }

    /// What the registry has of an agent.
    pub(crate) async fn record(&self, agent: &str) -> Option<AgentRecord> {
        self.registry.get(&key(agent), View::Basic).await.expect("in memory")
    }
}

/// An agent's name.
pub(crate) fn key(agent: &str) -> AgentKey {
    launch(agent).key
}

fn launch(agent: &str) -> Launch {
    let command = agent_pb::CommandRuntime { argv: vec!["true".to_owned()] };
    let message = agent_pb::AgentLaunch {
        agent_spec: format!(r#"{{"id": "{agent}", "name": "{agent}"}}"#),
        guild_spec: r#"{"id": "g"}"#.to_owned(),
        runtime: Some(agent_pb::Runtime { kind: Some(Kind::Command(command)) }),
        ..agent_pb::AgentLaunch::default()
    };
    Launch::check(Some(message.into())).expect("a valid launch")
}

/// Makes processes that do nothing by themselves, and keeps a hand on each.
#[derive(Default)]
pub(crate) struct FakeRuntime {
    hands: Mutex<Vec<Hand>>,
    pub(crate) panics: AtomicBool,
}

impl FakeRuntime {
    /// The hand on the process of an agent that was made last, once there is one.
    pub(crate) async fn process_of(&self, agent: &str) -> Hand {
        loop {
            let hands = self.hands.lock().expect("no test panics with it").clone();
            if let Some(hand) = hands.into_iter().rfind(|hand| hand.key == key(agent)) {
                return hand;
            }
            tokio::task::yield_now().await;
        }
    }
}

/// What a test does to a process.
enum Does {
    Sends(ProcessEvent),
    Panics,
}

/// A hand on a process.
#[derive(Clone)]
pub(crate) struct Hand {
    key: AgentKey,
    does: mpsc::UnboundedSender<Does>,
    signals: Arc<Mutex<Vec<Signal>>>,
}

impl Hand {
    /// It sends an event.
    pub(crate) fn sends(&self, event: ProcessEvent) {
        let _ = self.does.send(Does::Sends(event));
    }

    /// It ends, and is reaped.
    pub(crate) fn ends(&self, status: ExitStatus) {
        self.sends(ProcessEvent::Exit(status));
    }

    /// Whoever looks after it panics.
    pub(crate) fn panics(&self) {
        let _ = self.does.send(Does::Panics);
    }

    /// The signals that it was sent.
    pub(crate) fn signals(&self) -> Vec<Signal> {
        self.signals.lock().expect("no test panics with it").clone()
    }

    /// Waits for a signal.
    pub(crate) async fn signalled(&self, signal: Signal) {
        while !self.signals().contains(&signal) {
            tokio::task::yield_now().await;
        }
    }
}

#[async_trait]
impl Runtime for FakeRuntime {
    async fn start(&self, order: &Order, _tail: &Tail) -> Result<Box<dyn Process>, StartError> {
        assert!(!self.panics.load(Ordering::Relaxed), "as the test wants it");
        let (does, done) = mpsc::unbounded_channel();
        let signals = Arc::default();
        let hand = Hand { key: order.launch.key.clone(), does, signals: Arc::clone(&signals) };
        let mut hands = self.hands.lock().expect("no test panics with it");
        hands.push(hand);
        let pid = 4_000_000 + u32::try_from(hands.len()).expect("few");
        Ok(Box::new(FakeProcess { pid, done, signals }))
    }

    fn learn(&self, _order: &Order, _imports: Imports) {}

    fn refusal(&self) -> Option<StartError> {
        None
    }

    fn killed_for_memory(&self) -> bool {
        false
    }

    fn profiles(&self) -> Vec<PythonStatus> {
        vec![]
    }

    fn set_deadline(&self, _deadline: BootTime) {}
}

struct FakeProcess {
    pid: u32,
    done: mpsc::UnboundedReceiver<Does>,
    signals: Arc<Mutex<Vec<Signal>>>,
}

#[async_trait]
impl Process for FakeProcess {
    fn pid(&self) -> u32 {
        self.pid
    }

    fn resident(&self) -> Option<u64> {
        None
    }

    fn signal(&self, signal: Signal) {
        self.signals.lock().expect("no test panics with it").push(signal);
    }

    async fn next_event(&mut self) -> ProcessEvent {
        match self.done.recv().await {
            Some(Does::Sends(event)) => event,
            Some(Does::Panics) => panic!("as the test wants it"),
            None => std::future::pending().await,
        }
    }

    async fn finish(self: Box<Self>) {}
}

impl Drop for FakeProcess {
    fn drop(&mut self) {
        self.signal(Signal::Kill);
    }
}
