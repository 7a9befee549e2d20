//! Draining a host from outside: it gives its agents away and takes none, until that is lifted.

use super::Engine;
use crate::error::EngineError;
use rustic_registry::{AgentReason, Condition, Cordon, HostId, ReleaseGuard};
use tracing::{info, warn};

/// How a host is drained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drain {
    /// Its agents are moved one by one.
    Moves,
    /// It was retired: its agents are placed anew, also those that may outlive its lease.
    Forced,
}

impl Engine {
    /// Has a host drain.
    pub async fn drain(&self, host: &HostId, drain: Drain) -> Result<(), EngineError> {
        match drain {
            Drain::Moves => self.cordon(host, Cordon::On).await,
            Drain::Forced => self.take_from_silent(host).await,
        }
    }

    /// Lets a host take agents again.
    pub async fn undrain(&self, host: &HostId) -> Result<(), EngineError> {
        self.cordon(host, Cordon::Off).await
    }

    async fn cordon(&self, host: &HostId, cordon: Cordon) -> Result<(), EngineError> {
        if self.registry.cordon(host, cordon).await? {
            info!(%host, ?cordon, "host is drained, or not any more, as somebody asked");
            return Ok(());
        }
        Err(EngineError::UnknownHost(host.clone()))
    }

    async fn take_from_silent(&self, host: &HostId) -> Result<(), EngineError> {
        self.fleet.refresh().await?;
        if self.fleet.host(host).is_some() {
            return Err(EngineError::HostLives(host.clone()));
        }
        if !self.fleet.view().registry.former.iter().any(|f| f.host == *host) {
            return Err(EngineError::UnknownHost(host.clone()));
        }
        warn!(%host, "its agents are placed anew by force, also those that may outlive its lease");
        let given_up =
            Condition::new(AgentReason::HostLost, format!("its host {host} was given up; it moves to another one"));
        self.take_off(host, ReleaseGuard::Retired, &given_up, |_| true).await?;
        self.wake.wake();
        Ok(())
    }
}
