//! One process: its signals and its end.

use super::{bounds::Bounds, mark::Mark, orphans::Orphans};
use rustic_registry::ExitStatus;
use rustix::process::{self, Pid, WaitId, WaitIdOptions};
use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
};
use tokio::io::unix::AsyncFd;

/// What can be sent to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Asks it to end.
    Terminate,
    /// Ends it.
    Kill,
}

/// A process we started and have not reaped. Dropping it kills its group; the orphan reaper then reaps it.
pub struct Child {
    pid: Pid,
    pidfd: Option<OwnedFd>,
    watch: Option<AsyncFd<OwnedFd>>,
    orphans: Arc<Orphans>,
    reaped: bool,
}

impl Child {
    pub(super) fn new(pid: Pid, pidfd: OwnedFd, orphans: Arc<Orphans>) -> Self {
        Self { pid, pidfd: Some(pidfd), watch: None, orphans, reaped: false }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// A descriptor that stands for it, for somebody else to watch.
    pub fn pidfd(&self) -> io::Result<OwnedFd> {
        Ok(process::pidfd_open(self.pid, process::PidfdFlags::NONBLOCK)?)
    }

    /// Marks it, and with it whatever it starts from now on. Errors: the kernel does not let us.
    pub fn mark(&self, mark: Mark) -> io::Result<()> {
        Ok(mark.put_on(self.pid)?)
    }

    /// Bounds what it may use, and with it whatever it starts from now on. Errors: the kernel does not let us.
    pub fn bound(&self, bounds: Bounds) -> io::Result<()> {
        bounds.put_on(self.pid)
    }

    /// Signals its whole process group. The group keeps its id until we reap the leader, so this cannot hit another.
    pub fn signal(&self, signal: Signal) {
        let signal = match signal {
            Signal::Terminate => process::Signal::TERM,
            Signal::Kill => process::Signal::KILL,
        };
        if !self.reaped {
            // Fails only when the whole group has ended.
            let _ = process::kill_process_group(self.pid, signal);
        }
    }

    /// Asks the process to end, and nothing that it has started.
    pub fn terminate_alone(&self) {
        if !self.reaped {
            // Its id is its own until we reap it. Fails only when it has ended.
            let _ = process::kill_process(self.pid, process::Signal::TERM);
        }
    }

    /// Begins to watch for its end. Not done at birth: the spawner thread has no reactor. Errors: this host may watch no more
    /// descriptors.
    pub fn watch(&mut self) -> io::Result<()> {
        if let Some(pidfd) = self.pidfd.take() {
            self.watch = Some(watch(pidfd)?);
        }
        Ok(())
    }

    /// Waits for its end, ends what is left of its group, and reaps it.
    ///
    /// Cancel-safe: nothing is reaped until the last await is over.
    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.watch()?;
        let watch = self.watch.as_ref().ok_or_else(|| io::Error::other("the process is not watched"))?;
        // Readable means that the leader is a zombie: its id, and so that of its group, is still taken.
        let _readable = watch.readable().await?;
        self.signal(Signal::Kill);
        let status = {
            // Under the lock: whoever lists our children meanwhile would miss one.
            let mut orphans = self.orphans.lock();
            let id = WaitId::PidFd(watch.get_ref().as_fd());
            let status = process::waitid(id, WaitIdOptions::EXITED)?;
            self.reaped = true;
            orphans.forget(self.pid);
            status
        };
        self.orphans.look();
        let status = status.ok_or_else(|| io::Error::other("the process ended without a status"))?;
        let code = status.exit_status().map(ExitStatus::Code);
        let signal = status.terminating_signal().map(ExitStatus::Signal);
        code.or(signal).ok_or_else(|| io::Error::other("the process ended neither by exit nor by signal"))
    }
}

#[allow(unsafe_code, reason = "AsyncFd asks its caller to vouch for the descriptor")]
fn watch(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open and stays the same until it is dropped, which the AsyncFd does.
    Ok(unsafe { AsyncFd::register(pidfd) }?)
}

impl Drop for Child {
    fn drop(&mut self) {
        self.signal(Signal::Kill);
        if !self.reaped {
            self.orphans.lock().forget(self.pid);
            self.orphans.look();
        }
    }
}
