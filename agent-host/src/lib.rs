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
//! Stopping, in this order under the deadlines of the settings: health says NOT_SERVING and no agent is taken; engine-svc
//! moves the agents to other hosts; those that are left are ended and wait, PENDING; calls in flight are answered; the
//! host leaves the registry. A second request to stop skips the moving.

pub mod agent;
pub mod ambient;
pub mod error;
#[cfg(test)]
mod fakes;
mod former;
pub mod grpc;
pub mod health;
pub mod lease;
pub mod limits;
pub mod memory_watch;
pub mod metrics;
pub mod output;
pub mod process;
pub mod profiles;
pub mod runtime;
pub mod settings;
pub mod starts;
pub mod succession;
pub mod supervisor;
pub mod watchdog;
pub mod zygote;

pub use settings::Settings;

use crate::{
    agent::{Deaths, Home},
    ambient::Ambient,
    lease::{Lease, LeaseHandle, LeaseKeeper},
    limits::Inherited,
    process::{Life, Orphans, Spawner, memory::MemoryKills},
    profiles::Profile,
    runtime::{PythonRuntime, Runtimes, profile_environment},
    succession::Succession,
    supervisor::{HostSettings, Supervisor},
    watchdog::Watchdog,
    zygote::{Nursery, ZygoteTask},
};
use anyhow::{Context as _, bail};
use futures_util::future::{BoxFuture, FutureExt as _};
use rustic_proto::{
    agent_host::v1::agent_host_service_server::{AgentHostServiceServer, SERVICE_NAME as SERVICE},
    profile::ProfileName,
    reflection,
};
use rustic_registry::{Announce, Epoch, HostId, Incarnation, RedisRegistry, Registry};
use rustic_telemetry::{grpc::incoming, signals::StopRequests};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};
use tokio::{net::TcpListener, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Time that calls in flight get after the last agent ended.
const LAST_CALLS: Duration = Duration::from_secs(2);

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
    let registry: Arc<dyn Registry> = Arc::new(RedisRegistry::new(&settings.redis()).context("--redis-url")?);
    let listener = TcpListener::bind(settings.listen).await.context("--listen")?;
    let bound = listener.local_addr()?;
    let everything = CancellationToken::new();
    let _end_everything = everything.clone().drop_guard();

    let (host, incarnation) = (settings.host()?, settings.incarnation()?);
    // Zygotes warm up while the agents of a former life end.
    let life = Life::of(&incarnation);
    let processes = Processes::start(&settings, &host, life, limits, &everything)?;
    let succession = Succession::take(&settings.lock_file(&host)?, &incarnation).await?;
    former::clear_up(succession.former.as_ref(), settings.workdirs_of_all_lives(&host)?).await;
    let (keeper, lease) = lease(&settings, bound, &incarnation, succession.former.clone(), &registry)?;
    let supervisor = supervisor(&settings, incarnation, registry, &lease, succession, processes, &everything)?;
    let keeper = tokio::spawn(keeper.run(everything.clone()));
    tokio::spawn(everything.clone().run_until_cancelled_owned(supervisor.clone().follow_lease()));
    if let Some(listen) = settings.telemetry.metrics_listen {
        let refresh = metrics::refresh(supervisor.clone());
        rustic_telemetry::metrics::serve(listen, metrics::ALL, refresh, everything.clone()).await?;
        tokio::spawn(metrics::watch_usage(supervisor.clone(), settings.usage_every, everything.clone()));
    }
    info!(address = %bound, host = %supervisor.host(), "serving");

    let (reporter, health) = tonic_health::server::health_reporter();
    let stopping = CancellationToken::new();
    let liveness = health::follow_supervisor(supervisor.clone(), reporter.clone());
    tokio::spawn(everything.clone().run_until_cancelled_owned(liveness));
    let health_task = tokio::spawn(health::follow(lease.clone(), reporter, stopping.clone()));
    let service = AgentHostServiceServer::new(grpc::Service::new(supervisor.clone()))
        .max_decoding_message_size(settings.server.max_message_size + HEADROOM)
        .max_encoding_message_size(usize::MAX);
    let closed = CancellationToken::new();
    let server = settings
        .server
        .server(HEADROOM)
        .add_service(health)
        .add_service(reflection::v1(&[SERVICE])?)
        .add_service(reflection::v1alpha(&[SERVICE])?)
        .add_service(service)
        .serve_with_incoming_shutdown(incoming(listener), closed.clone().cancelled_owned());
    let server = tokio::spawn(server);

    let superseded = tokio::select! {
        () = requests.stop.cancelled() => false,
        () = superseded(lease) => true,
    };
    stopping.cancel();
    if !superseded {
        drain(&supervisor, &requests.hurry, settings.drain_timeout).await;
    }
    supervisor.end(settings.stop_timeout).await;
    closed.cancel();
    match timeout(LAST_CALLS, server).await {
        Ok(served) => served.context("the server panicked")?.context("the server failed")?,
        Err(_elapsed) => info!("streams that are still open, such as health watches, are cut off"),
    }
    everything.cancel();
    keeper.await.context("the lease keeper panicked")?;
    health_task.await.context("the health task panicked")?;
    if superseded {
        bail!("another process announced itself as this host; give every host a name of its own");
    }
    Ok(())
}

