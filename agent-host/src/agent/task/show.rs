//! What the task shows of its agent, and says in the log.

use super::AgentTask;
use crate::agent::{
    machine::{Ending, Event, Machine, State},
    steps::StepTimes,
};
use rustic_registry::{Condition, Phase};
use rustic_telemetry::metrics;
use std::time::Duration;
use tracing::{info, warn};

/// How things were before an event.
pub(super) struct Before {
    phase: Phase,
    admitting: bool,
    /// The event is an answer of the store.
    answered: bool,
}

impl Before {
    pub(super) fn of(machine: &Machine, event: &Event) -> Self {
        Self { phase: machine.phase(), admitting: machine.is_admitting(), answered: event.is_answer() }
    }
}

impl AgentTask {
    /// One step of the start is over, the next one begins.
    pub(super) fn step(&mut self, next: &'static str, note: impl FnOnce(&mut StepTimes, Duration)) {
        let took = self.steps.next(next);
        self.status.send_modify(|s| note(&mut s.times, took));
    }

    /// Shows all of a change at once: whoever watches never sees half of it.
    pub(super) fn show(&mut self, before: &Before) {
        let phase = self.machine.phase();
        let restarts = self.machine.restarts().saturating_sub(self.status.borrow().restarts);
        if restarts > 0 {
            metrics::counts("rustic_host_restarts_total", &[], restarts.into());
        }
        if phase != before.phase {
            let (reason, cause) = Condition::parts(self.machine.condition());
            info!(%phase, restarts = self.machine.restarts(), reason, cause, "agent is {phase}");
        }
        let (took, recorded) = (self.began.elapsed(), self.steps.so_far());
        let runs = before.answered && phase == Phase::Running && before.phase != Phase::Running;
        if runs {
            self.steps.end();
        }
        self.status.send_modify(|s| {
            s.phase = phase;
            s.pid = self.body.pid();
            s.directory = self.body.directory();
            s.page = self.body.page();
            s.mark = self.body.mark();
            s.restarts = self.machine.restarts();
            s.condition = self.machine.condition().cloned();
            s.wrong = self.machine.wrong().cloned();
            if before.answered {
                if before.admitting {
                    // Only an epoch that the store has acknowledged is sent back to it.
                    self.lease.saw(self.order.epoch);
                    s.admitted = true;
                }
                if runs {
                    s.times.advance = Some(recorded);
                    s.times.total = Some(took);
                    s.running = Some((self.ambient.wall)());
                    s.times_running += 1;
                }
            }
        });
    }

    pub(super) fn show_end(&self) {
        if let State::Ended(ending) = self.machine.state() {
            if let Ending::Superseded = ending {
                warn!("the claim is not this host's any more; the process was ended");
            }
            self.status.send_modify(|s| s.ending = Some(ending.clone()));
        }
    }
}
