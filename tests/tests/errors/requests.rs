//! Requests that a service cannot take.

use crate::provoked::{Provoked, agent, e, h, launch, words};
use rustic_proto::reason::Reason;
use rustic_tests::{
    Stack, StackSettings,
    grpcurl::try_grpcurl,
    launches::{RESPONDER, script},
    venv, wait_until,
};
use serde_json::json;

/// The engine's service as somebody might take it to be.
const STRANGE: &str = "syntax = \"proto3\";\npackage rustic_ai.engine.v1;\n\
    import \"google/rpc/error_details.proto\";\n\
    message Strange { fixed64 guild_id = 1; }\n\
    service EngineService { rpc FlyAgent(Strange) returns (Strange); rpc GetAgent(Strange) returns (Strange); }\n";

pub(crate) async fn provoke() -> Provoked {
    let mut seen = Provoked::default();
    let stack = Stack::with(StackSettings {
        engine_arguments: words("--max-message-size 20000 --max-calls 1"),
        host_arguments: words("--default-deadline 2s"),
        ..StackSettings::default()
    })
    .await;
    let engine = stack.engine_address();
    seen.refused(Reason::InvalidRequest, engine, &e("CreateAgent"), json!({"launch": {"agent_spec": "{}"}})).await;
    let nothing =
        json!({"agent_spec": json!({"id": "x", "name": "x", "class_name": RESPONDER}).to_string(), "runtime": null});
    seen.refused(Reason::InvalidRequest, engine, &e("CreateAgent"), launch("x", &nothing)).await;
    let large = json!({"client_properties": json!({"x": "y".repeat(30_000)}).to_string()});
    seen.refused(Reason::RequestTooLarge, engine, &e("CreateAgent"), launch("a", &large)).await;

    let protos = tempfile::tempdir().unwrap();
    std::fs::write(protos.path().join("strange.proto"), STRANGE).unwrap();
    let folder = protos.path().display().to_string();
    // So that grpcurl can show the details, which it gets by reflection else.
    let details = venv("python").with_file_name("../lib/python3.13/site-packages").display().to_string();
    let strange = ["-import-path", &folder, "-import-path", &details, "-proto", "strange.proto"];
    let number = json!({"guild_id": "7"});
    seen.refused_with(&strange, Reason::MethodUnknown, engine, &e("FlyAgent"), number.clone()).await;
    seen.refused_with(&strange, Reason::RequestUnreadable, engine, &e("GetAgent"), number).await;

    stack.create(script("g", "deaf", "trap '' TERM; echo deaf; while :; do sleep 1; done")).await.unwrap();
    stack.hosts[0].logged("it to be deaf", |line| line["message"] == "deaf").await;
    let host = stack.hosts[0].address().await;
    let long = agent("deaf", &json!({"timeout": "600s"}));
    seen.refused(Reason::DeadlineExceeded, &host, &h("StopAgent"), long.clone()).await;
    // The stop goes on, and whoever asks the engine for the same waits: that is the one call which it takes.
    let method = e("StopAgent");
    let (text, address) = (long.to_string(), engine.to_owned());
    let slow = tokio::spawn(async move { try_grpcurl(&["-d", &text, &address, &method]).await });
    wait_until("the engine to be busy", async || {
        let request = agent("deaf", &json!({})).to_string();
        let (ok, out, err) = try_grpcurl(&["-d", &request, engine, &e("GetAgent")]).await;
        if ok { Err(out) } else { Ok(err) }
    })
    .await;
    seen.refused(Reason::TooManyCalls, engine, &e("GetAgent"), agent("deaf", &json!({}))).await;
    slow.abort();
    seen
}
