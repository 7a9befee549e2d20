//! What an agent is at work on, in memory that it shares with its host: a page of a file that the agent maps and writes with
//! plain stores, and that the host reads. It outlives whatever ends the agent, and needs no help of an agent that hangs.
//!
//! ```text
//! byte 0: magic │ 8: sequence │ 16: phase │ 24: message id │ 32: length of the topic │ 40: beats │ 64: topic
//! ```
//!
//! Numbers have 8 bytes in the machine's order. The sequence is odd while the agent writes what stands beside it, and grows
//! with every write; beats grow while the agent's interpreter
//! runs, about every second if the launch has a liveness timeout. The twin is
//! `python/src/rustic_ai/k8s/runtime/state.py`. Nothing in it is trusted: an agent can only harm itself by what it writes.

use crate::agent::poison::Delivery;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};
use tracing::warn;

/// Size of the file.
const SIZE: usize = 4096;
/// First bytes of a file that an agent has taken into use.
const MAGIC: u64 = u64::from_ne_bytes(*b"rustate1");
/// Where the topic begins, and how long it is at most; a longer one is cut.
const TOPIC: usize = 64;
const MAX_TOPIC: usize = 1024;

/// Where an agent's handling loop is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Doing {
    /// It waits for a message, or has handled none yet.
    Waits,
    /// A handler has this message.
    Handles(Delivery),
    /// The handler of this message has returned, and the loop has not come round yet.
    Returns(Delivery),
}

/// What the page said at one look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Look {
    /// Where the loop is.
    pub(super) doing: Doing,
    /// Grows with every step of the loop.
    pub(super) sequence: u64,
    /// Grows while the interpreter runs.
    pub(super) beats: u64,
}

/// The file of one run. Dropping it removes it.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
    page: StatePage,
}

/// What is in the file, for whoever looks at it; also when it was removed.
#[derive(Debug, Clone)]
pub struct StatePage(Arc<File>);

impl StatePage {
    /// The message that a handler has now.
    pub fn at_work(&self) -> Option<Delivery> {
        match self.look().ok()??.doing {
            Doing::Handles(message) => Some(message),
            Doing::Waits | Doing::Returns(_) => None,
        }
    }

    fn look(&self) -> io::Result<Option<Look>> {
        let mut page = [0; TOPIC + MAX_TOPIC];
        self.0.read_exact_at(&mut page, 0)?;
        Ok(parse(&page))
    }
}

impl StateFile {
    /// Makes the file, for its owner alone. Its room is taken now: an agent that writes into it must not find the disk full.
    pub(super) fn make(path: PathBuf) -> io::Result<Self> {
        let made = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let named = |e: io::Error| io::Error::new(e.kind(), format!("cannot make {}: {e}", path.display()));
        let mut file = made.map_err(named)?;
        let written = file.write_all(&[0; SIZE]);
        // From here on it is removed with its owner.
        let state = Self { path: path.clone(), page: StatePage(Arc::new(file)) };
        written.map_err(named)?;
        Ok(state)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What is in it.
    pub(super) fn page(&self) -> StatePage {
        self.page.clone()
    }

    /// What it says now; none when it cannot be read, or is just being written.
    pub(super) fn look(&self) -> Option<Look> {
        match self.page.look() {
            Ok(look) => look,
            Err(error) => {
                // The agent cut it, or the disk fails; what it is at work on stays unknown.
                warn!(path = %self.path.display(), %error, "what an agent is at work on cannot be read");
                None
            }
        }
    }
}

impl Drop for StateFile {
    fn drop(&mut self) {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                warn!(path = %self.path.display(), %error, "a file could not be removed");
            }
            _ => {}
        }
    }
}

fn parse(page: &[u8; TOPIC + MAX_TOPIC]) -> Option<Look> {
    let word = |n: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&page[n * 8..n * 8 + 8]);
        u64::from_ne_bytes(bytes)
    };
    let (sequence, beats) = (word(1), word(5));
    let waits = Look { doing: Doing::Waits, sequence, beats };
    if word(0) != MAGIC {
        return Some(waits);
    }
    if sequence % 2 == 1 {
        return None;
    }
    let length = usize::try_from(word(4)).unwrap_or(MAX_TOPIC).min(MAX_TOPIC);
    let topic = String::from_utf8_lossy(&page[TOPIC..TOPIC + length]).into_owned();
    let delivery = Delivery { topic, message_id: word(3) };
    let doing = match word(2) {
        1 => Doing::Handles(delivery),
        2 => Doing::Returns(delivery),
        _ => Doing::Waits,
    };
    Some(Look { doing, ..waits })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn page(words: [u64; 6], topic: &[u8]) -> [u8; TOPIC + MAX_TOPIC] {
        let mut page = [0; TOPIC + MAX_TOPIC];
        for (n, word) in words.iter().enumerate() {
            page[n * 8..n * 8 + 8].copy_from_slice(&word.to_ne_bytes());
        }
        page[TOPIC..TOPIC + topic.len()].copy_from_slice(topic);
        page
    }

    #[test]
    fn a_page_says_what_an_agent_is_at_work_on_and_none_while_it_is_written() {
        let delivery = Delivery { topic: "g:t".to_owned(), message_id: 9 };
        let look = |phase| parse(&page([MAGIC, 4, phase, 9, 3, 7], b"g:t"));
        assert_eq!(look(1), Some(Look { doing: Doing::Handles(delivery.clone()), sequence: 4, beats: 7 }));
        assert_eq!(look(2).map(|l| l.doing), Some(Doing::Returns(delivery)));
        assert_eq!(look(0).map(|l| l.doing), Some(Doing::Waits));
        assert_eq!(parse(&page([MAGIC, 5, 1, 9, 3, 7], b"g:t")), None);
        assert_eq!(parse(&page([0; 6], b"")).map(|l| l.doing), Some(Doing::Waits), "not taken into use yet");
    }

    #[test]
    fn the_file_is_private_and_goes_with_its_owner() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("7.state");
        let state = StateFile::make(path.clone()).expect("a file");
        let about = fs::metadata(state.path()).expect("it is there");
        assert_eq!((about.permissions().mode() & 0o777, about.len()), (0o600, 4096));
        assert!(StateFile::make(path.clone()).is_err(), "a run has one");
        assert_eq!(state.look().map(|l| l.doing), Some(Doing::Waits));
        File::create(&path).expect("an agent may cut it");
        assert_eq!(state.look(), None);
        drop(state);
        assert!(!path.exists());
    }

    proptest! {
        #[test]
        fn whatever_an_agent_writes_is_read_without_harm(bytes in prop::collection::vec(any::<u8>(), TOPIC + MAX_TOPIC), magic: bool) {
            let mut page = [0; TOPIC + MAX_TOPIC];
            page.copy_from_slice(&bytes);
            if magic {
                page[..8].copy_from_slice(&MAGIC.to_ne_bytes());
            }
            if let Some(Look { doing: Doing::Handles(delivery) | Doing::Returns(delivery), .. }) = parse(&page) {
                prop_assert!(delivery.topic.chars().count() <= MAX_TOPIC);
            }
        }
    }
}
