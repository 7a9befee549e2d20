//! Orders of hosts, by policy.

use super::*;
use crate::{HostLife, HostState, UnixMillis, devices::Device};
use proptest::prelude::*;
use std::{cell::Cell, time::Duration};

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
    let (demand, none) = (Resources::one_slot(), BTreeMap::new());
    let avoided = avoided.iter().map(|host| host.parse().expect("valid")).collect();
    let request = Request { avoided: &avoided, turn, ..request(&demand, &none) };
    let found = Ranking::of(policy, hosts).candidates(hosts, |_| true, &request);
    found.hosts.into_iter().map(|h| h.to_string()).collect()
}

const NOWHERE: &BTreeSet<HostId> = &BTreeSet::new();

fn request<'a>(demand: &'a Resources, preferred: &'a BTreeMap<String, String>) -> Request<'a> {
    Request { demand, excluded: NOWHERE, avoided: NOWHERE, preferred, turn: 0, limit: 10 }
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
fn round_robin_gives_those_after_a_full_host_no_more_than_others() {
    let mut hosts: Vec<_> = (0..4).map(|n| host(&format!("h-{n}"), 100, if n == 1 { 100 } else { 0 })).collect();
    let (demand, none) = (Resources::one_slot(), BTreeMap::new());
    let mut ranking = Ranking::of(Policy::RoundRobin, &hosts);
    let mut turn = 0;
    for _ in 0..30 {
        let found = ranking.candidates(&hosts, |_| true, &Request { turn, ..request(&demand, &none) });
        turn = ranking.turn_after(&found).expect("there is room");
        let at = ranking.position(&found.hosts[0]).expect("it is ranked");
        hosts[at].used.add(&demand);
        ranking.update(at, &hosts[at]);
    }
    let used: Vec<_> = hosts.iter().map(|h| h.used.milli("slots") / 1000).collect();
    assert_eq!(used, [10, 100, 10, 10]);
}

#[test]
fn hosts_that_lacked_something_come_after_all_others() {
    let hosts = [host("h-0", 10, 0), host("h-1", 10, 3), host("h-2", 10, 5)];
    assert_eq!(order_without(&["h-0"], Policy::LeastLoaded, &hosts, 0), ["h-1", "h-2", "h-0"]);
    assert_eq!(order_without(&["h-0"], Policy::RoundRobin, &hosts, 2), ["h-2", "h-1", "h-0"]);
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
    let demand = Resources::one_slot();
    let preferred = BTreeMap::from([("zone".to_owned(), "a".to_owned()), ("disk".to_owned(), "fast".to_owned())]);
    let ranking = Ranking::of(Policy::LeastLoaded, &hosts);
    let found = ranking.candidates(&hosts, |_| true, &request(&demand, &preferred));
    let names: Vec<_> = found.hosts.iter().map(HostId::as_str).collect();
    assert_eq!((&names[..], found.spread), (&["h-2", "h-1", "h-3", "h-0"][..], 2));
}

#[test]
fn choosing_looks_at_as_many_hosts_however_many_there_are() {
    let demand = Resources::one_slot();
    let none = BTreeMap::new();
    let request = Request { limit: 8, ..request(&demand, &none) };
    let looks = |policy: Policy, full: usize, hosts: usize| {
        let used = |n: usize| if n < full { 10 } else { n as u64 % 7 };
        let hosts: Vec<_> = (0..hosts).map(|n| host(&format!("h-{n}"), 10, used(n))).collect();
        let (ranking, looked) = (Ranking::of(policy, &hosts), Cell::new(0));
        let heard = |_: &HostRecord| {
            looked.set(looked.get() + 1);
            true
        };
        assert_eq!(ranking.candidates(&hosts, heard, &request).hosts.len(), 8.min(hosts.len() - full));
        looked.get()
    };
    for policy in Policy::ALL {
        let few = looks(*policy, 0, 100);
        assert!(few <= LOOKS, "{policy:?}: {few}");
        // Also where most hosts are full: those are passed over unseen.
        assert_eq!((looks(*policy, 0, 10_000), looks(*policy, 9_900, 10_000)), (few, few), "{policy:?}");
        assert_eq!(looks(*policy, 10_000, 10_000), 0, "{policy:?}");
    }
}

#[test]
fn who_needs_what_few_hosts_have_is_offered_those() {
    let plain = (0..1_000).map(|n| host(&format!("h-{n}"), 10, 0));
    let with = |n: usize, what: &str| HostRecord {
        capacity: Resources::parse(&format!("slots=10000;{what}")),
        ..host(&format!("s-{n}"), 10, 5)
    };
    let special = [with(1, "licences=1000"), with(2, "label:zone%3Da=1000000000"), with(3, "gpu%3Ax=1000")];
    let devices = [Device { id: "x".to_owned(), share: 1.0, memory: 1e9 }];
    let mut hosts: Vec<_> = plain.chain(special).collect();
    hosts[1_002].capacity.add_devices(&devices);
    let ranking = Ranking::of(Policy::LeastLoaded, &hosts);
    let none = BTreeMap::new();
    let found = |demand: &str| {
        let demand = Resources::parse(&format!("slots=1000;{demand}"));
        let found = ranking.candidates(&hosts, |_| true, &request(&demand, &none));
        found.hosts.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(found("licences=500"), ["s-1"]);
    assert_eq!(found("label:zone%3Da=1"), ["s-2"]);
    assert_eq!(found("gpus=500"), ["s-3"]);
    assert_eq!(found("gpu_memory=500"), ["s-3"]);
    assert_eq!(found("unheard-of=1"), [""; 0]);
}

proptest! {
    #[test]
    fn what_is_updated_is_as_if_it_were_ranked_anew(
        used in prop::collection::vec(0u64..=10, 1..40),
        changes in prop::collection::vec((0usize..40, 0u64..=10), 0..40),
        policy in prop::sample::select(Policy::ALL.to_vec()),
        turn in 0usize..50,
    ) {
        let mut hosts: Vec<_> = used.iter().enumerate().map(|(n, u)| host(&format!("h-{n}"), 10, *u)).collect();
        let mut ranking = Ranking::of(policy, &hosts);
        for (n, used) in changes.into_iter().filter(|(n, _)| *n < used.len()) {
            let at = ranking.position(&hosts[n].host).expect("it is ranked");
            hosts[at].used = Resources::parse(&format!("slots={used}000"));
            ranking.update(at, &hosts[at]);
        }
        let (demand, none) = (Resources::one_slot(), BTreeMap::new());
        let request = Request { turn, ..request(&demand, &none) };
        let anew = Ranking::of(policy, &hosts).candidates(&hosts, |_| true, &request);
        let open = hosts.iter().filter(|h| h.used.milli("slots") < 10_000).count();
        prop_assert_eq!(anew.hosts.len(), open.min(10));
        prop_assert_eq!(ranking.candidates(&hosts, |_| true, &request), anew);
    }

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
