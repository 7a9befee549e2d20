//! One gRPC channel per host, kept open. A channel whose address changed is replaced.

use rustic_proto::agent_host::v1::agent_host_service_client::AgentHostServiceClient;
use rustic_registry::HostId;
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;
use tonic::{
    Request,
    transport::{Channel, Endpoint},
};

/// A client of one host.
pub type HostClient = AgentHostServiceClient<Channel>;

/// The channels.
pub struct Channels {
    connect_timeout: Duration,
    max_message_size: usize,
    open: Mutex<HashMap<HostId, (String, Channel)>>,
}

/// Why a host cannot be called.
#[derive(Debug, thiserror::Error)]
#[error("host {host} announced the address {address:?}, which cannot be called; check its --advertise-address")]
pub struct AddressError {
    /// The host.
    pub host: HostId,
    /// What it announced.
    pub address: String,
}

impl Channels {
    /// No channels yet.
    pub fn new(connect_timeout: Duration, max_message_size: usize) -> Self {
        Self { connect_timeout, max_message_size, open: Mutex::default() }
    }

    /// A client of `host`; connects with its first call.
    pub fn client(&self, host: &HostId, address: &str) -> Result<HostClient, AddressError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let channel = match open.get(host) {
            Some((known, channel)) if known == address => channel.clone(),
            _ => {
                let channel = self.connect(host, address)?;
                open.insert(host.clone(), (address.to_owned(), channel.clone()));
                channel
            }
        };
        let client = AgentHostServiceClient::new(channel);
        Ok(client.max_decoding_message_size(usize::MAX).max_encoding_message_size(self.max_message_size * 2))
    }

    fn connect(&self, host: &HostId, address: &str) -> Result<Channel, AddressError> {
        let refuse = |_| AddressError { host: host.clone(), address: address.to_owned() };
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(refuse)?;
        Ok(endpoint
            .connect_timeout(self.connect_timeout)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(5))
            .keep_alive_while_idle(true)
            .tcp_nodelay(true)
            .connect_lazy())
    }
}

/// A request with the caller's deadline and trace context.
pub fn request<T>(message: T, deadline: Instant) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline.saturating_duration_since(Instant::now()));
    rustic_telemetry::traces::inject(request.metadata_mut());
    request
}
