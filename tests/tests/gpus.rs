//! Which GPUs agents are given, on two hosts, by two organizations, in every life of an agent, of a host and of the registry.
//! The devices are made up: hosts name them, and agents see what CUDA would.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use rustic_proto::{
    agent::v1::{Agent, AgentLaunch, AgentPhase},
    agent_host::v1::HealthRequest,
    engine::v1::{self as pb, CreateAgentRequest, Device, PendingPolicy},
};
use rustic_tests::{
    Modules, Stack, StackSettings,
    launches::{python, script},
    stack::words,
    wait_until,
};
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use tonic::Code;

/// Writes which devices it sees, then does nothing.
const SEES: &str = "echo \"SEES $CUDA_VISIBLE_DEVICES $NVIDIA_VISIBLE_DEVICES\"; exec sleep 1000";

/// Such an agent, which asks for this.
fn asking(organization: &str, agent: &str, resources: &Value) -> AgentLaunch {
    let spec = json!({"id": agent, "name": agent, "resources": resources}).to_string();
    AgentLaunch { organization_id: organization.to_owned(), agent_spec: spec, ..script("g", agent, SEES) }
}

fn gpus(amount: f64) -> Value {
    json!({"num_gpus": amount})
}

/// Hosts, each with so many GPUs of 24 GB whose ids name their host.
async fn stack(hosts: usize, each: usize, more: &str) -> Stack {
    let arguments = format!("--max-agents 100 {more}");
    let host_arguments = words(arguments.trim());
    let mut stack = Stack::with(StackSettings { hosts, host_arguments, ..StackSettings::default() }).await;
    for host in 0..hosts {
        with_gpus(&mut stack, host, (0..each).map(|n| format!("GPU-{host}-{n}=24e9"))).await;
    }
    stack
}

/// A host ends, and comes back with these GPUs.
async fn with_gpus(stack: &mut Stack, host: usize, devices: impl Iterator<Item = String>) {
    let devices = devices.collect::<Vec<_>>().join(",");
    stack.hosts[host].signal(Signal::KILL);
    stack.hosts[host].ended().await;
    stack.restart_host_with(host, &["--gpus", &devices]);
    let id = format!("agent-host-{host}");
    let count = devices.split(',').count();
    wait_until("the host to be back with its GPUs", async || {
        let hosts = hosts(stack).await;
        let back = hosts.get(&id).is_some_and(|found| found.len() == count && devices.contains(&found[0].device_id));
        if back { Ok(()) } else { Err(hosts) }
    })
    .await;
}

/// The devices of each host.
async fn hosts(stack: &Stack) -> BTreeMap<String, Vec<Device>> {
    let hosts = stack.client.clone().list_hosts(pb::ListHostsRequest::default()).await.unwrap().into_inner().hosts;
    hosts.into_iter().map(|host| (host.host_id, host.devices)).collect()
}

/// What an agent saw, in each of its first lives.
async fn saw(stack: &Stack, agent: &str, lives: usize) -> Vec<String> {
    let words = |l: Value| {
        let by = l["agent_id"] == agent && l["target"] == "agent";
        by.then(|| l["message"].as_str()?.strip_prefix("SEES ").map(str::to_owned)).flatten()
    };
    wait_until(&format!("{lives} lives of {agent}"), async || {
        let said: Vec<_> = stack.hosts.iter().flat_map(|host| host.log()).filter_map(words).collect();
        if said.len() >= lives { Ok(said) } else { Err(said) }
    })
    .await
}

fn shares(agent: &Agent) -> Vec<(&str, f64)> {
    agent.devices.iter().map(|(id, part)| (&**id, part.share)).collect()
}

