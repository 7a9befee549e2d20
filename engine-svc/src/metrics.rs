//! What this engine tells Prometheus.

use crate::error::EngineError;
use rustic_telemetry::metrics::{self, Metric};
use std::time::Duration;

/// Every metric of engine-svc.
pub const ALL: &[Metric] = &[
    Metric::Seconds("rustic_engine_create_step_seconds", "Duration of each step of a create call: claim, host_call"),
    Metric::Seconds("rustic_engine_create_seconds", "From a create call to its answer, by outcome"),
];

/// A step of a create call took so long.
pub fn step(step: &'static str, took: Duration) {
    metrics::seconds("rustic_engine_create_step_seconds", &[("step", step)], took);
}

/// A create call was answered.
pub fn created<T>(outcome: &Result<T, EngineError>, took: Duration) {
    // As the caller sees it: `OK`, or the name of the status code.
    let code = match outcome {
        Ok(_) => "OK".to_owned(),
        Err(error) => format!("{:?}", error.code()),
    };
    metrics::seconds("rustic_engine_create_seconds", &[("code", &code)], took);
}
