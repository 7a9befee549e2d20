//! Draining a host from outside: it gives its agents away and takes none, until that is lifted.

use super::Engine;
use crate::error::EngineError;
use rustic_registry::{Cordon, HostId, ReleaseGuard};
use tracing::{info, warn};

/// How a host is drained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drain {
    /// Its agents are moved one by one.
    Moves,
    /// Its lease is over and it does not answer: its agents are placed anew, as the caller vouches that it is gone.
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
        if self.fleet.host(host).is_some_and(|(record, now)| record.deadline > now) {
            return Err(EngineError::HostLives(host.clone()));
        }
        self.cordon(host, Cordon::On).await?;
        warn!(%host, "its agents are placed anew by force; whoever asked vouches that it is gone");
        let reason = format!("its host {host} was given up; it moves to another one");
        self.take_off(host, ReleaseGuard::Vouched, &reason, |_| true).await?;
        self.wake.wake();
        Ok(())
    }
}
