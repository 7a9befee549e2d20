//! agent-host: runs agents as operating system processes, one each, under a lease in the registry.
//!
//! ```text
//!  grpc ─▶ supervisor ─▶ agent::task ─▶ runtime ─▶ process
//!             │              │  ▲           └────▶ output (log lines)
//!             │              ▼  │
//!             │          agent::machine (pure)
//!             └─▶ lease ◀── health
//!                   └─▶ watchdog (a process of its own) ─▶ kills agents when this host cannot
//! ```
//!
//! The supervision tree ([`rustic_telemetry::tasks`]). What stands under "tasks" lives as long as this program: a panic, an error or an
//! end of one of them ends the program, in order, and its next life gets the agents back. What stands below an agent hands its panic up
//! to the agent's task, which lives through one ([`agent::task::panicked`]).
//!
//! ```text
//!  run ─┬─ tasks ─┬─ the renewer of the lease · the follower of the lease
//!       │         ├─ the gRPC server ── calls: a panic is answered INTERNAL
//!       │         ├─ health · liveness · the metrics server · the look at usage · the look at memory
//!       │         ├─ the supervisor of the watchdog · the reaper of orphans · the spawner (a thread)
//!       │         └─ a zygote for each profile
//!       └─ the supervisor ── a task for each agent ── its process, the readers of its output
//!                 └─ broken: a process may be left that nobody looks after ──▶ as a task that failed
//! ```
//!
//! Stopping, in this order under the deadlines of the settings: health says NOT_SERVING and no agent is taken; engine-svc
//! moves the agents to other hosts; those that are left are ended and wait, PENDING; calls in flight are answered; the
//! host leaves the registry. A second request to stop skips the moving, and so does a task that fails: a host that has lost a part of
//! itself must not go on for as long as agents take to move. It then exits with status 1 and the failure as its last word.

pub mod agent;
pub mod ambient;
pub mod cgroups;
pub mod confinement;
pub mod error;
#[cfg(test)]
mod fakes;
mod former;
pub mod gpus;
pub mod grpc;
pub mod guards;
pub mod health;
pub mod host_lock;
pub mod lease;
pub mod limits;
pub mod memory_watch;
pub mod metrics;
pub mod output;
pub mod process;
pub mod profiles;
pub mod runtime;
pub mod secrecy;
pub mod settings;
pub mod starts;
pub mod supervisor;
pub mod watchdog;
pub mod zygote;

pub use settings::Settings;

use crate::{
    agent::{Deaths, HostContext},
    ambient::Ambient,
    cgroups::Cgroups,
    confinement::{Interpreter, Policy},
    host_lock::HostLock,
    lease::{Lease, LeaseHandle, LeaseRenewer},
    limits::Inherited,
    process::{
        Life, Orphans, Spawner,
        memory::{MemoryKills, Pressure},
    },
    profiles::Profile,
    runtime::{PythonRuntime, Runtimes, profile_environment},
    supervisor::{HostSettings, Supervisor},
    watchdog::Watchdog,
    zygote::{ZygoteSpec, ZygoteTask},
};
use anyhow::{Context as _, bail};
use futures_util::future::{BoxFuture, FutureExt as _};
use rustic_proto::{
    agent_host::v1::agent_host_service_server::{AgentHostServiceServer, SERVICE_NAME as SERVICE},
    profile::ProfileName,
    reflection,
};
use rustic_registry::{
    Announce, HostId, HostLife, HostState, Incarnation, RedisRegistry, Registry, RegistryError, Resources,
};
use rustic_telemetry::{grpc::incoming, signals::StopRequests, tasks::Tasks};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};
use tokio::{
    net::TcpListener,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Time that calls in flight get after the last agent ended.
const LAST_CALLS: Duration = Duration::from_secs(2);

/// Time that tasks get for their last steps, beyond that for a connection to the registry and its answer: the host leaves it.
const LAST_STEPS: Duration = Duration::from_secs(2);

/// Room for what engine-svc adds to a request that was just within its own limit.
const HEADROOM: usize = 64 << 10;

/// Runs the host until it is asked to stop. Errors: settings that cannot work, or another process took this host's name.
/// Boxed: so it is compiled with this library, and not once more with the program.
pub fn run(settings: Settings, requests: StopRequests) -> BoxFuture<'static, anyhow::Result<()>> {
    serve(settings, requests).boxed()
}

