//! What a lost store makes of it: hosts tell it again what they run, and until they have nobody is placed.
//!
//! Engines notice a loss at once; the engines of the real system do so a moment later, and hold for as long from then on.

use super::{
    protocol::{GRACE, Mutation, Protocol, Step, TTL},
    state::{Here, Record, State},
};

impl State {
    /// Everything is gone but the time, from which epochs are counted.
    pub(super) fn wipe(&mut self) {
        self.store += 1;
        self.records.fill(Record::Nothing);
        for host in &mut self.hosts {
            (host.deadline, host.known_life, host.awaited) = (0, 0, false);
        }
        self.held_least = self.now + TTL + GRACE;
        self.held_until = self.held_least;
    }

    /// A host has told all it runs, or has nothing left to tell.
    pub(super) fn has_told(&mut self, host: usize) {
        self.hosts[host].reported = self.store;
        if std::mem::take(&mut self.hosts[host].awaited) && self.hosts.iter().all(|h| !h.awaited) {
            self.held_until = self.held_least;
        }
    }
}

impl Protocol {
    /// Steps that only a store which was lost makes possible, and the loss itself.
    pub(super) fn possible_telling(&self, s: &State, steps: &mut Vec<Step>) {
        if s.store < self.bounds.wipes {
            steps.push(Step::Wipe);
        }
        for (host, h) in s.hosts.iter().enumerate().filter(|(_, h)| h.up && h.store_life == s.store && h.reported != s.store) {
            let untold = |agent: &usize| h.agents[*agent].epoch().is_some() && !self.is_told(s, *agent, host);
            let untold: Vec<_> = (0..self.agents).filter(untold).collect();
            if untold.is_empty() {
                steps.push(Step::HasTold(host));
            }
            steps.extend(untold.into_iter().map(|agent| Step::Report { agent, host }));
        }
    }

    /// Whether the store has an agent as its host has it.
    fn is_told(&self, s: &State, agent: usize, host: usize) -> bool {
        let here = s.hosts[host].agents[agent].epoch();
        matches!(s.records[agent], Record::Claimed { epoch, host: on, .. } if Some(epoch) == here && on == host)
    }

    /// The scripts `announce` and `renew` of a host that has something to tell: nothing is decided without it, if nothing was yet.
    pub(super) fn await_telling(&self, s: &mut State, host: usize) {
        if s.hosts[host].reported != s.store && s.is_held() && self.mutation != Mutation::NoAwait {
            s.hosts[host].awaited = true;
            s.held_until = s.now + TTL + GRACE;
        }
    }

    /// The script `restore`: the later claim is right.
    pub(super) fn report(&self, s: &mut State, agent: usize, host: usize) {
        let here = s.hosts[host].agents[agent];
        let Some(epoch) = here.epoch() else { return };
        s.told_again = true;
        if s.records[agent].epoch() > epoch {
            // It ends what it has.
            s.hosts[host].agents[agent] = Here::No;
            return;
        }
        let life = s.hosts[host].life;
        s.records[agent] = Record::Claimed { epoch, host, life, accepted: true };
        // Of one that was killed with the lease nobody knows whether its claim was given away before the loss.
        let trusted = !matches!(here, Here::Between { fenced: true, .. });
        if trusted || self.mutation == Mutation::TrustsWhatItTold {
            s.hosts[host].acknowledged[agent] = s.store;
        }
    }

    /// An agent is to be started again, and the store was lost since it acknowledged it last.
    pub(super) fn admit_by_telling(&self, s: &mut State, agent: usize, host: usize) {
        if s.hosts[host].store_life != s.store {
            return;
        }
        self.report(s, agent, host);
        match s.hosts[host].agents[agent] {
            // It gets a new claim.
            Here::Between { fenced: true, .. } if self.mutation != Mutation::TrustsWhatItTold => {
                s.hosts[host].agents[agent] = Here::No;
                let epoch = s.epoch();
                s.records[agent] = Record::Pending { epoch };
            }
            Here::Between { epoch, .. } => s.hosts[host].agents[agent] = Here::Admitted { epoch },
            Here::No | Here::Admitted { .. } | Here::Process { .. } => {}
        }
    }
}
