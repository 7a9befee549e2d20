//! Which hosts give agents away so that all are loaded alike, and which may get them. Pure: it is given what the registry holds.
//!
//! ```text
//!  quiet? ──▶ hosts by load ──▶ those above the least loaded one by more than the threshold, the most loaded first
//!                                    └─ an agent of them may go to a host that is less loaded with it than its host is now
//! ```
//!
//! Each move makes the larger of two loads smaller. So moves come to an end, and none is taken back, whatever the threshold.

use crate::fleet::FleetView;
use rustic_core::placement::load;
use rustic_registry::{FormerState, HostId, HostRecord, Resources};
use std::{cmp::Reverse, collections::BTreeSet, time::Duration};

/// The largest budget of a guild.
pub const MOST_MOVES: usize = 10_000;

/// When agents move, and how many.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rebalancing {
    /// Time between two moves.
    pub every: Duration,
    /// By how much the loads of two hosts may differ, as a part of one.
    pub threshold: f64,
    /// Most agents of one guild that move in an hour.
    pub per_guild: usize,
}

/// Whether the hosts and agents are at rest: no store settles, no host is lost, silent, or gives its agents away, and nobody waits for
/// room. Else what is seen is about to change, and moves of another kind come first.
pub fn is_quiet(view: &FleetView) -> bool {
    let gives_away = |h: &HostRecord| !h.takes_agents() && !h.used.is_empty();
    let leaves = view.registry.former.iter().any(|f| f.state == FormerState::Over);
    !view.registry.held
        && view.registry.pending == 0
        && view.silent.is_empty()
        && !leaves
        && !view.registry.hosts.iter().any(gives_away)
}

/// Hosts that are too loaded and have agents that may move, the most loaded first.
pub fn overloaded(view: &FleetView, threshold: f64) -> Vec<HostId> {
    let open = || view.alive().filter(|h| h.takes_agents());
    let least = open().map(load_of).min().unwrap_or_default();
    let above = |h: &&HostRecord| (load_of(h).saturating_sub(least)) as f64 > threshold * 1_000_000.0;
    let mut hosts: Vec<_> = open().filter(above).filter(|h| h.used.is_movable()).collect();
    hosts.sort_by_key(|h| (Reverse(load_of(h)), &h.host));
    hosts.into_iter().map(|h| h.host.clone()).collect()
}

/// Hosts that an agent with this demand may not move to from `host`: those that it would load as much as its host is loaded now.
pub fn no_better(view: &FleetView, host: &HostId, demand: &Resources) -> BTreeSet<HostId> {
    let now = view.registry.hosts.iter().find(|h| h.host == *host).map(load_of).unwrap_or_default();
    let with = |h: &HostRecord| load(&h.capacity, &h.used, demand);
    let hosts = view.registry.hosts.iter().filter(|h| h.host == *host || with(h) >= now);
    hosts.map(|h| h.host.clone()).collect()
}

fn load_of(host: &HostRecord) -> u64 {
    load(&host.capacity, &host.used, &Resources::default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes;
    use proptest::prelude::*;
    use rustic_registry::{HostState, HostsView};

    fn movable() -> Resources {
        let mut one = Resources::one_slot();
        one.allow_moves();
        one
    }

    fn host(n: usize, slots: u64, agents: u64) -> HostRecord {
        let mut used = Resources::default();
        (0..agents).for_each(|_| used.add(&movable()));
        fakes::host(&format!("h-{n}"), Resources::parse(&format!("slots={slots}000")), used)
    }

    fn view(hosts: Vec<HostRecord>) -> FleetView {
        FleetView { registry: HostsView { hosts, ..HostsView::default() }, silent: BTreeSet::new() }
    }

    fn names(hosts: impl IntoIterator<Item = HostId>) -> Vec<String> {
        hosts.into_iter().map(|host| host.to_string()).collect()
    }

    #[test]
    fn the_most_loaded_host_gives_first_and_one_without_agents_that_may_move_gives_none() {
        let fixed = fakes::host("h-9", Resources::parse("slots=10000"), Resources::parse("slots=10000"));
        let hosts = view(vec![host(0, 10, 2), host(1, 10, 5), host(2, 10, 9), host(3, 100, 20), fixed]);
        assert_eq!(names(overloaded(&hosts, 0.1)), ["h-2", "h-1"]);
        assert_eq!(names(overloaded(&hosts, 0.3)), ["h-2"]);
        assert_eq!(names(overloaded(&hosts, 0.7)), [""; 0]);
        let h = |n: usize| format!("h-{n}").parse().expect("an id");
        assert_eq!(names(no_better(&hosts, &h(1), &movable())), ["h-1", "h-2", "h-9"]);
    }

    #[test]
    fn nobody_moves_while_something_else_is_under_way() {
        let two = || vec![host(0, 10, 0), host(1, 10, 9)];
        let with = |change: &dyn Fn(&mut FleetView)| {
            let mut view = view(two());
            change(&mut view);
            is_quiet(&view)
        };
        assert!(with(&|_| {}));
        assert!(!with(&|view| view.registry.held = true));
        assert!(!with(&|view| view.registry.pending = 1));
        assert!(!with(&|view| _ = view.silent.insert("h-1".parse().expect("an id"))));
        assert!(!with(&|view| view.registry.hosts[1].cordoned = true));
        assert!(!with(&|view| view.registry.hosts[1].state = HostState::Draining));
        assert!(with(&|view| view.registry.hosts[0].cordoned = true), "one that is drained has nothing to give");
    }

    proptest! {
        #[test]
        fn moves_come_to_an_end_with_all_hosts_alike_as_far_as_agents_can_be_divided(
            sizes in prop::collection::vec((5u64..50, 0u64..50), 2..6),
            threshold in 0.0f64..0.5,
        ) {
            let hosts = sizes.iter().enumerate().map(|(n, (slots, used))| host(n, *slots, *used.min(slots)));
            let mut view = view(hosts.collect());
            let demand = movable();
            for _ in 0..2_000 {
                let all = view.clone();
                let mut moves = overloaded(&all, threshold).into_iter().filter_map(|from| {
                    let not = no_better(&all, &from, &demand);
                    let open = all.registry.hosts.iter().filter(|h| !not.contains(&h.host));
                    let to = open.min_by_key(|h| load(&h.capacity, &h.used, &demand))?;
                    Some((from, to.host.clone()))
                });
                let Some((from, to)) = moves.next() else {
                    let loads: Vec<_> = view.registry.hosts.iter().map(load_of).collect();
                    let one = view.registry.hosts.iter().map(|h| load(&h.capacity, &Resources::default(), &demand));
                    let most = loads.iter().max().unwrap_or(&0) - loads.iter().min().unwrap_or(&0);
                    let allowed = ((threshold * 1_000_000.0) as u64).max(one.max().unwrap_or(0));
                    prop_assert!(most <= allowed + 1, "{loads:?}");
                    return Ok(());
                };
                for host in &mut view.registry.hosts {
                    if host.host == from { host.used.take(&demand) }
                    if host.host == to { host.used.add(&demand) }
                }
            }
            prop_assert!(false, "it does not end");
        }
    }
}
