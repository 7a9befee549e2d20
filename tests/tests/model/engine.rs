//! What engines do: they watch hosts, retire those that are silent, and see to the agent.

use super::{
    protocol::{Mutation, Protocol, Step, Stop},
    state::{Call, Claim, Engine, Former, Here, Record, SLOTS, Seen, State, Wish},
};

impl Protocol {
    pub(super) fn possible_of_engine(&self, s: &State, engine: usize, steps: &mut Vec<Step>) {
        let e = &s.engines[engine];
        let here = e.store_life == Some(s.store.life);
        if e.store_life.is_none() || here || self.mutation == Mutation::CarriesOver {
            steps.push(Step::Look(engine));
        } else {
            steps.push(Step::Bring(engine));
        }
        for process in (0..SLOTS).filter(|p| here && self.is_silent(s, engine, *p)) {
            steps.push(Step::Retire { engine, process });
        }
        if here && self.may_settle(s, e.watched >= self.silence()) {
            steps.push(Step::Settle(engine));
        }
        if self.mutation == Mutation::NotAtomic
            && let Record::Claimed { process, .. } = s.store.record
            && self.is_silent(s, engine, process)
            && s.store.epoch < self.world.epochs
        {
            steps.push(Step::TakeOver(process));
        }
        if s.crashes < self.world.crashes && *e != Engine::NEW {
            steps.push(Step::EngineDies(engine));
        }
        let wanted = s.wish == Wish::Runs && s.claim.is_none() && s.store.record == Record::Nothing;
        if wanted && here && s.store.epoch < self.world.epochs {
            steps.push(Step::Create { engine });
        }
    }

    /// Whether an engine takes a process for silent.
    fn is_silent(&self, s: &State, engine: usize, process: usize) -> bool {
        let seen = s.engines[engine].seen[process];
        match self.mutation {
            Mutation::NoObservation => seen.is_some(),
            Mutation::WallClock => s.store.is_live(process),
            _ => seen.is_some_and(|seen| seen.age >= self.silence()),
        }
    }

    pub(super) fn possible_of_any_engine(&self, s: &State, steps: &mut Vec<Step>) {
        if self.is_held(s) {
            return;
        }
        let may_count = s.store.epoch < self.world.epochs;
        match s.store.record {
            Record::Nothing => {}
            Record::Pending { .. } if may_count && s.calls.len() < self.world.calls => {
                steps.extend((0..self.names()).filter(|name| s.store.hosts[*name].is_some()).map(Step::Assign));
            }
            Record::Pending { .. } => {}
            Record::Claimed { process, accepted, .. } => {
                if may_count && self.has_ended(s, process) {
                    steps.push(Step::TakeOver(process));
                }
                if may_count && !accepted {
                    steps.push(Step::Unassign);
                }
                if !accepted && s.calls.len() < self.world.calls && self.mutation != Mutation::NoSecondCall {
                    steps.push(Step::CallAgain);
                }
            }
        }
    }

    /// The guard `ended`.
    fn has_ended(&self, s: &State, process: usize) -> bool {
        let manned = s.store.hosts[self.world.names[process]].is_some();
        !s.store.is_live(process) && (!self.world.keep || manned)
    }

    pub(super) fn possible_of_users(&self, s: &State, steps: &mut Vec<Step>) {
        if s.claim.is_some() {
            steps.push(Step::ClaimLost);
            let hosts = (0..self.names()).filter(|name| s.store.hosts[*name].is_some());
            steps.extend(hosts.filter(|_| s.calls.len() < self.world.calls).map(Step::ClaimArrives));
        }
        if self.world.stops && s.wish == Wish::Runs {
            steps.push(Step::WantStop);
        }
        if s.wish == Wish::Stops {
            for engine in (0..self.world.engines).filter(|e| s.engines[*e].store_life == Some(s.store.life)) {
                self.possible_stops(s, engine, steps);
            }
        }
    }

