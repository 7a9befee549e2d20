//! Zygotes that learn what agents import, and the Python environments that they live in.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use rustic_proto::agent_host::v1::{
    self as host_pb, AgentLaunch, PythonRuntime, Runtime, RuntimeProfile, runtime::Kind,
};
use rustic_tests::{Modules, Stack, launches::python, processes::lives, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use tonic::Code;

/// Tells which process imported it, and in which one its agent lives.
const HEAVY: &str = "import os\nfrom rustic_ai.core.guild.agent import Agent\nIMPORTER = os.getpid()\n\
    class Heavy(Agent):\n    def __init__(self):\n\
    \x20       print('IMPORTED HERE' if IMPORTER == os.getpid() else 'INHERITED', flush=True)\n";

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
    assert_eq!(learned.learned_modules, ["heavy"]);
    stack.create(python("g", "second", "heavy.Heavy")).await.unwrap();
    assert_eq!(said(&stack, "second").await, "INHERITED");

    // An agent with an environment of its own imports for itself: the module may read the environment.
    let mut launch = python("g", "third", "heavy.Heavy");
    launch.environment.insert("KEY".to_owned(), "mine".to_owned());
    stack.create(launch).await.unwrap();
    assert_eq!(said(&stack, "third").await, "IMPORTED HERE");
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
    assert_eq!(profile(&stack, "default").await.learned_modules, ["heavy"]);
}

#[tokio::test]
async fn a_generation_that_dies_is_built_anew_and_agents_start_meanwhile() {
    let modules = Modules::new(&[("heavy", HEAVY)]);
    let stack = modules.stack(&[]).await;
    stack.create(python("g", "first", "heavy.Heavy")).await.unwrap();
    generation(&stack, 1).await;
    let ready = |l: &serde_json::Value| l["message"] == "a new zygote generation is ready";
    let branch = stack.hosts[0].logged("the generation", ready).await["pid"].as_u64().unwrap();
    let branch = Pid::from_raw(i32::try_from(branch).unwrap()).unwrap();
    kill_process(branch, Signal::KILL).unwrap();
    stack.create(python("g", "meanwhile", "heavy.Heavy")).await.unwrap();
    generation(&stack, 2).await;
    stack.create(python("g", "after", "heavy.Heavy")).await.unwrap();
    assert_eq!(said(&stack, "after").await, "INHERITED");
    assert_eq!(profile(&stack, "default").await.cold_starts, 0);
}

#[tokio::test]
async fn a_module_that_must_not_be_shared_is_not_learned_and_spoils_nothing() {
    let threaded = format!(
        "{HEAVY}import threading, time\n\
         threading.Thread(target=time.sleep, args=(1000,), name='meddler', daemon=True).start()\n"
    );
    let modules = Modules::new(&[("heavy", HEAVY), ("threaded", &threaded)]);
    let stack = modules.stack(&[]).await;
    stack.create(python("g", "odd", "threaded.Heavy")).await.unwrap();
    let refused = |l: &serde_json::Value| {
        l["message"] == "a module cannot be preloaded"
            && l["module"] == "threaded"
            && l["why"].as_str().is_some_and(|why| why.contains("meddler"))
    };
    stack.hosts[0].logged("the refusal", refused).await;
    stack.create(python("g", "plain", "heavy.Heavy")).await.unwrap();
    assert_eq!(generation(&stack, 1).await.learned_modules, ["heavy"]);
    stack.create(python("g", "odd again", "threaded.Heavy")).await.unwrap();
    assert_eq!(profile(&stack, "default").await.cold_starts, 0);
}

#[tokio::test]
async fn a_generation_that_would_use_too_much_memory_does_not_take_over() {
    let fat = format!("{HEAVY}FAT = bytearray(os.urandom(1 << 20)) * 200\n");
    let modules = Modules::new(&[("fat", &fat)]);
    let stack = modules.stack(&["--learned-memory", "100000000"]).await;
    stack.create(python("g", "a", "fat.Heavy")).await.unwrap();
    let refused = |l: &serde_json::Value| l["why"].as_str().is_some_and(|why| why.contains("--learned-memory"));
    stack.hosts[0].logged("the refusal", refused).await;
    stack.create(python("g", "b", "fat.Heavy")).await.unwrap();
    assert_eq!(profile(&stack, "default").await.generation, 0);
}

fn in_profile(agent: &str, profile: &str) -> AgentLaunch {
    let kind = Kind::Python(PythonRuntime { profile: profile.to_owned() });
    AgentLaunch { runtime: Some(Runtime { kind: Some(kind) }), ..python("g", agent, "teller.Teller") }
}

#[tokio::test]
async fn every_profile_has_its_own_environment_and_zygote() {
    let teller = "import os\nfrom rustic_ai.core.guild.agent import Agent\n\
        class Teller(Agent):\n    def __init__(self):\n        print(os.environ.get('FLAVOUR'), flush=True)\n";
    let modules = Modules::new(&[("teller", teller)]);
    let file = std::path::Path::new(&modules.path()).join("profiles.toml");
    std::fs::write(&file, "[sweet]\npreload = ['teller']\nenvironment = { FLAVOUR = 'honey' }\n").unwrap();
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
async fn a_host_tells_what_its_agents_use() {
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
