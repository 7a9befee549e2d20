//! Why a call was refused, for programs: the reasons that both services send in `ErrorInfo`, each with its one code.
//!
//! Part of the contract: a reason keeps its text and its code for ever. Services of several versions call each other, so that
//! a reader may meet a reason that it does not know ([`UnknownReason`]), and goes by the code then.

use crate::status::DOMAIN;
use std::{fmt, str::FromStr, time::Duration};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// A reason that this version does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("reason {0:?} is not known to this version")]
pub struct UnknownReason(pub String);

/// Writes down each reason once: meaning, name, text, code, when to retry, and what to do.
macro_rules! reasons {
    ($($(#[doc = $meaning:literal])+ $name:ident = $text:literal, $code:ident, $retry:ident, $cure:literal;)+) => {
        /// Why a call was refused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Reason {
            $($(#[doc = $meaning])+ $name,)+
        }

        impl Reason {
            /// Every reason there is.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// Its text in `ErrorInfo`.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }

            /// Code of the status that has it.
            pub const fn code(self) -> Code {
                match self {
                    $(Self::$name => Code::$code,)+
                }
            }

            /// Whether the same call may succeed by itself, and when.
            pub const fn retry(self) -> Retry {
                match self {
                    $(Self::$name => Retry::$retry,)+
                }
            }

            /// What it means, in one sentence or two.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($meaning),+),)+
                }
            }

            /// What whoever gets it can do.
            pub const fn cure(self) -> &'static str {
                match self {
                    $(Self::$name => $cure,)+
                }
            }
        }

        impl FromStr for Reason {
            type Err = UnknownReason;

            fn from_str(text: &str) -> Result<Self, UnknownReason> {
                match text {
                    $($text => Ok(Self::$name),)+
                    _ => Err(UnknownReason(text.to_owned())),
                }
            }
        }
    };
}

/// Whether the same call may succeed by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Something has to be changed first.
    No,
    /// At once, or nearly.
    Soon,
    /// When somebody has come back, or room was made.
    Later,
}

impl Retry {
    /// How long to wait at least, as `RetryInfo` says it; `None`: there is no `RetryInfo`.
    pub const fn delay(self) -> Option<Duration> {
        match self {
            Self::No => None,
            Self::Soon => Some(Duration::from_millis(100)),
            Self::Later => Some(Duration::from_secs(1)),
        }
    }
}