#[tokio::test]
async fn shares_fill_devices_and_never_cross_two() {
    // On these, an engine that counts GPUs as one number per host finds no place for the last ones.
    for (each, agents, share, per_device) in [(8, 80, 0.18, 5), (5, 10, 0.6, 1)] {
        let stack = stack(2, each, "").await;
        let mut by_device: BTreeMap<String, usize> = BTreeMap::new();
        for n in 0..agents {
            let organization = ["acme", "globex"][n % 2];
            let agent = stack.create(asking(organization, &n.to_string(), &gpus(share))).await.unwrap();
            let [(id, given)] = shares(&agent)[..] else { panic!("{agent:?}") };
            assert!((given - share).abs() < 1e-9, "{agent:?}");
            assert!(id.contains(&agent.host_id["agent-host".len()..]), "{id} on {}", agent.host_id);
            *by_device.entry(id.to_owned()).or_default() += 1;
        }
        assert_eq!(by_device.values().copied().collect::<BTreeSet<_>>(), [per_device].into(), "{by_device:?}");
        let refused = stack.create(asking("acme", "one more", &gpus(share))).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
        let free =
            format!("{share} gpus (most that is free on one GPU: {})", if share < 0.5 { "0.1" } else { "0.4" });
        assert!(refused.message().contains(&free), "{}", refused.message());
        for devices in hosts(&stack).await.values() {
            assert!(devices.iter().all(|d| (d.used - share * per_device as f64).abs() < 1e-9), "{devices:?}");
            assert!(devices.iter().all(|d| d.memory_bytes == 24_000_000_000), "{devices:?}");
        }
    }
}

#[tokio::test]
async fn an_agent_sees_its_devices_only_in_every_life_of_itself_its_host_and_the_registry() {
    let mut stack = stack(1, 3, "").await;
    let whole = stack.create(asking("acme", "whole", &gpus(2.0))).await.unwrap();
    assert_eq!(shares(&whole), [("GPU-0-0", 1.0), ("GPU-0-1", 1.0)]);
    let by_memory = asking("globex", "by memory", &json!({"custom_resources": {"gpu_memory": 6e9}}));
    assert_eq!(shares(&stack.create(by_memory).await.unwrap()), [("GPU-0-2", 0.25)]);
    let share = stack.create(asking("acme", "share", &gpus(0.75))).await.unwrap();
    assert_eq!(shares(&share), [("GPU-0-2", 0.75)]);
    stack.create(asking("acme", "none", &json!({}))).await.unwrap();
    let expected = [
        ("whole", "GPU-0-0,GPU-0-1 GPU-0-0,GPU-0-1"),
        ("by memory", "GPU-0-2 GPU-0-2"),
        ("share", "GPU-0-2 GPU-0-2"),
        ("none", " void"),
    ];
    let all_saw = async |stack: &Stack, lives: usize| {
        for (agent, finds) in expected {
            assert_eq!(saw(stack, agent, lives).await, vec![finds; lives], "{agent}");
        }
    };
    all_saw(&stack, 1).await;

    // The next life of an agent.
    for (agent, _) in expected {
        let organization = if agent == "by memory" { "globex" } else { "acme" };
        let pid = get(&stack, organization, agent).await.pid;
        rustix::process::kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
    }
    all_saw(&stack, 2).await;

    // The next life of the registry: the host reports who has what.
    stack.redis.admin().run("FLUSHALL");
    wait_until("the devices to be reported", async || match used(&stack).await {
        used if used == [1.0, 1.0, 1.0] => Ok(()),
        used => Err(used),
    })
    .await;

    // The next life of the host: two lives of each agent were in the log of the one before.
    let devices = (0..3).map(|n| format!("GPU-0-{n}=24e9"));
    with_gpus(&mut stack, 0, devices).await;
    all_saw(&stack, 1).await;
    assert_eq!(used(&stack).await, [1.0, 1.0, 1.0]);
    for (agent, organization) in [("whole", "acme"), ("by memory", "globex"), ("share", "acme")] {
        let request = pb::StopAgentRequest {
            organization_id: organization.to_owned(),
            guild_id: "g".to_owned(),
            agent_id: agent.to_owned(),
            ..Default::default()
        };
        stack.client.clone().stop_agent(request).await.unwrap();
    }
    assert_eq!(used(&stack).await, [0.0, 0.0, 0.0], "they are free again");
}

async fn get(stack: &Stack, organization: &str, agent: &str) -> Agent {
    let request = pb::GetAgentRequest {
        organization_id: organization.to_owned(),
        guild_id: "g".to_owned(),
        agent_id: agent.to_owned(),
        ..Default::default()
    };
    stack.client.clone().get_agent(request).await.unwrap().into_inner().agent.unwrap()
}

async fn used(stack: &Stack) -> Vec<f64> {
    hosts(stack).await.values().flatten().map(|device| device.used).collect()
}

