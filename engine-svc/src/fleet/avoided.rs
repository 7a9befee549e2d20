//! Hosts that said a moment ago that they lack what every process needs, though they have room by their own count.

use rustic_registry::HostId;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::time::Instant;

/// How long a host is avoided: as long as agents may take to end, and no longer than a caller waits.
const A_WHILE: Duration = Duration::from_secs(5);

/// The hosts, and since when.
#[derive(Debug, Default)]
pub(super) struct Avoided(BTreeMap<HostId, Instant>);

impl Avoided {
    /// Avoids a host from now on, for a while.
    pub(super) fn add(&mut self, host: &HostId) {
        self.0.insert(host.clone(), Instant::now());
    }

    /// Those to avoid now. Forgets the others: what is kept are hosts that answered within the while.
    pub(super) fn now(&mut self) -> BTreeSet<HostId> {
        self.0.retain(|_, since| since.elapsed() < A_WHILE);
        self.0.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_host_is_avoided_for_a_while_after_it_said_so_last() {
        let host: HostId = "h-0".parse().expect("valid");
        let mut avoided = Avoided::default();
        avoided.add(&host);
        tokio::time::advance(A_WHILE / 2).await;
        avoided.add(&host);
        tokio::time::advance(A_WHILE / 2).await;
        assert_eq!(avoided.now(), BTreeSet::from([host]));
        tokio::time::advance(A_WHILE / 2).await;
        assert_eq!(avoided.now(), BTreeSet::new());
    }
}
