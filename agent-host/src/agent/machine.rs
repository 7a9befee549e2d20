//! The life of one agent as a pure state machine: events in, actions out, no clock, no process, no store.
//!
//! ```text
//!                 Recorded        Turn           Spawned           Ready
//!  ▶ Admitting ───────────▶ Queued ───▶ Spawning ─────▶ Starting ───────▶ Running
//!      ▲    ▲                  │            │               │                │
//!      │    │ LeaseBack        │ too late   │ SpawnFailed   │ Exited         │ Exited
//!      │    │                  ▼            ▼               ▼                ▼
//!      │  Unleased       (restart policy) ◀─┴───────────────┴────────────────┘
//!      │    ▲              │          │
//!      │    │ Fence        │ again    │ no more
//!      │    │              ▼          ▼      Recorded
//!      └────┼─────────BackingOff    Failing ──────────▶ Ended(Failed)
//!   Timer   │
//!           │           Exited, by what the kill was for (Killed: as a crash)
//!        Stopping ───────────────────────────────────────▶ Releasing ──▶ Ended(Stopped | Moved | StartFailed)
//!           ▲                                              ▲  Released
//!           │                 Queued, and nobody waits ────┘
//!           └── Stop, Fence, Lost, InitFailed, Kill or a start that takes too long: TERM, then KILL
//! ```
//!
//! An end that nobody asked for, while a message was handled, is counted against that message ([`Poison`]): in Starting, in
//! Running, and after Kill. Then the restart policy decides even where a first start must succeed, as long as it allows a
//! restart: the agent itself may be well, and a later start is asked to skip the message.
//!
//! Restored instead of Recorded, by a store that lost the record, leads from Admitting to Ended(Moved) if the lease was lost
//! as well: whether the claim was given away meanwhile nobody knows, so that the agent gets a new one.
//!
//! Rules the tests hold it to: no process is started while another may live; none is started before the store has
//! acknowledged a write under this epoch; stop always wins; every state has an action under way or a time to wake at.

mod types;

pub use types::{Action, After, Becomes, Ending, Event, FirstStart, Moving, StartFailure, State, StopPurpose};

use super::{
    backoff,
    poison::{Delivery, Exit, Poison, Skip},
};
use crate::runtime::StartError;
use rustic_proto::restart::{RestartMode, RestartPolicy};
use rustic_registry::{AgentReason, Condition, ExitStatus, OnDisconnect, Phase};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;
use types::{Tenure, rank};

/// What the machine is given once, when it is made.
#[derive(Debug, Clone)]
pub struct Rules {
    /// How it is brought back.
    pub restart: RestartPolicy,
    /// What a failed first start does.
    pub first_start: FirstStart,
    /// Time from start to ready.
    pub start_timeout: Duration,
    /// What a lost lease does.
    pub on_disconnect: OnDisconnect,
}

/// The machine.
#[derive(Debug, Clone)]
pub struct Machine {
    rules: Rules,
    state: State,
    tenure: Tenure,
    /// Nobody waits for it any more.
    abandoned: bool,
    /// It was ready once: the first start has succeeded.
    was_ready: bool,
    /// The first start is over, one way or the other.
    restarting: bool,
    restarts: u32,
    /// Restarts since the last long health: what the budget bounds.
    streak: u32,
    condition: Option<Condition>,
    /// What its process lacks of its confinement.
    unconfined: Option<String>,
    /// Why it failed without ever having been ready.
    wrong: Option<StartFailure>,
    last_exit: Option<ExitStatus>,
    poison: Poison,
}

impl Machine {
    /// A claimed agent, and the first thing to do. `poison` is what is known of its deaths.
    pub fn new(rules: Rules, poison: Poison) -> (Self, Vec<Action>) {
        let machine = Self {
            rules,
            state: State::Admitting,
            tenure: Tenure::Held,
            abandoned: false,
            was_ready: false,
            restarting: false,
            restarts: 0,
            streak: 0,
            condition: None,
            unconfined: None,
            wrong: None,
            last_exit: None,
            poison,
        };
        (machine, vec![Action::Record(Phase::Starting)])
    }

    /// Where the agent is.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Whether the store is being asked to acknowledge the claim.
    pub fn is_admitting(&self) -> bool {
        matches!(self.state, State::Admitting)
    }

    /// Whether the lease was lost since a store that knew the claim last acknowledged a write.
    pub fn is_fenced(&self) -> bool {
        self.tenure != Tenure::Held
    }

