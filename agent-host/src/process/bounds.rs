//! What one process of an agent may use, set from outside before it has run a line of the agent's code.
//!
//! | of | bound by | beyond it |
//! | --- | --- | --- |
//! | private memory, in virtual bytes | `RLIMIT_DATA`: what the process has when it is bound, and its limit | an allocation fails: `MemoryError` in Python |
//! | its turn to die | `oom_score_adj`: before this host | the kernel kills it first when memory runs out |
//! | core dumps | `RLIMIT_CORE`: none; the agent may raise it | |
//! | descriptors of each process | `RLIMIT_NOFILE`: the hard limit | no file, pipe or socket is opened |
//! | the processor | niceness: the less it asks for of less than one, the nicer it is | others go first |
//!
//! A Python agent binds its memory itself, once Rustic AI is imported and before its class is (`runtime/bounds.py`): what its
//! interpreter takes is not the agent's. Whatever an agent starts inherits all of it.

use rustix::{
    io::Errno,
    process::{Pid, Resource, Rlimit, getpriority_process, getrlimit, prlimit, setpriority_process},
};
use std::{fs, io};

/// By how much sooner than its host an agent is killed when memory runs out; the scale ends at 1000.
const SOONER: i32 = 500;

/// Bounds of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bounds {
    /// Private memory that it may have beyond what it has when it is bound, in bytes.
    pub memory: Option<u64>,
    /// Most descriptors that it may open.
    pub descriptors: Option<u64>,
    /// By how much it is nicer than what this host starts usually is.
    pub nicer: i32,
}

/// By how much nicer an agent is that asks for so many thousandths of a processor: the kernel gives 1.25 times as much for each step. Who
/// asks for none, or for a whole one and more, is as all are: nobody without privilege can be made less nice.
pub fn nicer(processor: u64) -> i32 {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "thousandths of one, and a few steps"
    )]
    match processor {
        0 | 1000.. => 0,
        part => ((1000.0 / part as f64).ln() / 1.25_f64.ln()).round() as i32,
    }
}

impl Bounds {
    /// Binds a process that has not started another yet. Errors: the kernel does not let us; that it has ended is none.
    pub(super) fn put_on(self, pid: Pid) -> io::Result<()> {
        // The hard limit is this host's own, which the process has inherited.
        let core = Rlimit { current: Some(0), maximum: getrlimit(Resource::Core).maximum };
        set(pid, Resource::Core, core)?;
        if let Some(memory) = self.memory
            && let Some(data) = data(pid)
        {
            let limit = Some(data.saturating_add(memory));
            set(pid, Resource::Data, Rlimit { current: limit, maximum: limit })?;
        }
        if let Some(descriptors) = self.descriptors {
            let own = getrlimit(Resource::Nofile);
            let maximum = own.maximum.map_or(descriptors, |hard| hard.min(descriptors));
            // A soft limit that is higher than the hard one is none; the lower stays as it is.
            let current = current_descriptors(pid).map_or(maximum, |soft| soft.min(maximum));
            set(pid, Resource::Nofile, Rlimit { current: Some(current), maximum: Some(maximum) })?;
        }
        be_nicer(pid, self.nicer);
        dies_sooner(pid);
        Ok(())
    }
}

fn set(pid: Pid, resource: Resource, limit: Rlimit) -> io::Result<()> {
    match prlimit(Some(pid), resource, limit) {
        Err(Errno::SRCH) | Ok(_) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The soft limit of descriptors of a process; `None` when it has none, or has ended.
fn current_descriptors(pid: Pid) -> Option<u64> {
    let limits = fs::read_to_string(format!("/proc/{}/limits", pid.as_raw_nonzero())).ok()?;
    limits.lines().find_map(|line| line.strip_prefix("Max open files"))?.split_whitespace().next()?.parse().ok()
}

/// One that cannot be made nicer runs as it is.
fn be_nicer(pid: Pid, by: i32) {
    if by == 0 {
        return;
    }
    let nice = getpriority_process(Some(pid)).map_or(by, |now| (now + by).min(19));
    let session = fs::write(format!("/proc/{}/autogroup", pid.as_raw_nonzero()), nice.to_string());
    if let (Err(error), _) = (setpriority_process(Some(pid), nice), session) {
        tracing::debug!(%error, "the agent is no nicer than others");
    }
}

/// Private memory that a process has, as `RLIMIT_DATA` counts it, in bytes; `None` when it has ended.
fn data(pid: Pid) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmData:"))?.trim().strip_suffix(" kB")?;
    kib.parse::<u64>().ok().map(|kib| kib << 10)
}

/// Without it the kernel may kill the host, and with it every agent: so an agent that cannot be marked still runs.
fn dies_sooner(pid: Pid) {
    let own = fs::read_to_string("/proc/self/oom_score_adj").ok().and_then(|text| text.trim().parse::<i32>().ok());
    let score = (own.unwrap_or(0) + SOONER).min(1000);
    if let Err(error) = fs::write(format!("/proc/{}/oom_score_adj", pid.as_raw_nonzero()), score.to_string()) {
        tracing::debug!(%error, "the agent will not be killed before its host when memory runs out");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_process_is_bound_and_one_that_has_ended_is_no_error() {
        let mut child = Command::new("sleep").arg("1000").spawn().expect("it starts");
        let pid = Pid::from_child(&child);
        Bounds { memory: Some(5 << 20), descriptors: Some(99), nicer: 3 }.put_on(pid).expect("it is ours");
        let data = data(pid).expect("it lives");
        let limits = fs::read_to_string(format!("/proc/{}/limits", child.id())).expect("it lives");
        let of = |name: &str| {
            let line = limits.lines().find_map(|line| line.strip_prefix(name)).expect("it is listed");
            line.split_whitespace().next().map(str::to_owned)
        };
        assert_eq!(of("Max core file size").as_deref(), Some("0"));
        assert_eq!(of("Max open files").as_deref(), Some("99"));
        assert_eq!(getpriority_process(Some(pid)), getpriority_process(None).map(|own| (own + 3).min(19)));
        assert_eq!(of("Max data size"), Some((data + (5 << 20)).to_string()));
        let score = fs::read_to_string(format!("/proc/{}/oom_score_adj", child.id())).expect("it lives");
        assert!(score.trim().parse::<i32>().expect("a number") >= SOONER);
        child.kill().expect("it is ours");
        child.wait().expect("it ends");
        let bounds = Bounds { memory: Some(1), descriptors: Some(9), nicer: 1 };
        bounds.put_on(pid).expect("nothing to bind is no error");
    }

    #[test]
    fn who_asks_for_less_of_a_processor_is_nicer() {
        assert_eq!([0, 1000, 4000, 800, 500, 250, 1].map(nicer), [0, 0, 0, 1, 3, 6, 31]);
    }
}
