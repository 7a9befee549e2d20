//! A control group for every agent, where this host may make some: version 2, writable, and not the machine's own root.
//!
//! ```text
//!  <the group this host was started in>/     shares out resources, so it holds no processes any more
//!  └─ rustic-<process id>/                   of one life of a host
//!     ├─ host/                               this program, its watchdog, its zygotes: their share of the processor goes before all others
//!     ├─ run-1/                              one run of one agent, with all that it starts
//!     └─ run-2/
//! ```
//!
//! | file | value | beyond it |
//! | --- | --- | --- |
//! | `memory.max`, `memory.high` | the agent's memory limit and [`BEGINS_WITH`], and a sixteenth less | the kernel takes back caches, then ends the agent with all its processes |
//! | `pids.max` | `--agent-processes` | no process or thread is made: an error in the agent |
//! | `cpu.weight` | a hundred for each processor that the agent asks for | others go first |
//! | `cgroup.kill` | written when the agent has ended, or is killed | all that it has started ends at once |
//!
//! A process is put into its group before it runs a line of the agent's code: one that is executed puts itself there; one that is forked
//! waits for its first message, and is put there before. What is missing (a controller, the right to write) leaves the other means as they are:
//! limits of each process, the guards, the marks.

use rustix::{io::Errno, process::getpid};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Component, Path, PathBuf},
    time::Duration,
};
use tokio::time::sleep;
use tracing::{debug, info, warn};

/// Memory that a process may have beside what its limit counts: what it begins with, and what the kernel keeps for it.
pub const BEGINS_WITH: u64 = 160 << 20;
/// The processor's share of an agent that asks for none, or for a whole one; of this host; and the least.
const USUAL_WEIGHT: u64 = 100;
const HOST_WEIGHT: u64 = 10_000;
/// Controllers that agents' groups use.
pub const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];
/// Looks whether a group is empty, and the time between two.
const LOOKS: usize = 40;
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Whether agents get control groups of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Wanted {
    /// Where this host may make them.
    Auto,
    /// This host ends if it may not make them, with limits of memory, processes and the processor.
    Required,
    /// None.
    Off,
}

/// Why agents get no groups.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// There is no version 2, or this process is outside of what it can see.
    #[error("no control groups of version 2 are mounted here that hold this process")]
    NotMounted,
    /// The machine's own root: what is in it is not ours to order.
    #[error("this host was started in the root group of its machine; start it in a group of its own")]
    Root,
    /// It is not delegated.
    #[error("{} cannot be written: {source}", .path.display())]
    NotWritable {
        /// What was to be written.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Required, and not all there.
    #[error("the group {} lacks the controllers {lacking}", .path.display())]
    Lacks {
        /// The group.
        path: PathBuf,
        /// What it lacks.
        lacking: String,
    },
}

/// The groups of this life of the host.
#[derive(Debug)]
pub struct Cgroups {
    path: PathBuf,
    controllers: Vec<&'static str>,
}

/// What the group of an agent allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// Memory that it may use beyond what its process begins with, in bytes.
    pub memory: Option<u64>,
    /// Processes and threads.
    pub processes: u32,
    /// Of the processor, in thousandths; 0: it asks for none.
    pub processor: u64,
}

impl Cgroups {
    /// Makes a group for this host out of the one it was started in, and moves this process there; what it starts from then on is there too.
    /// `None`: none are wanted, or there can be none.
    pub fn set_up(wanted: Wanted) -> anyhow::Result<Option<Self>> {
        if wanted == Wanted::Off {
            return Ok(None);
        }
        let refused = |error| Err(anyhow::Error::new(error).context("--agent-cgroups required"));
        let groups = match own().and_then(|own| Self::below(&own)) {
            Err(error) if wanted == Wanted::Required => return refused(error),
            Err(error) => {
                info!(%error, "agents have no control groups of their own");
                return Ok(None);
            }
            Ok(groups) => groups,
        };
        let limits = groups.controllers.join(", ");
        match groups.lacks() {
            Some(error) if wanted == Wanted::Required => return refused(error),
            Some(error) => info!(limits, %error, "each agent has a control group of its own, without some limits"),
            None => info!(limits, "each agent has a control group of its own"),
        }
        Ok(Some(groups))
    }

