//! The deterministic twin of the store: the same operations on plain maps, with a clock of the caller's.
//!
//! For simulation and for tests. It keeps to the scripts under `lua/` word for word; the conformance suite applies
//! the same operations to both and compares what they answer and what they hold.

use crate::{
    error::RegistryError,
    ids::{AgentKey, Epoch, GuildId, HostId, Incarnation, UnixMillis},
    keys,
    ops::{
        Advance, AdvanceOutcome, Announce, Announced, Claim, ClaimOutcome, Claimed, Cordon, Event, EventId,
        HostsView, IfFull, Index, Page, PlaceOutcome, Queue, Registry, ReleaseGuard, ReleaseOutcome, Renew, Renewal,
        Restore,
    },
    record::{AgentRecord, Documents, HostRecord, HostState, LastExit, OnDisconnect, Phase, View},
    resources::Resources,
};
use async_trait::async_trait;
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// The store in memory.
pub struct MemoryRegistry {
    clock: Box<dyn Fn() -> UnixMillis + Send + Sync>,
    store: Mutex<Store>,
}

#[derive(Default)]
struct Store {
    generation: u64,
    /// Somebody has announced itself: before, the store has no life that could be known.
    born: bool,
    held_until: Option<UnixMillis>,
    epoch: u64,
    hosts: BTreeMap<HostId, HostRecord>,
    /// By encoded member, which is the order of the lists.
    agents: BTreeMap<String, AgentRecord>,
    machines: BTreeMap<GuildId, BTreeMap<u8, u32>>,
    /// When an agent was claimed that no host has accepted.
    unaccepted: BTreeMap<String, UnixMillis>,
    events: Vec<Event>,
}

impl MemoryRegistry {
    /// An empty store whose time is what `clock` says.
    pub fn new(clock: impl Fn() -> UnixMillis + Send + Sync + 'static) -> Self {
        Self { clock: Box::new(clock), store: Mutex::default() }
    }

    /// Loses everything, as FLUSHALL does.
    pub fn wipe(&self) {
        let mut store = self.store();
        *store = Store { generation: store.generation + 1, ..Store::default() };
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        // A panic while holding the lock is a failed test already; the maps are never left half-changed.
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> UnixMillis {
        (self.clock)()
    }
}

impl Store {
    fn record(&mut self, key: &AgentKey, phase: Option<Phase>, epoch: Epoch, host: Option<HostId>) {
        self.events.push(Event { key: key.clone(), phase, epoch, host });
    }

    fn on(&self, host: &HostId) -> Vec<String> {
        let holds = |r: &AgentRecord| r.phase.holds_room() && r.host.as_ref() == Some(host);
        self.agents.iter().filter(|(_, r)| holds(r)).map(|(m, _)| m.clone()).collect()
    }

    fn raise_epoch(&mut self, highest: Epoch) {
        if highest <= Epoch::MAX {
            self.epoch = self.epoch.max(highest.0);
        }
    }

    fn vacate(&mut self, record: &AgentRecord) {
        let host = record.host.as_ref().and_then(|h| self.hosts.get_mut(h));
        if let Some(host) = host.filter(|h| Some(&h.incarnation) == record.incarnation.as_ref()) {
            host.used.take(&record.demand);
        }
    }

    /// Whether this is another store than the one that `knew` names.
    fn is_lost(&self, knew: Option<&String>) -> bool {
        knew.is_some_and(|knew| !self.born || *knew != self.generation.to_string())
    }

    fn hold(&mut self, hold: Duration, now: UnixMillis) {
        self.held_until.get_or_insert(UnixMillis(now.0 + hold.as_millis() as u64));
    }

    fn is_held(&self, now: UnixMillis) -> bool {
        self.held_until.is_some_and(|until| until > now)
    }

