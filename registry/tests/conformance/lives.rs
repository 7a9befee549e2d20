//! A store in another life, which lacks its last writes or all it had: who must tell it what, and when it decides again.

use crate::requests::*;
use rustic_registry::{
    Advance, AdvanceOutcome, AgentKey, AgentRecord, Announce, Announced, Bring, Claim, ClaimOutcome, Cordon, Epoch,
    FormerState, HostLife, IfFull, MemoryRegistry, OnDisconnect, Phase, PlaceOutcome, Queue, RedisRegistry,
    RedisSettings, RegistryError, ReleaseGuard, ReleaseOutcome, Remember, Remembered, Renewal, Restore, Retire,
    Stops, StoreLife, View,
};
use std::sync::Arc;

/// A store, and ways to put it into another life.
struct Run {
    store: Store,
    /// Starts it again.
    restart: Box<dyn Fn()>,
    /// Loses all it has.
    wipe: Box<dyn Fn()>,
    _redis: Option<TestRedis>,
}

fn in_memory() -> Run {
    let store = Arc::new(MemoryRegistry::new(wall));
    let (again, wiped) = (store.clone(), store.clone());
    Run {
        store,
        restart: Box::new(move || again.restart_from(again.snapshot())),
        wipe: Box::new(move || wiped.wipe()),
        _redis: None,
    }
}

fn in_redis() -> Run {
    let redis = TestRedis::start();
    let store = Arc::new(RedisRegistry::new(&RedisSettings::new(&redis.url())).unwrap());
    let admin = |command: &'static str| {
        let admin = std::sync::Mutex::new(redis.admin());
        Box::new(move || assert_eq!(admin.lock().unwrap().run(command), "+OK"))
    };
    // As if the run that wrote it was another one.
    let (restart, wipe) = (admin("SET {rustic}:run another"), admin("FLUSHALL"));
    Run { store, restart, wipe, _redis: Some(redis) }
}

