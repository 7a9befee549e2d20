//! Redis comes late, goes and comes back; services say how they are and go on.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use rustic_proto::{
    agent::v1::{Agent, AgentPhase, OnDisconnect},
    engine::v1 as pb,
};
use rustic_registry::dev_server::{DevServer, Durability};
use rustic_tests::{
    Stack, StackSettings,
    launches::idle,
    processes::lives,
    program::Program,
    stack::{engine_arguments, host_arguments},
    wait_until,
};
use tonic::{Code, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

async fn health(address: &str, service: &str) -> Result<ServingStatus, String> {
    let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await;
    let mut client = HealthClient::new(channel.map_err(|e| e.to_string())?);
    let request = HealthCheckRequest { service: service.to_owned() };
    client.check(request).await.map(|r| r.into_inner().status()).map_err(|s| s.to_string())
}

async fn becomes(address: &str, service: &str, wanted: ServingStatus) {
    wait_until(&format!("{service:?} at {address} to be {wanted:?}"), async || {
        match health(address, service).await {
            Ok(status) if status == wanted => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

const ENGINE: &str = "rustic_ai.engine.v1.EngineService";
const HOST: &str = "rustic_ai.agent_host.v1.AgentHostService";

#[tokio::test]
async fn a_program_that_is_asked_to_end_leaves_nothing_behind_that_does_not() {
    let mut stack = Stack::of(2).await;
    stack.create(idle("g", "a")).await.unwrap();
    for program in stack.hosts.iter_mut().chain([&mut stack.engine]) {
        assert!(program.stop().await.success());
        let late =
            |line: &&serde_json::Value| line["message"].as_str().unwrap_or_default().contains("did not end within");
        assert_eq!(program.log().iter().find(late), None);
    }
}

#[tokio::test]
async fn services_that_find_no_redis_say_so_and_serve_when_it_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let mut redis = DevServer::start(dir.path(), Durability::None).unwrap();
    redis.kill();
    let engine = Program::start("engine-svc", &engine_arguments(&redis.url(), &[]));
    let engine_address = engine.address().await;
    let host = Program::start("agent-host", &host_arguments(0, dir.path(), &redis.url(), &engine_address, &[]));
    let host_address = host.address().await;
    becomes(&engine_address, ENGINE, ServingStatus::NotServing).await;
    becomes(&host_address, HOST, ServingStatus::NotServing).await;
    let cannot =
        |l: &serde_json::Value| l["error"].as_str().is_some_and(|e| e.contains("registry cannot be reached"));
    engine.logged("the engine to say what is wrong", cannot).await;
    host.logged("the host to say what is wrong", cannot).await;
    for address in [&engine_address, &host_address] {
        becomes(address, "liveness", ServingStatus::Serving).await;
        becomes(address, "readiness", ServingStatus::NotServing).await;
    }
    redis.restart().unwrap();
    for service in ["", "readiness", ENGINE] {
        becomes(&engine_address, service, ServingStatus::Serving).await;
    }
    for service in ["", "readiness", HOST] {
        becomes(&host_address, service, ServingStatus::Serving).await;
    }
    // Nobody may be killed because Redis is away.
    redis.kill();
    becomes(&host_address, HOST, ServingStatus::NotServing).await;
    assert_eq!(health(&host_address, "liveness").await, Ok(ServingStatus::Serving));
}

#[tokio::test]
async fn a_lost_lease_kills_agents_that_must_not_outlive_it_and_brings_them_back() {
    let host_arguments = ["--lease-ttl", "2s", "--lease-margin", "500ms"].map(str::to_owned).to_vec();
    let settings = StackSettings { host_arguments, ..StackSettings::default() };
    let stack = Stack::with(settings).await;
    let stopped = stack.create(idle("g", "stops")).await.unwrap();
    let mut launch = idle("g", "keeps");
    launch.on_disconnect = OnDisconnect::Keep.into();
    let kept = stack.create(launch).await.unwrap();

    // Redis with its memory, gone for a while: SIGSTOP is a store that does not answer.
    stack.redis.pause();
    let host = stack.hosts[0].address().await;
    becomes(&host, HOST, ServingStatus::NotServing).await;
    becomes(stack.engine_address(), ENGINE, ServingStatus::NotServing).await;
    wait_until("the fenced agent to die", async || if lives(stopped.pid) { Err(stopped.pid) } else { Ok(()) }).await;
    assert!(lives(kept.pid), "keep means keep");
    let status = stack.create(idle("g", "new")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");

    stack.redis.resume();
    becomes(&host, HOST, ServingStatus::Serving).await;
    let back = |a: &Agent| a.phase() == AgentPhase::Running && a.pid != stopped.pid;
    stack.agent_is("the fenced agent to come back", "g", "stops", back).await;
    assert_eq!(stack.get("g", "keeps").await.unwrap().pid, kept.pid);
    let create = async || stack.create(idle("g", "new")).await;
    wait_until("new agents to be taken again", create).await;
}

#[tokio::test]
async fn agents_of_the_only_host_wait_while_it_is_away_and_start_when_it_is_back() {
    let mut stack = Stack::start().await;
    let agent = stack.create(idle("g", "a")).await.unwrap();
    assert!(stack.hosts[0].stop().await.success());
    assert!(!lives(agent.pid));
    let waits = stack.get("g", "a").await.unwrap();
    assert_eq!((waits.phase(), waits.host_id.as_str()), (AgentPhase::Pending, ""));
    assert!(waits.reason == "HostDrained" && waits.message.contains("gave it away"), "{waits:?}");
    let status = stack.create(idle("g", "b")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("there is no host"), "{}", status.message());

    stack.restart_host(0);
    let back = stack.agent_is("the agent to run again", "g", "a", |a| a.phase() == AgentPhase::Running).await;
    assert!(back.epoch > agent.epoch && back.pid != agent.pid);
    stack.stop("g", "a").await.unwrap();
    stack.assert_nothing_left().await;
}

#[tokio::test]
async fn a_host_that_crashes_and_returns_has_its_agents_back_at_once() {
    let mut stack = Stack::start().await;
    let agent = stack.create(idle("g", "a")).await.unwrap();
    stack.hosts[0].signal(rustix::process::Signal::KILL);
    stack.hosts[0].ended().await;
    stack.restart_host(0);
    // Its lease lasts for ten seconds: no takeover would be so quick.
    let back = stack.agent_is("the agent to run again", "g", "a", |a| a.epoch > agent.epoch && a.pid != 0).await;
    assert!(!lives(agent.pid));
    assert_eq!(back.host_id, "agent-host-0");
    let returned = |l: &serde_json::Value| l["message"] == "announced" && l["returned"] == 1;
    stack.hosts[0].logged("the agent to be given back", returned).await;
    stack.stop("g", "a").await.unwrap();
    stack.assert_nothing_left().await;
}

#[tokio::test]
async fn a_host_that_returns_elsewhere_under_its_name_is_called_there_at_once() {
    // IPv6, where the machine has it.
    let listen = if std::net::TcpListener::bind("[::1]:0").is_ok() { "[::1]:0" } else { "127.0.0.1:0" };
    let name = "agent-host-0.agent-host.rustic-ai.svc";
    let arguments = ["--listen", listen, "--dns-name", name].map(str::to_owned).to_vec();
    let mut stack = Stack::with(StackSettings { host_arguments: arguments, ..StackSettings::default() }).await;
    let host = async |stack: &Stack| {
        let hosts =
            stack.client.clone().list_hosts(pb::ListHostsRequest::default()).await.unwrap().into_inner().hosts;
        let [host] = hosts.try_into().unwrap();
        host
    };
    stack.create(idle("g", "a")).await.unwrap();
    let before = host(&stack).await;
    stack.hosts[0].signal(rustix::process::Signal::KILL);
    stack.hosts[0].ended().await;
    stack.restart_host(0);
    let announced = |l: &serde_json::Value| l["message"] == "announced";
    stack.hosts[0].logged("the host to announce itself", announced).await;
    // No wait for the engine to read the hosts again: it asks when the one it knew does not answer.
    let created = stack.create(idle("g", "b")).await.unwrap();
    assert!(lives(created.pid));
    stack.stop("g", "a").await.unwrap();
    let after = host(&stack).await;
    assert_eq!((before.dns_name.as_str(), after.dns_name.as_str()), (name, name));
    assert_ne!(before.address, after.address);
    stack.stop("g", "b").await.unwrap();
    stack.assert_nothing_left().await;
}

#[tokio::test]
async fn a_host_ends_in_time_without_redis_and_with_an_open_health_watch() {
    let host_arguments = ["--stop-timeout", "1s"].map(str::to_owned).to_vec();
    let mut stack = Stack::with(StackSettings { host_arguments, ..StackSettings::default() }).await;
    let agent = stack.create(idle("g", "a")).await.unwrap();
    let channel = Channel::from_shared(format!("http://{}", stack.hosts[0].address().await)).unwrap();
    let mut client = HealthClient::new(channel.connect().await.unwrap());
    let _watch = client.watch(HealthCheckRequest::default()).await.unwrap();
    stack.redis.pause();
    // `stop` fails the test if the host does not end.
    stack.hosts[0].stop().await;
    assert!(!lives(agent.pid));
}

#[tokio::test]
async fn an_engine_that_is_asked_to_stop_ends_cleanly() {
    let mut stack = Stack::start().await;
    stack.create(idle("g", "a")).await.unwrap();
    assert!(stack.engine.stop().await.success());
    assert!(lives(stack.hosts[0].pid()), "hosts do not need an engine");
}
