//! What every registry must do with hosts: their leases, their processes, and what those held.

use crate::requests::*;
use rustic_registry::{
    AdvanceOutcome, Announce, AssignOutcome, ClaimOutcome, Cordon, FormerState, HostLife, HostState, IfFull, Phase,
    Queue, ReleaseGuard, ReleaseOutcome, Renew, Renewal, Retire, Stops, View,
};

promises!(
    every_announcement_gives_a_later_lease,
    a_renewal_counts_and_only_under_the_lease_of_now,
    an_unknown_host_must_announce_and_a_superseded_one_must_end,
    a_process_is_retired_only_as_it_was_seen,
    a_process_is_retired_only_in_the_life_of_the_store_in_which_it_was_seen,
    a_retired_process_is_heard_no_more_until_it_announces_itself,
    what_was_not_taken_meanwhile_is_its_own_again,
    agents_of_a_retired_host_are_taken_unless_they_outlive_its_lease,
    an_agent_that_outlives_its_lease_is_taken_once_another_process_has_the_name,
    a_superseded_process_keeps_its_agents_until_it_is_retired,
    a_superseded_process_is_retired_only_if_it_has_not_renewed_since_it_was_seen,
    a_process_that_gets_its_name_back_has_its_claims_still,
    a_process_that_follows_one_that_ended_gets_its_agents_back,
    agents_of_a_process_that_is_over_already_are_given_back_as_well,
    agents_of_a_process_between_are_not_given_back,
    a_process_that_is_over_is_forgotten_once_nothing_is_left_of_it,
    a_departed_host_is_gone_and_its_agents_are_others_to_take,
    a_host_that_departs_with_nothing_leaves_nothing,
    a_host_is_drained_from_outside_until_that_is_lifted_or_it_begins_anew,
    a_host_that_drains_itself_is_not_stopped_from_it,
    announcing_again_in_the_same_life_keeps_what_is_reserved,
    what_is_reserved_is_what_agents_take_and_an_audit_changes_nothing,
);

async fn every_announcement_gives_a_later_lease(store: Store) {
    let first = store.announce(&announce("h-0", "i", 5.0)).await.unwrap();
    let other = store.announce(&announce("h-1", "i", 5.0)).await.unwrap();
    let again = store.announce(&announce("h-0", "i", 5.0)).await.unwrap();
    assert!(first.life < other.life && other.life < again.life);
    assert!(first.store_life == other.store_life && other.store_life == again.store_life);
    let seen = Announce { highest_life: HostLife(1000), ..announce("h-2", "i", 5.0) };
    assert_eq!(store.announce(&seen).await.unwrap().life, HostLife(1001));
    let record = &store.hosts().await.unwrap().hosts[0];
    assert_eq!((record.life, record.renewals, record.ttl, record.lasts), (again.life, 0, TTL, LASTS));
}

async fn a_renewal_counts_and_only_under_the_lease_of_now(store: Store) {
    let first = arrive(&store, &announce("h-0", "i", 5.0)).await;
    assert!(is_held(&store, &renew("h-0", "i", &first)).await);
    assert!(is_held(&store, &renew("h-0", "i", &first)).await);
    let renewals = async || store.hosts().await.unwrap().hosts[0].renewals;
    assert_eq!(renewals().await, 2);
    // The answer to this one was lost: what the host knows is the former lease.
    let second = store.announce(&announce("h-0", "i", 5.0)).await.unwrap();
    assert_eq!(renewals().await, 0);
    assert_eq!(store.renew(&renew("h-0", "i", &first)).await.unwrap(), Renewal::StoreLost);
    let made_up = Renew { life: HostLife(second.life.0 + 1), ..renew("h-0", "i", &second) };
    assert_eq!(store.renew(&made_up).await.unwrap(), Renewal::StoreLost);
    assert_eq!(renewals().await, 0, "nothing of these counts");
    assert!(is_held(&store, &renew("h-0", "i", &second)).await);
}

