//! Errors as a person meets them: each provoked, and printed by grpcurl with its reason. What it prints is kept in
//! `docs/errors-by-grpcurl.md`, which `make docs` writes.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use rustic_proto::{engine::v1 as pb, reason::Reason};
use rustic_tests::{
    Stack, StackSettings,
    grpcurl::try_grpcurl,
    launches::{RESPONDER, idle, script},
    root,
};
use serde_json::{Value, json};
use std::fmt::Write as _;

const ENGINE: &str = "rustic_ai.engine.v1.EngineService";
const HOST: &str = "rustic_ai.agent_host.v1.AgentHostService";

/// What was printed so far, by reason.
struct Seen(Vec<(Reason, String, String)>);

impl Seen {
    /// Makes a call that must be refused, for this reason.
    async fn refused(&mut self, reason: Reason, address: &str, method: &str, request: Value) {
        let request = request.to_string();
        let (ok, out, err) = try_grpcurl(&["-d", &request, address, method]).await;
        let said = format!(r#""reason":"{reason}""#);
        assert!(!ok && err.contains(&said), "{reason}: {method} {request}: {out} {err}");
        assert!(!err.contains("is not recognized"), "{err}");
        let shown = if request.len() > 400 { "…".to_owned() } else { request };
        self.0.push((reason, format!("grpcurl -plaintext -d '{shown}' ADDRESS {method}"), err));
    }

    /// As a document, without what differs from run to run.
    fn document(&self) -> String {
        let mut text = "<!-- Written by `make docs` from tests/tests/errors.rs. -->\n# Errors, as grpcurl prints them\n\n\
                        What each means and what to do: [errors](errors.md). Numbers that differ from run to run are left out.\n"
            .to_owned();
        for (reason, command, output) in &self.0 {
            let output = output.trim_end().lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
            write!(text, "\n## {reason}\n\n```text\n$ {command}\n{}\n```\n", without_numbers(&output)).unwrap();
        }
        text
    }
}

/// Epochs and ports differ: every number of five digits or more becomes `…`.
fn without_numbers(text: &str) -> String {
    let mut out = String::new();
    let mut digits = String::new();
    for letter in text.chars().chain(['\n']) {
        if letter.is_ascii_digit() {
            digits.push(letter);
            continue;
        }
        out.push_str(if digits.len() < 5 { &digits } else { "…" });
        digits.clear();
        out.push(letter);
    }
    out.trim_end().to_owned()
}

/// A launch as JSON: a program, or the agent class.
fn launch(agent: &str, changes: Value) -> Value {
    let mut launch = json!({
        "agent_spec": json!({"id": agent, "name": agent}).to_string(),
        "guild_spec": json!({"id": "g"}).to_string(),
        "runtime": {"command": {"argv": ["sleep", "1000"]}},
    });
    for (name, value) in changes.as_object().unwrap() {
        launch[name] = value.clone();
    }
    json!({"launch": launch})
}

#[tokio::test]
async fn every_error_that_is_easy_to_provoke_is_printed_with_its_reason() {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let stack = Stack::with(StackSettings {
        hosts: 2,
        engine_arguments: words(&["--max-message-size", "20000"]),
        host_arguments: words(&["--max-agents", "2", "--default-deadline", "2s"]),
        ..StackSettings::default()
    })
    .await;
    let mut seen = Seen(vec![]);
    let engine = stack.engine_address().to_owned();
    let hosts = [stack.hosts[0].address().await, stack.hosts[1].address().await];
    let e = |method: &str| format!("{ENGINE}/{method}");
    let h = |method: &str| format!("{HOST}/{method}");

    seen.refused(Reason::InvalidRequest, &engine, &e("CreateAgent"), json!({"launch": {"agent_spec": "{}"}})).await;
    let large = launch("a", json!({"client_properties": json!({"x": "y".repeat(30_000)}).to_string()}));
    seen.refused(Reason::RequestTooLarge, &engine, &e("CreateAgent"), large).await;
    seen.refused(Reason::AgentUnknown, &engine, &e("GetAgent"), json!({"guild_id": "g", "agent_id": "nobody"})).await;
    seen.refused(Reason::HostUnknown, &engine, &e("DrainHost"), json!({"host_id": "nobody"})).await;
    let force = json!({"host_id": "agent-host-0", "force": "FORCE_MODE_RETIRED_HOST"});
    seen.refused(Reason::HostLives, &engine, &e("DrainHost"), force).await;
    seen.refused(Reason::WatchExpired, &engine, &e("WatchAgents"), json!({"revision": "another-life/1-0"})).await;
    let spec = json!({"id": "a", "name": "a", "resources": {"num_gpus": 64}}).to_string();
    seen.refused(Reason::AgentTooLarge, &engine, &e("CreateAgent"), launch("a", json!({"agent_spec": spec}))).await;

    let agent = stack.create(idle("g", "a")).await.unwrap();
    let (here, there) = if agent.host_id == "agent-host-0" { (0, 1) } else { (1, 0) };
    seen.refused(Reason::AgentHasOtherSpec, &engine, &e("CreateAgent"), launch("a", json!({}))).await;
    let same = idle("g", "a");
    let argv =
        json!({"agent_spec": same.agent_spec, "runtime": {"command": {"argv": ["sh", "-c", "exec sleep 1000"]}}});
    seen.refused(Reason::AgentOnOtherHost, &hosts[there], &h("CreateAgent"), launch("a", argv)).await;
    let stop = |claim: Value| json!({"guild_id": "g", "agent_id": "a", "claim": claim});
    seen.refused(Reason::EpochStale, &hosts[here], &h("StopAgent"), stop(json!({"epoch": 1}))).await;
    let another = stop(json!({"incarnation": "another life"}));
    seen.refused(Reason::HostReplaced, &hosts[here], &h("StopAgent"), another).await;

    stack.create(script("g", "deaf", "trap '' TERM; echo deaf; while :; do sleep 1; done")).await.unwrap();
    let deaf = stack.get("g", "deaf").await.unwrap();
    let deaf_host = usize::from(deaf.host_id == "agent-host-1");
    stack.hosts[deaf_host].logged("it to be deaf", |line| line["message"] == "deaf").await;
    let long = json!({"guild_id": "g", "agent_id": "deaf", "timeout": "600s"});
    seen.refused(Reason::DeadlineExceeded, &hosts[deaf_host], &h("StopAgent"), long).await;
    // The stop goes on.
    let again = json!({
        "agent_spec": deaf_spec(),
        "runtime": {"command": {"argv": ["sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 1; done"]}},
    });
    seen.refused(Reason::AgentStopping, &engine, &e("CreateAgent"), launch("deaf", again)).await;

    for name in ["b", "c"] {
        stack.create(idle("g", name)).await.unwrap();
    }
    seen.refused(Reason::NoRoom, &engine, &e("CreateAgent"), launch("d", json!({}))).await;
    seen.refused(Reason::HostFull, &hosts[0], &h("CreateAgent"), launch("d", json!({}))).await;
    let waits = pb::CreateAgentRequest {
        launch: Some(idle("g", "waits").into()),
        pending: pb::PendingPolicy::WaitForRoom.into(),
        ..Default::default()
    };
    stack.client.clone().create_agent(waits).await.unwrap();
    let argv = json!({"agent_spec": idle("g", "waits").agent_spec, "runtime": {"command": {"argv": ["sh", "-c", "exec sleep 1000"]}}});
    seen.refused(Reason::AgentWaits, &hosts[0], &h("CreateAgent"), launch("waits", argv)).await;
    let nothing =
        json!({"agent_spec": json!({"id": "x", "name": "x", "class_name": RESPONDER}).to_string(), "runtime": null});
    seen.refused(Reason::InvalidRequest, &engine, &e("CreateAgent"), launch("x", nothing)).await;

    let path = root().join("docs/errors-by-grpcurl.md");
    let text = seen.document();
    if std::env::var_os("RUSTIC_WRITE_DOCS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap();
    for (reason, ..) in &seen.0 {
        assert!(
            kept.contains(&format!("\n## {reason}\n")),
            "{reason} is not in docs/errors-by-grpcurl.md; run `make docs`"
        );
    }
}

fn deaf_spec() -> String {
    script("g", "deaf", "").agent_spec
}
