//! What happens to agents: claims, changes of phase, and ends.

use super::{Place, Store, project};
use crate::{
    condition::{AgentReason, Condition},
    encoded,
    ids::{AgentKey, Epoch, GuildKey, MachineId, OrganizationId, Stops, UnixMillis},
    ops::{
        Advance, AdvanceOutcome, AssignOutcome, Claim, ClaimOutcome, Claimed, IfFull, IfNamesakes, ReleaseGuard,
        ReleaseOutcome, Remember, Remembered, Restore, StoreLost,
    },
    placement::Candidates,
    record::{AgentRecord, Assignment, FirstStart, LastExit, OnDisconnect, Phase, State, View},
};

impl Store {
    /// See [`Claim`].
    pub fn claim(&mut self, r: &Claim, now: UnixMillis) -> ClaimOutcome {
        if self.is_lost(r.store_life.as_ref()) || self.is_held() || !self.born {
            return ClaimOutcome::Held;
        }
        let member = encoded::member(&r.key);
        let old = self.agents.get(&member);
        if let Some(old) = old {
            let same = old.digest == r.digest;
            match old.phase() {
                Phase::Stopping => return ClaimOutcome::Stopping,
                Phase::Failed if !(same && old.request_id == r.request_id) => {}
                _ if same => return ClaimOutcome::Exists(Box::new(project(old, View::Basic))),
                phase => return ClaimOutcome::Conflict(phase),
            }
        }
        let kept = old.map(|o| o.machine_id);
        if self.was_stopped_since(&member, r.asked) {
            return ClaimOutcome::Late(Stops(self.stops));
        }
        let namesakes = self.namesakes(&r.key.guild);
        if r.if_namesakes == IfNamesakes::Report && !namesakes.is_empty() {
            return ClaimOutcome::Namesakes(namesakes);
        }
        let waits = r.if_full == IfFull::Wait;
        let picked = self.pick(&r.demand, &r.candidates, Some(u64::MAX));
        if picked.is_none() && !waits {
            return ClaimOutcome::NoRoom;
        }
        let Some(machine_id) = kept.or_else(|| self.free_machine_id(&r.key.guild)) else {
            return ClaimOutcome::NoMachineId;
        };
        if kept.is_none() {
            self.take_machine_id(&r.key.guild, machine_id);
        }
        let record = AgentRecord {
            key: r.key.clone(),
            name: r.name.clone(),
            state: State::Pending,
            epoch: Epoch(0),
            request_id: r.request_id.clone(),
            digest: r.digest.clone(),
            demand: r.demand.clone(),
            machine_id,
            restarts: 0,
            on_disconnect: r.on_disconnect,
            condition: None,
            last_lines: vec![],
            last_exit: None,
            created: now,
            running: None,
            first_start: r.first_start,
            documents: Some(r.documents.clone()),
        };
        self.lines.forget_order(&member);
        self.agents.insert(member.clone(), record);
        let Some(place) = picked else {
            let full =
                || Condition::new(AgentReason::NoRoom, "no host has room for it; it starts as soon as one has");
            self.wait_for_room(&member, &r.waits.clone().unwrap_or_else(full), now);
            return ClaimOutcome::Waits;
        };
        let claimed = self.take(&member, place, machine_id, now);
        self.lines.set_order(&member, claimed.epoch);
        ClaimOutcome::Claimed(claimed)
    }

    /// Organizations that have agents in a guild with the same id, in order of their encoded text.
    fn namesakes(&self, guild: &GuildKey) -> Vec<OrganizationId> {
        let guilds = self.agents.values().map(|agent| &agent.key.guild);
        let others = guilds.filter(|other| other.id == guild.id && other.organization != guild.organization);
        let mut found: Vec<_> = others.map(|other| other.organization.clone()).collect();
        found.dedup();
        found
    }

