//! How many hosts are needed, and which agents may move so that fewer are. Pure: it is given what the registry holds.
//!
//! ```text
//!  wanted = used + waiting + warm hosts, in hosts ──┐
//!                                                   │
//!  more   = one more than there are, if an agent ───┼── the largest one
//!           waits for which none of them has room   │
//!                                                   │
//!  floor  = the highest ordinal that still holds ───┘
//!           agents which find no room below it, + 1
//! ```
//!
//! A StatefulSet loses its highest ordinal first. Below the floor Kubernetes would take a host whose agents have nowhere to
//! go, so that fewer are never asked for, however little the whole uses. Room is looked for agent by agent: two hosts with
//! half a gpu free each have none for an agent that needs a whole one.

use crate::fleet::FleetView;
use rustic_registry::{HostId, HostRecord, Resources, devices::is_of_device, resources::SLOTS};
use std::cmp::Reverse;

/// What the operator wants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Target {
    /// Slots that one host shall hold; none: as many as hosts announce.
    pub slots_per_host: Option<f64>,
    /// Hosts kept free beyond what is needed.
    pub warm_hosts: f64,
}

/// Slots of a host that nobody has announced yet, as `--max-agents` of agent-host.
pub const USUAL_SLOTS: f64 = 100.0;

/// A HorizontalPodAutoscaler leaves the number alone while what is wanted differs by no more than this part of it.
const TOLERANCE: f64 = 0.1;

/// Hosts that are needed for what is used and waited for, and those kept warm, wherever it is. `waiting` are the demands of
/// agents without room, as far as they were read; others count as one slot.
pub fn wanted(view: &FleetView, waiting: &[Resources], target: Target) -> f64 {
    let announced = alive(view).map(|h| amount(&h.capacity, SLOTS)).fold(0.0, f64::max);
    let announced = if announced > 0.0 { announced } else { USUAL_SLOTS };
    let per_host = target.slots_per_host.map_or(announced, |wanted| wanted.min(announced));
    let mut load = Resources::default();
    // What is used on hosts that are gone moves to others, and so is needed as well.
    view.registry.hosts.iter().map(|h| &h.used).chain(waiting).for_each(|used| load.add(used));
    let unread = view.registry.pending.saturating_sub(waiting.len() as u64) as f64;
    let share = |(name, load): (String, f64)| {
        let one = view.registry.hosts.iter().map(|h| amount(&h.capacity, &name)).fold(0.0, f64::max);
        // A host that shall hold fewer slots than it has shall be filled that much less in everything.
        let one = if name == SLOTS { per_host } else { one * per_host / announced };
        if one > 0.0 { load / one } else { 0.0 }
    };
    load.amounts().map(share).fold(0.0, f64::max) + unread / per_host + target.warm_hosts
}

/// Hosts that are wanted at least because an agent waits for which there is no room: one more than there are, and so many
/// more that an autoscaler does not take it for noise. None while everybody finds room, who then starts without help.
pub fn outgrown(view: &FleetView, waiting: &[Resources]) -> Option<f64> {
    let takes = alive(view).filter(|h| h.takes_agents());
    let hosts = alive(view).map(|h| h.host.ordinal() + 1).max().unwrap_or(0);
    let noise = (f64::from(hosts) * (1.0 + TOLERANCE)).floor();
    (!pack(takes, waiting)).then_some(noise + 1.0)
}

/// Hosts that hold agents although their ordinal is beyond what is wanted: the highest first, as they would go.
pub fn beyond(view: &FleetView, wanted: f64) -> Vec<HostId> {
    let mut hosts: Vec<_> =
        alive(view).filter(|h| f64::from(h.host.ordinal()) >= wanted.ceil() && holds(h)).collect();
    hosts.sort_by_key(|h| Reverse(h.host.ordinal()));
    hosts.into_iter().map(|h| h.host.clone()).collect()
}

/// The host to empty next, so that fewer are needed: the highest that holds agents, unless somebody waits for room.
pub fn topmost(view: &FleetView) -> Option<HostId> {
    let ready = alive(view).filter(|h| h.takes_agents() && holds(h));
    let top = ready.max_by_key(|h| h.host.ordinal())?;
    (view.registry.pending == 0 && !view.registry.held).then(|| top.host.clone())
}

/// Whether agents with these demands find room on hosts below `top`, all at once.
pub fn fit_below(view: &FleetView, top: &HostId, demands: &[Resources]) -> bool {
    pack(alive(view).filter(|h| h.takes_agents() && h.host.ordinal() < top.ordinal()), demands)
}

