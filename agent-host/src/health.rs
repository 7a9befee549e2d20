//! gRPC health, truthful: SERVING exactly while this host may start agents.

use crate::{
    grpc::Service,
    lease::{Lease, LeaseHandle},
};
use rustic_proto::agent_host::v1::agent_host_service_server::AgentHostServiceServer;
use tokio_util::sync::CancellationToken;
use tonic_health::{ServingStatus, server::HealthReporter};
use tracing::info;

/// Follows the lease until `stopping`, then says NOT_SERVING for good.
pub async fn follow(mut lease: LeaseHandle, reporter: HealthReporter, stopping: CancellationToken) {
    let mut now = lease.current();
    loop {
        let held = now == Lease::Held;
        report(&reporter, if held { ServingStatus::Serving } else { ServingStatus::NotServing }).await;
        // Cancel-safe: a watch channel loses nothing.
        match stopping.run_until_cancelled(lease.changed()).await {
            Some(next) => now = next,
            None => return report(&reporter, ServingStatus::NotServing).await,
        }
    }
}

async fn report(reporter: &HealthReporter, status: ServingStatus) {
    info!(%status, "health");
    reporter.set_service_status("", status).await;
    match status {
        ServingStatus::Serving => reporter.set_serving::<AgentHostServiceServer<Service>>().await,
        ServingStatus::NotServing | ServingStatus::Unknown => {
            reporter.set_not_serving::<AgentHostServiceServer<Service>>().await;
        }
    }
}
