//! What there is at one moment: the store, processes of hosts and what they run, engines and what they have seen, and what is on
//! its way. Nobody's clock is here: everybody counts the ticks since something happened to him.

/// Processes of hosts; the last one starts only in a quiet world, where a host's name has none left.
pub(crate) const SLOTS: usize = 3;
pub(crate) const SPARE: usize = SLOTS - 1;
pub(crate) const NAMES: usize = 2;
pub(crate) const ENGINES: usize = 2;
/// An age at which every lease is over.
const NO_LEASE: u8 = 100;

/// One life of the store: how often it was wiped, and how often rolled back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct StoreLife {
    pub(crate) wipes: u8,
    pub(crate) runs: u8,
}

/// Why the store settles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Settling {
    New,
    Lost,
}

/// The agent in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Record {
    Nothing,
    /// `had`: the epoch that it had before it became PENDING while the store settled.
    Pending {
        epoch: u8,
        former: u8,
    },
    Claimed {
        epoch: u8,
        process: usize,
        accepted: bool,
    },
}

/// A host that holds a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Entry {
    pub(crate) process: usize,
    pub(crate) life: u8,
    pub(crate) renewals: u8,
    pub(crate) reporting: bool,
}

/// A process that holds no lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Former {
    Silent,
    Awaited,
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Store {
    pub(crate) life: StoreLife,
    pub(crate) settling: Option<Settling>,
    pub(crate) epoch: u8,
    /// Claims beyond this one were forgotten by the latest rollback.
    pub(crate) known_epoch: Option<u8>,
    pub(crate) hosts: [Option<Entry>; NAMES],
    pub(crate) former: [Option<Former>; SLOTS],
    pub(crate) record: Record,
    /// Stops that were counted, and of the agent's latest one the number and the epoch.
    pub(crate) stops: u8,
    pub(crate) stopped: Option<(u8, u8)>,
}

/// The agent on a host.
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Running {
    NotYet,
    Up,
    /// It has ended, with every process it had.
    Over,
}

/// What a host asks the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Question {
    Announce { store_life: Option<StoreLife>, reported: Option<StoreLife>, succeeds: bool },
    Renew { life: u8, store_life: StoreLife, reported: bool },
}

/// What the store answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Answer {
    Announced {
        store: StoreLife,
        life: u8,
    },
    Held,
    StoreLost,
    /// Or unknown.
    Retired,
    Superseded,
}

/// A question that its host waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Asked {
    pub(crate) question: Question,
    pub(crate) answer: Option<Answer>,
    /// Ticks since it was sent.
    pub(crate) age: u8,
}

/// One process of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Process {
    pub(crate) running: Running,
    /// It can prove that the one before it has ended.
    pub(crate) succeeds: bool,
    /// Its lease, and the ticks since the last good renewal was sent.
    pub(crate) lease: Option<u8>,
    pub(crate) age: u8,
    pub(crate) asked: Option<Asked>,
    /// A question whose answer nobody waits for any more.
    pub(crate) stray: Option<Question>,
    /// The store life that it knows, and the one to which it has reported everything here.
    pub(crate) store_life: Option<StoreLife>,
    pub(crate) reported: Option<StoreLife>,
    pub(crate) here: Here,
    /// The store's life that acknowledged its agent last.
    pub(crate) acknowledged: Option<StoreLife>,
    pub(crate) highest_epoch: u8,
}

impl Seen {
    /// What is of no use any more, but that there was such a process.
    const VOID: Self = Self { renewal: (0, 1), age: 0 };
}

/// What an engine saw of a process that may live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Seen {
    /// Lease and renewals; zeros: it holds no lease.
    pub(crate) renewal: (u8, u8),
    /// Ticks since this was seen first.
    pub(crate) age: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Engine {
    pub(crate) store_life: Option<StoreLife>,
    /// Ticks since it saw this life of the store first.
    pub(crate) watched: u8,
    pub(crate) seen: [Option<Seen>; SLOTS],
    pub(crate) highest_epoch: u8,
    pub(crate) stops: u8,
    /// The epoch of a stop that it knows of.
    pub(crate) stopped: Option<u8>,
}

