//! Figures as rows of JSON, in the shape of `bench/rustic_bench/figures.py`.

use serde_json::{Value, json};
use std::time::Duration;

/// The smallest duration that at least `share` of all do not exceed.
pub(crate) fn percentile(durations: &[Duration], share: f64) -> Duration {
    let mut ordered = durations.to_vec();
    ordered.sort_unstable();
    let place = (share * ordered.len() as f64).ceil() as usize;
    ordered.get(place.saturating_sub(1)).copied().unwrap_or_default()
}

/// Milliseconds, to the microsecond.
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

/// Seconds, to the millisecond.
pub(crate) fn seconds(duration: Duration) -> f64 {
    duration.as_millis() as f64 / 1000.0
}

/// A row of durations.
pub(crate) fn times(name: &str, durations: &[Duration]) -> Value {
    json!({
        "name": name,
        "n": durations.len(),
        "p50_ms": milliseconds(percentile(durations, 0.50)),
        "p99_ms": milliseconds(percentile(durations, 0.99)),
    })
}
