//! Who can do what, and what comes of it. What a lost store makes of it is in `loss.rs`.
//!
//! Time goes in ticks. A lease lasts [`TTL`] ticks of the store's clock. A host's clock may be slow by [`DRIFT`] over that
//! time; its fence falls [`MARGIN`] before the lease ends, by its own clock. Takeover needs the lease to be over for [`GRACE`].

use super::state::{Call, Here, Record, State};

pub(crate) const HOSTS: usize = 2;
pub(crate) const TTL: u8 = 3;
const MARGIN: u8 = 1;
const DRIFT: u8 = 1;
pub(crate) const GRACE: u8 = 0;

/// How far the model is explored.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Ticks.
    pub(crate) time: u8,
    /// Crashes of hosts and processes, together.
    pub(crate) crashes: u8,
    /// Calls of hosts under way at once.
    pub(crate) messages: usize,
    /// Losses of everything in the store.
    pub(crate) wipes: u8,
}

/// What is left out of the protocol, to see that the checker would notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutation {
    None,
    /// Nobody kills agents when the lease ends.
    NoFence,
    /// The fence falls when the lease ends, by the host's own clock.
    NoMargin,
    /// A host's write is taken whatever epoch it quotes.
    NoEpochs,
    /// Claims that were never accepted are nobody's business.
    NoSecondCall,
    /// A lost store is one like any other: agents are placed at once.
    NoHold,
    /// Hosts that come late to tell are not waited for.
    NoAwait,
    /// An agent that was killed with the lease is started again by the claim that it told a lost store of.
    TrustsWhatItTold,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Protocol {
    pub(crate) agents: usize,
    pub(crate) bounds: Bounds,
    pub(crate) mutation: Mutation,
}

/// What may happen next. Engines are stateless: what any of them may do is a step of its own, and a call that is never
/// delivered is an engine that died.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    Tick,
    SendRenewal(usize),
    /// The store takes it and the host hears so.
    RenewalAnswered(usize),
    /// The store takes it and the answer is lost.
    AnswerLost(usize),
    RenewalLost(usize),
    Claim {
        agent: usize,
        host: usize,
    },
    TakeOver(usize),
    Place {
        agent: usize,
        host: usize,
    },
    CallAgain(usize),
    Deliver(Call),
    LoseCall(Call),
    Spawn {
        agent: usize,
        host: usize,
    },
    /// A fresh write under its epoch, before the next process.
    AdmitAgain {
        agent: usize,
        host: usize,
    },
    ProcessDies {
        agent: usize,
        host: usize,
    },
    HostDies(usize),
    HostReturns(usize),
    /// FLUSHALL.
    Wipe,
    /// A host tells a lost store of an agent.
    Tell {
        agent: usize,
        host: usize,
    },
    HasTold(usize),
    /// From now on nothing is lost, nobody crashes and everybody acts, until there is nothing left to do. May happen in
    /// every state, and is the last step of a path.
    FaultsStop,
}

