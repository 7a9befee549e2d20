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
    static STEPPED: Cell<i64> = const { Cell::new(0) };
    static LEFT_OUT: Cell<Option<LeftOut>> = const { Cell::new(None) };
}

/// What this world does without, to see that the checker notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeftOut {
    /// Engines retire hosts as soon as they see them.
    Observing,
    /// A host is retired whether it has renewed since or not.
    Comparing,
}

/// The world does without something from now on.
pub(crate) fn leave_out(what: Option<LeftOut>) {
    LEFT_OUT.set(what);
}

pub(crate) fn left_out() -> Option<LeftOut> {
    LEFT_OUT.get()
}

/// Wall clocks of hosts and engines show so many ms more than they would.
pub(crate) fn step_wall(by: i64) {
    STEPPED.set(by);
}

/// What wall clocks show when a world begins, ms.
pub(crate) const WALL_BEGINS: u64 = 1_700_000_000_000;

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
    let up = u64::try_from(boot().up().as_millis()).unwrap_or(u64::MAX);
    UnixMillis(WALL_BEGINS.saturating_add(up).saturating_add_signed(STEPPED.get()))
}

/// A number in 0.0..1.0.
pub(crate) fn chance() -> f64 {
    CHANCE.with(|rng| rng.borrow_mut().random())
}
