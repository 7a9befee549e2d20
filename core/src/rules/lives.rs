//! Store lives: whether the store lost something, and which hosts have reported since. `prelude.lua` says the same.

use super::{Former, Settling, Store};
use crate::{
    encoded,
    ids::{AgentKey, Epoch, HostId, Incarnation, Stops, StoreLife, UnixMillis},
    ops::{Bring, Retire},
    record::FormerState,
};

/// Most stops that are known one by one.
const MOST_STOPPED: usize = 10_000;

impl Store {
    pub(super) fn life(&self) -> StoreLife {
        StoreLife(match self.life_of {
            None => self.generation.to_string(),
            Some(run) => format!("{}.{run}", self.generation),
        })
    }

    /// Whether this is another store life than the one named.
    pub fn is_lost(&self, store_life: Option<&StoreLife>) -> bool {
        store_life
            .is_some_and(|store_life| *store_life != StoreLife::NONE && (!self.born || *store_life != self.life()))
    }

    /// Whether everything was lost since that store life.
    pub(super) fn is_wiped(&self, store_life: Option<&StoreLife>) -> bool {
        let random = |life: &str| life.split('.').next().unwrap_or_default().to_owned();
        store_life.is_some_and(|store_life| !self.born || random(&store_life.0) != self.generation.to_string())
    }

    /// A life of the store begins with the first who comes.
    pub(super) fn be_born(&mut self, random: u64) {
        if !std::mem::replace(&mut self.born, true) {
            self.generation = random;
            self.settling = Some(Settling::New);
            self.store_changed();
        }
    }

    /// See `notice_another_run` of the prelude.
    pub fn notice_another_run(&mut self, run: u64, now: UnixMillis) {
        let seen = self.run.replace(run);
        if seen.is_none() || seen == Some(run) || !self.born {
            return;
        }
        self.life_of = Some(run);
        self.known_epoch = Some(Epoch(self.epoch));
        self.count_epochs_from(now);
        self.settling = Some(Settling::Lost);
        self.reporting = self.hosts.keys().cloned().collect();
        self.store_changed();
    }

    pub(super) fn is_held(&self) -> bool {
        self.settling.is_some()
    }

    /// Ends the time in which a store life settles. Returns whether it did.
    pub fn settle(&mut self, store: &StoreLife, watched: bool) -> bool {
        let may = match self.settling {
            None => false,
            Some(Settling::New) => true,
            Some(Settling::Lost) => watched,
        };
        let awaited = self.former.values().any(|f| f.state == FormerState::Awaited);
        if self.is_lost(Some(store)) || !may || awaited || !self.reporting.is_empty() {
            return false;
        }
        self.settling = None;
        self.store_changed();
        true
    }

    /// See [`Bring`].
    pub fn bring(&mut self, r: &Bring, random: u64, now: UnixMillis) {
        self.be_born(random);
        if !self.is_lost(Some(&r.former_store_life)) {
            return;
        }
        self.raise_epoch(r.highest_epoch.with_unheard(), now);
        self.lives = self.lives.max(r.highest_life.0);
        for (key, epoch) in &r.stopped {
            let member = encoded::member(key);
            // What a store has of it that was rolled back is older than its stop.
            let old = self.agents.get(&member).filter(|old| old.epoch <= *epoch).cloned();
            if let Some(old) = old.filter(|_| self.is_held()) {
                if old.phase().holds_room() {
                    self.free_room(&old);
                }
                self.remove(&member, &old, *epoch);
            } else if !self.was_stopped(&member, *epoch) {
                self.bury(&member, *epoch);
            }
        }
        if !self.is_held() {
            return;
        }
        self.settling = Some(Settling::Lost);
        for (host, incarnation, lasts) in &r.hosts {
            let here = self.hosts.get(host).is_some_and(|h| h.incarnation == *incarnation);
            if !here && self.former(host, incarnation).is_none() {
                let awaited = Former { state: FormerState::Awaited, lasts: *lasts, renewal: Retire::HOLDS_NO_LEASE };
                self.become_former(host, incarnation, awaited);
            }
        }
    }

    pub(super) fn former(&self, host: &HostId, incarnation: &Incarnation) -> Option<FormerState> {
        self.former.get(&(host.clone(), incarnation.clone())).map(|f| f.state)
    }

    pub(super) fn become_former(&mut self, host: &HostId, incarnation: &Incarnation, former: Former) {
        let process = (host.clone(), incarnation.clone());
        // Nobody has anything to take from one that has nothing.
        if former.state == FormerState::Over && self.on(host).is_empty() {
            self.former.remove(&process);
        } else {
            self.former.insert(process, former);
        }
    }

    /// Whether a process of a host may still run what it has claimed.
    pub(super) fn is_live(&self, host: &HostId, incarnation: &Incarnation) -> bool {
        self.hosts.get(host).is_some_and(|h| h.incarnation == *incarnation)
            || matches!(self.former(host, incarnation), Some(FormerState::Silent | FormerState::Awaited))
    }

    pub(super) fn bury(&mut self, member: &str, epoch: Epoch) {
        self.stops += 1;
        // A stop of an agent that nobody knows has no epoch, and takes nothing back from one that had.
        let before = self.stopped.get(member).map_or(Epoch(0), |(_, epoch)| *epoch);
        self.stopped.insert(member.to_owned(), (self.stops, epoch.max(before)));
        if self.stopped.len() > MOST_STOPPED {
            let oldest = self.stopped.iter().min_by_key(|(_, (number, _))| *number);
            if let Some((member, (number, _))) = oldest.map(|(member, stop)| (member.clone(), *stop)) {
                self.stopped.remove(&member);
                self.stops_forgotten = number;
            }
        }
    }

    pub(super) fn was_stopped_since(&self, member: &str, asked: Stops) -> bool {
        asked.0 < self.stops_forgotten || self.stopped.get(member).is_some_and(|(number, _)| *number > asked.0)
    }

    pub(super) fn was_stopped(&self, member: &str, epoch: Epoch) -> bool {
        self.stopped.get(member).is_some_and(|(_, stopped)| *stopped >= epoch)
    }

    /// Notes that somebody asked to stop an unknown agent. Returns whether it is unknown; `None` while hosts still report.
    pub fn bury_unknown(&mut self, key: &AgentKey) -> Option<bool> {
        if self.is_held() {
            return None;
        }
        let member = encoded::member(key);
        let unknown = !self.agents.contains_key(&member);
        if unknown {
            self.bury(&member, Epoch(0));
        }
        Some(unknown)
    }
}
