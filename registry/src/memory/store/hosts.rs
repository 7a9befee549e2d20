//! What hosts do: announce themselves, renew, leave, and are forgotten.

use super::{Store, after, is_over};
use crate::{
    ids::{HostId, Incarnation, UnixMillis},
    ops::{Announce, Announced, Cordon, HostsView, Renew, Renewal},
    record::{AgentRecord, HostRecord, HostState, Phase},
    resources::Resources,
};
use std::time::Duration;

impl Store {
    pub(in crate::memory) fn announce(&mut self, r: &Announce, random: u64, now: UnixMillis) -> Announced {
        if !std::mem::replace(&mut self.born, true) {
            self.generation = random;
        }
        self.hold = r.hold;
        if self.is_wiped(r.knew.as_ref()) {
            self.hold(r.hold, now);
        }
        if self.is_lost(r.knew.as_ref()) && self.is_held(now) {
            self.awaited.insert((r.host.clone(), r.incarnation.clone()));
            self.held_until = Some(after(now, r.hold));
        }
        self.raise_epoch(r.highest_epoch, now);
        let before = self.hosts.get(&r.host).cloned();
        let cordoned = before.as_ref().is_some_and(|h| h.cordoned && h.incarnation == r.incarnation);
        let (mut used, mut former_until, mut returned) = (Resources::default(), UnixMillis(0), 0);
        if let Some(before) = before {
            (used, former_until) = (before.used, before.former_until);
            let ended = before.incarnation != r.incarnation && Some(&before.incarnation) == r.succeeds.as_ref();
            if ended {
                self.has_told(&r.host, &before.incarnation);
            }
            if ended && !self.is_held(now) {
                if let Some(host) = self.hosts.get_mut(&r.host) {
                    host.incarnation = r.incarnation.clone();
                }
                returned = self.give_back(&r.host, &before.incarnation, &r.incarnation, now);
                used = self.hosts.get(&r.host).map(|h| h.used.clone()).unwrap_or_default();
            } else if before.incarnation != r.incarnation {
                former_until = former_until.max(if ended { now } else { before.deadline });
                used = self.claimed_by(&r.host, &r.incarnation);
            }
        }
        let host = HostRecord {
            host: r.host.clone(),
            incarnation: r.incarnation.clone(),
            address: r.address.clone(),
            dns_name: r.dns_name.clone(),
            state: if cordoned { HostState::Draining } else { HostState::Ready },
            cordoned,
            capacity: r.capacity.clone(),
            used,
            labels: r.labels.clone(),
            version: r.version.clone(),
            deadline: UnixMillis(now.0 + r.ttl.as_millis() as u64),
            former_until,
        };
        self.hosts.insert(r.host.clone(), host);
        Announced { generation: self.life(), returned }
    }

    /// Room of the claims that a life has: one that had the name before, and lost it to one that is over now, has them still.
    fn claimed_by(&self, host: &HostId, incarnation: &Incarnation) -> Resources {
        let mut used = Resources::default();
        let here = self.on(host).into_iter().filter_map(|member| self.agents.get(&member));
        here.filter(|agent| agent.incarnation.as_ref() == Some(incarnation))
            .for_each(|agent| used.add(&agent.demand));
        used
    }

    /// Gives the claims of a life that has ended to the next one.
    pub(super) fn give_back(&mut self, host: &HostId, old: &Incarnation, new: &Incarnation, now: UnixMillis) -> u32 {
        let mut returned = 0;
        for member in self.on(host) {
            let Some(agent) = self.agents.get(&member).filter(|a| a.incarnation.as_ref() == Some(old)) else {
                continue;
            };
            let agent = agent.clone();
            if agent.phase == Phase::Stopping {
                self.vacate(&AgentRecord { incarnation: Some(new.clone()), ..agent.clone() });
                self.remove(&member, &agent);
            } else {
                self.seat(&member, host, new, now);
                returned += 1;
            }
        }
        returned
    }

    pub(in crate::memory) fn renew(&mut self, r: &Renew, now: UnixMillis) -> Renewal {
        let Some(host) = self.hosts.get_mut(&r.host) else { return Renewal::Unknown };
        if host.incarnation != r.incarnation {
            return Renewal::Superseded;
        }
        host.state = if host.cordoned { HostState::Draining } else { r.state };
        host.deadline = UnixMillis(now.0 + r.ttl.as_millis() as u64);
        self.raise_epoch(r.highest_epoch, now);
        let generation = self.life();
        if r.told.as_ref() == Some(&generation) {
            self.has_told(&r.host, &r.incarnation);
        } else if self.is_held(now) && self.awaited.contains(&(r.host.clone(), r.incarnation.clone())) {
            // It lives on and has not told everything yet: nothing is decided without it, however long that takes.
            self.held_until = Some(after(now, self.hold));
        }
        Renewal::Held { generation }
    }

    pub(in crate::memory) fn depart(&mut self, id: &HostId, incarnation: &Incarnation) {
        let empty = self.on(id).is_empty();
        let Some(host) = self.hosts.get_mut(id).filter(|h| h.incarnation == *incarnation) else { return };
        host.deadline = UnixMillis(0);
        self.has_told(id, incarnation);
        if empty {
            self.hosts.remove(id);
        }
    }

    pub(in crate::memory) fn retire(
        &mut self,
        id: &HostId,
        incarnation: &Incarnation,
        grace: Duration,
        now: UnixMillis,
    ) -> bool {
        let over = |h: &HostRecord| is_over(h.deadline, grace, now) && h.incarnation == *incarnation;
        let retires = self.hosts.get(id).is_some_and(over) && self.on(id).is_empty();
        if retires {
            self.has_told(id, incarnation);
            self.hosts.remove(id);
        }
        retires
    }

    pub(in crate::memory) fn cordon(&mut self, host: &HostId, cordon: Cordon) -> bool {
        let Some(host) = self.hosts.get_mut(host) else { return false };
        host.cordoned = cordon == Cordon::On;
        host.state = if host.cordoned { HostState::Draining } else { HostState::Ready };
        true
    }

    pub(in crate::memory) fn hosts_view(&self, now: UnixMillis) -> HostsView {
        let generation = self.born.then(|| self.life());
        HostsView {
            now,
            generation,
            held: self.is_held(now),
            pending: self.pending().len() as u64,
            hosts: self.hosts.values().cloned().collect(),
        }
    }
}