reasons! {
    /// A field of the request is wrong, or names a class that cannot be imported; `BadRequest` names each and says what to do.
    InvalidRequest = "INVALID_REQUEST", InvalidArgument, No,
        "Mend the fields that `BadRequest` names.";
    /// The request is no message of this method.
    RequestUnreadable = "REQUEST_UNREADABLE", InvalidArgument, No,
        "Generate the client from the protos of this version; reflection serves them.";
    /// The request is larger than the service takes.
    RequestTooLarge = "REQUEST_TOO_LARGE", ResourceExhausted, No,
        "Send a smaller spec, or raise `--max-message-size` of both services.";
    /// The service has no such method.
    MethodUnknown = "METHOD_UNKNOWN", Unimplemented, No,
        "Look at the service and its version: reflection lists the methods.";
    /// The call's deadline passed before it was done. What it began goes on.
    DeadlineExceeded = "DEADLINE_EXCEEDED", DeadlineExceeded, No,
        "Look what became of it, then repeat the call with a longer deadline.";
    /// A bug of the service.
    InternalError = "INTERNAL_ERROR", Internal, No,
        "Report it with what the service's log says. Do not repeat the call blindly.";
    /// There is no such agent; from a host: it does not have it.
    AgentUnknown = "AGENT_UNKNOWN", NotFound, No,
        "Look at its ids, organization_id among them, or create it. To stop it again is not needed.";
    /// The agent exists with another launch.
    AgentHasOtherSpec = "AGENT_HAS_OTHER_SPEC", AlreadyExists, No,
        "Stop the agent first, or launch it under another id. ALREADY_EXISTS never means that this launch runs.";
    /// The agent is on another host.
    AgentOnOtherHost = "AGENT_ON_OTHER_HOST", FailedPrecondition, No,
        "Call engine-svc, which knows the host; or the host that `host_id` names.";
    /// A handler of the agent is at work, and it was to be stopped only if none is.
    AgentAtWork = "AGENT_AT_WORK", FailedPrecondition, No,
        "Ask again later, or let the handler finish: `at_work` = AT_WORK_POLICY_FINISH.";
    /// The agent waits for room.
    AgentWaits = "AGENT_WAITS", FailedPrecondition, No,
        "Wait until it runs: GetAgent or WatchAgents of engine-svc show it.";
    /// The agent has failed, and this very request was to start it.
    AgentFailed = "AGENT_FAILED", FailedPrecondition, No,
        "Read Agent.message and last_lines (GetAgent, view FULL), mend the cause, and call RestartAgent or create it again.";
    /// The agent is being stopped, or was while the call waited for it.
    AgentStopping = "AGENT_STOPPING", FailedPrecondition, No,
        "Wait until GetAgent answers NOT_FOUND, then create it again.";
    /// The agent's class raised an error while it was built.
    AgentInitFailed = "AGENT_INIT_FAILED", FailedPrecondition, No,
        "Mend the agent's class or what it depends on; the traceback is in `DebugInfo`.";
    /// The agent's process ended before it was ready.
    AgentExitedBeforeReady = "AGENT_EXITED_BEFORE_READY", FailedPrecondition, No,
        "Read the exit status and the last output in the message, and mend the program.";
    /// The agent was not ready within its start timeout.
    AgentNotReadyInTime = "AGENT_NOT_READY_IN_TIME", DeadlineExceeded, No,
        "Raise the launch's `start_timeout` or the host's `--start-timeout`, or make the start quicker.";
    /// Nobody waited for the agent any more, and its start had not begun.
    AgentAbandoned = "AGENT_ABANDONED", Aborted, Soon,
        "Call again.";
    /// The agent was claimed anew again and again while it was looked for.
    AgentRestless = "AGENT_RESTLESS", Unavailable, Soon,
        "Call again.";
    /// No host could ever hold the agent.
    AgentTooLarge = "AGENT_TOO_LARGE", ResourceExhausted, No,
        "Ask for less: `asked_` and `largest_` of each resource say what there is. Or add a larger host and launch with WAIT_FOR_ANY_HOST.";
    /// The guild has as many agents as there can be.
    GuildTooLarge = "GUILD_TOO_LARGE", ResourceExhausted, No,
        "Split the guild: Rustic AI's message ids do not reach further.";
    /// Another organization has a guild with this id on the same message bus.
    GuildIdShared = "GUILD_ID_SHARED", FailedPrecondition, No,
        "Give the guild another id, or the organization a message bus of its own.";
    /// The claim that was quoted is not the current one.
    EpochStale = "EPOCH_STALE", Aborted, No,
        "Read the agent anew; somebody else has claimed it since.";
    /// As many calls are under way as the service takes; nothing was done.
    TooManyCalls = "TOO_MANY_CALLS", Unavailable, Soon,
        "Call again with backoff; nothing was done. Raise `--max-calls` if the machine is idle.";
    /// The host has as many agents as it takes, or no room for what this one needs.
    HostFull = "HOST_FULL", ResourceExhausted, Later,
        "Call engine-svc, which tries other hosts; or wait.";
    /// The host has room by its own count, and lacks what every process needs: descriptors, process ids, memory or disk.
    HostExhausted = "HOST_EXHAUSTED", ResourceExhausted, Later,
        "Raise the limit that the message names (descriptors, process ids, memory, disk) on the hosts, or add hosts.";
    /// The host cannot start processes, by no fault of the agent.
    HostCannotStart = "HOST_CANNOT_START", Unavailable, Later,
        "Read the log of the host: its runtime is broken.";
    /// The host ends.
    HostStopping = "HOST_STOPPING", Unavailable, Later,
        "Call engine-svc, which tries other hosts.";
    /// The host holds no lease.
    HostWithoutLease = "HOST_WITHOUT_LEASE", Unavailable, Later,
        "Look whether the host reaches the registry.";
    /// The host's process is not the one that the call was meant for.
    HostReplaced = "HOST_REPLACED", Unavailable, Soon,
        "Call again; engine-svc meant a former process of the host.";
    /// There is no such host.
    HostUnknown = "HOST_UNKNOWN", NotFound, No,
        "Look at ListHosts for its id. A host that was silent for long is forgotten.";
    /// The host was to be given up by force, and holds its lease.
    HostLives = "HOST_LIVES", FailedPrecondition, No,
        "Leave `force` out: the host gives its agents away itself.";
    /// The agent's host does not answer, and the agent may run there.
    HostUnreachable = "HOST_UNREACHABLE", Unavailable, Later,
        "Call again; the agent may still run. If its host is gone for good, its lease ends and the agent is free.";
    /// The agent was to be removed by force; its host could not stop it, and is not retired.
    HostNotRetired = "HOST_NOT_RETIRED", Unavailable, Later,
        "Wait until the host is retired, one lease and its grace after it was last heard of.";
    /// There is no host at all.
    NoHost = "NO_HOST", Unavailable, Later,
        "Start an agent-host, or launch with a pending policy to wait for one.";
    /// No host has room now.
    NoRoom = "NO_ROOM", ResourceExhausted, Later,
        "Add hosts, stop agents, or launch with a pending policy to wait for room.";
    /// The caller's deadline passed before the agent was claimed.
    TooLate = "TOO_LATE", DeadlineExceeded, No,
        "Give the call a longer deadline; nothing was started.";
    /// The caller's deadline passed while the agent started.
    NotReady = "NOT_READY", DeadlineExceeded, No,
        "The agent's start goes on: look with GetAgent, or repeat the call with a longer deadline.";
    /// Some agents of a guild could not be stopped.
    GuildPartlyStopped = "GUILD_PARTLY_STOPPED", Unavailable, Later,
        "Call again; the message names the agents that are left.";
    /// What changed since is not known any more: the watcher was too slow, resumes from too long ago, or the registry was lost.
    WatchExpired = "WATCH_EXPIRED", OutOfRange, No,
        "Watch anew, without a revision.";
    /// The engine ends.
    EngineStopping = "ENGINE_STOPPING", Unavailable, Soon,
        "Call again; another replica answers.";
    /// The registry does not answer, or refuses.
    RegistryUnreachable = "REGISTRY_UNREACHABLE", Unavailable, Later,
        "Look whether Redis runs, and whether its address, password and TLS are as the service is set up; the service's log has the cause.";
    /// The registry lost data, and hosts are restoring it.
    RegistryLost = "REGISTRY_LOST", Unavailable, Later,
        "Wait: hosts report what they run, which takes seconds.";
    /// The registry's data has a form that this version does not know.
    RegistryForm = "REGISTRY_FORM", FailedPrecondition, No,
        "Run the version of the services that wrote the registry, or a newer one.";
    /// The record has a form that this version cannot read.
    RecordUnreadable = "RECORD_UNREADABLE", FailedPrecondition, No,
        "Ask a service of the version that wrote the record.";
}

