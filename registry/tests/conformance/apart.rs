//! What every registry must do for agents that stay apart: no two of them on one host, or in one zone, whoever claims them.

use crate::requests::*;
use rustic_registry::{
    Announce, AssignOutcome, Candidates, Claim, ClaimOutcome, IfFull, ReleaseGuard, Resources, View, apart::Firmness,
};
use std::sync::Arc;

promises!(
    agents_that_stay_apart_are_never_on_one_host,
    agents_that_stay_apart_across_zones_are_never_in_one,
    who_would_rather_stay_apart_is_taken_all_the_same,
    whoever_claims_at_once_stays_apart,
    who_waits_to_be_apart_keeps_no_room_from_others,
);

fn in_zone(id: &str, zone: &str, slots: f64) -> Announce {
    let mut request = announce(id, "i", slots);
    if !zone.is_empty() {
        request.capacity.add_label("zone", zone);
    }
    request
}

fn apart(agent: &str, across: &str, from: &str, firmness: Firmness, hosts: &[&str]) -> Claim {
    let mut demand = Resources::one_slot();
    demand.stay_apart(across, from, firmness);
    Claim { demand, ..claim(&key("g", agent), "r", "d", hosts) }
}

/// The host that an agent is given; `None`: there is no room.
async fn given(store: &Store, request: &Claim) -> Option<String> {
    match store.claim(request).await.unwrap() {
        ClaimOutcome::Claimed(claimed) => Some(claimed.host.to_string()),
        ClaimOutcome::NoRoom => None,
        other => panic!("{other:?}"),
    }
}

async fn agents_that_stay_apart_are_never_on_one_host(store: Store) {
    for id in ["h-0", "h-1"] {
        arrive(&store, &in_zone(id, "", 9.0)).await;
    }
    let hosts = ["h-0", "h-1"];
    let of = |agent: &str, from: &str| apart(agent, "", from, Firmness::Required, &hosts);
    assert_eq!(given(&store, &of("1", "guild a/g")).await.as_deref(), Some("h-0"));
    assert_eq!(given(&store, &of("2", "guild a/g")).await.as_deref(), Some("h-1"));
    assert_eq!(given(&store, &of("3", "guild a/g")).await, None);
    assert_eq!(given(&store, &of("4", "guild b/g")).await.as_deref(), Some("h-0"), "others do not count");
    let first = store.get(&key("g", "1"), View::Basic).await.unwrap().unwrap();
    store.release(&key("g", "1"), first.epoch, ReleaseGuard::Reaped).await.unwrap();
    assert_eq!(given(&store, &of("3", "guild a/g")).await.as_deref(), Some("h-0"));
}

async fn agents_that_stay_apart_across_zones_are_never_in_one(store: Store) {
    for (id, zone) in [("h-0", "a"), ("h-1", "a"), ("h-2", "b"), ("h-3", ""), ("h-4", "")] {
        arrive(&store, &in_zone(id, zone, 9.0)).await;
    }
    let hosts = ["h-0", "h-1", "h-2", "h-3", "h-4"];
    let of = |agent: &str| apart(agent, "zone", "name a/n", Firmness::Required, &hosts);
    let mut found = vec![];
    for agent in ["1", "2", "3", "4"] {
        found.push(given(&store, &of(agent)).await);
    }
    // Hosts without the label are one zone.
    assert_eq!(
        found,
        ["h-0", "h-2", "h-3"].map(|host| Some(host.to_owned())).into_iter().chain([None]).collect::<Vec<_>>()
    );
}

async fn who_would_rather_stay_apart_is_taken_all_the_same(store: Store) {
    arrive(&store, &in_zone("h-0", "a", 9.0)).await;
    for agent in ["1", "2"] {
        let request = apart(agent, "", "guild a/g", Firmness::Preferred, &["h-0"]);
        assert_eq!(given(&store, &request).await.as_deref(), Some("h-0"));
    }
}

async fn whoever_claims_at_once_stays_apart(store: Store) {
    for (id, zone) in [("h-0", "a"), ("h-1", "a"), ("h-2", "b"), ("h-3", "b")] {
        arrive(&store, &in_zone(id, zone, 9.0)).await;
    }
    let claims = (0..12).map(|n| {
        let store = Arc::clone(&store);
        // Each looks at the hosts in another order.
        let mut hosts = ["h-0", "h-1", "h-2", "h-3"];
        hosts.rotate_left(n % 4);
        let candidates = Candidates { hosts: hosts.map(host).to_vec(), spread: n % 5 };
        let request = apart(&n.to_string(), "zone", "group a/g", Firmness::Required, &[]);
        tokio::spawn(async move { store.claim(&Claim { candidates, ..request }).await.unwrap() })
    });
    let mut zones = vec![];
    for done in claims.collect::<Vec<_>>() {
        if let ClaimOutcome::Claimed(claimed) = done.await.unwrap() {
            zones.push(if claimed.host < host("h-2") { "a" } else { "b" });
        }
    }
    zones.sort_unstable();
    assert_eq!(zones, ["a", "b"]);
}

async fn who_waits_to_be_apart_keeps_no_room_from_others(store: Store) {
    arrive(&store, &in_zone("h-0", "a", 40.0)).await;
    assert!(given(&store, &apart("1", "zone", "guild a/g", Firmness::Required, &["h-0"])).await.is_some());
    for across in ["zone", ""] {
        let waits = apart(&format!("waits {across}"), across, "guild a/g", Firmness::Required, &["h-0"]);
        let waits = Claim { if_full: IfFull::Wait, ..waits };
        assert!(matches!(store.claim(&waits).await.unwrap(), ClaimOutcome::Waits | ClaimOutcome::Claimed(_)));
    }
    // Down to the last slot, and though more of them go past it than may overtake one that could use the room.
    let mut free = 0;
    while given(&store, &claim(&key("g", &format!("other {free}")), "r", "d", &["h-0"])).await.is_some() {
        free += 1;
    }
    assert!(free >= 38, "{free}");
    let waits = store.get(&key("g", "waits zone"), View::Basic).await.unwrap().unwrap();
    let place = store.assign(&waits.key, waits.epoch, &vec![host("h-0")].into()).await.unwrap();
    assert_eq!(place, AssignOutcome::NoRoom);
}
