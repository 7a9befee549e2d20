//! A machine: the processes of agents, and the watchdog that guards them whatever becomes of their host.

use crate::wires::{Born, LifeId};
use agent_host::{runtime::ProcessEvent, watchdog::BootTime};
use rustic_registry::{AgentKey, Epoch, Incarnation, OnDisconnect};
use std::{collections::BTreeMap, time::Duration};
use tokio::sync::mpsc;

/// A process of an agent.
pub(crate) struct Process {
    pub(crate) key: AgentKey,
    pub(crate) epoch: Epoch,
    /// The host's life that started it.
    pub(crate) life: LifeId,
    pub(crate) on_disconnect: OnDisconnect,
    /// The world's time when it was made.
    pub(crate) born: u64,
    /// Heeds no SIGTERM.
    pub(crate) stubborn: bool,
    pub(crate) events: mpsc::UnboundedSender<ProcessEvent>,
}

/// A machine.
pub(crate) struct Machine {
    pub(crate) rate: f64,
    pub(crate) frozen: bool,
    /// The host's life on it.
    pub(crate) life: Option<LifeId>,
    /// What the lock file of the host's name says.
    pub(crate) lock: Option<Incarnation>,
    /// The epoch that stands there too.
    pub(crate) kept_epoch: Epoch,
    /// When processes that must not outlive the lease are killed, on this machine's boot clock.
    pub(crate) deadline: Option<BootTime>,
    pub(crate) processes: BTreeMap<u32, Process>,
}

impl Machine {
    /// Just switched on.
    pub(crate) fn new(rate: f64) -> Self {
        Self {
            rate,
            frozen: false,
            life: None,
            lock: None,
            kept_epoch: Epoch(0),
            deadline: None,
            processes: BTreeMap::new(),
        }
    }

    /// Makes a process.
    pub(crate) fn make(
        &mut self,
        pid: u32,
        process: impl FnOnce(mpsc::UnboundedSender<ProcessEvent>) -> Process,
    ) -> Born {
        let (events, heard) = mpsc::unbounded_channel();
        self.processes.insert(pid, process(events));
        (pid, heard)
    }

    /// Whether processes that must not outlive the lease may not be, at the world's `now`.
    pub(crate) fn is_over(&self, now: u64) -> bool {
        let boot = BootTime::at(Duration::from_millis((now as f64 * self.rate) as u64));
        self.deadline.is_some_and(|deadline| deadline <= boot)
    }

    /// Processes that the watchdog kills at the world's `now`: all when the host is gone, those that must not outlive the
    /// lease when it is over.
    pub(crate) fn doomed(&self, now: u64) -> Vec<u32> {
        if self.frozen {
            return vec![];
        }
        let over = self.is_over(now);
        let dies = |p: &Process| Some(p.life) != self.life || (over && p.on_disconnect == OnDisconnect::Stop);
        self.processes.iter().filter(|(_, p)| dies(p)).map(|(pid, _)| *pid).collect()
    }
}
