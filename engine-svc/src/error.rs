//! Why a call failed, and the one place where that becomes a gRPC status.

#![deny(clippy::wildcard_enum_match_arm)]

use crate::{
    answer::{HostRefusal, Refused},
    shortage::Shortage,
};
use rustic_proto::{
    bus::Bus,
    reason::Reason,
    status::{DOMAIN, MAX_MESSAGE, middle_cut, with_reason},
    violation::Violations,
};
use rustic_registry::{AgentKey, Condition, GuildKey, HostId, MachineId, Phase, RegistryError};
use std::collections::HashMap;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// Given in place of the reason that a host's status does not have.
const HOST_REFUSED: &str = "HOST_REFUSED";

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The request breaks the contract.
    #[error("bad request")]
    Bad(Violations),
    /// No such agent.
    #[error(
        "agent {0} is unknown: it was never created, was stopped, or is in another organization than the call names"
    )]
    Unknown(AgentKey),
    /// No such host.
    #[error("host {0} is unknown; ListHosts names those that there are")]
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
    #[error("agent {key} has failed: {}; create it with a new request id, or restart it, to try again", Condition::parts(condition.as_ref()).1)]
    Failed {
        /// The agent.
        key: AgentKey,
        /// Why.
        condition: Option<Condition>,
    },
    /// It is on its way out.
    #[error("agent {0} is being stopped; create it again when it is gone")]
    AgentStopping(AgentKey),
    /// The caller's deadline passed before the agent was claimed.
    #[error("agent {0} was not created within the deadline of the call; retry with a longer one")]
    TooLate(AgentKey),
    /// The caller's deadline passed while the agent started.
    #[error("agent {0} is not ready yet; it comes up by itself, GetAgent shows how it is")]
    NotReady(AgentKey),
    /// The registry was lost, and hosts still report what they run.
    #[error("agent {0}: the registry was lost and is being restored; retry in some seconds")]
    Held(AgentKey),
    /// The same, for a caller that asked after no agent.
    #[error("the registry was lost and is being restored; retry in some seconds")]
    Restoring,
    /// No host has room.
    #[error("no host has room for agent {key}{}; stop agents or add hosts, ListHosts shows what they hold", why_full(shortage.as_ref()))]
    NoRoom {
        /// The agent.
        key: AgentKey,
        /// What there is too little of; `None`: what is free is for agents that wait.
        shortage: Option<Shortage>,
    },
    /// No host could ever hold it.
    #[error(
        "no host could ever hold agent {key}, which asks for {lack}; ask for less, add larger hosts, or have it wait for them \
         (PENDING_POLICY_WAIT_FOR_ANY_HOST)"
    )]
    TooLarge {
        /// The agent.
        key: AgentKey,
        /// What is lacking.
        lack: Shortage,
    },
    /// It has as many agents as there are machine ids.
    #[error("guild {0} has {max} agents, as many as there can be in one; stop some, or begin another guild", max = MachineId::LAST)]
    GuildTooLarge(GuildKey),
    /// Another organization has a guild with this id there.
    #[error(
        "agent {key}: another organization has a guild {id:?} on the message bus {bus}, and Rustic AI names topics by guild id alone, so that \
         both would read each other's messages; choose another guild id, or another bus: a Redis of its own, or an account of NATS. \
         --allow-shared-guild-ids of engine-svc lets them meet", id = .key.guild.id.as_str()
    )]
    GuildIdShared {
        /// The agent.
        key: AgentKey,
        /// Where they would meet.
        bus: Bus,
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
    /// It is to be removed by force, and its host is not retired.
    #[error(
        "agent {key}: its host {host} could not stop it ({why}) and is not retired, so that the agent may still run there; force \
         works once the host is retired, one lease and its grace after it was heard of last; until then, wait for the host to answer"
    )]
    HostNotRetired {
        /// The agent.
        key: AgentKey,
        /// Its host.
        host: HostId,
        /// What happened.
        why: String,
    },
    /// It was claimed anew again and again while the call looked for it.
    #[error("agent {0} moves too quickly to be found; retry")]
    Restless(AgentKey),
    /// Its host did not do what it was asked.
    #[error("{refusal}")]
    Host {
        /// The host.
        host: HostId,
        /// What it answered, if it did.
        refusal: HostRefusal,
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

/// What the caller's program gets beside the text.
enum Answer<'a> {
    /// What is wrong with the request, by field.
    Fields(&'a Violations),
    /// A reason of ours.
    Reason(Reason),
    /// What the host answered.
    Host(&'a HostId, &'a HostRefusal),
}

impl From<Violations> for EngineError {
    fn from(violations: Violations) -> Self {
        Self::Bad(violations)
    }
}

impl EngineError {
    /// Code of the status it becomes.
    pub fn code(&self) -> Code {
        match self.answer() {
            Answer::Fields(_) => Code::InvalidArgument,
            Answer::Reason(reason) => reason.code(),
            Answer::Host(_, refusal) => refusal.status().code(),
        }
    }

    fn answer(&self) -> Answer<'_> {
        let reason = match self {
            Self::Bad(violations) => return Answer::Fields(violations),
            Self::Host { host, refusal } => return Answer::Host(host, refusal),
            Self::Unknown(_) => Reason::AgentUnknown,
            Self::UnknownHost(_) => Reason::HostUnknown,
            Self::HostLives(_) => Reason::HostLives,
            Self::OtherSpec { .. } => Reason::AgentHasOtherSpec,
            Self::Failed { .. } => Reason::AgentFailed,
            Self::AgentStopping(_) => Reason::AgentStopping,
            Self::TooLate(_) => Reason::TooLate,
            Self::NotReady(_) => Reason::NotReady,
            Self::Held(_) | Self::Restoring => Reason::RegistryLost,
            Self::NoRoom { .. } => Reason::NoRoom,
            Self::TooLarge { .. } => Reason::AgentTooLarge,
            Self::GuildTooLarge(_) => Reason::GuildTooLarge,
            Self::GuildIdShared { .. } => Reason::GuildIdShared,
            Self::NoHost(_) => Reason::NoHost,
            Self::HostSilent { .. } => Reason::HostUnreachable,
            Self::HostNotRetired { .. } => Reason::HostNotRetired,
            Self::Restless(_) => Reason::AgentRestless,
            Self::SomeLeft(_) => Reason::GuildPartlyStopped,
            Self::WatchExpired => Reason::WatchExpired,
            Self::Stopping => Reason::EngineStopping,
            Self::Registry(error) => registry(error),
        };
        Answer::Reason(reason)
    }

    /// What the reason is about, by name.
    fn about(&self) -> Vec<(String, String)> {
        let one = |name: &str, what: &str| vec![(name.to_owned(), what.to_owned())];
        let host = |host: &str| one("host_id", host);
        if let Self::TooLarge { lack, .. } | Self::NoRoom { shortage: Some(lack), .. } = self {
            lack.metadata()
        } else if let Self::HostSilent { host: silent, .. } = self {
            host(silent)
        } else if let Self::HostNotRetired { host: lives, .. } = self {
            host(lives.as_str())
        } else if let Self::Failed { condition, .. } = self {
            one("agent_reason", Condition::parts(condition.as_ref()).0)
        } else {
            vec![]
        }
    }

    /// Whether it would stand in everybody's way, and not only in that of the agent, host or record that it is about.
    pub fn is_of_the_store(&self) -> bool {
        matches!(
            self,
            Self::Held(_)
                | Self::Restoring
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
            | Self::NoRoom { .. }
            | Self::Held(_)
            | Self::Restoring
            | Self::NoHost(_)
            | Self::HostSilent { .. }
            | Self::HostNotRetired { .. }
            | Self::Restless(_)
            | Self::SomeLeft(_)
            | Self::Stopping => true,
            Self::Registry(error) => error.is_retryable(),
            Self::Host { refusal, .. } => refusal.is_retryable(),
            Self::Bad(_)
            | Self::WatchExpired
            | Self::TooLarge { .. }
            | Self::GuildTooLarge(_)
            | Self::GuildIdShared { .. }
            | Self::Unknown(_)
            | Self::UnknownHost(_)
            | Self::HostLives(_)
            | Self::OtherSpec { .. }
            | Self::Failed { .. }
            | Self::AgentStopping(_) => false,
        }
    }
}