    /// Restarts so far.
    pub fn restarts(&self) -> u32 {
        self.restarts
    }

    /// Why it is where it is; `None` when all is well.
    pub fn condition(&self) -> Option<&Condition> {
        self.condition.as_ref()
    }

    /// Why it failed without ever having been ready, if that is so.
    pub fn wrong(&self) -> Option<&StartFailure> {
        self.wrong.as_ref()
    }

    /// How the last process ended.
    pub fn last_exit(&self) -> Option<ExitStatus> {
        self.last_exit
    }

    /// What is known of its deaths.
    pub fn poison(&self) -> &Poison {
        &self.poison
    }

    /// What its next start has to skip.
    pub fn skips(&self) -> Vec<Skip> {
        self.poison.skips()
    }

    /// The phase to show.
    pub fn phase(&self) -> Phase {
        let starting = if self.restarting { Phase::Restarting } else { Phase::Starting };
        match &self.state {
            State::Running { recorded: true, .. } => Phase::Running,
            State::Stopping { after: After::Release | After::Move(_) | After::Superseded, .. }
            | State::Releasing(_) => Phase::Stopping,
            State::Failing | State::Ended(Ending::Failed) => Phase::Failed,
            State::Ended(_) => Phase::Stopping,
            State::BackingOff { .. } | State::Unleased => Phase::Restarting,
            State::Admitting
            | State::Queued { .. }
            | State::Spawning(_)
            | State::Starting { .. }
            | State::Running { recorded: false, .. }
            | State::Stopping { after: After::StartFailed(_) | After::Fenced, .. } => starting,
            State::Stopping { after: After::Killed(..), .. } => Phase::Restarting,
        }
    }

    /// The phase to write to a store that lost the agent's record. It shows an agent that moves as RESTARTING: nobody may take it for
    /// one that was stopped for good.
    pub fn phase_to_report(&self) -> Phase {
        match &self.state {
            State::Stopping { after: After::Move(_), .. } | State::Releasing(Ending::Moved(_)) => Phase::Restarting,
            _ => self.phase(),
        }
    }

    /// When [`Event::Timer`] is due.
    pub fn wake_at(&self) -> Option<Instant> {
        match &self.state {
            State::Queued { until } | State::Starting { until } | State::BackingOff { until } => Some(*until),
            State::Stopping { kill_at, .. } => *kill_at,
            State::Admitting
            | State::Spawning(_)
            | State::Running { .. }
            | State::Unleased
            | State::Releasing(_)
            | State::Failing
            | State::Ended(_) => None,
        }
    }

    /// Takes an event. `chance` in 0.0..1.0 spreads restarts.
    pub fn on(&mut self, event: Event, now: Instant, chance: f64) -> Vec<Action> {
        match event {
            Event::Recorded => self.recorded(now),
            Event::Restored => self.restored(now),
            Event::Lost => self.end_process(After::Superseded, Duration::ZERO, now),
            Event::Released => self.released(),
            Event::Turn => self.turn(),
            Event::Awaited(awaited) => {
                self.abandoned = !awaited;
                self.leave_if_abandoned()
            }
            Event::Spawned => self.spawned(now),
            Event::SpawnFailed(error) => self.spawn_failed(error, now, chance),
            Event::Ready => self.ready(now),
            Event::InitFailed(failure) => match self.state {
                State::Starting { .. } => self.kill(After::StartFailed(StartFailure::Init(failure))),
                _ => vec![],
            },
            Event::Exited(exit) => self.exited(exit, now, chance),
            Event::Kill(reason, why) => match self.state {
                State::Running { since, .. } => {
                    self.renew_budget(since, now);
                    self.condition = Some(Condition::new(reason, &*why));
                    self.kill(After::Killed(reason, why))
                }
                _ => vec![],
            },
            Event::SetAside(message) => self.set_aside(&message),
            Event::Stop(kind, grace) => {
                let after = match kind {
                    StopPurpose::Asked => After::Release,
                    StopPurpose::Moves(why) => After::Move(why),
                };
                self.end_process(after, grace, now)
            }
            Event::Timer => self.timer(now, chance),
            Event::Fence => self.fence(now),
            Event::LeaseBack => self.lease_back(),
        }
    }

