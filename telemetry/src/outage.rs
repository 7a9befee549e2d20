//! Failures of one thing in a row, summarised in the log: the first one, one line a minute while they go on, and their end.
//!
//! ```text
//!  works ──failed: WARN──▶ out ──failed: WARN once a minute, else DEBUG──▶ out ──over: INFO, how many and how long──▶ works
//! ```

use std::{fmt, time::Duration};
use tokio::time::Instant;
use tracing::{debug, info, warn};

/// Time between two lines about an outage that goes on.
const EVERY: Duration = Duration::from_secs(60);

/// Failures of one thing.
#[derive(Debug)]
pub struct Outage {
    what: String,
    run: Option<Run>,
}

/// Failures in a row.
#[derive(Debug)]
struct Run {
    began: Instant,
    logged: Instant,
    failures: u32,
}

impl Outage {
    /// It works so far. `what` names it in the log: "renewing the lease".
    pub fn of(what: impl Into<String>) -> Self {
        Self { what: what.into(), run: None }
    }

    /// Failures in a row up to now.
    pub fn failures(&self) -> u32 {
        self.run.as_ref().map_or(0, |run| run.failures)
    }

    /// It failed. Returns how often in a row.
    pub fn failed(&mut self, error: &impl fmt::Display) -> u32 {
        let now = Instant::now();
        let what = &self.what;
        let Some(run) = &mut self.run else {
            self.run = Some(Run { began: now, logged: now, failures: 1 });
            warn!(%error, "{what} failed; trying again");
            return 1;
        };
        run.failures += 1;
        let (failures, lasts) = (run.failures, now.saturating_duration_since(run.began));
        if now.saturating_duration_since(run.logged) >= EVERY {
            run.logged = now;
            warn!(%error, failures, ?lasts, "{what} still fails");
        } else {
            debug!(%error, failures, "{what} failed again");
        }
        failures
    }

    /// It works. Returns whether it had failed.
    pub fn over(&mut self) -> bool {
        let Some(Run { began, failures, .. }) = self.run.take() else { return false };
        info!(failures, lasted = ?began.elapsed(), "{} works again", self.what);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use tracing::{
        Level,
        field::{Field, Visit},
    };
    use tracing_subscriber::{Layer, layer::SubscriberExt as _};

    /// Keeps what is logged from INFO on.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<String>>>);

    struct Text(String);

    impl Visit for Text {
        fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
            let text = if field.name() == "message" { format!("{value:?}") } else { format!("{field}={value:?}") };
            self.0 = [std::mem::take(&mut self.0), text].join(" ").trim().to_owned();
        }
    }

    impl<S: tracing::Subscriber> Layer<S> for Lines {
        fn on_event(&self, event: &tracing::Event<'_>, _context: tracing_subscriber::layer::Context<'_, S>) {
            let mut text = Text(String::new());
            event.record(&mut text);
            if *event.metadata().level() <= Level::INFO {
                self.0.lock().expect("not poisoned").push(text.0);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_its_beginning_a_line_a_minute_and_its_end() {
        let lines = Lines::default();
        let _logs = tracing::subscriber::set_default(tracing_subscriber::registry().with(lines.clone()));
        let mut outage = Outage::of("renewing the lease");
        assert!(!outage.over(), "nothing had failed");
        for _ in 0..130 {
            outage.failed(&"no route");
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(outage.failures(), 130);
        assert!(outage.over() && !outage.over());
        let logged = lines.0.lock().expect("not poisoned").clone();
        let expected = [
            "renewing the lease failed; trying again error=no route",
            "renewing the lease still fails error=no route failures=61 lasts=60s",
            "renewing the lease still fails error=no route failures=121 lasts=120s",
            "renewing the lease works again failures=130 lasted=130s",
        ];
        assert_eq!(logged, expected);
    }
}
