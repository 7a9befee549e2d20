//! A span for every call, child of the caller's, and a debug log line with its outcome.

use super::{Next, Policy, is_ours};
use crate::{
    metrics::{self, Metric},
    traces,
};
use http::{Request, Response};
use std::time::Duration;
use tokio::time::Instant;
use tonic::{Status, body::Body};
use tracing::{Instrument as _, Span, debug, field, info_span};

/// Wraps calls into spans named by the OpenTelemetry conventions for RPC.
/// <https://opentelemetry.io/docs/specs/semconv/rpc/rpc-spans/>
#[derive(Debug, Clone)]
pub struct Trace;

impl Policy for Trace {
    async fn around(&self, request: Request<Body>, next: impl Next) -> Response<Body> {
        if !is_ours(&request) {
            return next.run(request).await;
        }
        let path = request.uri().path().trim_start_matches('/').to_owned();
        let (service, method) = path.split_once('/').unwrap_or((&path, ""));
        let span = info_span!(
            "grpc",
            otel.name = %path,
            otel.kind = "server",
            rpc.system = "grpc",
            rpc.service = service,
            rpc.method = method,
            rpc.grpc.status_code = field::Empty,
        );
        traces::adopt_parent(&span, request.headers());
        let start = Instant::now();
        let response = next.run(request).instrument(span.clone()).await;
        report(&span, method, &response, start.elapsed());
        response
    }
}

/// Calls that were answered, by method and code; a stream counts when it begins.
pub const CALLS: Metric =
    Metric::Seconds("rustic_grpc_call_seconds", "From a call to its answer, by method and code");

fn report(span: &Span, method: &str, response: &Response<Body>, took: Duration) {
    // An error comes with its status in the headers; a response that streams a body started well.
    let code = Status::from_header_map(response.headers()).map_or(tonic::Code::Ok, |status| status.code());
    span.record("rpc.grpc.status_code", code as i32);
    metrics::seconds("rustic_grpc_call_seconds", &[("method", method), ("code", &format!("{code:?}"))], took);
    debug!(parent: span, method, ?code, duration_ms = took.as_secs_f64() * 1e3, "call answered");
}