    /// The same in a given group.
    fn below(own: &Path) -> Result<Self, Unavailable> {
        // Only the root has no state of its own.
        if !own.join("cgroup.type").exists() {
            return Err(Unavailable::Root);
        }
        let path = own.join(format!("rustic-{}", getpid().as_raw_nonzero()));
        let host = path.join("host");
        // Of a former life with the same process id.
        clear(&path);
        let made =
            fs::create_dir(&path).and_then(|()| fs::create_dir(&host)).map_err(|source| (path.clone(), source));
        let moved = made.and_then(|()| put(&host, "cgroup.procs", &getpid().as_raw_nonzero().to_string()));
        if let Err((file, source)) = moved {
            clear(&path);
            return Err(Unavailable::NotWritable { path: file, source });
        }
        // A group that shares out resources holds no processes: if others are in it beside this one, the kernel refuses.
        let share = |group: &Path| -> Vec<&'static str> {
            let shared = |name: &&&str| put(group, "cgroup.subtree_control", &format!("+{name}")).is_ok();
            CONTROLLERS.iter().filter(shared).copied().collect()
        };
        share(own);
        let groups = Self { controllers: share(&path), path };
        if groups.has("cpu")
            && let Err((path, error)) = put(&host, "cpu.weight", &HOST_WEIGHT.to_string())
        {
            warn!(path = %path.display(), %error, "this host gets no larger share of the processor than an agent");
        }
        Ok(groups)
    }

    /// The controllers by which agents are limited.
    pub fn limits(&self) -> &[&'static str] {
        &self.controllers
    }

    /// Removes what former lives left in which nothing lives any more.
    pub fn forget_former(&self) {
        self.path.parent().into_iter().for_each(sweep);
    }

    /// What of the groups agents' limits lack.
    fn lacks(&self) -> Option<Unavailable> {
        let lacking: Vec<_> = CONTROLLERS.into_iter().filter(|name| !self.has(name)).collect();
        let (path, all) = (self.path.clone(), lacking.join(", "));
        (!lacking.is_empty()).then_some(Unavailable::Lacks { path, lacking: all })
    }

    fn has(&self, controller: &str) -> bool {
        self.controllers.contains(&controller)
    }

    /// Makes the group of a run. Errors: the kernel does not let us.
    pub fn make(&self, run: u64, allowance: Allowance) -> io::Result<Cgroup> {
        let path = self.path.join(format!("run-{run}"));
        fs::create_dir(&path)?;
        // From here on it is removed with its owner.
        let group = Cgroup { path, limit: allowance.memory.map(|memory| memory.saturating_add(BEGINS_WITH)) };
        for (controller, file, value) in group.limits(allowance) {
            if self.has(controller) {
                put(&group.path, file, &value).map_err(|(_, error)| error)?;
            }
        }
        Ok(group)
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        // This process may be in it still; then the next life of a host in this place removes it.
        let _ = fs::remove_dir(&self.path);
    }
}

/// The group of one run of an agent. Dropping it ends what is in it.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    /// Memory that all of it may use.
    limit: Option<u64>,
}

/// Memory ran out in the group of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfMemory {
    /// The most that was in use, in bytes; 0: unknown.
    pub used: u64,
    /// The limit.
    pub limit: u64,
}

impl Cgroup {
    /// The values of its files, and the controller that each needs.
    fn limits(&self, allowance: Allowance) -> Vec<(&'static str, &'static str, String)> {
        let weight = match allowance.processor {
            0 => USUAL_WEIGHT,
            thousandths => (thousandths * USUAL_WEIGHT / 1000).clamp(1, HOST_WEIGHT),
        };
        let mut limits =
            vec![("pids", "pids.max", allowance.processes.to_string()), ("cpu", "cpu.weight", weight.to_string())];
        if let Some(limit) = self.limit {
            limits.push(("memory", "memory.max", limit.to_string()));
            limits.push(("memory", "memory.high", (limit - limit / 16).to_string()));
            // All of it or nothing: what is left of an agent that lost a process does nobody any good.
            limits.push(("memory", "memory.oom.group", "1".to_owned()));
        }
        limits
    }

    /// A way in, for a process that goes there itself: it writes `0`.
    pub fn entry(&self) -> io::Result<File> {
        OpenOptions::new().write(true).open(self.path.join("cgroup.procs"))
    }

