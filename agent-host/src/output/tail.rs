//! The last lines of an agent, for the reason of a failure.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

/// Lines kept.
const LINES: usize = 50;
/// Bytes kept of each.
pub(super) const MAX_TAIL_LINE: usize = 1024;

/// The last lines, shared between the readers of both streams.
#[derive(Debug, Clone, Default)]
pub struct Tail(Arc<Mutex<VecDeque<String>>>);

impl Tail {
    /// Adds a line and forgets the oldest one over the limit.
    pub fn push(&self, line: &str) {
        let cut = line.floor_char_boundary(MAX_TAIL_LINE);
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LINES {
            lines.pop_front();
        }
        lines.push_back(line[..cut].to_owned());
    }

    /// All lines that are kept, oldest first.
    pub fn all(&self) -> Vec<String> {
        self.last(LINES)
    }

    /// The last `count` lines, oldest first.
    pub fn last(&self, count: usize) -> Vec<String> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().skip(lines.len().saturating_sub(count)).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_keeps_the_last_lines_and_cuts_long_ones() {
        let tail = Tail::default();
        (0..60).for_each(|n| tail.push(&format!("{n}{}", "é".repeat(2000))));
        let last = tail.last(100);
        assert_eq!(last.len(), 50);
        assert!(last[0].starts_with("10é") && last.iter().all(|l| l.len() <= 1024));
        assert_eq!(tail.last(1).len(), 1);
    }
}