    fn announce(&mut self, r: &Announce, now: UnixMillis) -> Announced {
        self.born = true;
        if self.is_lost(r.knew.as_ref()) {
            self.hold(r.hold, now);
        }
        self.raise_epoch(r.highest_epoch);
        let before = self.hosts.get(&r.host).cloned();
        let cordoned = before.as_ref().is_some_and(|h| h.cordoned && h.incarnation == r.incarnation);
        let (mut used, mut former_until, mut returned) = (Resources::default(), UnixMillis(0), 0);
        if let Some(before) = before {
            (used, former_until) = (before.used, before.former_until);
            if before.incarnation != r.incarnation && Some(&before.incarnation) == r.succeeds.as_ref() {
                if let Some(host) = self.hosts.get_mut(&r.host) {
                    host.incarnation = r.incarnation.clone();
                }
                returned = self.give_back(&r.host, &before.incarnation, &r.incarnation, now);
                used = self.hosts.get(&r.host).map(|h| h.used.clone()).unwrap_or_default();
            } else if before.incarnation != r.incarnation {
                former_until = former_until.max(before.deadline);
                used = Resources::default();
            }
        }
        let host = HostRecord {
            host: r.host.clone(),
            incarnation: r.incarnation.clone(),
            address: r.address.clone(),
            state: if cordoned { HostState::Draining } else { HostState::Ready },
            cordoned,
            capacity: r.capacity.clone(),
            used,
            labels: r.labels.clone(),
            version: r.version.clone(),
            deadline: UnixMillis(now.0 + r.ttl.as_millis() as u64),
            former_until,
        };
        self.hosts.insert(r.host.clone(), host);
        Announced { generation: self.generation.to_string(), returned }
    }

    /// Gives the claims of a life that has ended to the next one.
    fn give_back(&mut self, host: &HostId, old: &Incarnation, new: &Incarnation, now: UnixMillis) -> u32 {
        let mut returned = 0;
        for member in self.on(host) {
            let Some(agent) = self.agents.get(&member).filter(|a| a.incarnation.as_ref() == Some(old)) else {
                continue;
            };
            let agent = agent.clone();
            if agent.phase == Phase::Stopping {
                self.vacate(&AgentRecord { incarnation: Some(new.clone()), ..agent.clone() });
                self.remove(&member, &agent);
            } else {
                self.seat(&member, host, new, now);
                returned += 1;
            }
        }
        returned
    }

    /// A record that exists becomes a claim of a host under a new epoch, which nobody has accepted yet.
    fn seat(&mut self, member: &str, host: &HostId, incarnation: &Incarnation, now: UnixMillis) -> Epoch {
        self.epoch += 1;
        let epoch = Epoch(self.epoch);
        self.unaccepted.insert(member.to_owned(), now);
        if let Some(agent) = self.agents.get_mut(member) {
            agent.phase = Phase::Starting;
            agent.host = Some(host.clone());
            agent.incarnation = Some(incarnation.clone());
            agent.epoch = epoch;
            agent.pid = None;
            agent.reason.clear();
            agent.accepted = None;
            let key = agent.key.clone();
            self.record(&key, Some(Phase::Starting), epoch, Some(host.clone()));
        }
        epoch
    }

    fn wait_for_room(&mut self, member: &str, reason: &str) {
        self.epoch += 1;
        let epoch = Epoch(self.epoch);
        self.unaccepted.remove(member);
        if let Some(agent) = self.agents.get_mut(member) {
            agent.phase = Phase::Pending;
            agent.host = None;
            agent.incarnation = None;
            agent.epoch = epoch;
            agent.pid = None;
            reason.clone_into(&mut agent.reason);
            agent.accepted = None;
            let key = agent.key.clone();
            self.record(&key, Some(Phase::Pending), epoch, None);
        }
    }

    /// A record that holds no room any more goes.
    fn remove(&mut self, member: &str, agent: &AgentRecord) {
        if let Some(taken) = self.machines.get_mut(&agent.key.guild) {
            taken.entry(agent.machine_id).and_modify(|count| *count -= 1);
            taken.retain(|_, count| *count > 0);
        }
        self.agents.remove(member);
        self.unaccepted.remove(member);
        self.record(&agent.key, None, agent.epoch, agent.host.clone());
    }

