//! The `python` runtime, cold: a fresh interpreter runs `rustic_ai.k8s.runtime` for one agent.

use super::{Order, document::document, report::Feed};
use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    process::{Command, Stdio},
};

/// Module of the distribution `rusticai-k8s` that runs one agent.
const MODULE: &str = "rustic_ai.k8s.runtime";

/// The command, and what to feed it: a socket as standard input, so that the answer comes back the same way.
pub(super) fn command(python: &Path, order: &Order) -> io::Result<(Command, Feed)> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = Command::new(python);
    command.arg("-m").arg(MODULE).stdin(Stdio::from(OwnedFd::from(theirs)));
    Ok((command, Feed::Socket(ours, document(order))))
}
