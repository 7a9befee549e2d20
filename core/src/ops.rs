//! The operations on the store: what each takes, does and answers.
//!
//! All are atomic. `Err` is trouble with the store; an outcome the caller must handle is a variant of `Ok`.

use crate::{
    condition::{AgentReason, Condition},
    ids::{
        AgentKey, Epoch, HostId, HostLife, Incarnation, MachineId, OrganizationId, RequestId, Scope, Stops,
        StoreLife, UnixMillis,
    },
    placement::Candidates,
    record::{
        AgentRecord, Assignment, Documents, ExitStatus, FirstStart, FormerProcess, FormerState, HostRecord,
        HostState, OnDisconnect, Phase, SpecDigest,
    },
    resources::Resources,
};
use std::{collections::BTreeMap, fmt, num::ParseIntError, str::FromStr, time::Duration};

/// A host says that it lives, and gets a lease. The claims of the process that had its name before become its own if that has certainly
/// ended; else they are others' to take once that process is retired.
#[derive(Debug, Clone)]
pub struct Announce {
    /// The host.
    pub host: HostId,
    /// Its process.
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
    /// What the host says of itself.
    pub state: HostState,
    /// Somebody else has it drain, as far as it knows: a store that was lost does not.
    pub cordoned: bool,
    /// How long a renewal lasts.
    pub ttl: Duration,
    /// The same with the grace after it.
    pub lasts: Duration,
    /// Highest epoch the host ever heard of; the counter is raised to it, and beyond it if the store was lost since.
    pub highest_epoch: Epoch,
    /// Its latest lease; the next one has a higher number.
    pub highest_life: HostLife,
    /// A former process of this host that has certainly ended, with every process it had.
    pub succeeds: Option<Incarnation>,
    /// The store's life that the host knew before; another one now means that the store was lost.
    pub store_life: Option<StoreLife>,
    /// The store life to which the host has reported everything that it runs.
    pub reported: Option<StoreLife>,
}

/// Answer to [`Announce`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announced {
    /// This life of the store; another one means that the store was lost, or may lack its last writes.
    pub store_life: StoreLife,
    /// The lease.
    pub life: HostLife,
    /// Agents of the former process that are this one's now: STARTING under new epochs, to be accepted.
    pub returned: u32,
    /// Stops that the store has counted.
    pub stops: Stops,
    /// The last epoch that the store gave, or more: every host remembers it for a store that is lost.
    pub highest_epoch: Epoch,
}

/// A host prolongs its lease; one call, however many agents it runs.
#[derive(Debug, Clone)]
pub struct Renew {
    /// The host.
    pub host: HostId,
    /// Its process.
    pub incarnation: Incarnation,
    /// The lease.
    pub life: HostLife,
    /// Whether it takes agents.
    pub state: HostState,
    /// Highest epoch the host ever saw; the counter is raised to it.
    pub highest_epoch: Epoch,
    /// The store life that gave the lease.
    pub store_life: StoreLife,
    /// Whether the host has reported everything that it runs to that store life.
    pub reported: bool,
}

/// Answer to [`Renew`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Renewal {
    /// The lease holds: for the host's TTL from before this was sent.
    Held {
        /// Somebody else has the host drain.
        cordoned: bool,
        /// Stops that the store has counted.
        stops: Stops,
        /// The last epoch that the store gave, or more: every host remembers it for a store that is lost.
        highest_epoch: Epoch,
    },
    /// The store is in another life, as it was lost or may lack its last writes, or has another announcement of this process. The
    /// lease is as good as it was; announce again.
    StoreLost,
    /// The lease was taken: what must not outlive it must be gone. Announce again, for another one.
    Retired,
    /// The store knows nothing of the host, and has lost nothing: the lease was taken, and what the host had as well.
    Unknown,
    /// Another process holds the name. This one must end its agents.
    Superseded,
}

impl Retire {
    /// What is seen of a process that held no lease in this life of the store.
    pub const HOLDS_NO_LEASE: (HostLife, u64) = (HostLife(0), 0);
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
    /// Hosts to try.
    pub candidates: Candidates,
    /// What happens when none of them has room.
    pub if_full: IfFull,
    /// Why it waits then; `None`: the registry says that no host has room.
    pub waits: Option<Condition>,
    /// What happens when another organization has a guild with the same id.
    pub if_namesakes: IfNamesakes,
    /// What becomes of it if it fails before it was ever ready.
    pub first_start: FirstStart,
    /// The store life to which the caller has restored what it knows; in another one nothing is claimed. `None`: it has nothing to restore.
    pub store_life: Option<StoreLife>,
    /// Stops that the store had counted before the caller asked: an agent that was stopped since is not brought back by a claim that
    /// comes late.
    pub asked: Stops,
}

