//! The task of one agent: carries out what the machine decides, and shows how the agent is.
//!
//! One task, one writer: only it touches the agent's process and record. It ends when the machine has ended. It is
//! never cancelled from outside: a stop is a command, so that no process is left behind.

use super::{
    handle::{AgentHandle, AgentStatus},
    machine::{Action, Ending, Event, FirstStart, Machine, Rules, State},
    record::{Facts, Record, Write, Written},
    steps::{StepTimes, Steps},
};
use crate::{
    ambient::Ambient,
    lease::{Lease, LeaseHandle},
    output::Tail,
    process::Signal,
    runtime::{InitFailure, Order, Process, Report, Runtime, StartError, Told},
    starts::{Starts, Turn},
};
use futures_util::future::{BoxFuture, FutureExt as _, pending};
use rustic_registry::{ExitStatus, HostId, Incarnation, OnDisconnect, Phase, Registry, RegistryError, RequestId};
use rustic_telemetry::metrics;
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tracing::{Instrument as _, Span, info, info_span, warn};

/// First and longest delay between tries to reach the store.
const STORE_RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Where an agent lives: what all agents of a host share.
#[derive(Clone)]
pub struct Home {
    /// Host id.
    pub host: HostId,
    /// This life of the host.
    pub incarnation: Incarnation,
    /// Where the record is.
    pub registry: Arc<dyn Registry>,
    /// What makes processes.
    pub runtime: Arc<dyn Runtime>,
    /// The queue of starts.
    pub starts: Starts,
    /// The host's lease.
    pub lease: LeaseHandle,
    /// Clocks and chance.
    pub ambient: Ambient,
}

/// What a task is started with.
pub struct Launching {
    /// What to run.
    pub order: Order,
    /// The request that asked for it.
    pub request_id: RequestId,
    /// What a failed first start does.
    pub first_start: FirstStart,
    /// Time from start to ready.
    pub start_timeout: Duration,
    /// How long the host's own claim took.
    pub claim: Option<Duration>,
}

/// Runs one agent.
pub struct AgentTask {
    order: Order,
    machine: Machine,
    record: Record,
    runtime: Arc<dyn Runtime>,
    lease: LeaseHandle,
    ambient: Ambient,
    commands: mpsc::Receiver<Event>,
    status: watch::Sender<AgentStatus>,
    tail: Tail,
    process: Option<Box<dyn Process>>,
    starts: Starts,
    /// Held from the turn to start until the agent is ready.
    turn: Option<Turn>,
    began: Instant,
    steps: Steps,
    /// Names the agent on every log line; child of the call that created it.
    span: Span,
}

type SpawnCall = BoxFuture<'static, Result<Box<dyn Process>, StartError>>;
type QueueWait = BoxFuture<'static, Turn>;

/// A write that goes on until the store has answered it.
struct StoreWrite {
    write: Write,
    /// The store's life that is written to.
    knows: Option<String>,
    retry: Duration,
    call: BoxFuture<'static, Written>,
}

