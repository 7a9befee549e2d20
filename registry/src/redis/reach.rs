//! What stands between a service and Redis, in words that say where to look.

use super::{access::Access, read};
use crate::error::RegistryError;
use deadpool::managed::{PoolError, TimeoutType};
use deadpool_redis::redis::RedisError;
use std::{error::Error as _, io, sync::Arc, time::Duration};

/// Where Redis is, without what is secret in its URL.
#[derive(Debug, Clone)]
pub(super) struct Address {
    name: String,
    is_tls: bool,
}

impl Address {
    /// That of a Redis.
    pub(super) fn of(access: &Access) -> Self {
        Self { name: access.address(), is_tls: access.is_tls() }
    }

    /// Why there was no connection within `timeout` for each step of getting one.
    pub(super) fn out_of_reach(&self, error: PoolError<RedisError>, timeout: Duration) -> RegistryError {
        let address = &self.name;
        let why = match error {
            PoolError::Backend(error) => return self.refused(error),
            PoolError::Timeout(TimeoutType::Create) => format!(
                "no connection to {address} within {timeout:?}, and no refusal: check that the network, its policies and DNS let this \
                 service through{}",
                if self.is_tls { ", and that Redis speaks TLS on this port" } else { "" }
            ),
            PoolError::Timeout(TimeoutType::Recycle) => format!("{address} does not answer within {timeout:?}"),
            PoolError::Timeout(TimeoutType::Wait) => {
                format!(
                    "all connections to {address} were in use for {timeout:?}: Redis is slow, or this service has too much to do"
                )
            }
            error @ (PoolError::Closed | PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_)) => {
                error.to_string()
            }
        };
        RegistryError::Unreachable(why)
    }

    /// Why a connection could not be made.
    fn refused(&self, error: RedisError) -> RegistryError {
        let address = &self.name;
        match read::error(error) {
            RegistryError::Unreachable(why) => RegistryError::Unreachable(format!("connecting to {address}: {why}")),
            refused => refused,
        }
    }
}

/// Why a connection broke or did not come to be, and where to look.
pub(super) fn cause(error: &RedisError) -> String {
    let text = error.to_string();
    let io = error.source().and_then(io_error);
    // Of a failed look-up the system gives nothing but words.
    let advice = if text.contains("lookup address") {
        "the name in the Redis URL is not known; check it, and that a network policy lets this service ask DNS"
    } else if text.contains("fatal alert") {
        // Whoever alerts is not content with us.
        "Redis wants a certificate of this service that it trusts; --redis-certificate and --redis-key name it"
    } else if text.contains("certificate") {
        "the certificate of Redis is not trusted; --redis-ca names who vouches for it, and the host in the Redis URL must be one of its names"
    } else {
        match io.map_or(io::ErrorKind::Other, io::Error::kind) {
            io::ErrorKind::ConnectionRefused => {
                "nothing listens there; check that Redis runs, and the port in the Redis URL"
            }
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                "there is no way to it; check the host in the Redis URL"
            }
            io::ErrorKind::InvalidData => {
                "what answers speaks another protocol; does one side expect TLS and the other not?"
            }
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => {
                "it closed the connection; it may have restarted, or somebody between has"
            }
            _ => "check that Redis runs, and the Redis URL",
        }
    };
    format!("{text}; {advice}")
}

/// The system's own error; the client keeps it behind a pointer.
fn io_error<'a>(source: &'a (dyn std::error::Error + 'static)) -> Option<&'a io::Error> {
    let kept = source.downcast_ref::<Arc<dyn std::error::Error + Send + Sync>>();
    kept.map_or_else(|| source.downcast_ref(), |kept| kept.downcast_ref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{RedisRegistry, RedisSettings, Registry as _};
    use tokio::net::TcpListener;

    async fn error_at(url: &str) -> String {
        let settings = RedisSettings { timeout: Duration::from_millis(300), ..RedisSettings::new(url) };
        let registry = RedisRegistry::new(&settings).expect("settings that can work");
        registry.hosts().await.expect_err("nobody is there").to_string()
    }

    #[tokio::test]
    async fn what_is_in_the_way_is_named_with_the_address_and_without_the_password() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let silent = listener.local_addr().expect("an address").to_string();
        let free = {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            listener.local_addr().expect("an address").to_string()
        };
        for (url, words) in [
            (format!("redis://:secret@{free}/0"), vec![free.as_str(), "nothing listens there", "os error 111"]),
            (format!("redis://:secret@{silent}/0"), vec![silent.as_str(), "within 300ms"]),
        ] {
            let text = error_at(&url).await;
            assert!(words.iter().all(|word| text.contains(word)), "{url}: {text}");
            assert!(!text.contains("secret"), "{text}");
        }
        drop(listener);
    }
    #[test]
    fn a_name_that_is_not_known_and_a_connection_that_ends_say_where_to_look() {
        let cause_of = |error: io::Error| cause(&RedisError::from(error));
        let unknown = cause_of(io::Error::other("failed to lookup address information: Name or service not known"));
        assert!(unknown.contains("the name in the Redis URL is not known") && unknown.contains("DNS"), "{unknown}");
        let ended = cause_of(io::Error::from(io::ErrorKind::ConnectionReset));
        assert!(ended.contains("it closed the connection"), "{ended}");
    }
}