    /// Claims a host for an agent that is PENDING under `epoch`.
    pub fn assign(
        &mut self,
        key: &AgentKey,
        epoch: Epoch,
        candidates: &Candidates,
        now: UnixMillis,
    ) -> AssignOutcome {
        let member = encoded::member(key);
        let waits = |r: &&AgentRecord| r.phase() == Phase::Pending && r.epoch == epoch;
        let Some(record) = self.agents.get(&member).filter(waits) else { return AssignOutcome::Changed };
        let (demand, machine_id) = (record.demand.clone(), record.machine_id);
        // Who ran before takes no room from anybody who did not have it before.
        let order = self.lines.order(&member).filter(|_| record.running.is_none());
        if self.is_held() {
            return AssignOutcome::Held;
        }
        match self.pick(&demand, candidates, order) {
            Some(place) => AssignOutcome::Assigned(self.take(&member, place, machine_id, now)),
            None => AssignOutcome::NoRoom,
        }
    }

    /// A record takes a place that was found for it.
    fn take(&mut self, member: &str, place: Place, machine_id: MachineId, now: UnixMillis) -> Claimed {
        let Place { host, incarnation, takes } = place.clone();
        self.reserve(&host, &takes);
        Claimed { host, incarnation, takes, machine_id, epoch: self.assign_to(member, place, now) }
    }

    /// See [`Advance`].
    pub fn advance(&mut self, r: &Advance, now: UnixMillis) -> AdvanceOutcome {
        if self.is_lost(r.store_life.as_ref()) {
            return AdvanceOutcome::StoreLost;
        }
        let Some(agent) = self.agents.get(&encoded::member(&r.key)) else { return AdvanceOutcome::Gone };
        if agent.epoch != r.epoch {
            return AdvanceOutcome::Stale(agent.epoch);
        }
        // A claim that nobody has accepted may have been taken back in writes that were lost.
        if agent.accepted().is_none() && self.is_held() {
            return AdvanceOutcome::StoreLost;
        }
        if agent.phase().holds_room() && !self.is_claimed_by_the_living(agent) {
            return AdvanceOutcome::Retired;
        }
        let Some(agent) = self.agents.get_mut(&encoded::member(&r.key)) else { return AdvanceOutcome::Gone };
        if r.sequence < self.sequences.get(&encoded::member(&r.key)).copied().unwrap_or(0) {
            return AdvanceOutcome::Done;
        }
        let before = agent.phase();
        if !before.may_become(r.phase) {
            return AdvanceOutcome::Illegal(before);
        }
        let assignment = agent.state.last_assignment().map(|assignment| Assignment {
            accepted: assignment.accepted.or(Some(now)),
            pid: r.pid,
            ..assignment.clone()
        });
        let Some(state) = State::of(r.phase, assignment) else { return AdvanceOutcome::Illegal(before) };
        agent.state = state;
        agent.restarts = r.restarts;
        agent.condition.clone_from(&r.condition);
        agent.last_lines.clone_from(&r.last_lines);
        self.unaccepted.remove(&encoded::member(&r.key));
        self.sequences.insert(encoded::member(&r.key), r.sequence);
        if r.phase == Phase::Running && before != Phase::Running {
            agent.running = Some(now);
        }
        if let Some(status) = r.exit {
            agent.last_exit = Some(LastExit { status, at: now });
        }
        let agent = agent.clone();
        if r.phase == Phase::Failed && before != Phase::Failed {
            self.free_room(&agent);
        }
        if r.phase != before {
            self.record(&r.key, Some(r.phase), r.epoch, agent.host().cloned());
        }
        AdvanceOutcome::Done
    }