impl AgentTask {
    /// Prepares a task and its handle.
    pub fn new(launching: Launching, home: Home) -> (Self, AgentHandle) {
        let Home { host, incarnation, registry, runtime, starts, lease, ambient } = home;
        let Launching { order, request_id, first_start, start_timeout, claim } = launching;
        let rules = Rules {
            restart: order.launch.restart,
            first_start,
            start_timeout: order.launch.start_timeout.unwrap_or(start_timeout),
            on_disconnect: order.launch.on_disconnect,
        };
        let (commands, inbox) = mpsc::channel(16);
        let status = AgentStatus {
            phase: Phase::Starting,
            admitted: false,
            pid: None,
            restarts: 0,
            reason: String::new(),
            last_exit: None,
            running: None,
            times_running: 0,
            times: StepTimes { claim, ..StepTimes::default() },
            told: lease.store(),
            trouble: None,
            ending: None,
        };
        let (status, shown) = watch::channel(status);
        let tail = Tail::default();
        let handle = AgentHandle {
            launch: order.launch.clone(),
            epoch: order.epoch,
            machine_id: order.machine_id,
            created: (ambient.wall)(),
            tail: tail.clone(),
            commands,
            status: shown,
            callers: Arc::default(),
        };
        let now = Instant::now();
        let key = &order.launch.key;
        let span = info_span!("agent", guild_id = %key.guild, agent_id = %key.agent, epoch = %order.epoch);
        let record = Record {
            registry,
            host,
            incarnation,
            order: order.clone(),
            request_id,
            created: handle.created,
            told: lease.store(),
            accepted: false,
            // A later task of the same claim, as when the store forgot the end of the first one, writes later.
            sequence: u64::try_from((ambient.boot)().up().as_micros()).unwrap_or(0),
        };
        let task = Self {
            machine: Machine::new(rules).0,
            order,
            record,
            runtime,
            lease,
            ambient,
            commands: inbox,
            status,
            tail,
            process: None,
            starts,
            turn: None,
            began: now,
            steps: Steps::begin(now, "admit"),
            span,
        };
        (task, handle)
    }

    /// Lives the agent's life on this host.
    pub async fn run(self) {
        let span = self.span.clone();
        self.live().instrument(span).await;
    }

    async fn live(mut self) {
        let mut todo = VecDeque::from([Action::Record(Phase::Starting)]);
        let mut write: Option<StoreWrite> = None;
        let mut queue: Option<QueueWait> = None;
        let mut spawn: Option<SpawnCall> = None;
        let mut losses = self.lease.current().losses;
        let mut inbox = VecDeque::new();
        let mut store = self.lease.clone();
        loop {
            while let Some(action) = todo.pop_front() {
                match action {
                    Action::Record(_) | Action::Release(_) => write = Some(self.begin_write(Write::Asked(action))),
                    Action::Queue => queue = Some(self.begin_queue()),
                    Action::Spawn => spawn = Some(self.begin_spawn()),
                    Action::Terminate => self.signal(Signal::Terminate),
                    Action::Kill => self.signal(Signal::Kill),
                }
            }
            match self.machine.state() {
                State::Ended(_) => break,
                State::Queued { .. } => {}
                _ => queue = None,
            }
            let wake_at = self.machine.wake_at();
            let mut answered = false;
            // Cancel-safe: store and spawn calls are kept in `write` and `spawn` and go on at the next turn; the exit
            // and the report of a process are watched by the process itself; channels and timers lose nothing. In this
            // order: what was asked comes before what happened, and every source is silent again after a few events.
            let event = if let Some(event) = inbox.pop_front() {
                event
            } else {
                tokio::select! {
                    biased;
                    Some(command) = self.commands.recv() => command,
                    done = or_never(write.as_mut().map(|w| &mut w.call)) => match done {
                        Ok(event) => {
                            self.has_told(write.take().and_then(|w| w.knows));
                            let Some(event) = event else { continue };
                            answered = true;
                            event
                        }
                        Err(error) => {
                            self.store_failed(&error, &mut write);
                            continue;
                        }
                    },
                    turn = or_never(queue.as_mut()) => {
                        queue = None;
                        self.turn = Some(turn);
                        Event::Turn
                    }
                    made = or_never(spawn.as_mut()) => {
                        spawn = None;
                        self.spawned(made)
                    }
                    () = turn_over(self.turn.as_ref()) => {
                        self.turn = None;
                        continue;
                    }
                    told = process_event(self.process.as_mut()) => match told {
                        Told::Report(Report::Ready(times, imported)) => {
                            self.turn = None;
                            self.runtime.learn(&self.order, imported);
                            self.step("advance", |s, took| {
                                (s.import, s.initialize, s.start) = (times.import, times.initialize, Some(took));
                            });
                            Event::Ready
                        }
                        Told::Report(Report::Failed(failure)) => {
                            let InitFailure { stage, error, traceback, .. } = &failure;
                            warn!(?stage, error, traceback, "the agent cannot start");
                            Event::InitFailed(failure)
                        }
                        Told::Report(Report::Garbled(text)) => Event::InitFailed(InitFailure::garbled(&text)),
                        Told::Exit(status) => {
                            self.reaped(status).await;
                            self.ended_by_lease(&mut inbox);
                            inbox.push_back(Event::Exited(status));
                            self.may_come_back(&mut inbox);
                            continue;
                        }
                    },
                    _ = until(wake_at) => Event::Timer,
                    () = store.store_changed() => {
                        // Others wait until the store has been told. What is under way quotes the life before; it changes
                        // nothing if it still arrives.
                        write = match write.take() {
                            Some(w) => Some(self.begin_write(w.write)),
                            None if self.status.borrow().admitted => Some(self.begin_write(Write::Again)),
                            None => None,
                        };
                        continue;
                    }
                    lease = self.lease.changed() => {
                        // A loss that was over before we looked is a loss all the same: it is counted, not watched.
                        if lease.losses > losses {
                            losses = lease.losses;
                            inbox.push_back(Event::Fence);
                        }
                        if lease.state == Lease::Held {
                            inbox.push_back(Event::LeaseBack);
                            // An agent that outlived the lease may have been given up by force.
                            let outlived = self.order.launch.on_disconnect == OnDisconnect::Keep;
                            if outlived && write.is_none() && self.status.borrow().admitted {
                                write = Some(self.begin_write(Write::Again));
                            }
                        }
                        continue;
                    }
                }
            };
            let before = Before { phase: self.machine.phase(), admitting: self.machine.is_admitting(), answered };
            todo.extend(self.machine.on(event, Instant::now(), (self.ambient.chance)()));
            self.show(&before);
        }
        self.show_end();
    }

