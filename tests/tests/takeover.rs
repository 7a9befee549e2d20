//! Never two, never none: hosts that die, freeze, drain or are full, and claims that nobody delivered.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use rustic_proto::{
    agent::v1::{self as agent_pb, AgentPhase},
    agent_host::v1 as host_pb,
    engine::v1::{self as pb, PendingPolicy::WaitForRoom},
};
use rustic_registry::{
    AgentKey, Claim, ClaimOutcome, FirstStart, IfFull, Index, OnDisconnect, Registry as _, RequestId, Resources,
    Scope, SpecDigest, View,
};
use rustic_tests::{
    Modules, PATIENCE, Stack, StackSettings,
    launches::{RESPONDER, idle, python, script},
    processes::{lives, state, watchdog},
    program::Program,
    stack::engine_arguments,
    wait_until,
};
use rustix::process::Signal;
use tonic::Code;

fn short_lease() -> Vec<String> {
    ["--lease-ttl", "1500ms", "--lease-margin", "400ms", "--lease-grace", "300ms"].map(str::to_owned).to_vec()
}

async fn stack(hosts: usize) -> Stack {
    let engine_arguments = ["--lease-grace", "300ms"].map(str::to_owned).to_vec();
    Stack::with(StackSettings { hosts, host_arguments: short_lease(), engine_arguments, ..StackSettings::default() })
        .await
}

async fn another_watchdog(stack: &Stack, first: u32) {
    let started = |l: &serde_json::Value| {
        l["message"] == "the watchdog is ready" && l["pid"].as_u64().is_some_and(|pid| pid != u64::from(first))
    };
    stack.hosts[0].logged("another watchdog", started).await;
}

fn runs_on(host: &str) -> impl Fn(&agent_pb::Agent) -> bool {
    move |agent| agent.phase() == AgentPhase::Running && agent.host_id == host
}

#[tokio::test]
async fn agents_of_a_host_that_dies_run_elsewhere() {
    let mut stack = stack(2).await;
    // A second replica of the engine does the same work at the same time.
    let _second = Program::start("engine-svc", &engine_arguments(&stack.redis.url(), &[]));
    let mut agents = vec![];
    for n in 0..6 {
        agents.push(stack.create(idle("g", &n.to_string())).await.unwrap());
    }
    stack.hosts[0].signal(Signal::KILL);
    stack.hosts[0].ended().await;
    for agent in &agents {
        let now =
            stack.agent_is("the agent to run on the other host", "g", &agent.agent_id, runs_on("agent-host-1")).await;
        if agent.host_id == "agent-host-0" {
            assert!(now.epoch > agent.epoch && !lives(agent.pid));
        } else {
            assert_eq!((now.epoch, now.pid), (agent.epoch, agent.pid), "it was not touched");
        }
    }
    wait_until("the dead host to be forgotten", async || {
        let hosts =
            stack.client.clone().list_hosts(pb::ListHostsRequest::default()).await.unwrap().into_inner().hosts;
        if hosts.len() == 1 { Ok(()) } else { Err(hosts) }
    })
    .await;
}

#[tokio::test]
async fn a_frozen_host_cannot_keep_its_agents_alive() {
    let stack = stack(2).await;
    let agent = stack.create(idle("g", "a")).await.unwrap();
    assert_eq!(agent.host_id, "agent-host-0");
    stack.hosts[0].signal(Signal::STOP);
    let now = stack.agent_is("the agent to run on the other host", "g", "a", runs_on("agent-host-1")).await;
    // Killed by the watchdog before another could start: a zombie at most, which its frozen parent has not reaped.
    assert!(matches!(state(agent.pid), None | Some('Z')), "{:?}", state(agent.pid));
    stack.hosts[0].signal(Signal::CONT);
    let ready = |h: &pb::Host| h.host_id == "agent-host-0" && h.state() == pb::HostState::Ready;
    wait_until("the thawed host to be back", async || {
        let hosts =
            stack.client.clone().list_hosts(pb::ListHostsRequest::default()).await.unwrap().into_inner().hosts;
        if hosts.iter().any(ready) { Ok(()) } else { Err(hosts) }
    })
    .await;
    wait_until("the thawed host to have let go", async || {
        let request = host_pb::ListAgentsRequest::default();
        match stack.host(0).await.list_agents(request).await.unwrap().into_inner().agents {
            none if none.is_empty() => Ok(()),
            some => Err(some),
        }
    })
    .await;
    let same = stack.get("g", "a").await.unwrap();
    assert_eq!((same.epoch, same.pid), (now.epoch, now.pid));
    assert!(lives(now.pid));
}

