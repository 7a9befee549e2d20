//! Prometheus metrics: recorded anywhere through the `metrics` facade, served as text over HTTP.
//!
//! Without an address nothing is set up and recording costs next to nothing. Gauges that are cheap to read are read
//! when somebody asks.

use crate::tasks::Tasks;
use anyhow::Context as _;
use axum::{Router, extract::State, http::header::CONTENT_TYPE, routing::get};
use metrics::{Label, Unit};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::net::TcpListener;
use tracing::info;

/// Upper bounds of the buckets of every duration, in seconds.
const SECONDS: [f64; 16] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Sets gauges before they are shown.
pub type Refresh = Arc<dyn Fn() + Send + Sync>;

/// Name and meaning of a metric.
pub enum Metric {
    /// How long something takes, in seconds, recorded by [`seconds`].
    Seconds(&'static str, &'static str),
    /// How often something happened, recorded by [`count`].
    Count(&'static str, &'static str),
    /// How much there is now, recorded by [`gauge`].
    Gauge(&'static str, &'static str),
}

/// Serves `GET /metrics` at `listen` as one of `tasks`. Returns the address.
pub async fn serve(
    listen: SocketAddr,
    all: &[Metric],
    refresh: Refresh,
    tasks: &Tasks,
) -> anyhow::Result<SocketAddr> {
    let exporter = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
        .and_then(PrometheusBuilder::install_recorder)
        .context("metrics cannot be set up")?;
    all.iter().for_each(describe);
    let listener = TcpListener::bind(listen).await.context("--metrics-listen")?;
    let address = listener.local_addr()?;
    let router = Router::new().route("/metrics", get(show)).with_state((exporter, refresh));
    let ending = tasks.ending();
    tasks.spawn_until("the metrics server", ending.clone(), async move {
        axum::serve(listener, router).with_graceful_shutdown(ending.cancelled_owned()).await
    });
    info!(%address, "serving metrics");
    Ok(address)
}

async fn show(
    State((exporter, refresh)): State<(PrometheusHandle, Refresh)>,
) -> ([(axum::http::HeaderName, &'static str); 1], String) {
    refresh();
    exporter.run_upkeep();
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], exporter.render())
}

fn describe(metric: &Metric) {
    match metric {
        Metric::Seconds(name, what) => metrics::describe_histogram!(*name, Unit::Seconds, *what),
        Metric::Count(name, what) => metrics::describe_counter!(*name, *what),
        Metric::Gauge(name, what) => metrics::describe_gauge!(*name, *what),
    }
}

fn labels(labels: &[(&'static str, &str)]) -> Vec<Label> {
    labels.iter().map(|(name, value)| Label::new(*name, (*value).to_owned())).collect()
}

/// Something took so long.
pub fn seconds(name: &'static str, about: &[(&'static str, &str)], took: Duration) {
    metrics::histogram!(name, labels(about)).record(took);
}

/// Something happened once more.
pub fn count(name: &'static str, about: &[(&'static str, &str)]) {
    metrics::counter!(name, labels(about)).increment(1);
}

/// Something happened so many times.
pub fn counts(name: &'static str, about: &[(&'static str, &str)], times: u64) {
    metrics::counter!(name, labels(about)).increment(times);
}

/// There is so much now.
pub fn gauge(name: &'static str, about: &[(&'static str, &str)], value: f64) {
    metrics::gauge!(name, labels(about)).set(value);
}
