//! The same random operations on both stores must answer and hold the same, also when both lose what they had.

mod op;
mod subject;

use crate::requests::*;
use op::{Known, Op, op};
use proptest::prelude::*;
use rustic_registry::{
    Advance, AgentKey, AgentReason, AgentRecord, Announce, Assignment, Bring, Candidates, Claim, ClaimOutcome,
    Condition, Cordon, Epoch, EventId, ExitStatus, HostLife, HostRecord, HostState, IfNamesakes, Index, LastExit,
    OnDisconnect, Phase, Queue, Registry, Remember, Renew, Resources, Restore, Scope, State, Stops, UnixMillis, View,
    apart::Firmness, devices::Device,
};
use std::fmt::Write as _;
use std::time::Duration;
use subject::{FIRST, KeepingRedis, Subject, host_id, process_id};

/// Highest epoch and lease that a caller brings.
fn highest(high: bool) -> (Epoch, HostLife) {
    if high { (Epoch(FIRST.0 + 100), HostLife(100)) } else { (Epoch(0), HostLife(0)) }
}

fn on_disconnect(keep: bool) -> OnDisconnect {
    if keep { OnDisconnect::Keep } else { OnDisconnect::Stop }
}

/// Two guilds, one with a name full of separators.
fn agent_key(agent: u8) -> AgentKey {
    key(["g", "g{:}%", "p{:}%/g"][usize::from(agent) % 3], &format!("a:{agent}"))
}

/// Epoch of an agent's record, less than that, or more, by how much a caller is behind.
async fn epoch_of(store: &dyn Registry, agent: u8, back: u8) -> Epoch {
    let record = store.get(&agent_key(agent), View::Basic).await.unwrap();
    let current = record.map_or(FIRST, |r| r.epoch);
    match back {
        0 => current,
        1 => Epoch(current.0 - 1),
        more => Epoch(current.0 + u64::from(more)),
    }
}

