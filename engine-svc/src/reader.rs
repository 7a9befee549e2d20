//! The one reader of the registry's stream of changes: whatever of this engine follows them does so through [`Changes`].
//!
//! ```text
//!   the view of the hosts: another life of the store ─▶ begin anew ─▶ read all that is kept ─▶ wait for the next ─┐
//!                                                                          ▲                                      │
//!                                                                          └──────────────────────────────────────┘
//! ```
//!
//! While nothing happens it waits in Redis, which costs one command in [`WAIT`]. The stream does not show that the store was wiped. The
//! view of the hosts does, which looks a few times a second.

use crate::{backoff, changes::Changes, fleet::Fleet, rounds::Chance};
use rustic_registry::{EventId, Registry};
use rustic_telemetry::{
    outage::Outage,
    pulse::{self, Pulse},
};
use std::{sync::Arc, time::Duration};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Changes read at once.
const BATCH: usize = 1_000;
/// How long one question waits for the next change.
const WAIT: Duration = Duration::from_secs(5);

/// Reads until `stop`. What cannot be read is tried again, and then everybody looks anew.
pub async fn run(
    registry: Arc<dyn Registry>,
    fleet: Arc<Fleet>,
    changes: Arc<Changes>,
    chance: Chance,
    stop: CancellationToken,
) {
    let pulse = Pulse::of("the reader of changes", pulse::TURN);
    let mut store = fleet.store_life_seen();
    let reading = async {
        loop {
            changes.begin(store.borrow_and_update().clone());
            // Cancel-safe: what was not pushed yet was of the store's former life.
            tokio::select! {
                biased;
                // The sender lives as long as the view.
                Ok(()) = store.changed() => {}
                () = follow(&*registry, &fleet, &changes, chance, &pulse) => {}
            }
        }
    };
    let _never: Option<()> = stop.run_until_cancelled(reading).await;
}

async fn follow(registry: &dyn Registry, fleet: &Fleet, changes: &Changes, chance: Chance, pulse: &Pulse) {
    let (mut after, mut outage) = (EventId::default(), Outage::of("reading the registry's changes"));
    loop {
        pulse.beat();
        match registry.events(after, BATCH, WAIT).await {
            Ok(events) => {
                if outage.over() {
                    changes.nudge();
                }
                after = events.last;
                fleet.saw_changes(&events);
                changes.push(events);
            }
            Err(error) => {
                let failures = outage.failed(&error);
                sleep(backoff::delay(failures, chance())).await;
            }
        }
    }
}
