//! The operations that are drawn by chance.

use proptest::prelude::*;
use rustic_registry::{IfFull, Phase, ReleaseGuard};

/// Which store life somebody knows: one that was seen, counted from the latest, or one of another store.
pub(super) type Known = Option<u8>;

#[derive(Debug, Clone)]
pub(super) enum Op {
    Announce {
        host: u8,
        life: u8,
        succeeds: Option<u8>,
        slots: u8,
        store_life: Known,
        reported: Known,
        cordoned: bool,
        high: bool,
    },
    Renew {
        host: u8,
        life: u8,
        lease: Lease,
        draining: bool,
        reported: bool,
        high: bool,
    },
    Depart {
        host: u8,
        life: u8,
    },
    Cordon {
        host: u8,
        on: bool,
    },
    Retire {
        host: u8,
        life: u8,
        seen: Sight,
    },
    Forget {
        host: u8,
        life: u8,
    },
    Claim {
        agent: u8,
        request: u8,
        digest: u8,
        half_cpus: u8,
        if_full: IfFull,
        keep: bool,
        hosts: Vec<u8>,
        asked: u8,
        store_life: Known,
    },
    Advance {
        agent: u8,
        epoch_back: u8,
        phase: Phase,
        exit: Option<i32>,
        late: bool,
        store_life: Known,
    },
    Release {
        agent: u8,
        epoch_back: u8,
        guard: ReleaseGuard,
    },
    Unassign {
        agent: u8,
        epoch_back: u8,
        guard: ReleaseGuard,
        store_life: Known,
    },
    Place {
        agent: u8,
        epoch_back: u8,
        hosts: Vec<u8>,
    },
    Bury {
        agent: u8,
    },
    Restore {
        agent: u8,
        epoch_back: u8,
        host: u8,
        life: u8,
        phase: Phase,
        keep: bool,
        store_life: Known,
        former_store_life: Known,
    },
    Remember {
        agent: u8,
        epoch_back: u8,
        waits: bool,
        former_store_life: Known,
    },
    Bring {
        former_store_life: Known,
        hosts: Vec<(u8, u8)>,
        stopped: Vec<(u8, u8)>,
        high: bool,
    },
    Settle {
        store: Known,
        watched: bool,
    },
    /// All hosts report or are retired, and the store settles.
    Recover {
        retire: bool,
    },
    Snapshot,
    Restart {
        from_snapshot: bool,
    },
    Wipe {
        brought: bool,
    },
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Lease {
    Latest,
    Former,
    MadeUp,
    OfAnotherStore,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Sight {
    Exact,
    RenewedSince,
    FormerLease,
    Nothing,
    OfAnotherStore,
}

fn phases() -> impl Strategy<Value = Phase> + Clone {
    prop::sample::select(vec![
        Phase::Pending,
        Phase::Starting,
        Phase::Running,
        Phase::Restarting,
        Phase::Stopping,
        Phase::Failed,
    ])
}

fn guards() -> impl Strategy<Value = ReleaseGuard> + Clone {
    prop::sample::select(vec![
        ReleaseGuard::Reaped,
        ReleaseGuard::Vouched,
        ReleaseGuard::Unaccepted,
        ReleaseGuard::Unassigned,
        ReleaseGuard::Failed,
        ReleaseGuard::Ended,
    ])
}

/// Mostly nothing, or the latest life.
fn known() -> impl Strategy<Value = Known> + Clone {
    prop::sample::select(vec![None, None, None, Some(0), Some(0), Some(1), Some(2), Some(9)])
}

fn named() -> impl Strategy<Value = Known> + Clone {
    prop::sample::select(vec![Some(0), Some(0), Some(1), Some(2), Some(9), Some(9)])
}

// Few names, so that operations meet.
fn of_hosts() -> impl Strategy<Value = Op> {
    let lease = prop::sample::select(vec![
        Lease::Latest,
        Lease::Latest,
        Lease::Latest,
        Lease::Former,
        Lease::MadeUp,
        Lease::OfAnotherStore,
    ]);
    let sight = prop::sample::select(vec![
        Sight::Exact,
        Sight::Exact,
        Sight::Exact,
        Sight::RenewedSince,
        Sight::FormerLease,
        Sight::Nothing,
        Sight::OfAnotherStore,
    ]);
    let process = || (0..3u8, 0..3u8);
    let flag = any::<bool>;
    prop_oneof![
        6 => (process(), prop::option::of(0..3u8), 1..4u8, known(), known(), flag(), flag()).prop_map(
            |((host, life), succeeds, slots, store_life, reported, cordoned, high)| {
                Op::Announce { host, life, succeeds, slots, store_life, reported, cordoned, high }
            }
        ),
        4 => (process(), lease, flag(), flag(), flag()).prop_map(|((host, life), lease, draining, reported, high)| {
            Op::Renew { host, life, lease, draining, reported, high }
        }),
        1 => process().prop_map(|(host, life)| Op::Depart { host, life }),
        1 => (0..3u8, flag()).prop_map(|(host, on)| Op::Cordon { host, on }),
        4 => (process(), sight).prop_map(|((host, life), seen)| Op::Retire { host, life, seen }),
        2 => process().prop_map(|(host, life)| Op::Forget { host, life }),
    ]
}

fn of_agents() -> impl Strategy<Value = Op> {
    let hosts = || prop::collection::vec(0..3u8, 0..4);
    let if_full = prop::sample::select(vec![IfFull::Refuse, IfFull::Wait]);
    let agent = || (0..4u8, 0..3u8);
    let flag = any::<bool>;
    prop_oneof![
        6 => ((0..4u8, 0..2u8, 0..2u8), 0..6u8, if_full, flag(), hosts(), 0..6u8, known()).prop_map(
            |((agent, request, digest), half_cpus, if_full, keep, hosts, asked, store_life)| {
                Op::Claim { agent, request, digest, half_cpus, if_full, keep, hosts, asked, store_life }
            }
        ),
        5 => (agent(), phases(), prop::option::of(-9..200i32), prop::bool::weighted(0.1), known()).prop_map(
            |((agent, epoch_back), phase, exit, late, store_life)| Op::Advance { agent, epoch_back, phase, exit, late, store_life }
        ),
        3 => (agent(), guards()).prop_map(|((agent, epoch_back), guard)| Op::Release { agent, epoch_back, guard }),
        3 => (agent(), guards(), known())
            .prop_map(|((agent, epoch_back), guard, store_life)| Op::Unassign { agent, epoch_back, guard, store_life }),
        2 => (agent(), hosts()).prop_map(|((agent, epoch_back), hosts)| Op::Place { agent, epoch_back, hosts }),
        1 => (0..4u8).prop_map(|agent| Op::Bury { agent }),
    ]
}

fn of_lives() -> impl Strategy<Value = Op> {
    let flag = any::<bool>;
    let phase = prop::sample::select(vec![Phase::Starting, Phase::Running, Phase::Stopping, Phase::Failed]);
    prop_oneof![
        5 => ((0..4u8, 0..4u8), (0..3u8, 0..3u8), phase, flag(), known(), known()).prop_map(
            |((agent, epoch_back), (host, life), phase, keep, store_life, former_store_life)| {
                Op::Restore { agent, epoch_back, host, life, phase, keep, store_life, former_store_life }
            }
        ),
        3 => (0..4u8, 0..4u8, flag(), named())
            .prop_map(|(agent, epoch_back, waits, former_store_life)| Op::Remember { agent, epoch_back, waits, former_store_life }),
        2 => (
            named(),
            prop::collection::vec((0..3u8, 0..3u8), 0..3),
            prop::collection::vec((0..4u8, 0..4u8), 0..3),
            flag()
        )
            .prop_map(|(former_store_life, hosts, stopped, high)| Op::Bring { former_store_life, hosts, stopped, high }),
        2 => (named(), flag()).prop_map(|(store, watched)| Op::Settle { store, watched }),
        3 => flag().prop_map(|retire| Op::Recover { retire }),
        1 => Just(Op::Snapshot),
        1 => flag().prop_map(|from_snapshot| Op::Restart { from_snapshot }),
        1 => flag().prop_map(|brought| Op::Wipe { brought }),
    ]
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    prop_oneof![6 => of_agents(), 4 => of_hosts(), 3 => of_lives()]
}
