//! The process table, as far as /proc and wait(2) show it.

use rustix::{
    io::Errno,
    param::clock_ticks_per_second,
    process::{Pid, WaitOptions, waitpid},
    time::{ClockId, clock_gettime},
};
use std::{fs, io, path::Path};

/// A moment, in the clock ticks in which the kernel notes when a process began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticks(u64);

impl Ticks {
    pub(super) fn now() -> Self {
        let now = clock_gettime(ClockId::Boottime);
        let second = clock_ticks_per_second();
        let part = now.tv_nsec.unsigned_abs() * second / 1_000_000_000;
        Self(now.tv_sec.unsigned_abs() * second + part)
    }

    /// When a process began; `None` when it is gone.
    pub(super) fn of_birth(pid: Pid) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
        // The name stands second, in brackets, and may hold anything.
        stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok().map(Self)
    }
}

/// Children of this process, whichever thread they hang on. Exact, as long as none of them is reaped meanwhile.
pub(super) fn own_children() -> io::Result<Vec<Pid>> {
    children_of_tasks(Path::new("/proc/self/task"))
}

/// Children of another process, as far as they can be seen while it runs; none when it is gone.
pub(super) fn children(pid: Pid) -> Vec<Pid> {
    let tasks = format!("/proc/{}/task", pid.as_raw_nonzero());
    children_of_tasks(Path::new(&tasks)).unwrap_or_default()
}

fn children_of_tasks(tasks: &Path) -> io::Result<Vec<Pid>> {
    let mut pids = vec![];
    for task in fs::read_dir(tasks)? {
        // A thread that ended meanwhile has given its children to another one, which is listed too.
        let Ok(text) = fs::read_to_string(task?.path().join("children")) else { continue };
        pids.extend(text.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)));
    }
    Ok(pids)
}

/// Every process that can be seen.
pub(super) fn everybody() -> io::Result<Vec<Pid>> {
    let entries = fs::read_dir("/proc")?;
    let pid = |entry: io::Result<fs::DirEntry>| Pid::from_raw(entry.ok()?.file_name().to_str()?.parse().ok()?);
    Ok(entries.filter_map(pid).collect())
}

/// Threads of a process, at least one; `None` when it is gone.
pub(super) fn threads(pid: Pid) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(17)?.parse().ok()
}

/// What became of a child that nobody else reaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It lives.
    Lives,
    /// It had ended, and is gone now.
    Reaped,
    /// It is no child of ours, or not any more.
    Gone,
}

/// Reaps a child if it has ended.
pub(super) fn reap(pid: Pid) -> Fate {
    match waitpid(Some(pid), WaitOptions::NOHANG) {
        Ok(Some(_)) => Fate::Reaped,
        Ok(None) => Fate::Lives,
        Err(_) => Fate::Gone,
    }
}

/// A child that has ended and was not reaped, if there is one. It is left as it is.
#[allow(unsafe_code, reason = "rustix does not say whose end it is")]
pub(super) fn ended_child() -> Option<Pid> {
    loop {
        // SAFETY: all zeroes are a valid siginfo_t, which waitid fills and nobody else sees. SIGCHLD's part of it holds a
        // process id, zero when there is no such child.
        let (result, pid) = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let result = libc::waitid(libc::P_ALL, 0, &raw mut info, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT);
            (result, info.si_pid())
        };
        match (result, io::Error::last_os_error().raw_os_error()) {
            (0, _) => return Pid::from_raw(pid),
            (_, Some(error)) if error == Errno::INTR.raw_os_error() => {}
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn births_are_noted_in_the_ticks_of_now() {
        let before = Ticks::now();
        let mut child = Command::new("true").spawn().expect("it runs");
        let pid = Pid::from_child(&child);
        let born = Ticks::of_birth(pid).expect("it was not reaped");
        assert!(before <= born && born <= Ticks::now(), "{before:?} {born:?}");
        assert!(own_children().expect("a list").contains(&pid));
        child.wait().expect("it ends");
        assert_eq!(reap(pid), Fate::Gone);
        assert!(everybody().expect("a list").contains(&rustix::process::getpid()));
    }
}