    /// The first candidate that lives, takes agents and has room.
    fn pick(&self, demand: &Resources, candidates: &[HostId], now: UnixMillis) -> Option<(HostId, Incarnation)> {
        let has_room =
            |h: &&HostRecord| h.deadline > now && h.state == HostState::Ready && h.capacity.fits(&h.used, demand);
        let picked = candidates.iter().filter_map(|id| self.hosts.get(id)).find(has_room);
        picked.map(|h| (h.host.clone(), h.incarnation.clone()))
    }

    fn reserve(&mut self, host: &HostId, demand: &Resources) {
        if let Some(h) = self.hosts.get_mut(host) {
            h.used.add(demand);
        }
    }

    fn pending(&self) -> Vec<&AgentRecord> {
        let mut pending: Vec<_> = self.agents.iter().filter(|(_, r)| r.phase == Phase::Pending).collect();
        pending.sort_by_key(|(member, r)| (r.created, (*member).clone()));
        pending.into_iter().map(|(_, r)| r).collect()
    }

    fn renew(&mut self, r: &Renew, now: UnixMillis) -> Renewal {
        let Some(host) = self.hosts.get_mut(&r.host) else { return Renewal::Unknown };
        if host.incarnation != r.incarnation {
            return Renewal::Superseded;
        }
        host.state = if host.cordoned { HostState::Draining } else { r.state };
        host.deadline = UnixMillis(now.0 + r.ttl.as_millis() as u64);
        self.raise_epoch(r.highest_epoch);
        Renewal::Held { generation: self.generation.to_string() }
    }

    fn depart(&mut self, id: &HostId, incarnation: &Incarnation) {
        let empty = self.on(id).is_empty();
        let Some(host) = self.hosts.get_mut(id).filter(|h| h.incarnation == *incarnation) else { return };
        host.deadline = UnixMillis(0);
        if empty {
            self.hosts.remove(id);
        }
    }

    fn machine_id(&mut self, guild: &GuildId) -> u8 {
        let taken = self.machines.entry(guild.clone()).or_default();
        let count = |id: &u8| taken.get(id).copied().unwrap_or(0);
        let id = (1..=255).min_by_key(count).unwrap_or(1);
        *taken.entry(id).or_default() += 1;
        id
    }

    fn claim(&mut self, r: &Claim, now: UnixMillis) -> ClaimOutcome {
        let member = keys::member(&r.key);
        let old = self.agents.get(&member);
        if let Some(old) = old {
            let same = old.digest == r.digest;
            match old.phase {
                Phase::Stopping => return ClaimOutcome::Stopping,
                Phase::Failed if !(same && old.request_id == r.request_id) => {}
                _ if same => return ClaimOutcome::Exists(Box::new(project(old, View::Basic))),
                phase => return ClaimOutcome::Conflict(phase),
            }
        }
        let kept = old.map(|o| o.machine_id);
        if self.is_lost(r.knew.as_ref()) {
            self.hold(r.hold, now);
        }
        if self.is_held(now) {
            return ClaimOutcome::Held;
        }
        let waits = r.if_full == IfFull::Wait;
        // Who is willing to wait does not overtake those who do.
        let in_line = waits && !self.pending().is_empty();
        let picked = self.pick(&r.demand, &r.candidates, now).filter(|_| !in_line);
        if picked.is_none() && !waits {
            return ClaimOutcome::NoRoom;
        }
        let machine_id = kept.unwrap_or_else(|| self.machine_id(&r.key.guild));
        let record = AgentRecord {
            key: r.key.clone(),
            name: r.name.clone(),
            phase: Phase::Pending,
            host: None,
            incarnation: None,
            epoch: Epoch(0),
            request_id: r.request_id.clone(),
            digest: r.digest.clone(),
            demand: r.demand.clone(),
            machine_id,
            restarts: 0,
            on_disconnect: r.on_disconnect,
            pid: None,
            reason: String::new(),
            last_exit: None,
            created: now,
            accepted: None,
            running: None,
            documents: Some(r.documents.clone()),
        };
        self.agents.insert(member.clone(), record);
        let Some((host, incarnation)) = picked else {
            self.wait_for_room(&member, "no host has room for it; it starts as soon as one has");
            return ClaimOutcome::Waits;
        };
        self.reserve(&host, &r.demand);
        let epoch = self.seat(&member, &host, &incarnation, now);
        ClaimOutcome::Claimed(Claimed { host, incarnation, epoch, machine_id })
    }

