//! The operations on the store: what each takes, does and answers.
//!
//! All are atomic. `Err` is trouble with the store; an outcome the caller must handle is a variant of `Ok`.

use crate::{
    error::RegistryError,
    ids::{AgentKey, Epoch, GuildId, HostId, Incarnation, RequestId, UnixMillis},
    record::{AgentRecord, Documents, ExitStatus, HostRecord, HostState, OnDisconnect, Phase, SpecDigest, View},
    resources::Resources,
};
use async_trait::async_trait;
use std::{collections::BTreeMap, time::Duration};

/// A host says that it lives. The claims of its former life become its own if that life has certainly ended; else they
/// end with the lease of that life.
#[derive(Debug, Clone)]
pub struct Announce {
    /// The host.
    pub host: HostId,
    /// Its life.
    pub incarnation: Incarnation,
    /// Where to call it, `host:port`.
    pub address: String,
    /// The DNS name that stays the same in all its lives, which its certificate carries; empty: it has none.
    pub dns_name: String,
    /// What it has.
    pub capacity: Resources,
    /// Free text by name.
    pub labels: BTreeMap<String, String>,
    /// Version of its program.
    pub version: String,
    /// How long the lease lasts from now.
    pub ttl: Duration,
    /// Highest epoch the host ever saw; the counter is raised to it.
    pub highest_epoch: Epoch,
    /// A former life of this host that has certainly ended, with every process it had.
    pub succeeds: Option<Incarnation>,
    /// The store's life that the host knew before; another one now means that the store was lost.
    pub knew: Option<String>,
    /// How long nobody is placed after a loss: until every host that may run agents has told what it runs.
    pub hold: Duration,
}

/// Answer to [`Announce`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announced {
    /// Id of this store's life; another one means that the store was lost, or may lack its last writes.
    pub generation: String,
    /// Agents of the former life that are this life's now: STARTING under new epochs, to be accepted.
    pub returned: u32,
}

/// A host prolongs its lease; one call, however many agents it runs.
#[derive(Debug, Clone)]
pub struct Renew {
    /// The host.
    pub host: HostId,
    /// Its life.
    pub incarnation: Incarnation,
    /// How long the lease lasts from now.
    pub ttl: Duration,
    /// Whether it takes agents.
    pub state: HostState,
    /// Highest epoch the host ever saw; the counter is raised to it.
    pub highest_epoch: Epoch,
    /// The store's life that was told of everything the host runs.
    pub told: Option<String>,
}

/// Answer to [`Renew`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Renewal {
    /// The lease holds until now + ttl.
    Held {
        /// Id of this store's life; another one means that the store was lost, or may lack its last writes.
        generation: String,
    },
    /// The store does not know the host: it was lost, or the host was taken off. Announce again.
    Unknown,
    /// Another incarnation holds the name. This process must end its agents.
    Superseded,
}

/// Take an agent for a host: the first candidate that lives, takes agents and has room.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The agent.
    pub key: AgentKey,
    /// "name" of its spec.
    pub name: String,
    /// The request; a retry carries the same.
    pub request_id: RequestId,
    /// What is asked for.
    pub digest: SpecDigest,
    /// Room it needs.
    pub demand: Resources,
    /// What a lost lease does to it.
    pub on_disconnect: OnDisconnect,
    /// Its texts.
    pub documents: Documents,
    /// Hosts in order of preference.
    pub candidates: Vec<HostId>,
    /// What happens when none of them has room.
    pub if_full: IfFull,
    /// The store's life that the caller has told what it knows; in another one nothing is claimed. `None` has nothing to tell.
    pub knew: Option<String>,
    /// How long nobody is placed after a loss.
    pub hold: Duration,
    /// How long its caller waits, at most as long as for any answer: what the store gets to later it does not do.
    pub patience: Duration,
}

/// What a claim does when no candidate has room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfFull {
    /// Nothing: the caller is told.
    Refuse,
    /// The agent becomes PENDING, behind those that wait already.
    Wait,
}

/// A claim that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// The host that got it.
    pub host: HostId,
    /// Life of that host.
    pub incarnation: Incarnation,
    /// Its fencing token.
    pub epoch: Epoch,
    /// Smallest free machine id of its guild; past 255 agents the least shared one.
    pub machine_id: u8,
}

/// Answer to [`Claim`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimOutcome {
    /// Made; the phase is STARTING.
    Claimed(Claimed),
    /// The agent exists with the same digest, or this very request failed before: nothing changed.
    Exists(Box<AgentRecord>),
    /// The agent exists with another digest: nothing changed.
    Conflict(Phase),
    /// The agent is being stopped: nothing changed.
    Stopping,
    /// No candidate lives, takes agents and has room: nothing changed.
    NoRoom,
    /// The agent waits for room, PENDING.
    Waits,
    /// The store was lost, and hosts are telling what they run, or the caller has not told yet: nothing changed.
    Held,
}

