//! Why no process came to be, and who is to blame.

use super::lack::Lack;
use crate::{confinement::Denied, limits::TooFew, process::SpawnError};
use rustic_proto::profile::ProfileName;
use rustix::io::Errno;
use std::{io, path::PathBuf};

/// Why no process came to be.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Fork or exec failed.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// Its pipes could be made, and this host would have too few descriptors for itself.
    #[error(transparent)]
    Descriptors(#[from] TooFew),
    /// Its pipes could not be made.
    #[error("cannot make the pipes of the process: {0}")]
    Pipe(#[from] io::Error),
    /// Its working directory could not be made.
    #[error("cannot make the working directory {}: {source}", .path.display())]
    Workdir {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It cannot be watched; it was killed.
    #[error("the agent cannot be watched: {0}")]
    Unwatched(#[source] io::Error),
    /// What it may use cannot be bounded; it was killed.
    #[error("the agent cannot be held to its limits: {0}")]
    Unbound(#[source] io::Error),
    /// It asks for a confinement that it does not get here.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// It cannot be confined.
    #[error("the agent cannot be confined: {0}")]
    Unconfined(#[source] io::Error),
    /// The zygote could not fork, for lack of what a cold start needs as well.
    #[error("the zygote cannot fork: {0}")]
    Exhausted(String),
    /// Whoever made it panicked, with this message; nothing of it is left.
    #[error("this host panicked over it, which is a bug, please report it: {0}")]
    Panicked(String),
    /// The interpreter of its runtime profile cannot be executed.
    #[error(
        "the interpreter of this host's runtime profile {profile} cannot be used; mend --python or --runtime-profiles: {source}"
    )]
    Interpreter {
        /// The profile.
        profile: ProfileName,
        /// What the system said.
        source: io::Error,
    },
    /// Its runtime profile is not one of this host's.
    #[error("this host has no runtime profile {0}")]
    Profile(ProfileName),
}

/// Who is to blame that no process came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The launch: it will fail on any host.
    Launch,
    /// This host, which has too little of something: another one may have more, and so may this one later.
    Exhausted,
    /// This host, for another reason.
    Host,
}

impl StartError {
    /// An interpreter could not be executed: its host's fault, unless the launch gives it more than any program can be given.
    pub fn of_interpreter(profile: &ProfileName, error: SpawnError) -> Self {
        match error {
            SpawnError::Exec { source, .. } if is_of_the_program(&source) && !is_of_the_arguments(&source) => {
                Self::Interpreter { profile: profile.clone(), source }
            }
            other => Self::Spawn(other),
        }
    }

    /// What this host lacks, if that is why.
    pub fn lack(&self) -> Option<Lack> {
        match self {
            Self::Spawn(SpawnError::Exec { source, .. } | SpawnError::Watch(source))
            | Self::Pipe(source)
            | Self::Unwatched(source)
            | Self::Unconfined(source)
            | Self::Unbound(source) => Lack::of(source),
            Self::Workdir { source, .. } => Lack::of_disk(source),
            Self::Descriptors(_) => Some(Lack::Descriptors),
            Self::Exhausted(_) => Some(Lack::Fork),
            Self::Spawn(SpawnError::Stopping)
            | Self::Interpreter { .. }
            | Self::Panicked(_)
            | Self::Denied(_)
            | Self::Profile(_) => None,
        }
    }

    /// Who is to blame.
    pub fn blame(&self) -> Blame {
        match self {
            _ if self.lack().is_some() => Blame::Exhausted,
            Self::Spawn(SpawnError::Exec { source, .. }) if is_of_the_program(source) => Blame::Launch,
            Self::Profile(_) | Self::Denied(Denied::NotAllowed(_)) => Blame::Launch,
            Self::Spawn(_)
            | Self::Descriptors(_)
            | Self::Pipe(_)
            | Self::Workdir { .. }
            | Self::Unwatched(_)
            | Self::Unbound(_)
            | Self::Denied(Denied::Lacking { .. })
            | Self::Unconfined(_)
            | Self::Interpreter { .. }
            | Self::Panicked(_)
            | Self::Exhausted(_) => Blame::Host,
        }
    }
}

/// Whether exec failed for what the launch asks for: a program that is not there or cannot be executed, or arguments that no
/// program can be given.
fn is_of_the_program(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    let of_program = [
        Errno::NOENT,
        Errno::ACCESS,
        Errno::PERM,
        Errno::NOEXEC,
        Errno::TOOBIG,
        Errno::NOTDIR,
        Errno::ISDIR,
        Errno::LOOP,
        Errno::NAMETOOLONG,
        Errno::INVAL,
        Errno::LIBBAD,
        Errno::TXTBSY,
    ];
    // Without a number: an argument that holds a zero byte, which never reached the system.
    errno.map_or(error.kind() == io::ErrorKind::InvalidInput, |errno| of_program.contains(&errno))
}

/// Whether exec failed for what the program was to be given.
fn is_of_the_arguments(error: &io::Error) -> bool {
    Errno::from_io_error(error).is_none_or(|errno| errno == Errno::TOOBIG)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec(errno: Errno) -> StartError {
        StartError::Spawn(SpawnError::Exec { program: "p".to_owned(), source: errno.into() })
    }

    #[test]
    fn only_what_fails_on_any_host_is_the_launches_fault() {
        for errno in [Errno::NOENT, Errno::ACCESS, Errno::NOEXEC, Errno::TOOBIG, Errno::ISDIR] {
            assert_eq!(exec(errno).blame(), Blame::Launch, "{errno:?}");
        }
        let zero_byte = io::Error::from(io::ErrorKind::InvalidInput);
        let zero_byte = StartError::Spawn(SpawnError::Exec { program: "p".to_owned(), source: zero_byte });
        assert_eq!(zero_byte.blame(), Blame::Launch);
        assert_eq!(exec(Errno::IO).blame(), Blame::Host, "a disk that cannot be read is no fault of the launch");
        assert_eq!(StartError::Unwatched(io::Error::other("the lease is over")).blame(), Blame::Host);
        assert_eq!(StartError::Spawn(SpawnError::Stopping).blame(), Blame::Host);
    }

    #[test]
    fn an_interpreter_that_is_not_there_is_the_hosts_fault_and_an_environment_that_is_too_large_the_launches() {
        let blame = |errno: Errno| {
            let source = errno.into();
            StartError::of_interpreter(&ProfileName::default(), SpawnError::Exec { program: "p".to_owned(), source })
                .blame()
        };
        assert_eq!((blame(Errno::NOENT), blame(Errno::ACCESS)), (Blame::Host, Blame::Host));
        assert_eq!((blame(Errno::TOOBIG), blame(Errno::NOMEM)), (Blame::Launch, Blame::Exhausted));
    }

    #[test]
    fn a_lack_of_anything_at_any_step_is_shown_as_one() {
        let workdir = |errno: Errno| StartError::Workdir { path: "/w".into(), source: errno.into() };
        let lacks = [
            (exec(Errno::AGAIN), Lack::Processes),
            (exec(Errno::NOMEM), Lack::Memory),
            (exec(Errno::MFILE), Lack::Descriptors),
            (StartError::Spawn(SpawnError::Watch(Errno::MFILE.into())), Lack::Descriptors),
            (TooFew { taken: 208, limit: 256 }.into(), Lack::Descriptors),
            (StartError::Pipe(Errno::NFILE.into()), Lack::OpenFiles),
            (StartError::Pipe(Errno::NOSPC.into()), Lack::Watches),
            (StartError::Unwatched(Errno::MFILE.into()), Lack::Descriptors),
            (workdir(Errno::NOSPC), Lack::Disk),
            (workdir(Errno::DQUOT), Lack::Disk),
            (StartError::Exhausted("fork: Resource temporarily unavailable".to_owned()), Lack::Fork),
        ];
        for (error, lack) in lacks {
            assert_eq!((error.lack(), error.blame()), (Some(lack), Blame::Exhausted), "{error}");
        }
        assert_eq!(workdir(Errno::ACCESS).blame(), Blame::Host);
    }
}
