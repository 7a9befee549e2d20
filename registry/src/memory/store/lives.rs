//! The store's own lives: whether it lost something, and who has told it again. `prelude.lua` says the same.

use super::{Store, after};
use crate::ids::{Epoch, HostId, Incarnation, UnixMillis};
use std::time::Duration;

impl Store {
    pub(super) fn life(&self) -> String {
        match self.life_of {
            None => self.generation.to_string(),
            Some(run) => format!("{}.{run}", self.generation),
        }
    }

    /// Whether this is another life of the store than the one that `knew` names.
    pub(in crate::memory) fn is_lost(&self, knew: Option<&String>) -> bool {
        knew.is_some_and(|knew| !self.born || *knew != self.life())
    }

    /// Whether everything was lost since `knew`.
    pub(super) fn is_wiped(&self, knew: Option<&String>) -> bool {
        let random = |life: &str| life.split('.').next().unwrap_or_default().to_owned();
        knew.is_some_and(|knew| !self.born || random(knew) != self.generation.to_string())
    }

    pub(super) fn hold(&mut self, hold: Duration, now: UnixMillis) {
        self.held_until.get_or_insert(after(now, hold));
        self.held_least.get_or_insert(after(now, hold));
    }

    /// See `notice_another_run` of the prelude.
    pub(in crate::memory) fn notice_another_run(&mut self, run: u64, now: UnixMillis) {
        let seen = self.run.replace(run);
        if seen.is_none() || seen == Some(run) || !self.born {
            return;
        }
        self.life_of = Some(run);
        self.known_epoch = Some(Epoch(self.epoch));
        self.count_epochs_from(now);
        self.awaited = self.hosts.values().map(|h| (h.host.clone(), h.incarnation.clone())).collect();
        let third = after(now, Duration::from_millis(self.hold.as_millis() as u64 / 3));
        self.held_least = self.held_least.max(Some(third));
        let longest = if self.awaited.is_empty() { third } else { after(now, self.hold) };
        self.held_until = self.held_least.max(Some(longest));
    }

    /// A life of a host has told all it runs, or has nothing left to tell.
    pub(super) fn has_told(&mut self, host: &HostId, incarnation: &Incarnation) {
        if self.awaited.remove(&(host.clone(), incarnation.clone())) && self.awaited.is_empty() {
            self.held_until = self.held_least;
        }
    }

    pub(super) fn is_held(&self, now: UnixMillis) -> bool {
        self.held_until.is_some_and(|until| until > now)
    }
}
