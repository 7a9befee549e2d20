//! Engine and host as a user of Redis that has the rights which the documents name, and whose password is rotated.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use rustic_tests::{
    Stack,
    launches::idle,
    program::Program,
    stack::{engine_arguments, words},
    wait_until,
};
use rustix::process::Signal;
use std::fs;

#[tokio::test]
async fn a_rotated_password_of_redis_costs_no_agent_and_no_restart() {
    let mut stack = Stack::start().await;
    let rights = include_str!("../../docs/redis.md");
    let rights = rights.lines().find(|line| line.starts_with("ACL SETUSER rustic on")).unwrap();
    let mut admin = stack.redis.admin();
    assert_eq!(admin.run(rights), "+OK");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    fs::write(&file, "password\n").unwrap();
    let flags = words(&format!("--redis-username rustic --redis-password-file {}", file.display()));

    // Both in their second life, with an identity.
    stack.engine.signal(Signal::TERM);
    stack.engine.ended().await;
    stack.engine = Program::start("engine-svc", &engine_arguments(&stack.redis.url(), &flags));
    stack.connect_to_engine().await;
    stack.hosts[0].signal(Signal::TERM);
    stack.hosts[0].ended().await;
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    stack.restart_host_with(0, &flags);
    stack.wait_for_hosts().await;
    let before = stack.create(idle("g", "before")).await.unwrap();

    assert_eq!(admin.run("ACL SETUSER rustic >new"), "+OK");
    fs::write(&file, "new\n").unwrap();
    assert_eq!(admin.run("ACL SETUSER rustic <password"), "+OK");
    // How many connections that were: all of the engine's and the host's.
    let cut = admin.run("CLIENT KILL USER rustic");
    assert!(cut.trim_start_matches(':').parse::<u32>().unwrap() >= 2, "{cut}");
    // A call that was cut off may fail once.
    let after = wait_until("another agent to be created", async || stack.create(idle("g", "after")).await).await;
    assert_ne!(after.pid, before.pid);
    let same = stack.get("g", "before").await.unwrap();
    assert_eq!((same.pid, same.epoch), (before.pid, before.epoch), "it was not disturbed");
    for program in [&stack.engine, &stack.hosts[0]] {
        assert!(!program.text().contains("may not run"), "they lack no right");
    }

    // One that lacks a right is told which.
    assert_eq!(admin.run("ACL SETUSER rustic -hincrby -info"), "+OK");
    let arguments = engine_arguments(&stack.redis.url(), &flags.iter().map(ToString::to_string).collect::<Vec<_>>());
    let lacks = Program::start("engine-svc", &arguments);
    let told = |text: &'static str| {
        move |line: &serde_json::Value| line["message"].as_str().is_some_and(|message| message.contains(text))
    };
    let line = lacks.logged("it to say what it lacks", told("may not run commands that are needed")).await;
    assert_eq!(line["commands"], "HINCRBY");
    lacks.logged("it to say what INFO is for", told("may not run INFO")).await;
}