async fn serve(settings: Settings, requests: StopRequests) -> anyhow::Result<()> {
    process::keep_from_children().context("cannot look at the descriptors that this host was started with")?;
    let limits = limits::raise();
    // Looked for before this process is put into a group of its own.
    let memory = Memory { pressure: settings.pressure()?, kills: Arc::new(MemoryKills::watch()) };
    let cgroups = Cgroups::set_up(settings.agent_cgroups)?;
    let registry = RedisRegistry::new(&settings.redis()).context("Redis")?;
    registry.tell_missing_rights().await;
    let registry: Arc<dyn Registry> = Arc::new(registry);
    // One that cannot be reached yet is waited for; one of another form never becomes right by itself.
    if let Err(error @ RegistryError::Form(_)) = registry.hosts().await {
        return Err(error).context("--redis-url");
    }
    let listener = TcpListener::bind(settings.listen).await.context("--listen")?;
    let bound = listener.local_addr()?;
    let tasks = Tasks::new();
    let _end_tasks = tasks.ending().drop_guard();

    let (host, incarnation) = (settings.host()?, settings.incarnation()?);
    // Zygotes warm up while the agents of a former life end.
    let life = Life::of(&incarnation);
    let processes = Processes::start(&settings, &host, life, limits, &tasks)?;
    let host_lock = HostLock::take(&settings.lock_file(&host)?, &incarnation).await?;
    former::clear_up(host_lock.former.as_ref(), settings.workdirs_of_all_lives(&host)?).await;
    cgroups.iter().for_each(Cgroups::forget_former);
    let capacity = settings.capacity()?;
    let has_gpus = capacity.devices().next().is_some();
    let (renewer, lease) = lease(&settings, bound, capacity, &incarnation, &host_lock, &registry)?;
    let made = Made { host_lock, processes, has_gpus, memory, cgroups };
    let supervisor = supervisor(&settings, incarnation, registry, &lease, made, &tasks)?;
    tasks.spawn_until("the renewer of the lease", tasks.ending(), keep(renewer, lease.clone(), tasks.ending()));
    tasks.spawn("the follower of the lease", supervisor.clone().follow_lease());
    tasks.spawn_until("the supervisor", tasks.ending(), broken(supervisor.clone(), tasks.ending()));
    if let Some(listen) = settings.telemetry.metrics_listen {
        let refresh = metrics::refresh(supervisor.clone());
        rustic_telemetry::metrics::serve(listen, metrics::ALL, refresh, &tasks).await?;
        tasks.spawn("the look at usage", metrics::watch_usage(supervisor.clone(), settings.usage_every));
    }
    info!(address = %bound, host = %supervisor.host(), "serving");

    let (reporter, health) = tonic_health::server::health_reporter();
    let stopping = CancellationToken::new();
    tasks.spawn("liveness", health::follow_tasks(supervisor.clone(), tasks.clone(), reporter.clone()));
    tasks.spawn_until("health", stopping.clone(), health::follow(lease.clone(), reporter, stopping.clone()));
    let service = AgentHostServiceServer::new(grpc::Service::new(supervisor.clone()))
        .max_decoding_message_size(settings.server.max_message_size + HEADROOM)
        .max_encoding_message_size(usize::MAX);
    let closed = CancellationToken::new();
    let server = settings
        .server
        .server(HEADROOM, reflection::methods(&[SERVICE]))
        .add_service(health)
        .add_service(reflection::v1(&[SERVICE])?)
        .add_service(reflection::v1alpha(&[SERVICE])?)
        .add_service(service)
        .serve_with_incoming_shutdown(incoming(listener), closed.clone().cancelled_owned());
    let server = tasks.spawn_until("the gRPC server", closed.clone(), server);

    let end = tokio::select! {
        () = requests.stop.cancelled() => End::Asked,
        () = superseded(lease) => End::Superseded,
        _failure = tasks.failed() => End::Failed,
    };
    stopping.cancel();
    if end == End::Asked {
        drain(&supervisor, &requests.hurry, &tasks, settings.drain_timeout).await;
    }
    supervisor.end(settings.stop_timeout).await;
    closed.cancel();
    if timeout(LAST_CALLS, server).await.is_err() {
        info!("streams that are still open, such as health watches, are cut off");
    }
    // An error is what its next life, or a person, has to know first, whatever else has happened.
    tasks.end(settings.redis().timeout * 2 + LAST_STEPS).await?;
    if end == End::Superseded {
        bail!("another process announced itself as this host; give every host a name of its own");
    }
    Ok(())
}

