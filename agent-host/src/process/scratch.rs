//! What a directory takes on disk. Whoever fills it neither makes the look at it long nor leads it elsewhere.

use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{AtFlags, CWD, Dir, Mode, OFlags, Stat, fstat, openat, statat},
    io,
};
use std::{ffi::CStr, path::Path};

/// Most files that are counted; a look at so many takes some ten milliseconds.
const MOST: usize = 10_000;
/// Directories below each other that are entered; each costs a descriptor while it is read.
const DEEPEST: usize = 32;
/// Unit of `st_blocks`, whatever the file system.
const BLOCK: u64 = 512;

/// Bytes that are allocated for what is in a directory, at least: of more than [`MOST`] files, or of what lies too deep, a part
/// is counted. Links are not followed, other file systems not entered. A file with two names in it counts twice.
pub(super) fn bytes(directory: &Path) -> u64 {
    let mut count = Count { bytes: 0, left: MOST };
    if let Ok(top) = open(CWD, directory)
        && let Ok(stat) = fstat(&top)
    {
        count.add_all(top, stat.st_dev, DEEPEST);
    }
    count.bytes
}

struct Count {
    bytes: u64,
    left: usize,
}

impl Count {
    fn add_all(&mut self, directory: OwnedFd, device: u64, depth: usize) {
        let Ok(entries) = Dir::read_from(&directory) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            if self.left == 0 {
                return;
            }
            self.left -= 1;
            // What is gone meanwhile takes nothing.
            let Ok(stat) = statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            self.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * BLOCK;
            if is_directory(&stat) && stat.st_dev == device && depth > 0 {
                self.enter(&directory, name, device, depth - 1);
            }
        }
    }

    fn enter(&mut self, parent: impl AsFd, name: &CStr, device: u64, depth: usize) {
        // Another may have been put in its place meanwhile.
        let Ok(directory) = open(parent, name) else { return };
        if fstat(&directory).is_ok_and(|stat| stat.st_dev == device) {
            self.add_all(directory, device, depth);
        }
    }
}

fn open(parent: impl AsFd, name: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    openat(parent, name, flags, Mode::empty())
}

fn is_directory(stat: &Stat) -> bool {
    rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn files_count_by_what_they_take_and_links_lead_nowhere() {
        let dir = tempfile::tempdir().expect("a folder");
        let (mine, other) = (dir.path().join("mine"), dir.path().join("other"));
        fs::create_dir_all(mine.join("deep/er")).expect("folders");
        fs::create_dir(&other).expect("a folder");
        fs::write(other.join("big"), vec![1; 1 << 20]).expect("a file");
        let empty = bytes(&mine);
        std::os::unix::fs::symlink(&other, mine.join("link")).expect("a link");
        assert!(bytes(&mine) < empty + (1 << 16), "a link takes next to nothing");
        fs::write(mine.join("deep/er/file"), vec![1; 1 << 20]).expect("a file");
        assert!((1 << 20..2 << 20).contains(&bytes(&mine)), "{}", bytes(&mine));
        // A file full of nothing takes nothing.
        fs::File::create(mine.join("sparse")).expect("a file").set_len(1 << 40).expect("a long file");
        assert!(bytes(&mine) < 2 << 20);
        assert_eq!(bytes(&dir.path().join("nowhere")), 0);
    }

    #[test]
    fn neither_many_files_nor_deep_folders_are_walked_to_the_end() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut deep = dir.path().to_owned();
        for _ in 0..DEEPEST + 2 {
            deep.push("d");
            fs::create_dir(&deep).expect("a folder");
        }
        fs::write(deep.join("hidden"), vec![1; 1 << 20]).expect("a file");
        assert!(bytes(dir.path()) < 1 << 20);
        let mut count = Count { bytes: 0, left: 5 };
        for n in 0..9 {
            fs::write(dir.path().join(n.to_string()), "text").expect("a file");
        }
        let top = open(CWD, dir.path()).expect("a folder");
        let device = fstat(&top).expect("it is there").st_dev;
        count.add_all(top, device, DEEPEST);
        assert_eq!(count.left, 0);
    }
}
