//! The watchdog's own program: no threads, no runtime, no allocation that matters. Waits for packets and for its timer.

use super::{BootTime, Outlives, wire::Message};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fd::OwnedFd,
    process::{self, Pid, Signal},
    time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime},
};
use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd as _, BorrowedFd},
};

/// What `ps` shows.
const NAME: &std::ffi::CStr = c"rustic-watchdog";

struct Agent {
    pid: u32,
    pidfd: OwnedFd,
    outlives: Outlives,
}

struct Guard<'a> {
    host: BorrowedFd<'a>,
    timer: OwnedFd,
    deadline: Option<BootTime>,
    /// By the host's numbers.
    agents: BTreeMap<u64, Agent>,
}

/// Watches until the host closes its end, then kills all agents, waits for their end, and returns. Errors: it cannot do its work
/// and has to be replaced by its host, which lives; no agent was harmed.
pub fn run(host: BorrowedFd<'_>) -> io::Result<()> {
    rustix::thread::set_name(NAME)?;
    // A descriptor for every agent.
    crate::limits::raise_descriptors();
    let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
    let mut guard = Guard { host, timer, deadline: None, agents: BTreeMap::new() };
    while guard.wait_and_act()? {}
    guard.end_all()
}

impl Guard<'_> {
    /// One packet or the timer; tells whether the host is still there.
    fn wait_and_act(&mut self) -> io::Result<bool> {
        let mut descriptors =
            [PollFd::from_borrowed_fd(self.host, PollFlags::IN), PollFd::new(&self.timer, PollFlags::IN)];
        retry(|| poll(&mut descriptors, None))?;
        // The timer first: a host that floods us with packets must not keep its agents alive.
        self.kill_what_is_due();
        loop {
            match Message::receive(self.host) {
                Ok(Some((message, descriptor))) => self.heed(message, descriptor)?,
                Ok(None) => return Ok(false),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(true),
                    io::ErrorKind::Interrupted => {}
                    // It ended with answers of ours unread.
                    io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => return Ok(false),
                    _ => return Err(error),
                },
            }
        }
    }

    fn heed(&mut self, message: Message, descriptor: Option<OwnedFd>) -> io::Result<()> {
        match (message, descriptor) {
            (Message::Watch { number, pid, outlives }, Some(pidfd)) => {
                self.agents.insert(number, Agent { pid, pidfd, outlives });
                self.kill_what_is_due();
            }
            (Message::Watch { pid, .. }, None) => {
                return Err(io::Error::other(format!("the descriptor of process {pid} did not arrive")));
            }
            (Message::Forget { number }, _) => _ = self.agents.remove(&number),
            (Message::Deadline(deadline), _) => {
                self.deadline = Some(deadline);
                self.set_timer(deadline)?;
                self.kill_what_is_due();
                // A host that does not read its answers is on its way to replace this watchdog.
                let _ = Message::Heard.send(self.host, None);
            }
            (Message::Heard, _) => {}
        }
        Ok(())
    }

    fn set_timer(&self, BootTime(at): BootTime) -> io::Result<()> {
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let at =
            Timespec { tv_sec: i64::try_from(at.as_secs()).unwrap_or(i64::MAX), tv_nsec: at.subsec_nanos().into() };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &Itimerspec { it_interval: zero, it_value: at })?;
        Ok(())
    }

    /// Kills those that must not outlive the lease, if it is over.
    fn kill_what_is_due(&mut self) {
        if self.deadline.is_none_or(|deadline| BootTime::now() < deadline) {
            return;
        }
        let mut count = [0; 8];
        // Reading is what quietens the timer; it fails when the timer has not fired, which is as well.
        let _ = rustix::io::read(&self.timer, &mut count);
        for agent in self.agents.values().filter(|agent| agent.outlives == Outlives::Nothing) {
            kill(agent);
        }
    }

    /// The host is gone: no agent may be left when the next life of it begins.
    fn end_all(self) -> io::Result<()> {
        self.agents.values().for_each(kill);
        for agent in self.agents.values() {
            // Readable means ended, whoever reaps it.
            let mut descriptor = [PollFd::from_borrowed_fd(agent.pidfd.as_fd(), PollFlags::IN)];
            retry(|| poll(&mut descriptor, None))?;
        }
        Ok(())
    }
}

/// Kills a process and its group. The pidfd says whether the id is still that of the process.
fn kill(agent: &Agent) {
    let lives = process::pidfd_send_signal(&agent.pidfd, Signal::KILL).is_ok();
    if let Some(pid) = i32::try_from(agent.pid).ok().and_then(Pid::from_raw).filter(|_| lives) {
        let _ = process::kill_process_group(pid, Signal::KILL);
    }
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}
