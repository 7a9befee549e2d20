//! What hosts do: they hold leases, run the agent, and report it to a store in another life.

use super::{
    protocol::{Mutation, Protocol, Step},
    state::{Answer, Asked, Call, Here, Process, Question, Record, Running, SPARE, State},
};

impl Protocol {
    pub(super) fn possible_of_host(&self, s: &State, process: usize, steps: &mut Vec<Step>) {
        let p = &s.processes[process];
        if p.stray.is_some() {
            steps.extend([Step::ArriveLate(process), Step::LoseLate(process)]);
        }
        if p.running == Running::NotYet && process < self.world.slots {
            self.possible_starts(s, process, steps);
        }
        if !p.is_up() {
            return;
        }
        match p.asked {
            None => steps.push(Step::Ask(process)),
            Some(Asked { answer, .. }) => {
                steps.push(if answer.is_some() { Step::Hear(process) } else { Step::Arrive(process) });
                if self.world.losses {
                    steps.push(Step::GiveUp { process, late: false });
                }
                if answer.is_none() && p.stray.is_none() && self.world.strays {
                    steps.push(Step::GiveUp { process, late: true });
                }
            }
        }
        if !self.world.prompt[process] && (self.fence_early()..self.fence()).contains(&p.age) {
            steps.push(Step::Fence(process));
        }
        let leased = self.is_leased(s, process);
        match p.here {
            Here::Admitted { .. } => steps.push(Step::Spawn(process)),
            Here::Between { .. } if leased => steps.push(Step::AdmitAgain(process)),
            Here::Process { .. } if s.crashes < self.world.crashes => steps.push(Step::AgentDies(process)),
            Here::No | Here::Between { .. } | Here::Process { .. } => {}
        }
        if p.reported != p.store_life && p.store_life == Some(s.store.life) {
            steps.push(Step::Report(process));
        }
        if s.crashes < self.world.crashes {
            steps.push(Step::HostDies(process));
        }
    }

    /// The next process of a name starts; what it runs outlives a lost lease must have ended before.
    fn possible_starts(&self, s: &State, process: usize, steps: &mut Vec<Step>) {
        let name = self.world.names[process];
        let before = (0..process).rev().find(|other| self.world.names[*other] == name);
        let over = before.is_none_or(|b| s.processes[b].running == Running::Over);
        let started = before.is_none_or(|b| s.processes[b].running != Running::NotYet);
        if over {
            steps.push(Step::HostStarts { process, succeeds: before.is_some() });
        }
        if started && (over || !self.world.keep) {
            steps.push(Step::HostStarts { process, succeeds: false });
        }
    }

    pub(super) fn take_of_host(&self, s: &mut State, step: Step) {
        match step {
            Step::Ask(process) => {
                self.send(s, process);
                // At most an announcement follows.
                for _ in 0..2 {
                    if self.world.prompt[process] && s.processes[process].asked.is_some() {
                        self.take_of_host(s, Step::Arrive(process));
                        self.hear(s, process);
                    }
                }
            }
            Step::Arrive(process) => {
                if let Some(asked) = s.processes[process].asked {
                    let answer = self.ask(s, process, asked.question);
                    // What the store answers may have given it the number of its lease anew.
                    if let Some(asked) = &mut s.processes[process].asked {
                        asked.answer = Some(answer);
                    }
                }
            }
            Step::Hear(process) => self.hear(s, process),
            Step::GiveUp { process, late } => {
                let p = &mut s.processes[process];
                let asked = p.asked.take();
                if late {
                    p.stray = asked.map(|asked| asked.question);
                }
            }
            Step::ArriveLate(process) => {
                if let Some(question) = s.processes[process].stray.take() {
                    self.ask(s, process, question);
                }
            }
            Step::LoseLate(process) => s.processes[process].stray = None,
            Step::Fence(process) => {
                let p = &mut s.processes[process];
                p.age = self.fence();
                self.lose_lease(p);
            }
            Step::Deliver(call) => {
                s.calls.retain(|c| *c != call);
                self.admit(s, call);
            }
            Step::LoseCall(call) => s.calls.retain(|c| *c != call),
            Step::Spawn(process) => self.spawn(s, process),
            Step::AdmitAgain(process) => self.admit_again(s, process),
            Step::Report(process) => self.report(s, process),
            Step::AgentDies(process) => {
                s.crashes += 1;
                let here = &mut s.processes[process].here;
                if let Here::Process { epoch } = *here {
                    *here = Here::Between { epoch, fenced: false };
                }
            }
            Step::HostDies(process) => {
                s.crashes += 1;
                self.end(s, process);
            }
            Step::HostStarts { process, succeeds } => {
                let p = &mut s.processes[process];
                (p.running, p.succeeds) = (Running::Up, succeeds);
            }
            _ => {}
        }
    }

    /// A process of a host ends, with all it had: its watchdog ends after the last agent. What it has asked may still arrive.
    fn end(&self, s: &mut State, process: usize) {
        let p = s.processes[process];
        let under_way = p.asked.filter(|asked| asked.answer.is_none() && self.world.strays);
        let stray = p.stray.or(under_way.map(|asked| asked.question));
        s.processes[process] = Process { running: Running::Over, stray, ..State::new(0).processes[SPARE] };
    }

    fn send(&self, s: &mut State, process: usize) {
        let p = &mut s.processes[process];
        let question = match (p.lease, p.store_life) {
            (Some(life), Some(store)) => {
                Question::Renew { life, store_life: store, reported: p.reported == p.store_life }
            }
            (None, _) | (_, None) => {
                Question::Announce { store_life: p.store_life, reported: p.reported, succeeds: p.succeeds }
            }
        };
        p.asked = Some(Asked { question, answer: None, age: 0 });
    }