#[tokio::test]
async fn who_loses_its_device_moves_to_a_host_that_has_one() {
    let mut stack = stack(2, 1, "").await;
    let first = stack.create(asking("acme", "moves", &gpus(1.0))).await.unwrap();
    let stays = stack.create(asking("acme", "stays", &json!({}))).await.unwrap();
    let host = usize::from(first.host_id == "agent-host-1");
    let other = ["agent-host-1", "agent-host-0"][host];
    with_gpus(&mut stack, host, std::iter::once("GPU-new=24e9".to_owned())).await;
    let running = wait_until("the agent to run with a device that is there", async || {
        let agent = get(&stack, "acme", "moves").await;
        if agent.phase() == AgentPhase::Running && agent.epoch > first.epoch { Ok(agent) } else { Err(agent) }
    })
    .await;
    let [(device, _)] = shares(&running)[..] else { panic!("{running:?}") };
    assert!(running.host_id == other || device == "GPU-new", "{running:?}");
    wait_until("the other agent to run", async || {
        let agent = get(&stack, "acme", "stays").await;
        if agent.phase() == AgentPhase::Running { Ok(()) } else { Err(agent) }
    })
    .await;
    assert!(stays.devices.is_empty());
}

#[tokio::test]
async fn who_waits_for_a_device_starts_when_one_is_free_and_no_share_is_asked_across_devices() {
    let stack = stack(1, 2, "").await;
    stack.create(asking("acme", "first", &gpus(0.6))).await.unwrap();
    stack.create(asking("acme", "second", &gpus(0.6))).await.unwrap();
    let request = CreateAgentRequest {
        launch: Some(asking("acme", "waits", &gpus(0.8)).into()),
        pending: PendingPolicy::WaitForRoom.into(),
        ..Default::default()
    };
    let waits = stack.client.clone().create_agent(request).await.unwrap().into_inner().agent.unwrap();
    assert_eq!(waits.phase(), AgentPhase::Pending);
    assert!(waits.message.contains("0.8 gpus (most that is free on one GPU: 0.4)"), "{}", waits.message);
    let request = pb::StopAgentRequest {
        organization_id: "acme".to_owned(),
        guild_id: "g".to_owned(),
        agent_id: "first".to_owned(),
        ..Default::default()
    };
    stack.client.clone().stop_agent(request).await.unwrap();
    wait_until("the one that waits to run", async || {
        let agent = get(&stack, "acme", "waits").await;
        if agent.phase() == AgentPhase::Running { Ok(()) } else { Err(agent) }
    })
    .await;
    let refused = stack.create(asking("acme", "odd", &gpus(1.5))).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("1.5 gpus"), "{}", refused.message());
    let large = json!({"custom_resources": {"gpu_memory": 25e9}});
    let refused = stack.create(asking("acme", "large", &large)).await.unwrap_err();
    assert!(
        refused.message().contains("25000000000 gpu_memory (most on one GPU: 24000000000)"),
        "{}",
        refused.message()
    );
}

#[tokio::test]
async fn python_agents_see_their_devices_and_start_warm() {
    let says = "import os\nfrom rustic_ai.core.guild.agent import Agent\n\
        class Sees(Agent):\n    def __init__(self):\n        print('SEES', os.environ['CUDA_VISIBLE_DEVICES'], flush=True)\n";
    let modules = Modules::new(&[("odd_gpus", says)]);
    let stack = modules.stack(&["--gpus", "GPU-a,GPU-b"]).await;
    for (agent, amount, finds) in [("one", 1.0, "GPU-a"), ("two", 0.5, "GPU-b"), ("none", 0.0, "")] {
        let mut launch = python("g", agent, "odd_gpus.Sees");
        let mut spec: Value = serde_json::from_str(&launch.agent_spec).unwrap();
        spec["resources"] = gpus(amount);
        launch.agent_spec = spec.to_string();
        stack.create(launch).await.unwrap();
        assert_eq!(saw(&stack, agent, 1).await[0].trim(), finds, "{agent}");
    }
    let health = stack.host(0).await.health(HealthRequest {}).await.unwrap().into_inner();
    let cold: Vec<_> = health.profiles.iter().map(|profile| profile.cold_starts).collect();
    assert_eq!(cold, [0], "{health:?}");
}