async fn an_unknown_host_must_announce_and_a_superseded_one_must_end(store: Store) {
    let lease = arrive(&store, &announce("h-0", "i", 5.0)).await;
    assert_eq!(store.renew(&renew("h-1", "i", &lease)).await.unwrap(), Renewal::Unknown);
    let elsewhere = Renew { store_life: store_life("elsewhere.1"), ..renew("h-0", "i", &lease) };
    assert_eq!(store.renew(&elsewhere).await.unwrap(), Renewal::StoreLost);
    let held = Renewal::Held { cordoned: false, stops: Stops(0), highest_epoch: lease.highest_epoch };
    assert_eq!(store.renew(&renew("h-0", "i", &lease)).await.unwrap(), held);
    store.announce(&announce("h-0", "next", 5.0)).await.unwrap();
    assert_eq!(store.renew(&renew("h-0", "i", &lease)).await.unwrap(), Renewal::Superseded);
    assert_eq!(former(&store, "h-0", "i").await, Some(FormerState::Silent));
}

async fn a_process_is_retired_only_as_it_was_seen(store: Store) {
    let lease = arrive(&store, &announce("h-0", "i", 5.0)).await;
    store.renew(&renew("h-0", "i", &lease)).await.unwrap();
    let before = seen(&store, "h-0", "i").await;
    assert_eq!(before.seen, (lease.life, 1));
    store.renew(&renew("h-0", "i", &lease)).await.unwrap();
    assert!(!store.retire(&before).await.unwrap(), "it renewed in between, and wins");
    let now = seen(&store, "h-0", "i").await;
    let (life, renewals) = now.seen;
    for wrong in [(life, renewals + 1), (HostLife(life.0 - 1), renewals), Retire::HOLDS_NO_LEASE] {
        assert!(!store.retire(&Retire { seen: wrong, ..now.clone() }).await.unwrap(), "{wrong:?}");
    }
    assert!(!store.retire(&Retire { incarnation: crate::requests::life("next"), ..now.clone() }).await.unwrap());
    assert!(!store.retire(&Retire { host: host("h-1"), ..now.clone() }).await.unwrap());
    let again = arrive(&store, &announce("h-0", "i", 5.0)).await;
    assert!(!store.retire(&now).await.unwrap(), "it has another lease");
    assert!(is_held(&store, &renew("h-0", "i", &again)).await);
    let now = seen(&store, "h-0", "i").await;
    assert!(store.retire(&now).await.unwrap());
    assert_eq!(store.hosts().await.unwrap().hosts, []);
    assert!(!store.retire(&now).await.unwrap(), "once is enough");
}

async fn a_process_is_retired_only_in_the_life_of_the_store_in_which_it_was_seen(store: Store) {
    arrive(&store, &announce("h-0", "i", 5.0)).await;
    let elsewhere = Retire { store_life: store_life("elsewhere.1"), ..seen(&store, "h-0", "i").await };
    assert!(!store.retire(&elsewhere).await.unwrap());
    arrive(&store, &announce("h-0", "next", 5.0)).await;
    let elsewhere = Retire { store_life: store_life("elsewhere.1"), ..seen(&store, "h-0", "i").await };
    assert!(!store.retire(&elsewhere).await.unwrap(), "nor as a former process");
    assert_eq!(former(&store, "h-0", "i").await, Some(FormerState::Silent));
}

