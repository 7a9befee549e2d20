//! Which hosts' agents must be taken over, and when. Pure: told what the registry holds and its time.
//!
//! A host's agents are certainly gone when the lease that let them live has been over for the grace: the host has killed
//! them before (`agent-host/src/lease.rs`).

use rustic_registry::{HostId, HostsView, Incarnation, UnixMillis};
use std::{collections::BTreeMap, time::Duration};

/// Why agents of a host are taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Its lease is over: it is gone itself.
    Gone,
    /// It is back in another life, and the lease of the former one is over.
    FormerLife,
}

/// A host whose agents are to be taken over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// The host.
    pub host: HostId,
    /// Its life of now.
    pub incarnation: Incarnation,
    /// Why.
    pub cause: Cause,
}

/// What a replica remembers, so that hosts that came back are looked through once and not at every pass.
pub type Settled = BTreeMap<HostId, Incarnation>;

/// Hosts to look through, in order of their id.
pub fn losses(view: &HostsView, grace: Duration, settled: &Settled) -> Vec<Loss> {
    let over = |deadline: UnixMillis| u128::from(deadline.0) + grace.as_millis() <= u128::from(view.now.0);
    let cause = |h: &rustic_registry::HostRecord| {
        if over(h.deadline) {
            Some(Cause::Gone)
        } else if h.former_until.0 > 0 && over(h.former_until) && settled.get(&h.host) != Some(&h.incarnation) {
            Some(Cause::FormerLife)
        } else {
            None
        }
    };
    let hosts = view.hosts.iter().filter_map(|h| Some((h, cause(h)?)));
    hosts.map(|(h, cause)| Loss { host: h.host.clone(), incarnation: h.incarnation.clone(), cause }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustic_registry::{HostRecord, HostState, Resources};

    fn host(id: &str, deadline: u64, former_until: u64) -> HostRecord {
        HostRecord {
            host: id.parse().expect("an id"),
            incarnation: "now".parse().expect("an incarnation"),
            address: String::new(),
            dns_name: String::new(),
            state: HostState::Ready,
            cordoned: false,
            capacity: Resources::default(),
            used: Resources::default(),
            labels: BTreeMap::new(),
            version: String::new(),
            deadline: UnixMillis(deadline),
            former_until: UnixMillis(former_until),
        }
    }

    fn at(now: u64, hosts: Vec<HostRecord>, settled: &Settled) -> Vec<(String, Cause)> {
        let view = HostsView { now: UnixMillis(now), hosts, ..HostsView::default() };
        let losses = losses(&view, Duration::from_secs(2), settled);
        losses.into_iter().map(|loss| (loss.host.to_string(), loss.cause)).collect()
    }

    #[test]
    fn a_host_is_lost_when_lease_and_grace_are_over_and_not_before() {
        let none = Settled::new();
        assert_eq!(at(11_999, vec![host("a", 10_000, 0)], &none), []);
        assert_eq!(at(12_000, vec![host("a", 10_000, 0)], &none), [("a".to_owned(), Cause::Gone)]);
        assert_eq!(at(12_000, vec![host("a", 20_000, 0)], &none), []);
    }

    #[test]
    fn a_former_life_is_settled_once_when_its_own_lease_is_over() {
        let mut settled = Settled::new();
        let back = || vec![host("a", 30_000, 10_000)];
        assert_eq!(at(11_999, back(), &settled), []);
        assert_eq!(at(12_000, back(), &settled), [("a".to_owned(), Cause::FormerLife)]);
        settled.insert("a".parse().expect("an id"), "now".parse().expect("an incarnation"));
        assert_eq!(at(12_000, back(), &settled), []);
    }
}
