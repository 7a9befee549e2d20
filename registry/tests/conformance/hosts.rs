//! What every registry must do with hosts: their leases, their lives, and what they held.

use crate::requests::*;
use rustic_registry::{
    AdvanceOutcome, AgentKey, ClaimOutcome, Cordon, Epoch, HostState, OnDisconnect, Phase, ReleaseGuard,
    ReleaseOutcome, Renewal, View,
};
use std::time::Duration;

promises!(
    an_expired_lease_frees_its_agents_unless_they_may_outlive_it,
    a_life_that_follows_one_that_ended_gets_its_agents_back,
    a_life_that_may_still_last_keeps_its_agents_until_its_lease_ends,
    a_host_is_forgotten_when_its_lease_is_over_and_it_holds_nothing,
    a_host_is_drained_from_outside_until_that_is_lifted_or_it_begins_anew,
    a_store_that_was_lost_holds_claims_until_hosts_have_told_what_they_run,
    announcing_again_in_the_same_life_keeps_what_is_reserved,
    a_life_that_gets_its_name_back_has_its_claims_still,
    an_unknown_host_must_announce_and_a_superseded_one_must_end,
    a_departed_host_is_gone_unless_claims_hold_it,
);

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

async fn a_life_that_gets_its_name_back_has_its_claims_still(store: Store) {
    store.announce(&announce("h-0", "i", 5.0)).await.unwrap();
    claimed(&store, &key("g", "a"), "r", &["h-0"]).await;
    store.announce(&announce("h-0", "on another machine", 5.0)).await.unwrap();
    assert_eq!(used_slots(&store, "h-0").await, 0);
    store.announce(&announce("h-0", "i", 5.0)).await.unwrap();
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
