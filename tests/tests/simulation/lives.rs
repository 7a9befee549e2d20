//! One life of an engine or a host: its real code on a clock of its own, stepped by the world.

use crate::{
    ambient::{self, AMBIENT},
    wires::{FarHosts, FarRuntime, FarStore, HostCall, HostReply, Outbox, Outgoing},
};
use agent_host::{
    agent::{Deaths, HostContext},
    grpc::Service,
    lease::{Lease, LeaseHandle, LeaseRenewer, LeaseTimes},
    starts::Starts,
    supervisor::{HostSettings, Supervisor},
};
use engine_svc::{
    balance::{MOST_MOVES, Rebalancing},
    changes::Changes,
    engine::{Creation, Engine, IfSilent, Leases, PendingPolicy},
    error::EngineError,
    fleet::Fleet,
    reader,
    reconciler::{self, OptionalMoves},
    rounds::Wake,
};
use rustic_core::placement::Policy;
use rustic_proto::{
    agent::v1 as agent_pb,
    agent_host::v1::{self as pb, agent_host_service_server::AgentHostService as _},
    launch::Launch,
};
use rustic_registry::{
    AgentKey, Announce, Epoch, HostId, HostLife, HostState, Incarnation, Registry, RequestId, Resources,
    resources::SLOTS,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{
    runtime::{Builder, Runtime},
    sync::mpsc,
    time::{Instant, advance, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

/// Time between an engine's looks at the renewals, as `--hosts-refresh`.
const LOOK_EVERY: Duration = Duration::from_millis(600);

/// Time between two moves that even out load: as often as an engine could.
const EVEN_OUT_EVERY: Duration = Duration::from_secs(1);

/// What the world hands to a life.
pub(crate) enum Inbound {
    /// A call of a host.
    Call { id: u64, call: HostCall, left: Duration },
    /// A client's wish.
    Client { id: u64, wish: Wish, within: Duration },
    /// SIGTERM.
    Terminate,
}

/// What a client wants of an engine.
#[derive(Clone)]
pub(crate) enum Wish {
    Create { launch: Box<Launch>, request_id: RequestId, wait: agent_pb::WaitMode, pending: PendingPolicy },
    Stop { key: AgentKey },
}

/// A process with a clock of its own. Dropping it is `kill -9`.
pub(crate) struct Life {
    runtime: Runtime,
    inbox: mpsc::UnboundedSender<Inbound>,
    /// The world's time when it began, and what the machine's boot clock showed then.
    began: u64,
    boot: Duration,
    started: Instant,
    /// How fast its clock goes, 1.0 is right.
    rate: f64,
    /// Its clock, ms since it began.
    clock: u64,
    stopped: bool,
}

impl Life {
    /// Begins a life at `now`, the world's time, with `body` as its main task.
    pub(crate) fn begin<F: Future<Output = ()> + Send + 'static>(
        now: u64,
        rate: f64,
        body: impl FnOnce(mpsc::UnboundedReceiver<Inbound>) -> F,
    ) -> Self {
        let mut builder = Builder::new_current_thread();
        builder.enable_time().start_paused(true);
        // Else tokio throws its own dice, such as for the order in which watchers of one value wake.
        #[cfg(tokio_unstable)]
        builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&ambient::chance().to_le_bytes()));
        let runtime = builder.build().expect("a runtime");
        let (inbox, letters) = mpsc::unbounded_channel();
        let started = runtime.block_on(async { Instant::now() });
        let boot = scaled(now, rate);
        ambient::enter(boot, started);
        runtime.spawn(body(letters));
        Self { runtime, inbox, began: now, boot, started, rate, clock: 0, stopped: false }
    }

    /// Hands it something, now or when it runs again.
    pub(crate) fn hand(&self, inbound: Inbound) {
        // Fails only when its main task has ended.
        let _ = self.inbox.send(inbound);
    }

    /// SIGSTOP.
    pub(crate) fn stop(&mut self) {
        self.stopped = true;
    }

    /// SIGCONT: it finds that time has passed, all at once.
    pub(crate) fn resume(&mut self, now: u64) {
        if std::mem::take(&mut self.stopped) {
            let passed = self.catch_up(now);
            self.run(async move { advance(passed).await });
        }
    }

    /// Runs it until the world's `now`.
    pub(crate) fn step(&mut self, now: u64) {
        if !self.stopped {
            let passed = self.catch_up(now);
            self.run(async move { sleep(passed).await });
        }
    }

    fn catch_up(&mut self, now: u64) -> Duration {
        let target = u64::try_from(scaled(now - self.began, self.rate).as_millis()).unwrap_or(u64::MAX);
        let passed = target.saturating_sub(self.clock);
        self.clock = target;
        Duration::from_millis(passed)
    }

    fn run(&self, future: impl Future<Output = ()>) {
        ambient::enter(self.boot, self.started);
        self.runtime.block_on(future);
    }
}

