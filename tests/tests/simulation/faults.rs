//! What befalls the world, and how it is mended.

use crate::{
    ambient,
    client::Client,
    machine::Machine,
    plan::{Fault, Place},
    wires::LifeId,
    world::{Event, World, host_id},
};
use futures_util::FutureExt as _;
use rand::Rng as _;
use rustic_registry::Registry as _;
use rustic_registry::{AgentKey, Cordon, ExitStatus};

/// The end of a fault.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Healing {
    BeginHost(usize),
    BeginEngine(usize),
    ResumeHost(LifeId),
    Thaw(usize),
    Join(Place, Place),
    Uncordon(usize),
    /// A client wants something else.
    ChangesMind(usize),
}

impl World {
    pub(crate) fn strike(&mut self, fault: Fault) {
        self.note(|| format!("FAULT {fault:?}"));
        match fault {
            Fault::KillHost { host, back } => {
                if let Some(life) = self.machines[self.machine_of[host]].life {
                    self.end_life(life);
                    self.at(self.now + back, Event::Heal(Healing::BeginHost(host)));
                }
            }
            Fault::EndHost { host, .. } => {
                let life = self.machines[self.machine_of[host]].life;
                if let Some(life) = life.and_then(|life| self.slots[life].life.as_ref()) {
                    life.hand(crate::lives::Inbound::Terminate);
                }
            }
            Fault::StopHost { host, lasts } => {
                if let Some(id) = self.machines[self.machine_of[host]].life
                    && let Some(life) = &mut self.slots[id].life
                {
                    life.stop();
                    self.at(self.now + lasts, Event::Heal(Healing::ResumeHost(id)));
                }
            }
            Fault::Freeze { host, lasts } => {
                let machine = self.machine_of[host];
                self.machines[machine].frozen = true;
                if let Some(life) = self.machines[machine].life.and_then(|id| self.slots[id].life.as_mut()) {
                    life.stop();
                }
                self.at(self.now + lasts, Event::Heal(Healing::Thaw(machine)));
            }
            Fault::Replace { host, back } => self.replace(host, back),
            Fault::KillEngine { engine, back } => {
                self.end_life(self.engines[engine]);
                self.at(self.now + back, Event::Heal(Healing::BeginEngine(engine)));
            }
            Fault::Cut { between: (a, b), lasts } => {
                self.cuts.push((a, b));
                self.at(self.now + lasts, Event::Heal(Healing::Join(a, b)));
            }
            // Stopped twice, it goes on when the longer one is over: what came first is not overtaken by what came later.
            Fault::StopStore { lasts } => {
                self.store_stopped_until = self.store_stopped_until.max(self.now + lasts);
            }
            Fault::Wipe => {
                let remembered = |c: &&Client| self.is_remembered(&c.key);
                let remembered: Vec<_> = self.clients.iter().filter(remembered).map(|c| c.key.clone()).collect();
                self.store.wipe();
                self.store_forgot(&remembered);
            }
            Fault::RollBack { operations, down } => {
                self.store_down_until = self.now + down;
                let back = self.history.len().saturating_sub(operations);
                if let Some(snapshot) = self.history.drain(..).nth(back) {
                    self.store.restart_from(snapshot);
                }
                self.store_forgot(&[]);
            }
            Fault::Cordon { host, lasts } => {
                self.cordon(host, Cordon::On);
                self.at(self.now + lasts, Event::Heal(Healing::Uncordon(host)));
            }
            Fault::StepClocks { store, others } => {
                self.store_steps(store);
                ambient::step_wall(others);
            }
            Fault::Crash { agent } => {
                let key = self.clients.get(agent).map(|client| client.key.clone());
                let found = self.machines.iter().enumerate().find_map(|(m, machine)| {
                    let mut here = machine.processes.iter().filter(|(_, p)| Some(&p.key) == key.as_ref());
                    here.next().map(|(pid, _)| (m, *pid))
                });
                if let Some((machine, pid)) = found {
                    self.at(self.now, Event::Exit(machine, pid, ExitStatus::Code(3)));
                }
            }
        }
    }

