//! The rounds of a loop that reconciles: it runs a pass when there is a cause, and knows which.
//!
//! ```text
//!            ┌───────── pass ◀──────────────────────────────┐
//!            ▼                                              │
//!   the least pause ──▶ waits for a change · somebody asked · a host fell silent · what the pass left is due · it is time
//!            │                                              ▲
//!            └── the pass failed: a longer pause ───────────┘
//! ```
//!
//! No pass follows another within [`PAUSE`], however much changes: a burst of changes is one cause, and many replicas that run after the
//! same change are spread. A pass that nothing caused for [`RESYNC`] runs all the same: what would have been missed until then is a
//! fault, and does not last.

use crate::{backoff, changes::Changes, error::EngineError, metrics};
use rustic_telemetry::{outage::Outage, pulse::Pulse};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until},
};
use tracing::debug;

/// Least time between two passes, and by how much chance stretches it.
pub(crate) const PAUSE: Duration = Duration::from_millis(150);
const SPREAD: f64 = 0.5;
/// Time to look again at what a pass left and no change would show: a host that lacked memory, a trouble with one agent.
pub(crate) const LEFT: Duration = Duration::from_secs(1);
/// Longest time between two passes.
const RESYNC: Duration = Duration::from_secs(300);

/// A number in 0.0..1.0 that spreads passes.
pub type Chance = fn() -> f64;

/// Why a pass runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The program has started.
    Started,
    /// The registry has changed.
    Changed,
    /// This engine has left an agent to this loop.
    Asked,
    /// A host has been silent for as long as its lease lasts.
    Silent,
    /// The pass before left something, or waits for a time to pass.
    Left,
    /// The pass before failed.
    Failed,
    /// There was no cause for a long time.
    Resync,
}

impl Cause {
    /// The word in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Changed => "changed",
            Self::Asked => "asked",
            Self::Silent => "silent",
            Self::Left => "left",
            Self::Failed => "failed",
            Self::Resync => "resync",
        }
    }
}

/// When a loop runs again if nothing changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// After a change.
    OnChange,
    /// After this time; after the least pause at the earliest.
    In(Duration),
    /// The same, and not before, whatever changes.
    NotBefore(Duration),
}

/// Wakes a loop when there is something to do now.
#[derive(Debug, Clone, Default)]
pub struct Wake(Arc<Woken>);

#[derive(Debug, Default)]
struct Woken {
    notify: Notify,
    silent: AtomicBool,
}

impl Wake {
    /// There is something to do.
    pub fn wake(&self) {
        self.0.notify.notify_one();
    }

    /// A host has been silent for as long as its lease lasts.
    pub fn silent(&self) {
        self.0.silent.store(true, Ordering::Relaxed);
        self.wake();
    }

    async fn woken(&self) -> Cause {
        self.0.notify.notified().await;
        if self.0.silent.swap(false, Ordering::Relaxed) { Cause::Silent } else { Cause::Asked }
    }
}

/// The rounds of one loop: a pass runs between two calls of [`Rounds::over`].
pub struct Rounds {
    /// In logs and metrics.
    name: &'static str,
    /// What asks for passes beside changes.
    wake: Wake,
    moves: watch::Receiver<u64>,
    chance: Chance,
    pulse: Pulse,
    outage: Outage,
    /// Why the pass runs that runs now, and since when.
    cause: Cause,
    began: Instant,
}

impl Rounds {
    /// The first pass begins. `pulse` says that the loop comes round.
    pub fn begin(name: &'static str, changes: &Changes, wake: Wake, chance: Chance, pulse: Pulse) -> Self {
        let (moves, began) = (changes.moves(), Instant::now());
        let outage = Outage::of(format!("reconciling {name}"));
        Self { name, wake, moves, chance, pulse, outage, cause: Cause::Started, began }
    }

    /// Waits within a pass for what may take any time: the loop comes round all the same.
    pub async fn waits<T>(&self, what: impl Future<Output = T>) -> T {
        self.pulse.waits(what).await
    }

    /// A pass is over; waits until there is a cause for the next one.
    pub async fn over(&mut self, outcome: Result<Again, EngineError>) {
        metrics::pass(self.name, self.cause, outcome.is_ok(), self.began.elapsed());
        self.log(&outcome);
        self.cause = self
            .pulse
            .waits(next(&self.wake, &mut self.moves, outcome.ok(), self.outage.failures(), (self.chance)()))
            .await;
        // What changes from now on is a cause for the pass after the next.
        self.moves.borrow_and_update();
        self.began = Instant::now();
    }

