//! gRPC health, truthful: SERVING exactly while this host holds its lease, reaches the registry and is not stopping.

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
    let mut told = None;
    loop {
        let serves = lease.current().state == Lease::Held && lease.is_reachable();
        let status = if serves { ServingStatus::Serving } else { ServingStatus::NotServing };
        if told != Some(status) {
            report(&reporter, status).await;
            told = Some(status);
        }
        // Cancel-safe: watch channels lose nothing.
        if stopping.run_until_cancelled(lease.any_change()).await.is_none() {
            return report(&reporter, ServingStatus::NotServing).await;
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
