//! What comes of a state when faults end: messages arrive, hosts renew, engines and hosts do what they are there for.

use super::{
    protocol::{Protocol, Step, World},
    state::{Question, Running, SLOTS, SPARE, State, Wish},
};

/// Rounds after which everything must have found its place: a few leases.
const ROUNDS: usize = 24;
/// Steps in one round, of which none may undo another for ever.
const STEPS: usize = 64;

impl Protocol {
    /// Whether everything finds its place once faults end, and stays there.
    pub(crate) fn recovers(&self, state: &State) -> bool {
        let mut s = state.clone();
        let world = World {
            epochs: u8::MAX,
            calls: usize::MAX,
            crashes: 0,
            wipes: 0,
            rollbacks: 0,
            strays: false,
            prompt: [false; SLOTS],
            ..self.world
        };
        let quiet = Self { world, ..*self };
        s.saved = None;
        if quiet.is_well(&s) && s.wish == Wish::Forgotten {
            return true;
        }
        (0..ROUNDS).any(|_| {
            let settled = quiet.round(&mut s);
            settled && quiet.is_well(&s)
        })
    }

    /// Everybody acts once, nothing is lost. Returns whether the store is settled and nothing is on its way.
    fn round(&self, s: &mut State) -> bool {
        for process in 0..SLOTS {
            self.renew(s, process);
        }
        for engine in 0..self.world.engines {
            self.see(s, engine);
        }
        // Hosts and engines, until there is nothing left to do in this round.
        let mut steps = Vec::new();
        for _ in 0..STEPS {
            steps.clear();
            self.possible(s, &mut steps);
            match steps.iter().find(|step| is_useful(step)) {
                Some(step) => self.take(s, *step),
                None => break,
            }
        }
        if let Some(step) = steps.iter().find(|step| matches!(step, Step::CallAgain)) {
            self.take(s, *step);
        }
        let settled = s.store.settling.is_none() && s.calls.is_empty();
        self.take(s, Step::Tick);
        settled
    }

    /// What is on its way arrives; a name that nobody has is taken by a new process; it announces itself, or renews.
    fn renew(&self, s: &mut State, process: usize) {
        if s.processes[process].stray.is_some() {
            self.take(s, Step::ArriveLate(process));
        }
        let p = &s.processes[process];
        let may_start = process < self.world.slots || process == SPARE;
        if p.running == Running::NotYet && may_start && !self.is_manned(s, self.world.names[process]) {
            let succeeds = process > 0;
            self.take(s, Step::HostStarts { process, succeeds });
        }
        for _ in 0..2 {
            if !s.processes[process].is_up() {
                return;
            }
            if s.processes[process].asked.is_none() {
                self.take(s, Step::Ask(process));
            }
            if s.processes[process].asked.is_some_and(|asked| asked.answer.is_none()) {
                self.take(s, Step::Arrive(process));
            }
            self.take(s, Step::Hear(process));
            // An announcement follows at once where one is needed.
            let announces = |q: Question| matches!(q, Question::Announce { .. });
            if !s.processes[process].asked.is_some_and(|asked| announces(asked.question)) {
                return;
            }
        }
    }

    fn see(&self, s: &mut State, engine: usize) {
        let mut steps = Vec::new();
        self.possible_of_engine(s, engine, &mut steps);
        for step in steps {
            if matches!(step, Step::Look(_) | Step::Bring(_)) {
                self.take(s, step);
            }
        }
        let mut steps = Vec::new();
        self.possible_of_engine(s, engine, &mut steps);
        for step in steps {
            if matches!(step, Step::Retire { .. }) {
                self.take(s, step);
            }
        }
    }
}

fn is_useful(step: &Step) -> bool {
    matches!(
        step,
        Step::Deliver(_)
            | Step::Spawn(_)
            | Step::AdmitAgain(_)
            | Step::Report(_)
            | Step::Settle(_)
            | Step::TakeOver(_)
            | Step::Assign(_)
            | Step::Create { .. }
            | Step::ClaimArrives(_)
            | Step::Stop { .. }
    )
}
