//! Clears up after the former lives of this host: when its name is ours, nobody of them is left to do so.
//!
//! A watchdog has ended what its host's agents had started before it let go of the name. One that was killed together with
//! its host has not. Marks show whose the processes are that are left, and names show whose the directories are.

use crate::{
    process::{Life, kin},
    runtime::remove,
};
use rustic_registry::Incarnation;
use std::path::PathBuf;
use tokio::task::spawn_blocking;
use tracing::{info, warn};

/// Ends the processes that the `former` life has left, and removes directories of former lives in the background.
pub(super) async fn clear_up(former: Option<&Incarnation>, directories: Vec<PathBuf>) {
    if let Some(life) = former.map(Life::of) {
        // A panic was logged, and harms nobody.
        match spawn_blocking(move || kin::end_life(life)).await {
            Ok((0, _)) | Err(_) => {}
            Ok((killed, true)) => {
                info!(killed, "killed processes of agents that a former life of this host had left")
            }
            Ok((killed, false)) => warn!(killed, "processes of a former life of this host cannot be killed"),
        }
    }
    for path in directories {
        // Nobody waits for it: it is begun anew by the next life in the worst case.
        drop(spawn_blocking(move || match remove(&path) {
            Ok(()) => info!(path = %path.display(), "removed what agents of a former life of this host had left"),
            Err(error) => {
                warn!(path = %path.display(), %error, "what a former life of this host left cannot be removed")
            }
        }));
    }
}
