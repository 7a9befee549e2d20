//! Why a call failed, and the one place where that becomes a gRPC status.

#![deny(clippy::wildcard_enum_match_arm)]

use crate::too_large::TooLarge;
use rustic_proto::{
    status::{DOMAIN, MAX_MESSAGE, has_no_room, middle_cut, with_reason},
    violation::Violations,
};
use rustic_registry::{AgentKey, HostId, Phase, RegistryError};
use std::collections::HashMap;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The request breaks the contract.
    #[error("bad request")]
    Bad(Violations),
    /// No such agent.
    #[error("agent {0} is unknown: it was never created, or was stopped")]
    Unknown(AgentKey),
    /// No such host.
    #[error("host {0} is unknown; ListHosts tells which there are")]
    UnknownHost(HostId),
    /// It is to be given up by force, and lives.
    #[error(
        "host {0} holds its lease; drain it without force, and it gives its agents away itself, or wait until it is retired, one lease and its grace after it was heard of last"
    )]
    HostLives(HostId),
    /// Same id, other launch.
    #[error("agent {key} exists with another launch and is {phase}; stop it first or choose another id")]
    OtherSpec {
        /// The agent.
        key: AgentKey,
        /// Its phase.
        phase: Phase,
    },
    /// This very request failed before.
    #[error("agent {key} has failed: {reason}; create it with a new request id, or restart it, to try again")]
    Failed {
        /// The agent.
        key: AgentKey,
        /// Why.
        reason: String,
    },
    /// It is on its way out.
    #[error("agent {0} is being stopped; create it again when it is gone")]
    AgentStopping(AgentKey),
    /// The caller's deadline passed before the agent was claimed.
    #[error("agent {0} was not created within the deadline of the call; retry with a longer one")]
    TooLate(AgentKey),
    /// The caller's deadline passed while the agent started.
    #[error("agent {0} is not ready yet; it comes up by itself, GetAgent tells how it is")]
    NotReady(AgentKey),
    /// The registry was lost, and hosts are telling what they run.
    #[error("agent {0}: the registry was lost and is being told again what runs; retry in some seconds")]
    Held(AgentKey),
    /// The same, for a caller that asked after no agent.
    #[error("the registry was lost and is being told again what runs; retry in some seconds")]
    Telling,
    /// No host has room.
    #[error(
        "no host has room for agent {0} beside those that wait; stop agents or add hosts, ListHosts tells what they hold"
    )]
    NoRoom(AgentKey),
    /// No host could ever hold it.
    #[error(
        "no host could ever hold agent {key}, which asks for {lack}; ask for less, add larger hosts, or have it wait for them \
         (PENDING_POLICY_WAIT_FOR_ANY_HOST)"
    )]
    TooLarge {
        /// The agent.
        key: AgentKey,
        /// What is lacking.
        lack: TooLarge,
    },
    /// No host lives.
    #[error("there is no host to run agent {0}; start agent-hosts, or wait until they are back")]
    NoHost(AgentKey),
    /// Its host does not answer and may still run it.
    #[error("agent {key}: its host {host} does not answer ({why}); the agent may still run there, retry")]
    HostSilent {
        /// The agent.
        key: AgentKey,
        /// Its host.
        host: String,
        /// What happened.
        why: String,
    },
    /// Its host answered with an error.
    #[error("{}", .status.message())]
    Host {
        /// The host.
        host: HostId,
        /// What it answered.
        status: Box<Status>,
    },
    /// Some agents of a guild could not be stopped.
    #[error("{} of the guild's agents could not be stopped, retry: {}", .0.len(), .0.join("; "))]
    SomeLeft(Vec<String>),
    /// The store failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A watcher was too slow, resumes from too long ago, or the registry was lost.
    #[error("what has changed since is not known any more; watch anew, without a revision")]
    WatchExpired,
    /// The call was given up because this engine stops.
    #[error("this engine is stopping; retry")]
    Stopping,
}

impl From<Violations> for EngineError {
    fn from(violations: Violations) -> Self {
        Self::Bad(violations)
    }
}

impl EngineError {
    /// Code of the status it becomes.
    pub fn code(&self) -> Code {
        match self {
            Self::Bad(_) => Code::InvalidArgument,
            Self::Unknown(_) | Self::UnknownHost(_) => Code::NotFound,
            Self::OtherSpec { .. } => Code::AlreadyExists,
            Self::Failed { .. } | Self::AgentStopping(_) | Self::HostLives(_) => Code::FailedPrecondition,
            Self::TooLate(_) | Self::NotReady(_) => Code::DeadlineExceeded,
            Self::NoRoom(_) | Self::TooLarge { .. } => Code::ResourceExhausted,
            Self::WatchExpired => Code::OutOfRange,
            Self::Host { status, .. } => status.code(),
            Self::Registry(RegistryError::Unreadable { .. } | RegistryError::Form(_)) => Code::FailedPrecondition,
            Self::NoHost(_)
            | Self::Held(_)
            | Self::Telling
            | Self::HostSilent { .. }
            | Self::SomeLeft(_)
            | Self::Stopping
            | Self::Registry(_) => Code::Unavailable,
        }
    }

