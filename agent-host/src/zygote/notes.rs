//! What a profile's zygote learned, kept on disk for the next life of this host: after a restart in place its agents
//! come back all at once, and none of them should have to import again what the one before it just imported.
//!
//! One name of a module on a line. The file is *taken* when it is read and written again when a generation with these
//! modules has taken over, so that a module that brings the whole host down is not tried a second time.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};
use tracing::warn;

/// Longest file that is read, in bytes.
const MAX_SIZE: u64 = 64 << 10;

/// The file. Losing it costs time, never an agent: what goes wrong with it is told and survived.
#[derive(Debug)]
pub struct Notes(PathBuf);

impl Notes {
    /// Notes kept in the file `path`.
    pub fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// The modules of the last generation of the former life; none when there was none. Removes the file.
    pub(super) fn take(&self) -> Vec<String> {
        let text = match read(&self.0) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return vec![],
            Err(error) => {
                self.tell(&error, "what the zygote learned before cannot be read; it learns anew");
                String::new()
            }
        };
        if let Err(error) = fs::remove_file(&self.0) {
            // A file that stays would be read in every life, whatever it did to the last one.
            self.tell(&error, "the notes of what the zygote learned cannot be removed; they are not used");
            return vec![];
        }
        text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    /// Keeps `modules` for the next life, in place of what was kept before.
    pub(super) fn keep(&self, modules: &[String]) {
        if let Err(error) = write(&self.0, modules) {
            self.tell(&error, "what the zygote learned cannot be kept for the next start of this host");
        }
    }

    fn tell(&self, error: &io::Error, what: &str) {
        warn!(file = %self.0.display(), %error, "{what}");
    }
}

/// Only a plain file of this user counts: the folder may be one that others can write to.
fn read(path: &Path) -> io::Result<String> {
    let no_links = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).expect("a flag of open(2) fits an int");
    let file = fs::File::options().read(true).custom_flags(no_links).open(path)?;
    let about = file.metadata()?;
    if !about.is_file() || about.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is not a file of this user"));
    }
    let mut text = String::new();
    file.take(MAX_SIZE).read_to_string(&mut text)?;
    Ok(text)
}

/// In one step: a host that dies meanwhile leaves the old file or the new one.
fn write(path: &Path, modules: &[String]) -> io::Result<()> {
    let new = path.with_extension("new");
    // Left by a life that died here.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(modules.join("\n").as_bytes())?;
    drop(file);
    fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_one_life_kept_the_next_one_takes_once() {
        let dir = tempfile::tempdir().expect("a folder");
        let notes = Notes::at(dir.path().join("host.default.learned"));
        assert!(notes.take().is_empty(), "the first life");
        notes.keep(&names(&["a"]));
        notes.keep(&names(&["a", "b.c"]));
        assert_eq!(notes.take(), names(&["a", "b.c"]));
        assert!(notes.take().is_empty(), "whoever dies of them does not meet them again");
        assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 0);
    }

    #[test]
    fn a_file_that_is_no_plain_one_is_not_followed() {
        let dir = tempfile::tempdir().expect("a folder");
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        fs::write(&target, "os").expect("it can be written");
        std::os::unix::fs::symlink(&target, &link).expect("a link");
        assert!(Notes::at(link).take().is_empty());
        assert!(target.exists());
    }

    #[test]
    fn a_folder_that_cannot_be_written_to_costs_nothing_but_the_notes() {
        let notes = Notes::at("/proc/no/such/folder".into());
        notes.keep(&names(&["a"]));
        assert!(notes.take().is_empty());
    }
}
