//! The `python` runtime: warm, a child of the zygote that has everything imported; or cold, a fresh interpreter.

use super::{Order, StartError, document::document, report::Feed};
use crate::{
    process::Started,
    zygote::{ForkRequest, ZygoteError, ZygoteHandle, output_pipe},
};
use std::{
    collections::BTreeMap,
    ffi::OsString,
    io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    process::{Command, Stdio},
};

/// Module of the distribution `rusticai-k8s` that runs one agent.
const MODULE: &str = "rustic_ai.k8s.runtime";
/// Variables that only work when an interpreter starts with them.
const START_ONLY: [&str; 2] = ["PYTHON", "LD_"];

/// Why a Python agent is started cold.
#[derive(Debug, thiserror::Error)]
pub(super) enum ColdReason {
    /// Its environment sets what only a fresh interpreter heeds.
    #[error("its environment sets {0}, which only a fresh interpreter heeds")]
    Environment(String),
    /// The zygote could not.
    #[error(transparent)]
    Zygote(#[from] ZygoteError),
}

/// The command of a cold start, and what to feed it: a socket as standard input, so that the answer comes back the same
/// way.
pub(super) fn command(python: &Path, order: &Order) -> io::Result<(Command, Feed)> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = Command::new(python);
    command.arg("-m").arg(MODULE).stdin(Stdio::from(OwnedFd::from(theirs)));
    Ok((command, Feed::Socket(ours, document(order))))
}

/// A child of the zygote, and what to feed it; or why there is none.
pub(super) async fn warm(
    zygote: &ZygoteHandle,
    order: &Order,
    environment: &BTreeMap<OsString, OsString>,
) -> Result<Result<(Started, Feed), ColdReason>, StartError> {
    let asked = &order.launch.message.environment;
    if let Some(name) = asked.keys().find(|name| START_ONLY.iter().any(|prefix| name.starts_with(prefix))) {
        return Ok(Err(ColdReason::Environment(name.clone())));
    }
    let (ours, theirs) = UnixStream::pair()?;
    let (stdout, their_stdout) = output_pipe()?;
    let (stderr, their_stderr) = output_pipe()?;
    // Names and values that are no UTF-8 cannot come from a caller; the host's own are passed as well as JSON can.
    let text = |text: &OsString| text.to_string_lossy().into_owned();
    let request = ForkRequest {
        title: order.launch.key.agent.to_string(),
        environment: environment.iter().map(|(name, value)| (text(name), text(value))).collect(),
        control: theirs.into(),
        stdout: their_stdout,
        stderr: their_stderr,
    };
    match zygote.fork(request).await {
        Ok(child) => Ok(Ok((Started { child, stdout, stderr }, Feed::Socket(ours, document(order))))),
        Err(why) => Ok(Err(why.into())),
    }
}
