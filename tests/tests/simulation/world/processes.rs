//! Processes of agents on the world's machines, and the watchdogs.

use super::{Event, TICK, World};
use crate::{
    machine::Process,
    plan::Place,
    wires::{Born, LifeId},
};
use agent_host::{
    process::Signal,
    runtime::{Order, ProcessEvent, Report, StartTimes},
};
use rand::Rng as _;
use rustic_registry::{ExitStatus, OnDisconnect};
use tokio::sync::oneshot;

impl World {
    pub(crate) fn spawn(&mut self, from: LifeId, order: &Order, reply: oneshot::Sender<Born>) {
        let Place::Machine(machine) = self.slots[from].place else { return };
        let ends = order.launch.on_disconnect == OnDisconnect::Stop;
        if ends && self.machines[machine].is_over(self.now) {
            // The watchdog's handle refuses to watch it: it ends before it learns what it is.
            return;
        }
        self.next_pid += 1;
        let (pid, key) = (self.next_pid, order.launch.key.clone());
        self.checker.born(self.now, &self.machines, &key, order.epoch);
        let (stubborn, now) = (self.rng.random_bool(0.1), self.now);
        let (epoch, on_disconnect) = (order.epoch, order.launch.on_disconnect);
        let make = |events| Process { key, epoch, life: from, on_disconnect, born: now, stubborn, events };
        let born = self.machines[machine].make(pid, make);
        self.born += 1;
        self.note(|| format!("process {pid} of {} epoch {epoch} on machine {machine}", order.launch.key));
        let _ = reply.send(born);
        let ready = self.now + self.rng.random_range(20..400);
        if self.rng.random_bool(0.05) && !self.healed {
            self.at(ready, Event::Exit(machine, pid, ExitStatus::Code(1)));
        } else {
            self.at(ready, Event::Ready(machine, pid));
        }
    }

    pub(crate) fn process_acts(&mut self, machine: usize, pid: u32, exit: Option<ExitStatus>) {
        let there = &mut self.machines[machine];
        if there.frozen {
            let again = match exit {
                None => Event::Ready(machine, pid),
                Some(status) => Event::Exit(machine, pid, status),
            };
            return self.at(self.now + TICK, again);
        }
        let Some(status) = exit else {
            if let Some(process) = there.processes.get(&pid) {
                let _ = process.events.send(ProcessEvent::Report(Report::Ready(StartTimes::default(), None)));
            }
            return;
        };
        if let Some(process) = there.processes.remove(&pid) {
            // A process may take long to be reaped, as when it waits for a disk: nothing of it runs any more, and its host does not know.
            let reaped =
                if self.healed || !self.rng.random_bool(0.03) { 0 } else { self.rng.random_range(20..3_000) };
            self.at(self.now + reaped, Event::Reaped(process.events, status));
            self.note(|| format!("process {pid} of {} ends: {status}", process.key));
        }
    }

    pub(crate) fn signal(&mut self, from: LifeId, pid: u32, signal: Signal) {
        let Place::Machine(machine) = self.slots[from].place else { return };
        let Some(process) = self.machines[machine].processes.get(&pid) else { return };
        match signal {
            Signal::Kill => self.at(self.now, Event::Exit(machine, pid, ExitStatus::Signal(9))),
            Signal::Terminate if !process.stubborn => {
                let at = self.now + self.rng.random_range(1..400);
                self.at(at, Event::Exit(machine, pid, ExitStatus::Signal(15)));
            }
            Signal::Terminate => {}
        }
    }

    pub(crate) fn watchdogs_look(&mut self) {
        for machine in 0..self.machines.len() {
            for pid in self.machines[machine].doomed(self.now) {
                self.note(|| format!("the watchdog of machine {machine} kills {pid}"));
                self.process_acts(machine, pid, Some(ExitStatus::Signal(9)));
            }
        }
    }
}
