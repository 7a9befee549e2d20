//! Remembers, for a registry that is lost, the agents that no host runs.
//!
//! ```text
//!            first look: all records            events: copies come and go
//!  ▶ nothing ──────────────────────▶ follows ◀──────────────────────────┐
//!                                       │ └─────────────────────────────┘
//!                                       │ the store is in another life
//!                                       ▼
//!                                   restores every copy, until all are restored
//! ```
//!
//! Until it has restored them, it neither creates nor places agents, nor says that one is not known (`Fleet::is_restoring`): what the
//! store still has of them may be older than the copies.
//!
//! Every replica does so; who comes second changes nothing. What was stopped is not brought back as long as this engine heard of
//! it before the loss: its reader waits for every change.

use super::Engine;
use crate::{
    error::EngineError,
    metrics,
    rounds::{Again, PAUSE},
    unassigned::{self, Kept, Unassigned},
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use rustic_registry::{AgentKey, Index, Remember, Remembered, Scope, StoreLife, View};
use tracing::{info, warn};

/// Changes and records read at once.
const EVENTS: usize = 1_000;
const PAGE: usize = 200;
/// Records read, or restored, at once.
const AT_ONCE: usize = 16;

impl Engine {
    /// One pass.
    pub async fn remember(&self, unassigned: &mut Unassigned) -> Result<Again, EngineError> {
        let now = self.fleet.view().registry.store_life;
        // Lost before the first look, it is lost all the same: hosts were seen in it.
        let seen = || self.fleet.restored().filter(|restored| now.as_ref() != Some(restored));
        let former_store_life = unassigned.of.as_ref().map(|(store, _)| store.clone()).or_else(seen);
        match (former_store_life, now) {
            // Nobody has ever come: its life begins with this engine.
            (None, None) => {
                self.registry.bring(&self.fleet.brings(StoreLife::NONE)).await?;
                return Ok(Again::In(PAUSE));
            }
            (None, Some(store)) => {
                let Some(all) = self.look_through(store.clone()).await? else { return Ok(Again::In(PAUSE)) };
                *unassigned = all;
                self.fleet.has_restored(store);
            }
            (Some(former_store_life), Some(now)) if former_store_life == now => {}
            (Some(former_store_life), _) => {
                // Until the copies are restored there is nothing that could change.
                let Some(now) = self.restore(unassigned, &former_store_life).await? else {
                    return Ok(Again::In(PAUSE));
                };
                unassigned.of = Some((now.clone(), self.changes.beginning()));
                self.fleet.has_restored(now);
            }
        }
        self.read_on(unassigned).await
    }

    /// Reads every record of this life of the store, for those that no host has. `None`: it is in another life by now, which may have
    /// lost what is looked for.
    async fn look_through(&self, store: StoreLife) -> Result<Option<Unassigned>, EngineError> {
        // Before the records: what happens meanwhile is followed afterwards.
        let mut unassigned = Unassigned::of(store.clone(), self.changes.end());
        let mut after = None;
        loop {
            let page = self.registry.list(&Index::Within(Scope::All), after.as_ref(), PAGE, View::Basic).await?;
            for record in &page.agents {
                self.fleet.saw(record.epoch);
            }
            let here = page.agents.into_iter().filter(|r| unassigned::is_unassigned(r.phase()));
            self.copy(&mut unassigned, here.map(|r| r.key).collect()).await?;
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        // No life comes back: if it is the same now, it was all the time.
        self.fleet.refresh().await?;
        Ok(Some(unassigned).filter(|_| self.fleet.view().registry.store_life.as_ref() == Some(&store)))
    }

    /// Follows what has happened since the last pass. What could not be read is read at the next one.
    async fn read_on(&self, unassigned: &mut Unassigned) -> Result<Again, EngineError> {
        while let Some((store, before)) = unassigned.of.clone() {
            let mut cursor = before;
            let Ok(events) = self.changes.read(&mut cursor, EVENTS) else {
                // Until all was read anew, what is known is better than nothing; and what was known before a loss is restored after it.
                let Some(all) = self.look_through(store).await? else { return Ok(Again::In(PAUSE)) };
                *unassigned = all;
                continue;
            };
            if events.is_empty() {
                break;
            }
            let to_read = unassigned.follow(events);
            self.copy(unassigned, to_read).await?;
            unassigned.of = Some((store, cursor));
        }
        metrics::copies(unassigned.copies().count());
        Ok(Again::OnChange)
    }

    async fn copy(&self, unassigned: &mut Unassigned, keys: Vec<AgentKey>) -> Result<(), EngineError> {
        let read = async |key: &AgentKey| {
            let record = self.registry.get(key, View::Launch).await.map_err(EngineError::from);
            // One that cannot be read is not kept; an older copy of it is, and gives way to what the registry has.
            Ok::<_, EngineError>(self.troubles.own("remember", key, record)?.flatten())
        };
        let reads: Vec<_> = keys.iter().map(read).collect();
        let mut records = stream::iter(reads).buffer_unordered(AT_ONCE);
        let mut left_out = 0;
        // One that is gone has an event that says so; if not, the store is.
        while let Some(record) = records.try_next().await? {
            if record.is_some_and(|record| unassigned.keep(record) == Kept::NoRoom) {
                left_out += 1;
            }
        }
        if left_out > 0 {
            warn!(
                left_out,
                "too many agents wait or have failed to keep copies of all: a wiped registry would forget these"
            );
        }
        Ok(())
    }

    /// Brings what this engine saw in a former store life to the one of now. Returns that one, if it was the same all the time.
    async fn restore(
        &self,
        unassigned: &Unassigned,
        former_store_life: &StoreLife,
    ) -> Result<Option<StoreLife>, EngineError> {
        self.registry.bring(&self.fleet.brings(former_store_life.clone())).await?;
        self.fleet.refresh().await?;
        let store = self.fleet.view().registry.store_life;
        let copies: Vec<_> = unassigned
            .copies()
            .map(|record| Remember { record: record.clone(), former_store_life: former_store_life.clone() })
            .collect();
        let restoring: Vec<_> = copies.iter().map(|request| self.registry.remember(request)).collect();
        let restored: Vec<_> = stream::iter(restoring).buffer_unordered(AT_ONCE).try_collect().await?;
        let done = restored.iter().filter(|restored| **restored == Remembered::Done).count();
        if done > 0 {
            info!(agents = done, "the registry was lost: agents that wait for room or have failed are restored");
        }
        // In yet another store life all is restored once more.
        self.fleet.refresh().await?;
        Ok(store.filter(|store| self.fleet.view().registry.store_life.as_ref() == Some(store)))
    }
}

#[cfg(test)]
mod tests;
