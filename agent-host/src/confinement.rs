//! What an agent may reach: every process of an agent runs in a Landlock domain of its own and under a seccomp filter. Neither needs a
//! privilege.
//!
//! | | `standard` | `strict`, beside that |
//! | --- | --- | --- |
//! | files, read and executed | the system's programs and libraries, the Python environment, `/proc`, `/sys` | programs of the environment only |
//! | files, written | working directory, TMPDIR; `/dev/shm`, which it cannot list | no `/dev/shm` |
//! | processes | signals and traces its own descendants only | |
//! | sockets | no abstract one of others, no families but Internet, Unix and routing | connects to named TCP ports, listens on none |
//! | system calls | none that change the system, its name spaces, other processes or shared memory by number (`filter`) | no program from memory |
//!
//! ```text
//!  policy (of the operator) ─┐
//!  launch ───────────────────┴▶ Grant ──▶ domain: a ruleset, as a descriptor ──┐
//!                                    └──▶ filter: a program of seccomp ────────┴▶ Confinement ──▶ one process takes it on
//! ```
//!
//! A process takes it on before it runs a line of the agent's: one that this host executes, between fork and exec (`Spawner`); one that
//! a zygote forks, as soon as it has its name (`python/src/rustic_ai/k8s/runtime/confinement.py`). First it
//! gives up its capabilities, if its host is root's. From then on it and whatever it starts can only take on more. A branch of a zygote has imported code of agents, so it is confined as well.
//!
//! What the kernel lacks is left out, and named in Health, in a metric and in the agent's condition; or the agent is refused
//! (`--confinement-required`).

mod domain;
mod environment;
mod filter;
mod kernel;
mod policy;

pub use environment::{Environment, Interpreter};
pub use filter::Filter;
pub use kernel::Kernel;
pub use policy::{Denied, Grant, Policy};

use landlock::RulesetCreated;
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

/// What one process takes on.
pub struct Confinement {
    ruleset: RulesetCreated,
    filter: Option<&'static Filter>,
}

/// The places of one process.
#[derive(Debug, Clone, Copy)]
pub struct Places<'a> {
    /// What is its own: it may do there what it likes.
    pub own: &'a [&'a Path],
    /// Its Python environment, if it has one.
    pub environment: Option<&'a Environment>,
    /// The program that it is, if that may be anywhere.
    pub program: Option<&'a Path>,
}

impl Confinement {
    /// What a grant means for a process. Errors: the kernel does not take the rules.
    pub fn new(grant: &Grant, places: Places<'_>) -> io::Result<Self> {
        let ruleset = domain::ruleset(grant, places).map_err(io::Error::other)?;
        Ok(Self { ruleset, filter: filter::of(grant.level) })
    }

    /// Confines the calling process, for good. Called between fork and exec: nothing here allocates unless it fails.
    pub fn take_on(self) -> io::Result<()> {
        drop_capabilities()?;
        self.ruleset.restrict_self().map_err(|_| io::Error::from(io::ErrorKind::PermissionDenied))?;
        self.filter.map_or(Ok(()), Filter::put_on_self)
    }

    /// The filter that it takes on.
    pub fn filter(&self) -> Option<&'static Filter> {
        self.filter
    }

    /// The same for a process that is told by messages: the ruleset, unless the kernel has none, and the filter.
    pub fn into_parts(self) -> (Option<OwnedFd>, Option<&'static Filter>) {
        (self.ruleset.into(), self.filter)
    }
}

/// Gives up every capability: a root with capabilities reads what Landlock would keep from it. For good, because the process can gain
/// none by executing something (`no_new_privs`, which the domain and the filter need as well). Async-signal-safe.
fn drop_capabilities() -> io::Result<()> {
    let none = CapabilitySet::empty();
    Ok(set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?)
}

/// The file that a program's name stands for, as a command is looked for.
pub fn program(name: &str, path: &str) -> Option<PathBuf> {
    let found = if name.contains('/') {
        Some(PathBuf::from(name))
    } else {
        std::env::split_paths(path).map(|directory| directory.join(name)).find(|file| file.is_file())
    };
    found?.canonicalize().ok()
}
