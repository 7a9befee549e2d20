//! The message bus of a stack's agents, for tests that say something to them and read what they answered. A Python process
//! does it, with the messaging that agents have.

use crate::venv;
use rustic_proto::agent::v1::{AgentLaunch, RestartPolicy};
use serde_json::{Value, json};
use std::process::Stdio;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

/// Agents that do what messages ask for.
pub const DOER: &str = include_str!("doer.py");

const HELPER: &str = include_str!("bus.py");

/// A way to the bus.
pub struct Bus {
    _child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    port: u16,
}

impl Bus {
    /// Connects to the Redis of a stack.
    pub fn to(port: u16) -> Self {
        let mut child = Command::new(venv("python"))
            .args(["-c", HELPER, &port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("Python can be run");
        let (input, output) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        Self { _child: child, input, output: BufReader::new(output).lines(), port }
    }

    /// Says something on a topic of a guild; the answer is the id of the message.
    pub async fn say(&mut self, guild: &str, topic: &str, payload: Value) -> u64 {
        let id = self.ask(json!({"guild": guild, "topic": topic, "say": payload})).await;
        id.as_u64().expect("an id")
    }

    /// Payloads of all messages on a topic of a guild, oldest first.
    pub async fn heard(&mut self, guild: &str, topic: &str) -> Vec<Value> {
        let heard = self.ask(json!({"guild": guild, "topic": topic})).await;
        heard.as_array().expect("a list").clone()
    }

    /// What answered to number `n` on the default topic of a guild, and how often.
    pub async fn answers(&mut self, guild: &str, n: u64) -> Vec<Value> {
        let heard = self.heard(guild, "default_topic").await;
        heard.into_iter().filter(|payload| payload["answers"] == n).collect()
    }

    async fn ask(&mut self, question: Value) -> Value {
        self.input.write_all(format!("{question}\n").as_bytes()).await.expect("the helper lives");
        let line = self.output.next_line().await.expect("it is read").expect("the helper answers");
        serde_json::from_str(&line).expect("JSON")
    }

    /// An agent of `class_name` that listens to the topic of its own name, and starts again soon.
    pub fn agent(&self, guild: &str, agent: &str, class_name: &str) -> AgentLaunch {
        self.listener(guild, agent, class_name, agent)
    }

    /// The same for another topic.
    pub fn listener(&self, guild: &str, agent: &str, class_name: &str, topic: &str) -> AgentLaunch {
        let soon = prost_types::Duration { seconds: 0, nanos: 50_000_000 };
        AgentLaunch {
            agent_spec: json!({
                "id": agent, "name": agent, "description": "for a test", "class_name": class_name,
                "additional_topics": [topic], "subscribe_to_default_topic": false,
            })
            .to_string(),
            guild_spec: json!({"id": guild, "name": guild, "description": "for a test"}).to_string(),
            messaging_config: json!({
                "backend_module": "rustic_ai.redis.messaging.backend",
                "backend_class": "RedisMessagingBackend",
                "backend_config": {"redis_client": {"host": "127.0.0.1", "port": self.port}},
            })
            .to_string(),
            restart_policy: Some(RestartPolicy { initial_backoff: Some(soon), ..Default::default() }),
            ..Default::default()
        }
    }
}
