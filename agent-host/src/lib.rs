//! agent-host: runs agents as operating system processes, one each, under a lease in the registry.
//!
//! ```text
//!  grpc ─▶ supervisor ─▶ agent::task ─▶ runtime ─▶ process
//!             │              │  ▲           └────▶ output (log lines)
//!             │              ▼  │
//!             │          agent::machine (pure)
//!             └─▶ lease ◀── health
//! ```
//!
//! Stopping, in this order under the deadlines of the settings: health says NOT_SERVING and no agent is taken; agents
//! are ended and their records made FAILED; calls in flight are answered; the host leaves the registry.

pub mod agent;
pub mod error;
pub mod grpc;
pub mod health;
pub mod lease;
pub mod metrics;
pub mod output;
pub mod process;
pub mod profiles;
pub mod runtime;
pub mod settings;
pub mod starts;
pub mod supervisor;
pub mod zygote;

pub use settings::Settings;

use crate::{
    lease::{Lease, LeaseHandle, LeaseKeeper},
    process::{Orphans, Spawner},
    runtime::{PythonRuntime, Runtimes, profile_environment},
    supervisor::{HostSettings, Supervisor},
    zygote::{Nursery, ZygoteTask},
};
use anyhow::{Context as _, bail};
use rustic_proto::{
    agent_host::v1::agent_host_service_server::{AgentHostServiceServer, SERVICE_NAME as SERVICE},
    reflection,
};
use rustic_registry::{Announce, Epoch, Incarnation, RedisRegistry, Registry};
use rustic_telemetry::grpc::incoming;
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};
use tokio::{net::TcpListener, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::info;

/// Time that calls in flight get after the last agent ended.
const LAST_CALLS: Duration = Duration::from_secs(2);

/// Room for what engine-svc adds to a request that was just within its own limit.
const HEADROOM: usize = 64 << 10;

/// Runs the host until `stop`. Errors: settings that cannot work, or another process took this host's name.
pub async fn run(settings: Settings, stop: CancellationToken) -> anyhow::Result<()> {
    let registry: Arc<dyn Registry> = Arc::new(RedisRegistry::new(&settings.redis()).context("--redis-url")?);
    let listener = TcpListener::bind(settings.listen).await.context("--listen")?;
    let bound = listener.local_addr()?;
    let everything = CancellationToken::new();
    let _end_everything = everything.clone().drop_guard();

    let incarnation = settings.incarnation()?;
    let (keeper, lease) = lease(&settings, bound, &incarnation, &registry)?;
    let supervisor = supervisor(&settings, incarnation, registry, &lease, &everything)?;
    let keeper = tokio::spawn(keeper.run(everything.clone()));
    if let Some(listen) = settings.telemetry.metrics_listen {
        let refresh = metrics::refresh(supervisor.clone());
        rustic_telemetry::metrics::serve(listen, metrics::ALL, refresh, everything.clone()).await?;
        tokio::spawn(metrics::watch_usage(supervisor.clone(), settings.usage_every, everything.clone()));
    }
    info!(address = %bound, host = %supervisor.host(), "serving");

    let (reporter, health) = tonic_health::server::health_reporter();
    let stopping = CancellationToken::new();
    let health_task = tokio::spawn(health::follow(lease.clone(), reporter, stopping.clone()));
    let service = AgentHostServiceServer::new(grpc::Service::new(supervisor.clone()))
        .max_decoding_message_size(settings.server.max_message_size + HEADROOM)
        .max_encoding_message_size(usize::MAX);
    let closed = CancellationToken::new();
    let server = settings
        .server
        .server(HEADROOM)
        .add_service(health)
        .add_service(reflection::v1(SERVICE)?)
        .add_service(reflection::v1alpha(SERVICE)?)
        .add_service(service)
        .serve_with_incoming_shutdown(incoming(listener), closed.clone().cancelled_owned());
    let server = tokio::spawn(server);

    let superseded = tokio::select! {
        () = stop.cancelled() => false,
        () = superseded(lease) => true,
    };
    info!("stopping: agents are ended");
    stopping.cancel();
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

fn lease(
    settings: &Settings,
    bound: SocketAddr,
    incarnation: &Incarnation,
    registry: &Arc<dyn Registry>,
) -> anyhow::Result<(LeaseKeeper, LeaseHandle)> {
    let host = settings.host()?;
    let times = settings.lease_times()?;
    let announce = Announce {
        address: settings.advertised(bound, &host),
        host,
        incarnation: incarnation.clone(),
        capacity: settings.capacity()?,
        labels: settings.labels(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ttl: times.ttl,
        highest_epoch: Epoch(0),
    };
    Ok(LeaseKeeper::new(announce, times, registry.clone()))
}

fn supervisor(
    settings: &Settings,
    incarnation: Incarnation,
    registry: Arc<dyn Registry>,
    lease: &LeaseHandle,
    stop: &CancellationToken,
) -> anyhow::Result<Arc<Supervisor>> {
    let host = settings.host()?;
    let orphans = Arc::new(Orphans::default());
    orphans.start(stop.clone()).context("cannot become the subreaper of agents")?;
    let spawner = Spawner::start(orphans.clone(), settings.agent_nice).context("cannot start the spawner thread")?;
    let mut python = BTreeMap::new();
    for (name, profile) in settings.profiles()? {
        let zygote = (!settings.no_zygote).then(|| {
            let environment = profile_environment(Some(&profile));
            let (spawner, orphans) = (spawner.clone(), orphans.clone());
            let nursery =
                Nursery { profile: name.to_string(), python: profile.python.clone(), environment, spawner, orphans };
            ZygoteTask::new(nursery, profile.preload.clone(), settings.learning()).start(stop.clone())
        });
        python.insert(name.clone(), PythonRuntime { name, profile, zygote, cold_starts: AtomicU64::new(0) });
    }
    let workdirs = settings.workdirs(&host, &incarnation)?;
    let runtimes = Runtimes {
        spawner,
        orphans,
        workdirs,
        python,
        engine_address: settings.engine_address.clone(),
        host: host.to_string(),
        output_limit: settings.output_limit(),
        runs: AtomicU64::new(0),
    };
    let max_agents = usize::try_from(settings.max_agents)?;
    let host = HostSettings { host, incarnation, max_agents, start_timeout: settings.start_timeout };
    Ok(Supervisor::new(host, registry, Arc::new(runtimes), settings.starts(), lease.clone()))
}

/// Waits until another process took this host's name. Cancel-safe.
async fn superseded(mut lease: LeaseHandle) {
    while lease.changed().await.state != Lease::Superseded {}
}
