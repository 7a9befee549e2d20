//! Watches over a registry in memory.

use super::*;
use crate::{changes::Changes, engine::Leases, fakes::NoHosts, fleet::Fleet, rounds::Wake};
use rustic_core::placement::Policy;
use rustic_registry::{
    Claim, Documents, EventId, Events, FirstStart, IfFull, MemoryRegistry, OnDisconnect, Registry as _, Resources,
    SpecDigest, Stops, StoreLife, UnixMillis, store::EVENTS_KEPT,
};
use std::sync::atomic::{AtomicU64, Ordering};

struct Rig {
    engine: Arc<Engine>,
    registry: Arc<MemoryRegistry>,
    changes: Arc<Changes>,
    /// How far the registry's changes were read.
    read_to: AtomicU64,
}

/// An engine whose registry has settled, and that has read all changes.
async fn rig() -> Rig {
    let registry = Arc::new(MemoryRegistry::new(|| UnixMillis(1_000)));
    let changes = Arc::new(Changes::default());
    let fleet = Arc::new(Fleet::new(registry.clone(), Policy::LeastLoaded, changes.clone()));
    let leases = Leases { longest: Duration::ZERO, drift: 0.0, new_registry: true };
    let engine =
        Arc::new(Engine::new(registry.clone(), fleet, Arc::new(NoHosts), leases, changes.clone(), Wake::default()));
    registry.bring(&engine.fleet.brings(StoreLife::NONE)).await.expect("in memory");
    let store = registry.hosts().await.expect("in memory").store_life.expect("it has begun");
    assert!(registry.settle(&store, true).await.expect("in memory"));
    engine.fleet.refresh().await.expect("in memory");
    engine.fleet.has_restored(store.clone());
    changes.begin(Some(store));
    let rig = Rig { engine, registry, changes, read_to: AtomicU64::new(0) };
    rig.read().await;
    rig
}

impl Rig {
    /// What the reader does.
    async fn read(&self) {
        let after = EventId(self.read_to.load(Ordering::Relaxed), 0);
        let read = self.registry.events(after, EVENTS_KEPT, Duration::ZERO).await.expect("in memory");
        self.read_to.store(read.last.0, Ordering::Relaxed);
        self.push(read.entries.into_iter().map(|(_, event)| event));
    }

    /// An agent comes to wait for room.
    async fn comes(&self, guild: &str, agent: &str) {
        let key = AgentKey::parse("default", guild, agent).expect("an id");
        let claim = Claim {
            key,
            name: "an agent".to_owned(),
            request_id: "r".parse().expect("an id"),
            digest: SpecDigest("d".to_owned()),
            demand: Resources::one_slot(),
            on_disconnect: OnDisconnect::Stop,
            documents: Documents::default(),
            candidates: vec![].into(),
            if_full: IfFull::Wait,
            waits: None,
            if_namesakes: rustic_registry::IfNamesakes::Ignore,
            first_start: FirstStart::FollowsPolicy,
            store_life: None,
            asked: Stops(u64::MAX),
        };
        self.registry.claim(&claim).await.expect("in memory");
        self.read().await;
    }

    /// So many changes that concern nobody.
    fn flood(&self, count: usize) {
        self.push(std::iter::repeat_n(Event::Store, count));
    }

    /// With places of their own: a flood comes between the changes that are read of the registry.
    fn push(&self, events: impl Iterator<Item = Event>) {
        let first = self.changes.last().0 + 1;
        let entries: Vec<_> = events.zip(first..).map(|(event, number)| (EventId(number, 0), event)).collect();
        self.changes.push(Events { last: EventId::default(), entries });
    }

    async fn watch(&self, watched: Watched, after: Option<&Revision>) -> Result<Watch, EngineError> {
        self.engine.watch(watched, View::Basic, after).await
    }
}

