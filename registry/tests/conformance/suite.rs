//! What every registry must do.

use crate::requests::*;
use rustic_registry::{
    AdvanceOutcome, AgentKey, ClaimOutcome, Claimed, Cordon, Epoch, EventId, ExitStatus, HostState, IfFull, Index,
    OnDisconnect, Phase, PlaceOutcome, Queue, Registry, ReleaseGuard, ReleaseOutcome, Renewal, Resources, View,
};
use std::{sync::Arc, time::Duration};

type Store = Arc<dyn Registry>;

/// Writes each promise once and runs it against both stores.
macro_rules! promises {
    ($($name:ident),+ $(,)?) => {
        mod in_memory { $(#[tokio::test] async fn $name() { super::$name(crate::requests::memory()).await })+ }
        mod in_redis { $(#[tokio::test] async fn $name() {
            let redis = crate::requests::TestRedis::start();
            super::$name(redis.registry()).await
        })+ }
    };
}

promises!(
    a_claim_takes_the_first_candidate_with_room,
    a_host_whose_lease_ran_out_gets_no_claims,
    a_draining_host_gets_no_claims,
    the_same_claim_again_answers_with_what_exists,
    the_same_id_with_another_digest_is_a_conflict,
    a_failed_agent_can_be_claimed_anew_but_not_by_a_retry_of_the_request_that_failed,
    epochs_grow_and_an_old_one_changes_nothing,
    stop_wins_over_every_other_phase,
    failed_gives_the_room_back_and_keeps_its_reason,
    release_frees_room_and_machine_id,
    release_guards_hold,
    an_expired_lease_frees_its_agents_unless_they_may_outlive_it,
    a_life_that_follows_one_that_ended_gets_its_agents_back,
    a_life_that_may_still_last_keeps_its_agents_until_its_lease_ends,
    an_agent_that_finds_no_room_waits_for_its_turn,
    an_agent_taken_off_its_host_waits_under_a_new_epoch,
    a_claim_that_nobody_accepts_is_found_by_its_age,
    a_host_is_forgotten_when_its_lease_is_over_and_it_holds_nothing,
    a_host_is_drained_from_outside_until_that_is_lifted_or_it_begins_anew,
    a_store_that_was_lost_holds_claims_until_hosts_have_told_what_they_run,
    announcing_again_in_the_same_life_keeps_what_is_reserved,
    an_unknown_host_must_announce_and_a_superseded_one_must_end,
    a_departed_host_is_gone_unless_claims_hold_it,
    the_epoch_counter_is_raised_to_what_hosts_saw,
    machine_ids_are_the_smallest_free_and_shared_past_255,
    lists_are_paged_and_filtered_by_index,
    documents_come_back_byte_for_byte,
    fractional_resources_are_reserved_exactly,
    ids_with_separators_do_not_collide,
    every_change_leaves_one_event,
    concurrent_claims_of_one_agent_make_one_claim,
);

async fn claimed(store: &Store, key: &AgentKey, request: &str, hosts: &[&str]) -> Claimed {
    match store.claim(&claim(key, request, "d", hosts)).await.unwrap() {
        ClaimOutcome::Claimed(claimed) => claimed,
        other => panic!("expected a claim, got {other:?}"),
    }
}

async fn used_slots(store: &Store, id: &str) -> u64 {
    let view = store.hosts().await.unwrap();
    view.hosts.iter().find(|h| h.host == host(id)).map(|h| h.used.milli("slots")).unwrap()
}

async fn phase(store: &Store, key: &AgentKey) -> Option<Phase> {
    store.get(key, View::Basic).await.unwrap().map(|r| r.phase)
}

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

async fn epochs_grow_and_an_old_one_changes_nothing(store: Store) {
    store.announce(&announce("h-0", "i", 5.0)).await.unwrap();
    let a = key("g", "a");
    let old = claimed(&store, &a, "r1", &["h-0"]).await.epoch;
    assert_eq!(store.release(&a, old, ReleaseGuard::Reaped).await.unwrap(), ReleaseOutcome::Released);
    let new = claimed(&store, &a, "r2", &["h-0"]).await.epoch;
    assert!(new > old);
    let moved = store.advance(&advance(&a, old, Phase::Running)).await.unwrap();
    assert_eq!(moved, AdvanceOutcome::Stale(new));
    assert_eq!(store.release(&a, old, ReleaseGuard::Reaped).await.unwrap(), ReleaseOutcome::Stale(new));
    assert_eq!(phase(&store, &a).await, Some(Phase::Starting));
    let gone = store.advance(&advance(&key("g", "b"), old, Phase::Running)).await.unwrap();
    assert_eq!(gone, AdvanceOutcome::Gone);
}

async fn stop_wins_over_every_other_phase(store: Store) {
    store.announce(&announce("h-0", "i", 5.0)).await.unwrap();
    let a = key("g", "a");
    let epoch = claimed(&store, &a, "r", &["h-0"]).await.epoch;
    store.advance(&advance(&a, epoch, Phase::Stopping)).await.unwrap();
    for phase in [Phase::Starting, Phase::Running, Phase::Restarting, Phase::Failed] {
        let outcome = store.advance(&advance(&a, epoch, phase)).await.unwrap();
        assert_eq!(outcome, AdvanceOutcome::Illegal(Phase::Stopping), "{phase}");
    }
    assert_eq!(store.advance(&advance(&a, epoch, Phase::Stopping)).await.unwrap(), AdvanceOutcome::Done);
    assert_eq!(store.claim(&claim(&a, "r2", "d", &["h-0"])).await.unwrap(), ClaimOutcome::Stopping);
}

async fn failed_gives_the_room_back_and_keeps_its_reason(store: Store) {
    store.announce(&announce("h-0", "i", 5.0)).await.unwrap();
    let a = key("g", "a");
    let epoch = claimed(&store, &a, "r", &["h-0"]).await.epoch;
    let failed = rustic_registry::Advance {
        reason: "spent".to_owned(),
        exit: Some(ExitStatus::Signal(9)),
        ..advance(&a, epoch, Phase::Failed)
    };
    for _ in 0..2 {
        assert_eq!(store.advance(&failed).await.unwrap(), AdvanceOutcome::Done);
    }
    assert_eq!(used_slots(&store, "h-0").await, 0);
    let record = store.get(&a, View::Basic).await.unwrap().unwrap();
    assert_eq!(record.reason, "spent");
    assert_eq!(record.last_exit.map(|e| e.status), Some(ExitStatus::Signal(9)));
    assert!(store.list(&Index::Host(host("h-0")), None, 10, View::Basic).await.unwrap().agents.is_empty());
}

async fn release_frees_room_and_machine_id(store: Store) {
    store.announce(&announce("h-0", "i", 5.0)).await.unwrap();
    let (a, b) = (key("g", "a"), key("g", "b"));
    let first = claimed(&store, &a, "r", &["h-0"]).await;
    assert_eq!(first.machine_id, 1);
    assert_eq!(claimed(&store, &b, "r", &["h-0"]).await.machine_id, 2);
    store.release(&a, first.epoch, ReleaseGuard::Reaped).await.unwrap();
    assert_eq!(store.release(&a, first.epoch, ReleaseGuard::Reaped).await.unwrap(), ReleaseOutcome::Gone);
    assert_eq!(used_slots(&store, "h-0").await, 1000);
    assert_eq!(claimed(&store, &key("g", "c"), "r", &["h-0"]).await.machine_id, 1);
}

async fn release_guards_hold(store: Store) {
    store.announce(&announce("h-0", "i", 5.0)).await.unwrap();
    let a = key("g", "a");
    let epoch = claimed(&store, &a, "r", &["h-0"]).await.epoch;
    let release = async |guard| store.release(&a, epoch, guard).await.unwrap();
    assert_eq!(release(ReleaseGuard::Unhosted).await, ReleaseOutcome::Guarded(Phase::Starting));
    store.advance(&advance(&a, epoch, Phase::Starting)).await.unwrap();
    assert_eq!(release(ReleaseGuard::Unaccepted).await, ReleaseOutcome::Guarded(Phase::Starting));
    store.advance(&advance(&a, epoch, Phase::Failed)).await.unwrap();
    assert_eq!(release(ReleaseGuard::Unhosted).await, ReleaseOutcome::Released);
    assert_eq!(used_slots(&store, "h-0").await, 0);

    let b = key("g", "b");
    let epoch = claimed(&store, &b, "r", &["h-0"]).await.epoch;
    let outcome = store.release(&b, epoch, ReleaseGuard::Unaccepted).await.unwrap();
    assert_eq!(outcome, ReleaseOutcome::Released);
}

async fn an_expired_lease_frees_its_agents_unless_they_may_outlive_it(store: Store) {
    store.announce(&announce("h-0", "i", 5.0)).await.unwrap();
    let (stops, keeps) = (key("g", "stops"), key("g", "keeps"));
    let epoch = claimed(&store, &stops, "r", &["h-0"]).await.epoch;
    let keep = rustic_registry::Claim { on_disconnect: OnDisconnect::Keep, ..claim(&keeps, "r", "d", &["h-0"]) };
    store.claim(&keep).await.unwrap();
    let release =
        async |key: &AgentKey, epoch, grace| store.release(key, epoch, ReleaseGuard::Expired(grace)).await.unwrap();
    let guarded = ReleaseOutcome::Guarded(Phase::Starting);
    assert_eq!(release(&stops, epoch, Duration::ZERO).await, guarded, "the lease holds");
    store.renew(&renew("h-0", "i", Duration::ZERO)).await.unwrap();
    assert_eq!(release(&stops, epoch, LONG).await, guarded, "not for long enough");
    assert_eq!(release(&keeps, Epoch(epoch.0 + 1), Duration::ZERO).await, guarded, "keep means keep");
    assert_eq!(release(&stops, epoch, Duration::ZERO).await, ReleaseOutcome::Released);
    assert_eq!(used_slots(&store, "h-0").await, 1000);
}

async fn a_life_that_follows_one_that_ended_gets_its_agents_back(store: Store) {
    store.announce(&announce("h-0", "old", 5.0)).await.unwrap();
    let (a, b) = (key("g", "a"), key("g", "b"));
    let epoch = claimed(&store, &a, "r", &["h-0"]).await.epoch;
    let stopping = claimed(&store, &b, "r", &["h-0"]).await.epoch;
    store.advance(&advance(&a, epoch, Phase::Running)).await.unwrap();
    store.advance(&advance(&b, stopping, Phase::Stopping)).await.unwrap();
    let announced = store.announce(&succeed("h-0", "old", "new", 5.0)).await.unwrap();
    assert_eq!(announced.returned, 1);
    let record = store.get(&a, View::Basic).await.unwrap().unwrap();
    assert_eq!((record.phase, record.incarnation, record.accepted), (Phase::Starting, Some(life("new")), None));
    assert!(record.epoch > epoch, "the former life is fenced");
    assert_eq!(phase(&store, &b).await, None, "stop wins");
    assert_eq!(used_slots(&store, "h-0").await, 1000);
    let again = store.announce(&succeed("h-0", "old", "new", 5.0)).await.unwrap();
    assert_eq!(again.returned, 0);
}

async fn a_life_that_may_still_last_keeps_its_agents_until_its_lease_ends(store: Store) {
    store.announce(&announce("h-0", "old", 5.0)).await.unwrap();
    let (a, b) = (key("g", "a"), key("g", "b"));
    let epoch = claimed(&store, &a, "r", &["h-0"]).await.epoch;
    let keep = rustic_registry::Claim { on_disconnect: OnDisconnect::Keep, ..claim(&b, "r", "d", &["h-0"]) };
    store.claim(&keep).await.unwrap();
    // Another process takes the name while the lease of the first one runs.
    let announced = store.announce(&succeed("h-0", "some other", "new", 5.0)).await.unwrap();
    assert_eq!((announced.returned, used_slots(&store, "h-0").await), (0, 0));
    let expired = ReleaseGuard::Expired(Duration::ZERO);
    assert!(matches!(store.release(&a, epoch, expired).await.unwrap(), ReleaseOutcome::Guarded(_)));
    claimed(&store, &key("g", "c"), "r", &["h-0"]).await;

    store.announce(&announce("h-1", "old", 5.0)).await.unwrap();
    let epoch = claimed(&store, &key("g", "d"), "r", &["h-1"]).await.epoch;
    let keep =
        rustic_registry::Claim { on_disconnect: OnDisconnect::Keep, ..claim(&key("g", "e"), "r", "d", &["h-1"]) };
    let ClaimOutcome::Claimed(kept) = store.claim(&keep).await.unwrap() else { panic!("a claim") };
    store.renew(&renew("h-1", "old", Duration::ZERO)).await.unwrap();
    store.announce(&announce("h-1", "new", 5.0)).await.unwrap();
    // Its lease was over: even an agent that outlives a silent host is free when the host is back in another life.
    for (agent, epoch) in [("d", epoch), ("e", kept.epoch)] {
        let unplaced = store.unplace(&unplace(&key("g", agent), epoch, expired, "its host is gone")).await.unwrap();
        assert_eq!(unplaced, ReleaseOutcome::Released, "{agent}");
    }
    assert_eq!(used_slots(&store, "h-1").await, 0, "what the old life held is not taken from the new one");
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

async fn an_agent_taken_off_its_host_waits_under_a_new_epoch(store: Store) {
    store.announce(&announce("h-0", "i", 5.0)).await.unwrap();
    let (a, b) = (key("g", "a"), key("g", "b"));
    let epoch = claimed(&store, &a, "r", &["h-0"]).await.epoch;
    store.advance(&advance(&a, epoch, Phase::Running)).await.unwrap();
    assert!(matches!(
        store.unplace(&unplace(&a, epoch, ReleaseGuard::Unaccepted, "")).await.unwrap(),
        ReleaseOutcome::Guarded(Phase::Running)
    ));
    assert_eq!(
        store.unplace(&unplace(&a, epoch, ReleaseGuard::Reaped, "it moves")).await.unwrap(),
        ReleaseOutcome::Released
    );
    let record = store.get(&a, View::Basic).await.unwrap().unwrap();
    assert_eq!((record.phase, record.reason.as_str(), record.pid), (Phase::Pending, "it moves", None));
    let late = store.advance(&advance(&a, epoch, Phase::Running)).await.unwrap();
    assert_eq!(late, AdvanceOutcome::Stale(record.epoch));
    assert_eq!(used_slots(&store, "h-0").await, 0);

    let epoch = claimed(&store, &b, "r", &["h-0"]).await.epoch;
    store.advance(&advance(&b, epoch, Phase::Stopping)).await.unwrap();
    store.unplace(&unplace(&b, epoch, ReleaseGuard::Reaped, "it moves")).await.unwrap();
    assert_eq!(phase(&store, &b).await, None, "stop wins");
}

async fn a_claim_that_nobody_accepts_is_found_by_its_age(store: Store) {
    store.announce(&announce("h-0", "i", 5.0)).await.unwrap();
    let (a, b) = (key("g", "a"), key("g", "b"));
    claimed(&store, &a, "r", &["h-0"]).await;
    let epoch = claimed(&store, &b, "r", &["h-0"]).await.epoch;
    store.advance(&advance(&b, epoch, Phase::Starting)).await.unwrap();
    let old = store.oldest(Queue::Unaccepted(Duration::ZERO), 0, 10, View::Basic).await.unwrap();
    assert_eq!(old.iter().map(|r| &r.key).collect::<Vec<_>>(), [&a]);
    assert_eq!(store.oldest(Queue::Unaccepted(LONG), 0, 10, View::Basic).await.unwrap(), []);
}

async fn a_host_is_forgotten_when_its_lease_is_over_and_it_holds_nothing(store: Store) {
    store.announce(&announce("h-0", "i", 5.0)).await.unwrap();
    let epoch = claimed(&store, &key("g", "a"), "r", &["h-0"]).await.epoch;
    let retire = async |grace| store.retire(&host("h-0"), &life("i"), grace).await.unwrap();
    assert!(!retire(Duration::ZERO).await, "it lives");
    store.renew(&renew("h-0", "i", Duration::ZERO)).await.unwrap();
    assert!(!retire(Duration::ZERO).await, "it holds an agent");
    store.unplace(&unplace(&key("g", "a"), epoch, ReleaseGuard::Expired(Duration::ZERO), "gone")).await.unwrap();
    assert!(!retire(LONG).await, "not for long enough");
    assert!(retire(Duration::ZERO).await);
    assert_eq!(store.hosts().await.unwrap().hosts, []);
}

async fn a_host_is_drained_from_outside_until_that_is_lifted_or_it_begins_anew(store: Store) {
    assert!(!store.cordon(&host("h-0"), Cordon::On).await.unwrap(), "nobody knows it");
    store.announce(&announce("h-0", "i", 5.0)).await.unwrap();
    assert!(store.cordon(&host("h-0"), Cordon::On).await.unwrap());
    store.renew(&renew("h-0", "i", LONG)).await.unwrap();
    store.announce(&announce("h-0", "i", 5.0)).await.unwrap();
    let state = async || store.hosts().await.unwrap().hosts[0].state;
    assert_eq!(state().await, HostState::Draining, "whatever the host says");
    assert_eq!(store.claim(&claim(&key("g", "a"), "r", "d", &["h-0"])).await.unwrap(), ClaimOutcome::NoRoom);
    store.cordon(&host("h-0"), Cordon::Off).await.unwrap();
    assert_eq!(state().await, HostState::Ready);
    store.cordon(&host("h-0"), Cordon::On).await.unwrap();
    store.announce(&announce("h-0", "next", 5.0)).await.unwrap();
    assert_eq!(state().await, HostState::Ready, "another life");
}

async fn a_store_that_was_lost_holds_claims_until_hosts_have_told_what_they_run(store: Store) {
    // What the host knows is the life of a store that is gone.
    let back = rustic_registry::Announce {
        knew: Some("a lost one".to_owned()),
        highest_epoch: Epoch(40),
        ..announce("h-0", "i", 5.0)
    };
    let generation = store.announce(&back).await.unwrap().generation;
    let (a, b) = (key("g", "a"), key("g", "b"));
    assert_eq!(store.claim(&claim(&b, "r", "d", &["h-0"])).await.unwrap(), ClaimOutcome::Held);
    let stale =
        rustic_registry::Advance { knew: Some("a lost one".to_owned()), ..advance(&a, Epoch(40), Phase::Running) };
    assert_eq!(store.advance(&stale).await.unwrap(), AdvanceOutcome::StoreLost);

    let told = restore(&a, Epoch(40), "h-0", "i", &generation);
    assert_eq!(store.restore(&told).await.unwrap(), AdvanceOutcome::Done);
    assert_eq!(store.restore(&told).await.unwrap(), AdvanceOutcome::Done, "once more changes nothing");
    assert_eq!(used_slots(&store, "h-0").await, 1000);
    let record = store.get(&a, View::Full).await.unwrap().unwrap();
    assert_eq!((record.phase, record.epoch, record.pid), (Phase::Running, Epoch(40), Some(42)));
    assert_eq!((record.machine_id, record.created.0, record.documents), (3, 77, Some(told.documents.clone())));
    let known =
        rustic_registry::Advance { knew: Some(generation.clone()), ..advance(&a, Epoch(40), Phase::Restarting) };
    assert_eq!(store.advance(&known).await.unwrap(), AdvanceOutcome::Done);
    // An older claim of the same agent gives way, and another life of the host has nothing to tell.
    let older = restore(&a, Epoch(39), "h-0", "i", &generation);
    assert_eq!(store.restore(&older).await.unwrap(), AdvanceOutcome::Stale(Epoch(40)));
    let other = restore(&b, Epoch(41), "h-0", "another life", &generation);
    assert_eq!(store.restore(&other).await.unwrap(), AdvanceOutcome::StoreLost);
}

async fn announcing_again_in_the_same_life_keeps_what_is_reserved(store: Store) {
    let first = store.announce(&announce("h-0", "i", 5.0)).await.unwrap();
    claimed(&store, &key("g", "a"), "r", &["h-0"]).await;
    let again = store.announce(&announce("h-0", "i", 5.0)).await.unwrap();
    assert_eq!((again.returned, again.generation), (0, first.generation));
    assert_eq!(used_slots(&store, "h-0").await, 1000);
}

async fn an_unknown_host_must_announce_and_a_superseded_one_must_end(store: Store) {
    assert_eq!(store.renew(&renew("h-0", "i", LONG)).await.unwrap(), Renewal::Unknown);
    let generation = store.announce(&announce("h-0", "i", 5.0)).await.unwrap().generation;
    assert_eq!(store.renew(&renew("h-0", "i", LONG)).await.unwrap(), Renewal::Held { generation });
    store.announce(&announce("h-0", "next", 5.0)).await.unwrap();
    assert_eq!(store.renew(&renew("h-0", "i", LONG)).await.unwrap(), Renewal::Superseded);
}

async fn a_departed_host_is_gone_unless_claims_hold_it(store: Store) {
    store.announce(&announce("h-0", "i", 5.0)).await.unwrap();
    store.depart(&host("h-0"), &life("another")).await.unwrap();
    let a = key("g", "a");
    let epoch = claimed(&store, &a, "r", &["h-0"]).await.epoch;
    store.depart(&host("h-0"), &life("i")).await.unwrap();
    assert_eq!(store.hosts().await.unwrap().hosts.len(), 1);
    assert_eq!(store.claim(&claim(&key("g", "b"), "r", "d", &["h-0"])).await.unwrap(), ClaimOutcome::NoRoom);
    store.release(&a, epoch, ReleaseGuard::Reaped).await.unwrap();
    store.depart(&host("h-0"), &life("i")).await.unwrap();
    assert_eq!(store.hosts().await.unwrap().hosts, []);
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

async fn machine_ids_are_the_smallest_free_and_shared_past_255(store: Store) {
    store.announce(&announce("h-0", "i", 1000.0)).await.unwrap();
    for n in 1..=257u32 {
        let id = claimed(&store, &key("g", &format!("a{n}")), "r", &["h-0"]).await.machine_id;
        assert_eq!(u32::from(id), if n <= 255 { n } else { n - 255 });
    }
    assert_eq!(claimed(&store, &key("other", "a"), "r", &["h-0"]).await.machine_id, 1);
}

async fn lists_are_paged_and_filtered_by_index(store: Store) {
    store.announce(&announce("h-0", "i", 10.0)).await.unwrap();
    store.announce(&announce("h-1", "i", 10.0)).await.unwrap();
    for n in 0..5 {
        let on = if n % 2 == 0 { "h-0" } else { "h-1" };
        claimed(&store, &key("g", &format!("a{n}")), "r", &[on]).await;
    }
    claimed(&store, &key("h", "a0"), "r", &["h-1"]).await;
    let mut seen = vec![];
    let mut after = None;
    loop {
        let page = store.list(&Index::All, after.as_ref(), 2, View::Basic).await.unwrap();
        assert!(page.agents.len() <= 2);
        seen.extend(page.agents.into_iter().map(|r| r.key.to_string()));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, ["g/a0", "g/a1", "g/a2", "g/a3", "g/a4", "h/a0"]);
    let count = async |index| store.list(&index, None, 100, View::Basic).await.unwrap().agents.len();
    assert_eq!(count(Index::Guild("g".parse().unwrap())).await, 5);
    assert_eq!(count(Index::Host(host("h-1"))).await, 3);
    assert_eq!(count(Index::Guild("none".parse().unwrap())).await, 0);
}

async fn documents_come_back_byte_for_byte(store: Store) {
    store.announce(&announce("h-0", "i", 5.0)).await.unwrap();
    let a = key("g", "a");
    let request = claim(&a, "r", "d", &["h-0"]);
    store.claim(&request).await.unwrap();
    assert_eq!(store.get(&a, View::Full).await.unwrap().unwrap().documents, Some(request.documents.clone()));
    assert_eq!(store.get(&a, View::Basic).await.unwrap().unwrap().documents, None);
    let spec_only = store.get(&a, View::Spec).await.unwrap().unwrap().documents.unwrap();
    assert_eq!((spec_only.spec, spec_only.launch.len()), (request.documents.spec, 0));
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

async fn ids_with_separators_do_not_collide(store: Store) {
    store.announce(&announce("h-0", "i", 5.0)).await.unwrap();
    let (a, b) = (key("g:a", "b"), key("g", "a:b"));
    claimed(&store, &a, "r", &["h-0"]).await;
    assert_eq!(store.get(&b, View::Basic).await.unwrap(), None);
    claimed(&store, &b, "r", &["h-0"]).await;
    let page = store.list(&Index::Guild("g".parse().unwrap()), None, 10, View::Basic).await.unwrap();
    assert_eq!(page.agents.len(), 1);
    assert_eq!(page.agents[0].key, b);
}

async fn every_change_leaves_one_event(store: Store) {
    store.announce(&announce("h-0", "i", 5.0)).await.unwrap();
    let a = key("g", "a");
    let epoch = claimed(&store, &a, "r", &["h-0"]).await.epoch;
    store.advance(&advance(&a, epoch, Phase::Running)).await.unwrap();
    store.advance(&advance(&a, epoch, Phase::Running)).await.unwrap();
    store.release(&a, epoch, ReleaseGuard::Reaped).await.unwrap();
    let (first, last) = store.events(&EventId::default(), 2).await.unwrap();
    let (rest, _) = store.events(&last, 10).await.unwrap();
    let phases: Vec<_> = first.iter().chain(&rest).map(|e| e.phase).collect();
    assert_eq!(phases, [Some(Phase::Starting), Some(Phase::Running), None]);
    assert!(first.iter().all(|e| e.key == a && e.epoch == epoch && e.host == Some(host("h-0"))));
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