    /// Puts a process into it, with all that it starts from then on. One that has ended needs none.
    pub fn add(&self, pid: u32) -> io::Result<()> {
        match put(&self.path, "cgroup.procs", &pid.to_string()) {
            Err((_, error)) if error.raw_os_error() != Some(Errno::SRCH.raw_os_error()) => Err(error),
            Err(_) | Ok(()) => Ok(()),
        }
    }

    /// Ends all that is in it, at once.
    pub fn kill(&self) {
        if let Err((path, error)) = put(&self.path, "cgroup.kill", "1") {
            debug!(path = %path.display(), %error, "a control group cannot be killed; its processes are, one by one");
        }
    }

    /// Whether the kernel has ended something in it because its memory was used up.
    pub fn out_of_memory(&self) -> Option<OutOfMemory> {
        let limit = self.limit?;
        let events = fs::read_to_string(self.path.join("memory.events")).ok()?;
        let kills = events.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse::<u64>().ok())?;
        let used = || fs::read_to_string(self.path.join("memory.peak")).ok()?.trim().parse().ok();
        (kills > 0).then(|| OutOfMemory { used: used().unwrap_or(0), limit })
    }

    /// Removes it, once nothing of it lives. What the kernel keeps in it a little longer is waited for.
    pub async fn remove(self) {
        for _ in 0..LOOKS {
            match fs::remove_dir(&self.path) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => sleep(LOOK_EVERY).await,
                _ => return,
            }
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if self.path.exists() {
            self.kill();
            // What has not ended yet keeps it; the next life of a host in this place removes it.
            let _ = fs::remove_dir(&self.path);
        }
    }
}

/// Removes the groups of lives of hosts that are over. A host that lives may have made a group that nothing has entered yet.
fn sweep(own: &Path) {
    for life in below(own) {
        let name = life.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let process = name.strip_prefix("rustic-").and_then(|pid| pid.parse::<u32>().ok());
        if process.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            clear(&life);
        }
    }
}

/// Removes the groups of one life, as far as nothing lives in them.
fn clear(life: &Path) {
    below(life).filter(|path| path.is_dir()).for_each(|group| _ = fs::remove_dir(group));
    let _ = fs::remove_dir(life);
}

fn below(group: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(group).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn put(group: &Path, file: &str, value: &str) -> Result<(), (PathBuf, io::Error)> {
    let path = group.join(file);
    let written = OpenOptions::new().write(true).open(&path).and_then(|mut file| file.write_all(value.as_bytes()));
    written.map_err(|error| (path, error))
}

/// The directory of the group that this process is in.
fn own() -> Result<PathBuf, Unavailable> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    directory(&groups, &mounts).ok_or(Unavailable::NotMounted)
}

