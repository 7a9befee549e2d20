//! What is stored of an agent and of a host.

use crate::{
    condition::Condition,
    ids::{AgentKey, Epoch, HostId, HostLife, Incarnation, MachineId, RequestId, UnixMillis},
    resources::Resources,
    signal,
};
use bytes::Bytes;
use std::{collections::BTreeMap, fmt, time::Duration};

macro_rules! text_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$vdoc])* $variant),+
        }

        impl $name {
            /// The word in the store, in logs and in metrics.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Reads the stored word.
            pub fn parse(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

pub(crate) use text_enum;

text_enum! {
    /// Where an agent is in its life; the machine is drawn in the crate's documentation.
    Phase {
        /// Accepted, no host yet.
        Pending = "PENDING",
        /// Claimed for a host, process not ready.
        Starting = "STARTING",
        /// Ready.
        Running = "RUNNING",
        /// Ended unasked, coming back on the same host.
        Restarting = "RESTARTING",
        /// Asked to stop.
        Stopping = "STOPPING",
        /// Has no process and gets none by itself.
        Failed = "FAILED",
    }
}

impl Phase {
    /// Whether an agent in this phase holds room on a host.
    pub fn holds_room(self) -> bool {
        !matches!(self, Self::Pending | Self::Failed)
    }

    /// Whether `advance` may go from this phase to `next`. Stop wins: nothing leads out of `Stopping`.
    pub fn may_become(self, next: Self) -> bool {
        match self {
            Self::Pending => false,
            Self::Starting | Self::Running | Self::Restarting => next != Self::Pending,
            Self::Stopping => next == Self::Stopping,
            Self::Failed => next == Self::Failed,
        }
    }
}

text_enum! {
    /// What happens to a process while its host cannot renew its lease.
    OnDisconnect {
        /// Killed before the lease ends.
        Stop = "stop",
        /// Lives on.
        Keep = "keep",
    }
}

text_enum! {
    /// What becomes of an agent that fails before it was ever ready.
    FirstStart {
        /// It is refused, as long as its caller waits; FAILED at once when nobody does.
        MustSucceed = "must-succeed",
        /// FAILED at once if it would fail anywhere, else its restart policy decides.
        FailsIfWrong = "fails-if-wrong",
        /// Its restart policy decides.
        FollowsPolicy = "follows-policy",
    }
}

text_enum! {
    /// Whether a host takes agents.
    HostState {
        /// Takes agents.
        Ready = "READY",
        /// Takes none and gives its own away.
        Draining = "DRAINING",
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// With an exit code.
    Code(i32),
    /// By a signal.
    Signal(i32),
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => match signal::name(*signal) {
                Some(name) => write!(f, "signal {signal} ({name})"),
                None => write!(f, "signal {signal}"),
            },
        }
    }
}

/// How an agent's last process ended, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastExit {
    /// How.
    pub status: ExitStatus,
    /// When it was recorded.
    pub at: UnixMillis,
}

/// Hash of everything that makes two launches the same or not.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SpecDigest(pub String);

/// The texts of a launch: long, so read only when asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Documents {
    /// The agent spec, as the caller wrote it.
    pub spec: String,
    /// The rest of the create request, in the caller's encoding; empty unless [`View::Launch`].
    pub launch: Bytes,
}

/// How much of a record to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// No documents.
    Basic,
    /// The agent spec and the last lines too, as AGENT_VIEW_FULL on the wire.
    Full,
    /// Everything, with what it takes to launch the agent again.
    Launch,
}

/// A place on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The host that claimed the agent.
    pub host: HostId,
    /// Its process that did.
    pub incarnation: Incarnation,
    /// What it takes there: its demand, with devices in the place of what it asks of them.
    pub takes: Resources,
    /// When the host accepted the claim; a claim without it has never had a process.
    pub accepted: Option<UnixMillis>,
    /// The agent's process.
    pub pid: Option<u32>,
}

impl Assignment {
    /// A claim that no host has accepted yet.
    pub fn claimed(host: HostId, incarnation: Incarnation, takes: Resources) -> Self {
        Self { host, incarnation, takes, accepted: None, pid: None }
    }
}

/// Where an agent is in its life, with what belongs to that: whoever has a phase that holds room has a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Accepted, no host yet.
    Pending,
    /// Claimed for a host, process not ready.
    Starting(Assignment),
    /// Ready.
    Running(Assignment),
    /// Ended unasked, coming back on the same host.
    Restarting(Assignment),
    /// Asked to stop.
    Stopping(Assignment),
    /// Has no process and gets none by itself. The place that it had last; a registry that was lost may not know it.
    Failed(Option<Assignment>),
}

impl State {
    /// The state of this phase. `None`: the phase needs a place, and there is none.
    pub fn of(phase: Phase, assignment: Option<Assignment>) -> Option<Self> {
        Some(match phase {
            Phase::Pending => Self::Pending,
            Phase::Starting => Self::Starting(assignment?),
            Phase::Running => Self::Running(assignment?),
            Phase::Restarting => Self::Restarting(assignment?),
            Phase::Stopping => Self::Stopping(assignment?),
            Phase::Failed => Self::Failed(assignment),
        })
    }

