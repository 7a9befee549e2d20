//! Why a call was refused, for programs: the reasons that both services send in `ErrorInfo`, each with its one code.
//!
//! Part of the contract: a reason keeps its text and its code for ever. Services of several versions call each other, so that
//! a reader may meet a reason that it does not know ([`UnknownReason`]), and goes by the code then.

use crate::status::DOMAIN;
use std::{fmt, str::FromStr};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// A reason that this version does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("reason {0:?} is not known to this version")]
pub struct UnknownReason(pub String);

/// Writes down each reason once: name, text, code, meaning.
macro_rules! reasons {
    ($($(#[$doc:meta])+ $name:ident = $text:literal, $code:ident;)+) => {
        /// Why a call was refused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Reason {
            $($(#[$doc])+ $name,)+
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

reasons! {
    /// There is no such agent; from a host: it does not have it.
    AgentUnknown = "AGENT_UNKNOWN", NotFound;
    /// The agent exists with another launch.
    AgentHasOtherSpec = "AGENT_HAS_OTHER_SPEC", AlreadyExists;
    /// The agent is on another host.
    AgentOnOtherHost = "AGENT_ON_OTHER_HOST", FailedPrecondition;
    /// The agent waits for room.
    AgentWaits = "AGENT_WAITS", FailedPrecondition;
    /// The agent has failed, and this very request was to start it.
    AgentFailed = "AGENT_FAILED", FailedPrecondition;
    /// The agent is being stopped, or was while the call waited for it.
    AgentStopping = "AGENT_STOPPING", FailedPrecondition;
    /// The agent's class raised an error while it was built.
    AgentInitFailed = "AGENT_INIT_FAILED", FailedPrecondition;
    /// The agent's process ended before it was ready.
    AgentExitedBeforeReady = "AGENT_EXITED_BEFORE_READY", FailedPrecondition;
    /// The agent was not ready within its start timeout.
    AgentNotReadyInTime = "AGENT_NOT_READY_IN_TIME", DeadlineExceeded;
    /// Nobody waited for the agent any more, and its start had not begun.
    AgentAbandoned = "AGENT_ABANDONED", Aborted;
    /// The agent was claimed anew again and again while it was looked for.
    AgentRestless = "AGENT_RESTLESS", Unavailable;
    /// No host could ever hold the agent.
    AgentTooLarge = "AGENT_TOO_LARGE", ResourceExhausted;
    /// The guild has as many agents as there can be.
    GuildTooLarge = "GUILD_TOO_LARGE", ResourceExhausted;
    /// Another organization has a guild with this id on the same message bus.
    GuildIdShared = "GUILD_ID_SHARED", FailedPrecondition;
    /// The claim that was quoted is not the current one.
    EpochStale = "EPOCH_STALE", Aborted;
    /// As many calls are under way as the service takes; nothing was done.
    TooManyCalls = "TOO_MANY_CALLS", Unavailable;
    /// The host has as many agents as it takes, or no room for what this one needs.
    HostFull = "HOST_FULL", ResourceExhausted;
    /// The host has room by its own count, and lacks what every process needs: descriptors, process ids, memory or disk.
    HostExhausted = "HOST_EXHAUSTED", ResourceExhausted;
    /// The host cannot start processes, by no fault of the agent.
    HostCannotStart = "HOST_CANNOT_START", Unavailable;
    /// The host ends.
    HostStopping = "HOST_STOPPING", Unavailable;
    /// The host holds no lease.
    HostWithoutLease = "HOST_WITHOUT_LEASE", Unavailable;
    /// The host's process is not the one that the call was meant for.
    HostReplaced = "HOST_REPLACED", Unavailable;
    /// There is no such host.
    HostUnknown = "HOST_UNKNOWN", NotFound;
    /// The host was to be given up by force, and holds its lease.
    HostLives = "HOST_LIVES", FailedPrecondition;
    /// The agent's host does not answer, and the agent may run there.
    HostUnreachable = "HOST_UNREACHABLE", Unavailable;
    /// The agent was to be removed by force; its host could not stop it, and is not retired.
    HostNotRetired = "HOST_NOT_RETIRED", Unavailable;
    /// There is no host at all.
    NoHost = "NO_HOST", Unavailable;
    /// No host has room now.
    NoRoom = "NO_ROOM", ResourceExhausted;
    /// The caller's deadline passed before the agent was claimed.
    TooLate = "TOO_LATE", DeadlineExceeded;
    /// The caller's deadline passed while the agent started.
    NotReady = "NOT_READY", DeadlineExceeded;
    /// Some agents of a guild could not be stopped.
    GuildPartlyStopped = "GUILD_PARTLY_STOPPED", Unavailable;
    /// What changed since is not known any more: the watcher was too slow, resumes from too long ago, or the registry was lost.
    WatchExpired = "WATCH_EXPIRED", OutOfRange;
    /// The engine ends.
    EngineStopping = "ENGINE_STOPPING", Unavailable;
    /// The registry does not answer, or refuses.
    RegistryUnreachable = "REGISTRY_UNREACHABLE", Unavailable;
    /// The registry was lost, and is being told again what runs.
    RegistryLost = "REGISTRY_LOST", Unavailable;
    /// The registry's data has a form that this version does not know.
    RegistryForm = "REGISTRY_FORM", FailedPrecondition;
    /// The record has a form that this version cannot read.
    RecordUnreadable = "RECORD_UNREADABLE", FailedPrecondition;
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

    #[test]
    fn a_reason_of_a_newer_version_is_told_apart_from_none_and_from_a_strange_one() {
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
