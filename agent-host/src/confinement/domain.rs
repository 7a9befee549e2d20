//! The Landlock domain of one process: which files it may open, whom it may signal, which ports it may reach.

use super::{Environment, Grant, Places};
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, NetPort, PathBeneath, PathFd, Ruleset, RulesetAttr as _,
    RulesetCreated, RulesetCreatedAttr as _, RulesetError, Scope, make_bitflags,
};
use rustic_registry::ConfinementLevel;
use std::path::{Path, PathBuf};

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

type Rule = (PathBuf, BitFlags<AccessFs>);

/// The ruleset of a grant.
pub(super) fn ruleset(grant: &Grant, places: Places<'_>) -> Result<RulesetCreated, RulesetError> {
    let strict = grant.level == ConfinementLevel::Strict;
    let ruleset = Ruleset::default().handle_access(AccessFs::from_all(KNOWN))?.scope(Scope::from_all(KNOWN))?;
    let ruleset = if strict { ruleset.handle_access(AccessNet::BindTcp | AccessNet::ConnectTcp)? } else { ruleset };
    let mut created = ruleset.create()?;
    for (path, access) in rules(grant, places) {
        // What is not there cannot be opened.
        if let Ok(path) = PathFd::new(&path) {
            created = created.add_rule(PathBeneath::new(path, access))?;
        }
    }
    if strict {
        for port in &grant.openings.ports {
            created = created.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
        }
    }
    Ok(created)
}

fn rules(grant: &Grant, places: Places<'_>) -> Vec<Rule> {
    let strict = grant.level == ConfinementLevel::Strict;
    let everything = AccessFs::from_all(KNOWN);
    let data = everything & !AccessFs::Execute;
    let mut rules: Vec<Rule> = vec![];
    let mut add = |path: &Path, access| rules.push((path.to_owned(), access));
    let libraries = if strict { READ } else { EXECUTE };
    SYSTEM.iter().for_each(|path| add(Path::new(path), libraries));
    LINKED.iter().filter_map(|path| Path::new(path).canonicalize().ok()).for_each(|path| add(&path, READ));
    if strict {
        LOADERS.iter().for_each(|path| add(Path::new(path), EXECUTE));
    } else {
        PROGRAMS.iter().for_each(|path| add(Path::new(path), EXECUTE));
        add(Path::new(SHARED_MEMORY), data & !AccessFs::ReadDir);
    }
    DEVICES.iter().for_each(|path| add(Path::new(path), DEVICE));
    accelerators().iter().for_each(|path| add(path, DEVICE));
    if let Some(Environment { interpreter, prefix, read }) = places.environment {
        read.iter().for_each(|path| add(path, libraries));
        add(interpreter, EXECUTE);
        // The directory of the system itself is no environment of its own.
        if !strict || !matches!(prefix.to_str(), Some("/usr" | "/")) {
            add(prefix, EXECUTE);
        }
    }
    if let Some(program) = places.program {
        add(program, EXECUTE);
    }
    let openings = &grant.openings;
    openings.read.iter().for_each(|path| add(path, libraries));
    openings.write.iter().for_each(|path| add(path, if strict { data } else { everything }));
    places.own.iter().for_each(|path| add(path, if strict { data } else { everything }));
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
