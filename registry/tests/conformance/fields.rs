//! What is written comes back as it was: launches of any bytes, every field, and numbers as large as they get.

use crate::requests::*;
use rustic_registry::{
    Advance, AdvanceOutcome, AgentKey, AgentReason, AgentRecord, Announce, Assignment, Claim, Condition, Documents,
    Epoch, ExitStatus, FirstStart, HostState, LastExit, OnDisconnect, Phase, Remember, Remembered, Resources,
    Restore, SpecDigest, State, UnixMillis, View,
};
use std::{collections::BTreeMap, time::Duration};

promises!(
    launches_of_any_bytes_come_back_from_claim_restore_and_remember,
    every_field_that_a_host_announces_comes_back,
    every_field_that_a_host_reports_of_an_agent_comes_back,
    every_field_that_an_engine_remembers_comes_back,
);

/// Lengths on both sides of where MessagePack changes how it writes one, and of all byte values.
const LENGTHS: [usize; 8] = [0, 1, 31, 32, 255, 256, 65_535, 65_536];

fn documents(length: usize) -> Documents {
    let launch: Vec<u8> = (0..=255).rev().cycle().take(length).collect();
    Documents { spec: "{\"id\": 1.50, \"name\": \"Zoë\u{0}\"}".to_owned(), launch: launch.into() }
}

fn resources(text: &str) -> Resources {
    let resources = Resources::parse(text);
    assert_eq!(resources.to_string(), text);
    resources
}

async fn documents_of(store: &Store, key: &AgentKey) -> Documents {
    store.get(key, View::Launch).await.unwrap().unwrap().documents.unwrap()
}

/// An agent that failed, with the largest numbers that there are.
fn failed(key: AgentKey, documents: Documents) -> AgentRecord {
    AgentRecord {
        key,
        name: "an agent, \"quoted\"\nand more".to_owned(),
        state: State::of(Phase::Failed, None).unwrap(),
        epoch: Epoch(Epoch::MAX.0 - 1),
        request_id: "a request".parse().unwrap(),
        digest: SpecDigest("a digest".to_owned()),
        demand: resources("cpus=1;memory=9000000000000000"),
        machine_id: rustic_registry::MachineId::LAST,
        restarts: u32::MAX,
        on_disconnect: OnDisconnect::Keep,
        condition: Some(Condition::new(AgentReason::ProcessExited, "a reason: 100 %")),
        last_lines: vec!["one".to_owned(), String::new(), "three".to_owned()],
        last_exit: Some(LastExit { status: ExitStatus::Code(i32::MIN), at: UnixMillis(u64::MAX - 1) }),
        created: UnixMillis(u64::MAX),
        running: Some(UnixMillis(u64::MAX - 2)),
        first_start: FirstStart::MustSucceed,
        documents: Some(documents),
    }
}

async fn launches_of_any_bytes_come_back_from_claim_restore_and_remember(store: Store) {
    // Agents are restored to a new store before it settles.
    let lease = store.announce(&announce("h-0", "i", 50.0)).await.unwrap();
    for length in LENGTHS {
        let (reported, kept) = (key("reported", &length.to_string()), key("kept", &length.to_string()));
        let restored = Restore {
            documents: documents(length),
            ..restore(&reported, Epoch(1000), "h-0", "i", &lease.store_life)
        };
        assert_eq!(store.restore(&restored).await.unwrap(), AdvanceOutcome::Done);
        assert_eq!(documents_of(&store, &reported).await, documents(length), "restored, {length}");
        let record = AgentRecord { epoch: Epoch(1000), ..failed(kept.clone(), documents(length)) };
        let remembered =
            store.remember(&Remember { record, former_store_life: store_life("a lost one") }).await.unwrap();
        assert_eq!(remembered, Remembered::Done);
        assert_eq!(documents_of(&store, &kept).await, documents(length), "remembered, {length}");
    }
    assert!(store.settle(&lease.store_life, true).await.unwrap());
    for length in LENGTHS {
        let agent = key("claimed", &length.to_string());
        claimed_by(&store, &Claim { documents: documents(length), ..claim(&agent, "r", "d", &["h-0"]) }).await;
        assert_eq!(documents_of(&store, &agent).await, documents(length), "claimed, {length}");
    }
}

