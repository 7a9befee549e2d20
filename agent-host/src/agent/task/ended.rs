//! The end of an agent's process: what is to be said of it, and what it leaves to be done.

use super::AgentTask;
use crate::{
    agent::{
        machine::Event,
        poison::Exit,
        steps::Steps,
        unwanted::{Killer, explain, is_unwanted_kill},
    },
    cgroups::OutOfMemory,
    lease::Lease,
};
use rustic_registry::ExitStatus;
use tokio::time::Instant;
use tracing::info;

impl AgentTask {
    /// The process has ended.
    pub(super) async fn exited(&mut self, status: ExitStatus) {
        // A process that ended when the lease was over was ended by the watchdog: it did not crash, though nobody has said
        // yet that the lease is lost.
        let watchdog = self.lease.is_over((self.ambient.boot)());
        let ((last_words, at_work), killed, limit) = self
            .body
            .alive()
            .map_or_else(Default::default, |alive| (alive.last(), alive.was_killed(), alive.out_of_memory()));
        let exit = Exit { status, last_words, at_work, explanation: self.explain(status, killed || watchdog, limit) };
        self.reaped(&exit).await;
        if watchdog || self.lease.is_over((self.ambient.boot)()) {
            self.inbox.push_back(Event::Fence);
        }
        self.inbox.push_back(Event::Exited(exit));
        // The lease may be renewed after all: then nobody will say that it is back.
        if self.lease.current().state == Lease::Held {
            self.inbox.push_back(Event::LeaseBack);
        }
    }

    /// What is to be said of the end of the process beside its status.
    fn explain(&self, status: ExitStatus, killed_by_us: bool, limit: Option<OutOfMemory>) -> String {
        let killer = match is_unwanted_kill(status, killed_by_us).then(|| self.runtime.killed_for_memory()) {
            None => Killer::Host,
            Some(true) => limit.map_or(Killer::Kernel, Killer::OwnLimit),
            Some(false) => limit.map_or(Killer::Unknown, Killer::OwnLimit),
        };
        explain(status, killer, self.memory.take())
    }

    /// Finishes what is left of the process.
    pub(super) async fn reaped(&mut self, exit: &Exit) {
        let status = exit.status;
        if let Some(process) = self.body.reaped() {
            info!(pid = process.pid(), %status, how = %exit, "process ended");
            process.finish().await;
        }
        let at = (self.ambient.wall)();
        self.status.send_modify(|s| s.last_exit = Some((status, at)));
        // The next start, if there is one, is measured from here.
        self.began = Instant::now();
        self.steps = Steps::begin(self.began, "restart");
    }
}
