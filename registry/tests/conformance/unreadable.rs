//! What another version wrote is left out, listed apart, and left as it is. In Redis alone: the twin has no other versions.

use crate::requests::*;
use rustic_registry::{
    Claim, EventId, IfFull, Index, OnDisconnect, Phase, Queue, RedisRegistry, RedisSettings, RegistryError,
    ReleaseGuard, ReleaseOutcome, Scope, View,
    dev_server::Admin,
    unreadable::{RowKind, take_skipped},
};
use std::sync::Arc;
use std::time::Duration;

fn start() -> (TestRedis, Store, Admin) {
    let redis = TestRedis::start();
    let store = Arc::new(RedisRegistry::new(&RedisSettings::new(&redis.url())).unwrap());
    let admin = redis.admin();
    (redis, store, admin)
}

#[tokio::test]
async fn an_agent_of_another_version_is_listed_apart_from_the_others() {
    let (_redis, store, mut admin) = start();
    arrive(&store, &announce("h-0", "i", 9.0)).await;
    for agent in ["a", "b", "c"] {
        claimed(&store, &key("g", agent), "r", &["h-0"]).await;
    }
    admin.run("HSET {rustic}:agent:o:g:b phase HIBERNATING");
    let page = store.list(&Index::Within(Scope::All), None, 2, View::Basic).await.unwrap();
    assert_eq!(page.agents.iter().map(|r| r.key.agent.as_str()).collect::<Vec<_>>(), ["a"]);
    assert_eq!(
        (page.unreadable[0].key.agent.as_str(), page.unreadable[0].what.as_str()),
        ("b", "phase \"HIBERNATING\"")
    );
    assert_eq!(page.next, Some(key("g", "b")));
    let rest = store.list(&Index::Within(Scope::All), page.next.as_ref(), 2, View::Basic).await.unwrap();
    assert_eq!(rest.agents.len(), 1);
    let alone = store.get(&key("g", "b"), View::Launch).await.unwrap_err();
    assert!(matches!(alone, RegistryError::Unreadable { .. }), "{alone:?}");
    // Other tests of this process may have left out some as well.
    assert!(take_skipped(RowKind::Agent) >= 1);
    // Names that are none, at the end of a page and filling one.
    admin.run("ZADD {rustic}:agents 0 d 0 d1 0 d2 0 g:b%FF");
    let mut seen = vec![];
    let mut after = None;
    loop {
        let page = store.list(&Index::Within(Scope::All), after.as_ref(), 2, View::Basic).await.unwrap();
        after = page.next.clone();
        seen.extend(page.into_keys().map(|key| key.agent.to_string()));
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, ["a", "b", "c"]);
}

#[tokio::test]
async fn hosts_events_and_those_that_wait_are_read_without_what_another_version_wrote() {
    let (_redis, store, mut admin) = start();
    for id in ["h-0", "h-1"] {
        arrive(&store, &announce(id, "i", 9.0)).await;
    }
    // Another process has the name of one that may live.
    arrive(&store, &announce("h-1", "j", 9.0)).await;
    admin.run("HSET {rustic}:host:h-0 state RESTING");
    admin.run("HSET {rustic}:former h-0|k asleep|13000|1|0 h-2|l over");
    let view = store.hosts().await.unwrap();
    assert_eq!(view.hosts.iter().map(|h| h.host.as_str()).collect::<Vec<_>>(), ["h-1"]);
    assert_eq!(view.former.iter().map(|f| f.host.as_str()).collect::<Vec<_>>(), ["h-1"]);
    assert!(take_skipped(RowKind::Host) >= 3);
    for agent in ["a", "b"] {
        let waits = Claim { if_full: IfFull::Wait, ..claim(&key("g", agent), "r", "d", &[]) };
        store.claim(&waits).await.unwrap();
    }
    admin.run("HSET {rustic}:agent:o:g:a on_disconnect ponder");
    for queue in [Queue::Pending, Queue::Lines] {
        let waiting = store.oldest(queue, 0, 10, View::Basic).await.unwrap();
        assert_eq!(waiting.iter().map(|r| r.key.agent.as_str()).collect::<Vec<_>>(), ["b"], "{queue:?}");
    }
    admin.run("XADD {rustic}:events * agent g:a phase HIBERNATING epoch 7 host h-0");
    let claimed = claimed(&store, &key("g", "c"), "r", &["h-1"]).await;
    let events = store.events(EventId::default(), 100, Duration::ZERO).await.unwrap();
    assert_eq!(events.agents().filter(|e| e.phase.is_none()).count(), 0, "nobody is taken for gone");
    let epochs: Vec<_> = events.agents().map(|event| event.epoch).collect();
    assert_eq!((epochs.len(), epochs[2]), (3, claimed.epoch));
    assert_eq!(store.events(events.last, 100, Duration::ZERO).await.unwrap().entries, []);
}

#[tokio::test]
async fn what_a_newer_version_put_into_a_record_stays() {
    let (_redis, store, mut admin) = start();
    arrive(&store, &announce("h-0", "i", 9.0)).await;
    let agent = key("g", "a");
    let first = claimed(&store, &agent, "r", &["h-0"]).await;
    admin.run("HSET {rustic}:agent:o:g:a colour green");
    store.advance(&advance(&agent, first.epoch, Phase::Running)).await.unwrap();
    store.advance(&advance(&agent, first.epoch, Phase::Failed)).await.unwrap();
    let again = Claim { on_disconnect: OnDisconnect::Keep, ..claim(&agent, "r2", "d2", &["h-0"]) };
    store.claim(&again).await.unwrap();
    admin.run("HGET {rustic}:agent:o:g:a colour");
    assert_eq!(admin.run("HSTRLEN {rustic}:agent:o:g:a colour"), "green", "the rest of the answer before");
    let record = store.get(&agent, View::Launch).await.unwrap().unwrap();
    assert_eq!(
        (record.running, record.last_exit, record.last_lines.len()),
        (None, None, 0),
        "and nothing of the former agent"
    );
    // A word that it does not know does not keep it from giving room back.
    admin.run("DEL {rustic}:unused");
    let released = store.release(&agent, record.epoch, ReleaseGuard::Reaped).await.unwrap();
    assert_eq!(released, ReleaseOutcome::Released);
    assert_eq!(used_slots(&store, "h-0").await, 0);
}
