//! What is only read.

use super::{Store, project};
use crate::{
    encoded,
    ids::AgentKey,
    ops::{EventId, Events, Index, Look, Page, Queue},
    record::{AgentRecord, View},
};
use std::collections::BTreeSet;

impl Store {
    /// A page of an index.
    pub fn list(&self, index: &Index, after: Option<&AgentKey>, limit: usize, view: View) -> Page {
        let after = after.map(encoded::member);
        let wanted = |r: &AgentRecord| match index {
            Index::Within(scope) => scope.holds(&r.key),
            Index::Host(host) => r.phase().holds_room() && r.host() == Some(host),
        };
        let later = self.agents.iter().filter(|(m, r)| after.as_ref().is_none_or(|a| *m > a) && wanted(r));
        let agents: Vec<_> = later.take(limit).map(|(_, r)| project(r, view)).collect();
        let next = agents.last().map(|r| r.key.clone()).filter(|_| agents.len() == limit);
        let settled = (self.born && !self.is_held()).then(|| self.life());
        Page { agents, unreadable: vec![], next, settled }
    }

    /// Those of a queue that must be seen to first.
    pub fn oldest(&self, queue: Queue, skip: usize, limit: usize, view: View) -> Vec<AgentRecord> {
        let found: Vec<&AgentRecord> = match queue {
            Queue::Pending => self.in_order(self.lines.members()),
            Queue::Lines => {
                return self
                    .in_order(self.lines.oldest_of_each(skip, limit))
                    .into_iter()
                    .map(|r| project(r, view))
                    .collect();
            }
            Queue::Unaccepted => {
                let mut old: Vec<_> = self.unaccepted.iter().map(|(member, epoch)| (*epoch, member)).collect();
                old.sort();
                old.into_iter().filter_map(|(_, member)| self.agents.get(member)).collect()
            }
        };
        found.into_iter().skip(skip).take(limit).map(|r| project(r, view)).collect()
    }

    fn in_order(&self, members: BTreeSet<(u64, String)>) -> Vec<&AgentRecord> {
        members.into_iter().filter_map(|(_, member)| self.agents.get(&member)).collect()
    }

    /// One agent.
    pub fn get(&self, key: &AgentKey, view: View) -> Option<AgentRecord> {
        self.agents.get(&encoded::member(key)).map(|r| project(r, view))
    }

    /// Up to `limit` changes after one that was read.
    pub fn events(&self, after: EventId, limit: usize) -> Events {
        let seen = usize::try_from(after.0).unwrap_or(usize::MAX);
        let later = self.events.iter().zip(1..).skip(seen).take(limit);
        let entries: Vec<_> = later.map(|(event, number)| (EventId(number, 0), event.clone())).collect();
        Events { last: entries.last().map_or(after, |(id, _)| *id), entries }
    }

    /// Which leases there are.
    pub fn look(&self) -> Look {
        let leases = self.hosts.values().map(|h| (h.host.clone(), (h.life, h.renewals)));
        Look { store_life: self.born.then(|| self.life()), leases: leases.collect() }
    }
}
