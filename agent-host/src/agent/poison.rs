//! Messages over which an agent dies again and again: counted, and set aside once it were too many. Pure.
//!
//! ```text
//! died over it ──▶ counted ──(limit deaths)──▶ skipped: every later start is given it ──▶ set aside, as the agent reports
//! ```
//!
//! What is kept is bounded, the oldest goes first: an agent that dies over ever new messages must not grow its host.

use rustic_registry::{AgentKey, ExitStatus};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

/// Messages counted at once.
const COUNTED: usize = 8;
/// Messages that a start is asked to skip.
const SKIPPED: usize = 32;
/// Messages named in a reason.
const NAMED: usize = 3;
/// Longest reason kept of a death.
const MAX_REASON: usize = 512;
/// Agents whose counts a host remembers from one life of theirs to the next.
const REMEMBERED: usize = 1024;

/// A message, as an agent gets it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// Topic, with the guild's name before it.
    pub topic: String,
    /// Id of the message.
    pub message_id: u64,
}

impl fmt::Display for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Agents know their topics without the guild's name.
        let topic = self.topic.split_once(':').map_or(self.topic.as_str(), |(_guild, topic)| topic);
        write!(f, "message {} of topic {topic}", self.message_id)
    }
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// Its status, as its parent got it.
    pub status: ExitStatus,
    /// What it said of its end before.
    pub last_words: Option<String>,
    /// The message that it was handling.
    pub at_work: Option<Delivery>,
    /// What is to be said of the status; follows it.
    pub explanation: String,
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        Self { status, last_words: None, at_work: None, explanation: String::new() }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(words) = &self.last_words {
            write!(f, "{words}; ")?;
        }
        write!(f, "its process ended with {}{}", self.status, self.explanation)?;
        match &self.at_work {
            Some(message) => write!(f, ", at work on {message}"),
            None => Ok(()),
        }
    }
}

/// A message that is not handed to the agent any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Skip {
    /// The message.
    #[serde(flatten)]
    pub message: Delivery,
    /// How often the agent died over it.
    pub deaths: u32,
    /// How it died last.
    pub reason: String,
    /// The agent said that it is set aside.
    #[serde(skip)]
    pub done: bool,
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} was set aside after {} deaths: {}", self.message, self.deaths, self.reason)
    }
}

/// What is known of one agent's deaths.
#[derive(Debug, Clone, Default)]
pub struct Poison {
    /// Deaths over one message after which it is set aside; 0: it never is.
    limit: u32,
    counts: VecDeque<(Delivery, u32)>,
    skips: VecDeque<Skip>,
}

impl Poison {
    /// Nothing known. `limit`: deaths over one message after which it is set aside; 0: it never is.
    pub fn new(limit: u32) -> Self {
        Self { limit, ..Self::default() }
    }

    /// The agent died of its own, for `reason`, while it handled `message`.
    pub fn died_over(&mut self, message: &Delivery, reason: &str) {
        if self.limit == 0 {
            return;
        }
        let before = match self.counts.iter().position(|(counted, _)| counted == message) {
            Some(at) => self.counts.remove(at).map_or(0, |(_, deaths)| deaths),
            None => 0,
        };
        let deaths = before + 1;
        if deaths < self.limit {
            keep(&mut self.counts, (message.clone(), deaths), COUNTED);
            return;
        }
        self.skips.retain(|skip| skip.message != *message);
        let reason = reason[..reason.floor_char_boundary(MAX_REASON)].to_owned();
        keep(&mut self.skips, Skip { message: message.clone(), deaths, reason, done: false }, SKIPPED);
    }

    /// The agent says that `message` is set aside. Returns whether that is news.
    pub fn set_aside(&mut self, message: &Delivery) -> bool {
        match self.skips.iter_mut().find(|skip| skip.message == *message && !skip.done) {
            Some(skip) => {
                skip.done = true;
                true
            }
            None => false,
        }
    }

    /// What a start is asked to skip.
    pub fn skips(&self) -> Vec<Skip> {
        self.skips.iter().cloned().collect()
    }

    /// The last messages that were set aside, in words; empty if there are none.
    pub fn summary(&self) -> String {
        let done: Vec<_> = self.skips.iter().filter(|skip| skip.done).collect();
        let last = done.iter().rev().take(NAMED).map(ToString::to_string);
        let mut summary = last.collect::<Vec<_>>().join("; ");
        if done.len() > NAMED {
            summary.push_str(&format!("; and {} before", done.len() - NAMED));
        }
        summary
    }

