//! Messages between lives and the store: late, lost or twice.

use super::{Event, HISTORY, World};
use crate::{
    lives::Inbound,
    plan::{Fault, Place},
    wires::{HostCall, HostReply, LifeId, Outgoing, Reply, StoreCall},
};
use rand::Rng as _;
use rustic_proto::agent_host::v1 as pb;
use std::time::Duration;
use tokio::sync::oneshot;
use tonic::Status;

impl World {
    pub(crate) fn take_up(&mut self) {
        let all = std::mem::take(&mut *self.outbox.lock().expect("not poisoned"));
        for (from, outgoing) in all {
            self.take_one(from, outgoing);
        }
    }

    pub(crate) fn take_one(&mut self, from: LifeId, outgoing: Outgoing) {
        match outgoing {
            Outgoing::Store(call) => {
                if let Some(at) = self.way(self.slots[from].place, Place::Store) {
                    self.at(at, Event::Store(from, call));
                } else {
                    self.lose(from, Box::new(move || drop(call)));
                }
            }
            Outgoing::Call { address, call, left, reply } => self.send_call(from, address, call, left, reply),
            Outgoing::Answer { call, reply } => {
                let Some((to, _)) = self.calls.get(&call) else { return };
                if let Some(at) = self.way(self.slots[from].place, self.slots[*to].place) {
                    self.at(at, Event::Answer(call, reply));
                }
            }
            Outgoing::Spawn { order, reply } => self.spawn(from, &order, reply),
            Outgoing::Signal { pid, signal } => self.signal(from, pid, signal),
            Outgoing::Deadline(deadline) => {
                if let Place::Machine(machine) = self.slots[from].place {
                    self.machines[machine].deadline = Some(deadline);
                }
            }
            Outgoing::KeepEpoch(epoch) => {
                if let Place::Machine(machine) = self.slots[from].place {
                    self.machines[machine].kept_epoch = epoch;
                }
            }
            Outgoing::ClientAnswer { call, answer } => {
                self.client_calls.remove(&call);
                let lost = self.rng.random_bool(if self.healed { 0.0 } else { self.plan.loss });
                if !lost {
                    self.at(self.now + 2, Event::ClientAnswer(call, answer));
                }
            }
            Outgoing::Ended => self.ended_by_itself(from),
        }
    }

    /// When a message from one place to another arrives; `None` when it is lost.
    pub(crate) fn way(&mut self, from: Place, to: Place) -> Option<u64> {
        let cut = self.cuts.iter().any(|ends| *ends == (from, to) || *ends == (to, from));
        let lost = !self.healed && self.rng.random_bool(self.plan.loss);
        let late = self.rng.random_range(1..=self.plan.latency);
        (!cut && !lost).then(|| self.now + late)
    }

    /// Some losses are noticed as a broken connection, others by nobody.
    pub(crate) fn lose(&mut self, from: LifeId, noticed: Reply) {
        if self.rng.random() {
            self.at(self.now + 10, Event::Reply(from, noticed));
        } else {
            // Kept until nobody waits any more: dropping it would break the connection.
            self.at(self.now + 30_000, Event::Reply(from, noticed));
        }
    }

    pub(crate) fn store_acts(&mut self, from: LifeId, call: StoreCall) {
        if self.now < self.store_stopped_until {
            // Every call may have come over a connection of its own: in no order.
            let at = self.store_stopped_until + self.rng.random_range(0..20);
            return self.at(at, Event::Store(from, call));
        }
        if self.now < self.store_down_until {
            return self.at(self.now + 5, Event::Reply(from, Box::new(move || drop(call))));
        }
        if self.plan.faults.iter().any(|(_, fault)| matches!(fault, Fault::RollBack { .. })) {
            self.history.push_back(self.store.snapshot());
            if self.history.len() > HISTORY {
                self.history.pop_front();
            }
        }
        self.operations += 1;
        let name = call.name;
        let reply = (call.run)(&self.store);
        if !matches!(name, "hosts" | "oldest" | "list" | "get") {
            self.note(|| format!("store: {name} by life {from}"));
        }
        match self.way(Place::Store, self.slots[from].place) {
            Some(at) => self.at(at, Event::Reply(from, reply)),
            // The answer is lost, though the operation was done.
            None => self.lose(from, Box::new(move || drop(reply))),
        }
    }

    pub(crate) fn send_call(
        &mut self,
        from: LifeId,
        address: String,
        call: HostCall,
        left: Duration,
        reply: oneshot::Sender<Result<HostReply, Status>>,
    ) {
        let id = self.id();
        self.calls.insert(id, (from, reply));
        let times = if self.rng.random_bool(self.plan.twice) { 2 } else { 1 };
        for n in 0..times {
            let Some(to) = self.slots.iter().find(|slot| slot.address == address).map(|slot| slot.place) else {
                return self.at(self.now + 5, Event::Answer(id, Err(Status::unavailable("no such address"))));
            };
            if let Some(at) = self.way(self.slots[from].place, to) {
                let late = if n == 0 { 0 } else { self.rng.random_range(0..2_000) };
                let (address, call) = (address.clone(), call.clone());
                self.at(at + late, Event::Call { from, id, address, call, left });
            }
        }
    }

    pub(crate) fn host_is_called(&mut self, from: LifeId, id: u64, address: &str, call: HostCall, left: Duration) {
        if self.trace.is_some() {
            let text = format!("life {from} calls {address}: {}", describe(&call));
            self.note(|| text);
        }
        let life = self.slots.iter().find(|slot| slot.address == address).and_then(|slot| slot.life.as_ref());
        match life {
            Some(life) => life.hand(Inbound::Call { id, call, left }),
            None => self.at(self.now + 2, Event::Answer(id, Err(Status::unavailable("connection refused")))),
        }
    }
}

fn epoch(claim: Option<&pb::Claim>) -> u64 {
    claim.and_then(|claim| claim.epoch).unwrap_or(0)
}

fn describe(call: &HostCall) -> String {
    match call {
        HostCall::Create(m) => format!("create, epoch {}", epoch(m.claim.as_ref())),
        HostCall::Stop(m) => {
            format!("stop {}, epoch {}, {}", m.agent_id, epoch(m.claim.as_ref()), m.purpose().as_str_name())
        }
    }
}
