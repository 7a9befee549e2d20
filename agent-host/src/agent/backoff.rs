//! How long to wait before a restart. Pure: the random number comes from outside.

use rustic_proto::restart::RestartPolicy;
use std::time::Duration;

/// Largest part of a delay that chance takes off, so that agents that died together do not start together.
const JITTER: f64 = 0.2;

/// Delay before restart number `attempt` (from 1). `chance` is in 0.0..1.0.
pub fn delay(policy: &RestartPolicy, attempt: u32, chance: f64) -> Duration {
    let doublings = attempt.saturating_sub(1).min(31);
    let full = policy.initial_backoff.saturating_mul(1 << doublings).min(policy.max_backoff);
    full.mul_f64(1.0 - JITTER * chance.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_delay_doubles_up_to_its_bound() {
        let policy = RestartPolicy::default();
        let seconds: Vec<_> = (1..=9).map(|n| delay(&policy, n, 0.0).as_secs_f64()).collect();
        assert_eq!(seconds, [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]);
    }

    proptest! {
        #[test]
        fn chance_takes_off_at_most_a_fifth(attempt in 0u32..u32::MAX, chance in 0.0f64..1.0) {
            let policy = RestartPolicy::default();
            let (full, cut) = (delay(&policy, attempt, 0.0), delay(&policy, attempt, chance));
            prop_assert!(cut <= full && cut >= full.mul_f64(0.79));
        }
    }
}
