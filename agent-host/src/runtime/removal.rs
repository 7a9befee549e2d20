//! Removes a directory that somebody filled who may have meant no good: with folders that cannot be read, folders as deep as
//! they please, links to what is not theirs, other file systems mounted in it.
//!
//! Folders within folders are moved up to the top before they are emptied. So no path is followed, nothing recurs, and no
//! more than three descriptors are open, however deep it goes. A folder is entered through a descriptor that was opened
//! without following links, and made writable through the same.

use rustix::{
    fd::{AsRawFd as _, BorrowedFd, OwnedFd},
    fs::{AtFlags, CWD, Dir, Mode, OFlags, chmod, fstat, openat, renameat, unlinkat},
    io::{self, Errno},
};
use std::{
    ffi::{CStr, CString},
    path::Path,
};

/// Removes `path` with all that is in it; nothing to do if it is gone. Errors: the first thing that could not be removed; the
/// rest is removed all the same.
pub fn remove(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Ok(()) => return Ok(()),
        Err(_) => {}
    }
    let name = CString::new(path.as_os_str().as_encoded_bytes())?;
    let top = enter(CWD, &name)?;
    let mut emptying = Emptying { device: fstat(&top)?.st_dev, top, moved: 0, done: 0, failed: None };
    loop {
        let done = emptying.done;
        emptying.go_through()?;
        if emptying.done == done {
            break;
        }
        emptying.failed = None;
    }
    match emptying.failed {
        Some(error) => Err(error.into()),
        None => std::fs::remove_dir(path),
    }
}

struct Emptying {
    top: OwnedFd,
    device: u64,
    /// Folders that were moved up.
    moved: u64,
    /// Whatever made the rest less. A round that adds nothing is the last.
    done: u64,
    /// What could not be done in this round.
    failed: Option<Errno>,
}

/// What became of an entry.
enum Entry {
    Gone,
    /// A folder that is not empty.
    Full,
}

impl Emptying {
    /// One round through the top: files go, folders give up their folders to the top, and go.
    fn go_through(&mut self) -> io::Result<()> {
        let entries = Dir::read_from(&self.top)?;
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            if is_itself(name) {
                continue;
            }
            let emptied = match self.unlink(None, name) {
                Ok(Entry::Full) => self.empty(name).and_then(|()| self.unlink(None, name)),
                other => other,
            };
            if let Err(error) = emptied {
                self.failed.get_or_insert(error);
            }
        }
        Ok(())
    }

    /// Empties a folder of the top.
    fn empty(&mut self, name: &CStr) -> io::Result<()> {
        let folder = enter(&self.top, name)?;
        if fstat(&folder)?.st_dev != self.device {
            // What is mounted here is not theirs.
            return Err(Errno::XDEV);
        }
        for entry in Dir::read_from(&folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if is_itself(name) {
                continue;
            }
            let emptied = match self.unlink(Some(&folder), name) {
                Ok(Entry::Full) => self.move_up(&folder, name),
                Ok(Entry::Gone) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = emptied {
                self.failed.get_or_insert(error);
            }
        }
        Ok(())
    }

    /// Removes a file, a link or an empty folder from `folder`, or from the top.
    fn unlink(&mut self, folder: Option<&OwnedFd>, name: &CStr) -> io::Result<Entry> {
        let folder = folder.unwrap_or(&self.top);
        let unlinked = match unlinkat(folder, name, AtFlags::empty()) {
            // Linux says ISDIR, POSIX and some file systems PERM.
            Err(Errno::ISDIR | Errno::PERM) => unlinkat(folder, name, AtFlags::REMOVEDIR),
            other => other,
        };
        match unlinked {
            Ok(()) => self.done += 1,
            Err(Errno::NOENT) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) => return Ok(Entry::Full),
            Err(error) => return Err(error),
        }
        Ok(Entry::Gone)
    }

    fn move_up(&mut self, folder: &OwnedFd, name: &CStr) -> io::Result<()> {
        // Who moves a folder writes to it: where it is.
        drop(enter(folder, name)?);
        loop {
            self.moved += 1;
            let free = CString::new(format!(".moved-{}", self.moved)).map_err(|_| Errno::INVAL)?;
            match renameat(folder, name, &self.top, &free) {
                Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {}
                Ok(()) => {
                    self.done += 1;
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }
}

fn is_itself(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

/// Opens a folder, made readable and writable, and never what a link leads to.
fn enter(parent: impl rustix::fd::AsFd, name: &CStr) -> io::Result<OwnedFd> {
    let parent: BorrowedFd<'_> = parent.as_fd();
    let handle =
        openat(parent, name, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    // Such a handle cannot be changed itself, but by its name in /proc. Fails when it belongs to somebody else: then opening it
    // may as well.
    let _ = chmod(format!("/proc/self/fd/{}", handle.as_raw_fd()), Mode::RWXU);
    openat(&handle, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs,
        os::unix::fs::{PermissionsExt as _, symlink},
    };

    #[test]
    fn folders_that_are_read_only_go_and_what_links_lead_to_stays() {
        let dir = tempfile::tempdir().expect("a folder");
        let (mine, other) = (dir.path().join("mine"), dir.path().join("other"));
        fs::create_dir_all(mine.join("a/b/c")).expect("folders");
        fs::create_dir(&other).expect("a folder");
        fs::write(other.join("precious"), "text").expect("a file");
        fs::write(mine.join("a/b/c/file"), "text").expect("a file");
        fs::write(mine.join(".moved-1"), "a name that the removal would take").expect("a file");
        symlink(&other, mine.join("a/link")).expect("a link");
        symlink(&other, mine.join("link")).expect("a link");
        for folder in ["a/b/c", "a/b", "a", ""] {
            fs::set_permissions(mine.join(folder), fs::Permissions::from_mode(0o000)).expect("it is ours");
        }
        remove(&mine).expect("it can be removed");
        assert!(!mine.exists());
        assert_eq!(fs::read_to_string(other.join("precious")).expect("it is there"), "text");
        remove(&mine).expect("what is gone is removed");
    }

    #[test]
    fn a_link_in_the_place_of_a_directory_is_not_followed() {
        let dir = tempfile::tempdir().expect("a folder");
        let (link, other) = (dir.path().join("link"), dir.path().join("other"));
        fs::create_dir(&other).expect("a folder");
        fs::write(other.join("precious"), "text").expect("a file");
        symlink(&other, &link).expect("a link");
        remove(&link).expect_err("it is a link");
        assert!(other.join("precious").exists());
    }

    #[test]
    fn folders_may_be_deeper_than_a_path_can_be() {
        let dir = tempfile::tempdir().expect("a folder");
        let mine = dir.path().join("mine");
        fs::create_dir(&mine).expect("a folder");
        let mut folder =
            enter(CWD, &CString::new(mine.as_os_str().as_encoded_bytes()).expect("no NUL")).expect("ours");
        for _ in 0..1500 {
            rustix::fs::mkdirat(&folder, c"deep", Mode::RWXU).expect("a folder");
            folder = enter(&folder, c"deep").expect("ours");
        }
        remove(&mine).expect("it can be removed");
        assert!(!mine.exists());
    }
}
