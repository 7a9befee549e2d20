//! The operations as a trait: the store in Redis and its twin in memory.

use crate::{error::RegistryError, placement::Candidates};
use async_trait::async_trait;
use rustic_core::{
    Advance, AdvanceOutcome, AgentKey, AgentRecord, Announce, Announced, AssignOutcome, Bring, Claim, ClaimOutcome,
    Cordon, Drift, Epoch, EventId, Events, HostId, HostsView, Incarnation, Index, Look, Page, Queue, ReleaseGuard,
    ReleaseOutcome, Remember, Remembered, Renew, Renewal, Restore, Retire, StoreLife, Unassign, View,
};
use std::time::Duration;

/// Changes that the stream keeps, roughly.
pub const EVENTS_KEPT: usize = 10_000;

/// The store, real or in memory.
#[async_trait]
pub trait Registry: Send + Sync + 'static {
    /// See [`Announce`]. Idempotent for one incarnation.
    async fn announce(&self, request: &Announce) -> Result<Announced, RegistryError>;
    /// See [`Renew`]. O(1).
    async fn renew(&self, request: &Renew) -> Result<Renewal, RegistryError>;
    /// Takes a host off the list at the end of its life; void if another incarnation holds the name.
    async fn depart(&self, host: &HostId, incarnation: &Incarnation) -> Result<(), RegistryError>;
    /// See [`Claim`] and [`IfFull`]. Idempotent by request id and digest. O(1) in agents and hosts.
    async fn claim(&self, request: &Claim) -> Result<ClaimOutcome, RegistryError>;
    /// See [`Advance`]. Idempotent. O(1).
    async fn advance(&self, request: &Advance) -> Result<AdvanceOutcome, RegistryError>;
    /// See [`Restore`]. Answers `Done` when the record is as the host reports it, `Stale` when there is a later claim, `Gone`
    /// when it was stopped or moved since, and `StoreLost` when the store was lost once more or does not know the host. Idempotent. O(1).
    async fn restore(&self, request: &Restore) -> Result<AdvanceOutcome, RegistryError>;
    /// See [`Remember`]. Idempotent. O(log pending).
    async fn remember(&self, request: &Remember) -> Result<Remembered, RegistryError>;
    /// Removes an agent's record and frees its room, if `epoch` and `guard` hold. Fails with [`RegistryError::Lost`] while
    /// hosts still report what they run, unless the process was reaped. O(1).
    async fn release(
        &self,
        key: &AgentKey,
        epoch: Epoch,
        guard: ReleaseGuard,
    ) -> Result<ReleaseOutcome, RegistryError>;
    /// See [`Unassign`]. Fails with [`RegistryError::Lost`] when the store is in another life. O(log pending).
    async fn unassign(&self, request: &Unassign) -> Result<ReleaseOutcome, RegistryError>;
    /// Claims a host for an agent that is PENDING under `epoch`, as far as those that came before it let it pass. O(1) in agents and
    /// hosts.
    async fn assign(
        &self,
        key: &AgentKey,
        epoch: Epoch,
        candidates: &Candidates,
    ) -> Result<AssignOutcome, RegistryError>;
    /// Has a host give its agents away and take none, or take agents again, whatever it says itself; until its next life.
    /// Returns whether the host is known.
    async fn cordon(&self, host: &HostId, cordon: Cordon) -> Result<bool, RegistryError>;
    /// Compares what is reserved on a host with the sum of what its agents take, and makes it that. Returns both if they differed, which
    /// is a fault of somebody's; `None` too when the host is not known.
    async fn audit(&self, host: &HostId) -> Result<Option<Drift>, RegistryError>;
    /// See [`Retire`]. Returns whether the process was retired.
    async fn retire(&self, request: &Retire) -> Result<bool, RegistryError>;
    /// Forgets a process that is over once nothing is left that it claimed. Returns whether it did.
    async fn forget(&self, host: &HostId, incarnation: &Incarnation) -> Result<bool, RegistryError>;
    /// See [`Bring`]; void in the life that it was seen in.
    async fn bring(&self, request: &Bring) -> Result<(), RegistryError>;
    /// Ends the time in which a store life settles, if every host that is known of has reported what it runs or is retired, and the
    /// caller has `watched` it for as long as any lease lasts, or nobody has come to it from another life. Returns whether it did.
    async fn settle(&self, store: &StoreLife, watched: bool) -> Result<bool, RegistryError>;
    /// Notes that somebody asked to stop an unknown agent: a claim that was asked for before must not bring it. Returns whether it is
    /// unknown. Fails with [`RegistryError::Lost`] while hosts still report.
    async fn bury(&self, key: &AgentKey) -> Result<bool, RegistryError>;
    /// Reads up to `limit` agents of a queue after the first `skip`, without those that this version cannot read.
    async fn oldest(
        &self,
        queue: Queue,
        skip: usize,
        limit: usize,
        view: View,
    ) -> Result<Vec<AgentRecord>, RegistryError>;
    /// Reads one agent. Fails with [`RegistryError::Unreadable`] if this version cannot. O(1).
    async fn get(&self, key: &AgentKey, view: View) -> Result<Option<AgentRecord>, RegistryError>;
    /// Reads up to `limit` agents after `after`.
    async fn list(
        &self,
        index: &Index,
        after: Option<&AgentKey>,
        limit: usize,
        view: View,
    ) -> Result<Page, RegistryError>;
    /// Reads all hosts.
    async fn hosts(&self) -> Result<HostsView, RegistryError>;
    /// Reads which leases there are. O(hosts), one command.
    async fn look(&self) -> Result<Look, RegistryError>;
    /// Reads up to `limit` changes after `after`, and waits for one if there is none, at most for `wait`. The stream keeps about the last
    /// [`EVENTS_KEPT`]. Cancel-safe.
    async fn events(&self, after: EventId, limit: usize, wait: Duration) -> Result<Events, RegistryError>;
}
