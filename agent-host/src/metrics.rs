//! The metrics of this host, for Prometheus.

use crate::{cgroups, supervisor::Supervisor};
use rustic_registry::{Phase, Scope};
use rustic_telemetry::{
    grpc::CALLS,
    metrics::{Metric, Refresh, gauge},
    pulse::{self, Pulse},
};
use std::{sync::Arc, time::Duration};
use tokio::time::{MissedTickBehavior, interval, sleep};

/// Every metric of agent-host.
pub const ALL: &[Metric] = &[
    Metric::Seconds("rustic_host_start_step_seconds", "Duration of each step of an agent's start"),
    Metric::Seconds("rustic_host_start_seconds", "From a create call reaching the host to the agent being RUNNING"),
    Metric::Count("rustic_host_restarts_total", "Processes that were started again because they had ended unasked"),
    Metric::Count(
        "rustic_host_evicted_total",
        "Agents that were ended because they used more than they may, by reason",
    ),
    Metric::Count("rustic_host_dead_letters_total", "Messages that were set aside because agents died over them"),
    Metric::Count("rustic_host_lease_losses_total", "Times that the lease was lost"),
    Metric::Gauge("rustic_host_lease_age_seconds", "Time since the last good renewal of the lease was sent"),
    CALLS,
    Metric::Count("rustic_host_cold_starts_total", "Python agents started in a fresh interpreter despite a zygote"),
    Metric::Gauge(
        "rustic_host_confinement_missing",
        "Features of the kernel that the confinement of agents needs and does not have",
    ),
    Metric::Gauge(
        "rustic_host_cgroup_limits",
        "Whether the control group of each agent limits what a controller counts: memory, pids, cpu",
    ),
    Metric::Gauge("rustic_host_agents", "Agents on this host by phase"),
    Metric::Gauge("rustic_host_starts_waiting", "Agents that wait for a turn to start"),
    Metric::Gauge("rustic_host_zygote_generation", "Branches of zygotes that became ready, by runtime profile"),
    Metric::Gauge("rustic_host_agents_pss_bytes", "Proportional set size of all agents, at the last look"),
    Metric::Gauge("rustic_host_agents_scratch_bytes", "What directories of agents take on disk, at the last look"),
    Metric::Gauge("rustic_host_agents_cpu_seconds", "Processor time of the agents that live now, at the last look"),
];

/// Every phase, so that one without agents shows 0.
const PHASES: [Phase; 6] =
    [Phase::Pending, Phase::Starting, Phase::Running, Phase::Restarting, Phase::Stopping, Phase::Failed];

/// Reads the gauges when somebody looks.
pub fn refresh(supervisor: Arc<Supervisor>) -> Refresh {
    Arc::new(move || {
        let handles = supervisor.list(&Scope::All, None, usize::MAX);
        let phases: Vec<_> = handles.iter().map(|handle| handle.status().phase).collect();
        for phase in PHASES {
            let count = phases.iter().filter(|p| **p == phase).count();
            gauge("rustic_host_agents", &[("phase", &phase.to_string())], count as f64);
        }
        if let Some(age) = supervisor.lease_age() {
            gauge("rustic_host_lease_age_seconds", &[], age.as_secs_f64());
        }
        if let Some(policy) = supervisor.runtime().confinement() {
            gauge("rustic_host_confinement_missing", &[], policy.missing().len() as f64);
        }
        for controller in cgroups::CONTROLLERS {
            let limits = supervisor.runtime().cgroup_limits().contains(&controller);
            gauge("rustic_host_cgroup_limits", &[("controller", controller)], f64::from(u8::from(limits)));
        }
        gauge("rustic_host_starts_waiting", &[], supervisor.starts().waiting() as f64);
        for python in supervisor.runtime().profiles() {
            let generation = python.zygote.map_or(0, |zygote| zygote.generation);
            gauge("rustic_host_zygote_generation", &[("profile", python.name.as_str())], generation.into());
        }
    })
}

/// Sums up what the agents use, one agent after the other over half of `every`, without end, so that no look costs much.
pub async fn watch_usage(supervisor: Arc<Supervisor>, every: Duration) {
    let mut rounds = interval(every);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let pulse = Pulse::of("the look at usage", pulse::TURN);
    loop {
        pulse.waits(rounds.tick()).await;
        let handles = supervisor.list(&Scope::All, None, usize::MAX);
        let pause = every / 2 / u32::try_from(handles.len().max(1)).unwrap_or(u32::MAX);
        let (mut pss, mut scratch, mut cpu) = (0, 0, Duration::ZERO);
        for handle in handles {
            if let Some(usage) = handle.usage().await {
                pss += usage.pss;
                scratch += usage.scratch;
                cpu += usage.cpu;
            }
            pulse.waits(sleep(pause)).await;
        }
        gauge("rustic_host_agents_pss_bytes", &[], pss as f64);
        gauge("rustic_host_agents_scratch_bytes", &[], scratch as f64);
        gauge("rustic_host_agents_cpu_seconds", &[], cpu.as_secs_f64());
    }
}
