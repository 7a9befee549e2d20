//! gRPC health, truthful: SERVING exactly while the registry answers and this engine is not stopping; under the name
//! `readiness` too. `liveness` is SERVING as long as every loop of this program comes round ([`rustic_telemetry::pulse`]), whatever the registry does.

use crate::{fleet::Fleet, grpc::Service};
use rustic_proto::engine::v1::engine_service_server::EngineServiceServer;
use rustic_telemetry::{
    pulse::{self, Pulse},
    tasks::Tasks,
};
use std::{sync::Arc, time::Duration};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic_health::{ServingStatus, server::HealthReporter};
use tracing::{error, info, warn};

/// Time between looks at the loops.
const EVERY: Duration = Duration::from_secs(1);

/// Follows what the view of the hosts has to say of the registry until `stopping`, then says NOT_SERVING for good.
pub async fn follow(fleet: Arc<Fleet>, reporter: HealthReporter, stopping: CancellationToken) {
    report(&reporter, ServingStatus::NotServing).await;
    let mut reach = fleet.reach();
    // What was sent before this receiver was there counts as well.
    reach.mark_changed();
    let pulse = Pulse::of("health", pulse::TURN);
    // Cancel-safe: if a change is not reported here, the report after the loop overtakes it. The sender lives as long as the view.
    while let Some(Ok(())) = pulse.waits(stopping.run_until_cancelled(reach.changed())).await {
        let status = match &*reach.borrow_and_update() {
            Some(Ok(())) => ServingStatus::Serving,
            Some(Err(error)) => {
                warn!(error, "the registry does not answer; not serving until it does");
                ServingStatus::NotServing
            }
            None => ServingStatus::NotServing,
        };
        report(&reporter, status).await;
    }
    report(&reporter, ServingStatus::NotServing).await;
}

/// Asks whether all loops come round, until cancelled.
pub async fn follow_tasks(tasks: Tasks, reporter: HealthReporter) {
    loop {
        let late = tasks.late();
        late.iter().for_each(|late| error!(%late, "a loop of this program does not come round any more"));
        let status = if late.is_empty() { ServingStatus::Serving } else { ServingStatus::NotServing };
        reporter.set_service_status("liveness", status).await;
        sleep(EVERY).await;
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::changes::Changes;
    use rustic_core::placement::Policy;
    use rustic_registry::{MemoryRegistry, UnixMillis};
    use std::future::pending;
    use tonic_health::{
        pb::{HealthCheckRequest, health_check_response::ServingStatus as Status, health_server::Health as _},
        server::HealthService,
    };

    #[tokio::test(start_paused = true)]
    async fn a_registry_that_answered_before_anybody_asked_for_health_counts() {
        let changes = Arc::new(Changes::default());
        let fleet =
            Arc::new(Fleet::new(Arc::new(MemoryRegistry::new(|| UnixMillis(1_000))), Policy::LeastLoaded, changes));
        fleet.refresh().await.expect("in memory");
        let (reporter, _server) = tonic_health::server::health_reporter();
        let health = HealthService::from_health_reporter(reporter.clone());
        let followed = tokio::spawn(follow(fleet, reporter, CancellationToken::new()));
        // As far as it comes without any more news.
        sleep(EVERY).await;
        let request = HealthCheckRequest { service: String::new() };
        let answer = health.check(tonic::Request::new(request)).await.map(|answer| answer.into_inner().status());
        assert_eq!(answer.ok(), Some(Status::Serving));
        followed.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn liveness_ends_when_a_loop_does_not_come_round() {
        let (reporter, _server) = tonic_health::server::health_reporter();
        let health = HealthService::from_health_reporter(reporter.clone());
        let liveness = async || {
            let request = HealthCheckRequest { service: "liveness".to_owned() };
            health.check(tonic::Request::new(request)).await.map(|answer| answer.into_inner().status())
        };
        let tasks = Tasks::new();
        tasks.spawn("liveness", follow_tasks(tasks.clone(), reporter));
        tasks.spawn("hangs", async {
            let _pulse = Pulse::of("hangs", pulse::TURN);
            pending().await
        });
        sleep(pulse::TURN).await;
        assert_eq!(liveness().await.ok(), Some(Status::Serving));
        sleep(EVERY * 2).await;
        assert_eq!(liveness().await.ok(), Some(Status::NotServing));
    }
}
