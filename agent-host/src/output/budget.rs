//! How much an agent may write to the log: a token bucket over bytes.

use super::OutputLimit;
use tokio::time::Instant;

#[derive(Debug)]
pub(super) struct Budget {
    limit: OutputLimit,
    left: f64,
    at: Option<Instant>,
    suppressed: u64,
}

impl Budget {
    pub(super) fn new(limit: OutputLimit) -> Self {
        Self { limit, left: limit.burst as f64, at: None, suppressed: 0 }
    }

    /// Whether `bytes` may be written now.
    pub(super) fn take(&mut self, bytes: u64, now: Instant) -> bool {
        let passed = self.at.map_or(0.0, |at| now.saturating_duration_since(at).as_secs_f64());
        self.at = Some(now);
        self.left = (self.left + passed * self.limit.bytes_per_second as f64).min(self.limit.burst as f64);
        if self.left < bytes as f64 {
            self.suppressed += 1;
            return false;
        }
        self.left -= bytes as f64;
        true
    }

    /// Lines that were not granted since the last call.
    pub(super) fn forget_suppressed(&mut self) -> u64 {
        std::mem::take(&mut self.suppressed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_flood_is_cut_to_the_rate_and_counted() {
        let mut budget = Budget::new(OutputLimit { bytes_per_second: 100, burst: 200 });
        let start = Instant::now();
        let granted = (0..10).filter(|_| budget.take(50, start)).count();
        assert_eq!(granted, 4);
        assert!(!budget.take(50, start + Duration::from_millis(400)));
        assert!(budget.take(50, start + Duration::from_millis(600)));
        assert_eq!(budget.forget_suppressed(), 7);
    }
}
