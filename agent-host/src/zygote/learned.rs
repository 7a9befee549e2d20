//! What agents turned out to need, and when the next generation of the zygote is due. Pure: told the time.
//!
//! Bounded in count (modules), memory (what a generation may use; checked by the task) and rate (time between two
//! generations), so that no agent class can make a host build zygotes all day.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::time::Instant;

/// Time between the beginnings of two generations.
pub(super) const EVERY: Duration = Duration::from_secs(5);
/// Longest name of a module that is learned.
const MAX_NAME: usize = 256;

/// How much is learned.
#[derive(Debug, Clone, Copy)]
pub struct LearningLimits {
    /// Modules learned at most; 0 turns learning off.
    pub modules: usize,
    /// Memory of its own that a generation may use, in bytes.
    pub memory: u64,
}

/// What is known so far.
#[derive(Debug)]
pub(super) struct Learned {
    limits: LearningLimits,
    /// Modules to preload, in the order in which they were met.
    wanted: Vec<String>,
    /// Modules that failed to import, or spoilt a generation, and why.
    refused: BTreeMap<String, String>,
    /// What the latest generation has, or tried.
    built: BTreeSet<String>,
    not_before: Option<Instant>,
}

impl Learned {
    pub(super) fn new(limits: LearningLimits) -> Self {
        Self { limits, wanted: vec![], refused: BTreeMap::new(), built: BTreeSet::new(), not_before: None }
    }

    /// An agent had to import these itself.
    pub(super) fn saw(&mut self, modules: Vec<String>) {
        for module in modules {
            let fits = self.wanted.len() < self.limits.modules && module.len() <= MAX_NAME;
            if fits && !self.wanted.contains(&module) && !self.refused.contains_key(&module) {
                self.wanted.push(module);
            }
        }
    }

    /// When the next generation may begin; `None` while the latest one has all that is wanted.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let missing = self.wanted.iter().any(|module| !self.built.contains(module));
        missing.then(|| self.not_before.unwrap_or(now))
    }

    /// Begins a generation: what it must preload.
    pub(super) fn begin(&mut self, now: Instant) -> Vec<String> {
        self.built = self.wanted.iter().cloned().collect();
        self.not_before = Some(now + EVERY);
        self.wanted.clone()
    }

    /// Never again.
    pub(super) fn refuse(&mut self, module: &str, why: &str) {
        self.wanted.retain(|wanted| wanted != module);
        self.refused.insert(module.to_owned(), why.to_owned());
    }

    /// The latest generation is of no use, or gone: whatever is wanted must be built again.
    pub(super) fn lost(&mut self) {
        self.built.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learned(modules: usize) -> Learned {
        Learned::new(LearningLimits { modules, memory: 0 })
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_generation_is_due_when_something_new_is_wanted() {
        let (mut learned, now) = (learned(9), Instant::now());
        assert_eq!(learned.due(now), None);
        learned.saw(names(&["b", "a", "b"]));
        assert_eq!(learned.due(now), Some(now), "the first one at once");
        assert_eq!(learned.begin(now), names(&["b", "a"]), "in the order in which they were met");
        learned.saw(names(&["a"]));
        assert_eq!(learned.due(now), None, "nothing new");
    }

    #[test]
    fn generations_keep_their_distance() {
        let (mut learned, now) = (learned(9), Instant::now());
        learned.saw(names(&["a"]));
        learned.begin(now);
        learned.saw(names(&["b"]));
        assert_eq!(learned.due(now), Some(now + EVERY));
        assert_eq!(learned.begin(now + EVERY), names(&["a", "b"]));
    }

    #[test]
    fn what_was_refused_is_not_wanted_again() {
        let (mut learned, now) = (learned(9), Instant::now());
        learned.saw(names(&["good", "bad"]));
        learned.begin(now);
        learned.refuse("bad", "it starts threads");
        learned.lost();
        learned.saw(names(&["bad"]));
        assert_eq!(learned.begin(now + EVERY), names(&["good"]));
        assert_eq!(learned.due(now), None);
    }

    #[test]
    fn no_more_is_learned_than_the_limit_allows() {
        let mut learned = learned(2);
        learned.saw(names(&["a", "b", "c"]));
        assert_eq!(learned.begin(Instant::now()), names(&["a", "b"]));
    }
}
