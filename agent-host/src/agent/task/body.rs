//! What there is of an agent on this machine: exactly one of nothing, a wait for its turn to start, the turn, a process in the
//! making, and a process. What belongs to one of them lives and goes with it.
//!
//! ```text
//!             queue          turn          make            made
//!  ▶ Nothing ──────▶ Queued ──────▶ Due ────────▶ Making ──────────▶ Alive
//!       ▲              │             │               │                 │
//!       ├──────────────┴─────────────┘ leave_line    │ not made        │ reaped
//!       └────────────────────────────────────────────┴─────────────────┘
//! ```
//!
//! A panic leaves each of them as it is: what panicked is not polled again (`panicked.rs`).
//!
//! The turn is held from `turn` until the agent is ready, its start has failed, or the turn is over, whichever comes first.
//! [`Body::next`] makes the steps that nobody asks for; each is taken whole, after the last wait.

use crate::{
    agent::poison::Delivery,
    cgroups::OutOfMemory,
    confinement::Grant,
    process::{Mark, Signal},
    runtime::{Process, ProcessEvent, StartError, StatePage},
    starts::Turn,
};
use futures_util::future::{BoxFuture, pending};
use std::{path::Path, sync::Arc};

/// What a runtime makes.
pub(super) type Made = Result<Box<dyn Process>, StartError>;

/// What there is of an agent on this machine.
pub(super) enum Body {
    /// Nothing.
    Nothing,
    /// A wait for its turn to start. Dropping it leaves the line.
    Queued(BoxFuture<'static, Turn>),
    /// Its turn: a process is about to be made.
    Due(Turn),
    /// A process in the making.
    Making {
        /// Goes on until there is a process, or none.
        making: BoxFuture<'static, Made>,
        /// `None` when it is over: others may start.
        turn: Option<Turn>,
    },
    /// A process.
    Alive(Alive),
}

/// A process, from when it was made until it was reaped.
pub(super) struct Alive {
    process: Box<dyn Process>,
    /// Held until the agent is ready; `None` when it is over.
    turn: Option<Turn>,
    /// It was sent SIGKILL.
    killed: bool,
    /// What it said of its end, before it ended.
    last_words: Option<String>,
}

/// What happens to it.
pub(super) enum Happens {
    /// Its turn to start has come.
    Turn,
    /// There is a process, or it is known that there is none.
    Made(Result<(), StartError>),
    /// The process said something, or ended.
    ProcessEvent(ProcessEvent),
}

impl Body {
    /// Waits for what happens to it.
    ///
    /// Cancel-safe: what is under way stays here and goes on at the next call; the exit and the report of a process are watched
    /// by the process itself. Nothing is awaited between the end of a wait and the step that follows it.
    pub(super) async fn next(&mut self) -> Happens {
        match self {
            Self::Nothing | Self::Due(_) => pending().await,
            Self::Queued(wait) => {
                let turn = wait.await;
                *self = Self::Due(turn);
                Happens::Turn
            }
            Self::Making { making, turn } => {
                let made = loop {
                    tokio::select! {
                        biased;
                        made = &mut *making => break made,
                        () = over(turn.as_ref()) => *turn = None,
                    }
                };
                let turn = turn.take();
                let (body, made) = match made {
                    Ok(process) => (Self::Alive(Alive { process, turn, killed: false, last_words: None }), Ok(())),
                    Err(error) => (Self::Nothing, Err(error)),
                };
                *self = body;
                Happens::Made(made)
            }
            Self::Alive(alive) => Happens::ProcessEvent(alive.next().await),
        }
    }

    /// Waits in line from now on. There is no process, and none is being made.
    pub(super) fn queue(&mut self, wait: BoxFuture<'static, Turn>) {
        debug_assert!(matches!(self, Self::Nothing), "an agent queues that has a process, or may get one");
        *self = Self::Queued(wait);
    }

    /// Gives up its place in line, or its turn. What has begun goes on.
    pub(super) fn leave_line(&mut self) {
        match self {
            Self::Queued(_) | Self::Due(_) => *self = Self::Nothing,
            Self::Nothing | Self::Making { .. } | Self::Alive(_) => {}
        }
    }

