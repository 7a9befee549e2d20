//! Stop requests from outside: SIGTERM from Kubernetes, SIGINT from a terminal.

use std::io;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

/// Stop requests, as tokens.
#[derive(Debug, Clone, Default)]
pub struct StopRequests {
    /// Cancelled by the first SIGTERM or SIGINT.
    pub stop: CancellationToken,
    /// Cancelled by the second one: whoever asks again has no patience.
    pub hurry: CancellationToken,
}

/// Listens for stop requests from now on.
pub fn stop_requests() -> io::Result<StopRequests> {
    let requests = StopRequests::default();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let StopRequests { stop, hurry } = requests.clone();
    // Ends with the runtime; there is nothing to clean up. A program that cannot be asked to stop any more stops.
    let deaf = stop.clone().drop_guard();
    tokio::spawn(async move {
        let _deaf = deaf;
        for token in [stop, hurry] {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            info!(signal = name, "asked to stop");
            token.cancel();
        }
    });
    Ok(requests)
}
