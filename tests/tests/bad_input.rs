//! Bad input gets its status, names its field, says what to do, and leaves nothing behind.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use rustic_proto::{
    agent::v1 as agent_pb,
    agent_host::v1 as host_pb,
    engine::v1::{ListAgentsRequest, ListHostsRequest},
};
use rustic_tests::{
    Stack, StackSettings,
    launches::{RESPONDER, idle, python, script},
};
use serde_json::json;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

type Change = fn(&mut agent_pb::AgentLaunch);

fn fields(status: &Status) -> Vec<String> {
    let bad = status.get_details_bad_request();
    bad.map(|b| b.field_violations.into_iter().map(|v| v.field).collect()).unwrap_or_default()
}

fn spec(change: serde_json::Value) -> String {
    let mut spec = json!({"id": "a", "name": "A", "description": "d", "class_name": RESPONDER});
    for (name, value) in change.as_object().unwrap() {
        spec[name] = value.clone();
    }
    spec.to_string()
}

#[tokio::test]
async fn a_launch_that_breaks_the_contract_names_its_fields() {
    let stack = Stack::start().await;
    let rows: [(&str, Change); 11] = [
        ("launch.agent_spec", |l| l.agent_spec = "{\"id\": ".to_owned()),
        ("launch.agent_spec.id", |l| l.agent_spec = spec(json!({"id": null}))),
        ("launch.agent_spec.id", |l| l.agent_spec = spec(json!({"id": "a\u{1}"}))),
        ("launch.agent_spec.id", |l| l.agent_spec = spec(json!({"id": "x".repeat(257)}))),
        ("launch.agent_spec.name", |l| l.agent_spec = spec(json!({"name": ""}))),
        ("launch.agent_spec.class_name", |l| l.agent_spec = spec(json!({"class_name": null}))),
        ("launch.guild_spec", |l| l.guild_spec = "nope".to_owned()),
        ("launch.guild_spec.id", |l| l.guild_spec = "{}".to_owned()),
        ("launch.messaging_config", |l| l.messaging_config.clear()),
        ("launch.client_properties", |l| l.client_properties = "[1]".to_owned()),
        ("launch.runtime.command.argv", |l| l.runtime = idle("g", "a").runtime.map(|_| empty_command())),
    ];
    let mut host = stack.host(0).await;
    for (field, change) in rows {
        let mut launch = python("g", "a", RESPONDER);
        change(&mut launch);
        let by_engine = stack.create(launch.clone()).await.unwrap_err();
        let request = host_pb::CreateAgentRequest { launch: Some(launch.into()), ..Default::default() };
        let by_host = host.create_agent(request).await.unwrap_err();
        for status in [by_engine, by_host] {
            assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec![field.to_owned()]));
            assert!(status.message().starts_with(field), "{}", status.message());
        }
    }
    stack.assert_nothing_left().await;
}

fn empty_command() -> agent_pb::Runtime {
    let kind = agent_pb::runtime::Kind::Command(agent_pb::CommandRuntime { argv: vec![] });
    agent_pb::Runtime { kind: Some(kind) }
}

