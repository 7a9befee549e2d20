//! Why a call failed, and the one place where that becomes a gRPC status.

#![deny(clippy::wildcard_enum_match_arm)]

use crate::{
    agent::{Delivery, StartFailure},
    runtime::{Blame, InitFailure, Stage, StartError},
};
use rustic_proto::{
    confinement::CONFINEMENT_FIELD,
    launch::PROFILE_FIELD,
    profile::ProfileName,
    reason::Reason,
    status::{with_reason, with_trace},
    violation::Violations,
};
use rustic_registry::{AgentKey, Condition, Epoch, GuildKey, HostId, MachineId, Phase, RegistryError};
use std::{error::Error as _, time::Duration};
use tonic::Status;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The request breaks the contract.
    #[error("bad request")]
    Bad(Violations),
    /// No such agent here.
    #[error("agent {0} is not on this host")]
    Unknown(AgentKey),
    /// Same id, other launch.
    #[error("agent {key} exists with another launch and is {phase}; stop it first or choose another id")]
    OtherSpec {
        /// The agent.
        key: AgentKey,
        /// Its phase.
        phase: Phase,
    },
    /// It runs on another host.
    #[error("agent {key} is on {host}; call that host, or engine-svc, which finds it")]
    Elsewhere {
        /// The agent.
        key: AgentKey,
        /// Its host.
        host: String,
    },
    /// It waits for room, and engine-svc has it.
    #[error("agent {0} waits for room; engine-svc starts it as soon as a host has some")]
    Waits(AgentKey),
    /// This very request failed before.
    #[error("agent {key} has failed: {}; create it with a new request id to try again", Condition::parts(condition.as_ref()).1)]
    Failed {
        /// The agent.
        key: AgentKey,
        /// Why.
        condition: Option<Condition>,
    },
    /// It is on its way out.
    #[error("agent {0} is being stopped; create it again when it is gone")]
    AgentStopping(AgentKey),
    /// It is to be stopped only if it is idle.
    #[error(
        "a handler of agent {key} is at work on {message}; ask again later, or let it finish (AT_WORK_POLICY_FINISH)"
    )]
    AtWork {
        /// The agent.
        key: AgentKey,
        /// What it handles.
        message: Delivery,
    },
    /// It was stopped while the call waited for it.
    #[error("agent {0} was stopped before it was ready")]
    StoppedMeanwhile(AgentKey),
    /// The claim quoted is not the current one.
    #[error("epoch {given} of agent {key} is stale; the current one is {current}")]
    StaleEpoch {
        /// The agent.
        key: AgentKey,
        /// What the caller believes in.
        given: Epoch,
        /// What holds.
        current: Epoch,
    },
    /// The claim went to somebody else while the call waited.
    #[error("the claim of agent {0} was taken away; ask the registry where it is")]
    Superseded(AgentKey),
    /// The call was meant for another process.
    #[error("host {0} is not in the life the caller means; read the hosts again and retry")]
    OtherIncarnation(HostId),
    /// No room.
    #[error("host {0} has no room for this agent; stop agents, add hosts or raise --max-agents")]
    Full(HostId),
    /// Its guild has as many agents as there are machine ids.
    #[error("guild {0} has {max} agents, as many as there can be in one; stop some, or begin another guild", max = MachineId::LAST)]
    GuildTooLarge(GuildKey),
    /// The first start failed; nothing is left of it.
    #[error("agent {key} did not start: {failure}")]
    StartFailed {
        /// The agent.
        key: AgentKey,
        /// Why.
        failure: Box<StartFailure>,
        /// Its last lines of output.
        last_lines: Vec<String>,
    },
    /// The host ends.
    #[error("host {0} is stopping and takes no agents; retry elsewhere")]
    Stopping(HostId),
    /// The host may not run agents now.
    #[error(
        "host {0} holds no lease that counts: it cannot reach the registry, or the registry is new or was lost, and waits until its hosts \
         have reported; nothing was started, retry"
    )]
    NoLease(HostId),
    /// The lease is still held, but the store does not answer.
    #[error("host {0} cannot reach the registry; its agents run on until its lease ends")]
    NoRegistry(HostId),
    /// It has no such Python environment.
    #[error(
        "this host has no runtime profile {profile}, but {}; choose one of them, or add it to --runtime-profiles",
        .known.join(", ")
    )]
    UnknownProfile {
        /// What was asked for.
        profile: ProfileName,
        /// What there is.
        known: Vec<String>,
    },
    /// Its task has failed, and its process may live.
    #[error(
        "agent {0}: its host failed to look after it and ends, so that nothing of it is left; retry when the host is back"
    )]
    Broken(AgentKey),
    /// The store cannot be written.
    #[error("agent {key}: its record cannot be written ({trouble}); retry")]
    Unrecorded {
        /// The agent.
        key: AgentKey,
        /// What the store said.
        trouble: String,
    },
    /// The store failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

impl From<Violations> for HostError {
    fn from(violations: Violations) -> Self {
        Self::Bad(violations)
    }
}

impl HostError {
    /// Whether the same call may succeed later, here or on another host.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Full(_)
            | Self::OtherIncarnation(_)
            | Self::Stopping(_)
            | Self::NoLease(_)
            | Self::NoRegistry(_)
            | Self::Broken(_)
            | Self::Unrecorded { .. } => true,
            Self::Registry(error) => error.is_retryable(),
            Self::Bad(_)
            | Self::GuildTooLarge(_)
            | Self::Unknown(_)
            | Self::OtherSpec { .. }
            | Self::Elsewhere { .. }
            | Self::AtWork { .. }
            | Self::Waits(_)
            | Self::Failed { .. }
            | Self::AgentStopping(_)
            | Self::StoppedMeanwhile(_)
            | Self::StaleEpoch { .. }
            | Self::Superseded(_)
            | Self::UnknownProfile { .. } => false,
            Self::StartFailed { failure, .. } => match &**failure {
                StartFailure::Spawn(error) => error.blame() != Blame::Launch,
                StartFailure::Init(_)
                | StartFailure::Exited(..)
                | StartFailure::Timeout(_)
                | StartFailure::Queued(_)
                | StartFailure::Abandoned => false,
            },
        }
    }
}

