//! grpcurl, as a person uses it.

use crate::venv;
use std::process::Stdio;
use tokio::process::{Child, Command};

/// Runs grpcurl; gives what it printed, and fails unless it succeeded.
pub async fn grpcurl(arguments: &[&str]) -> String {
    let (ok, out, err) = try_grpcurl(arguments).await;
    assert!(ok, "grpcurl {arguments:?} failed: {err}");
    out
}

/// Runs grpcurl; gives whether it succeeded, and what it printed on its two outputs.
pub async fn try_grpcurl(arguments: &[&str]) -> (bool, String, String) {
    let output = Command::new(venv("grpcurl")).arg("-plaintext").args(arguments).output().await.expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

/// Starts grpcurl, and leaves it to the caller to read what it prints.
pub fn start_grpcurl(arguments: &[&str]) -> Child {
    let mut command = Command::new(venv("grpcurl"));
    command.arg("-plaintext").args(arguments).kill_on_drop(true);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")
}