async fn a_retired_process_is_heard_no_more_until_it_announces_itself(store: Store) {
    let lease = arrive(&store, &announce("h-0", "i", 5.0)).await;
    let (a, waits) = (key("g", "a"), key("g", "waits"));
    let epoch = claimed(&store, &a, "r", &["h-0"]).await.epoch;
    store.advance(&advance(&a, epoch, Phase::Running)).await.unwrap();
    assert!(retire(&store, "h-0", "i").await);
    assert_eq!(former(&store, "h-0", "i").await, Some(FormerState::Over));
    let view = store.hosts().await.unwrap();
    assert!(view.is_over(&host("h-0"), &life("i")) && !view.is_over(&host("h-0"), &life("next")));

    assert_eq!(store.renew(&renew("h-0", "i", &lease)).await.unwrap(), Renewal::Retired);
    for phase in [Phase::Running, Phase::Restarting, Phase::Stopping, Phase::Failed] {
        assert_eq!(store.advance(&advance(&a, epoch, phase)).await.unwrap(), AdvanceOutcome::Retired, "{phase}");
    }
    assert_eq!(phase(&store, &a).await, Some(Phase::Running));
    let report = restore(&a, epoch, "h-0", "i", &lease.store_life);
    assert_eq!(store.restore(&report).await.unwrap(), AdvanceOutcome::StoreLost, "it is not known");
    assert_eq!(store.claim(&claim(&key("g", "b"), "r", "d", &["h-0"])).await.unwrap(), ClaimOutcome::NoRoom);
    let wait = rustic_registry::Claim { if_full: IfFull::Wait, ..claim(&waits, "r", "d", &["h-0"]) };
    assert_eq!(store.claim(&wait).await.unwrap(), ClaimOutcome::Waits);
    let waiting = store.oldest(Queue::Pending, 0, 1, View::Basic).await.unwrap().remove(0);
    let placed = store.assign(&waits, waiting.epoch, &vec![host("h-0")].into()).await.unwrap();
    assert_eq!(placed, AssignOutcome::NoRoom);
    assert!(!store.cordon(&host("h-0"), Cordon::On).await.unwrap());
}

async fn what_was_not_taken_meanwhile_is_its_own_again(store: Store) {
    arrive(&store, &announce("h-0", "i", 5.0)).await;
    let (taken, left) = (key("g", "taken"), key("g", "left"));
    let epoch = claimed(&store, &taken, "r", &["h-0"]).await.epoch;
    let kept = claimed(&store, &left, "r", &["h-0"]).await.epoch;
    assert!(retire(&store, "h-0", "i").await);
    assert_eq!(take(&store, &taken, epoch).await, ReleaseOutcome::Released);
    let lease = store.announce(&announce("h-0", "i", 5.0)).await.unwrap();
    assert_eq!(former(&store, "h-0", "i").await, None);
    assert_eq!(used_slots(&store, "h-0").await, 1000);
    assert_eq!(store.advance(&advance(&left, kept, Phase::Running)).await.unwrap(), AdvanceOutcome::Done);
    assert_eq!(take(&store, &left, kept).await, ReleaseOutcome::Guarded(Phase::Running), "it lives again");
    let late = store.advance(&advance(&taken, epoch, Phase::Running)).await.unwrap();
    assert!(matches!(late, AdvanceOutcome::Stale(now) if now > epoch), "{late:?}");
    assert!(is_held(&store, &renew("h-0", "i", &lease)).await);
}

async fn agents_of_a_retired_host_are_taken_unless_they_outlive_its_lease(store: Store) {
    arrive(&store, &announce("h-0", "i", 5.0)).await;
    let (stops, keeps, fails) = (key("g", "stops"), key("g", "keeps"), key("g", "fails"));
    let stop = claimed(&store, &stops, "r", &["h-0"]).await.epoch;
    let keep = claimed_to_keep(&store, &keeps, &["h-0"]).await.epoch;
    let fail = claimed(&store, &fails, "r", &["h-0"]).await.epoch;
    store.advance(&advance(&fails, fail, Phase::Failed)).await.unwrap();
    let guarded = ReleaseOutcome::Guarded(Phase::Starting);
    assert_eq!(take(&store, &stops, stop).await, guarded, "the lease holds");
    assert!(retire(&store, "h-0", "i").await);
    assert_eq!(take(&store, &keeps, keep).await, guarded, "keep means keep");
    assert_eq!(take(&store, &fails, fail).await, ReleaseOutcome::Guarded(Phase::Failed), "it has no process");
    assert_eq!(take(&store, &stops, stop).await, ReleaseOutcome::Released);
    let record = store.get(&stops, View::Basic).await.unwrap().unwrap();
    assert_eq!(
        (record.phase(), record.host(), record.condition.clone()),
        (Phase::Pending, None, Some(moves("its host is gone")))
    );

    // A stop that its host cannot confirm any more ends the same way.
    arrive(&store, &announce("h-0", "i", 5.0)).await;
    let epoch = claimed(&store, &key("g", "s"), "r", &["h-0"]).await.epoch;
    let ended = async || store.release(&key("g", "s"), epoch, ReleaseGuard::Ended).await.unwrap();
    assert_eq!(ended().await, guarded);
    assert!(retire(&store, "h-0", "i").await);
    assert_eq!(ended().await, ReleaseOutcome::Released);
}

