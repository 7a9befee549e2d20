//! gRPC health, truthful: SERVING exactly while the registry answers and this engine is not stopping.

use crate::grpc::Service;
use rustic_proto::engine::v1::engine_service_server::EngineServiceServer;
use rustic_registry::Registry;
use std::{sync::Arc, time::Duration};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tonic_health::{ServingStatus, server::HealthReporter};
use tracing::{info, warn};

/// Time between looks at the registry.
const EVERY: Duration = Duration::from_secs(1);

/// Follows the registry until `stopping`, then says NOT_SERVING for good.
pub async fn follow(registry: Arc<dyn Registry>, reporter: HealthReporter, stopping: CancellationToken) {
    let mut told = None;
    report(&reporter, ServingStatus::NotServing).await;
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Cancel-safe: a look that is cut off has changed nothing.
    while stopping.run_until_cancelled(ticks.tick()).await.is_some() {
        let status = match registry.ping().await {
            Ok(()) => ServingStatus::Serving,
            Err(error) => {
                if told != Some(ServingStatus::NotServing) {
                    warn!(%error, "the registry does not answer; not serving until it does");
                }
                ServingStatus::NotServing
            }
        };
        if told != Some(status) {
            report(&reporter, status).await;
            told = Some(status);
        }
    }
    report(&reporter, ServingStatus::NotServing).await;
}

async fn report(reporter: &HealthReporter, status: ServingStatus) {
    info!(%status, "health");
    reporter.set_service_status("", status).await;
    match status {
        ServingStatus::Serving => reporter.set_serving::<EngineServiceServer<Service>>().await,
        ServingStatus::NotServing | ServingStatus::Unknown => {
            reporter.set_not_serving::<EngineServiceServer<Service>>().await;
        }
    }
}
