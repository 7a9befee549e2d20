//! Sees to the agents that nobody else sees to, until this engine stops.
//!
//! ```text
//!  host silent: retired ──unassign──▶ PENDING ──assign──▶ STARTING ──call host──▶ RUNNING
//!                                                   ▲                    │
//!           no room when it was created ────────────┤                    │ the host did not take it
//!                                                   └───────unassign─────┘
//!  claimed and never accepted: its engine died ──call host again──▶ as above
//! ```
//!
//! Every replica does so, without a leader: each step is a compare-and-set by epoch in the registry, so that whoever
//! comes second changes nothing. A pass runs when something has changed ([`crate::rounds`]). Beside it each replica keeps copies of
//! the agents that no host runs, for a registry that is lost (`engine/remember.rs`).

use crate::{
    balance::Rebalancing,
    changes::Changes,
    engine::{Engine, Unaccepted},
    rounds::{Again, Chance, Rounds, Wake},
    unassigned::Unassigned,
};
use rustic_telemetry::pulse::{self, Pulse};
use std::{future::pending, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// By how much chance stretches the time between two moves, and between two looks.
const SPREAD: f64 = 0.5;
/// Time between two looks at what is reserved.
const AUDIT_EVERY: Duration = Duration::from_secs(60);

/// Whether agents that run well where they are move, and when.
#[derive(Debug, Clone, Copy, Default)]
pub struct OptionalMoves {
    /// Time between two moves to lower hosts.
    pub compact_every: Option<Duration>,
    /// How the load of hosts is evened out.
    pub rebalancing: Option<Rebalancing>,
}

/// Runs until `stop`. A pass that is cut off leaves each agent before or after a step, never within one.
pub async fn run(
    engine: Arc<Engine>,
    changes: Arc<Changes>,
    wake: Wake,
    chance: Chance,
    moves: OptionalMoves,
    stop: CancellationToken,
) {
    let rounds = |name: &'static str, wake| {
        let pulse = Pulse::of(format!("the loop that sees to {name}"), pulse::PASS);
        Rounds::begin(name, &changes, wake, chance, pulse)
    };
    let keeping = async {
        let (mut rounds, mut unaccepted) = (rounds("agents", wake), Unaccepted::default());
        loop {
            rounds.over(engine.reconcile(&mut unaccepted).await).await;
        }
    };
    // On its own: an agent that takes long to stop must hold up nobody who waits for a place.
    let draining = async {
        let mut rounds = rounds("draining", Wake::default());
        loop {
            let emptied = rounds.waits(engine.empty_draining()).await;
            rounds.over(emptied).await;
        }
    };
    let remembering = async {
        let (mut rounds, mut unassigned) = (rounds("copies", Wake::default()), Unassigned::default());
        loop {
            rounds.over(engine.remember(&mut unassigned).await).await;
        }
    };
    // By chance, so that replicas do not move the same agent.
    let after = |every: Duration| Again::NotBefore(every.mul_f64(1.0 + SPREAD * chance()));
    // Like an agent on a host that drains, one that moves has its own time to stop.
    let compacting = async {
        let Some(every) = moves.compact_every else { return pending().await };
        let mut rounds = rounds("compaction", Wake::default());
        rounds.over(Ok(after(every))).await;
        loop {
            let compacted = rounds.waits(engine.compact()).await;
            rounds.over(compacted.map(|()| after(every))).await;
        }
    };
    let rebalancing = async {
        let Some(rule) = moves.rebalancing else { return pending().await };
        let mut rounds = rounds("rebalancing", Wake::default());
        rounds.over(Ok(after(rule.every))).await;
        loop {
            let rebalanced = rounds.waits(engine.rebalance(&rule)).await;
            rounds.over(rebalanced.map(|()| after(rule.every))).await;
        }
    };
    let auditing = async {
        let mut rounds = rounds("reservations", Wake::default());
        loop {
            let audited = rounds.waits(engine.audit()).await;
            rounds.over(audited.map(|()| after(AUDIT_EVERY))).await;
        }
    };
    let all = async { tokio::join!(keeping, draining, remembering, compacting, rebalancing, auditing) };
    let _never: Option<((), (), (), (), (), ())> = stop.run_until_cancelled(all).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{engine::Leases, fakes::NoHosts, fleet::Fleet};
    use rustic_core::placement::Policy;
    use rustic_registry::{MemoryRegistry, UnixMillis};
    use rustic_telemetry::tasks::Tasks;
    use tokio::time::sleep;

    #[tokio::test(start_paused = true)]
    async fn an_engine_for_which_there_is_nothing_to_do_is_not_taken_for_one_that_hangs() {
        let (tasks, changes, wake) = (Tasks::new(), Arc::new(Changes::default()), Wake::default());
        let registry = Arc::new(MemoryRegistry::new(|| UnixMillis(1_000)));
        let fleet = Arc::new(Fleet::new(registry.clone(), Policy::Packed, changes.clone()));
        let leases = Leases { longest: Duration::ZERO, drift: 0.0, new_registry: true };
        let hosts = Arc::new(NoHosts);
        let engine = Engine::new(registry.clone(), fleet.clone(), hosts, leases, changes.clone(), wake.clone());
        let rebalancing = Rebalancing { every: Duration::from_secs(3_600), threshold: 0.1, per_guild: 1 };
        let moves = OptionalMoves { compact_every: Some(2 * rebalancing.every), rebalancing: Some(rebalancing) };
        let (stop, every, chance) = (tasks.ending(), Duration::from_millis(600), || 0.5);
        let view = fleet.clone().keep_fresh(every, 1.0, wake.clone(), chance, stop.clone());
        tasks.spawn_until("the view of the hosts", stop.clone(), view);
        let reader = crate::reader::run(registry, fleet, changes.clone(), chance, stop.clone());
        tasks.spawn_until("the reader of changes", stop.clone(), reader);
        let reconciler = run(Arc::new(engine), changes, wake, chance, moves, stop.clone());
        tasks.spawn_until("the reconciler", stop, reconciler);
        for minute in 0..60 {
            sleep(Duration::from_secs(60)).await;
            assert!(tasks.late().is_empty(), "after {minute} minutes: {:?}", tasks.late());
        }
    }
}
