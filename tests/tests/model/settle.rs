//! What comes of a state when faults stop: messages arrive, hosts renew, engines and hosts do what they are there for.

use super::{
    protocol::{Protocol, Step},
    state::{Here, Record, State},
};

/// Rounds after which everything must have found its place: a few leases.
const ROUNDS: usize = 16;

impl Protocol {
    /// Goes on without faults until every agent runs, or has had all the time it may need.
    pub(crate) fn settle(&self, s: &mut State) {
        for _ in 0..ROUNDS {
            self.fair_round(s);
            if self.all_run(s) {
                break;
            }
        }
    }

    /// Whether every agent runs, as one process, where its record says.
    pub(crate) fn all_run(&self, s: &State) -> bool {
        (0..self.agents).all(|agent| {
            let on = s.hosts.iter().enumerate().filter_map(|(host, h)| match h.agents[agent] {
                Here::Process { epoch } => Some((host, epoch)),
                _ => None,
            });
            let on: Vec<_> = on.collect();
            matches!((&on[..], s.records[agent]), ([(host, epoch)], Record::Claimed { epoch: now, host: at, .. })
                if *epoch == now && *host == at)
        })
    }

    /// Everybody acts once, nothing is lost.
    fn fair_round(&self, s: &mut State) {
        for host in 0..s.hosts.len() {
            if !s.hosts[host].up {
                self.take(s, Step::HostReturns(host));
            }
            self.take(s, Step::SendRenewal(host));
            self.take(s, Step::RenewalAnswered(host));
        }
        let unbounded =
            Self { bounds: super::Bounds { time: u8::MAX, crashes: 0, messages: usize::MAX, wipes: 0 }, ..*self };
        // Engines and hosts, until there is nothing left to do in this round.
        loop {
            let mut steps = vec![];
            unbounded.possible(s, &mut steps);
            let useful = |step: &Step| {
                matches!(
                    step,
                    Step::Claim { .. }
                        | Step::TakeOver(_)
                        | Step::Assign { .. }
                        | Step::Deliver(_)
                        | Step::Spawn { .. }
                        | Step::AdmitAgain { .. }
                        | Step::Report { .. }
                        | Step::HasTold(_)
                )
            };
            match steps.into_iter().find(useful) {
                Some(step) => self.take(s, step),
                None => break,
            }
        }
        let mut steps = vec![];
        unbounded.possible(s, &mut steps);
        for step in steps.into_iter().filter(|step| matches!(step, Step::CallAgain(_))) {
            self.take(s, step);
        }
        self.take(s, Step::Tick);
    }
}
