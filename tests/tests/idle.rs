//! What an engine asks of Redis while nothing happens.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use rustic_proto::engine::v1 as pb;
use rustic_registry::{
    Announce, Epoch, HostLife, HostState, RedisRegistry, RedisSettings, Registry as _, Resources,
    dev_server::{Admin, DevServer, Durability},
};
use rustic_tests::{
    program::Program,
    stack::{client, engine_arguments},
    wait_until,
};
use std::{collections::BTreeMap, time::Duration};
use tokio::time::{Instant, sleep};

const HOSTS: usize = 100;
/// Most commands in a second.
const MOST: f64 = 2.0;
/// Long enough for each loop to come round several times, but for the one that looks at everything every few minutes.
const WINDOW: Duration = Duration::from_secs(12);

/// Every command that Redis has carried out, those of scripts among them.
fn commands(admin: &mut Admin) -> BTreeMap<String, u64> {
    let stats = admin.text("INFO commandstats");
    let calls = |line: &str| {
        let (name, rest) = line.trim().strip_prefix("cmdstat_")?.split_once(":calls=")?;
        Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))
    };
    let calls: BTreeMap<_, _> = stats.lines().filter_map(calls).filter(|(name, _)| name != "info").collect();
    assert!(!calls.is_empty(), "{stats}");
    calls
}

#[tokio::test]
async fn an_idle_engine_asks_at_most_two_commands_a_second_of_redis_for_a_hundred_hosts() {
    let dir = tempfile::tempdir().unwrap();
    let redis = DevServer::start(dir.path(), Durability::None).unwrap();
    let registry = RedisRegistry::new(&RedisSettings::new(&redis.url())).unwrap();
    // Leases so long that nobody needs to renew meanwhile: what is counted is the engine's alone.
    let (ttl, lasts) = (Duration::from_secs(600), Duration::from_secs(620));
    for n in 0..HOSTS {
        let host = Announce {
            host: format!("agent-host-{n}").parse().unwrap(),
            incarnation: "i".parse().unwrap(),
            address: "127.0.0.1:1".to_owned(),
            dns_name: String::new(),
            capacity: Resources::one_slot(),
            labels: BTreeMap::new(),
            version: String::new(),
            state: HostState::Ready,
            cordoned: false,
            ttl,
            lasts,
            highest_epoch: Epoch(0),
            highest_life: HostLife::default(),
            succeeds: None,
            store_life: None,
            reported: None,
        };
        registry.announce(&host).await.unwrap();
    }
    let engine = Program::start("engine-svc", &engine_arguments(&redis.url(), &["--new-registry".to_owned()]));
    let client = client(&engine.address().await);
    wait_until("the registry to settle", async || {
        client.clone().list_agents(pb::ListAgentsRequest::default()).await.map_err(|status| status.to_string())
    })
    .await;
    let mut admin = redis.admin();
    // What it does when it has just settled is over when a second has passed in which it did no more than later.
    wait_until("the engine to rest", async || {
        let (before, began) = (commands(&mut admin), Instant::now());
        sleep(Duration::from_secs(2)).await;
        let seen = rate(&before, &commands(&mut admin), began);
        if seen.0 <= 2.0 * MOST { Ok(()) } else { Err(seen) }
    })
    .await;
    let (before, began) = (commands(&mut admin), Instant::now());
    sleep(WINDOW).await;
    let (rate, by_name) = rate(&before, &commands(&mut admin), began);
    assert!(rate <= MOST, "{rate:.2} commands a second: {by_name:?}");
}

/// Commands a second, and how many of each.
fn rate(
    before: &BTreeMap<String, u64>,
    after: &BTreeMap<String, u64>,
    began: Instant,
) -> (f64, BTreeMap<String, u64>) {
    let more = after.iter().map(|(name, calls)| (name.clone(), calls - before.get(name).unwrap_or(&0)));
    let by_name: BTreeMap<_, _> = more.filter(|(_, calls)| *calls > 0).collect();
    (by_name.values().sum::<u64>() as f64 / began.elapsed().as_secs_f64(), by_name)
}
