//! The zygote: a warm Python process that forks a ready-imported child for every agent. One family per runtime profile.
//!
//! ```text
//!              hello                    forks, one after the other
//!  ▶ Starting ───────▶ Ready ◀──────────────────────────┐
//!      ▲                 │ └────────────────────────────┘
//!      │ backoff         │ it ended, hung, said something that is no message, or its files have changed
//!      └──────── Down ◀──┘   (Starting may end the same way)
//! ```
//!
//! Whoever asks while it is Starting waits in line. Whoever asks while it is Down gets an error at once, and starts the agent
//! cold. Running agents are not touched by any of this: they are children of this host, not of the zygote.
//!
//! **Sharing.** An agent finds nothing that it would not have made itself. The *base* has Rustic AI itself, and what the operator
//! preloads. The first agent of a *kind* (`kind`) reports what its class imports (`closure`). What of that is proven to be safe is
//! preloaded by a *branch* (`python/src/rustic_ai/k8s/runtime/proof`), a zygote that was forked from another one; agents
//! are forked from a branch only if their class imports all that the branch has (`family`). Several branches live beside each
//! other, bounded in number and memory. When a file changes, what was read from it is given up before the next fork (`files`). A file keeps
//! what was learned for the next life of the host (`cache`).

mod cache;
mod closure;
mod family;
mod files;
mod kind;
mod known;
mod process;
mod task;
mod wire;

pub use cache::Cache;
pub use closure::{Imports, Place, Unit};
pub use kind::Kind;
pub use process::ZygoteSpec;
pub use task::ZygoteTask;

use crate::{confinement::Confinement, process::Child};
use clap::ValueEnum;
use serde::Serialize;
use std::{collections::BTreeMap, os::fd::OwnedFd, path::PathBuf};
use tokio::sync::{mpsc, oneshot, watch};

/// Variables of which every agent has a value of its own, so that nothing that read one of them can be shared.
const VARYING: [&str; 9] = [
    "RUSTIC_AGENT_EPOCH",
    "RUSTIC_AGENT_GUILD_ID",
    "RUSTIC_AGENT_HOST",
    "RUSTIC_AGENT_ID",
    "RUSTIC_AGENT_ORGANIZATION_ID",
    "RUSTIC_ENGINE_ADDRESS",
    "TMPDIR",
    "TRACEPARENT",
    "TRACESTATE",
];

/// Those of them that say who an agent is.
const IDENTITY: [&str; 4] =
    ["RUSTIC_AGENT_EPOCH", "RUSTIC_AGENT_GUILD_ID", "RUSTIC_AGENT_ID", "RUSTIC_AGENT_ORGANIZATION_ID"];

/// What agents may share beyond the base.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Share {
    /// Whatever passes the proof
    Proven,
    /// The same, but never a class's own package or source folder
    ThirdParty,
    /// Nothing
    None,
}

/// How much agents share.
#[derive(Debug, Clone)]
pub struct Sharing {
    /// What.
    pub share: Share,
    /// Branches at most.
    pub branches: usize,
    /// Memory that all branches may use beyond the base, in bytes.
    pub memory: u64,
    /// Packages that the operator shares without proof.
    pub vouched: Vec<String>,
    /// Where imports that are tried find themselves; made when it is needed.
    pub directory: PathBuf,
}

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
    /// The system has no room for another process.
    #[error("the zygote could not fork: {0}")]
    Exhausted(String),
    /// What every zygote has loaded depends on this variable.
    #[error("its environment sets {0}, which modules that all agents share read while they were imported")]
    Environment(String),
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

/// A branch, as others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BranchStatus {
    /// Its process.
    pub pid: u32,
    /// Packages that it has imported.
    pub packages: Vec<String>,
    /// Modules that its children find loaded, beyond those of the base.
    pub modules: usize,
    /// Memory of its own, in bytes.
    pub memory: u64,
}

/// What others see of a zygote.
#[derive(Debug, Clone)]
pub struct ZygoteStatus {
    /// How it is.
    pub state: ZygoteState,
    /// Branches that were grown so far.
    pub generation: u32,
    /// The branches of now.
    pub branches: Vec<BranchStatus>,
    /// Packages and modules that are not shared, and why.
    pub refused: BTreeMap<String, String>,
}

/// A child to fork.
pub struct ForkRequest {
    /// Which agents import the same; none: nobody knows.
    pub kind: Option<Kind>,
    /// Title of its process.
    pub title: String,
    /// Its working directory.
    pub directory: PathBuf,
    /// Its whole environment.
    pub environment: BTreeMap<String, String>,
    /// Its three descriptors.
    pub descriptors: Descriptors,
    /// What it takes on; none: it is not confined.
    pub confinement: Option<Confinement>,
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

/// What an agent reported after it was forked.
struct Lesson {
    kind: Kind,
    imports: Imports,
    /// Its whole environment.
    environment: BTreeMap<String, String>,
}

enum Command {
    Fork(ForkRequest, oneshot::Sender<Result<Child, ZygoteError>>),
    Learn(Lesson),
}

/// Handle to the zygote's task.
#[derive(Clone)]
pub struct ZygoteHandle {
    commands: mpsc::Sender<Command>,
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
        self.commands.try_send(Command::Fork(request, reply)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Reports what the class of an agent imports, and in which environment it did. A report for which there is no room now is dropped:
    /// the next agent makes another.
    pub fn learn(&self, kind: Kind, imports: Imports, environment: BTreeMap<String, String>) {
        let _ = self.commands.try_send(Command::Learn(Lesson { kind, imports, environment }));
    }

    /// How the zygote is now.
    pub fn status(&self) -> ZygoteStatus {
        self.status.borrow().clone()
    }
}
