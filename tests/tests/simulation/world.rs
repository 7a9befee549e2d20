//! The world: one clock, one queue of what is to happen, and everything that lives in it.
//!
//! ```text
//!            ┌──── what is due ────┐
//!  queue ────▶ store, processes,   │       every TICK: 1. what is due happens   2. watchdogs look
//!    ▲       │ inboxes, faults     │                   3. every life runs until now, in an order by chance
//!    │       └─────────────────────┘                   4. what they did is put into the queue, late, lost or twice
//!    └── outbox ◀── lives: engines and hosts, their real code
//! ```

mod network;
mod processes;

use crate::{
    ambient::{self, LeftOut},
    checker::Checker,
    client::Client,
    lives::{self, HostPlan, Inbound, Life, Wish},
    machine::{Machine, Process},
    plan::{MENDED, Place, Plan, TTL},
    wires::{HostCall, HostReply, LifeId, Outbox, Outgoing, Reply, StoreCall},
};
use agent_host::{lease::LeaseTimes, runtime::ProcessEvent};
use engine_svc::engine::Leases;
use futures_util::FutureExt as _;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use rustic_registry::{
    AgentKey, AgentReason, AgentRecord, Epoch, EventId, ExitStatus, HostId, HostsView, Incarnation, Index,
    MemoryRegistry, Phase, Registry as _, Scope, UnixMillis, View, store::EVENTS_KEPT,
};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

/// How finely time is cut, ms.
pub(crate) const TICK: u64 = 20;
/// What the store's clock shows when a world begins, ms.
const STORE_BEGINS: u64 = ambient::WALL_BEGINS;
/// Time in which hosts report what they run when all is mended, ms.
const REPORTS: u64 = 15_000;
/// Time between two looks at who waits, and after which every engine has a copy, ms.
const SEES_EVERY: u64 = 200;
const COPIED: u64 = 2_500;
/// Operations that can be rolled back.
const HISTORY: usize = 32;

/// What is to happen.
pub(crate) enum Event {
    Store(LifeId, StoreCall),
    /// Something that only touches a life, if it still lives.
    Reply(LifeId, Reply),
    Call {
        from: LifeId,
        id: u64,
        address: String,
        call: HostCall,
        left: Duration,
    },
    Answer(u64, Result<HostReply, Status>),
    Client {
        engine: usize,
        id: u64,
        wish: Wish,
        within: Duration,
    },
    ClientAnswer(u64, Result<(), String>),
    Ready(usize, u32),
    Exit(usize, u32, ExitStatus),
    Reaped(mpsc::UnboundedSender<ProcessEvent>, ExitStatus),
    Fault(crate::plan::Fault),
    Heal(crate::faults::Healing),
}

/// A life, and where it is.
pub(crate) struct Slot {
    pub(crate) life: Option<Life>,
    pub(crate) place: Place,
    pub(crate) address: String,
}

/// The world.
pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) plan: Plan,
    pub(crate) rng: StdRng,
    clock: Arc<AtomicU64>,
    pub(crate) store: MemoryRegistry,
    /// By how much its wall clock has stepped, ms.
    stepped: i64,
    pub(crate) history: VecDeque<rustic_registry::memory::Snapshot>,
    pub(crate) store_stopped_until: u64,
    /// What the store does not answer at all until then.
    pub(crate) store_down_until: u64,
    queue: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    pub(crate) slots: Vec<Slot>,
    pub(crate) machines: Vec<Machine>,
    /// The machine that has a host's name now.
    pub(crate) machine_of: Vec<usize>,
    /// The life of each engine.
    pub(crate) engines: Vec<LifeId>,
    pub(crate) cuts: Vec<(Place, Place)>,
    outbox: Arc<Mutex<Vec<(LifeId, Outgoing)>>>,
    calls: BTreeMap<u64, (LifeId, oneshot::Sender<Result<HostReply, Status>>)>,
    /// The engine's life that a client's call is with.
    client_calls: BTreeMap<u64, LifeId>,
    next_id: u64,
    next_pid: u32,
    pub(crate) clients: Vec<Client>,
    pub(crate) checker: Checker,
    /// Agents that the store does not know as they are, and the host's life that will report each.
    pub(crate) unreported: BTreeMap<AgentKey, LifeId>,
    /// A host that said nothing when the store forgot may bring back what was stopped behind its back.
    pub(crate) forgot_with_silent_hosts: bool,
    /// Agents that no host runs, and since when they are as they are.
    pub(crate) unassigned: BTreeMap<AgentKey, (Epoch, u64)>,
    /// Agents that only an engine could restore to a wiped store.
    pub(crate) remembered: usize,
    pub(crate) healed: bool,
    pub(crate) operations: usize,
    pub(crate) born: usize,
    pub(crate) trace: Option<Vec<String>>,
}

