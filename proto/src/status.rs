//! Rich error details, so that a program can distinguish errors without reading English.

use crate::reason::Reason;
use std::{borrow::Cow, collections::HashMap};
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt as _};

/// A status travels in HTTP/2 headers, of which clients take 8 KiB, and carries its message twice, once percent-encoded
/// and once in base64. These bounds keep any status below that; the log has the whole text.
/// <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#responses>
pub const MAX_MESSAGE: usize = 1000;
const MAX_TRACEBACK: usize = 2000;

/// Domain of every `ErrorInfo` of this system.
pub const DOMAIN: &str = "rustic-ai.k8s";

/// A status with the reason's code and an `ErrorInfo`: the reason, and what it is about, by name.
pub fn with_reason(reason: Reason, message: impl Into<String>, about: &[(&str, &str)]) -> Status {
    with_trace(reason, message, about, "")
}

/// The same with a traceback for people, as `DebugInfo`.
pub fn with_trace(reason: Reason, message: impl Into<String>, about: &[(&str, &str)], traceback: &str) -> Status {
    let metadata: HashMap<_, _> = about.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let mut details = ErrorDetails::with_error_info(reason.as_str(), DOMAIN, metadata);
    if let Some(delay) = reason.retry().delay() {
        details.set_retry_info(Some(delay));
    }
    if !traceback.is_empty() {
        let lines = middle_cut(traceback, MAX_TRACEBACK).lines().map(str::to_owned).collect::<Vec<_>>();
        details.set_debug_info(lines, "");
    }
    Status::with_error_details(reason.code(), middle_cut(&message.into(), MAX_MESSAGE), details)
}

/// A text of at most about `max` bytes: a longer one loses its middle, because its ends say what and where.
pub fn middle_cut(text: &str, max: usize) -> Cow<'_, str> {
    if text.len() <= max {
        return Cow::Borrowed(text);
    }
    let head = &text[..text.floor_char_boundary(max / 3)];
    let tail = &text[text.ceil_char_boundary(text.len() - max * 2 / 3)..];
    Cow::Owned(format!("{head} […] {tail}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_fits_into_the_headers_of_any_client() {
        let (long, trace) = ("é%\n\"".repeat(5000), "  File \"x.py\", line 1\n".repeat(5000));
        let status = with_trace(Reason::AgentInitFailed, &long, &[("host_id", "h")], &trace);
        let response = status.into_http::<()>();
        let size: usize = response.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
        assert!(size < 8192, "{size}");
        assert_eq!(middle_cut("short", 100), "short");
        assert!(middle_cut(&long, 100).len() < 120);
    }
}
