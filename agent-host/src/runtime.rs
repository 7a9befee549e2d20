//! Turns a launch into a process: the `python` runtime and the `command` runtime.
//!
//! Launch documents travel over the process's standard input, never through arguments or environment that other users
//! could read. What comes back is a [`Report`].

mod command;
mod document;
mod lack;
mod liveness;
mod process;
mod python;
mod removal;
mod report;
mod start_error;
mod state;
mod workdir;

pub use lack::Lack;
pub use process::{Process, ProcessEvent};
pub use python::{PythonRuntime, PythonStatus};
pub use removal::remove;
pub use state::StatePage;
pub use workdir::{Workdir, Workdirs};

pub use report::{InitFailure, Report, Reports, Stage, StartTimes};
pub use start_error::{Blame, StartError};

use crate::{
    agent::poison::Skip,
    cgroups::{Allowance, Cgroup, Cgroups},
    confinement::{self, Confinement, Grant, Places, Policy},
    limits::{self, Purpose},
    output::{Output, OutputLimit, Source, Tail},
    process::{
        Kin, OfAgent, Orphans, Spawner, Started,
        bounds::{self, Bounds},
        memory::MemoryKills,
    },
    profiles::Profile,
    watchdog::{BootTime, Outlives, Watchdog},
    zygote::Imports,
};
use async_trait::async_trait;
use process::{Asked, OwnProcess, Run};
use report::Feed;
use rustic_proto::{
    launch::{Launch, RuntimeKind},
    profile::ProfileName,
};
use rustic_registry::{
    ConfinementLevel, ConfinementWish, Epoch, HostId, MachineId, OnDisconnect, Resources, resources::MEMORY,
};
use state::StateFile;
use std::{
    collections::BTreeMap,
    env,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// Settings of the host itself; agents do not get them.
const HOST_VARIABLES: &str = "AGENT_HOST_";

/// What to start.
#[derive(Debug, Clone)]
pub struct Order {
    /// The launch.
    pub launch: Arc<Launch>,
    /// Its fencing token.
    pub epoch: Epoch,
    /// For rusticai-core's id generator.
    pub machine_id: MachineId,
    /// What it takes of this host.
    pub takes: Resources,
    /// Messages that are not handed to it any more.
    pub skip: Vec<Skip>,
    /// The file in which it writes what it is at work on, once it has one.
    pub state: Option<PathBuf>,
    /// Memory that it may use beyond what its process begins with, in bytes, once that is known.
    pub memory: Option<u64>,
}

/// What runs the agents of a host. Real processes here; a simulation has its own.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Starts a process for `order`. It is not ready until its [`Report`] says so.
    async fn start(&self, order: &Order, tail: &Tail) -> Result<Box<dyn Process>, StartError>;
    /// An agent became ready, and reported what its class imports.
    fn learn(&self, order: &Order, imports: Imports);
    /// Why this host should take no agent now, if it lacks something that is seen before it is tried.
    fn refusal(&self) -> Option<StartError>;
    /// A process was ended by SIGKILL that this host did not send: whether the kernel sent it, because memory ran out.
    fn killed_for_memory(&self) -> bool;
    /// The Python environments, in order of their names.
    fn profiles(&self) -> Vec<PythonStatus>;
    /// What agents may reach; `None` where nothing is known of that.
    fn confinement(&self) -> Option<&Policy> {
        None
    }
    /// Controllers by which the control group of each agent limits it.
    fn cgroup_limits(&self) -> &[&'static str] {
        &[]
    }
    /// Moves the moment at which processes that must not outlive the lease are killed, whatever becomes of this host.
    fn set_deadline(&self, deadline: BootTime);
}

