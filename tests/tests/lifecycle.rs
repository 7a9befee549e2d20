//! Agents live where they should, once, and end completely.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use rustic_proto::{
    agent::v1::{self as agent_pb, AgentPhase, AgentView},
    engine::v1 as pb,
};
use rustic_registry::{
    Claim, ClaimOutcome, Documents, FirstStart, IfFull, OnDisconnect, Registry as _, Resources, SpecDigest,
};
use rustic_tests::{
    Modules, Stack, StackSettings, Zygote,
    launches::{RESPONDER, idle, python, script},
    processes::{agents, children, lives, state},
    wait_until,
};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeSet;
use tokio::task::JoinSet;
use tonic::Code;

fn kill(pid: u32) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::KILL).unwrap();
}

#[tokio::test]
async fn agents_of_one_guild_land_on_both_hosts_and_a_killed_one_comes_back_in_place() {
    let stack = Stack::of(2).await;
    let mut before = vec![];
    for n in 0..4 {
        before.push(stack.create(idle("g", &format!("a{n}"))).await.unwrap());
    }
    let hosts: BTreeSet<_> = before.iter().map(|a| a.host_id.clone()).collect();
    assert_eq!(hosts.len(), 2, "{before:?}");

    kill(before[0].pid);
    let fresh = |a: &agent_pb::Agent| a.phase() == AgentPhase::Running && a.restarts == 1;
    let back = stack.agent_is("the killed agent to come back", "g", "a0", fresh).await;
    assert_eq!((&back.host_id, back.epoch), (&before[0].host_id, before[0].epoch));
    assert_ne!(back.pid, before[0].pid);
    assert_eq!(back.last_exit.unwrap().status, Some(agent_pb::last_exit::Status::Signal(9)));
    for other in &before[1..] {
        let now = stack.get("g", &other.agent_id).await.unwrap();
        assert_eq!((now.pid, now.restarts), (other.pid, 0), "the others never notice");
    }
    let request = pb::StopGuildRequest { guild_id: "g".to_owned(), timeout: None, ..Default::default() };
    assert_eq!(stack.client.clone().stop_guild(request.clone()).await.unwrap().into_inner().stopped, 4);
    assert_eq!(stack.client.clone().stop_guild(request).await.unwrap().into_inner().stopped, 0);
    stack.assert_nothing_left().await;
}

#[tokio::test]
async fn two_guilds_may_use_the_same_agent_id() {
    let stack = Stack::start().await;
    let one = stack.create(idle("one", "same")).await.unwrap();
    let two = stack.create(idle("two", "same")).await.unwrap();
    assert_ne!(one.pid, two.pid);
    stack.stop("one", "same").await.unwrap();
    assert_eq!(stack.get("one", "same").await.unwrap_err().code(), Code::NotFound);
    assert_eq!(stack.get("two", "same").await.unwrap().pid, two.pid);
    assert!(lives(two.pid) && !lives(one.pid));
    stack.stop("two", "same").await.unwrap();
    stack.assert_nothing_left().await;
}

#[tokio::test]
async fn twenty_creates_at_once_make_one_process_and_twenty_equal_answers() {
    let stack = Stack::of(2).await;
    let mut calls = JoinSet::new();
    for _ in 0..20 {
        let mut client = stack.client.clone();
        let launch = Some(python("g", "a", RESPONDER).into());
        let request = pb::CreateAgentRequest { launch, ..Default::default() };
        calls.spawn(async move { client.create_agent(request).await.unwrap().into_inner().agent.unwrap() });
    }
    let answers = calls.join_all().await;
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:#?}");
    assert_eq!(answers[0].phase(), AgentPhase::Running);
    let processes: usize = stack.hosts.iter().map(|h| agents(h.pid()).len()).sum();
    assert_eq!(processes, 1);
    stack.stop("g", "a").await.unwrap();
    stack.assert_nothing_left().await;
}

