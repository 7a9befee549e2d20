//! The tasks of agents, and what is known of one that ends before its time.

use super::{Supervisor, remove};
use crate::agent::{
    AgentHandle,
    task::{AgentTask, panicked::Broken},
};
use futures_util::FutureExt as _;
use rustic_telemetry::tasks;
use std::panic::AssertUnwindSafe;
use tracing::error;

impl Supervisor {
    /// Runs the task; when it ends the agent is off this host. If it ends before its time, the agent stays in the map: whatever is asked
    /// about it, its process may live.
    pub(super) fn start(&self, task: AgentTask, handle: &AgentHandle) {
        let (agents, broken) = (self.agents.clone(), self.broken.clone());
        let (key, epoch) = (handle.launch.key.clone(), handle.epoch);
        self.tasks.spawn(async move {
            let ended = AssertUnwindSafe(task.run()).catch_unwind().await;
            match ended.unwrap_or_else(|panic| Err(Broken(tasks::message(&*panic)))) {
                Ok(()) => remove(&agents, &key, epoch),
                Err(why) => {
                    error!(agent = %key, cause = why.0, "an agent's task is gone, and its process may not be; this host ends");
                    broken.send_if_modified(|broken| broken.is_none() && broken.replace((key, why)).is_none());
                }
            }
        });
    }

    /// Waits until an agent's task has ended before its time: its process may live, and nobody looks after it. Cancel-safe.
    pub async fn broken(&self) -> String {
        let mut broken = self.broken.subscribe();
        // The sender is `self`: it cannot be gone.
        let first = broken.wait_for(Option::is_some).await.ok().and_then(|broken| broken.clone());
        first.map(|(key, Broken(why))| format!("the task of agent {key} panicked: {why}")).unwrap_or_default()
    }
}
