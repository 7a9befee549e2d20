//! The rules of the registry: what it holds, and each operation on it, on plain maps, with the caller's clock. One method an operation; what
//! several of them do is here. The registry's scripts keep to them word for word, and its twin in memory is them.

mod agents;
mod hosts;
mod line;
mod lives;
mod reads;

use crate::{
    apart::Spread,
    condition::{AgentReason, Condition},
    ids::{AgentKey, Epoch, GuildKey, HostId, HostLife, Incarnation, MachineId, UnixMillis},
    ops::{AgentEvent, Event, Retire},
    placement::{self, Candidates},
    record::{AgentRecord, Assignment, Documents, FormerState, HostRecord, Phase, State, View},
    resources::Resources,
};
use line::Lines;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// A place on a host for one agent.
#[derive(Clone)]
struct Place {
    host: HostId,
    incarnation: Incarnation,
    takes: Resources,
}

/// What a registry holds.
#[derive(Clone, Default)]
pub struct Store {
    generation: u64,
    /// Somebody has announced itself: before, the store has no life that could be known.
    born: bool,
    /// The run in which it was written last.
    run: Option<u64>,
    /// The run that made this its life.
    life_of: Option<u64>,
    /// Its life is new: nothing is decided yet.
    settling: Option<Settling>,
    /// Hosts that have not reported yet what they run.
    reporting: BTreeSet<HostId>,
    /// Processes of hosts that hold no lease any more.
    former: BTreeMap<(HostId, Incarnation), Former>,
    /// The last lease that was given.
    lives: u64,
    /// Stops that were counted; of the latest ones the agent, with number and epoch; and the last one that is not among them.
    stops: u64,
    stopped: BTreeMap<String, (u64, Epoch)>,
    stops_forgotten: u64,
    epoch: u64,
    /// Claims beyond this one were forgotten in the last restart.
    known_epoch: Option<Epoch>,
    hosts: BTreeMap<HostId, HostRecord>,
    /// By encoded member, which is the order of the lists.
    agents: BTreeMap<String, AgentRecord>,
    machines: BTreeMap<GuildKey, BTreeMap<MachineId, u32>>,
    /// Agents that no host has accepted, by the epochs of their claims.
    unaccepted: BTreeMap<String, Epoch>,
    /// Those that wait for room.
    lines: Lines,
    /// Latest write of an agent's host.
    sequences: BTreeMap<String, u64>,
    events: Vec<Event>,
}

/// What is known of a process of a host that holds no lease any more.
#[derive(Debug, Clone, Copy)]
struct Former {
    state: FormerState,
    /// How long its last lease lasts, with the grace after it.
    lasts: Duration,
    /// That lease and its renewals.
    renewal: (HostLife, u64),
}

impl Former {
    const OVER: Self = Self { state: FormerState::Over, lasts: Duration::ZERO, renewal: Retire::HOLDS_NO_LEASE };
}

/// Why a life of the store settles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Settling {
    /// It is new, and nobody has come from another one.
    New,
    /// Somebody has.
    Lost,
}

impl Store {
    fn record(&mut self, key: &AgentKey, phase: Option<Phase>, epoch: Epoch, host: Option<HostId>) {
        self.events.push(Event::Agent(AgentEvent { key: key.clone(), phase, epoch, host, reason: None }));
    }

    fn host_changed(&mut self, host: &HostId) {
        self.events.push(Event::Host(host.clone()));
    }

    fn store_changed(&mut self) {
        self.events.push(Event::Store);
    }

    fn on(&self, host: &HostId) -> Vec<String> {
        let holds = |r: &AgentRecord| r.phase().holds_room() && r.host() == Some(host);
        self.agents.iter().filter(|(_, r)| holds(r)).map(|(m, _)| m.clone()).collect()
    }

    fn count_epochs_from(&mut self, now: UnixMillis) {
        self.epoch = self.epoch.max(now.0 * 1_000);
    }

    fn next_epoch(&mut self, now: UnixMillis) -> Epoch {
        if self.epoch == 0 {
            self.count_epochs_from(now);
        }
        self.epoch += 1;
        Epoch(self.epoch)
    }

    fn raise_epoch(&mut self, highest: Epoch, now: UnixMillis) {
        if self.epoch == 0 {
            self.count_epochs_from(now);
        }
        if highest <= Epoch::MAX {
            self.epoch = self.epoch.max(highest.0);
        }
    }

    fn free_room(&mut self, record: &AgentRecord) {
        let Some(Assignment { host, incarnation, takes, .. }) = record.state.last_assignment() else { return };
        if let Some(host) = self.hosts.get_mut(host).filter(|h| h.incarnation == *incarnation) {
            host.used.take(takes);
        }
    }