    /// What the store answers. The lease counts from before the question was sent.
    fn hear(&self, s: &mut State, process: usize) {
        let mutation = self.mutation;
        let p = &mut s.processes[process];
        let Some(Asked { answer: Some(answer), age, .. }) = p.asked.take() else { return };
        let age = if mutation == Mutation::CountsFromAnswer { 0 } else { age };
        match answer {
            Answer::Held => p.age = age,
            Answer::Announced { store, life } => {
                (p.age, p.lease) = (age, Some(life));
                // A host that knew no other store life has nothing to report.
                if p.store_life.is_none() {
                    p.reported = Some(store);
                }
                p.store_life = Some(store);
            }
            // The lease is as good as it was, and another one is asked for.
            Answer::StoreLost => self.announce_anew(p),
            Answer::Retired => {
                if mutation != Mutation::RetiredGoesOn {
                    p.age = self.fence();
                    self.lose_lease(p);
                }
                self.announce_anew(p);
            }
            Answer::Superseded => self.end(s, process),
        }
    }

    /// The number of the lease is of no use any more; how long it lasts is counted as before.
    fn announce_anew(&self, p: &mut Process) {
        p.lease = None;
        let question = Question::Announce { store_life: p.store_life, reported: p.reported, succeeds: p.succeeds };
        p.asked = Some(Asked { question, answer: None, age: 0 });
    }

    /// What must not outlive the lease is killed.
    pub(super) fn lose_lease(&self, p: &mut Process) {
        match p.here {
            Here::Process { .. } if self.world.keep => {}
            Here::Process { epoch } | Here::Admitted { epoch } | Here::Between { epoch, .. } => {
                p.here = Here::Between { epoch, fenced: true };
            }
            Here::No => {}
        }
    }

    /// A host is asked to run the agent, and the store acknowledges the claim or does not.
    fn admit(&self, s: &mut State, Call { process, epoch, store }: Call) {
        let p = s.processes[process];
        // What it has of an older epoch is void when the store gives it a newer one: ended first, then admitted.
        let newer = p.here.epoch().is_none_or(|here| here < epoch);
        let of_now = p.store_life == Some(store) || self.mutation == Mutation::CallsOfAnyLife;
        if !self.is_leased(s, process) || !newer || !of_now {
            return;
        }
        s.processes[process].here = Here::No;
        if self.world.may_lose() {
            s.processes[process].highest_epoch = p.highest_epoch.max(epoch);
        }
        if self.advance(s, epoch, p.store_life) {
            s.processes[process].here = Here::Admitted { epoch };
            s.processes[process].acknowledged = p.store_life;
        }
    }

    fn spawn(&self, s: &mut State, process: usize) {
        let leased = self.is_leased(s, process);
        let here = &mut s.processes[process].here;
        let Here::Admitted { epoch } = *here else { return };
        if !leased {
            *here = Here::Between { epoch, fenced: true };
            return;
        }
        *here = Here::Process { epoch };
        if self.world.may_lose() {
            s.epoch_went_back |= epoch < s.highest_run;
            s.highest_run = s.highest_run.max(epoch);
        }
    }

    fn admit_again(&self, s: &mut State, process: usize) {
        let p = s.processes[process];
        let Here::Between { epoch, fenced } = p.here else { return };
        if p.acknowledged == p.store_life {
            if p.store_life == Some(s.store.life) {
                let may = self.advance(s, epoch, p.store_life);
                s.processes[process].here = if may { Here::Admitted { epoch } } else { self.not_ours(s, p) };
            }
            return;
        }
        if !self.report_agent(s, process) || s.processes[process].here == Here::No {
            return;
        }
        s.processes[process].acknowledged = p.store_life;
        // Whether its claim was given away before the loss nobody knows: it gets a new one.
        if fenced && self.mutation != Mutation::TrustsItsReport {
            s.processes[process].here = Here::No;
            self.unassign(s);
        } else {
            s.processes[process].here = Here::Admitted { epoch };
        }
    }

    /// What becomes of an agent whose claim was not acknowledged: it is another's by now, or cannot be had at this moment.
    fn not_ours(&self, s: &State, p: Process) -> Here {
        let ours = p.here.epoch() == Some(s.store.record.epoch());
        if ours { p.here } else { Here::No }
    }

    /// The host reports one more thing to a store in another life, until it has reported everything.
    fn report(&self, s: &mut State, process: usize) {
        let p = s.processes[process];
        if p.here != Here::No && p.acknowledged != p.store_life {
            // An agent that was killed with the lease is reported when it is to be started again; if it was not yet, it is reported here.
            if self.report_agent(s, process) && s.processes[process].here != Here::No {
                let fenced = matches!(p.here, Here::Between { fenced: true, .. });
                if fenced && self.mutation != Mutation::TrustsItsReport {
                    s.processes[process].here = Here::No;
                    self.unassign(s);
                } else {
                    s.processes[process].acknowledged = p.store_life;
                }
            }
            return;
        }
        match s.store.record {
            // The store lacks the write that ended it.
            Record::Claimed { epoch, process: by, accepted: true, .. }
                if by == process && p.here.epoch() != Some(epoch) =>
            {
                self.unassign(s);
            }
            _ => s.processes[process].reported = p.store_life,
        }
    }

    /// The script `restore`; what is another's by now, or was stopped, is ended. Returns whether the store has answered.
    fn report_agent(&self, s: &mut State, process: usize) -> bool {
        let Some(epoch) = s.processes[process].here.epoch() else { return false };
        match self.restore(s, process, epoch) {
            Some(true) => {}
            Some(false) => s.processes[process].here = Here::No,
            None => return false,
        }
        true
    }
}
