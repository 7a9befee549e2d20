//! The steps of an agent's start, timed: as figures for whoever asked for the agent, as metrics, and as spans.
//!
//! ```text
//! claim │ admit │ queue │ spawn │ initialize │ advance
//! ```

use rustic_telemetry::metrics;
use std::time::Duration;
use tokio::time::Instant;
use tracing::{Span, info_span};

/// How long each step of the latest start took.
#[derive(Debug, Clone, Copy, Default)]
pub struct StepTimes {
    /// Registry claim, when the host made it itself.
    pub claim: Option<Duration>,
    /// First registry write.
    pub admit: Option<Duration>,
    /// Waiting for a turn.
    pub queue: Option<Duration>,
    /// Making the process.
    pub spawn: Option<Duration>,
    /// From the process to its report, as the host saw it.
    pub start: Option<Duration>,
    /// Interpreter start and imports, as the process reports.
    pub import: Option<Duration>,
    /// Building and subscribing, as the process reports.
    pub initialize: Option<Duration>,
    /// Last registry write.
    pub advance: Option<Duration>,
    /// From the request to RUNNING.
    pub total: Option<Duration>,
}

/// The step under way.
pub(super) struct Steps {
    name: &'static str,
    began: Instant,
    /// Ends with the step, and is sent then.
    span: Span,
}

impl Steps {
    /// Begins the first step.
    pub(super) fn begin(now: Instant, name: &'static str) -> Self {
        Self { name, began: now, span: info_span!("step", otel.name = name) }
    }

    /// Ends the step and begins the next one. Returns how long the ended one took.
    pub(super) fn next(&mut self, name: &'static str) -> Duration {
        let took = self.end();
        *self = Self::begin(Instant::now(), name);
        took
    }

    /// How long the step has taken so far.
    pub(super) fn so_far(&self) -> Duration {
        self.began.elapsed()
    }

    /// Ends the last step.
    pub(super) fn end(&mut self) -> Duration {
        let took = self.so_far();
        metrics::seconds("rustic_host_start_step_seconds", &[("step", self.name)], took);
        self.span = Span::none();
        took
    }
}
