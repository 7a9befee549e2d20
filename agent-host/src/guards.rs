//! Ends agents that use more than they may of what all agents of a host share, before the kernel or the kubelet ends the host.
//!
//! | of | looked at | the agent that ends |
//! | --- | --- | --- |
//! | disk: working directory and TMPDIR | every ten seconds, a file's size without reading it | each that takes more than `--agent-scratch` |
//! | processes and threads | every quarter of a second, a list; every ten seconds, and when there are many, each of them | each that has more than `--agent-processes` |
//! | memory of the control group | every quarter of a second, two small files | the one with the most beyond what it asked for, once 5 % are left |
//!
//! The kernel would end the process that it likes least, and in Kubernetes since 1.28 with it every process of the container.

use crate::{
    agent::AgentHandle,
    process::{
        crowd,
        memory::{Pressure, resident},
    },
    supervisor::Supervisor,
};
use rustic_registry::{AgentReason, Phase, Scope, resources::MEMORY};
use rustic_telemetry::{
    metrics,
    pulse::{self, Pulse},
};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::warn;

/// Time between two looks at the disk, at the processes, and at the memory.
const DISK_EVERY: Duration = Duration::from_secs(10);
const PROCESSES_EVERY: Duration = Duration::from_millis(250);
/// Every so often all processes are looked at, however few there are: each may have many threads.
const THOROUGH: u64 = 40;
const MEMORY_EVERY: Duration = Duration::from_millis(250);
/// Time that the memory of an agent which was ended gets to come free before another one is.
const FREED: Duration = Duration::from_secs(1);
/// Share of its scratch limit from which on an agent is named in the log, in per cent.
const NAMED_AT: u64 = 80;

/// Looks at the scratch space of every agent, `every` so often or every ten seconds, without end.
pub async fn watch_scratch(supervisor: Arc<Supervisor>, limit: u64, every: Duration) {
    let mut rounds = interval(DISK_EVERY.min(every));
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let pulse = Pulse::of("the guard of scratch space", pulse::PASS);
    let mut named = BTreeSet::new();
    loop {
        pulse.waits(rounds.tick()).await;
        let mut still = BTreeSet::new();
        for agent in running(&supervisor) {
            let Some(bytes) = pulse.waits(agent.scratch()).await else { continue };
            if bytes > limit {
                let why = format!(
                    "its working directory and TMPDIR took {bytes} bytes on disk, and its host allows {limit} (--agent-scratch)"
                );
                warn!(agent = %agent.launch.key, bytes, limit, "the agent takes more scratch space than it may, and is ended");
                metrics::count("rustic_host_evicted_total", &[("reason", AgentReason::ScratchExceeded.as_str())]);
                agent.kill(AgentReason::ScratchExceeded, why).await;
            } else if bytes.saturating_mul(100) > limit.saturating_mul(NAMED_AT) {
                let one = (agent.launch.key.clone(), agent.epoch);
                if !named.contains(&one) {
                    warn!(agent = %agent.launch.key, bytes, limit, "the agent has nearly used up its scratch space");
                }
                still.insert(one);
            }
        }
        named = still;
    }
}

/// Looks at the processes and threads of every agent, without end.
pub async fn watch_processes(supervisor: Arc<Supervisor>, limit: u32) {
    let mut rounds = interval(PROCESSES_EVERY);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let pulse = Pulse::of("the guard of processes", pulse::PASS);
    for round in 0_u64.. {
        pulse.waits(rounds.tick()).await;
        let counts = pulse.waits(crowd::count(limit, round.is_multiple_of(THOROUGH))).await;
        if counts.values().all(|count| *count <= limit.into()) {
            continue;
        }
        for agent in running(&supervisor) {
            let Some(count) = agent.status().mark.and_then(|mark| counts.get(&mark).copied()) else { continue };
            if count <= limit.into() {
                continue;
            }
            let why =
                format!("it had {count} processes and threads, and its host allows {limit} (--agent-processes)");
            warn!(agent = %agent.launch.key, count, limit, "the agent has more processes than it may, and is ended");
            metrics::count("rustic_host_evicted_total", &[("reason", AgentReason::ProcessesExceeded.as_str())]);
            agent.kill(AgentReason::ProcessesExceeded, why).await;
        }
    }
}

/// Looks at the memory that all agents share, without end.
pub async fn watch_memory(supervisor: Arc<Supervisor>, pressure: Pressure) {
    let mut rounds = interval(MEMORY_EVERY);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let pulse = Pulse::of("the guard of memory", pulse::TURN);
    loop {
        pulse.waits(rounds.tick()).await;
        let Some((used, limit)) = pressure.critical() else { continue };
        let agents = running(&supervisor);
        let Some((agent, has, asked)) = offender(&agents) else { continue };
        let why = format!(
            "the host had used {used} of {limit} bytes of memory, and this agent had {has}, having asked for {asked} \
             (custom_resources.memory): the most beyond that of all"
        );
        warn!(agent = %agent.launch.key, used, limit, has, asked, "memory is nearly used up; the agent is ended");
        metrics::count("rustic_host_evicted_total", &[("reason", AgentReason::MemoryPressure.as_str())]);
        agent.kill(AgentReason::MemoryPressure, why).await;
        pulse.waits(sleep(FREED)).await;
    }
}

/// Agents that run: one that does not is ended by nobody, and must not stand in the place of one that can be.
fn running(supervisor: &Supervisor) -> Vec<AgentHandle> {
    let mut agents = supervisor.list(&Scope::All, None, usize::MAX);
    agents.retain(|agent| agent.status().phase == Phase::Running);
    agents
}

/// The agent that has the most memory beyond what it asked for: what it has, and what it asked for.
fn offender(agents: &[AgentHandle]) -> Option<(&AgentHandle, u64, u64)> {
    let of = |agent: &AgentHandle| Some((resident(agent.status().pid?)?, agent.launch.demand.milli(MEMORY) / 1000));
    let all = agents.iter().filter_map(|agent| of(agent).map(|(has, asked)| (agent, has, asked)));
    all.max_by_key(|(_, has, asked)| has.saturating_sub(*asked))
}
