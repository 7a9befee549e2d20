//! Who can do what, and how far that is explored.
//!
//! A host's clock may be slow by [`DRIFT`] over a lease, and so may an engine's be fast: what a host does [`MARGIN`] before the
//! end of its lease happens [`Protocol::fence`] ticks after the renewal was sent at the latest, and what an engine does
//! [`GRACE`] after the end happens [`Protocol::silence`] ticks after it first saw the renewal at the earliest.

use super::state::{Call, Here, NAMES, Running, SLOTS, State};

const MARGIN: u8 = 1;
const GRACE: u8 = 1;
const DRIFT: u8 = 1;

/// Where a world begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begin {
    Nothing,
    /// Hosts hold leases, the agent is claimed for the first one, and the call is on its way.
    Claimed,
    /// It runs there.
    Runs,
}

/// What is explored, and how far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct World {
    /// Where it begins.
    pub(crate) begin: Begin,
    /// The state that the store may come back to is the first one; else any.
    pub(crate) saved_first: bool,
    /// How long a lease lasts.
    pub(crate) ttl: u8,
    /// The name of each process of a host.
    pub(crate) names: [usize; SLOTS],
    /// Processes that run at the beginning, and those that may ever run while there are faults.
    pub(crate) up: usize,
    pub(crate) slots: usize,
    pub(crate) engines: usize,
    /// Agents outlive a lost lease.
    pub(crate) keep: bool,
    /// Highest epoch.
    pub(crate) epochs: u8,
    /// Calls of hosts under way at once.
    pub(crate) calls: usize,
    /// Crashes of hosts, agents and engines, together.
    pub(crate) crashes: u8,
    pub(crate) wipes: u8,
    pub(crate) rollbacks: u8,
    /// Processes whose questions and answers take no time, and whose clocks are slow; they may be silent all the same.
    pub(crate) prompt: [bool; SLOTS],
    /// Whether hosts give up questions, and ask again.
    pub(crate) losses: bool,
    /// Whether questions that nobody waits for any more arrive after all.
    pub(crate) strays: bool,
    /// Whether engines that live have seen every claim: then epochs grow even when the clock from which they begin was set back.
    pub(crate) seen: bool,
    /// Whether the agent is stopped.
    pub(crate) stops: bool,
}

/// What is left out of the protocol, or wrong in it, to see that the checker would notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutation {
    None,
    /// Nobody kills agents when the lease ends: only the answer that it was retired does.
    NoFence,
    /// Agents are killed when the lease ends, by the host's own clock.
    NoMargin,
    /// A host counts from the answer to its renewal.
    CountsFromAnswer,
    /// Not even that: a host that was retired goes on with what it runs, and announces itself.
    RetiredGoesOn,
    /// A host is retired as soon as it is seen.
    NoObservation,
    /// A host is retired whatever it has renewed since it was seen.
    NoComparison,
    /// A host is retired when a clock that may show anything says that its lease is over.
    WallClock,
    /// Agents of a host that was silent are taken, and the host still is answered that its lease holds.
    NotAtomic,
    /// What was seen in one life of the store counts in the next.
    CarriesOver,
    /// A host's write is taken whatever epoch it quotes.
    NoEpochs,
    /// Claims that were never accepted are nobody's business.
    NoSecondCall,
    /// A store in another life is one like any other: agents are placed at once.
    NoSettling,
    /// Hosts that have something to report are not waited for.
    NoAwait,
    /// Engines neither bring the hosts that they saw nor watch before the store is settled.
    NoBringNorWatching,
    /// An agent that was killed with the lease is started again under the claim that its host reported to a lost store.
    TrustsItsReport,
    /// A claim that comes after a stop is taken.
    TakesLateClaims,
    /// A store that is new is settled at once, as long as nobody has come from another life.
    NewSettlesAtOnce,
    /// What is brought of a stop does not end the record that a rolled back store has.
    BringsNoStops,
    /// A report to a store that has settled displaces a claim that was made since, if that has a lower epoch.
    LateReportDisplaces,
    /// A host takes a call whatever life of the store the claim was made in.
    CallsOfAnyLife,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Protocol {
    pub(crate) world: World,
    pub(crate) mutation: Mutation,
}