async fn an_agent_that_outlives_its_lease_is_taken_once_another_process_has_the_name(store: Store) {
    arrive(&store, &announce("h-0", "i", 5.0)).await;
    arrive(&store, &announce("h-1", "i", 5.0)).await;
    let a = key("g", "a");
    let epoch = claimed_to_keep(&store, &a, &["h-0"]).await.epoch;
    assert!(retire(&store, "h-0", "i").await);
    let guarded = ReleaseOutcome::Guarded(Phase::Starting);
    assert_eq!(take(&store, &a, epoch).await, guarded);
    assert!(!store.forget(&host("h-0"), &life("i")).await.unwrap());
    arrive(&store, &announce("h-0", "next", 5.0)).await;
    assert_eq!(take(&store, &a, epoch).await, ReleaseOutcome::Released);
    assert!(store.forget(&host("h-0"), &life("i")).await.unwrap());
}

async fn a_superseded_process_keeps_its_agents_until_it_is_retired(store: Store) {
    let lease = arrive(&store, &announce("h-0", "old", 5.0)).await;
    let (a, b) = (key("g", "a"), key("g", "b"));
    let stop = claimed(&store, &a, "r", &["h-0"]).await.epoch;
    let keep = claimed_to_keep(&store, &b, &["h-0"]).await.epoch;
    // Another process takes the name while the lease of the first one runs.
    let announced = store.announce(&succeed("h-0", "some other", "new", 5.0)).await.unwrap();
    assert_eq!((announced.returned, used_slots(&store, "h-0").await), (0, 0));
    let silent = store.hosts().await.unwrap().former.remove(0);
    assert_eq!((silent.state, silent.lasts, silent.renewal), (FormerState::Silent, LASTS, (lease.life, 0)));
    for (agent, epoch) in [(&a, stop), (&b, keep)] {
        assert_eq!(take(&store, agent, epoch).await, ReleaseOutcome::Guarded(Phase::Starting));
    }
    assert!(!store.forget(&host("h-0"), &life("old")).await.unwrap());
    claimed(&store, &key("g", "c"), "r", &["h-0"]).await;
    // It lives until it hears that it was superseded, and what it says of its agents is so.
    assert_eq!(store.advance(&advance(&a, stop, Phase::Running)).await.unwrap(), AdvanceOutcome::Done);

    assert!(retire(&store, "h-0", "old").await);
    assert_eq!(former(&store, "h-0", "old").await, Some(FormerState::Over));
    assert_eq!(store.advance(&advance(&a, stop, Phase::Running)).await.unwrap(), AdvanceOutcome::Retired);
    for (agent, epoch) in [(&a, stop), (&b, keep)] {
        assert_eq!(take(&store, agent, epoch).await, ReleaseOutcome::Released, "{agent}");
    }
    assert_eq!(used_slots(&store, "h-0").await, 1000, "what the old process held is not taken from the new one");
}

