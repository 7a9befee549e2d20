//! Follows one agent until it is where somebody wants it.

use super::Engine;
use crate::{changes::Cursor, error::EngineError};
use rustic_registry::{AgentKey, AgentRecord, Event, View};
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout};

/// Longest time without a look: changes may come late, and some cannot be read.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Changes looked at in one go.
const BATCH: usize = 1_000;

impl Engine {
    /// Reads an agent whenever it has changed, until `judge` has a verdict; `None` when there is none by `deadline`.
    pub(super) async fn follow<T>(
        &self,
        key: &AgentKey,
        deadline: Instant,
        mut judge: impl FnMut(Option<AgentRecord>) -> Result<Option<T>, EngineError>,
    ) -> Result<Option<T>, EngineError> {
        // Before the reading: what changes after it is not missed.
        let mut cursor = self.changes.end();
        loop {
            let record = self.registry.get(key, View::Basic).await?;
            if let Some(verdict) = judge(record)? {
                return Ok(Some(verdict));
            }
            // Cancel-safe: the cursor is this loop's own.
            tokio::select! {
                biased;
                () = sleep_until(deadline) => return Ok(None),
                _ = timeout(LOOK_AGAIN, self.until_changed(key, &mut cursor)) => {}
            }
        }
    }

    /// Waits for the next change of an agent, or for a reason to look without one.
    async fn until_changed(&self, key: &AgentKey, cursor: &mut Cursor) {
        let mut moves = self.changes.moves();
        let is_its = |event: &Event| matches!(event, Event::Agent(agent) if agent.key == *key);
        loop {
            match self.changes.read(cursor, BATCH) {
                Ok(events) if events.iter().any(is_its) => return,
                Ok(events) if events.is_empty() => {
                    // The sender lives as long as this engine.
                    let _ = moves.changed().await;
                }
                Ok(_) => {}
                Err(_expired) => {
                    *cursor = self.changes.end();
                    return;
                }
            }
        }
    }
}
