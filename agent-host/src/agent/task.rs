//! The task of one agent: hands the machine what happens, and carries out what it decides.
//!
//! One task, one writer: only it touches the agent's process and record. It ends when the machine has ended. It is
//! never cancelled from outside: a stop is a command, so that no process is left behind. It lives through a panic ([`panicked`]). What it has begun and not ended
//! (a write; what there is of the agent, [`body`]) it keeps, so that everything else can happen meanwhile.
//!
//! ```text
//!       ┌──────────── next ◀──────── calls, store, body, timer, lease
//!       ▼ Happened
//!    take_in ──▶ Event ──▶ Machine ──▶ Action ──▶ carry_out
//!                             └──▶ show
//! ```

mod body;
mod ended;
pub mod panicked;
mod show;
mod write;

use super::{
    handle::{AgentHandle, AgentStatus, Callers, LastMemory},
    machine::{Action, Event, FirstStart, Machine, Rules, State},
    poison::Deaths,
    record::{Record, Write, Written},
    steps::Steps,
};
use crate::{
    ambient::Ambient,
    lease::{Lease, LeaseHandle, LeaseView},
    output::Tail,
    process::Signal,
    runtime::{InitFailure, Order, ProcessEvent, Report, Runtime, StartError},
    starts::Starts,
};
use body::{Body, Happens};
use futures_util::future::{FutureExt as _, pending};
use panicked::Broken;
use rustic_registry::{AgentReason, HostId, Incarnation, OnDisconnect, Registry, RequestId};
use rustic_telemetry::metrics;
use show::Before;
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tracing::{Instrument as _, Span, info_span, warn};
use write::StoreWrite;

/// Where an agent lives: what all agents of a host share.
#[derive(Clone)]
pub struct HostContext {
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
    /// What is remembered of agents' deaths.
    pub deaths: Deaths,
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
    /// What the machine wants done first; taken when the task runs.
    first: Vec<Action>,
    record: Record,
    runtime: Arc<dyn Runtime>,
    lease: LeaseHandle,
    ambient: Ambient,
    commands: mpsc::Receiver<Event>,
    /// Who waits for it to run.
    callers: Callers,
    status: watch::Sender<AgentStatus>,
    tail: Tail,
    deaths: Deaths,
    /// What there is of it on this machine.
    body: Body,
    memory: LastMemory,
    starts: Starts,
    began: Instant,
    steps: Steps,
    /// What the machine has not taken yet.
    inbox: VecDeque<Event>,
    /// Goes on until the store has answered.
    write: Option<StoreWrite>,
    /// Losses of the lease of which the machine was notified.
    losses: u64,
    /// Waits for another store life, while `lease` waits for the lease.
    store: LeaseHandle,
    /// Names the agent on every log line; child of the call that created it.
    span: Span,
}

/// What the task waits for.
enum Happened {
    /// Somebody asked.
    Asked(Event),
    /// The store answered a write, or did not.
    Wrote(Written),
    /// Its start goes on, or its process said something or ended.
    Body(Happens),
    /// The time has come that the machine waits for.
    Timer,
    /// There is another store life.
    StoreChanged,
    /// The lease was lost or came back.
    Lease(LeaseView),
}

impl AgentTask {
    /// Prepares a task and its handle.
    pub fn new(launching: Launching, context: HostContext) -> (Self, AgentHandle) {
        let HostContext { host, incarnation, registry, runtime, starts, deaths, lease, ambient } = context;
        // Before anything is read of it: what changes later is seen, and nothing else, else the first write would be sent twice.
        let lease = lease.from_now_on();
        let Launching { order, request_id, first_start, start_timeout, claim } = launching;
        let rules = Rules {
            restart: order.launch.restart,
            first_start,
            start_timeout: order.launch.start_timeout.unwrap_or(start_timeout),
            on_disconnect: order.launch.on_disconnect,
        };
        let created = (ambient.wall)();
        let (handle, commands, status) = AgentHandle::new(&order, AgentStatus::new(claim, lease.store()), created);
        let now = Instant::now();
        let key = &order.launch.key;
        let span = info_span!("agent", organization_id = %key.guild.organization, guild_id = %key.guild.id, agent_id = %key.agent, epoch = %order.epoch);
        let record = Record {
            registry,
            host,
            incarnation,
            order: order.clone(),
            request_id,
            created,
            written_to: lease.store(),
            accepted: false,
            // A later task of the same claim, as when the store forgot the end of the first one, writes later.
            sequence: u64::try_from((ambient.boot)().up().as_micros()).unwrap_or(0),
        };
        let (machine, first) = Machine::new(rules, deaths.recall(&order.launch.key));
        let task = Self {
            machine,
            first,
            order,
            record,
            runtime,
            ambient,
            commands,
            callers: handle.callers(),
            status,
            tail: handle.tail.clone(),
            deaths,
            body: Body::Nothing,
            memory: handle.memory(),
            starts,
            began: now,
            steps: Steps::begin(now, "admit"),
            inbox: VecDeque::new(),
            write: None,
            losses: lease.current().losses,
            store: lease.clone(),
            lease,
            span,
        };
        (task, handle)
    }

    /// Lives the agent's life on this host. Errors: its process may live on, and nobody looks after it.
    pub async fn run(self) -> Result<(), Broken> {
        let span = self.span.clone();
        self.survive().instrument(span).await
    }

