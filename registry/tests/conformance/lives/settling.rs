//! When a store in another life decides again: who is waited for, and who says that this is over.

use super::*;
use rustic_registry::{
    Advance, AdvanceOutcome, Announce, AssignOutcome, Bring, Claim, ClaimOutcome, Cordon, Epoch, FormerState,
    HostLife, IfFull, Phase, Queue, RegistryError, ReleaseGuard, ReleaseOutcome, Renewal, Retire, Stops, StoreLife,
    View,
};

both! {
    nothing_is_decided_until_hosts_have_reported
    a_new_store_settles_at_once_if_nobody_has_come_from_another_life
    only_who_has_watched_settles_a_store_to_which_somebody_came
    every_host_that_is_known_reports_or_is_retired
    hosts_that_were_brought_are_awaited_until_they_report_or_are_retired
    what_is_brought_into_the_life_it_was_seen_in_is_void
    what_is_brought_to_a_settled_store_holds_it_no_more_but_counts
    a_host_that_lives_is_waited_for_however_long_it_takes_to_report
    a_host_that_loses_its_name_before_it_has_reported_is_awaited
    a_host_that_has_ended_is_awaited_no_more
    what_was_seen_in_a_former_life_retires_nobody
    agents_are_not_given_back_while_hosts_report
    a_claim_of_somebody_who_has_not_restored_yet_waits
    a_host_brings_its_cordon_to_a_store_that_was_lost
}

async fn nothing_is_decided_until_hosts_have_reported(Run { store, restart, _redis, .. }: Run) {
    let lease = arrive(&store, &announce("h-0", "i", 5.0)).await;
    let (a, waits) = (key("g", "a"), key("g", "waits"));
    let claimed = claimed(&store, &a, "r", &["h-0"]).await;
    store.advance(&advance(&a, claimed.epoch, Phase::Running)).await.unwrap();
    let wait = Claim { if_full: IfFull::Wait, ..claim(&waits, "r", "d", &[]) };
    assert_eq!(store.claim(&wait).await.unwrap(), ClaimOutcome::Waits);
    let waiting = store.oldest(Queue::Pending, 0, 1, View::Basic).await.unwrap().remove(0).epoch;
    restart();
    assert_eq!(store.claim(&claim(&key("g", "b"), "r", "d", &["h-0"])).await.unwrap(), ClaimOutcome::Held);
    let view = store.hosts().await.unwrap();
    let after = view.store_life.unwrap();
    assert!(view.held && after != lease.store_life);
    for guard in [ReleaseGuard::Vouched, ReleaseGuard::Unaccepted, ReleaseGuard::Unassigned, ReleaseGuard::Ended] {
        let released = store.release(&a, claimed.epoch, guard).await;
        assert!(matches!(released, Err(RegistryError::Lost(_))), "{guard:?} {released:?}");
    }
    assert_eq!(store.assign(&waits, waiting, &vec![host("h-0")].into()).await.unwrap(), AssignOutcome::Held);
    assert!(matches!(store.bury(&key("g", "c")).await, Err(RegistryError::Lost(_))));
    let stale = Advance { store_life: Some(lease.store_life.clone()), ..advance(&a, claimed.epoch, Phase::Running) };
    assert_eq!(store.advance(&stale).await.unwrap(), AdvanceOutcome::StoreLost);
    assert_eq!(store.renew(&renew("h-0", "i", &lease)).await.unwrap(), Renewal::StoreLost);
    assert!(!settles(&store, true).await, "it has not come");

    let again = store.announce(&back("h-0", "i", &lease.store_life)).await.unwrap();
    assert_eq!(again.store_life, after);
    assert_eq!(store.restore(&restore(&a, claimed.epoch, "h-0", "i", &after)).await.unwrap(), AdvanceOutcome::Done);
    assert!(!settles(&store, true).await, "it has not said that this is all");
    assert!(is_held(&store, &report_all("h-0", "i", &again)).await);
    assert!(!settles(&store, false).await, "another host may be on its way whose coming was forgotten");
    assert!(settles(&store, true).await);
    assert!(!settles(&store, true).await, "once");
    let next = claimed_by(&store, &claim(&key("g", "b"), "r", "d", &["h-0"])).await;
    assert!(next.epoch > claimed.epoch, "epochs never go back");
}

