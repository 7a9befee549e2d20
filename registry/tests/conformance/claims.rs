//! What every registry must do when an agent is claimed: who gets it, with what, and who does not.

use crate::requests::*;
use rustic_registry::{
    ClaimOutcome, Epoch, HostState, IfFull, Phase, PlaceOutcome, Queue, ReleaseGuard, ReleaseOutcome, Resources, View,
};
use std::time::Duration;

promises!(
    a_claim_takes_the_first_candidate_with_room,
    a_host_whose_lease_ran_out_gets_no_claims,
    a_draining_host_gets_no_claims,
    the_same_claim_again_answers_with_what_exists,
    the_same_id_with_another_digest_is_a_conflict,
    a_failed_agent_can_be_claimed_anew_but_not_by_a_retry_of_the_request_that_failed,
    concurrent_claims_of_one_agent_make_one_claim,
    an_agent_that_finds_no_room_waits_for_its_turn,
    fractional_resources_are_reserved_exactly,
    machine_ids_are_the_smallest_free_and_shared_past_255,
    the_epoch_counter_is_raised_to_what_hosts_saw,
);

async fn a_claim_takes_the_first_candidate_with_room(store: Store) {
    store.announce(&announce("h-0", "i", 1.0)).await.unwrap();
    store.announce(&announce("h-1", "i", 1.0)).await.unwrap();
    let (a, b, c) = (key("g", "a"), key("g", "b"), key("g", "c"));
    assert_eq!(claimed(&store, &a, "r", &["gone", "h-0", "h-1"]).await.host, host("h-0"));
    assert_eq!(claimed(&store, &b, "r", &["h-0", "h-1"]).await.host, host("h-1"));
    let full = store.claim(&claim(&c, "r", "d", &["h-0", "h-1"])).await.unwrap();
    assert_eq!(full, ClaimOutcome::NoRoom);
    assert_eq!(phase(&store, &c).await, None);
    let record = store.get(&a, View::Basic).await.unwrap().unwrap();
    assert_eq!((record.phase, record.name.as_str()), (Phase::Starting, "name of a"));
    assert_eq!(record.incarnation, Some(life("i")));
    assert_eq!(record.accepted, None);
}

async fn a_host_whose_lease_ran_out_gets_no_claims(store: Store) {
    store.announce(&announce("h-0", "i", 5.0)).await.unwrap();
    store.renew(&renew("h-0", "i", Duration::ZERO)).await.unwrap();
    let a = key("g", "a");
    assert_eq!(store.claim(&claim(&a, "r", "d", &["h-0"])).await.unwrap(), ClaimOutcome::NoRoom);
    store.renew(&renew("h-0", "i", LONG)).await.unwrap();
    claimed(&store, &a, "r", &["h-0"]).await;
}

async fn a_draining_host_gets_no_claims(store: Store) {
    store.announce(&announce("h-0", "i", 5.0)).await.unwrap();
    let draining = rustic_registry::Renew { state: HostState::Draining, ..renew("h-0", "i", LONG) };
    store.renew(&draining).await.unwrap();
    assert_eq!(store.claim(&claim(&key("g", "a"), "r", "d", &["h-0"])).await.unwrap(), ClaimOutcome::NoRoom);
    assert_eq!(store.hosts().await.unwrap().hosts[0].state, HostState::Draining);
}

