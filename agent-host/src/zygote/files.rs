//! Whether files have changed since they were read: what was shared is given up when its files change.
//!
//! Every file has a *stamp*. Looking at thousands of them before each fork would cost more than the fork, so the kernel is asked to tell
//! when something stirs in their folders (inotify(7)); only then the stamps are compared. A folder may also be reached by a link that is
//! turned to another one, as in a ConfigMap or a release folder: therefore the folders above are watched for
//! that one name. Where the kernel cannot watch, stamps are compared before every fork.

use rustix::{
    fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags},
    io::Errno,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ffi::{OsStr, OsString},
    fs,
    mem::MaybeUninit,
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    },
    path::{Path, PathBuf},
    time::SystemTime,
};
use tracing::warn;

/// Files that are watched at most.
const MAX_FILES: usize = 1 << 16;

/// How a file is, as far as a look at it without reading tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    /// Changes with everything, and cannot be set back.
    changed: (i64, i64),
}

impl Stamp {
    /// The stamp of a file; none if it is not there.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let about = fs::metadata(path).ok()?;
        Some(Self {
            device: about.dev(),
            inode: about.ino(),
            size: about.size(),
            modified: (about.mtime(), about.mtime_nsec()),
            changed: (about.ctime(), about.ctime_nsec()),
        })
    }

    /// Whether the file has changed after `moment`.
    fn is_later_than(&self, moment: SystemTime) -> bool {
        let since = moment.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let moment = (i64::try_from(since.as_secs()).unwrap_or(i64::MAX), i64::from(since.subsec_nanos()));
        self.changed > moment
    }
}

/// Which names in a folder matter.
#[derive(Debug)]
enum Names {
    All,
    Some(BTreeSet<OsString>),
}

/// The files behind everything that is shared, or known of what may be.
#[derive(Debug)]
pub(super) struct Files {
    stamps: HashMap<PathBuf, Option<Stamp>>,
    inotify: Option<OwnedFd>,
    watched: BTreeMap<PathBuf, i32>,
    names: HashMap<i32, Names>,
}

impl Files {
    /// Watches nothing yet.
    pub(super) fn new() -> Self {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK);
        if let Err(error) = &inotify {
            warn!(%error, "files cannot be watched; they are looked at before every fork");
        }
        Self { stamps: HashMap::new(), inotify: inotify.ok(), watched: BTreeMap::new(), names: HashMap::new() }
    }

    /// Watches files that were read since `began`. `false`: one has changed meanwhile, or there are too many.
    pub(super) fn watch<'a>(&mut self, paths: impl IntoIterator<Item = &'a PathBuf>, began: SystemTime) -> bool {
        let mut unchanged = true;
        for path in paths {
            if self.stamps.len() >= MAX_FILES && !self.stamps.contains_key(path) {
                warn!(limit = MAX_FILES, "too many files are behind what agents share; no more is shared");
                return false;
            }
            // Watched first: what changes between the two is seen by one or the other.
            if let Some(folder) = path.parent() {
                self.watch_folder(folder);
            }
            let stamp = Stamp::of(path);
            unchanged &= stamp.is_some_and(|stamp| !stamp.is_later_than(began));
            self.stamps.entry(path.clone()).or_insert(stamp);
        }
        unchanged
    }

    /// The stamp that a watched file had when it was read.
    pub(super) fn stamp(&self, path: &Path) -> Option<Stamp> {
        self.stamps.get(path).copied().flatten()
    }

    /// Files that have changed since the last call. Cheap when nothing stirs.
    pub(super) fn changed(&mut self) -> BTreeSet<PathBuf> {
        if !self.stirs() {
            return BTreeSet::new();
        }
        let mut changed = BTreeSet::new();
        for (path, stamp) in &mut self.stamps {
            let now = Stamp::of(path);
            if now != *stamp {
                *stamp = now;
                changed.insert(path.clone());
            }
        }
        changed
    }

    fn watch_folder(&mut self, folder: &Path) {
        if self.watched.contains_key(folder) {
            self.add(folder, None);
            return;
        }
        self.add(folder, None);
        let mut below = folder;
        while let (Some(above), Some(name)) = (below.parent(), below.file_name()) {
            self.add(above, Some(name));
            below = above;
        }
    }

    /// Watches one name in a folder, or all of them.
    fn add(&mut self, folder: &Path, name: Option<&OsStr>) {
        let Some(inotify) = &self.inotify else { return };
        let watch = match self.watched.get(folder) {
            Some(watch) => *watch,
            None => match inotify::add_watch(inotify, folder, watched_events()) {
                Ok(watch) => *self.watched.entry(folder.to_owned()).or_insert(watch),
                // Nothing is loaded from a folder that is not there, and one above it will tell when it comes.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => return,
                Err(error) => {
                    warn!(%error, folder = %folder.display(), "files cannot be watched; they are looked at before every fork");
                    self.inotify = None;
                    return;
                }
            },
        };
        match (self.names.entry(watch).or_insert_with(|| Names::Some(BTreeSet::new())), name) {
            (all, None) => *all = Names::All,
            (Names::Some(names), Some(name)) => _ = names.insert(name.to_owned()),
            (Names::All, Some(_)) => {}
        }
    }

    /// Whether anything has happened where the files are, or nobody can know.
    fn stirs(&self) -> bool {
        let Some(inotify) = &self.inotify else { return true };
        let mut space = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(inotify, &mut space);
        let mut stirs = false;
        // To the end, so that the next look begins with what comes later.
        while let Ok(event) = reader.next() {
            let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
            stirs |= event.events().contains(ReadFlags::QUEUE_OVERFLOW)
                || match (self.names.get(&event.wd()), name) {
                    (Some(Names::Some(names)), Some(name)) => names.contains(name),
                    (Some(_), _) => true,
                    (None, _) => false,
                };
        }
        stirs
    }
}