    /// Whoever carries out what this machine decides has failed and begins anew, without a process. A stop that was asked for goes on,
    /// and what is over is over; else the agent is not started again.
    pub fn give_up(&mut self, why: String, now: Instant) -> Vec<Action> {
        match &self.state {
            State::Ended(_) => vec![],
            State::Releasing(Ending::Moved(why)) => vec![Action::Release(Becomes::Pending(*why))],
            State::Releasing(_) => vec![Action::Release(Becomes::Gone)],
            State::Stopping { after: after @ (After::Release | After::Move(_) | After::Superseded), .. } => {
                let after = after.clone();
                self.without_process(after, now, 0.0)
            }
            State::Admitting
            | State::Queued { .. }
            | State::Spawning(_)
            | State::Starting { .. }
            | State::Running { .. }
            | State::BackingOff { .. }
            | State::Unleased
            | State::Stopping { .. }
            | State::Failing => self.fail(AgentReason::HostFault, why),
        }
    }

    /// A store that lost the agent cannot say whether its claim was given to another host while this one had no lease. It
    /// gets a new claim then, before its next start.
    fn restored(&mut self, now: Instant) -> Vec<Action> {
        match self.state {
            State::Admitting if self.is_fenced() => self.without_process(After::Move(Moving::GivenAway), now, 0.0),
            _ => self.acknowledged(now),
        }
    }

    fn recorded(&mut self, now: Instant) -> Vec<Action> {
        self.tenure = self.tenure.confirmed();
        self.acknowledged(now)
    }

    fn acknowledged(&mut self, now: Instant) -> Vec<Action> {
        match &mut self.state {
            State::Admitting if self.tenure != Tenure::Lost => {
                self.state = State::Queued { until: now + self.rules.start_timeout };
                let left = self.leave_if_abandoned();
                if left.is_empty() { vec![Action::Queue] } else { left }
            }
            State::Admitting => {
                self.state = State::Unleased;
                vec![]
            }
            State::Running { recorded, .. } => {
                *recorded = true;
                vec![]
            }
            State::Failing => {
                self.state = State::Ended(Ending::Failed);
                vec![]
            }
            _ => vec![],
        }
    }

    fn released(&mut self) -> Vec<Action> {
        if let State::Releasing(ending) = &self.state {
            self.state = State::Ended(ending.clone());
        }
        vec![]
    }

    fn turn(&mut self) -> Vec<Action> {
        let State::Queued { .. } = self.state else { return vec![] };
        self.state = State::Spawning(None);
        vec![Action::Spawn]
    }

    /// A first start that nobody waits for is not begun.
    fn leave_if_abandoned(&mut self) -> Vec<Action> {
        match self.state {
            State::Queued { .. } if self.abandoned && self.must_succeed() => {
                self.release(Ending::StartFailed(StartFailure::Abandoned))
            }
            _ => vec![],
        }
    }

    fn spawned(&mut self, now: Instant) -> Vec<Action> {
        let State::Spawning(wish) = &mut self.state else { return vec![] };
        let wish = wish.take();
        self.state = State::Starting { until: now + self.rules.start_timeout };
        match wish {
            None => vec![],
            Some((after, grace)) => self.end_process(after, grace, now),
        }
    }

    fn spawn_failed(&mut self, error: Arc<StartError>, now: Instant, chance: f64) -> Vec<Action> {
        let State::Spawning(wish) = &mut self.state else { return vec![] };
        match wish.take() {
            None => self.start_failed(StartFailure::Spawn(error), now, chance),
            Some((after, _)) => self.without_process(after, now, chance),
        }
    }

    fn ready(&mut self, now: Instant) -> Vec<Action> {
        let State::Starting { .. } = self.state else { return vec![] };
        self.condition = self.condition_of_running();
        // From here on the store may show others that it runs, even if its answer is lost: it is not taken back any more.
        self.was_ready = true;
        self.state = State::Running { since: now, recorded: false };
        vec![Action::Record(Phase::Running)]
    }

    fn exited(&mut self, exit: Exit, now: Instant, chance: f64) -> Vec<Action> {
        self.last_exit = Some(exit.status);
        match &self.state {
            State::Starting { .. } => {
                self.died(&exit, &exit.to_string());
                self.start_failed(StartFailure::Exited(exit), now, chance)
            }
            State::Running { since, .. } => {
                self.renew_budget(*since, now);
                let why = exit.to_string();
                self.died(&exit, &why);
                self.crashed(AgentReason::ProcessExited, why, exit.status, now, chance)
            }
            State::Stopping { after, .. } => {
                let after = after.clone();
                if let After::Killed(_, why) = &after {
                    self.died(&exit, why);
                }
                self.without_process(after, now, chance)
            }
            _ => vec![],
        }
    }