impl Protocol {
    /// Every step that may happen now.
    pub(crate) fn possible(&self, s: &State, steps: &mut Vec<Step>) {
        if s.calm {
            return;
        }
        steps.push(Step::FaultsStop);
        if s.now < self.bounds.time {
            steps.push(Step::Tick);
        }
        let may_crash = s.crashes < self.bounds.crashes;
        let may_call = s.calls.len() < self.bounds.messages;
        for (host, h) in s.hosts.iter().enumerate() {
            if h.up && h.renewing.is_none() {
                steps.push(Step::SendRenewal(host));
            }
            if h.up && h.renewing.is_some() {
                steps.extend([Step::RenewalAnswered(host), Step::AnswerLost(host), Step::RenewalLost(host)]);
            }
            if may_crash && h.up {
                steps.push(Step::HostDies(host));
            }
            if !h.up {
                steps.push(Step::HostReturns(host));
            }
            for agent in 0..self.agents {
                match h.agents[agent] {
                    Here::Admitted { .. } if h.up => steps.push(Step::Spawn { agent, host }),
                    Here::Between { .. } if h.up && h.fence > s.now => steps.push(Step::AdmitAgain { agent, host }),
                    Here::Process { .. } if h.up && may_crash => steps.push(Step::ProcessDies { agent, host }),
                    _ => {}
                }
            }
        }
        self.possible_telling(s, steps);
        let decided = !s.is_held() || self.mutation == Mutation::NoHold;
        for agent in (0..self.agents).filter(|_| decided) {
            for host in (0..HOSTS).filter(|host| may_call && s.takes_agents(*host)) {
                match s.records[agent] {
                    Record::Nothing => steps.push(Step::Claim { agent, host }),
                    Record::Pending { .. } => steps.push(Step::Place { agent, host }),
                    Record::Claimed { .. } => {}
                }
            }
            if let Record::Claimed { host, accepted, life, .. } = s.records[agent] {
                // A former life whose agents were not given back has ended, as the lock on the host's name told.
                if s.hosts[host].deadline + GRACE <= s.now || s.hosts[host].known_life > life {
                    steps.push(Step::TakeOver(agent));
                }
                if !accepted && may_call && self.mutation != Mutation::NoSecondCall {
                    steps.push(Step::CallAgain(agent));
                }
            }
        }
        for call in &s.calls {
            steps.extend([Step::Deliver(*call), Step::LoseCall(*call)]);
        }
    }

    pub(crate) fn take(&self, s: &mut State, step: Step) {
        match step {
            Step::Tick => {
                s.now += 1;
                for h in &mut s.hosts {
                    for here in &mut h.agents {
                        match *here {
                            Here::Process { epoch } | Here::Admitted { epoch }
                                if h.fence <= s.now && self.mutation != Mutation::NoFence =>
                            {
                                *here = Here::Between { epoch, fenced: true };
                            }
                            Here::Between { epoch, .. } if h.fence <= s.now => {
                                *here = Here::Between { epoch, fenced: true };
                            }
                            _ => {}
                        }
                    }
                }
            }
            Step::SendRenewal(host) => s.hosts[host].renewing = Some(s.now),
            Step::RenewalAnswered(host) => {
                let sent = s.hosts[host].renewing.unwrap_or(s.now);
                self.renewed(s, host);
                let margin = if self.mutation == Mutation::NoMargin { 0 } else { MARGIN };
                // By a clock that is slow: the latest moment at which the fence may truly fall.
                s.hosts[host].fence = s.hosts[host].fence.max(sent + TTL - margin + DRIFT);
                s.hosts[host].knows = s.store;
            }
            Step::AnswerLost(host) => self.renewed(s, host),
            Step::RenewalLost(host) => s.hosts[host].renewing = None,
            Step::Claim { agent, host } | Step::Place { agent, host } => {
                let (epoch, life) = (s.epoch(), s.hosts[host].known_life);
                s.records[agent] = Record::Claimed { epoch, host, life, accepted: false };
                s.send(Call { agent, host, life, epoch });
            }
            Step::TakeOver(agent) => {
                let epoch = s.epoch();
                s.records[agent] = Record::Pending { epoch };
                s.taken_over = true;
            }
            Step::CallAgain(agent) => {
                if let Record::Claimed { epoch, host, life, .. } = s.records[agent] {
                    s.send(Call { agent, host, life, epoch });
                }
            }
            Step::LoseCall(call) => s.calls.retain(|c| *c != call),
            Step::Deliver(call) => {
                s.calls.retain(|c| *c != call);
                self.admit(s, call);
            }
            Step::Spawn { agent, host } => {
                let h = &mut s.hosts[host];
                if let Here::Admitted { epoch } = h.agents[agent] {
                    let leased = h.fence > s.now || self.mutation == Mutation::NoFence;
                    h.agents[agent] =
                        if leased { Here::Process { epoch } } else { Here::Between { epoch, fenced: true } };
                }
            }
            Step::AdmitAgain { agent, host } => {
                if s.hosts[host].acknowledged[agent] != s.store {
                    self.admit_by_telling(s, agent, host);
                } else if let Here::Between { epoch, .. } = s.hosts[host].agents[agent] {
                    s.hosts[host].agents[agent] = Here::No;
                    let life = s.hosts[host].life;
                    self.admit(s, Call { agent, host, life, epoch });
                }
            }
            Step::ProcessDies { agent, host } => {
                s.crashes += 1;
                if let Here::Process { epoch } = s.hosts[host].agents[agent] {
                    s.hosts[host].agents[agent] = Here::Between { epoch, fenced: false };
                }
            }
            Step::HostDies(host) => {
                s.crashes += 1;
                let h = &mut s.hosts[host];
                h.up = false;
                h.renewing = None;
                h.fence = 0;
                // The watchdog ends after the last agent, and only then is the host's name free.
                h.agents.fill(Here::No);
            }
            Step::HostReturns(host) => self.announce(s, host),
            Step::Wipe => s.wipe(),
            Step::Tell { agent, host } => self.tell(s, agent, host),
            Step::HasTold(host) => s.has_told(host),
            Step::FaultsStop => {
                self.settle(s);
                s.calm = true;
            }
        }
    }