fn watched_events() -> WatchFlags {
    let inside = WatchFlags::MODIFY | WatchFlags::ATTRIB | WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::MOVE;
    inside | WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF | WatchFlags::ONLYDIR
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn files_of(path: &Path) -> Files {
        let mut files = Files::new();
        assert!(files.watch([&path.to_owned()], SystemTime::now()), "it is as it was");
        assert!(files.changed().is_empty());
        files
    }

    #[test]
    fn a_file_that_is_written_replaced_or_removed_has_changed() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("m.py");
        fs::write(&path, "1").expect("written");
        let mut files = files_of(&path);
        fs::write(dir.path().join("other.py"), "1").expect("written");
        assert!(files.changed().is_empty(), "another file is another file");
        fs::write(&path, "22").expect("written");
        assert_eq!(files.changed(), BTreeSet::from([path.clone()]));
        fs::write(dir.path().join("new"), "33").expect("written");
        fs::rename(dir.path().join("new"), &path).expect("renamed");
        assert_eq!(files.changed().len(), 1);
        assert!(files.changed().is_empty(), "told once");
        fs::remove_file(&path).expect("removed");
        assert_eq!(files.changed().len(), 1);
    }

    #[test]
    fn a_link_that_is_turned_to_another_folder_changes_what_is_reached_through_it() {
        let dir = tempfile::tempdir().expect("a folder");
        for release in ["one", "two"] {
            fs::create_dir_all(dir.path().join(release).join("package")).expect("made");
            fs::write(dir.path().join(release).join("package/m.py"), release).expect("written");
        }
        let current = dir.path().join("current");
        symlink("one", &current).expect("a link");
        let mut files = files_of(&current.join("package/m.py"));
        symlink("two", dir.path().join("next")).expect("a link");
        fs::rename(dir.path().join("next"), &current).expect("renamed");
        assert_eq!(files.changed().len(), 1);
    }

    #[test]
    fn what_changed_while_it_was_read_is_told_at_once() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("m.py");
        let began = SystemTime::UNIX_EPOCH;
        fs::write(&path, "1").expect("written");
        assert!(!Files::new().watch([&path], began));
        assert!(!Files::new().watch([&dir.path().join("missing.py")], SystemTime::now()));
    }

    #[test]
    fn without_the_kernels_help_stamps_are_compared_each_time() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("m.py");
        fs::write(&path, "1").expect("written");
        let mut files = files_of(&path);
        files.inotify = None;
        fs::write(&path, "22").expect("written");
        assert_eq!(files.changed().len(), 1);
        assert!(files.changed().is_empty());
    }
}
