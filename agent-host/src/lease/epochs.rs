//! The highest epoch that this host heard of, for a store that was lost and for the next life of this host.
//!
//! Who claims counts in the store. A store that lost its count must not give an epoch twice, whatever its clock says, so every host is
//! a witness of all claims: the store's answers name the last epoch. The next life on this machine is one too. It finds an epoch that
//! is written ahead of what was heard, so that most claims write nothing.

use rustic_registry::Epoch;
use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

/// Keeps an epoch for the next life of this host on this machine.
pub type KeepEpoch = Box<dyn Fn(Epoch) + Send + Sync>;

pub(super) struct Epochs {
    highest: AtomicU64,
    kept: Mutex<Epoch>,
    keep: KeepEpoch,
}

impl Epochs {
    /// The former life has kept `kept`.
    pub(super) fn new(kept: Epoch, keep: KeepEpoch) -> Self {
        Self { highest: AtomicU64::new(kept.0), kept: Mutex::new(kept), keep }
    }

    pub(super) fn highest(&self) -> Epoch {
        Epoch(self.highest.load(Ordering::Relaxed))
    }

    /// Returns when it is kept.
    pub(super) fn saw(&self, epoch: Epoch) {
        if epoch > Epoch::MAX || self.highest.fetch_max(epoch.0, Ordering::Relaxed) >= epoch.0 {
            return;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if *kept < epoch {
            *kept = epoch.with_unheard();
            (self.keep)(*kept);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn what_is_kept_is_ahead_of_every_epoch_and_seldom_written() {
        let written = Arc::new(Mutex::new(vec![]));
        let keep = written.clone();
        let epochs = Epochs::new(Epoch(7), Box::new(move |epoch| keep.lock().expect("not poisoned").push(epoch)));
        assert_eq!(epochs.highest(), Epoch(7));
        for epoch in [5, 7, 8, 9, 1_000_008, 1_000_009] {
            epochs.saw(Epoch(epoch));
            let last = written.lock().expect("not poisoned").last().copied();
            assert!(last.unwrap_or(Epoch(7)) >= epochs.highest());
        }
        assert_eq!(*written.lock().expect("not poisoned"), [Epoch(1_000_008), Epoch(2_000_009)]);
        assert_eq!(epochs.highest(), Epoch(1_000_009));
    }

    #[test]
    fn an_epoch_that_cannot_be_is_not_heard_of() {
        let epochs = Epochs::new(Epoch(0), Box::new(|_| panic!("nothing to keep")));
        epochs.saw(Epoch(Epoch::MAX.0 + 1));
        assert_eq!(epochs.highest(), Epoch(0));
    }
}
