//! The metrics of this engine, for Prometheus.

use crate::{error::EngineError, fleet::Fleet, rounds::Cause};
use rustic_registry::{
    HostRecord, Resources,
    resources::SLOTS,
    unreadable::{self, RowKind},
};
use rustic_telemetry::{
    grpc::CALLS,
    metrics::{self, Metric, Refresh},
};
use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

/// Every metric of engine-svc.
pub const ALL: &[Metric] = &[
    Metric::Seconds("rustic_engine_create_step_seconds", "Duration of each step of a create call: claim, host_call"),
    Metric::Seconds("rustic_engine_create_seconds", "From a create call to its answer, by outcome"),
    Metric::Count("rustic_engine_takeovers_total", "Agents that this engine took off hosts that were gone"),
    Metric::Count(
        "rustic_engine_moves_total",
        "Agents that this engine moved, by cause: drain, compaction, rebalancing",
    ),
    Metric::Count("rustic_engine_passes_total", "Passes of the loops that see to agents, by loop, cause and outcome"),
    Metric::Seconds("rustic_engine_pass_seconds", "How long they took, by loop"),
    Metric::Gauge(
        "rustic_engine_last_pass_timestamp_seconds",
        "When each loop ended its last pass, by loop and outcome",
    ),
    Metric::Count(
        "rustic_engine_reconcile_errors_total",
        "Steps of the reconciler that failed for one agent or host alone, by step",
    ),
    Metric::Count(
        "rustic_engine_reservation_drift_total",
        "Times that something else was reserved on a host than its agents take, and was put right",
    ),
    Metric::Count(
        "rustic_engine_unreadable_rows_total",
        "Rows of the registry left out as unreadable, by kind: agent, host, event",
    ),
    Metric::Gauge("rustic_engine_slots_capacity", "Slots of all hosts that take agents"),
    Metric::Gauge("rustic_engine_slots_used", "Slots that agents hold on them"),
    Metric::Gauge("rustic_engine_agents_pending", "Agents that wait for room"),
    Metric::Gauge(COPIES, "Agents that no host runs of which this engine keeps a copy, should the registry be lost"),
    Metric::Gauge("rustic_engine_hosts", "Hosts in the registry by state: ready, draining, expired"),
    CALLS,
];

const COPIES: &str = "rustic_engine_agent_copies";

/// Something else was reserved on a host than its agents take.
pub fn reservation_drifted() {
    metrics::count("rustic_engine_reservation_drift_total", &[]);
}

/// Reads the gauges when somebody looks: what this engine knows of the hosts, at most a pass of its reconciler old.
pub fn refresh(fleet: Arc<Fleet>) -> Refresh {
    Arc::new(move || {
        let view = fleet.view();
        let state = |h: &HostRecord| match h.takes_agents() {
            _ if view.silent.contains(&h.host) => "expired",
            true => "ready",
            false => "draining",
        };
        let slots = |of: fn(&HostRecord) -> &Resources| {
            let ready = view.registry.hosts.iter().filter(|h| state(h) == "ready");
            ready.flat_map(|h| of(h).amounts()).filter(|(name, _)| name == SLOTS).map(|(_, amount)| amount).sum()
        };
        metrics::gauge("rustic_engine_slots_capacity", &[], slots(|h| &h.capacity));
        metrics::gauge("rustic_engine_slots_used", &[], slots(|h| &h.used));
        metrics::gauge("rustic_engine_agents_pending", &[], view.registry.pending as f64);
        for kind in RowKind::ALL {
            metrics::counts(
                "rustic_engine_unreadable_rows_total",
                &[("kind", kind.as_str())],
                unreadable::take_skipped(kind),
            );
        }
        for name in ["ready", "draining", "expired"] {
            let count = view.registry.hosts.iter().filter(|h| state(h) == name).count();
            metrics::gauge("rustic_engine_hosts", &[("state", name)], count as f64);
        }
    })
}

/// So many agents were taken off a host that was gone.
pub fn taken_over(agents: usize) {
    metrics::counts("rustic_engine_takeovers_total", &[], agents as u64);
}

/// This engine keeps so many copies.
pub fn copies(agents: usize) {
    metrics::gauge(COPIES, &[], agents as f64);
}

/// A step of the reconciler failed for one agent or host.
pub fn trouble(step: &'static str) {
    metrics::count("rustic_engine_reconcile_errors_total", &[("step", step)]);
}

/// A pass of a loop that sees to agents is over.
pub fn pass(name: &'static str, cause: Cause, succeeded: bool, took: Duration) {
    let outcome = if succeeded { "ok" } else { "failed" };
    let labels = [("loop", name), ("cause", cause.as_str()), ("outcome", outcome)];
    metrics::count("rustic_engine_passes_total", &labels);
    metrics::seconds("rustic_engine_pass_seconds", &[("loop", name)], took);
    let now = UNIX_EPOCH.elapsed().unwrap_or_default().as_secs_f64();
    metrics::gauge("rustic_engine_last_pass_timestamp_seconds", &[("loop", name), ("outcome", outcome)], now);
}

/// Why an agent is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// Its host drains.
    Drain,
    /// Its host shall be empty before it goes.
    Compaction,
    /// Another host has less load.
    Rebalancing,
}

/// An agent was moved.
pub fn moved(why: Move) {
    let cause = match why {
        Move::Drain => "drain",
        Move::Compaction => "compaction",
        Move::Rebalancing => "rebalancing",
    };
    metrics::count("rustic_engine_moves_total", &[("cause", cause)]);
}

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