    /// See [`Restore`].
    pub fn restore(&mut self, r: &Restore, now: UnixMillis) -> AdvanceOutcome {
        let a = &r.advance;
        if self.is_lost(a.store_life.as_ref()) {
            return AdvanceOutcome::StoreLost;
        }
        self.raise_epoch(a.epoch, now);
        let member = encoded::member(&a.key);
        let old = self.agents.get(&member).cloned();
        if let Some(old) = old.as_ref().filter(|old| old.epoch > a.epoch) {
            return AdvanceOutcome::Stale(old.epoch);
        }
        let another = |old: &&AgentRecord| old.epoch == a.epoch && old.incarnation() != Some(&r.incarnation);
        if let Some(old) = old.as_ref().filter(another) {
            return AdvanceOutcome::Stale(old.epoch);
        }
        // Once the store has settled, what it has of an agent was decided without this host.
        let others = |old: &&AgentRecord| !self.is_held() && old.incarnation() != Some(&r.incarnation);
        if let Some(old) = old.as_ref().filter(others) {
            return AdvanceOutcome::Stale(old.epoch);
        }
        let ends = r.on_disconnect == OnDisconnect::Stop;
        let forgotten =
            self.is_wiped(r.former_store_life.as_ref()) || self.known_epoch.is_some_and(|known| a.epoch > known);
        if old.is_none() && !self.is_held() && !forgotten && ends {
            return AdvanceOutcome::Gone;
        }
        if old.is_none() && self.was_stopped(&member, a.epoch) {
            return AdvanceOutcome::Gone;
        }
        let known = self.sequences.get(&member).copied().unwrap_or(0);
        if old.as_ref().is_some_and(|old| old.epoch == a.epoch) && a.sequence < known {
            return AdvanceOutcome::Done;
        }
        if self.hosts.get(&r.host).is_none_or(|h| h.incarnation != r.incarnation) {
            return AdvanceOutcome::StoreLost;
        }
        if let Some(old) = &old {
            self.displace(&member, old);
        }
        let assignment = Assignment {
            accepted: Some(now),
            pid: a.pid,
            ..Assignment::claimed(r.host.clone(), r.incarnation.clone(), r.takes.clone())
        };
        let record = AgentRecord {
            key: a.key.clone(),
            name: r.name.clone(),
            state: State::of(a.phase, Some(assignment)).unwrap_or(State::Pending),
            epoch: a.epoch,
            request_id: r.request_id.clone(),
            digest: r.digest.clone(),
            demand: r.demand.clone(),
            machine_id: r.machine_id,
            restarts: a.restarts,
            on_disconnect: r.on_disconnect,
            condition: a.condition.clone(),
            last_lines: a.last_lines.clone(),
            last_exit: match a.exit {
                Some(status) => Some(LastExit { status, at: now }),
                None => old.as_ref().and_then(|old| old.last_exit),
            },
            created: r.created,
            running: match a.phase {
                Phase::Running => Some(now),
                _ => old.as_ref().and_then(|old| old.running),
            },
            first_start: old.as_ref().map_or(FirstStart::FollowsPolicy, |old| old.first_start),
            documents: Some(r.documents.clone()),
        };
        self.take_machine_id(&a.key.guild, r.machine_id);
        if a.phase.holds_room() {
            self.reserve(&r.host, &r.takes);
        }
        self.sequences.insert(member.clone(), a.sequence);
        self.agents.insert(member, record);
        if old.is_none_or(|old| (old.epoch, old.phase()) != (a.epoch, a.phase)) {
            self.record(&a.key, Some(a.phase), a.epoch, Some(r.host.clone()));
        }
        AdvanceOutcome::Done
    }

    /// Gives back the room and the machine id of a record that is older than the one that takes its place.
    fn displace(&mut self, member: &str, old: &AgentRecord) {
        if old.phase().holds_room() {
            self.free_room(old);
        }
        self.free_machine(old);
        self.leave_line(old);
        self.unaccepted.remove(member);
    }

