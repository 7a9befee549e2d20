//! An engine's copies, over a registry whose reads can fail and that can lose everything.

use super::*;
use crate::{
    changes::Changes,
    engine::Leases,
    fakes::{NoHosts, Unreliable},
    fleet::Fleet,
    rounds::Wake,
};
use rustic_core::placement::Policy;
use rustic_registry::{
    AgentEvent, AgentRecord, Announce, Claim, ClaimOutcome, Documents, Epoch, Event, FirstStart, FormerState,
    HostLife, HostState, IfFull, MemoryRegistry, OnDisconnect, Phase, Registry, Resources, SpecDigest, Stops,
    UnixMillis, store::EVENTS_KEPT,
};
use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::time::Instant;

const HOLD: Duration = Duration::from_secs(12);

/// An engine that has seen a store with one host, full, and what it remembers.
async fn engine() -> (Engine, Arc<Unreliable>, Unassigned) {
    let start = Instant::now();
    let clock = move || UnixMillis(1_000_000 + start.elapsed().as_millis() as u64);
    let registry = Arc::new(Unreliable::new(MemoryRegistry::new(clock)));
    announce(&registry, "first").await;
    let changes = Arc::new(Changes::default());
    let fleet = Arc::new(Fleet::new(registry.clone(), Policy::LeastLoaded, changes.clone()));
    let leases = Leases { longest: HOLD, drift: 0.0, new_registry: true };
    let engine = Engine::new(registry.clone(), fleet, Arc::new(NoHosts), leases, changes, Wake::default());
    let mut unassigned = Unassigned::default();
    pass(&engine, &mut unassigned).await.expect("the registry answers");
    engine.reconcile(&mut crate::engine::Unaccepted::default()).await.expect("the registry answers");
    assert!(!registry.hosts().await.expect("in memory").held, "nobody has used it before");
    (engine, registry, unassigned)
}

/// What the engine does when something has changed: its view of the hosts, its reader and its keeping of copies, one after the other.
async fn pass(engine: &Engine, unassigned: &mut Unassigned) -> Result<(), EngineError> {
    engine.fleet.refresh().await?;
    let store = engine.fleet.view().registry.store_life;
    if engine.changes.store() != store {
        engine.changes.begin(store);
    }
    let events = engine.registry.events(engine.changes.last(), EVENTS_KEPT, Duration::ZERO).await?;
    engine.fleet.saw_changes(&events);
    engine.changes.push(events);
    engine.remember(unassigned).await.map(|_| ())
}

async fn announce(registry: &Unreliable, incarnation: &str) {
    let host = Announce {
        host: "h-0".parse().expect("an id"),
        incarnation: incarnation.parse().expect("an id"),
        address: "h-0:1".to_owned(),
        dns_name: String::new(),
        capacity: Resources::default(),
        labels: BTreeMap::new(),
        version: String::new(),
        state: HostState::Ready,
        cordoned: false,
        ttl: HOLD,
        lasts: HOLD,
        highest_epoch: Epoch(0),
        highest_life: HostLife::default(),
        succeeds: None,
        store_life: None,
        reported: None,
    };
    registry.announce(&host).await.expect("in memory");
}

