//! What KEDA gets, asked as KEDA asks.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use rustic_proto::{
    agent::v1::{Agent, AgentLaunch, AgentPhase},
    engine::v1::{self as pb, PendingPolicy::WaitForRoom},
    externalscaler::{self as keda, external_scaler_client::ExternalScalerClient},
};
use rustic_tests::{Stack, StackSettings, launches::idle, wait_until};
use serde_json::json;
use std::collections::BTreeMap;
use tonic::{Code, transport::Channel};

fn object(metadata: &[(&str, &str)]) -> keda::ScaledObjectRef {
    let scaler_metadata: BTreeMap<_, _> = metadata.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    keda::ScaledObjectRef { name: "agent-host".to_owned(), namespace: "rustic-ai".to_owned(), scaler_metadata }
}

async fn slots(client: &ExternalScalerClient<Channel>, metadata: &[(&str, &str)]) -> f64 {
    let request = keda::GetMetricsRequest {
        scaled_object_ref: Some(object(metadata)),
        metric_name: "rustic-ai-slots".to_owned(),
    };
    let values = client.clone().get_metrics(request).await.unwrap().into_inner().metric_values;
    assert_eq!(values.len(), 1);
    assert_eq!(values[0].metric_value, values[0].metric_value_float.ceil() as i64);
    values[0].metric_value_float
}

async fn becomes(client: &ExternalScalerClient<Channel>, what: &str, per_host: &str, wanted: f64) {
    wait_until(what, async || match slots(client, &[("slotsPerHost", per_host)]).await {
        now if (now - wanted).abs() < 1e-9 => Ok(()),
        now => Err(now),
    })
    .await;
}

#[tokio::test]
async fn keda_gets_what_runs_and_waits_and_is_never_asked_to_take_a_host_whose_agents_find_no_room() {
    let host_arguments = ["--max-agents", "2"].map(str::to_owned).to_vec();
    let stack = Stack::with(StackSettings { hosts: 2, host_arguments, ..StackSettings::default() }).await;
    let channel =
        Channel::from_shared(format!("http://{}", stack.engine_address())).unwrap().connect().await.unwrap();
    let client = ExternalScalerClient::new(channel);

    let active = client.clone().is_active(object(&[])).await.unwrap().into_inner();
    assert!(active.result);
    let two = [("slotsPerHost", "2")];
    let spec = client.clone().get_metric_spec(object(&two)).await.unwrap().into_inner().metric_specs.remove(0);
    assert_eq!((spec.metric_name.as_str(), spec.target_size, spec.target_size_float), ("rustic-ai-slots", 2, 2.0));
    let mut activity = client.clone().stream_is_active(object(&[])).await.unwrap().into_inner();
    assert!(activity.message().await.unwrap().unwrap().result);
    let mut specs = client.clone().stream_metric_spec(object(&two)).await.unwrap().into_inner();
    assert_eq!(specs.message().await.unwrap().unwrap().metric_specs, [spec]);
    let nonsense = client.clone().is_active(object(&[("warmHosts", "many")])).await.unwrap_err();
    assert_eq!(nonsense.code(), Code::InvalidArgument);

    assert_eq!(slots(&client, &two).await, 0.0);
    assert_eq!(slots(&client, &[("slotsPerHost", "2"), ("warmHosts", "1.5")]).await, 3.0);
    assert_eq!(slots(&client, &[("warmHosts", "1.5")]).await, 150.0, "a host stands for a hundred, whatever it has");
    // Four run, one on each slot, and one waits.
    for n in 0..5 {
        let request = pb::CreateAgentRequest {
            launch: Some(idle("g", &n.to_string()).into()),
            pending: WaitForRoom.into(),
            ..Default::default()
        };
        stack.client.clone().create_agent(request).await.unwrap();
    }
    becomes(&client, "a third host to be wanted", "2", 6.0).await;
    let mut on = [vec![], vec![]];
    for n in 0..5 {
        let agent = stack.get("g", &n.to_string()).await.unwrap();
        match agent.host_id.as_str() {
            "agent-host-0" => on[0].push(agent.agent_id),
            "agent-host-1" => on[1].push(agent.agent_id),
            _ => {}
        }
    }
    assert_eq!((on[0].len(), on[1].len()), (2, 2));
    let waits = (0..5).map(|n| n.to_string()).find(|id| !on.concat().contains(id)).unwrap();
    stack.stop("g", &waits).await.unwrap();
    stack.stop("g", &on[1][0]).await.unwrap();
    // Three run: the one on host 1 finds no room on host 0.
    becomes(&client, "both hosts to be kept", "2", 3.0).await;
    stack.stop("g", &on[0][0]).await.unwrap();
    becomes(&client, "one host to be enough", "2", 2.0).await;
    stack.stop("g", &on[0][1]).await.unwrap();
    becomes(&client, "one slot to be wanted", "2", 1.0).await;
    stack.stop("g", &on[1][1]).await.unwrap();
    becomes(&client, "nothing to be wanted", "2", 0.0).await;
}