#[tokio::test]
async fn a_full_cluster_says_so_and_a_stop_makes_room() {
    let host_arguments = vec!["--max-agents".to_owned(), "2".to_owned()];
    let stack = Stack::with(StackSettings { hosts: 2, host_arguments, ..StackSettings::default() }).await;
    for n in 0..4 {
        stack.create(idle("g", &format!("a{n}"))).await.unwrap();
    }
    let status = stack.create(idle("g", "a4")).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(stack.get("g", "a4").await.unwrap_err().code(), Code::NotFound);
    stack.stop("g", "a1").await.unwrap();
    stack.create(idle("g", "a4")).await.unwrap();
}

#[tokio::test]
async fn a_host_that_is_gone_is_passed_over_and_the_claim_on_it_is_moved() {
    let mut stack = Stack::of(2).await;
    // The registry still believes in the dead host: its lease lasts for seconds.
    stack.hosts[0].signal(Signal::KILL);
    stack.hosts[0].ended().await;
    let agent = stack.create(idle("g", "a")).await.unwrap();
    assert_eq!(agent.host_id, "agent-host-1");
    stack.stop("g", "a").await.unwrap();

    // The same for a claim that an engine made and never delivered.
    let key = rustic_registry::AgentKey::parse("default", "g", "b").unwrap();
    let launch = rustic_proto::launch::Launch::check(Some(idle("g", "b").into())).unwrap();
    let claim = Claim {
        key,
        name: "B".to_owned(),
        request_id: "another-engine".parse().unwrap(),
        digest: SpecDigest(launch.digest.0.clone()),
        demand: Resources::one_slot(),
        on_disconnect: OnDisconnect::Stop,
        documents: Documents::default(),
        candidates: vec!["agent-host-0".parse().unwrap()].into(),
        if_full: IfFull::Refuse,
        waits: None,
        if_namesakes: rustic_registry::IfNamesakes::Ignore,
        first_start: FirstStart::MustSucceed,
        store_life: None,
        asked: rustic_registry::Stops(u64::MAX),
    };
    let outcome = stack.registry().claim(&claim).await.unwrap();
    assert!(matches!(outcome, ClaimOutcome::Claimed(_)), "{outcome:?}");
    assert_eq!(stack.create(idle("g", "b")).await.unwrap().host_id, "agent-host-1");
}

/// Says that it is there; then notes SIGTERM in a file that `$NOTE` names.
const CHILD: &str = "trap 'touch $NOTE; exit' TERM; echo begun; sleep 1000 & wait";

#[tokio::test]
async fn what_a_python_agent_started_serves_it_until_it_has_ended() {
    let parent = format!(
        "import subprocess\nfrom rustic_ai.core.guild.agent import Agent\n\
         class Parent(Agent):\n    def __init__(self):\n\
         \x20       self.child = subprocess.Popen(['sh', '-c', {CHILD:?}], stdout=subprocess.PIPE)\n\
         \x20       self.child.stdout.readline()\n"
    );
    let modules = Modules::new(&[("parent", &parent)]);
    let note = std::path::Path::new(&modules.path()).join("note");
    let stack = Stack::with(StackSettings { zygote: Zygote::Off, ..modules.settings(&[]) }).await;
    let mut launch = python("g", "a", "parent.Parent");
    launch.environment.insert("NOTE".to_owned(), note.display().to_string());
    let agent = stack.create(launch).await.unwrap();
    let family = children(agent.pid);
    assert_eq!(family.len(), 1);
    let exit = stack.stop("g", "a").await.unwrap().unwrap();
    assert_eq!(exit.status, Some(agent_pb::last_exit::Status::Code(0)));
    assert!(!note.exists(), "only the agent was asked");
    wait_until("its child to be gone", async || match state(family[0]) {
        None => Ok(()),
        state => Err(state),
    })
    .await;
}

