//! The words of the agent's machine: where it is, what happens to it, what it wants done.

use crate::{
    agent::poison::{Delivery, Exit},
    runtime::{Blame, InitFailure, Stage, StartError},
};
use rustic_registry::{AgentReason, Condition, ExitStatus, HostId, Phase};
use std::{fmt, sync::Arc, time::Duration};
use tokio::time::Instant;

/// What becomes of an agent whose very first start fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstStart {
    /// It is removed: somebody waits for it and gets the error.
    MustSucceed,
    /// FAILED at once, unless its host is to blame: whoever waited for it has gone.
    FailsAtOnce,
    /// FAILED at once if it would fail anywhere, whether somebody waits or not; else the restart policy decides.
    FailsIfWrong,
    /// The restart policy decides: nobody waits.
    FollowsPolicy,
}

/// Why a start failed.
#[derive(Debug, Clone)]
pub enum StartFailure {
    /// No process came to be.
    Spawn(Arc<StartError>),
    /// The agent said why.
    Init(InitFailure),
    /// It ended before it was ready.
    Exited(Exit),
    /// It was not ready in time.
    Timeout(Duration),
    /// It got no turn to start in time.
    Queued(Duration),
    /// Nobody waited for it any more when its turn had not come yet.
    Abandoned,
}

impl StartFailure {
    /// Whether it certainly would fail anywhere: what was asked for is wrong.
    pub fn is_certain(&self) -> bool {
        match self {
            Self::Init(failure) => failure.stage != Stage::Initialize,
            Self::Spawn(error) => error.blame() == Blame::Launch,
            Self::Exited(_) | Self::Timeout(_) | Self::Queued(_) | Self::Abandoned => false,
        }
    }

    /// Whether it would fail anywhere, as far as anybody can know.
    pub fn is_its_own(&self) -> bool {
        match self {
            Self::Init(_) | Self::Exited(_) | Self::Timeout(_) => true,
            Self::Spawn(error) => error.blame() == Blame::Launch,
            Self::Queued(_) | Self::Abandoned => false,
        }
    }
}

impl StartFailure {
    /// The word for it.
    pub fn reason(&self) -> AgentReason {
        match self {
            Self::Spawn(error) if error.blame() == Blame::Launch => AgentReason::LaunchInvalid,
            Self::Spawn(_) => AgentReason::ProcessNotCreated,
            Self::Init(failure) if failure.stage == Stage::Initialize => AgentReason::InitializationFailed,
            Self::Init(_) => AgentReason::LaunchInvalid,
            Self::Exited(_) => AgentReason::ExitedBeforeReady,
            Self::Timeout(_) => AgentReason::StartTimeout,
            // Of an agent that nobody waits for the record goes, so that nobody reads this.
            Self::Queued(_) | Self::Abandoned => AgentReason::StartQueueTimeout,
        }
    }
}

impl fmt::Display for StartFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spawn(error) => match error.lack() {
                Some(lack) => write!(f, "{lack} ({error}); {}", lack.remedy()),
                None => write!(f, "{error}"),
            },
            Self::Init(failure) => f.write_str(&failure.error),
            Self::Exited(Exit { status, last_words: None, at_work: None, explanation }) => {
                write!(f, "its process ended before it was ready, with {status}{explanation}")
            }
            Self::Exited(exit) => write!(f, "before it was ready, {exit}"),
            Self::Timeout(limit) => write!(f, "it was not ready within {limit:?}"),
            Self::Queued(limit) => write!(f, "too many agents start on its host: it got no turn within {limit:?}"),
            Self::Abandoned => f.write_str("nobody waited for it any more, and it had not begun to start"),
        }
    }
}

/// Why an agent is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopPurpose {
    /// Somebody asked: the record goes.
    Asked,
    /// The host ends, or gives the agent away: the record stays, PENDING, and the agent starts elsewhere.
    Moves(Moving),
}

/// Why an agent moves to another host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moving {
    /// Its host drains or ends, or may not have its claim any more.
    GivenAway,
    /// Somebody has it started anew.
    Restarts,
    /// Another host has less load.
    Rebalances,
}

impl Moving {
    /// Why it waits.
    pub fn condition(self, host: &HostId) -> Condition {
        match self {
            Self::GivenAway => {
                let message = format!("host {host} gave it away; it moves to another one");
                Condition::new(AgentReason::HostDrained, message)
            }
            Self::Restarts => Condition::new(AgentReason::RestartRequested, "somebody had it started anew"),
            Self::Rebalances => {
                let message = format!("it moves to a host with less load than {host}");
                Condition::new(AgentReason::Rebalanced, message)
            }
        }
    }
}

/// How an agent's time on this host ended.
#[derive(Debug, Clone)]
pub enum Ending {
    /// Stopped as asked; the record is gone.
    Stopped(Option<ExitStatus>),
    /// The first start failed; the record is gone.
    StartFailed(StartFailure),
    /// FAILED is recorded.
    Failed,
    /// It waits for another host, PENDING.
    Moved(Moving),
    /// The claim belongs to somebody else now.
    Superseded,
}