    /// It ended by its own doing.
    fn died(&mut self, exit: &Exit, why: &str) {
        if let Some(message) = &exit.at_work {
            self.poison.died_over(message, why);
        }
    }

    /// Long health is rewarded.
    fn renew_budget(&mut self, since: Instant, now: Instant) {
        if now.saturating_duration_since(since) >= self.rules.restart.reset_after {
            self.streak = 0;
        }
    }

    /// Shows what an agent that runs has set aside: whoever wonders why it has not answered finds the reason in its condition.
    fn set_aside(&mut self, message: &Delivery) -> Vec<Action> {
        match self.state {
            _ if !self.poison.set_aside(message) => vec![],
            State::Running { .. } => {
                self.condition = self.condition_of_running();
                vec![Action::Record(Phase::Running)]
            }
            _ => vec![],
        }
    }

    /// A process came to be; `missing` says what it lacks of its confinement.
    pub fn note_confinement(&mut self, missing: Option<String>) {
        self.unconfined = missing;
    }

    /// What is to be said of an agent that runs.
    fn condition_of_running(&self) -> Option<Condition> {
        let named = self.poison.summary();
        if !named.is_empty() {
            return Some(Condition::new(AgentReason::MessagesSetAside, named));
        }
        let missing = self.unconfined.as_ref()?;
        Some(Condition::new(AgentReason::ConfinementIncomplete, format!("the kernel of its host lacks {missing}")))
    }

    /// What follows when there is no process any more, by what was wanted.
    fn without_process(&mut self, after: After, now: Instant, chance: f64) -> Vec<Action> {
        match after {
            After::Release => self.release(Ending::Stopped(self.last_exit)),
            After::Move(why) => {
                self.state = State::Releasing(Ending::Moved(why));
                vec![Action::Release(Becomes::Pending(why))]
            }
            After::Superseded => {
                self.state = State::Ended(Ending::Superseded);
                vec![]
            }
            After::StartFailed(failure) => self.start_failed(failure, now, chance),
            After::Killed(reason, why) => {
                let status = self.last_exit.unwrap_or(ExitStatus::Signal(9));
                self.crashed(reason, why, status, now, chance)
            }
            After::Fenced if self.tenure != Tenure::Lost => self.admit_again(),
            After::Fenced => {
                self.state = State::Unleased;
                vec![]
            }
        }
    }

    /// Somebody still waits for the first start.
    fn must_succeed(&self) -> bool {
        self.rules.first_start == FirstStart::MustSucceed && !self.was_ready
    }

    fn start_failed(&mut self, failure: StartFailure, now: Instant, chance: f64) -> Vec<Action> {
        let (status, over_message) = match &failure {
            StartFailure::Exited(exit) => (exit.status, exit.at_work.is_some()),
            _ => (ExitStatus::Code(1), false),
        };
        // A message that kills it is no proof that it cannot start.
        let again = over_message && self.refusal(status).is_none();
        if self.must_succeed() && !again {
            return self.release(Ending::StartFailed(failure));
        }
        let fails_at_once = match self.rules.first_start {
            FirstStart::FailsAtOnce => failure.is_its_own(),
            FirstStart::FailsIfWrong => failure.is_certain(),
            FirstStart::MustSucceed | FirstStart::FollowsPolicy => false,
        };
        if fails_at_once && !self.was_ready && !again {
            let (reason, why) = (failure.reason(), format!("its first start failed: {failure}"));
            self.wrong = Some(failure);
            return self.fail(reason, why);
        }
        self.crashed(failure.reason(), format!("its start failed: {failure}"), status, now, chance)
    }

    /// Why its restart policy does not restart it, if that is so.
    fn refusal(&self, status: ExitStatus) -> Option<String> {
        let policy = &self.rules.restart;
        let wanted = match policy.mode {
            RestartMode::Always => true,
            RestartMode::OnFailure => status != ExitStatus::Code(0),
            RestartMode::Never => false,
        };
        if !wanted || policy.max_restarts == 0 {
            return Some("; its restart policy does not restart it".to_owned());
        }
        (self.streak >= policy.max_restarts).then(|| format!(", after {} restarts", self.streak))
    }

