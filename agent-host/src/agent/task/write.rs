//! What the task writes of its agent: one write at a time, made again until the store has answered it.

use super::AgentTask;
use crate::agent::{
    machine::Action,
    record::{Facts, Write, Written},
};
use futures_util::future::BoxFuture;
use rustic_registry::{Phase, RegistryError, StoreLife};
use std::time::Duration;
use tracing::warn;

/// First and longest delay between tries to reach the store.
const STORE_RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// A write that goes on until the store has answered it.
pub(super) struct StoreWrite {
    write: Write,
    /// The store life that is written to.
    store_life: Option<StoreLife>,
    retry: Duration,
    pub(super) call: BoxFuture<'static, Written>,
}

impl AgentTask {
    /// Begins a write; it takes the place of one that goes on.
    pub(super) fn begin_write(&mut self, write: Write) {
        self.write = Some(self.call_store(write, STORE_RETRY.0, Duration::ZERO));
    }

    fn call_store(&mut self, write: Write, retry: Duration, after: Duration) -> StoreWrite {
        let store_life = self.lease.store();
        let facts = self.facts(write);
        let call = self.record.write(write, &facts, store_life.clone(), after);
        StoreWrite { write, store_life, retry, call }
    }

    fn facts(&self, write: Write) -> Facts {
        let phase = match write {
            Write::Asked(Action::Record(phase)) => phase,
            Write::Asked(_) | Write::Again => self.machine.phase_to_report(),
        };
        Facts {
            phase,
            pid: self.body.pid(),
            restarts: self.machine.restarts(),
            condition: self.machine.condition().cloned(),
            exit: self.machine.last_exit(),
            last_lines: if phase == Phase::Failed { self.tail.all() } else { vec![] },
        }
    }

    pub(super) fn wrote(&mut self, written: Written) {
        let Some(write) = self.write.take() else { return };
        match written {
            Ok(event) => {
                self.was_answered(&write);
                self.inbox.extend(event);
            }
            Err(error) => self.store_failed(&error, &write),
        }
    }

    /// The store has answered a write, whatever it was.
    fn was_answered(&mut self, write: &StoreWrite) {
        let store = &write.store_life;
        self.status.send_if_modified(|s| {
            let mended = s.trouble.take().is_some();
            std::mem::replace(&mut s.written_to, store.clone()) != *store || mended
        });
        // A store that was lost and took a restored record cannot know whether the claim of an agent without a lease was given away
        // before. So the record is restored once more before the agent's next start, which gets another claim then. What gives the
        // claim up restores nothing again: by then the agent may have been stopped.
        let gives_up = self.machine.is_admitting() && write.write != Write::Again;
        if gives_up || !self.machine.is_fenced() {
            self.record.written_to.clone_from(store);
        }
        self.record.accepted = true;
    }

    /// A write that failed is made again until the store has answered it: the claim must not be forgotten.
    fn store_failed(&mut self, error: &RegistryError, failed: &StoreWrite) {
        if self.status.borrow().trouble.is_none() {
            warn!(%error, "the agent's record cannot be written; trying again until it can");
        }
        self.status.send_modify(|s| s.trouble = Some(error.to_string()));
        let retry = (failed.retry * 2).min(STORE_RETRY.1);
        self.write = Some(self.call_store(failed.write, retry, retry));
    }

    /// There is another store life. What is under way quotes the one before, and changes nothing if it still arrives.
    pub(super) fn write_to_new_store(&mut self) {
        match self.write.take() {
            Some(under_way) => self.begin_write(under_way.write),
            None => self.write_again(),
        }
    }

    /// Writes the record once more, unless a write is under way anyway.
    pub(super) fn write_again(&mut self) {
        if self.write.is_none() && self.status.borrow().admitted {
            self.begin_write(Write::Again);
        }
    }
}
