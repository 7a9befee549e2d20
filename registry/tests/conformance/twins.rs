//! The same random operations on both stores must answer and hold the same.

use crate::requests::*;
use proptest::prelude::*;
use rustic_registry::{
    Advance, AgentRecord, Announce, Announced, ClaimOutcome, Epoch, EventId, ExitStatus, HostRecord, HostState,
    IfFull, Index, Phase, Queue, Registry, ReleaseGuard, Renewal, Resources, UnixMillis, View,
};
use std::{fmt::Write as _, time::Duration};

#[derive(Debug, Clone)]
enum Op {
    Announce { host: u8, life: u8, succeeds: Option<u8>, slots: u8 },
    Renew { host: u8, life: u8, alive: bool, draining: bool },
    Depart { host: u8, life: u8 },
    Claim { agent: u8, request: u8, digest: u8, half_cpus: u8, waits: bool, hosts: Vec<u8> },
    Advance { agent: u8, epoch_back: u8, phase: Phase, exit: Option<i32> },
    Release { agent: u8, epoch_back: u8, guard: ReleaseGuard },
    Unplace { agent: u8, epoch_back: u8, guard: ReleaseGuard },
    Place { agent: u8, epoch_back: u8, hosts: Vec<u8> },
    Retire { host: u8, life: u8, long: bool },
}

fn op() -> impl Strategy<Value = Op> {
    let phase = prop::sample::select(vec![
        Phase::Pending,
        Phase::Starting,
        Phase::Running,
        Phase::Restarting,
        Phase::Stopping,
        Phase::Failed,
    ]);
    let guard = prop::sample::select(vec![
        ReleaseGuard::Reaped,
        ReleaseGuard::Unaccepted,
        ReleaseGuard::Unhosted,
        ReleaseGuard::Expired(Duration::ZERO),
        ReleaseGuard::Expired(LONG),
    ]);
    let hosts = prop::collection::vec(0..3u8, 0..4);
    // Few names, so that operations meet.
    prop_oneof![
        2 => (0..3u8, 0..2u8, prop::option::of(0..2u8), 1..4u8)
            .prop_map(|(host, life, succeeds, slots)| Op::Announce { host, life, succeeds, slots }),
        1 => (0..3u8, 0..2u8, any::<bool>(), any::<bool>())
            .prop_map(|(host, life, alive, draining)| Op::Renew { host, life, alive, draining }),
        1 => (0..3u8, 0..2u8).prop_map(|(host, life)| Op::Depart { host, life }),
        5 => (0..4u8, 0..2u8, 0..2u8, 0..6u8, any::<bool>(), hosts.clone()).prop_map(
            |(agent, request, digest, half_cpus, waits, hosts)| Op::Claim { agent, request, digest, half_cpus, waits, hosts }
        ),
        5 => (0..4u8, 0..2u8, phase, prop::option::of(-9..200i32))
            .prop_map(|(agent, epoch_back, phase, exit)| Op::Advance { agent, epoch_back, phase, exit }),
        2 => (0..4u8, 0..2u8, guard.clone())
            .prop_map(|(agent, epoch_back, guard)| Op::Unplace { agent, epoch_back, guard }),
        2 => (0..4u8, 0..2u8, hosts).prop_map(|(agent, epoch_back, hosts)| Op::Place { agent, epoch_back, hosts }),
        1 => (0..3u8, 0..2u8, any::<bool>()).prop_map(|(host, life, long)| Op::Retire { host, life, long }),
        3 => (0..4u8, 0..2u8, guard).prop_map(|(agent, epoch_back, guard)| Op::Release { agent, epoch_back, guard }),
    ]
}

/// Applies one operation and tells the answer, without what depends on the clock or on chance.
async fn apply(store: &dyn Registry, op: &Op) -> String {
    match op {
        Op::Announce { host, life: i, succeeds, slots } => {
            let mut request = announce(&format!("h-{host}"), &format!("i{i}"), f64::from(*slots));
            request.succeeds = succeeds.map(|ended| life(&format!("i{ended}")));
            let Announced { generation: _, returned } = store.announce(&request).await.unwrap();
            format!("returned {returned}")
        }
        Op::Renew { host, life, alive, draining } => {
            let mut request = renew(&format!("h-{host}"), &format!("i{life}"), LONG);
            request.ttl = if *alive { LONG } else { Duration::ZERO };
            request.state = if *draining { HostState::Draining } else { HostState::Ready };
            match store.renew(&request).await.unwrap() {
                Renewal::Held { .. } => "held".to_owned(),
                other => format!("{other:?}"),
            }
        }
        Op::Depart { host: id, life: i } => {
            store.depart(&host(&format!("h-{id}")), &life(&format!("i{i}"))).await.unwrap();
            String::new()
        }
        Op::Claim { agent, request, digest, half_cpus, waits, hosts } => {
            let hosts: Vec<_> = hosts.iter().map(|h| format!("h-{h}")).collect();
            let hosts: Vec<_> = hosts.iter().map(String::as_str).collect();
            let key = agent_key(*agent);
            let mut request = claim(&key, &format!("r{request}"), &format!("d{digest}"), &hosts);
            let mut demand = Resources::one_slot();
            demand.set("cpus", f64::from(*half_cpus) / 2.0).unwrap();
            request.demand = demand;
            request.if_full = if *waits { IfFull::Wait } else { IfFull::Refuse };
            match store.claim(&request).await.unwrap() {
                ClaimOutcome::Exists(record) => format!("{:?}", timeless(*record)),
                other => format!("{other:?}"),
            }
        }
        Op::Advance { agent, epoch_back, phase, exit } => {
            let key = agent_key(*agent);
            let epoch = current_epoch(store, *agent, *epoch_back).await;
            let exit = exit.map(|n| if n < 0 { ExitStatus::Signal(-n) } else { ExitStatus::Code(n) });
            let request = Advance { exit, restarts: 3, ..advance(&key, epoch, *phase) };
            format!("{:?}", store.advance(&request).await.unwrap())
        }
        Op::Release { agent, epoch_back, guard } => {
            let epoch = current_epoch(store, *agent, *epoch_back).await;
            format!("{:?}", store.release(&agent_key(*agent), epoch, *guard).await.unwrap())
        }
        Op::Unplace { agent, epoch_back, guard } => {
            let epoch = current_epoch(store, *agent, *epoch_back).await;
            format!("{:?}", store.unplace(&unplace(&agent_key(*agent), epoch, *guard, "moved")).await.unwrap())
        }
        Op::Place { agent, epoch_back, hosts } => {
            let epoch = current_epoch(store, *agent, *epoch_back).await;
            let hosts: Vec<_> = hosts.iter().map(|h| host(&format!("h-{h}"))).collect();
            format!("{:?}", store.place(&agent_key(*agent), epoch, &hosts).await.unwrap())
        }
        Op::Retire { host: id, life: i, long } => {
            let grace = if *long { LONG } else { Duration::ZERO };
            let retired = store.retire(&host(&format!("h-{id}")), &life(&format!("i{i}")), grace).await.unwrap();
            format!("{retired}")
        }
    }
}

