//! The one agent-host of the stack, seen from outside: its processes and the memory they use.

use agent_host::process::usage;
use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, getppid, kill_process};
use std::{
    ffi::OsString,
    fs,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::Path,
    process::{Child, Command, Stdio},
};

/// The host, by its process id.
pub(crate) struct Host(u32);

impl Host {
    /// The agent-host that the stack around this command runs.
    pub(crate) fn of_stack() -> Result<Self> {
        let stack = getppid().context("no parent")?.as_raw_nonzero().get().unsigned_abs();
        let found = children(stack).into_iter().find(|pid| name(*pid).as_deref() == Some("agent-host"));
        found.map(Self).context("run it through `engine-svc dev --hosts 1 … --`")
    }

    /// One of several hosts.
    pub(crate) fn by_id(id: &str) -> Result<Self> {
        let stack = getppid().context("no parent")?.as_raw_nonzero().get().unsigned_abs();
        let has_id = |pid: &u32| {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            command.split(|byte| *byte == 0).any(|word| word == id.as_bytes())
        };
        children(stack).into_iter().find(has_id).map(Self).with_context(|| format!("no host {id} in this stack"))
    }

    /// Kills it and starts it again with the arguments and the environment it had.
    pub(crate) fn restart(&self) -> Result<Child> {
        let words = |file: &str| -> Result<Vec<OsString>> {
            let text = fs::read(format!("/proc/{}/{file}", self.0))?;
            Ok(text.split(|b| *b == 0).filter(|w| !w.is_empty()).map(|w| OsString::from_vec(w.to_vec())).collect())
        };
        let (command, environment) = (words("cmdline")?, words("environ")?);
        let (program, arguments) = command.split_first().context("a host without a command")?;
        let pair = |word: &OsString| {
            let at = word.as_bytes().iter().position(|b| *b == b'=')?;
            Some((
                OsString::from_vec(word.as_bytes()[..at].to_vec()),
                OsString::from_vec(word.as_bytes()[at + 1..].to_vec()),
            ))
        };
        self.signal(Signal::KILL)?;
        let mut again = Command::new(program);
        again.args(arguments).env_clear().envs(environment.iter().filter_map(pair));
        Ok(again.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.0).ok().and_then(Pid::from_raw).context("no process id")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Agents and zygotes.
    pub(crate) fn processes(&self) -> Vec<u32> {
        children(self.0)
    }

    /// Its children that have ended and were not reaped.
    pub(crate) fn zombies(&self) -> usize {
        let is_zombie = |pid: &u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'))
        };
        self.processes().iter().filter(|pid| is_zombie(pid)).count()
    }

    /// Its children that are no zygotes.
    pub(crate) fn agents(&self) -> usize {
        self.processes().into_iter().filter(|pid| !is_own(*pid)).count()
    }

    /// Proportional set size of the host and all its processes, in bytes.
    pub(crate) fn pss(&self) -> u64 {
        let all = self.processes().into_iter().chain([self.0]);
        let pids = all.filter_map(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        pids.filter_map(|pid| usage::read(pid).ok()).map(|usage| usage.pss).sum()
    }
}

/// Whether a child of a host is no agent.
fn is_own(pid: u32) -> bool {
    matches!(name(pid).as_deref(), Some("rustic-zygote" | "rustic-watchdog"))
}

fn children(pid: u32) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return vec![] };
    let lists = tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|l| l.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

fn name(pid: u32) -> Option<String> {
    let comm = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("comm")).ok()?;
    Some(comm.trim().to_owned())
}

/// Memory of the machine that is not available to anybody new, in bytes.
pub(crate) fn machine_memory_in_use() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let of = |name: &str| -> Result<u64> {
        let line = text.lines().find_map(|l| l.strip_prefix(name)).with_context(|| format!("no {name}"))?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    };
    Ok(of("MemTotal:")? - of("MemAvailable:")?)
}