macro_rules! both {
    ($($name:ident)+) => {
        mod memory { $(#[tokio::test] async fn $name() { super::$name(super::in_memory()).await })+ }
        mod redis { $(#[tokio::test] async fn $name() { super::$name(super::in_redis()).await })+ }
    };
}

both! {
    nothing_is_decided_until_hosts_have_told
    a_new_store_settles_at_once_if_nobody_has_come_from_another_life
    only_who_has_watched_settles_a_store_to_which_somebody_came
    every_host_that_is_known_tells_or_is_retired
    hosts_that_were_brought_are_awaited_until_they_tell_or_are_retired
    what_is_brought_into_the_life_it_was_seen_in_is_void
    what_is_brought_to_a_settled_store_holds_it_no_more_but_counts
    a_host_that_lives_is_waited_for_however_long_it_takes_to_tell
    a_host_that_loses_its_name_before_it_told_is_awaited
    a_host_that_has_ended_is_awaited_no_more
    what_was_seen_in_a_former_life_retires_nobody
    a_host_tells_a_wiped_store_what_it_runs
    what_was_forgotten_is_told_again_and_what_was_removed_is_not
    what_outlives_a_lease_is_told_however_late
    a_host_that_comes_late_to_a_wiped_store_keeps_what_nobody_has_claimed_since
    agents_are_not_given_back_while_hosts_tell
    a_late_write_changes_nothing
    what_no_host_runs_is_remembered_while_hosts_tell_and_not_later
    whoever_has_the_later_claim_is_right
    a_claim_of_somebody_who_has_not_told_yet_waits
    a_later_claim_that_was_forgotten_ends_what_is_known_of_the_agent
    an_older_claim_that_no_host_has_accepted_gives_way_even_after_hosts_have_told
    what_was_stopped_is_not_told_again_under_the_epoch_it_had_or_an_earlier_one
    a_second_stop_takes_nothing_back_from_the_first
    stops_that_are_brought_count_once_and_make_claims_late
    epochs_and_leases_never_go_back
    a_host_tells_a_store_that_was_lost_who_drains_it
}

/// It comes again, from the life of the store in which it was before.
fn back(id: &str, incarnation: &str, knew: &StoreLife) -> Announce {
    Announce { knew: Some(knew.clone()), ..announce(id, incarnation, 5.0) }
}

/// Comes back, tells nothing, and says that this was all.
async fn comes_and_tells(store: &Store, id: &str, incarnation: &str, knew: &StoreLife) -> Announced {
    let lease = store.announce(&back(id, incarnation, knew)).await.unwrap();
    assert!(is_held(store, &tell(id, incarnation, &lease)).await);
    lease
}

async fn settles(store: &Store, watched: bool) -> bool {
    let view = store.hosts().await.unwrap();
    let settled = store.settle(&view.store.unwrap(), watched).await.unwrap();
    assert_eq!(store.hosts().await.unwrap().held, view.held && !settled);
    settled
}

async fn nothing_is_decided_until_hosts_have_told(Run { store, restart, _redis, .. }: Run) {
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
    let after = view.store.unwrap();
    assert!(view.held && after != lease.store);
    for guard in [ReleaseGuard::Vouched, ReleaseGuard::Unaccepted, ReleaseGuard::Unhosted, ReleaseGuard::Ended] {
        let released = store.release(&a, claimed.epoch, guard).await;
        assert!(matches!(released, Err(RegistryError::Lost(_))), "{guard:?} {released:?}");
    }
    assert_eq!(store.place(&waits, waiting, &[host("h-0")]).await.unwrap(), PlaceOutcome::Held);
    assert!(matches!(store.bury(&key("g", "c")).await, Err(RegistryError::Lost(_))));
    let stale = Advance { knew: Some(lease.store.clone()), ..advance(&a, claimed.epoch, Phase::Running) };
    assert_eq!(store.advance(&stale).await.unwrap(), AdvanceOutcome::StoreLost);
    assert_eq!(store.renew(&renew("h-0", "i", &lease)).await.unwrap(), Renewal::StoreLost);
    assert!(!settles(&store, true).await, "it has not come");

    let again = store.announce(&back("h-0", "i", &lease.store)).await.unwrap();
    assert_eq!(again.store, after);
    assert_eq!(store.restore(&restore(&a, claimed.epoch, "h-0", "i", &after)).await.unwrap(), AdvanceOutcome::Done);
    assert!(!settles(&store, true).await, "it has not said that this is all");
    assert!(is_held(&store, &tell("h-0", "i", &again)).await);
    assert!(!settles(&store, false).await, "another host may be on its way whose coming was forgotten");
    assert!(settles(&store, true).await);
    assert!(!settles(&store, true).await, "once");
    let next = claimed_by(&store, &claim(&key("g", "b"), "r", "d", &["h-0"])).await;
    assert!(next.epoch > claimed.epoch, "epochs never go back");
}

async fn a_new_store_settles_at_once_if_nobody_has_come_from_another_life(Run { store, wipe, _redis, .. }: Run) {
    for life in ["first", "after all was lost"] {
        let view = store.hosts().await.unwrap();
        assert_eq!((view.store, view.held), (None, false), "{life}");
        assert!(!store.settle(&store_life("any"), true).await.unwrap(), "there is none that could settle");
        let lease = store.announce(&announce("h-0", "i", 5.0)).await.unwrap();
        assert_eq!(store.claim(&claim(&key("g", "a"), "r", "d", &["h-0"])).await.unwrap(), ClaimOutcome::Held);
        assert!(!store.settle(&store_life("any"), true).await.unwrap(), "this life only");
        assert!(settles(&store, false).await);
        claimed(&store, &key("g", "a"), "r", &["h-0"]).await;
        // Nothing begins anew with the next who comes.
        let next = store.announce(&back("h-1", "i", &store_life("elsewhere.1"))).await.unwrap();
        assert_eq!(next.store, lease.store);
        assert!(!store.hosts().await.unwrap().held);
        wipe();
    }
}

async fn only_who_has_watched_settles_a_store_to_which_somebody_came(Run { store, restart, wipe, _redis }: Run) {
    let elsewhere = store_life("elsewhere.1");
    store.announce(&announce("h-0", "i", 5.0)).await.unwrap();
    comes_and_tells(&store, "h-1", "i", &elsewhere).await;
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
    comes_and_tells(&store, "h-0", "i", &lease.store).await;
    assert!(!settles(&store, false).await, "it was started again before it had settled");
    assert!(settles(&store, true).await);
}

async fn every_host_that_is_known_tells_or_is_retired(Run { store, restart, _redis, .. }: Run) {
    let before = arrive(&store, &announce("h-0", "i", 5.0)).await.store;
    arrive(&store, &announce("h-1", "i", 5.0)).await;
    let a = key("g", "a");
    let epoch = claimed(&store, &a, "r", &["h-1"]).await.epoch;
    restart();
    store.hosts().await.unwrap();
    comes_and_tells(&store, "h-0", "i", &before).await;
    assert!(!settles(&store, true).await, "the other one has not come");
    assert!(retire(&store, "h-1", "i").await);
    assert!(settles(&store, true).await);
    assert_eq!(take(&store, &a, epoch).await, ReleaseOutcome::Released);
    store.announce(&back("h-1", "i", &before)).await.unwrap();
    assert!(!store.hosts().await.unwrap().held, "it comes too late to be waited for");
}

async fn hosts_that_were_brought_are_awaited_until_they_tell_or_are_retired(Run { store, wipe, _redis, .. }: Run) {
    let before = arrive(&store, &announce("h-0", "i", 5.0)).await.store;
    wipe();
    comes_and_tells(&store, "h-0", "i", &before).await;
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
    assert!(!settles(&store, true).await, "one has not told");
    assert!(is_held(&store, &tell("h-1", "i", &lease)).await);
    assert!(settles(&store, true).await);
}

async fn what_is_brought_into_the_life_it_was_seen_in_is_void(Run { store, _redis, .. }: Run) {
    let lease = store.announce(&announce("h-0", "i", 5.0)).await.unwrap();
    let seen = Bring {
        hosts: vec![(host("h-1"), life("i"), LASTS)],
        stopped: vec![(key("g", "a"), Epoch(7))],
        highest_epoch: Epoch(1 << 52),
        highest_life: HostLife(1000),
        ..bring(&lease.store)
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

async fn a_host_that_lives_is_waited_for_however_long_it_takes_to_tell(Run { store, restart, _redis, .. }: Run) {
    let before = arrive(&store, &announce("h-0", "i", 5.0)).await.store;
    restart();
    store.hosts().await.unwrap();
    let lease = store.announce(&back("h-0", "i", &before)).await.unwrap();
    for _ in 0..20 {
        assert!(is_held(&store, &renew("h-0", "i", &lease)).await);
        assert!(!settles(&store, true).await, "its agents may run unseen");
    }
    // It takes another lease before it has told, and then another, when it has.
    let again = store.announce(&back("h-0", "i", &lease.store)).await.unwrap();
    assert!(!settles(&store, true).await);
    assert_eq!(store.renew(&tell("h-0", "i", &lease)).await.unwrap(), Renewal::StoreLost, "an answer that came late");
    assert!(!settles(&store, true).await);
    let told = Announce { told: Some(again.store.clone()), ..back("h-0", "i", &again.store) };
    store.announce(&told).await.unwrap();
    assert!(settles(&store, true).await);
}

async fn a_host_that_loses_its_name_before_it_told_is_awaited(Run { store, wipe, _redis, .. }: Run) {
    let before = arrive(&store, &announce("h-0", "old", 5.0)).await.store;
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
    let before = arrive(&store, &announce("h-0", "old", 5.0)).await.store;
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

async fn a_host_tells_a_wiped_store_what_it_runs(Run { store, _redis, .. }: Run) {
    // What the host knows is the life of a store that is gone.
    let lost = store_life("a lost one");
    let back = Announce { highest_epoch: Epoch(40), ..back("h-0", "i", &lost) };
    let life = store.announce(&back).await.unwrap().store;
    let (a, b) = (key("g", "a"), key("g", "b"));
    assert_eq!(store.claim(&claim(&b, "r", "d", &["h-0"])).await.unwrap(), ClaimOutcome::Held);
    let stale = Advance { knew: Some(lost), ..advance(&a, Epoch(40), Phase::Running) };
    assert_eq!(store.advance(&stale).await.unwrap(), AdvanceOutcome::StoreLost);

    let told = restore(&a, Epoch(40), "h-0", "i", &life);
    assert_eq!(store.restore(&told).await.unwrap(), AdvanceOutcome::Done);
    assert_eq!(store.restore(&told).await.unwrap(), AdvanceOutcome::Done, "once more changes nothing");
    assert_eq!(used_slots(&store, "h-0").await, 1000);
    let record = store.get(&a, View::Full).await.unwrap().unwrap();
    assert_eq!((record.phase, record.epoch, record.pid), (Phase::Running, Epoch(40), Some(42)));
    assert_eq!((record.machine_id, record.created.0, record.documents), (3, 77, Some(told.documents.clone())));
    let known = Advance { knew: Some(life.clone()), ..advance(&a, Epoch(40), Phase::Restarting) };
    assert_eq!(store.advance(&known).await.unwrap(), AdvanceOutcome::Done);
    // An older claim of the same agent gives way, and another process of the host has nothing to tell.
    let older = restore(&a, Epoch(39), "h-0", "i", &life);
    assert_eq!(store.restore(&older).await.unwrap(), AdvanceOutcome::Stale(Epoch(40)));
    let other = restore(&b, Epoch(41), "h-0", "another process", &life);
    assert_eq!(store.restore(&other).await.unwrap(), AdvanceOutcome::StoreLost);
}

async fn what_was_forgotten_is_told_again_and_what_was_removed_is_not(Run { store, restart, _redis, .. }: Run) {
    let first = arrive(&store, &announce("h-0", "i", 5.0)).await.store;
    let (a, b) = (key("g", "a"), key("g", "b"));
    let known = claimed(&store, &a, "r", &["h-0"]).await;
    store.release(&a, known.epoch, ReleaseGuard::Reaped).await.unwrap();
    restart();
    store.hosts().await.unwrap();
    let now = comes_and_tells(&store, "h-0", "i", &first).await.store;
    assert!(settles(&store, true).await);
    let told =
        |key: &AgentKey, epoch: Epoch| Restore { had: Some(first.clone()), ..restore(key, epoch, "h-0", "i", &now) };
    assert_eq!(store.restore(&told(&a, known.epoch)).await.unwrap(), AdvanceOutcome::Gone, "it was removed");
    let never = told(&key("g", "c"), known.epoch);
    assert_eq!(store.restore(&never).await.unwrap(), AdvanceOutcome::Gone, "it would be known");
    // A claim beyond what the store remembers was forgotten.
    let lost = Epoch(known.epoch.0 + 1);
    assert_eq!(store.restore(&told(&b, lost)).await.unwrap(), AdvanceOutcome::Done);
    assert_eq!(store.get(&b, View::Basic).await.unwrap().unwrap().epoch, lost);
}

async fn what_outlives_a_lease_is_told_however_late(Run { store, restart, _redis, .. }: Run) {
    let first = arrive(&store, &announce("h-0", "i", 5.0)).await.store;
    let epoch = claimed(&store, &key("g", "other"), "r", &["h-0"]).await.epoch;
    restart();
    store.hosts().await.unwrap();
    assert!(retire(&store, "h-0", "i").await);
    assert!(settles(&store, true).await);
    let now = store.announce(&back("h-0", "i", &first)).await.unwrap().store;
    let told = Restore { had: Some(first), ..restore(&key("g", "a"), epoch, "h-0", "i", &now) };
    assert_eq!(store.restore(&told).await.unwrap(), AdvanceOutcome::Gone);
    let keeps = Restore { on_disconnect: OnDisconnect::Keep, ..told };
    assert_eq!(store.restore(&keeps).await.unwrap(), AdvanceOutcome::Done);
}

async fn a_host_that_comes_late_to_a_wiped_store_keeps_what_nobody_has_claimed_since(
    Run { store, wipe, _redis, .. }: Run,
) {
    let first = arrive(&store, &announce("h-0", "i", 5.0)).await.store;
    let (a, b) = (key("g", "a"), key("g", "b"));
    let old = [claimed(&store, &a, "r", &["h-0"]).await.epoch, claimed(&store, &b, "r", &["h-0"]).await.epoch];
    wipe();
    arrive(&store, &Announce { highest_epoch: old[1], ..announce("h-1", "i", 5.0) }).await;
    let since = claimed(&store, &a, "r", &["h-1"]).await.epoch;
    let now = store.announce(&back("h-0", "i", &first)).await.unwrap().store;
    let told = |key: &AgentKey, epoch| Restore { had: Some(first.clone()), ..restore(key, epoch, "h-0", "i", &now) };
    assert_eq!(store.restore(&told(&a, old[0])).await.unwrap(), AdvanceOutcome::Stale(since), "the host ends it");
    assert_eq!(store.restore(&told(&b, old[1])).await.unwrap(), AdvanceOutcome::Done);
    assert_eq!((used_slots(&store, "h-0").await, used_slots(&store, "h-1").await), (1000, 1000));
}

async fn agents_are_not_given_back_while_hosts_tell(Run { store, restart, _redis, .. }: Run) {
    arrive(&store, &announce("h-0", "old", 5.0)).await;
    let a = key("g", "a");
    let epoch = claimed(&store, &a, "r", &["h-0"]).await.epoch;
    restart();
    store.hosts().await.unwrap();
    let next = succeed("h-0", "old", "new", 5.0);
    assert_eq!(store.announce(&next).await.unwrap().returned, 0);
    let record = store.get(&a, View::Basic).await.unwrap().unwrap();
    assert_eq!((record.incarnation, record.epoch), (Some(life("old")), epoch));
    assert_eq!(former(&store, "h-0", "old").await, Some(FormerState::Over));
    // When the store has settled it is others' to take, or given back to who asks once more.
    assert!(settles(&store, true).await);
    assert_eq!(store.announce(&next).await.unwrap().returned, 1);
    let record = store.get(&a, View::Basic).await.unwrap().unwrap();
    assert_eq!((record.incarnation, record.epoch > epoch), (Some(life("new")), true));
    assert_eq!(former(&store, "h-0", "old").await, None);
}

async fn a_late_write_changes_nothing(Run { store, _redis, .. }: Run) {
    arrive(&store, &announce("h-0", "i", 5.0)).await;
    let a = key("g", "a");
    let claimed = claimed(&store, &a, "r", &["h-0"]).await;
    let early = advance(&a, claimed.epoch, Phase::Restarting);
    store.advance(&advance(&a, claimed.epoch, Phase::Running)).await.unwrap();
    assert_eq!(store.advance(&early).await.unwrap(), AdvanceOutcome::Done);
    assert_eq!(store.get(&a, View::Basic).await.unwrap().unwrap().phase, Phase::Running);
}

/// An agent that waits, as a store had it, and one that failed.
async fn unhosted(store: &Store) -> [AgentRecord; 2] {
    let (waits, failed) = (key("g", "waits"), key("g", "failed"));
    let no_room = Claim { if_full: IfFull::Wait, ..claim(&waits, "r", "d", &[]) };
    assert_eq!(store.claim(&no_room).await.unwrap(), ClaimOutcome::Waits);
    let claimed = claimed(store, &failed, "r", &["h-0"]).await;
    let exit = Some(rustic_registry::ExitStatus::Code(3));
    let failure = Advance { reason: "it broke".to_owned(), exit, ..advance(&failed, claimed.epoch, Phase::Failed) };
    store.advance(&failure).await.unwrap();
    [store.get(&waits, View::Full).await.unwrap().unwrap(), store.get(&failed, View::Full).await.unwrap().unwrap()]
}

fn remember(record: &AgentRecord, had: &StoreLife) -> Remember {
    Remember { record: record.clone(), had: had.clone() }
}

async fn what_no_host_runs_is_remembered_while_hosts_tell_and_not_later(Run { store, restart, wipe, _redis }: Run) {
    let first = arrive(&store, &announce("h-0", "i", 5.0)).await.store;
    let [waits, failed] = unhosted(&store).await;
    let unknown = AgentRecord { key: key("g", "unknown"), ..waits.clone() };
    assert_eq!(store.remember(&remember(&unknown, &first)).await.unwrap(), Remembered::Void, "nothing was lost");
    restart();
    assert!(store.hosts().await.unwrap().held);
    let known = store.remember(&remember(&unknown, &first)).await.unwrap();
    assert_eq!(known, Remembered::Void, "what this store counted it knows better");
    let beyond = AgentRecord { epoch: Epoch(failed.epoch.0 + 1), ..unknown };
    assert_eq!(store.remember(&remember(&beyond, &first)).await.unwrap(), Remembered::Done, "that was a last write");

    wipe();
    let lease = store.announce(&back("h-0", "i", &first)).await.unwrap();
    for record in [&waits, &failed] {
        assert_eq!(store.remember(&remember(record, &first)).await.unwrap(), Remembered::Done);
        let again = store.remember(&remember(record, &first)).await.unwrap();
        assert_eq!(again, Remembered::Void, "it stands there");
        let there = store.get(&record.key, View::Full).await.unwrap().unwrap();
        assert_eq!(there, AgentRecord { host: None, incarnation: None, pid: None, accepted: None, ..record.clone() });
    }
    let pending = store.oldest(Queue::Pending, 0, 9, View::Basic).await.unwrap();
    assert_eq!(pending.iter().map(|r| &r.key).collect::<Vec<_>>(), [&waits.key], "it waits in line again");
    assert_eq!(store.hosts().await.unwrap().pending, 1);

    assert!(is_held(&store, &tell("h-0", "i", &lease)).await);
    assert!(settles(&store, true).await);
    let never = AgentRecord { key: key("g", "never told"), ..failed.clone() };
    let late = store.remember(&remember(&never, &first)).await.unwrap();
    assert_eq!(late, Remembered::Void, "it may have been stopped since");
    store.release(&failed.key, failed.epoch, ReleaseGuard::Unhosted).await.unwrap();
    let late = store.remember(&remember(&failed, &first)).await.unwrap();
    assert_eq!(late, Remembered::Void, "it was stopped since");
    let placed = store.place(&waits.key, waits.epoch, &[host("h-0")]).await.unwrap();
    assert!(matches!(placed, PlaceOutcome::Placed(c) if c.epoch > waits.epoch && c.machine_id == waits.machine_id));
}

async fn whoever_has_the_later_claim_is_right(Run { store, wipe, _redis, .. }: Run) {
    let first = arrive(&store, &announce("h-0", "i", 5.0)).await.store;
    let [waits, failed] = unhosted(&store).await;
    wipe();
    let now = store.announce(&back("h-0", "i", &first)).await.unwrap().store;
    // A host got it before, and was told to give it up: the store that is told now does not know that.
    let (earlier, later) = (Epoch(waits.epoch.0 - 1), Epoch(failed.epoch.0 + 1));
    let told = Restore { had: Some(first.clone()), ..restore(&waits.key, earlier, "h-0", "i", &now) };
    assert_eq!(store.restore(&told).await.unwrap(), AdvanceOutcome::Done);
    assert_eq!(store.remember(&remember(&waits, &first)).await.unwrap(), Remembered::Done);
    let there = store.get(&waits.key, View::Basic).await.unwrap().unwrap();
    assert_eq!((there.phase, there.host, there.epoch), (Phase::Pending, None, waits.epoch));
    assert_eq!(used(&store).await, 0, "its room is free again");
    assert_eq!(store.restore(&told).await.unwrap(), AdvanceOutcome::Stale(waits.epoch), "the host ends it");

    // Another one runs by a claim that is later than what is remembered.
    let told = Restore { had: Some(first.clone()), ..restore(&failed.key, later, "h-0", "i", &now) };
    assert_eq!(store.restore(&told).await.unwrap(), AdvanceOutcome::Done);
    assert_eq!(store.remember(&remember(&failed, &first)).await.unwrap(), Remembered::Void);
    assert_eq!(store.get(&failed.key, View::Basic).await.unwrap().unwrap().phase, Phase::Running);
    assert_eq!(used(&store).await, 1000);
}

async fn used(store: &Store) -> u64 {
    used_slots(store, "h-0").await
}

fn elsewhere() -> StoreLife {
    store_life("elsewhere.1")
}

async fn a_claim_of_somebody_who_has_not_told_yet_waits(Run { store, restart, _redis, .. }: Run) {
    let before = arrive(&store, &announce("h-0", "i", 5.0)).await.store;
    restart();
    store.hosts().await.unwrap();
    let after = comes_and_tells(&store, "h-0", "i", &before).await.store;
    assert!(settles(&store, true).await);
    let by = |knew: &StoreLife| Claim { knew: Some(knew.clone()), ..claim(&key("g", "a"), "r", "d", &["h-0"]) };
    assert_eq!(store.claim(&by(&before)).await.unwrap(), ClaimOutcome::Held, "hosts have told; the caller has not");
    assert!(matches!(store.claim(&by(&after)).await.unwrap(), ClaimOutcome::Claimed(_)));
}

async fn a_later_claim_that_was_forgotten_ends_what_is_known_of_the_agent(Run { store, restart, _redis, .. }: Run) {
    arrive(&store, &announce("h-0", "i", 5.0)).await;
    let (stopped, moved) = (key("g", "stopped"), key("g", "moved"));
    for agent in [&stopped, &moved] {
        let earlier = claimed(&store, agent, "r", &["h-0"]).await.epoch;
        restart();
        // What came after that claim was lost: its release, and another one, whose process has ended by now.
        let later = Epoch(earlier.0 + 1_000_000);
        let older = Epoch(earlier.0 - 1);
        let too_old = store.release(agent, older, ReleaseGuard::Reaped).await.unwrap();
        assert_eq!(too_old, ReleaseOutcome::Stale(earlier));
        let released = if *agent == stopped {
            store.release(agent, later, ReleaseGuard::Reaped).await.unwrap()
        } else {
            store.unplace(&unplace(agent, later, ReleaseGuard::Reaped, "it moves")).await.unwrap()
        };
        assert_eq!(released, ReleaseOutcome::Released);
        let record = store.get(agent, View::Basic).await.unwrap();
        if *agent == stopped {
            assert_eq!(record, None);
        } else {
            let record = record.unwrap();
            assert_eq!((record.phase, record.host), (Phase::Pending, None));
            assert!(record.epoch > later, "epochs never go back");
        }
        assert_eq!(used(&store).await, 0, "its room is free again");
        comes_and_tells(&store, "h-0", "i", &elsewhere()).await;
        assert!(settles(&store, true).await);
    }
}

async fn an_older_claim_that_no_host_has_accepted_gives_way_even_after_hosts_have_told(
    Run { store, restart, _redis, .. }: Run,
) {
    arrive(&store, &announce("h-0", "i", 5.0)).await;
    let [waits, _] = unhosted(&store).await;
    store.release(&waits.key, waits.epoch, ReleaseGuard::Unhosted).await.unwrap();
    let older = claimed(&store, &waits.key, "r", &["h-0"]).await.epoch;
    restart();
    store.hosts().await.unwrap();
    comes_and_tells(&store, "h-0", "i", &elsewhere()).await;
    assert!(settles(&store, true).await);
    let later = AgentRecord { epoch: Epoch(older.0 + 1), ..waits.clone() };
    assert_eq!(store.remember(&remember(&later, &elsewhere())).await.unwrap(), Remembered::Done);
    let there = store.get(&waits.key, View::Basic).await.unwrap().unwrap();
    assert_eq!((there.phase, there.epoch, used(&store).await), (Phase::Pending, later.epoch, 0));
    let accepts = store.advance(&advance(&waits.key, older, Phase::Starting)).await.unwrap();
    assert_eq!(accepts, AdvanceOutcome::Stale(later.epoch), "its host is too late");

    // One that a host has accepted may run: it stays.
    let PlaceOutcome::Placed(placed) = store.place(&waits.key, later.epoch, &[host("h-0")]).await.unwrap() else {
        panic!("there is room")
    };
    store.advance(&advance(&waits.key, placed.epoch, Phase::Starting)).await.unwrap();
    let latest = AgentRecord { epoch: Epoch(placed.epoch.0 + 1), ..waits };
    assert_eq!(store.remember(&remember(&latest, &elsewhere())).await.unwrap(), Remembered::Void);
}

async fn what_was_stopped_is_not_told_again_under_the_epoch_it_had_or_an_earlier_one(
    Run { store, wipe, _redis, .. }: Run,
) {
    arrive(&store, &announce("h-0", "i", 5.0)).await;
    let [waits, failed] = unhosted(&store).await;
    wipe();
    let now = store.announce(&back("h-0", "i", &elsewhere())).await.unwrap().store;
    let stopped = Epoch(failed.epoch.0 + 10);
    let stops = [&waits, &failed].map(|r| (r.key.clone(), stopped));
    store.bring(&Bring { stopped: stops.to_vec(), ..bring(&elsewhere()) }).await.unwrap();
    for earlier in [1, 0] {
        let epoch = Epoch(stopped.0 - earlier);
        let told = restore(&failed.key, epoch, "h-0", "i", &now);
        assert_eq!(store.restore(&told).await.unwrap(), AdvanceOutcome::Gone);
        let keeps = Restore { on_disconnect: OnDisconnect::Keep, ..told };
        assert_eq!(store.restore(&keeps).await.unwrap(), AdvanceOutcome::Gone);
        let known = AgentRecord { epoch, ..waits.clone() };
        assert_eq!(store.remember(&remember(&known, &elsewhere())).await.unwrap(), Remembered::Void);
    }
    // What was claimed after it was stopped is another agent's life.
    let later = Epoch(stopped.0 + 1);
    let told = restore(&failed.key, later, "h-0", "i", &now);
    assert_eq!(store.restore(&told).await.unwrap(), AdvanceOutcome::Done);
    let known = AgentRecord { epoch: later, ..waits };
    assert_eq!(store.remember(&remember(&known, &elsewhere())).await.unwrap(), Remembered::Done);
}

async fn a_second_stop_takes_nothing_back_from_the_first(Run { store, restart, _redis, .. }: Run) {
    let first = arrive(&store, &announce("h-0", "i", 5.0)).await.store;
    let a = key("g", "a");
    let epoch = claimed(&store, &a, "r", &["h-0"]).await.epoch;
    store.release(&a, epoch, ReleaseGuard::Reaped).await.unwrap();
    assert!(store.bury(&a).await.unwrap());
    restart();
    store.hosts().await.unwrap();
    let now = store.announce(&back("h-0", "i", &first)).await.unwrap().store;
    let told = restore(&a, epoch, "h-0", "i", &now);
    assert_eq!(store.restore(&told).await.unwrap(), AdvanceOutcome::Gone, "it was stopped");
}

async fn stops_that_are_brought_count_once_and_make_claims_late(Run { store, _redis, .. }: Run) {
    let (a, unknown) = (key("g", "a"), key("g", "unknown"));
    // One that nobody knew when it was asked to be stopped had no epoch.
    let stopped = vec![(a.clone(), Epoch(7)), (unknown.clone(), Epoch(0))];
    for _ in 0..3 {
        store.bring(&Bring { stopped: stopped.clone(), ..bring(&elsewhere()) }).await.unwrap();
    }
    assert_eq!(store.hosts().await.unwrap().stops, Stops(2));
    assert_eq!(store.announce(&announce("h-0", "i", 5.0)).await.unwrap().stops, Stops(2));
    assert!(settles(&store, true).await);
    for agent in [&a, &unknown] {
        let late = asked_first(claim(agent, "r", "d", &["h-0"]));
        assert_eq!(store.claim(&late).await.unwrap(), ClaimOutcome::Late(Stops(2)));
        claimed_by(&store, &Claim { asked: Stops(2), ..late }).await;
    }
}

async fn epochs_and_leases_never_go_back(Run { store, wipe, _redis, .. }: Run) {
    let high = Bring { highest_epoch: Epoch(1 << 52), highest_life: HostLife(77), ..bring(&elsewhere()) };
    store.bring(&high).await.unwrap();
    store.bring(&Bring { highest_epoch: Epoch(3), highest_life: HostLife(3), ..bring(&elsewhere()) }).await.unwrap();
    assert_eq!(arrive(&store, &announce("h-0", "i", 5.0)).await.life, HostLife(78));
    let (a, b) = (key("g", "a"), key("g", "b"));
    let epoch = claimed(&store, &a, "r", &["h-0"]).await.epoch;
    assert_eq!(epoch, Epoch((1 << 52) + 1));
    wipe();
    // This time the host brings what it saw.
    let again = Announce { highest_epoch: epoch, highest_life: HostLife(78), ..back("h-0", "i", &elsewhere()) };
    let lease = store.announce(&again).await.unwrap();
    assert_eq!(lease.life, HostLife(79));
    let told = Epoch(epoch.0 + 5);
    store.restore(&restore(&b, told, "h-0", "i", &lease.store)).await.unwrap();
    assert!(is_held(&store, &tell("h-0", "i", &lease)).await);
    assert!(settles(&store, true).await);
    assert_eq!(claimed(&store, &a, "r", &["h-0"]).await.epoch, Epoch(told.0 + 1));
}

async fn a_host_tells_a_store_that_was_lost_who_drains_it(Run { store, restart, wipe, _redis }: Run) {
    let cordoned = async || store.hosts().await.unwrap().hosts[0].cordoned;
    let first = arrive(&store, &announce("h-0", "i", 5.0)).await.store;
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
