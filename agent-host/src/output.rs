//! Output of agents: drained as fast as it comes, whatever it is, into bounded log lines.
//!
//! An agent never waits for us: its pipe is read until it is empty, lines over [`MAX_LINE`] are cut into pieces, a line
//! that does not end is shown after a second, bytes that are no UTF-8 are replaced, and what is over the agent's budget is
//! counted instead of written.

mod budget;
mod lines;
mod tail;

pub use tail::Tail;

use budget::Budget;
use lines::{LineSplitter, Piece};
use std::{convert::Infallible, os::fd::OwnedFd, panic::resume_unwind, time::Duration};
use tokio::{
    io::AsyncReadExt as _,
    net::unix::pipe::Receiver,
    task::{JoinError, JoinSet},
    time::{Instant, timeout, timeout_at},
};
use tracing::{info, warn};

/// Longest log line in bytes; a longer one comes in pieces.
pub const MAX_LINE: usize = 8 * 1024;
/// Longest wait for what an ended process left in its pipes.
const DRAIN: Duration = Duration::from_millis(500);
/// What a log line costs beyond its text: names, time, braces.
const LINE_COST: u64 = 256;
/// Longest time for which the beginning of a line waits for the rest of it.
const HELD: Duration = Duration::from_secs(1);
/// Time between two counts of what was left out.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// Whose output it is; on every line.
#[derive(Debug, Clone)]
pub struct Source {
    /// Organization id.
    pub organization: String,
    /// Guild id.
    pub guild: String,
    /// Agent id.
    pub agent: String,
    /// Epoch.
    pub epoch: u64,
    /// Process id.
    pub pid: u32,
}

/// How much of its output an agent may have written to the log.
#[derive(Debug, Clone, Copy)]
pub struct OutputLimit {
    /// Bytes a second in the long run.
    pub bytes_per_second: u64,
    /// Bytes at once.
    pub burst: u64,
}

/// The two readers of one process. Dropping it ends them.
#[derive(Default)]
pub struct Output {
    readers: JoinSet<()>,
}

impl Output {
    /// Starts to read both streams.
    pub fn read(
        stdout: OwnedFd,
        stderr: OwnedFd,
        source: &Source,
        limit: OutputLimit,
        tail: &Tail,
    ) -> std::io::Result<Self> {
        let mut readers = JoinSet::new();
        let streams = [("stdout", stdout), ("stderr", stderr)];
        for (stream, fd) in streams {
            let pipe = Receiver::from_owned_fd(fd)?;
            let line_log = LineLog {
                source: source.clone(),
                stream,
                budget: Budget::new(limit),
                reported: None,
                tail: tail.clone(),
            };
            readers.spawn(drain(pipe, line_log));
        }
        Ok(Self { readers })
    }

    /// Waits for a reader that panics, and hands its panic on: a process whose output nobody reads must not live. Cancel-safe.
    pub async fn unread(&mut self) -> Infallible {
        while let Some(ended) = self.readers.join_next().await {
            hand_on(ended);
        }
        // Both streams have ended well.
        std::future::pending().await
    }

    /// Waits until everything was read, but not for a grandchild that keeps a pipe open.
    pub async fn finish(mut self) {
        let all = async { while self.readers.join_next().await.is_some() {} };
        // On timeout the readers are dropped with `self`.
        let _ = timeout(DRAIN, all).await;
    }
}

fn hand_on(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && let Ok(panic) = error.try_into_panic()
    {
        resume_unwind(panic);
    }
}

/// Reads until the last writer closed the pipe. On cancel: what was not read is lost with the pipe.
async fn drain(mut pipe: Receiver, mut log: LineLog) {
    let mut chunk = vec![0; 64 * 1024];
    let mut splitter = LineSplitter::new(MAX_LINE);
    // When what is held is shown; nothing is waited for while nothing is held.
    let mut due = None;
    loop {
        let Some(read) = before(due, pipe.read(&mut chunk)).await else {
            splitter.show(|piece| log.write(piece));
            due = None;
            continue;
        };
        let given = match read {
            Ok(0) | Err(_) => break,
            Ok(n) => splitter.feed(&chunk[..n], |piece| log.write(piece)),
        };
        due = match due {
            _ if !splitter.is_holding() => None,
            Some(due) if !given => Some(due),
            _ => Some(Instant::now() + HELD),
        };
        // One flooding agent must not keep the others' readers from their turn.
        tokio::task::yield_now().await;
    }
    splitter.finish(|piece| log.write(piece));
    log.report_suppressed();
}

/// What a read gives before `due`; `None` when it gave nothing by then, and has taken nothing from its pipe.
async fn before<T>(due: Option<Instant>, read: impl Future<Output = T>) -> Option<T> {
    match due {
        Some(due) => timeout_at(due, read).await.ok(),
        None => Some(read.await),
    }
}

struct LineLog {
    source: Source,
    stream: &'static str,
    budget: Budget,
    reported: Option<Instant>,
    tail: Tail,
}

impl LineLog {
    fn write(&mut self, piece: Piece<'_>) {
        let now = Instant::now();
        let text = String::from_utf8_lossy(piece.bytes);
        self.tail.push(&text);
        if self.budget.take(piece.bytes.len() as u64 + LINE_COST, now) {
            let Source { organization, guild, agent, epoch, pid } = &self.source;
            info!(
                target: "agent",
                organization_id = %organization,
                guild_id = %guild,
                agent_id = %agent,
                epoch,
                pid,
                stream = self.stream,
                partial = piece.partial,
                continues = piece.continues,
                "{text}"
            );
        } else if self.reported.is_none_or(|reported| now - reported >= REPORT_EVERY) {
            self.reported = Some(now);
            self.report_suppressed();
        }
    }

    fn report_suppressed(&mut self) {
        let lines = self.budget.forget_suppressed();
        if lines > 0 {
            let Source { organization, guild, agent, epoch, pid } = &self.source;
            let stream = self.stream;
            warn!(
                organization_id = %organization,
                guild_id = %guild,
                agent_id = %agent,
                epoch,
                pid,
                stream,
                lines,
                "output over the limit left out"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    #[should_panic(expected = "no such line")]
    async fn a_reader_that_panics_is_noticed_by_whoever_looks_after_the_process() {
        let mut readers = JoinSet::new();
        readers.spawn(async {});
        readers.spawn(async { panic!("no such line") });
        Output { readers }.unread().await;
    }
}