/// What a claim does when no candidate has room for it beside those that wait already. These stand in lines, one a demand, in the
/// order in which they were created, and let a claim pass unless it gets in their way: on a host that could hold one of them, it takes
/// something of which that one is short then. If that one could have the room now, and none on a candidate before, the claim may not have it. Else it may be overtaken
/// 32 times; then the next host on which it would be is kept for it, and whoever comes later goes elsewhere, or waits. A claim looks at
/// the 32 lines whose first waits longest. An agent that was ready before, and lost its place, stands in nobody's line: it takes no
/// more room than it had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfFull {
    /// Nothing: the answer is [`ClaimOutcome::NoRoom`].
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
    pub machine_id: MachineId,
    /// What it takes there.
    pub takes: Resources,
}

impl Claimed {
    /// The claim of an agent that is assigned to a host.
    pub fn of(record: &AgentRecord, assignment: &Assignment) -> Self {
        let Assignment { host, incarnation, takes, .. } = assignment.clone();
        Self { host, incarnation, takes, epoch: record.epoch, machine_id: record.machine_id }
    }
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
    /// The guild has as many agents as there are machine ids: nothing changed.
    NoMachineId,
    /// These organizations have guilds with the same id: nothing changed.
    Namesakes(Vec<OrganizationId>),
    /// The agent waits for room, PENDING.
    Waits,
    /// The store was lost, and hosts still report what they run, or the caller has not restored yet what it knows: nothing changed.
    Held,
    /// The agent was stopped, or may have been, since the store had counted as many stops as the caller said: nothing changed. Who
    /// still waits asks again, with this number.
    Late(Stops),
}

/// What a claim does when another organization has a guild with the same id: on one message bus they would read each other's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfNamesakes {
    /// It is not made, and the answer names those organizations.
    Report,
    /// It is made: they are apart, or may meet.
    Ignore,
}

/// Answer to a placement of an agent that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AssignOutcome {
    /// Made; the phase is STARTING.
    Assigned(Claimed),
    /// No candidate lives, takes agents and has room: nothing changed.
    NoRoom,
    /// It is not PENDING under this epoch any more.
    Changed,
    /// The store was lost, and hosts still report what they run: nothing changed.
    Held,
}

/// A host reports an agent that it runs to a store that was lost, or that may lack its last writes.
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
    /// What it takes there.
    pub takes: Resources,
    /// What a lost lease does to it.
    pub on_disconnect: OnDisconnect,
    /// Its texts.
    pub documents: Documents,
    /// For rusticai-core's id generator.
    pub machine_id: MachineId,
    /// When it was created.
    pub created: UnixMillis,
    /// The store's life that had the record.
    pub former_store_life: Option<StoreLife>,
}

/// An engine restores an agent that no host runs, to a store that was lost or lacks its last writes.
#[derive(Debug, Clone)]
pub struct Remember {
    /// The agent as the store had it, PENDING or FAILED, in [`View::Launch`](crate::View::Launch).
    pub record: AgentRecord,
    /// The store's life that had it.
    pub former_store_life: StoreLife,
}

/// An engine comes to another life of the store with what it has seen in the former one.
#[derive(Debug, Clone)]
pub struct Bring {
    /// The life that it saw it in.
    pub former_store_life: StoreLife,
    /// Hosts that held a lease, or may have lived on without: host, process, and how long its lease lasts with the grace after it.
    pub hosts: Vec<(HostId, Incarnation, Duration)>,
    /// Agents that were stopped, and the epochs that they had.
    pub stopped: Vec<(AgentKey, Epoch)>,
    /// Highest epoch it saw.
    pub highest_epoch: Epoch,
    /// Highest lease it saw.
    pub highest_life: HostLife,
}

/// Take a process of a host its right to run agents, if it has not renewed since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retire {
    /// The host.
    pub host: HostId,
    /// The process.
    pub incarnation: Incarnation,
    /// Its lease, and the renewals that were seen for as long as one lasts; of a former process the last that it had.
    pub seen: (HostLife, u64),
    /// The store's life in which it was seen.
    pub store_life: StoreLife,
}

/// Answer to [`Remember`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remembered {
    /// It stands there again, under the epoch it had.
    Done,
    /// It does not: the store was not lost or knows better by now, or hosts have reported, and an agent that is not there may have
    /// been stopped since.
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
    /// Why it is in this phase.
    pub condition: Option<Condition>,
    /// The last lines it wrote, where they matter.
    pub last_lines: Vec<String>,
    /// How the last process ended; `None` keeps what is recorded.
    pub exit: Option<ExitStatus>,
    /// The store's life that the host knows; another one means that the store was lost.
    pub store_life: Option<StoreLife>,
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
    /// The store was lost: this host must report to it what it runs.
    StoreLost,
    /// The lease of the host that claimed it was taken. It may be the host's again once that has announced itself.
    Retired,
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
    Unassigned,
    /// The agent is FAILED; it comes back with no restarts.
    Failed,
    /// The host's process that claimed it was retired or has ended: an agent that may outlive its lease may live.
    Retired,
    /// Its process has certainly ended: the host's process that claimed it was retired or has ended, and the agent does not outlive a
    /// lost lease, or its host is back as another process.
    Ended,
}

