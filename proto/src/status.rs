//! Rich error details, so that a program can tell errors apart without reading English.

use std::collections::HashMap;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// Domain of every `ErrorInfo` of this system.
pub const DOMAIN: &str = "rustic-ai.k8s";

/// A status with an `ErrorInfo`: `reason` in UPPER_SNAKE_CASE, and what it is about, by name.
pub fn with_reason(code: Code, reason: &str, message: impl Into<String>, about: &[(&str, &str)]) -> Status {
    with_trace(code, reason, message, about, "")
}

/// The same with a traceback for people, as `DebugInfo`.
pub fn with_trace(
    code: Code,
    reason: &str,
    message: impl Into<String>,
    about: &[(&str, &str)],
    traceback: &str,
) -> Status {
    let metadata: HashMap<_, _> = about.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, metadata);
    if !traceback.is_empty() {
        details.set_debug_info(traceback.lines().map(str::to_owned).collect::<Vec<_>>(), "");
    }
    Status::with_error_details(code, message, details)
}

/// The `ErrorInfo` reason of a status, if it has one.
pub fn reason(status: &Status) -> Option<String> {
    status.get_details_error_info().map(|info| info.reason)
}
