//! Where a Python environment keeps what its programs need, as its interpreter says.

use crate::process::Spawner;
use anyhow::{Context as _, ensure};
use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};
use tokio::{io::AsyncReadExt as _, net::unix::pipe, sync::OnceCell, time::timeout};

/// Prints, with a zero byte between them: the interpreter's file, the directory of the environment, and then all directories that it may import from.
/// Packages that are installed for editing are found by a finder of their own.
const QUESTION: &str = "
import os, sys
paths = [os.path.realpath(sys.executable), sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, *sys.path]
for finder in sys.meta_path:
    module = sys.modules.get(getattr(finder, '__module__', None) or '')
    paths += getattr(module, 'MAPPING', {}).values()
print('\\0'.join(paths))
";
/// Longest wait for the answer; it takes some ten milliseconds.
const ANSWERS: Duration = Duration::from_secs(30);
/// Longest answer.
const LONGEST: u64 = 1 << 20;

/// The places of a Python environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// The interpreter, without links.
    pub interpreter: PathBuf,
    /// The directory whose programs belong to it.
    pub prefix: PathBuf,
    /// All places that it reads.
    pub read: Vec<PathBuf>,
}

/// The interpreter of a Python environment, which is asked once.
pub struct Interpreter {
    /// Its file, as the operator named it.
    pub python: PathBuf,
    /// Environment that it runs in.
    pub environment: BTreeMap<OsString, OsString>,
    /// Starts it.
    pub spawner: Spawner,
    /// What it said.
    pub answer: OnceCell<Environment>,
}

impl Interpreter {
    /// One that was not asked yet.
    pub fn new(python: PathBuf, environment: BTreeMap<OsString, OsString>, spawner: Spawner) -> Self {
        Self { python, environment, spawner, answer: OnceCell::new() }
    }

    /// The places of its environment. Errors: it cannot be started, or says nothing that can be used.
    pub async fn places(&self) -> anyhow::Result<&Environment> {
        self.answer.get_or_try_init(|| self.ask()).await
    }

    async fn ask(&self) -> anyhow::Result<Environment> {
        let mut command = Command::new(&self.python);
        command.args(["-P", "-c", QUESTION]).stdin(Stdio::null()).env_clear().envs(&self.environment);
        let mut started = self.spawner.spawn(command).await?;
        let mut answer = vec![];
        let mut output = pipe::Receiver::from_owned_fd(started.stdout)?.take(LONGEST);
        timeout(ANSWERS, output.read_to_end(&mut answer)).await.context("it does not answer")??;
        started.child.ended().await?;
        Environment::parse(&answer)
    }
}

impl Environment {
    fn parse(answer: &[u8]) -> anyhow::Result<Self> {
        use std::os::unix::ffi::OsStrExt as _;
        let answer = answer.strip_suffix(b"\n").unwrap_or(answer);
        let mut paths = answer.split(|byte| *byte == 0).map(|path| PathBuf::from(std::ffi::OsStr::from_bytes(path)));
        let (interpreter, prefix) =
            paths.next().zip(paths.next()).context("its interpreter does not say where it is")?;
        ensure!(interpreter.is_absolute() && prefix.is_absolute(), "its interpreter does not say where it is");
        let mut read: Vec<_> = paths.filter(|path| path.is_absolute() && path.parent().is_some()).collect();
        read.extend([interpreter.clone(), prefix.clone()]);
        read.sort();
        // What lies within another one is named with it.
        read.dedup_by(|later, earlier| later.starts_with(&*earlier));
        Ok(Self { interpreter, prefix, read })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn places_within_others_and_the_root_are_left_out() {
        let answer = b"/usr/bin/python3.13\0/v\0/usr\0/\0/v\0/usr/lib/python3.13\0\0zip\0/src/mine\n";
        let environment = Environment::parse(answer).expect("it can be read");
        assert_eq!(environment.interpreter, Path::new("/usr/bin/python3.13"));
        assert_eq!(environment.read, ["/src/mine", "/usr", "/v"].map(PathBuf::from));
        assert!(Environment::parse(b"").is_err() && Environment::parse(b"\0\n").is_err());
    }
}