    fn begin_write(&mut self, write: Write) -> StoreWrite {
        let knows = self.lease.store();
        let facts = self.facts(write);
        let call = self.record.write(write, &facts, knows.clone(), Duration::ZERO);
        StoreWrite { write, knows, retry: STORE_RETRY.0, call }
    }

    fn facts(&self, write: Write) -> Facts {
        let phase = match write {
            Write::Asked(Action::Record(phase)) => phase,
            Write::Asked(_) | Write::Again => self.machine.phase_to_tell(),
        };
        Facts {
            phase,
            pid: self.process.as_ref().map(|p| p.pid()),
            restarts: self.machine.restarts(),
            reason: self.machine.reason().to_owned(),
            exit: self.machine.last_exit(),
            last_lines: if phase == Phase::Failed { self.tail.all() } else { vec![] },
        }
    }

    /// One step of the start is over, the next one begins.
    fn step(&mut self, next: &'static str, note: impl FnOnce(&mut StepTimes, Duration)) {
        let took = self.steps.next(next);
        self.status.send_modify(|s| note(&mut s.times, took));
    }

    fn begin_queue(&mut self) -> QueueWait {
        self.step("queue", |s, took| s.admit = Some(took));
        let starts = self.starts.clone();
        async move { starts.turn().await }.boxed()
    }

    fn begin_spawn(&mut self) -> SpawnCall {
        self.step("spawn", |s, took| s.queue = Some(took));
        let (runtime, order, tail) = (self.runtime.clone(), self.order.clone(), self.tail.clone());
        async move { runtime.start(&order, &tail).await }.in_current_span().boxed()
    }

    fn spawned(&mut self, made: Result<Box<dyn Process>, StartError>) -> Event {
        match made {
            Ok(process) => {
                self.step("initialize", |s, took| s.spawn = Some(took));
                self.process = Some(process);
                Event::Spawned
            }
            Err(error) => Event::SpawnFailed(Arc::new(error)),
        }
    }

    /// The store has answered a write, whatever it was.
    fn has_told(&mut self, store: Option<String>) {
        self.status.send_if_modified(|s| {
            let mended = s.trouble.take().is_some();
            std::mem::replace(&mut s.told, store.clone()) != store || mended
        });
        self.record.told = store;
        self.record.accepted = true;
    }

