//! The engine: what it means to create, stop and list agents in a cluster. Knows the registry and the hosts; knows
//! nothing of how callers reach it.

mod create;
mod keep;
mod list;
mod stop;

pub use create::{Created, Creation};
pub use list::{AgentsPage, AgentsQuery};

use crate::{channels::Channels, error::EngineError, fleet::Fleet, keeper::Wake};
use rustic_registry::{AgentKey, AgentRecord, Cordon, HostId, OnDisconnect, Phase, Registry, UnixMillis, View};
use std::{sync::Arc, time::Duration};
use tonic::{Code, Status};
use tracing::info;

/// The engine.
pub struct Engine {
    registry: Arc<dyn Registry>,
    fleet: Arc<Fleet>,
    channels: Channels,
    /// Time after the end of a lease when its agents are certainly gone.
    lease_grace: Duration,
    /// How long nobody is placed after the registry was lost.
    hold: Duration,
    /// Tells the keeper that an agent waits.
    wake: Wake,
}

/// Longest lease of a host that an engine waits for after the registry was lost, when no host has said how long.
const LONGEST_LEASE: Duration = Duration::from_secs(10);

impl Engine {
    /// The engine over a registry and the hosts it tells of.
    pub fn new(
        registry: Arc<dyn Registry>,
        fleet: Arc<Fleet>,
        channels: Channels,
        lease_grace: Duration,
        wake: Wake,
    ) -> Self {
        Self { registry, fleet, channels, lease_grace, hold: LONGEST_LEASE + lease_grace, wake }
    }

    /// Reads one agent, as its host would tell it.
    pub async fn get(&self, key: &AgentKey, view: View) -> Result<AgentRecord, EngineError> {
        self.read(key, view).await.map(|record| self.as_it_is(record))
    }

    /// Has a host drain, or take agents again.
    pub async fn cordon(&self, host: &HostId, cordon: Cordon) -> Result<(), EngineError> {
        if self.registry.cordon(host, cordon).await? {
            info!(%host, ?cordon, "host is drained, or not any more, as somebody asked");
            return Ok(());
        }
        Err(EngineError::UnknownHost(host.clone()))
    }

    /// Reads one record, as it stands in the registry.
    async fn read(&self, key: &AgentKey, view: View) -> Result<AgentRecord, EngineError> {
        self.registry.get(key, view).await?.ok_or_else(|| EngineError::Unknown(key.clone()))
    }

    /// Whether an agent's process has certainly ended without its record being told.
    fn is_orphaned(&self, record: &AgentRecord) -> bool {
        record.on_disconnect == OnDisconnect::Stop && self.lost_its_host(record)
    }

    /// Whether the lease that let an agent live ended long enough ago: its host is gone, or in another life. By the view
    /// of the hosts, which is at most a refresh old.
    fn lost_its_host(&self, record: &AgentRecord) -> bool {
        let Some(host) = record.host.as_ref().filter(|_| record.phase.holds_room()) else { return false };
        let over = |deadline: UnixMillis, now: UnixMillis| {
            u128::from(now.0) >= u128::from(deadline.0) + self.lease_grace.as_millis()
        };
        // A host that is not in the view may have joined since: not certain.
        self.fleet.host(host).is_some_and(|(h, now)| {
            let another_life = Some(&h.incarnation) != record.incarnation.as_ref();
            over(if another_life { h.former_until } else { h.deadline }, now)
        })
    }

    /// A record that nobody is left to correct, corrected for showing.
    fn as_it_is(&self, mut record: AgentRecord) -> AgentRecord {
        if !self.lost_its_host(&record) {
            return record;
        }
        let host = record.host.as_ref().map(ToString::to_string).unwrap_or_default();
        if record.on_disconnect == OnDisconnect::Keep {
            record.reason =
                format!("its host {host} is silent; it may run on there, as on_disconnect = keep asks for");
        } else {
            record.reason = format!("its host {host} is gone; it moves to another one");
            record.phase = Phase::Restarting;
            record.pid = None;
        }
        record
    }
}

/// Whether a call may not have reached its host, or its answer may have been lost.
fn is_unanswered(status: &Status) -> bool {
    // The transport's own failures carry a source; what a host answered does not.
    let by_transport = std::error::Error::source(status).is_some();
    match status.code() {
        Code::Unavailable => true,
        Code::Unknown | Code::Internal | Code::Cancelled | Code::ResourceExhausted => by_transport,
        _ => false,
    }
}