/// What a kill is for: decides what follows the exit.
#[derive(Debug, Clone)]
pub enum After {
    /// Remove the record.
    Release,
    /// Leave it to another host.
    Move(Moving),
    /// Leave the record alone: it is somebody else's.
    Superseded,
    /// Treat it as a failed start.
    StartFailed(StartFailure),
    /// Wait for the lease, then start again.
    Fenced,
    /// Treat it as a crash, for this reason and in these words.
    Killed(AgentReason, String),
}

/// What the machine knows of its host's right to run the agent: the lease, and the claim under it.
///
/// ```text
///  Held ──Fence──▶ Lost ──LeaseBack──▶ Unconfirmed ──Recorded──▶ Held
///                    ▲───────Fence─────────┘
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tenure {
    /// The lease is held, and no claim can have been given away.
    Held,
    /// The lease is lost.
    Lost,
    /// The lease is held again. No store that knew the claim has acknowledged a write since: it may have been given to another host.
    Unconfirmed,
}

impl Tenure {
    /// The lease is held.
    pub(super) fn back(self) -> Self {
        match self {
            Self::Held => Self::Held,
            Self::Lost | Self::Unconfirmed => Self::Unconfirmed,
        }
    }

    /// A store that knew the claim has acknowledged a write.
    pub(super) fn confirmed(self) -> Self {
        match self {
            Self::Held | Self::Unconfirmed => Self::Held,
            Self::Lost => Self::Lost,
        }
    }
}

/// Where the agent is.
#[derive(Debug, Clone)]
pub enum State {
    /// The store is asked to acknowledge the claim; no process.
    Admitting,
    /// Others start; its turn is to come.
    Queued {
        /// When it has waited too long.
        until: Instant,
    },
    /// A process is being made. What was asked for meanwhile is done when it exists.
    Spawning(Option<(After, Duration)>),
    /// The process lives and is not ready.
    Starting {
        /// When it takes too long.
        until: Instant,
    },
    /// The process is ready.
    Running {
        /// When it became ready.
        since: Instant,
        /// The store knows.
        recorded: bool,
    },
    /// No process; the next start waits.
    BackingOff {
        /// When the next start may begin.
        until: Instant,
    },
    /// No process; the lease is lost.
    Unleased,
    /// The process was sent a signal to end.
    Stopping {
        /// When TERM becomes KILL; `None` once it was killed.
        kill_at: Option<Instant>,
        /// What follows.
        after: After,
    },
    /// No process; the record is being removed.
    Releasing(Ending),
    /// No process; FAILED is being recorded.
    Failing,
    /// Over.
    Ended(Ending),
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// The store acknowledged the latest record.
    Recorded,
    /// The same, by a store that had lost the agent, or may have.
    Restored,
    /// The store no longer knows the claim.
    Lost,
    /// The record is gone.
    Released,
    /// Its turn to start has come.
    Turn,
    /// Whether anybody waits for it to run.
    Awaited(bool),
    /// A process exists.
    Spawned,
    /// No process came to be.
    SpawnFailed(Arc<StartError>),
    /// The process is ready.
    Ready,
    /// The process will not become ready.
    InitFailed(InitFailure),
    /// The process was reaped.
    Exited(Exit),
    /// The process lives and must end, for this reason and in these words: it hangs, or uses more than it may.
    Kill(AgentReason, String),
    /// The process has set a message aside, as its start was asked to.
    SetAside(Delivery),
    /// End it, with this much time between TERM and KILL.
    Stop(StopPurpose, Duration),
    /// The time of [`Machine::wake_at`] has come.
    Timer,
    /// The lease is about to end.
    Fence,
    /// The lease is held again.
    LeaseBack,
}

impl Event {
    /// Whether the store said so.
    pub fn is_answer(&self) -> bool {
        matches!(self, Self::Recorded | Self::Restored | Self::Lost | Self::Released)
    }
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Write this phase; supersedes an earlier write.
    Record(Phase),
    /// Wait for a turn to start.
    Queue,
    /// Make a process.
    Spawn,
    /// SIGTERM, to whom the runtime says.
    Terminate,
    /// SIGKILL to the whole group.
    Kill,
    /// Remove the record, or leave the agent to another host.
    Release(Becomes),
}

/// What becomes of a record that this host gives up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Becomes {
    /// Nothing: it was stopped.
    Gone,
    /// It waits for another host.
    Pending(Moving),
}

/// Which wish wins when two meet: a lost claim over a stop, a stop over what would start the agent again.
pub(super) fn rank(after: &After) -> u8 {
    match after {
        After::StartFailed(_) | After::Fenced | After::Killed(..) => 0,
        After::Move(_) => 1,
        After::Release => 2,
        After::Superseded => 3,
    }
}
