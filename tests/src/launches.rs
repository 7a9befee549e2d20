//! Launches to create agents with.

use rustic_proto::agent::v1::{AgentLaunch, CommandRuntime, Runtime, runtime::Kind};
use serde_json::json;

/// A class of the package rusticai-testing that answers messages.
pub const RESPONDER: &str = "rustic_ai.testing.execution.integration_agents.ResponderProbeAgent";

/// An agent that is a shell script.
pub fn script(guild: &str, agent: &str, script: &str) -> AgentLaunch {
    let argv = ["sh", "-c", script].map(str::to_owned).to_vec();
    AgentLaunch {
        agent_spec: json!({"id": agent, "name": format!("The {agent}")}).to_string(),
        guild_spec: json!({"id": guild}).to_string(),
        runtime: Some(Runtime { kind: Some(Kind::Command(CommandRuntime { argv })) }),
        ..Default::default()
    }
}

/// An agent that does nothing until it is asked to end.
pub fn idle(guild: &str, agent: &str) -> AgentLaunch {
    script(guild, agent, "exec sleep 1000")
}

/// A Rustic AI agent of `class_name`, with in-memory messaging.
pub fn python(guild: &str, agent: &str, class_name: &str) -> AgentLaunch {
    AgentLaunch {
        agent_spec: json!({
            "id": agent, "name": format!("The {agent}"), "description": "for a test", "class_name": class_name,
        })
        .to_string(),
        guild_spec: json!({"id": guild, "name": "Guild", "description": "for a test"}).to_string(),
        messaging_config: json!({
            "backend_module": "rustic_ai.core.messaging.backend",
            "backend_class": "InMemoryMessagingBackend",
            "backend_config": {},
        })
        .to_string(),
        ..Default::default()
    }
}