async fn a_new_store_settles_at_once_if_nobody_has_come_from_another_life(Run { store, wipe, _redis, .. }: Run) {
    for life in ["first", "after all was lost"] {
        let view = store.hosts().await.unwrap();
        assert_eq!((view.store_life, view.held), (None, false), "{life}");
        assert!(!store.settle(&store_life("any"), true).await.unwrap(), "there is none that could settle");
        let lease = store.announce(&announce("h-0", "i", 5.0)).await.unwrap();
        assert_eq!(store.claim(&claim(&key("g", "a"), "r", "d", &["h-0"])).await.unwrap(), ClaimOutcome::Held);
        assert!(!store.settle(&store_life("any"), true).await.unwrap(), "this life only");
        assert!(settles(&store, false).await);
        claimed(&store, &key("g", "a"), "r", &["h-0"]).await;
        // Nothing begins anew with the next who comes.
        let next = store.announce(&back("h-1", "i", &store_life("elsewhere.1"))).await.unwrap();
        assert_eq!(next.store_life, lease.store_life);
        assert!(!store.hosts().await.unwrap().held);
        wipe();
    }
}

async fn only_who_has_watched_settles_a_store_to_which_somebody_came(Run { store, restart, wipe, _redis }: Run) {
    let elsewhere = store_life("elsewhere.1");
    store.announce(&announce("h-0", "i", 5.0)).await.unwrap();
    comes_and_reports(&store, "h-1", "i", &elsewhere).await;
    assert!(!settles(&store, false).await, "a host came");
    assert!(settles(&store, true).await);
    wipe();
    store.announce(&announce("h-0", "i", 5.0)).await.unwrap();
    store.bring(&bring(&elsewhere)).await.unwrap();
    assert!(!settles(&store, false).await, "an engine came");
    assert!(settles(&store, true).await);
    wipe();
    store.bring(&bring(&elsewhere)).await.unwrap();
    assert!(!settles(&store, false).await, "an engine came first");
    assert!(settles(&store, true).await);
    wipe();
    let lease = store.announce(&announce("h-0", "i", 5.0)).await.unwrap();
    restart();
    store.hosts().await.unwrap();
    comes_and_reports(&store, "h-0", "i", &lease.store_life).await;
    assert!(!settles(&store, false).await, "it was started again before it had settled");
    assert!(settles(&store, true).await);
}

async fn every_host_that_is_known_reports_or_is_retired(Run { store, restart, _redis, .. }: Run) {
    let before = arrive(&store, &announce("h-0", "i", 5.0)).await.store_life;
    arrive(&store, &announce("h-1", "i", 5.0)).await;
    let a = key("g", "a");
    let epoch = claimed(&store, &a, "r", &["h-1"]).await.epoch;
    restart();
    store.hosts().await.unwrap();
    comes_and_reports(&store, "h-0", "i", &before).await;
    assert!(!settles(&store, true).await, "the other one has not come");
    assert!(retire(&store, "h-1", "i").await);
    assert!(settles(&store, true).await);
    assert_eq!(take(&store, &a, epoch).await, ReleaseOutcome::Released);
    store.announce(&back("h-1", "i", &before)).await.unwrap();
    assert!(!store.hosts().await.unwrap().held, "it comes too late to be waited for");
}

async fn hosts_that_were_brought_are_awaited_until_they_report_or_are_retired(Run { store, wipe, _redis, .. }: Run) {
    let before = arrive(&store, &announce("h-0", "i", 5.0)).await.store_life;
    wipe();
    comes_and_reports(&store, "h-0", "i", &before).await;
    let hosts = ["h-0", "h-1", "h-2"].map(|id| (host(id), life("i"), LASTS)).to_vec();
    let seen = Bring { hosts, ..bring(&before) };
    for _ in 0..2 {
        store.bring(&seen).await.unwrap();
    }
    let view = store.hosts().await.unwrap();
    let awaited: Vec<_> = view.former.iter().map(|f| (f.host.as_str(), f.state, f.lasts, f.renewal)).collect();
    let as_brought = |id| (id, FormerState::Awaited, LASTS, Retire::HOLDS_NO_LEASE);
    assert_eq!(awaited, [as_brought("h-1"), as_brought("h-2")], "the first one is here");
    assert!(!settles(&store, true).await);
    assert_eq!(store.claim(&claim(&key("g", "a"), "r", "d", &["h-0"])).await.unwrap(), ClaimOutcome::Held);

    // The process that was seen, not another one with its name.
    store.announce(&announce("h-1", "next", 5.0)).await.unwrap();
    assert_eq!(former(&store, "h-1", "i").await, Some(FormerState::Awaited));
    let lease = store.announce(&back("h-1", "i", &before)).await.unwrap();
    assert_eq!(former(&store, "h-1", "i").await, None, "it has come");
    store.bring(&seen).await.unwrap();
    assert_eq!(former(&store, "h-1", "i").await, None, "it is here");
    assert!(retire(&store, "h-2", "i").await);
    assert!(!settles(&store, true).await, "one has not reported");
    assert!(is_held(&store, &report_all("h-1", "i", &lease)).await);
    assert!(settles(&store, true).await);
}

