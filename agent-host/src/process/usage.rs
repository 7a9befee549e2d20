//! What a process uses, read from /proc, and from the directory that is its own.

use super::scratch;
use rustix::{param::clock_ticks_per_second, process::Pid};
use std::{fs, io, path::Path, sync::Arc, time::Duration};
use tokio::task::spawn_blocking;

/// Memory and processor time of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Proportional set size in bytes: pages shared with others count in parts.
    pub pss: u64,
    /// Bytes that are shared with nobody and would be free without it.
    pub private: u64,
    /// Processor time so far.
    pub cpu: Duration,
    /// Threads.
    pub threads: u32,
    /// Bytes that its directory takes on disk, at least.
    pub scratch: u64,
}

/// Reads what a process uses. Walks its page table: about a millisecond for an agent. Errors: it has ended.
pub fn read(pid: Pid) -> io::Result<Usage> {
    let pid = pid.as_raw_nonzero();
    let memory = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse(&memory, &stat).ok_or_else(|| io::Error::other(format!("/proc/{pid} cannot be understood")))
}

fn parse(memory: &str, stat: &str) -> Option<Usage> {
    let bytes = |name: &str| {
        let line = memory.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
    };
    // The name stands in brackets and may hold anything; fields are counted after it.
    let fields: Vec<_> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(Usage {
        pss: bytes("Pss")?,
        private: bytes("Private_Clean")? + bytes("Private_Dirty")?,
        cpu: Duration::from_secs_f64(ticks as f64 / clock_ticks_per_second() as f64),
        threads: fields.get(17)?.parse().ok()?,
        scratch: 0,
    })
}

/// Bytes that a directory takes on disk, at least.
pub async fn scratch_of(directory: Arc<Path>) -> Option<u64> {
    spawn_blocking(move || scratch::bytes(&directory)).await.ok()
}

/// What a process and its directory use, read where waiting for the kernel holds up nobody; `None` when it has ended.
pub async fn of(pid: u32, directory: Option<Arc<Path>>) -> Option<Usage> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
    let read = move || {
        let usage = read(pid)?;
        Ok::<_, io::Error>(Usage { scratch: directory.map_or(0, |directory| scratch::bytes(&directory)), ..usage })
    };
    spawn_blocking(read).await.ok()?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_usage_can_be_read() {
        let usage = read(rustix::process::getpid()).expect("we live");
        assert!(usage.pss > 0 && usage.private > 0 && usage.threads > 0, "{usage:?}");
    }

    #[test]
    fn names_with_brackets_and_spaces_do_not_confuse() {
        let memory = "Pss:  12 kB\nPss_Dirty: 3 kB\nPrivate_Clean: 1 kB\nPrivate_Dirty: 2 kB\n";
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 4 0 100";
        let usage = parse(memory, stat).expect("well-formed");
        let expected = Usage { pss: 12 << 10, private: 3 << 10, cpu: usage.cpu, threads: 4, scratch: 0 };
        assert_eq!(usage, expected);
        assert_eq!(usage.cpu.as_secs_f64(), 200.0 / clock_ticks_per_second() as f64);
        assert_eq!(parse("", stat), None);
    }
}
