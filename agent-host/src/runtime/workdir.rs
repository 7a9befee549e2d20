//! Directories of agents: every process begins in an empty one of its own and has another, as empty, for what is temporary
//! (TMPDIR). Both go when the process, and whatever it started, has ended.
//!
//! ```text
//!  <--work-dir>/agent-host.<name>.<life>/<run>.<secret>/work   where the process begins
//!                                                      /tmp    its TMPDIR
//! ```
//!
//! Who knows the path of a file of another agent can change its mode and its times, or connect to it if it is a socket: Landlock does not
//! look at these. So the path has a part that nobody can guess, and no agent can list what stands beside its own.

use super::remove;
use std::{
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::task::spawn_blocking;
use tracing::warn;

/// Where the directories are.
#[derive(Debug)]
pub struct Workdirs {
    root: Arc<Root>,
}

/// The directory of all; it goes with the last one in it.
#[derive(Debug)]
struct Root(PathBuf);

/// The directories of one process. Dropping it removes them with all that is in them.
#[derive(Debug)]
pub struct Workdir {
    whole: Arc<Path>,
    work: PathBuf,
    temporary: PathBuf,
    root: Arc<Root>,
}

/// Directories that an agent has filled. Dropping it removes them, whether its turn to do so comes or the host ends before.
struct Filled {
    whole: Arc<Path>,
    _root: Arc<Root>,
}

impl Workdirs {
    /// Makes `root`, which belongs to this life of the host alone.
    pub fn new(root: PathBuf) -> io::Result<Self> {
        private_dir(&root, true).map_err(|e| {
            io::Error::new(e.kind(), format!("cannot make the working directory {}: {e}", root.display()))
        })?;
        Ok(Self { root: Arc::new(Root(root)) })
    }

    /// Makes the directories of a run. Errors: which it could not make, and what the system said.
    pub fn make(&self, run: u64) -> Result<Workdir, (PathBuf, io::Error)> {
        let whole = self.root.0.join(format!("{run}.{}", secret()));
        let made = |path: &Path| private_dir(path, false).map_err(|error| (path.to_owned(), error));
        made(&whole)?;
        let (work, temporary, root) = (whole.join("work"), whole.join("tmp"), self.root.clone());
        let workdir = Workdir { work, temporary, root, whole: Arc::from(whole) };
        made(&workdir.work)?;
        made(&workdir.temporary)?;
        Ok(workdir)
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        // Fails when a directory could not be removed, which was logged then.
        let _ = fs::remove_dir(&self.0);
    }
}

/// Twelve digits that nobody can guess: 48 bits.
fn secret() -> String {
    let (_, secret) = uuid::Uuid::new_v4().as_u64_pair();
    format!("{:012x}", secret & ((1 << 48) - 1))
}

fn private_dir(path: &Path, with_parents: bool) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).recursive(with_parents).create(path)
}

impl Workdir {
    /// Where the process begins.
    pub fn path(&self) -> &Path {
        &self.work
    }

    /// Its TMPDIR.
    pub fn temporary(&self) -> &Path {
        &self.temporary
    }

    /// What holds both.
    pub fn whole(&self) -> Arc<Path> {
        self.whole.clone()
    }
}

impl Drop for Workdir {
    fn drop(&mut self) {
        // Usually empty, and then gone at once; what an agent filled is removed where it holds up nobody.
        let parts = [&*self.work, &*self.temporary, &*self.whole];
        if parts.into_iter().all(|part| fs::remove_dir(part).is_ok()) {
            return;
        }
        let filled = Filled { whole: self.whole.clone(), _root: self.root.clone() };
        if tokio::runtime::Handle::try_current().is_ok() {
            // Nobody waits for it.
            drop(spawn_blocking(move || drop(filled)));
        }
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.whole) {
            warn!(path = %self.whole.display(), %error, "a working directory could not be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_private_and_go_with_what_is_in_them() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("a folder");
        let root = dir.path().join("deep/root");
        let workdirs = Workdirs::new(root.clone()).expect("a root");
        let run = workdirs.make(7).expect("directories");
        for path in [run.path(), run.temporary(), &run.whole()] {
            assert_eq!(fs::metadata(path).expect("it is there").permissions().mode() & 0o777, 0o700);
        }
        fs::write(run.path().join("file"), "text").expect("it can be written");
        fs::write(run.temporary().join("file"), "text").expect("it can be written");
        let other = workdirs.make(7).expect("directories");
        assert_ne!(other.whole(), run.whole(), "the number does not say where they are");
        drop(other);
        drop(run);
        drop(workdirs);
        assert!(!root.exists());
    }
}
