//! The form of what stands in Redis: whose it is, and who refuses it.

use crate::requests::*;
use rustic_registry::{
    Claim, ClaimOutcome, FormTrouble, IfFull, Index, Phase, RedisRegistry, RedisSettings, RegistryError,
    ReleaseGuard, Resources, Schema, Scope, StoreLife, View,
};
use std::sync::Arc;

const NEXT: &str =
    "redis.call('INCR', KEYS[1] .. ':stepped')\nredis.call('RENAME', KEYS[1] .. ':agents', KEYS[1] .. ':everybody')";

fn of_form(redis: &TestRedis, schema: &Schema) -> Store {
    Arc::new(RedisRegistry::of_form(&RedisSettings::new(&redis.url()), schema).unwrap())
}

async fn trouble(store: &Store) -> FormTrouble {
    let writes = store.claim(&claim(&key("g", "b"), "r", "d", &["h-0"])).await.unwrap_err();
    let reads = store.list(&Index::Within(Scope::All), None, 10, View::Basic).await.unwrap_err();
    match (writes, reads) {
        (RegistryError::Form(writes), RegistryError::Form(reads)) if writes == reads => writes,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_empty_store_takes_the_form_of_whoever_comes_first() {
    let redis = TestRedis::start();
    let store = of_form(&redis, &Schema::current());
    store.hosts().await.unwrap();
    assert_eq!(redis.admin().run("EXISTS {rustic}:schema"), ":1");
    redis.admin().run("FLUSHALL");
    store.announce(&announce("h-0", "i", 1.0)).await.unwrap();
    assert_eq!(redis.admin().run("EXISTS {rustic}:schema"), ":1");
    redis.admin().run("FLUSHALL");
    store.bring(&bring(&StoreLife("another".to_owned()))).await.unwrap();
    assert_eq!(redis.admin().run("EXISTS {rustic}:schema"), ":1");
}

#[tokio::test]
async fn data_without_a_number_is_refused_and_left_alone() {
    let redis = TestRedis::start();
    let store = of_form(&redis, &Schema::current());
    store.announce(&announce("h-0", "i", 1.0)).await.unwrap();
    redis.admin().run("DEL {rustic}:schema");
    let before = redis.admin().run("DBSIZE");
    let trouble = trouble(&store).await;
    assert_eq!(trouble, FormTrouble::Unnumbered);
    assert!(trouble.to_string().contains("redis-cli --scan --pattern '{rustic}:*'"), "{trouble}");
    assert_eq!(redis.admin().run("DBSIZE"), before);
}

#[tokio::test]
async fn the_next_version_takes_its_step_once_and_this_one_is_refused_from_then_on() {
    let redis = TestRedis::start();
    let this = of_form(&redis, &Schema::current());
    arrive(&this, &announce("h-0", "i", 5.0)).await;
    let claimed = claimed(&this, &key("g", "a"), "r", &["h-0"]).await;
    let next = of_form(&redis, &Schema::new(4, vec![(4, NEXT)]));
    for _ in 0..2 {
        next.hosts().await.unwrap();
        assert_eq!(redis.admin().run("EXISTS {rustic}:everybody"), ":1");
        assert_eq!(redis.admin().run("EXISTS {rustic}:agents"), ":0");
    }
    assert_eq!(redis.admin().run("INCR {rustic}:stepped"), ":2", "one step was taken");
    let record = next.get(&key("g", "a"), View::Basic).await.unwrap().unwrap();
    assert_eq!(record.epoch, claimed.epoch);
    let before = redis.admin().run("DBSIZE");
    let trouble = trouble(&this).await;
    assert_eq!(trouble, FormTrouble::Newer("4".to_owned()));
    assert!(trouble.to_string().contains("run the newer version"), "{trouble}");
    assert_eq!(redis.admin().run("DBSIZE"), before);
}

#[tokio::test]
async fn a_form_from_which_no_step_leads_is_refused() {
    let redis = TestRedis::start();
    of_form(&redis, &Schema::current()).announce(&announce("h-0", "i", 5.0)).await.unwrap();
    let far = of_form(&redis, &Schema::new(5, vec![(5, NEXT)]));
    assert_eq!(trouble(&far).await, FormTrouble::Older("3".to_owned()));
    assert_eq!(redis.admin().run("EXISTS {rustic}:stepped"), ":0");
}

#[tokio::test]
async fn what_agents_took_in_form_2_is_what_they_asked_for() {
    let redis = TestRedis::start();
    let store = of_form(&redis, &Schema::current());
    arrive(&store, &announce("h-0", "i", 5.0)).await;
    let runs = claimed(&store, &key("g", "runs"), "r", &["h-0"]).await;
    let waits = Claim { if_full: IfFull::Wait, ..claim(&key("g", "waits"), "r", "d", &[]) };
    assert_eq!(store.claim(&waits).await.unwrap(), ClaimOutcome::Waits);
    for command in ["HDEL {rustic}:agent:o:g:runs takes", "SET {rustic}:schema 2"] {
        redis.admin().run(command);
    }
    let upgraded = of_form(&redis, &Schema::current());
    upgraded.hosts().await.unwrap();
    let record = upgraded.get(&key("g", "runs"), View::Basic).await.unwrap().unwrap();
    assert_eq!(record.assignment().unwrap().takes, record.demand);
    upgraded.release(&record.key, runs.epoch, ReleaseGuard::Reaped).await.unwrap();
    assert_eq!(upgraded.hosts().await.unwrap().hosts[0].used, Resources::default());
    assert_eq!(phase(&upgraded, &key("g", "waits")).await, Some(Phase::Pending));
}
