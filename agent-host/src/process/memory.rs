//! Memory of processes at the moment, and whether the kernel lacked some: what explains an end that nobody here wanted.

use rustix::param::page_size;
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// Time within which the ends of processes are seen that the kernel killed at once: each is reaped as soon as it has ended.
const TOGETHER: Duration = Duration::from_secs(1);
/// Where control groups are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Resident memory of a process in bytes; `None` when it has ended. Much cheaper than what [`usage`](super::usage) reads: no
/// page table is walked.
pub fn resident(pid: u32) -> Option<u64> {
    let pages: u64 = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?.split(' ').nth(1)?.parse().ok()?;
    // A zombie has none.
    Some(pages * page_size() as u64).filter(|bytes| *bytes > 0)
}

/// The memory of a control group, and its limit.
#[derive(Debug, Clone)]
pub struct Pressure {
    group: PathBuf,
    files: &'static Files,
}

/// The files of one version of control groups.
#[derive(Debug)]
struct Files {
    used: &'static str,
    limit: &'static str,
    /// In `memory.stat`: what is only kept because there is room, and goes before anything is killed.
    spare: &'static str,
}

const VERSIONS: [Files; 2] = [
    Files { used: "memory.current", limit: "memory.max", spare: "inactive_file " },
    Files { used: "memory.usage_in_bytes", limit: "memory.limit_in_bytes", spare: "total_inactive_file " },
];

/// A limit from which on there is none: version 1 says so by a number near the largest.
const NO_LIMIT: u64 = 1 << 60;

impl Pressure {
    /// That of a group; `None` if it has no limit of memory.
    pub fn of(group: &Path) -> Option<Self> {
        let files = VERSIONS.iter().find(|files| group.join(files.limit).is_file())?;
        let pressure = Self { group: group.to_owned(), files };
        pressure.limit().map(|_| pressure)
    }

    /// That of the group of this process.
    pub fn own() -> Option<Self> {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        counters(&groups).iter().filter_map(|counter| counter.parent()).find_map(Self::of)
    }

    fn number(&self, file: &str) -> Option<u64> {
        fs::read_to_string(self.group.join(file)).ok()?.trim().parse().ok()
    }

    /// `max` is no number.
    fn limit(&self) -> Option<u64> {
        self.number(self.files.limit).filter(|limit| (1..NO_LIMIT).contains(limit))
    }

    /// What is used, and the limit, if less than a twentieth of it is left.
    pub fn critical(&self) -> Option<(u64, u64)> {
        let (used, limit) = (self.number(self.files.used)?, self.limit()?);
        let is_critical = |used: u64| used > limit - limit / 20;
        if !is_critical(used) {
            return None;
        }
        let stat = fs::read_to_string(self.group.join("memory.stat")).unwrap_or_default();
        let spare = stat.lines().find_map(|line| line.strip_prefix(self.files.spare)?.parse().ok()).unwrap_or(0);
        let used = used.saturating_sub(spare);
        is_critical(used).then_some((used, limit))
    }
}

/// Counts the processes that the kernel killed in this host's control group, that of its container, because memory ran out.
#[derive(Debug)]
pub struct MemoryKills {
    /// `None` where the kernel keeps no such count.
    counter: Option<PathBuf>,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    /// The count at the last look.
    count: u64,
    /// Kills that no ended process was found for yet, and when they were seen.
    left: u64,
    at: Option<Instant>,
}

impl MemoryKills {
    /// Counts from now on.
    pub fn watch() -> Self {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self::at(counters(&groups).into_iter().find(|path| count(path).is_some()))
    }

    fn at(counter: Option<PathBuf>) -> Self {
        let count = counter.as_deref().and_then(count).unwrap_or(0);
        Self { counter, seen: Mutex::new(Seen { count, left: 0, at: None }) }
    }

    /// A process was ended by SIGKILL. Returns whether the kernel has killed one for lack of memory whose end was not seen yet.
    /// Of several that were killed together, each end is explained.
    pub fn explains_one(&self) -> bool {
        let mut seen = self.look();
        let explains = seen.left > 0;
        seen.left = seen.left.saturating_sub(1);
        explains
    }

    /// Takes note of what was killed until now. It explains no end that is seen much later.
    pub fn look_away(&self) {
        let _seen = self.look();
    }