    fn place(&mut self, key: &AgentKey, epoch: Epoch, candidates: &[HostId], now: UnixMillis) -> PlaceOutcome {
        let member = keys::member(key);
        let waits = |r: &&AgentRecord| r.phase == Phase::Pending && r.epoch == epoch;
        let Some(record) = self.agents.get(&member).filter(waits) else { return PlaceOutcome::Changed };
        let (demand, machine_id) = (record.demand.clone(), record.machine_id);
        if self.is_held(now) {
            return PlaceOutcome::Held;
        }
        let Some((host, incarnation)) = self.pick(&demand, candidates, now) else { return PlaceOutcome::NoRoom };
        self.reserve(&host, &demand);
        let epoch = self.seat(&member, &host, &incarnation, now);
        PlaceOutcome::Placed(Claimed { host, incarnation, epoch, machine_id })
    }

    fn retire(&mut self, id: &HostId, incarnation: &Incarnation, grace: Duration, now: UnixMillis) -> bool {
        let over = |h: &HostRecord| is_over(h.deadline, grace, now) && h.incarnation == *incarnation;
        let retires = self.hosts.get(id).is_some_and(over) && self.on(id).is_empty();
        if retires {
            self.hosts.remove(id);
        }
        retires
    }

    fn advance(&mut self, r: &Advance, now: UnixMillis) -> AdvanceOutcome {
        if self.is_lost(r.knew.as_ref()) {
            return AdvanceOutcome::StoreLost;
        }
        let Some(agent) = self.agents.get_mut(&keys::member(&r.key)) else { return AdvanceOutcome::Gone };
        if agent.epoch != r.epoch {
            return AdvanceOutcome::Stale(agent.epoch);
        }
        let before = agent.phase;
        if !before.may_become(r.phase) {
            return AdvanceOutcome::Illegal(before);
        }
        agent.phase = r.phase;
        agent.pid = r.pid;
        agent.restarts = r.restarts;
        agent.reason.clone_from(&r.reason);
        agent.accepted = agent.accepted.or(Some(now));
        self.unaccepted.remove(&keys::member(&r.key));
        if r.phase == Phase::Running {
            agent.running = Some(now);
        }
        if let Some(status) = r.exit {
            agent.last_exit = Some(LastExit { status, at: now });
        }
        let agent = agent.clone();
        if r.phase == Phase::Failed && before != Phase::Failed {
            self.vacate(&agent);
        }
        if r.phase != before {
            self.record(&r.key, Some(r.phase), r.epoch, agent.host);
        }
        AdvanceOutcome::Done
    }

    fn restore(&mut self, r: &Restore, now: UnixMillis) -> AdvanceOutcome {
        let a = &r.advance;
        if self.is_lost(a.knew.as_ref()) {
            return AdvanceOutcome::StoreLost;
        }
        self.raise_epoch(a.epoch);
        let member = keys::member(&a.key);
        match self.agents.get(&member).map(|here| here.epoch) {
            Some(epoch) if epoch > a.epoch => return AdvanceOutcome::Stale(epoch),
            Some(epoch) if epoch == a.epoch => return AdvanceOutcome::Done,
            _ => {}
        }
        if self.hosts.get(&r.host).is_none_or(|h| h.incarnation != r.incarnation) {
            return AdvanceOutcome::StoreLost;
        }
        let record = AgentRecord {
            key: a.key.clone(),
            name: r.name.clone(),
            phase: a.phase,
            host: Some(r.host.clone()),
            incarnation: Some(r.incarnation.clone()),
            epoch: a.epoch,
            request_id: r.request_id.clone(),
            digest: r.digest.clone(),
            demand: r.demand.clone(),
            machine_id: r.machine_id,
            restarts: a.restarts,
            on_disconnect: r.on_disconnect,
            pid: a.pid,
            reason: a.reason.clone(),
            last_exit: a.exit.map(|status| LastExit { status, at: now }),
            created: r.created,
            accepted: Some(now),
            running: (a.phase == Phase::Running).then_some(now),
            documents: Some(r.documents.clone()),
        };
        *self.machines.entry(a.key.guild.clone()).or_default().entry(r.machine_id).or_default() += 1;
        if a.phase.holds_room() {
            self.reserve(&r.host, &r.demand);
        }
        self.agents.insert(member, record);
        self.record(&a.key, Some(a.phase), a.epoch, Some(r.host.clone()));
        AdvanceOutcome::Done
    }

