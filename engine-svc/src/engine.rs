//! The engine: what it means to create, stop and list agents in a cluster. Knows the registry and the hosts; knows
//! nothing of how callers reach it.

mod create;
mod drain;
mod keep;
mod list;
mod remember;
mod restart;
mod stop;

pub use create::{Created, Creation};
pub use drain::Drain;
pub use list::{AgentsPage, AgentsQuery};
pub use stop::IfSilent;

use crate::{channels::HostCalls, error::EngineError, fleet::Fleet, keeper::Wake};
use rustic_registry::{AgentKey, AgentRecord, OnDisconnect, Phase, Registry, UnixMillis, View};
use std::{sync::Arc, time::Duration};

/// The engine.
pub struct Engine {
    registry: Arc<dyn Registry>,
    fleet: Arc<Fleet>,
    hosts: Arc<dyn HostCalls>,
    /// Time after the end of a lease when its agents are certainly gone.
    lease_grace: Duration,
    /// How long nobody is placed after the registry was lost.
    hold: Duration,
    /// Tells the keeper that an agent waits.
    wake: Wake,
}

/// What an engine must know of the leases of hosts.
#[derive(Debug, Clone, Copy)]
pub struct Leases {
    /// The longest of any host.
    pub longest: Duration,
    /// Time after the end of one when its agents are certainly gone.
    pub grace: Duration,
}

impl Engine {
    /// The engine over a registry and the hosts it tells of.
    pub fn new(
        registry: Arc<dyn Registry>,
        fleet: Arc<Fleet>,
        hosts: Arc<dyn HostCalls>,
        leases: Leases,
        wake: Wake,
    ) -> Self {
        let Leases { longest, grace } = leases;
        Self { registry, fleet, hosts, lease_grace: grace, hold: longest + grace, wake }
    }

    /// Reads one agent, as its host would tell it.
    pub async fn get(&self, key: &AgentKey, view: View) -> Result<AgentRecord, EngineError> {
        self.read(key, view).await.map(|record| self.as_it_is(record))
    }

    /// Reads one record, as it stands in the registry.
    async fn read(&self, key: &AgentKey, view: View) -> Result<AgentRecord, EngineError> {
        match self.registry.get(key, view).await? {
            Some(record) => Ok(record),
            // What a registry that was lost does not know may run all the same, until its hosts have told.
            None if self.fleet.is_telling().await? => Err(EngineError::Held(key.clone())),
            None => Err(EngineError::Unknown(key.clone())),
        }
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
