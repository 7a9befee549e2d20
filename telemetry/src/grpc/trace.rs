//! A span for every call, child of the caller's, and a debug log line with its outcome.
//!
//! Spans and metrics name methods that this server has, and nothing else: a path is the caller's to invent, and each name that a
//! metric has ever had is kept for as long as the program lives.

use super::{Next, Policy, is_ours};
use crate::{
    metrics::{self, Metric},
    traces,
};
use http::{Request, Response};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::time::Instant;
use tonic::{Status, body::Body};
use tracing::{Instrument as _, Span, debug, field, info_span};

/// Name of whatever this server does not have.
const OTHER: &str = "other";

/// Wraps calls into spans named by the OpenTelemetry conventions for RPC.
/// <https://opentelemetry.io/docs/specs/semconv/rpc/rpc-spans/>
#[derive(Debug, Clone)]
pub struct Trace {
    /// As `service/method`.
    methods: Arc<BTreeSet<String>>,
}

impl Trace {
    /// For a server that has these methods, each as `service/method`.
    pub fn new(methods: impl IntoIterator<Item = String>) -> Self {
        Self { methods: Arc::new(methods.into_iter().collect()) }
    }

    /// Service and method of a path.
    fn name(&self, path: &str) -> (&str, &str) {
        let known = self.methods.get(path.trim_start_matches('/'));
        known.and_then(|known| known.split_once('/')).unwrap_or((OTHER, OTHER))
    }
}

impl Policy for Trace {
    async fn around(&self, request: Request<Body>, next: impl Next) -> Response<Body> {
        if !is_ours(&request) {
            return next.run(request).await;
        }
        let (service, method) = self.name(request.uri().path());
        let span = info_span!(
            "grpc",
            otel.name = format!("{service}/{method}"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_methods_that_the_server_has_are_named() {
        let trace = Trace::new(["rustic_ai.engine.v1.EngineService/GetAgent".to_owned()]);
        let known = ("rustic_ai.engine.v1.EngineService", "GetAgent");
        assert_eq!(trace.name("/rustic_ai.engine.v1.EngineService/GetAgent"), known);
        for invented in ["/rustic_ai.engine.v1.EngineService/Get4711", "/rustic_ai.x", "/rustic_ai./", "/"] {
            assert_eq!(trace.name(invented), (OTHER, OTHER), "{invented}");
        }
    }
}
