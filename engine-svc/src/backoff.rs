//! How long to wait before the registry is tried again. Pure: the random number comes from outside.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(5);
/// Largest part that chance takes off, so that replicas do not return all at once.
const JITTER: f64 = 0.3;

/// Delay after `failures` (from 1) in a row. `chance` is in 0.0..1.0.
pub fn delay(failures: u32, chance: f64) -> Duration {
    let doublings = failures.saturating_sub(1).min(10);
    (FIRST * (1 << doublings)).min(LONGEST).mul_f64(1.0 - JITTER * chance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_doubles_up_to_its_bound_and_chance_shortens_it() {
        let millis: Vec<_> = (1..=7).map(|n| delay(n, 0.0).as_millis()).collect();
        assert_eq!(millis, [250, 500, 1000, 2000, 4000, 5000, 5000]);
        assert_eq!(delay(u32::MAX, 1.0), Duration::from_millis(3500));
    }
}