    /// A record that exists becomes a claim of a place under a new epoch, which nobody has accepted yet.
    fn assign_to(&mut self, member: &str, place: Place, now: UnixMillis) -> Epoch {
        let Place { host, incarnation, takes } = place;
        let epoch = self.next_epoch(now);
        self.unaccepted.insert(member.to_owned(), epoch);
        self.sequences.remove(member);
        if let Some(agent) = self.agents.get(member).cloned() {
            self.leave_line(&agent);
        }
        if let Some(agent) = self.agents.get_mut(member) {
            agent.state = State::Starting(Assignment::claimed(host.clone(), incarnation, takes));
            agent.epoch = epoch;
            agent.condition = None;
            let key = agent.key.clone();
            self.record(&key, Some(Phase::Starting), epoch, Some(host));
        }
        epoch
    }

    fn wait_for_room(&mut self, member: &str, condition: &Condition, now: UnixMillis) {
        let epoch = self.next_epoch(now);
        self.unaccepted.remove(member);
        self.sequences.remove(member);
        if let Some(agent) = self.agents.get_mut(member) {
            let known = Some(agent.epoch.0).filter(|epoch| *epoch > 0);
            let order = self.lines.order(member).or(known).unwrap_or(epoch.0);
            agent.state = State::Pending;
            agent.epoch = epoch;
            agent.condition = Some(condition.clone());
            let agent = agent.clone();
            self.lines.set_order(member, Epoch(order));
            self.join_line(&agent, order);
            let (key, reason) = (agent.key, AgentReason::parse(condition.reason()));
            let waits = AgentEvent { key, phase: Some(Phase::Pending), epoch, host: None, reason };
            self.events.push(Event::Agent(waits));
        }
    }

    fn free_machine(&mut self, agent: &AgentRecord) {
        if let Some(taken) = self.machines.get_mut(&agent.key.guild) {
            taken.entry(agent.machine_id).and_modify(|count| *count -= 1);
            taken.retain(|_, count| *count > 0);
        }
    }

    /// A record that holds no room any more goes.
    fn remove(&mut self, member: &str, agent: &AgentRecord, epoch: Epoch) {
        self.bury(member, epoch);
        self.free_machine(agent);
        self.leave_line(agent);
        self.lines.forget_order(member);
        self.agents.remove(member);
        self.unaccepted.remove(member);
        self.sequences.remove(member);
        self.record(&agent.key, None, epoch, agent.host().cloned());
    }

    /// The first candidate that holds a lease, takes agents and has room. With an `order`, those that wait and came before it must
    /// let it pass.
    fn pick(&mut self, demand: &Resources, candidates: &Candidates, order: Option<u64>) -> Option<Place> {
        let mut found = BTreeMap::new();
        let mut hosts: Vec<_> = candidates.hosts.iter().collect();
        let spread = candidates.spread.min(hosts.len());
        hosts[..spread].sort_by_key(|id| self.hosts.get(*id).map(|h| placement::load(&h.capacity, &h.used, demand)));
        let apart = Spread::of(self.hosts.values(), demand);
        let open = |id: &HostId| {
            let host = self.hosts.get(id).filter(|h| h.takes_agents() && apart.allows(h))?;
            let takes = host.capacity.place(&host.used, demand)?;
            Some(Place { host: host.host.clone(), incarnation: host.incarnation.clone(), takes })
        };
        let places: Vec<_> = hosts.into_iter().filter_map(open).collect();
        places
            .into_iter()
            .find(|place| order.is_none_or(|order| self.is_let_pass(&place.host, demand, order, &mut found)))
    }

    fn reserve(&mut self, host: &HostId, takes: &Resources) {
        if let Some(h) = self.hosts.get_mut(host) {
            h.used.add(takes);
        }
    }

    /// The smallest free one of the guild.
    fn free_machine_id(&self, guild: &GuildKey) -> Option<MachineId> {
        let taken = self.machines.get(guild);
        MachineId::all().find(|id| taken.is_none_or(|taken| taken.get(id).is_none_or(|agents| *agents == 0)))
    }

    fn take_machine_id(&mut self, guild: &GuildKey, id: MachineId) {
        *self.machines.entry(guild.clone()).or_default().entry(id).or_default() += 1;
    }
}

/// A record as far as `view` reads it.
fn project(record: &AgentRecord, view: View) -> AgentRecord {
    let documents = record.documents.as_ref().filter(|_| view != View::Basic).map(|d| Documents {
        spec: d.spec.clone(),
        launch: if view == View::Launch { d.launch.clone() } else { Default::default() },
    });
    let last_lines = if view == View::Basic { vec![] } else { record.last_lines.clone() };
    AgentRecord { documents, last_lines, ..record.clone() }
}
