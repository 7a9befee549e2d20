//! Sees to the agents that nobody else sees to, until this engine stops.
//!
//! ```text
//!  host silent: retired ──unplace──▶ PENDING ──place──▶ STARTING ──call host──▶ RUNNING
//!                                                 ▲                    │
//!         no room when it was created ────────────┤                    │ the host did not take it
//!                                                 └────────unplace─────┘
//!  claimed and never accepted: its engine died ──call host again──▶ as above
//! ```
//!
//! Every replica does so, without a leader: each step is a compare-and-set by epoch in the registry, so that whoever
//! comes second changes nothing. A pass runs when something has changed ([`crate::rounds`]). Beside it each replica keeps copies of
//! the agents that no host runs, for a registry that is lost (`engine/remember.rs`).

use crate::{
    changes::Changes,
    engine::{Engine, Kept},
    rounds::{Again, Chance, Rounds, Wake},
    unhosted::Unhosted,
};
use rustic_telemetry::pulse::{self, Pulse};
use std::{future::pending, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// By how much chance stretches the time between two moves that compact.
const SPREAD: f64 = 0.5;

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
        let pulse = Pulse::of(format!("the keeper of {name}"), pulse::PASS);
        Rounds::begin(name, &changes, wake, chance, pulse)
    };
    let keeping = async {
        let (mut rounds, mut kept) = (rounds("agents", wake), Kept::default());
        loop {
            rounds.over(engine.keep(&mut kept).await).await;
        }
    };
    // On its own: an agent that takes long to stop must hold up nobody who waits for a place.
    let draining = async {
        let mut rounds = rounds("draining", Wake::default());
        let pulse = Pulse::of("the moves off hosts that drain", pulse::TURN);
        loop {
            rounds.over(pulse.waits(engine.empty_draining()).await).await;
        }
    };
    let remembering = async {
        let (mut rounds, mut unhosted) = (rounds("copies", Wake::default()), Unhosted::default());
        loop {
            rounds.over(engine.remember(&mut unhosted).await).await;
        }
    };
    let compacting = async {
        let Some(every) = compact_every else { return pending().await };
        let mut rounds = rounds("compaction", Wake::default());
        let pulse = Pulse::of("the moves that compact", pulse::TURN);
        // By chance, so that replicas do not move the same agent.
        let again = || Again::NotBefore(every.mul_f64(1.0 + SPREAD * chance()));
        rounds.over(Ok(again())).await;
        loop {
            // Like an agent on a host that drains, one that moves has its own time to stop.
            let compacted = pulse.waits(engine.compact()).await;
            rounds.over(compacted.map(|()| again())).await;
        }
    };
    let all = async { tokio::join!(keeping, draining, remembering, compacting) };
    let _never: Option<((), (), (), ())> = stop.run_until_cancelled(all).await;
}
