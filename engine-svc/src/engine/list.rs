//! Listing agents and hosts, page by page.

use super::Engine;
use crate::{error::EngineError, fleet::FleetView};
use rustic_registry::{
    AgentKey, AgentRecord, Condition, HostId, Index, Page, Phase, Scope, UnreadableAgent, View, keys,
};

/// Most records one call looks at, so that a filter that fits nothing does not read the whole store.
const MOST_LOOKED_AT: usize = 2000;
/// Bytes of one page, unless its only agent takes more: clients read messages of 4 MiB unless they are set up otherwise.
const MOST_BYTES: usize = 3 << 20;
/// What an agent takes on a page beside its spec, its last lines and its reason: ids of at most 256 bytes, numbers, times.
const BESIDES: usize = 1536;

/// Which agents to list. All that are set must fit.
#[derive(Debug, Clone)]
pub struct AgentsQuery {
    /// Of these.
    pub within: Scope,
    /// With this name.
    pub name: Option<String>,
    /// On this host.
    pub host: Option<HostId>,
    /// In this phase.
    pub phase: Option<Phase>,
    /// After this one.
    pub after: Option<AgentKey>,
    /// At most so many.
    pub size: usize,
    /// How much of each.
    pub view: View,
}

/// A page of agents.
#[derive(Debug)]
pub struct AgentsPage {
    /// The agents.
    pub agents: Vec<Listed>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<AgentKey>,
}

/// An agent as it is shown.
#[derive(Debug)]
pub enum Listed {
    /// With all that is known.
    Agent(Box<AgentRecord>),
    /// Another version wrote its record: there it is, and nothing else is known.
    Unreadable(UnreadableAgent),
}

impl Listed {
    fn key(&self) -> &AgentKey {
        match self {
            Self::Agent(record) => &record.key,
            Self::Unreadable(agent) => &agent.key,
        }
    }
}

impl Listed {
    /// Bytes that it takes on a page, at most.
    fn bytes(&self) -> usize {
        let texts = match self {
            Self::Agent(record) => {
                let spec = record.documents.as_ref().map_or(0, |documents| documents.spec.len());
                let lines: usize = record.last_lines.iter().map(|line| line.len() + 4).sum();
                spec + lines + Condition::parts(record.condition.as_ref()).1.len() + record.name.len()
            }
            Self::Unreadable(agent) => agent.what.len(),
        };
        texts + BESIDES
    }
}

impl AgentsQuery {
    /// The narrowest index that holds all that fit.
    fn index(&self) -> Index {
        match (&self.within, &self.host) {
            (Scope::All | Scope::Organization(_), Some(host)) => Index::Host(host.clone()),
            (within, _) => Index::Within(within.clone()),
        }
    }

    fn shows(&self, agent: &Listed) -> bool {
        match agent {
            Listed::Agent(record) => self.fits(record),
            // As far as the index shows.
            Listed::Unreadable(_) => {
                let by_index = !matches!((&self.within, &self.host), (Scope::Guild(_), Some(_)));
                by_index && self.within.holds(agent.key()) && self.name.is_none() && self.phase.is_none()
            }
        }
    }

    fn fits(&self, record: &AgentRecord) -> bool {
        let on_host = |host: &HostId| record.assignment().is_some_and(|assignment| assignment.host == *host);
        self.within.holds(&record.key)
            && self.name.as_ref().is_none_or(|name| record.name == *name)
            && self.host.as_ref().is_none_or(on_host)
            && self.phase.is_none_or(|phase| record.phase() == phase)
    }
}

impl Engine {
    /// Lists agents. The page may be short while more follow.
    pub async fn list(&self, query: &AgentsQuery) -> Result<AgentsPage, EngineError> {
        let index = query.index();
        let mut agents = vec![];
        let mut after = query.after.clone();
        // The last one that was looked at.
        let mut before = after.clone();
        let (mut looked_at, mut bytes) = (0, 0);
        loop {
            // Whole pages, however few are still wanted: a filter must not lead to many small reads.
            let page = self.registry.list(&index, after.as_ref(), query.size, query.view).await?;
            self.check_whole(&page)?;
            looked_at += page.agents.len() + page.unreadable.len();
            after = page.next;
            let readable = page.agents.into_iter().map(|record| Listed::Agent(Box::new(self.as_it_is(record))));
            let mut rows: Vec<_> = readable.chain(page.unreadable.into_iter().map(Listed::Unreadable)).collect();
            // As the index has them, which is where the next page goes on.
            rows.sort_by_cached_key(|row| keys::member(row.key()));
            let mut rows = rows.into_iter();
            while let Some(row) = rows.next() {
                let key = row.key().clone();
                if query.shows(&row) {
                    bytes += row.bytes();
                    if bytes > MOST_BYTES && !agents.is_empty() {
                        return Ok(AgentsPage { agents, next: before });
                    }
                    agents.push(row);
                }
                before = Some(key.clone());
                if agents.len() == query.size {
                    let more = rows.next().is_some() || after.is_some();
                    return Ok(AgentsPage { agents, next: more.then_some(key) });
                }
            }
            if after.is_none() || looked_at >= MOST_LOOKED_AT {
                return Ok(AgentsPage { agents, next: after });
            }
        }
    }

    /// Refuses what was read of a registry that was lost and is being restored: agents that run may be missing.
    pub(super) fn check_whole(&self, page: &Page) -> Result<(), EngineError> {
        match (&page.settled, self.fleet.restored()) {
            (Some(store), Some(restored)) if *store != restored => Err(EngineError::Restoring),
            (Some(_), _) => Ok(()),
            // Nobody has come to it yet, as far as is known.
            (None, None) if self.fleet.view().registry.store_life.is_none() => Ok(()),
            (None, _) => Err(EngineError::Restoring),
        }
    }

    /// Lists up to `size` hosts after `after`, and says whether more follow.
    pub async fn hosts(
        &self,
        after: Option<&HostId>,
        size: usize,
    ) -> Result<(FleetView, Option<HostId>), EngineError> {
        self.fleet.refresh().await?;
        let mut view = self.fleet.view();
        let hosts = &mut view.registry.hosts;
        hosts.retain(|h| after.is_none_or(|after| h.host > *after));
        let more = hosts.len() > size;
        hosts.truncate(size);
        let next = hosts.last().filter(|_| more).map(|h| h.host.clone());
        Ok((view, next))
    }
}