async fn a_superseded_process_is_retired_only_if_it_has_not_renewed_since_it_was_seen(store: Store) {
    let lease = arrive(&store, &announce("h-0", "old", 5.0)).await;
    claimed(&store, &key("g", "a"), "r", &["h-0"]).await;
    let before = seen(&store, "h-0", "old").await;
    store.renew(&renew("h-0", "old", &lease)).await.unwrap();
    arrive(&store, &announce("h-0", "new", 5.0)).await;
    assert!(!store.retire(&before).await.unwrap(), "it renewed, and lost its name since");
    assert_eq!(former(&store, "h-0", "old").await, Some(FormerState::Silent));
    // It has its name for a while, and another lease.
    let former_lease = seen(&store, "h-0", "old").await;
    arrive(&store, &announce("h-0", "old", 5.0)).await;
    arrive(&store, &announce("h-0", "new", 5.0)).await;
    assert!(!store.retire(&former_lease).await.unwrap());
    assert!(retire(&store, "h-0", "old").await);
}

async fn a_process_that_gets_its_name_back_has_its_claims_still(store: Store) {
    arrive(&store, &announce("h-0", "i", 5.0)).await;
    claimed(&store, &key("g", "a"), "r", &["h-0"]).await;
    arrive(&store, &announce("h-0", "on another machine", 5.0)).await;
    assert_eq!(used_slots(&store, "h-0").await, 0);
    arrive(&store, &announce("h-0", "i", 5.0)).await;
    assert_eq!(used_slots(&store, "h-0").await, 1000);
    assert_eq!(former(&store, "h-0", "i").await, None);
    assert_eq!(former(&store, "h-0", "on another machine").await, Some(FormerState::Silent));
}

async fn a_process_that_follows_one_that_ended_gets_its_agents_back(store: Store) {
    arrive(&store, &announce("h-0", "old", 5.0)).await;
    let (a, b) = (key("g", "a"), key("g", "b"));
    let epoch = claimed(&store, &a, "r", &["h-0"]).await.epoch;
    let stopping = claimed(&store, &b, "r", &["h-0"]).await.epoch;
    store.advance(&advance(&a, epoch, Phase::Running)).await.unwrap();
    store.advance(&advance(&b, stopping, Phase::Stopping)).await.unwrap();
    let announced = store.announce(&succeed("h-0", "old", "new", 5.0)).await.unwrap();
    assert_eq!((announced.returned, announced.stops), (1, Stops(1)));
    let record = store.get(&a, View::Basic).await.unwrap().unwrap();
    assert_eq!(
        (record.phase(), record.incarnation(), record.accepted()),
        (Phase::Starting, Some(&life("new")), None)
    );
    assert!(record.epoch > epoch, "the former process is fenced");
    assert_eq!(phase(&store, &b).await, None, "stop wins");
    assert_eq!(store.hosts().await.unwrap().former, []);
    assert_eq!(used_slots(&store, "h-0").await, 1000);
    let again = store.announce(&succeed("h-0", "old", "new", 5.0)).await.unwrap();
    assert_eq!(again.returned, 0);
    assert_eq!(store.get(&a, View::Basic).await.unwrap().unwrap().epoch, record.epoch);
}

async fn agents_of_a_process_that_is_over_already_are_given_back_as_well(store: Store) {
    arrive(&store, &announce("h-0", "old", 5.0)).await;
    let (a, b) = (key("g", "a"), key("g", "b"));
    claimed(&store, &a, "r", &["h-0"]).await;
    claimed_to_keep(&store, &b, &["h-0"]).await;
    assert!(retire(&store, "h-0", "old").await);
    assert_eq!(store.announce(&succeed("h-0", "old", "new", 5.0)).await.unwrap().returned, 2);
    assert_eq!(used_slots(&store, "h-0").await, 2000);
    assert_eq!(store.hosts().await.unwrap().former, []);

    // So are those of one that was superseded before it was known to have ended.
    arrive(&store, &announce("h-0", "third", 5.0)).await;
    assert_eq!(former(&store, "h-0", "new").await, Some(FormerState::Silent));
    assert_eq!(store.announce(&succeed("h-0", "new", "third", 5.0)).await.unwrap().returned, 2);
    assert_eq!(store.hosts().await.unwrap().former, []);
}