/// How processes are started on this host.
pub struct Runtimes {
    /// Starts them.
    pub spawner: Spawner,
    /// Cleans up after them.
    pub orphans: Arc<Orphans>,
    /// Kills what this host no longer can.
    pub watchdog: Arc<Watchdog>,
    /// Where processes begin.
    pub workdirs: Workdirs,
    /// Python environments.
    pub python: BTreeMap<ProfileName, PythonRuntime>,
    /// Address of engine-svc, for agents that launch agents.
    pub engine_address: Option<String>,
    /// This host has GPUs: each agent sees those that it was given.
    pub has_gpus: bool,
    /// Host id, which agents find in their environment.
    pub host: HostId,
    /// How much of their output is logged.
    pub output_limit: OutputLimit,
    /// Memory limit of agents that name none, in bytes.
    pub agent_memory: Option<u64>,
    /// Most descriptors of each process of an agent.
    pub agent_descriptors: u64,
    /// Most processes and threads of an agent.
    pub agent_processes: u32,
    /// Makes control groups for agents, where that is possible.
    pub cgroups: Option<Cgroups>,
    /// What agents may reach.
    pub confinement: Policy,
    /// What the kernel killed.
    pub memory_kills: Arc<MemoryKills>,
    /// Numbers the runs.
    pub runs: AtomicU64,
}

#[async_trait]
impl Runtime for Runtimes {
    async fn start(&self, order: &Order, tail: &Tail) -> Result<Box<dyn Process>, StartError> {
        limits::descriptors_for(Purpose::Start)?;
        self.watchdog.alive().await.map_err(StartError::Unwatched)?;
        let (kin, cgroup, workdir) = self.begin_run(order)?;
        let made = kin.contain(async |kin| self.make(order, tail, Run { kin, cgroup, workdir }).await);
        made.await.unwrap_or_else(|panic| Err(StartError::Panicked(panic)))
    }

    fn learn(&self, order: &Order, imports: Imports) {
        if let Ok(Some(python)) = self.python_of(&order.launch) {
            // Where it keeps what is temporary differs from process to process, whatever it is called.
            python.learn(order, imports, &self.environment(order, Path::new("/"), Some(python)));
        }
    }

    fn refusal(&self) -> Option<StartError> {
        limits::descriptors_for(Purpose::Admission).err().map(StartError::Descriptors)
    }

    fn killed_for_memory(&self) -> bool {
        self.memory_kills.explains_one()
    }

    fn profiles(&self) -> Vec<PythonStatus> {
        self.python.values().map(PythonRuntime::status).collect()
    }

    fn confinement(&self) -> Option<&Policy> {
        Some(&self.confinement)
    }

    fn cgroup_limits(&self) -> &[&'static str] {
        self.cgroups.as_ref().map_or(&[], Cgroups::limits)
    }

    fn set_deadline(&self, deadline: BootTime) {
        self.watchdog.set_deadline(deadline);
    }
}

impl Runtimes {
    fn begin_run(&self, order: &Order) -> Result<(Kin, Option<Cgroup>, Workdir), StartError> {
        let number = self.runs.fetch_add(1, Ordering::Relaxed) + 1;
        let workdir = self.workdirs.make(number).map_err(|(path, source)| StartError::Workdir { path, source })?;
        let allowance = Allowance {
            memory: self.memory_of(&order.launch),
            processes: self.agent_processes,
            processor: order.launch.demand.milli("cpus"),
        };
        let cgroup = self.cgroups.as_ref().map(|groups| groups.make(number, allowance)).transpose();
        Ok((self.orphans.begin(number), cgroup.map_err(StartError::Unbound)?, workdir))
    }

    /// Memory that an agent may use beyond what its process begins with, in bytes.
    fn memory_of(&self, launch: &Launch) -> Option<u64> {
        memory_limit(&launch.demand).or(self.agent_memory)
    }

