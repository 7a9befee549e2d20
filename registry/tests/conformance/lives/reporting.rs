//! What hosts report and engines restore to a store in another life: what of it counts, and what is over.

use super::*;
use rustic_registry::{
    Advance, AdvanceOutcome, AgentKey, AgentReason, AgentRecord, Announce, AssignOutcome, Bring, Claim, ClaimOutcome,
    Condition, Epoch, HostLife, IfFull, OnDisconnect, Phase, Queue, ReleaseGuard, ReleaseOutcome, Remember,
    Remembered, Renewal, Restore, State, Stops, StoreLife, View,
};

both! {
    a_host_reports_to_a_wiped_store_what_it_runs
    what_was_forgotten_is_restored_and_what_was_removed_is_not
    what_outlives_a_lease_is_restored_however_late
    a_host_that_comes_late_to_a_wiped_store_keeps_what_nobody_has_claimed_since
    a_late_write_changes_nothing
    what_no_host_runs_is_remembered_while_hosts_report_and_not_later
    whoever_has_the_later_claim_is_right
    a_later_claim_that_was_forgotten_ends_what_is_known_of_the_agent
    an_older_claim_that_no_host_has_accepted_gives_way_even_after_hosts_have_reported
    what_was_stopped_is_not_restored_under_the_epoch_it_had_or_an_earlier_one
    a_second_stop_takes_nothing_back_from_the_first
    stops_that_are_brought_count_once_and_make_claims_late
    epochs_and_leases_never_go_back
    every_host_hears_of_every_epoch_and_brings_a_lost_store_more_than_it_heard_of
}

async fn a_host_reports_to_a_wiped_store_what_it_runs(Run { store, _redis, .. }: Run) {
    // The host knows a store life that is gone.
    let lost = store_life("a lost one");
    let back = Announce { highest_epoch: Epoch(40), ..back("h-0", "i", &lost) };
    let life = store.announce(&back).await.unwrap().store_life;
    let (a, b) = (key("g", "a"), key("g", "b"));
    assert_eq!(store.claim(&claim(&b, "r", "d", &["h-0"])).await.unwrap(), ClaimOutcome::Held);
    let stale = Advance { store_life: Some(lost), ..advance(&a, Epoch(40), Phase::Running) };
    assert_eq!(store.advance(&stale).await.unwrap(), AdvanceOutcome::StoreLost);

    let report = restore(&a, Epoch(40), "h-0", "i", &life);
    assert_eq!(store.restore(&report).await.unwrap(), AdvanceOutcome::Done);
    assert_eq!(store.restore(&report).await.unwrap(), AdvanceOutcome::Done, "once more changes nothing");
    assert_eq!(used_slots(&store, "h-0").await, 1000);
    let record = store.get(&a, View::Launch).await.unwrap().unwrap();
    assert_eq!((record.phase(), record.epoch, record.pid()), (Phase::Running, Epoch(40), Some(42)));
    assert_eq!(
        (record.machine_id, record.created.0, record.documents),
        (machine(3), 77, Some(report.documents.clone()))
    );
    let known = Advance { store_life: Some(life.clone()), ..advance(&a, Epoch(40), Phase::Restarting) };
    assert_eq!(store.advance(&known).await.unwrap(), AdvanceOutcome::Done);
    // An older claim of the same agent gives way, and another process of the host has nothing to report.
    let older = restore(&a, Epoch(39), "h-0", "i", &life);
    assert_eq!(store.restore(&older).await.unwrap(), AdvanceOutcome::Stale(Epoch(40)));
    let other = restore(&b, Epoch(41), "h-0", "another process", &life);
    assert_eq!(store.restore(&other).await.unwrap(), AdvanceOutcome::StoreLost);
}