#[tokio::test]
async fn a_watchdog_that_dies_is_replaced_and_knows_every_agent() {
    let stack = stack(2).await;
    let agent = stack.create(idle("g", "a")).await.unwrap();
    let first = watchdog(stack.hosts[0].pid()).unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(first as i32).unwrap(), Signal::KILL).unwrap();
    another_watchdog(&stack, first).await;
    assert!(lives(agent.pid), "a lost watchdog is no reason to die");
    stack.hosts[0].signal(Signal::STOP);
    stack.agent_is("the agent to run on the other host", "g", "a", runs_on("agent-host-1")).await;
    assert!(matches!(state(agent.pid), None | Some('Z')), "{:?}", state(agent.pid));
    stack.hosts[0].signal(Signal::CONT);
}

#[tokio::test]
async fn a_frozen_watchdog_is_replaced_and_costs_no_agent() {
    let stack = stack(1).await;
    let agent = stack.create(idle("g", "a")).await.unwrap();
    let first = watchdog(stack.hosts[0].pid()).unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(first as i32).unwrap(), Signal::STOP).unwrap();
    another_watchdog(&stack, first).await;
    assert!(!lives(first), "nobody thaws it later");
    let same = stack.get("g", "a").await.unwrap();
    assert_eq!((same.epoch, same.pid), (agent.epoch, agent.pid));
    assert!(lives(agent.pid));
}

#[tokio::test]
async fn a_new_watchdog_knows_more_agents_than_a_socket_holds() {
    let stack = Stack::with(StackSettings {
        host_arguments: [short_lease(), vec!["--max-agents".to_owned(), "400".to_owned()]].concat(),
        ..StackSettings::default()
    })
    .await;
    let mut agents = vec![];
    for n in 0..300 {
        agents.push(stack.create(idle("g", &n.to_string())).await.unwrap().pid);
    }
    let first = watchdog(stack.hosts[0].pid()).unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(first as i32).unwrap(), Signal::KILL).unwrap();
    another_watchdog(&stack, first).await;
    assert!(agents.iter().all(|pid| lives(*pid)), "a lost watchdog is no reason to die");
    stack.hosts[0].signal(Signal::STOP);
    wait_until("every agent to be killed at the deadline", async || {
        let alive = agents.iter().filter(|pid| lives(**pid)).count();
        if alive == 0 { Ok(()) } else { Err(alive) }
    })
    .await;
    stack.hosts[0].signal(Signal::CONT);
}

#[tokio::test]
async fn a_host_that_is_asked_to_stop_gives_its_agents_away_first() {
    let mut stack = Stack::with(Modules::new(&[]).settings(&[])).await;
    let other = Program::start("agent-host", &stack.host_arguments(1));
    other.address().await;
    let mut agents = vec![];
    for n in 0..4 {
        agents.push(stack.create(python("g", &n.to_string(), RESPONDER)).await.unwrap());
    }
    assert!(stack.hosts[0].stop().await.success());
    for agent in agents {
        let now = stack.agent_is("the agent to run elsewhere", "g", &agent.agent_id, runs_on("agent-host-1")).await;
        assert!(agent.host_id == "agent-host-1" || now.epoch > agent.epoch);
    }
    let hosts = stack.client.clone().list_hosts(pb::ListHostsRequest::default()).await.unwrap().into_inner().hosts;
    assert_eq!(hosts.len(), 1, "it left the registry");
}

#[tokio::test]
async fn a_second_sigterm_does_not_wait_for_an_engine_to_move_agents() {
    let mut host_arguments = short_lease();
    host_arguments.extend(["--drain-timeout", "1h"].map(str::to_owned));
    let mut stack = Stack::with(StackSettings { hosts: 2, host_arguments, ..StackSettings::default() }).await;
    let agent = stack.create(idle("g", "a")).await.unwrap();
    let (here, elsewhere) = if agent.host_id == "agent-host-0" { (0, "agent-host-1") } else { (1, "agent-host-0") };
    stack.engine.signal(Signal::STOP);
    stack.hosts[here].signal(Signal::TERM);
    let drains = |l: &serde_json::Value| l["message"].as_str().is_some_and(|m| m.starts_with("draining"));
    stack.hosts[here].logged("the host to drain", drains).await;
    stack.hosts[here].signal(Signal::TERM);
    assert!(stack.hosts[here].ended().await.success());
    assert!(!lives(agent.pid));
    stack.engine.signal(Signal::CONT);
    let now = stack.agent_is("the agent to run elsewhere", "g", "a", runs_on(elsewhere)).await;
    assert!(now.epoch > agent.epoch);
}

