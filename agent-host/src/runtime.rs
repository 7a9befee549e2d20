//! Turns a launch into a process: the `python` runtime and the `command` runtime.
//!
//! Launch documents travel over the process's standard input, never through arguments or environment that other users
//! could read. What comes back is a [`Report`].

mod command;
mod document;
mod python;
mod report;

pub use report::{InitFailure, Report, Reports, Stage, StartTimes};

use crate::{
    output::{Output, OutputLimit, Source, Tail},
    process::{Child, Orphans, RUN_VARIABLE, SpawnError, Spawner, Started},
    zygote::ZygoteHandle,
};
use rustic_proto::launch::{Launch, RuntimeKind};
use rustic_registry::Epoch;
use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tracing::warn;

/// Settings of the host itself; agents do not get them.
const HOST_VARIABLES: &str = "AGENT_HOST_";

/// Why no process came to be.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Fork or exec failed.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// Its pipes could not be made.
    #[error("cannot make the pipes of the process: {0}")]
    Pipe(#[from] io::Error),
}

/// What to start.
#[derive(Debug, Clone)]
pub struct Order {
    /// The launch.
    pub launch: Arc<Launch>,
    /// Its fencing token.
    pub epoch: Epoch,
    /// For rusticai-core's id generator.
    pub machine_id: u8,
}

/// A process that was started: what the agent's task looks after.
pub struct Process {
    /// The process itself.
    pub child: Child,
    /// What it says about its start.
    pub reports: Reports,
    /// The readers of its output.
    pub output: Output,
    run: u64,
    orphans: Arc<Orphans>,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.orphans.run_ended(self.run);
    }
}

impl Process {
    /// Ends the readers once the process ended, after they took what was left.
    pub async fn finish(mut self) {
        std::mem::take(&mut self.output).finish().await;
    }
}

/// How processes are started on this host.
pub struct Runtimes {
    /// Starts them.
    pub spawner: Spawner,
    /// Cleans up after them.
    pub orphans: Arc<Orphans>,
    /// Python interpreter of the `python` runtime.
    pub python: PathBuf,
    /// Forks warm Python processes; without it every one starts cold.
    pub zygote: Option<ZygoteHandle>,
    /// Python agents that started cold although there is a zygote.
    pub cold_starts: AtomicU64,
    /// Address of engine-svc, for agents that launch agents.
    pub engine_address: Option<String>,
    /// Host id, told to agents.
    pub host: String,
    /// How much of their output is logged.
    pub output_limit: OutputLimit,
    /// Numbers the runs.
    pub runs: AtomicU64,
}

impl Runtimes {
    /// Starts a process for `order`. It is not ready until its [`Report`] says so.
    pub async fn start(&self, order: &Order, tail: &Tail) -> Result<Process, StartError> {
        let run = self.runs.fetch_add(1, Ordering::Relaxed) + 1;
        self.orphans.run_began(run);
        let started = self.spawn(order, run).await;
        if started.is_err() {
            self.orphans.run_ended(run);
        }
        let (Started { child, stdout, stderr }, reports) = started?;
        let source = Source {
            guild: order.launch.key.guild.to_string(),
            agent: order.launch.key.agent.to_string(),
            epoch: order.epoch.0,
            pid: child.pid(),
        };
        let output = Output::read(stdout, stderr, &source, self.output_limit, tail)?;
        Ok(Process { child, reports, output, run, orphans: self.orphans.clone() })
    }

    async fn spawn(&self, order: &Order, run: u64) -> Result<(Started, Reports), StartError> {
        let environment = self.environment(order, run);
        if let (RuntimeKind::Python, Some(zygote)) = (&order.launch.runtime, &self.zygote) {
            match python::warm(zygote, order, &environment).await? {
                Ok((started, feed)) => return Ok((started, feed.start()?)),
                Err(why) => {
                    self.cold_starts.fetch_add(1, Ordering::Relaxed);
                    warn!(%why, "the agent starts cold");
                }
            }
        }
        let (mut command, feed) = match &order.launch.runtime {
            RuntimeKind::Python => python::command(&self.python, order)?,
            RuntimeKind::Command(argv) => command::command(argv, order)?,
        };
        command.env_clear().envs(environment);
        let started = self.spawner.spawn(command).await?;
        Ok((started, feed.start()?))
    }

    /// The host's environment without the host's own settings, then the caller's, then what the system tells.
    fn environment(&self, order: &Order, run: u64) -> BTreeMap<OsString, OsString> {
        let launch = &order.launch;
        let mut environment: BTreeMap<_, _> = inherited_environment().collect();
        let mut set = |name: &str, value: &str| environment.insert(name.into(), value.into());
        if let Some(address) = &self.engine_address {
            set("RUSTIC_ENGINE_ADDRESS", address);
        }
        for (name, value) in rustic_telemetry::traces::environment().iter().chain(&launch.message.environment) {
            set(name, value);
        }
        set("RUSTIC_AGENT_GUILD_ID", launch.key.guild.as_str());
        set("RUSTIC_AGENT_ID", launch.key.agent.as_str());
        set("RUSTIC_AGENT_EPOCH", &order.epoch.to_string());
        set("RUSTIC_AGENT_HOST", &self.host);
        set(RUN_VARIABLE, &run.to_string());
        environment
    }
}

/// The host's environment without the host's own settings.
pub fn inherited_environment() -> impl Iterator<Item = (OsString, OsString)> {
    env::vars_os().filter(|(name, _)| !name.to_string_lossy().starts_with(HOST_VARIABLES))
}
