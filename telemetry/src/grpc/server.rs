//! Settings of a gRPC server and the stack of layers in its one order.

use super::{Around, Deadline, LoadLimit, MessageSize, Panics, Reasons, Trace};
use clap::Args;
use std::time::Duration;
use tokio::net::TcpListener;
use tonic::transport::{Server, server::TcpIncoming};
use tower::layer::util::{Identity, Stack};

/// Settings of a gRPC server.
#[derive(Debug, Clone, Args)]
pub struct ServerSettings {
    /// Largest request in bytes
    #[arg(long, default_value_t = 16 << 20, value_name = "BYTES")]
    pub max_message_size: usize,
    /// Calls at once, streams among them for as long as they last; more are answered UNAVAILABLE
    #[arg(long, default_value_t = 1024, value_name = "N")]
    pub max_calls: usize,
    /// Deadline of calls that bring none
    #[arg(long, default_value = "120s", value_parser = parse_duration, value_name = "DURATION")]
    pub default_deadline: Duration,
}

/// Reads a duration such as `500ms`, `10s` or `2m`.
pub fn parse_duration(text: &str) -> Result<Duration, humantime::DurationError> {
    humantime::parse_duration(text)
}

/// The layers around every call, outermost last.
pub type Layers = Stack<
    Around<MessageSize>,
    Stack<
        Around<Deadline>,
        Stack<Around<LoadLimit>, Stack<Around<Panics>, Stack<Around<Reasons>, Stack<Around<Trace>, Identity>>>>,
    >,
>;

/// Connections as a server takes them: without Nagle's algorithm, which holds the end of an answer back until the
/// beginning was acknowledged, for 40 ms or so.
pub fn incoming(listener: TcpListener) -> TcpIncoming {
    TcpIncoming::from(listener).with_nodelay(Some(true))
}

impl ServerSettings {
    /// A server with every layer in place, for services with these methods, each as `service/method`. It takes messages that are
    /// `headroom` bytes over the limit.
    pub fn server(&self, headroom: usize, methods: impl IntoIterator<Item = String>) -> Server<Layers> {
        Server::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(20)))
            // Callers that give up reset their streams. The default of 20 would close the connection under all others.
            .http2_max_pending_accept_reset_streams(Some(self.max_calls))
            .layer(Around(Trace::new(methods)))
            .layer(Around(Reasons))
            .layer(Around(Panics))
            .layer(Around(LoadLimit::new(self.max_calls)))
            .layer(Around(Deadline { default: self.default_deadline }))
            .layer(Around(MessageSize { limit: self.max_message_size + headroom }))
    }
}