    /// A write that failed is made again until the store has answered it: the claim must not be forgotten.
    fn store_failed(&mut self, error: &RegistryError, write: &mut Option<StoreWrite>) {
        if self.status.borrow().trouble.is_none() {
            warn!(%error, "the agent's record cannot be written; trying again until it can");
        }
        self.status.send_modify(|s| s.trouble = Some(error.to_string()));
        if let Some(w) = write {
            w.retry = (w.retry * 2).min(STORE_RETRY.1);
            w.knows = self.lease.store();
            let facts = self.facts(w.write);
            w.call = self.record.write(w.write, &facts, w.knows.clone(), w.retry);
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process {
            process.signal(signal);
        }
    }

    async fn reaped(&mut self, status: ExitStatus) {
        self.turn = None;
        if let Some(process) = self.process.take() {
            info!(pid = process.pid(), %status, "process ended");
            process.finish().await;
        }
        let at = (self.ambient.wall)();
        self.status.send_modify(|s| s.last_exit = Some((status, at)));
        // The next start, if there is one, is measured from here.
        self.began = Instant::now();
        self.steps = Steps::begin(self.began, "restart");
    }

    /// A process that ended when the lease was over was ended by the watchdog: it did not crash, though nobody has said yet
    /// that the lease is lost.
    fn ended_by_lease(&self, inbox: &mut VecDeque<Event>) {
        if self.lease.is_over((self.ambient.boot)()) {
            inbox.push_back(Event::Fence);
        }
    }

    /// The lease may be renewed after all: then nobody will say that it is back.
    fn may_come_back(&self, inbox: &mut VecDeque<Event>) {
        if self.lease.current().state == Lease::Held {
            inbox.push_back(Event::LeaseBack);
        }
    }

    /// Shows all of a change at once: whoever watches never sees half of it.
    fn show(&mut self, before: &Before) {
        let phase = self.machine.phase();
        let restarts = self.machine.restarts().saturating_sub(self.status.borrow().restarts);
        if restarts > 0 {
            metrics::counts("rustic_host_restarts_total", &[], restarts.into());
        }
        if phase != before.phase {
            let reason = self.machine.reason();
            info!(%phase, restarts = self.machine.restarts(), reason, "agent is {phase}");
        }
        let (took, recorded) = (self.began.elapsed(), self.steps.so_far());
        let runs = before.answered && phase == Phase::Running && before.phase != Phase::Running;
        if runs {
            self.steps.end();
        }
        self.status.send_modify(|s| {
            s.phase = phase;
            s.pid = self.process.as_ref().map(|p| p.pid());
            s.restarts = self.machine.restarts();
            self.machine.reason().clone_into(&mut s.reason);
            if before.answered {
                if before.admitting {
                    // Only what the store has acknowledged is told back to it.
                    self.lease.saw(self.order.epoch);
                    s.admitted = true;
                }
                if runs {
                    s.times.advance = Some(recorded);
                    s.times.total = Some(took);
                    s.running = Some((self.ambient.wall)());
                    s.times_running += 1;
                }
            }
        });
    }

    fn show_end(&self) {
        if let State::Ended(ending) = self.machine.state() {
            if let Ending::Superseded = ending {
                warn!("the claim is not this host's any more; the process was ended");
            }
            self.status.send_modify(|s| s.ending = Some(ending.clone()));
        }
    }
}

/// How things were before an event.
struct Before {
    phase: Phase,
    admitting: bool,
    /// The event is an answer of the store.
    answered: bool,
}

/// The next thing a process tells or does. Cancel-safe.
async fn process_event(process: Option<&mut Box<dyn Process>>) -> Told {
    match process {
        Some(process) => process.told().await,
        None => pending().await,
    }
}

async fn or_never<F: Future + Unpin>(future: Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => pending().await,
    }
}

async fn turn_over(turn: Option<&Turn>) {
    match turn {
        Some(turn) => turn.over().await,
        None => pending().await,
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}
