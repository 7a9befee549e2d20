//! Whether the loops of a program still come round: what its liveness asks.
//!
//! A loop has a [`Pulse`] and beats at every turn. One whose last beat is older than its bound hangs: in a call that never ends, or in a
//! lock. A loop that waits by design does so through [`Pulse::waits`], which beats for it as long as it is polled. It is never taken for
//! one that hangs; a loop whose thread is stuck is.
//!
//! The time between beats is measured on the monotonic clock, which stands still while a machine is suspended: a machine that wakes up
//! finds no loop late. A pulse outside a supervision tree beats for nobody, and costs nothing.
//!
//! Loops that are not ours, those of the servers, have no pulse: the probe itself comes through one. Nor have agents' tasks: one
//! that hangs must not cost the others their host.

use crate::tasks::{Name, Tasks};
use std::{fmt, pin::pin, time::Duration};
use tokio::{
    task_local,
    time::{Instant, sleep},
};

/// Bound of a loop whose turns ask the registry once or twice, or nobody.
pub const TURN: Duration = Duration::from_secs(60);
/// Bound of a loop whose turns call hosts, one after the other where many are silent.
pub const PASS: Duration = Duration::from_secs(900);
/// Time between two beats of a loop that waits.
const WAITING: Duration = Duration::from_secs(10);

task_local! {
    /// The tree of the task that runs.
    pub(crate) static TREE: Tasks;
}

/// The pulse of a loop. Dropping it says that the loop is over.
pub struct Pulse {
    /// None outside a tree.
    beats: Option<(Tasks, u64)>,
}

/// The last beat of a loop.
#[derive(Debug)]
pub(crate) struct Beat {
    name: Name,
    within: Duration,
    at: Instant,
}

/// A loop that does not come round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Late {
    /// Its name.
    pub name: Name,
    /// Time since its last beat.
    pub silent: Duration,
}

impl fmt::Display for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, silent for {} s", self.name, self.silent.as_secs())
    }
}

impl Pulse {
    /// The pulse of a loop of the task that runs, which beats at least every `within`: one of the bounds above.
    pub fn of(name: impl Into<Name>, within: Duration) -> Self {
        let Ok(tree) = TREE.try_with(Clone::clone) else { return Self { beats: None } };
        let number = tree.number();
        tree.beats().insert(number, Beat { name: name.into(), within, at: Instant::now() });
        Self { beats: Some((tree, number)) }
    }

    /// The loop has come round.
    pub fn beat(&self) {
        if let Some((tree, number)) = &self.beats
            && let Some(beat) = tree.beats().get_mut(number)
        {
            beat.at = Instant::now();
        }
    }

    /// Waits for what may take any time, and beats meanwhile. Cancel-safe where `what` is.
    pub async fn waits<T>(&self, what: impl Future<Output = T>) -> T {
        if self.beats.is_none() {
            return what.await;
        }
        let mut what = pin!(what);
        loop {
            self.beat();
            tokio::select! {
                biased;
                done = &mut what => {
                    self.beat();
                    return done;
                }
                () = sleep(WAITING) => {}
            }
        }
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        if let Some((tree, number)) = &self.beats {
            tree.beats().remove(number);
        }
    }
}

impl Tasks {
    /// Loops whose last beat is older than their bound.
    pub fn late(&self) -> Vec<Late> {
        let now = Instant::now();
        let late = |beat: &Beat| {
            let silent = now.saturating_duration_since(beat.at);
            (silent > beat.within).then(|| Late { name: beat.name.clone(), silent })
        };
        self.beats().values().filter_map(late).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;
    use std::future::pending;
    use tokio::sync::oneshot;

    const A_WHILE: Duration = Duration::from_secs(24 * 3600);

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_hangs_is_late_and_one_that_comes_round_is_not() {
        let tasks = Tasks::new();
        tasks.spawn("hangs", async {
            let _pulse = Pulse::of("hangs", TURN);
            pending().await
        });
        tasks.spawn("comes round", async {
            let pulse = Pulse::of("comes round", TURN);
            loop {
                pulse.beat();
                sleep(TURN / 2).await;
            }
        });
        sleep(TURN).await;
        assert_eq!(tasks.late(), []);
        sleep(TURN / 4).await;
        assert_eq!(tasks.late(), [Late { name: "hangs".into(), silent: TURN * 5 / 4 }]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_waits_by_design_beats_as_long_as_it_waits() {
        let tasks = Tasks::new();
        let (done, waited) = oneshot::channel::<()>();
        tasks.spawn("waits", async {
            let pulse = Pulse::of("waits", TURN);
            pulse.waits(waited).await.expect("the test sends");
            pending().await
        });
        sleep(A_WHILE).await;
        assert_eq!(tasks.late(), []);
        done.send(()).expect("it waits");
        sleep(TURN * 2).await;
        assert_eq!(tasks.late().len(), 1, "it waits no more, and does not come round");
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_waits_and_is_not_polled_any_more_is_late() {
        let tasks = Tasks::new();
        let mut waits = pin!(TREE.scope(tasks.clone(), async {
            Pulse::of("waits", TURN).waits(pending::<()>()).await;
        }));
        assert_eq!((&mut waits).now_or_never(), None);
        sleep(TURN * 2).await;
        assert_eq!(tasks.late().len(), 1, "as if its thread were stuck");
        assert_eq!((&mut waits).now_or_never(), None);
        assert_eq!(tasks.late(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_is_over_or_in_no_tree_is_never_late() {
        let tasks = Tasks::new();
        let _detached = Pulse::of("in no tree", TURN);
        tasks.spawn_until("over", tasks.ending(), async {
            drop(Pulse::of("over", TURN));
            pending::<()>().await;
        });
        sleep(A_WHILE).await;
        assert_eq!(tasks.late(), []);
    }
}
