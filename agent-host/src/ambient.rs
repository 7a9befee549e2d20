//! What a host takes from around it and cannot compute: the time, and chance. A simulation gives its own.

use crate::watchdog::BootTime;
use rustic_registry::UnixMillis;
use std::time::{SystemTime, UNIX_EPOCH};

/// Clocks and chance.
#[derive(Debug, Clone, Copy)]
pub struct Ambient {
    /// The clock that goes on while the machine is suspended.
    pub boot: fn() -> BootTime,
    /// The wall clock, for records that people read.
    pub wall: fn() -> UnixMillis,
    /// A number in 0.0..1.0 that spreads what would happen at once.
    pub chance: fn() -> f64,
}

impl Ambient {
    /// Those of this machine.
    pub const MACHINE: Self = Self { boot: BootTime::now, wall: wall_clock, chance: rand::random::<f64> };
}

fn wall_clock() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
