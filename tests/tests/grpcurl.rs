//! What a person does with grpcurl, with the request files of `examples/grpcurl/`.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use rustic_tests::{
    Stack,
    grpcurl::{grpcurl, try_grpcurl},
    root, venv, wait_until,
};
use serde_json::Value;
use tokio::process::Command;
use tonic::transport::Channel;

/// Calls a method with a request file.
async fn call(address: &str, method: &str, file: &str) -> Value {
    let request = std::fs::read_to_string(root().join("examples/grpcurl").join(file)).unwrap();
    serde_json::from_str(&grpcurl(&["-d", &request, address, method]).await).unwrap()
}

#[tokio::test]
async fn an_agent_lives_and_ends_through_engine_svc() {
    let stack = Stack::of(2).await;
    let address = stack.engine_address();
    let services = grpcurl(&[address, "list"]).await;
    assert!(services.contains("rustic_ai.engine.v1.EngineService"), "{services}");
    assert!(services.contains("grpc.health.v1.Health"), "{services}");
    let described = grpcurl(&[address, "describe", "rustic_ai.engine.v1.EngineService.CreateAgent"]).await;
    assert!(described.contains("rpc CreateAgent"), "{described}");

    let engine = |method: &str| format!("rustic_ai.engine.v1.EngineService/{method}");
    let created = call(address, &engine("CreateAgent"), "create-agent.json").await;
    assert_eq!(created["agent"]["phase"], "AGENT_PHASE_RUNNING");
    assert!(created["timings"]["initialize"].is_string(), "{created}");
    assert!(created["timings"]["claim"].is_string(), "{created}");
    call(address, &engine("CreateAgent"), "create-command.json").await;
    let got = call(address, &engine("GetAgent"), "agent.json").await;
    assert_eq!(got["agent"]["pid"], created["agent"]["pid"]);
    assert_eq!(call(address, &engine("ListAgents"), "guild.json").await["agents"].as_array().unwrap().len(), 2);
    call(address, &engine("StopAgent"), "agent.json").await;
    assert_eq!(call(address, &engine("ListAgents"), "guild.json").await["agents"].as_array().unwrap().len(), 1);
    assert_eq!(call(address, &engine("StopGuild"), "guild.json").await["stopped"], 1);
    let hosts: Value = serde_json::from_str(&grpcurl(&[address, &engine("ListHosts")]).await).unwrap();
    assert_eq!(hosts["hosts"].as_array().unwrap().len(), 2);
    stack.assert_nothing_left().await;
}