async fn what_was_forgotten_is_restored_and_what_was_removed_is_not(Run { store, restart, _redis, .. }: Run) {
    let first = arrive(&store, &announce("h-0", "i", 5.0)).await.store_life;
    let (a, b) = (key("g", "a"), key("g", "b"));
    let known = claimed(&store, &a, "r", &["h-0"]).await;
    store.release(&a, known.epoch, ReleaseGuard::Reaped).await.unwrap();
    restart();
    store.hosts().await.unwrap();
    let now = comes_and_reports(&store, "h-0", "i", &first).await.store_life;
    assert!(settles(&store, true).await);
    let report = |key: &AgentKey, epoch: Epoch| Restore {
        former_store_life: Some(first.clone()),
        ..restore(key, epoch, "h-0", "i", &now)
    };
    assert_eq!(store.restore(&report(&a, known.epoch)).await.unwrap(), AdvanceOutcome::Gone, "it was removed");
    let never = report(&key("g", "c"), known.epoch);
    assert_eq!(store.restore(&never).await.unwrap(), AdvanceOutcome::Gone, "it would be known");
    // A claim beyond what the store remembers was forgotten.
    let lost = Epoch(known.epoch.0 + 1);
    assert_eq!(store.restore(&report(&b, lost)).await.unwrap(), AdvanceOutcome::Done);
    assert_eq!(store.get(&b, View::Basic).await.unwrap().unwrap().epoch, lost);
}

async fn what_outlives_a_lease_is_restored_however_late(Run { store, restart, _redis, .. }: Run) {
    let first = arrive(&store, &announce("h-0", "i", 5.0)).await.store_life;
    let epoch = claimed(&store, &key("g", "other"), "r", &["h-0"]).await.epoch;
    restart();
    store.hosts().await.unwrap();
    assert!(retire(&store, "h-0", "i").await);
    assert!(settles(&store, true).await);
    let now = store.announce(&back("h-0", "i", &first)).await.unwrap().store_life;
    let report = Restore { former_store_life: Some(first), ..restore(&key("g", "a"), epoch, "h-0", "i", &now) };
    assert_eq!(store.restore(&report).await.unwrap(), AdvanceOutcome::Gone);
    let keeps = Restore { on_disconnect: OnDisconnect::Keep, ..report };
    assert_eq!(store.restore(&keeps).await.unwrap(), AdvanceOutcome::Done);
}

async fn a_host_that_comes_late_to_a_wiped_store_keeps_what_nobody_has_claimed_since(
    Run { store, wipe, _redis, .. }: Run,
) {
    let first = arrive(&store, &announce("h-0", "i", 5.0)).await.store_life;
    let (a, b) = (key("g", "a"), key("g", "b"));
    let old = [claimed(&store, &a, "r", &["h-0"]).await.epoch, claimed(&store, &b, "r", &["h-0"]).await.epoch];
    wipe();
    arrive(&store, &Announce { highest_epoch: old[1], ..announce("h-1", "i", 5.0) }).await;
    let since = claimed(&store, &a, "r", &["h-1"]).await.epoch;
    let now = store.announce(&back("h-0", "i", &first)).await.unwrap().store_life;
    let report = |key: &AgentKey, epoch| Restore {
        former_store_life: Some(first.clone()),
        ..restore(key, epoch, "h-0", "i", &now)
    };
    assert_eq!(store.restore(&report(&a, old[0])).await.unwrap(), AdvanceOutcome::Stale(since), "the host ends it");
    assert_eq!(store.restore(&report(&b, old[1])).await.unwrap(), AdvanceOutcome::Done);
    assert_eq!((used_slots(&store, "h-0").await, used_slots(&store, "h-1").await), (1000, 1000));
}

async fn a_late_write_changes_nothing(Run { store, _redis, .. }: Run) {
    arrive(&store, &announce("h-0", "i", 5.0)).await;
    let a = key("g", "a");
    let claimed = claimed(&store, &a, "r", &["h-0"]).await;
    let early = advance(&a, claimed.epoch, Phase::Restarting);
    store.advance(&advance(&a, claimed.epoch, Phase::Running)).await.unwrap();
    assert_eq!(store.advance(&early).await.unwrap(), AdvanceOutcome::Done);
    assert_eq!(store.get(&a, View::Basic).await.unwrap().unwrap().phase(), Phase::Running);
}

