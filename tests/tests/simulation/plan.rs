//! What a seed means: a cluster, a network, and what befalls it. Pure.

use crate::ambient::LeftOut;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use std::time::Duration;

/// End of the time in which faults begin, ms.
pub(crate) const FAULTS_END: u64 = 9_000;
/// End of everything that a fault may still do, ms.
pub(crate) const MENDED: u64 = FAULTS_END + 7_000;
/// Lease of hosts: shorter than the default, so that more happens in less time.
pub(crate) const TTL: Duration = Duration::from_secs(3);
const MARGIN: Duration = Duration::from_millis(600);
const GRACE: Duration = Duration::from_millis(600);

/// Where something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    Store,
    Engine(usize),
    Machine(usize),
}

/// What befalls a cluster.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fault {
    /// `kill -9` of a host's process, which is started again on the same machine.
    KillHost {
        host: usize,
        back: u64,
    },
    /// SIGTERM to it; started again when it has ended.
    EndHost {
        host: usize,
        back: u64,
    },
    /// SIGSTOP of it alone; its watchdog and its agents go on.
    StopHost {
        host: usize,
        lasts: u64,
    },
    /// SIGSTOP of everything on its machine.
    Freeze {
        host: usize,
        lasts: u64,
    },
    /// Its machine is cut off, and another one gets its name, as when a pod is forced off a dead node.
    Replace {
        host: usize,
        back: u64,
    },
    KillEngine {
        engine: usize,
        back: u64,
    },
    Cut {
        between: (Place, Place),
        lasts: u64,
    },
    /// The store answers nobody, and then everybody.
    StopStore {
        lasts: u64,
    },
    /// FLUSHALL.
    Wipe,
    /// The store dies and comes back without its last operations.
    RollBack {
        operations: usize,
        down: u64,
    },
    Cordon {
        host: usize,
        lasts: u64,
    },
    /// Wall clocks step, ms: that of the store, and those of hosts and engines.
    StepClocks {
        store: i64,
        others: i64,
    },
    /// An agent's process ends by itself.
    Crash {
        agent: usize,
    },
}

/// A cluster and what befalls it.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) hosts: usize,
    pub(crate) engines: usize,
    pub(crate) agents: usize,
    /// Agents that outlive a lost lease are the first so many.
    pub(crate) keep: usize,
    pub(crate) slots: u32,
    /// Part of the messages that are lost.
    pub(crate) loss: f64,
    /// Part of the host calls that arrive twice.
    pub(crate) twice: f64,
    /// Longest way of a message, ms.
    pub(crate) latency: u64,
    /// How fast the clock of each host goes, and of each engine.
    pub(crate) rates: Vec<f64>,
    pub(crate) engine_rates: Vec<f64>,
    /// When what befalls it.
    pub(crate) faults: Vec<(u64, Fault)>,
    /// How often a client changes its mind about an agent, at most.
    pub(crate) changes: usize,
    /// What keeps two processes apart in time; a test takes it away to see that the checker notices.
    pub(crate) margin: Duration,
    pub(crate) grace: Duration,
    /// What this world does without; a test takes it away to see that the checker notices.
    pub(crate) left_out: Option<LeftOut>,
}

