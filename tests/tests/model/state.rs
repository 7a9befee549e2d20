//! What there is at one moment: the store, two hosts and what they run, and calls on their way.

use super::protocol::HOSTS;

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
    /// Between two processes: to be admitted again. `fenced`: it was killed with the lease, and the claim may have been given
    /// away since.
    Between {
        epoch: u8,
        fenced: bool,
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
    /// The store's life that it knows, and the one that was told of everything here.
    pub(crate) knows: u8,
    pub(crate) told: u8,
    /// The store's life that acknowledged each agent last.
    pub(crate) acknowledged: Vec<u8>,
    /// In the store: when its lease ends, and which life holds it; 0: it knows of none.
    pub(crate) deadline: u8,
    pub(crate) known_life: u8,
    /// In the store: it has something to tell, and nothing is decided without it.
    pub(crate) awaited: bool,
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
    /// The store's life, and its losses so far.
    pub(crate) store: u8,
    /// Nobody is placed until then; at least until `held_least`, longer while hosts are awaited.
    pub(crate) held_until: u8,
    pub(crate) held_least: u8,
    pub(super) taken_over: bool,
    pub(super) given_back: bool,
    pub(super) told_again: bool,
    /// Faults have stopped.
    pub(super) calm: bool,
}

impl Record {
    /// The epoch of its latest claim; 0: there is none.
    pub(super) fn epoch(self) -> u8 {
        match self {
            Self::Nothing => 0,
            Self::Pending { epoch } | Self::Claimed { epoch, .. } => epoch,
        }
    }
}

impl Here {
    /// The epoch under which a host has the agent.
    pub(super) fn epoch(self) -> Option<u8> {
        match self {
            Self::No => None,
            Self::Admitted { epoch } | Self::Process { epoch } | Self::Between { epoch, .. } => Some(epoch),
        }
    }
}

impl State {
    pub(crate) fn new() -> Self {
        let host = Host {
            up: true,
            life: 1,
            fence: 0,
            renewing: None,
            agents: vec![Here::No; 2],
            knows: 0,
            told: 0,
            acknowledged: vec![0; 2],
            deadline: 0,
            known_life: 1,
            awaited: false,
        };
        Self {
            now: 1,
            crashes: 0,
            next_epoch: 1,
            records: vec![Record::Nothing; 2],
            hosts: vec![host; HOSTS],
            calls: vec![],
            store: 0,
            held_until: 0,
            held_least: 0,
            taken_over: false,
            given_back: false,
            told_again: false,
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

    pub(crate) fn was_told_again(&self) -> bool {
        self.told_again
    }

    /// A new epoch. Never one that was given before: a store that was lost counts from the time of day.
    pub(super) fn epoch(&mut self) -> u8 {
        self.next_epoch += 1;
        self.next_epoch - 1
    }

    /// The script `pick`: the host lives, by the store's clock.
    pub(super) fn takes_agents(&self, host: usize) -> bool {
        self.hosts[host].deadline > self.now
    }

    /// Hosts are telling a store that was lost.
    pub(super) fn is_held(&self) -> bool {
        self.held_until > self.now
    }

    pub(super) fn send(&mut self, call: Call) {
        self.calls.push(call);
        self.calls.sort_unstable();
        self.calls.dedup();
    }
}
