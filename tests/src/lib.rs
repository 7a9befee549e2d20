//! The stack for tests: a Redis, an engine-svc and agent-hosts of the test's own, as real processes on free ports, all
//! ended with the test.
//!
//! | module | what |
//! | --- | --- |
//! | [`stack`] | starts and ends the stack |
//! | [`program`] | one program and what it logs |
//! | [`clock`] | a wall clock that steps |
//! | [`bus`] | messages to agents and from them |
//! | [`launches`] | launches to create agents with |
//! | [`processes`] | looks at the process table |

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails where it stands")]

pub mod bus;
pub mod clock;
pub mod grpcurl;
pub mod http;
pub mod launches;
pub mod modules;
pub mod processes;
pub mod program;
pub mod stack;

pub use bus::Bus;
pub use clock::ShiftedClock;
pub use modules::Modules;
pub use stack::{Stack, StackSettings, Zygote};

use std::{fmt::Debug, path::PathBuf, time::Duration};
use tokio::time::{Instant, sleep};

/// Longest wait for anything that should happen.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Waits until `look` gives a value; on timeout says what was waited for and what was seen last.
pub async fn wait_until<T, S: Debug>(what: &str, mut look: impl AsyncFnMut() -> Result<T, S>) -> T {
    let give_up = Instant::now() + PATIENCE;
    loop {
        match look().await {
            Ok(value) => return value,
            Err(seen) if Instant::now() > give_up => panic!("waited for {what}, last saw {seen:?}"),
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Root of the workspace.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// A program of the virtual environment that `make setup` makes.
pub fn venv(program: &str) -> PathBuf {
    let path = root().join(".venv/bin").join(program);
    assert!(path.is_file(), "{} is missing; run make setup", path.display());
    path
}
