//! Connections to Redis: those of deadpool-redis, but trusted for a moment after they have worked.
//!
//! deadpool-redis asks every connection whether it lives before it hands it out, which makes two round trips of every
//! operation. Here a connection that answered just now is handed out as it is; one that was idle is asked. A connection
//! that failed is never handed out again (`RedisRegistry::answer`), and every operation may be repeated, so that the
//! worst that can come of it is one retryable error on a connection that broke within that moment.

use super::{
    access::{Access, AccessError},
    read,
};
use crate::error::RegistryError;
use deadpool::managed::{self, Metrics, Object, QueueMode, RecycleResult, Timeouts};
use deadpool_redis::{
    Manager, Runtime,
    redis::{AsyncConnectionConfig, ErrorKind, RedisError, RedisResult, ServerErrorKind, aio::MultiplexedConnection},
};
use std::time::Duration;
use tokio::time::timeout;

/// How long a connection is trusted after its last use.
const TRUSTED: Duration = Duration::from_secs(1);

/// Makes and checks connections.
pub(super) struct Connections {
    access: Access,
    config: AsyncConnectionConfig,
    /// Checks them.
    manager: Manager,
    trusted: Duration,
}

/// The pool.
pub(super) type Pool = managed::Pool<Connections>;
/// A connection out of the pool, which goes back when dropped.
pub(super) type Connection = Object<Connections>;

/// A pool of at most `connections`; no step of getting one takes longer than `timeout`. Connects with the first use.
pub(super) fn pool(access: Access, connections: usize, timeout: Duration) -> Result<Pool, AccessError> {
    pool_that_trusts(access, connections, timeout, TRUSTED)
}

/// The same for connections that are used one time after the other: each has just answered, however long that took.
pub(super) fn pool_for_waiting(access: Access, connections: usize, timeout: Duration) -> Result<Pool, AccessError> {
    pool_that_trusts(access, connections, timeout, Duration::MAX)
}

fn pool_that_trusts(
    access: Access,
    connections: usize,
    timeout: Duration,
    trusted: Duration,
) -> Result<Pool, AccessError> {
    // The crate's own limits are shorter than ours, and would make every answer that takes half a second look like a cut line.
    let config = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
    let info = access.client()?.get_connection_info().clone();
    let manager = Manager::new(info).map_err(AccessError::Url)?;
    let wait = Some(timeout);
    let pool = Pool::builder(Connections { access, config, manager, trusted })
        .max_size(connections)
        .timeouts(Timeouts { wait, create: wait, recycle: wait })
        .runtime(Runtime::Tokio1)
        // One that is asked all the time stays trusted.
        .queue_mode(QueueMode::Lifo)
        .build();
    Ok(pool.expect("timeouts have a runtime"))
}

/// Waits for an answer. A connection that failed is thrown away, and one whose answer did not come in time: the late answer must not
/// be taken for that of the next question.
pub(super) async fn answer<T>(
    mut connection: Connection,
    within: Duration,
    call: impl AsyncFnOnce(&mut MultiplexedConnection) -> RedisResult<T>,
) -> Result<T, RegistryError> {
    match timeout(within, call(&mut connection)).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => {
            // One that only reads is not the primary any more.
            let is_over = error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly);
            let error = read::error(error);
            if is_over || matches!(error, RegistryError::Unreachable(_)) {
                drop(Connection::take(connection));
            }
            Err(error)
        }
        Err(_elapsed) => {
            drop(Connection::take(connection));
            Err(RegistryError::Timeout(within))
        }
    }
}

/// The same for a question that Redis answers late on purpose: a connection on which nobody waits for the answer any more is not
/// used again, for the next question would wait behind it.
pub(super) async fn answer_alone<T>(
    connection: Connection,
    within: Duration,
    call: impl AsyncFnOnce(&mut MultiplexedConnection) -> RedisResult<T>,
) -> Result<T, RegistryError> {
    let mut lent = Lent(Some(connection));
    let connection = lent.0.as_mut().expect("it was just put there");
    let answered = timeout(within, call(connection)).await.map_err(|_elapsed| RegistryError::Timeout(within))?;
    let value = answered.map_err(read::error)?;
    // Back to the others.
    drop(lent.0.take());
    Ok(value)
}

/// A connection that is thrown away unless it was taken out.
struct Lent(Option<Connection>);

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(Connection::take(connection));
        }
    }
}

impl managed::Manager for Connections {
    type Type = MultiplexedConnection;
    type Error = RedisError;

    async fn create(&self) -> Result<MultiplexedConnection, RedisError> {
        self.access.current().await?.get_multiplexed_async_connection_with_config(&self.config).await
    }

    async fn recycle(&self, connection: &mut MultiplexedConnection, metrics: &Metrics) -> RecycleResult<RedisError> {
        if metrics.last_used() < self.trusted { Ok(()) } else { self.manager.recycle(connection, metrics).await }
    }
}
