//! The engine: what it means to create, stop and list agents in a cluster. Knows the registry and the hosts; knows
//! nothing of how callers reach it.

mod create;
mod list;
mod stop;

pub use create::{Created, Creation};
pub use list::{AgentsPage, AgentsQuery};

use crate::{channels::Channels, fleet::Fleet};
use rustic_registry::Registry;
use std::{sync::Arc, time::Duration};
use tonic::{Code, Status};

/// The engine.
pub struct Engine {
    registry: Arc<dyn Registry>,
    fleet: Arc<Fleet>,
    channels: Channels,
    /// Time after the end of a lease when its agents are certainly gone.
    lease_grace: Duration,
}

impl Engine {
    /// The engine over a registry and the hosts it tells of.
    pub fn new(registry: Arc<dyn Registry>, fleet: Arc<Fleet>, channels: Channels, lease_grace: Duration) -> Self {
        Self { registry, fleet, channels, lease_grace }
    }
}

/// Whether a call may not have reached its host, or its answer may have been lost.
fn is_unanswered(status: &Status) -> bool {
    // The transport's own failures carry a source; what a host answered does not.
    let by_transport = std::error::Error::source(status).is_some();
    match status.code() {
        Code::Unavailable => true,
        Code::Unknown | Code::Internal | Code::Cancelled => by_transport,
        _ => false,
    }
}
