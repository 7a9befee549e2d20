//! What is reserved on hosts is compared with what their agents take. The scripts of the registry keep both the same; a difference is a
//! fault, of theirs or of somebody who has changed the registry by hand, and would keep agents from room that is free, or give them room
//! that is not.

use super::Engine;
use crate::{error::EngineError, metrics};
use tracing::error;

impl Engine {
    /// Compares, and repairs what differs.
    pub async fn audit(&self) -> Result<(), EngineError> {
        self.fleet.refresh().await?;
        for host in self.fleet.alive() {
            if let Some(drift) = self.registry.audit(&host).await? {
                let (reserved, claimed) = (drift.reserved.to_string(), drift.claimed.to_string());
                error!(%host, reserved, claimed, "more or less was reserved on a host than its agents take; it is put right");
                metrics::reservation_drifted();
            }
        }
        Ok(())
    }
}
