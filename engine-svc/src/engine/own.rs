//! Trouble with one agent or host ends nobody else's turn.

use crate::{error::EngineError, metrics};
use std::{
    collections::BTreeSet,
    fmt::Display,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};
use tracing::{debug, warn};

/// Most troubles that are noted as logged; then all are forgotten, and logged anew.
const MOST_LOGGED: usize = 1_000;

/// Whose trouble was logged already, so that a pass that meets it again is silent.
#[derive(Default)]
pub(super) struct Troubles {
    logged: Mutex<BTreeSet<String>>,
    met: AtomicU64,
}

impl Troubles {
    /// How often there was any: a pass that met some is run again.
    pub(super) fn met(&self) -> u64 {
        self.met.load(Ordering::Relaxed)
    }

    /// Lets through what concerns everybody, such as a registry that does not answer. What concerns `whom` alone is logged, and
    /// is `None`: the pass goes on.
    pub(super) fn own<T>(
        &self,
        step: &'static str,
        whom: &impl Display,
        result: Result<T, EngineError>,
    ) -> Result<Option<T>, EngineError> {
        let error = match result {
            Ok(value) => return Ok(Some(value)),
            Err(error) if error.is_of_the_store() => return Err(error),
            Err(error) => error,
        };
        metrics::trouble(step);
        self.met.fetch_add(1, Ordering::Relaxed);
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.len() >= MOST_LOGGED {
            logged.clear();
        }
        if logged.insert(format!("{step} {whom}")) {
            warn!(%whom, step, %error, "a step of the reconciliation failed; trying again");
        } else {
            debug!(%whom, step, %error, "a step of the reconciliation failed again");
        }
        Ok(None)
    }
}
