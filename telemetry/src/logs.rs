//! Log lines on standard output, through a bounded queue: whoever logs never waits for whoever reads. When the
//! reader is too slow, lines are dropped, and their number is logged.

use crate::settings::{LogFormat, TelemetrySettings};
use anyhow::Context as _;
use std::{io::IsTerminal as _, thread, time::Duration};
use tracing::Subscriber;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{EnvFilter, Layer, registry::LookupSpan};

/// Lines that may wait for a slow reader. With agent output cut at 8 KiB a line, this bounds the memory to 128 MiB.
const QUEUED_LINES: usize = 16 * 1024;

/// Flushes the queue when dropped.
pub struct Writer {
    _guard: WorkerGuard,
}

/// The filter that the level names.
pub fn filter(settings: &TelemetrySettings) -> anyhow::Result<EnvFilter> {
    EnvFilter::try_new(&settings.log_level)
        .with_context(|| format!("--log-level {:?} is no level and no filter", settings.log_level))
}

/// The layer that writes log lines.
pub fn layer<S>(settings: &TelemetrySettings) -> anyhow::Result<(impl Layer<S> + Send + Sync + use<S>, Writer)>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    let terminal = std::io::stdout().is_terminal();
    let pretty = match settings.log_format {
        LogFormat::Auto => terminal,
        LogFormat::Json => false,
        LogFormat::Pretty => true,
    };
    let (writer, guard) =
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(QUEUED_LINES).finish(std::io::stdout());
    report_dropped_lines(writer.error_counter());
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let lines = if pretty {
        lines.with_ansi(terminal).with_target(false).compact().boxed()
    } else {
        lines.json().flatten_event(true).with_current_span(true).with_span_list(false).boxed()
    };
    Ok((lines.with_filter(filter(settings)?), Writer { _guard: guard }))
}

/// Logs every few seconds how many lines were dropped since the last time, if any were. The thread lives as long as the process.
fn report_dropped_lines(dropped: ErrorCounter) {
    let report = move || {
        let mut logged = 0;
        loop {
            thread::park_timeout(Duration::from_secs(5));
            let total = dropped.dropped_lines();
            if total > logged {
                tracing::warn!(dropped = total - logged, "log lines dropped: standard output is read too slowly");
                logged = total;
            }
        }
    };
    if let Err(error) = thread::Builder::new().name("log-watch".to_owned()).spawn(report) {
        tracing::warn!(%error, "dropped log lines will not be reported");
    }
}
