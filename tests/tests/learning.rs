//! Zygotes that learn what agents import, and the Python environments that they live in. What they must not share is in `sharing`.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use rustic_proto::{
    agent::v1::{AgentLaunch, PythonRuntime, Runtime, runtime::Kind},
    agent_host::v1::{self as host_pb, RuntimeProfile},
};
use rustic_tests::{Modules, Stack, launches::python, processes::lives, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use tonic::Code;

/// Prints whether its agent has inherited this module: what was shared is immortal.
const HEAVY: &str = "import sys\nfrom rustic_ai.core.guild.agent import Agent\nMARK = object()\n\
    class Heavy(Agent):\n    def __init__(self):\n\
    \x20       print('INHERITED' if sys.getrefcount(MARK) > 1 << 30 else 'IMPORTED HERE', flush=True)\n";

async fn profile(stack: &Stack, name: &str) -> RuntimeProfile {
    let health = stack.host(0).await.health(host_pb::HealthRequest {}).await.unwrap().into_inner();
    health.profiles.into_iter().find(|profile| profile.name == name).unwrap()
}

async fn generation(stack: &Stack, at_least: u32) -> RuntimeProfile {
    wait_until("a new zygote generation", async || match profile(stack, "default").await {
        profile if profile.generation >= at_least => Ok(profile),
        profile => Err(profile),
    })
    .await
}

/// Packages of each branch.
fn packages(profile: &RuntimeProfile) -> Vec<Vec<String>> {
    profile.branches.iter().map(|branch| branch.packages.clone()).collect()
}

/// Waits until the host says that a module is not shared. Returns why.
async fn not_shared(stack: &Stack, module: &str) -> String {
    wait_until("the refusal", async || {
        let profile = profile(stack, "default").await;
        profile.not_shared.get(module).cloned().ok_or(profile)
    })
    .await
}

/// What the agent `agent` printed when it was built.
async fn said(stack: &Stack, agent: &str) -> String {
    let by = |l: &serde_json::Value| l["agent_id"] == agent && l["target"] == "agent";
    stack.hosts[0].logged("the agent's words", by).await["message"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn what_one_agent_had_to_import_the_next_one_inherits() {
    let modules = Modules::new(&[("heavy", HEAVY)]);
    let stack = modules.stack(&[]).await;
    stack.create(python("g", "first", "heavy.Heavy")).await.unwrap();
    assert_eq!(said(&stack, "first").await, "IMPORTED HERE");
    let learned = generation(&stack, 1).await;
    assert_eq!(packages(&learned), [["heavy"]]);
    stack.create(python("g", "second", "heavy.Heavy")).await.unwrap();
    assert_eq!(said(&stack, "second").await, "INHERITED");

    // A variable that nobody asked for while it was imported makes no difference.
    let mut launch = python("another guild", "third", "heavy.Heavy");
    launch.environment.insert("KEY".to_owned(), "mine".to_owned());
    stack.create(launch).await.unwrap();
    assert_eq!(said(&stack, "third").await, "INHERITED");
    assert_eq!(profile(&stack, "default").await.cold_starts, 0);
}

#[tokio::test]
async fn what_a_host_learned_its_next_life_has_before_its_agents_come_back() {
    let modules = Modules::new(&[("heavy", HEAVY)]);
    let mut stack = modules.stack(&[]).await;
    let before = stack.create(python("g", "a", "heavy.Heavy")).await.unwrap();
    generation(&stack, 1).await;
    stack.hosts[0].signal(Signal::KILL);
    stack.hosts[0].ended().await;
    stack.restart_host(0);
    stack.agent_is("the agent to run again", "g", "a", |a| a.epoch > before.epoch && a.pid != 0).await;
    assert_eq!(said(&stack, "a").await, "INHERITED");
    assert_eq!(packages(&profile(&stack, "default").await), [["heavy"]]);
}

#[tokio::test]
async fn a_branch_that_dies_is_grown_anew_and_agents_start_meanwhile() {
    let modules = Modules::new(&[("heavy", HEAVY)]);
    let stack = modules.stack(&[]).await;
    stack.create(python("g", "first", "heavy.Heavy")).await.unwrap();
    let branch = generation(&stack, 1).await.branches[0].pid;
    kill_process(Pid::from_raw(i32::try_from(branch).unwrap()).unwrap(), Signal::KILL).unwrap();
    stack.create(python("g", "meanwhile", "heavy.Heavy")).await.unwrap();
    generation(&stack, 2).await;
    stack.create(python("g", "after", "heavy.Heavy")).await.unwrap();
    assert_eq!(said(&stack, "after").await, "INHERITED");
    assert_eq!(profile(&stack, "default").await.cold_starts, 0);
}

#[tokio::test]
async fn a_module_that_must_not_be_shared_is_reported_and_spoils_nothing() {
    let threaded = format!(
        "{HEAVY}import threading, time\n\
         threading.Thread(target=time.sleep, args=(1000,), name='meddler', daemon=True).start()\n"
    );
    let modules = Modules::new(&[("heavy", HEAVY), ("threaded", &threaded)]);
    let stack = modules.stack(&[]).await;
    stack.create(python("g", "odd", "threaded.Heavy")).await.unwrap();
    let why = not_shared(&stack, "threaded").await;
    assert!(why.contains("meddler"), "{why}");
    stack.create(python("g", "plain", "heavy.Heavy")).await.unwrap();
    assert_eq!(packages(&generation(&stack, 1).await), [["heavy"]]);
    stack.create(python("g", "odd again", "threaded.Heavy")).await.unwrap();
    assert_eq!(said(&stack, "odd again").await, "IMPORTED HERE");
    assert_eq!(profile(&stack, "default").await.cold_starts, 0);
}

#[tokio::test]
async fn libraries_that_put_what_is_no_module_among_the_modules_are_shared_too() {
    // Cython does so.
    let modules = Modules::new(&[("listing", &format!("import frozenlist\n{HEAVY}"))]);
    let stack = modules.stack(&[]).await;
    stack.create(python("g", "first", "listing.Heavy")).await.unwrap();
    generation(&stack, 1).await;
    stack.create(python("g", "second", "listing.Heavy")).await.unwrap();
    assert_eq!(said(&stack, "second").await, "INHERITED");
}

#[tokio::test]
async fn a_branch_that_would_use_too_much_memory_is_not_used() {
    let fat = format!("{HEAVY}FAT = [bytes(1 << 20)[:] + bytes([n]) for n in range(50)]\n");
    let modules = Modules::new(&[("fat", &fat)]);
    let stack = modules.stack(&["--share-memory", "40000000"]).await;
    stack.create(python("g", "a", "fat.Heavy")).await.unwrap();
    let why = not_shared(&stack, "fat").await;
    assert!(why.contains("MemoryError") || why.contains("--share-memory"), "{why}");
    stack.create(python("g", "b", "fat.Heavy")).await.unwrap();
    assert_eq!(said(&stack, "b").await, "IMPORTED HERE");
    assert_eq!(profile(&stack, "default").await.generation, 0);
}

#[tokio::test]
async fn branches_are_bounded_and_the_least_used_goes_first() {
    let names = ["one", "two", "three"];
    let modules = Modules::new(&names.map(|name| (name, HEAVY)));
    let stack = modules.stack(&["--share-branches", "2"]).await;
    for (grown, name) in (1..).zip(names) {
        stack.create(python("g", name, &format!("{name}.Heavy"))).await.unwrap();
        generation(&stack, grown).await;
    }
    let left: Vec<_> = packages(&profile(&stack, "default").await);
    assert_eq!(left, [["two"], ["three"]]);
    // One that comes back is grown again, and agents start meanwhile.
    stack.create(python("g", "again", "one.Heavy")).await.unwrap();
    assert_eq!(said(&stack, "again").await, "IMPORTED HERE");
    generation(&stack, 4).await;
    stack.create(python("g", "once more", "one.Heavy")).await.unwrap();
    assert_eq!(said(&stack, "once more").await, "INHERITED");
    assert_eq!(profile(&stack, "default").await.branches.len(), 2);
}

#[tokio::test]
async fn how_much_is_shared_is_the_operators_choice() {
    let impure = format!("import uuid\nID = uuid.uuid4()\n{HEAVY}");
    let modules = Modules::new(&[("heavy", HEAVY), ("impure", &impure)]);
    let stack = modules.stack(&["--share", "none"]).await;
    for agent in ["first", "second"] {
        stack.create(python("g", agent, "heavy.Heavy")).await.unwrap();
        assert_eq!(said(&stack, agent).await, "IMPORTED HERE");
    }
    assert_eq!(profile(&stack, "default").await.generation, 0);

    let stack = modules.stack(&["--share", "third-party"]).await;
    stack.create(python("g", "first", "heavy.Heavy")).await.unwrap();
    stack.create(python("g", "second", "heavy.Heavy")).await.unwrap();
    assert_eq!(said(&stack, "second").await, "IMPORTED HERE", "a class's own module never");

    // A package that the operator vouches for is shared though it is not proven.
    let stack = modules.stack(&["--preload", "impure", "--share-unproven", "impure"]).await;
    stack.create(python("g", "first", "impure.Heavy")).await.unwrap();
    assert_eq!(said(&stack, "first").await, "INHERITED");
}

fn in_profile(agent: &str, profile: &str) -> AgentLaunch {
    let kind = Kind::Python(PythonRuntime { profile: profile.to_owned() });
    AgentLaunch { runtime: Some(Runtime { kind: Some(kind) }), ..python("g", agent, "printer.Printer") }
}

#[tokio::test]
async fn every_profile_has_its_own_environment_and_zygote() {
    let printer = "import os\nfrom rustic_ai.core.guild.agent import Agent\n\
        class Printer(Agent):\n    def __init__(self):\n        print(os.environ.get('FLAVOUR'), flush=True)\n";
    let modules = Modules::new(&[("printer", printer)]);
    let file = std::path::Path::new(&modules.path()).join("profiles.toml");
    std::fs::write(&file, "[sweet]\npreload = ['printer']\nenvironment = { FLAVOUR = 'honey' }\n").unwrap();
    let stack = modules.stack(&["--runtime-profiles", file.to_str().unwrap()]).await;
    stack.create(in_profile("plain", "")).await.unwrap();
    stack.create(in_profile("sweet", "sweet")).await.unwrap();
    let mut own = in_profile("own", "sweet");
    own.environment.insert("FLAVOUR".to_owned(), "salt".to_owned());
    stack.create(own).await.unwrap();
    assert_eq!(said(&stack, "plain").await, "None");
    assert_eq!(said(&stack, "sweet").await, "honey");
    assert_eq!(said(&stack, "own").await, "salt");
    for name in ["default", "sweet"] {
        assert_eq!(profile(&stack, name).await.cold_starts, 0, "{name}");
    }

    let refused = stack.create(in_profile("bitter", "bitter")).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("default, sweet"), "{}", refused.message());
    assert_eq!(stack.get("g", "bitter").await.unwrap_err().code(), Code::NotFound, "nothing is left behind");
}

#[tokio::test]
async fn a_host_reports_what_its_agents_use() {
    let modules = Modules::new(&[("heavy", HEAVY)]);
    let stack = modules.stack(&["--metrics-listen", "127.0.0.1:0", "--usage-every", "1s"]).await;
    let agent = stack.create(python("g", "a", "heavy.Heavy")).await.unwrap();
    assert!(lives(agent.pid));
    let request = host_pb::ListAgentsRequest { with_usage: true, ..Default::default() };
    let listed = stack.host(0).await.list_agents(request).await.unwrap().into_inner().agents;
    let usage = listed[0].usage.unwrap();
    assert!(usage.pss_bytes >= usage.private_bytes && usage.private_bytes > 1_000_000, "{usage:?}");
    assert!(usage.threads >= 1 && usage.cpu_time.is_some(), "{usage:?}");

    let serving = |l: &serde_json::Value| l["message"] == "serving metrics";
    let address =
        stack.hosts[0].logged("the metrics' address", serving).await["address"].as_str().unwrap().to_owned();
    let wanted = [
        "rustic_host_agents{phase=\"RUNNING\"} 1",
        "rustic_host_start_step_seconds_count{step=\"initialize\"} 1",
        "rustic_host_start_step_seconds_count{step=\"spawn\"} 1",
        "rustic_host_agents_pss_bytes ",
        "rustic_host_zygote_generation{profile=\"default\"}",
    ];
    wait_until("every metric", async || {
        let text = rustic_tests::http::get(&address, "/metrics").await;
        let missing: Vec<_> = wanted.iter().filter(|line| !text.contains(**line)).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?} in {text}")) }
    })
    .await;
}
