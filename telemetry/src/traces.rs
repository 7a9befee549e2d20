//! OpenTelemetry traces over OTLP, and W3C trace context in and out of a call.
//!
//! Without an endpoint nothing is set up and every function here returns at once.

use anyhow::Context as _;
use opentelemetry::{
    global,
    propagation::{Extractor, Injector, TextMapPropagator as _},
    trace::TracerProvider as _,
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{SdkTracerProvider, Tracer},
};
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};
use tonic::metadata::{MetadataKey, MetadataMap, MetadataValue};
use tracing::{Span, Subscriber};
use tracing_opentelemetry::{OpenTelemetryLayer, OpenTelemetrySpanExt as _};
use tracing_subscriber::registry::LookupSpan;

static ON: AtomicBool = AtomicBool::new(false);
const FLUSH: Duration = Duration::from_secs(3);

/// Sends spans in the background.
pub struct Exporter {
    provider: SdkTracerProvider,
    service: &'static str,
}

impl Exporter {
    pub(crate) fn start(service: &'static str, endpoint: &str) -> anyhow::Result<Self> {
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .build()
            .with_context(|| format!("--otlp-endpoint {endpoint:?} cannot be used"))?;
        let resource = Resource::builder().with_service_name(service).build();
        let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
        global::set_tracer_provider(provider.clone());
        ON.store(true, Ordering::Relaxed);
        Ok(Self { provider, service })
    }

    pub(crate) fn layer<S>(&self) -> OpenTelemetryLayer<S, Tracer>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        tracing_opentelemetry::layer().with_tracer(self.provider.tracer(self.service))
    }

    pub(crate) fn stop(self) {
        if let Err(error) = self.provider.shutdown_with_timeout(FLUSH) {
            tracing::warn!(%error, "some spans could not be sent");
        }
    }
}

struct Headers<'a>(&'a http::HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

struct Metadata<'a>(&'a mut MetadataMap);

impl Injector for Metadata<'_> {
    fn set(&mut self, key: &str, value: String) {
        let pair = MetadataKey::from_bytes(key.as_bytes()).ok().zip(MetadataValue::try_from(&value).ok());
        if let Some((key, value)) = pair {
            self.0.insert(key, value);
        }
    }
}

struct Variables<'a>(&'a mut BTreeMap<String, String>);

impl Injector for Variables<'_> {
    fn set(&mut self, key: &str, value: String) {
        if !value.is_empty() {
            self.0.insert(key.to_uppercase(), value);
        }
    }
}

/// Makes `span` a child of the span that the caller's headers name.
pub fn adopt_parent(span: &Span, headers: &http::HeaderMap) {
    if ON.load(Ordering::Relaxed) {
        let parent = TraceContextPropagator::new().extract(&Headers(headers));
        // Fails only for a span that was filtered out; then there is nothing to adopt.
        let _ = span.set_parent(parent);
    }
}

/// Writes the current span's context into the metadata of an outgoing call.
pub fn inject(metadata: &mut MetadataMap) {
    if ON.load(Ordering::Relaxed) {
        TraceContextPropagator::new().inject_context(&Span::current().context(), &mut Metadata(metadata));
    }
}

/// The current span's context as environment variables, `TRACEPARENT` and `TRACESTATE`; empty when traces are off.
pub fn environment() -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    if ON.load(Ordering::Relaxed) {
        TraceContextPropagator::new().inject_context(&Span::current().context(), &mut Variables(&mut variables));
    }
    variables
}
