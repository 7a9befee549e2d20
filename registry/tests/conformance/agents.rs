//! What every registry must do with the record of a claimed agent: whose writes count, and what they free.

use crate::requests::*;
use rustic_registry::{
    Advance, AdvanceOutcome, AgentReason, Claim, ClaimOutcome, Condition, Event, EventId, ExitStatus, Index, Phase,
    Queue, ReleaseGuard, ReleaseOutcome, Resources, Unassign, View,
};
use std::time::Duration;

promises!(
    epochs_grow_and_an_old_one_changes_nothing,
    stop_wins_over_every_other_phase,
    failed_gives_the_room_back_and_keeps_its_condition,
    release_frees_room_and_machine_id,
    release_guards_hold,
    an_agent_taken_off_its_host_waits_under_a_new_epoch,
    a_claim_that_nobody_accepts_is_found,
    every_change_leaves_one_event,
    a_change_to_pending_says_why,
    agents_that_may_be_moved_take_no_room_for_that_and_a_host_is_known_to_have_some,
);

async fn epochs_grow_and_an_old_one_changes_nothing(store: Store) {
    arrive(&store, &announce("h-0", "i", 5.0)).await;
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
    arrive(&store, &announce("h-0", "i", 5.0)).await;
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

async fn failed_gives_the_room_back_and_keeps_its_condition(store: Store) {
    arrive(&store, &announce("h-0", "i", 5.0)).await;
    let a = key("g", "a");
    let epoch = claimed(&store, &a, "r", &["h-0"]).await.epoch;
    let spent = Condition::new(AgentReason::ProcessExited, "spent");
    let failed = Advance {
        condition: Some(spent.clone()),
        exit: Some(ExitStatus::Signal(9)),
        ..advance(&a, epoch, Phase::Failed)
    };
    for _ in 0..2 {
        assert_eq!(store.advance(&failed).await.unwrap(), AdvanceOutcome::Done);
    }
    assert_eq!(used_slots(&store, "h-0").await, 0);
    let record = store.get(&a, View::Basic).await.unwrap().unwrap();
    assert_eq!(record.condition, Some(spent));
    assert_eq!(record.last_exit.map(|e| e.status), Some(ExitStatus::Signal(9)));
    assert!(store.list(&Index::Host(host("h-0")), None, 10, View::Basic).await.unwrap().agents.is_empty());
}

async fn release_frees_room_and_machine_id(store: Store) {
    arrive(&store, &announce("h-0", "i", 5.0)).await;
    let (a, b) = (key("g", "a"), key("g", "b"));
    let first = claimed(&store, &a, "r", &["h-0"]).await;
    assert_eq!(first.machine_id, machine(1));
    assert_eq!(claimed(&store, &b, "r", &["h-0"]).await.machine_id, machine(2));
    store.release(&a, first.epoch, ReleaseGuard::Reaped).await.unwrap();
    assert_eq!(store.release(&a, first.epoch, ReleaseGuard::Reaped).await.unwrap(), ReleaseOutcome::Gone);
    assert_eq!(used_slots(&store, "h-0").await, 1000);
    assert_eq!(claimed(&store, &key("g", "c"), "r", &["h-0"]).await.machine_id, machine(1));
}

async fn release_guards_hold(store: Store) {
    arrive(&store, &announce("h-0", "i", 5.0)).await;
    let a = key("g", "a");
    let epoch = claimed(&store, &a, "r", &["h-0"]).await.epoch;
    let release = async |guard| store.release(&a, epoch, guard).await.unwrap();
    assert_eq!(release(ReleaseGuard::Unassigned).await, ReleaseOutcome::Guarded(Phase::Starting));
    store.advance(&advance(&a, epoch, Phase::Starting)).await.unwrap();
    assert_eq!(release(ReleaseGuard::Unaccepted).await, ReleaseOutcome::Guarded(Phase::Starting));
    store.advance(&advance(&a, epoch, Phase::Failed)).await.unwrap();
    assert_eq!(release(ReleaseGuard::Unassigned).await, ReleaseOutcome::Released);
    assert_eq!(used_slots(&store, "h-0").await, 0);

    let b = key("g", "b");
    let epoch = claimed(&store, &b, "r", &["h-0"]).await.epoch;
    let outcome = store.release(&b, epoch, ReleaseGuard::Unaccepted).await.unwrap();
    assert_eq!(outcome, ReleaseOutcome::Released);
}

async fn an_agent_taken_off_its_host_waits_under_a_new_epoch(store: Store) {
    arrive(&store, &announce("h-0", "i", 5.0)).await;
    let (a, b) = (key("g", "a"), key("g", "b"));
    let epoch = claimed(&store, &a, "r", &["h-0"]).await.epoch;
    store.advance(&advance(&a, epoch, Phase::Running)).await.unwrap();
    assert!(matches!(
        store.unassign(&unassign(&a, epoch, ReleaseGuard::Unaccepted, "")).await.unwrap(),
        ReleaseOutcome::Guarded(Phase::Running)
    ));
    assert_eq!(
        store.unassign(&unassign(&a, epoch, ReleaseGuard::Reaped, "it moves")).await.unwrap(),
        ReleaseOutcome::Released
    );
    let record = store.get(&a, View::Basic).await.unwrap().unwrap();
    assert_eq!(
        (record.phase(), record.condition.clone(), record.pid()),
        (Phase::Pending, Some(moves("it moves")), None)
    );
    let late = store.advance(&advance(&a, epoch, Phase::Running)).await.unwrap();
    assert_eq!(late, AdvanceOutcome::Stale(record.epoch));
    assert_eq!(used_slots(&store, "h-0").await, 0);

    let epoch = claimed(&store, &b, "r", &["h-0"]).await.epoch;
    store.advance(&advance(&b, epoch, Phase::Stopping)).await.unwrap();
    store.unassign(&unassign(&b, epoch, ReleaseGuard::Reaped, "it moves")).await.unwrap();
    assert_eq!(phase(&store, &b).await, None, "stop wins");
}

async fn a_claim_that_nobody_accepts_is_found(store: Store) {
    arrive(&store, &announce("h-0", "i", 5.0)).await;
    let (a, b) = (key("g", "a"), key("g", "b"));
    claimed(&store, &a, "r", &["h-0"]).await;
    let epoch = claimed(&store, &b, "r", &["h-0"]).await.epoch;
    store.advance(&advance(&b, epoch, Phase::Starting)).await.unwrap();
    let old = store.oldest(Queue::Unaccepted, 0, 10, View::Basic).await.unwrap();
    assert_eq!(old.iter().map(|r| &r.key).collect::<Vec<_>>(), [&a]);
    let c = key("g", "c");
    claimed(&store, &c, "r", &["h-0"]).await;
    let old = store.oldest(Queue::Unaccepted, 0, 10, View::Basic).await.unwrap();
    assert_eq!(old.iter().map(|r| &r.key).collect::<Vec<_>>(), [&a, &c], "oldest first");
    assert_eq!(store.oldest(Queue::Unaccepted, 1, 10, View::Basic).await.unwrap().len(), 1);
}

async fn every_change_leaves_one_event(store: Store) {
    arrive(&store, &announce("h-0", "i", 5.0)).await;
    let a = key("g", "a");
    let epoch = claimed(&store, &a, "r", &["h-0"]).await.epoch;
    store.advance(&advance(&a, epoch, Phase::Running)).await.unwrap();
    store.advance(&advance(&a, epoch, Phase::Running)).await.unwrap();
    store.release(&a, epoch, ReleaseGuard::Reaped).await.unwrap();
    let first = store.events(EventId::default(), 4, Duration::ZERO).await.unwrap();
    assert_eq!(first.entries.len(), 4);
    let rest = store.events(first.last, 10, Duration::ZERO).await.unwrap();
    assert_eq!(first.entries[..1].iter().map(|(_, event)| event).collect::<Vec<_>>(), [&Event::Store], "it was born");
    let phases: Vec<_> = first.agents().chain(rest.agents()).map(|e| e.phase).collect();
    assert_eq!(phases, [Some(Phase::Starting), Some(Phase::Running), None]);
    assert!(first.agents().all(|e| e.key == a && e.epoch == epoch && e.host == Some(host("h-0"))));
}

async fn a_change_to_pending_says_why(store: Store) {
    arrive(&store, &announce("h-0", "i", 5.0)).await;
    for (agent, reason) in [("a", AgentReason::Rebalanced), ("b", AgentReason::HostDrained)] {
        let key = key("g", agent);
        let epoch = claimed(&store, &key, "r", &["h-0"]).await.epoch;
        let condition = Condition::new(reason, "it moves: there is a reason: b");
        let guard = ReleaseGuard::Reaped;
        store.unassign(&Unassign { key, epoch, guard, condition, store_life: None }).await.unwrap();
    }
    let events = store.events(EventId::default(), 100, Duration::ZERO).await.unwrap();
    let why: Vec<_> = events.agents().map(|e| (e.phase, e.reason)).collect();
    let starts = (Some(Phase::Starting), None);
    let waits = |reason| (Some(Phase::Pending), Some(reason));
    assert_eq!(why, [starts, waits(AgentReason::Rebalanced), starts, waits(AgentReason::HostDrained)]);
}

async fn agents_that_may_be_moved_take_no_room_for_that_and_a_host_is_known_to_have_some(store: Store) {
    arrive(&store, &announce("h-0", "i", 2.0)).await;
    let mut demand = Resources::one_slot();
    demand.allow_moves();
    for agent in ["a", "b"] {
        let request = Claim { demand: demand.clone(), ..claim(&key("g", agent), "r", "d", &["h-0"]) };
        assert!(matches!(store.claim(&request).await.unwrap(), ClaimOutcome::Claimed(_)));
    }
    let used = async || store.hosts().await.unwrap().hosts[0].used.clone();
    assert!(used().await.is_movable());
    for agent in ["a", "b"] {
        assert!(used().await.is_movable(), "one is left");
        let record = store.get(&key("g", agent), View::Basic).await.unwrap().unwrap();
        store.release(&record.key, record.epoch, ReleaseGuard::Reaped).await.unwrap();
    }
    assert!(!used().await.is_movable() && used().await.is_empty());
}