/// An agent that waits, as a store had it, and one that failed.
async fn unassigned(store: &Store) -> [AgentRecord; 2] {
    let (waits, failed) = (key("g", "waits"), key("g", "failed"));
    let no_room = Claim { if_full: IfFull::Wait, ..claim(&waits, "r", "d", &[]) };
    assert_eq!(store.claim(&no_room).await.unwrap(), ClaimOutcome::Waits);
    let claimed = claimed(store, &failed, "r", &["h-0"]).await;
    let exit = Some(rustic_registry::ExitStatus::Code(3));
    let failure = Advance {
        condition: Some(Condition::new(AgentReason::ProcessExited, "it broke")),
        exit,
        ..advance(&failed, claimed.epoch, Phase::Failed)
    };
    store.advance(&failure).await.unwrap();
    [
        store.get(&waits, View::Launch).await.unwrap().unwrap(),
        store.get(&failed, View::Launch).await.unwrap().unwrap(),
    ]
}

fn remember(record: &AgentRecord, former_store_life: &StoreLife) -> Remember {
    Remember { record: record.clone(), former_store_life: former_store_life.clone() }
}

async fn what_no_host_runs_is_remembered_while_hosts_report_and_not_later(Run { store, restart, wipe, _redis }: Run) {
    let first = arrive(&store, &announce("h-0", "i", 5.0)).await.store_life;
    let [waits, failed] = unassigned(&store).await;
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
        let there = store.get(&record.key, View::Launch).await.unwrap().unwrap();
        assert_eq!(there, AgentRecord { state: State::of(record.phase(), None).unwrap(), ..record.clone() });
    }
    let pending = store.oldest(Queue::Pending, 0, 9, View::Basic).await.unwrap();
    assert_eq!(pending.iter().map(|r| &r.key).collect::<Vec<_>>(), [&waits.key], "it waits in line again");
    assert_eq!(store.hosts().await.unwrap().pending, 1);

    assert!(is_held(&store, &report_all("h-0", "i", &lease)).await);
    assert!(settles(&store, true).await);
    let never = AgentRecord { key: key("g", "never restored"), ..failed.clone() };
    let late = store.remember(&remember(&never, &first)).await.unwrap();
    assert_eq!(late, Remembered::Void, "it may have been stopped since");
    store.release(&failed.key, failed.epoch, ReleaseGuard::Unassigned).await.unwrap();
    let late = store.remember(&remember(&failed, &first)).await.unwrap();
    assert_eq!(late, Remembered::Void, "it was stopped since");
    let placed = store.assign(&waits.key, waits.epoch, &vec![host("h-0")].into()).await.unwrap();
    assert!(
        matches!(placed, AssignOutcome::Assigned(c) if c.epoch > waits.epoch && c.machine_id == waits.machine_id)
    );
}

async fn whoever_has_the_later_claim_is_right(Run { store, wipe, _redis, .. }: Run) {
    let first = arrive(&store, &announce("h-0", "i", 5.0)).await.store_life;
    let [waits, failed] = unassigned(&store).await;
    wipe();
    let now = store.announce(&back("h-0", "i", &first)).await.unwrap().store_life;
    // A host had got it before, and was asked to give it up. The wiped store does not know that.
    let (earlier, later) = (Epoch(waits.epoch.0 - 1), Epoch(failed.epoch.0 + 1));
    let report = Restore { former_store_life: Some(first.clone()), ..restore(&waits.key, earlier, "h-0", "i", &now) };
    assert_eq!(store.restore(&report).await.unwrap(), AdvanceOutcome::Done);
    assert_eq!(store.remember(&remember(&waits, &first)).await.unwrap(), Remembered::Done);
    let there = store.get(&waits.key, View::Basic).await.unwrap().unwrap();
    assert_eq!((there.phase(), there.host(), there.epoch), (Phase::Pending, None, waits.epoch));
    assert_eq!(used(&store).await, 0, "its room is free again");
    assert_eq!(store.restore(&report).await.unwrap(), AdvanceOutcome::Stale(waits.epoch), "the host ends it");

    // Another one runs by a claim that is later than what is remembered.
    let report = Restore { former_store_life: Some(first.clone()), ..restore(&failed.key, later, "h-0", "i", &now) };
    assert_eq!(store.restore(&report).await.unwrap(), AdvanceOutcome::Done);
    assert_eq!(store.remember(&remember(&failed, &first)).await.unwrap(), Remembered::Void);
    assert_eq!(store.get(&failed.key, View::Basic).await.unwrap().unwrap().phase(), Phase::Running);
    assert_eq!(used(&store).await, 1000);
}