/// What stands between "no host has room" and what to do.
pub(crate) fn why_full(shortage: Option<&Shortage>) -> String {
    match shortage {
        Some(shortage) => format!(": it asks for {shortage}"),
        None => " beside those that wait".to_owned(),
    }
}

impl From<EngineError> for Status {
    fn from(error: EngineError) -> Self {
        match error.answer() {
            Answer::Fields(violations) => violations.clone().into(),
            Answer::Host(host, refusal) => of_host(host, refusal),
            Answer::Reason(reason) => {
                let about = error.about();
                let about: Vec<_> = about.iter().map(|(name, what)| (name.as_str(), what.as_str())).collect();
                with_reason(reason, error.to_string(), &about)
            }
        }
    }
}

/// Code and details are the host's own; message and `ErrorInfo` also say which host it was.
fn of_host(host: &HostId, refusal: &HostRefusal) -> Status {
    let status = refusal.status();
    let mut details = status.get_error_details();
    let info = details.error_info().cloned();
    let without = if refusal.refused() == Refused::Silent { Reason::HostUnreachable.as_str() } else { HOST_REFUSED };
    let (reason, mut about) = info.map_or_else(|| (without.to_owned(), HashMap::new()), |i| (i.reason, i.metadata));
    about.insert("host_id".to_owned(), host.to_string());
    details.set_error_info(reason, DOMAIN, about);
    let text = format!("host {host}: {}", status.message());
    Status::with_error_details(status.code(), middle_cut(&text, MAX_MESSAGE), details)
}

fn registry(error: &RegistryError) -> Reason {
    match error {
        RegistryError::Unreachable(_)
        | RegistryError::Timeout(_)
        | RegistryError::Refused(_)
        | RegistryError::Lost(_)
        | RegistryError::Retired(_) => Reason::RegistryUnreachable,
        RegistryError::Form(_) => Reason::RegistryForm,
        // Written by another version, most likely; one of that version can do what was asked.
        RegistryError::Unreadable { .. } => Reason::RecordUnreadable,
    }
}
