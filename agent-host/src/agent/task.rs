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
    lease::{Lease, LeaseHandle},
    output::Tail,
    process::Signal,
    runtime::{InitFailure, Order, Process, Report, Runtimes, StartError},
    starts::{Starts, Turn},
};
use futures_util::future::{BoxFuture, FutureExt as _, pending};
use rustic_registry::{ExitStatus, Phase, Registry, RegistryError, RequestId, UnixMillis};
use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tracing::{Instrument as _, Span, info, info_span, warn};

/// First and longest delay between tries to reach the store.
const STORE_RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

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
    runtimes: Arc<Runtimes>,
    lease: LeaseHandle,
    commands: mpsc::Receiver<Event>,
    status: watch::Sender<AgentStatus>,
    tail: Tail,
    process: Option<Process>,
    starts: Starts,
    /// Held from the turn to start until the agent is ready.
    turn: Option<Turn>,
    began: Instant,
    steps: Steps,
    /// Names the agent on every log line; child of the call that created it.
    span: Span,
}

type SpawnCall = BoxFuture<'static, Result<Process, StartError>>;
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
    pub fn new(
        launching: Launching,
        registry: Arc<dyn Registry>,
        runtimes: Arc<Runtimes>,
        starts: Starts,
        lease: LeaseHandle,
    ) -> (Self, AgentHandle) {
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
            trouble: None,
            ending: None,
        };
        let (status, shown) = watch::channel(status);
        let tail = Tail::default();
        let handle = AgentHandle {
            launch: order.launch.clone(),
            epoch: order.epoch,
            machine_id: order.machine_id,
            created: wall_clock(),
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
            host: runtimes.host.clone(),
            incarnation: runtimes.incarnation.clone(),
            order: order.clone(),
            request_id,
            created: handle.created,
            told: lease.store(),
        };
        let task = Self {
            machine: Machine::new(rules).0,
            order,
            record,
            runtimes,
            lease,
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
            // and the report of a process are watched by the process itself; channels and timers lose nothing.
            let event = if let Some(event) = inbox.pop_front() {
                event
            } else {
                tokio::select! {
                    Some(command) = self.commands.recv() => command,
                    done = or_never(write.as_mut().map(|w| &mut w.call)) => match done {
                        Ok(event) => {
                            self.record.told = write.take().and_then(|w| w.knows);
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
                            self.runtimes.learn(&self.order, imported);
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
                            Event::Exited(status)
                        }
                    },
                    _ = until(wake_at) => Event::Timer,
                    () = store.store_changed() => {
                        // A write that is under way notices by itself.
                        if write.is_none() && self.status.borrow().admitted {
                            write = Some(self.begin_write(Write::Again));
                        }
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
                        }
                        continue;
                    }
                }
            };
            let before = Before { phase: self.machine.phase(), admitting: self.machine.is_admitting(), answered };
            todo.extend(self.machine.on(event, Instant::now(), rand::random()));
            self.show(&before);
        }
        self.show_end();
    }

    fn begin_write(&self, write: Write) -> StoreWrite {
        let knows = self.lease.store();
        let call = self.record.write(write, &self.facts(write), knows.clone(), Duration::ZERO);
        StoreWrite { write, knows, retry: STORE_RETRY.0, call }
    }

    fn facts(&self, write: Write) -> Facts {
        let phase = match write {
            Write::Asked(Action::Record(phase)) => phase,
            Write::Asked(_) | Write::Again => self.machine.phase(),
        };
        Facts {
            phase,
            pid: self.process.as_ref().map(|p| p.child.pid()),
            restarts: self.machine.restarts(),
            reason: self.machine.reason().to_owned(),
            exit: self.machine.last_exit(),
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
        let (runtimes, order, tail) = (self.runtimes.clone(), self.order.clone(), self.tail.clone());
        async move { runtimes.start(&order, &tail).await }.in_current_span().boxed()
    }

    fn spawned(&mut self, made: Result<Process, StartError>) -> Event {
        match made {
            Ok(process) => {
                self.step("initialize", |s, took| s.spawn = Some(took));
                self.process = Some(process);
                Event::Spawned
            }
            Err(error) => Event::SpawnFailed(Arc::new(error)),
        }
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
            w.call = self.record.write(w.write, &self.facts(w.write), w.knows.clone(), w.retry);
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process {
            process.child.signal(signal);
        }
    }

    async fn reaped(&mut self, status: ExitStatus) {
        self.turn = None;
        if let Some(process) = self.process.take() {
            info!(pid = process.child.pid(), %status, "process ended");
            process.finish().await;
        }
        let at = wall_clock();
        self.status.send_modify(|s| s.last_exit = Some((status, at)));
        // The next start, if there is one, is measured from here.
        self.began = Instant::now();
        self.steps = Steps::begin(self.began, "restart");
    }

    /// Shows all of a change at once: whoever watches never sees half of it.
    fn show(&mut self, before: &Before) {
        let phase = self.machine.phase();
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
            s.pid = self.process.as_ref().map(|p| p.child.pid());
            s.restarts = self.machine.restarts();
            self.machine.reason().clone_into(&mut s.reason);
            if before.answered {
                s.trouble = None;
                if before.admitting {
                    // Only what the store has acknowledged is told back to it.
                    self.lease.saw(self.order.epoch);
                    s.admitted = true;
                }
                if runs {
                    s.times.advance = Some(recorded);
                    s.times.total = Some(took);
                    s.running = Some(wall_clock());
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

enum Told {
    Report(Report),
    Exit(ExitStatus),
}

/// The next thing a process tells or does. Cancel-safe, as both of its parts are.
async fn process_event(process: Option<&mut Process>) -> Told {
    let Some(Process { child, reports, .. }) = process else { return pending().await };
    tokio::select! {
        // A report that was written before the process ended is heard first.
        biased;
        report = reports.next() => Told::Report(report),
        status = child.ended() => match status {
            Ok(status) => Told::Exit(status),
            Err(error) => {
                warn!(%error, "the end of a process could not be learnt; it is taken for killed");
                Told::Exit(ExitStatus::Signal(9))
            }
        },
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

fn wall_clock() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