async fn agents_of_a_process_between_are_not_given_back(store: Store) {
    arrive(&store, &announce("h-0", "old", 5.0)).await;
    let first = claimed(&store, &key("g", "a"), "r", &["h-0"]).await.epoch;
    arrive(&store, &announce("h-0", "between", 5.0)).await;
    let second = claimed(&store, &key("g", "b"), "r", &["h-0"]).await.epoch;
    let third = store.announce(&succeed("h-0", "old", "third", 5.0)).await.unwrap();
    assert_eq!(third.returned, 1);
    assert!(store.get(&key("g", "a"), View::Basic).await.unwrap().unwrap().epoch > first);
    assert_eq!(store.get(&key("g", "b"), View::Basic).await.unwrap().unwrap().epoch, second);
    assert_eq!(former(&store, "h-0", "between").await, Some(FormerState::Silent));
    // A process does not follow itself.
    assert_eq!(store.announce(&succeed("h-0", "third", "third", 5.0)).await.unwrap().returned, 0);
    assert_eq!(used_slots(&store, "h-0").await, 1000);
}

async fn a_process_that_is_over_is_forgotten_once_nothing_is_left_of_it(store: Store) {
    arrive(&store, &announce("h-0", "i", 5.0)).await;
    let epoch = claimed(&store, &key("g", "a"), "r", &["h-0"]).await.epoch;
    let forget = async || store.forget(&host("h-0"), &life("i")).await.unwrap();
    assert!(!forget().await, "it lives");
    arrive(&store, &announce("h-0", "next", 5.0)).await;
    assert!(!forget().await, "it may live");
    assert!(retire(&store, "h-0", "i").await);
    assert!(!forget().await, "it holds an agent");
    take(&store, &key("g", "a"), epoch).await;
    claimed(&store, &key("g", "b"), "r", &["h-0"]).await;
    assert!(forget().await, "what the next process has is another matter");
    assert!(!forget().await);
    assert_eq!(store.hosts().await.unwrap().former, []);
}

async fn a_departed_host_is_gone_and_its_agents_are_others_to_take(store: Store) {
    let lease = arrive(&store, &announce("h-0", "i", 5.0)).await;
    let (a, b) = (key("g", "a"), key("g", "b"));
    let epoch = claimed(&store, &a, "r", &["h-0"]).await.epoch;
    let other = claimed(&store, &b, "r", &["h-0"]).await.epoch;
    store.depart(&host("h-0"), &life("another")).await.unwrap();
    assert_eq!(store.hosts().await.unwrap().hosts.len(), 1);
    store.depart(&host("h-0"), &life("i")).await.unwrap();
    let view = store.hosts().await.unwrap();
    assert!(view.hosts.is_empty() && view.is_over(&host("h-0"), &life("i")));
    assert_eq!(store.claim(&claim(&key("g", "c"), "r", "d", &["h-0"])).await.unwrap(), ClaimOutcome::NoRoom);
    assert_eq!(store.renew(&renew("h-0", "i", &lease)).await.unwrap(), Renewal::Retired);
    assert_eq!(take(&store, &a, epoch).await, ReleaseOutcome::Released);
    store.depart(&host("h-0"), &life("i")).await.unwrap();
    assert_eq!(store.release(&b, other, ReleaseGuard::Reaped).await.unwrap(), ReleaseOutcome::Released);
    assert!(store.forget(&host("h-0"), &life("i")).await.unwrap());
}

async fn a_host_that_departs_with_nothing_leaves_nothing(store: Store) {
    let lease = arrive(&store, &announce("h-0", "i", 5.0)).await;
    store.depart(&host("h-0"), &life("i")).await.unwrap();
    let view = store.hosts().await.unwrap();
    assert_eq!((view.hosts, view.former), (vec![], vec![]));
    assert_eq!(store.renew(&renew("h-0", "i", &lease)).await.unwrap(), Renewal::Unknown);
}

