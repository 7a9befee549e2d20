//! The watchdog: a small process of its own that kills agents when this host no longer can.
//!
//! ```text
//!  agent-host ──watch(pidfd), forget, deadline──▶ watchdog ──SIGKILL──▶ agents
//!       │                                            │
//!       │ stopped, wedged: the deadline passes ──────┤ kills those that must not outlive the lease
//!       │ gone: the socket closes ───────────────────┘ kills all, waits for their end, ends; only then is the lock of
//!       │                                              the host's name free (`host_lock`). In both cases what they
//!       │                                              started goes with them, by its mark (`process::kin`)
//!       └ loses its watchdog, or one that does not listen: kills what is left of it, starts another at once, sends it
//!         everything, and starts no agent meanwhile
//! ```
//!
//! A watchdog may get the packet about an agent without the descriptor that stands for it, because it or the system has too
//! many open. It cannot watch that agent then. It ends, which harms no agent, and its replacement is sent everything anew.
//!
//! To a watchdog the end of its socket means that the host is gone. So the socket of one that is to be replaced stays open
//! until it has ended: its replacement must not cost the agents their lives.
//!
//! The deadline is TTL − margin after the moment *before* the last good renewal was sent, on CLOCK_BOOTTIME, which goes
//! on while a machine is suspended.

pub mod process;
mod wire;

use crate::process::{Child, Life, OnHostsEnd, Signal, Spawner};
use rustic_telemetry::{
    pulse::{self, Pulse},
    tasks::Tasks,
};
use rustix::time::ClockId;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::OwnedFd,
    process::{Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tracing::{error, info};
use wire::Message;

/// Word on the command line that makes this program a watchdog.
pub const WORD: &str = "watchdog";
/// Pause before a watchdog that ended at once is started again.
const PAUSE: Duration = Duration::from_millis(50);
/// Pause before a new watchdog that has much to read is sent more.
const READING: Duration = Duration::from_millis(1);
/// Longest time in which a new watchdog is sent all agents.
const BRIEFED: Duration = Duration::from_secs(5);
/// Longest wait of a start for a watchdog: a host that cannot start one, for want of processes, can start no agent either.
const AWAITED: Duration = Duration::from_secs(5);
/// Time in which a watchdog confirms a deadline; one that does not is frozen or wedged.
const CONFIRMS: Duration = Duration::from_secs(1);

/// A moment on CLOCK_BOOTTIME.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootTime(Duration);

impl BootTime {
    /// Now.
    pub fn now() -> Self {
        let now = rustix::time::clock_gettime(ClockId::Boottime);
        Self(Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0)))
    }

    /// The moment at which the machine had been up for so long.
    pub fn at(up: Duration) -> Self {
        Self(up)
    }

    /// How long the machine had been up then.
    pub fn up(self) -> Duration {
        self.0
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

/// A process that is watched.
struct Watchee {
    pid: u32,
    pidfd: OwnedFd,
    outlives: Outlives,
}

/// What the watchdog knows, and what another one must be sent when it is replaced.
#[derive(Default)]
struct Known {
    /// To the watchdog that is sent changes.
    socket: Option<OwnedFd>,
    /// To one that is sent nothing more, and has not ended yet.
    given_up: Option<OwnedFd>,
    /// By numbers of our own, which grow: the id of a process may be another one's before we learn that it was reaped.
    agents: BTreeMap<u64, Watchee>,
    /// The latest number.
    last: u64,
    deadline: Option<BootTime>,
    /// When the oldest deadline that is not confirmed was sent.
    unconfirmed: Option<Instant>,
}

/// Handle to the watchdog.
pub struct Watchdog {
    life: Life,
    known: Mutex<Known>,
    alive: watch::Sender<bool>,
}

/// Watchdogs that may end, one after the other, while one process is to be watched.
const TRIES: usize = 3;

/// An agent that is watched until this is dropped.
pub struct Watched {
    watchdog: Arc<Watchdog>,
    number: u64,
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut known = self.watchdog.known();
        known.agents.remove(&self.number);
        self.watchdog.send(&mut known, &Message::Forget { number: self.number }, None);
    }
}

