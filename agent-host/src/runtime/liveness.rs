//! Whether an agent still comes round, by looks at its page ([`StateFile`]).
//!
//! No clock is compared with the agent's: an agent hangs when this host has looked at it for as long as the timeout and has
//! seen no step. A pause of this host itself, or of the whole machine, counts as one look.

use super::state::{Doing, Look, StateFile};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Looks in one timeout.
const LOOKS: u32 = 20;
/// Longest time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Watches one agent from when it is ready.
#[derive(Debug)]
pub(super) struct Liveness {
    timeout: Duration,
    last_look: Instant,
    stands: Stands,
}

impl Liveness {
    /// Begins now.
    pub(super) fn new(timeout: Duration) -> Self {
        Self { timeout, last_look: Instant::now(), stands: Stands::default() }
    }

    /// Waits until the agent does not come round any more. Returns in words what it hangs at.
    ///
    /// Cancel-safe: every look is kept in `self`.
    pub(super) async fn hangs(&mut self, state: &StateFile) -> String {
        let every = (self.timeout / LOOKS).min(LOOK_EVERY);
        loop {
            sleep_until(self.last_look + every).await;
            let now = Instant::now();
            // What this host has slept through, it has not seen.
            let watched = now.saturating_duration_since(self.last_look).min(every * 2);
            self.last_look = now;
            if let Some(look) = state.look()
                && let Some(why) = self.stands.see(look, watched, self.timeout)
            {
                return why;
            }
        }
    }
}

/// For how long an agent was seen to stand still.
#[derive(Debug, Default)]
struct Stands {
    last: Option<Look>,
    /// At the same step of its loop.
    step: Duration,
    /// Without a beat of its interpreter.
    beat: Duration,
}

impl Stands {
    /// Takes a look that was preceded by `watched` without one.
    fn see(&mut self, look: Look, watched: Duration, timeout: Duration) -> Option<String> {
        let last = self.last.replace(look.clone())?;
        let add = |same: bool, so_far: Duration| if same { so_far + watched } else { Duration::ZERO };
        self.step = add(last.sequence == look.sequence && look.doing != Doing::Waits, self.step);
        self.beat = add(last.beats == look.beats, self.beat);
        let seconds = timeout.as_secs_f64();
        match look.doing {
            Doing::Handles(message) if self.step >= timeout => {
                Some(format!("it was at work on {message} for more than {seconds} s, its liveness timeout"))
            }
            Doing::Returns(message) if self.step >= timeout => Some(format!(
                "its handling loop did not come round for more than {seconds} s, its liveness timeout, after {message}"
            )),
            Doing::Handles(message) if self.beat >= timeout => Some(format!(
                "its interpreter ran nothing else for more than {seconds} s, its liveness timeout, at work on {message}"
            )),
            Doing::Waits | Doing::Returns(_) if self.beat >= timeout => {
                Some(format!("its interpreter ran nothing for more than {seconds} s, its liveness timeout"))
            }
            Doing::Waits | Doing::Handles(_) | Doing::Returns(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::poison::Delivery;

    const TIMEOUT: Duration = Duration::from_secs(10);
    const SECOND: Duration = Duration::from_secs(1);

    fn at_work(sequence: u64, beats: u64) -> Look {
        let message = Delivery { topic: "g:t".to_owned(), message_id: 7 };
        Look { doing: Doing::Handles(message), sequence, beats }
    }

    #[test]
    fn only_an_agent_that_was_seen_to_stand_still_for_the_whole_timeout_hangs() {
        let mut stands = Stands::default();
        let mut see = |look, watched| stands.see(look, watched, TIMEOUT);
        assert_eq!(see(at_work(2, 0), SECOND * 60), None, "a first look says nothing");
        for beat in 1..10 {
            assert_eq!(see(at_work(2, beat), SECOND), None);
        }
        assert_eq!(see(at_work(6, 10), SECOND), None, "it has come round");
        for beat in 11..20 {
            assert_eq!(see(at_work(6, beat), SECOND), None);
        }
        let why = see(at_work(6, 20), SECOND).expect("it hangs");
        assert_eq!(why, "it was at work on message 7 of topic t for more than 10 s, its liveness timeout");
    }

    #[test]
    fn an_agent_that_waits_may_wait_for_ever_as_long_as_its_interpreter_runs() {
        let mut stands = Stands::default();
        let waits = |beats| Look { doing: Doing::Waits, ..at_work(2, beats) };
        for beat in 0..1000 {
            assert_eq!(stands.see(waits(beat), SECOND, TIMEOUT), None);
        }
        let hangs = (0..10).find_map(|_| stands.see(waits(999), SECOND, TIMEOUT)).expect("it hangs");
        assert!(hangs.contains("its interpreter ran nothing"), "{hangs}");
    }
}
