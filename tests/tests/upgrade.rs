//! Two versions over one registry: what one cannot read of the other harms nobody else, and a form it does not know it refuses.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use rustic_proto::{
    agent::v1::{self as agent_pb, AgentPhase},
    engine::v1 as pb,
};
use rustic_tests::{
    Stack, StackSettings,
    grpcurl::grpcurl,
    launches::idle,
    program::Program,
    root,
    stack::{engine_arguments, host_arguments},
    wait_until,
};
use rustix::process::Signal;
use serde_json::json;
use tonic::Code;

async fn stack(hosts: usize) -> Stack {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    Stack::with(StackSettings {
        hosts,
        host_arguments: words("--lease-ttl 1500ms --lease-margin 400ms --lease-grace 300ms"),
        engine_arguments: words("--lease-ttl 1500ms --lease-grace 300ms"),
        ..StackSettings::default()
    })
    .await
}

async fn list(stack: &Stack, request: pb::ListAgentsRequest) -> Vec<agent_pb::Agent> {
    stack.client.clone().list_agents(request).await.unwrap().into_inner().agents
}

#[tokio::test]
async fn an_agent_of_another_version_is_shown_and_keeps_nobody_from_being_listed_or_moved() {
    let stack = stack(3).await;
    let mut agents = vec![];
    for n in 0..6 {
        agents.push(stack.create(idle("g", &n.to_string())).await.unwrap());
    }
    let strange = agents.iter().find(|a| a.host_id == "agent-host-0").unwrap();
    let record = format!("{{rustic}}:agent:default:g:{}", strange.agent_id);
    stack.redis.admin().run(&format!("HSET {record} phase HIBERNATING"));
    stack.redis.admin().run("XADD {rustic}:events * agent nonsense phase NONSENSE epoch x");

    let listed = list(&stack, pb::ListAgentsRequest::default()).await;
    assert_eq!(listed.len(), 6);
    let shown = listed.iter().find(|a| a.agent_id == strange.agent_id).unwrap();
    let found = stack.get("g", &strange.agent_id).await.unwrap();
    for agent in [shown, &found] {
        assert_eq!(agent.phase(), AgentPhase::Unspecified);
        assert_eq!(agent.reason, "RecordUnreadable");
        assert_eq!(agent.message, "this version cannot read the record: phase \"HIBERNATING\"");
    }
    let running = AgentPhase::Running.into();
    assert_eq!(list(&stack, pb::ListAgentsRequest { phase: running, ..Default::default() }).await.len(), 5);
    let refused = stack.stop("g", &strange.agent_id).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");

    // A host of another version beside it, and a host that dies: its other agents move.
    stack.redis.admin().run("HSET {rustic}:host:agent-host-1 state RESTING");
    stack.hosts[0].signal(Signal::KILL);
    for agent in agents.iter().filter(|a| a.host_id == "agent-host-0" && a.agent_id != strange.agent_id) {
        let moved = |a: &agent_pb::Agent| a.phase() == AgentPhase::Running && a.host_id != "agent-host-0";
        stack.agent_is("it to move", "g", &agent.agent_id, moved).await;
    }
    let word = stack.redis.admin().run(&format!("HSTRLEN {record} phase"));
    assert_eq!(word, ":11", "what the other version wrote stands there still");
}