    /// Whether the process of an agent has certainly ended: the lease of the life that claimed it is over.
    fn has_expired(&self, agent: &AgentRecord, grace: Duration, now: UnixMillis) -> bool {
        let Some(host) = agent.host.as_ref().and_then(|h| self.hosts.get(h)) else { return false };
        let another_life = Some(&host.incarnation) != agent.incarnation.as_ref();
        let until = if another_life { host.former_until } else { host.deadline };
        let ends = agent.on_disconnect == OnDisconnect::Stop || another_life;
        agent.phase.holds_room() && ends && is_over(until, grace, now)
    }

    fn take_off(
        &mut self,
        key: &AgentKey,
        epoch: Epoch,
        guard: ReleaseGuard,
        pending: Option<&str>,
        now: UnixMillis,
    ) -> ReleaseOutcome {
        let member = keys::member(key);
        let Some(agent) = self.agents.get(&member).cloned() else { return ReleaseOutcome::Gone };
        if agent.epoch != epoch {
            return ReleaseOutcome::Stale(agent.epoch);
        }
        let holds_room = agent.phase.holds_room();
        let holds = match guard {
            ReleaseGuard::Reaped => true,
            ReleaseGuard::Unaccepted => agent.accepted.is_none() && holds_room,
            ReleaseGuard::Unhosted => !holds_room,
            ReleaseGuard::Expired(grace) => self.has_expired(&agent, grace, now),
        };
        if !holds || (pending.is_some() && !holds_room) {
            return ReleaseOutcome::Guarded(agent.phase);
        }
        if holds_room {
            self.vacate(&agent);
        }
        match pending {
            Some(reason) if agent.phase != Phase::Stopping => self.wait_for_room(&member, reason),
            _ => self.remove(&member, &agent),
        }
        ReleaseOutcome::Released
    }

    fn list(&self, index: &Index, after: Option<&AgentKey>, limit: usize, view: View) -> Page {
        let after = after.map(keys::member);
        let wanted = |r: &AgentRecord| match index {
            Index::All => true,
            Index::Guild(guild) => r.key.guild == *guild,
            Index::Host(host) => r.phase.holds_room() && r.host.as_ref() == Some(host),
        };
        let later = self.agents.iter().filter(|(m, r)| after.as_ref().is_none_or(|a| *m > a) && wanted(r));
        let agents: Vec<_> = later.take(limit).map(|(_, r)| project(r, view)).collect();
        let next = agents.last().map(|r| r.key.clone()).filter(|_| agents.len() == limit);
        Page { agents, next }
    }
}

/// Whether `at` was at least `ago` before `now`.
fn is_over(at: UnixMillis, ago: Duration, now: UnixMillis) -> bool {
    u128::from(at.0) + ago.as_millis() <= u128::from(now.0)
}

/// A record as far as `view` reads it.
fn project(record: &AgentRecord, view: View) -> AgentRecord {
    let documents = record.documents.as_ref().filter(|_| view != View::Basic).map(|d| Documents {
        spec: d.spec.clone(),
        launch: if view == View::Full { d.launch.clone() } else { Default::default() },
    });
    AgentRecord { documents, ..record.clone() }
}

#[async_trait]
impl Registry for MemoryRegistry {
    async fn ping(&self) -> Result<(), RegistryError> {
        Ok(())
    }

    async fn announce(&self, request: &Announce) -> Result<Announced, RegistryError> {
        Ok(self.store().announce(request, self.now()))
    }