async fn a_host_is_drained_from_outside_until_that_is_lifted_or_it_begins_anew(store: Store) {
    assert!(!store.cordon(&host("h-0"), Cordon::On).await.unwrap(), "nobody knows it");
    let lease = arrive(&store, &announce("h-0", "i", 5.0)).await;
    assert!(store.cordon(&host("h-0"), Cordon::On).await.unwrap());
    let drained = async || {
        let host = store.hosts().await.unwrap().hosts.remove(0);
        assert_eq!(host.state, HostState::Ready, "what it says itself");
        assert_eq!(host.takes_agents(), !host.cordoned);
        host.cordoned
    };
    let held = Renewal::Held { cordoned: true, stops: Stops(0), highest_epoch: lease.highest_epoch };
    assert_eq!(store.renew(&renew("h-0", "i", &lease)).await.unwrap(), held);
    assert!(drained().await, "whatever the host says");
    let lease = arrive(&store, &announce("h-0", "i", 5.0)).await;
    assert!(drained().await, "it may not have heard of it yet");
    assert_eq!(store.claim(&claim(&key("g", "a"), "r", "d", &["h-0"])).await.unwrap(), ClaimOutcome::NoRoom);
    store.cordon(&host("h-0"), Cordon::Off).await.unwrap();
    assert!(!drained().await);
    let held = Renewal::Held { cordoned: false, stops: Stops(0), highest_epoch: lease.highest_epoch };
    assert_eq!(store.renew(&renew("h-0", "i", &lease)).await.unwrap(), held);
    arrive(&store, &Announce { cordoned: true, ..announce("h-0", "i", 5.0) }).await;
    assert!(!drained().await, "it has not heard yet that this was lifted");
    store.cordon(&host("h-0"), Cordon::On).await.unwrap();
    arrive(&store, &announce("h-0", "next", 5.0)).await;
    assert!(!drained().await, "another process");
    // A process that was retired brings its cordon, which the store does not have any more.
    assert!(retire(&store, "h-0", "next").await);
    arrive(&store, &Announce { cordoned: true, ..announce("h-0", "next", 5.0) }).await;
    assert!(drained().await);
}

async fn a_host_that_drains_itself_is_not_stopped_from_it(store: Store) {
    let lease = arrive(&store, &announce("h-0", "i", 5.0)).await;
    store.renew(&Renew { state: HostState::Draining, ..renew("h-0", "i", &lease) }).await.unwrap();
    store.cordon(&host("h-0"), Cordon::Off).await.unwrap();
    let host = store.hosts().await.unwrap().hosts.remove(0);
    assert_eq!((host.state, host.cordoned, host.takes_agents()), (HostState::Draining, false, false));
    assert_eq!(store.claim(&claim(&key("g", "a"), "r", "d", &["h-0"])).await.unwrap(), ClaimOutcome::NoRoom);
}

async fn announcing_again_in_the_same_life_keeps_what_is_reserved(store: Store) {
    let first = arrive(&store, &announce("h-0", "i", 5.0)).await;
    claimed(&store, &key("g", "a"), "r", &["h-0"]).await;
    let again = store.announce(&announce("h-0", "i", 5.0)).await.unwrap();
    assert_eq!((again.returned, again.store_life), (0, first.store_life));
    assert_eq!(used_slots(&store, "h-0").await, 1000);
}

async fn what_is_reserved_is_what_agents_take_and_an_audit_changes_nothing(store: Store) {
    arrive(&store, &announce("h-0", "i", 5.0)).await;
    let host = "h-0".parse().unwrap();
    assert_eq!(store.audit(&host).await.unwrap(), None);
    for agent in ["a", "b"] {
        claimed(&store, &key("g", agent), agent, &["h-0"]).await;
        assert_eq!(store.audit(&host).await.unwrap(), None);
    }
    store.announce(&announce("h-0", "i", 5.0)).await.unwrap();
    assert_eq!(store.audit(&host).await.unwrap(), None);
    assert_eq!(used_slots(&store, "h-0").await, 2000);
    assert_eq!(store.audit(&"nobody".parse().unwrap()).await.unwrap(), None);
}