    fn look(&self) -> std::sync::MutexGuard<'_, Seen> {
        // Numbers only: a panic cannot leave them half-changed.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if seen.at.is_some_and(|at| now - at > TOGETHER) {
            seen.left = 0;
        }
        if let Some(count) = self.counter.as_deref().and_then(count)
            && count != seen.count
        {
            seen.left += count.saturating_sub(seen.count);
            (seen.count, seen.at) = (count, Some(now));
        }
        seen
    }
}

/// Files that may hold the count, given `/proc/self/cgroup`: by path, and as a container sees its own group.
fn counters(groups: &str) -> Vec<PathBuf> {
    let mut found = vec![];
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (mount, file) = match controllers {
            "" => (CGROUPS.to_owned(), "memory.events"),
            _ if controllers.split(',').any(|c| c == "memory") => {
                (format!("{CGROUPS}/{controllers}"), "memory.oom_control")
            }
            _ => continue,
        };
        let mount = Path::new(&mount);
        found.push(mount.join(path.trim_start_matches('/')).join(file));
        found.push(mount.join(file));
    }
    found
}

/// The line `oom_kill` of `memory.events` (version 2) or `memory.oom_control` (version 1).
fn count(path: &Path) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_memory_can_be_read_and_that_of_nobody_cannot() {
        assert!(resident(std::process::id()).expect("we live") > 1 << 20);
        assert_eq!(resident(u32::MAX), None);
    }

    #[test]
    fn memory_is_critical_when_less_than_a_twentieth_is_left_beside_what_is_only_kept() {
        for (current, max, spare) in [
            ("memory.current", "memory.max", "inactive_file"),
            ("memory.usage_in_bytes", "memory.limit_in_bytes", "total_inactive_file"),
        ] {
            let dir = tempfile::tempdir().expect("a folder");
            let write = |file: &str, text: &str| fs::write(dir.path().join(file), text).expect("written");
            assert!(Pressure::of(dir.path()).is_none(), "nothing is there");
            write(max, "max\n");
            assert!(Pressure::of(dir.path()).is_none(), "no limit");
            write(max, "9223372036854771712\n");
            assert!(Pressure::of(dir.path()).is_none(), "what version 1 says of no limit");
            write(max, "1000\n");
            let pressure = Pressure::of(dir.path()).expect("a limit");
            assert_eq!(pressure.critical(), None, "what is used is not known");
            write(current, "950\n");
            assert_eq!(pressure.critical(), None);
            write(current, "980\n");
            assert_eq!(pressure.critical(), Some((980, 1000)));
            write("memory.stat", &format!("anon 1\n{spare} 20\n"));
            assert_eq!(pressure.critical(), Some((960, 1000)));
            write("memory.stat", &format!("anon 1\n{spare} 30\n"));
            assert_eq!(pressure.critical(), None, "the rest goes before anything is killed");
            write(max, "900\n");
            assert_eq!(pressure.critical(), Some((950, 900)), "a limit may change");
        }
    }

    #[test]
    fn the_count_is_looked_for_where_each_version_keeps_it() {
        let paths = |groups| counters(groups).into_iter().map(|p| p.display().to_string()).collect::<Vec<_>>();
        assert_eq!(
            paths("0::/kubepods/pod1\n"),
            ["/sys/fs/cgroup/kubepods/pod1/memory.events", "/sys/fs/cgroup/memory.events"]
        );
        assert_eq!(
            paths("9:cpu,cpuacct:/x\n4:memory:/docker/a:b\nnonsense"),
            ["/sys/fs/cgroup/memory/docker/a:b/memory.oom_control", "/sys/fs/cgroup/memory/memory.oom_control"]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_kill_explains_one_end_and_two_at_once_explain_two() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("memory.events");
        let kernel_counts =
            |count: u32| fs::write(&path, format!("low 0\noom 7\noom_kill {count}\n")).expect("written");
        kernel_counts(3);
        let kills = MemoryKills::at(Some(path.clone()));
        assert!(!kills.explains_one(), "those were before our time");
        kernel_counts(5);
        assert!(kills.explains_one() && kills.explains_one());
        assert!(!kills.explains_one());
        // It killed something that was no agent, and much later somebody kills an agent.
        kernel_counts(6);
        kills.look_away();
        tokio::time::advance(TOGETHER * 2).await;
        assert!(!kills.explains_one());
        // The host was moved into a younger group.
        kernel_counts(0);
        assert!(!kills.explains_one());
        fs::remove_file(&path).expect("it was there");
        assert!(!kills.explains_one());
    }
}