async fn create_or_wait(stack: &Stack, agent: &str) -> agent_pb::Agent {
    let launch = Some(idle("g", agent).into());
    let request = pb::CreateAgentRequest { launch, pending: WaitForRoom.into(), ..Default::default() };
    stack.client.clone().create_agent(request).await.unwrap().into_inner().agent.unwrap()
}

#[tokio::test]
async fn agents_without_room_wait_in_line_and_start_when_there_is_some() {
    let mut host_arguments = short_lease();
    host_arguments.extend(["--max-agents", "1"].map(str::to_owned));
    let mut stack = Stack::with(StackSettings { host_arguments, ..StackSettings::default() }).await;
    stack.create(idle("g", "first")).await.unwrap();
    let refused = stack.create(idle("g", "impatient")).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("1 slots (most that is free on one host: 0)"), "{refused:?}");
    for agent in ["second", "third", "given up"] {
        let waits = create_or_wait(&stack, agent).await;
        assert_eq!((waits.phase(), waits.host_id.as_str()), (AgentPhase::Pending, ""));
        let why = "no host has room for it: it asks for 1 slots (most that is free on one host: 0); it starts as soon as one has";
        assert_eq!((waits.reason.as_str(), waits.message.as_str()), ("NoRoom", why));
    }
    stack.stop("g", "given up").await.unwrap();
    assert_eq!(stack.get("g", "given up").await.unwrap_err().code(), Code::NotFound);
    // Neither a new engine nor the old one's end makes anybody forget them.
    assert!(stack.engine.stop().await.success());
    let arguments = engine_arguments(&stack.redis.url(), &[]);
    stack.engine = Program::start("engine-svc", &arguments);
    stack.connect_to_engine().await;
    stack.stop("g", "first").await.unwrap();
    let running = |a: &agent_pb::Agent| a.phase() == AgentPhase::Running;
    stack.agent_is("the second to run", "g", "second", running).await;
    assert_eq!(stack.get("g", "third").await.unwrap().phase(), AgentPhase::Pending);
    stack.stop("g", "second").await.unwrap();
    stack.agent_is("the third to run", "g", "third", running).await;
    stack.stop("g", "third").await.unwrap();
    stack.assert_nothing_left().await;
}

#[tokio::test]
async fn a_claim_whose_engine_died_is_delivered_by_another() {
    let stack = stack(1).await;
    let launch = rustic_proto::launch::Launch::check(Some(idle("g", "a").into())).unwrap();
    let claim = Claim {
        key: AgentKey::parse("default", "g", "a").unwrap(),
        name: "A".to_owned(),
        request_id: "a-dead-engine".parse::<RequestId>().unwrap(),
        digest: SpecDigest(launch.digest.0.clone()),
        demand: Resources::one_slot(),
        on_disconnect: OnDisconnect::Stop,
        documents: launch.documents(),
        candidates: vec!["agent-host-0".parse().unwrap()].into(),
        if_full: IfFull::Refuse,
        waits: None,
        if_namesakes: rustic_registry::IfNamesakes::Ignore,
        first_start: FirstStart::MustSucceed,
        store_life: None,
        asked: rustic_registry::Stops(u64::MAX),
    };
    let ClaimOutcome::Claimed(claimed) = stack.registry().claim(&claim).await.unwrap() else { panic!("a claim") };
    let agent = stack.agent_is("the agent to run", "g", "a", runs_on("agent-host-0")).await;
    assert_eq!(agent.epoch, claimed.epoch.0, "by the claim that was made");
    stack.stop("g", "a").await.unwrap();
    stack.assert_nothing_left().await;
}

#[tokio::test]
async fn every_agent_is_restored_to_a_wiped_registry_and_none_is_touched() {
    let stack = stack(2).await;
    let mut agents = vec![];
    for n in 0..4 {
        agents.push(stack.create(idle("g", &n.to_string())).await.unwrap());
    }
    let registry = stack.registry();
    stack.redis.wipe();
    for agent in &agents {
        let runs = |a: &agent_pb::Agent| a.phase() == AgentPhase::Running;
        let now = stack.agent_is("the agent to be restored", "g", &agent.agent_id, runs).await;
        assert_eq!((now.pid, now.epoch, &now.host_id), (agent.pid, agent.epoch, &agent.host_id));
        assert_eq!(now.machine_id, agent.machine_id);
        assert!(lives(agent.pid));
    }
    let used: Vec<_> = registry.hosts().await.unwrap().hosts.iter().map(|h| h.used.milli("slots")).collect();
    assert_eq!(used.iter().sum::<u64>(), 4000);
    // Epochs never go back, and agents can be created and stopped as before.
    let next = wait_until("creates to be taken again", async || stack.create(idle("g", "next")).await).await;
    assert!(agents.iter().all(|agent| next.epoch > agent.epoch));
    for agent in ["0", "1", "2", "3", "next"] {
        stack.stop("g", agent).await.unwrap();
    }
    stack.assert_nothing_left().await;
}