/// Whether these demands find room beside what is used, all at once. Largest first: a packing that this misses keeps a host
/// that could go, never the other way round.
fn pack<'a>(hosts: impl Iterator<Item = &'a HostRecord>, demands: &[Resources]) -> bool {
    let mut hosts: Vec<_> = hosts.map(|h| (&h.capacity, h.used.clone())).collect();
    hosts.sort_by_cached_key(|(capacity, used)| Reverse(fullness(capacity, used)));
    let mut demands: Vec<_> = demands.iter().collect();
    if let Some((capacity, _)) = hosts.first() {
        demands.sort_by_cached_key(|demand| Reverse(fullness(capacity, demand)));
    }
    demands.into_iter().all(|demand| {
        let place = |(capacity, used): &mut (&Resources, Resources)| {
            let takes = capacity.place(used, demand);
            takes.map(|takes| used.add(&takes)).is_some()
        };
        hosts.iter_mut().any(place)
    })
}

/// Hosts of the StatefulSet whose lease lasts. One without a number is none of them.
fn alive(view: &FleetView) -> impl Iterator<Item = &HostRecord> {
    view.alive().filter(|h| h.host.ordinal() != u32::MAX)
}

fn holds(host: &HostRecord) -> bool {
    host.used.iter().next().is_some()
}

/// The largest part of a capacity that is taken, in millionths.
fn fullness(capacity: &Resources, used: &Resources) -> u64 {
    let counts = |(name, _): &(&str, u64)| !is_of_device(name);
    capacity
        .iter()
        .filter(counts)
        .map(|(name, all)| used.milli(name).saturating_mul(1_000_000) / all.max(1))
        .max()
        .unwrap_or(0)
}