#[tokio::test]
async fn a_registry_of_another_form_is_refused_with_what_to_do() {
    let mut stack = stack(1).await;
    stack.redis.admin().run("SET {rustic}:schema 7");
    let refused = stack.create(idle("g", "a")).await.unwrap_err();
    assert!(refused.message().contains("has form 7, which is newer"), "{}", refused.message());
    let dir = tempfile::tempdir().unwrap();
    let url = stack.redis.url();
    let engine = Program::start("engine-svc", &engine_arguments(&url, &[]));
    let more = ["--no-zygote".to_owned()];
    let host = Program::start("agent-host", &host_arguments(9, dir.path(), &url, stack.engine_address(), &more));
    for mut program in [engine, host] {
        assert!(!program.ended().await.success());
    }
    // Data that nobody has numbered.
    stack.redis.admin().run("DEL {rustic}:schema");
    let refused = stack.create(idle("g", "a")).await.unwrap_err();
    assert!(refused.message().contains("forms had no numbers yet"), "{}", refused.message());
    // As the message says: everything is stopped, the registry cleared, and started again.
    stack.hosts[0].signal(Signal::KILL);
    stack.hosts[0].ended().await;
    stack.redis.wipe();
    stack.restart_host(0);
    wait_until("an agent to be created", async || stack.create(idle("g", "a")).await).await;
}

/// A call by a client that knows the API as it was a version before, `proto/previous.binpb`.
async fn call_as_before(address: &str, method: &str, request: &serde_json::Value) -> serde_json::Value {
    let (image, request) = (root().join("proto/previous.binpb").display().to_string(), request.to_string());
    let answer = grpcurl(&["-protoset", &image, "-d", &request, address, method]).await;
    serde_json::from_str(&answer).unwrap()
}

#[tokio::test]
async fn a_client_and_an_engine_of_the_version_before_are_served_by_this_one() {
    let stack = Stack::of(1).await;
    let (engine, host) = (stack.engine_address().to_owned(), stack.hosts[0].address().await);
    let e = |method: &str| format!("rustic_ai.engine.v1.EngineService/{method}");
    let h = |method: &str| format!("rustic_ai.agent_host.v1.AgentHostService/{method}");
    let launch = |agent: &str| {
        json!({
            "agent_spec": json!({"id": agent, "name": agent}).to_string(),
            "guild_spec": json!({"id": "g"}).to_string(),
            "runtime": {"command": {"argv": ["sleep", "1000"]}},
        })
    };
    let agent = |id: &str| json!({"guild_id": "g", "agent_id": id});

    let created = call_as_before(&engine, &e("CreateAgent"), &json!({"launch": launch("a")})).await;
    assert_eq!(created["agent"]["phase"], "AGENT_PHASE_RUNNING");
    let found = call_as_before(&engine, &e("GetAgent"), &agent("a")).await;
    assert_eq!(found["agent"]["pid"], created["agent"]["pid"]);
    // The second life, and what a client of now sees of it.
    let again = call_as_before(&engine, &e("RestartAgent"), &agent("a")).await;
    assert_eq!(u64::from(stack.get("g", "a").await.unwrap().pid), again["agent"]["pid"].as_u64().unwrap());
    let listed = call_as_before(&engine, &e("ListAgents"), &json!({"guild_id": "g"})).await;
    assert_eq!(listed["agents"].as_array().unwrap().len(), 1);
    let hosts = call_as_before(&engine, &e("ListHosts"), &json!({})).await;
    assert_eq!(hosts["hosts"][0]["hostId"], "agent-host-0");

    // As an engine of the version before calls this host.
    let health = call_as_before(&host, &h("Health"), &json!({})).await;
    assert_eq!((&health["healthy"], &health["agentCount"]), (&json!(true), &json!(1)));
    let incarnation = &hosts["hosts"][0]["incarnation"];
    let made = call_as_before(&host, &h("CreateAgent"), &json!({"launch": launch("b")})).await;
    assert_eq!(made["agent"]["phase"], "AGENT_PHASE_RUNNING");
    let claim = json!({"incarnation": incarnation, "epoch": made["agent"]["epoch"]});
    let mut stop = agent("b");
    stop["claim"] = claim;
    call_as_before(&host, &h("StopAgent"), &stop).await;
    assert_eq!(stack.get("g", "b").await.unwrap_err().code(), Code::NotFound);

    call_as_before(&engine, &e("StopAgent"), &agent("a")).await;
    stack.assert_nothing_left().await;
}