impl Reason {
    /// The reason that a status gives. `None` if it gives none, or one that is not of this system; an error if another version
    /// gave it.
    pub fn of(status: &Status) -> Option<Result<Self, UnknownReason>> {
        let info = status.get_details_error_info().filter(|info| info.domain == DOMAIN)?;
        Some(info.reason.parse())
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::with_reason;
    use std::collections::HashMap;
    use tonic_types::ErrorDetails;

    #[test]
    fn every_reason_is_read_back_from_a_status_that_has_it() {
        for reason in Reason::ALL {
            let status = with_reason(*reason, "why", &[]);
            assert_eq!((status.code(), Reason::of(&status)), (reason.code(), Some(Ok(*reason))));
            let read = reason.as_str().bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
            assert!(read, "{reason} is not in UPPER_SNAKE_CASE");
        }
    }

    /// `docs/errors.md`, of what stands here.
    fn document() -> String {
        let mut text = include_str!("../errors.head.md").to_owned();
        for reason in Reason::ALL {
            let code = Status::new(reason.code(), "").code();
            let retry = match reason.retry().delay() {
                None => "no".to_owned(),
                Some(delay) => format!("yes, after {delay:?}"),
            };
            let meaning = reason.meaning().trim();
            text += &format!("| `{reason}` | {} | {retry} | {meaning} | {} |\n", screaming(code), reason.cure());
        }
        text
    }

    /// A code as gRPC spells it.
    fn screaming(code: Code) -> String {
        let mut text = String::new();
        for letter in format!("{code:?}").chars() {
            if letter.is_ascii_uppercase() && !text.is_empty() {
                text.push('_');
            }
            text.push(letter.to_ascii_uppercase());
        }
        text
    }

    #[test]
    fn the_list_of_reasons_in_the_documents_is_this_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/errors.md");
        if std::env::var_os("RUSTIC_WRITE_DOCS").is_some() {
            std::fs::write(path, document()).expect("docs can be written");
        }
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(written == document(), "docs/errors.md is not what proto/src/reason.rs says; run `make docs`");
    }

    #[test]
    fn what_may_succeed_by_itself_says_when_and_nothing_else_does() {
        for reason in Reason::ALL {
            let details = with_reason(*reason, "why", &[]).get_error_details();
            let delay = details.retry_info().and_then(|info| info.retry_delay);
            assert_eq!(delay, reason.retry().delay(), "{reason}");
            let passes = matches!(reason.code(), Code::Unavailable);
            assert!(!passes || delay.is_some(), "{reason} is UNAVAILABLE: it passes");
        }
    }

    #[test]
    fn a_reason_of_a_newer_version_is_distinguished_from_none_and_from_a_strange_one() {
        let status = |reason: &str, domain: &str| {
            let details = ErrorDetails::with_error_info(reason, domain, HashMap::new());
            Status::with_error_details(Code::Unavailable, "why", details)
        };
        let newer = Some(Err(UnknownReason("HOST_ON_FIRE".to_owned())));
        assert_eq!(Reason::of(&status("HOST_ON_FIRE", DOMAIN)), newer);
        assert_eq!(Reason::of(&status("HOST_FULL", "proxy.example")), None);
        assert_eq!(Reason::of(&Status::unavailable("why")), None);
    }
}