fn words(changes: &[WatchEvent]) -> Vec<String> {
    let word = |changes: &WatchEvent| match changes {
        WatchEvent::Agent(Listed::Agent(record)) => record.key.to_string(),
        WatchEvent::Agent(Listed::Unreadable(agent)) => format!("{} unreadable", agent.key),
        WatchEvent::Removed(key, _) => format!("{key} removed"),
        WatchEvent::Bookmark => "bookmark".to_owned(),
    };
    changes.iter().map(word).collect()
}

#[tokio::test]
async fn who_does_not_take_what_it_is_sent_has_to_begin_anew() {
    let rig = rig().await;
    let mut slow = rig.watch(Watched::Within(Scope::All), None).await.expect("settled");
    let (changes, revision) = slow.next().await.expect("the beginning");
    assert_eq!(words(&changes), ["bookmark"]);
    rig.comes("g", "a").await;
    rig.flood(EVENTS_KEPT);
    assert!(matches!(slow.next().await, Err(EngineError::WatchExpired)));
    // Nor can it go on where it was.
    let revision = revision.expect("the beginning has ended");
    assert!(matches!(rig.watch(Watched::Within(Scope::All), Some(&revision)).await, Err(EngineError::WatchExpired)));
    let mut anew = rig.watch(Watched::Within(Scope::All), None).await.expect("settled");
    assert_eq!(words(&anew.next().await.expect("the beginning").0), ["default/g/a", "bookmark"]);
}

#[tokio::test]
async fn who_has_nothing_to_hear_of_gets_bookmarks_so_that_it_can_resume() {
    let rig = rig().await;
    let key = AgentKey::parse("default", "g", "a").expect("ids");
    let guild = || Watched::Within(Scope::Guild(key.guild.clone()));
    let mut watch = rig.watch(guild(), None).await.expect("settled");
    let first = watch.next().await.expect("the beginning").1.expect("a revision");
    rig.comes("other", "a").await;
    rig.flood(UNREPORTED);
    let (changes, second) = watch.next().await.expect("kept");
    assert_eq!(words(&changes), ["bookmark"]);
    rig.flood(EVENTS_KEPT - UNREPORTED / 2);
    assert!(matches!(rig.watch(guild(), Some(&first)).await, Err(EngineError::WatchExpired)));
    let mut resumed = rig.watch(guild(), second.as_ref()).await.expect("kept");
    rig.comes("g", "b").await;
    let changes = loop {
        let (changes, _) = resumed.next().await.expect("kept");
        if words(&changes) != ["bookmark"] {
            break changes;
        }
    };
    assert_eq!(words(&changes), ["default/g/b"]);
}

#[tokio::test]
async fn several_changes_of_one_agent_are_sent_as_it_is_now() {
    let rig = rig().await;
    let mut watch = rig.watch(Watched::Within(Scope::All), None).await.expect("settled");
    watch.next().await.expect("the beginning");
    for _ in 0..3 {
        rig.comes("g", "a").await;
        let key = AgentKey::parse("default", "g", "a").expect("an id");
        let epoch = rig.registry.get(&key, View::Basic).await.expect("in memory").expect("it is there").epoch;
        let guard = rustic_registry::ReleaseGuard::Unassigned;
        rig.registry.release(&key, epoch, guard).await.expect("in memory");
        rig.read().await;
    }
    assert_eq!(words(&watch.next().await.expect("kept").0), ["default/g/a removed"]);
}

#[tokio::test]
async fn a_store_in_another_life_ends_a_watch() {
    let rig = rig().await;
    let mut watch = rig.watch(Watched::Within(Scope::All), None).await.expect("settled");
    let revision = watch.next().await.expect("the beginning").1;
    rig.changes.begin(Some(StoreLife("another".to_owned())));
    assert!(matches!(watch.next().await, Err(EngineError::WatchExpired)));
    assert!(matches!(
        rig.watch(Watched::Within(Scope::All), revision.as_ref()).await,
        Err(EngineError::WatchExpired)
    ));
}
