//! SIGKILL that nobody here sent is explained; one that was is not.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use rustic_proto::agent::v1::{AgentLaunch, AgentPhase, RestartMode, RestartPolicy};
use rustic_tests::{
    Stack,
    launches::{idle, script},
};
use rustix::process::{Pid, Signal, kill_process};

/// What is said of a kill that came from elsewhere.
const UNKNOWN: &str = "signal 9 (SIGKILL), which its host did not send: the kernel may have been out of memory";

fn kill(pid: u32) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::KILL).unwrap();
}

fn once(launch: AgentLaunch) -> AgentLaunch {
    let restart_policy = Some(RestartPolicy { mode: RestartMode::Never.into(), ..Default::default() });
    AgentLaunch { restart_policy, ..launch }
}

#[tokio::test]
async fn a_kill_that_no_one_here_sent_names_the_kernel_and_the_memory_last_seen_in_every_life() {
    let stack = Stack::start().await;
    let neighbour = stack.create(idle("other", "a")).await.unwrap();
    let agent = stack.create(idle("g", "a")).await.unwrap();
    let explained = async |pid: u32, restarts: u32| {
        let fits = |line: &serde_json::Value| {
            let text = line["how"].as_str().unwrap_or_default();
            line["pid"] == pid && text.contains("which its host did not send")
        };
        stack.hosts[0].logged("the kill to be explained", fits).await;
        stack.agent_is("it to return", "g", "a", |a| a.phase() == AgentPhase::Running && a.restarts == restarts).await
    };
    kill(agent.pid);
    let second = explained(agent.pid, 1).await;
    kill(second.pid);
    explained(second.pid, 2).await;
    assert_eq!(stack.get("other", "a").await.unwrap().pid, neighbour.pid);

    let agent = stack.create(once(idle("g", "once"))).await.unwrap();
    kill(agent.pid);
    let failed = stack.agent_is("it to fail", "g", "once", |a| a.phase() == AgentPhase::Failed).await;
    assert!(
        failed.message.contains(UNKNOWN) && failed.message.contains("; memory last seen: "),
        "{}",
        failed.message
    );
}

/// Why an agent is gone that ends itself at once: the caller's error says it, or the agent's record if the agent was ready by then.
async fn reason_of(stack: &Stack, agent: &str, ends_itself: &str) -> String {
    match stack.create(once(script("g", agent, ends_itself))).await {
        Err(status) => status.message().to_owned(),
        Ok(_) => stack.agent_is("it to fail", "g", agent, |a| a.phase() == AgentPhase::Failed).await.message,
    }
}

#[tokio::test]
async fn an_agent_that_ignores_sigterm_is_killed_by_its_host_and_that_needs_no_explanation() {
    let stack = Stack::start().await;
    stack.create(script("g", "stubborn", "trap '' TERM; echo deaf; while :; do sleep 1000; done")).await.unwrap();
    stack.hosts[0].logged("it to be deaf", |line| line["message"] == "deaf").await;
    let mut client = stack.client.clone();
    let request = rustic_proto::engine::v1::StopAgentRequest {
        guild_id: "g".to_owned(),
        agent_id: "stubborn".to_owned(),
        timeout: Some(prost_types::Duration { seconds: 0, nanos: 1_000_000 }),
        ..Default::default()
    };
    client.stop_agent(request).await.unwrap();
    let ended = stack.hosts[0].logged("its end", |l| l["status"] == "signal 9 (SIGKILL)").await;
    assert_eq!(ended["message"], "process ended");
}

#[tokio::test]
async fn signals_have_names_where_they_are_shown_and_only_a_kill_is_explained() {
    let stack = Stack::start().await;
    let killed = reason_of(&stack, "killed", "kill -KILL $$").await;
    assert!(killed.contains(UNKNOWN), "{killed}");
    for (signal, name) in [("SEGV", "signal 11 (SIGSEGV)"), ("35", "signal 35 (SIGRTMIN+1)")] {
        let reason = reason_of(&stack, signal, &format!("kill -{signal} $$")).await;
        assert!(reason.contains(name) && !reason.contains("the kernel"), "{reason}");
    }
}
