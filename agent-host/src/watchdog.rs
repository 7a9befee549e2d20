//! The watchdog: a small process of its own that kills agents when this host no longer can.
//!
//! ```text
//!  agent-host ──watch(pidfd), forget, deadline──▶ watchdog ──SIGKILL──▶ agents
//!       │                                            │
//!       │ stopped, wedged: the deadline passes ──────┤ kills those that must not outlive the lease
//!       │ gone: the socket closes ───────────────────┘ kills all, waits for their end, ends; only then is the lock of
//!       │                                              the host's name free (`succession`)
//!       └ loses its watchdog: starts another at once, tells it everything, and starts no agent meanwhile
//! ```
//!
//! The deadline is TTL − margin after the moment *before* the last good renewal was sent, on CLOCK_BOOTTIME, which goes
//! on while a machine is suspended.

pub mod process;
mod wire;

use crate::process::{OnHostsEnd, Spawner};
use rustix::time::ClockId;
use std::{
    collections::BTreeMap,
    io,
    os::fd::OwnedFd,
    process::{Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};
use wire::Message;

/// Word on the command line that makes this program a watchdog.
pub const WORD: &str = "watchdog";
/// Pause before a watchdog that ended at once is started again.
const PAUSE: Duration = Duration::from_millis(50);

/// A moment on CLOCK_BOOTTIME.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootTime(Duration);

impl BootTime {
    /// Now.
    pub fn now() -> Self {
        let now = rustix::time::clock_gettime(ClockId::Boottime);
        Self(Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0)))
    }
}

impl std::ops::Add<Duration> for BootTime {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0 + duration)
    }
}

/// Whether an agent may outlive the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outlives {
    /// It is killed at the deadline.
    Nothing,
    /// It lives on without a lease.
    Lease,
}

/// What the watchdog knows, or must be told when it is replaced.
#[derive(Default)]
struct Known {
    socket: Option<OwnedFd>,
    agents: BTreeMap<u32, (OwnedFd, Outlives)>,
    deadline: Option<BootTime>,
}

/// Handle to the watchdog.
pub struct Watchdog {
    known: Mutex<Known>,
    alive: watch::Sender<bool>,
}

/// An agent that is watched until this is dropped.
pub struct Watched {
    watchdog: Arc<Watchdog>,
    pid: u32,
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut known = self.watchdog.known();
        known.agents.remove(&self.pid);
        self.watchdog.tell(&mut known, &Message::Forget { pid: self.pid }, None);
    }
}

impl Watchdog {
    /// Starts a watchdog and keeps one alive until `stop`. `lock` stays locked as long as it lives.
    pub fn start(spawner: Spawner, lock: OwnedFd, stop: CancellationToken) -> Arc<Self> {
        let watchdog = Arc::new(Self { known: Mutex::default(), alive: watch::Sender::new(false) });
        let kept = watchdog.clone();
        // On cancel the socket is closed with the last handle, which ends the watchdog.
        tokio::spawn(async move { stop.run_until_cancelled(kept.keep(spawner, lock)).await });
        watchdog
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is a watchdog.
    pub async fn alive(&self) {
        // The sender is `self`: it cannot be gone.
        let _ = self.alive.subscribe().wait_for(|alive| *alive).await;
    }

    /// Has a process watched. Errors: there is no watchdog just now.
    pub fn watch(self: &Arc<Self>, pid: u32, pidfd: OwnedFd, outlives: Outlives) -> io::Result<Watched> {
        let mut known = self.known();
        let told = self.tell(&mut known, &Message::Watch { pid, outlives }, Some(&pidfd));
        if !told {
            return Err(io::Error::other("the watchdog is being replaced"));
        }
        known.agents.insert(pid, (pidfd, outlives));
        Ok(Watched { watchdog: self.clone(), pid })
    }

    /// Moves the moment at which agents that must not outlive the lease are killed.
    pub fn set_deadline(&self, deadline: BootTime) {
        let mut known = self.known();
        known.deadline = Some(deadline);
        self.tell(&mut known, &Message::Deadline(deadline), None);
    }

    /// Tells the watchdog, if there is one; one that cannot be told any more is being replaced.
    fn tell(&self, known: &mut Known, message: &Message, descriptor: Option<&OwnedFd>) -> bool {
        let Some(socket) = &known.socket else { return false };
        let told = message.send(socket, descriptor);
        if let Err(error) = &told {
            error!(%error, "the watchdog cannot be told; it is replaced");
            known.socket = None;
            self.alive.send_replace(false);
        }
        told.is_ok()
    }

    async fn keep(self: Arc<Self>, spawner: Spawner, lock: OwnedFd) {
        loop {
            match self.run_one(&spawner, &lock).await {
                Ok(end) => error!(end, "the watchdog is gone; starting another, no agent starts meanwhile"),
                Err(error) => error!(%error, "the watchdog cannot be started; no agent starts without it"),
            }
            self.known().socket = None;
            self.alive.send_replace(false);
            sleep(PAUSE).await;
        }
    }

    /// Starts a watchdog, tells it everything, and waits for its end.
    async fn run_one(&self, spawner: &Spawner, lock: &OwnedFd) -> anyhow::Result<String> {
        let (ours, theirs) = wire::pair()?;
        let mut command = Command::new(std::env::current_exe()?);
        // The lock travels as standard output: nothing else of ours is open in the watchdog.
        command.arg(WORD).stdin(Stdio::from(theirs)).env_clear();
        let mut child = spawner.spawn_with(command, Stdio::from(lock.try_clone()?), OnHostsEnd::Outlives).await?;
        {
            let mut known = self.known();
            let known = &mut *known;
            known.socket = Some(ours);
            for (pid, (pidfd, outlives)) in &known.agents {
                let message = Message::Watch { pid: *pid, outlives: *outlives };
                if let Some(socket) = &known.socket {
                    message.send(socket, Some(pidfd))?;
                }
            }
            if let (Some(socket), Some(deadline)) = (&known.socket, known.deadline) {
                Message::Deadline(deadline).send(socket, None)?;
            }
        }
        info!(pid = child.pid(), "the watchdog is ready");
        self.alive.send_replace(true);
        Ok(child.ended().await?.to_string())
    }
}
