//! The zygote: a warm Python process that forks a ready-imported child for every agent.
//!
//! ```text
//!              hello                         asked, and answered in time
//!  ▶ Starting ───────▶ Ready ◀──────────────────────────────────────────┐
//!      ▲                 │ └─────────────────────────────────────────────┘
//!      │ backoff         │ it ended, hung, or said something that is no message
//!      └──────── Down ◀──┘   (Starting may end the same way)
//! ```
//!
//! Whoever asks while it is Starting waits in line; while it is Down is told at once, and starts the agent cold. Running
//! agents are not touched by any of this: they are children of this host, not of the zygote.

mod wire;

use crate::{
    agent::backoff,
    output::{Output, OutputLimit, Source, Tail},
    process::{Child, Orphans, Signal, SpawnError, Spawner, Started},
};
use rustic_proto::restart::RestartPolicy;
use std::{
    collections::BTreeMap,
    io,
    os::fd::OwnedFd,
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use wire::{Reply, Wire};

/// Module of the distribution `rusticai-k8s` that is the zygote.
const MODULE: &str = "rustic_ai.k8s.runtime.zygote";
/// Longest wait for the zygote's imports.
const HELLO: Duration = Duration::from_secs(60);
/// Longest wait for a fork; one takes milliseconds.
const FORK: Duration = Duration::from_secs(5);
/// Forks that may wait in line. More callers start cold.
const LINE: usize = 256;

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

/// A child to fork.
pub struct ForkRequest {
    /// Title of its process.
    pub title: String,
    /// Its whole environment.
    pub environment: BTreeMap<String, String>,
    /// Its socket to this host.
    pub control: OwnedFd,
    /// Its standard output.
    pub stdout: OwnedFd,
    /// Its standard error.
    pub stderr: OwnedFd,
}

struct Order {
    request: ForkRequest,
    reply: oneshot::Sender<Result<Child, ZygoteError>>,
}

/// Handle to the zygote's task.
#[derive(Clone)]
pub struct ZygoteHandle {
    orders: mpsc::Sender<Order>,
    state: watch::Receiver<ZygoteState>,
}

impl ZygoteHandle {
    /// Forks a child, first come, first served. A caller that is gone by its turn is passed over.
    pub async fn fork(&self, request: ForkRequest) -> Result<Child, ZygoteError> {
        if let ZygoteState::Down(why) = &*self.state.borrow() {
            return Err(ZygoteError::Down(why.clone()));
        }
        let (reply, answer) = oneshot::channel();
        let gone = |_| ZygoteError::Down("the host is stopping, or too many agents wait for a fork".to_owned());
        self.orders.try_send(Order { request, reply }).map_err(|_| gone(()))?;
        answer.await.map_err(|_| gone(()))?
    }

    /// How the zygote is now.
    pub fn state(&self) -> ZygoteState {
        self.state.borrow().clone()
    }
}

/// Keeps one zygote alive.
pub struct ZygoteTask {
    /// Its interpreter.
    pub python: PathBuf,
    /// Modules to import beside its own list.
    pub preload: Vec<String>,
    /// Starts it.
    pub spawner: Spawner,
    /// Adopts its children.
    pub orphans: Arc<Orphans>,
}

/// A zygote that said hello.
struct Live {
    child: Child,
    wire: Wire,
    _output: Output,
}

impl ZygoteTask {
    /// Starts the task; it ends with `stop`, and the zygote with it.
    pub fn start(self, stop: CancellationToken) -> ZygoteHandle {
        let (orders, queue) = mpsc::channel(LINE);
        let (state, shown) = watch::channel(ZygoteState::Starting);
        // On cancel the zygote's handle is dropped, which kills it; children already forked live on.
        tokio::spawn(async move { stop.run_until_cancelled(self.run(queue, state)).await });
        ZygoteHandle { orders, state: shown }
    }

    async fn run(self, mut queue: mpsc::Receiver<Order>, state: watch::Sender<ZygoteState>) {
        let policy = RestartPolicy { max_backoff: Duration::from_secs(30), ..RestartPolicy::default() };
        let mut failures: u32 = 0;
        loop {
            state.send_replace(ZygoteState::Starting);
            let why = match self.hello().await {
                Ok(live) => {
                    failures = 0;
                    state.send_replace(ZygoteState::Ready);
                    self.serve(live, &mut queue).await
                }
                Err(why) => why,
            };
            failures += 1;
            warn!(why, failures, "the zygote is replaced; agents start cold meanwhile");
            state.send_replace(ZygoteState::Down(why.clone()));
            // Whoever waits in line starts cold.
            while let Ok(order) = queue.try_recv() {
                let _ = order.reply.send(Err(ZygoteError::Down(why.clone())));
            }
            sleep(backoff::delay(&policy, failures, rand::random())).await;
        }
    }

    async fn hello(&self) -> Result<Live, String> {
        let text = |e: &dyn std::fmt::Display| e.to_string();
        let (started, mut wire) = self.spawn().await.map_err(|e| text(&e))?;
        let source = Source { guild: String::new(), agent: "zygote".to_owned(), epoch: 0, pid: started.child.pid() };
        let limit = OutputLimit { bytes_per_second: 64 << 10, burst: 1 << 20 };
        let output = Output::read(started.stdout, started.stderr, &source, limit, &Tail::default());
        let output = output.map_err(|e| text(&e))?;
        match timeout(HELLO, wire.receive()).await {
            Ok(Ok(Reply::Hello { version: wire::VERSION, failed_preloads })) => {
                for failed in failed_preloads {
                    let wire::FailedPreload { module, error, traceback } = failed;
                    warn!(module, error, traceback, "a module could not be preloaded");
                }
                info!(pid = started.child.pid(), "the zygote is ready");
                Ok(Live { child: started.child, wire, _output: output })
            }
            Ok(Ok(other)) => Err(format!("it said {other:?} instead of hello; install the same release of both")),
            Ok(Err(error)) => Err(format!("it ended before it was ready: {error}")),
            Err(_elapsed) => Err(format!("it was not ready within {HELLO:?}")),
        }
    }

    async fn spawn(&self) -> Result<(Started, Wire), SpawnError> {
        let watch = SpawnError::Watch;
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(watch)?;
        let mut command = Command::new(&self.python);
        command.arg("-m").arg(MODULE).args(&self.preload).stdin(Stdio::from(OwnedFd::from(theirs)));
        command.env_clear().envs(super::runtime::inherited_environment());
        Ok((self.spawner.spawn(command).await?, Wire::new(ours).map_err(watch)?))
    }

    /// Forks until something goes wrong, and tells what. Ends the zygote.
    async fn serve(&self, mut live: Live, queue: &mut mpsc::Receiver<Order>) -> String {
        let mut id = 0;
        let why = loop {
            let order = tokio::select! {
                // Cancel-safe: neither the queue nor the pidfd loses anything.
                order = queue.recv() => match order {
                    Some(order) => order,
                    None => break "the host is stopping".to_owned(),
                },
                status = live.child.ended() => {
                    return match status {
                        Ok(status) => format!("it ended with {status}"),
                        Err(error) => format!("it cannot be watched: {error}"),
                    };
                }
            };
            if order.reply.is_closed() {
                continue;
            }
            id += 1;
            let expected = self.orphans.expect();
            match timeout(FORK, live.wire.fork(id, &order.request)).await {
                Ok(Ok(Reply::Forked { id: answered, pid })) if answered == id => {
                    let child = expected.adopt(pid).map_err(|e| ZygoteError::Failed(e.to_string()));
                    let _ = order.reply.send(child);
                }
                Ok(Ok(Reply::Refused { id: answered, reason })) if answered == id => {
                    let _ = order.reply.send(Err(ZygoteError::Refused(reason)));
                }
                failed => {
                    let why = match failed {
                        Ok(Ok(other)) => format!("it answered a fork with {other:?}"),
                        Ok(Err(error)) => error.to_string(),
                        Err(_elapsed) => format!("a fork took longer than {FORK:?}"),
                    };
                    let _ = order.reply.send(Err(ZygoteError::Failed(why.clone())));
                    break why;
                }
            }
        };
        live.child.signal(Signal::Kill);
        why
    }
}

/// A pipe for a child's output: our end, and the child's.
pub fn output_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    Ok((reader.into(), writer.into()))
}