    fn replace(&mut self, host: usize, back: u64) {
        let old = self.machine_of[host];
        let others = [Place::Store].into_iter().chain((0..self.plan.engines).map(Place::Engine));
        let cuts: Vec<_> = others.map(|other| (Place::Machine(old), other)).collect();
        self.cuts.extend(cuts);
        let rate = self.rng.random_range(0.95..1.05);
        self.machines.push(Machine::new(rate));
        self.machine_of[host] = self.machines.len() - 1;
        self.at(self.now + back, Event::Heal(Healing::BeginHost(host)));
        // The partition heals some time: the old life then learns that it is superseded.
        let healed = self.now + back + self.rng.random_range(500..6_000);
        self.at(healed, Event::Heal(Healing::Join(Place::Machine(old), Place::Store)));
        for engine in 0..self.plan.engines {
            self.at(healed, Event::Heal(Healing::Join(Place::Machine(old), Place::Engine(engine))));
        }
    }

    fn cordon(&mut self, host: usize, cordon: Cordon) {
        let done = self.store.cordon(&host_id(host), cordon).now_or_never();
        done.expect("it never waits").expect("it never fails");
    }

    /// The store has lost data. Hosts report the agents that run, and engines restore those that they remember; others are asked for anew
    /// by whoever wanted them, and what was stopped may be back.
    fn store_forgot(&mut self, remembered: &[AgentKey]) {
        self.forgot_with_silent_hosts |= self.plan.silences();
        for n in 0..self.clients.len() {
            let key = self.clients[n].key.clone();
            let life = self.processes().find(|(_, p)| p.key == key).map(|(_, p)| p.life);
            match life.filter(|life| self.slots[*life].life.is_some()) {
                Some(life) => _ = self.unreported.insert(key, life),
                None if remembered.contains(&key) => self.remembered += 1,
                None => self.clients[n].forgotten(),
            }
            self.clients[n].doubts(self.now);
        }
    }

    pub(crate) fn heal(&mut self, healing: Healing) {
        self.note(|| format!("healed: {healing:?}"));
        match healing {
            Healing::BeginHost(host) => {
                let machine = &self.machines[self.machine_of[host]];
                // The lock of the host's name is free when the last agent of the former life has ended.
                if machine.frozen || !machine.processes.is_empty() {
                    return self.at(self.now + 50, Event::Heal(Healing::BeginHost(host)));
                }
                if machine.life.is_none() {
                    self.begin_host(host);
                }
            }
            Healing::BeginEngine(engine) => {
                if self.slots[self.engines[engine]].life.is_none() {
                    self.begin_engine(engine);
                }
            }
            Healing::ResumeHost(id) => {
                let frozen = matches!(self.slots[id].place, Place::Machine(m) if self.machines[m].frozen);
                if let Some(life) = self.slots[id].life.as_mut().filter(|_| !frozen) {
                    life.resume(self.now);
                }
            }
            Healing::Thaw(machine) => self.thaw(machine),
            Healing::Join(a, b) => {
                if let Some(n) = self.cuts.iter().position(|cut| *cut == (a, b)) {
                    self.cuts.remove(n);
                }
            }
            Healing::Uncordon(host) => self.cordon(host, Cordon::Off),
            Healing::ChangesMind(agent) => self.clients[agent].change(),
        }
    }

    /// The watchdog wakes with the agents, and looks before they are looked at: what it kills in the same instant is the
    /// limit that `docs/guarantees.md` describes.
    fn thaw(&mut self, machine: usize) {
        self.machines[machine].frozen = false;
        self.watchdogs_look();
        let keys: Vec<_> = self.machines[machine].processes.values().map(|p| p.key.clone()).collect();
        for key in keys {
            self.checker.one_process(self.now, &self.machines, &key, 1);
        }
        if let Some(life) = self.machines[machine].life.and_then(|id| self.slots[id].life.as_mut()) {
            life.resume(self.now);
        }
    }

    /// A host drained and left, or found that another has its name.
    pub(crate) fn ended_by_itself(&mut self, id: LifeId) {
        let Place::Machine(machine) = self.slots[id].place else { return };
        self.end_life(id);
        if let Some(host) = self.machine_of.iter().position(|m| *m == machine) {
            let back = self.rng.random_range(50..3_000);
            self.at(self.now + back, Event::Heal(Healing::BeginHost(host)));
        }
    }

    /// Faults are over: everything that is down comes back, and nothing is lost any more.
    pub(crate) fn mend(&mut self) {
        self.note(|| "everything is mended".to_owned());
        self.healed = true;
        self.clients.iter_mut().for_each(Client::be_patient);
    }
}
