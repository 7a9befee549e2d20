//! An agent that uses more than it may harms itself, and nobody else.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use rustic_proto::{agent::v1 as agent_pb, reason::Reason};
use rustic_tests::{
    Modules, Stack, StackSettings, Zygote,
    launches::{python, script},
    processes::lives,
};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;

/// Takes 1 GiB as it is built, or when a thread of its own finds a file; says what came of it.
const GREEDY: &str = "import os, threading, time\nfrom rustic_ai.core.guild.agent import Agent\n\
    def take():\n    try:\n        got = bytearray(1 << 30)\n        print('GOT', len(got), flush=True)\n\
    \x20   except MemoryError:\n        print('MEMORY ERROR', flush=True)\n\
    class Later(Agent):\n    def __init__(self):\n        threading.Thread(target=take, daemon=True).start()\n\
    class AtOnce(Agent):\n    def __init__(self):\n        self.everything = bytearray(1 << 30)\n\
    class Modest(Agent):\n    def __init__(self):\n        self.some = bytearray(50 << 20)\n        print('MODEST', flush=True)\n";

/// An agent of one of these classes that may use so much memory; `None`: its host says how much.
fn agent(id: &str, class: &str, memory: Option<f64>) -> agent_pb::AgentLaunch {
    let launch = python("g", id, &format!("greedy.{class}"));
    let mut spec: Value = serde_json::from_str(&launch.agent_spec).unwrap();
    if let Some(memory) = memory {
        spec["resources"] = json!({"custom_resources": {"memory": memory}});
    }
    agent_pb::AgentLaunch { agent_spec: spec.to_string(), ..launch }
}

#[tokio::test]
async fn an_allocation_beyond_the_memory_limit_fails_in_the_agent_alone_in_every_life() {
    let modules = Modules::new(&[("greedy", GREEDY)]);
    for zygote in [Zygote::On, Zygote::Off] {
        let stack = Stack::with(StackSettings { zygote, ..modules.settings(&["--resource", "memory=8e9"]) }).await;
        let said = |pid: u32, what: &'static str| {
            move |line: &Value| line["message"].as_str().is_some_and(|m| m.starts_with(what)) && line["pid"] == pid
        };
        let free = stack.create(agent("free", "Later", None)).await.unwrap();
        stack.hosts[0].logged("what has no limit to get it", said(free.pid, "GOT")).await;
        let modest = stack.create(agent("modest", "Modest", Some(200e6))).await.unwrap();
        stack.hosts[0].logged("what stays below to live", said(modest.pid, "MODEST")).await;

        let greedy = stack.create(agent("greedy", "Later", Some(200e6))).await.unwrap();
        stack.hosts[0].logged("the allocation to fail", said(greedy.pid, "MEMORY ERROR")).await;
        assert!(lives(greedy.pid), "its handler can say so");
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(greedy.pid.try_into().unwrap()).unwrap(),
            Signal::KILL,
        )
        .unwrap();
        let again = |a: &agent_pb::Agent| a.restarts >= 1 && a.phase() == agent_pb::AgentPhase::Running;
        let second = stack.agent_is("its second life", "g", "greedy", again).await;
        stack.hosts[0].logged("it to fail again", said(second.pid, "MEMORY ERROR")).await;

        let refused = stack.create(agent("at-once", "AtOnce", Some(200e6))).await.unwrap_err();
        assert_eq!(Reason::of(&refused), Some(Ok(Reason::AgentInitFailed)), "{refused:?}");
        let text = refused.message();
        assert!(text.contains("of its memory limit of 200,000,000 bytes"), "{text}");
        assert!(lives(free.pid) && lives(modest.pid) && lives(second.pid));
    }
}