/// Two guilds, one with a name full of separators.
fn agent_key(agent: u8) -> rustic_registry::AgentKey {
    key(if agent.is_multiple_of(2) { "g" } else { "g{:}%" }, &format!("a:{agent}"))
}

async fn current_epoch(store: &dyn Registry, agent: u8, back: u8) -> Epoch {
    let record = store.get(&agent_key(agent), View::Basic).await.unwrap();
    Epoch(record.map_or(7, |r| r.epoch.0.saturating_sub(u64::from(back)).max(1)))
}

fn timeless(record: AgentRecord) -> AgentRecord {
    AgentRecord {
        created: UnixMillis(0),
        accepted: record.accepted.map(|_| UnixMillis(0)),
        running: record.running.map(|_| UnixMillis(0)),
        last_exit: record.last_exit.map(|e| rustic_registry::LastExit { at: UnixMillis(0), ..e }),
        ..record
    }
}

/// Everything a store holds, as text.
async fn holds(store: &dyn Registry) -> String {
    let mut text = String::new();
    let view = store.hosts().await.unwrap();
    for host in &view.hosts {
        let alive = host.deadline > view.now;
        let former = host.former_until > view.now;
        let host = HostRecord { deadline: UnixMillis(0), former_until: UnixMillis(0), ..host.clone() };
        writeln!(text, "{alive} {former} {host:?}").unwrap();
    }
    for queue in [Queue::Pending, Queue::Unaccepted(Duration::ZERO)] {
        // Times of the two stores differ by less than a millisecond, which may be enough for another order.
        let mut names: Vec<_> =
            store.oldest(queue, 0, 100, View::Basic).await.unwrap().into_iter().map(|r| r.key.to_string()).collect();
        names.sort();
        writeln!(text, "{queue:?} {names:?}").unwrap();
    }
    let indexes = [
        Index::All,
        Index::Guild("g".parse().unwrap()),
        Index::Guild("g{:}%".parse().unwrap()),
        Index::Host(host("h-0")),
        Index::Host(host("h-1")),
        Index::Host(host("h-2")),
    ];
    for index in indexes {
        let page = store.list(&index, None, 100, View::Full).await.unwrap();
        writeln!(text, "{index:?}").unwrap();
        for record in page.agents {
            writeln!(text, "  {:?}", timeless(record)).unwrap();
        }
    }
    let (events, _) = store.events(&EventId::default(), 1000).await.unwrap();
    writeln!(text, "{events:?}").unwrap();
    text
}

#[test]
fn twins_agree_on_every_answer_and_on_all_they_hold() {
    let redis = TestRedis::start();
    let config = ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(ops in prop::collection::vec(op(), 1..60))| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (real, twin) = (redis.registry(), memory());
            // Both count epochs from the same one, whatever their clocks say.
            for store in [&real, &twin] {
                store.announce(&Announce { highest_epoch: Epoch(1 << 50), ..announce("first", "i", 1.0) }).await.unwrap();
            }
            for (step, op) in ops.iter().enumerate() {
                let answers = (apply(&*real, op).await, apply(&*twin, op).await);
                prop_assert_eq!(&answers.0, &answers.1, "answers differ at step {} {:?}", step, op);
            }
            prop_assert_eq!(holds(&*real).await, holds(&*twin).await);
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
            let store = memory();
            let mut lives = [0; 3];
            for op in &ops {
                // A life that has ended never comes back: incarnations are not used twice.
                if let Op::Announce { host, life, .. } = op {
                    let latest = &mut lives[usize::from(*host)];
                    if life < latest {
                        continue;
                    }
                    *latest = *life;
                }
                apply(&*store, op).await;
                for host in store.hosts().await.unwrap().hosts {
                    let on = store.list(&Index::Host(host.host.clone()), None, 100, View::Basic).await.unwrap();
                    let mut reserved = Resources::default();
                    // What a former life still holds is not taken from the life of now.
                    let own = on.agents.iter().filter(|r| r.incarnation.as_ref() == Some(&host.incarnation));
                    own.for_each(|r| reserved.add(&r.demand));
                    prop_assert_eq!(&host.used, &reserved);
                }
            }
            Ok(())
        })?;
    }
}
