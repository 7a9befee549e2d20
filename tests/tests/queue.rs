//! The queue of starts: fair, bounded, and left by those who hang up.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use rustic_proto::{agent::v1::AgentPhase, convert::duration, engine::v1 as pb};
use rustic_tests::{
    Modules, PATIENCE, Stack,
    launches::{RESPONDER, python},
    wait_until,
};
use std::time::Duration;
use tokio::task::JoinSet;
use tonic::{Code, Request};

/// An agent that takes until a file appears to become ready.
const SLOW: &str = "import os, time\nfrom rustic_ai.core.guild.agent import Agent\n\
    class Slow(Agent):\n    def __init__(self):\n\
    \x20       while not os.path.exists(os.environ['GATE']):\n            time.sleep(0.01)\n";

struct Gate {
    stack: Stack,
    modules: Modules,
}

impl Gate {
    /// A host that starts one agent at once; one that takes long holds up the others for `patience`.
    async fn start(patience: &str) -> Self {
        let modules = Modules::new(&[("slow", SLOW)]);
        let mut settings = modules.settings(&["--concurrent-starts", "1", "--start-patience", patience]);
        settings.host_environment.push(("GATE".to_owned(), format!("{}/open", modules.path())));
        Self { stack: Stack::with(settings).await, modules }
    }

    fn open(&self) {
        std::fs::write(format!("{}/open", self.modules.path()), "").unwrap();
    }

    /// Creates slow agents that wait in the queue, or at the gate.
    fn crowd(&self, count: usize) -> JoinSet<AgentPhase> {
        let mut calls = JoinSet::new();
        for n in 0..count {
            let mut client = self.stack.client.clone();
            let mut launch = python("crowd", &n.to_string(), "slow.Slow");
            // However long a test takes to open the gate.
            launch.start_timeout = Some(duration(PATIENCE * 3));
            let request = pb::CreateAgentRequest { launch: Some(launch.into()), ..Default::default() };
            calls.spawn(
                async move { client.create_agent(request).await.unwrap().into_inner().agent.unwrap().phase() },
            );
        }
        calls
    }
}

#[tokio::test]
async fn slow_initialisers_delay_nobody_else() {
    let gate = Gate::start("150ms").await;
    let crowd = gate.crowd(5);
    // They are never ready before the gate opens, which happens only after the quick one is.
    let quick = gate.stack.create(python("g", "quick", RESPONDER)).await.unwrap();
    assert_eq!(quick.phase(), AgentPhase::Running);
    gate.open();
    assert!(crowd.join_all().await.into_iter().all(|phase| phase == AgentPhase::Running));
}

#[tokio::test]
async fn a_caller_that_gives_up_while_queued_leaves_nothing_behind() {
    let gate = Gate::start("10m").await;
    let crowd = gate.crowd(12);
    wait_until("the crowd to be claimed", async || {
        let request = pb::ListAgentsRequest { guild_id: "crowd".to_owned(), ..Default::default() };
        match gate.stack.client.clone().list_agents(request).await.unwrap().into_inner().agents.len() {
            12 => Ok(()),
            fewer => Err(fewer),
        }
    })
    .await;
    // By its deadline …
    let launch = Some(python("g", "impatient", RESPONDER).into());
    let mut request = Request::new(pb::CreateAgentRequest { launch, ..Default::default() });
    request.set_timeout(Duration::from_millis(300));
    let late = gate.stack.client.clone().create_agent(request).await.unwrap_err();
    assert!(matches!(late.code(), Code::DeadlineExceeded | Code::Cancelled), "{late:?}");
    // … or by hanging up.
    let launch = Some(python("g", "fickle", RESPONDER).into());
    let mut client = gate.stack.client.clone();
    let request = pb::CreateAgentRequest { launch, ..Default::default() };
    let call = tokio::spawn(async move { client.create_agent(request).await });
    wait_until("the agent to be claimed", async || gate.stack.get("g", "fickle").await).await;
    call.abort();
    for agent in ["impatient", "fickle"] {
        wait_until("the agent to be gone", async || match gate.stack.get("g", agent).await {
            Err(status) if status.code() == Code::NotFound => Ok(()),
            other => Err(other),
        })
        .await;
    }
    let never_begun = |l: &serde_json::Value| l["agent_id"] == "impatient" && l["target"] == "agent";
    assert!(!gate.stack.hosts[0].log().iter().any(never_begun), "no process was made for it");
    gate.open();
    assert!(crowd.join_all().await.into_iter().all(|phase| phase == AgentPhase::Running));
}
