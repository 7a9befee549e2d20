//! What a host answered to a call: the one place where a `Status` of a host's call is read.
//!
//! Two questions decide how the engine goes on: does the host live, and was anything done? The code of a status answers
//! neither: UNAVAILABLE is a broken connection, a host with as many calls as it takes, and a host that stops. So a status is
//! read in this order:
//!
//! ```text
//!  has a source ─────────────▶ Silent      the client's own transport made it, no host
//!  has a reason of ours ─────▶ by reason   a host said so
//!  has a newer reason ───────▶ by code     a host said so, in words of another version
//!  neither ──────────────────▶ by code     a layer or a proxy said so
//! ```
//!
//! What is not certain is never assumed: [`Refused::Busy`] and [`Refused::UnknownAgent`], which say that nothing is done or
//! there, follow from their reasons only. A claim is released by the registry, and only if no host has accepted it, whatever
//! a host answered.

#![deny(clippy::wildcard_enum_match_arm)]

use rustic_proto::reason::Reason;
use std::{error::Error as _, fmt};
use tonic::{Code, Status, TimeoutExpired};

/// What a host answered to a call.
pub type HostAnswer<T> = Result<T, HostRefusal>;

/// What a host answered instead of yes, or that it did not answer.
#[derive(Debug, Clone)]
pub struct HostRefusal {
    refused: Refused,
    status: Status,
}

/// What it means that a host did not do what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Nobody knows whether the call arrived or was carried out: the transport failed, or the answer did not come in time.
    Silent,
    /// The engine waited no longer, because its own caller had hung up. Otherwise like silence.
    CallerGone,
    /// As many calls are under way there as the host takes. It lives, and nothing was done.
    Busy,
    /// It has no room for the agent, by its own count.
    NoRoom,
    /// It lacks what every process needs.
    Exhausted,
    /// It takes no agents, or is not the process that was meant: it stops, has no lease, or has replaced the one that was meant.
    Closed,
    /// It lives, and cannot do it now: it does not reach the registry, or cannot start processes.
    InTrouble,
    /// The claim that was quoted is not the current one, or was given up.
    Stale,
    /// It does not have the agent.
    UnknownAgent,
    /// The agent failed by its own fault, or was not ready in time.
    StartFailed,
    /// The request cannot be carried out as it is, here or on a host like this one.
    Invalid,
    /// The call's time was over before the host was done. It lives; how far it came is not known.
    Unfinished,
    /// It refused for a reason that is the caller's matter, or failed. Its status says why.
    Other,
}

/// Reads the result of a call.
pub fn read<T>(result: Result<T, Status>) -> HostAnswer<T> {
    result.map_err(HostRefusal::of)
}

impl HostRefusal {
    /// Reads the status of a call that failed.
    fn of(status: Status) -> Self {
        match status.source() {
            Some(source) => {
                // The transport's codes are about HTTP/2; these two say to whoever called the engine what it can do.
                let text = status.message().to_owned();
                let status_of = if is_timeout(source) { Status::deadline_exceeded } else { Status::unavailable };
                Self { refused: Refused::Silent, status: status_of(text) }
            }
            None => {
                let refused = match Reason::of(&status) {
                    Some(Ok(reason)) => by_reason(reason),
                    Some(Err(_newer)) => by_code_of_a_newer_reason(status.code()),
                    None => by_code(status.code()),
                };
                Self { refused, status }
            }
        }
    }

    /// A host that cannot even be called.
    pub fn silent(why: impl Into<String>) -> Self {
        Self { refused: Refused::Silent, status: Status::unavailable(why) }
    }

    /// The engine's own caller hung up before there was an answer.
    pub fn caller_gone() -> Self {
        Self { refused: Refused::CallerGone, status: Status::cancelled("the caller hung up") }
    }

    /// What it means.
    pub fn refused(&self) -> Refused {
        self.refused
    }

