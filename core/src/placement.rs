//! Which hosts to try for an agent, best first. Pure: takes what is known and returns an order.

use crate::{
    apart::Spread,
    devices::is_of_device,
    ids::HostId,
    record::{HostRecord, text_enum},
    resources::Resources,
};
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
    /// Number of this placement, for round robin.
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

/// How good a host is; smaller is better. The order of the fields is the policy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Score {
    avoided: bool,
    /// Preferred labels that it does not have.
    lacking: usize,
    /// Agents from whom it would rather stay apart.
    together: u64,
    /// Largest share of any resource in use with the agent on it, in millionths.
    load: u64,
    ordinal: u32,
    host: HostId,
}

/// Those of the hosts, which all live, that take agents and seem to have room, best first.
pub fn place<'a>(policy: Policy, hosts: impl Iterator<Item = &'a HostRecord>, request: &Request<'_>) -> Candidates {
    let hosts: Vec<_> = hosts.collect();
    let spread = Spread::of(&hosts, request.demand);
    let open = |h: &&&HostRecord| {
        let has_room = h.capacity.fits(&h.used, request.demand) && spread.allows(h);
        h.takes_agents() && !request.excluded.contains(&h.host) && has_room
    };
    let load = |h: &HostRecord| match policy {
        Policy::LeastLoaded => load(&h.capacity, &h.used, request.demand),
        Policy::RoundRobin | Policy::Packed => 0,
    };
    let avoided = |h: &HostRecord| request.avoided.contains(&h.host);
    let lacking =
        |h: &HostRecord| request.preferred.iter().filter(|(name, value)| h.labels.get(*name) != Some(*value)).count();
    let score = |h: &HostRecord| Score {
        avoided: avoided(h),
        lacking: lacking(h),
        together: spread.together(h),
        load: load(h),
        ordinal: h.host.ordinal(),
        host: h.host.clone(),
    };
    let mut scores: Vec<_> = hosts.iter().filter(open).map(|h| score(h)).collect();
    scores.sort_unstable();
    // Those that are as good as the best but for their load.
    let best = scores.first().map_or((0, 0), |best| (best.lacking, best.together));
    let preferred = scores.partition_point(|score| !score.avoided && (score.lacking, score.together) == best);
    if policy == Policy::RoundRobin && preferred > 0 {
        scores[..preferred].rotate_left(request.turn % preferred);
    }
    scores.truncate(request.limit);
    let spread = match policy {
        Policy::LeastLoaded => preferred.min(request.limit),
        Policy::RoundRobin | Policy::Packed => 0,
    };
    Candidates { hosts: scores.into_iter().map(|score| score.host).collect(), spread }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HostLife, HostState, UnixMillis};
    use proptest::prelude::*;
    use std::time::Duration;

    fn host(id: &str, slots: u64, used: u64) -> HostRecord {
        HostRecord {
            host: id.parse().expect("valid"),
            incarnation: "i".parse().expect("valid"),
            address: String::new(),
            dns_name: String::new(),
            state: HostState::Ready,
            cordoned: false,
            capacity: Resources::parse(&format!("slots={slots}000")),
            used: Resources::parse(&format!("slots={used}000")),
            labels: BTreeMap::new(),
            version: String::new(),
            life: HostLife(1),
            renewals: 0,
            ttl: Duration::ZERO,
            lasts: Duration::ZERO,
            renewed: UnixMillis(0),
        }
    }

    fn order(policy: Policy, hosts: &[HostRecord], turn: usize) -> Vec<String> {
        order_without(&[], policy, hosts, turn)
    }

    fn order_without(avoided: &[&str], policy: Policy, hosts: &[HostRecord], turn: usize) -> Vec<String> {
        let (demand, excluded) = (Resources::one_slot(), BTreeSet::new());
        let avoided = avoided.iter().map(|host| host.parse().expect("valid")).collect();
        let preferred = BTreeMap::new();
        let request = Request {
            demand: &demand,
            excluded: &excluded,
            avoided: &avoided,
            preferred: &preferred,
            turn,
            limit: 10,
        };
        place(policy, hosts.iter(), &request).hosts.into_iter().map(|h| h.to_string()).collect()
    }

    #[test]
    fn packed_fills_the_lowest_ordinal_first() {
        let hosts = [host("h-2", 10, 0), host("h-0", 10, 10), host("h-1", 10, 9)];
        assert_eq!(order(Policy::Packed, &hosts, 0), ["h-1", "h-2"]);
    }

    #[test]
    fn the_least_loaded_host_comes_first_then_the_lowest_ordinal_then_the_id() {
        let hosts = [host("h-10", 10, 2), host("h-2", 10, 2), host("h-1", 10, 5), host("b", 10, 2), host("a", 10, 2)];
        assert_eq!(order(Policy::LeastLoaded, &hosts, 0), ["h-2", "h-10", "a", "b", "h-1"]);
    }

    #[test]
    fn load_is_a_share_and_not_a_count() {
        let hosts = [host("h-0", 10, 5), host("h-1", 100, 20)];
        assert_eq!(order(Policy::LeastLoaded, &hosts, 0), ["h-1", "h-0"]);
    }

    #[test]
    fn closed_and_full_hosts_are_left_out() {
        let cordoned = HostRecord { cordoned: true, ..host("h-0", 10, 0) };
        let draining = HostRecord { state: HostState::Draining, ..host("h-1", 10, 0) };
        assert_eq!(order(Policy::LeastLoaded, &[cordoned, draining, host("h-2", 1, 1)], 0), [""; 0]);
    }

    #[test]
    fn round_robin_takes_each_in_turn() {
        let hosts = [host("h-1", 10, 9), host("h-0", 10, 0), host("h-2", 10, 3)];
        assert_eq!(order(Policy::RoundRobin, &hosts, 0), ["h-0", "h-1", "h-2"]);
        assert_eq!(order(Policy::RoundRobin, &hosts, 4), ["h-1", "h-2", "h-0"]);
    }

    #[test]
    fn hosts_that_lacked_something_come_after_all_others() {
        let hosts = [host("h-0", 10, 0), host("h-1", 10, 3), host("h-2", 10, 5)];
        assert_eq!(order_without(&["h-0"], Policy::LeastLoaded, &hosts, 0), ["h-1", "h-2", "h-0"]);
        assert_eq!(order_without(&["h-0"], Policy::RoundRobin, &hosts, 1), ["h-2", "h-1", "h-0"]);
        assert_eq!(order_without(&["h-0", "h-1", "h-2"], Policy::Packed, &hosts, 1), ["h-0", "h-1", "h-2"]);
    }

    #[test]
    fn hosts_with_more_of_the_preferred_labels_come_first_and_the_least_loaded_of_these() {
        let labelled = |id: &str, used: u64, labels: &[(&str, &str)]| HostRecord {
            labels: labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            ..host(id, 10, used)
        };
        let hosts = [
            labelled("h-0", 0, &[]),
            labelled("h-1", 5, &[("zone", "a"), ("disk", "fast")]),
            labelled("h-2", 3, &[("zone", "a"), ("disk", "fast")]),
            labelled("h-3", 0, &[("zone", "a"), ("disk", "slow")]),
        ];
        let (demand, none) = (Resources::one_slot(), BTreeSet::new());
        let preferred = BTreeMap::from([("zone".to_owned(), "a".to_owned()), ("disk".to_owned(), "fast".to_owned())]);
        let request =
            Request { demand: &demand, excluded: &none, avoided: &none, preferred: &preferred, turn: 0, limit: 10 };
        let found = place(Policy::LeastLoaded, hosts.iter(), &request);
        let names: Vec<_> = found.hosts.iter().map(HostId::as_str).collect();
        assert_eq!((&names[..], found.spread), (&["h-2", "h-1", "h-3", "h-0"][..], 2));
    }

    proptest! {
        #[test]
        fn placing_one_by_one_keeps_equal_hosts_within_one_agent(count in 1usize..6, agents in 0usize..40) {
            let mut hosts: Vec<_> = (0..count).map(|n| host(&format!("h-{n}"), 100, 0)).collect();
            for _ in 0..agents {
                let best = order(Policy::LeastLoaded, &hosts, 0).remove(0);
                let chosen = hosts.iter_mut().find(|h| h.host.as_str() == best).expect("one of them");
                chosen.used.add(&Resources::one_slot());
            }
            let used: Vec<_> = hosts.iter().map(|h| h.used.milli("slots")).collect();
            let spread = used.iter().max().unwrap_or(&0) - used.iter().min().unwrap_or(&0);
            prop_assert!(spread <= 1000, "{used:?}");
        }

        #[test]
        fn the_order_of_what_is_known_does_not_matter(used in prop::collection::vec(0u64..10, 1..8)) {
            let hosts: Vec<_> = used.iter().enumerate().map(|(n, u)| host(&format!("h-{n}"), 10, *u)).collect();
            let mut reversed = hosts.clone();
            reversed.reverse();
            prop_assert_eq!(order(Policy::LeastLoaded, &hosts, 0), order(Policy::LeastLoaded, &reversed, 0));
        }
    }
}
