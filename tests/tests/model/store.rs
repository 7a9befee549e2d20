//! The scripts of the store (`registry/src/lua`), as far as the promises rest on them. No script reads a clock but the one that
//! begins to count epochs, which takes it for a guess.

use super::{
    protocol::{Mutation, Protocol},
    state::{Answer, Call, Claim, Entry, Former, Question, Record, SLOTS, Settling, State, Store, StoreLife},
};

impl Store {
    /// `announce` or `renew`, of a process whose name is `name`.
    fn ask(&mut self, process: usize, name: usize, question: Question, before: Option<usize>) -> Answer {
        match question {
            Question::Announce { store_life, reported, succeeds } => {
                let ended = before.filter(|_| succeeds);
                let reporting = self.settling.is_some() && store_life.is_some() && reported != Some(self.life);
                if reporting && store_life != Some(self.life) {
                    self.settling = Some(Settling::Lost);
                }
                if let Some(other) = self.hosts[name].filter(|e| e.process != process) {
                    let over = ended == Some(other.process);
                    self.become_former(other.process, if over { Former::Over } else { Former::Silent });
                }
                self.former[process] = None;
                if let Some(ended) = ended.filter(|ended| self.former[*ended].is_some()) {
                    self.become_former(ended, Former::Over);
                }
                // Higher than all that anybody has seen of this process; the caller made room for it.
                let life = u8::MAX;
                self.hosts[name] = Some(Entry { process, life, renewals: 0, reporting });
                Answer::Announced { store: self.life, life }
            }
            Question::Renew { store_life: store, .. } if store != self.life => Answer::StoreLost,
            Question::Renew { life, reported, .. } => match &mut self.hosts[name] {
                Some(entry) if entry.process != process => Answer::Superseded,
                Some(entry) if entry.life == life => {
                    entry.renewals += 1;
                    entry.reporting &= !reported;
                    Answer::Held
                }
                Some(_) | None => Answer::Retired,
            },
        }
    }

    fn become_former(&mut self, process: usize, state: Former) {
        let claims = matches!(self.record, Record::Claimed { process: by, .. } if by == process);
        self.former[process] = (state != Former::Over || claims).then_some(state);
    }

    /// Whether a process of a host may still run what it has claimed.
    pub(super) fn is_live(&self, process: usize) -> bool {
        let holds = self.hosts.iter().flatten().any(|e| e.process == process);
        holds || matches!(self.former[process], Some(Former::Silent | Former::Awaited))
    }

    fn next_epoch(&mut self) -> u8 {
        self.epoch += 1;
        self.epoch
    }

    pub(super) fn is_stopped_under(&self, epoch: u8) -> bool {
        self.stopped.is_some_and(|(_, stopped)| stopped >= epoch)
    }

    fn bury(&mut self, epoch: u8) {
        self.stops += 1;
        self.stopped = Some((self.stops, epoch));
    }
}

impl Protocol {
    /// The store takes what a host asks.
    pub(super) fn ask(&self, s: &mut State, process: usize, question: Question) -> Answer {
        let name = self.world.names[process];
        s.store.epoch = s.store.epoch.max(s.processes[process].highest_epoch);
        let before = self.before(process);
        let mut answer = s.store.ask(process, name, question, before);
        if let Answer::Announced { store, .. } = answer {
            let mut highest = 0;
            s.each_renewal(process, |(life, _)| highest = highest.max(if *life == u8::MAX { 0 } else { *life }));
            let life = highest + 1;
            if let Some(entry) = &mut s.store.hosts[name] {
                entry.life = life;
            }
            answer = Answer::Announced { store, life };
            self.give_back(s, process);
        }
        if self.mutation == Mutation::NoAwait
            && let Some(entry) = &mut s.store.hosts[name]
        {
            entry.reporting = false;
        }
        answer
    }

