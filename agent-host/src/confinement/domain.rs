//! The Landlock domain of one process: which files it may open, whom it may signal, which ports it may reach.

use super::{Environment, Grant, Places};
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, NetPort, PathBeneath, PathFd, Ruleset, RulesetAttr as _,
    RulesetCreated, RulesetCreatedAttr as _, RulesetError, Scope, make_bitflags,
};
use rustic_registry::{ConfinementLevel, Openings};
use std::{
    path::{Path, PathBuf},
    sync::LazyLock,
};

/// The latest version whose rights are used; a kernel that has less takes what it knows.
const KNOWN: ABI = ABI::V9;

/// Programs of the system.
const PROGRAMS: [&str; 5] = ["/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/local/bin"];
/// What programs need: libraries, data, settings, and what the kernel shows of itself and of processes.
const SYSTEM: [&str; 14] = [
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/libexec",
    "/usr/local",
    "/usr/share",
    "/lib",
    "/lib32",
    "/lib64",
    "/opt",
    "/etc",
    "/proc",
    "/sys",
    "/var/cache/fontconfig",
];
/// Files of the system that may be links to where nothing else is open.
const LINKED: [&str; 3] = ["/etc/resolv.conf", "/etc/hosts", "/etc/localtime"];
/// What executes every program that is linked dynamically.
const LOADERS: [&str; 4] = [
    "/lib64/ld-linux-x86-64.so.2",
    "/lib/ld-linux-aarch64.so.1",
    "/lib/ld-musl-x86_64.so.1",
    "/lib/ld-musl-aarch64.so.1",
];
/// Devices that are nobody's, and terminals.
const DEVICES: [&str; 8] =
    ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx", "/dev/pts"];
/// How names of accelerators begin, in `/dev`: which of them an agent sees is decided by whoever places it.
const ACCELERATORS: [&str; 5] = ["nvidia", "dri", "kfd", "accel", "infiniband"];
/// Where segments of shared memory have their names, whose the kernel does not say.
const SHARED_MEMORY: &str = "/dev/shm";

/// The rights for what is read.
const READ: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | ReadDir});
/// The rights for what is executed too.
const EXECUTE: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | ReadDir | Execute});
/// The rights for a device.
const DEVICE: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | ReadDir | WriteFile | IoctlDev});

/// A place that is open, and what may be done there.
type Rule = (PathFd, BitFlags<AccessFs>);

/// The places of the system, which all processes of a level have. They are opened once, because that takes longer than all else here:
/// what is mounted over one of them later is not seen.
static STANDARD: LazyLock<Vec<Rule>> = LazyLock::new(|| opened(of_system(false)));
static STRICT: LazyLock<Vec<Rule>> = LazyLock::new(|| opened(of_system(true)));

/// The ruleset of a grant.
pub(super) fn ruleset(grant: &Grant, places: Places<'_>) -> Result<RulesetCreated, RulesetError> {
    let strict = grant.level == ConfinementLevel::Strict;
    let ruleset = Ruleset::default().handle_access(AccessFs::from_all(KNOWN))?.scope(Scope::from_all(KNOWN))?;
    let ruleset = if strict { ruleset.handle_access(AccessNet::BindTcp | AccessNet::ConnectTcp)? } else { ruleset };
    let mut created = ruleset.create()?;
    let accelerators = accelerators();
    let devices = accelerators.iter().map(|path| (&**path, DEVICE));
    let of_process = opened(of_process(grant, places).into_iter().chain(devices));
    let system = if strict { &STRICT } else { &STANDARD };
    for (place, access) in system.iter().chain(&of_process) {
        created = created.add_rule(PathBeneath::new(place, *access))?;
    }
    if strict {
        for port in &grant.openings.ports {
            created = created.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
        }
    }
    Ok(created)
}

/// What is not there cannot be opened, and needs no rule. What has several names, as the directories of programs have where `/bin` is a link,
/// needs one.
fn opened<'a>(places: impl IntoIterator<Item = (&'a Path, BitFlags<AccessFs>)>) -> Vec<Rule> {
    let mut names: Vec<(u64, u64)> = vec![];
    let mut rules: Vec<Rule> = vec![];
    for (path, access) in places {
        let Ok(place) = PathFd::new(path) else { continue };
        let Ok(stat) = rustix::fs::fstat(&place) else { continue };
        if let Some(known) = names.iter().position(|name| *name == (stat.st_dev, stat.st_ino)) {
            rules[known].1 |= access;
        } else {
            names.push((stat.st_dev, stat.st_ino));
            rules.push((place, access));
        }
    }
    rules
}

fn of_system(strict: bool) -> Vec<(&'static Path, BitFlags<AccessFs>)> {
    let with = |access| move |path: &&'static str| (Path::new(*path), access);
    let mut places: Vec<_> = SYSTEM.iter().map(with(if strict { READ } else { EXECUTE })).collect();
    places.extend(DEVICES.iter().map(with(DEVICE)));
    if strict {
        places.extend(LOADERS.iter().map(with(EXECUTE)));
    } else {
        places.extend(PROGRAMS.iter().map(with(EXECUTE)));
        let data = AccessFs::from_all(KNOWN) & !AccessFs::Execute;
        places.push((Path::new(SHARED_MEMORY), data & !AccessFs::ReadDir));
    }
    places
}

/// What may change while this host runs: files that are replaced, devices that appear, environments that are made anew.
fn of_process<'a>(grant: &'a Grant, places: Places<'a>) -> Vec<(&'a Path, BitFlags<AccessFs>)> {
    let strict = grant.level == ConfinementLevel::Strict;
    let everything = AccessFs::from_all(KNOWN);
    let (libraries, data) = if strict { (READ, everything & !AccessFs::Execute) } else { (EXECUTE, everything) };
    let mut rules: Vec<(&Path, _)> = LINKED.iter().map(|path| (Path::new(*path), READ)).collect();
    if let Some(Environment { interpreter, prefix, read }) = places.environment {
        rules.extend(read.iter().map(|path| (&**path, libraries)));
        rules.push((interpreter, EXECUTE));
        // The directory of the system itself is no environment of its own.
        if !strict || !matches!(prefix.to_str(), Some("/usr" | "/")) {
            rules.push((prefix, EXECUTE));
        }
    }
    rules.extend(places.program.map(|program| (program, EXECUTE)));
    let Openings { read, write, ports: _ } = &grant.openings;
    rules.extend(read.iter().map(|path| (&**path, libraries)));
    rules.extend(write.iter().map(|path| (&**path, data)));
    rules.extend(places.own.iter().map(|path| (*path, data)));
    rules
}

/// The accelerators of this machine.
fn accelerators() -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir("/dev") else { return vec![] };
    let is_one = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        ACCELERATORS.iter().any(|prefix| name.starts_with(prefix))
    };
    entries.flatten().map(|entry| entry.path()).filter(is_one).collect()
}
