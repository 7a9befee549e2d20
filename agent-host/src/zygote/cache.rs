//! What a profile's zygotes learned, kept on disk for the next life of this host: after a restart in place its agents
//! come back all at once, and none of them should have to import again what the one before it just imported.
//!
//! Proofs are not repeated if nothing that they rest on has changed: neither this program, nor the interpreter, nor any file. A
//! file of another version is not believed at all. It is *taken* when it is read and written again when a branch with
//! these modules is there, so that a module that brings the whole host down is not tried a second time.

use super::{
    closure::Imports,
    files::{Files, Stamp},
    kind::Kind,
    known::{Knowledge, Shared},
};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};
use tracing::warn;

/// Longest file that is read or written, in bytes.
const MAX_SIZE: u64 = 16 << 20;
/// What a file must have been written by to be believed.
const WRITER: &str = concat!(env!("CARGO_PKG_VERSION"), " form 2");

/// One kind, as a former life knew it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    /// The kind.
    pub(super) kind: Kind,
    /// What it imports.
    pub(super) imports: Imports,
    /// What of it is shared.
    pub(super) shared: Shared,
    /// How the files of its imports and of what is shared were, in their order.
    stamps: Vec<Option<Stamp>>,
}

#[derive(Serialize, Deserialize)]
struct Document {
    writer: String,
    interpreter: Option<Stamp>,
    kinds: Vec<Entry>,
}

/// The file. Losing it costs time, never an agent: what goes wrong with it is logged and survived.
#[derive(Debug)]
pub struct Cache {
    path: PathBuf,
    /// The interpreter that imports.
    python: PathBuf,
}

impl Cache {
    /// Notes kept in the file `path`, for agents that run in `python`.
    pub fn at(path: PathBuf, python: PathBuf) -> Self {
        let search = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&search).map(|folder| folder.join(&python)).find(|path| path.is_file());
        Self { path, python: found.unwrap_or(python) }
    }

    /// What the former life knew and still holds; nothing when there was none. Removes the file.
    pub(super) fn take(&self) -> Vec<Entry> {
        let text = match read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return vec![],
            Err(error) => {
                self.warn_once(&error, "what the zygote learned before cannot be read; it learns anew");
                String::new()
            }
        };
        if let Err(error) = fs::remove_file(&self.path) {
            // A file that stays would be read in every life, whatever it did to the last one.
            self.warn_once(&error, "the notes of what the zygote learned cannot be removed; they are not used");
            return vec![];
        }
        let Ok(document) = serde_json::from_str::<Document>(&text) else { return vec![] };
        if document.writer != WRITER || document.interpreter != Stamp::of(&self.python) {
            return vec![];
        }
        document.kinds.into_iter().filter(Entry::holds).collect()
    }

    /// Keeps what is known for the next life, in place of what was kept before.
    pub(super) fn keep(&self, knowledge: &Knowledge, files: &Files) {
        let kinds = knowledge.settled().into_iter().map(|(kind, known)| {
            let shared = known.shared.clone().unwrap_or_default();
            let stamps = known.imports.files().chain(&shared.files).map(|file| files.stamp(file)).collect();
            Entry { kind: kind.clone(), imports: known.imports.clone(), shared, stamps }
        });
        let mut document =
            Document { writer: WRITER.to_owned(), interpreter: Stamp::of(&self.python), kinds: kinds.collect() };
        let mut text = serde_json::to_vec(&document).unwrap_or_default();
        while text.len() as u64 > MAX_SIZE && !document.kinds.is_empty() {
            // Those that were used last stand first.
            document.kinds.truncate(document.kinds.len() / 2);
            text = serde_json::to_vec(&document).unwrap_or_default();
        }
        if let Err(error) = write(&self.path, &text) {
            self.warn_once(&error, "what the zygote learned cannot be kept for the next start of this host");
        }
    }

    fn warn_once(&self, error: &io::Error, what: &str) {
        warn!(file = %self.path.display(), %error, "{what}");
    }
}