    /// The claim of a process that has ended becomes that of the one which has its name now, and is asked of it.
    fn give_back(&self, s: &mut State, process: usize) {
        let Some(ended) = self.before(process).filter(|_| s.processes[process].succeeds) else { return };
        let held = self.is_held(s);
        if s.store.former[ended] != Some(Former::Over) || held {
            return;
        }
        s.store.former[ended] = None;
        if let Record::Claimed { process: by, .. } = s.store.record
            && by == ended
        {
            self.assign_to(s, process);
        }
    }

    /// The process that had a name before.
    fn before(&self, process: usize) -> Option<usize> {
        (0..process).rev().find(|other| self.world.names[*other] == self.world.names[process])
    }

    pub(super) fn is_held(&self, s: &State) -> bool {
        s.store.settling.is_some() && self.mutation != Mutation::NoSettling
    }

    /// A claim of a process under a new epoch, and the call that follows it.
    fn assign_to(&self, s: &mut State, process: usize) {
        let epoch = s.store.next_epoch();
        s.store.record = Record::Claimed { epoch, process, accepted: false };
        let store = s.store.life;
        s.send(Call { process, epoch, store });
        if self.world.seen {
            s.engines.iter_mut().for_each(|engine| engine.highest_epoch = engine.highest_epoch.max(epoch));
        }
    }

    /// `claim`.
    pub(super) fn claim(&self, s: &mut State, claim: Claim, name: usize) {
        let late = s.store.stopped.is_some_and(|(number, _)| number > claim.asked);
        let late = late && self.mutation != Mutation::TakesLateClaims;
        let held = claim.store_life != s.store.life || self.is_held(s);
        if s.store.record == Record::Nothing && !late && !held {
            self.assign(s, name);
        }
    }

    /// `place`, and the end of `claim`.
    pub(super) fn assign(&self, s: &mut State, name: usize) {
        if let Some(entry) = s.store.hosts[name] {
            self.assign_to(s, entry.process);
        }
    }

    /// `release`: the agent waits for room, under a new epoch.
    pub(super) fn unassign(&self, s: &mut State) {
        let former = s.store.record.epoch();
        let epoch = s.store.next_epoch();
        let former =
            if s.store.settling.is_some() && self.mutation != Mutation::BringsNoStops { former } else { epoch };
        s.store.record = Record::Pending { epoch, former };
    }

    /// `release`: the agent is gone.
    pub(super) fn remove(&self, s: &mut State) {
        let epoch = s.store.record.epoch();
        s.store.bury(epoch);
        s.store.record = Record::Nothing;
    }

    /// `bury`.
    pub(super) fn bury(&self, s: &mut State) {
        s.store.bury(0);
    }

    /// `retire`.
    pub(super) fn retire(&self, s: &mut State, process: usize, seen: (u8, u8)) {
        let name = self.world.names[process];
        match s.store.hosts[name].filter(|e| e.process == process) {
            Some(e) if (e.life, e.renewals) != seen && !self.retires_unseen() => return,
            Some(_) => s.store.hosts[name] = None,
            None if !matches!(s.store.former[process], Some(Former::Silent | Former::Awaited)) => return,
            None => {}
        }
        s.store.become_former(process, Former::Over);
    }

    fn retires_unseen(&self) -> bool {
        matches!(self.mutation, Mutation::NoComparison | Mutation::WallClock)
    }

    /// `bring`.
    pub(super) fn bring(&self, s: &mut State, engine: usize) {
        let e = s.engines[engine];
        s.store.epoch = s.store.epoch.max(e.highest_epoch);
        if let Some(epoch) = e.stopped.filter(|epoch| !s.store.is_stopped_under(*epoch)) {
            s.store.bury(epoch);
            let former = match s.store.record {
                Record::Nothing => u8::MAX,
                Record::Pending { former, .. } => former,
                Record::Claimed { epoch, .. } => epoch,
            };
            if former <= epoch && self.mutation != Mutation::BringsNoStops {
                s.store.record = Record::Nothing;
            }
        }
        if s.store.settling.is_none() || self.mutation == Mutation::NoBringNorWatching {
            return;
        }
        s.store.settling = Some(Settling::Lost);
        for process in (0..SLOTS).filter(|process| e.seen[*process].is_some()) {
            if !s.store.hosts.iter().flatten().any(|e| e.process == process) && s.store.former[process].is_none() {
                s.store.former[process] = Some(Former::Awaited);
            }
        }
    }