/// An agent that waits for room.
async fn waits(registry: &Unreliable) -> AgentRecord {
    let key = AgentKey::parse("default", "g", "a").expect("an id");
    let claim = Claim {
        key: key.clone(),
        name: "a".to_owned(),
        request_id: "r".parse().expect("an id"),
        digest: SpecDigest("d".to_owned()),
        demand: Resources::one_slot(),
        on_disconnect: OnDisconnect::Stop,
        documents: Documents { spec: "{}".to_owned(), launch: vec![1].into() },
        candidates: vec![].into(),
        if_full: IfFull::Wait,
        waits: None,
        if_namesakes: rustic_registry::IfNamesakes::Ignore,
        first_start: FirstStart::MustSucceed,
        store_life: None,
        asked: Stops::default(),
    };
    assert_eq!(registry.claim(&claim).await.expect("in memory"), ClaimOutcome::Waits);
    registry.inner.get(&key, View::Launch).await.expect("in memory").expect("it waits")
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_could_not_be_read_is_read_at_the_next_pass() {
    let (engine, registry, mut unassigned) = engine().await;
    let record = waits(&registry).await;
    registry.fails.store(true, Ordering::Relaxed);
    pass(&engine, &mut unassigned).await.expect_err("its record cannot be read");
    assert_eq!(unassigned.copies().count(), 0);
    registry.fails.store(false, Ordering::Relaxed);
    pass(&engine, &mut unassigned).await.expect("the registry answers");
    assert_eq!(unassigned.copies().collect::<Vec<_>>(), [&record]);
}

#[tokio::test(start_paused = true)]
async fn before_an_engine_has_restored_a_lost_store_no_agent_is_unknown_to_it() {
    let (engine, registry, mut unassigned) = engine().await;
    let record = waits(&registry).await;
    pass(&engine, &mut unassigned).await.expect("the registry answers");
    registry.inner.wipe();
    // A host that knew nothing before comes first: to it the store is a new one, that has lost nothing.
    announce(&registry, "second").await;
    let early = engine.get(&record.key, View::Basic).await.expect_err("the store does not know it");
    assert!(matches!(early, EngineError::Held(_)), "{early}");
    let stopped = engine.stop(&record.key, Duration::ZERO, crate::engine::IfSilent::Refuse).await;
    assert!(matches!(stopped, Err(EngineError::Held(_))), "{stopped:?}");
    pass(&engine, &mut unassigned).await.expect("the registry answers");
    let restored = engine.get(&record.key, View::Launch).await.expect("it is known again");
    let crate::engine::Listed::Agent(restored) = restored else { panic!("{restored:?}") };
    assert_eq!(
        (restored.phase(), restored.epoch, restored.documents),
        (Phase::Pending, record.epoch, record.documents)
    );
    // The first host was seen by this engine, and may still run something: nothing is decided before it is retired.
    let view = registry.hosts().await.expect("in memory");
    let awaited: Vec<_> = view.former.iter().map(|f| (f.incarnation.as_str(), f.state)).collect();
    assert_eq!((view.held, awaited), (true, vec![("first", FormerState::Awaited)]));
}

#[tokio::test(start_paused = true)]
async fn what_was_stopped_in_a_lost_store_is_not_brought_back_by_a_copy() {
    let (engine, registry, mut unassigned) = engine().await;
    let record = waits(&registry).await;
    pass(&engine, &mut unassigned).await.expect("the registry answers");
    // Another engine stops it, and this one has a copy still when the store is wiped.
    engine.stop(&record.key, Duration::ZERO, crate::engine::IfSilent::Refuse).await.expect("it waits");
    registry.inner.wipe();
    announce(&registry, "second").await;
    pass(&engine, &mut unassigned).await.expect("the registry answers");
    assert_eq!(registry.inner.get(&record.key, View::Basic).await.expect("in memory"), None);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_lost_while_its_changes_are_read_anew_gets_back_what_was_known() {
    let (engine, registry, mut unassigned) = engine().await;
    let record = waits(&registry).await;
    pass(&engine, &mut unassigned).await.expect("the registry answers");
    registry.inner.wipe();
    announce(&registry, "second").await;
    // The place in the changes is gone before the view of the hosts shows why.
    engine.changes.begin(None);
    engine.remember(&mut unassigned).await.expect("the registry answers");
    assert_eq!(
        unassigned.copies().collect::<Vec<_>>(),
        [&record],
        "what stands in the new store is not all there is"
    );
    pass(&engine, &mut unassigned).await.expect("the registry answers");
    let restored = registry.inner.get(&record.key, View::Launch).await.expect("in memory").expect("it is restored");
    assert_eq!((restored.phase(), restored.epoch), (Phase::Pending, record.epoch));
}

#[tokio::test(start_paused = true)]
async fn an_older_claim_that_a_lost_store_shows_takes_the_place_of_no_copy() {
    let (engine, registry, mut unassigned) = engine().await;
    let record = waits(&registry).await;
    pass(&engine, &mut unassigned).await.expect("the registry answers");
    let older = Epoch(record.epoch.0 - 1);
    let change =
        |epoch| AgentEvent { key: record.key.clone(), phase: Some(Phase::Running), epoch, host: None, reason: None };
    assert_eq!(unassigned.follow([Event::Agent(change(older))]), []);
    assert_eq!(unassigned.copies().count(), 1);
    assert_eq!(unassigned.follow([Event::Agent(change(record.epoch))]), []);
    assert_eq!(unassigned.copies().count(), 0);
}
