//! A wall clock of a program's own, that a test may step, or have run fast.

use std::{
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::TempDir;

/// The source of what is loaded before the program.
const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clock/shift_clock.c");

/// The clock.
pub struct ShiftedClock {
    dir: TempDir,
    ahead: i64,
    rate: f64,
}

impl ShiftedClock {
    /// A clock that is right.
    pub fn new() -> Self {
        let clock = Self { dir: tempfile::tempdir().expect("a temporary folder"), ahead: 0, rate: 1.0 };
        clock.write();
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O2", "-o"])
            .arg(clock.library())
            .arg(Path::new(SOURCE))
            .status()
            .expect("a C compiler, which Rust links with");
        assert!(built.success(), "{SOURCE} does not compile: {built}");
        clock
    }

    /// What a program must find in its environment.
    pub fn environment(&self) -> Vec<(String, String)> {
        let text = |path: PathBuf| path.display().to_string();
        vec![("LD_PRELOAD".to_owned(), text(self.library())), ("SHIFT_CLOCK".to_owned(), text(self.file()))]
    }

    /// The clock steps by so many seconds.
    pub fn step(&mut self, seconds: i64) {
        self.ahead += seconds * 1_000_000;
        self.write();
    }

    /// The clock goes so fast, as if it had since the program began; 1.0 is right.
    pub fn run_at(&mut self, rate: f64) {
        self.rate = rate;
        self.write();
    }

    fn library(&self) -> PathBuf {
        self.dir.path().join("shift_clock.so")
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("shift")
    }

    fn write(&self) {
        let bytes = [self.ahead.to_ne_bytes(), self.rate.to_ne_bytes()].concat();
        // In place: the program has it mapped.
        let mut file =
            std::fs::File::options().write(true).create(true).truncate(false).open(self.file()).expect("a file");
        std::io::Write::write_all(&mut file, &bytes).expect("written");
    }
}

impl Default for ShiftedClock {
    fn default() -> Self {
        Self::new()
    }
}
