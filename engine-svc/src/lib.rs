//! engine-svc: the one address callers need. Stateless: what it knows of agents and hosts is in the registry, so any
//! number of replicas behave alike.
//!
//! ```text
//!  grpc ─▶ engine::{create, stop, list} ─▶ registry
//!              │          │
//!              │          └─▶ channels ─▶ agent-hosts
//!              │          ▲       └─▶ answer (pure)
//!              │        reconciler ─▶ engine::reconcile
//!              │           └────▶ engine::remember ─▶ unassigned (pure)
//!              │   reader ─▶ changes ─▶ reconciler (rounds), engine::watch, engine::follow
//!   KEDA ─▶ scaler ─▶ scale (pure)
//!              └─▶ fleet (view of the hosts) ─▶ shortage, rustic_core::placement (pure)
//! ```
//!
//! The supervision tree ([`rustic_telemetry::tasks`]): a panic, an error or an end of one of these ends the program, in order. Other
//! replicas go on, and Kubernetes starts this one again.
//!
//! ```text
//!  run ─┬─ tasks ─┬─ the gRPC server ── calls: a panic is answered INTERNAL
//!       │         ├─ the reconciler · the reader of changes · the view of the hosts
//!       │         └─ health · liveness · the metrics server
//!       └─ work: calls that go on when their callers have hung up; a panic is the call's
//! ```
//!
//! Stopping, in this order under `--stop-timeout`: health says NOT_SERVING; no call is taken; calls in flight end.

pub mod answer;
pub mod backoff;
pub mod balance;
pub mod changes;
pub mod channels;
pub mod dev;
pub mod engine;
pub mod error;
pub mod fleet;
pub mod grpc;
pub mod health;
pub mod metrics;
pub mod reader;
pub mod reconciler;
pub mod rounds;
pub mod scale;
pub mod scaler;
pub mod settings;
pub mod shortage;

pub mod unassigned;

#[cfg(test)]
mod fakes;

pub use settings::{Command, DevSettings, Program, Settings};

use crate::{changes::Changes, channels::Channels, engine::Engine, fleet::Fleet, rounds::Wake, scaler::Scaler};
use anyhow::Context as _;
use futures_util::future::{BoxFuture, FutureExt as _};
use rustic_proto::{
    engine::v1::engine_service_server::{EngineServiceServer, SERVICE_NAME as SERVICE},
    externalscaler::external_scaler_server::{ExternalScalerServer, SERVICE_NAME as SCALER},
    reflection,
};
use rustic_registry::{RedisRegistry, Registry, RegistryError};
use rustic_telemetry::{grpc::incoming, tasks::Tasks};
use std::{sync::Arc, time::Duration};
use tokio::{net::TcpListener, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

/// Time that answers on their way get after the last piece of work ended.
const LAST_CALLS: Duration = Duration::from_secs(2);

/// Time that tasks get to end: each is cut off where it waits.
const LAST_STEPS: Duration = Duration::from_secs(2);

/// Runs the service on an address of its settings until `stop`. Boxed: so it is compiled with this library, and not once more
/// with the program.
pub fn run(settings: Settings, stop: CancellationToken) -> BoxFuture<'static, anyhow::Result<()>> {
    let service = async move {
        let listener = TcpListener::bind(settings.listen).await.context("--listen")?;
        serve(settings, listener, stop).await
    };
    service.boxed()
}

/// Runs the service on a socket that is open already.
pub async fn serve(settings: Settings, listener: TcpListener, stop: CancellationToken) -> anyhow::Result<()> {
    let registry = RedisRegistry::new(&settings.redis()).context("Redis")?;
    registry.tell_missing_rights().await;
    let registry: Arc<dyn Registry> = Arc::new(registry);
    // One that cannot be reached yet is waited for; one of another form never becomes right by itself.
    if let Err(error @ RegistryError::Form(_)) = registry.hosts().await {
        return Err(error).context("--redis-url");
    }
    let tasks = Tasks::new();
    let ending = tasks.ending();
    let _end_tasks = ending.clone().drop_guard();
    let (leases, wake, changes, chance) =
        (settings.leases()?, Wake::default(), Arc::new(Changes::default()), rand::random::<f64>);
    let fleet = Arc::new(Fleet::new(registry.clone(), settings.placement, changes.clone()));
    let fresh =
        fleet.clone().keep_fresh(settings.hosts_refresh, leases.slack(), wake.clone(), chance, ending.clone());
    tasks.spawn_until("the view of the hosts", ending.clone(), fresh);
    let reader = reader::run(registry.clone(), fleet.clone(), changes.clone(), chance, ending.clone());
    tasks.spawn_until("the reader of changes", ending.clone(), reader);
    let (reporter, health) = tonic_health::server::health_reporter();
    tasks.spawn("liveness", health::follow_tasks(tasks.clone(), reporter.clone()));
    tasks.spawn_until("health", ending.clone(), health::follow(fleet.clone(), reporter, ending.clone()));

    if let Some(listen) = settings.telemetry.metrics_listen {
        let refresh = metrics::refresh(fleet.clone());
        rustic_telemetry::metrics::serve(listen, metrics::ALL, refresh, &tasks).await?;
    }
    let channels = Channels::new(settings.connect_timeout, settings.server.max_message_size);
    let scaler = ExternalScalerServer::new(Scaler::new(fleet.clone()));
    let engine = Engine::new(registry, fleet, Arc::new(channels), leases, changes.clone(), wake.clone());
    let engine = Arc::new(match settings.allow_shared_guild_ids {
        true => engine.allowing_shared_guild_ids(),
        false => engine,
    });
    let reconciler =
        reconciler::run(engine.clone(), changes, wake, chance, settings.optional_moves()?, ending.clone());
    tasks.spawn_until("the reconciler", ending.clone(), reconciler);
    let work = TaskTracker::new();
    let service = grpc::Service::new(engine, work.clone(), settings.server.default_deadline, ending.clone());
    let service = EngineServiceServer::new(service)
        .max_decoding_message_size(settings.server.max_message_size)
        .max_encoding_message_size(usize::MAX);
    info!(address = %listener.local_addr()?, "serving");
    let server = settings
        .server
        .server(0, reflection::methods(&[SERVICE, SCALER]))
        .add_service(health)
        .add_service(reflection::v1(&[SERVICE, SCALER])?)
        .add_service(reflection::v1alpha(&[SERVICE, SCALER])?)
        .add_service(scaler)
        .add_service(service)
        .serve_with_incoming_shutdown(incoming(listener), ending.clone().cancelled_owned());
    let server = tasks.spawn_until("the gRPC server", ending.clone(), server);

    tokio::select! {
        () = stop.cancelled() => info!("stopping: calls in flight end"),
        _failure = tasks.failed() => {}
    }
    ending.cancel();
    work.close();
    if timeout(settings.stop_timeout, work.wait()).await.is_err() {
        warn!("calls in flight did not end within --stop-timeout and are cut off");
    }
    if timeout(LAST_CALLS, server).await.is_err() {
        info!("streams that are still open, such as health watches, are cut off");
    }
    Ok(tasks.end(LAST_STEPS).await?)
}