/// Why the host ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Somebody asked.
    Asked,
    /// Another process has its name.
    Superseded,
    /// One of its tasks has failed.
    Failed,
}

/// Keeps the lease. A host that is superseded has none to keep any more: it ends for that reason, and not for the renewer's end.
async fn keep(renewer: LeaseRenewer, lease: LeaseHandle, ending: CancellationToken) {
    renewer.run(ending.clone()).await;
    if lease.current().state == Lease::Superseded {
        ending.cancelled().await;
    }
}

/// Fails when nobody looks after an agent any more; else it ends with the host.
async fn broken(supervisor: Arc<Supervisor>, ending: CancellationToken) -> anyhow::Result<()> {
    match ending.run_until_cancelled_owned(supervisor.broken()).await {
        Some(why) => bail!(why),
        None => Ok(()),
    }
}

/// Gives engine-svc time to move the agents elsewhere.
async fn drain(supervisor: &Supervisor, hurry: &CancellationToken, tasks: &Tasks, longest: Duration) {
    info!(agents = supervisor.count(), "draining: no agent is taken any more, and those here move to other hosts");
    supervisor.close().await;
    // Cancel-safe: to wait for agents to go changes nothing.
    tokio::select! {
        () = supervisor.emptied() => {}
        () = hurry.cancelled() => warn!("asked to stop again: what is left is ended now"),
        () = sleep(longest) => warn!("--drain-timeout is over: what is left is ended now"),
        _failure = tasks.failed() => {}
    }
}