async fn what_is_brought_into_the_life_it_was_seen_in_is_void(Run { store, _redis, .. }: Run) {
    let lease = store.announce(&announce("h-0", "i", 5.0)).await.unwrap();
    let seen = Bring {
        hosts: vec![(host("h-1"), life("i"), LASTS)],
        stopped: vec![(key("g", "a"), Epoch(7))],
        highest_epoch: Epoch(1 << 52),
        highest_life: HostLife(1000),
        ..bring(&lease.store_life)
    };
    store.bring(&seen).await.unwrap();
    let view = store.hosts().await.unwrap();
    assert_eq!((view.former, view.stops), (vec![], Stops(0)));
    assert!(settles(&store, false).await);
    assert!(claimed(&store, &key("g", "a"), "r", &["h-0"]).await.epoch < Epoch(1 << 52));
    assert!(store.announce(&announce("h-1", "i", 5.0)).await.unwrap().life < HostLife(1000));
}

async fn what_is_brought_to_a_settled_store_holds_it_no_more_but_counts(Run { store, _redis, .. }: Run) {
    arrive(&store, &announce("h-0", "i", 5.0)).await;
    let seen = Bring {
        hosts: vec![(host("h-1"), life("i"), LASTS)],
        stopped: vec![(key("g", "a"), Epoch(7))],
        highest_epoch: Epoch(1 << 52),
        highest_life: HostLife(1000),
        ..bring(&store_life("elsewhere.1"))
    };
    store.bring(&seen).await.unwrap();
    let view = store.hosts().await.unwrap();
    assert_eq!((view.held, view.former, view.stops), (false, vec![], Stops(1)));
    assert!(claimed(&store, &key("g", "a"), "r", &["h-0"]).await.epoch > Epoch(1 << 52));
    assert_eq!(store.announce(&announce("h-1", "i", 5.0)).await.unwrap().life, HostLife(1001));
}

async fn a_host_that_lives_is_waited_for_however_long_it_takes_to_report(Run { store, restart, _redis, .. }: Run) {
    let before = arrive(&store, &announce("h-0", "i", 5.0)).await.store_life;
    restart();
    store.hosts().await.unwrap();
    let lease = store.announce(&back("h-0", "i", &before)).await.unwrap();
    for _ in 0..20 {
        assert!(is_held(&store, &renew("h-0", "i", &lease)).await);
        assert!(!settles(&store, true).await, "its agents may run unseen");
    }
    // It takes another lease before it has reported, and then another, when it has.
    let again = store.announce(&back("h-0", "i", &lease.store_life)).await.unwrap();
    assert!(!settles(&store, true).await);
    assert_eq!(
        store.renew(&report_all("h-0", "i", &lease)).await.unwrap(),
        Renewal::StoreLost,
        "an answer that came late"
    );
    assert!(!settles(&store, true).await);
    let reported = Announce { reported: Some(again.store_life.clone()), ..back("h-0", "i", &again.store_life) };
    store.announce(&reported).await.unwrap();
    assert!(settles(&store, true).await);
}