impl Subject<'_> {
    /// Applies one operation. Returns the answer, without what depends on the clock or on chance.
    async fn apply(&mut self, op: &Op) -> String {
        match op {
            Op::Snapshot => {
                self.snapshot();
                String::new()
            }
            Op::Restart { from_snapshot } => {
                self.restart(*from_snapshot);
                String::new()
            }
            Op::Wipe { brought } => {
                self.wipe(*brought).await;
                String::new()
            }
            Op::Recover { retire } => {
                self.look().await;
                self.recover(*retire).await
            }
            Op::Announce { .. } | Op::Renew { .. } | Op::Depart { .. } | Op::Cordon { .. } => self.of_host(op).await,
            Op::Retire { .. } | Op::Forget { .. } | Op::Bring { .. } | Op::Settle { .. } => self.of_engine(op).await,
            Op::Restore { .. } | Op::Remember { .. } => self.of_reporter(op).await,
            Op::Claim { .. }
            | Op::Advance { .. }
            | Op::Release { .. }
            | Op::Unassign { .. }
            | Op::Place { .. }
            | Op::Bury { .. } => self.of_agent(op).await,
        }
    }

    async fn of_host(&mut self, op: &Op) -> String {
        match *op {
            Op::Announce { host, life: i, succeeds, slots, store_life, reported, cordoned, high } => {
                let (highest_epoch, highest_life) = highest(high);
                let plain = announce(&host_id(host), &process_id(i), f64::from(slots));
                let mut capacity = plain.capacity.clone();
                // Each life of a host finds other devices.
                capacity.add_label("zone", ["a", "b"][usize::from(host % 2)]);
                let device = |n: u8| Device { id: format!("gpu-{n}"), share: 1.0, memory: 1e10 + f64::from(n) };
                capacity.add_devices(&(i % 2..3).map(device).collect::<Vec<_>>());
                let request = Announce {
                    capacity,
                    succeeds: succeeds.map(|ended| life(&process_id(ended))),
                    store_life: store_life.map(|back| self.known(back)),
                    reported: reported.map(|back| self.known(back)),
                    cordoned,
                    highest_epoch,
                    highest_life,
                    ..plain
                };
                self.announce(host, i, &request).await
            }
            Op::Renew { host, life, lease, draining, reported, high } => {
                let lease = self.lease(host, life, lease);
                let request = Renew {
                    state: if draining { HostState::Draining } else { HostState::Ready },
                    reported,
                    highest_epoch: highest(high).0,
                    ..renew(&host_id(host), &process_id(life), &lease)
                };
                format!("{:?}", self.store.renew(&request).await.unwrap())
            }
            Op::Depart { host: id, life: i } => {
                self.store.depart(&host(&host_id(id)), &life(&process_id(i))).await.unwrap();
                String::new()
            }
            Op::Cordon { host: id, on } => {
                let cordon = if on { Cordon::On } else { Cordon::Off };
                format!("{:?}", self.store.cordon(&host(&host_id(id)), cordon).await.unwrap())
            }
            _ => unreachable!("not of a host: {op:?}"),
        }
    }

    async fn of_engine(&mut self, op: &Op) -> String {
        match op {
            Op::Retire { host, life, seen } => {
                let request = self.sight(*host, *life, *seen).await;
                format!("{:?}", self.store.retire(&request).await.unwrap())
            }
            Op::Forget { host: id, life: i } => {
                format!("{:?}", self.store.forget(&host(&host_id(*id)), &life(&process_id(*i))).await.unwrap())
            }
            Op::Bring { former_store_life, hosts, stopped, high } => {
                let (highest_epoch, highest_life) = highest(*high);
                let mut request = Bring {
                    highest_epoch,
                    highest_life,
                    ..bring(&self.known(former_store_life.unwrap_or_default()))
                };
                for (id, i) in hosts {
                    request.hosts.push((host(&host_id(*id)), life(&process_id(*i)), LASTS));
                }
                for (agent, back) in stopped {
                    let epoch = if *back == 3 { Epoch(0) } else { epoch_of(&*self.store, *agent, *back).await };
                    request.stopped.push((agent_key(*agent), epoch));
                }
                self.store.bring(&request).await.unwrap();
                String::new()
            }
            Op::Settle { store, watched } => {
                self.look().await;
                let store = self.known(store.unwrap_or_default());
                format!("{:?}", self.store.settle(&store, *watched).await.unwrap())
            }
            _ => unreachable!("not of an engine: {op:?}"),
        }
    }

    async fn of_reporter(&mut self, op: &Op) -> String {
        match *op {
            Op::Restore { agent, epoch_back, host, life, phase, keep, store_life, former_store_life } => {
                let key = agent_key(agent);
                let epoch = epoch_of(&*self.store, agent, epoch_back).await;
                let report = restore(&key, epoch, &host_id(host), &process_id(life), &self.known(0));
                let request = Restore {
                    advance: Advance {
                        store_life: store_life.map(|back| self.known(back)),
                        ..advance(&key, epoch, phase)
                    },
                    on_disconnect: on_disconnect(keep),
                    former_store_life: former_store_life.map(|back| self.known(back)),
                    ..report
                };
                format!("{:?}", self.store.restore(&request).await.unwrap())
            }
            Op::Remember { agent, epoch_back, waits, former_store_life } => {
                let epoch = epoch_of(&*self.store, agent, epoch_back).await;
                let request = Remember {
                    record: remembered(agent_key(agent), epoch, waits),
                    former_store_life: self.known(former_store_life.unwrap_or_default()),
                };
                format!("{:?}", self.store.remember(&request).await.unwrap())
            }
            _ => unreachable!("not of a reporter: {op:?}"),
        }
    }

    async fn of_agent(&mut self, op: &Op) -> String {
        let life = |known: &Known| known.map(|back| self.known(back));
        let store = &*self.store;
        match op {
            Op::Claim { agent, request, digest, half_cpus, if_full, keep, hosts, asked, store_life } => {
                let hosts: Vec<_> = hosts.iter().map(|h| host_id(*h)).collect();
                let hosts: Vec<_> = hosts.iter().map(String::as_str).collect();
                let mut demand = Resources::one_slot();
                demand.set("cpus", f64::from(*half_cpus) / 2.0).unwrap();
                demand.set("gpus", [0.0, 0.3, 0.0, 0.8, 1.0, 2.0][usize::from(*half_cpus)]).unwrap();
                match (*digest, *keep) {
                    (1, true) => demand.stay_apart("zone", "all", Firmness::Required),
                    (1, false) => demand.stay_apart("", "all", Firmness::Required),
                    _ => demand.stay_apart("zone", "all", Firmness::Preferred),
                }
                demand.set("gpu_memory", [0.0, 0.0, 5e9, 9e9][usize::from(half_cpus + digest) % 4]).unwrap();
                let plain = claim(&agent_key(*agent), &format!("r{request}"), &format!("d{digest}"), &hosts);
                let request = Claim {
                    candidates: Candidates { spread: usize::from(*request) * 2, ..plain.candidates.clone() },
                    demand,
                    if_full: *if_full,
                    if_namesakes: if *keep { IfNamesakes::Report } else { IfNamesakes::Ignore },
                    on_disconnect: on_disconnect(*keep),
                    asked: if *asked < 2 { Stops(u64::from(*asked)) } else { JUST_NOW },
                    store_life: life(store_life),
                    ..plain
                };
                match store.claim(&request).await.unwrap() {
                    ClaimOutcome::Exists(record) => format!("{:?}", timeless(*record)),
                    other => format!("{other:?}"),
                }
            }
            Op::Advance { agent, epoch_back, phase, exit, late, store_life } => {
                let key = agent_key(*agent);
                let epoch = epoch_of(store, *agent, *epoch_back).await;
                let exit = exit.map(|n| if n < 0 { ExitStatus::Signal(-n) } else { ExitStatus::Code(n) });
                let mut request =
                    Advance { exit, restarts: 3, store_life: life(store_life), ..advance(&key, epoch, *phase) };
                if *late {
                    request.sequence = 0;
                }
                format!("{:?}", store.advance(&request).await.unwrap())
            }
            Op::Release { agent, epoch_back, guard } => {
                let epoch = epoch_of(store, *agent, *epoch_back).await;
                format!("{:?}", store.release(&agent_key(*agent), epoch, *guard).await)
            }
            Op::Unassign { agent, epoch_back, guard, store_life } => {
                let epoch = epoch_of(store, *agent, *epoch_back).await;
                let request = rustic_registry::Unassign {
                    store_life: life(store_life),
                    ..unassign(&agent_key(*agent), epoch, *guard, "moved")
                };
                format!("{:?}", store.unassign(&request).await)
            }
            Op::Place { agent, epoch_back, hosts } => {
                let epoch = epoch_of(store, *agent, *epoch_back).await;
                let hosts: Vec<_> = hosts.iter().map(|h| host(&host_id(*h))).collect();
                let candidates = Candidates { hosts, spread: usize::from(*epoch_back) * 2 };
                format!("{:?}", store.assign(&agent_key(*agent), epoch, &candidates).await.unwrap())
            }
            Op::Bury { agent } => format!("{:?}", store.bury(&agent_key(*agent)).await),
            _ => unreachable!("not of an agent: {op:?}"),
        }
    }

    /// Everything a store holds, as text.
    async fn holds(&self) -> String {
        let store = &*self.store;
        let mut text = String::new();
        let view = store.hosts().await.unwrap();
        let at = view.store_life.and_then(|life| self.lives.iter().position(|known| *known == life));
        writeln!(text, "{at:?} {} {} {:?}", view.held, view.pending, view.stops).unwrap();
        for host in view.hosts {
            writeln!(text, "{:?}", HostRecord { renewed: UnixMillis(0), ..host }).unwrap();
        }
        for former in view.former {
            writeln!(text, "{former:?}").unwrap();
        }
        for queue in [Queue::Pending, Queue::Unaccepted] {
            let agents = store.oldest(queue, 0, 100, View::Basic).await.unwrap();
            let mut names: Vec<_> = agents.into_iter().map(|r| r.key.to_string()).collect();
            if queue == Queue::Pending {
                // Times of the two stores differ by less than a millisecond, which may be enough for another order.
                names.sort();
            }
            writeln!(text, "{queue:?} {names:?}").unwrap();
        }
        let guilds = ["o", "p{:}%", "o/g", "o/g{:}%", "p{:}%/g"].map(within);
        let hosts = ["h-0", "h-1", "h-2"].map(|id| Index::Host(host(id)));
        for index in [Index::Within(Scope::All)].into_iter().chain(guilds).chain(hosts) {
            let page = store.list(&index, None, 100, View::Launch).await.unwrap();
            writeln!(text, "{index:?}").unwrap();
            for record in page.agents {
                writeln!(text, "  {:?}", timeless(record)).unwrap();
            }
        }
        let events = store.events(EventId::default(), 1000, Duration::ZERO).await.unwrap();
        let events: Vec<_> = events.entries.into_iter().map(|(_, event)| event).collect();
        writeln!(text, "{events:?}").unwrap();
        let leases = store.look().await.unwrap();
        writeln!(text, "{:?} {:?}", leases.store_life.is_some(), leases.leases).unwrap();
        text
    }
}

