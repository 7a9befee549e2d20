//! gRPC health, truthful: SERVING exactly while the registry answers and this engine is not stopping; under the name
//! `readiness` too. `liveness` is SERVING as long as this program answers at all.

use crate::{backoff, grpc::Service};
use rustic_proto::engine::v1::engine_service_server::EngineServiceServer;
use rustic_registry::Registry;
use std::{sync::Arc, time::Duration};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic_health::{ServingStatus, server::HealthReporter};
use tracing::{info, warn};

/// Time between looks at the registry.
const EVERY: Duration = Duration::from_secs(1);

/// Follows the registry until `stopping`, then says NOT_SERVING for good.
pub async fn follow(registry: Arc<dyn Registry>, reporter: HealthReporter, stopping: CancellationToken) {
    let mut told = None;
    reporter.set_service_status("liveness", ServingStatus::Serving).await;
    report(&reporter, ServingStatus::NotServing).await;
    let mut failures = 0;
    let mut pause = Duration::ZERO;
    // Cancel-safe: a look that is cut off has changed nothing.
    while stopping.run_until_cancelled(sleep(pause)).await.is_some() {
        let status = match registry.ping().await {
            Ok(()) => {
                failures = 0;
                ServingStatus::Serving
            }
            Err(error) => {
                failures += 1;
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
        pause = if failures == 0 { EVERY } else { backoff::delay(failures, rand::random()) };
    }
    report(&reporter, ServingStatus::NotServing).await;
}

async fn report(reporter: &HealthReporter, status: ServingStatus) {
    info!(%status, "health");
    for name in ["", "readiness"] {
        reporter.set_service_status(name, status).await;
    }
    match status {
        ServingStatus::Serving => reporter.set_serving::<EngineServiceServer<Service>>().await,
        ServingStatus::NotServing | ServingStatus::Unknown => {
            reporter.set_not_serving::<EngineServiceServer<Service>>().await;
        }
    }
}
