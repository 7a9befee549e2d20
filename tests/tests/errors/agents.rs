//! Agents that cannot be what the caller wants.

use crate::provoked::{Provoked, agent, e, h, launch, words};
use rustic_proto::{agent::v1::AgentPhase, engine::v1 as pb, reason::Reason};
use rustic_tests::{
    Bus, Modules, Stack, StackSettings,
    bus::DOER,
    grpcurl::grpcurl,
    launches::{idle, script},
};
use serde_json::{Value, json};

/// The launch of an idle agent, in JSON.
fn same(id: &str) -> Value {
    let argv = ["sh", "-c", "exec sleep 1000"];
    launch(id, &json!({"agent_spec": idle("g", id).agent_spec, "runtime": {"command": {"argv": argv}}}))
}

pub(crate) async fn provoke() -> Provoked {
    let mut seen = Provoked::default();
    let stack = Stack::with(StackSettings {
        hosts: 2,
        host_arguments: words("--max-agents 2 --default-deadline 2s"),
        ..StackSettings::default()
    })
    .await;
    let engine = stack.engine_address();
    let hosts = [stack.hosts[0].address().await, stack.hosts[1].address().await];

    seen.refused(Reason::AgentUnknown, engine, &e("GetAgent"), agent("nobody", &json!({}))).await;
    seen.refused(Reason::WatchExpired, engine, &e("WatchAgents"), json!({"revision": "another-life/1-0"})).await;
    let spec = json!({"id": "a", "name": "a", "resources": {"num_gpus": 64}}).to_string();
    seen.refused(Reason::AgentTooLarge, engine, &e("CreateAgent"), launch("a", &json!({"agent_spec": spec}))).await;

    // One that has failed, and the very request that was to start it once more.
    let mut fails = launch(
        "fails",
        &json!({
            "runtime": {"command": {"argv": ["false"]}}, "restart_policy": {"mode": "RESTART_MODE_NEVER"},
        }),
    );
    fails["request_id"] = json!("the same");
    fails["wait"] = json!("WAIT_MODE_ACCEPTED");
    grpcurl(&["-d", &fails.to_string(), engine, &e("CreateAgent")]).await;
    stack.agent_is("it to fail", "g", "fails", |a| a.phase() == AgentPhase::Failed).await;
    fails["wait"] = json!("WAIT_MODE_RUNNING");
    seen.refused(Reason::AgentFailed, engine, &e("CreateAgent"), fails).await;
    stack.stop("g", "fails").await.unwrap();

    let first = stack.create(idle("g", "a")).await.unwrap();
    let (here, there) = if first.host_id == "agent-host-0" { (0, 1) } else { (1, 0) };
    seen.refused(Reason::AgentHasOtherSpec, engine, &e("CreateAgent"), launch("a", &json!({}))).await;
    seen.refused(Reason::AgentOnOtherHost, &hosts[there], &h("CreateAgent"), same("a")).await;
    let stale = agent("a", &json!({"claim": {"epoch": 1}}));
    seen.refused(Reason::EpochStale, &hosts[here], &h("StopAgent"), stale).await;
    let another = agent("a", &json!({"claim": {"incarnation": "another life"}}));
    seen.refused(Reason::HostReplaced, &hosts[here], &h("StopAgent"), another).await;

    let deaf = script("g", "deaf", "trap '' TERM; echo deaf; while :; do sleep 1; done");
    let on = stack.create(deaf.clone()).await.unwrap().host_id;
    let on = usize::from(on == "agent-host-1");
    stack.hosts[on].logged("it to be deaf", |line| line["message"] == "deaf").await;
    let client = stack.client.clone();
    let stop = pb::StopAgentRequest {
        guild_id: "g".to_owned(),
        agent_id: "deaf".to_owned(),
        timeout: Some(prost_types::Duration { seconds: 600, nanos: 0 }),
        ..Default::default()
    };
    let stops = tokio::spawn(async move { client.clone().stop_agent(stop).await });
    stack.agent_is("its stop to be under way", "g", "deaf", |a| a.phase() == AgentPhase::Stopping).await;
    let argv = ["sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 1; done"];
    let again = json!({"agent_spec": deaf.agent_spec, "runtime": {"command": {"argv": argv}}});
    seen.refused(Reason::AgentStopping, engine, &e("CreateAgent"), launch("deaf", &again)).await;
    stops.abort();

    for name in ["b", "c"] {
        stack.create(idle("g", name)).await.unwrap();
    }
    seen.refused(Reason::NoRoom, engine, &e("CreateAgent"), launch("d", &json!({}))).await;
    seen.refused(Reason::HostFull, &hosts[0], &h("CreateAgent"), launch("d", &json!({}))).await;
    let waits = pb::CreateAgentRequest {
        launch: Some(idle("g", "waits").into()),
        pending: pb::PendingPolicy::WaitForRoom.into(),
        ..Default::default()
    };
    stack.client.clone().create_agent(waits).await.unwrap();
    seen.refused(Reason::AgentWaits, &hosts[0], &h("CreateAgent"), same("waits")).await;
    at_work(&mut seen).await;
    guilds(&mut seen).await;
    seen
}

/// An agent whose handler is at work.
async fn at_work(seen: &mut Provoked) {
    let modules = Modules::new(&[("doer", DOER)]);
    let stack = modules.stack(&[]).await;
    let mut bus = Bus::to(stack.redis.port());
    stack.create(bus.agent("g", "busy", "doer.Doer")).await.unwrap();
    bus.say("g", "busy", json!({"n": 1, "do": "sleep", "seconds": 1000})).await;
    stack.hosts[0].logged("it to be at work", |line| line["message"] == "HEARD 1").await;
    let if_idle = agent("busy", &json!({"purpose": "STOP_PURPOSE_REBALANCE", "at_work": "AT_WORK_POLICY_REFUSE"}));
    seen.refused(Reason::AgentAtWork, &stack.hosts[0].address().await, &h("StopAgent"), if_idle).await;
    assert_eq!(stack.get("g", "busy").await.unwrap().phase(), AgentPhase::Running, "nothing was done");
}

/// Guilds that are too large, or meet another organization's.
async fn guilds(seen: &mut Provoked) {
    let stack = Stack::start().await;
    let engine = stack.engine_address();
    let bus = json!({
        "backend_module": "rustic_ai.redis.messaging.backend", "backend_class": "RedisMessagingBackend",
        "backend_config": {"redis_client": {"host": "bus", "port": 6379}},
    });
    let ours = json!({"messaging_config": bus.to_string(), "organization_id": "ours"});
    let created = launch("a", &ours).to_string();
    grpcurl(&["-d", &created, engine, &e("CreateAgent")]).await;
    let theirs = json!({"messaging_config": bus.to_string(), "organization_id": "theirs"});
    seen.refused(Reason::GuildIdShared, engine, &e("CreateAgent"), launch("a", &theirs)).await;

    // As many machine ids are taken as there are, as if so many agents were there.
    let full = "for bit = 0, 16064 do redis.call('SETBIT', KEYS[1], bit, 1) end";
    stack.redis.admin().run(&format!("EVAL \"{full}\" 1 {{rustic}}:machines:default:g"));
    seen.refused(Reason::GuildTooLarge, engine, &e("CreateAgent"), launch("one too many", &json!({}))).await;
}