/// A call on its way to a host: run the agent under this epoch, given in this life of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Call {
    pub(crate) process: usize,
    pub(crate) epoch: u8,
    pub(crate) store: StoreLife,
}

/// A claim on its way to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Claim {
    pub(crate) store_life: StoreLife,
    pub(crate) asked: u8,
}

/// What those who use the agent want, and what they were answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Wish {
    Runs,
    Stops,
    Stopped,
    /// It was stopped, and whoever knew so was lost with the store.
    Forgotten,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) store: Store,
    /// An earlier state of the store, which may come back.
    pub(crate) saved: Option<Store>,
    pub(crate) processes: [Process; SLOTS],
    pub(crate) engines: [Engine; ENGINES],
    pub(crate) calls: Vec<Call>,
    pub(crate) claim: Option<Claim>,
    pub(crate) wish: Wish,
    /// Crashes so far.
    pub(crate) crashes: u8,
    /// The highest epoch that a process of the agent has had.
    pub(crate) highest_run: u8,
    pub(crate) epoch_went_back: bool,
    pub(crate) taken_while_alive: bool,
}

impl Record {
    pub(crate) fn epoch(self) -> u8 {
        match self {
            Self::Nothing => 0,
            Self::Pending { epoch, .. } | Self::Claimed { epoch, .. } => epoch,
        }
    }
}

impl Here {
    /// The epoch under which a host has the agent.
    pub(crate) fn epoch(self) -> Option<u8> {
        match self {
            Self::No => None,
            Self::Admitted { epoch } | Self::Process { epoch } | Self::Between { epoch, .. } => Some(epoch),
        }
    }
}

impl Process {
    const NOT_YET: Self = Self {
        running: Running::NotYet,
        succeeds: false,
        lease: None,
        age: NO_LEASE,
        asked: None,
        stray: None,
        store_life: None,
        reported: None,
        here: Here::No,
        acknowledged: None,
        highest_epoch: 0,
    };

    pub(crate) fn is_up(&self) -> bool {
        self.running == Running::Up
    }
}

impl Engine {
    /// It starts, and knows nothing.
    pub(crate) const NEW: Self =
        Self { store_life: None, watched: 0, seen: [None; SLOTS], highest_epoch: 0, stops: 0, stopped: None };
}

impl State {
    /// The first `up` processes run, and nobody has announced himself to a store that is settled.
    pub(crate) fn new(up: usize) -> Self {
        let store = Store {
            life: StoreLife { wipes: 0, runs: 0 },
            settling: None,
            epoch: 0,
            known_epoch: None,
            hosts: [None; NAMES],
            former: [None; SLOTS],
            record: Record::Nothing,
            stops: 0,
            stopped: None,
        };
        let mut processes = [Process::NOT_YET; SLOTS];
        processes.iter_mut().take(up).for_each(|p| p.running = Running::Up);
        Self {
            store,
            saved: None,
            processes,
            engines: [Engine::NEW; ENGINES],
            calls: vec![],
            claim: None,
            wish: Wish::Runs,
            crashes: 0,
            highest_run: 0,
            epoch_went_back: false,
            taken_while_alive: false,
        }
    }

    /// How many processes of the agent live.
    pub(crate) fn live(&self) -> usize {
        self.processes.iter().filter(|p| matches!(p.here, Here::Process { .. })).count()
    }

    /// Some process runs under a later epoch than another had, which was killed with its lease.
    pub(crate) fn was_taken_over(&self) -> bool {
        let fenced = self.processes.iter().filter_map(|p| match p.here {
            Here::Between { epoch, fenced: true } => Some(epoch),
            _ => None,
        });
        let mut fenced = fenced;
        fenced.any(|old| self.processes.iter().any(|p| matches!(p.here, Here::Process { epoch } if epoch > old)))
    }

    /// The successor of a process of a host runs the agent.
    pub(crate) fn was_given_back(&self) -> bool {
        self.processes.iter().any(|p| p.succeeds && matches!(p.here, Here::Process { epoch: 2 }))
    }