    fn crashed(
        &mut self,
        reason: AgentReason,
        why: String,
        status: ExitStatus,
        now: Instant,
        chance: f64,
    ) -> Vec<Action> {
        if let Some(refusal) = self.refusal(status) {
            return self.fail(reason, why + &refusal);
        }
        let policy = &self.rules.restart;
        self.restarting = true;
        self.streak += 1;
        self.restarts += 1;
        self.condition = Some(Condition::new(reason, why));
        self.state = State::BackingOff { until: now + backoff::delay(policy, self.streak, chance) };
        vec![Action::Record(Phase::Restarting)]
    }

    fn timer(&mut self, now: Instant, chance: f64) -> Vec<Action> {
        let due = self.wake_at().is_some_and(|at| at <= now);
        match &mut self.state {
            _ if !due => vec![],
            State::Queued { .. } => self.start_failed(StartFailure::Queued(self.rules.start_timeout), now, chance),
            State::Starting { .. } => self.kill(After::StartFailed(StartFailure::Timeout(self.rules.start_timeout))),
            State::BackingOff { .. } => self.admit_again(),
            State::Stopping { kill_at, .. } => {
                *kill_at = None;
                vec![Action::Kill]
            }
            _ => vec![],
        }
    }

    fn fence(&mut self, now: Instant) -> Vec<Action> {
        if self.rules.on_disconnect == OnDisconnect::Keep {
            return vec![];
        }
        self.tenure = Tenure::Lost;
        match &self.state {
            State::Spawning(_) | State::Starting { .. } | State::Running { .. } => {
                self.condition = Some(lease_lost());
                self.end_process(After::Fenced, Duration::ZERO, now)
            }
            State::Queued { .. } => {
                self.condition = Some(lease_lost());
                self.state = State::Unleased;
                vec![]
            }
            // Ending anyway, but not in time.
            State::Stopping { kill_at: Some(_), after } => {
                let after = after.clone();
                self.kill(after)
            }
            _ => vec![],
        }
    }

    fn lease_back(&mut self) -> Vec<Action> {
        self.tenure = self.tenure.back();
        match self.state {
            State::Unleased => self.admit_again(),
            _ => vec![],
        }
    }

    fn admit_again(&mut self) -> Vec<Action> {
        self.restarting = true;
        self.state = State::Admitting;
        vec![Action::Record(Phase::Restarting)]
    }

    /// Ends the process, if there is one, for `after`; a stronger wish replaces a weaker one.
    fn end_process(&mut self, after: After, grace: Duration, now: Instant) -> Vec<Action> {
        match &mut self.state {
            State::Ended(_) => vec![],
            State::Spawning(wish) => {
                let stronger = wish.as_ref().is_none_or(|(old, _)| rank(&after) >= rank(old));
                if stronger {
                    *wish = Some((after, grace));
                }
                vec![]
            }
            State::Starting { .. } | State::Running { .. } if grace.is_zero() => self.kill(after),
            State::Starting { .. } | State::Running { .. } => {
                let announce = matches!(after, After::Release).then_some(Action::Record(Phase::Stopping));
                self.state = State::Stopping { kill_at: Some(now + grace), after };
                announce.into_iter().chain([Action::Terminate]).collect()
            }
            State::Stopping { kill_at, after: old } => {
                if rank(&after) >= rank(old) {
                    *old = after;
                }
                match kill_at {
                    Some(_) if grace.is_zero() => {
                        *kill_at = None;
                        vec![Action::Kill]
                    }
                    Some(at) => {
                        *at = (*at).min(now + grace);
                        vec![]
                    }
                    None => vec![],
                }
            }
            State::Releasing(_) => {
                if matches!(after, After::Superseded) {
                    self.state = State::Ended(Ending::Superseded);
                }
                vec![]
            }
            State::Admitting | State::Queued { .. } | State::BackingOff { .. } | State::Unleased | State::Failing => {
                self.without_process(after, now, 0.0)
            }
        }
    }

    fn kill(&mut self, after: After) -> Vec<Action> {
        self.state = State::Stopping { kill_at: None, after };
        vec![Action::Kill]
    }

    fn release(&mut self, ending: Ending) -> Vec<Action> {
        self.state = State::Releasing(ending);
        vec![Action::Release(Becomes::Gone)]
    }

    fn fail(&mut self, reason: AgentReason, why: String) -> Vec<Action> {
        self.condition = Some(Condition::new(reason, why));
        self.state = State::Failing;
        vec![Action::Record(Phase::Failed)]
    }
}

fn lease_lost() -> Condition {
    Condition::new(AgentReason::LeaseLost, "its host lost its lease")
}

#[cfg(test)]
mod tests;
