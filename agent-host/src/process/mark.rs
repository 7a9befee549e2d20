//! The mark that every process of an agent's run carries, and hands down to whatever it starts.
//!
//! What an agent starts may leave its session, its parent and its environment behind: a daemon does, and so does every MCP
//! server that the SDK starts. Its resource limits it keeps: they are handed down by fork(2) and exec(2), whoever is not
//! privileged can only lower a hard one, and this host can set them from outside (prlimit(2)) before a process has run a line
//! of the agent's code. One of them means nothing to Linux since 2.4.25, and to nobody else: `RLIMIT_LOCKS`. Its hard limit
//! is the mark:
//!
//! ```text
//!  bits   63 62 │ 61 … 32            │ 31 … 0
//!          0  1 │ life of the host   │ number of the run
//! ```
//!
//! A process that has lowered its mark belongs to some agent all the same. One that has the limit of this host itself does
//! not: a zygote, a watchdog, somebody's shell in the container.
//!
//! Why not a subreaper in every agent, which would keep what it started below it? Its children by adoption are its zombies
//! to reap, which few programs do; they are lost with it when agent-host is killed; and code in the agent would have to see
//! to both. A mark needs nothing of the agent, and is found by whoever looks: this host, its watchdog, its next life.

use rustic_registry::Incarnation;
use rustix::{
    io::{self, Errno},
    process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit},
};
use sha2::{Digest as _, Sha256};
use std::{fmt, fs, num::ParseIntError, str::FromStr};

/// Set in every mark: so none is near the numbers that people choose.
const OURS: u64 = 1 << 62;
/// What is left of a mark without the number of the run.
const LIFE_BITS: u32 = 30;

/// A life of a host, as a number of 30 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Life(u32);

impl Life {
    /// The number of an incarnation, the same in every build: the next life looks for what this one left.
    pub fn of(incarnation: &Incarnation) -> Self {
        let digest = Sha256::digest(incarnation.as_str());
        let number = digest.iter().take(4).fold(0, |number, byte| number << 8 | u32::from(*byte));
        Self(number >> (u32::BITS - LIFE_BITS))
    }

    /// The mark of a run. Numbers begin anew after 2^32 runs.
    pub fn mark(self, run: u64) -> Mark {
        Mark(OURS | u64::from(self.0) << 32 | run & u64::from(u32::MAX))
    }
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl FromStr for Life {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        u32::from_str_radix(text, 16).map(Self)
    }
}

/// What the processes of one run have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark(u64);

impl Mark {
    /// The life of a host that it was given in.
    pub fn life(self) -> Life {
        let number = u32::try_from(self.0 >> 32).unwrap_or(u32::MAX);
        Life(number & ((1 << LIFE_BITS) - 1))
    }

    /// Marks the calling process. Async-signal-safe. Errors: the kernel does not let us, see [`possible`].
    pub(super) fn put_on_self(self) -> io::Result<()> {
        setrlimit(Resource::Locks, self.limit())
    }

    /// Marks a process that has not started another yet. Errors: it has ended, or the kernel does not let us.
    pub(super) fn put_on(self, pid: Pid) -> io::Result<()> {
        match prlimit(Some(pid), Resource::Locks, self.limit()) {
            Err(Errno::SRCH) | Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn limit(self) -> Rlimit {
        Rlimit { current: Some(self.0), maximum: Some(self.0) }
    }

    /// The mark of a process, a zombie too; `None` when it has none, or is gone.
    pub fn of(pid: Pid) -> Option<Self> {
        let limits = fs::read_to_string(format!("/proc/{}/limits", pid.as_raw_nonzero())).ok()?;
        parse(&limits).filter(|limit| *limit < own_limit()).map(Self)
    }
}

/// Whether processes can be marked: not where a sandbox keeps its hands on limits, or has put its own mark on this host.
pub(super) fn possible() -> bool {
    own_limit() > OURS << 1 && setrlimit(Resource::Locks, getrlimit(Resource::Locks)).is_ok()
}

/// The hard limit of this process: nothing that it has started and has not marked has a lower one.
fn own_limit() -> u64 {
    getrlimit(Resource::Locks).maximum.unwrap_or(u64::MAX)
}

/// The hard limit in `/proc/<pid>/limits`; one without bound is the highest.
fn parse(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max file locks"))?;
    match line.split_whitespace().nth(1)? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_names_the_life_it_was_given_in() {
        let life = Life::of(&"pod.nonce".parse().expect("an incarnation"));
        let other = Life::of(&"pod.other".parse().expect("an incarnation"));
        assert_ne!(life, other);
        assert_eq!(life.mark(7).life(), life);
        assert_ne!(life.mark(7), life.mark(8));
        assert_eq!(life.mark(7), life.mark(7 + (1 << 32)), "after so many runs, the first has ended");
        assert_eq!(life.to_string().parse(), Ok(life));
        for mark in [life.mark(0), life.mark(u64::MAX), other.mark(1)] {
            assert!((OURS..OURS << 1).contains(&mark.0), "{mark:?}");
        }
    }

    #[test]
    fn limits_are_read_as_the_kernel_writes_them() {
        let limits = |locks: &str| {
            format!(
                "Max locked memory         8388608   8388608   bytes     \nMax file locks            {locks} locks\n"
            )
        };
        assert_eq!(parse(&limits("unlimited            unlimited           ")), Some(u64::MAX));
        assert_eq!(parse(&limits("12                   4611686018427387901 ")), Some(4_611_686_018_427_387_901));
        assert_eq!(parse(&limits("")), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn this_process_has_no_mark_and_what_it_marks_hands_it_down() {
        assert!(possible(), "this machine lets us");
        assert_eq!(Mark::of(rustix::process::getpid()), None);
        let mark = Life(7).mark(9);
        let mut shell = std::process::Command::new("sh")
            .args(["-c", "read line; exec env -i setsid sh -c 'exec grep \"file locks\" /proc/self/limits'"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("a shell");
        mark.put_on(Pid::from_child(&shell)).expect("it is ours");
        assert_eq!(Mark::of(Pid::from_child(&shell)), Some(mark));
        drop(shell.stdin.take());
        let output = shell.wait_with_output().expect("it ends");
        let text = String::from_utf8(output.stdout).expect("text");
        assert_eq!(parse(&text), Some(mark.0), "{text}");
    }
}
