//! Names of the keys. One hash tag, so that every script touches one cluster slot.

pub use rustic_core::encoded::{encode, member, parse_host, parse_member, parse_organization};
use rustic_core::{AgentKey, HostId};

/// The keys under one prefix.
#[derive(Debug, Clone)]
pub struct Keys {
    prefix: String,
}

impl Keys {
    /// Keys under `{prefix}:`.
    pub fn new(prefix: &str) -> Self {
        Self { prefix: format!("{{{prefix}}}") }
    }

    /// The hash tag, from which the scripts build every key they touch.
    pub fn tag(&self) -> &str {
        &self.prefix
    }

    /// Hash of one agent.
    pub fn agent(&self, key: &AgentKey) -> String {
        format!("{}:agent:{}", self.prefix, member(key))
    }

    /// Agents that wait for room, by the time of their creation.
    pub fn pending(&self) -> String {
        format!("{}:pending", self.prefix)
    }

    /// Agents that no host has accepted, by the time of their claim.
    pub fn unaccepted(&self) -> String {
        format!("{}:unaccepted", self.prefix)
    }

    /// Lease and renewals of each host, and the store's life beside them.
    pub fn leases(&self) -> String {
        format!("{}:leases", self.prefix)
    }

    /// Stream of changes.
    pub fn events(&self) -> String {
        format!("{}:events", self.prefix)
    }

    /// All agents.
    pub fn all(&self) -> String {
        format!("{}:agents", self.prefix)
    }

    /// Agents that hold room on a host.
    pub fn on(&self, host: &HostId) -> String {
        format!("{}:on:{}", self.prefix, encode(host.as_str()))
    }
}
