//! Holds a run to the promises, at every step and at its end.

use crate::{machine::Machine, plan::Plan, world::World};
use rustic_registry::{AgentKey, AgentReason, AgentRecord, Epoch, Phase};
use std::{collections::BTreeMap, fmt};

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Broken {
    pub(crate) promise: &'static str,
    pub(crate) at: u64,
    pub(crate) what: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {} ms: {}", self.promise, self.at, self.what)
    }
}

/// What is remembered from step to step.
#[derive(Default)]
pub(crate) struct Checker {
    pub(crate) broken: Option<Broken>,
    /// Highest epoch that a process of an agent ever had.
    epochs: BTreeMap<AgentKey, Epoch>,
}

impl Checker {
    fn breaks(&mut self, promise: &'static str, at: u64, what: String) {
        self.broken.get_or_insert(Broken { promise, at, what });
    }

    /// A process of an agent is about to be.
    pub(crate) fn born(&mut self, now: u64, machines: &[Machine], key: &AgentKey, epoch: Epoch) {
        let highest = self.epochs.entry(key.clone()).or_insert(epoch);
        if epoch < *highest {
            let what = format!("{key} starts with epoch {epoch} after {highest}");
            self.breaks("epochs never go backwards", now, what);
        } else {
            *highest = epoch;
        }
        self.one_process(now, machines, key, 0);
    }

    /// At most `others` processes of an agent run.
    pub(crate) fn one_process(&mut self, now: u64, machines: &[Machine], key: &AgentKey, others: usize) {
        // What is frozen does nothing; when it thaws it is looked at again.
        let awake = machines.iter().filter(|m| !m.frozen).flat_map(|m| m.processes.iter());
        let alive: Vec<_> = awake.filter(|(_, p)| p.key == *key).map(|(pid, p)| (*pid, p.epoch)).collect();
        if alive.len() > others {
            self.breaks("P1 never two", now, format!("{key} has processes besides this one: {alive:?}"));
        }
    }

    /// A stop that was asked for at `asked` was answered OK.
    pub(crate) fn stopped(&mut self, now: u64, machines: &[Machine], key: &AgentKey, asked: u64) {
        let mut awake = machines.iter().filter(|m| !m.frozen).flat_map(|m| m.processes.iter());
        if let Some((pid, _)) = awake.find(|(_, p)| p.key == *key && p.born < asked) {
            self.breaks("P3 stop means stopped", now, format!("{key} was stopped, and {pid} lives"));
        }
    }

    /// Faults are over and everything had time to settle.
    pub(crate) fn settled(&mut self, world: &World) {
        if let Some((promise, what)) = unsettled(world) {
            self.breaks(promise, world.now, what);
        }
    }
}

/// What is not as it must be in the end; nothing when all is well.
pub(crate) fn unsettled(world: &World) -> Option<(&'static str, String)> {
    let records = world.records();
    accepted_agents(world, &records)
        .or_else(|| records.iter().find_map(condition_is_documented))
        .or_else(|| records.iter().find_map(|record| record_is_true(world, record)))
        .or_else(|| no_process_without_record(world, &records))
        .or_else(|| rooms_add_up(world, &records))
}

fn accepted_agents(world: &World, records: &[AgentRecord]) -> Option<(&'static str, String)> {
    world.clients.iter().find_map(|client| {
        let record = records.iter().find(|r| r.key == client.key);
        match (client.wants_it(), client.is_settled(), record) {
            (_, false, _) => {
                Some(("P4 nothing sticks", format!("{} gets no answer: {}", client.key, client.trouble)))
            }
            (true, true, None) => Some(("P2 never none", format!("{} was accepted and is forgotten", client.key))),
            (false, true, Some(record)) => {
                Some(("P3 stop means stopped", format!("{} was stopped and is {}", client.key, record.phase())))
            }
            (true, true, Some(_)) | (false, true, None) => None,
        }
    })
}

/// Why an agent is in its phase is a documented word, and one that belongs to the phase.
fn condition_is_documented(record: &AgentRecord) -> Option<(&'static str, String)> {
    let word = record.condition.as_ref()?.reason();
    let settled = matches!(record.phase(), Phase::Pending | Phase::Running | Phase::Failed);
    let fits = AgentReason::parse(word).is_some_and(|r| !settled || r.phases().contains(&record.phase()));
    (!fits).then(|| ("documented reasons", format!("{} is {}: {word}", record.key, record.phase())))
}

fn record_is_true(world: &World, record: &AgentRecord) -> Option<(&'static str, String)> {
    let key = &record.key;
    let alive: Vec<_> = world.processes().filter(|(_, p)| p.key == *key).map(|(pid, p)| (pid, p.epoch)).collect();
    let stuck = |what: &str| Some(("P4 nothing sticks", format!("{key} is {}: {what}; {alive:?}", record.phase())));
    match record.phase() {
        Phase::Running => match (record.pid(), alive.as_slice()) {
            (Some(pid), [(lives, epoch)]) if pid == *lives && record.epoch == *epoch => None,
            _ => stuck("its record names another process"),
        },
        Phase::Pending if record.condition.is_none() => stuck("without a reason"),
        Phase::Pending => {
            let view = world.hosts();
            let room =
                |h: &&rustic_registry::HostRecord| h.takes_agents() && h.capacity.fits(&h.used, &record.demand);
            view.hosts.iter().find(room).and_then(|h| stuck(&format!("although {} has room", h.host)))
        }
        Phase::Failed if record.condition.is_none() || !alive.is_empty() => {
            stuck("without a reason, or with a process")
        }
        Phase::Failed => None,
        Phase::Starting | Phase::Restarting | Phase::Stopping => stuck("for too long"),
    }
}

fn no_process_without_record(world: &World, records: &[AgentRecord]) -> Option<(&'static str, String)> {
    let known = |key: &AgentKey| records.iter().any(|r| r.key == *key);
    let (pid, process) = world.processes().find(|(_, p)| !known(&p.key))?;
    Some(("P2 never none", format!("process {pid} of {} is in no record", process.key)))
}

fn rooms_add_up(world: &World, records: &[AgentRecord]) -> Option<(&'static str, String)> {
    world.hosts().hosts.iter().find_map(|host| {
        let here = records.iter().filter(|r| r.assignment().is_some_and(|assignment| assignment.host == host.host));
        let mut used = rustic_registry::Resources::default();
        here.for_each(|r| used.add(&r.demand));
        (used != host.used).then(|| ("P2 never none", format!("{} uses {:?}, not {used:?}", host.host, host.used)))
    })
}

/// What a run came to.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) faults: usize,
    pub(crate) processes: usize,
    pub(crate) operations: usize,
    pub(crate) remembered: usize,
    /// Agents that were moved to even out load, as far as the store at the end knows.
    pub(crate) rebalanced: usize,
}

impl Tally {
    pub(crate) fn of(plan: &Plan, world: &World) -> Self {
        Self {
            faults: plan.faults.len(),
            processes: world.born,
            operations: world.operations,
            remembered: world.remembered,
            rebalanced: world.rebalanced(),
        }
    }
}