async fn used(store: &Store) -> u64 {
    used_slots(store, "h-0").await
}

fn elsewhere() -> StoreLife {
    store_life("elsewhere.1")
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
            store.unassign(&unassign(agent, later, ReleaseGuard::Reaped, "it moves")).await.unwrap()
        };
        assert_eq!(released, ReleaseOutcome::Released);
        let record = store.get(agent, View::Basic).await.unwrap();
        if *agent == stopped {
            assert_eq!(record, None);
        } else {
            let record = record.unwrap();
            assert_eq!((record.phase(), record.host()), (Phase::Pending, None));
            assert!(record.epoch > later, "epochs never go back");
        }
        assert_eq!(used(&store).await, 0, "its room is free again");
        comes_and_reports(&store, "h-0", "i", &elsewhere()).await;
        assert!(settles(&store, true).await);
    }
}

async fn an_older_claim_that_no_host_has_accepted_gives_way_even_after_hosts_have_reported(
    Run { store, restart, _redis, .. }: Run,
) {
    arrive(&store, &announce("h-0", "i", 5.0)).await;
    let [waits, _] = unassigned(&store).await;
    store.release(&waits.key, waits.epoch, ReleaseGuard::Unassigned).await.unwrap();
    let older = claimed(&store, &waits.key, "r", &["h-0"]).await.epoch;
    restart();
    store.hosts().await.unwrap();
    comes_and_reports(&store, "h-0", "i", &elsewhere()).await;
    assert!(settles(&store, true).await);
    let later = AgentRecord { epoch: Epoch(older.0 + 1), ..waits.clone() };
    assert_eq!(store.remember(&remember(&later, &elsewhere())).await.unwrap(), Remembered::Done);
    let there = store.get(&waits.key, View::Basic).await.unwrap().unwrap();
    assert_eq!((there.phase(), there.epoch, used(&store).await), (Phase::Pending, later.epoch, 0));
    let accepts = store.advance(&advance(&waits.key, older, Phase::Starting)).await.unwrap();
    assert_eq!(accepts, AdvanceOutcome::Stale(later.epoch), "its host is too late");

    // One that a host has accepted may run: it stays.
    let AssignOutcome::Assigned(placed) =
        store.assign(&waits.key, later.epoch, &vec![host("h-0")].into()).await.unwrap()
    else {
        panic!("there is room")
    };
    store.advance(&advance(&waits.key, placed.epoch, Phase::Starting)).await.unwrap();
    let latest = AgentRecord { epoch: Epoch(placed.epoch.0 + 1), ..waits };
    assert_eq!(store.remember(&remember(&latest, &elsewhere())).await.unwrap(), Remembered::Void);
}

