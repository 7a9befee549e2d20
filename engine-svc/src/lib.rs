//! engine-svc: the one address callers need. Stateless: what it knows of agents and hosts is in the registry, so any
//! number of replicas behave alike.
//!
//! ```text
//!  grpc ─▶ engine::{create, stop, list} ─▶ registry
//!              │          │
//!              │          └─▶ channels ─▶ agent-hosts
//!              │          ▲
//!              │        keeper ─▶ engine::keep ─▶ takeover (pure)
//!              │           └────▶ engine::remember ─▶ unhosted (pure)
//!   KEDA ─▶ scaler ─▶ scale (pure)
//!              └─▶ fleet (view of the hosts) ─▶ placement (pure)
//! ```
//!
//! Stopping, in this order under `--stop-timeout`: health says NOT_SERVING; no call is taken; calls in flight end.

pub mod backoff;
pub mod channels;
pub mod dev;
pub mod engine;
pub mod error;
pub mod fleet;
pub mod grpc;
pub mod health;
pub mod keeper;
pub mod metrics;
pub mod placement;
pub mod scale;
pub mod scaler;
pub mod settings;
pub mod takeover;
pub mod unhosted;

pub use settings::{Command, DevSettings, Program, Settings};

use crate::{channels::Channels, engine::Engine, fleet::Fleet, keeper::Wake, scaler::Scaler};
use anyhow::Context as _;
use futures_util::future::{BoxFuture, FutureExt as _};
use rustic_proto::{
    engine::v1::engine_service_server::{EngineServiceServer, SERVICE_NAME as SERVICE},
    externalscaler::external_scaler_server::{ExternalScalerServer, SERVICE_NAME as SCALER},
    reflection,
};
use rustic_registry::{RedisRegistry, Registry};
use rustic_telemetry::grpc::incoming;
use std::{sync::Arc, time::Duration};
use tokio::{net::TcpListener, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

/// Time that answers on their way get after the last piece of work ended.
const LAST_CALLS: Duration = Duration::from_secs(2);

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
    let registry: Arc<dyn Registry> = Arc::new(RedisRegistry::new(&settings.redis()).context("--redis-url")?);
    let background = stop.child_token();
    let fleet = Arc::new(Fleet::new(registry.clone(), settings.placement));
    let refresh = tokio::spawn(fleet.clone().keep_fresh(settings.hosts_refresh, background.clone()));
    let (reporter, health) = tonic_health::server::health_reporter();
    let health_task = tokio::spawn(health::follow(registry.clone(), reporter, background.clone()));

    if let Some(listen) = settings.telemetry.metrics_listen {
        let refresh = metrics::refresh(fleet.clone());
        rustic_telemetry::metrics::serve(listen, metrics::ALL, refresh, background.clone()).await?;
    }
    let channels = Channels::new(settings.connect_timeout, settings.server.max_message_size);
    let wake = Wake::default();
    let scaler = ExternalScalerServer::new(Scaler::new(fleet.clone()));
    let engine = Arc::new(Engine::new(registry, fleet, Arc::new(channels), settings.leases()?, wake.clone()));
    let keeper =
        tokio::spawn(keeper::run(engine.clone(), wake, rand::random::<f64>, settings.compact_every()?, background));
    let work = TaskTracker::new();
    let service = grpc::Service::new(engine, work.clone(), settings.server.default_deadline);
    let service = EngineServiceServer::new(service)
        .max_decoding_message_size(settings.server.max_message_size)
        .max_encoding_message_size(usize::MAX);
    info!(address = %listener.local_addr()?, "serving");
    let server = settings
        .server
        .server(0)
        .add_service(health)
        .add_service(reflection::v1(&[SERVICE, SCALER])?)
        .add_service(reflection::v1alpha(&[SERVICE, SCALER])?)
        .add_service(scaler)
        .add_service(service)
        .serve_with_incoming_shutdown(incoming(listener), stop.clone().cancelled_owned());
    let server = tokio::spawn(server);

    stop.cancelled().await;
    info!("stopping: calls in flight end");
    work.close();
    if timeout(settings.stop_timeout, work.wait()).await.is_err() {
        warn!("calls in flight did not end within --stop-timeout and are cut off");
    }
    match timeout(LAST_CALLS, server).await {
        Ok(served) => served.context("the server panicked")?.context("the server failed")?,
        Err(_elapsed) => info!("streams that are still open, such as health watches, are cut off"),
    }
    refresh.await.context("the refresh task panicked")?;
    keeper.await.context("the keeper panicked")?;
    health_task.await.context("the health task panicked")
}