#[tokio::test]
async fn an_agent_that_cannot_start_says_why_in_its_own_words_and_leaves_nothing() {
    let stack = Stack::start().await;

    let status = stack.create(python("g", "a", "no.such.module.Agent")).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert_eq!(fields(&status), ["launch.agent_spec.class_name"]);
    assert!(status.message().contains("No module named 'no'"), "{}", status.message());
    assert!(status.message().contains("agent-host-0"), "{}", status.message());

    let launch = agent_pb::AgentLaunch { client_type: "PickleClient".to_owned(), ..python("g", "a", RESPONDER) };
    let status = stack.create(launch).await.unwrap_err();
    assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec!["launch.client_type".to_owned()]));
    assert!(status.message().contains("SimpleClient"), "the known ones are named: {}", status.message());

    let rows: [(&str, Change); 3] = [
        ("launch.agent_spec", |l| l.agent_spec = spec(json!({"description": 7}))),
        ("launch.guild_spec", |l| l.guild_spec = json!({"id": "g"}).to_string()),
        ("launch.messaging_config", |l| l.messaging_config = "{}".to_owned()),
    ];
    for (field, change) in rows {
        let mut launch = python("g", "a", RESPONDER);
        change(&mut launch);
        let status = stack.create(launch).await.unwrap_err();
        assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec![field.to_owned()]), "{status:?}");
    }

    // A class of Rustic AI whose initialisation needs what is not there.
    let broken = agent_pb::AgentLaunch {
        messaging_config: json!({
            "backend_module": "no.such.backend", "backend_class": "B", "backend_config": {},
        })
        .to_string(),
        ..python("g", "a", RESPONDER)
    };
    let status = stack.create(broken).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    assert!(status.message().contains("No module named 'no'"), "{}", status.message());
    assert!(status.get_details_debug_info().is_some_and(|d| d.stack_entries.len() > 3), "a traceback");

    let mut missing = idle("g", "a");
    missing.runtime.as_mut().unwrap().kind = Some(agent_pb::runtime::Kind::Command(agent_pb::CommandRuntime {
        argv: vec!["/no/such/program".to_owned()],
    }));
    let status = stack.create(missing).await.unwrap_err();
    assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec!["launch.runtime".to_owned()]));
    assert!(status.message().contains("/no/such/program"), "{}", status.message());
    stack.assert_nothing_left().await;
}

#[tokio::test]
async fn an_agent_whose_init_raises_or_never_returns_is_ended_and_the_error_says_which() {
    let dir = tempfile::tempdir().unwrap();
    let module = "import time\nfrom rustic_ai.core.guild.agent import Agent\n\
        class Raises(Agent):\n    def __init__(self):\n        raise ValueError('no such luck')\n\
        class Hangs(Agent):\n    def __init__(self):\n        time.sleep(1000)\n\
        class Dies(Agent):\n    def __init__(self):\n        import os; print('dying'); import sys; sys.stdout.flush(); os._exit(7)\n";
    std::fs::write(dir.path().join("misbehaving.py"), module).unwrap();
    let stack = Stack::start().await;
    let with_path = |class: &str| {
        let mut launch = python("g", "a", &format!("misbehaving.{class}"));
        launch.environment.insert("PYTHONPATH".to_owned(), dir.path().display().to_string());
        launch
    };

    let status = stack.create(with_path("Raises")).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    assert!(status.message().contains("ValueError: no such luck"), "{}", status.message());
    let traceback = status.get_details_debug_info().unwrap().stack_entries.join("\n");
    assert!(traceback.contains("misbehaving.py"), "{traceback}");

    let mut hangs = with_path("Hangs");
    hangs.start_timeout = Some(prost_types::Duration { seconds: 3, nanos: 0 });
    let status = stack.create(hangs).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert!(status.message().contains("not ready within 3s"), "{}", status.message());

    let status = stack.create(with_path("Dies")).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    assert!(status.message().contains("exit code 7") && status.message().contains("dying"), "{}", status.message());
    stack.assert_nothing_left().await;
}

#[tokio::test]
async fn a_request_over_the_size_limit_is_refused_and_the_limit_is_a_setting() {
    let settings = StackSettings {
        engine_arguments: vec!["--max-message-size".to_owned(), "100000".to_owned()],
        ..StackSettings::default()
    };
    let stack = Stack::with(settings).await;
    let padded = |bytes: usize| agent_pb::AgentLaunch {
        guild_spec: json!({"id": "g", "padding": "x".repeat(bytes)}).to_string(),
        ..idle("g", "a")
    };
    let status = stack.create(padded(100_000)).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(status.message().contains("the limit is 100000 bytes"), "{}", status.message());
    stack.assert_nothing_left().await;
    stack.create(padded(50_000)).await.unwrap();
    stack.stop("g", "a").await.unwrap();
}

