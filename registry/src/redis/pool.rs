//! Connections to Redis: those of deadpool-redis, but trusted for a moment after they have worked.
//!
//! deadpool-redis asks every connection whether it lives before it hands it out, which makes two round trips of every
//! operation. Here a connection that answered just now is handed out as it is; one that was idle is asked. A connection
//! that failed is never handed out again (`RedisRegistry::answer`), and every operation may be repeated, so that the
//! worst that can come of it is one retryable error on a connection that broke within that moment.

use crate::error::RegistryError;
use deadpool::managed::{self, Metrics, Object, RecycleResult, Timeouts};
use deadpool_redis::{
    Manager, Runtime,
    redis::{AsyncConnectionConfig, RedisError, aio::MultiplexedConnection},
};
use std::time::Duration;

/// How long a connection is trusted after its last use.
const TRUSTED: Duration = Duration::from_secs(1);

/// Makes and checks connections.
pub(super) struct Connections(Manager);

/// The pool.
pub(super) type Pool = managed::Pool<Connections>;
/// A connection out of the pool, which goes back when dropped.
pub(super) type Connection = Object<Connections>;

/// A pool of at most `connections`; no step of getting one takes longer than `timeout`. Connects with the first use.
pub(super) fn pool(url: &str, connections: usize, timeout: Duration) -> Result<Pool, RegistryError> {
    // The crate's own limits are shorter than ours, and would make every answer that takes half a second look like a cut line.
    let unlimited = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
    let manager = Manager::new_with_config(url, unlimited).map_err(|e| RegistryError::Unreachable(Box::new(e)))?;
    let wait = Some(timeout);
    Pool::builder(Connections(manager))
        .max_size(connections)
        .timeouts(Timeouts { wait, create: wait, recycle: wait })
        .runtime(Runtime::Tokio1)
        .build()
        .map_err(|e| RegistryError::Unreachable(Box::new(e)))
}

impl managed::Manager for Connections {
    type Type = MultiplexedConnection;
    type Error = RedisError;

    async fn create(&self) -> Result<MultiplexedConnection, RedisError> {
        self.0.create().await
    }

    async fn recycle(&self, connection: &mut MultiplexedConnection, metrics: &Metrics) -> RecycleResult<RedisError> {
        if metrics.last_used() < TRUSTED { Ok(()) } else { self.0.recycle(connection, metrics).await }
    }
}