impl From<HostError> for Status {
    fn from(error: HostError) -> Self {
        let text = error.to_string();
        match error {
            HostError::Bad(violations) => violations.into(),
            HostError::Unknown(_) => with_reason(Reason::AgentUnknown, text, &[]),
            HostError::OtherSpec { .. } => with_reason(Reason::AgentHasOtherSpec, text, &[]),
            HostError::Elsewhere { host, .. } => with_reason(Reason::AgentOnOtherHost, text, &[("host_id", &host)]),
            HostError::AtWork { .. } => with_reason(Reason::AgentAtWork, text, &[]),
            HostError::Waits(_) => with_reason(Reason::AgentWaits, text, &[]),
            HostError::Failed { condition, .. } => {
                let (reason, _) = Condition::parts(condition.as_ref());
                with_reason(Reason::AgentFailed, text, &[("agent_reason", reason)])
            }
            HostError::AgentStopping(_) | HostError::StoppedMeanwhile(_) => {
                with_reason(Reason::AgentStopping, text, &[])
            }
            HostError::StaleEpoch { .. } | HostError::Superseded(_) => with_reason(Reason::EpochStale, text, &[]),
            HostError::GuildTooLarge(_) => with_reason(Reason::GuildTooLarge, text, &[]),
            HostError::Full(host) => with_reason(Reason::HostFull, text, &[("host_id", host.as_str())]),
            HostError::StartFailed { failure, last_lines, .. } => start_failed(text, &failure, &last_lines),
            HostError::Stopping(host) => with_reason(Reason::HostStopping, text, &[("host_id", host.as_str())]),
            HostError::Broken(_) => with_reason(Reason::HostStopping, text, &[]),
            HostError::NoLease(host) => with_reason(Reason::HostWithoutLease, text, &[("host_id", host.as_str())]),
            HostError::OtherIncarnation(host) => {
                with_reason(Reason::HostReplaced, text, &[("host_id", host.as_str())])
            }
            HostError::UnknownProfile { .. } => bad_field(PROFILE_FIELD, text),
            HostError::NoRegistry(_) | HostError::Unrecorded { .. } => {
                with_reason(Reason::RegistryUnreachable, text, &[])
            }
            HostError::Registry(error) => registry(&error),
        }
    }
}

fn start_failed(text: String, failure: &StartFailure, last_lines: &[String]) -> Status {
    let with_output = |text: &str| match last_lines {
        [] => text.to_owned(),
        lines => format!("{text}; its last output:\n{}", lines.join("\n")),
    };
    match failure {
        StartFailure::Spawn(error) => match error.blame() {
            Blame::Launch => bad_field(field_of(error), wrong(&text)),
            Blame::Exhausted => with_reason(Reason::HostExhausted, text, &[]),
            Blame::Host => with_reason(Reason::HostCannotStart, text, &[]),
        },
        StartFailure::Init(InitFailure { stage, traceback, field, .. }) => match stage {
            Stage::Spec => bad_field(&format!("launch.{field}"), wrong(&text)),
            Stage::Import => bad_field("launch.agent_spec.class_name", wrong(&text)),
            Stage::ClientType => bad_field("launch.client_type", wrong(&text)),
            Stage::Initialize => with_trace(Reason::AgentInitFailed, text, &[], traceback),
        },
        StartFailure::Exited(..) => with_reason(Reason::AgentExitedBeforeReady, with_output(&text), &[]),
        StartFailure::Timeout(limit) => too_slow(&with_output(&text), *limit),
        StartFailure::Queued(limit) => too_slow(&text, *limit),
        StartFailure::Abandoned => with_reason(Reason::AgentAbandoned, text, &[]),
    }
}

/// The field of a launch for which no process came to be.
fn field_of(error: &StartError) -> &'static str {
    if matches!(error, StartError::Denied(_)) { CONFINEMENT_FIELD } else { "launch.runtime" }
}

fn too_slow(text: &str, limit: Duration) -> Status {
    let limit = limit.as_secs_f64().to_string();
    with_reason(Reason::AgentNotReadyInTime, text, &[("start_timeout_seconds", &limit)])
}

/// What is wrong, so that it reads on from the field's name.
fn wrong(text: &str) -> String {
    format!("is wrong: {text}")
}

fn bad_field(field: &str, what: String) -> Status {
    let mut violations = Violations::default();
    violations.add(field, what);
    violations.into()
}

fn registry(error: &RegistryError) -> Status {
    match error {
        RegistryError::Unreachable(_)
        | RegistryError::Timeout(_)
        | RegistryError::Refused(_)
        | RegistryError::Lost(_)
        | RegistryError::Retired(_) => with_reason(Reason::RegistryUnreachable, error.to_string(), &[]),
        RegistryError::Form(_) => with_reason(Reason::RegistryForm, error.to_string(), &[]),
        RegistryError::Unreadable { .. } => {
            tracing::error!(%error, source = error.source(), "the registry holds what this version cannot read");
            with_reason(Reason::InternalError, "internal error; the log of this host has more", &[])
        }
    }
}
