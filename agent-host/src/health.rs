//! gRPC health, truthful: SERVING exactly while this host holds its lease, reaches the registry and is not stopping.
//!
//! For Kubernetes there are two more names. `readiness`: holds its lease and is not stopping. `liveness`: the supervisor
//! answers, and every loop of this program comes round ([`rustic_telemetry::pulse`]), whatever the registry does; a host that is ended
//! over it takes all its agents with it.

use crate::{
    grpc::Service,
    lease::{Lease, LeaseHandle},
    supervisor::Supervisor,
};
use rustic_proto::agent_host::v1::agent_host_service_server::AgentHostServiceServer;
use rustic_telemetry::{
    pulse::{self, Pulse},
    tasks::Tasks,
};
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

/// The status under the names of the service, and the one of readiness.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Statuses {
    serves: ServingStatus,
    ready: ServingStatus,
}

const STOPPING: Statuses = Statuses { serves: ServingStatus::NotServing, ready: ServingStatus::NotServing };

/// Follows the lease until `stopping`, then says NOT_SERVING for good.
pub async fn follow(mut lease: LeaseHandle, reporter: HealthReporter, stopping: CancellationToken) {
    let mut shown = None;
    let pulse = Pulse::of("health", pulse::TURN);
    loop {
        let held = lease.current().state == Lease::Held;
        let now = Statuses { serves: status(held && lease.is_reachable()), ready: status(held) };
        if shown != Some(now) {
            report(&reporter, now).await;
            shown = Some(now);
        }
        // Cancel-safe: watch channels lose nothing.
        if pulse.waits(stopping.run_until_cancelled(lease.any_change())).await.is_none() {
            return report(&reporter, STOPPING).await;
        }
    }
}

/// Asks whether the supervisor answers and all loops come round, until cancelled.
pub async fn follow_tasks(supervisor: Arc<Supervisor>, tasks: Tasks, reporter: HealthReporter) {
    loop {
        let asked = supervisor.clone();
        // On a thread of its own: a supervisor that holds its lock for ever must not hold up this task too.
        let answer = timeout(ANSWERS, spawn_blocking(move || asked.count())).await;
        let answers = matches!(answer, Ok(Ok(_)));
        if !answers {
            error!("the supervisor does not answer");
        }
        let late = tasks.late();
        late.iter().for_each(|late| error!(%late, "a loop of this program does not come round any more"));
        let lives = answers && late.is_empty();
        reporter.set_service_status("liveness", status(lives)).await;
        sleep(ASK_EVERY).await;
    }
}

fn status(serves: bool) -> ServingStatus {
    if serves { ServingStatus::Serving } else { ServingStatus::NotServing }
}

async fn report(reporter: &HealthReporter, now: Statuses) {
    info!(status = %now.serves, readiness = %now.ready, "health");
    reporter.set_service_status("", now.serves).await;
    reporter.set_service_status("readiness", now.ready).await;
    match now.serves {
        ServingStatus::Serving => reporter.set_serving::<AgentHostServiceServer<Service>>().await,
        ServingStatus::NotServing | ServingStatus::Unknown => {
            reporter.set_not_serving::<AgentHostServiceServer<Service>>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes::FakeHost;
    use std::future::pending;
    use tonic_health::{
        pb::{HealthCheckRequest, health_check_response::ServingStatus as Status, health_server::Health as _},
        server::HealthService,
    };

    #[tokio::test(start_paused = true)]
    async fn liveness_ends_when_a_loop_does_not_come_round() {
        let host = FakeHost::start().await;
        let (reporter, _server) = tonic_health::server::health_reporter();
        let health = HealthService::from_health_reporter(reporter.clone());
        let liveness = async || {
            let request = HealthCheckRequest { service: "liveness".to_owned() };
            health.check(tonic::Request::new(request)).await.map(|answer| answer.into_inner().status())
        };
        let tasks = Tasks::new();
        tasks.spawn("liveness", follow_tasks(host.supervisor(), tasks.clone(), reporter));
        tasks.spawn("hangs", async {
            let _pulse = Pulse::of("hangs", pulse::TURN);
            pending().await
        });
        sleep(pulse::TURN).await;
        assert_eq!(liveness().await.ok(), Some(Status::Serving));
        sleep(ASK_EVERY * 2).await;
        assert_eq!(liveness().await.ok(), Some(Status::NotServing));
    }
}
