//! Reaps what agents leave behind.
//!
//! This process is a child subreaper: when an agent's own children lose their parent, they become ours. Those that end
//! are reaped; those that outlive their agent are killed even if they escaped its session, because they carry the number
//! of the run they belong to in their environment. One that escapes its session *and* clears its environment lives on
//! until this host ends: only a cgroup of its own would hold it.

use super::child::Child;
use rustix::process::{self, Pid, PidfdFlags, WaitOptions, pidfd_open};
use std::{
    collections::HashSet,
    fs, io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// Environment variable that holds the number of the run a process belongs to.
pub const RUN_VARIABLE: &str = "RUSTIC_AGENT_RUN";

/// Which processes are looked after by an agent task, and the runs that still live.
#[derive(Debug, Default)]
pub struct Orphans {
    managed: Mutex<HashSet<Pid>>,
    /// Children that somebody else is just making for us. While there are any, no ended child is reaped: it may be one
    /// of them, and its exit status is wanted.
    expected: AtomicUsize,
    runs: Mutex<HashSet<u64>>,
}

impl Orphans {
    pub(super) fn lock(&self) -> MutexGuard<'_, HashSet<Pid>> {
        self.managed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn runs(&self) -> MutexGuard<'_, HashSet<u64>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn forget(&self, pid: Pid) {
        self.lock().remove(&pid);
    }

    /// From now on nobody else reaps `pid`.
    pub(super) fn adopt(self: &Arc<Self>, pid: Pid) {
        self.lock().remove(&pid);
        self.sweep();
    }

    /// Announces that a child of ours is about to appear that we did not start ourselves.
    pub fn expect(self: &Arc<Self>) -> Expected {
        self.expected.fetch_add(1, Ordering::SeqCst);
        Expected { orphans: self.clone() }
    }

    /// A run begins: what carries its number may live.
    pub fn run_began(&self, run: u64) {
        self.runs().insert(run);
    }

    /// A run ended: what still carries its number is killed.
    pub fn run_ended(&self, run: u64) {
        self.runs().remove(&run);
        self.sweep();
    }

    /// Becomes the subreaper and reaps orphans whenever a child ends, until `stop`.
    pub fn start(self: &Arc<Self>, stop: CancellationToken) -> io::Result<()> {
        process::set_child_subreaper(Some(process::getpid()))?;
        let mut child_ended = signal(SignalKind::child())?;
        let orphans = self.clone();
        tokio::spawn(async move {
            // Both arms are cancel-safe: a signal that is missed here is still pending at the next turn.
            while let Some(Some(())) = stop.run_until_cancelled(child_ended.recv()).await {
                orphans.sweep();
            }
        });
        Ok(())
    }

    /// Reaps ended orphans and kills those of ended runs.
    fn sweep(&self) {
        let managed = self.lock();
        let children = match children() {
            Ok(children) => children,
            Err(error) => return warn!(%error, "cannot list child processes; orphans are not reaped"),
        };
        if self.expected.load(Ordering::SeqCst) > 0 {
            return;
        }
        for pid in children.into_iter().filter(|pid| !managed.contains(pid)) {
            match process::waitpid(Some(pid), WaitOptions::NOHANG) {
                Ok(Some(_)) => debug!(pid = pid.as_raw_nonzero(), "reaped an orphan"),
                Ok(None) => self.kill_if_left_over(pid),
                // Not our child after all: it was listed by a thread that is just starting it.
                Err(_) => {}
            }
        }
    }

    fn kill_if_left_over(&self, pid: Pid) {
        let Some(run) = run_of(pid) else { return };
        if !self.runs().contains(&run) {
            warn!(pid = pid.as_raw_nonzero(), run, "killing a process that outlived its agent");
            let _ = process::kill_process(pid, process::Signal::KILL);
        }
    }
}

/// A child that is about to appear. Dropping it lets the reaper go on.
pub struct Expected {
    orphans: Arc<Orphans>,
}

impl Expected {
    /// Takes the child that appeared; from now on only its handle reaps it.
    pub fn adopt(self, pid: u32) -> io::Result<Child> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| io::Error::other("no process id"))?;
        let pidfd = pidfd_open(pid, PidfdFlags::NONBLOCK)?;
        self.orphans.lock().insert(pid);
        Ok(Child::new(pid, pidfd, self.orphans.clone()))
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.orphans.expected.fetch_sub(1, Ordering::SeqCst);
        self.orphans.sweep();
    }
}

/// Process ids of our children, whichever thread they hang on.
fn children() -> io::Result<Vec<Pid>> {
    let mut pids = vec![];
    for task in fs::read_dir("/proc/self/task")? {
        // A thread that ended meanwhile has given its children to another one, which is listed too.
        let Ok(text) = fs::read_to_string(task?.path().join("children")) else { continue };
        pids.extend(text.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)));
    }
    Ok(pids)
}

fn run_of(pid: Pid) -> Option<u64> {
    let environment = fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).ok()?;
    environment.split(|byte| *byte == 0).find_map(|variable| {
        let text = std::str::from_utf8(variable).ok()?;
        text.strip_prefix(RUN_VARIABLE)?.strip_prefix('=')?.parse().ok()
    })
}