fn lease(
    settings: &Settings,
    bound: SocketAddr,
    capacity: Resources,
    incarnation: &Incarnation,
    host_lock: &HostLock,
    registry: &Arc<dyn Registry>,
) -> anyhow::Result<(LeaseRenewer, LeaseHandle)> {
    let host = settings.host()?;
    let times = settings.lease_times()?;
    let announce = Announce {
        address: settings.advertised(bound, &host),
        dns_name: settings.dns_name.clone(),
        host,
        incarnation: incarnation.clone(),
        capacity,
        labels: settings.labels(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        state: HostState::Ready,
        cordoned: false,
        ttl: times.ttl,
        lasts: times.ttl + settings.lease_grace,
        highest_epoch: host_lock.highest_epoch,
        highest_life: HostLife::default(),
        succeeds: host_lock.former.clone(),
        store_life: None,
        reported: None,
    };
    let keep = host_lock.keeps_epochs().context("cannot copy the descriptor of the lock file")?;
    Ok(LeaseRenewer::new(announce, times, registry.clone(), Ambient::MACHINE, keep))
}

/// What agents are made with. None is made before this host's name is its own, and its lease held.
struct Processes {
    orphans: Arc<Orphans>,
    spawner: Spawner,
    python: BTreeMap<ProfileName, PythonRuntime>,
}

impl Processes {
    fn start(
        settings: &Settings,
        host: &HostId,
        life: Life,
        limits: Inherited,
        tasks: &Tasks,
    ) -> anyhow::Result<Self> {
        let orphans = Orphans::new(life);
        orphans.start(tasks).context("cannot become the subreaper of agents")?;
        let spawner = Spawner::start(orphans.clone(), settings.agent_nice, limits, tasks)
            .context("cannot start the spawner thread")?;
        let directories = settings.workdirs_root(host, life)?;
        let python = python_runtimes(settings, host, &directories, &spawner, &orphans, tasks)?;
        Ok(Self { orphans, spawner, python })
    }
}

/// What a host is made of beside its lease.
struct Made {
    host_lock: HostLock,
    processes: Processes,
    has_gpus: bool,
    memory: Memory,
    cgroups: Option<Cgroups>,
}

/// The memory that this host shares with its agents.
struct Memory {
    /// How much is left of it, where it has a limit.
    pressure: Option<Pressure>,
    /// Who was killed for lack of it.
    kills: Arc<MemoryKills>,
}

fn supervisor(
    settings: &Settings,
    incarnation: Incarnation,
    registry: Arc<dyn Registry>,
    lease: &LeaseHandle,
    made: Made,
    tasks: &Tasks,
) -> anyhow::Result<Arc<Supervisor>> {
    let host = settings.host()?;
    let Made { host_lock, processes: Processes { orphans, spawner, python }, has_gpus, memory, cgroups } = made;
    let life = Life::of(&incarnation);
    let watchdog = Watchdog::start(spawner.clone(), life, host_lock.into(), tasks);
    let runtimes = Runtimes {
        python,
        spawner,
        orphans,
        watchdog,
        workdirs: settings.workdirs(&host, life)?,
        engine_address: settings.engine_address.clone(),
        has_gpus,
        host: host.clone(),
        output_limit: settings.output_limit(),
        agent_memory: settings.agent_memory,
        agent_descriptors: settings.agent_descriptors,
        agent_processes: settings.agent_processes,
        cgroups,
        confinement: confinement(settings),
        memory_kills: memory.kills.clone(),
        runs: AtomicU64::new(0),
    };
    let max_agents = usize::try_from(settings.max_agents)?;
    let context = HostContext {
        host,
        incarnation,
        registry,
        runtime: Arc::new(runtimes),
        starts: settings.starts(),
        deaths: Deaths::new(settings.max_deliveries),
        lease: lease.clone(),
        ambient: Ambient::MACHINE,
    };
    let host = HostSettings {
        max_agents,
        start_timeout: settings.start_timeout,
        launch_patience: settings.launch_patience,
        stop_timeout: settings.stop_timeout,
        drain_timeout: settings.drain_timeout,
    };
    let supervisor = Supervisor::new(host, context);
    if let Some(limit) = settings.agent_scratch {
        tasks.spawn(
            "the guard of scratch space",
            guards::watch_scratch(supervisor.clone(), limit, settings.usage_every),
        );
    }
    tasks.spawn("the guard of processes", guards::watch_processes(supervisor.clone(), settings.agent_processes));
    if let Some(pressure) = memory.pressure {
        tasks.spawn("the guard of memory", guards::watch_memory(supervisor.clone(), pressure));
    }
    tasks.spawn("the look at memory", memory_watch::watch(supervisor.clone(), memory.kills, settings.usage_every));
    Ok(supervisor)
}

/// What agents may reach; what the kernel lacks for it is logged.
fn confinement(settings: &Settings) -> Policy {
    let policy = settings.confinement();
    let (level, missing) = (policy.level, policy.missing());
    match missing.is_empty() {
        true => info!(%level, landlock = policy.kernel.landlock(), "agents are confined"),
        false => warn!(%level, missing = missing.join("; "), "this kernel cannot confine agents as far as it should"),
    }
    policy
}

/// The Python environments, each with its zygote.
fn python_runtimes(
    settings: &Settings,
    host: &HostId,
    directories: &Path,
    spawner: &Spawner,
    orphans: &Arc<Orphans>,
    tasks: &Tasks,
) -> anyhow::Result<BTreeMap<ProfileName, PythonRuntime>> {
    let policy = settings.confinement();
    let zygote = |name: &ProfileName, profile: &Profile, interpreter: &Arc<Interpreter>| {
        let spec = ZygoteSpec {
            profile: name.to_string(),
            interpreter: interpreter.clone(),
            grant: policy.of_zygotes(&profile.confinement),
            directories: directories.to_owned(),
            spawner: spawner.clone(),
            orphans: orphans.clone(),
        };
        let cache = settings.cache(host, name, &profile.python)?;
        let sharing = settings.sharing(directories.join("trials"));
        anyhow::Ok(ZygoteTask::new(spec, profile.preload.clone(), sharing, cache).start(tasks))
    };
    let runtime = |(name, profile): (ProfileName, Profile)| {
        let environment = profile_environment(Some(&profile));
        let interpreter = Arc::new(Interpreter::new(profile.python.clone(), environment, spawner.clone()));
        let zygote = if settings.no_zygote { None } else { Some(zygote(&name, &profile, &interpreter)?) };
        Ok((name.clone(), PythonRuntime { name, profile, zygote, cold_starts: AtomicU64::new(0), interpreter }))
    };
    settings.profiles()?.into_iter().map(runtime).collect()
}

/// Waits until another process took this host's name. Cancel-safe.
async fn superseded(mut lease: LeaseHandle) {
    while lease.changed().await.state != Lease::Superseded {}
}