#[tokio::test]
async fn a_host_refuses_calls_for_another_life_and_epochs_that_cannot_be() {
    let stack = Stack::start().await;
    let mut host = stack.host(0).await;
    let before = stack.create(idle("g", "b")).await.unwrap().epoch;
    let request = |epoch, incarnation: &str| host_pb::CreateAgentRequest {
        launch: Some(idle("g", "a").into()),
        claim: Some(host_pb::Claim {
            incarnation: incarnation.to_owned(),
            epoch,
            machine_id: Some(1),
            devices: std::collections::BTreeMap::new(),
        }),
        ..Default::default()
    };
    for epoch in [Some(u64::MAX), Some(0), None] {
        let status = host.create_agent(request(epoch, "")).await.unwrap_err();
        assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec!["claim.epoch".to_owned()]));
    }
    for (id, share) in [("a,b", 0.5), ("", 1.0), ("GPU-a", 1.5), ("GPU-a", 0.0), ("GPU-a", -1.0), ("GPU-a", f64::NAN)]
    {
        let mut request = request(Some(1 << 50), "");
        let part = agent_pb::DevicePart { share, memory_bytes: 0 };
        request.claim.as_mut().unwrap().devices.insert(id.to_owned(), part);
        let status = host.create_agent(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert_eq!(fields(&status)[0], "claim.devices", "{share} of {id:?}");
    }
    let claim = host_pb::Claim { epoch: Some(0), ..Default::default() };
    let (guild_id, agent_id) = ("g".to_owned(), "b".to_owned());
    let stop = host_pb::StopAgentRequest { guild_id, agent_id, claim: Some(claim), ..Default::default() };
    let status = host.stop_agent(stop).await.unwrap_err();
    assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec!["claim.epoch".to_owned()]));
    let status = host.create_agent(request(Some(1), "another life")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    // An epoch that nobody claimed: the registry is asked before anything starts.
    let status = host.create_agent(request(Some(1 << 50), "")).await.unwrap_err();
    assert_eq!(status.code(), Code::Aborted, "{status:?}");
    let after = stack.create(idle("g", "a")).await.unwrap().epoch;
    assert_eq!(after, before + 1, "nonsense does not move the counter");
    for agent in ["a", "b"] {
        stack.stop("g", agent).await.unwrap();
    }
    stack.assert_nothing_left().await;
}

#[tokio::test]
async fn lists_refuse_tokens_they_did_not_give_out_and_pages_that_are_too_large() {
    let stack = Stack::start().await;
    let mut client = stack.client.clone();
    let request = ListAgentsRequest { page_token: "yesterday".to_owned(), ..Default::default() };
    let status = client.list_agents(request).await.unwrap_err();
    assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec!["page_token".to_owned()]));
    let request = ListHostsRequest { page_token: "a1.g:a".to_owned(), ..Default::default() };
    assert_eq!(client.list_hosts(request).await.unwrap_err().code(), Code::InvalidArgument);
    let request = ListAgentsRequest { page_size: 1001, ..Default::default() };
    let status = client.list_agents(request).await.unwrap_err();
    assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec!["page_size".to_owned()]));
}

#[tokio::test]
async fn an_unknown_agent_cannot_be_stopped_and_a_known_one_cannot_change_its_spec() {
    let stack = Stack::start().await;
    let status = stack.stop("g", "nobody").await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert!(status.message().contains("default/g/nobody"), "{}", status.message());
    let mut host = stack.host(0).await;
    let request =
        host_pb::StopAgentRequest { guild_id: "g".to_owned(), agent_id: "nobody".to_owned(), ..Default::default() };
    assert_eq!(host.stop_agent(request).await.unwrap_err().code(), Code::NotFound);

    let agent = stack.create(idle("g", "a")).await.unwrap();
    let status = stack.create(script("g", "a", "exec sleep 999")).await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists);
    assert_eq!(stack.get("g", "a").await.unwrap().pid, agent.pid, "the first one lives on");
    let again = stack.create(idle("g", "a")).await.unwrap();
    assert_eq!((again.pid, again.epoch), (agent.pid, agent.epoch), "same spec: same answer");
    stack.stop("g", "a").await.unwrap();
    stack.assert_nothing_left().await;
}
