//! Agents that are started anew because somebody asked for it, and hosts and agents that are given up by force.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use rustic_proto::{
    agent::v1::{self as agent_pb, AgentPhase, AgentView, OnDisconnect},
    engine::v1 as pb,
};
use rustic_registry::{AgentReason, EventId, Phase, Registry as _};
use rustic_tests::{
    Stack, StackSettings,
    launches::{idle, script},
    processes::lives,
    wait_until,
};
use rustix::process::Signal;
use std::time::Duration;
use tonic::Code;

async fn restart(stack: &Stack, agent: &str) -> Result<agent_pb::Agent, tonic::Status> {
    let (guild_id, agent_id) = ("g".to_owned(), agent.to_owned());
    let request = pb::RestartAgentRequest { guild_id, agent_id, ..Default::default() };
    Ok(stack.client.clone().restart_agent(request).await?.into_inner().agent.unwrap())
}

#[tokio::test]
async fn a_failed_agent_keeps_its_last_lines_and_comes_back_when_it_is_restarted() {
    let stack = Stack::start().await;
    let dir = tempfile::tempdir().unwrap();
    let mended = dir.path().join("mended");
    // One pipe for both: what comes by two ways comes in either order.
    let body = format!("test -e {} && exec sleep 1000; exec 2>&1; seq 60; echo broken >&2; exit 3", mended.display());
    let mut launch = script("g", "a", &body);
    launch.restart_policy =
        Some(agent_pb::RestartPolicy { mode: agent_pb::RestartMode::Never.into(), ..Default::default() });
    let wait = agent_pb::WaitMode::Accepted.into();
    let request = pb::CreateAgentRequest { launch: Some(launch.into()), wait, ..Default::default() };
    stack.client.clone().create_agent(request).await.unwrap();
    let failed = stack.agent_is("FAILED", "g", "a", |a| a.phase() == AgentPhase::Failed).await;
    assert!(failed.last_lines.is_empty(), "only in the full view");
    let (guild_id, agent_id, view) = ("g".to_owned(), "a".to_owned(), AgentView::Full.into());
    let full = stack
        .client
        .clone()
        .get_agent(pb::GetAgentRequest { guild_id, agent_id, view, ..Default::default() })
        .await
        .unwrap();
    let full = full.into_inner().agent.unwrap();
    let written = (1..=60).map(|n| n.to_string()).chain(["broken".to_owned()]);
    assert_eq!(full.last_lines, written.skip(11).collect::<Vec<_>>(), "the last 50");
    assert_eq!(full.last_exit.unwrap().status, Some(agent_pb::last_exit::Status::Code(3)));
    // It fails once more: before its caller has heard that it runs, or after.
    if let Err(status) = restart(&stack, "a").await {
        assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    }
    let failed_before = failed.epoch;
    let failed = |agent: &agent_pb::Agent| agent.phase() == AgentPhase::Failed && agent.epoch > failed_before;
    let failed = stack.agent_is("FAILED once more", "g", "a", failed).await;
    std::fs::write(mended, "").unwrap();
    let agent = restart(&stack, "a").await.unwrap();
    assert_eq!((agent.phase(), agent.restarts), (AgentPhase::Running, 0));
    assert!(agent.epoch > failed.epoch && lives(agent.pid));
    stack.stop("g", "a").await.unwrap();
    stack.assert_nothing_left().await;
}

#[tokio::test]
async fn a_running_agent_is_stopped_before_it_starts_anew() {
    let stack = Stack::of(2).await;
    let first = stack.create(idle("g", "a")).await.unwrap();
    let second = restart(&stack, "a").await.unwrap();
    assert!(second.phase() == AgentPhase::Running && second.epoch > first.epoch && second.pid != first.pid);
    assert!(!lives(first.pid) && lives(second.pid));
    let events = stack.registry().events(EventId::default(), 100, Duration::ZERO).await.unwrap();
    let waited: Vec<_> = events.agents().filter(|e| e.phase == Some(Phase::Pending)).map(|e| e.reason).collect();
    assert_eq!(waited, [Some(AgentReason::RestartRequested)]);
    assert_eq!(restart(&stack, "nobody").await.unwrap_err().code(), Code::NotFound);
    stack.stop("g", "a").await.unwrap();
    stack.assert_nothing_left().await;
}

/// A host whose agents outlive a lost lease, frozen until the lease is over.
async fn silent_host() -> (Stack, agent_pb::Agent) {
    let arguments = |text: &str| text.split(' ').map(str::to_owned).collect();
    let stack = Stack::with(StackSettings {
        hosts: 2,
        host_arguments: arguments("--lease-ttl 1500ms --lease-margin 400ms --lease-grace 300ms"),
        engine_arguments: arguments("--lease-ttl 1500ms --lease-grace 300ms"),
        ..StackSettings::default()
    })
    .await;
    let keep = agent_pb::AgentLaunch { on_disconnect: OnDisconnect::Keep.into(), ..idle("g", "a") };
    let agent = stack.create(keep).await.unwrap();
    assert_eq!(agent.host_id, "agent-host-0");
    stack.hosts[0].signal(Signal::STOP);
    stack.agent_is("its host to be silent", "g", "a", |a| a.reason == "HostSilent").await;
    assert!(lives(agent.pid), "it outlives the lease");
    (stack, agent)
}

#[tokio::test]
async fn an_agent_of_a_silent_host_is_removed_by_force_only() {
    let (stack, _agent) = silent_host().await;
    let (guild_id, agent_id) = ("g".to_owned(), "a".to_owned());
    let request = |force: pb::ForceMode| {
        let timeout = Some(prost_types::Duration { seconds: 0, nanos: 0 });
        let mut request = tonic::Request::new(pb::StopAgentRequest {
            guild_id: guild_id.clone(),
            agent_id: agent_id.clone(),
            timeout,
            force: force.into(),
            ..Default::default()
        });
        request.set_timeout(std::time::Duration::from_secs(30));
        request
    };
    let refused = stack.client.clone().stop_agent(request(pb::ForceMode::None)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    stack.client.clone().stop_agent(request(pb::ForceMode::RetiredHost)).await.unwrap();
    assert_eq!(stack.get("g", "a").await.unwrap_err().code(), Code::NotFound);
    // Back again, the host finds that the agent is not its own any more.
    stack.hosts[0].signal(Signal::CONT);
    wait_until("the host to let go", async || {
        let left = rustic_tests::processes::agents(stack.hosts[0].pid());
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
}

#[tokio::test]
async fn a_silent_host_is_given_up_by_force_and_a_living_one_is_not() {
    let (stack, agent) = silent_host().await;
    let drain = async |host: &str| {
        let request = pb::DrainHostRequest { host_id: host.to_owned(), force: pb::ForceMode::RetiredHost.into() };
        stack.client.clone().drain_host(request).await.map(|_| ())
    };
    assert_eq!(drain("agent-host-1").await.unwrap_err().code(), Code::FailedPrecondition);
    drain("agent-host-0").await.unwrap();
    let elsewhere = |a: &agent_pb::Agent| a.phase() == AgentPhase::Running && a.host_id == "agent-host-1";
    let now = stack.agent_is("it to run elsewhere", "g", "a", elsewhere).await;
    assert!(now.epoch > agent.epoch);
    stack.hosts[0].signal(Signal::CONT);
    wait_until("the host to let go", async || if lives(agent.pid) { Err(agent.pid) } else { Ok(()) }).await;
    assert!(lives(now.pid));
}