    /// Makes the process of a run.
    async fn make(&self, order: &Order, tail: &Tail, run: Run) -> Result<Box<dyn Process>, StartError> {
        let state = self.state_file(order, &run)?;
        let order = &Order {
            state: state.as_ref().map(|state| state.path().to_owned()),
            memory: self.memory_of(&order.launch),
            ..order.clone()
        };
        let grant = self.grant(&order.launch)?;
        let (Started { mut child, stdout, stderr }, feed, cold_reason) = self.spawn(order, &run, &grant).await?;
        child.watch().map_err(StartError::Unwatched)?;
        if let Some(mark) = run.kin.mark() {
            // Once more for one that was executed with it; one that was forked for us has not run a line of the agent's yet.
            child.mark(mark).map_err(StartError::Unwatched)?;
        }
        child.bound(self.bounds(order)).map_err(StartError::Unbound)?;
        if let Some(group) = &run.cgroup {
            // The same again: one that was executed has gone there itself.
            group.add(child.pid()).map_err(StartError::Unbound)?;
        }
        let outlives = match order.launch.on_disconnect {
            OnDisconnect::Stop => Outlives::Nothing,
            OnDisconnect::Keep => Outlives::Lease,
        };
        let pidfd = child.pidfd().map_err(StartError::Unwatched)?;
        let watched = self.watchdog.watch(child.pid(), pidfd, outlives).await.map_err(StartError::Unwatched)?;
        // Only now does it learn what it is: nobody touches the message bus unwatched.
        let reports = feed.start()?;
        let source = Source {
            organization: order.launch.key.guild.organization.to_string(),
            guild: order.launch.key.guild.id.to_string(),
            agent: order.launch.key.agent.to_string(),
            epoch: order.epoch.0,
            pid: child.pid(),
        };
        let output = Output::read(stdout, stderr, &source, self.output_limit, tail)?;
        let asked = match order.launch.runtime {
            RuntimeKind::Python(_) => Asked::Process,
            RuntimeKind::Command(_) => Asked::Group,
        };
        let liveness = order.launch.liveness_timeout;
        Ok(Box::new(OwnProcess {
            child,
            asked,
            reports,
            state,
            liveness,
            hangs: None,
            cold_reason,
            grant,
            output,
            _watched: watched,
            run,
        }))
    }

    /// What the process may use. A Python agent bounds its memory itself, once its interpreter is warm.
    fn bounds(&self, order: &Order) -> Bounds {
        let memory = match order.launch.runtime {
            RuntimeKind::Python(_) => None,
            RuntimeKind::Command(_) => order.memory,
        };
        let nicer = bounds::nicer(order.launch.demand.milli("cpus"));
        Bounds { memory, descriptors: Some(self.agent_descriptors), nicer }
    }

    /// The page in which an agent says what it is at work on; a command has none.
    fn state_file(&self, order: &Order, run: &Run) -> Result<Option<StateFile>, StartError> {
        match &order.launch.runtime {
            RuntimeKind::Python(_) => {
                let path = run.workdir.path().with_extension("state");
                let made = StateFile::make(path.clone()).map(Some);
                made.map_err(|source| StartError::Workdir { path, source })
            }
            RuntimeKind::Command(_) => Ok(None),
        }
    }

    /// The Python environment of a launch; none for a command.
    fn python_of(&self, launch: &Launch) -> Result<Option<&PythonRuntime>, StartError> {
        match &launch.runtime {
            RuntimeKind::Python(name) => match self.python.get(name) {
                Some(python) => Ok(Some(python)),
                None => Err(StartError::Profile(name.clone())),
            },
            RuntimeKind::Command(_) => Ok(None),
        }
    }

    /// What an agent may reach. Errors: it asks for what it does not get here.
    fn grant(&self, launch: &Launch) -> Result<Grant, StartError> {
        let none = ConfinementWish::default();
        let profile = self.python_of(launch)?.map_or(&none, |python| &python.profile.confinement);
        Ok(self.confinement.grant(profile, &launch.confinement)?)
    }