impl Watchdog {
    /// Starts a watchdog for this `life` of the host and keeps one alive, as one of `tasks`. `lock` stays locked as long as it
    /// lives.
    pub fn start(spawner: Spawner, life: Life, lock: OwnedFd, tasks: &Tasks) -> Arc<Self> {
        let watchdog = Arc::new(Self { life, known: Mutex::default(), alive: watch::Sender::new(false) });
        // On cancel the socket is closed with the last handle, which ends the watchdog.
        tasks.spawn("the supervisor of the watchdog", watchdog.clone().keep(spawner, lock));
        watchdog
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is a watchdog. Errors: there is none for too long.
    pub async fn alive(&self) -> io::Result<()> {
        if *self.alive.borrow() {
            return Ok(());
        }
        // The sender is `self`: it cannot be gone.
        let mut alive = self.alive.subscribe();
        let waited = timeout(AWAITED, alive.wait_for(|alive| *alive)).await;
        waited.map(|_| ()).map_err(|_elapsed| io::Error::other("this host cannot start its watchdog"))
    }

    /// Has a process watched, by the next watchdog if this one ends meanwhile. Errors: none can be had; or the lease is over, as for a
    /// host that was frozen between the store's word and this.
    ///
    /// Cancel-safe: a process that is not watched yet is watched by nobody.
    pub async fn watch(self: &Arc<Self>, pid: u32, pidfd: OwnedFd, outlives: Outlives) -> io::Result<Watched> {
        let mut pidfd = Some(pidfd);
        for _ in 0..TRIES {
            self.alive().await?;
            if let Some(watched) = self.try_watch(pid, &mut pidfd, outlives)? {
                return Ok(watched);
            }
        }
        Err(io::Error::other("one watchdog after the other ended"))
    }

    /// Sends a process to the watchdog there is. `None`: it is being replaced.
    fn try_watch(
        self: &Arc<Self>,
        pid: u32,
        pidfd: &mut Option<OwnedFd>,
        outlives: Outlives,
    ) -> io::Result<Option<Watched>> {
        let mut known = self.known();
        let over = known.deadline.is_some_and(|deadline| deadline <= BootTime::now());
        if over && outlives == Outlives::Nothing {
            return Err(io::Error::other("the lease is over"));
        }
        known.last += 1;
        let number = known.last;
        let Some(pidfd) =
            pidfd.take_if(|pidfd| self.send(&mut known, &Message::Watch { number, pid, outlives }, Some(pidfd)))
        else {
            return Ok(None);
        };
        // Under the same lock: a watchdog that takes this one's place is sent all that is known.
        known.agents.insert(number, Watchee { pid, pidfd, outlives });
        Ok(Some(Watched { watchdog: self.clone(), number }))
    }

    /// Moves the moment at which agents that must not outlive the lease are killed.
    pub fn set_deadline(&self, deadline: BootTime) {
        let mut known = self.known();
        known.deadline = Some(deadline);
        if !known.is_heard() {
            let error = io::Error::from(io::ErrorKind::TimedOut);
            return self.give_up(&mut known, &error);
        }
        if self.send(&mut known, &Message::Deadline(deadline), None) {
            known.unconfirmed.get_or_insert_with(Instant::now);
        }
    }

    /// Sends to the watchdog, if there is one that listens. Returns whether it was sent.
    fn send(&self, known: &mut Known, message: &Message, descriptor: Option<&OwnedFd>) -> bool {
        let Some(socket) = &known.socket else { return false };
        let sent = message.send(socket, descriptor);
        if let Err(error) = &sent {
            self.give_up(known, error);
        }
        sent.is_ok()
    }

    fn give_up(&self, known: &mut Known, error: &io::Error) {
        error!(%error, "the watchdog cannot be reached; it is replaced");
        known.given_up = known.socket.take();
        self.alive.send_replace(false);
    }

    async fn keep(self: Arc<Self>, spawner: Spawner, lock: OwnedFd) {
        let pulse = Pulse::of("the supervisor of the watchdog", pulse::TURN);
        loop {
            // As long as the watchdog lives.
            match pulse.waits(self.run_one(&spawner, &lock)).await {
                Ok(end) => error!(end, "the watchdog is gone; starting another, no agent starts meanwhile"),
                Err(error) => error!(%error, "the watchdog cannot be started; no agent starts without it"),
            }
            sleep(PAUSE).await;
        }
    }

    /// Starts a watchdog, sends it everything, and waits for its end.
    async fn run_one(&self, spawner: &Spawner, lock: &OwnedFd) -> anyhow::Result<String> {
        let (ours, theirs) = wire::pair()?;
        let mut command = Command::new(std::env::current_exe()?);
        // The lock travels as standard output: nothing else of ours is open in the watchdog.
        command.args([WORD, &self.life.to_string()]).stdin(Stdio::from(theirs)).env_clear();
        let mut child = spawner.spawn_with(command, Stdio::from(lock.try_clone()?), OnHostsEnd::Outlives).await?;
        let served = match self.brief(ours).await {
            Ok(()) => self.serve(&mut child).await,
            Err(error) => end(&mut child).await.and(Err(error)),
        };
        // Not before it has ended: to it, a closed socket means that this host is gone.
        let mut known = self.known();
        (known.socket, known.given_up, known.unconfirmed) = (None, None, None);
        self.alive.send_replace(false);
        Ok(served?)
    }

    /// Sends a new watchdog everything; from then on it is sent changes. That agents are reaped meanwhile is sent as well; none is
    /// added, as there is no watchdog to watch it.
    async fn brief(&self, socket: OwnedFd) -> io::Result<()> {
        let began = Instant::now();
        let mut sent = BTreeSet::new();
        loop {
            {
                let mut known = self.known();
                match known.send_agents(&socket, &mut sent) {
                    Ok(()) => {
                        known.socket = Some(socket);
                        return Ok(());
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock && began.elapsed() < BRIEFED => {}
                    Err(error) => {
                        known.given_up = Some(socket);
                        return Err(error);
                    }
                }
            }
            // It reads as fast as it can; a descriptor in every packet fills a socket quickly.
            sleep(READING).await;
        }
    }

    /// Has a watchdog that knows everything do its work until it ends, or has to be replaced.
    async fn serve(&self, child: &mut Child) -> io::Result<String> {
        info!(pid = child.pid(), "the watchdog is ready");
        let mut alive = self.alive.subscribe();
        self.alive.send_replace(self.known().socket.is_some());
        // Cancel-safe: an end that was not waited for to the end is waited for again.
        tokio::select! {
            ended = child.ended() => return Ok(ended?.to_string()),
            _given_up = alive.wait_for(|alive| !alive) => {}
        }
        end(child).await
    }
}

async fn end(child: &mut Child) -> io::Result<String> {
    child.signal(Signal::Kill);
    Ok(child.ended().await?.to_string())
}

impl Known {
    /// Sends a watchdog the agents that `sent` does not name yet, has it forget those that were reaped since, and sends it the
    /// deadline. Errors: `WouldBlock` when its socket is full; `sent` says how far it came.
    fn send_agents(&self, socket: &OwnedFd, sent: &mut BTreeSet<u64>) -> io::Result<()> {
        for (number, Watchee { pid, pidfd, outlives }) in &self.agents {
            if !sent.contains(number) {
                Message::Watch { number: *number, pid: *pid, outlives: *outlives }.send(socket, Some(pidfd))?;
                sent.insert(*number);
            }
        }
        while let Some(number) = sent.iter().find(|number| !self.agents.contains_key(number)).copied() {
            Message::Forget { number }.send(socket, None)?;
            sent.remove(&number);
        }
        match self.deadline {
            Some(deadline) => Message::Deadline(deadline).send(socket, None),
            None => Ok(()),
        }
    }

    /// Whether the watchdog confirms in time the deadlines that it is sent.
    fn is_heard(&mut self) -> bool {
        let Some(socket) = &self.socket else { return true };
        while let Ok(Some((Message::Heard, _))) = Message::receive(socket) {
            self.unconfirmed = None;
        }
        self.unconfirmed.is_none_or(|since| since.elapsed() < CONFIRMS)
    }
}

#[cfg(test)]
mod tests;
