//! What others see of an agent and may ask of it: its handle and its status. The task behind it does the work.

use super::{
    machine::{Ending, Event, StartFailure, StopPurpose},
    poison::Delivery,
    steps::StepTimes,
    unwanted::MemorySeen,
};
use crate::{
    confinement::Grant,
    output::Tail,
    process::{
        Mark, memory,
        usage::{self, Usage},
    },
    runtime::{Order, StatePage},
};
use rustic_proto::launch::Launch;
use rustic_registry::{
    AgentReason, Condition, Epoch, ExitStatus, MachineId, Phase, Resources, StoreLife, UnixMillis,
};
use std::{
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

/// How an agent is, as its task sees it.
#[derive(Debug, Clone)]
pub struct AgentStatus {
    /// Where it is in its life.
    pub phase: Phase,
    /// The store acknowledged the claim.
    pub admitted: bool,
    /// Its process.
    pub pid: Option<u32>,
    /// The directory that belongs to its process.
    pub directory: Option<Arc<Path>>,
    /// Where its process says what it is at work on.
    pub page: Option<StatePage>,
    /// By what the processes of its run are known.
    pub mark: Option<Mark>,
    /// Restarts so far.
    pub restarts: u32,
    /// Why it is in this phase; `None` when all is well.
    pub condition: Option<Condition>,
    /// How its last process ended, and when on this host's clock.
    pub last_exit: Option<(ExitStatus, UnixMillis)>,
    /// When it last became RUNNING.
    pub running: Option<UnixMillis>,
    /// How often it became RUNNING; a watcher that only sees the latest status cannot miss it.
    pub times_running: u64,
    /// Steps of the latest start.
    pub times: StepTimes,
    /// Why the latest start was a cold one, though there is a zygote; empty: it was not.
    pub cold_reason: String,
    /// What its latest process may reach, if that is known.
    pub grant: Option<Grant>,
    /// The store life that has its record.
    pub written_to: Option<StoreLife>,
    /// The store cannot be written at the moment, and why.
    pub trouble: Option<String>,
    /// Why it failed without ever having been ready, if that is so.
    pub wrong: Option<StartFailure>,
    /// How it ended, once it has.
    pub ending: Option<Ending>,
}

impl AgentStatus {
    /// A claimed agent of which nothing is written yet. `claim`: how long the host's own claim took; `written_to`: the store life
    /// that has it.
    pub(super) fn new(claim: Option<Duration>, written_to: Option<StoreLife>) -> Self {
        Self {
            phase: Phase::Starting,
            admitted: false,
            pid: None,
            directory: None,
            page: None,
            mark: None,
            restarts: 0,
            condition: None,
            last_exit: None,
            running: None,
            times_running: 0,
            times: StepTimes { claim, ..StepTimes::default() },
            cold_reason: String::new(),
            grant: None,
            written_to,
            trouble: None,
            wrong: None,
            ending: None,
        }
    }
}

/// Handle to an agent's task.
#[derive(Clone)]
pub struct AgentHandle {
    /// The launch.
    pub launch: Arc<Launch>,
    /// Its fencing token.
    pub epoch: Epoch,
    /// For rusticai-core's id generator.
    pub machine_id: MachineId,
    /// What it takes of this host.
    pub takes: Resources,
    /// When the task began.
    pub created: UnixMillis,
    /// Its last lines of output.
    pub tail: Tail,
    commands: mpsc::Sender<Event>,
    status: watch::Receiver<AgentStatus>,
    callers: Callers,
    memory: LastMemory,
}

/// Memory of an agent's process as it was seen last: all that is known of one that the kernel killed.
#[derive(Debug, Clone, Default)]
pub(super) struct LastMemory(Arc<Mutex<Option<(u64, Instant)>>>);

impl LastMemory {
    pub(super) fn saw(&self, bytes: u64) {
        *self.lock() = Some((bytes, Instant::now()));
    }

    /// What was seen, and forgets it: the next process has memory of its own.
    pub(super) fn take(&self) -> Option<MemorySeen> {
        self.lock().take().map(|(bytes, at)| MemorySeen { bytes, ago: at.elapsed() })
    }

    fn lock(&self) -> MutexGuard<'_, Option<(u64, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many wait for an agent to run. When the number goes to or from none, the agent's task gets a hint and reads the number:
/// the hint may be older than the latest caller.
#[derive(Debug, Clone, Default)]
pub(super) struct Callers(Arc<AtomicUsize>);

impl Callers {
    /// Whether anybody waits now.
    pub(super) fn any(&self) -> bool {
        self.0.load(Ordering::SeqCst) > 0
    }
}

/// Somebody who waits for an agent to run. When the last one is dropped, a start that has not begun is given up.
pub struct Caller {
    handle: AgentHandle,
}

impl Drop for Caller {
    fn drop(&mut self) {
        if self.handle.callers.0.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.handle.hint_awaited(false);
        }
    }
}

impl AgentHandle {
    /// A handle, and what its task needs: where commands arrive, and where its status is shown.
    pub(super) fn new(
        order: &Order,
        status: AgentStatus,
        created: UnixMillis,
    ) -> (Self, mpsc::Receiver<Event>, watch::Sender<AgentStatus>) {
        let (commands, inbox) = mpsc::channel(16);
        let (status, shown) = watch::channel(status);
        let handle = Self {
            launch: order.launch.clone(),
            epoch: order.epoch,
            machine_id: order.machine_id,
            takes: order.takes.clone(),
            created,
            tail: Tail::default(),
            commands,
            status: shown,
            callers: Callers::default(),
            memory: LastMemory::default(),
        };
        (handle, inbox, status)
    }

    /// How the agent is now.
    pub fn status(&self) -> AgentStatus {
        self.status.borrow().clone()
    }

    /// Waits until `wanted` holds, or the task has ended.
    pub async fn wait(&self, mut wanted: impl FnMut(&AgentStatus) -> bool) -> AgentStatus {
        let mut status = self.status.clone();
        // An error means that the task is gone, and then its last status says how it ended.
        let _ = status.wait_for(|s| s.ending.is_some() || wanted(s)).await;
        status.borrow().clone()
    }

    /// Waits for the agent to run, from the task's point of view, until the caller is dropped.
    pub fn call(&self) -> Caller {
        if self.callers.0.fetch_add(1, Ordering::SeqCst) == 0 {
            self.hint_awaited(true);
        }
        Caller { handle: self.clone() }
    }

    /// For its task, to see whether anybody waits.
    pub(super) fn callers(&self) -> Callers {
        self.callers.clone()
    }

    /// For its task, to report how much a process had that was killed.
    pub(super) fn memory(&self) -> LastMemory {
        self.memory.clone()
    }

    /// Notes how much memory its process has now.
    pub fn look_at_memory(&self) {
        let Some(pid) = self.status().pid else { return };
        let bytes = memory::resident(pid);
        // A process that was reaped meanwhile may have given its id to another.
        if let Some(bytes) = bytes.filter(|_| self.status().pid == Some(pid)) {
            self.memory.saw(bytes);
        }
    }

    fn hint_awaited(&self, awaited: bool) {
        // A task that has ended needs no such hint. One that has more to do than it can take reads the number of callers at
        // an earlier one, or does not give up a start that it could: the hint only saves work.
        let _ = self.commands.try_send(Event::Awaited(awaited));
    }

    /// What its process uses now; `None` while it has none.
    pub async fn usage(&self) -> Option<Usage> {
        let AgentStatus { pid, directory, .. } = self.status();
        let pid = pid?;
        let usage = usage::of(pid, directory).await?;
        // A process that was reaped meanwhile may have given its id to another.
        (self.status().pid == Some(pid)).then_some(usage)
    }

    /// Bytes that its directories take on disk, at least; `None` while it has no process.
    pub async fn scratch(&self) -> Option<u64> {
        usage::scratch_of(self.status().directory?).await
    }

    /// The message that a handler of it has now.
    pub fn at_work(&self) -> Option<Delivery> {
        self.status.borrow().page.as_ref()?.at_work()
    }

    /// Asks the agent to end.
    pub async fn stop(&self, kind: StopPurpose, grace: Duration) {
        // Fails only when the task has ended, which is what was asked for.
        let _ = self.commands.send(Event::Stop(kind, grace)).await;
    }

    /// Ends the agent's process, if it runs: it uses more than it may. Its restart policy decides what follows.
    pub async fn kill(&self, reason: AgentReason, why: String) {
        let _ = self.commands.send(Event::Kill(reason, why)).await;
    }

    /// Notifies the agent that its claim is not this host's any more.
    pub async fn supersede(&self) {
        let _ = self.commands.send(Event::Lost).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustic_proto::agent::v1::{AgentLaunch, CommandRuntime, Runtime, runtime::Kind};
    use std::thread;

    fn handle() -> (AgentHandle, mpsc::Receiver<Event>) {
        let command = CommandRuntime { argv: vec!["true".to_owned()] };
        let message = AgentLaunch {
            agent_spec: r#"{"id": "a", "name": "A"}"#.to_owned(),
            guild_spec: r#"{"id": "g"}"#.to_owned(),
            runtime: Some(Runtime { kind: Some(Kind::Command(command)) }),
            ..AgentLaunch::default()
        };
        let launch = Arc::new(Launch::check(Some(message.into())).expect("a valid launch"));
        let order = Order {
            launch,
            epoch: Epoch(1),
            machine_id: MachineId::FIRST,
            takes: Resources::one_slot(),
            skip: vec![],
            state: None,
            memory: None,
        };
        let (handle, inbox, _status) = AgentHandle::new(&order, AgentStatus::new(None, None), UnixMillis(0));
        (handle, inbox)
    }

    #[test]
    fn a_caller_that_comes_while_the_last_one_leaves_is_awaited() {
        let (handle, mut inbox) = handle();
        let callers = handle.callers();
        drop(handle.call());
        let _stays = handle.call();
        // The task reads only now that the former caller left.
        while inbox.try_recv().is_ok() {
            assert!(callers.any(), "the second one waits");
        }
    }

    #[test]
    fn whatever_callers_do_the_last_hint_says_what_is_so() {
        for stays in [true, false] {
            let (handle, mut inbox) = handle();
            let callers = handle.callers();
            let mut believes = None;
            thread::scope(|scope| {
                let coming_and_going = |stays: bool| {
                    let handle = handle.clone();
                    move || {
                        (0..2_000).for_each(|_| drop(handle.call()));
                        stays.then(|| handle.call())
                    }
                };
                let threads = [scope.spawn(coming_and_going(stays)), scope.spawn(coming_and_going(false))];
                while threads.iter().any(|thread| !thread.is_finished()) {
                    if inbox.try_recv().is_ok() {
                        believes = Some(callers.any());
                    }
                }
                let last = threads.map(|thread| thread.join().expect("it does not panic"));
                while inbox.try_recv().is_ok() {
                    believes = Some(callers.any());
                }
                assert_eq!(callers.any(), stays);
                drop(last);
            });
            assert_eq!(believes, Some(stays));
        }
    }
}
