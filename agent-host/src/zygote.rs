//! The zygote: a warm Python process that forks a ready-imported child for every agent. One per runtime profile.
//!
//! ```text
//!              hello                    forks, one after the other
//!  ▶ Starting ───────▶ Ready ◀──────────────────────────┐
//!      ▲                 │ └────────────────────────────┘
//!      │ backoff         │ it ended, hung, or said something that is no message
//!      └──────── Down ◀──┘   (Starting may end the same way)
//! ```
//!
//! Whoever asks while it is Starting waits in line; while it is Down is told at once, and starts the agent cold. Running
//! agents are not touched by any of this: they are children of this host, not of the zygote.
//!
//! **Learning.** A ready agent tells which modules it had to import itself. They are preloaded into the next
//! *generation*: a branch, forked from the zygote, that imports them in the background, is a zygote too, and takes over
//! when it has said hello. The base stays: next generations grow from it, and agents with an environment of their own
//! are forked from it, because modules may read the environment while they are imported. A file keeps what was learned
//! for the next life of the host, which builds that generation before it forks the first agent.

mod learned;
mod notes;
mod process;
mod task;
mod wire;

pub use learned::LearningLimits;
pub use notes::Notes;
pub use process::Nursery;
pub use task::ZygoteTask;

use crate::process::Child;
use std::{collections::BTreeMap, os::fd::OwnedFd, path::PathBuf};
use tokio::sync::{mpsc, oneshot, watch};

/// Why no child was forked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ZygoteError {
    /// It is being replaced.
    #[error("the zygote is down: {0}")]
    Down(String),
    /// It thinks a fork unsafe.
    #[error("the zygote refused to fork: {0}")]
    Refused(String),
    /// It ended, hung or talked nonsense during this fork.
    #[error("the zygote failed: {0}")]
    Failed(String),
}

/// How the zygote is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ZygoteState {
    /// Importing.
    Starting,
    /// Forks on demand.
    Ready,
    /// Waiting to be replaced.
    Down(String),
}

/// What others see of a zygote.
#[derive(Debug, Clone)]
pub struct ZygoteStatus {
    /// How it is.
    pub state: ZygoteState,
    /// Branches that took over so far.
    pub generation: u32,
    /// What the branch of now has preloaded; empty when there is none.
    pub learned: Vec<String>,
}

/// The process to fork an agent from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ancestor {
    /// The newest generation.
    Newest,
    /// The base, which has imported nothing but what the operator asked for.
    Base,
}

/// A child to fork.
pub struct ForkRequest {
    /// Where from.
    pub ancestor: Ancestor,
    /// Title of its process.
    pub title: String,
    /// Its working directory.
    pub directory: PathBuf,
    /// Its whole environment.
    pub environment: BTreeMap<String, String>,
    /// Its three descriptors.
    pub descriptors: Descriptors,
}

/// What a forked process gets in place of standard input, output and error.
pub struct Descriptors {
    /// Its socket to this host.
    pub control: OwnedFd,
    /// Its standard output.
    pub stdout: OwnedFd,
    /// Its standard error.
    pub stderr: OwnedFd,
}

enum Order {
    Fork(ForkRequest, oneshot::Sender<Result<Child, ZygoteError>>),
    Learn(Vec<String>),
}

/// Handle to the zygote's task.
#[derive(Clone)]
pub struct ZygoteHandle {
    orders: mpsc::Sender<Order>,
    status: watch::Receiver<ZygoteStatus>,
}

impl ZygoteHandle {
    /// Forks a child, first come, first served. A caller that is gone by its turn is passed over.
    pub async fn fork(&self, request: ForkRequest) -> Result<Child, ZygoteError> {
        if let ZygoteState::Down(why) = &self.status.borrow().state {
            return Err(ZygoteError::Down(why.clone()));
        }
        let (reply, answer) = oneshot::channel();
        let gone = || ZygoteError::Down("the host is stopping, or too many agents wait for a fork".to_owned());
        self.orders.try_send(Order::Fork(request, reply)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Tells which modules a child had to import itself. What cannot be told now will be told by the next child.
    pub fn learn(&self, modules: Vec<String>) {
        if !modules.is_empty() {
            let _ = self.orders.try_send(Order::Learn(modules));
        }
    }

    /// How the zygote is now.
    pub fn status(&self) -> ZygoteStatus {
        self.status.borrow().clone()
    }
}