#[tokio::test]
async fn a_host_bounds_agents_that_name_no_limit_and_commands_too() {
    let modules = Modules::new(&[("greedy", GREEDY)]);
    let stack = modules.stack(&["--agent-memory", "200000000"]).await;
    let greedy = stack.create(agent("greedy", "Later", None)).await.unwrap();
    let failed = |line: &Value| line["message"] == "MEMORY ERROR" && line["pid"] == greedy.pid;
    stack.hosts[0].logged("the allocation to fail", failed).await;
    let command = stack.create(script("g", "command", "exec sleep 1000")).await.unwrap();
    let limits = fs::read_to_string(format!("/proc/{}/limits", command.pid)).unwrap();
    let of = |name: &str| limits.lines().find_map(|line| line.strip_prefix(name)).unwrap().split_whitespace().next();
    let data: u64 = of("Max data size").unwrap().parse().unwrap();
    assert!((200_000_000..300_000_000).contains(&data), "{limits}");
    assert_eq!(of("Max core file size"), Some("0"));
    for pid in [greedy.pid, command.pid] {
        let sooner = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
        let own = fs::read_to_string(format!("/proc/{}/oom_score_adj", stack.hosts[0].pid())).unwrap();
        let score = |text: &str| text.trim().parse::<i32>().unwrap();
        assert!(score(&sooner) > score(&own), "{sooner} {own}");
    }
}

#[tokio::test]
async fn an_agent_that_fills_its_scratch_space_is_ended_and_says_so_and_others_run_on() {
    let stack = Stack::with(StackSettings {
        host_arguments: ["--agent-scratch", "20000000", "--usage-every", "200ms"].map(str::to_owned).to_vec(),
        ..StackSettings::default()
    })
    .await;
    let quiet = stack.create(script("g", "quiet", "exec sleep 1000")).await.unwrap();
    let never = agent_pb::RestartPolicy { max_restarts: Some(1), ..Default::default() };
    for place in [".", "$TMPDIR"] {
        let fills = script("g", "fills", &format!("head -c 30000000 /dev/zero > {place}/file; exec sleep 1000"));
        stack.create(agent_pb::AgentLaunch { restart_policy: Some(never), ..fills }).await.unwrap();
        let failed = |a: &agent_pb::Agent| a.phase() == agent_pb::AgentPhase::Failed;
        let failed = stack.agent_is("it to be ended in both lives", "g", "fills", failed).await;
        assert_eq!((failed.reason.as_str(), failed.restarts), ("ScratchExceeded", 1), "{failed:?}");
        assert!(failed.message.contains("its host allows 20000000 (--agent-scratch)"), "{failed:?}");
        stack.stop("g", "fills").await.unwrap();
    }
    assert!(lives(quiet.pid));
    assert_eq!(stack.get("g", "quiet").await.unwrap().restarts, 0);
}

#[tokio::test]
async fn when_memory_runs_out_the_agent_that_has_most_beyond_what_it_asked_for_is_ended() {
    let group = tempfile::tempdir().unwrap();
    let used = |bytes: u64| fs::write(group.path().join("memory.current"), bytes.to_string()).unwrap();
    fs::write(group.path().join("memory.max"), "1000000000\n").unwrap();
    fs::write(group.path().join("memory.stat"), "anon 1\ninactive_file 100000000\n").unwrap();
    // Much of it is only kept because there is room.
    used(980_000_000);
    let modules = Modules::new(&[("greedy", GREEDY)]);
    let group_path = group.path().display().to_string();
    let stack = modules.stack(&["--memory-cgroup", &group_path, "--resource", "memory=8e9"]).await;
    stack.create(script("g", "small", "exec sleep 1000")).await.unwrap();
    // The one that has the most has asked for it.
    stack.create(agent("entitled", "Modest", Some(500e6))).await.unwrap();
    let greedy = stack.create(agent("greedy", "Modest", None)).await.unwrap();
    used(1_060_000_000);
    // It may be back and be ended again before anybody looks, as long as memory is used up.
    let ended = |a: &agent_pb::Agent| a.restarts >= 1 && a.reason == "MemoryPressure";
    let ended = stack.agent_is("the greedy one to be ended", "g", "greedy", ended).await;
    used(500_000_000);
    assert!(ended.message.contains("of 1000000000 bytes of memory"), "{ended:?}");
    assert!(!lives(greedy.pid));
    let evicted = |line: &Value| line["message"] == "memory is nearly used up; the agent is ended";
    let first = stack.hosts[0].logged("the first one that was ended", evicted).await;
    assert_eq!(first["agent"], "default/g/greedy");
    for agent in ["greedy", "entitled", "small"] {
        let runs = |a: &agent_pb::Agent| a.phase() == agent_pb::AgentPhase::Running;
        stack.agent_is("it to run, in whatever life", "g", agent, runs).await;
    }
}