    /// See [`Remember`].
    pub fn remember(&mut self, r: &Remember, now: UnixMillis) -> Remembered {
        let (record, former_store_life) = (&r.record, Some(&r.former_store_life));
        // Once hosts have reported, an agent that is not there was stopped or moved; before, none was.
        let forgotten =
            self.is_wiped(former_store_life) || self.known_epoch.is_some_and(|known| record.epoch > known);
        let member = encoded::member(&record.key);
        let old = self.agents.get(&member).cloned();
        // An older claim that no host has accepted gives way at any time: now none ever will.
        let may_go = old.as_ref().is_some_and(|old| old.accepted().is_none());
        let in_time = self.is_lost(former_store_life) && forgotten && (self.is_held() || may_go);
        if !in_time || self.was_stopped(&member, record.epoch) {
            return Remembered::Void;
        }
        if old.as_ref().is_some_and(|old| old.epoch >= record.epoch) {
            return Remembered::Void;
        }
        self.raise_epoch(record.epoch, now);
        if let Some(old) = &old {
            self.displace(&member, old);
        }
        self.take_machine_id(&record.key.guild, record.machine_id);
        self.sequences.remove(&member);
        let state = State::of(record.phase(), None).unwrap_or(State::Pending);
        let record = AgentRecord { state, ..record.clone() };
        self.lines.set_order(&member, record.epoch);
        if record.phase() == Phase::Pending {
            self.join_line(&record, record.epoch.0);
        }
        let (key, phase, epoch) = (record.key.clone(), record.phase(), record.epoch);
        self.agents.insert(member, record);
        self.record(&key, Some(phase), epoch, None);
        Remembered::Done
    }

    /// Whether the process of a host that claimed an agent may still run it.
    fn is_claimed_by_the_living(&self, agent: &AgentRecord) -> bool {
        agent.assignment().is_some_and(|assignment| self.is_live(&assignment.host, &assignment.incarnation))
    }

    /// Whether the process of an agent has certainly ended, as the host's process that claimed it is over.
    fn has_ended(&self, agent: &AgentRecord) -> bool {
        // One that outlives its lease has ended when another process has its host's name.
        let ends = agent.on_disconnect == OnDisconnect::Stop
            || agent.host().is_some_and(|host| self.hosts.contains_key(host));
        agent.phase().holds_room() && ends && !self.is_claimed_by_the_living(agent)
    }

    /// Takes an agent off its host: it is gone, or pending on a condition.
    pub fn take_off(
        &mut self,
        key: &AgentKey,
        epoch: Epoch,
        guard: ReleaseGuard,
        pending: Option<&Condition>,
        now: UnixMillis,
    ) -> Result<ReleaseOutcome, StoreLost> {
        // While hosts still report, only the agent's host knows how it is.
        if guard != ReleaseGuard::Reaped && self.is_held() {
            return Err(StoreLost);
        }
        let member = encoded::member(key);
        let Some(agent) = self.agents.get(&member).cloned() else { return Ok(ReleaseOutcome::Gone) };
        // A host has had the agent since, in writes that were lost: what is known of it is over as well.
        let forgotten = guard == ReleaseGuard::Reaped && epoch > agent.epoch;
        if agent.epoch != epoch && !forgotten {
            return Ok(ReleaseOutcome::Stale(agent.epoch));
        }
        if forgotten {
            self.raise_epoch(epoch, now);
        }
        let holds_room = agent.phase().holds_room();
        let holds = match guard {
            ReleaseGuard::Reaped | ReleaseGuard::Vouched => true,
            ReleaseGuard::Failed => agent.phase() == Phase::Failed,
            ReleaseGuard::Unaccepted => agent.accepted().is_none() && holds_room,
            ReleaseGuard::Unassigned => !holds_room,
            ReleaseGuard::Retired => holds_room && !self.is_claimed_by_the_living(&agent),
            ReleaseGuard::Ended => self.has_ended(&agent),
        };
        let may_wait = holds_room || forgotten || guard == ReleaseGuard::Failed;
        if !holds || (pending.is_some() && !may_wait) {
            return Ok(ReleaseOutcome::Guarded(agent.phase()));
        }
        if holds_room {
            self.free_room(&agent);
        }
        match pending {
            Some(condition) if agent.phase() != Phase::Stopping => {
                if let Some(agent) = self.agents.get_mut(&member).filter(|_| guard == ReleaseGuard::Failed) {
                    agent.restarts = 0;
                    agent.last_lines.clear();
                }
                self.wait_for_room(&member, condition, now);
            }
            _ => self.remove(&member, &agent, epoch),
        }
        Ok(ReleaseOutcome::Released)
    }
}
