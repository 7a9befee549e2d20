//! Why a registry operation failed.

use std::time::Duration;

/// Why a registry operation failed. An outcome that a caller must handle, such as "no room", is no error.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// No connection in time, or it broke. The operation may or may not have happened.
    #[error("the registry cannot be reached: {0}")]
    Unreachable(String),
    /// No answer in time. The operation may or may not have happened.
    #[error("the registry did not answer within {0:?}")]
    Timeout(Duration),
    /// Redis answered with an error, such as OOM, READONLY, LOADING or NOAUTH.
    #[error("the registry refused the operation: {0}")]
    Refused(String),
    /// The store is not the one it was. Hosts report to it what they run, and engines restore what they remember.
    #[error("the registry was lost and is being restored; {0} cannot be changed yet")]
    Lost(String),
    /// The lease of the host that claimed the agent was taken. It may be the host's again once that has announced itself.
    #[error("the registry has taken the lease under which {0} was claimed")]
    Retired(String),
    /// The store's data has another form than this version works with. Nothing was written.
    #[error(transparent)]
    Form(#[from] FormTrouble),
    /// A record or an answer is not in the form this version writes.
    #[error("the registry holds something this version cannot read in {place}: {what}")]
    Unreadable {
        /// Key or script.
        place: String,
        /// What was found.
        what: String,
    },
}

/// In which way the form of the store's data is another one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormTrouble {
    /// A later version has been at work on it.
    #[error(
        "the registry's data has form {0}, which is newer than this program; run the newer version of engine-svc and agent-host \
         everywhere, or clear the registry: stop all of them, and delete every key that begins with its prefix in braces, {{rustic}}"
    )]
    Newer(String),
    /// No way leads from it to this version's.
    #[error(
        "the registry's data has form {0}, which is too old for this program; run the version between them first, or clear the \
         registry: stop all engine-svc and agent-host, and delete every key that begins with its prefix in braces, {{rustic}}"
    )]
    Older(String),
    /// There is data, and no number.
    #[error(
        "the registry's data is of a version whose forms had no numbers yet; clear it: stop all engine-svc and agent-host, delete \
         every key that begins with its prefix in braces, {{rustic}} (redis-cli --scan --pattern '{{rustic}}:*' | xargs redis-cli del), \
         and start them again"
    )]
    Unnumbered,
}

impl RegistryError {
    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Timeout(_) | Self::Refused(_) | Self::Lost(_) | Self::Retired(_) => true,
            Self::Unreadable { .. } | Self::Form(_) => false,
        }
    }
}