    /// Whether it would stand in everybody's way, and not only in that of the agent, host or record that it is about.
    pub fn is_of_the_store(&self) -> bool {
        matches!(
            self,
            Self::Held(_)
                | Self::Telling
                | Self::Registry(
                    RegistryError::Unreachable(_)
                        | RegistryError::Timeout(_)
                        | RegistryError::Lost(_)
                        | RegistryError::Form(_)
                )
        )
    }

    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::TooLate(_)
            | Self::NotReady(_)
            | Self::NoRoom(_)
            | Self::Held(_)
            | Self::Telling
            | Self::NoHost(_)
            | Self::HostSilent { .. }
            | Self::SomeLeft(_)
            | Self::Stopping => true,
            Self::Registry(error) => error.is_retryable(),
            Self::Host { status, .. } => status.code() == Code::Unavailable || has_no_room(status),
            Self::Bad(_)
            | Self::WatchExpired
            | Self::TooLarge { .. }
            | Self::Unknown(_)
            | Self::UnknownHost(_)
            | Self::HostLives(_)
            | Self::OtherSpec { .. }
            | Self::Failed { .. }
            | Self::AgentStopping(_) => false,
        }
    }
}

impl From<EngineError> for Status {
    fn from(error: EngineError) -> Self {
        let (code, text) = (error.code(), error.to_string());
        match error {
            EngineError::Bad(violations) => violations.into(),
            EngineError::Unknown(_) => with_reason(code, "AGENT_UNKNOWN", text, &[]),
            EngineError::UnknownHost(_) => with_reason(code, "HOST_UNKNOWN", text, &[]),
            EngineError::HostLives(_) => with_reason(code, "HOST_LIVES", text, &[]),
            EngineError::NotReady(_) => with_reason(code, "NOT_READY", text, &[]),
            EngineError::OtherSpec { .. } => with_reason(code, "AGENT_HAS_OTHER_SPEC", text, &[]),
            EngineError::Failed { .. } => with_reason(code, "AGENT_FAILED", text, &[]),
            EngineError::AgentStopping(_) => with_reason(code, "AGENT_STOPPING", text, &[]),
            EngineError::TooLate(_) => with_reason(code, "TOO_LATE", text, &[]),
            EngineError::NoHost(_) => with_reason(code, "NO_HOST", text, &[]),
            EngineError::Held(_) | EngineError::Telling => with_reason(code, "REGISTRY_LOST", text, &[]),
            EngineError::TooLarge { lack, .. } => {
                let metadata = lack.metadata();
                let about: Vec<_> = metadata.iter().map(|(name, amount)| (name.as_str(), amount.as_str())).collect();
                with_reason(code, "AGENT_TOO_LARGE", text, &about)
            }
            EngineError::NoRoom(_) => with_reason(code, "NO_ROOM", text, &[]),
            EngineError::HostSilent { host, .. } => with_reason(code, "HOST_UNREACHABLE", text, &[("host", &host)]),
            EngineError::Host { host, status } => of_host(&host, &status),
            EngineError::SomeLeft(_) => with_reason(code, "GUILD_PARTLY_STOPPED", text, &[]),
            EngineError::WatchExpired => with_reason(code, "WATCH_EXPIRED", text, &[]),
            EngineError::Stopping => with_reason(code, "ENGINE_STOPPING", text, &[]),
            EngineError::Registry(error) => registry(&error),
        }
    }
}

/// Code and details are the host's own; message and `ErrorInfo` also say which host it was.
fn of_host(host: &HostId, status: &Status) -> Status {
    let mut details = status.get_error_details();
    let info = details.error_info().cloned();
    let (reason, mut about) =
        info.map_or_else(|| ("HOST_REFUSED".to_owned(), HashMap::new()), |i| (i.reason, i.metadata));
    about.insert("host".to_owned(), host.to_string());
    details.set_error_info(reason, DOMAIN, about);
    let text = format!("host {host}: {}", status.message());
    Status::with_error_details(status.code(), middle_cut(&text, MAX_MESSAGE), details)
}

fn registry(error: &RegistryError) -> Status {
    match error {
        RegistryError::Unreachable(_)
        | RegistryError::Timeout(_)
        | RegistryError::Refused(_)
        | RegistryError::Lost(_)
        | RegistryError::Retired(_) => with_reason(Code::Unavailable, "REGISTRY_UNREACHABLE", error.to_string(), &[]),
        RegistryError::Form(_) => with_reason(Code::FailedPrecondition, "REGISTRY_FORM", error.to_string(), &[]),
        // Written by another version, most likely; one of that version can do what was asked.
        RegistryError::Unreadable { .. } => {
            with_reason(Code::FailedPrecondition, "RECORD_UNREADABLE", error.to_string(), &[])
        }
    }
}