    /// The script `renew`.
    fn renewed(&self, s: &mut State, host: usize) {
        let now = s.now;
        let h = &mut s.hosts[host];
        h.renewing = None;
        h.deadline = h.deadline.max(now + TTL);
        // A store that does not know the host any more says so, and the host announces itself.
        let forgotten = h.known_life == 0;
        h.known_life = h.life;
        if forgotten || h.awaited {
            self.await_telling(s, host);
        }
    }

    /// A host is asked to run an agent, and the script `advance` acknowledges the claim or does not.
    fn admit(&self, s: &mut State, call: Call) {
        let Call { agent, host, life, epoch } = call;
        let h = &s.hosts[host];
        let leased = h.fence > s.now;
        // What it has of an older epoch is void when the store gives it a newer one: ended first, then admitted.
        let older = h.agents[agent].epoch().is_none_or(|here| here < epoch);
        if !h.up || h.life != life || !leased || !older {
            return;
        }
        let any_epoch = self.mutation == Mutation::NoEpochs;
        let acknowledged = match &mut s.records[agent] {
            Record::Claimed { epoch: now, host: on, accepted, .. } if *now == epoch && *on == host => {
                *accepted = true;
                true
            }
            Record::Claimed { .. } | Record::Pending { .. } => any_epoch,
            Record::Nothing => false,
        };
        if acknowledged {
            s.hosts[host].agents[agent] = Here::Admitted { epoch };
            s.hosts[host].acknowledged[agent] = s.store;
        }
    }

    /// The script `announce`, by a host that holds the lock on its name: the claims of its former life are its own.
    fn announce(&self, s: &mut State, host: usize) {
        let now = s.now;
        let h = &mut s.hosts[host];
        h.up = true;
        h.life += 1;
        h.known_life = h.life;
        h.deadline = now + TTL;
        let margin = if self.mutation == Mutation::NoMargin { 0 } else { MARGIN };
        h.fence = now + TTL - margin + DRIFT;
        (h.knows, h.told) = (s.store, s.store);
        let life = h.life;
        s.has_told(host);
        if s.is_held() {
            return;
        }
        for agent in 0..self.agents {
            if let Record::Claimed { host: on, .. } = s.records[agent]
                && on == host
            {
                let epoch = s.epoch();
                s.records[agent] = Record::Claimed { epoch, host, life, accepted: false };
                // It reads what was given back to it, and takes it in.
                self.admit(s, Call { agent, host, life, epoch });
                s.given_back = true;
            }
        }
    }
}