impl Plan {
    /// What `seed` means.
    pub(crate) fn of(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let (hosts, engines) = (rng.random_range(2..=3), rng.random_range(1..=2));
        let count = rng.random_range(1..=4);
        let mut faults: Vec<_> =
            (0..count).map(|_| (rng.random_range(500..FAULTS_END), fault(&mut rng, hosts, engines))).collect();
        faults.sort_by_key(|(at, _)| *at);
        // A store that forgets that a host's name went to another machine has two hosts of one name, and believes the older.
        if faults.iter().any(|(_, fault)| matches!(fault, Fault::Replace { .. })) {
            faults.retain(|(_, fault)| !matches!(fault, Fault::RollBack { .. }));
        }
        let mut plan = Self {
            hosts,
            engines,
            agents: rng.random_range(1..=4),
            keep: rng.random_range(0..=1),
            slots: rng.random_range(1..=3),
            loss: *[0.0, 0.0, 0.01, 0.05].choose(&mut rng).expect("some"),
            twice: *[0.0, 0.05].choose(&mut rng).expect("some"),
            latency: *[2, 20, 150].choose(&mut rng).expect("some"),
            rates: (0..hosts).map(|_| rng.random_range(0.95..1.05)).collect(),
            engine_rates: (0..engines).map(|_| rng.random_range(0.95..1.05)).collect(),
            faults,
            changes: rng.random_range(0..=2),
            margin: MARGIN,
            grace: GRACE,
            left_out: None,
        };
        // A store that is wiped, is restored, and then loses what was restored knows nothing of a host that is silent meanwhile, as if
        // that host had died before it had reported. `docs/guarantees.md` says so.
        if plan.any(|f| matches!(f, Fault::Wipe)) && plan.silences() {
            plan.faults.retain(|(_, fault)| !matches!(fault, Fault::RollBack { .. }));
        }
        // An agent that outlives its lease lives on behind a partition, as it asked for: when another host gets its host's
        // name meanwhile, or the store forgets it and somebody creates it anew, there are two. `docs/guarantees.md` says so. A
        // host is silent as well when its messages are lost one after the other.
        let silent = plan.silences() || plan.loss > 0.0;
        if plan.any(|f| matches!(f, Fault::Replace { .. })) || (plan.forgets() && silent) {
            plan.keep = 0;
        }
        plan
    }

    fn any(&self, wanted: fn(&Fault) -> bool) -> bool {
        self.faults.iter().any(|(_, fault)| wanted(fault))
    }

    /// Whether the store forgets something.
    pub(crate) fn forgets(&self) -> bool {
        self.any(|f| matches!(f, Fault::Wipe | Fault::RollBack { .. }))
    }

    /// Whether the store is wiped once, and every engine hears of all that happens a moment later and is there to restore the store.
    pub(crate) fn engines_remember(&self) -> bool {
        let wipes = self.faults.iter().filter(|(_, fault)| matches!(fault, Fault::Wipe)).count();
        let in_the_way = self.any(|f| {
            matches!(
                f,
                Fault::KillEngine { .. } | Fault::Cut { .. } | Fault::StopStore { .. } | Fault::RollBack { .. }
            )
        });
        wipes == 1 && !in_the_way && self.loss == 0.0
    }

    /// Whether a host may be silent for longer than others wait for it.
    pub(crate) fn silences(&self) -> bool {
        self.any(|f| {
            matches!(
                f,
                Fault::StopHost { .. }
                    | Fault::Freeze { .. }
                    | Fault::Cut { .. }
                    | Fault::Replace { .. }
                    | Fault::StopStore { .. }
            )
        })
    }
}

fn fault(rng: &mut StdRng, hosts: usize, engines: usize) -> Fault {
    let (host, engine) = (rng.random_range(0..hosts), rng.random_range(0..engines));
    let ttl = u64::try_from(TTL.as_millis()).expect("short");
    let lasts = [ttl / 6, ttl / 2, ttl, ttl * 2][rng.random_range(0..4)];
    let back = rng.random_range(50..5_000);
    match rng.random_range(0..16) {
        0 | 1 => Fault::KillHost { host, back },
        2 => Fault::EndHost { host, back },
        3 => Fault::StopHost { host, lasts },
        4 => Fault::Freeze { host, lasts },
        5 => Fault::Replace { host, back },
        6 => Fault::KillEngine { engine, back },
        7 | 8 => {
            let ends = [
                (Place::Machine(host), Place::Store),
                (Place::Machine(host), Place::Engine(engine)),
                (Place::Engine(engine), Place::Store),
            ];
            Fault::Cut { between: ends[rng.random_range(0..ends.len())], lasts }
        }
        9 => Fault::StopStore { lasts },
        10 => Fault::Wipe,
        11 => Fault::RollBack { operations: rng.random_range(1..=30), down: rng.random_range(20..1_000) },
        12 => Fault::Cordon { host, lasts },
        13 | 14 => {
            let steps = [0, 11_000, -11_000, 3_600_000, -3_600_000];
            let mut step = || steps[rng.random_range(0..steps.len())];
            Fault::StepClocks { store: step(), others: step() }
        }
        _ => Fault::Crash { agent: rng.random_range(0..4) },
    }
}