    /// Logs trouble once: while the registry is away every pass fails, and health says so.
    fn log(&mut self, outcome: &Result<Again, EngineError>) {
        let Self { name, cause, .. } = self;
        match outcome {
            Ok(again) => {
                debug!(name, ?cause, ?again, "a pass is over");
                self.outage.over();
            }
            Err(error) => _ = self.outage.failed(error),
        }
    }
}

/// Waits for a cause. Cancel-safe.
async fn next(
    wake: &Wake,
    moves: &mut watch::Receiver<u64>,
    again: Option<Again>,
    failures: u32,
    chance: f64,
) -> Cause {
    let ended = Instant::now();
    let Some(again) = again else {
        tokio::select! {
            biased;
            cause = wake.woken() => return cause,
            () = sleep(backoff::delay(failures, chance)) => return Cause::Failed,
        }
    };
    let pause = PAUSE.mul_f64(1.0 + SPREAD * chance);
    tokio::select! {
        biased;
        cause = wake.woken() => return cause,
        () = sleep(pause) => {}
    }
    let (again, cause) = match again {
        Again::NotBefore(time) => {
            sleep_until(ended + time).await;
            return Cause::Left;
        }
        Again::In(time) => (time.max(pause), Cause::Left),
        Again::OnChange => (RESYNC.mul_f64(1.0 - SPREAD * chance), Cause::Resync),
    };
    tokio::select! {
        biased;
        cause = wake.woken() => cause,
        // The sender lives as long as the engine.
        Ok(()) = moves.changed() => Cause::Changed,
        () = sleep_until(ended + again) => cause,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustic_telemetry::pulse;
    use tokio::time::timeout;

    /// When passes run within `time`, in ms, if each asks for `again`.
    async fn passes(changes: &Changes, wake: &Wake, again: Again, time: Duration) -> Vec<u128> {
        let (began, mut at) = (Instant::now(), vec![]);
        let looping = async {
            let mut rounds = Rounds::begin("test", changes, wake.clone(), || 0.0, Pulse::of("test", pulse::TURN));
            loop {
                at.push(began.elapsed().as_millis());
                rounds.over(Ok(again)).await;
            }
        };
        let _cut_off: Result<(), _> = timeout(time, looping).await;
        at
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_no_cause_rests() {
        let (changes, wake) = (Changes::default(), Wake::default());
        assert_eq!(passes(&changes, &wake, Again::OnChange, RESYNC - PAUSE).await, [0]);
        assert_eq!(passes(&changes, &wake, Again::OnChange, RESYNC + PAUSE).await, [0, RESYNC.as_millis()]);
    }

    #[tokio::test(start_paused = true)]
    async fn changes_that_come_together_are_one_cause() {
        let (changes, wake) = (Changes::default(), Wake::default());
        let come = async {
            for _ in 0..9 {
                sleep(PAUSE / 10).await;
                changes.nudge();
            }
            sleep(PAUSE).await;
        };
        let (at, ()) = tokio::join!(passes(&changes, &wake, Again::OnChange, 10 * PAUSE), come);
        assert_eq!(at, [0, PAUSE.as_millis()]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_asked_does_not_wait() {
        let (changes, wake) = (Changes::default(), Wake::default());
        let ask = async {
            sleep(PAUSE / 3).await;
            wake.wake();
        };
        let (at, ()) = tokio::join!(passes(&changes, &wake, Again::OnChange, 2 * PAUSE), ask);
        assert_eq!(at, [0, PAUSE.as_millis() / 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_is_looked_at_again() {
        let (changes, wake) = (Changes::default(), Wake::default());
        let at = passes(&changes, &wake, Again::In(LEFT), 2 * LEFT + PAUSE).await;
        assert_eq!(at, [0, LEFT.as_millis(), 2 * LEFT.as_millis()]);
        let at = passes(&changes, &wake, Again::In(Duration::ZERO), PAUSE + PAUSE / 2).await;
        assert_eq!(at, [0, PAUSE.as_millis()], "at the earliest");
    }

    #[tokio::test(start_paused = true)]
    async fn each_pass_has_its_cause() {
        let (changes, wake) = (Changes::default(), Wake::default());
        let mut moves = changes.moves();
        let mut cause = async |again, failures| next(&wake, &mut moves, again, failures, 0.0).await;
        wake.silent();
        assert_eq!(cause(Some(Again::OnChange), 0).await, Cause::Silent);
        wake.wake();
        assert_eq!(cause(Some(Again::OnChange), 0).await, Cause::Asked);
        changes.nudge();
        assert_eq!(cause(Some(Again::OnChange), 0).await, Cause::Changed);
        assert_eq!(cause(Some(Again::In(LEFT)), 0).await, Cause::Left);
        assert_eq!(cause(None, 1).await, Cause::Failed);
        assert_eq!(cause(Some(Again::OnChange), 0).await, Cause::Resync);
    }
}
