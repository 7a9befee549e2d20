//! What hosts do: announce themselves, renew, leave, and are retired.

use super::{Former, Place, Store};
use crate::{
    condition::{AgentReason, Condition},
    ids::{Epoch, HostId, HostLife, Incarnation, Stops, UnixMillis},
    ops::{Announce, Announced, Cordon, Drift, HostsView, Renew, Renewal, Retire},
    record::{FormerProcess, FormerState, HostRecord, Phase},
    resources::Resources,
};

impl Store {
    /// See [`Announce`]. `random` names the store's life, if it has none.
    pub fn announce(&mut self, r: &Announce, random: u64, now: UnixMillis) -> Announced {
        self.be_born(random);
        // The host has to report what it runs, and nothing was decided without that yet.
        let reporting = self.is_held() && r.store_life.is_some() && r.reported.as_ref() != Some(&self.life());
        if reporting && self.is_lost(r.store_life.as_ref()) {
            self.settling = Some(super::Settling::Lost);
        }
        let given =
            if self.is_lost(r.store_life.as_ref()) { r.highest_epoch.with_unheard() } else { r.highest_epoch };
        self.raise_epoch(given, now);
        if let Some(before) = self.hosts.get(&r.host).filter(|h| h.incarnation != r.incarnation) {
            let (process, lasts, renewal) =
                (before.incarnation.clone(), before.lasts, (before.life, before.renewals));
            let state = match Some(&process) == r.succeeds.as_ref() {
                true => FormerState::Over,
                // It runs what nobody knows of: the store does not settle before it is retired.
                false if self.reporting.contains(&r.host) => FormerState::Awaited,
                false => FormerState::Silent,
            };
            self.become_former(&r.host, &process, Former { state, lasts, renewal });
        }
        // Somebody may have cordoned or uncordoned the host here, after the host saw it last. A store that was lost does not know: what
        // the host says of it counts.
        let here = self
            .hosts
            .get(&r.host)
            .filter(|h| h.incarnation == r.incarnation && !self.is_lost(r.store_life.as_ref()));
        let cordoned = here.map_or(r.cordoned, |h| h.cordoned);
        self.former.remove(&(r.host.clone(), r.incarnation.clone()));
        let mut returned = 0;
        if let Some(ended) = r.succeeds.as_ref().filter(|ended| **ended != r.incarnation)
            && self.former(&r.host, ended).is_some()
        {
            self.become_former(&r.host, ended, Former::OVER);
            if !self.is_held() {
                returned = self.give_back(r, ended, now);
                self.former.remove(&(r.host.clone(), ended.clone()));
            }
        }
        self.lives = self.lives.max(r.highest_life.0) + 1;
        let host = HostRecord {
            host: r.host.clone(),
            incarnation: r.incarnation.clone(),
            address: r.address.clone(),
            dns_name: r.dns_name.clone(),
            state: r.state,
            cordoned,
            capacity: r.capacity.clone(),
            used: self.claimed_by(&r.host, &r.incarnation),
            labels: r.labels.clone(),
            version: r.version.clone(),
            life: HostLife(self.lives),
            renewals: 0,
            ttl: r.ttl,
            lasts: r.lasts,
            renewed: now,
        };
        self.hosts.insert(r.host.clone(), host);
        self.set_reporting(&r.host, reporting);
        self.host_changed(&r.host);
        Announced {
            store_life: self.life(),
            life: HostLife(self.lives),
            returned,
            stops: Stops(self.stops),
            highest_epoch: Epoch(self.epoch),
        }
    }

    fn set_reporting(&mut self, host: &HostId, reporting: bool) {
        if reporting {
            self.reporting.insert(host.clone());
        } else {
            self.reporting.remove(host);
        }
    }

    /// What the claims of a process take.
    fn claimed_by(&self, host: &HostId, incarnation: &Incarnation) -> Resources {
        let mut used = Resources::default();
        let here = self.on(host).into_iter().filter_map(|member| self.agents.get(&member));
        let places = here.filter_map(|agent| agent.assignment());
        places.filter(|place| place.incarnation == *incarnation).for_each(|place| used.add(&place.takes));
        used
    }

    /// Gives the claims of a process that has ended to the one that has its name now.
    fn give_back(&mut self, r: &Announce, ended: &Incarnation, now: UnixMillis) -> u32 {
        let mut returned = 0;
        for member in self.on(&r.host) {
            let Some(agent) = self.agents.get(&member).cloned() else { continue };
            let Some(before) = agent.assignment().filter(|place| place.incarnation == *ended) else { continue };
            if agent.phase() == Phase::Stopping {
                self.remove(&member, &agent, agent.epoch);
            } else if r.capacity.has_devices_of(&before.takes) {
                let (host, incarnation) = (r.host.clone(), r.incarnation.clone());
                self.assign_to(&member, Place { host, incarnation, takes: before.takes.clone() }, now);
                returned += 1;
            } else {
                let lost = Condition::new(AgentReason::DeviceLost, "its host came back without a device that it had");
                self.wait_for_room(&member, &lost, now);
            }
        }
        returned
    }

