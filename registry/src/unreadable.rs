//! Rows that this version cannot read: another one wrote them, as in a rolling upgrade. They are left out where something is
//! decided, and what they hold stays as it is. This module counts them by kind, for metrics, and logs each once.

use crate::error::RegistryError;
use std::{
    collections::BTreeSet,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};
use tracing::warn;

/// Most rows that are logged.
const MOST_LOGGED: usize = 1_000;

/// What a row is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowKind {
    /// An agent.
    Agent,
    /// A host.
    Host,
    /// A change of an agent.
    Event,
}

impl RowKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Agent, Self::Host, Self::Event];

    /// The word in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Host => "host",
            Self::Event => "event",
        }
    }
}

static SKIPPED: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];
static LOGGED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Rows of this kind that this process left out since it was asked last; one that is read again counts again.
pub fn take_skipped(kind: RowKind) -> u64 {
    SKIPPED[kind as usize].swap(0, Ordering::Relaxed)
}

/// A row is left out.
pub(crate) fn skip(kind: RowKind, error: &RegistryError) {
    SKIPPED[kind as usize].fetch_add(1, Ordering::Relaxed);
    let mut logged = LOGGED.lock().unwrap_or_else(PoisonError::into_inner);
    if logged.len() < MOST_LOGGED && logged.insert(error.to_string()) {
        warn!(kind = kind.as_str(), %error, "left out");
    }
}
