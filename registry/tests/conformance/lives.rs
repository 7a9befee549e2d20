//! A store in another life, which lacks its last writes or all it had: what must be reported and restored to it, and when it decides again.

use crate::requests::*;
use rustic_registry::{Announce, Announced, MemoryRegistry, RedisRegistry, RedisSettings, StoreLife};
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

/// Runs each, written once, against both stores.
macro_rules! both {
    ($($name:ident)+) => {
        mod memory { $(#[tokio::test] async fn $name() { super::$name(super::in_memory()).await })+ }
        mod redis { $(#[tokio::test] async fn $name() { super::$name(super::in_redis()).await })+ }
    };
}

mod reporting;
mod settling;

/// It comes again, from the store life in which it was before.
fn back(id: &str, incarnation: &str, store_life: &StoreLife) -> Announce {
    Announce { store_life: Some(store_life.clone()), ..announce(id, incarnation, 5.0) }
}

/// Comes back, reports no agent, and says that this was all.
async fn comes_and_reports(store: &Store, id: &str, incarnation: &str, store_life: &StoreLife) -> Announced {
    let lease = store.announce(&back(id, incarnation, store_life)).await.unwrap();
    assert!(is_held(store, &report_all(id, incarnation, &lease)).await);
    lease
}

async fn settles(store: &Store, watched: bool) -> bool {
    let view = store.hosts().await.unwrap();
    let settled = store.settle(&view.store_life.unwrap(), watched).await.unwrap();
    assert_eq!(store.hosts().await.unwrap().held, view.held && !settled);
    settled
}