    /// Makes a process, in its turn.
    pub(super) fn make(&mut self, making: BoxFuture<'static, Made>) {
        let turn = match std::mem::replace(self, Self::Nothing) {
            Self::Due(turn) => Some(turn),
            Self::Nothing | Self::Queued(_) | Self::Making { .. } | Self::Alive(_) => {
                debug_assert!(false, "a process is made out of turn");
                None
            }
        };
        *self = Self::Making { making, turn };
    }

    /// The process, while there is one.
    pub(super) fn alive(&mut self) -> Option<&mut Alive> {
        match self {
            Self::Alive(alive) => Some(alive),
            Self::Nothing | Self::Queued(_) | Self::Due(_) | Self::Making { .. } => None,
        }
    }

    fn process(&self) -> Option<&dyn Process> {
        match self {
            Self::Alive(alive) => Some(&*alive.process),
            Self::Nothing | Self::Queued(_) | Self::Due(_) | Self::Making { .. } => None,
        }
    }

    /// Id of the process, while there is one.
    pub(super) fn pid(&self) -> Option<u32> {
        self.process().map(Process::pid)
    }

    /// Directory of the process, while there is one that has one.
    pub(super) fn directory(&self) -> Option<Arc<Path>> {
        self.process().and_then(Process::directory)
    }

    /// Where the process says what it is at work on, while there is one that does.
    pub(super) fn page(&self) -> Option<StatePage> {
        self.process().and_then(Process::page)
    }

    /// By what the processes of its run are known, while there is one.
    pub(super) fn mark(&self) -> Option<Mark> {
        self.process().and_then(Process::mark)
    }

    pub(super) fn grant(&self) -> Option<&Grant> {
        self.process().and_then(Process::grant)
    }

    pub(super) fn cold_reason(&self) -> &str {
        self.process().map_or("", Process::cold_reason)
    }

    /// Signals the process, if there is one.
    pub(super) fn signal(&mut self, signal: Signal) {
        if let Some(alive) = self.alive() {
            alive.signal(signal);
        }
    }

    /// The process has ended: what is left of it is to be finished by whoever asks.
    pub(super) fn reaped(&mut self) -> Option<Box<dyn Process>> {
        self.alive()?;
        match std::mem::replace(self, Self::Nothing) {
            Self::Alive(alive) => Some(alive.process),
            Self::Nothing | Self::Queued(_) | Self::Due(_) | Self::Making { .. } => None,
        }
    }
}

impl Alive {
    async fn next(&mut self) -> ProcessEvent {
        loop {
            tokio::select! {
                biased;
                () = over(self.turn.as_ref()) => self.turn = None,
                next_event = self.process.next_event() => return next_event,
            }
        }
    }

    /// The next event of the process, and nothing else.
    pub(super) async fn next_event(&mut self) -> ProcessEvent {
        self.process.next_event().await
    }

    /// Others may start, whether it is ready or not.
    pub(super) fn end_turn(&mut self) {
        self.turn = None;
    }

    /// Its resident memory now, in bytes; `None` when that cannot be read.
    pub(super) fn resident(&self) -> Option<u64> {
        self.process.resident()
    }

    /// Signals it.
    pub(super) fn signal(&mut self, signal: Signal) {
        self.killed |= signal == Signal::Kill;
        self.process.signal(signal);
    }

    /// It was sent SIGKILL by its host.
    pub(super) fn was_killed(&self) -> bool {
        self.killed
    }

    /// It said why it ends.
    pub(super) fn says(&mut self, last_words: String) {
        self.last_words = Some(last_words);
    }

    /// Whether it ended because the memory of its control group was used up.
    pub(super) fn out_of_memory(&self) -> Option<OutOfMemory> {
        self.process.out_of_memory()
    }

    /// What it said of its end, if it did, and the message that it was handling.
    pub(super) fn last(&mut self) -> (Option<String>, Option<Delivery>) {
        (self.last_words.take(), self.process.page().and_then(|page| page.at_work()))
    }
}

async fn over(turn: Option<&Turn>) {
    match turn {
        Some(turn) => turn.over().await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests;
