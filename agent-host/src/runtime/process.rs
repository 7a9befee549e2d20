//! A process that was started: what the agent's task looks after.

use super::{
    Report, Reports, Workdir,
    liveness::Liveness,
    state::{StateFile, StatePage},
};
use crate::{
    cgroups::{Cgroup, OutOfMemory},
    confinement::Grant,
    output::Output,
    process::{Child, Kin, Mark, Signal, memory},
    watchdog::Watched,
};
use async_trait::async_trait;
use rustic_registry::ExitStatus;
use std::{path::Path, sync::Arc, time::Duration};
use tracing::warn;

/// The next thing that a process reports or does.
#[derive(Debug)]
pub enum ProcessEvent {
    /// It is ready, or will not be; or what came after.
    Report(Report),
    /// It lives and does not come round any more, in these words. Said once.
    Stuck(String),
    /// It ended and was reaped.
    Exit(ExitStatus),
}

/// A process of one agent. Dropping it ends the process.
#[async_trait]
pub trait Process: Send {
    /// Its process id.
    fn pid(&self) -> u32;
    /// Its resident memory now, in bytes; `None` when that cannot be read.
    fn resident(&self) -> Option<u64>;
    /// Signals it; SIGKILL with its group.
    fn signal(&self, signal: Signal);
    /// The next thing that it reports or does; a report that was written before its end comes before it. Cancel-safe.
    async fn next_event(&mut self) -> ProcessEvent;
    /// The directory that is its own, with all that is in it; `None` where there is nothing to look at.
    fn directory(&self) -> Option<Arc<Path>> {
        None
    }
    /// Where it says which message it is handling, or was handling when it ended; `None` where nobody knows.
    fn page(&self) -> Option<StatePage> {
        None
    }
    /// By what it and all that it starts are known; `None` where that is not possible.
    fn mark(&self) -> Option<Mark> {
        None
    }
    /// What it may reach; `None` where nothing is known of that.
    fn grant(&self) -> Option<&Grant> {
        None
    }
    /// Whether it ended because the memory of its control group was used up.
    fn out_of_memory(&self) -> Option<OutOfMemory> {
        None
    }
    /// Why it was started in a fresh interpreter; empty: it was forked warm, or always starts so.
    fn cold_reason(&self) -> &str {
        ""
    }
    /// After its end: ends whatever it has started, and takes the rest of its output. When this is over, it may be started
    /// again.
    async fn finish(self: Box<Self>);
}

/// Who gets SIGTERM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// The process alone: a handler that is at work may need a process that it has started, and must not fail for that
    /// reason, because a message whose handler failed counts as handled.
    Process,
    /// Its whole group: nobody knows whether a command passes signals on.
    Group,
}

/// A process of this machine.
pub(super) struct OwnProcess {
    pub(super) child: Child,
    pub(super) asked: Asked,
    pub(super) reports: Reports,
    /// What it is at work on; a command has no such page.
    pub(super) state: Option<StateFile>,
    /// Longest time for which its handling loop may not come round, if it has one.
    pub(super) liveness: Option<Duration>,
    /// From when it is ready until it was found to hang.
    pub(super) hangs: Option<Liveness>,
    pub(super) cold_reason: String,
    pub(super) grant: Grant,
    pub(super) output: Output,
    pub(super) _watched: Watched,
    pub(super) run: Run,
}

/// One run of an agent: all processes that it ever consists of, their group, and the directories that are theirs. All end with it,
/// in this order.
pub(super) struct Run {
    pub(super) kin: Kin,
    /// Their control group, where they have one.
    pub(super) cgroup: Option<Cgroup>,
    pub(super) workdir: Workdir,
}

#[async_trait]
impl Process for OwnProcess {
    fn pid(&self) -> u32 {
        self.child.pid()
    }

    fn resident(&self) -> Option<u64> {
        memory::resident(self.child.pid())
    }

    fn signal(&self, signal: Signal) {
        match (signal, self.asked) {
            (Signal::Terminate, Asked::Process) => self.child.terminate_alone(),
            (Signal::Terminate, Asked::Group) | (Signal::Kill, _) => self.child.signal(signal),
        }
        if signal == Signal::Kill
            && let Some(group) = &self.run.cgroup
        {
            group.kill();
        }
    }

    async fn next_event(&mut self) -> ProcessEvent {
        // Cancel-safe, as all parts are.
        tokio::select! {
            biased;
            report = self.reports.next() => {
                if let Report::Ready(..) = report {
                    self.hangs = self.liveness.map(Liveness::new);
                }
                ProcessEvent::Report(report)
            }
            status = self.child.ended() => match status {
                Ok(status) => ProcessEvent::Exit(status),
                Err(error) => {
                    warn!(%error, "the end of a process could not be learnt; it is taken for killed");
                    ProcessEvent::Exit(ExitStatus::Signal(9))
                }
            },
            never = self.output.unread() => match never {},
            why = hangs(self.hangs.as_mut(), self.state.as_ref()) => {
                self.hangs = None;
                ProcessEvent::Stuck(why)
            }
        }
    }

    fn mark(&self) -> Option<Mark> {
        self.run.kin.mark()
    }

    fn grant(&self) -> Option<&Grant> {
        Some(&self.grant)
    }

    fn cold_reason(&self) -> &str {
        &self.cold_reason
    }

    fn page(&self) -> Option<StatePage> {
        self.state.as_ref().map(StateFile::page)
    }

    fn directory(&self) -> Option<Arc<Path>> {
        Some(self.run.workdir.whole())
    }

    fn out_of_memory(&self) -> Option<OutOfMemory> {
        self.run.cgroup.as_ref()?.out_of_memory()
    }

    async fn finish(mut self: Box<Self>) {
        if let Some(group) = &self.run.cgroup {
            group.kill();
        }
        self.run.kin.end().await;
        if let Some(group) = self.run.cgroup.take() {
            group.remove().await;
        }
        std::mem::take(&mut self.output).finish().await;
    }
}

/// What it hangs at, once it does. Cancel-safe.
async fn hangs(liveness: Option<&mut Liveness>, state: Option<&StateFile>) -> String {
    match liveness.zip(state) {
        Some((liveness, state)) => liveness.hangs(state).await,
        None => std::future::pending().await,
    }
}
