//! Who had this host's name before, and that it has certainly ended.
//!
//! A lock file belongs to a host's name on this machine, or in this pod's file system. It holds the incarnation of whoever
//! locked it last, and an epoch that no agent has had yet (`lease::epochs`), and is locked as long as that process *or its watchdog* lives; the watchdog ends after the last agent.
//! So whoever gets the lock knows that the life named in the file is over, with every process it had: its agents can be
//! started again at once. A host that finds no file, such as a pod on another node, knows nothing of that kind.

use crate::lease::KeepEpoch;
use anyhow::{Context as _, bail};
use rustic_registry::{Epoch, Incarnation};
use rustix::{
    fs::{FlockOperation, OFlags, flock},
    io::Errno,
};
use std::{
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    },
    path::Path,
    time::Duration,
};
use tokio::time::{Instant, sleep};
use tracing::warn;

/// Longest wait for a former life to end: its watchdog kills its agents at once, but they must be reaped.
const WAIT: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Longest file that is read, in bytes: an incarnation is much shorter.
const LONGEST: u64 = 4096;

/// The lock, held until it is dropped and every copy of its descriptor is closed.
#[derive(Debug)]
pub struct HostLock {
    lock: File,
    /// The life that has certainly ended, if there was one.
    pub former: Option<Incarnation>,
    /// An epoch as high as any that its agents had, or higher; zero if there was none.
    pub highest_epoch: Epoch,
    /// Where in the file the epoch stands.
    epoch_at: u64,
}

impl HostLock {
    /// Takes the lock for a new life. Errors: another process has this name, or the file cannot be used.
    pub async fn take(path: &Path, incarnation: &Incarnation) -> anyhow::Result<Self> {
        let context = || format!("cannot use the lock file {}", path.display());
        let mut lock = open(path).with_context(context)?;
        let give_up = Instant::now() + WAIT;
        loop {
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) if Instant::now() < give_up => sleep(LOOK_EVERY).await,
                Err(Errno::WOULDBLOCK) => bail!(
                    "another agent-host of this name runs here and holds {}; give every host a name of its own",
                    path.display()
                ),
                Err(error) => return Err(error).with_context(context),
            }
        }
        let mut text = String::new();
        (&lock).take(LONGEST).read_to_string(&mut text).with_context(context)?;
        let mut lines = text.lines();
        let former = lines.next().and_then(|line| line.trim().parse().ok());
        let highest_epoch = Epoch(lines.next().and_then(|line| line.trim().parse().ok()).unwrap_or(0));
        let name = format!("{}\n", incarnation.as_str());
        let mut new = name.clone().into_bytes();
        new.extend(as_text(highest_epoch));
        lock.set_len(0).with_context(context)?;
        lock.rewind().with_context(context)?;
        lock.write_all(&new).with_context(context)?;
        Ok(Self { lock, former, highest_epoch, epoch_at: name.len() as u64 })
    }

    /// Writes an epoch into the file for the next life.
    pub fn keeps_epochs(&self) -> io::Result<KeepEpoch> {
        let (file, at) = (self.lock.try_clone()?, self.epoch_at);
        Ok(Box::new(move |epoch| {
            if let Err(error) = file.write_all_at(&as_text(epoch), at) {
                warn!(%error, %epoch, "the next life of this host will not know which epochs its agents had");
            }
        }))
    }
}

/// As many bytes for every epoch: one takes the place of another, in a block that the file has.
fn as_text(epoch: Epoch) -> Vec<u8> {
    format!("{:020}\n", epoch.0).into_bytes()
}

/// Only a plain file of this user counts: the folder may be one that others can write to, and what a link leads to would be
/// overwritten.
fn open(path: &Path) -> io::Result<File> {
    let no_links = i32::try_from(OFlags::NOFOLLOW.bits()).expect("a flag of open(2) fits an int");
    let mut options = File::options();
    let file =
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(no_links).open(path)?;
    let about = file.metadata()?;
    if !about.is_file() || about.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is not a file of this user; remove it"));
    }
    Ok(file)
}

/// The lock itself, to be handed to the watchdog.
impl From<HostLock> for OwnedFd {
    fn from(host_lock: HostLock) -> Self {
        host_lock.lock.into()
    }
}

impl AsFd for HostLock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(text: &str) -> Incarnation {
        text.parse().expect("an incarnation")
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_life_learns_of_the_one_before_when_that_has_let_go() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("lock");
        let first = HostLock::take(&path, &life("one")).await.expect("a lock");
        assert_eq!(first.former, None);
        // A copy, as a watchdog has one.
        let copy = first.as_fd().try_clone_to_owned().expect("a copy");
        drop(first);
        let refused = HostLock::take(&path, &life("two")).await.expect_err("the copy holds it");
        assert!(refused.to_string().contains("name of its own"), "{refused}");
        drop(copy);
        let next = HostLock::take(&path, &life("two")).await.expect("a lock");
        assert_eq!(next.former, Some(life("one")));
    }

    #[tokio::test]
    async fn the_next_life_and_the_one_after_it_know_the_epoch_that_was_kept_last() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("lock");
        let first = HostLock::take(&path, &life("a-longer-name")).await.expect("a lock");
        assert_eq!(first.highest_epoch, Epoch(0));
        let keep = first.keeps_epochs().expect("a descriptor");
        keep(Epoch::MAX);
        keep(Epoch(7));
        drop((first, keep));
        for (name, before) in [("b", "a-longer-name"), ("c", "b")] {
            let next = HostLock::take(&path, &life(name)).await.expect("a lock");
            assert_eq!((next.former, next.highest_epoch), (Some(life(before)), Epoch(7)));
        }
    }

    #[tokio::test]
    async fn a_file_of_a_host_that_kept_no_epoch_names_its_life() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("lock");
        std::fs::write(&path, "one").expect("a file");
        let next = HostLock::take(&path, &life("two")).await.expect("a lock");
        assert_eq!((next.former, next.highest_epoch), (Some(life("one")), Epoch(0)));
    }

    #[tokio::test]
    async fn a_link_in_place_of_the_lock_file_is_refused_and_what_it_leads_to_is_left_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        let (precious, path) = (dir.path().join("precious"), dir.path().join("lock"));
        std::fs::write(&precious, "somebody's text").expect("a file");
        std::os::unix::fs::symlink(&precious, &path).expect("a link");
        let refused = HostLock::take(&path, &life("one")).await.expect_err("it is a link");
        assert!(refused.to_string().contains(&*path.to_string_lossy()), "{refused:#}");
        assert_eq!(std::fs::read_to_string(&precious).expect("it is there"), "somebody's text");
        // Neither is a link to nowhere a way to have a file made elsewhere.
        std::fs::remove_file(&precious).expect("it was there");
        HostLock::take(&path, &life("one")).await.expect_err("it is a link");
        assert!(!precious.exists());
    }
}
