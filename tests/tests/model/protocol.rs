//! Who can do what, and what comes of it.
//!
//! Time goes in ticks. A lease lasts [`TTL`] ticks of the store's clock. A host's clock may be slow by [`DRIFT`] over that
//! time; its fence falls [`MARGIN`] before the lease ends, by its own clock. Takeover needs the lease to be over for [`GRACE`].

const HOSTS: usize = 2;
const TTL: u8 = 3;
const MARGIN: u8 = 1;
const DRIFT: u8 = 1;
const GRACE: u8 = 0;

/// How far the model is explored.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Ticks.
    pub(crate) time: u8,
    /// Crashes of hosts and processes, together.
    pub(crate) crashes: u8,
    /// Calls of hosts under way at once.
    pub(crate) messages: usize,
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
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Protocol {
    pub(crate) agents: usize,
    pub(crate) bounds: Bounds,
    pub(crate) mutation: Mutation,
}

/// An agent in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Record {
    Nothing,
    Pending { epoch: u8 },
    Claimed { epoch: u8, host: usize, life: u8, accepted: bool },
}

/// An agent on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Here {
    No,
    /// The store has acknowledged the claim; no process yet.
    Admitted {
        epoch: u8,
    },
    Process {
        epoch: u8,
    },
    /// Killed with the lease, or between two processes: to be admitted again.
    Between {
        epoch: u8,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Host {
    pub(crate) up: bool,
    pub(crate) life: u8,
    /// When the watchdog kills, on the true clock; 0: no lease.
    pub(crate) fence: u8,
    /// When a renewal was sent that is not answered.
    pub(crate) renewing: Option<u8>,
    pub(crate) agents: Vec<Here>,
    /// In the store: when its lease ends, and which life holds it.
    pub(crate) deadline: u8,
    pub(crate) known_life: u8,
}

/// A call on its way to a host: run this agent under this epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Call {
    pub(crate) agent: usize,
    pub(crate) host: usize,
    pub(crate) life: u8,
    pub(crate) epoch: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) now: u8,
    pub(crate) crashes: u8,
    pub(crate) next_epoch: u8,
    pub(crate) records: Vec<Record>,
    pub(crate) hosts: Vec<Host>,
    pub(crate) calls: Vec<Call>,
    taken_over: bool,
    given_back: bool,
    /// Faults have stopped.
    calm: bool,
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
    /// From now on nothing is lost, nobody crashes and everybody acts, until there is nothing left to do. May happen in
    /// every state, and is the last step of a path.
    FaultsStop,
}

impl State {
    pub(crate) fn new() -> Self {
        let host = Host {
            up: true,
            life: 1,
            fence: 0,
            renewing: None,
            agents: vec![Here::No; 2],
            deadline: 0,
            known_life: 1,
        };
        Self {
            now: 1,
            crashes: 0,
            next_epoch: 1,
            records: vec![Record::Nothing; 2],
            hosts: vec![host; HOSTS],
            calls: vec![],
            taken_over: false,
            given_back: false,
            calm: false,
        }
    }

    pub(crate) fn is_calm(&self) -> bool {
        self.calm
    }

    pub(crate) fn processes(&self, agent: usize) -> usize {
        self.hosts.iter().filter(|h| matches!(h.agents[agent], Here::Process { .. })).count()
    }

    pub(crate) fn at_most_one_process(&self) -> bool {
        (0..self.records.len()).all(|agent| self.processes(agent) <= 1)
    }

    pub(crate) fn was_taken_over(&self) -> bool {
        self.taken_over
    }

    pub(crate) fn was_given_back(&self) -> bool {
        self.given_back
    }

    fn epoch(&mut self) -> u8 {
        self.next_epoch += 1;
        self.next_epoch - 1
    }

    /// The script `pick`: the host lives, by the store's clock.
    fn takes_agents(&self, host: usize) -> bool {
        self.hosts[host].deadline > self.now
    }

    fn send(&mut self, call: Call) {
        self.calls.push(call);
        self.calls.sort_unstable();
        self.calls.dedup();
    }
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
        for agent in 0..self.agents {
            for host in (0..HOSTS).filter(|host| may_call && s.takes_agents(*host)) {
                match s.records[agent] {
                    Record::Nothing => steps.push(Step::Claim { agent, host }),
                    Record::Pending { .. } => steps.push(Step::Place { agent, host }),
                    Record::Claimed { .. } => {}
                }
            }
            if let Record::Claimed { host, accepted, .. } = s.records[agent] {
                if s.hosts[host].deadline + GRACE <= s.now {
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
                                *here = Here::Between { epoch };
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
                    h.agents[agent] = if leased { Here::Process { epoch } } else { Here::Between { epoch } };
                }
            }
            Step::AdmitAgain { agent, host } => {
                if let Here::Between { epoch } = s.hosts[host].agents[agent] {
                    s.hosts[host].agents[agent] = Here::No;
                    let life = s.hosts[host].life;
                    self.admit(s, Call { agent, host, life, epoch });
                }
            }
            Step::ProcessDies { agent, host } => {
                s.crashes += 1;
                if let Here::Process { epoch } = s.hosts[host].agents[agent] {
                    s.hosts[host].agents[agent] = Here::Between { epoch };
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
    }

    /// A host is asked to run an agent, and the script `advance` acknowledges the claim or does not.
    fn admit(&self, s: &mut State, call: Call) {
        let Call { agent, host, life, epoch } = call;
        let h = &s.hosts[host];
        let leased = h.fence > s.now;
        // What it has of an older epoch is void when the store gives it a newer one: ended first, then admitted.
        let older = match h.agents[agent] {
            Here::No => true,
            Here::Admitted { epoch: here } | Here::Process { epoch: here } | Here::Between { epoch: here } => {
                here < epoch
            }
        };
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
        let life = h.life;
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
