//! KEDA's external scaler: reads what KEDA asks, answers from the registry what [`scale`](crate::scale) says.

use crate::{
    error::EngineError,
    fleet::Fleet,
    scale::{self, Target},
};
use futures_util::{
    StreamExt as _,
    future::{Ready, ready},
    stream::{self, Chain, Once, Pending},
};
use rustic_proto::{
    externalscaler::{self as pb, external_scaler_server::ExternalScaler},
    violation::Violations,
};
use std::{collections::BTreeMap, sync::Arc};
use tonic::{Request, Response, Status};

/// Name of the metric.
const METRIC: &str = "rustic-ai-slots";

/// The service.
pub struct Scaler {
    fleet: Arc<Fleet>,
}

impl Scaler {
    /// The service over the hosts.
    pub fn new(fleet: Arc<Fleet>) -> Self {
        Self { fleet }
    }

    /// Hosts that are needed. UNAVAILABLE while hosts report what they run to a registry that was lost: KEDA then leaves their number
    /// as it is.
    async fn hosts(&self, target: Target) -> Result<f64, Status> {
        if self.fleet.is_restoring().await.map_err(EngineError::from)? {
            return Err(EngineError::Restoring.into());
        }
        let view = self.fleet.view();
        let waiting = self.fleet.waiting().await.map_err(EngineError::from)?;
        let wanted = scale::wanted(&view, &waiting, target);
        let wanted = scale::outgrown(&view, &waiting).map_or(wanted, |more| wanted.max(more));
        let mut displaced = vec![];
        for host in scale::beyond(&view, wanted) {
            let agents = self.fleet.agents_on(&host).await.map_err(EngineError::from)?;
            displaced.extend(agents.into_iter().map(|agent| agent.demand));
            if !scale::fit_below(&view, &host, &displaced) {
                return Ok(f64::from(host.ordinal()) + 1.0);
            }
        }
        Ok(wanted)
    }
}

fn target(metadata: &BTreeMap<String, String>) -> Result<Target, Status> {
    let mut violations = Violations::default();
    let mut number = |name: &str, least: f64| {
        let text = metadata.get(name)?;
        let number = text.parse().ok().filter(|n: &f64| n.is_finite() && *n >= least);
        if number.is_none() {
            violations.add(&format!("scalerMetadata.{name}"), format!("{text:?} is no number of at least {least}"));
        }
        number
    };
    let target =
        Target { slots_per_host: number("slotsPerHost", 1.0), warm_hosts: number("warmHosts", 0.0).unwrap_or(0.0) };
    violations.into_result(Some(target)).map_err(Into::into)
}

fn of(request: Option<&pb::ScaledObjectRef>) -> Result<Target, Status> {
    target(&request.map(|r| r.scaler_metadata.clone()).unwrap_or_default())
}

/// A stream of one message, as its content never changes. It stays open until KEDA closes it.
fn never_again<T: Send + 'static>(message: T) -> Unending<T> {
    stream::once(ready(Ok(message))).chain(stream::pending())
}

/// What [`never_again`] gives.
type Unending<T> = Chain<Once<Ready<Result<T, Status>>>, Pending<Result<T, Status>>>;

fn whole(number: f64) -> i64 {
    number.ceil() as i64
}

/// Slots that stand for one host in the answer to KEDA. Never what hosts announce: KEDA reads this once, and keeps it.
fn one_host(target: Target) -> f64 {
    target.slots_per_host.unwrap_or(scale::USUAL_SLOTS)
}

fn spec(target: Target) -> pb::GetMetricSpecResponse {
    let (metric_name, one) = (METRIC.to_owned(), one_host(target));
    let spec = pb::MetricSpec { metric_name, target_size: whole(one), target_size_float: one };
    pb::GetMetricSpecResponse { metric_specs: vec![spec] }
}

#[tonic::async_trait]
impl ExternalScaler for Scaler {
    async fn is_active(
        &self,
        request: Request<pb::ScaledObjectRef>,
    ) -> Result<Response<pb::IsActiveResponse>, Status> {
        of(Some(request.get_ref()))?;
        Ok(Response::new(pb::IsActiveResponse { result: true }))
    }

    type StreamIsActiveStream = Unending<pb::IsActiveResponse>;

    async fn stream_is_active(
        &self,
        request: Request<pb::ScaledObjectRef>,
    ) -> Result<Response<Self::StreamIsActiveStream>, Status> {
        of(Some(request.get_ref()))?;
        Ok(Response::new(never_again(pb::IsActiveResponse { result: true })))
    }

    async fn get_metric_spec(
        &self,
        request: Request<pb::ScaledObjectRef>,
    ) -> Result<Response<pb::GetMetricSpecResponse>, Status> {
        // Without the registry: KEDA makes an autoscaler of nothing while this fails, and never mends it.
        Ok(Response::new(spec(of(Some(request.get_ref()))?)))
    }

    async fn get_metrics(
        &self,
        request: Request<pb::GetMetricsRequest>,
    ) -> Result<Response<pb::GetMetricsResponse>, Status> {
        let target = of(request.get_ref().scaled_object_ref.as_ref())?;
        let slots = self.hosts(target).await? * one_host(target);
        let metric_name = METRIC.to_owned();
        let value = pb::MetricValue { metric_name, metric_value: whole(slots), metric_value_float: slots };
        Ok(Response::new(pb::GetMetricsResponse { metric_values: vec![value] }))
    }

    type StreamMetricSpecStream = Unending<pb::GetMetricSpecResponse>;

    async fn stream_metric_spec(
        &self,
        request: Request<pb::ScaledObjectRef>,
    ) -> Result<Response<Self::StreamMetricSpecStream>, Status> {
        let spec = spec(of(Some(request.get_ref()))?);
        Ok(Response::new(never_again(spec)))
    }
}
