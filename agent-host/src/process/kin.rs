//! Ends marked processes wherever they are: for those who are not their parent, the watchdog of a dead or frozen host and
//! the host's next life.

use super::{
    mark::{Life, Mark},
    table,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::OwnedFd,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use std::{collections::BTreeSet, time::Duration};

/// Longest wait for the end of what was killed before it is looked for again.
const LOOK_AGAIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
/// Longest time in which ends are waited for. What takes longer hangs in the kernel, and must not hold up the host's next
/// life for ever.
const LONGEST: Duration = Duration::from_secs(1);

/// Kills every process of a life of a host. Returns how many there were, and whether none is left.
pub fn end_life(life: Life) -> (usize, bool) {
    end(|mark| mark.life() == life)
}

/// Kills every process whose mark is meant, and what it starts meanwhile, until a look finds none that lives.
pub fn end(meant: impl Fn(Mark) -> bool) -> (usize, bool) {
    let began = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let mut killed = BTreeSet::new();
    loop {
        let living = kill_once(&meant);
        // One that takes its time to end is met again.
        killed.extend(living.iter().map(|(pid, _)| pid.as_raw_nonzero()));
        if living.is_empty() {
            return (killed.len(), true);
        }
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        if now - began > Timespec::try_from(LONGEST).unwrap_or(LOOK_AGAIN) {
            return (killed.len(), false);
        }
        let mut ends: Vec<_> = living.iter().map(|(_, pidfd)| PollFd::new(pidfd, PollFlags::IN)).collect();
        // Interrupted or over: the next look shows which are left.
        let _ = poll(&mut ends, Some(&LOOK_AGAIN));
    }
}

/// Kills who lives and is meant.
fn kill_once(meant: impl Fn(Mark) -> bool) -> Vec<(Pid, OwnedFd)> {
    let mut living = vec![];
    for pid in table::everybody().unwrap_or_default() {
        if !Mark::of(pid).is_some_and(&meant) {
            continue;
        }
        // Whoever has the id when its mark is read once more is who is killed, or nobody.
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        let ended = {
            let mut end = [PollFd::new(&pidfd, PollFlags::IN)];
            poll(&mut end, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ended| ended > 0)
        };
        // A zombie that nobody has reaped has its mark still.
        if !ended && Mark::of(pid).is_some_and(&meant) && pidfd_send_signal(&pidfd, Signal::KILL).is_ok() {
            living.push((pid, pidfd));
        }
    }
    living
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{BufRead as _, BufReader},
        process::{Command, Stdio},
    };

    #[test]
    fn a_daemon_that_left_everything_behind_is_found_by_its_mark_and_others_are_not() {
        let life = Life::of(&format!("test.{}", std::process::id()).parse().expect("an incarnation"));
        let script = "read line; (env -i setsid sh -c 'echo $$; exec sleep 1000' &) & wait";
        let [mut mine, mut other] = [1, 2].map(|run| {
            let shell = Command::new("sh").args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
            let mut shell = shell.expect("a shell");
            life.mark(run).put_on(Pid::from_child(&shell)).expect("it is ours");
            drop(shell.stdin.take());
            shell
        });
        let daemon = |shell: &mut std::process::Child| {
            let mut line = String::new();
            BufReader::new(shell.stdout.take().expect("piped")).read_line(&mut line).expect("its id");
            Pid::from_raw(line.trim().parse().expect("a number")).expect("not zero")
        };
        let [my_daemon, other_daemon] = [daemon(&mut mine), daemon(&mut other)];
        mine.wait().expect("it ends when it has started its daemon");
        other.wait().expect("it ends when it has started its daemon");
        assert_eq!(end(|mark| mark == life.mark(1)), (1, true));
        let lives = |pid: Pid| {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
            stat.contains(") S ") || stat.contains(") R ")
        };
        assert!(!lives(my_daemon) && lives(other_daemon));
        assert_eq!(end_life(life), (1, true));
        assert!(!lives(other_daemon));
        assert_eq!(end_life(life), (0, true));
    }
}