#[tokio::test]
async fn who_waits_and_who_has_failed_is_restored_to_a_wiped_registry() {
    let mut host_arguments = short_lease();
    host_arguments.extend(["--max-agents", "1"].map(str::to_owned));
    let engine_arguments = ["--lease-grace", "300ms", "--metrics-listen", "127.0.0.1:0"].map(str::to_owned).to_vec();
    let settings = StackSettings { host_arguments, engine_arguments, ..StackSettings::default() };
    let stack = Stack::with(settings).await;
    let mut launch = script("g", "broken", "echo last words; exit 3");
    launch.restart_policy =
        Some(agent_pb::RestartPolicy { mode: agent_pb::RestartMode::Never.into(), ..Default::default() });
    let request = pb::CreateAgentRequest {
        launch: Some(launch.into()),
        wait: agent_pb::WaitMode::Accepted.into(),
        ..Default::default()
    };
    stack.client.clone().create_agent(request).await.unwrap();
    let failed = stack.agent_is("FAILED", "g", "broken", |a| a.phase() == AgentPhase::Failed).await;
    let first = stack.create(idle("g", "first")).await.unwrap();
    let second = create_or_wait(&stack, "second").await;
    let third = create_or_wait(&stack, "third").await;
    stack.stop("g", "third").await.unwrap();
    let serving = |l: &serde_json::Value| l["message"] == "serving metrics";
    let metrics = stack.engine.logged("the metrics' address", serving).await["address"].as_str().unwrap().to_owned();
    wait_until("the engine to keep copies", async || {
        let text = rustic_tests::http::get(&metrics, "/metrics").await;
        if text.contains("rustic_engine_agent_copies 2") { Ok(()) } else { Err(text) }
    })
    .await;

    stack.redis.wipe();
    let known = |epoch: u64| move |a: &agent_pb::Agent| a.epoch == epoch;
    let now = stack.agent_is("the failed one to be known again", "g", "broken", known(failed.epoch)).await;
    assert_eq!((now.phase(), &now.message), (AgentPhase::Failed, &failed.message));
    assert_eq!((now.last_exit, now.machine_id), (failed.last_exit, failed.machine_id));
    let whole = pb::GetAgentRequest {
        guild_id: "g".to_owned(),
        agent_id: "broken".to_owned(),
        view: agent_pb::AgentView::Full.into(),
        ..Default::default()
    };
    let whole = stack.client.clone().get_agent(whole).await.unwrap().into_inner().agent.unwrap();
    assert_eq!(whole.last_lines, ["last words"]);
    let now = stack.agent_is("the one that waits to be known again", "g", "second", known(second.epoch)).await;
    assert_eq!((now.phase(), now.message), (AgentPhase::Pending, second.message));
    let runs = |a: &agent_pb::Agent| a.phase() == AgentPhase::Running && a.epoch == first.epoch;
    stack.agent_is("the one that runs to be restored", "g", "first", runs).await;

    // It still waits for what it waited for.
    wait_until("stops to be taken again", async || stack.stop("g", "first").await).await;
    let running = |a: &agent_pb::Agent| a.phase() == AgentPhase::Running && a.epoch > second.epoch;
    let second = stack.agent_is("the second to run", "g", "second", running).await;
    assert!(lives(second.pid));
    assert_eq!(stack.get("g", "third").await.unwrap_err().code(), Code::NotFound, "it was stopped: {third:?}");
    stack.stop("g", "second").await.unwrap();
    stack.stop("g", "broken").await.unwrap();
    stack.assert_nothing_left().await;
}