/// Gives engine-svc time to move the agents elsewhere.
async fn drain(supervisor: &Supervisor, hurry: &CancellationToken, longest: Duration) {
    info!(agents = supervisor.count(), "draining: no agent is taken any more, and those here move to other hosts");
    supervisor.close().await;
    match hurry.run_until_cancelled(timeout(longest, supervisor.emptied())).await {
        None => warn!("asked to stop again: what is left is ended now"),
        Some(Err(_elapsed)) => warn!("--drain-timeout is over: what is left is ended now"),
        Some(Ok(())) => {}
    }
}

fn lease(
    settings: &Settings,
    bound: SocketAddr,
    incarnation: &Incarnation,
    succeeds: Option<Incarnation>,
    registry: &Arc<dyn Registry>,
) -> anyhow::Result<(LeaseKeeper, LeaseHandle)> {
    let host = settings.host()?;
    let times = settings.lease_times()?;
    let announce = Announce {
        address: settings.advertised(bound, &host),
        dns_name: settings.dns_name.clone(),
        host,
        incarnation: incarnation.clone(),
        capacity: settings.capacity()?,
        labels: settings.labels(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ttl: times.ttl,
        highest_epoch: Epoch(0),
        succeeds,
        knew: None,
        hold: settings.hold(),
    };
    Ok(LeaseKeeper::new(announce, times, registry.clone(), Ambient::MACHINE))
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
        stop: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let orphans = Orphans::new(life);
        orphans.start(stop.clone()).context("cannot become the subreaper of agents")?;
        let spawner = Spawner::start(orphans.clone(), settings.agent_nice, limits)
            .context("cannot start the spawner thread")?;
        let trials = settings.workdirs_root(host, life)?.join("trials");
        let python = python_runtimes(settings, host, &trials, &spawner, &orphans, stop)?;
        Ok(Self { orphans, spawner, python })
    }
}

fn supervisor(
    settings: &Settings,
    incarnation: Incarnation,
    registry: Arc<dyn Registry>,
    lease: &LeaseHandle,
    succession: Succession,
    processes: Processes,
    stop: &CancellationToken,
) -> anyhow::Result<Arc<Supervisor>> {
    let host = settings.host()?;
    let Processes { orphans, spawner, python } = processes;
    let life = Life::of(&incarnation);
    let watchdog = Watchdog::start(spawner.clone(), life, succession.into(), stop.clone());
    let memory_kills = Arc::new(MemoryKills::watch());
    let runtimes = Runtimes {
        python,
        spawner,
        orphans,
        watchdog,
        workdirs: settings.workdirs(&host, life)?,
        engine_address: settings.engine_address.clone(),
        host: host.clone(),
        output_limit: settings.output_limit(),
        memory_kills: memory_kills.clone(),
        runs: AtomicU64::new(0),
    };
    let max_agents = usize::try_from(settings.max_agents)?;
    let home = Home {
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
        stop_timeout: settings.stop_timeout,
        drain_timeout: settings.drain_timeout,
        hold: settings.hold(),
    };
    let supervisor = Supervisor::new(host, home);
    let looks = memory_watch::watch(supervisor.clone(), memory_kills, settings.usage_every);
    tokio::spawn(stop.clone().run_until_cancelled_owned(looks));
    Ok(supervisor)
}

/// The Python environments, each with its zygote.
fn python_runtimes(
    settings: &Settings,
    host: &HostId,
    trials: &Path,
    spawner: &Spawner,
    orphans: &Arc<Orphans>,
    stop: &CancellationToken,
) -> anyhow::Result<BTreeMap<ProfileName, PythonRuntime>> {
    let zygote = |name: &ProfileName, profile: &Profile| {
        let environment = profile_environment(Some(profile));
        let (spawner, orphans) = (spawner.clone(), orphans.clone());
        let nursery =
            Nursery { profile: name.to_string(), python: profile.python.clone(), environment, spawner, orphans };
        let notes = settings.notes(host, name, &profile.python)?;
        let sharing = settings.sharing(trials.to_owned());
        anyhow::Ok(ZygoteTask::new(nursery, profile.preload.clone(), sharing, notes).start(stop.clone()))
    };
    let runtime = |(name, profile): (ProfileName, Profile)| {
        let zygote = if settings.no_zygote { None } else { Some(zygote(&name, &profile)?) };
        Ok((name.clone(), PythonRuntime { name, profile, zygote, cold_starts: AtomicU64::new(0) }))
    };
    settings.profiles()?.into_iter().map(runtime).collect()
}

/// Waits until another process took this host's name. Cancel-safe.
async fn superseded(mut lease: LeaseHandle) {
    while lease.changed().await.state != Lease::Superseded {}
}
