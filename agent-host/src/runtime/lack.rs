//! Which resource of this host is used up, as an error of the system shows; and what to do about it.

use rustix::io::Errno;
use std::{fmt, io};

/// A resource that every process needs, and that this host has too little of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// Descriptors of this host.
    Descriptors,
    /// Open files of the machine.
    OpenFiles,
    /// Process ids: processes and threads.
    Processes,
    /// Memory.
    Memory,
    /// Room below `--work-dir`.
    Disk,
    /// Descriptors that may be waited for.
    Watches,
    /// What it takes to fork; only the zygote knows which.
    Fork,
}

impl Lack {
    /// What a system call lacked that makes a pipe, a process or a watch of one; `None`: it failed for another reason.
    pub fn of(error: &io::Error) -> Option<Self> {
        Some(match Errno::from_io_error(error)? {
            Errno::MFILE => Self::Descriptors,
            Errno::NFILE => Self::OpenFiles,
            Errno::AGAIN => Self::Processes,
            Errno::NOMEM | Errno::NOBUFS => Self::Memory,
            Errno::NOSPC => Self::Watches,
            _ => return None,
        })
    }

    /// The same for a call that makes a file or a folder.
    pub fn of_disk(error: &io::Error) -> Option<Self> {
        match Errno::from_io_error(error)? {
            Errno::NOSPC | Errno::DQUOT | Errno::MLINK => Some(Self::Disk),
            _ => Self::of(error),
        }
    }

    /// What its operator can do.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Descriptors => "stop agents, add hosts, or raise its hard limit of descriptors (RLIMIT_NOFILE)",
            Self::OpenFiles => "find out who holds them (/proc/sys/fs/file-nr), or raise fs.file-max",
            Self::Processes => "stop agents, add hosts, or raise the pids limit of its container (or RLIMIT_NPROC)",
            Self::Memory => "stop agents, add hosts, or raise the memory limit of its container",
            Self::Disk => "make room there, or give --work-dir another folder",
            Self::Watches => "raise fs.epoll.max_user_watches",
            Self::Fork => "stop agents, add hosts, or raise its limits of processes and memory",
        }
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Descriptors => "its host has no descriptors left for it",
            Self::OpenFiles => "the machine of its host has too many files open",
            Self::Processes => "its host may have no more processes or threads",
            Self::Memory => "its host has too little memory left for another process",
            Self::Disk => "the disk of its host's --work-dir is full",
            Self::Watches => "its host may wait for no more descriptors",
            Self::Fork => "its host cannot fork another process",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_lacks_is_distinguished_from_what_is_wrong() {
        let lack = |errno: Errno| Lack::of(&errno.into());
        assert_eq!(lack(Errno::MFILE), Some(Lack::Descriptors));
        assert_eq!(lack(Errno::NFILE), Some(Lack::OpenFiles));
        assert_eq!(lack(Errno::AGAIN), Some(Lack::Processes), "as fork says at the pids limit");
        assert_eq!(lack(Errno::NOMEM), Some(Lack::Memory));
        assert_eq!(lack(Errno::NOSPC), Some(Lack::Watches), "as epoll says");
        for wrong in [Errno::NOENT, Errno::ACCESS, Errno::TOOBIG, Errno::NOEXEC, Errno::IO] {
            assert_eq!((lack(wrong), Lack::of_disk(&wrong.into())), (None, None));
        }
        assert_eq!(Lack::of(&io::Error::other("no error of the system")), None);
    }

    #[test]
    fn a_full_disk_is_distinguished_from_a_lack_of_watches() {
        for errno in [Errno::NOSPC, Errno::DQUOT, Errno::MLINK] {
            assert_eq!(Lack::of_disk(&errno.into()), Some(Lack::Disk));
        }
        assert_eq!(Lack::of_disk(&Errno::NOMEM.into()), Some(Lack::Memory));
    }
}