#[tokio::test]
async fn the_details_of_errors_are_printed_as_text() {
    let stack = Stack::start().await;
    let host = stack.hosts[0].address().await;
    for (address, service) in [
        (stack.engine_address(), "rustic_ai.engine.v1.EngineService"),
        (host.as_str(), "rustic_ai.agent_host.v1.AgentHostService"),
    ] {
        let get = format!("{service}/GetAgent");
        let (ok, _, unknown) = try_grpcurl(&["-d", r#"{"guild_id": "g", "agent_id": "a"}"#, address, &get]).await;
        assert!(!ok && unknown.contains(r#""reason":"AGENT_UNKNOWN""#), "{unknown}");
        let (ok, _, wrong) = try_grpcurl(&[address, &get]).await;
        assert!(
            !ok && wrong.contains(r#""reason":"INVALID_REQUEST""#) && wrong.contains(r#""field":"guild_id""#),
            "{wrong}"
        );
        for text in [unknown, wrong] {
            assert!(!text.contains("is not recognized"), "{text}");
        }
    }
}

#[tokio::test]
async fn an_agent_lives_and_ends_on_one_host_called_directly() {
    let stack = Stack::start().await;
    let address = stack.hosts[0].address().await;
    let services = grpcurl(&[&address, "list"]).await;
    assert!(services.contains("rustic_ai.agent_host.v1.AgentHostService"), "{services}");
    grpcurl(&[&address, "describe", "rustic_ai.agent_host.v1.AgentHostService"]).await;

    let host = |method: &str| format!("rustic_ai.agent_host.v1.AgentHostService/{method}");
    let created = call(&address, &host("CreateAgent"), "create-agent.json").await;
    assert_eq!(created["agent"]["phase"], "AGENT_PHASE_RUNNING");
    assert_eq!(created["agent"]["hostId"], "agent-host-0");
    let info = call(&address, &host("GetAgent"), "agent.json").await;
    assert!(info["agent"]["agentSpec"].as_str().unwrap().contains("ResponderProbeAgent"));
    // The host claimed it through the registry, so the engine knows it.
    let epoch = stack.get("hello", "responder").await.unwrap().epoch;
    assert_eq!(created["agent"]["epoch"], epoch.to_string());
    let health: Value = serde_json::from_str(&grpcurl(&[&address, &host("Health")]).await).unwrap();
    assert_eq!((&health["healthy"], &health["agentCount"]), (&true.into(), &1.into()));
    assert_eq!(call(&address, &host("ListAgents"), "guild.json").await["agents"].as_array().unwrap().len(), 1);
    let stopped = call(&address, &host("StopAgent"), "agent.json").await;
    assert_eq!(stopped["exit"]["code"], 0, "a Rustic AI agent ends by itself on SIGTERM");
    stack.assert_nothing_left().await;
}

/// Names of the services that a version of reflection lists.
macro_rules! reflected {
    ($version:ident, $address:expr) => {{
        use tonic_reflection::pb::$version::{
            ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
            server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
        };
        let channel = Channel::from_shared(format!("http://{}", $address)).unwrap().connect().await.unwrap();
        let mut client = ServerReflectionClient::new(channel);
        let message_request = Some(MessageRequest::ListServices(String::new()));
        let request = ServerReflectionRequest { message_request, ..Default::default() };
        let mut answers = client.server_reflection_info(tokio_stream::iter([request])).await.unwrap().into_inner();
        match answers.message().await.unwrap().unwrap().message_response {
            Some(MessageResponse::ListServicesResponse(list)) => {
                list.service.into_iter().map(|service| service.name).collect::<Vec<_>>()
            }
            other => panic!("{other:?}"),
        }
    }};
}

#[tokio::test]
async fn both_versions_of_reflection_list_the_service() {
    let stack = Stack::start().await;
    let host = stack.hosts[0].address().await;
    for (address, service) in [
        (stack.engine_address(), "rustic_ai.engine.v1.EngineService"),
        (host.as_str(), "rustic_ai.agent_host.v1.AgentHostService"),
    ] {
        for names in [reflected!(v1, address), reflected!(v1alpha, address)] {
            assert!(names.iter().any(|name| name == service), "{names:?}");
        }
    }
}

#[tokio::test]
async fn health_checks_answer_for_the_server_and_for_each_service() {
    let stack = Stack::start().await;
    let host = stack.hosts[0].address().await;
    for (address, service) in [
        (stack.engine_address(), ""),
        (stack.engine_address(), "rustic_ai.engine.v1.EngineService"),
        (host.as_str(), ""),
        (host.as_str(), "rustic_ai.agent_host.v1.AgentHostService"),
    ] {
        let request = format!(r#"{{"service": "{service}"}}"#);
        wait_until("SERVING", async || {
            let (_, out, err) = try_grpcurl(&["-d", &request, address, "grpc.health.v1.Health/Check"]).await;
            if out.contains("\"SERVING\"") { Ok(()) } else { Err(out + &err) }
        })
        .await;
    }
}

/// Lines of the README that call something.
fn readme_lines() -> Vec<String> {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    readme.lines().filter(|line| line.starts_with("grpcurl ")).map(str::to_owned).collect()
}

#[tokio::test]
async fn every_line_of_the_readme_works_in_its_order() {
    let stack = Stack::of(2).await;
    let host = stack.hosts[0].address().await;
    let lines = readme_lines();
    assert!(lines.len() > 12, "{lines:?}");
    let path = format!("{}:{}", venv("grpcurl").parent().unwrap().display(), std::env::var("PATH").unwrap());
    for line in lines {
        let command = line.replace("127.0.0.1:50051", stack.engine_address());
        // A watch ends with an error only: what it has said by then is looked at.
        let watches = command.contains("WatchAgents");
        let command = if watches { command.replace("grpcurl ", "grpcurl -max-time 2 ") } else { command };
        let mut shell = Command::new("bash");
        let output = shell.args(["-c", &command]).env("PATH", &path).env("HOST", &host).current_dir(root()).output();
        let output = output.await.unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let worked =
            output.status.success() || (watches && out.contains("bookmark") && err.contains("DeadlineExceeded"));
        assert!(worked, "{command}: {out} {err}");
    }
    stack.assert_nothing_left().await;
}
