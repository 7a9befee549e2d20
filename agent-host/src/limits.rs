//! The limits that the system sets this process, and how much of them is left.
//!
//! A host holds some descriptors for every agent, so it takes all it may have: its soft limits become the hard ones. Agents
//! get the soft limit of descriptors that the host was started with, because a program that uses select(2) breaks beyond
//! 1024 of them.

use rustix::{
    io::{Errno, fcntl_dupfd_cloexec},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use std::{io, os::fd::AsRawFd as _};
use tracing::{info, warn};

/// Descriptors that no agent gets: what the host needs to renew its lease, to answer calls and to look at its agents.
const RESERVED: u64 = 24;
/// Descriptors that no new agent gets beyond that, so that those which are here can be restarted.
const FOR_RESTARTS: u64 = 24;

/// What an agent needs descriptors for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To be taken by this host.
    Admission,
    /// To be started, now that it was taken.
    Start,
}

/// The descriptors that are left are this host's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{taken} of {limit} are in use, and the others are its own")]
pub struct TooFew {
    /// Descriptors in use.
    pub taken: u64,
    /// Most that may be.
    pub limit: u64,
}

/// The limits that this process had when it was started.
#[derive(Debug, Clone, Copy)]
pub struct Inherited {
    descriptors: Rlimit,
}

impl Inherited {
    /// Gives a process that is to become an agent the soft limit of descriptors that this host was started with.
    /// Async-signal-safe.
    pub fn give_back(self) -> io::Result<()> {
        Ok(setrlimit(Resource::Nofile, self.descriptors)?)
    }
}

/// Raises the soft limits of descriptors and processes to the hard ones, and logs both. A limit that cannot be raised stays.
pub fn raise() -> Inherited {
    let descriptors = getrlimit(Resource::Nofile);
    for (what, resource) in [("descriptors", Resource::Nofile), ("processes", Resource::Nproc)] {
        let before = getrlimit(resource);
        match raise_one(resource) {
            Ok(()) => info!(what, from = shown(before.current), to = shown(before.maximum), "limits of this host"),
            Err(error) => warn!(what, soft = shown(before.current), %error, "the limit cannot be raised"),
        }
    }
    Inherited { descriptors }
}

/// Raises the soft limit of descriptors to the hard one. One that cannot be raised stays.
pub fn raise_descriptors() {
    let _ = raise_one(Resource::Nofile);
}

/// Whether an agent may have descriptors of this host. A small limit is shared half and half.
///
/// The lowest free number is given first, so the number of a new descriptor says that all below it are taken.
pub fn descriptors_for(purpose: Purpose) -> Result<(), TooFew> {
    let Some(limit) = getrlimit(Resource::Nofile).current else { return Ok(()) };
    let kept = match purpose {
        Purpose::Admission => (RESERVED + FOR_RESTARTS).min(limit / 2),
        Purpose::Start => RESERVED.min(limit / 4),
    };
    let taken = match fcntl_dupfd_cloexec(io::stderr(), 0) {
        Ok(probe) => u64::from(probe.as_raw_fd().unsigned_abs()),
        Err(Errno::MFILE) => limit,
        // There is nothing to make a copy of.
        Err(_) => return Ok(()),
    };
    if taken + kept < limit { Ok(()) } else { Err(TooFew { taken, limit }) }
}

fn raise_one(resource: Resource) -> io::Result<()> {
    let Rlimit { maximum, .. } = getrlimit(resource);
    Ok(setrlimit(resource, Rlimit { current: maximum, maximum })?)
}

fn shown(limit: Option<u64>) -> String {
    limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string())
}
