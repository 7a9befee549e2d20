//! The `python` runtime: warm, a child of the profile's zygote that has everything imported; or cold, a fresh
//! interpreter.

use super::{Feed, Order, StartError, document::document};
use crate::{
    confinement::{Confinement, Environment, Interpreter},
    process::{Started, output_pipe},
    profiles::Profile,
    zygote::{Descriptors, ForkRequest, Imports, Kind, ZygoteError, ZygoteHandle, ZygoteStatus},
};
use rustic_proto::profile::ProfileName;
use rustic_telemetry::metrics;
use std::{
    collections::BTreeMap,
    ffi::OsString,
    io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tracing::warn;

/// Module of the distribution `rusticai-k8s` that runs one agent.
const MODULE: &str = "rustic_ai.k8s.runtime";
/// Variables that only act when a program starts, by the beginning of their names: Python's own, those of the dynamic linker, of the C
/// library's allocator and locales, and of libraries that every zygote has loaded.
const START_ONLY: [&str; 10] =
    ["PYTHON", "LD_", "MALLOC_", "GLIBC_", "LC_", "LANG", "OPENSSL_", "FSSPEC_", "LOCPATH", "GCONV_PATH"];

/// Starts agents in one profile's environment.
pub struct PythonRuntime {
    /// Name of its profile.
    pub name: ProfileName,
    /// The environment.
    pub profile: Profile,
    /// Forks warm processes; without it every one starts cold.
    pub zygote: Option<ZygoteHandle>,
    /// Agents that started cold although there is a zygote.
    pub cold_starts: AtomicU64,
    /// Its interpreter.
    pub interpreter: Arc<Interpreter>,
}

/// How a Python environment is.
#[derive(Debug, Clone)]
pub struct PythonStatus {
    /// Name of its profile.
    pub name: ProfileName,
    /// Its zygote; none when every agent starts cold.
    pub zygote: Option<ZygoteStatus>,
    /// Agents that started cold although there is a zygote.
    pub cold_starts: u64,
}

/// Why an agent is started cold.
#[derive(Debug, thiserror::Error)]
enum ColdReason {
    /// Its environment sets what only a fresh interpreter heeds.
    #[error("its environment sets {0}, which only a fresh interpreter heeds")]
    Environment(String),
    /// The zygote could not.
    #[error(transparent)]
    Zygote(#[from] ZygoteError),
}

/// Makes what a process takes on; none: it is not confined.
type Confines<'a> = &'a (dyn Fn() -> io::Result<Option<Confinement>> + Sync);

/// A warm process and what to feed it, or why there is none.
type Warm = Result<(Started, Feed), ColdReason>;

impl PythonRuntime {
    /// How it is now.
    pub fn status(&self) -> PythonStatus {
        PythonStatus {
            name: self.name.clone(),
            zygote: self.zygote.as_ref().map(ZygoteHandle::status),
            cold_starts: self.cold_starts.load(Ordering::Relaxed),
        }
    }

    /// Where its environment is. Errors: its interpreter cannot be asked.
    pub(super) async fn places(&self) -> Result<&Environment, StartError> {
        self.interpreter.places().await.map_err(|error| match error.downcast() {
            Ok(error) => StartError::of_interpreter(&self.name, error),
            Err(error) => StartError::Unconfined(io::Error::other(error)),
        })
    }

    /// A warm process and what to feed it, or why the agent must start cold; that is empty where every agent does.
    pub(super) async fn warm(
        &self,
        order: &Order,
        environment: &BTreeMap<OsString, OsString>,
        directory: &Path,
        confinement: Confines<'_>,
    ) -> Result<Result<(Started, Feed), String>, StartError> {
        let Some(zygote) = &self.zygote else { return Ok(Err(String::new())) };
        let message = &order.launch.message;
        let mut asked = message.environment.keys().chain(message.inherited_environment.keys());
        let only_at_start = |name: &&String| START_ONLY.iter().any(|prefix| name.starts_with(prefix));
        let why = match asked.find(only_at_start) {
            Some(name) => ColdReason::Environment(name.clone()),
            None => match fork(zygote, order, environment, directory, confinement).await? {
                Ok(warm) => return Ok(Ok(warm)),
                // A cold start needs a process as well.
                Err(ColdReason::Zygote(ZygoteError::Exhausted(why))) => return Err(StartError::Exhausted(why)),
                Err(why) => why,
            },
        };
        self.cold_starts.fetch_add(1, Ordering::Relaxed);
        metrics::count("rustic_host_cold_starts_total", &[("profile", self.name.as_str())]);
        warn!(%why, "the agent starts cold");
        Ok(Err(why.to_string()))
    }

    /// The command of a cold start, and what to feed it: a socket as standard input, so that the answer comes back the
    /// same way.
    pub(super) fn cold(&self, order: &Order) -> io::Result<(Command, Feed)> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = Command::new(&self.profile.python);
        // -P: the working directory is no place to import from.
        command.args(["-P", "-m", MODULE]).stdin(Stdio::from(OwnedFd::from(theirs)));
        Ok((command, Feed::Socket(ours, document(order))))
    }

    /// Learns from an agent that became ready in this environment.
    pub fn learn(&self, order: &Order, imports: Imports, environment: &BTreeMap<OsString, OsString>) {
        if let (Some(zygote), Some(kind)) = (&self.zygote, Kind::of(&order.launch)) {
            zygote.learn(kind, imports, as_text(environment));
        }
    }
}

/// Asks for a fork, and once more where a branch fails: from what is left.
async fn fork(
    zygote: &ZygoteHandle,
    order: &Order,
    environment: &BTreeMap<OsString, OsString>,
    directory: &Path,
    confinement: Confines<'_>,
) -> Result<Warm, StartError> {
    let warm = fork_once(zygote, order, environment, directory, confinement).await?;
    if let Err(ColdReason::Zygote(why @ ZygoteError::Failed(_))) = &warm {
        warn!(%why, "the agent is forked anew");
        return fork_once(zygote, order, environment, directory, confinement).await;
    }
    Ok(warm)
}

/// Every try has descriptors of its own: a child that a broken zygote may have left finds its socket closed, and ends.
async fn fork_once(
    zygote: &ZygoteHandle,
    order: &Order,
    environment: &BTreeMap<OsString, OsString>,
    directory: &Path,
    confinement: Confines<'_>,
) -> Result<Warm, StartError> {
    let (ours, theirs) = UnixStream::pair()?;
    let (stdout, their_stdout) = output_pipe()?;
    let (stderr, their_stderr) = output_pipe()?;
    let request = ForkRequest {
        kind: Kind::of(&order.launch),
        // Every process of the container can read it, so it says of whom the process is by a number.
        title: format!("rustic-agent {}", order.epoch),
        directory: directory.to_owned(),
        environment: as_text(environment),
        descriptors: Descriptors { control: theirs.into(), stdout: their_stdout, stderr: their_stderr },
        confinement: confinement().map_err(StartError::Unconfined)?,
    };
    let child = zygote.fork(request).await;
    Ok(child
        .map(|child| (Started { child, stdout, stderr }, Feed::Socket(ours, document(order))))
        .map_err(Into::into))
}

/// Names and values that are no UTF-8 cannot come from a caller; the host's own are passed as well as JSON can.
fn as_text(environment: &BTreeMap<OsString, OsString>) -> BTreeMap<String, String> {
    let text = |text: &OsString| text.to_string_lossy().into_owned();
    environment.iter().map(|(name, value)| (text(name), text(value))).collect()
}