    /// Makes the process. Returns also why it starts cold, if it was to be warm.
    async fn spawn(&self, order: &Order, run: &Run, grant: &Grant) -> Result<(Started, Feed, String), StartError> {
        let python = self.python_of(&order.launch)?;
        let environment = self.environment(order, run.workdir.temporary(), python);
        let directory = run.workdir.path();
        let program = match &order.launch.runtime {
            RuntimeKind::Command(argv) => {
                let path = environment.get(OsStr::new("PATH")).map(|path| path.to_string_lossy()).unwrap_or_default();
                argv.first().and_then(|name| confinement::program(name, &path))
            }
            RuntimeKind::Python(_) => None,
        };
        let confines = grant.level != ConfinementLevel::Off;
        let places = Places {
            own: &[&run.workdir.whole()],
            environment: match python.filter(|_| confines) {
                Some(python) => Some(python.places().await?),
                None => None,
            },
            program: program.as_deref(),
        };
        // Made anew for every process: it is for one.
        let confinement = || confines.then(|| Confinement::new(grant, places)).transpose();
        let cold_reason = match python {
            Some(python) => match python.warm(order, &environment, directory, &confinement).await? {
                Ok((started, feed)) => return Ok((started, feed, String::new())),
                Err(why) => why,
            },
            None => String::new(),
        };
        let (mut command, feed) = match (&order.launch.runtime, python) {
            (RuntimeKind::Command(argv), _) => command::command(argv, order)?,
            (RuntimeKind::Python(_), Some(python)) => python.cold(order)?,
            (RuntimeKind::Python(name), None) => return Err(StartError::Profile(name.clone())),
        };
        command.env_clear().envs(environment).current_dir(directory);
        let of_agent = OfAgent {
            mark: run.kin.mark(),
            confinement: confinement().map_err(StartError::Unconfined)?,
            entry: run.cgroup.as_ref().map(Cgroup::entry).transpose().map_err(StartError::Unbound)?,
        };
        let spawned = self.spawner.spawn_agent(command, of_agent).await;
        let started = spawned.map_err(|error| match &order.launch.runtime {
            RuntimeKind::Python(name) => StartError::of_interpreter(name, error),
            RuntimeKind::Command(_) => error.into(),
        })?;
        Ok((started, feed, cold_reason))
    }

    /// The host's environment without the host's own settings, then the profile's, then a TMPDIR of its own, then what it inherits of its
    /// caller, the engine's address, what its caller asks for, and what names the agent, its epoch and this host.
    fn environment(
        &self,
        order: &Order,
        temporary: &Path,
        python: Option<&PythonRuntime>,
    ) -> BTreeMap<OsString, OsString> {
        let launch = &order.launch;
        let mut environment = profile_environment(python.map(|python| &python.profile));
        environment.insert("TMPDIR".into(), temporary.into());
        let mut set = |name: &str, value: &str| environment.insert(name.into(), value.into());
        for (name, value) in &launch.message.inherited_environment {
            set(name, value);
        }
        if let Some(address) = &self.engine_address {
            set("RUSTIC_ENGINE_ADDRESS", address);
        }
        for (name, value) in rustic_telemetry::traces::environment().iter().chain(&launch.message.environment) {
            set(name, value);
        }
        set("RUSTIC_AGENT_ORGANIZATION_ID", launch.key.guild.organization.as_str());
        set("RUSTIC_AGENT_GUILD_ID", launch.key.guild.id.as_str());
        set("RUSTIC_AGENT_ID", launch.key.agent.as_str());
        set("RUSTIC_AGENT_EPOCH", &order.epoch.to_string());
        set("RUSTIC_AGENT_HOST", self.host.as_str());
        if self.has_gpus {
            let seen: Vec<_> = order.takes.devices().map(|device| device.id).collect();
            let seen = seen.join(",");
            set("CUDA_VISIBLE_DEVICES", &seen);
            set("NVIDIA_VISIBLE_DEVICES", if seen.is_empty() { "void" } else { &seen });
        }
        environment
    }
}

/// The host's environment without the host's own settings, and what a profile adds to it.
pub fn profile_environment(profile: Option<&Profile>) -> BTreeMap<OsString, OsString> {
    let inherited = env::vars_os().filter(|(name, _)| !name.to_string_lossy().starts_with(HOST_VARIABLES));
    let added = profile.into_iter().flat_map(|profile| &profile.environment);
    inherited.chain(added.map(|(name, value)| (name.into(), value.into()))).collect()
}

/// The memory that an agent asks for is what it may use, in bytes.
fn memory_limit(demand: &Resources) -> Option<u64> {
    Some(demand.milli(MEMORY) / 1000).filter(|bytes| *bytes > 0)
}
