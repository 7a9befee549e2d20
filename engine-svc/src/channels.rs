//! One gRPC channel per host, kept open. A channel whose address changed is replaced; that of a host that is gone is
//! dropped, or it would try to connect for ever.

use crate::answer::{self, HostAnswer, HostRefusal};
use async_trait::async_trait;
use rustic_proto::agent_host::v1::{self as pb, agent_host_service_client::AgentHostServiceClient};
use rustic_registry::HostId;
use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;
use tonic::{
    Request, Response,
    transport::{Channel, Endpoint},
};

/// Calls of hosts. Over gRPC here; a simulation has its own network. Both read what comes back with [`answer::read`].
#[async_trait]
pub trait HostCalls: Send + Sync + 'static {
    /// Has a host run an agent.
    async fn create_agent(
        &self,
        host: &Callee,
        message: pb::CreateAgentRequest,
        deadline: Instant,
    ) -> HostAnswer<pb::CreateAgentResponse>;
    /// Has a host stop an agent.
    async fn stop_agent(
        &self,
        host: &Callee,
        message: pb::StopAgentRequest,
        deadline: Instant,
    ) -> HostAnswer<pb::StopAgentResponse>;
    /// Lets go of what is kept for any other host than these. Calls under way go on.
    fn retain(&self, hosts: &BTreeSet<HostId>);
}

/// A host, and where it said it can be called.
#[derive(Debug, Clone)]
pub struct Callee {
    /// The host.
    pub host: HostId,
    /// What it announced; empty if it is not known.
    pub address: String,
}

/// A client of one host.
type HostClient = AgentHostServiceClient<Channel>;

/// The channels.
pub struct Channels {
    connect_timeout: Duration,
    max_message_size: usize,
    open: Mutex<HashMap<HostId, (String, Channel)>>,
}

impl Channels {
    /// No channels yet.
    pub fn new(connect_timeout: Duration, max_message_size: usize) -> Self {
        Self { connect_timeout, max_message_size, open: Mutex::default() }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<HostId, (String, Channel)>> {
        // Held for single steps only; a panic cannot leave it half-changed.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client; connects with its first call.
    fn client(&self, Callee { host, address }: &Callee) -> HostAnswer<HostClient> {
        let mut open = self.open();
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

    fn connect(&self, host: &HostId, address: &str) -> HostAnswer<Channel> {
        let refuse = |_| {
            HostRefusal::silent(format!(
                "host {host} announced the address {address:?}, which cannot be called; check its --advertise-address"
            ))
        };
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

#[async_trait]
impl HostCalls for Channels {
    async fn create_agent(
        &self,
        host: &Callee,
        message: pb::CreateAgentRequest,
        deadline: Instant,
    ) -> HostAnswer<pb::CreateAgentResponse> {
        let response = self.client(host)?.create_agent(request(message, deadline)).await;
        answer::read(response.map(Response::into_inner))
    }

    async fn stop_agent(
        &self,
        host: &Callee,
        message: pb::StopAgentRequest,
        deadline: Instant,
    ) -> HostAnswer<pb::StopAgentResponse> {
        let response = self.client(host)?.stop_agent(request(message, deadline)).await;
        answer::read(response.map(Response::into_inner))
    }

    fn retain(&self, hosts: &BTreeSet<HostId>) {
        self.open().retain(|host, _| hosts.contains(host));
    }
}

/// A request with the caller's deadline and trace context.
fn request<T>(message: T, deadline: Instant) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline.saturating_duration_since(Instant::now()));
    rustic_telemetry::traces::inject(request.metadata_mut());
    request
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::Refused;
    use tonic::Code;

    fn callee(host: &str, address: &str) -> Callee {
        Callee { host: host.parse().expect("an id"), address: address.to_owned() }
    }

    fn kept(channels: &Channels) -> Vec<(String, String)> {
        let mut kept: Vec<_> =
            channels.open().iter().map(|(host, (address, _))| (host.to_string(), address.clone())).collect();
        kept.sort();
        kept
    }

    #[tokio::test]
    async fn a_channel_lasts_as_long_as_its_host_has_its_address() {
        let channels = Channels::new(Duration::from_secs(1), 1024);
        for (host, address) in [("a", "10.0.0.1:1"), ("b", "[fd00::2]:1"), ("a", "10.0.0.3:1")] {
            channels.client(&callee(host, address)).expect("an address");
        }
        let pair = |host: &str, address: &str| (host.to_owned(), address.to_owned());
        assert_eq!(kept(&channels), [pair("a", "10.0.0.3:1"), pair("b", "[fd00::2]:1")], "a has moved");
        channels.retain(&BTreeSet::from(["b".parse().expect("an id")]));
        assert_eq!(kept(&channels), [pair("b", "[fd00::2]:1")]);
        let refused = channels.client(&callee("c", "not an address")).expect_err("nobody can be called there");
        assert_eq!(refused.refused(), Refused::Silent);
        assert!(refused.to_string().contains("--advertise-address"), "{refused:?}");
    }

    #[tokio::test]
    async fn a_host_that_cannot_be_connected_to_is_silent() {
        // Taken, so that nobody else listens there, and not listened on.
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
        let address = socket.local_addr().expect("it has one").to_string();
        let channels = Channels::new(Duration::from_secs(1), 1024);
        let deadline = Instant::now() + Duration::from_secs(30);
        let host = callee("a", &address);
        let stopped = channels.stop_agent(&host, pb::StopAgentRequest::default(), deadline).await;
        let refused = stopped.expect_err("nobody answers");
        assert_eq!((refused.refused(), refused.status().code()), (Refused::Silent, Code::Unavailable), "{refused:?}");
    }
}