async fn a_host_that_loses_its_name_before_it_has_reported_is_awaited(Run { store, wipe, _redis, .. }: Run) {
    let before = arrive(&store, &announce("h-0", "old", 5.0)).await.store_life;
    let a = key("g", "a");
    let epoch = claimed(&store, &a, "r", &["h-0"]).await.epoch;
    wipe();
    // It holds a lease here, and its agent is not known yet.
    store.announce(&back("h-0", "old", &before)).await.unwrap();
    store.announce(&Announce { highest_epoch: epoch, ..announce("h-0", "new", 5.0) }).await.unwrap();
    assert_eq!(former(&store, "h-0", "old").await, Some(FormerState::Awaited));
    assert!(!settles(&store, true).await, "it may still run what nobody knows of");
    assert!(retire(&store, "h-0", "old").await);
    assert!(settles(&store, true).await);
    assert!(claimed(&store, &a, "r", &["h-0"]).await.epoch > epoch);
}

async fn a_host_that_has_ended_is_awaited_no_more(Run { store, wipe, _redis, .. }: Run) {
    let before = arrive(&store, &announce("h-0", "old", 5.0)).await.store_life;
    wipe();
    let hosts = vec![(host("h-0"), life("old"), LASTS)];
    store.bring(&Bring { hosts, ..bring(&before) }).await.unwrap();
    assert!(!settles(&store, true).await);
    assert_eq!(store.announce(&succeed("h-0", "old", "new", 5.0)).await.unwrap().returned, 0);
    assert_eq!(former(&store, "h-0", "old").await, None);
    assert!(settles(&store, true).await);
}

async fn what_was_seen_in_a_former_life_retires_nobody(Run { store, restart, _redis, .. }: Run) {
    arrive(&store, &announce("h-0", "i", 5.0)).await;
    let before = seen(&store, "h-0", "i").await;
    restart();
    store.hosts().await.unwrap();
    assert!(!store.retire(&before).await.unwrap(), "data that was rolled back shows an old renewal again");
    assert!(retire(&store, "h-0", "i").await);
}

async fn agents_are_not_given_back_while_hosts_report(Run { store, restart, _redis, .. }: Run) {
    arrive(&store, &announce("h-0", "old", 5.0)).await;
    let a = key("g", "a");
    let epoch = claimed(&store, &a, "r", &["h-0"]).await.epoch;
    restart();
    store.hosts().await.unwrap();
    let next = succeed("h-0", "old", "new", 5.0);
    assert_eq!(store.announce(&next).await.unwrap().returned, 0);
    let record = store.get(&a, View::Basic).await.unwrap().unwrap();
    assert_eq!((record.incarnation(), record.epoch), (Some(&life("old")), epoch));
    assert_eq!(former(&store, "h-0", "old").await, Some(FormerState::Over));
    // When the store has settled it is others' to take, or given back to who asks once more.
    assert!(settles(&store, true).await);
    assert_eq!(store.announce(&next).await.unwrap().returned, 1);
    let record = store.get(&a, View::Basic).await.unwrap().unwrap();
    assert_eq!((record.incarnation(), record.epoch > epoch), (Some(&life("new")), true));
    assert_eq!(former(&store, "h-0", "old").await, None);
}

async fn a_claim_of_somebody_who_has_not_restored_yet_waits(Run { store, restart, _redis, .. }: Run) {
    let before = arrive(&store, &announce("h-0", "i", 5.0)).await.store_life;
    restart();
    store.hosts().await.unwrap();
    let after = comes_and_reports(&store, "h-0", "i", &before).await.store_life;
    assert!(settles(&store, true).await);
    let by = |store_life: &StoreLife| Claim {
        store_life: Some(store_life.clone()),
        ..claim(&key("g", "a"), "r", "d", &["h-0"])
    };
    assert_eq!(
        store.claim(&by(&before)).await.unwrap(),
        ClaimOutcome::Held,
        "hosts have reported; the caller has not restored"
    );
    assert!(matches!(store.claim(&by(&after)).await.unwrap(), ClaimOutcome::Claimed(_)));
}

async fn a_host_brings_its_cordon_to_a_store_that_was_lost(Run { store, restart, wipe, _redis }: Run) {
    let cordoned = async || store.hosts().await.unwrap().hosts[0].cordoned;
    let first = arrive(&store, &announce("h-0", "i", 5.0)).await.store_life;
    restart();
    assert!(!cordoned().await, "that was among the last writes");
    let drained = Announce { cordoned: true, ..back("h-0", "i", &first) };
    store.announce(&drained).await.unwrap();
    assert!(cordoned().await);
    store.cordon(&host("h-0"), Cordon::Off).await.unwrap();
    wipe();
    store.announce(&drained).await.unwrap();
    assert!(cordoned().await);
}