fn scaled(millis: u64, rate: f64) -> Duration {
    Duration::from_millis((millis as f64 * rate) as u64)
}

/// How a host is set up.
#[derive(Clone)]
pub(crate) struct HostPlan {
    pub(crate) host: HostId,
    pub(crate) incarnation: Incarnation,
    pub(crate) succeeds: Option<Incarnation>,
    pub(crate) highest_epoch: Epoch,
    pub(crate) address: String,
    pub(crate) slots: u32,
    pub(crate) times: LeaseTimes,
    pub(crate) grace: Duration,
}

/// The main task of a host: what `agent_host::run` does, without sockets and processes.
pub(crate) async fn host(plan: HostPlan, outbox: Outbox, mut letters: mpsc::UnboundedReceiver<Inbound>) {
    let registry: Arc<dyn Registry> = Arc::new(FarStore::new(outbox.clone()));
    let mut capacity = Resources::default();
    capacity.set(SLOTS, plan.slots.into()).expect("a capacity");
    let announce = Announce {
        host: plan.host.clone(),
        incarnation: plan.incarnation.clone(),
        address: plan.address.clone(),
        dns_name: String::new(),
        capacity,
        labels: BTreeMap::new(),
        version: String::new(),
        state: HostState::Ready,
        cordoned: false,
        ttl: plan.times.ttl,
        lasts: plan.times.ttl + plan.grace,
        highest_epoch: plan.highest_epoch,
        highest_life: HostLife::default(),
        succeeds: plan.succeeds.clone(),
        store_life: None,
        reported: None,
    };
    let disk = outbox.clone();
    let keep = Box::new(move |epoch| disk.put(Outgoing::KeepEpoch(epoch)));
    let (renewer, lease) = LeaseRenewer::new(announce, plan.times, registry.clone(), AMBIENT, keep);
    let context = HostContext {
        host: plan.host,
        incarnation: plan.incarnation,
        registry,
        runtime: Arc::new(FarRuntime(outbox.clone())),
        starts: Starts::new(2, Duration::from_millis(150)),
        deaths: Deaths::new(3),
        lease: lease.clone(),
        ambient: AMBIENT,
    };
    let max_agents = usize::try_from(plan.slots).expect("few");
    let settings = HostSettings {
        max_agents,
        start_timeout: Duration::from_secs(5),
        launch_patience: Duration::from_secs(2),
        stop_timeout: Duration::from_secs(1),
        drain_timeout: Duration::from_secs(10),
    };
    let supervisor = Supervisor::new(settings, context);
    let everything = CancellationToken::new();
    let renewer = tokio::spawn(renewer.run(everything.clone()));
    tokio::spawn(supervisor.clone().follow_lease());
    let service = Service::new(supervisor.clone());
    let drains = loop {
        tokio::select! {
            biased;
            () = superseded(lease.clone()) => break false,
            letter = letters.recv() => match letter {
                Some(Inbound::Call { id, call, left }) => {
                    let (service, outbox) = (service.clone(), outbox.clone());
                    tokio::spawn(async move {
                        // When the caller's deadline passes, the server drops the call.
                        let reply = timeout(left, serve(&service, call)).await;
                        let reply = reply.unwrap_or_else(|_| Err(Status::deadline_exceeded("too late")));
                        outbox.put(Outgoing::Answer { call: id, reply });
                    });
                }
                Some(Inbound::Terminate) => break true,
                Some(Inbound::Client { .. }) => unreachable!("clients call engines"),
                None => return,
            },
        }
    };
    if drains {
        supervisor.close().await;
        let _ = timeout(Duration::from_secs(5), supervisor.emptied()).await;
    }
    supervisor.end(Duration::from_secs(1)).await;
    everything.cancel();
    renewer.await.expect("it ends");
    outbox.put(Outgoing::Ended);
}