    fn possible_stops(&self, s: &State, engine: usize, steps: &mut Vec<Step>) {
        let mut stop = |how| steps.push(Step::Stop { engine, how });
        let held = self.is_held(s);
        match s.store.record {
            Record::Claimed { epoch, process, accepted, .. } => {
                let p = &s.processes[process];
                if p.is_up() && p.here.epoch() == Some(epoch) {
                    stop(Stop::Reaped(process));
                }
                if !accepted && !held {
                    stop(Stop::Unaccepted);
                }
                if self.has_ended(s, process) && !held {
                    stop(Stop::Ended);
                }
            }
            Record::Pending { .. } if !held => stop(Stop::Unassigned),
            Record::Nothing if !held => stop(Stop::Unknown),
            Record::Pending { .. } | Record::Nothing => {}
        }
    }

    pub(super) fn take_of_engine(&self, s: &mut State, step: Step) {
        match step {
            Step::Look(engine) => self.look(s, engine),
            Step::Bring(engine) => {
                self.bring(s, engine);
                let e = s.engines[engine];
                s.engines[engine] = Engine { highest_epoch: e.highest_epoch, stopped: e.stopped, ..Engine::NEW };
                self.look(s, engine);
            }
            Step::Retire { engine, process } => {
                let seen = s.engines[engine].seen[process].map_or((0, 0), |seen| seen.renewal);
                self.retire(s, process, seen);
            }
            Step::Settle(_) => self.settle(s),
            Step::TakeOver(process) => {
                s.taken_while_alive |= self.world.keep && s.processes[process].is_up();
                self.unassign(s);
            }
            Step::Assign(name) => self.assign(s, name),
            Step::CallAgain => {
                if let Record::Claimed { epoch, process, .. } = s.store.record {
                    let store = s.store.life;
                    s.send(Call { process, epoch, store });
                }
            }
            Step::Unassign => self.unassign(s),
            Step::EngineDies(engine) => {
                s.crashes += 1;
                s.engines[engine] = Engine::NEW;
            }
            Step::Create { engine } => {
                let e = &s.engines[engine];
                s.claim = e.store_life.map(|store_life| Claim { store_life, asked: e.stops });
            }
            Step::ClaimArrives(name) => {
                if let Some(claim) = s.claim.take() {
                    self.claim(s, claim, name);
                }
            }
            Step::ClaimLost => s.claim = None,
            Step::WantStop => s.wish = Wish::Stops,
            Step::Stop { engine, how } => self.stop(s, engine, how),
            _ => {}
        }
    }

    /// An engine reads all hosts, and what happened.
    fn look(&self, s: &mut State, engine: usize) {
        let store = &s.store;
        let e = &mut s.engines[engine];
        if e.store_life.is_none() {
            (e.store_life, e.watched) = (Some(store.life), 0);
        }
        if self.mutation == Mutation::CarriesOver {
            e.store_life = Some(store.life);
        }
        if self.world.may_lose() {
            e.highest_epoch = e.highest_epoch.max(store.epoch);
        }
        e.stops = store.stops;
        e.stopped = e.stopped.max(store.stopped.map(|(_, epoch)| epoch));
        for process in 0..SLOTS {
            let entry = store.hosts.iter().flatten().find(|entry| entry.process == process);
            let silent = matches!(store.former[process], Some(Former::Silent | Former::Awaited));
            let renewal = entry.map(|entry| (entry.life, entry.renewals)).or(silent.then_some((0, 0)));
            e.seen[process] = renewal.map(|renewal| match e.seen[process] {
                Some(seen) if seen.renewal == renewal => seen,
                Some(_) | None => Seen { renewal, age: 0 },
            });
        }
    }

    fn stop(&self, s: &mut State, engine: usize, how: Stop) {
        if let Stop::Reaped(process) = how {
            s.processes[process].here = Here::No;
        }
        let epoch = s.store.record.epoch();
        match how {
            Stop::Unknown => self.bury(s),
            Stop::Reaped(_) | Stop::Unaccepted | Stop::Unassigned | Stop::Ended => self.remove(s),
        }
        // If a store that lost something answers that it does not know the agent, that does not say that the agent was stopped.
        let vague = how == Stop::Unknown && (s.store.life.wipes > 0 || s.store.life.runs > 0);
        s.wish = if vague { Wish::Forgotten } else { Wish::Stopped };
        s.engines[engine].stopped = Some(epoch);
    }
}