fn timeless_state(record: &AgentRecord) -> State {
    let timeless = |assignment: &Assignment| Assignment {
        accepted: assignment.accepted.map(|_| UnixMillis(0)),
        ..assignment.clone()
    };
    State::of(record.phase(), record.state.last_assignment().map(timeless)).unwrap()
}

fn timeless(record: AgentRecord) -> AgentRecord {
    AgentRecord {
        created: UnixMillis(0),
        state: timeless_state(&record),
        running: record.running.map(|_| UnixMillis(0)),
        last_exit: record.last_exit.map(|e| LastExit { at: UnixMillis(0), ..e }),
        ..record
    }
}

/// An agent that no host runs, as an engine has it.
fn remembered(key: AgentKey, epoch: Epoch, waits: bool) -> AgentRecord {
    let request = claim(&key, "the request", "d0", &[]);
    AgentRecord {
        key,
        name: request.name,
        state: State::of(if waits { Phase::Pending } else { Phase::Failed }, None).unwrap(),
        epoch,
        request_id: request.request_id,
        digest: request.digest,
        demand: request.demand,
        machine_id: machine(2),
        restarts: 1,
        on_disconnect: request.on_disconnect,
        condition: Some(Condition::new(AgentReason::ProcessExited, "it was so")),
        last_lines: vec!["last".to_owned()],
        last_exit: Some(LastExit { status: ExitStatus::Code(1), at: UnixMillis(5) }),
        created: UnixMillis(77),
        running: None,
        first_start: request.first_start,
        documents: Some(request.documents),
    }
}