impl World {
    /// A cluster as `seed` says, just started.
    pub(crate) fn new(seed: u64, plan: Plan, trace: bool) -> Self {
        ambient::seed(seed);
        ambient::step_wall(0);
        ambient::leave_out(plan.left_out);
        let mut rng = StdRng::seed_from_u64(seed ^ 0x5eed);
        let clock = Arc::new(AtomicU64::new(STORE_BEGINS));
        let shown = clock.clone();
        let store = MemoryRegistry::new(move || UnixMillis(shown.load(Ordering::Relaxed)));
        let clients = (0..plan.agents).map(|n| Client::new(n, n < plan.keep, &mut rng)).collect();
        let machines = plan.rates.iter().map(|rate| Machine::new(*rate)).collect();
        let mut world = Self {
            now: 0,
            rng,
            clock,
            store,
            stepped: 0,
            history: VecDeque::new(),
            store_stopped_until: 0,
            store_down_until: 0,
            queue: BTreeMap::new(),
            sequence: 0,
            slots: vec![],
            machines,
            machine_of: (0..plan.hosts).collect(),
            engines: vec![],
            cuts: vec![],
            outbox: Arc::default(),
            calls: BTreeMap::new(),
            client_calls: BTreeMap::new(),
            next_id: 0,
            next_pid: 100,
            clients,
            checker: Checker::default(),
            unreported: BTreeMap::new(),
            forgot_with_silent_hosts: false,
            unassigned: BTreeMap::new(),
            remembered: 0,
            healed: false,
            operations: 0,
            born: 0,
            trace: trace.then(Vec::new),
            plan,
        };
        for engine in 0..world.plan.engines {
            world.begin_engine(engine);
        }
        for host in 0..world.plan.hosts {
            world.begin_host(host);
        }
        for (at, fault) in world.plan.faults.clone() {
            world.at(at, Event::Fault(fault));
        }
        for _ in 0..world.plan.changes {
            let (at, who) = (world.rng.random_range(1_000..8_000), world.rng.random_range(0..world.plan.agents));
            world.at(at, Event::Heal(crate::faults::Healing::ChangesMind(who)));
        }
        world
    }

