//! Sees to the agents that nobody else sees to, over and over, until this engine stops.
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
//! comes second changes nothing. Passes are spread by chance, so that replicas rarely meet. Beside it each replica keeps copies of
//! the agents that no host runs, for a registry that is lost (`engine/remember.rs`).

use crate::{
    backoff,
    engine::{Engine, Kept},
    error::EngineError,
    unhosted::Unhosted,
};
use rustic_telemetry::pulse::{self, Pulse};
use std::{future::pending, sync::Arc, time::Duration};
use tokio::{sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// Time between two passes when nothing hurries, and by how much chance stretches it.
const EVERY: Duration = Duration::from_millis(150);
const SPREAD: f64 = 0.5;

/// Tells the keeper that there is something to do now.
#[derive(Debug, Clone, Default)]
pub struct Wake(Arc<Notify>);

impl Wake {
    /// There is something to do.
    pub fn wake(&self) {
        self.0.notify_one();
    }
}

/// A number in 0.0..1.0 that spreads passes.
pub type Chance = fn() -> f64;

/// Runs until `stop`. A pass that is cut off leaves each agent before or after a step, never within one.
pub async fn run(
    engine: Arc<Engine>,
    wake: Wake,
    chance: Chance,
    compact_every: Option<Duration>,
    stop: CancellationToken,
) {
    let keeping = async {
        let mut kept = Kept::default();
        let mut failures = 0;
        let pulse = Pulse::of("the keeper of agents", pulse::PASS);
        loop {
            pulse.beat();
            tell(engine.keep(&mut kept).await, &mut failures);
            // Cancel-safe: a waking that comes between two turns is kept.
            tokio::select! {
                biased;
                () = wake.0.notified() => {}
                () = pause(failures, chance()) => {}
            }
        }
    };
    // On its own: an agent that takes long to stop must hold up nobody who waits for a place.
    let draining = async {
        let mut failures = 0;
        let pulse = Pulse::of("the keeper of hosts that drain", pulse::TURN);
        loop {
            tell(pulse.waits(engine.empty_draining()).await, &mut failures);
            pause(failures, chance()).await;
        }
    };
    let remembering = async {
        let mut unhosted = Unhosted::default();
        let mut failures = 0;
        let pulse = Pulse::of("the keeper of copies", pulse::PASS);
        loop {
            pulse.beat();
            tell(engine.remember(&mut unhosted).await, &mut failures);
            pause(failures, chance()).await;
        }
    };
    let compacting = async {
        let Some(every) = compact_every else { return pending().await };
        let mut failures = 0;
        let pulse = Pulse::of("the keeper that compacts", pulse::TURN);
        loop {
            // By chance, so that replicas do not move the same agent.
            pulse.waits(sleep(every.mul_f64(1.0 + SPREAD * chance()))).await;
            // Like an agent on a host that drains, one that moves has its own time to stop.
            tell(pulse.waits(engine.compact()).await, &mut failures);
        }
    };
    let all = async { tokio::join!(keeping, draining, remembering, compacting) };
    let _never: Option<((), (), (), ())> = stop.run_until_cancelled(all).await;
}

/// Told once: while the registry is away every pass fails, and health says so.
fn tell(pass: Result<(), EngineError>, failures: &mut u32) {
    match pass {
        Ok(()) => *failures = 0,
        Err(error) => {
            *failures += 1;
            if *failures == 1 {
                warn!(%error, "agents could not be seen to; trying again");
            } else {
                debug!(%error, failures, "agents could not be seen to");
            }
        }
    }
}

async fn pause(failures: u32, chance: f64) {
    sleep(match failures {
        0 => EVERY.mul_f64(1.0 + SPREAD * chance),
        n => backoff::delay(n, chance),
    })
    .await;
}