    /// The status to pass on.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// Whether the same call may succeed later, here or on another host.
    pub fn is_retryable(&self) -> bool {
        match self.refused {
            Refused::Silent
            | Refused::Busy
            | Refused::NoRoom
            | Refused::Exhausted
            | Refused::Closed
            | Refused::InTrouble => true,
            Refused::CallerGone
            | Refused::Stale
            | Refused::UnknownAgent
            | Refused::StartFailed
            | Refused::Invalid
            | Refused::Unfinished
            | Refused::Other => false,
        }
    }
}

impl fmt::Display for HostRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.status.message())
    }
}

/// Whether the time of the call was over before there was an answer.
fn is_timeout(source: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(source), |error| (*error).source()).any(|error| error.is::<TimeoutExpired>())
}

fn by_reason(reason: Reason) -> Refused {
    match reason {
        Reason::TooManyCalls => Refused::Busy,
        Reason::HostFull => Refused::NoRoom,
        Reason::HostExhausted => Refused::Exhausted,
        Reason::HostStopping | Reason::HostWithoutLease | Reason::HostReplaced => Refused::Closed,
        Reason::HostCannotStart | Reason::RegistryUnreachable => Refused::InTrouble,
        Reason::EpochStale | Reason::AgentAbandoned => Refused::Stale,
        Reason::AgentUnknown => Refused::UnknownAgent,
        Reason::AgentFailed
        | Reason::AgentInitFailed
        | Reason::AgentExitedBeforeReady
        | Reason::AgentNotReadyInTime => Refused::StartFailed,
        Reason::InvalidRequest | Reason::RequestUnreadable => Refused::Invalid,
        // The layer that ends calls at their deadline.
        Reason::DeadlineExceeded => Refused::Unfinished,
        // A request that is too large is so here and on every other host.
        Reason::RequestTooLarge | Reason::MethodUnknown | Reason::InternalError => Refused::Other,
        Reason::AgentHasOtherSpec
        | Reason::AgentOnOtherHost
        | Reason::AgentAtWork
        | Reason::AgentWaits
        | Reason::AgentStopping
        | Reason::GuildTooLarge
        | Reason::RegistryForm => Refused::Other,
        // Engines send these. From a host they are new words.
        Reason::AgentRestless
        | Reason::AgentTooLarge
        | Reason::GuildIdShared
        | Reason::HostUnknown
        | Reason::HostLives
        | Reason::HostUnreachable
        | Reason::HostNotRetired
        | Reason::NoHost
        | Reason::NoRoom
        | Reason::TooLate
        | Reason::NotReady
        | Reason::GuildPartlyStopped
        | Reason::WatchExpired
        | Reason::EngineStopping
        | Reason::RegistryLost
        | Reason::RecordUnreadable => by_code_of_a_newer_reason(reason.code()),
    }
}

/// A host answered, so it lives; what exactly it said is not known. The safest reading of its code is the one that assumes
/// least of what was done: at most that another host may be tried, which the registry allows only while no host has accepted
/// the claim, or that the registry is to be looked at again.
fn by_code_of_a_newer_reason(code: Code) -> Refused {
    match code {
        Code::Unavailable => Refused::InTrouble,
        Code::ResourceExhausted => Refused::NoRoom,
        Code::Aborted => Refused::Stale,
        Code::InvalidArgument => Refused::Invalid,
        Code::DeadlineExceeded | Code::Cancelled => Refused::Unfinished,
        // NOT_FOUND too: something is not there, but who says that it is the agent? A record is removed because of that.
        Code::NotFound
        | Code::Ok
        | Code::Unknown
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss
        | Code::Unauthenticated => Refused::Other,
    }
}

/// No reason: from somebody between.
fn by_code(code: Code) -> Refused {
    match code {
        // A proxy that does not reach the host, or an answer that was cut off. No host of this version says these.
        Code::Unavailable | Code::Unknown => Refused::Silent,
        // The timer of somebody between.
        Code::DeadlineExceeded | Code::Cancelled => Refused::Unfinished,
        Code::Aborted => Refused::Stale,
        Code::InvalidArgument => Refused::Invalid,
        Code::ResourceExhausted
        | Code::Ok
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss
        | Code::Unauthenticated => Refused::Other,
    }
}

#[cfg(test)]
mod tests;