    /// Its phase.
    pub fn phase(&self) -> Phase {
        match self {
            Self::Pending => Phase::Pending,
            Self::Starting(_) => Phase::Starting,
            Self::Running(_) => Phase::Running,
            Self::Restarting(_) => Phase::Restarting,
            Self::Stopping(_) => Phase::Stopping,
            Self::Failed(_) => Phase::Failed,
        }
    }

    /// The place that the agent holds.
    pub fn assignment(&self) -> Option<&Assignment> {
        match self {
            Self::Starting(assignment)
            | Self::Running(assignment)
            | Self::Restarting(assignment)
            | Self::Stopping(assignment) => Some(assignment),
            Self::Pending | Self::Failed(_) => None,
        }
    }

    /// The place that it holds, or held when it failed.
    pub fn last_assignment(&self) -> Option<&Assignment> {
        match self {
            Self::Failed(assignment) => assignment.as_ref(),
            held => held.assignment(),
        }
    }
}

/// What the store knows of one agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentRecord {
    /// Its name in the cluster.
    pub key: AgentKey,
    /// "name" of its spec.
    pub name: String,
    /// Where it is in its life.
    pub state: State,
    /// Fencing token of the claim.
    pub epoch: Epoch,
    /// The request that made the claim.
    pub request_id: RequestId,
    /// What was asked for.
    pub digest: SpecDigest,
    /// Room it needs.
    pub demand: Resources,
    /// For rusticai-core's id generator.
    pub machine_id: MachineId,
    /// Restarts in place.
    pub restarts: u32,
    /// What a lost lease does to it.
    pub on_disconnect: OnDisconnect,
    /// Why it is in this phase; `None` when all is well.
    pub condition: Option<Condition>,
    /// The last lines it wrote, when it FAILED; empty in [`View::Basic`].
    pub last_lines: Vec<String>,
    /// How its last process ended.
    pub last_exit: Option<LastExit>,
    /// When it was claimed first.
    pub created: UnixMillis,
    /// When it last became ready.
    pub running: Option<UnixMillis>,
    /// What becomes of it if it fails before it was ever ready.
    pub first_start: FirstStart,
    /// Its texts, as far as asked for.
    pub documents: Option<Documents>,
}

impl AgentRecord {
    /// Its phase.
    pub fn phase(&self) -> Phase {
        self.state.phase()
    }

    /// The place that it holds.
    pub fn assignment(&self) -> Option<&Assignment> {
        self.state.assignment()
    }

    /// The host that it is on, or was when it failed.
    pub fn host(&self) -> Option<&HostId> {
        self.state.last_assignment().map(|assignment| &assignment.host)
    }

    /// The process of that host.
    pub fn incarnation(&self) -> Option<&Incarnation> {
        self.state.last_assignment().map(|assignment| &assignment.incarnation)
    }

    /// When a host accepted the claim.
    pub fn accepted(&self) -> Option<UnixMillis> {
        self.state.last_assignment().and_then(|assignment| assignment.accepted)
    }

    /// Its process.
    pub fn pid(&self) -> Option<u32> {
        self.state.last_assignment().and_then(|assignment| assignment.pid)
    }

    /// Whether this process of a host claimed it.
    pub fn is_claimed_by(&self, host: &HostId, incarnation: &Incarnation) -> bool {
        self.assignment().is_some_and(|assignment| assignment.host == *host && assignment.incarnation == *incarnation)
    }
}

/// What the store knows of one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRecord {
    /// Its id.
    pub host: HostId,
    /// Its process.
    pub incarnation: Incarnation,
    /// Where to call it, `host:port`.
    pub address: String,
    /// The DNS name that stays the same in all its lives, which its certificate carries; empty: it has none.
    pub dns_name: String,
    /// What it says itself.
    pub state: HostState,
    /// Somebody else than the host itself has it drain.
    pub cordoned: bool,
    /// What it has.
    pub capacity: Resources,
    /// What its agents reserved.
    pub used: Resources,
    /// What it announced about itself.
    pub labels: BTreeMap<String, String>,
    /// Version of its program.
    pub version: String,
    /// Its lease.
    pub life: HostLife,
    /// Renewals of it so far.
    pub renewals: u64,
    /// How long one renewal lasts.
    pub ttl: Duration,
    /// The same with the grace after it: from the sending of a renewal to when what must not outlive it is certainly gone.
    pub lasts: Duration,
    /// When it was renewed last, for showing.
    pub renewed: UnixMillis,
}

impl HostRecord {
    /// Whether it takes agents: neither it nor anybody else has it drain.
    pub fn takes_agents(&self) -> bool {
        self.state == HostState::Ready && !self.cordoned
    }
}

text_enum! {
    /// What is known of a process of a host that holds no lease.
    FormerState {
        /// Another process has its name; it may live until it is retired.
        Silent = "silent",
        /// It may run what this store life does not know: it has not come, or lost its name before it had reported.
        Awaited = "awaited",
        /// Retired, or known to have ended: what it claimed is others' to take.
        Over = "over",
    }
}

/// A process of a host that holds no lease any more, and may have left something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormerProcess {
    /// Its host.
    pub host: HostId,
    /// The process.
    pub incarnation: Incarnation,
    /// What is known of it.
    pub state: FormerState,
    /// From the sending of its last renewal to when what must not outlive it is certainly gone, at most.
    pub lasts: Duration,
    /// Its last lease and the renewals of that; zeros if it held none in this life of the store.
    pub renewal: (HostLife, u64),
}
