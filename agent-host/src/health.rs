//! gRPC health, truthful: SERVING exactly while this host holds its lease, reaches the registry and is not stopping.
//!
//! For Kubernetes there are two more names. `readiness`: holds its lease and is not stopping. `liveness`: the supervisor
//! answers, whatever the registry does; a host that is ended over it takes all its agents with it.

use crate::{
    grpc::Service,
    lease::{Lease, LeaseHandle},
    supervisor::Supervisor,
};
use rustic_proto::agent_host::v1::agent_host_service_server::AgentHostServiceServer;
use std::{sync::Arc, time::Duration};
use tokio::{
    task::spawn_blocking,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic_health::{ServingStatus, server::HealthReporter};
use tracing::{error, info};

/// Longest wait for the supervisor.
const ANSWERS: Duration = Duration::from_secs(5);
/// Time between two questions to it.
const ASK_EVERY: Duration = Duration::from_secs(2);

/// What is told under the names of the service, and what as readiness.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Told {
    serves: ServingStatus,
    ready: ServingStatus,
}

const STOPPING: Told = Told { serves: ServingStatus::NotServing, ready: ServingStatus::NotServing };

/// Follows the lease until `stopping`, then says NOT_SERVING for good.
pub async fn follow(mut lease: LeaseHandle, reporter: HealthReporter, stopping: CancellationToken) {
    let mut told = None;
    loop {
        let held = lease.current().state == Lease::Held;
        let now = Told { serves: status(held && lease.is_reachable()), ready: status(held) };
        if told != Some(now) {
            report(&reporter, now).await;
            told = Some(now);
        }
        // Cancel-safe: watch channels lose nothing.
        if stopping.run_until_cancelled(lease.any_change()).await.is_none() {
            return report(&reporter, STOPPING).await;
        }
    }
}

/// Asks the supervisor whether it answers, until cancelled.
pub async fn follow_supervisor(supervisor: Arc<Supervisor>, reporter: HealthReporter) {
    loop {
        let asked = supervisor.clone();
        // On a thread of its own: a supervisor that holds its lock for ever must not hold up this task too.
        let answer = timeout(ANSWERS, spawn_blocking(move || asked.count())).await;
        let lives = matches!(answer, Ok(Ok(_)));
        if !lives {
            error!("the supervisor does not answer");
        }
        reporter.set_service_status("liveness", status(lives)).await;
        sleep(ASK_EVERY).await;
    }
}

fn status(serves: bool) -> ServingStatus {
    if serves { ServingStatus::Serving } else { ServingStatus::NotServing }
}

async fn report(reporter: &HealthReporter, told: Told) {
    info!(status = %told.serves, readiness = %told.ready, "health");
    reporter.set_service_status("", told.serves).await;
    reporter.set_service_status("readiness", told.ready).await;
    match told.serves {
        ServingStatus::Serving => reporter.set_serving::<AgentHostServiceServer<Service>>().await,
        ServingStatus::NotServing | ServingStatus::Unknown => {
            reporter.set_not_serving::<AgentHostServiceServer<Service>>().await;
        }
    }
}