/// What may happen next. Where a step names no engine, any may do it: it rests on what the store says alone. A call that is never
/// delivered is an engine that died.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    Tick,
    // Hosts.
    Ask(usize),
    /// The store takes the question; the answer is on its way.
    Arrive(usize),
    Hear(usize),
    /// The question, or its answer, is not waited for any more: it is lost, or late.
    GiveUp {
        process: usize,
        late: bool,
    },
    ArriveLate(usize),
    LoseLate(usize),
    /// The lease is over by a clock that is not slow.
    Fence(usize),
    Deliver(Call),
    LoseCall(Call),
    Spawn(usize),
    /// A fresh write under its epoch, before the next process.
    AdmitAgain(usize),
    Report(usize),
    AgentDies(usize),
    HostDies(usize),
    HostStarts {
        process: usize,
        succeeds: bool,
    },
    // Engines.
    Look(usize),
    Bring(usize),
    Retire {
        engine: usize,
        process: usize,
    },
    Settle(usize),
    TakeOver(usize),
    Assign(usize),
    CallAgain,
    Unassign,
    EngineDies(usize),
    // Those who use the agent.
    /// An engine is asked for the agent, and claims it.
    Create {
        engine: usize,
    },
    ClaimArrives(usize),
    ClaimLost,
    /// From now on nobody wants it.
    WantStop,
    /// An engine has it stopped.
    Stop {
        engine: usize,
        how: Stop,
    },
    // The store.
    Wipe,
    Save,
    RollBack,
}

/// What a stop rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Stop {
    /// The host has reaped it.
    Reaped(usize),
    Unaccepted,
    Unassigned,
    Ended,
    Unknown,
}

impl World {
    /// Whether the store may be wiped or rolled back.
    pub(super) fn may_lose(&self) -> bool {
        self.wipes > 0 || self.rollbacks > 0
    }
}

impl Protocol {
    /// Where it begins.
    pub(crate) fn initial(&self) -> State {
        let mut s = State::new(self.world.up);
        if self.world.begin != Begin::Nothing {
            for process in 0..self.world.up {
                self.take(&mut s, Step::Ask(process));
                if !self.world.prompt[process] {
                    self.take(&mut s, Step::Arrive(process));
                    self.take(&mut s, Step::Hear(process));
                }
            }
            (0..self.world.engines).for_each(|engine| self.take(&mut s, Step::Look(engine)));
            self.take(&mut s, Step::Create { engine: 0 });
            self.take(&mut s, Step::ClaimArrives(0));
        }
        if let (Begin::Runs, Some(call)) = (self.world.begin, s.calls.first().copied()) {
            self.take(&mut s, Step::Deliver(call));
            self.take(&mut s, Step::Spawn(0));
        }
        if self.world.saved_first {
            self.take(&mut s, Step::Save);
        }
        self.normalise(&mut s);
        s
    }

    /// States that nobody can distinguish become one.
    pub(crate) fn normalise(&self, s: &mut State) {
        let notes = [Mutation::NoComparison, Mutation::NotAtomic, Mutation::CarriesOver];
        if !notes.contains(&self.mutation) {
            s.forget_what_is_over();
        }
        s.normalise(self.world.engines);
    }

    /// Whether the end of a lease kills nothing, as when everything was frozen.
    pub(super) fn has_no_clock(&self) -> bool {
        matches!(self.mutation, Mutation::NoFence | Mutation::RetiredGoesOn)
    }

    /// When the agents of a host are gone, at the latest.
    pub(super) fn fence(&self) -> u8 {
        let margin = if self.mutation == Mutation::NoMargin { 0 } else { MARGIN };
        self.world.ttl - margin + DRIFT
    }

    /// The same at the earliest.
    pub(super) fn fence_early(&self) -> u8 {
        (self.world.ttl - MARGIN).max(1)
    }

    /// When an engine takes a host for silent, at the earliest.
    pub(super) fn silence(&self) -> u8 {
        self.world.ttl + GRACE - DRIFT
    }

    /// Whether a host holds its lease, as far as it knows.
    pub(super) fn is_leased(&self, s: &State, process: usize) -> bool {
        let p = &s.processes[process];
        p.is_up() && (p.age < self.fence() || (p.lease.is_some() && self.has_no_clock()))
    }