    async fn renew(&self, request: &Renew) -> Result<Renewal, RegistryError> {
        Ok(self.store().renew(request, self.now()))
    }

    async fn depart(&self, host: &HostId, incarnation: &Incarnation) -> Result<(), RegistryError> {
        self.store().depart(host, incarnation);
        Ok(())
    }

    async fn claim(&self, request: &Claim) -> Result<ClaimOutcome, RegistryError> {
        Ok(self.store().claim(request, self.now()))
    }

    async fn advance(&self, request: &Advance) -> Result<AdvanceOutcome, RegistryError> {
        Ok(self.store().advance(request, self.now()))
    }

    async fn release(
        &self,
        key: &AgentKey,
        epoch: Epoch,
        guard: ReleaseGuard,
    ) -> Result<ReleaseOutcome, RegistryError> {
        Ok(self.store().take_off(key, epoch, guard, None, self.now()))
    }

    async fn restore(&self, request: &Restore) -> Result<AdvanceOutcome, RegistryError> {
        Ok(self.store().restore(request, self.now()))
    }

    async fn unplace(
        &self,
        key: &AgentKey,
        epoch: Epoch,
        guard: ReleaseGuard,
        reason: &str,
    ) -> Result<ReleaseOutcome, RegistryError> {
        Ok(self.store().take_off(key, epoch, guard, Some(reason), self.now()))
    }

    async fn place(
        &self,
        key: &AgentKey,
        epoch: Epoch,
        candidates: &[HostId],
    ) -> Result<PlaceOutcome, RegistryError> {
        Ok(self.store().place(key, epoch, candidates, self.now()))
    }

    async fn cordon(&self, host: &HostId, cordon: Cordon) -> Result<bool, RegistryError> {
        let mut store = self.store();
        let Some(host) = store.hosts.get_mut(host) else { return Ok(false) };
        host.cordoned = cordon == Cordon::On;
        host.state = if host.cordoned { HostState::Draining } else { HostState::Ready };
        Ok(true)
    }

    async fn retire(&self, host: &HostId, incarnation: &Incarnation, grace: Duration) -> Result<bool, RegistryError> {
        Ok(self.store().retire(host, incarnation, grace, self.now()))
    }

    async fn oldest(
        &self,
        queue: Queue,
        skip: usize,
        limit: usize,
        view: View,
    ) -> Result<Vec<AgentRecord>, RegistryError> {
        let (store, now) = (self.store(), self.now());
        let found: Vec<&AgentRecord> = match queue {
            Queue::Pending => store.pending(),
            Queue::Unaccepted(age) => {
                let mut old: Vec<_> = store
                    .unaccepted
                    .iter()
                    .filter(|(_, at)| is_over(**at, age, now))
                    .map(|(m, at)| (*at, m))
                    .collect();
                old.sort();
                old.into_iter().filter_map(|(_, member)| store.agents.get(member)).collect()
            }
        };
        Ok(found.into_iter().skip(skip).take(limit).map(|r| project(r, view)).collect())
    }

    async fn get(&self, key: &AgentKey, view: View) -> Result<Option<AgentRecord>, RegistryError> {
        Ok(self.store().agents.get(&keys::member(key)).map(|r| project(r, view)))
    }

    async fn list(
        &self,
        index: &Index,
        after: Option<&AgentKey>,
        limit: usize,
        view: View,
    ) -> Result<Page, RegistryError> {
        Ok(self.store().list(index, after, limit, view))
    }

    async fn hosts(&self) -> Result<HostsView, RegistryError> {
        let store = self.store();
        let generation = store.born.then(|| store.generation.to_string());
        Ok(HostsView { now: self.now(), generation, hosts: store.hosts.values().cloned().collect() })
    }

    async fn events(&self, after: &EventId, limit: usize) -> Result<(Vec<Event>, EventId), RegistryError> {
        let store = self.store();
        let seen = after.0.parse().unwrap_or(0);
        let events: Vec<_> = store.events.iter().skip(seen).take(limit).cloned().collect();
        let last = EventId((seen + events.len()).to_string());
        Ok((events, last))
    }
}
