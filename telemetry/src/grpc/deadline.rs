//! Every call has a deadline: the caller's `grpc-timeout`, or ours.

use super::{Next, Policy, is_ours};
use http::{HeaderMap, Request, Response};
use rustic_proto::{reason::Reason, status::with_reason};
use std::time::Duration;
use tokio::time::Instant;
use tonic::body::Body;

/// Ends calls at their deadline with DEADLINE_EXCEEDED. Handlers find the deadline in [`CallDeadline`].
#[derive(Debug, Clone)]
pub struct Deadline {
    /// For calls without one of their own.
    pub default: Duration,
}

/// When a call must be answered; found in the request's extensions.
#[derive(Debug, Clone, Copy)]
pub struct CallDeadline(pub Instant);

impl Policy for Deadline {
    async fn around(&self, mut request: Request<Body>, next: impl Next) -> Response<Body> {
        if !is_ours(&request) {
            return next.run(request).await;
        }
        let limit = grpc_timeout(request.headers()).unwrap_or(self.default);
        let deadline = Instant::now() + limit;
        request.extensions_mut().insert(CallDeadline(deadline));
        match tokio::time::timeout_at(deadline, next.run(request)).await {
            Ok(response) => response,
            Err(_elapsed) => {
                let text = format!("the call was not done within its deadline of {limit:?}; ask what became of it");
                with_reason(Reason::DeadlineExceeded, text, &[]).into_http()
            }
        }
    }
}

/// Reads `grpc-timeout`: up to eight digits and a unit.
/// <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#requests>
fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let value: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    match unit {
        "H" => Some(Duration::from_secs(value * 3600)),
        "M" => Some(Duration::from_secs(value * 60)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeout_is_read_as_the_protocol_says() {
        let read = |text: &'static str| {
            grpc_timeout(&HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-timeout"),
                http::HeaderValue::from_static(text),
            )]))
        };
        assert_eq!(read("100m"), Some(Duration::from_millis(100)));
        assert_eq!(read("2S"), Some(Duration::from_secs(2)));
        assert_eq!(read("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!(read("123456789S"), None);
        assert_eq!(read("S"), None);
        assert_eq!(read(""), None);
        assert_eq!(read("5x"), None);
    }
}
