//! Telemetry: what both services show of themselves to the outside, and the gRPC layers they share.
//!
//! One call from each main, [`Telemetry::start`], sets up logs and traces; [`Telemetry::stop`] flushes them. Knows
//! nothing of agents, hosts or the registry.
//!
//! | module | what |
//! | --- | --- |
//! | [`settings`] | flags, each with its environment twin |
//! | [`logs`] | JSON lines, or pretty on a terminal, through a bounded queue that never blocks its writers |
//! | [`metrics`] | Prometheus, served over HTTP; off without an address |
//! | [`traces`] | OpenTelemetry over OTLP, W3C context in and out; off and free without an endpoint |
//! | [`signals`] | stop requests from outside |
//! | [`outage`] | failures in a row, summarised in the log |
//! | [`pulse`] | whether the loops of a program still come round |
//! | [`tasks`] | the supervision tree: what becomes of a program when one of its tasks fails |
//! | [`grpc`] | tower layers: span, panics, load limit, deadline, message size |

pub mod grpc;
pub mod logs;
pub mod metrics;
pub mod outage;
pub mod pulse;
pub mod settings;
pub mod signals;
pub mod tasks;
pub mod traces;

pub use settings::TelemetrySettings;

use tracing_subscriber::{Layer as _, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// Keeps telemetry alive; stop it last.
pub struct Telemetry {
    traces: Option<traces::Exporter>,
    _logs: logs::Writer,
}

impl Telemetry {
    /// Sets up logs and traces for the process. Needs a tokio runtime. Errors: a bad filter or OTLP endpoint.
    pub fn start(service: &'static str, settings: &TelemetrySettings) -> anyhow::Result<Self> {
        let traces = settings.otlp_endpoint.as_deref().map(|e| traces::Exporter::start(service, e)).transpose()?;
        let (logs, writer) = logs::layer(settings)?;
        let filter = logs::filter(settings)?;
        let spans = traces.as_ref().map(|exporter| exporter.layer().with_filter(filter));
        tracing_subscriber::registry().with(spans).with(logs).try_init()?;
        Ok(Self { traces, _logs: writer })
    }

    /// Sends what is still queued, for at most a few seconds.
    pub fn stop(self) {
        if let Some(traces) = self.traces {
            traces.stop();
        }
    }
}