    /// Every step that may happen now.
    pub(crate) fn possible(&self, s: &State, steps: &mut Vec<Step>) {
        steps.push(Step::Tick);
        (0..SLOTS).for_each(|process| self.possible_of_host(s, process, steps));
        (0..self.world.engines).for_each(|engine| self.possible_of_engine(s, engine, steps));
        self.possible_of_any_engine(s, steps);
        self.possible_of_users(s, steps);
        for call in &s.calls {
            steps.extend([Step::Deliver(*call), Step::LoseCall(*call)]);
        }
        if s.store.life.wipes < self.world.wipes {
            steps.push(Step::Wipe);
        }
        if s.saved.is_none() && !self.world.saved_first && s.store.life.runs < self.world.rollbacks {
            steps.push(Step::Save);
        }
        if s.saved.is_some() {
            steps.push(Step::RollBack);
        }
    }

    pub(crate) fn take(&self, s: &mut State, step: Step) {
        match step {
            Step::Tick => self.tick(s),
            Step::Wipe => self.wipe(s),
            Step::Save => s.saved = Some(s.store),
            Step::RollBack => self.roll_back(s),
            Step::Ask(_)
            | Step::Arrive(_)
            | Step::Hear(_)
            | Step::GiveUp { .. }
            | Step::ArriveLate(_)
            | Step::LoseLate(_)
            | Step::Fence(_)
            | Step::Deliver(_)
            | Step::LoseCall(_)
            | Step::Spawn(_)
            | Step::AdmitAgain(_)
            | Step::Report(_)
            | Step::AgentDies(_)
            | Step::HostDies(_)
            | Step::HostStarts { .. } => self.take_of_host(s, step),
            Step::Look(_)
            | Step::Bring(_)
            | Step::Retire { .. }
            | Step::Settle(_)
            | Step::TakeOver(_)
            | Step::Assign(_)
            | Step::CallAgain
            | Step::Unassign
            | Step::EngineDies(_)
            | Step::Create { .. }
            | Step::ClaimArrives(_)
            | Step::ClaimLost
            | Step::WantStop
            | Step::Stop { .. } => self.take_of_engine(s, step),
        }
        self.forget_stop(s);
    }

    /// A stop that nobody remembers binds nobody: it is known to the store, or to an engine that can still bring it to the store.
    fn forget_stop(&self, s: &mut State) {
        use super::state::Wish;
        let reported = s.store.stopped.is_some();
        let reporter = s.engines.iter().any(|e| e.stopped.is_some());
        if s.wish == Wish::Stopped && !reported && !(reporter && s.store.settling.is_some()) {
            s.wish = Wish::Forgotten;
        }
    }

    /// A tick of the true time, at which every clock is at its worst: hosts' are slow, engines' are fast.
    fn tick(&self, s: &mut State) {
        let (fence, silence) = (self.fence(), self.silence());
        for p in &mut s.processes {
            p.age = (p.age + 1).min(fence);
            if let Some(asked) = &mut p.asked {
                asked.age = (asked.age + 1).min(fence);
            }
            if p.age >= fence && !self.has_no_clock() {
                self.lose_lease(p);
            }
        }
        for engine in &mut s.engines {
            engine.watched = (engine.watched + 1).min(silence);
            engine.seen.iter_mut().flatten().for_each(|seen| seen.age = (seen.age + 1).min(silence));
        }
    }

    /// Whether some process has a name, or may still come to have it.
    pub(super) fn is_manned(&self, s: &State, name: usize) -> bool {
        (0..SLOTS).any(|p| self.world.names[p] == name && s.processes[p].running == Running::Up)
    }

    /// Names that are used.
    pub(super) fn names(&self) -> usize {
        NAMES.min(1 + self.world.names[..self.world.slots].iter().copied().max().unwrap_or(0))
    }

    /// Whether the agent is as it was wished, and its record says so.
    pub(crate) fn is_well(&self, s: &State) -> bool {
        use super::state::{Record, Wish};
        let on = (0..SLOTS).filter_map(|process| match s.processes[process].here {
            Here::Process { epoch } => Some((process, epoch)),
            _ => None,
        });
        let on: Vec<_> = on.collect();
        match s.wish {
            Wish::Runs => matches!((&on[..], s.store.record), ([(at, under)], Record::Claimed { epoch, process, .. })
                if *under == epoch && *at == process),
            Wish::Stops => false,
            Wish::Stopped => on.is_empty() && s.store.record == Record::Nothing,
            Wish::Forgotten => true,
        }
    }
}