async fn superseded(mut lease: LeaseHandle) {
    while lease.current().state != Lease::Superseded {
        lease.changed().await;
    }
}

async fn serve(service: &Service, call: HostCall) -> Result<HostReply, Status> {
    match call {
        HostCall::Create(message) => {
            let created = service.create_agent(Request::new(*message)).await.map(Response::into_inner)?;
            Ok(HostReply::Created(Box::new(created)))
        }
        HostCall::Stop(message) => {
            service.stop_agent(Request::new(message)).await.map(Response::into_inner).map(HostReply::Stopped)
        }
    }
}

/// The main task of an engine: what `engine_svc::serve` does, without sockets.
pub(crate) async fn engine(leases: Leases, outbox: Outbox, mut letters: mpsc::UnboundedReceiver<Inbound>) {
    let registry: Arc<dyn Registry> = Arc::new(FarStore::new(outbox.clone()));
    let (changes, wake, stop) = (Arc::new(Changes::default()), Wake::default(), CancellationToken::new());
    let fleet = Arc::new(Fleet::new(registry.clone(), Policy::LeastLoaded, changes.clone()));
    let hosts = Arc::new(FarHosts(outbox.clone()));
    let fresh = fleet.clone().keep_fresh(LOOK_EVERY, leases.slack(), wake.clone(), ambient::chance, stop.clone());
    tokio::spawn(fresh);
    tokio::spawn(reader::run(registry.clone(), fleet.clone(), changes.clone(), ambient::chance, stop.clone()));
    let engine = Arc::new(Engine::new(registry, fleet, hosts, leases, changes.clone(), wake.clone()));
    let rebalancing = Rebalancing { every: EVEN_OUT_EVERY, threshold: 0.0, per_guild: MOST_MOVES };
    let moves = OptionalMoves { compact_every: None, rebalancing: Some(rebalancing) };
    tokio::spawn(reconciler::run(engine.clone(), changes, wake, ambient::chance, moves, stop));
    while let Some(letter) = letters.recv().await {
        let Inbound::Client { id, wish, within } = letter else { continue };
        let (engine, outbox) = (engine.clone(), outbox.clone());
        tokio::spawn(async move {
            let answer = grant(&engine, wish, within).await.map_err(|error| error.to_string());
            outbox.put(Outgoing::ClientAnswer { call: id, answer });
        });
    }
}

async fn grant(engine: &Engine, wish: Wish, within: Duration) -> Result<(), EngineError> {
    match wish {
        Wish::Create { launch, request_id, wait, pending } => {
            let deadline = Instant::now() + within;
            let caller_gone = CancellationToken::new();
            let first_start = pb::FirstStart::Unspecified;
            let creation =
                Creation { launch: *launch, request_id, wait, first_start, pending, deadline, caller_gone };
            engine.create(&creation).await.map(|_| ())
        }
        Wish::Stop { key } => match engine.stop(&key, Duration::from_millis(500), IfSilent::Refuse).await {
            Ok(_) | Err(EngineError::Unknown(_)) => Ok(()),
            Err(error) => Err(error),
        },
    }
}
