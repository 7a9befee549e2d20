//! The supervision tree of a program: the tasks that live as long as it does, and what becomes of it when one of them fails.
//!
//! ```text
//!            spawn            panics, fails, or ends before it is asked to
//!  program ────────▶ task ────────────────────────────────────────────────▶ Failure: the first one counts
//!     ▲                ▲                                                       │
//!     │                └───── end: all are asked to, and waited for ───────────┤
//!     └─ exit status 1, with the failure as its last word ◀── stops in order ──┘
//! ```
//!
//! One rule for all, as in Erlang's one-for-all: no task is started again in a program that goes on. What a task leaves half done
//! others build on, and a program that runs without one of its tasks looks well and is not. Its next life, which Kubernetes starts, begins
//! with what the registry holds.
//!
//! This module only says *that* a task has failed. How its program stops in order is written down in the program's `run`. What lives
//! as long as one call, one agent or one process belongs to who started it, which hands on its panic.

use crate::pulse::{Beat, TREE};
use std::{
    any::Any,
    borrow::Cow,
    collections::BTreeMap,
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, warn};

/// Name of a task, for people.
pub type Name = Cow<'static, str>;

/// A task that ended as none may.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{task} {cause}; this program ends, as it cannot go on without it")]
pub struct Failure {
    /// Its name.
    pub task: Name,
    /// What happened.
    pub cause: Cause,
}

/// How a task ended that should not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// It panicked, with this message.
    Panicked(String),
    /// It gave this error.
    Failed(String),
    /// It was over, and nobody had asked it to end.
    Ended,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Panicked(message) => write!(f, "panicked: {message}"),
            Self::Failed(error) => write!(f, "failed: {error}"),
            Self::Ended => f.write_str("ended before its time"),
        }
    }
}

/// What a task may give at its end.
pub trait Outcome {
    /// The error, if it is one.
    fn error(self) -> Option<String>;
}

impl Outcome for () {
    fn error(self) -> Option<String> {
        None
    }
}

impl<E: fmt::Display> Outcome for Result<(), E> {
    fn error(self) -> Option<String> {
        // With its causes, where it is an `anyhow::Error`; others name theirs in their own text.
        self.err().map(|error| format!("{error:#}"))
    }
}

/// The long-lived tasks of a program. Clones are handles to the same tree.
#[derive(Clone, Default)]
pub struct Tasks(Arc<Tree>);

#[derive(Default)]
struct Tree {
    ending: CancellationToken,
    failed: CancellationToken,
    failure: OnceLock<Failure>,
    monitors: TaskTracker,
    /// Those that run, by numbers of our own: several may have one name.
    running: Mutex<BTreeMap<u64, Name>>,
    /// Last beats of the loops, by numbers.
    beats: Mutex<BTreeMap<u64, Beat>>,
    last: AtomicU64,
}

impl Tasks {
    /// A tree without tasks.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled when the tasks are to end.
    pub fn ending(&self) -> CancellationToken {
        self.0.ending.clone()
    }

    /// Runs a task that has no end of its own. At the end of the program it is dropped where it waits.
    pub fn spawn(&self, name: impl Into<Name>, task: impl Future<Output = ()> + Send + 'static) {
        let ending = self.ending();
        let until = ending.clone();
        self.spawn_until(name, until, async move {
            // The task is over or was cut off. `until` shows which.
            let _over: Option<()> = ending.run_until_cancelled_owned(task).await;
        });
    }

    /// Runs a task that ends by itself once `until` is cancelled, and not before. The handle waits for its end and never fails.
    pub fn spawn_until<F>(&self, name: impl Into<Name>, until: CancellationToken, task: F) -> JoinHandle<()>
    where
        F: Future<Output: Outcome + Send> + Send + 'static,
    {
        let (tree, name) = (self.clone(), name.into());
        let number = self.number();
        self.0.running().insert(number, name.clone());
        let task = tokio::spawn(TREE.scope(self.clone(), task));
        // A task of its own: it sees every way in which the other one can end.
        self.0.monitors.spawn(async move {
            let cause = match task.await {
                Ok(outcome) => match outcome.error() {
                    Some(error) => Some(Cause::Failed(error)),
                    None if until.is_cancelled() => None,
                    None => Some(Cause::Ended),
                },
                Err(error) => error.try_into_panic().ok().map(|panic| Cause::Panicked(message(&*panic))),
            };
            tree.0.running().remove(&number);
            if let Some(cause) = cause {
                tree.fail(name, cause);
            }
        })
    }

    /// Runs `work` on a thread of its own. It may end at any time, by itself, but not by a panic.
    pub fn spawn_thread(&self, name: &'static str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let tree = self.clone();
        let supervised = move || {
            // What it leaves behind is not looked at again: the program ends.
            if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
                tree.fail(name, Cause::Panicked(message(&*panic)));
            }
        };
        thread::Builder::new().name(name.to_owned()).spawn(supervised).map(|_thread| ())
    }

    pub(crate) fn number(&self) -> u64 {
        self.0.last.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn beats(&self) -> MutexGuard<'_, BTreeMap<u64, Beat>> {
        // Held for map operations only; a panic cannot leave the map half-changed.
        self.0.beats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that a part of the program has failed that is no task of this tree.
    pub fn fail(&self, task: impl Into<Name>, cause: Cause) {
        let failure = Failure { task: task.into(), cause };
        error!(task = %failure.task, cause = %failure.cause, "a task has failed that this program cannot do without");
        // The first one counts: others may follow from it.
        let _ = self.0.failure.set(failure);
        self.0.failed.cancel();
    }

    /// Waits for the first failure. Cancel-safe.
    pub async fn failed(&self) -> Failure {
        loop {
            self.0.failed.cancelled().await;
            if let Some(failure) = self.0.failure.get() {
                return failure.clone();
            }
        }
    }

    /// Has all tasks end, and waits for them, for `longest` at most. Errors: a task has failed, now or at any time before.
    pub async fn end(&self, longest: Duration) -> Result<(), Failure> {
        self.0.ending.cancel();
        self.0.monitors.close();
        if timeout(longest, self.0.monitors.wait()).await.is_err() {
            let tasks: Vec<_> = self.0.running().values().cloned().collect();
            warn!(tasks = tasks.join(", "), "tasks did not end within {longest:?}; leaving without");
        }
        self.0.failure.get().cloned().map_or(Ok(()), Err)
    }
}

impl Tree {
    fn running(&self) -> MutexGuard<'_, BTreeMap<u64, Name>> {
        // Held for map operations only; a panic cannot leave the map half-changed.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a panic says.
pub fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a message".to_owned())
}

#[cfg(test)]
mod tests;
