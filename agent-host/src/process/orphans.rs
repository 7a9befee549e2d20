//! Ends what agents leave behind, and reaps it.
//!
//! This process is a child subreaper: what loses its parent below an agent becomes ours. Its mark shows whose it is
//! ([`super::mark`]), whatever it did to its session, its parents and its environment.
//!
//! ```text
//!                        ┌ run lives ──────▶ spared: a daemon of an agent that lives
//!  child of ours that    │ run has ended ──▶ killed with all below it, until a look finds none
//!  no agent task has ────┤ no run's mark ──▶ killed as well: it has tampered with its mark
//!                        │ no mark ────────▶ spared: nothing of an agent's
//!                        └ ended ──────────▶ reaped, unless it may be a child that is just being made for us
//! ```
//!
//! All of a run hangs below us at any time: what is killed gives us its children before it is a zombie, and those are found
//! by the next look. So a run is over when a look finds nothing of it; only then does its agent start again ([`Kin::end`]).
//!
//! What it costs: an end that is nobody's is found by the kernel (`reap`), children are listed once for each end of a run or
//! for many at once (`sweep`), and only marks of children that no agent task has are read.

use super::{
    child::Child,
    mark::{self, Life, Mark},
    table::{self, Fate, Ticks},
};
use futures_util::FutureExt as _;
use rustic_telemetry::{
    pulse::{self, Pulse},
    tasks::{self, Tasks},
};
use rustix::process::{self, Pid, PidfdFlags, pidfd_open};
use std::{
    collections::{BTreeMap, HashSet},
    io,
    panic::{AssertUnwindSafe, resume_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{Notify, watch},
    task::spawn_blocking,
    time::{sleep, timeout},
};
use tracing::{info, warn};

/// Longest wait for the end of what was killed. It takes milliseconds, or it hangs in the kernel.
const GONE: Duration = Duration::from_secs(1);
/// Shortest and longest pause before what should be gone is looked for again; an end is noticed at once.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(1));

/// Who is looked after by an agent task, and the runs that live.
pub struct Orphans {
    life: Life,
    /// Without it nobody can recognize what outlives its agent.
    can_mark: bool,
    state: Mutex<State>,
    /// There is something to do for the sweeper.
    wake: Notify,
    swept: watch::Sender<Swept>,
}

#[derive(Default)]
pub(super) struct State {
    managed: HashSet<Pid>,
    /// When somebody began to make a child for us, by number. One that ended since may be that child, and its exit status is
    /// wanted.
    expected: BTreeMap<u64, Ticks>,
    expectations: u64,
    living: HashSet<Mark>,
    /// A run ended that the last look has not seen.
    run_ended: bool,
    looks: u64,
}

/// What a look at our children found.
#[derive(Debug, Default)]
struct Swept {
    look: u64,
    /// Marks of what was there and must not be.
    left: HashSet<Mark>,
    killed: usize,
}

impl State {
    /// Forgets a process that its handle has reaped, or gives up.
    pub(super) fn forget(&mut self, pid: Pid) {
        self.managed.remove(&pid);
    }

    fn is_spared(&self, mark: Option<Mark>) -> bool {
        mark.is_none_or(|mark| self.living.contains(&mark))
    }

    /// Whether an ended child, which no task has, may be one that is just being made.
    fn is_expected(&self, born: Option<Ticks>, mark: Option<Mark>) -> bool {
        // Of the same tick as the expectation: nobody knows.
        let born_since = |begun: &Ticks| born.is_none_or(|born| born >= *begun);
        self.is_spared(mark) && self.expected.values().next().is_some_and(born_since)
    }
}

impl Orphans {
    /// Nobody's children so far.
    pub fn new(life: Life) -> Arc<Self> {
        let can_mark = mark::possible();
        if !can_mark {
            warn!(
                "this system does not let processes be marked (RLIMIT_LOCKS); what leaves an agent's session may outlive it"
            );
        }
        let (state, wake, swept) = (Mutex::default(), Notify::new(), watch::Sender::default());
        Arc::new(Self { life, can_mark, state, wake, swept })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something became nobody's.
    pub(super) fn look(&self) {
        self.wake.notify_one();
    }

    /// Announces that a child of ours is about to appear that nobody manages yet.
    pub fn expect(self: &Arc<Self>) -> Expected {
        let mut state = self.lock();
        state.expectations += 1;
        let number = state.expectations;
        state.expected.insert(number, Ticks::now());
        Expected { orphans: self.clone(), number }
    }

    /// A run begins: what carries its mark may live.
    pub fn begin(self: &Arc<Self>, run: u64) -> Kin {
        let mark = self.can_mark.then(|| self.life.mark(run));
        self.lock().living.extend(mark);
        Kin { orphans: self.clone(), mark }
    }

    /// Becomes the subreaper and looks after orphans, as one of `tasks`.
    pub fn start(self: &Arc<Self>, tasks: &Tasks) -> io::Result<()> {
        process::set_child_subreaper(Some(process::getpid()))?;
        let ended = signal(SignalKind::child())?;
        tasks.spawn("the reaper of orphans", self.clone().look_after(ended));
        Ok(())
    }

    async fn look_after(self: Arc<Self>, mut ended: Signal) {
        let mut again: Option<Duration> = None;
        let pulse = Pulse::of("the reaper of orphans", pulse::TURN);
        loop {
            let pause = async {
                match again {
                    Some(pause) => sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            // All arms are cancel-safe: a signal or a wake that is missed here is still there at the next turn.
            let next = async {
                tokio::select! {
                    _ = ended.recv() => {}
                    () = self.wake.notified() => {}
                    () = pause => {}
                }
            };
            pulse.waits(next).await;
            self.reap();
            if again.is_none() && !std::mem::take(&mut self.lock().run_ended) {
                continue;
            }
            let orphans = self.clone();
            // Where reading the marks of an agent's thousand daemons holds up nobody.
            let swept = match spawn_blocking(move || orphans.sweep()).await {
                Ok(Ok(swept)) => swept,
                Ok(Err(error)) => {
                    warn!(%error, "child processes cannot be listed; what agents leave is not ended");
                    again = Some(LOOK_AGAIN.1);
                    continue;
                }
                Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
            };
            again = match (swept.left.is_empty(), again) {
                (true, _) => None,
                (false, None) => Some(LOOK_AGAIN.0),
                (false, Some(pause)) => Some((pause * 2).min(LOOK_AGAIN.1)),
            };
            self.swept.send_replace(swept);
        }
    }

    /// Waits, for a while, until a look after number `begun` finds nothing of a run that is over. Returns whether one did.
    async fn nothing_left(&self, mark: Mark, begun: u64) -> bool {
        self.lock().run_ended = true;
        self.look();
        let strange = |left: &Mark| *left == mark || left.life() != mark.life();
        let mut swept = self.swept.subscribe();
        let gone = swept.wait_for(|swept| swept.look > begun && !swept.left.iter().any(strange));
        timeout(GONE, gone).await.is_ok()
    }

    /// Reaps what has ended and is nobody's. It stops at one that somebody else reaps: who does looks again.
    fn reap(&self) {
        while let Some(pid) = table::ended_child() {
            let (born, mark) = (Ticks::of_birth(pid), Mark::of(pid));
            let state = self.lock();
            if state.managed.contains(&pid) || state.is_expected(born, mark) {
                return;
            }
            table::reap(pid);
        }
    }

    /// Looks once at all children that no task has, and kills those that must not be there, with what is below them.
    fn sweep(&self) -> io::Result<Swept> {
        let (look, nobodys) = {
            // Under the lock, so that nobody is reaped meanwhile and no child is missed.
            let mut state = self.lock();
            state.looks += 1;
            let children = table::own_children()?;
            let nobodys: Vec<_> = children.into_iter().filter(|pid| !state.managed.contains(pid)).collect();
            (state.looks, nobodys)
        };
        let mut swept = Swept { look, ..Swept::default() };
        for pid in nobodys {
            let Some(mark) = Mark::of(pid).filter(|mark| !self.lock().is_spared(Some(*mark))) else { continue };
            match table::reap(pid) {
                // Listed while a task had it, which has reaped it since: whoever has its id now is not meant.
                Fate::Gone => {}
                // Its children may have come after the list was read.
                Fate::Reaped => _ = swept.left.insert(mark),
                Fate::Lives => {
                    swept.left.insert(mark);
                    swept.killed += self.kill_with_all_below(pid);
                }
            }
        }
        if swept.killed > 0 {
            info!(processes = swept.killed, "killed what an ended agent had left");
        }
        Ok(swept)
    }

    /// Kills a child and what is below it, as far as it can be seen; what cannot becomes ours with its parent's end.
    fn kill_with_all_below(&self, child: Pid) -> usize {
        let (mut next, mut killed) = (vec![child], 0);
        while let Some(pid) = next.pop() {
            // Whoever has the id when its mark is read is who is killed, or nobody.
            let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
            let mark = Mark::of(pid);
            if mark.is_some() && !self.lock().is_spared(mark) {
                killed += usize::from(process::pidfd_send_signal(&pidfd, process::Signal::KILL).is_ok());
            }
            next.extend(table::children(pid));
        }
        killed
    }
}

/// All processes of one run, whatever became of their parents. Dropping it ends them.
pub struct Kin {
    orphans: Arc<Orphans>,
    mark: Option<Mark>,
}

impl Kin {
    /// By what its processes are known; `None` where that is not possible.
    pub fn mark(&self) -> Option<Mark> {
        self.mark
    }

    /// Ends what is left of a run whose first process was reaped, and waits until it is gone: for a second, as what hangs in
    /// the kernel must not hold up the agent for ever.
    pub async fn end(&self) {
        let Some((mark, begun)) = self.give_up() else { return };
        if !self.orphans.nothing_left(mark, begun).await {
            warn!("what an agent had started cannot be killed within {GONE:?}; its next life may meet it");
        }
    }

    /// Makes a process of this run by `make`. When that panics, it gives the message of the panic once it is certain that nothing of
    /// the run is left. Where that is not certain, the panic goes on.
    pub async fn contain<T>(self, make: impl AsyncFnOnce(Self) -> T) -> Result<T, String> {
        let (orphans, mark) = (self.orphans.clone(), self.mark);
        let panic = match AssertUnwindSafe(make(self)).catch_unwind().await {
            Ok(made) => return Ok(made),
            // What it had made was dropped, and with it killed.
            Err(panic) => panic,
        };
        let begun = orphans.lock().looks;
        match mark {
            Some(mark) if orphans.nothing_left(mark, begun).await => Err(tasks::message(&*panic)),
            // Not known by anything, or not to be killed.
            _ => resume_unwind(panic),
        }
    }

    /// Its processes may not live any more. Returns how many looks had begun before; `None` when that was said already.
    fn give_up(&self) -> Option<(Mark, u64)> {
        let mark = self.mark?;
        let mut state = self.orphans.lock();
        if !state.living.remove(&mark) {
            return None;
        }
        state.run_ended = true;
        let looks = state.looks;
        drop(state);
        self.orphans.look();
        Some((mark, looks))
    }
}

impl Drop for Kin {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// A child that is about to appear. Dropping it lets the reaper go on.
pub struct Expected {
    orphans: Arc<Orphans>,
    number: u64,
}

impl Expected {
    /// Takes the child that appeared; from now on only its handle reaps it.
    pub fn adopt(self, pid: u32) -> io::Result<Child> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| io::Error::other("no process id"))?;
        let pidfd = pidfd_open(pid, PidfdFlags::NONBLOCK)?;
        self.orphans.lock().managed.insert(pid);
        Ok(Child::new(pid, pidfd, self.orphans.clone()))
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.orphans.lock().expected.remove(&self.number);
        self.orphans.look();
    }
}

#[cfg(test)]
mod tests;
