//! The deterministic twin of the store: the same operations on plain maps, with a clock of the caller's.
//!
//! For simulation and for tests. It keeps to the scripts under `lua/` word for word; the conformance suite applies
//! the same operations to both and compares what they answer and what they hold.

use crate::{
    error::RegistryError,
    ids::{AgentKey, Epoch, GuildId, HostId, Incarnation, UnixMillis},
    keys,
    ops::{
        Advance, AdvanceOutcome, Announce, Announced, Claim, ClaimOutcome, Claimed, Event, EventId, HostsView, Index,
        Page, Registry, ReleaseGuard, ReleaseOutcome, Renew, Renewal,
    },
    record::{AgentRecord, Documents, HostRecord, HostState, LastExit, OnDisconnect, Phase, View},
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
    epoch: u64,
    hosts: BTreeMap<HostId, HostRecord>,
    /// By encoded member, which is the order of the lists.
    agents: BTreeMap<String, AgentRecord>,
    machines: BTreeMap<GuildId, BTreeMap<u8, u32>>,
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

    fn announce(&mut self, r: &Announce, now: UnixMillis) -> Announced {
        self.raise_epoch(r.highest_epoch);
        let same_life = self.hosts.get(&r.host).filter(|h| h.incarnation == r.incarnation);
        let used = same_life.map(|h| h.used.clone());
        let mut voided = 0;
        if used.is_none() {
            for member in self.on(&r.host) {
                let Some(agent) = self.agents.get_mut(&member) else { continue };
                agent.phase = Phase::Failed;
                agent.pid = None;
                agent.reason = "its host restarted and lost its processes; create the agent again".to_owned();
                let (key, epoch) = (agent.key.clone(), agent.epoch);
                self.record(&key, Some(Phase::Failed), epoch, Some(r.host.clone()));
                voided += 1;
            }
        }
        let host = HostRecord {
            host: r.host.clone(),
            incarnation: r.incarnation.clone(),
            address: r.address.clone(),
            state: HostState::Ready,
            capacity: r.capacity.clone(),
            used: used.unwrap_or_default(),
            labels: r.labels.clone(),
            version: r.version.clone(),
            deadline: UnixMillis(now.0 + r.ttl.as_millis() as u64),
        };
        self.hosts.insert(r.host.clone(), host);
        Announced { generation: self.generation.to_string(), voided }
    }

    fn renew(&mut self, r: &Renew, now: UnixMillis) -> Renewal {
        let Some(host) = self.hosts.get_mut(&r.host) else { return Renewal::Unknown };
        if host.incarnation != r.incarnation {
            return Renewal::Superseded;
        }
        host.state = r.state;
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
        let has_room =
            |h: &&HostRecord| h.deadline > now && h.state == HostState::Ready && h.capacity.fits(&h.used, &r.demand);
        let picked = r.candidates.iter().filter_map(|id| self.hosts.get(id)).find(has_room);
        let Some((host, incarnation)) = picked.map(|h| (h.host.clone(), h.incarnation.clone())) else {
            return ClaimOutcome::NoRoom;
        };
        let machine_id = kept.unwrap_or_else(|| self.machine_id(&r.key.guild));
        self.epoch += 1;
        let epoch = Epoch(self.epoch);
        if let Some(h) = self.hosts.get_mut(&host) {
            h.used.add(&r.demand);
        }
        let record = AgentRecord {
            key: r.key.clone(),
            name: r.name.clone(),
            phase: Phase::Starting,
            host: Some(host.clone()),
            incarnation: Some(incarnation.clone()),
            epoch,
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
        self.agents.insert(member, record);
        self.record(&r.key, Some(Phase::Starting), epoch, Some(host.clone()));
        ClaimOutcome::Claimed(Claimed { host, incarnation, epoch, machine_id })
    }

    fn advance(&mut self, r: &Advance, now: UnixMillis) -> AdvanceOutcome {
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

    /// Whether the process of an agent has certainly ended with its host's lease.
    fn has_expired(&self, agent: &AgentRecord, grace: Duration, now: UnixMillis) -> bool {
        let host = agent.host.as_ref().and_then(|h| self.hosts.get(h));
        let ended = host.is_some_and(|h| {
            let over = u128::from(h.deadline.0) + grace.as_millis() <= u128::from(now.0);
            Some(&h.incarnation) != agent.incarnation.as_ref() || over
        });
        agent.phase.holds_room() && agent.on_disconnect == OnDisconnect::Stop && ended
    }

    fn release(&mut self, key: &AgentKey, epoch: Epoch, guard: ReleaseGuard, now: UnixMillis) -> ReleaseOutcome {
        let member = keys::member(key);
        let Some(agent) = self.agents.get(&member) else { return ReleaseOutcome::Gone };
        if agent.epoch != epoch {
            return ReleaseOutcome::Stale(agent.epoch);
        }
        let holds = match guard {
            ReleaseGuard::Reaped => true,
            ReleaseGuard::Unaccepted => agent.accepted.is_none(),
            ReleaseGuard::Unhosted => !agent.phase.holds_room(),
            ReleaseGuard::Expired(grace) => self.has_expired(agent, grace, now),
        };
        if !holds {
            return ReleaseOutcome::Guarded(agent.phase);
        }
        let Some(agent) = self.agents.remove(&member) else { return ReleaseOutcome::Gone };
        if agent.phase.holds_room() {
            self.vacate(&agent);
        }
        if let Some(taken) = self.machines.get_mut(&key.guild) {
            taken.entry(agent.machine_id).and_modify(|count| *count -= 1);
            taken.retain(|_, count| *count > 0);
        }
        self.record(key, None, epoch, agent.host);
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
        Ok(self.store().release(key, epoch, guard, self.now()))
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
        Ok(HostsView { now: self.now(), hosts: self.store().hosts.values().cloned().collect() })
    }

    async fn events(&self, after: &EventId, limit: usize) -> Result<(Vec<Event>, EventId), RegistryError> {
        let store = self.store();
        let seen = after.0.parse().unwrap_or(0);
        let events: Vec<_> = store.events.iter().skip(seen).take(limit).cloned().collect();
        let last = EventId((seen + events.len()).to_string());
        Ok((events, last))
    }
}