async fn the_same_claim_again_answers_with_what_exists(store: Store) {
    store.announce(&announce("h-0", "i", 5.0)).await.unwrap();
    let a = key("g", "a");
    let first = claimed(&store, &a, "r1", &["h-0"]).await;
    for request in ["r1", "r2"] {
        match store.claim(&claim(&a, request, "d", &["h-0"])).await.unwrap() {
            ClaimOutcome::Exists(record) => assert_eq!(record.epoch, first.epoch),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(used_slots(&store, "h-0").await, 1000);
}

async fn the_same_id_with_another_digest_is_a_conflict(store: Store) {
    store.announce(&announce("h-0", "i", 5.0)).await.unwrap();
    let a = key("g", "a");
    claimed(&store, &a, "r", &["h-0"]).await;
    let other = store.claim(&claim(&a, "r", "other", &["h-0"])).await.unwrap();
    assert_eq!(other, ClaimOutcome::Conflict(Phase::Starting));
}

async fn a_failed_agent_can_be_claimed_anew_but_not_by_a_retry_of_the_request_that_failed(store: Store) {
    store.announce(&announce("h-0", "i", 5.0)).await.unwrap();
    let a = key("g", "a");
    let first = claimed(&store, &a, "r1", &["h-0"]).await;
    store.advance(&advance(&a, first.epoch, Phase::Failed)).await.unwrap();
    let retry = store.claim(&claim(&a, "r1", "d", &["h-0"])).await.unwrap();
    assert!(matches!(retry, ClaimOutcome::Exists(record) if record.phase == Phase::Failed));
    let second = claimed(&store, &a, "r2", &["h-0"]).await;
    assert!(second.epoch > first.epoch);
    assert_eq!(second.machine_id, first.machine_id);
    assert_eq!(used_slots(&store, "h-0").await, 1000);
}

async fn concurrent_claims_of_one_agent_make_one_claim(store: Store) {
    store.announce(&announce("h-0", "i", 50.0)).await.unwrap();
    let a = key("g", "a");
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..20 {
        let (store, request) = (store.clone(), claim(&a, &format!("r{n}"), "d", &["h-0"]));
        calls.spawn(async move { store.claim(&request).await.unwrap() });
    }
    let outcomes = calls.join_all().await;
    let made = outcomes.iter().filter(|o| matches!(o, ClaimOutcome::Claimed(_))).count();
    let exist = outcomes.iter().filter(|o| matches!(o, ClaimOutcome::Exists(_))).count();
    assert_eq!((made, exist), (1, 19));
    assert_eq!(used_slots(&store, "h-0").await, 1000);
}

async fn an_agent_that_finds_no_room_waits_for_its_turn(store: Store) {
    let waiting = |agent: &str, hosts: &[&str]| rustic_registry::Claim {
        if_full: IfFull::Wait,
        ..claim(&key("g", agent), "r", "d", hosts)
    };
    assert_eq!(store.claim(&waiting("a", &["h-0"])).await.unwrap(), ClaimOutcome::Waits);
    store.announce(&announce("h-0", "i", 1.0)).await.unwrap();
    assert_eq!(store.claim(&waiting("b", &["h-0"])).await.unwrap(), ClaimOutcome::Waits, "behind the first");
    assert!(matches!(store.claim(&waiting("a", &["h-0"])).await.unwrap(), ClaimOutcome::Exists(_)));
    let queue = store.oldest(Queue::Pending, 0, 10, View::Full).await.unwrap();
    let names: Vec<_> = queue.iter().map(|r| r.key.agent.to_string()).collect();
    assert_eq!(names, ["a", "b"]);
    assert!(queue[0].reason.contains("no host has room"), "{}", queue[0].reason);
    assert_eq!((queue[0].host.clone(), queue[0].machine_id, queue[1].machine_id), (None, 1, 2));
    assert_eq!(store.oldest(Queue::Pending, 1, 10, View::Basic).await.unwrap().len(), 1);

    let placed = store.place(&queue[0].key, queue[0].epoch, &[host("h-0")]).await.unwrap();
    let PlaceOutcome::Placed(placed) = placed else { panic!("{placed:?}") };
    assert!(placed.epoch > queue[0].epoch && placed.machine_id == 1);
    assert_eq!(store.place(&queue[0].key, queue[0].epoch, &[host("h-0")]).await.unwrap(), PlaceOutcome::Changed);
    assert_eq!(store.place(&queue[1].key, queue[1].epoch, &[host("h-0")]).await.unwrap(), PlaceOutcome::NoRoom);
    let stopped = store.release(&queue[1].key, queue[1].epoch, ReleaseGuard::Unhosted).await.unwrap();
    assert_eq!(stopped, ReleaseOutcome::Released);
    assert_eq!(store.oldest(Queue::Pending, 0, 10, View::Basic).await.unwrap(), []);
}

async fn fractional_resources_are_reserved_exactly(store: Store) {
    store.announce(&announce("h-0", "i", 100.0)).await.unwrap();
    let mut demand = Resources::one_slot();
    demand.set("cpus", 0.4).unwrap();
    let with = |n: u32| rustic_registry::Claim {
        demand: demand.clone(),
        ..claim(&key("g", &format!("a{n}")), "r", "d", &["h-0"])
    };
    for n in 0..10 {
        assert!(matches!(store.claim(&with(n)).await.unwrap(), ClaimOutcome::Claimed(_)), "agent {n}");
    }
    assert_eq!(store.claim(&with(10)).await.unwrap(), ClaimOutcome::NoRoom);
    let view = store.hosts().await.unwrap();
    assert_eq!(view.hosts[0].used.milli("cpus"), 4000);
}

async fn machine_ids_are_the_smallest_free_and_shared_past_255(store: Store) {
    store.announce(&announce("h-0", "i", 1000.0)).await.unwrap();
    for n in 1..=257u32 {
        let id = claimed(&store, &key("g", &format!("a{n}")), "r", &["h-0"]).await.machine_id;
        assert_eq!(u32::from(id), if n <= 255 { n } else { n - 255 });
    }
    assert_eq!(claimed(&store, &key("other", "a"), "r", &["h-0"]).await.machine_id, 1);
}

async fn the_epoch_counter_is_raised_to_what_hosts_saw(store: Store) {
    let seen = rustic_registry::Announce { highest_epoch: Epoch(1 << 50), ..announce("h-0", "i", 5.0) };
    store.announce(&seen).await.unwrap();
    assert_eq!(claimed(&store, &key("g", "a"), "r", &["h-0"]).await.epoch, Epoch((1 << 50) + 1));
    let seen = rustic_registry::Renew { highest_epoch: Epoch(1 << 51), ..renew("h-0", "i", LONG) };
    store.renew(&seen).await.unwrap();
    assert_eq!(claimed(&store, &key("g", "b"), "r", &["h-0"]).await.epoch, Epoch((1 << 51) + 1));
    // Nonsense must not stop all claims.
    let nonsense = rustic_registry::Renew { highest_epoch: Epoch(u64::MAX), ..renew("h-0", "i", LONG) };
    store.renew(&nonsense).await.unwrap();
    assert_eq!(claimed(&store, &key("g", "c"), "r", &["h-0"]).await.epoch, Epoch((1 << 51) + 2));
}
