//! The queue of starts: a host starts only so many agents at once, first come, first served.
//!
//! Starting an agent keeps a core busy for tens of milliseconds. With more starts at once than cores, each of them takes
//! longer and none is done earlier. A turn lasts until the agent is ready, or until its [patience](Starts) is over: an
//! agent that takes long to become ready usually waits for something else, and holds up nobody.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until},
};

/// The queue.
#[derive(Debug, Clone)]
pub struct Starts {
    turns: Arc<Semaphore>,
    patience: Duration,
    waiting: Arc<AtomicU64>,
}

/// A turn to start one agent. Dropping it gives it to the next in line.
#[derive(Debug)]
pub struct Turn {
    _permit: OwnedSemaphorePermit,
    over: Instant,
}

/// Counts who waits, for as long as it waits.
struct Waiting<'a>(&'a AtomicU64);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Starts {
    /// A queue for `at_once` starts, each of which holds up others for `patience` at most.
    pub fn new(at_once: usize, patience: Duration) -> Self {
        Self { turns: Arc::new(Semaphore::new(at_once.max(1))), patience, waiting: Arc::default() }
    }

    /// Waits for a turn. Dropping the future leaves the line.
    pub async fn turn(&self) -> Turn {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        // Tokio's semaphore serves in the order of arrival.
        let permit = self.turns.clone().acquire_owned().await.expect("the semaphore is never closed");
        Turn { _permit: permit, over: Instant::now() + self.patience }
    }

    /// How many wait for a turn.
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }
}

impl Turn {
    /// Waits until the turn is over. Cancel-safe.
    pub async fn over(&self) {
        sleep_until(self.over).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    #[tokio::test(start_paused = true)]
    async fn turns_are_given_in_order_and_those_who_leave_are_passed_over() {
        let starts = Starts::new(1, Duration::from_secs(1));
        let first = starts.turn().await;
        let mut second = Box::pin(starts.turn());
        let mut third = Box::pin(starts.turn());
        let mut fourth = Box::pin(starts.turn());
        for waits in [&mut second, &mut third, &mut fourth] {
            assert!(waits.now_or_never().is_none());
        }
        assert_eq!(starts.waiting(), 3);
        drop(second);
        drop(first);
        assert!((&mut fourth).now_or_never().is_none(), "the third comes first");
        let third = third.await;
        drop(third);
        fourth.await;
        assert_eq!(starts.waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_ends_when_patience_does() {
        let starts = Starts::new(1, Duration::from_secs(1));
        let turn = starts.turn().await;
        let began = Instant::now();
        turn.over().await;
        assert_eq!(began.elapsed(), Duration::from_secs(1));
    }
}