    pub(crate) fn was_restored(&self) -> bool {
        // While a store settles nothing else is acknowledged.
        let settles = self.store.settling.is_some();
        settles && self.processes.iter().any(|p| p.acknowledged == Some(self.store.life))
    }

    pub(crate) fn send(&mut self, call: Call) {
        if !self.calls.contains(&call) {
            self.calls.push(call);
            self.calls.sort_unstable();
        }
    }

    /// States that differ only in what nobody can observe are one: in the numbers of leases and renewals, of which only equality
    /// counts, in which engine is which, and in what was noted and is of no use. So time needs no bound.
    pub(crate) fn normalise(&mut self, engines: usize) {
        for process in 0..SLOTS {
            self.rank(process, |(life, _)| life, |renewal, to| renewal.0 = to);
            self.rank(process, |(_, renewals)| renewals, |renewal, to| renewal.1 = to);
        }
        for p in self.processes.iter_mut().filter(|p| p.here == Here::No) {
            p.acknowledged = None;
        }
        if engines == ENGINES && key(&self.engines[0]) > key(&self.engines[1]) {
            self.engines.swap(0, 1);
        }
    }

    /// An engine has no use for what it saw in another life of the store, nor for a renewal that is not the latest one.
    pub(crate) fn forget_what_is_over(&mut self) {
        let store = self.store;
        for engine in &mut self.engines {
            let here = engine.store_life == Some(store.life);
            if !here {
                engine.watched = 0;
            }
            for (process, seen) in engine.seen.iter_mut().enumerate() {
                let entry = store.hosts.iter().flatten().find(|entry| entry.process == process);
                let now = entry.map_or((0, 0), |entry| (entry.life, entry.renewals));
                if let Some(seen) = seen.as_mut().filter(|seen| !here || seen.renewal != now) {
                    *seen = Seen::VOID;
                }
            }
        }
    }

    /// Numbers that are about one process become 1, 2, and so on, in their order; 0 stays.
    fn rank(&mut self, process: usize, get: fn((u8, u8)) -> u8, set: fn(&mut (u8, u8), u8)) {
        let mut used: u128 = 0;
        self.each_renewal(process, |renewal| {
            if renewal.0 != 0 {
                used |= 1 << get(*renewal);
            }
        });
        used &= !1;
        self.each_renewal(process, |renewal| {
            if renewal.0 == 0 {
                return;
            }
            let up_to = u128::MAX >> (127 - get(*renewal));
            let to = (used & up_to).count_ones().to_le_bytes()[0];
            set(renewal, to);
        });
    }

    /// Everything that names a lease of a process, or a renewal of it.
    pub(crate) fn each_renewal(&mut self, process: usize, mut with: impl FnMut(&mut (u8, u8))) {
        let stores = std::iter::once(&mut self.store).chain(&mut self.saved);
        for entry in stores.flat_map(|store| store.hosts.iter_mut().flatten()).filter(|e| e.process == process) {
            let mut renewal = (entry.life, entry.renewals);
            with(&mut renewal);
            (entry.life, entry.renewals) = renewal;
        }
        for seen in self.engines.iter_mut().filter_map(|engine| engine.seen[process].as_mut()) {
            with(&mut seen.renewal);
        }
        let p = &mut self.processes[process];
        let mut lives = p.lease.iter_mut().collect::<Vec<_>>();
        if let Some(asked) = &mut p.asked {
            if let Question::Renew { life, .. } = &mut asked.question {
                lives.push(life);
            }
            if let Some(Answer::Announced { life, .. }) = &mut asked.answer {
                lives.push(life);
            }
        }
        if let Some(Question::Renew { life, .. }) = &mut p.stray {
            lives.push(life);
        }
        for life in lives {
            let mut renewal = (*life, 0);
            with(&mut renewal);
            *life = renewal.0;
        }
    }
}

/// An order of engines; which one does not matter.
fn key(engine: &Engine) -> impl Ord {
    let seen = engine.seen.map(|seen| seen.map(|seen| (seen.renewal, seen.age)));
    let store_life = engine.store_life.map(|life| (life.wipes, life.runs));
    (store_life, engine.watched, seen, engine.highest_epoch, engine.stops, engine.stopped)
}
