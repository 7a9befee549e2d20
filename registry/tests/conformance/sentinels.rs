//! A Redis that sentinels watch: who is the primary is asked of them, and a failover is another life of the store.

use crate::requests::*;
use rustic_registry::{
    RedisAccess, RedisRegistry, RedisSettings,
    dev_server::{self, DevServer, Durability},
};
use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// Longer than any test.
const NEVER: Duration = Duration::from_secs(600);
/// Longest wait for a failover.
const PATIENCE: Duration = Duration::from_secs(30);

/// A primary, a replica and a sentinel.
struct Watched {
    servers: [DevServer; 2],
    sentinel: Child,
    port: u16,
    _dirs: [TempDir; 3],
}

impl Watched {
    /// The sentinel takes the primary for down when it has been silent for so long.
    async fn start(down_after: Duration) -> Self {
        let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let servers = [0, 1].map(|n| DevServer::start(dirs[n].path(), Durability::None).unwrap());
        let primary = servers[0].port();
        assert_eq!(servers[1].admin().run(&format!("REPLICAOF 127.0.0.1 {primary}")), "+OK");
        let port = free_port();
        let config = dirs[2].path().join("sentinel.conf");
        let monitor = "sentinel monitor the-primary 127.0.0.1";
        fs::write(
            &config,
            format!(
                "port {port}\nbind 127.0.0.1\ndir {}\n{monitor} {primary} 1\nsentinel down-after-milliseconds the-primary {}\n\
                 sentinel failover-timeout the-primary 3000\n",
                dirs[2].path().display(),
                down_after.as_millis()
            ),
        )
        .unwrap();
        let mut command = Command::new(dev_server::binary().unwrap());
        let command = command.arg(config).arg("--sentinel").stdin(Stdio::null()).stdout(Stdio::null());
        let watched = Self { servers, sentinel: command.spawn().unwrap(), port, _dirs: dirs };
        watched
            .until("the replica to be known and in step", || {
                watched.ask("SENTINEL replicas the-primary").starts_with("*1")
                    && watched.servers[1].admin().text("INFO replication").contains("master_link_status:up")
            })
            .await;
        watched
    }

    /// The first line of a sentinel's answer.
    fn ask(&self, question: &str) -> String {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) else { return String::new() };
        stream.write_all(format!("{question}\r\n").as_bytes()).unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        line
    }

    fn is_primary(&self, n: usize) -> bool {
        self.servers[n].admin().text("INFO replication").contains("role:master")
    }

    /// How far a server has read what was written.
    fn offset(&self, n: usize) -> Option<u64> {
        let text = self.servers[n].admin().text("INFO replication");
        text.lines().find_map(|line| line.strip_prefix("master_repl_offset:")?.trim().parse().ok())
    }

    fn registry(&self) -> Store {
        let dead = format!("127.0.0.1:{}", free_port());
        let sentinels = [dead, format!("127.0.0.1:{}", self.port)];
        let access = RedisAccess {
            redis_sentinel: sentinels.iter().map(|sentinel| sentinel.parse().unwrap()).collect(),
            ..RedisAccess::default()
        };
        let settings = RedisSettings { access, ..RedisSettings::new("redis://the-primary/0") };
        Arc::new(RedisRegistry::new(&settings).unwrap())
    }

    async fn until(&self, what: &str, so: impl Fn() -> bool) {
        let give_up = Instant::now() + PATIENCE;
        while !so() {
            assert!(Instant::now() < give_up, "waited for {what}");
            sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = self.sentinel.kill();
        let _ = self.sentinel.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn a_failover_is_followed_and_is_another_life_of_the_store() {
    let mut watched = Watched::start(Duration::from_secs(2)).await;
    let store = watched.registry();
    let before = arrive(&store, &announce("h-0", "i", 5.0)).await;
    let key = key("g", "a");
    let epoch = claimed(&store, &key, "r", &["h-0"]).await.epoch;
    watched.until("the replica to have it", || watched.offset(0) == watched.offset(1)).await;
    watched.servers[0].kill();
    let give_up = Instant::now() + PATIENCE;
    // Each call fails by itself until the sentinel has made the replica the primary.
    let view = loop {
        match store.announce(&announce("h-1", "i", 5.0)).await {
            Ok(_) => break store.hosts().await.unwrap(),
            Err(error) => assert!(error.is_retryable() && Instant::now() < give_up, "{error}"),
        }
        sleep(Duration::from_millis(100)).await;
    };
    assert!(view.held, "hosts report what they run");
    assert_ne!(view.store_life.as_ref(), Some(&before.store_life));
    let agent = store.get(&key, rustic_registry::View::Basic).await.unwrap().unwrap();
    assert_eq!(agent.epoch, epoch);
}

#[tokio::test]
async fn a_primary_that_becomes_a_replica_is_left() {
    let watched = Watched::start(NEVER).await;
    let store = watched.registry();
    arrive(&store, &announce("h-0", "i", 5.0)).await;
    // Refused until the sentinel has looked at the replica often enough.
    watched.until("the failover to begin", || watched.ask("SENTINEL FAILOVER the-primary").starts_with("+OK")).await;
    watched.until("the other to be the primary", || watched.is_primary(1) && !watched.is_primary(0)).await;
    let give_up = Instant::now() + PATIENCE;
    while let Err(error) = store.announce(&announce("h-1", "i", 5.0)).await {
        assert!(error.is_retryable() && Instant::now() < give_up, "{error}");
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(store.hosts().await.unwrap().hosts.len(), 2, "nothing was lost");
}

#[tokio::test]
async fn sentinels_that_do_not_answer_or_know_no_such_primary_are_named() {
    let watched = Watched::start(NEVER).await;
    let sentinels = [format!("127.0.0.1:{}", watched.port), format!("127.0.0.1:{}", free_port())];
    let access = RedisAccess {
        redis_sentinel: sentinels.iter().map(|sentinel| sentinel.parse().unwrap()).collect(),
        ..RedisAccess::default()
    };
    let settings = RedisSettings { access, ..RedisSettings::new("redis://another/0") };
    let registry = RedisRegistry::new(&settings).unwrap();
    let why = rustic_registry::Registry::hosts(&registry).await.expect_err("nobody knows it").to_string();
    for words in [&format!("{} watches no such primary", sentinels[0]), &format!("{}: ", sentinels[1]), "another"] {
        assert!(why.contains(words), "{words}: {why}");
    }
}