/// Answer to [`Registry::place`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlaceOutcome {
    /// Made; the phase is STARTING.
    Placed(Claimed),
    /// No candidate lives, takes agents and has room: nothing changed.
    NoRoom,
    /// It is not PENDING under this epoch any more.
    Changed,
    /// The store was lost, and hosts are telling what they run: nothing changed.
    Held,
}

/// A host tells what it runs to a store that was lost, or that may lack its last writes.
#[derive(Debug, Clone)]
pub struct Restore {
    /// The agent as the host has it: key, epoch, phase, process and where it got them from.
    pub advance: Advance,
    /// The host.
    pub host: HostId,
    /// Its life.
    pub incarnation: Incarnation,
    /// "name" of its spec.
    pub name: String,
    /// The request that made the claim.
    pub request_id: RequestId,
    /// What was asked for.
    pub digest: SpecDigest,
    /// Room it needs.
    pub demand: Resources,
    /// What a lost lease does to it.
    pub on_disconnect: OnDisconnect,
    /// Its texts.
    pub documents: Documents,
    /// For rusticai-core's id generator.
    pub machine_id: u8,
    /// When it was created.
    pub created: UnixMillis,
    /// The store's life that had the record.
    pub had: Option<String>,
}

/// An engine tells of an agent that no host runs, to a store that was lost or lacks its last writes.
#[derive(Debug, Clone)]
pub struct Remember {
    /// The agent as the store had it, PENDING or FAILED, in [`View::Full`].
    pub record: AgentRecord,
    /// The store's life that had it.
    pub had: String,
    /// How long nobody is placed after a loss.
    pub hold: Duration,
}

/// Answer to [`Remember`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remembered {
    /// It stands there again, under the epoch it had.
    Done,
    /// It does not: the store was not lost or knows better by now, or hosts have told, and whoever is not there may have been
    /// stopped since.
    Void,
}

/// A host moves its agent to another phase.
#[derive(Debug, Clone)]
pub struct Advance {
    /// The agent.
    pub key: AgentKey,
    /// Fencing token; another one in the record means that the claim was lost.
    pub epoch: Epoch,
    /// The new phase. FAILED gives the room back.
    pub phase: Phase,
    /// Its process.
    pub pid: Option<u32>,
    /// Restarts so far.
    pub restarts: u32,
    /// Why, in plain words.
    pub reason: String,
    /// The last lines it wrote, where they matter.
    pub last_lines: Vec<String>,
    /// How the last process ended; `None` keeps what is recorded.
    pub exit: Option<ExitStatus>,
    /// The store's life that the host knows; another one means that the store was lost.
    pub knew: Option<String>,
    /// Grows with every write under this epoch: one that was overtaken changes nothing, and is `Done`.
    pub sequence: u64,
}

/// Answer to [`Advance`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdvanceOutcome {
    /// Done.
    Done,
    /// Another claim was made since.
    Stale(Epoch),
    /// There is no such agent.
    Gone,
    /// The record's phase does not lead there.
    Illegal(Phase),
    /// The store was lost: it must be told what this host runs.
    StoreLost,
}

/// What must hold for a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReleaseGuard {
    /// Nothing but the epoch: the host reaped the process.
    Reaped,
    /// Nothing but the epoch: somebody vouches that there is no process: the host, which does not have the agent, or an
    /// operator, who knows that the host is gone.
    Vouched,
    /// No host accepted the claim, so that it never had a process.
    Unaccepted,
    /// The agent is PENDING or FAILED.
    Unhosted,
    /// The agent is FAILED; it comes back with no restarts.
    Failed,
    /// Its process has certainly ended: the lease of the life that claimed it ended longer ago than this, and the agent
    /// does not outlive a lost lease, or its host is back in another life.
    Expired(Duration),
}

/// Take an agent off its host: it becomes PENDING under a new epoch. One that was being stopped is removed instead.
#[derive(Debug, Clone)]
pub struct Unplace {
    /// The agent.
    pub key: AgentKey,
    /// Its fencing token.
    pub epoch: Epoch,
    /// What else must hold.
    pub guard: ReleaseGuard,
    /// Why, in plain words.
    pub reason: String,
    /// The store's life that the host knows: a store that forgot the agent is told of it first.
    pub knew: Option<String>,
}

/// Answer to a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReleaseOutcome {
    /// The record is gone and the room is free.
    Released,
    /// Another claim was made since.
    Stale(Epoch),
    /// There is no such agent.
    Gone,
    /// The guard does not hold; the record's phase.
    Guarded(Phase),
}

/// Which agents to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Index {
    /// All of them.
    All,
    /// Those of a guild.
    Guild(GuildId),
    /// Those that hold room on a host.
    Host(HostId),
}

