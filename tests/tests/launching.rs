//! Launches that wait for nobody: what is certainly wrong is refused at once, what may come right is accepted, and goes on by itself.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use rustic_proto::{
    agent::v1::{self as agent_pb, AgentPhase, WaitMode},
    engine::v1::{self as pb, PendingPolicy},
};
use rustic_tests::{
    Modules, Stack,
    launches::{RESPONDER, idle, python},
    wait_until,
};
use tonic::{Code, Status};

/// `Late` takes until a file appears to be imported, `Fragile` cannot be built before it is there.
const GATED: &str = "import os, time\nfrom rustic_ai.core.guild.agent import Agent\n\
    OPEN = os.environ['GATE']\n\
    class Late(Agent):\n    def __init__(self):\n\
    \x20       while not os.path.exists(OPEN):\n            time.sleep(0.01)\n\
    class Fragile(Agent):\n    def __init__(self):\n\
    \x20       if not os.path.exists(OPEN):\n            raise RuntimeError('its database is not up')\n";

struct Gate {
    stack: Stack,
    modules: Modules,
}

impl Gate {
    async fn start(hosts: usize, host_arguments: &[&str]) -> Self {
        let modules = Modules::new(&[("gated", GATED)]);
        let mut settings = modules.settings(host_arguments);
        settings.hosts = hosts;
        settings.host_environment.push(("GATE".to_owned(), format!("{}/open", modules.path())));
        Self { stack: Stack::with(settings).await, modules }
    }

    fn open(&self) {
        std::fs::write(format!("{}/open", self.modules.path()), "").unwrap();
    }

    async fn launch(&self, launch: agent_pb::AgentLaunch) -> Result<agent_pb::Agent, Status> {
        let request = pb::CreateAgentRequest {
            launch: Some(launch.into()),
            wait: WaitMode::Launched.into(),
            pending: PendingPolicy::WaitForRoom.into(),
            ..Default::default()
        };
        Ok(self.stack.client.clone().create_agent(request).await?.into_inner().agent.unwrap())
    }

    async fn becomes(&self, agent: &str, phase: AgentPhase) -> agent_pb::Agent {
        self.stack.agent_is("the agent to get there", "g", agent, |agent| agent.phase() == phase).await
    }
}

#[tokio::test]
async fn what_would_fail_anywhere_is_refused_at_once_with_its_own_words() {
    // However slow the machine is.
    let gate = Gate::start(2, &["--launch-patience", "10m"]).await;
    let refused = gate.launch(python("g", "a", "no_such_package.Agent")).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    assert!(refused.message().contains("no_such_package"), "{refused:?}");
    let failed = gate.becomes("a", AgentPhase::Failed).await;
    assert_eq!(failed.restarts, 0, "nobody tried again: {failed:?}");
    assert!(failed.reason == "LaunchInvalid" && failed.message.contains("no_such_package"), "{failed:?}");
    // Its second life, with the mistake mended.
    gate.launch(python("g", "a", RESPONDER)).await.unwrap();
    gate.becomes("a", AgentPhase::Running).await;
}

#[tokio::test]
async fn what_may_come_right_is_accepted_and_tried_again() {
    let gate = Gate::start(1, &[]).await;
    let agent = gate.launch(python("g", "a", "gated.Fragile")).await.unwrap();
    // The answer is what the agent's record says, which may be a moment behind.
    assert!([AgentPhase::Starting, AgentPhase::Restarting].contains(&agent.phase()), "{agent:?}");
    let tried = |agent: &agent_pb::Agent| agent.message.contains("its database is not up") && agent.restarts > 0;
    gate.stack.agent_is("it to be tried again", "g", "a", tried).await;
    gate.open();
    gate.becomes("a", AgentPhase::Running).await;
}