#[tokio::test]
async fn a_command_is_asked_to_end_with_all_it_started() {
    let stack = Stack::start().await;
    let dir = tempfile::tempdir().unwrap();
    let note = dir.path().join("note");
    let body = format!("trap 'wait; exit 3' TERM; ({CHILD}) & wait");
    let mut launch = script("g", "a", &body);
    launch.environment.insert("NOTE".to_owned(), note.display().to_string());
    stack.create(launch).await.unwrap();
    stack.hosts[0].logged("the child's words", |l| l["message"] == "begun").await;
    let exit = stack.stop("g", "a").await.unwrap().unwrap();
    assert_eq!(exit.status, Some(agent_pb::last_exit::Status::Code(3)));
    assert!(note.exists());
}

#[tokio::test]
async fn an_agent_that_ignores_sigterm_is_killed_and_its_children_go_with_it() {
    let stack = Stack::start().await;
    // One child in the agent's session, one that escaped it.
    let body = "trap '' TERM; sleep 1001 & setsid sleep 1002 & wait; while true; do sleep 1; done";
    let agent = stack.create(script("g", "a", body)).await.unwrap();
    let family = wait_until("the agent's children", async || {
        let family = children(agent.pid);
        if family.len() == 2 { Ok(family) } else { Err(family) }
    })
    .await;
    let timeout = Some(prost_types::Duration { seconds: 0, nanos: 300_000_000 });
    let request = pb::StopAgentRequest {
        guild_id: "g".to_owned(),
        agent_id: "a".to_owned(),
        timeout,
        force: pb::ForceMode::None.into(),
        ..Default::default()
    };
    let exit = stack.client.clone().stop_agent(request).await.unwrap().into_inner().exit.unwrap();
    assert_eq!(exit.status, Some(agent_pb::last_exit::Status::Signal(9)));
    wait_until("the whole family to be reaped", async || {
        let left: Vec<_> = family.iter().filter(|pid| state(**pid).is_some()).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    stack.assert_nothing_left().await;
}

#[tokio::test]
async fn orphans_of_a_living_agent_are_reaped_and_agents_die_with_their_host() {
    let mut stack = Stack::start().await;
    // A daemon whose parent ends at once becomes the host's child; when it ends it must be reaped.
    let body = "(sleep 0.2 & exec true); (sleep 1003 & exec true); exec sleep 1000";
    stack.create(script("g", "a", body)).await.unwrap();
    let host = stack.hosts[0].pid();
    let family = wait_until("one orphan to live on and one to be reaped", async || {
        let children = agents(host);
        let zombie = children.iter().any(|pid| state(*pid) == Some('Z'));
        if children.len() == 2 && !zombie { Ok(children) } else { Err(format!("{children:?}")) }
    })
    .await;
    stack.hosts[0].signal(Signal::KILL);
    stack.hosts[0].ended().await;
    wait_until("the agent and its daemon to die with their host", async || {
        let left: Vec<_> = family.iter().filter(|pid| lives(**pid)).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
}

#[tokio::test]
async fn an_agent_that_keeps_crashing_ends_as_failed_with_its_reason() {
    let stack = Stack::start().await;
    let mut launch = script("g", "a", "exit 3");
    launch.restart_policy = Some(agent_pb::RestartPolicy {
        max_restarts: Some(2),
        initial_backoff: Some(prost_types::Duration { seconds: 0, nanos: 10_000_000 }),
        ..Default::default()
    });
    let request = pb::CreateAgentRequest {
        launch: Some(launch.clone().into()),
        wait: agent_pb::WaitMode::Accepted.into(),
        request_id: "first".to_owned(),
        pending: pb::PendingPolicy::Refuse.into(),
    };
    let mut client = stack.client.clone();
    client.create_agent(request.clone()).await.unwrap();
    let failed = |a: &agent_pb::Agent| a.phase() == AgentPhase::Failed;
    let agent = stack.agent_is("FAILED", "g", "a", failed).await;
    let said = (agent.reason.as_str(), agent.message.as_str());
    assert_eq!(said, ("ProcessExited", "its process ended with exit code 3, after 2 restarts"));
    assert_eq!((agent.restarts, agent.pid), (2, 0));
    // A retry of the request that failed says so; a new request tries again.
    assert_eq!(client.create_agent(request).await.unwrap_err().code(), Code::FailedPrecondition);
    let wait = agent_pb::WaitMode::Accepted.into();
    let fresh = pb::CreateAgentRequest { launch: Some(launch.into()), wait, ..Default::default() };
    assert!(client.create_agent(fresh).await.unwrap().into_inner().agent.unwrap().epoch > agent.epoch);
    stack.stop("g", "a").await.unwrap();
    stack.assert_nothing_left().await;
}

#[tokio::test]
async fn lists_filter_and_page_and_specs_come_back_as_they_were_written() {
    let stack = Stack::of(2).await;
    let mut launches: Vec<_> = (0..5).map(|n| idle("g", &format!("a{n}"))).collect();
    launches.push(idle("h", "a0"));
    launches[0].agent_spec =
        r#"{ "id":"a0",  "name":"Zero", "pi": 3.10, "big": 123456789012345678901234567890, "ext": {"x":null} }"#
            .to_owned();
    for launch in &launches {
        stack.create(launch.clone()).await.unwrap();
    }
    let list = async |request: pb::ListAgentsRequest| {
        let response = stack.client.clone().list_agents(request).await.unwrap().into_inner();
        let names: Vec<_> = response.agents.iter().map(|a| format!("{}/{}", a.guild_id, a.agent_id)).collect();
        (names, response)
    };
    let guild = || pb::ListAgentsRequest { guild_id: "g".to_owned(), page_size: 2, ..Default::default() };
    let mut seen = vec![];
    let mut page = guild();
    loop {
        let (names, response) = list(page).await;
        assert!(names.len() <= 2);
        seen.extend(names);
        page = pb::ListAgentsRequest { page_token: response.next_page_token.clone(), ..guild() };
        if response.next_page_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, ["g/a0", "g/a1", "g/a2", "g/a3", "g/a4"]);
    let by_name =
        pb::ListAgentsRequest { name: "Zero".to_owned(), view: AgentView::Full.into(), ..Default::default() };
    let (names, response) = list(by_name).await;
    assert_eq!(names, ["g/a0"]);
    assert_eq!(response.agents[0].agent_spec, launches[0].agent_spec);
    let on_host = |n| pb::ListAgentsRequest { host_id: format!("agent-host-{n}"), ..Default::default() };
    assert_eq!(list(on_host(0)).await.0.len() + list(on_host(1)).await.0.len(), 6);
    let failed = pb::ListAgentsRequest { phase: AgentPhase::Failed.into(), ..Default::default() };
    assert!(list(failed).await.0.is_empty());
}

#[tokio::test]
async fn a_process_gets_its_identity_and_nothing_of_the_hosts_settings() {
    let stack = Stack::start().await;
    let mut launch = script("g", "a", "env; cat; exec sleep 1000");
    launch.environment.insert("GREETING".to_owned(), "hello".to_owned());
    let agent = stack.create(launch).await.unwrap();
    let output = |text: &str| {
        let text = text.to_owned();
        async {
            stack.hosts[0]
                .logged(&text.clone(), move |l| l["message"].as_str().is_some_and(|m| m.starts_with(&text)))
                .await
        }
    };
    output("GREETING=hello").await;
    output("RUSTIC_AGENT_ID=a").await;
    output("RUSTIC_AGENT_GUILD_ID=g").await;
    output(&format!("RUSTIC_AGENT_EPOCH={}", agent.epoch)).await;
    output(&format!("RUSTIC_ENGINE_ADDRESS={}", stack.engine_address())).await;
    let document = output("{\"version\":1").await;
    assert_eq!((&document["guild_id"], &document["pid"]), (&"g".into(), &agent.pid.into()));
    assert!(!stack.hosts[0].text().contains("AGENT_HOST_"));
}