async fn every_field_that_a_host_announces_comes_back(store: Store) {
    let labels = [("zone", "a"), ("say \"it\"", "Zoë\n"), ("", "")];
    let announced = Announce {
        address: "[::1]:50052".to_owned(),
        dns_name: "h-0.hosts.example".to_owned(),
        capacity: resources("cpus=9000000000000000;slots=1"),
        labels: labels.iter().map(|(name, label)| (name.to_string(), label.to_string())).collect::<BTreeMap<_, _>>(),
        version: "1.2.3-rc.4+5".to_owned(),
        state: HostState::Draining,
        cordoned: true,
        ttl: Duration::from_millis(u64::MAX / 2),
        lasts: Duration::from_millis(u64::MAX),
        ..announce("h:0 %", "i|j", 1.0)
    };
    let lease = store.announce(&announced).await.unwrap();
    let host = store.hosts().await.unwrap().hosts.remove(0);
    assert_eq!((host.host, host.incarnation, host.life), (announced.host, announced.incarnation, lease.life));
    assert_eq!((host.address, host.dns_name), (announced.address, announced.dns_name));
    assert_eq!((host.capacity, host.labels, host.version), (announced.capacity, announced.labels, announced.version));
    assert_eq!((host.state, host.cordoned, host.renewals), (announced.state, announced.cordoned, 0));
    assert_eq!((host.ttl, host.lasts), (announced.ttl, announced.lasts));
}

fn accepted_at(record: &AgentRecord, accepted: Option<UnixMillis>) -> State {
    let assignment = record.assignment().map(|assignment| Assignment { accepted, ..assignment.clone() });
    State::of(record.phase(), assignment).unwrap()
}

async fn every_field_that_a_host_reports_of_an_agent_comes_back(store: Store) {
    let lease = store.announce(&announce("h:0", "i|j", 5.0)).await.unwrap();
    let agent = key("g:1", "a%2");
    let expected = AgentRecord {
        state: State::Running(Assignment {
            pid: Some(u32::MAX),
            ..Assignment::claimed(host("h:0"), life("i|j"), Resources::parse("gpu:a=250;gpus=250;slots=1000"))
        }),
        // Its host does not report what became of its first start.
        first_start: FirstStart::FollowsPolicy,
        ..failed(agent.clone(), documents(256))
    };
    let report = Restore {
        advance: Advance {
            pid: expected.pid(),
            restarts: expected.restarts,
            condition: expected.condition.clone(),
            last_lines: expected.last_lines.clone(),
            exit: Some(ExitStatus::Signal(9)),
            store_life: Some(lease.store_life.clone()),
            sequence: Epoch::MAX.0 - 2,
            ..advance(&agent, expected.epoch, Phase::Running)
        },
        name: expected.name.clone(),
        request_id: expected.request_id.clone(),
        digest: expected.digest.clone(),
        demand: expected.demand.clone(),
        takes: Resources::parse("gpu:a=250;gpus=250;slots=1000"),
        on_disconnect: expected.on_disconnect,
        documents: documents(256),
        machine_id: expected.machine_id,
        created: expected.created,
        ..restore(&agent, expected.epoch, "h:0", "i|j", &lease.store_life)
    };
    assert_eq!(store.restore(&report).await.unwrap(), AdvanceOutcome::Done);
    let there = store.get(&agent, View::Launch).await.unwrap().unwrap();
    let exit = |status| there.last_exit.map(|exit| LastExit { status, ..exit });
    let (accepted, running, last_exit) = (there.accepted(), there.running, exit(ExitStatus::Signal(9)));
    assert!(accepted.is_some() && running.is_some() && last_exit.is_some());
    assert_eq!(there, AgentRecord { state: accepted_at(&expected, accepted), running, last_exit, ..expected });

    // Large sequences that differ by one are distinguished.
    let write = |phase, sequence| Advance { sequence, ..Advance { phase, exit: None, ..report.advance.clone() } };
    for (phase, sequence, then) in [
        (Phase::Restarting, Epoch::MAX.0 - 1, Phase::Restarting),
        (Phase::Running, Epoch::MAX.0 - 2, Phase::Restarting),
        (Phase::Running, Epoch::MAX.0, Phase::Running),
    ] {
        assert_eq!(store.advance(&write(phase, sequence)).await.unwrap(), AdvanceOutcome::Done);
        let there = store.get(&agent, View::Launch).await.unwrap().unwrap();
        assert_eq!((there.phase(), there.pid(), there.restarts), (then, report.advance.pid, u32::MAX));
        assert_eq!(
            (there.condition, there.last_lines),
            (report.advance.condition.clone(), report.advance.last_lines.clone())
        );
        assert_eq!(there.last_exit, last_exit, "no exit keeps what is recorded");
    }
}

async fn every_field_that_an_engine_remembers_comes_back(store: Store) {
    let lease = store.announce(&announce("h-0", "i", 5.0)).await.unwrap();
    let record = failed(key("g:1", "a%2"), documents(256));
    let request = Remember { record: record.clone(), former_store_life: store_life("a lost one") };
    assert_eq!(store.remember(&request).await.unwrap(), Remembered::Done);
    assert_eq!(store.get(&record.key, View::Launch).await.unwrap(), Some(record));
    // The largest epoch is one that a script has made of the one before.
    assert!(store.settle(&lease.store_life, true).await.unwrap());
    assert_eq!(claimed(&store, &key("g", "b"), "r", &["h-0"]).await.epoch, Epoch::MAX);
}