    async fn live(&mut self, mut todo: Vec<Action>) {
        loop {
            for action in todo.drain(..) {
                self.carry_out(action);
            }
            match self.machine.state() {
                State::Ended(_) => break,
                State::Queued { .. } => {}
                _ => self.body.leave_line(),
            }
            let Some(event) = self.inbox.pop_front() else {
                let happened = self.next().await;
                self.take_in(happened).await;
                continue;
            };
            let before = Before::of(&self.machine, &event);
            todo = self.machine.on(event, Instant::now(), (self.ambient.chance)());
            self.show(&before);
        }
        self.deaths.remember(&self.order.launch.key, self.machine.poison());
        self.show_end();
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Record(_) | Action::Release(_) => self.begin_write(Write::Asked(action)),
            Action::Queue => self.begin_queue(),
            Action::Spawn => self.begin_spawn(),
            Action::Terminate => self.body.signal(Signal::Terminate),
            Action::Kill => self.body.signal(Signal::Kill),
        }
    }

    /// Waits for whatever comes first.
    ///
    /// Cancel-safe: what is under way is kept in the task and goes on at the next turn ([`Body::next`]); channels and timers lose
    /// nothing. In this order: what was asked comes before what happened, and every source is silent again after a few events.
    async fn next(&mut self) -> Happened {
        let wake_at = self.machine.wake_at();
        tokio::select! {
            biased;
            Some(command) = self.commands.recv() => Happened::Asked(command),
            written = or_never(self.write.as_mut().map(|w| &mut w.call)) => Happened::Wrote(written),
            happens = self.body.next() => Happened::Body(happens),
            () = until(wake_at) => Happened::Timer,
            () = self.store.store_changed() => Happened::StoreChanged,
            lease = self.lease.changed() => Happened::Lease(lease),
        }
    }

    async fn take_in(&mut self, happened: Happened) {
        match happened {
            // A hint: what counts is what is so now.
            Happened::Asked(Event::Awaited(_)) => self.inbox.push_back(Event::Awaited(self.callers.any())),
            Happened::Asked(event) => self.inbox.push_back(event),
            Happened::Wrote(written) => self.wrote(written),
            Happened::Body(Happens::Turn) => self.inbox.push_back(Event::Turn),
            Happened::Body(Happens::Made(made)) => self.made(made),
            Happened::Body(Happens::ProcessEvent(ProcessEvent::Report(report))) => self.reported(report),
            Happened::Body(Happens::ProcessEvent(ProcessEvent::Stuck(why))) => {
                warn!(why, "the agent hangs and is killed");
                self.inbox.push_back(Event::Kill(AgentReason::LivenessTimeout, why));
            }
            Happened::Body(Happens::ProcessEvent(ProcessEvent::Exit(status))) => self.exited(status).await,
            Happened::Timer => self.inbox.push_back(Event::Timer),
            Happened::StoreChanged => self.write_to_new_store(),
            Happened::Lease(lease) => self.lease_changed(lease),
        }
    }

    fn begin_queue(&mut self) {
        self.step("queue", |s, took| s.admit = Some(took));
        let starts = self.starts.clone();
        self.body.queue(async move { starts.turn().await }.boxed());
    }

    fn begin_spawn(&mut self) {
        self.step("spawn", |s, took| s.queue = Some(took));
        let (runtime, tail) = (self.runtime.clone(), self.tail.clone());
        let order = Order { skip: self.machine.skips(), ..self.order.clone() };
        self.body.make(async move { runtime.start(&order, &tail).await }.in_current_span().boxed());
    }

    fn made(&mut self, made: Result<(), StartError>) {
        let event = match made {
            Ok(()) => {
                let cold_reason = self.body.cold_reason().to_owned();
                let grant = self.body.grant().cloned();
                let missing =
                    grant.as_ref().map(|grant| grant.missing.join("; ")).filter(|missing| !missing.is_empty());
                self.machine.note_confinement(missing);
                self.step("initialize", |s, took| s.spawn = Some(took));
                self.status.send_modify(|s| (s.cold_reason, s.grant) = (cold_reason, grant));
                Event::Spawned
            }
            Err(error) => Event::SpawnFailed(Arc::new(error)),
        };
        self.inbox.push_back(event);
    }

    fn reported(&mut self, report: Report) {
        let event = match report {
            Report::Ready(times, imports) => {
                if let Some(alive) = self.body.alive() {
                    alive.end_turn();
                    if let Some(bytes) = alive.resident() {
                        self.memory.saw(bytes);
                    }
                }
                if let Some(imports) = imports {
                    self.runtime.learn(&self.order, imports);
                }
                self.step("advance", |s, took| {
                    (s.import, s.initialize, s.start) = (times.import, times.initialize, Some(took));
                });
                Event::Ready
            }
            Report::Failed(failure) => {
                let InitFailure { stage, error, traceback, .. } = &failure;
                warn!(?stage, error, traceback, "the agent cannot start");
                Event::InitFailed(failure)
            }
            Report::SetAside(message) => {
                warn!(%message, "a message over which the agent has died again and again was set aside");
                metrics::count("rustic_host_dead_letters_total", &[]);
                Event::SetAside(message)
            }
            Report::Ended(reason) => {
                if let Some(alive) = self.body.alive() {
                    alive.says(reason);
                }
                return;
            }
            Report::Garbled(text) => Event::InitFailed(InitFailure::garbled(&text)),
        };
        self.inbox.push_back(event);
    }

    fn lease_changed(&mut self, lease: LeaseView) {
        // A loss that was over before we looked is a loss all the same: it is counted, not watched.
        if lease.losses > self.losses {
            self.losses = lease.losses;
            self.inbox.push_back(Event::Fence);
        }
        if lease.state == Lease::Held {
            self.inbox.push_back(Event::LeaseBack);
            // An agent that outlived the lease may have been given up by force.
            if self.order.launch.on_disconnect == OnDisconnect::Keep && self.write.is_none() {
                self.write_again();
            }
        }
    }
}

async fn or_never<F: Future + Unpin>(future: Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => pending().await,
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests;