async fn what_was_stopped_is_not_restored_under_the_epoch_it_had_or_an_earlier_one(
    Run { store, wipe, _redis, .. }: Run,
) {
    arrive(&store, &announce("h-0", "i", 5.0)).await;
    let [waits, failed] = unassigned(&store).await;
    wipe();
    let now = store.announce(&back("h-0", "i", &elsewhere())).await.unwrap().store_life;
    let stopped = Epoch(failed.epoch.0 + 10);
    let stops = [&waits, &failed].map(|r| (r.key.clone(), stopped));
    store.bring(&Bring { stopped: stops.to_vec(), ..bring(&elsewhere()) }).await.unwrap();
    for earlier in [1, 0] {
        let epoch = Epoch(stopped.0 - earlier);
        let report = restore(&failed.key, epoch, "h-0", "i", &now);
        assert_eq!(store.restore(&report).await.unwrap(), AdvanceOutcome::Gone);
        let keeps = Restore { on_disconnect: OnDisconnect::Keep, ..report };
        assert_eq!(store.restore(&keeps).await.unwrap(), AdvanceOutcome::Gone);
        let known = AgentRecord { epoch, ..waits.clone() };
        assert_eq!(store.remember(&remember(&known, &elsewhere())).await.unwrap(), Remembered::Void);
    }
    // What was claimed after it was stopped is another agent's life.
    let later = Epoch(stopped.0 + 1);
    let report = restore(&failed.key, later, "h-0", "i", &now);
    assert_eq!(store.restore(&report).await.unwrap(), AdvanceOutcome::Done);
    let known = AgentRecord { epoch: later, ..waits };
    assert_eq!(store.remember(&remember(&known, &elsewhere())).await.unwrap(), Remembered::Done);
}

async fn a_second_stop_takes_nothing_back_from_the_first(Run { store, restart, _redis, .. }: Run) {
    let first = arrive(&store, &announce("h-0", "i", 5.0)).await.store_life;
    let a = key("g", "a");
    let epoch = claimed(&store, &a, "r", &["h-0"]).await.epoch;
    store.release(&a, epoch, ReleaseGuard::Reaped).await.unwrap();
    assert!(store.bury(&a).await.unwrap());
    restart();
    store.hosts().await.unwrap();
    let now = store.announce(&back("h-0", "i", &first)).await.unwrap().store_life;
    let report = restore(&a, epoch, "h-0", "i", &now);
    assert_eq!(store.restore(&report).await.unwrap(), AdvanceOutcome::Gone, "it was stopped");
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
    assert_eq!(epoch, Epoch((1 << 52) + Epoch::UNHEARD + 1));
    wipe();
    // This time the host brings what it saw.
    let again = Announce { highest_epoch: epoch, highest_life: HostLife(78), ..back("h-0", "i", &elsewhere()) };
    let lease = store.announce(&again).await.unwrap();
    assert_eq!(lease.life, HostLife(79));
    let reported = Epoch(epoch.with_unheard().0 + 5);
    store.restore(&restore(&b, reported, "h-0", "i", &lease.store_life)).await.unwrap();
    assert!(is_held(&store, &report_all("h-0", "i", &lease)).await);
    assert!(settles(&store, true).await);
    assert_eq!(claimed(&store, &a, "r", &["h-0"]).await.epoch, Epoch(reported.0 + 1));
}

async fn every_host_hears_of_every_epoch_and_brings_a_lost_store_more_than_it_heard_of(
    Run { store, wipe, _redis, .. }: Run,
) {
    // Far ahead of the clock, as epochs are when that was set back.
    let high = Announce { highest_epoch: Epoch(1 << 52), ..announce("h-0", "i", 5.0) };
    assert_eq!(arrive(&store, &high).await.highest_epoch, Epoch(1 << 52));
    let witness = arrive(&store, &announce("h-1", "i", 5.0)).await;
    assert_eq!(witness.highest_epoch, Epoch(1 << 52));
    let a = key("g", "a");
    let heard = claimed(&store, &a, "r", &["h-0"]).await.epoch;
    let Renewal::Held { highest_epoch, .. } = store.renew(&renew("h-1", "i", &witness)).await.unwrap() else {
        panic!("it holds its lease");
    };
    assert_eq!(highest_epoch, heard);
    let unheard = claimed(&store, &key("g", "b"), "r", &["h-0"]).await.epoch;
    wipe();
    // Whoever ran them is gone, and so is the engine that claimed them.
    let again = Announce { highest_epoch: heard, ..back("h-1", "i", &witness.store_life) };
    let lease = store.announce(&again).await.unwrap();
    assert!(is_held(&store, &report_all("h-1", "i", &lease)).await);
    assert!(settles(&store, true).await);
    assert!(claimed(&store, &a, "r", &["h-1"]).await.epoch > unheard);
}