/// KEDA makes an autoscaler of its first answer, and keeps it: the scale must not depend on a registry or a host.
#[tokio::test]
async fn without_a_registry_the_scale_is_answered_and_the_amount_is_not() {
    let engine = rustic_tests::program::Program::start(
        "engine-svc",
        &rustic_tests::stack::engine_arguments("redis://127.0.0.1:1/0", &[]),
    );
    let address = format!("http://{}", engine.address().await);
    let client = ExternalScalerClient::new(Channel::from_shared(address).unwrap().connect().await.unwrap());
    let spec = client.clone().get_metric_spec(object(&[])).await.unwrap().into_inner().metric_specs.remove(0);
    assert_eq!(spec.target_size, 100);
    let request =
        keda::GetMetricsRequest { scaled_object_ref: Some(object(&[])), metric_name: "rustic-ai-slots".to_owned() };
    let refused = client.clone().get_metrics(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "the number stays: {refused:?}");
}

#[tokio::test]
async fn the_highest_host_is_emptied_as_soon_as_the_rest_has_room() {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let stack = Stack::with(StackSettings {
        hosts: 2,
        host_arguments: words("--max-agents 3"),
        engine_arguments: words("--placement packed --compact-every 100ms"),
        ..StackSettings::default()
    })
    .await;
    let mut agents = vec![];
    for n in 0..4 {
        agents.push(stack.create(idle("g", &n.to_string())).await.unwrap());
    }
    let hosts: Vec<_> = agents.iter().map(|a| a.host_id.as_str()).collect();
    assert_eq!(hosts, ["agent-host-0", "agent-host-0", "agent-host-0", "agent-host-1"], "the lowest is filled first");
    stack.stop("g", "0").await.unwrap();
    let below = |a: &Agent| a.host_id == "agent-host-0" && a.phase() == AgentPhase::Running;
    let moved = stack.agent_is("the last one to run on the lower host", "g", "3", below).await;
    assert!(moved.epoch > agents[3].epoch);
    for agent in &agents[1..3] {
        let same = stack.get("g", &agent.agent_id).await.unwrap();
        assert_eq!((same.pid, same.epoch), (agent.pid, agent.epoch), "nobody else moved");
    }
}

#[tokio::test]
async fn room_below_counts_only_where_an_agent_finds_all_it_needs() {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let stack = Stack::with(StackSettings {
        hosts: 3,
        host_arguments: words("--max-agents 10 --gpus 1"),
        engine_arguments: words("--placement packed --compact-every 100ms"),
        ..StackSettings::default()
    })
    .await;
    let channel =
        Channel::from_shared(format!("http://{}", stack.engine_address())).unwrap().connect().await.unwrap();
    let client = ExternalScalerClient::new(channel);
    let mut agents = vec![];
    for id in ["0", "1", "2"] {
        let spec = json!({"id": id, "name": id, "resources": {"num_gpus": 0.6}}).to_string();
        let launch = AgentLaunch { agent_spec: spec, ..idle("g", id) };
        agents.push(stack.create(launch).await.unwrap());
    }
    let hosts: Vec<_> = agents.iter().map(|a| a.host_id.as_str()).collect();
    assert_eq!(hosts, ["agent-host-0", "agent-host-1", "agent-host-2"]);
    // 1.8 of 3 gpus are two hosts' worth, but 0.4 and 0.4 are no room for 0.6.
    becomes(&client, "the third host to be kept", "10", 30.0).await;
    stack.stop("g", "0").await.unwrap();
    becomes(&client, "two hosts to be enough", "10", 12.0).await;
    let below = |a: &Agent| a.host_id == "agent-host-0" && a.phase() == AgentPhase::Running;
    stack.agent_is("the last one to run on the lowest host", "g", "2", below).await;
    let same = stack.get("g", "1").await.unwrap();
    assert_eq!((same.pid, same.epoch), (agents[1].pid, agents[1].epoch), "nobody else moved");
}