#[tokio::test]
async fn a_registry_that_was_wiped_is_no_empty_one_for_an_engine_that_knew_it() {
    let stack = Stack::start().await;
    let agent = stack.create(idle("g", "a")).await.unwrap();
    // The host is frozen and cannot report yet; its lease lasts.
    stack.hosts[0].signal(Signal::STOP);
    stack.redis.wipe();
    // To answer this, the engine looks at the registry, and sees no life of it.
    assert_eq!(stack.get("g", "a").await.unwrap_err().code(), Code::Unavailable, "nobody knows yet");
    let mut create = tonic::Request::new(pb::CreateAgentRequest {
        pending: WaitForRoom.into(),
        launch: Some(idle("g", "a").into()),
        ..Default::default()
    });
    create.set_timeout(std::time::Duration::from_secs(1));
    let refused = stack.client.clone().create_agent(create).await.unwrap_err();
    // The create waits for hosts to report, for as long as its caller does; whose patience ends first is chance.
    assert!(matches!(refused.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled), "{refused:?}");
    assert_eq!(stack.get("g", "a").await.unwrap_err().code(), Code::Unavailable);
    stack.hosts[0].signal(Signal::CONT);
    let restored = stack.agent_is("the agent to be restored", "g", "a", |a| a.phase() == AgentPhase::Running).await;
    assert_eq!((restored.pid, restored.epoch), (agent.pid, agent.epoch));
}

#[tokio::test]
async fn a_registry_that_is_wiped_while_it_is_restored_is_restored_again() {
    let stack = stack(1).await;
    let mut agents = vec![];
    for n in 0..20 {
        agents.push(stack.create(idle("g", &n.to_string())).await.unwrap());
    }
    let registry = stack.registry();
    for _ in 0..4 {
        stack.redis.wipe();
        // As soon as one is there again, the others are on their way.
        let first = async {
            while registry.list(&Index::Within(Scope::All), None, 1, View::Basic).await.unwrap().agents.is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, first).await.expect("a first agent to be restored");
    }
    for agent in &agents {
        let runs = |a: &agent_pb::Agent| a.phase() == AgentPhase::Running;
        let now = stack.agent_is("the agent to be restored", "g", &agent.agent_id, runs).await;
        assert_eq!((now.pid, now.epoch), (agent.pid, agent.epoch));
    }
    let next = wait_until("creates to be taken again", async || stack.create(idle("g", "next")).await).await;
    assert!(agents.iter().all(|agent| next.epoch > agent.epoch && lives(agent.pid)));
    let request = pb::StopGuildRequest { guild_id: "g".to_owned(), ..Default::default() };
    assert_eq!(stack.client.clone().stop_guild(request).await.unwrap().into_inner().stopped, 21);
    stack.assert_nothing_left().await;
}

#[tokio::test]
async fn an_agent_that_crashes_while_the_registry_is_lost_comes_back() {
    let stack = stack(1).await;
    let agent = stack.create(idle("g", "a")).await.unwrap();
    stack.redis.wipe();
    rustix::process::kill_process(rustix::process::Pid::from_raw(agent.pid as i32).unwrap(), Signal::KILL).unwrap();
    let back = |a: &agent_pb::Agent| a.phase() == AgentPhase::Running && a.restarts == 1;
    let now = stack.agent_is("the agent to run again", "g", "a", back).await;
    assert_eq!(now.epoch, agent.epoch);
    assert!(lives(now.pid));
}

#[tokio::test]
async fn a_host_is_drained_and_used_again_by_call() {
    let stack = stack(2).await;
    for n in 0..4 {
        stack.create(idle("g", &n.to_string())).await.unwrap();
    }
    let mut client = stack.client.clone();
    let host_id = "agent-host-0".to_owned();
    client
        .drain_host(pb::DrainHostRequest { host_id: host_id.clone(), force: pb::ForceMode::None.into() })
        .await
        .unwrap();
    for n in 0..4 {
        stack.agent_is("the agent to run on the other host", "g", &n.to_string(), runs_on("agent-host-1")).await;
    }
    let hosts = client.list_hosts(pb::ListHostsRequest::default()).await.unwrap().into_inner().hosts;
    assert_eq!((hosts[0].state(), hosts[0].used.len()), (pb::HostState::Draining, 0));
    assert_eq!(stack.create(idle("g", "new")).await.unwrap().host_id, "agent-host-1");
    client.undrain_host(pb::UndrainHostRequest { host_id }).await.unwrap();
    let create = async || {
        let agent = stack.create(idle("g", "newer")).await.unwrap();
        if agent.host_id == "agent-host-0" {
            Ok(())
        } else {
            stack.stop("g", "newer").await.map_or_else(|e| Err(e.to_string()), |_| Err(agent.host_id))
        }
    };
    wait_until("the host to take agents again", create).await;
    let unknown = client
        .drain_host(pb::DrainHostRequest { host_id: "nobody".to_owned(), force: pb::ForceMode::None.into() })
        .await
        .unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    let empty = client.drain_host(pb::DrainHostRequest::default()).await.unwrap_err();
    assert_eq!(empty.code(), Code::InvalidArgument);
}
