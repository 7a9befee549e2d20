//! Whether files have changed since they were read: what was shared is given up when its files change.
//!
//! Every file has a *stamp*. Looking at thousands of them before each fork would cost more than the fork. So the kernel sends an event
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

/// How a file is, as far as a look at it without reading shows.
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
#[derive(Debug, Clone)]
enum Names {
    All,
    Some(BTreeSet<OsString>),
}

impl Names {
    fn add(&mut self, others: &Self) {
        match (&mut *self, others) {
            (Self::Some(names), Self::Some(others)) => names.extend(others.iter().cloned()),
            (Self::All, _) => {}
            (Self::Some(_), Self::All) => *self = Self::All,
        }
    }
}

/// The files behind everything that is shared, or known of what may be.
#[derive(Debug)]
pub(super) struct Files {
    stamps: HashMap<PathBuf, Option<Stamp>>,
    inotify: Option<OwnedFd>,
    /// What matters in which folder.
    folders: BTreeMap<PathBuf, Names>,
    /// The same by the kernel's number of a folder, which belongs to what is at the path now.
    watches: HashMap<i32, Names>,
}

/// What came of watching.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Watched {
    /// They are as they were read.
    Unchanged,
    /// One of them has changed since.
    Changed,
    /// There are more than can be watched.
    TooMany,
}

impl Files {
    /// Watches nothing yet.
    pub(super) fn new() -> Self {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK);
        if let Err(error) = &inotify {
            warn!(%error, "files cannot be watched; they are looked at before every fork");
        }
        Self { stamps: HashMap::new(), inotify: inotify.ok(), folders: BTreeMap::new(), watches: HashMap::new() }
    }

    /// Watches files that were read, or looked for in vain, since `began`.
    pub(super) fn watch<'a>(&mut self, paths: impl IntoIterator<Item = &'a PathBuf>, began: SystemTime) -> Watched {
        let mut watched = Watched::Unchanged;
        for path in paths {
            if self.stamps.len() >= MAX_FILES && !self.stamps.contains_key(path) {
                warn!(limit = MAX_FILES, "too many files are behind what agents share; no more is shared");
                return Watched::TooMany;
            }
            // Watched first: what changes between the two is seen by one or the other.
            if let Some(folder) = path.parent() {
                self.watch_folder(folder);
            }
            let stamp = Stamp::of(path);
            if stamp.is_some_and(|stamp| stamp.is_later_than(began)) {
                watched = Watched::Changed;
            }
            self.stamps.entry(path.clone()).or_insert(stamp);
        }
        watched
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
        // A folder may have been put in the place of another one: the kernel would go on to watch that.
        self.watch_anew();
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
        if matches!(self.folders.get(folder), Some(Names::All)) {
            return;
        }
        self.folders.insert(folder.to_owned(), Names::All);
        self.ask_kernel(folder);
        let mut below = folder;
        while let (Some(above), Some(name)) = (below.parent(), below.file_name()) {
            let names = self.folders.entry(above.to_owned()).or_insert_with(|| Names::Some(BTreeSet::new()));
            if let Names::Some(names) = names {
                names.insert(name.to_owned());
            }
            self.ask_kernel(above);
            below = above;
        }
    }

    fn watch_anew(&mut self) {
        self.watches.clear();
        let folders: Vec<_> = self.folders.keys().cloned().collect();
        folders.iter().for_each(|folder| self.ask_kernel(folder));
    }

    /// Has the kernel send events of a folder, which it knows by what it is, not by its name: asked twice, it goes on as before.
    fn ask_kernel(&mut self, folder: &Path) {
        let (Some(inotify), Some(names)) = (&self.inotify, self.folders.get(folder)) else { return };
        match inotify::add_watch(inotify, folder, watched_events()) {
            Ok(watch) => self.watches.entry(watch).or_insert_with(|| Names::Some(BTreeSet::new())).add(names),
            // Nothing is loaded from a folder that is not there. When it comes, the kernel sends an event of one above it.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => {}
            Err(error) => {
                warn!(%error, folder = %folder.display(), "files cannot be watched; they are looked at before every fork");
                self.inotify = None;
            }
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
                || match (self.watches.get(&event.wd()), name) {
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
        assert_eq!(files.watch([&path.to_owned()], SystemTime::now()), Watched::Unchanged);
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
        assert!(files.changed().is_empty(), "returned once");
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
        fs::write(current.join("package/m.py"), "edited").expect("written");
        assert_eq!(files.changed().len(), 1, "what lies there now is watched as well");
    }

    #[test]
    fn a_folder_that_was_removed_and_made_anew_is_watched_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let package = dir.path().join("package");
        let make = |text: &str| {
            fs::create_dir(&package).expect("made");
            fs::write(package.join("m.py"), text).expect("written");
        };
        make("1");
        let mut files = files_of(&package.join("m.py"));
        fs::remove_dir_all(&package).expect("removed");
        make("22");
        assert_eq!(files.changed().len(), 1);
        fs::write(package.join("m.py"), "333").expect("written");
        assert_eq!(files.changed().len(), 1, "in place, a second time");
    }

    #[test]
    fn a_file_that_was_looked_for_in_vain_has_changed_when_it_is_there() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("VERSION");
        let mut files = files_of(&path);
        fs::write(&path, "1").expect("written");
        assert_eq!(files.changed().len(), 1);
    }

    #[test]
    fn what_changed_while_it_was_read_is_seen_at_once() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("m.py");
        let began = SystemTime::UNIX_EPOCH;
        fs::write(&path, "1").expect("written");
        assert_eq!(Files::new().watch([&path], began), Watched::Changed);
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
