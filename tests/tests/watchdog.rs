//! A watchdog that cannot watch an agent says so by ending: its replacement can, and no agent is harmed.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use rustic_tests::{
    Stack,
    launches::idle,
    processes::{lives, watchdog},
    wait_until,
};
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};

/// Lets a process open nothing more.
fn close_the_door(pid: u32) {
    let is_open = |number: &u64| std::fs::symlink_metadata(format!("/proc/{pid}/fd/{number}")).is_ok();
    let next = (0..).find(|number| !is_open(number));
    let pid = Pid::from_raw(i32::try_from(pid).unwrap());
    prlimit(pid, Resource::Nofile, Rlimit { current: next, maximum: next }).unwrap();
}

#[tokio::test]
async fn a_watchdog_that_gets_no_descriptor_of_an_agent_is_replaced_by_one_that_watches_all() {
    let mut stack = Stack::start().await;
    let host = stack.hosts[0].pid();
    let early = stack.create(idle("g", "early")).await.unwrap();
    let neighbour = stack.create(idle("other", "early")).await.unwrap();
    let first = watchdog(host).unwrap();
    close_the_door(first);
    let late = stack.create(idle("g", "late")).await.unwrap();
    let ready = |line: &serde_json::Value| line["message"] == "the watchdog is ready" && line["pid"] != first;
    stack.hosts[0].logged("another watchdog", ready).await;
    for agent in [&early, &neighbour, &late] {
        let found = stack.get(&agent.guild_id, &agent.agent_id).await.unwrap();
        assert_eq!((found.pid, found.restarts), (agent.pid, 0));
        assert!(lives(agent.pid));
    }
    // All are watched: none outlives its host, and the next life of it has them back.
    stack.hosts[0].signal(Signal::KILL);
    stack.hosts[0].ended().await;
    let pids = [early.pid, neighbour.pid, late.pid];
    wait_until("all to end with their host", async || match pids.into_iter().filter(|pid| lives(*pid)).count() {
        0 => Ok(()),
        left => Err(left),
    })
    .await;
    stack.restart_host(0);
    for agent in [&early, &neighbour, &late] {
        let returned = |found: &rustic_proto::agent::v1::Agent| found.pid != 0 && found.pid != agent.pid;
        stack.agent_is("it to return", &agent.guild_id, &agent.agent_id, returned).await;
    }
}
