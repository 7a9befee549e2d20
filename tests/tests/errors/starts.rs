//! Agents that do not start.

use crate::provoked::{Provoked, agent, e, h, launch, words};
use rustic_proto::{agent_host::v1::GetAgentRequest, reason::Reason};
use rustic_tests::{
    Modules, Stack, StackSettings,
    grpcurl::grpcurl,
    launches::{idle, python},
    venv, wait_until,
};
use serde_json::{Value, json};

const STARTS: &str = "import os, time\nfrom rustic_ai.core.guild.agent import Agent\n\
    class Raises(Agent):\n    def __init__(self):\n        raise ValueError('no API key: set OPENAI_API_KEY')\n\
    class Ends(Agent):\n    def __init__(self):\n        print('it goes', flush=True)\n        os._exit(3)\n\
    class Sleeps(Agent):\n    def __init__(self):\n        time.sleep(1000)\n";

/// An agent of one of these classes, in JSON.
fn of(class: &str, changes: &Value) -> Value {
    let launched = python("g", class, &format!("starts.{class}"));
    let mut all = json!({
        "agent_spec": launched.agent_spec, "guild_spec": launched.guild_spec,
        "messaging_config": launched.messaging_config, "runtime": {"python": {}},
    });
    for (name, value) in changes.as_object().unwrap() {
        all[name] = value.clone();
    }
    launch(class, &all)
}

pub(crate) async fn provoke() -> Provoked {
    let mut seen = Provoked::default();
    let modules = Modules::new(&[("starts", STARTS)]);
    let stack = modules.stack(&[]).await;
    let engine = stack.engine_address();
    seen.refused(Reason::AgentInitFailed, engine, &e("CreateAgent"), of("Raises", &json!({}))).await;
    seen.refused(Reason::AgentExitedBeforeReady, engine, &e("CreateAgent"), of("Ends", &json!({}))).await;
    let slow = of("Sleeps", &json!({"start_timeout": "1s"}));
    seen.refused(Reason::AgentNotReadyInTime, engine, &e("CreateAgent"), slow).await;
    not_ready(&mut seen, &modules).await;
    exhausted(&mut seen).await;
    seen
}

/// An agent that is not ready when the time of its caller is over.
async fn not_ready(seen: &mut Provoked, modules: &Modules) {
    let settings = StackSettings { engine_arguments: words("--default-deadline 5s"), ..modules.settings(&[]) };
    let stack = Stack::with(settings).await;
    let engine = stack.engine_address();
    let mut sleeps = of("Sleeps", &json!({}));
    sleeps["wait"] = json!("WAIT_MODE_ACCEPTED");
    grpcurl(&["-d", &sleeps.to_string(), engine, &e("CreateAgent")]).await;
    // Its host may have to start its first zygote.
    wait_until("it to have a process", async || {
        let request =
            GetAgentRequest { guild_id: "g".to_owned(), agent_id: "Sleeps".to_owned(), ..Default::default() };
        let agent = stack.host(0).await.get_agent(request).await.map_err(|status| status.to_string())?;
        let agent = agent.into_inner().agent.unwrap();
        if agent.pid == 0 { Err(format!("{agent:?}")) } else { Ok(()) }
    })
    .await;
    let again = agent("Sleeps", &json!({"timeout": "0s", "wait": "WAIT_MODE_RUNNING"}));
    seen.refused(Reason::NotReady, engine, &e("RestartAgent"), again).await;
}

/// A host that lacks descriptors, and one that has lost its Python.
async fn exhausted(seen: &mut Provoked) {
    let settings = StackSettings { host_starter: words("prlimit --nofile=256:256"), ..StackSettings::default() };
    let stack = Stack::with(settings).await;
    let mut count = 0;
    while stack.create(idle("g", &count.to_string())).await.is_ok() {
        count += 1;
        assert!(count < 256, "a host with 256 descriptors takes no {count} agents");
    }
    let one = launch("one too many", &json!({}));
    seen.refused(Reason::HostExhausted, &stack.hosts[0].address().await, &h("CreateAgent"), one).await;

    let dir = tempfile::tempdir().unwrap();
    let python = dir.path().join("python");
    std::os::unix::fs::symlink(venv("python"), &python).unwrap();
    let host_arguments = vec!["--python".to_owned(), python.display().to_string()];
    let stack = Stack::with(StackSettings { host_arguments, ..StackSettings::default() }).await;
    std::fs::remove_file(&python).unwrap();
    let agent = of("Raises", &json!({}));
    seen.refused(Reason::HostCannotStart, &stack.hosts[0].address().await, &h("CreateAgent"), agent).await;
}
