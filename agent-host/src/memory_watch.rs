//! Looks at the memory of every agent now and then, so that there is a figure to report for one that the kernel kills.

use crate::{process::memory::MemoryKills, supervisor::Supervisor};
use rustic_registry::Scope;
use rustic_telemetry::pulse::{self, Pulse};
use std::{sync::Arc, time::Duration};
use tokio::time::{MissedTickBehavior, interval, sleep};

/// Looks at one agent after the other over half of `every`, without end, so that no look costs much.
pub async fn watch(supervisor: Arc<Supervisor>, kills: Arc<MemoryKills>, every: Duration) {
    let mut rounds = interval(every);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let pulse = Pulse::of("the look at memory", pulse::TURN);
    loop {
        pulse.waits(rounds.tick()).await;
        // What was killed since and was no agent explains no end that is still to come.
        kills.look_away();
        let agents = supervisor.list(&Scope::All, None, usize::MAX);
        let pause = every / 2 / u32::try_from(agents.len().max(1)).unwrap_or(u32::MAX);
        for agent in agents {
            agent.look_at_memory();
            pulse.waits(sleep(pause)).await;
        }
    }
}
