//! WatchAgents: how agents are, and what becomes of them.
//!
//! ```text
//!   without a revision ─▶ Listing: page after page ──the last──▶ bookmark ─▶ Following: what changed, read when it is sent ─▶ …
//!   with one ──────────────────────────────────────────────────────────────────▲
//! ```
//!
//! A watch is its place in the changes, and one batch at most: it goes on when its caller has taken what it was sent. A caller that is
//! too slow gets [`EngineError::WatchExpired`], as its place is gone, and has to begin anew.

use super::{AgentsQuery, Engine, Listed};
use crate::{
    changes::{Cursor, Resumed, Revision},
    error::EngineError,
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use rustic_registry::{AgentKey, Epoch, Event, Phase, RegistryError, Scope, UnreadableAgent, View};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::timeout;

/// Agents sent at once, and changes looked at.
const PAGE: usize = 200;
const BATCH: usize = 500;
/// Records read at once.
const AT_ONCE: usize = 8;
/// Changes of others after which a caller gets a revision all the same, so that it can resume.
const UNREPORTED: usize = 1_000;
/// Longest wait for changes that another engine has sent already.
const CATCH_UP: Duration = Duration::from_secs(5);

/// Which agents are watched.
#[derive(Debug, Clone)]
pub enum Watched {
    /// Those within.
    Within(Scope),
    /// One.
    Agent(AgentKey),
}

impl Watched {
    fn holds(&self, key: &AgentKey) -> bool {
        match self {
            Self::Within(scope) => scope.holds(key),
            Self::Agent(agent) => key == agent,
        }
    }
}

/// What a watcher is sent.
#[derive(Debug)]
pub enum WatchEvent {
    /// An agent, as it is.
    Agent(Listed),
    /// An agent is gone.
    Removed(AgentKey, Epoch),
    /// All was sent up to here.
    Bookmark,
}

/// One watch.
pub struct Watch {
    engine: Arc<Engine>,
    watched: Watched,
    view: View,
    state: State,
}

enum State {
    Listing { from: Cursor, after: Option<AgentKey> },
    Following { cursor: Cursor, unreported: usize },
}

impl Engine {
    /// Begins a watch, or resumes one.
    pub async fn watch(
        self: &Arc<Self>,
        watched: Watched,
        view: View,
        after: Option<&Revision>,
    ) -> Result<Watch, EngineError> {
        if self.fleet.is_restoring().await? {
            return Err(EngineError::Restoring);
        }
        let state = match after {
            None => State::Listing { from: self.changes.end(), after: None },
            Some(revision) => State::Following { cursor: self.resume(revision).await?, unreported: 0 },
        };
        Ok(Watch { engine: self.clone(), watched, view, state })
    }

    async fn resume(&self, revision: &Revision) -> Result<Cursor, EngineError> {
        let mut moves = self.changes.moves();
        let resumed = async {
            loop {
                match self.changes.resume(revision) {
                    Ok(Resumed::At(cursor)) => return Ok(cursor),
                    Err(_expired) => return Err(EngineError::WatchExpired),
                    // The sender lives as long as this engine.
                    Ok(Resumed::NotYet) => drop(moves.changed().await),
                }
            }
        };
        timeout(CATCH_UP, resumed).await.unwrap_or(Err(EngineError::WatchExpired))
    }
}

impl Watch {
    /// Waits for what there is to send next, with the revision after all of it. Cancel-safe: what is not returned comes the next time.
    pub async fn next(&mut self) -> Result<(Vec<WatchEvent>, Option<Revision>), EngineError> {
        match &self.state {
            State::Listing { from, after } => self.list(*from, after.clone()).await,
            State::Following { cursor, unreported } => self.follow(*cursor, *unreported).await,
        }
    }

    async fn list(
        &mut self,
        from: Cursor,
        after: Option<AgentKey>,
    ) -> Result<(Vec<WatchEvent>, Option<Revision>), EngineError> {
        let (agents, next) = match &self.watched {
            Watched::Agent(key) => (self.look_up(key).await?.into_iter().collect(), None),
            Watched::Within(scope) => self.page(scope.clone(), after).await?,
        };
        let mut changes: Vec<_> = agents.into_iter().map(WatchEvent::Agent).collect();
        if next.is_some() {
            self.state = State::Listing { from, after: next };
            return Ok((changes, None));
        }
        let revision = self.revision(from)?;
        changes.push(WatchEvent::Bookmark);
        self.state = State::Following { cursor: from, unreported: 0 };
        Ok((changes, Some(revision)))
    }

    async fn page(
        &self,
        within: Scope,
        after: Option<AgentKey>,
    ) -> Result<(Vec<Listed>, Option<AgentKey>), EngineError> {
        let query = AgentsQuery { within, name: None, host: None, phase: None, after, size: PAGE, view: self.view };
        self.engine.list(&query).await.map(|page| (page.agents, page.next))
    }

    async fn follow(
        &mut self,
        mut cursor: Cursor,
        mut unreported: usize,
    ) -> Result<(Vec<WatchEvent>, Option<Revision>), EngineError> {
        let mut moves = self.engine.changes.moves();
        loop {
            let events =
                self.engine.changes.read(&mut cursor, BATCH).map_err(|_expired| EngineError::WatchExpired)?;
            if events.is_empty() {
                // The sender lives as long as the engine.
                let _ = moves.changed().await;
                continue;
            }
            unreported += events.len();
            let mut changes = self.read_changes(events).await?;
            if changes.is_empty() && unreported < UNREPORTED {
                self.state = State::Following { cursor, unreported };
                continue;
            }
            let revision = self.revision(cursor)?;
            if changes.is_empty() {
                changes.push(WatchEvent::Bookmark);
            }
            self.state = State::Following { cursor, unreported: 0 };
            return Ok((changes, Some(revision)));
        }
    }

    /// What these changes mean for the agents that are watched: how each of them is now.
    async fn read_changes(&self, events: Vec<Event>) -> Result<Vec<WatchEvent>, EngineError> {
        let mut changed = BTreeMap::new();
        for event in events {
            if let Event::Agent(agent) = event
                && self.watched.holds(&agent.key)
            {
                changed.insert(agent.key, (agent.phase, agent.epoch));
            }
        }
        let read = async |(key, (phase, epoch)): (AgentKey, (Option<Phase>, Epoch))| {
            Ok::<_, EngineError>(match self.look_up(&key).await? {
                Some(listed) => Some(WatchEvent::Agent(listed)),
                None if phase.is_none() => Some(WatchEvent::Removed(key, epoch)),
                // Gone since, which its next change says; or the store was lost, which ends this watch.
                None => None,
            })
        };
        let reads: Vec<_> = changed.into_iter().map(read).collect();
        let changes: Vec<_> = stream::iter(reads).buffered(AT_ONCE).try_collect().await?;
        Ok(changes.into_iter().flatten().collect())
    }

    async fn look_up(&self, key: &AgentKey) -> Result<Option<Listed>, EngineError> {
        match self.engine.registry.get(key, self.view).await {
            Ok(record) => Ok(record.map(|record| Listed::Agent(Box::new(self.engine.as_it_is(record))))),
            Err(RegistryError::Unreadable { what, .. }) => {
                Ok(Some(Listed::Unreadable(UnreadableAgent { key: key.clone(), what })))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn revision(&self, cursor: Cursor) -> Result<Revision, EngineError> {
        let revision = self.engine.changes.revision(cursor).map_err(|_expired| EngineError::WatchExpired)?;
        revision.ok_or(EngineError::Restoring)
    }
}

#[cfg(test)]
mod tests;