/// The same, by what the kernel says of a process's groups and mounts (proc(5)).
fn directory(groups: &str, mounts: &str) -> Option<PathBuf> {
    let group = Path::new(groups.lines().find_map(|line| line.strip_prefix("0::"))?);
    // Outside of what this process can see, the kernel names it by the way there.
    group.components().all(|part| part != Component::ParentDir).then_some(())?;
    mounts.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        filesystem.starts_with("cgroup2 ").then_some(())?;
        let mut fields = mount.split(' ').skip(3);
        let (root, place) = (fields.next()?, fields.next()?);
        let within = group.strip_prefix(root).ok()?;
        Some(Path::new(place).join(within))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with the files of a group, as far as they are written to.
    fn group(path: &Path) {
        fs::create_dir_all(path).expect("it can be made");
        for file in [
            "cgroup.type",
            "cgroup.procs",
            "cgroup.kill",
            "cgroup.subtree_control",
            "memory.max",
            "memory.high",
            "memory.oom.group",
            "pids.max",
            "cpu.weight",
        ] {
            fs::write(path.join(file), "").expect("it can be written");
        }
    }

    fn read(path: &Path, file: &str) -> String {
        fs::read_to_string(path.join(file)).expect("it is there")
    }

    #[test]
    fn the_directory_of_a_group_is_found_by_what_the_kernel_says() {
        let mounts =
            "25 30 0:23 / /sys rw - sysfs sysfs rw\n31 25 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw";
        let of = |groups: &str, mounts: &str| directory(groups, mounts).map(|path| path.display().to_string());
        assert_eq!(of("0::/", mounts).as_deref(), Some("/sys/fs/cgroup/"));
        assert_eq!(of("0::/a.slice/b.scope", mounts).as_deref(), Some("/sys/fs/cgroup/a.slice/b.scope"));
        // A container that sees a part of the tree, and one that is outside of what it sees.
        let part = "31 25 0:28 /kubepods/pod1 /sys/fs/cgroup rw - cgroup2 cgroup rw";
        assert_eq!(of("0::/kubepods/pod1/c", part).as_deref(), Some("/sys/fs/cgroup/c"));
        assert_eq!(of("0::/../other", mounts), None);
        assert_eq!(of("3:memory:/", mounts), None);
        assert_eq!(of("0::/", "31 25 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"), None);
    }

    #[test]
    fn groups_of_a_host_that_lives_are_left_though_nothing_is_in_them_yet() {
        let dir = tempfile::tempdir().expect("a directory");
        let of = |pid: u32| dir.path().join(format!("rustic-{pid}"));
        // No process has an id that large.
        let (alive, over) = (std::process::id(), 1 << 30);
        for pid in [alive, over] {
            fs::create_dir_all(of(pid).join("run-1")).expect("it can be made");
        }
        fs::create_dir(dir.path().join("another")).expect("it can be made");
        sweep(dir.path());
        assert!(of(alive).join("run-1").exists() && !of(over).exists() && dir.path().join("another").exists());
    }

    #[test]
    fn what_an_agent_asks_for_is_what_its_group_allows() {
        let dir = tempfile::tempdir().expect("a directory");
        let life = dir.path().join("rustic-1");
        fs::create_dir(&life).expect("it can be made");
        let groups = Cgroups { path: life.clone(), controllers: CONTROLLERS.to_vec() };
        let limits = |allowance: Allowance| {
            let made = Cgroup { path: life.join("none"), limit: allowance.memory.map(|memory| memory + BEGINS_WITH) };
            made.limits(allowance).into_iter().map(|(_, file, value)| format!("{file}={value}")).collect::<Vec<_>>()
        };
        let asks = Allowance { memory: Some(96 << 20), processes: 64, processor: 1_500 };
        assert_eq!(
            limits(asks),
            ["pids.max=64", "cpu.weight=150", "memory.max=268435456", "memory.high=251658240", "memory.oom.group=1"]
        );
        let none = Allowance { memory: None, processes: 1024, processor: 0 };
        assert_eq!(limits(none), ["pids.max=1024", "cpu.weight=100"]);
        assert_eq!(limits(Allowance { processor: 1, ..none })[1], "cpu.weight=1");
        // A group without the files of a controller cannot be what was promised: no agent starts in it.
        assert!(groups.make(1, none).is_err());
        assert!(!life.join("run-1").exists(), "and nothing is left of it");
    }

    #[test]
    fn a_host_in_the_root_of_its_machine_leaves_it_as_it_is() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(matches!(Cgroups::below(dir.path()), Err(Unavailable::Root)));
        assert_eq!(fs::read_dir(dir.path()).expect("it is there").count(), 0);
        group(dir.path());
        // No kernel is here that makes the files of a new group.
        let refused = Cgroups::below(dir.path()).expect_err("it cannot move");
        assert!(refused.to_string().contains("cgroup.procs"), "{refused}");
        assert!(!fs::read_dir(dir.path()).expect("it is there").flatten().any(|entry| entry.path().is_dir()));
    }

    #[test]
    fn an_end_for_lack_of_memory_is_told_with_what_was_used() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("run-1");
        group(&path);
        let one = Cgroup { path: path.clone(), limit: Some(1_000) };
        assert_eq!(one.out_of_memory(), None);
        fs::write(path.join("memory.events"), "low 0\nhigh 7\nmax 3\noom 0\noom_kill 0\n").expect("written");
        assert_eq!(one.out_of_memory(), None);
        fs::write(path.join("memory.events"), "low 0\nhigh 7\nmax 3\noom 1\noom_kill 2\noom_group_kill 1\n")
            .expect("written");
        assert_eq!(one.out_of_memory(), Some(OutOfMemory { used: 0, limit: 1_000 }));
        fs::write(path.join("memory.peak"), "999\n").expect("written");
        assert_eq!(one.out_of_memory(), Some(OutOfMemory { used: 999, limit: 1_000 }));
        one.kill();
        assert_eq!(read(&path, "cgroup.kill"), "1");
    }
}
