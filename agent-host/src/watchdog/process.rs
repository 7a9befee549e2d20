//! The watchdog's own program: no threads, no runtime, no allocation that matters. Waits for packets and for its timer.

use super::{BootTime, Outlives, wire::Message};
use crate::process::{Life, Mark, kin};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fd::OwnedFd,
    process::{self, Pid, Signal},
    time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::{AsFd as _, BorrowedFd},
};

/// What `ps` shows.
const NAME: &std::ffi::CStr = c"rustic-watchdog";

struct Agent {
    pid: u32,
    pidfd: OwnedFd,
    outlives: Outlives,
    /// That of whatever it starts; noted early, as it may have ended when that is looked for.
    mark: Option<Mark>,
}

struct Guard<'a> {
    host: BorrowedFd<'a>,
    life: Life,
    timer: OwnedFd,
    deadline: Option<BootTime>,
    /// The deadline at which what agents had started was ended.
    kin_ended: Option<BootTime>,
    /// By the host's numbers.
    agents: BTreeMap<u64, Agent>,
}

/// Watches until the host closes its end, then kills all agents and whatever they started in this `life` of the host, waits
/// for their end, and returns. Errors: it cannot do its work and has to be replaced by its host, which lives; no agent was harmed.
pub fn run(host: BorrowedFd<'_>, life: Life) -> io::Result<()> {
    rustix::thread::set_name(NAME)?;
    // A descriptor for every agent.
    crate::limits::raise_descriptors();
    let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
    let mut guard = Guard { host, life, timer, deadline: None, kin_ended: None, agents: BTreeMap::new() };
    while guard.wait_and_act()? {}
    guard.end_all()
}

impl Guard<'_> {
    /// Waits for packets or the timer and acts on them. Returns whether the host is still there.
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
                let mark = pid_of(pid).and_then(Mark::of);
                self.agents.insert(number, Agent { pid, pidfd, outlives, mark });
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
        let due = || self.agents.values().filter(|agent| agent.outlives == Outlives::Nothing);
        // The agents first, all of them: of those there must never be two.
        let killed = due().filter(|agent| kill(agent)).count();
        if killed > 0 && self.kin_ended != self.deadline {
            self.kin_ended = self.deadline;
            let marks: BTreeSet<_> = due().filter_map(|agent| agent.mark).collect();
            kin::end(|mark| marks.contains(&mark));
        }
    }

    /// The host is gone: no agent may be left when the next life of it begins.
    fn end_all(self) -> io::Result<()> {
        self.agents.values().for_each(|agent| _ = kill(agent));
        for agent in self.agents.values() {
            // Readable means ended, whoever reaps it.
            let mut descriptor = [PollFd::from_borrowed_fd(agent.pidfd.as_fd(), PollFlags::IN)];
            retry(|| poll(&mut descriptor, None))?;
        }
        kin::end_life(self.life);
        Ok(())
    }
}

/// Kills a process and its group. Returns whether it was there. The pidfd says whether the id is still that of the process.
fn kill(agent: &Agent) -> bool {
    let lives = process::pidfd_send_signal(&agent.pidfd, Signal::KILL).is_ok();
    if let Some(pid) = pid_of(agent.pid).filter(|_| lives) {
        let _ = process::kill_process_group(pid, Signal::KILL);
    }
    lives
}

fn pid_of(number: u32) -> Option<Pid> {
    i32::try_from(number).ok().and_then(Pid::from_raw)
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}