    /// See [`Renew`].
    pub fn renew(&mut self, r: &Renew, now: UnixMillis) -> Renewal {
        if self.is_lost(Some(&r.store_life)) {
            return Renewal::StoreLost;
        }
        let former = self.former(&r.host, &r.incarnation);
        let Some(host) = self.hosts.get_mut(&r.host) else {
            return if former.is_some() { Renewal::Retired } else { Renewal::Unknown };
        };
        if host.incarnation != r.incarnation {
            return Renewal::Superseded;
        }
        // A later announcement of its own, whose answer it has not had: nobody has taken anything.
        if host.life != r.life {
            return Renewal::StoreLost;
        }
        let changes = host.state != r.state;
        (host.renewals, host.state, host.renewed) = (host.renewals + 1, r.state, now);
        let cordoned = host.cordoned;
        self.raise_epoch(r.highest_epoch, now);
        if r.reported {
            self.reporting.remove(&r.host);
        }
        if changes {
            self.host_changed(&r.host);
        }
        Renewal::Held { cordoned, stops: Stops(self.stops), highest_epoch: Epoch(self.epoch) }
    }

    /// Takes a host off the list at the end of its life.
    pub fn depart(&mut self, id: &HostId, incarnation: &Incarnation) {
        if self.hosts.get(id).is_some_and(|h| h.incarnation == *incarnation) {
            self.take_lease(id, incarnation);
        }
    }

    /// A process holds no lease any more, and what it claimed is others' to take.
    fn take_lease(&mut self, id: &HostId, incarnation: &Incarnation) {
        self.become_former(id, incarnation, Former::OVER);
        self.hosts.remove(id);
        self.reporting.remove(id);
        self.host_changed(id);
    }

    /// See [`Retire`]. Returns whether the process was retired.
    pub fn retire(&mut self, r: &Retire) -> bool {
        if self.is_lost(Some(&r.store_life)) {
            return false;
        }
        match self.hosts.get(&r.host).filter(|h| h.incarnation == r.incarnation) {
            Some(host) if (host.life, host.renewals) != r.seen => false,
            Some(_) => {
                self.take_lease(&r.host, &r.incarnation);
                true
            }
            None => {
                // It may have renewed before it lost its name: then it was not seen to be silent.
                let former = self.former.get(&(r.host.clone(), r.incarnation.clone()));
                let silent = former.is_some_and(|f| f.state != FormerState::Over && f.renewal == r.seen);
                if silent {
                    self.become_former(&r.host, &r.incarnation, Former::OVER);
                    self.host_changed(&r.host);
                }
                silent
            }
        }
    }

    /// Forgets a process that is over once nothing is left that it claimed. Returns whether it did.
    pub fn forget(&mut self, host: &HostId, incarnation: &Incarnation) -> bool {
        let over = self.former(host, incarnation) == Some(FormerState::Over);
        let claims = |member: String| self.agents[&member].incarnation() == Some(incarnation);
        if !over || self.on(host).into_iter().any(claims) {
            return false;
        }
        self.former.remove(&(host.clone(), incarnation.clone()));
        true
    }

    /// See [`Cordon`]. Returns whether the host is known.
    pub fn cordon(&mut self, id: &HostId, cordon: Cordon) -> bool {
        let Some(host) = self.hosts.get_mut(id) else { return false };
        let before = std::mem::replace(&mut host.cordoned, cordon == Cordon::On);
        if before != (cordon == Cordon::On) {
            self.host_changed(id);
        }
        true
    }

    /// What is reserved on a host becomes what its agents take. Returns both if they differed.
    pub fn audit(&mut self, id: &HostId) -> Option<Drift> {
        let claimed = self.claimed_by(id, &self.hosts.get(id)?.incarnation);
        let host = self.hosts.get_mut(id)?;
        if host.used.same_amounts(&claimed) {
            return None;
        }
        let reserved = std::mem::replace(&mut host.used, claimed.clone());
        self.host_changed(id);
        Some(Drift { reserved, claimed })
    }

    /// All hosts.
    pub fn hosts_view(&self, now: UnixMillis) -> HostsView {
        let former = self.former.iter().map(|((host, incarnation), f)| FormerProcess {
            host: host.clone(),
            incarnation: incarnation.clone(),
            state: f.state,
            lasts: f.lasts,
            renewal: f.renewal,
        });
        HostsView {
            now,
            store_life: self.born.then(|| self.life()),
            held: self.is_held(),
            pending: self.lines.len() as u64,
            stops: Stops(self.stops),
            highest_epoch: Epoch(self.epoch),
            hosts: self.hosts.values().cloned().collect(),
            former: former.collect(),
        }
    }
}