/// Whether a host is kept from taking agents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cordon {
    /// It takes none and gives its own away.
    On,
    /// It is as it says itself.
    Off,
}

/// Agents that somebody must see to, oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// PENDING, by the time of their creation.
    Pending,
    /// Claimed at least so long ago, and accepted by no host.
    Unaccepted(Duration),
}

/// A part of a list, in order of the encoded key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The agents.
    pub agents: Vec<AgentRecord>,
    /// Last key looked at; `None` when the end was reached.
    pub next: Option<AgentKey>,
}

/// All hosts at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostsView {
    /// The moment, on the store's clock.
    pub now: UnixMillis,
    /// The store's life; `None` before the first host.
    pub generation: Option<String>,
    /// The store was lost, or may lack its last writes: hosts are telling it what they run, and nobody is placed.
    pub held: bool,
    /// Agents that wait for room.
    pub pending: u64,
    /// The hosts, in order of their id.
    pub hosts: Vec<HostRecord>,
}

/// Place of an event in the stream, opaque.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventId(pub String);

/// One change of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The agent.
    pub key: AgentKey,
    /// Its new phase; `None` when it is gone.
    pub phase: Option<Phase>,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its host, where it has one.
    pub host: Option<HostId>,
}

/// The store, real or in memory.
#[async_trait]
pub trait Registry: Send + Sync + 'static {
    /// Checks that the store answers.
    async fn ping(&self) -> Result<(), RegistryError>;
    /// See [`Announce`]. Idempotent for one incarnation.
    async fn announce(&self, request: &Announce) -> Result<Announced, RegistryError>;
    /// See [`Renew`]. O(1).
    async fn renew(&self, request: &Renew) -> Result<Renewal, RegistryError>;
    /// Takes a host off the list at the end of its life; void if another incarnation holds the name.
    async fn depart(&self, host: &HostId, incarnation: &Incarnation) -> Result<(), RegistryError>;
    /// See [`Claim`]. Idempotent by request id and digest. Fails with [`RegistryError::Timeout`], and changes nothing, when
    /// the store gets to it after its caller's patience. O(1) in agents and hosts.
    async fn claim(&self, request: &Claim) -> Result<ClaimOutcome, RegistryError>;
    /// See [`Advance`]. Idempotent. O(1).
    async fn advance(&self, request: &Advance) -> Result<AdvanceOutcome, RegistryError>;
    /// See [`Restore`]. Answers `Done` when the record is as the host tells it, `Stale` when there is a later claim, `Gone`
    /// when it was stopped or moved since, and `StoreLost` when the store was lost once more or does not know the host. Idempotent. O(1).
    async fn restore(&self, request: &Restore) -> Result<AdvanceOutcome, RegistryError>;
    /// See [`Remember`]. Idempotent. O(log pending).
    async fn remember(&self, request: &Remember) -> Result<Remembered, RegistryError>;
    /// Removes an agent's record and frees its room, if `epoch` and `guard` hold. Fails with [`RegistryError::Lost`] while
    /// hosts are telling what they run, unless the process was reaped. O(1).
    async fn release(
        &self,
        key: &AgentKey,
        epoch: Epoch,
        guard: ReleaseGuard,
    ) -> Result<ReleaseOutcome, RegistryError>;
    /// See [`Unplace`]. Fails with [`RegistryError::Lost`] when the store is in another life. O(log pending).
    async fn unplace(&self, request: &Unplace) -> Result<ReleaseOutcome, RegistryError>;
    /// Claims a host for an agent that is PENDING under `epoch`. O(1) in agents and hosts.
    async fn place(&self, key: &AgentKey, epoch: Epoch, candidates: &[HostId])
    -> Result<PlaceOutcome, RegistryError>;
    /// Has a host give its agents away and take none, or take agents again, whatever it says itself; until its next life.
    /// Tells whether the host is known.
    async fn cordon(&self, host: &HostId, cordon: Cordon) -> Result<bool, RegistryError>;
    /// Forgets a host whose lease ended longer ago than `grace` and that holds no agents; tells whether it did.
    async fn retire(&self, host: &HostId, incarnation: &Incarnation, grace: Duration) -> Result<bool, RegistryError>;
    /// Reads up to `limit` agents of a queue after the first `skip`.
    async fn oldest(
        &self,
        queue: Queue,
        skip: usize,
        limit: usize,
        view: View,
    ) -> Result<Vec<AgentRecord>, RegistryError>;
    /// Reads one agent. O(1).
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
    /// Reads up to `limit` events after `after`; the stream keeps about the last ten thousand.
    async fn events(&self, after: &EventId, limit: usize) -> Result<(Vec<Event>, EventId), RegistryError>;
}
