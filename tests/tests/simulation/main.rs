//! Never two, never none, under faults by chance: the real code of engine and host over the in-memory registry, on simulated
//! clocks, machines and network. A seed is a run.
//!
//! Every commit runs seeds of its own, ten thousand, chosen by its hash and printed, beside those that once broke a promise.
//! `RUSTIC_SIM_SEEDS=0..1000000` runs others, as `make sim` does; `RUSTIC_SIM_SEEDS=4711` runs one and prints what happened.

#![allow(clippy::print_stderr, reason = "a failing seed prints what happened")]

mod ambient;
mod checker;
mod client;
mod faults;
mod lives;
mod machine;
mod plan;
mod wires;
mod world;

use ambient::LeftOut;
use checker::{Broken, Tally, unsettled};
use plan::{Fault, MENDED, Place, Plan};
use std::{
    env,
    ops::Range,
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use world::World;

/// How many seeds a commit runs, and from how many it takes them.
const SEEDS: u64 = 10_000;
const ALL_SEEDS: u64 = 1 << 40;
/// Seeds beyond those in which `make sim` found a promise broken, before it was mended.
const ONCE_BROKEN: [u64; 13] = [
    10678,
    23437,
    23906,
    28674,
    35274,
    45861,
    56946,
    72820,
    146_209,
    176_278,
    288_144_384_601,
    640_671_865_105,
    909_804_402_902,
];
/// Time in which everything must have settled then, ms: lease, grace and hold, and deadlines of calls.
const SETTLES: u64 = 45_000;

/// Runs the world of a seed to its end.
fn run(seed: u64, trace: bool) -> (Result<Tally, Broken>, Vec<String>) {
    run_plan(seed, Plan::of(seed), trace)
}

fn run_plan(seed: u64, plan: Plan, trace: bool) -> (Result<Tally, Broken>, Vec<String>) {
    let mut world = World::new(seed, plan.clone(), trace);
    world.note(|| format!("{plan:?}"));
    while world.now < MENDED && world.checker.broken.is_none() {
        world.step();
    }
    world.mend();
    while world.now < MENDED + SETTLES && world.checker.broken.is_none() && unsettled(&world).is_some() {
        world.step();
    }
    let mut checker = std::mem::take(&mut world.checker);
    checker.settled(&world);
    let tally = Tally::of(&plan, &world);
    (checker.broken.map_or(Ok(tally), Err), world.trace.take().unwrap_or_default())
}

/// Seeds that were hardly ever run before: the next commit runs others.
fn seeds_of_this_commit() -> Range<u64> {
    let git = Command::new("git").args(["rev-parse", "HEAD"]).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let hash =
        git.ok().filter(|git| git.status.success()).map(|git| String::from_utf8_lossy(&git.stdout).into_owned());
    let number = hash.and_then(|hash| u64::from_str_radix(hash.get(..15)?, 16).ok());
    // A copy without its history takes them by the clock.
    let since = || SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let from = number.unwrap_or_else(since) % ALL_SEEDS;
    from..from + SEEDS
}

/// The seeds to run: those of the environment, or this commit's.
fn seeds() -> Range<u64> {
    let Ok(text) = env::var("RUSTIC_SIM_SEEDS") else { return seeds_of_this_commit() };
    let number = |text: &str| text.parse::<u64>().expect("RUSTIC_SIM_SEEDS is a number or from..to");
    match text.split_once("..") {
        Some((from, to)) => number(from)..number(to),
        None => number(&text)..number(&text) + 1,
    }
}

/// Runs all seeds on all processors. Returns the first that breaks a promise, and what all came to.
fn run_all(seeds: Range<u64>) -> (Option<(u64, Broken)>, Tally) {
    let next = AtomicU64::new(seeds.start);
    let found: Mutex<(Option<(u64, Broken)>, Tally)> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || found.lock().expect("no panic").0.is_some() {
                        return;
                    }
                    let (outcome, _) = run(seed, false);
                    let mut found = found.lock().expect("no panic");
                    match outcome {
                        Ok(tally) => {
                            found.1.faults += tally.faults;
                            found.1.processes += tally.processes;
                            found.1.operations += tally.operations;
                            found.1.remembered += tally.remembered;
                            found.1.rebalanced += tally.rebalanced;
                        }
                        Err(broken) if found.0.as_ref().is_none_or(|(other, _)| seed < *other) => {
                            found.0 = Some((seed, broken));
                        }
                        Err(_) => {}
                    }
                }
            });
        }
    });
    found.into_inner().expect("no panic")
}

#[test]
fn every_seed_keeps_every_promise() {
    let seeds = seeds();
    let count = seeds.end - seeds.start;
    eprintln!("seeds {seeds:?}");
    let (broken, tally) = run_all(seeds);
    if let Some((seed, _)) = &broken {
        run(*seed, true).1.iter().for_each(|line| eprintln!("{line}"));
    }
    if let Some((seed, broken)) = broken {
        panic!("seed {seed}: {broken}\nrun it again with RUSTIC_SIM_SEEDS={seed}");
    }
    eprintln!("{count} seeds: {tally:?}");
    // A world in which nothing happens proves nothing.
    assert!(tally.processes > usize::try_from(count).expect("few"), "{tally:?}");
    assert!(count < 1_000 || (tally.remembered > 0 && tally.rebalanced > 0), "{tally:?}");
}

#[test]
fn seeds_that_once_broke_a_promise_keep_all() {
    for seed in ONCE_BROKEN {
        let (outcome, _) = run(seed, false);
        outcome.unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
    }
}

#[test]
#[cfg_attr(not(tokio_unstable), ignore = "RUSTFLAGS of the environment have replaced those of .cargo/config.toml")]
fn a_seed_is_a_run() {
    for seed in 0..20 {
        let (first, second) = (run(seed, true), run(seed, true));
        let differ = first.1.iter().zip(&second.1).find(|(a, b)| a != b);
        assert_eq!(differ, None, "seed {seed}");
        assert_eq!(first, second, "seed {seed}");
    }
}

/// Whether a promise is broken in one of a few worlds, once something is taken away that keeps it.
fn breaks(promise: &str, take_away: fn(&mut Plan)) -> bool {
    (0..3_000).any(|seed| {
        let mut plan = Plan::of(seed);
        take_away(&mut plan);
        matches!(run_plan(seed, plan, false).0, Err(broken) if broken.promise == promise)
    })
}

#[test]
fn without_margin_and_grace_there_are_two() {
    assert!(breaks("P1 never two", |plan| {
        (plan.margin, plan.grace) = (Duration::ZERO, Duration::ZERO);
        // A clock that is slow by a fifth, where usual ones are wrong by a twentieth at most.
        plan.rates.iter_mut().for_each(|rate| *rate = 0.8);
    }));
}

#[test]
fn when_hosts_are_retired_at_first_sight_there_are_two() {
    assert!(breaks("P1 never two", |plan| plan.left_out = Some(LeftOut::Observing)));
}

#[test]
fn when_nobody_asks_whether_a_host_has_renewed_since_there_are_two() {
    assert!(breaks("P1 never two", |plan| {
        plan.left_out = Some(LeftOut::Comparing);
        // A host that is back at about the time at which it is retired.
        let lasts = 3_000 + (plan.rates[0] * 1e6) as u64 % 1_200;
        plan.faults = vec![(2_000, Fault::Cut { between: (Place::Machine(0), Place::Store), lasts })];
        plan.agents = 4;
    }));
}