    /// Whether `settle` would end the time in which hosts report.
    pub(super) fn may_settle(&self, s: &State, watched: bool) -> bool {
        let at_once = s.store.settling == Some(Settling::New) && self.mutation == Mutation::NewSettlesAtOnce;
        let watched = watched || at_once || self.mutation == Mutation::NoBringNorWatching;
        let reporting = s.store.hosts.iter().flatten().any(|e| e.reporting);
        s.store.settling.is_some() && watched && !reporting && !s.store.former.contains(&Some(Former::Awaited))
    }

    pub(super) fn settle(&self, s: &mut State) {
        s.store.settling = None;
        if let Record::Pending { epoch, former } = &mut s.store.record {
            *former = *epoch;
        }
    }

    /// `advance`, of a host that wants to start the agent. Returns whether it may.
    pub(super) fn advance(&self, s: &mut State, epoch: u8, store_life: Option<StoreLife>) -> bool {
        if self.mutation == Mutation::NoEpochs {
            return s.store.record != Record::Nothing;
        }
        let Record::Claimed { epoch: now, process: by, .. } = s.store.record else { return false };
        let may = store_life == Some(s.store.life) && now == epoch && s.store.is_live(by);
        if may {
            s.store.record = Record::Claimed { epoch, process: by, accepted: true };
        }
        may
    }

    /// `restore`; `None`: the store was lost once more.
    pub(super) fn restore(&self, s: &mut State, process: usize, epoch: u8) -> Option<bool> {
        let p = s.processes[process];
        if p.store_life != Some(s.store.life) {
            return None;
        }
        let store = &mut s.store;
        store.epoch = store.epoch.max(epoch);
        let old = store.record.epoch();
        let another = old == epoch && !matches!(store.record, Record::Claimed { process: by, .. } if by == process);
        // What was claimed since the store is settled is right, whatever epoch it has: epochs may have begun anew.
        let by_us = matches!(store.record, Record::Claimed { process: by, .. } if by == process);
        let since = store.settling.is_none() && !by_us && self.mutation != Mutation::LateReportDisplaces;
        if store.record != Record::Nothing && (old > epoch || another || since) {
            return Some(false);
        }
        let wiped = p.acknowledged.is_some_and(|former| former.wipes != store.life.wipes);
        let forgotten = wiped || store.known_epoch.is_some_and(|known| epoch > known);
        let gone = (store.settling.is_none() && !forgotten && !self.world.keep) || store.is_stopped_under(epoch);
        if store.record == Record::Nothing && gone {
            return Some(false);
        }
        if store.hosts[self.world.names[process]].is_none_or(|e| e.process != process) {
            return None;
        }
        store.record = Record::Claimed { epoch, process, accepted: true };
        Some(true)
    }

    /// Everything is gone. Epochs begin at the time of day: by a clock that was set back they begin anew.
    pub(super) fn wipe(&self, s: &mut State) {
        let life = StoreLife { wipes: s.store.life.wipes + 1, ..s.store.life };
        s.store = Store { life, settling: Some(Settling::New), ..State::new(0).store };
    }

    /// Another run of Redis has an earlier state.
    pub(super) fn roll_back(&self, s: &mut State) {
        let Some(saved) = s.saved.take() else { return };
        let life = StoreLife { runs: s.store.life.runs + 1, ..saved.life };
        s.store = Store { life, settling: Some(Settling::Lost), known_epoch: Some(saved.epoch), ..saved };
        s.store.hosts.iter_mut().flatten().for_each(|e| e.reporting = true);
    }
}