#[tokio::test]
async fn a_start_that_takes_long_holds_up_neither_its_caller_nor_others() {
    let gate = Gate::start(1, &["--launch-patience", "100ms"]).await;
    // It can get no further before the gate opens, so that the answer comes without it.
    let slow = gate.launch(python("g", "slow", "gated.Late")).await.unwrap();
    assert_eq!(slow.phase(), AgentPhase::Starting, "{slow:?}");
    gate.launch(python("g", "quick", RESPONDER)).await.unwrap();
    gate.becomes("quick", AgentPhase::Running).await;
    // Asked once more, it is the same.
    assert_eq!(gate.launch(python("g", "slow", "gated.Late")).await.unwrap().epoch, slow.epoch);
    gate.open();
    assert_eq!(gate.becomes("slow", AgentPhase::Running).await.epoch, slow.epoch);
}

#[tokio::test]
async fn one_that_waits_for_room_is_pending_and_fails_at_once_if_it_is_wrong_when_it_gets_some() {
    let gate = Gate::start(1, &["--max-agents", "1"]).await;
    gate.launch(idle("g", "first")).await.unwrap();
    for (agent, class) in [("wrong", "no_such_package.Agent"), ("right", RESPONDER)] {
        let waits = gate.launch(python("g", agent, class)).await.unwrap();
        assert_eq!(waits.phase(), AgentPhase::Pending, "{waits:?}");
    }
    gate.stack.stop("g", "first").await.unwrap();
    let failed = gate.becomes("wrong", AgentPhase::Failed).await;
    assert_eq!(failed.restarts, 0, "{failed:?}");
    // It is in nobody's way.
    gate.becomes("right", AgentPhase::Running).await;
}

#[tokio::test]
async fn settings_are_inherited_behind_what_is_asked_for() {
    let gate = Gate::start(1, &[]).await;
    let mut launch = rustic_tests::launches::script(
        "g",
        "a",
        "echo \"$RUSTIC_AI_STATE_MANAGER/$RUSTIC_RUNTIME_PROFILE/$RUSTIC_ENGINE_ADDRESS\"; exec sleep 1000",
    );
    let inherited = [
        ("RUSTIC_AI_STATE_MANAGER", "inherited"),
        ("RUSTIC_RUNTIME_PROFILE", "inherited"),
        ("RUSTIC_ENGINE_ADDRESS", "a-port-forward:1"),
    ];
    launch.inherited_environment = inherited.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    launch.environment.insert("RUSTIC_RUNTIME_PROFILE".to_owned(), "asked".to_owned());
    gate.stack.create(launch.clone()).await.unwrap();
    // The host knows the engine better than whoever called it from elsewhere.
    let wanted = format!("inherited/asked/{}", gate.stack.engine_address());
    let says = |line: &serde_json::Value| line["message"] == wanted.as_str();
    gate.stack.hosts[0].logged("what the agent has of its caller", says).await;
    // A caller with other settings asks for the same agent.
    launch.inherited_environment.clear();
    let again = gate.stack.create(launch.clone()).await.unwrap();
    assert_eq!(again.epoch, gate.stack.get("g", "a").await.unwrap().epoch);
    launch.inherited_environment.insert("RUSTIC_AGENT_EPOCH".to_owned(), "1".to_owned());
    let refused = gate.stack.create(launch).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
}

#[tokio::test]
async fn the_second_life_of_an_accepted_launch_follows_its_policy() {
    let gate = Gate::start(2, &[]).await;
    gate.open();
    gate.launch(python("g", "a", "gated.Fragile")).await.unwrap();
    let agent = gate.becomes("a", AgentPhase::Running).await;
    // What it needs is gone when it starts again: it has run, so that is no mistake of who launched it.
    std::fs::remove_file(format!("{}/open", gate.modules.path())).unwrap();
    let killed = rustix::process::Pid::from_raw(i32::try_from(agent.pid).unwrap()).unwrap();
    rustix::process::kill_process(killed, rustix::process::Signal::KILL).unwrap();
    let again = |agent: &agent_pb::Agent| {
        agent.restarts > 1
            && agent.reason == "InitializationFailed"
            && agent.message.contains("its database is not up")
    };
    gate.stack.agent_is("the agent to be tried again", "g", "a", again).await;
    gate.open();
    gate.becomes("a", AgentPhase::Running).await;
    wait_until("it to be stopped", async || gate.stack.stop("g", "a").await).await;
}