    pub(crate) fn note(&mut self, what: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{now:>6} {}", what()));
        }
    }

    /// Puts something into the queue.
    pub(crate) fn at(&mut self, time: u64, event: Event) {
        self.sequence += 1;
        self.queue.insert((time.max(self.now), self.sequence), event);
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Runs one tick.
    pub(crate) fn step(&mut self) {
        self.now += TICK;
        self.clock.store((STORE_BEGINS + self.now).saturating_add_signed(self.stepped), Ordering::Relaxed);
        while let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let event = entry.remove();
            self.happen(event);
            self.take_up();
        }
        self.watchdogs_look();
        self.see_who_waits();
        self.clients_ask();
        let mut order: Vec<_> = (0..self.slots.len()).filter(|id| self.slots[*id].life.is_some()).collect();
        order.shuffle(&mut self.rng);
        for id in order {
            let frozen = matches!(self.slots[id].place, Place::Machine(m) if self.machines[m].frozen);
            if let Some(life) = self.slots[id].life.as_mut().filter(|_| !frozen) {
                life.step(self.now);
            }
            self.take_up();
        }
        self.forget_reported();
    }

    /// The store's wall clock steps by so many ms.
    pub(crate) fn store_steps(&mut self, by: i64) {
        self.stepped += by;
        self.clock.store((STORE_BEGINS + self.now).saturating_add_signed(self.stepped), Ordering::Relaxed);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Store(from, call) => self.store_acts(from, call),
            Event::Reply(to, reply) => {
                if self.slots[to].life.is_some() {
                    reply();
                }
            }
            Event::Call { from, id, address, call, left } => self.host_is_called(from, id, &address, call, left),
            Event::Answer(id, reply) => {
                if let Some((_, sender)) = self.calls.remove(&id) {
                    let _ = sender.send(reply);
                }
            }
            Event::Client { engine, id, wish, within } => {
                let life = self.engines[engine];
                match &self.slots[life].life {
                    Some(engine) => {
                        engine.hand(Inbound::Client { id, wish, within });
                        self.client_calls.insert(id, life);
                    }
                    None => self.at(self.now + 20, Event::ClientAnswer(id, Err("nobody listens".to_owned()))),
                }
            }
            Event::ClientAnswer(id, answer) => self.client_hears(id, answer),
            Event::Ready(machine, pid) => self.process_acts(machine, pid, None),
            Event::Exit(machine, pid, status) => self.process_acts(machine, pid, Some(status)),
            Event::Reaped(events, status) => _ = events.send(ProcessEvent::Exit(status)),
            Event::Fault(fault) => self.strike(fault),
            Event::Heal(healing) => self.heal(healing),
        }
    }

    fn outbox(&self, life: LifeId) -> Outbox {
        Outbox { life, queue: self.outbox.clone() }
    }

    pub(crate) fn begin_engine(&mut self, engine: usize) {
        let id = self.slots.len();
        let outbox = self.outbox(id);
        // What nobody has used before is known to be so by those only who were there when it began.
        let new_registry = self.now == 0;
        let (longest, drift) = match self.plan.left_out {
            Some(LeftOut::Observing) => (TTL + self.plan.grace, -1.0),
            Some(LeftOut::Comparing) | None => (TTL + self.plan.grace, 0.01),
        };
        let leases = Leases { longest, drift, new_registry };
        let rate = self.plan.engine_rates[engine];
        let life = Life::begin(self.now, rate, |letters| lives::engine(leases, outbox, letters));
        self.slots.push(Slot { life: Some(life), place: Place::Engine(engine), address: String::new() });
        match self.engines.get_mut(engine) {
            Some(current) => *current = id,
            None => self.engines.push(id),
        }
        self.note(|| format!("engine {engine} begins as life {id}"));
    }

    pub(crate) fn begin_host(&mut self, host: usize) {
        let (id, machine) = (self.slots.len(), self.machine_of[host]);
        let incarnation: Incarnation = format!("life-{id}").parse().expect("an incarnation");
        let there = &mut self.machines[machine];
        let succeeds = there.lock.replace(incarnation.clone());
        (there.life, there.deadline) = (Some(id), None);
        let rate = there.rate;
        let plan = HostPlan {
            host: host_id(host),
            incarnation: incarnation.clone(),
            succeeds: succeeds.clone(),
            highest_epoch: there.kept_epoch,
            address: format!("life-{id}"),
            slots: self.plan.slots,
            times: LeaseTimes { ttl: TTL, renew_every: TTL / 3, margin: self.plan.margin },
            grace: self.plan.grace,
        };
        let (address, outbox) = (plan.address.clone(), self.outbox(id));
        let life = Life::begin(self.now, rate, |letters| lives::host(plan, outbox, letters));
        let place = Place::Machine(machine);
        self.slots.push(Slot { life: Some(life), place, address });
        self.note(|| format!("host {host} begins as life {id} on machine {machine}, after {succeeds:?}"));
    }

    /// `kill -9`.
    pub(crate) fn end_life(&mut self, id: LifeId) {
        self.take_up();
        if self.slots[id].life.take().is_none() {
            return;
        }
        self.note(|| format!("life {id} ends"));
        if let Place::Machine(machine) = self.slots[id].place
            && self.machines[machine].life == Some(id)
        {
            self.machines[machine].life = None;
        }
        // Whatever its tasks dropped, nobody does any more.
        self.outbox.lock().expect("not poisoned").clear();
        self.calls.retain(|_, (from, _)| *from != id);
        let orphaned: Vec<_> = self.client_calls.iter().filter(|(_, with)| **with == id).map(|(c, _)| *c).collect();
        for call in orphaned {
            self.client_calls.remove(&call);
            self.at(self.now + 20, Event::ClientAnswer(call, Err("the engine is gone".to_owned())));
        }
        let unreported: Vec<_> =
            self.unreported.iter().filter(|(_, life)| **life == id).map(|(k, _)| k.clone()).collect();
        for key in unreported {
            self.unreported.remove(&key);
            self.client(&key).forgotten();
        }
    }

    pub(crate) fn client(&mut self, key: &AgentKey) -> &mut Client {
        self.clients.iter_mut().find(|client| client.key == *key).expect("every agent has a client")
    }

    fn clients_ask(&mut self) {
        for n in 0..self.clients.len() {
            let id = self.next_id + 1;
            let Some((wish, within)) = self.clients[n].asks(self.now, id) else { continue };
            self.next_id = id;
            let engine = self.rng.random_range(0..self.plan.engines);
            let lost = !self.healed && self.rng.random_bool(self.plan.loss);
            self.note(|| format!("client of a{n} asks engine {engine} to {}", wish_name(&wish)));
            if !lost {
                let at = self.now + self.rng.random_range(1..=self.plan.latency);
                self.at(at, Event::Client { engine, id, wish, within });
            }
        }
    }

    fn client_hears(&mut self, id: u64, answer: Result<(), String>) {
        for n in 0..self.clients.len() {
            if self.trace.is_some() && self.clients[n].awaits(id) {
                let text = format!("client of a{n} hears {answer:?}");
                self.note(|| text);
            }
            // What the store does not know, a host may report later.
            if self.forgot_with_silent_hosts || self.unreported.contains_key(&self.clients[n].key) {
                self.clients[n].doubts(self.now);
            }
            if let Some(asked) = self.clients[n].answered(self.now, id, answer.clone()) {
                let key = self.clients[n].key.clone();
                self.checker.stopped(self.now, &self.machines, &key, asked);
            }
        }
    }

    fn see_who_waits(&mut self) {
        if !self.plan.engines_remember() || !self.now.is_multiple_of(SEES_EVERY) {
            return;
        }
        let before = std::mem::take(&mut self.unassigned);
        let here = self.records().into_iter().filter(|r| matches!(r.phase(), Phase::Pending | Phase::Failed));
        let since = |r: &AgentRecord| match before.get(&r.key) {
            Some((epoch, since)) if *epoch == r.epoch => *since,
            _ => self.now,
        };
        self.unassigned = here.map(|r| (r.key.clone(), (r.epoch, since(&r)))).collect();
    }

    /// Whether an engine has a copy of an agent that no host runs.
    pub(crate) fn is_remembered(&self, key: &AgentKey) -> bool {
        let as_it_is = self.records().into_iter().find(|r| r.key == *key).map(|r| r.epoch);
        self.unassigned.get(key).is_some_and(|(epoch, since)| Some(*epoch) == as_it_is && since + COPIED <= self.now)
    }

    /// Agents that the store knows again as they are.
    fn forget_reported(&mut self) {
        // Some time after all is mended, every host has reported what it had to report.
        if self.healed && self.now > MENDED + REPORTS {
            self.unreported.clear();
            self.forgot_with_silent_hosts = false;
        }
        if self.unreported.is_empty() {
            return;
        }
        let records = self.records();
        let machines = &self.machines;
        self.unreported.retain(|key, _| {
            let process = machines.iter().flat_map(|m| m.processes.values()).find(|p| p.key == *key);
            let record = records.iter().find(|r| r.key == *key);
            record.is_none_or(|r| process.is_some_and(|p| r.epoch < p.epoch))
        });
    }

    pub(crate) fn records(&self) -> Vec<AgentRecord> {
        let page = self
            .store
            .list(&Index::Within(Scope::All), None, 100, View::Basic)
            .now_or_never()
            .expect("it never waits");
        page.expect("it never fails").agents
    }

    /// Agents that were moved to even out load.
    pub(crate) fn rebalanced(&self) -> usize {
        let events = self.store.events(EventId::default(), EVENTS_KEPT, Duration::ZERO);
        let events = events.now_or_never().expect("it never waits").expect("it never fails");
        events.agents().filter(|agent| agent.reason == Some(AgentReason::Rebalanced)).count()
    }

    pub(crate) fn hosts(&self) -> HostsView {
        self.store.hosts().now_or_never().expect("it never waits").expect("it never fails")
    }

    pub(crate) fn processes(&self) -> impl Iterator<Item = (u32, &Process)> {
        self.machines.iter().flat_map(|m| m.processes.iter()).map(|(pid, p)| (*pid, p))
    }
}

pub(crate) fn host_id(host: usize) -> HostId {
    format!("host-{host}").parse().expect("an id")
}

fn wish_name(wish: &Wish) -> &'static str {
    match wish {
        Wish::Create { .. } => "create it",
        Wish::Stop { .. } => "stop it",
    }
}