/// Take an agent off its host: it becomes PENDING under a new epoch. One that was being stopped is removed instead.
#[derive(Debug, Clone)]
pub struct Unassign {
    /// The agent.
    pub key: AgentKey,
    /// Its fencing token.
    pub epoch: Epoch,
    /// What else must hold.
    pub guard: ReleaseGuard,
    /// Why it waits.
    pub condition: Condition,
    /// The store life that the host knows. If the store is in another one, nothing changes: the host reports the agent first.
    pub store_life: Option<StoreLife>,
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

/// The store was lost, and hosts still report what they run: nothing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreLost;

/// Which agents to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Index {
    /// Those within.
    Within(Scope),
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

/// What was reserved on a host was not what its agents take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    /// What was reserved.
    pub reserved: Resources,
    /// What its agents take, and what is reserved from now on.
    pub claimed: Resources,
}

/// Agents that somebody must see to, oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// PENDING, in the order of their creation.
    Pending,
    /// The same, of each demand only some of the oldest: so many that all together are as many as were asked for, at least one. `skip` counts
    /// demands, of which one reading has at most [`LINES`].
    Lines,
    /// Claimed, and accepted by no host, by their epochs.
    Unaccepted,
}

/// Most demands in one reading of [`Queue::Lines`].
pub const LINES: usize = 64;

/// An agent of which only the name is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadableAgent {
    /// Its name in the cluster.
    pub key: AgentKey,
    /// What cannot be read.
    pub what: String,
}

/// A part of a list, in order of the encoded key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The agents.
    pub agents: Vec<AgentRecord>,
    /// Those among them that this version cannot read.
    pub unreadable: Vec<UnreadableAgent>,
    /// Last key looked at; `None` when the end was reached.
    pub next: Option<AgentKey>,
    /// The store's life that it was read in; `None` while that settles, when agents that run may be missing.
    pub settled: Option<StoreLife>,
}

impl Page {
    /// The names of all that are on it.
    pub fn into_keys(self) -> impl Iterator<Item = AgentKey> {
        let readable = self.agents.into_iter().map(|record| record.key);
        readable.chain(self.unreadable.into_iter().map(|agent| agent.key))
    }
}

/// All hosts at one moment, without those that this version cannot read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostsView {
    /// The moment, on the store's clock; for showing.
    pub now: UnixMillis,
    /// The store's life; `None` before the first who came.
    pub store_life: Option<StoreLife>,
    /// The store life is new: hosts still report what they run, and no agent is placed.
    pub held: bool,
    /// Agents that wait for room.
    pub pending: u64,
    /// Stops that were counted.
    pub stops: Stops,
    /// The latest epoch: what was claimed under it, or an earlier one, is in this view.
    pub highest_epoch: Epoch,
    /// The hosts that hold a lease, in order of their id.
    pub hosts: Vec<HostRecord>,
    /// Processes of hosts that hold none any more.
    pub former: Vec<FormerProcess>,
}

impl HostsView {
    /// Whether a process of a host was retired or has ended: what it claimed is others' to take.
    pub fn is_over(&self, host: &HostId, incarnation: &Incarnation) -> bool {
        let it = |f: &&FormerProcess| f.host == *host && f.incarnation == *incarnation;
        self.former.iter().find(it).is_some_and(|f| f.state == FormerState::Over)
    }
}

/// Which leases there are, and how often each was renewed: read more often than all else that is known of hosts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Look {
    /// The store's life; `None` before the first who came.
    pub store_life: Option<StoreLife>,
    /// Lease and renewals of each host that holds one.
    pub leases: BTreeMap<HostId, (HostLife, u64)>,
}

/// Place of a change in the stream: the store's milliseconds, and a number within one. Later changes have higher ones, as long as the
/// store is in one life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EventId(pub u64, pub u64);

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0, self.1)
    }
}

impl FromStr for EventId {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        let (millis, number) = text.split_once('-').unwrap_or((text, "0"));
        Ok(Self(millis.parse()?, number.parse()?))
    }
}

/// One change. It only says that something changed: how that is now is read where it is of interest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Of an agent.
    Agent(AgentEvent),
    /// Of a host: it announced itself, left, was retired, or began or ceased to take agents.
    Host(HostId),
    /// Of the store: it is in another life, or has settled.
    Store,
}

/// One change of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentEvent {
    /// The agent.
    pub key: AgentKey,
    /// Its new phase; `None` when it is gone.
    pub phase: Option<Phase>,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its host, where it has one.
    pub host: Option<HostId>,
    /// Why it waits, if it does.
    pub reason: Option<AgentReason>,
}

/// A part of the stream of changes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Events {
    /// Changes, in order, without those that this version cannot read.
    pub entries: Vec<(EventId, Event)>,
    /// The last one that was looked at.
    pub last: EventId,
}

impl Events {
    /// The changes of agents among them.
    pub fn agents(&self) -> impl Iterator<Item = &AgentEvent> {
        self.entries.iter().filter_map(|(_, event)| match event {
            Event::Agent(agent) => Some(agent),
            Event::Host(_) | Event::Store => None,
        })
    }
}
