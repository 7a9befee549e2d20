//! The clock and the chance that the life which is being stepped sees. One thread runs one world, and one life at a time.

use agent_host::{ambient::Ambient, watchdog::BootTime};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use rustic_registry::UnixMillis;
use std::{
    cell::{Cell, RefCell},
    time::Duration,
};
use tokio::time::Instant;

thread_local! {
    static CHANCE: RefCell<StdRng> = RefCell::new(StdRng::seed_from_u64(0));
    static BOOT: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    static STARTED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// What every life is given.
pub(crate) const AMBIENT: Ambient = Ambient { boot, wall, chance };

/// Begins a world.
pub(crate) fn seed(seed: u64) {
    CHANCE.with(|rng| *rng.borrow_mut() = StdRng::seed_from_u64(seed));
}

/// Shows the clock of a machine that had been up for `boot` when the life's own clock showed `started`.
pub(crate) fn enter(boot: Duration, started: Instant) {
    BOOT.set(boot);
    STARTED.set(Some(started));
}

fn boot() -> BootTime {
    BootTime::at(BOOT.get() + STARTED.get().map_or(Duration::ZERO, |started| started.elapsed()))
}

fn wall() -> UnixMillis {
    UnixMillis(u64::try_from(boot().up().as_millis()).unwrap_or(u64::MAX))
}

/// A number in 0.0..1.0.
pub(crate) fn chance() -> f64 {
    CHANCE.with(|rng| rng.borrow_mut().random())
}