fn amount(resources: &Resources, name: &str) -> f64 {
    resources.amounts().find(|(known, _)| known == name).map_or(0.0, |(_, amount)| amount)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes;
    use rustic_registry::{HostState, HostsView, devices::Device};
    use std::collections::BTreeSet;

    fn resources(of: &[(&str, f64)]) -> Resources {
        let mut resources = Resources::default();
        of.iter().for_each(|(name, amount)| resources.set(name, *amount).expect("an amount"));
        resources
    }

    fn host(ordinal: u32, used: f64) -> HostRecord {
        let capacity = resources(&[(SLOTS, 10.0), ("licences", 2.0)]);
        fakes::host(&format!("agent-host-{ordinal}"), capacity, resources(&[(SLOTS, used)]))
    }

    fn view(hosts: Vec<HostRecord>, pending: u64) -> FleetView {
        let registry = HostsView { hosts, pending, ..HostsView::default() };
        FleetView { registry, silent: BTreeSet::new() }
    }

    const USUAL: Target = Target { slots_per_host: None, warm_hosts: 0.0 };

    fn named(host: Option<HostId>) -> Option<String> {
        host.map(|host| host.to_string())
    }

    fn slots(amount: f64) -> Resources {
        resources(&[(SLOTS, amount)])
    }

    #[test]
    fn what_runs_and_what_waits_is_needed_and_so_are_warm_hosts() {
        let two = view(vec![host(0, 5.0), host(1, 0.0)], 3);
        assert_eq!(wanted(&two, &vec![slots(1.0); 3], USUAL), 0.8);
        assert_eq!(wanted(&two, &[slots(4.0)], USUAL), 1.1, "two were not read");
        assert_eq!(wanted(&two, &[], Target { warm_hosts: 1.5, ..USUAL }), 2.3);
        assert_eq!(wanted(&two, &[], Target { slots_per_host: Some(5.0), ..USUAL }), 1.6, "over more hosts");
        assert_eq!(wanted(&two, &[], Target { slots_per_host: Some(50.0), ..USUAL }), 0.8, "a host has ten");
        assert_eq!(wanted(&view(vec![], 3), &[], USUAL), 0.03, "nobody announced anything");
    }

    #[test]
    fn the_scarcest_resource_counts() {
        let mut busy = host(0, 1.0);
        busy.used = resources(&[(SLOTS, 1.0), ("licences", 1.5)]);
        assert_eq!(
            wanted(&view(vec![busy.clone()], 0), &[], USUAL),
            0.75,
            "three quarters of a host's licences are used"
        );
        let waits = resources(&[(SLOTS, 1.0), ("licences", 2.0)]);
        assert_eq!(wanted(&view(vec![busy], 1), &[waits], USUAL), 1.75);
    }

    #[test]
    fn who_finds_no_room_asks_for_a_host_more_than_an_autoscaler_would_overlook() {
        let full = |n| view((0..n).map(|ordinal| host(ordinal, 10.0)).collect(), 1);
        assert_eq!(outgrown(&full(2), &[slots(1.0)]), Some(3.0));
        assert_eq!(outgrown(&full(10), &[slots(1.0)]), Some(12.0), "eleven are within its tolerance");
        assert_eq!(outgrown(&view(vec![], 1), &[slots(1.0)]), Some(1.0), "there is none yet");
        let room = view(vec![host(0, 10.0), host(1, 8.0)], 2);
        assert_eq!(outgrown(&room, &vec![slots(1.0); 2]), None, "they are about to start");
        assert_eq!(outgrown(&room, &vec![slots(1.0); 3]), Some(3.0));
        assert_eq!(outgrown(&room, &[]), None);
    }

    #[test]
    fn hosts_beyond_the_need_are_looked_at_from_the_highest() {
        let spread = view(vec![host(0, 3.0), host(1, 3.0), host(2, 0.0), host(3, 3.0), host(4, 1.0)], 0);
        let beyond: Vec<_> = beyond(&spread, 0.9).iter().map(ToString::to_string).collect();
        assert_eq!(beyond, ["agent-host-4", "agent-host-3", "agent-host-1"]);
    }

    #[test]
    fn the_highest_host_is_emptied_next_if_nobody_waits() {
        let next = |view: &FleetView| named(topmost(view));
        assert_eq!(next(&view(vec![host(0, 5.0), host(1, 3.0), host(2, 0.0)], 0)), Some("agent-host-1".to_owned()));
        assert_eq!(next(&view(vec![host(0, 5.0), host(1, 3.0)], 1)), None, "somebody waits");
        assert_eq!(next(&view(vec![host(0, 0.0)], 0)), None, "nothing runs");
    }

    #[test]
    fn room_is_looked_for_agent_by_agent() {
        let with = |ordinal, licences| HostRecord {
            used: resources(&[(SLOTS, 1.0), ("licences", licences)]),
            ..host(ordinal, 1.0)
        };
        let gpu = |amount| resources(&[(SLOTS, 1.0), ("licences", amount)]);
        let top = "agent-host-2".parse().expect("an id");
        let fragmented = view(vec![with(0, 1.2), with(1, 1.2), with(2, 1.2)], 0);
        assert!(!fit_below(&fragmented, &top, &[gpu(1.2)]), "0.8 and 0.8 are free, and not 1.2");
        assert!(fit_below(&fragmented, &top, &[gpu(0.4), gpu(0.4), gpu(0.8)]), "the largest first");
        assert!(!fit_below(&fragmented, &top, &[gpu(0.8), gpu(0.8), gpu(0.1)]), "all at once");
        let mut devices = view(vec![host(0, 1.0), host(1, 1.0), host(2, 1.0)], 0);
        for host in &mut devices.registry.hosts {
            let one = Device { id: "a".to_owned(), share: 1.0, memory: 0.0 };
            host.capacity.add_devices([&one]);
            host.used = host.capacity.place(&Resources::default(), &resources(&[("gpus", 0.6)])).expect("it fits");
        }
        let share = |amount| resources(&[(SLOTS, 1.0), ("gpus", amount)]);
        assert!(!fit_below(&devices, &top, &[share(0.6)]), "0.4 and 0.4 are free, each of a device of its own");
        assert!(fit_below(&devices, &top, &[share(0.4), share(0.1), share(0.3)]));
        let slots = view(vec![host(0, 9.0), host(1, 10.0), host(2, 2.0)], 0);
        assert!(fit_below(&slots, &top, &[resources(&[(SLOTS, 1.0)])]));
        assert!(!fit_below(&slots, &top, &vec![resources(&[(SLOTS, 1.0)]); 2]));
        let mut draining = view(vec![host(0, 0.0), host(2, 1.0)], 0);
        draining.registry.hosts[0].state = HostState::Draining;
        assert!(!fit_below(&draining, &top, &[resources(&[(SLOTS, 1.0)])]), "it takes nobody");
        let last = "agent-host-0".parse().expect("an id");
        assert!(!fit_below(&slots, &last, &[resources(&[(SLOTS, 1.0)])]), "there is nothing below");
        assert!(fit_below(&slots, &last, &[]));
    }
}
