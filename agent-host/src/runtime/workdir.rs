//! Working directories: every process of an agent begins in an empty one of its own, which goes when the process has
//! ended.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};
use tokio::task::spawn_blocking;
use tracing::warn;

/// Where the directories are.
#[derive(Debug)]
pub struct Workdirs {
    root: PathBuf,
}

/// The directory of one process. Dropping it removes it with all that is in it.
#[derive(Debug)]
pub struct Workdir(PathBuf);

impl Workdirs {
    /// Makes `root`, which belongs to this life of the host alone.
    pub fn new(root: PathBuf) -> io::Result<Self> {
        private_dir(&root, true).map_err(|e| {
            io::Error::new(e.kind(), format!("cannot make the working directory {}: {e}", root.display()))
        })?;
        Ok(Self { root })
    }

    /// Makes the directory of a run. Errors: which it would have been, and what the system said.
    pub fn make(&self, run: u64) -> Result<Workdir, (PathBuf, io::Error)> {
        let path = self.root.join(run.to_string());
        match private_dir(&path, false) {
            Ok(()) => Ok(Workdir(path)),
            Err(error) => Err((path, error)),
        }
    }
}

impl Drop for Workdirs {
    fn drop(&mut self) {
        // Fails when a directory could not be removed, which was told then.
        let _ = fs::remove_dir(&self.root);
    }
}

fn private_dir(path: &Path, with_parents: bool) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).recursive(with_parents).create(path)
}

impl Workdir {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Workdir {
    fn drop(&mut self) {
        // Usually empty, and then gone at once; what an agent filled is removed where it holds up nobody.
        if fs::remove_dir(&self.0).is_err() {
            let path = std::mem::take(&mut self.0);
            let remove = move || match fs::remove_dir_all(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    warn!(path = %path.display(), %error, "a working directory could not be removed");
                }
                _ => {}
            };
            if tokio::runtime::Handle::try_current().is_ok() {
                // Nobody waits for it: the host ends without it in the worst case, and tells.
                drop(spawn_blocking(remove));
            } else {
                remove();
            }
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
        let run = workdirs.make(7).expect("a directory");
        assert_eq!(fs::metadata(run.path()).expect("it is there").permissions().mode() & 0o777, 0o700);
        fs::write(run.path().join("file"), "text").expect("it can be written");
        assert!(workdirs.make(7).is_err(), "a run has one directory");
        drop(run);
        drop(workdirs);
        assert!(!root.exists());
    }
}
