//! The engine: what it means to create, stop and list agents in a cluster. Knows the registry and the hosts; knows
//! nothing of how callers reach it.

mod audit;
mod create;
mod drain;
mod explain;
mod follow;
mod line;
mod list;
mod own;
mod rebalance;
mod reconcile;
#[cfg(test)]
mod refusals;
mod remember;
mod restart;
mod stop;
mod watch;

pub use create::{Created, Creation};
pub use drain::Drain;
pub use explain::{Explained, Explanation};
pub use list::{AgentsPage, AgentsQuery, Listed};
pub use reconcile::Unaccepted;
pub use rustic_proto::engine::v1::PendingPolicy;
pub use stop::IfSilent;
pub use watch::{Watch, WatchEvent, Watched};

use crate::{changes::Changes, channels::HostCalls, error::EngineError, fleet::Fleet, rounds::Wake};
use rustic_registry::{
    AgentKey, AgentReason, AgentRecord, Assignment, Condition, IfNamesakes, OnDisconnect, Phase, Registry,
    RegistryError, State, UnreadableAgent, View,
};
use std::{
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

/// The engine.
pub struct Engine {
    registry: Arc<dyn Registry>,
    fleet: Arc<Fleet>,
    hosts: Arc<dyn HostCalls>,
    leases: Leases,
    changes: Arc<Changes>,
    /// Wakes the reconciler when an agent waits.
    wake: Wake,
    /// Lines of those that wait which the last pass had seen to the end: the next one begins after them.
    lines_seen: AtomicUsize,
    troubles: own::Troubles,
    /// What a create does if another organization has a guild with the same id.
    if_namesakes: IfNamesakes,
}

/// What an engine must know of the leases of hosts.
#[derive(Debug, Clone, Copy)]
pub struct Leases {
    /// The longest of any host, with the grace after it: nobody who was not heard of for so long runs agents that must not outlive a
    /// lease.
    pub longest: Duration,
    /// By how much the rates of two clocks may differ: 0.01 is a hundredth.
    pub drift: f64,
    /// Nobody has used the registry before: a new one need not be watched.
    pub new_registry: bool,
}

impl Leases {
    /// What a time is multiplied with that another clock has measured, so that it is over there too.
    pub fn slack(&self) -> f64 {
        1.0 + self.drift
    }
}

impl Engine {
    /// The engine over a registry and the hosts that stand in it.
    pub fn new(
        registry: Arc<dyn Registry>,
        fleet: Arc<Fleet>,
        hosts: Arc<dyn HostCalls>,
        leases: Leases,
        changes: Arc<Changes>,
        wake: Wake,
    ) -> Self {
        let (lines_seen, troubles) = (AtomicUsize::new(0), own::Troubles::default());
        let if_namesakes = IfNamesakes::Report;
        Self { registry, fleet, hosts, leases, changes, wake, lines_seen, troubles, if_namesakes }
    }

    /// The same, but guilds of two organizations may have one id, whatever bus they are on.
    #[must_use]
    pub fn allowing_shared_guild_ids(self) -> Self {
        Self { if_namesakes: IfNamesakes::Ignore, ..self }
    }

    /// Reads one agent as it is: a record that nobody is left to correct is corrected for showing.
    pub async fn get(&self, key: &AgentKey, view: View) -> Result<Listed, EngineError> {
        match self.read(key, view).await {
            Ok(record) => Ok(Listed::Agent(Box::new(self.as_it_is(record)))),
            Err(EngineError::Registry(RegistryError::Unreadable { what, .. })) => {
                Ok(Listed::Unreadable(UnreadableAgent { key: key.clone(), what }))
            }
            Err(error) => Err(error),
        }
    }

    /// Reads one record, as it stands in the registry.
    async fn read(&self, key: &AgentKey, view: View) -> Result<AgentRecord, EngineError> {
        match self.registry.get(key, view).await? {
            Some(record) => Ok(record),
            // Until the hosts have reported to a registry that was lost, an agent that it does not know may run all the same.
            None if self.fleet.is_restoring().await? => Err(EngineError::Held(key.clone())),
            None => Err(EngineError::Unknown(key.clone())),
        }
    }

    /// Whether an agent's process has certainly ended, though its record does not say so.
    fn is_orphaned(&self, record: &AgentRecord) -> bool {
        record.on_disconnect == OnDisconnect::Stop && self.lost_its_host(record)
    }

    /// Whether the process of the host that claimed an agent was retired or has ended, as far as this engine knows: for showing, and to
    /// ask the registry, which knows.
    fn lost_its_host(&self, record: &AgentRecord) -> bool {
        record.assignment().is_some_and(|assignment| self.fleet.is_over(&assignment.host, &assignment.incarnation))
    }

    /// A record that nobody is left to correct, corrected for showing.
    fn as_it_is(&self, mut record: AgentRecord) -> AgentRecord {
        if !self.lost_its_host(&record) {
            return record;
        }
        let host = record.host().map(ToString::to_string).unwrap_or_default();
        if record.on_disconnect == OnDisconnect::Keep {
            let why = format!("its host {host} is silent; it may run on there, as on_disconnect = keep asks for");
            record.condition = Some(Condition::new(AgentReason::HostSilent, why));
        } else {
            let why = format!("its host {host} is gone; it moves to another one");
            record.condition = Some(Condition::new(AgentReason::HostLost, why));
            let assignment = record.assignment().map(|assignment| Assignment { pid: None, ..assignment.clone() });
            record.state = State::of(Phase::Restarting, assignment).unwrap_or(record.state);
        }
        record
    }
}
