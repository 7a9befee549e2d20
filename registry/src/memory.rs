//! The deterministic twin of the store: the same operations on plain maps, with a clock of the caller's.
//!
//! For simulation and for tests. It is the rule book, under a lock; the conformance suite applies the same operations to
//! it and to the scripts under `lua/`, and compares what they answer and what they hold.

use crate::{
    Registry,
    error::RegistryError,
    ids::{AgentKey, Epoch, HostId, Incarnation, StoreLife, UnixMillis},
    ops::{
        Advance, AdvanceOutcome, Announce, Announced, AssignOutcome, Bring, Claim, ClaimOutcome, Cordon, Drift,
        EventId, Events, HostsView, Index, Look, Page, Queue, ReleaseGuard, ReleaseOutcome, Remember, Remembered,
        Renew, Renewal, Restore, Retire, StoreLost, Unassign,
    },
    placement::Candidates,
    record::{AgentRecord, View},
    rules::Store,
};
use async_trait::async_trait;
use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

/// The store in memory.
pub struct MemoryRegistry {
    clock: Box<dyn Fn() -> UnixMillis + Send + Sync>,
    store: Mutex<Store>,
    /// Which run of a Redis it would be.
    run: AtomicU64,
    /// Names the store's lives, in place of chance.
    random: AtomicU64,
    /// Wakes those that wait for changes.
    changed: Notify,
}

/// What a store held at one moment.
#[derive(Clone)]
pub struct Snapshot(Store);

impl MemoryRegistry {
    /// An empty store whose time is what `clock` says.
    pub fn new(clock: impl Fn() -> UnixMillis + Send + Sync + 'static) -> Self {
        Self {
            clock: Box::new(clock),
            store: Mutex::default(),
            run: AtomicU64::new(0),
            random: AtomicU64::new(0),
            changed: Notify::new(),
        }
    }

    /// Loses everything, as FLUSHALL does.
    pub fn wipe(&self) {
        *self.store() = Store::default();
    }

    /// What it holds now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.store().clone())
    }

    /// Holds again what it held, as a Redis does that was started again and came back without its last writes.
    pub fn restart_from(&self, Snapshot(store): Snapshot) {
        *self.store() = store;
        self.run.fetch_add(1, Ordering::Relaxed);
    }

    /// The store, about to be written.
    fn written(&self) -> MutexGuard<'_, Store> {
        let (now, run) = (self.now(), self.run.load(Ordering::Relaxed));
        let mut store = self.store();
        store.notice_another_run(run, now);
        // Whoever wakes waits for the lock.
        self.changed.notify_waiters();
        store
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        // A panic while holding the lock is a failed test already; the maps are never left half-changed.
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> UnixMillis {
        (self.clock)()
    }
}

#[async_trait]
impl Registry for MemoryRegistry {
    async fn announce(&self, request: &Announce) -> Result<Announced, RegistryError> {
        Ok(self.written().announce(request, self.random.fetch_add(1, Ordering::Relaxed), self.now()))
    }

    async fn renew(&self, request: &Renew) -> Result<Renewal, RegistryError> {
        Ok(self.written().renew(request, self.now()))
    }

    async fn depart(&self, host: &HostId, incarnation: &Incarnation) -> Result<(), RegistryError> {
        self.written().depart(host, incarnation);
        Ok(())
    }

    async fn claim(&self, request: &Claim) -> Result<ClaimOutcome, RegistryError> {
        Ok(self.written().claim(request, self.now()))
    }

    async fn advance(&self, request: &Advance) -> Result<AdvanceOutcome, RegistryError> {
        Ok(self.written().advance(request, self.now()))
    }

    async fn release(
        &self,
        key: &AgentKey,
        epoch: Epoch,
        guard: ReleaseGuard,
    ) -> Result<ReleaseOutcome, RegistryError> {
        self.written()
            .take_off(key, epoch, guard, None, self.now())
            .map_err(|StoreLost| RegistryError::Lost(key.to_string()))
    }

    async fn restore(&self, request: &Restore) -> Result<AdvanceOutcome, RegistryError> {
        Ok(self.written().restore(request, self.now()))
    }

    async fn remember(&self, r: &Remember) -> Result<Remembered, RegistryError> {
        Ok(self.written().remember(r, self.now()))
    }

    async fn unassign(&self, r: &Unassign) -> Result<ReleaseOutcome, RegistryError> {
        let mut store = self.written();
        if store.is_lost(r.store_life.as_ref()) {
            return Err(RegistryError::Lost(r.key.to_string()));
        }
        let taken = store.take_off(&r.key, r.epoch, r.guard, Some(&r.condition), self.now());
        taken.map_err(|StoreLost| RegistryError::Lost(r.key.to_string()))
    }

    async fn assign(
        &self,
        key: &AgentKey,
        epoch: Epoch,
        candidates: &Candidates,
    ) -> Result<AssignOutcome, RegistryError> {
        Ok(self.written().assign(key, epoch, candidates, self.now()))
    }

    async fn cordon(&self, host: &HostId, cordon: Cordon) -> Result<bool, RegistryError> {
        Ok(self.written().cordon(host, cordon))
    }

    async fn audit(&self, host: &HostId) -> Result<Option<Drift>, RegistryError> {
        Ok(self.written().audit(host))
    }

    async fn retire(&self, request: &Retire) -> Result<bool, RegistryError> {
        Ok(self.written().retire(request))
    }

    async fn forget(&self, host: &HostId, incarnation: &Incarnation) -> Result<bool, RegistryError> {
        Ok(self.written().forget(host, incarnation))
    }

    async fn bring(&self, request: &Bring) -> Result<(), RegistryError> {
        self.written().bring(request, self.random.fetch_add(1, Ordering::Relaxed), self.now());
        Ok(())
    }

    async fn settle(&self, store: &StoreLife, watched: bool) -> Result<bool, RegistryError> {
        Ok(self.written().settle(store, watched))
    }

    async fn bury(&self, key: &AgentKey) -> Result<bool, RegistryError> {
        self.written().bury_unknown(key).ok_or_else(|| RegistryError::Lost(key.to_string()))
    }

    async fn oldest(
        &self,
        queue: Queue,
        skip: usize,
        limit: usize,
        view: View,
    ) -> Result<Vec<AgentRecord>, RegistryError> {
        Ok(self.store().oldest(queue, skip, limit, view))
    }

    async fn get(&self, key: &AgentKey, view: View) -> Result<Option<AgentRecord>, RegistryError> {
        Ok(self.store().get(key, view))
    }

    async fn list(
        &self,
        index: &Index,
        after: Option<&AgentKey>,
        limit: usize,
        view: View,
    ) -> Result<Page, RegistryError> {
        Ok(self.store().list(index, after, limit, view))
    }

    async fn hosts(&self) -> Result<HostsView, RegistryError> {
        Ok(self.written().hosts_view(self.now()))
    }

    async fn look(&self) -> Result<Look, RegistryError> {
        Ok(self.store().look())
    }

    async fn events(&self, after: EventId, limit: usize, wait: Duration) -> Result<Events, RegistryError> {
        let give_up = Instant::now() + wait;
        loop {
            // Before the look: what is written after it is not missed.
            let changed = self.changed.notified();
            let events = self.store().events(after, limit);
            if !events.entries.is_empty() || wait.is_zero() || timeout_at(give_up, changed).await.is_err() {
                return Ok(events);
            }
        }
    }
}
