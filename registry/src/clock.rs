//! The store's clock, as its callers know it.

use crate::ids::UnixMillis;
use std::time::Duration;
use tokio::time::Instant;

/// What the store's clock was when it was told, and how long ago that is.
///
/// It counts from when the answer was there, so that it is behind by the way of that answer, never ahead.
#[derive(Debug, Clone, Copy)]
pub struct StoreClock {
    told: UnixMillis,
    at: Instant,
}

impl StoreClock {
    /// The store says that it is `now`.
    pub fn told(now: UnixMillis) -> Self {
        Self { told: now, at: Instant::now() }
    }

    /// Time since it was told.
    pub fn age(&self) -> Duration {
        self.at.elapsed()
    }

    /// The store's time.
    pub fn now(&self) -> UnixMillis {
        self.after(Duration::ZERO)
    }

    /// The store's time a while from now.
    pub fn after(&self, wait: Duration) -> UnixMillis {
        let passed = self.age().saturating_add(wait).as_millis();
        UnixMillis(self.told.0.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_goes_on_as_time_does() {
        let clock = StoreClock::told(UnixMillis(1_000));
        tokio::time::advance(Duration::from_millis(250)).await;
        assert_eq!(clock.now(), UnixMillis(1_250));
        assert_eq!(clock.after(Duration::from_secs(2)), UnixMillis(3_250));
        assert_eq!(clock.after(Duration::MAX), UnixMillis(u64::MAX));
    }
}
