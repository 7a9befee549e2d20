//! Which hosts to try for an agent, best first ([`Ranking`]). Pure: takes what is known and returns an order.

mod ranking;

pub use ranking::Ranking;

use crate::{devices::is_of_device, ids::HostId, record::text_enum, resources::Resources};
use std::collections::{BTreeMap, BTreeSet};

text_enum! {
    /// How hosts are ordered.
    Policy {
        /// Least loaded first, then lowest ordinal.
        LeastLoaded = "least-loaded",
        /// Each in turn.
        RoundRobin = "round-robin",
        /// Lowest ordinal first: what scales in takes the highest.
        Packed = "packed",
    }
}

/// What an agent needs.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Room it takes.
    pub demand: &'a Resources,
    /// Hosts that were tried in vain.
    pub excluded: &'a BTreeSet<HostId>,
    /// Hosts to try after all others.
    pub avoided: &'a BTreeSet<HostId>,
    /// Labels of hosts to try before others, the more of them the better.
    pub preferred: &'a BTreeMap<String, String>,
    /// Where round robin begins, in the order of names.
    pub turn: usize,
    /// Most hosts to return.
    pub limit: usize,
}

/// Hosts to try for an agent, best first.
///
/// Callers choose at the same time and by what they read some time ago, so that all of them choose the same host. Whoever makes the claim
/// knows better: of the first [`Candidates::spread`] hosts it takes the least loaded one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Candidates {
    /// The hosts.
    pub hosts: Vec<HostId>,
    /// Of the first so many the least loaded one is tried first; the others follow in their order.
    pub spread: usize,
}

impl Candidates {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }
}

impl From<Vec<HostId>> for Candidates {
    /// To be tried in this order.
    fn from(hosts: Vec<HostId>) -> Self {
        Self { hosts, spread: 0 }
    }
}

/// Largest share of any resource in use with the demand, in millionths; of devices that of all together. `load` in `lua/records.lua` says the same, to the bit.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "as Lua counts"
)]
pub fn load(capacity: &Resources, used: &Resources, demand: &Resources) -> u64 {
    let counts = |(name, _): &(&str, u64)| !is_of_device(name);
    let share = |(name, capacity): (&str, u64)| {
        let wanted = used.milli(name).saturating_add(demand.milli(name));
        (wanted as f64 / capacity.max(1) as f64 * 1_000_000.0).floor() as u64
    };
    capacity.iter().filter(counts).map(share).max().unwrap_or(0)
}
