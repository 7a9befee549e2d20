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
    changes::Changes,
    engine::{Engine, Unaccepted},
    rounds::{Again, Chance, Rounds, Wake},
    unassigned::Unassigned,
};
use rustic_telemetry::pulse::{self, Pulse};
use std::{future::pending, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// By how much chance stretches the time between two moves that compact.
const SPREAD: f64 = 0.5;
/// Time between two looks at what is reserved.
const AUDIT_EVERY: Duration = Duration::from_secs(60);

/// Runs until `stop`. A pass that is cut off leaves each agent before or after a step, never within one.
pub async fn run(
    engine: Arc<Engine>,
    changes: Arc<Changes>,
    wake: Wake,
    chance: Chance,
    compact_every: Option<Duration>,
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
    let compacting = async {
        let Some(every) = compact_every else { return pending().await };
        let mut rounds = rounds("compaction", Wake::default());
        // By chance, so that replicas do not move the same agent.
        let again = || Again::NotBefore(every.mul_f64(1.0 + SPREAD * chance()));
        rounds.over(Ok(again())).await;
        loop {
            // Like an agent on a host that drains, one that moves has its own time to stop.
            let compacted = rounds.waits(engine.compact()).await;
            rounds.over(compacted.map(|()| again())).await;
        }
    };
    let auditing = async {
        let mut rounds = rounds("reservations", Wake::default());
        loop {
            let audited = rounds.waits(engine.audit()).await;
            rounds.over(audited.map(|()| Again::NotBefore(AUDIT_EVERY.mul_f64(1.0 + SPREAD * chance())))).await;
        }
    };
    let all = async { tokio::join!(keeping, draining, remembering, compacting, auditing) };
    let _never: Option<((), (), (), (), ())> = stop.run_until_cancelled(all).await;
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
        let (stop, every, chance) = (tasks.ending(), Duration::from_millis(600), || 0.5);
        let view = fleet.clone().keep_fresh(every, 1.0, wake.clone(), chance, stop.clone());
        tasks.spawn_until("the view of the hosts", stop.clone(), view);
        let reader = crate::reader::run(registry, fleet, changes.clone(), chance, stop.clone());
        tasks.spawn_until("the reader of changes", stop.clone(), reader);
        let reconciler = run(Arc::new(engine), changes, wake, chance, Some(Duration::from_secs(7_200)), stop.clone());
        tasks.spawn_until("the reconciler", stop, reconciler);
        for minute in 0..60 {
            sleep(Duration::from_secs(60)).await;
            assert!(tasks.late().is_empty(), "after {minute} minutes: {:?}", tasks.late());
        }
    }
}
