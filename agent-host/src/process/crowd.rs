//! How many processes and threads each run has, wherever they are.

use super::{mark::Mark, table};
use std::collections::BTreeMap;
use tokio::task::spawn_blocking;

/// Processes and threads together, by run, as far as a run may have more than `limit`: with fewer processes on the whole machine, of which
/// each has a thread, nobody is looked at but every `thorough` time.
pub async fn count(limit: u32, thorough: bool) -> BTreeMap<Mark, u64> {
    spawn_blocking(move || {
        let everybody = table::everybody().unwrap_or_default();
        if !thorough && everybody.len() <= limit as usize {
            return BTreeMap::new();
        }
        let mut counts = BTreeMap::new();
        for pid in everybody {
            if let Some(mark) = Mark::of(pid) {
                // Between the two looks it may have ended.
                *counts.entry(mark).or_default() += table::threads(pid).unwrap_or(0);
            }
        }
        counts
    })
    .await
    .unwrap_or_default()
}