impl Entry {
    fn holds(&self) -> bool {
        let now = self.imports.files().chain(&self.shared.files).map(|file| Stamp::of(file));
        self.imports.is_bounded() && now.eq(self.stamps.iter().copied())
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
fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    // Left by a life that died here.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(text)?;
    drop(file);
    fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zygote::{
        closure::{Place, Unit},
        files::Watched,
    };
    use std::{collections::BTreeSet, time::SystemTime};
    use tokio::time::Instant;

    struct Life {
        dir: tempfile::TempDir,
        knowledge: Knowledge,
        files: Files,
    }

    impl Life {
        /// One that knows a kind whose class is in `m.py`.
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a folder");
            let file = dir.path().join("m.py");
            fs::write(&file, "1").expect("written");
            let (name, modules) = ("m".to_owned(), vec!["m".to_owned()]);
            let unit = Unit { name: name.clone(), place: Place::Own, modules, files: vec![file.clone()] };
            let imports = Imports { own: name, units: vec![unit], reads: BTreeSet::new() };
            let (mut knowledge, mut files) = (Knowledge::default(), Files::new());
            assert_eq!(files.watch([&file], SystemTime::now()), Watched::Unchanged);
            let shared = Shared { units: vec!["m".to_owned()], ..Shared::default() };
            knowledge.recall(Kind::named("m.C"), imports, shared, Instant::now());
            Self { dir, knowledge, files }
        }

        fn cache(&self) -> Cache {
            Cache::at(self.dir.path().join("host.default.learned"), "/bin/sh".into())
        }

        fn kept(&self) -> Cache {
            let cache = self.cache();
            cache.keep(&self.knowledge, &self.files);
            cache
        }
    }

    #[test]
    fn what_one_life_kept_the_next_one_takes_once() {
        let life = Life::new();
        assert!(life.cache().take().is_empty(), "the first life");
        let taken = life.kept().take();
        assert_eq!(taken.len(), 1);
        assert_eq!((&taken[0].kind, taken[0].shared.units.as_slice()), (&Kind::named("m.C"), &["m".to_owned()][..]));
        assert!(life.cache().take().is_empty(), "whoever dies of them does not meet them again");
        assert_eq!(fs::read_dir(life.dir.path()).expect("a folder").count(), 1, "nothing but the module");
    }

    #[test]
    fn what_rests_on_a_file_that_has_changed_is_not_believed() {
        let life = Life::new();
        let cache = life.kept();
        fs::write(life.dir.path().join("m.py"), "22").expect("written");
        assert!(cache.take().is_empty());
    }

    #[test]
    fn what_another_version_or_another_interpreter_wrote_is_not_believed() {
        let life = Life::new();
        life.kept();
        assert!(Cache { python: "/bin/cat".into(), ..life.cache() }.take().is_empty());
        let cache = life.kept();
        let text = fs::read_to_string(&cache.path).expect("it is there");
        fs::write(&cache.path, text.replace(WRITER, "0.0.1 form 2")).expect("written");
        assert!(cache.take().is_empty());
        fs::write(&cache.path, "heavy\nlight").expect("written");
        assert!(cache.take().is_empty(), "nor what is no document");
    }

    #[test]
    fn a_file_that_is_no_plain_one_is_not_followed() {
        let dir = tempfile::tempdir().expect("a folder");
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        fs::write(&target, "os").expect("it can be written");
        std::os::unix::fs::symlink(&target, &link).expect("a link");
        assert!(Cache::at(link, "/bin/sh".into()).take().is_empty());
        assert!(target.exists());
    }

    #[test]
    fn a_folder_that_cannot_be_written_to_costs_nothing_but_the_notes() {
        let cache = Cache::at("/proc/no/such/folder".into(), "/bin/sh".into());
        cache.keep(&Knowledge::default(), &Files::new());
        assert!(cache.take().is_empty());
    }
}
