//! Descriptors that whoever started this host left open: they are neither ours nor our agents'.

use rustix::{
    fd::BorrowedFd,
    io::{FdFlags, fcntl_getfd, fcntl_setfd},
};
use std::{fs, io};

/// Has every descriptor but standard input, output and error closed in whatever this host starts. Those that this host
/// opens itself are so from the first moment.
#[allow(unsafe_code, reason = "a number from /proc/self/fd is borrowed for a system call")]
pub fn keep_from_children() -> io::Result<()> {
    for entry in fs::read_dir("/proc/self/fd")? {
        let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if number <= 2 {
            continue;
        }
        // SAFETY: only flags of the descriptor are changed; if it is closed already, as that of this listing will be, the call fails.
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        if let Ok(flags) = fcntl_getfd(descriptor) {
            fcntl_setfd(descriptor, flags | FdFlags::CLOEXEC)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs::File, os::fd::AsFd as _};

    #[test]
    fn what_was_open_is_closed_in_whatever_is_started() {
        let file = File::open("/dev/null").expect("it is there");
        fcntl_setfd(file.as_fd(), FdFlags::empty()).expect("a flag");
        keep_from_children().expect("/proc is there");
        assert!(fcntl_getfd(file.as_fd()).expect("it is open").contains(FdFlags::CLOEXEC));
    }
}