    fn is_empty(&self) -> bool {
        self.counts.is_empty() && self.skips.is_empty()
    }
}

fn keep<T>(kept: &mut VecDeque<T>, new: T, most: usize) {
    if kept.len() == most {
        kept.pop_front();
    }
    kept.push_back(new);
}

/// What a host remembers of its agents' deaths from one claim to the next, as when somebody has an agent started anew.
#[derive(Debug, Clone)]
pub struct Deaths {
    limit: u32,
    known: Arc<Mutex<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    agents: BTreeMap<AgentKey, Poison>,
    /// In the order in which they were remembered.
    order: VecDeque<AgentKey>,
}

impl Deaths {
    /// Nothing known. `limit`: deaths over one message after which it is set aside; 0: it never is.
    pub fn new(limit: u32) -> Self {
        Self { limit, known: Arc::default() }
    }

    /// What is known of an agent.
    pub fn recall(&self, key: &AgentKey) -> Poison {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.agents.get(key).cloned().unwrap_or_else(|| Poison::new(self.limit))
    }

    /// Remembers what is known of an agent, and forgets the agent that was remembered first when there are too many.
    pub fn remember(&self, key: &AgentKey, poison: &Poison) {
        if poison.is_empty() {
            return;
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.agents.insert(key.clone(), poison.clone()).is_none() {
            known.order.push_back(key.clone());
        }
        if known.order.len() > REMEMBERED
            && let Some(first) = known.order.pop_front()
        {
            known.agents.remove(&first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(id: u64) -> Delivery {
        Delivery { topic: "g:t".to_owned(), message_id: id }
    }

    #[test]
    fn a_message_is_skipped_after_its_limit_of_deaths_whatever_comes_between() {
        let mut poison = Poison::new(3);
        for over in [1, 2, 1, 2, 2] {
            poison.died_over(&message(over), "exit code 1");
        }
        let skips = poison.skips();
        assert_eq!(skips.len(), 1);
        assert_eq!((&skips[0].message, skips[0].deaths), (&message(2), 3));
        assert_eq!(poison.summary(), "", "the agent has not said so yet");
        assert!(poison.set_aside(&message(2)) && !poison.set_aside(&message(2)) && !poison.set_aside(&message(1)));
        assert_eq!(poison.summary(), "message 2 of topic t was set aside after 3 deaths: exit code 1");
        poison.died_over(&message(1), "exit code 1");
        assert_eq!(poison.skips().len(), 2);
    }

    #[test]
    fn a_limit_of_nothing_counts_nothing() {
        let mut poison = Poison::new(0);
        (0..100).for_each(|_| poison.died_over(&message(1), "x"));
        assert!(poison.is_empty());
    }

    #[test]
    fn a_host_remembers_agents_up_to_a_bound() {
        let deaths = Deaths::new(1);
        let key = |n: usize| AgentKey::parse("o", "g", &format!("a{n}")).expect("ids");
        for n in 0..REMEMBERED + 10 {
            let mut poison = deaths.recall(&key(n));
            poison.died_over(&message(7), "x");
            deaths.remember(&key(n), &poison);
        }
        assert!(deaths.recall(&key(9)).is_empty());
        assert_eq!(deaths.recall(&key(10)).skips().len(), 1);
        assert_eq!(deaths.known.lock().expect("no panic").agents.len(), REMEMBERED);
    }

    #[test]
    fn an_end_is_shown_with_what_is_known_of_it() {
        let status = ExitStatus::Code(70);
        let words = Some("a handler raised SystemExit: 3".to_owned());
        let exit = Exit { last_words: words, at_work: Some(message(5)), ..status.into() };
        let summary =
            "a handler raised SystemExit: 3; its process ended with exit code 70, at work on message 5 of topic t";
        assert_eq!(exit.to_string(), summary);
        assert_eq!(Exit::from(status).to_string(), "its process ended with exit code 70");
    }

    proptest! {
        #[test]
        fn what_is_kept_is_bounded(over in prop::collection::vec(0u64..200, 0..600), limit in 1u32..4) {
            let mut poison = Poison::new(limit);
            for id in over {
                poison.died_over(&message(id), &"é".repeat(2000));
                poison.set_aside(&message(id));
            }
            prop_assert!(poison.counts.len() <= COUNTED && poison.skips.len() <= SKIPPED);
            prop_assert!(poison.counts.iter().all(|(_, deaths)| *deaths < limit));
            prop_assert!(poison.summary().len() < 4 * (MAX_REASON + 100));
        }
    }
}
