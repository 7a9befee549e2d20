//! What becomes of an agent whose task panics: its process is ended and reaped, and then the agent is FAILED, with the reason.
//!
//! ```text
//!               ┌ the task has the process, or there is none ──▶ killed, reaped ──▶ FAILED (a stop that was asked for goes on)
//!  panic ──▶ ───┤
//!               └ it may be lost, or a panic again ────────────▶ Broken: nobody knows, so the host must end
//! ```
//!
//! FAILED and not restarted: whatever the task panics over is likely to be there again, on this host and on the next one, and other
//! agents must not suffer for it. The task goes on until the store has acknowledged it. Until then no call about the agent is answered
//! that it has ended: its handle shows no ending.

use super::{AgentTask, Body, ProcessEvent};
use crate::{agent::machine::Action, process::Signal};
use futures_util::FutureExt as _;
use rustic_telemetry::tasks;
use std::panic::AssertUnwindSafe;
use tokio::time::Instant;
use tracing::error;

/// An agent's task has panicked, and its process may live: the host must end. It has these words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken(pub String);

impl AgentTask {
    /// Lives the agent's life through one panic.
    pub(super) async fn survive(mut self) -> Result<(), Broken> {
        let first = std::mem::take(&mut self.first);
        // What is half done when it panics is looked at with that in mind, and with nothing else.
        let Err(panic) = AssertUnwindSafe(self.live(first)).catch_unwind().await else { return Ok(()) };
        let cause = tasks::message(&*panic);
        error!(
            cause,
            "the agent's task panicked; its process is ended. This is a bug of agent-host, please report it"
        );
        let buried = AssertUnwindSafe(async {
            let actions = self.bury(&cause).await?;
            self.live(actions).await;
            Ok(())
        });
        buried.catch_unwind().await.unwrap_or_else(|again| Err(Broken(tasks::message(&*again))))
    }

    /// Ends the process, whatever the machine believes of it. Returns what is to be done then. Errors: it may live.
    async fn bury(&mut self, cause: &str) -> Result<Vec<Action>, Broken> {
        // Nothing that was under way is polled again: it may be what panicked. The store takes late writes by their numbers.
        self.write = None;
        self.body.leave_line();
        let shown = self.status.borrow().pid;
        match &mut self.body {
            Body::Alive(alive) => {
                alive.end_turn();
                alive.signal(Signal::Kill);
                let status = loop {
                    if let ProcessEvent::Exit(status) = alive.next_event().await {
                        break status;
                    }
                };
                self.reaped(&status.into()).await;
            }
            Body::Nothing | Body::Queued(_) | Body::Due(_) if shown.is_none() => {}
            // It was dropped with what panicked, which kills it: but nobody would know when it has ended.
            Body::Nothing | Body::Queued(_) | Body::Due(_) | Body::Making { .. } => {
                return Err(Broken(cause.to_owned()));
            }
        }
        // An answer to a write of before would be taken for one to the next.
        self.inbox.retain(|event| !event.is_answer());
        let why = format!("its host failed to look after it, which is a bug, please report it: {cause}");
        let actions = self.machine.give_up(why, Instant::now());
        self.status.send_modify(|s| {
            (s.pid, s.directory, s.page, s.mark) = (None, None, None, None);
            s.phase = self.machine.phase();
            s.condition = self.machine.condition().cloned();
        });
        Ok(actions)
    }
}