#[test]
fn twins_agree_on_every_answer_and_on_all_they_hold() {
    let mut redis = KeepingRedis::start();
    let redis = std::cell::RefCell::new(&mut redis);
    let config = ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(ops in prop::collection::vec(op(), 1..80))| {
        let mut redis = redis.borrow_mut();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (mut real, mut twin) = (Subject::redis(*redis).await, Subject::memory().await);
            for (step, op) in ops.iter().enumerate() {
                let answers = (real.apply(op).await, twin.apply(op).await);
                prop_assert_eq!(&answers.0, &answers.1, "answers differ at step {} {:?}", step, op);
            }
            prop_assert_eq!(real.holds().await, twin.holds().await);
            Ok(())
        })?;
    });
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn room_in_use_is_what_the_agents_on_a_host_reserved(ops in prop::collection::vec(op(), 1..200)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut subject = Subject::memory().await;
            for op in &ops {
                subject.apply(op).await;
                for host in subject.store.hosts().await.unwrap().hosts {
                    let on = subject.store.list(&Index::Host(host.host.clone()), None, 100, View::Basic).await.unwrap();
                    let mut reserved = Resources::default();
                    // What a former process still holds is not taken from the process of now.
                    let own = on.agents.iter().filter(|r| r.incarnation() == Some(&host.incarnation));
                    own.filter_map(|r| r.assignment()).for_each(|place| reserved.add(&place.takes));
                    prop_assert_eq!(&host.used, &reserved);
                }
            }
            Ok(())
        })?;
    }
}
