//! The message bus that a launch names: whether it joins processes at all, and whether two launches meet on it.

use serde::Deserialize;
use serde_json::{Map, Value};
use std::fmt;

/// Backends that live in one process: agents that have one each never meet.
const IN_ONE_PROCESS: [&str; 2] = ["InMemoryMessagingBackend", "EmbeddedMessagingBackend"];
/// Where redis-py finds its server if the configuration does not say.
const REDIS: (&str, u64) = ("localhost", 6379);
const NATS: &str = "nats://localhost:4222";

/// A message bus, as far as its configuration distinguishes it from others. If agents of two guilds with the same id share a bus, they read
/// each other's messages, because Rustic AI's topics are named by guild id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bus(String);

impl fmt::Display for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    backend_module: String,
    #[serde(default)]
    backend_class: String,
    #[serde(default)]
    backend_config: Map<String, Value>,
}

impl Bus {
    /// Reads a `MessagingConfig`; `None` when it is none, as of a program that has no bus.
    pub fn of(messaging_config: &str) -> Option<Self> {
        let head: Head = serde_json::from_str(messaging_config).ok()?;
        Some(Self(match head.backend_class.as_str() {
            "RedisMessagingBackend" => redis(head.backend_config.get("redis_client")),
            "NATSMessagingBackend" => nats(head.backend_config.get("nats_client")),
            // What is not known may hold a secret: that there is another one is all that may be seen.
            class => {
                format!("{}.{class} {}", head.backend_module, secret(&Value::Object(head.backend_config).to_string()))
            }
        }))
    }

    /// The class of a backend that cannot join processes, if the configuration names one.
    pub fn in_one_process(messaging_config: &str) -> Option<&'static str> {
        let head: Head = serde_json::from_str(messaging_config).ok()?;
        IN_ONE_PROCESS.into_iter().find(|class| *class == head.backend_class)
    }
}

/// Neither the number of a database nor a user separates channels.
fn redis(client: Option<&Value>) -> String {
    let field = |name: &str| client.and_then(|client| client.get(name));
    let host = field("host").and_then(Value::as_str).unwrap_or(REDIS.0).to_lowercase();
    let port = field("port").and_then(Value::as_u64).unwrap_or(REDIS.1);
    format!("redis://{host}:{port}")
}

/// An account separates subjects, and a user, or a token, belongs to one.
fn nats(client: Option<&Value>) -> String {
    let text = |name: &str| client.and_then(|client| client.get(name)).and_then(Value::as_str);
    let servers = client.and_then(|client| client.get("servers")).and_then(Value::as_array);
    let mut servers: Vec<_> = servers.into_iter().flatten().filter_map(Value::as_str).map(server).collect();
    if servers.is_empty() {
        servers.push(NATS.to_owned());
    }
    servers.sort();
    let user = text("user").map_or(String::new(), |user| format!(" as {user}"));
    let token = text("token").map_or(String::new(), |token| format!(" with token {}", secret(token)));
    format!("{}{user}{token}", servers.join(","))
}

/// The address of a server. If it has a user and password, these distinguish accounts.
fn server(url: &str) -> String {
    match url.rsplit_once('@') {
        None => url.to_lowercase(),
        Some((account, host)) => format!("{} as {}", host.to_lowercase(), secret(account)),
    }
}

/// A text that distinguishes a secret from others without showing it.
fn secret(text: &str) -> String {
    crate::launch::hash(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bus(class: &str, config: &str) -> String {
        let text = format!(r#"{{"backend_module": "m", "backend_class": "{class}", "backend_config": {config}}}"#);
        Bus::of(&text).expect("a configuration").to_string()
    }

    #[test]
    fn a_server_is_one_bus_however_it_is_entered() {
        let redis = |client: &str| bus("RedisMessagingBackend", &format!(r#"{{"redis_client": {client}}}"#));
        let plain = redis(r#"{"host": "Bus", "port": 6379}"#);
        assert_eq!(plain, "redis://bus:6379");
        assert_eq!(redis(r#"{"host": "bus", "username": "u", "password": "p", "db": 3}"#), plain);
        assert_ne!(redis(r#"{"host": "bus", "port": 6380}"#), plain);
        assert_eq!(redis("null"), "redis://localhost:6379");
    }

    #[test]
    fn accounts_of_nats_are_apart() {
        let nats = |client: &str| bus("NATSMessagingBackend", &format!(r#"{{"nats_client": {client}}}"#));
        let servers = r#""servers": ["nats://b:4222", "nats://a:4222"]"#;
        let turned = r#""servers": ["nats://a:4222", "nats://b:4222"]"#;
        assert_eq!(nats(&format!("{{{servers}}}")), nats(&format!("{{{turned}}}")));
        assert_ne!(nats(&format!(r#"{{{servers}, "user": "a"}}"#)), nats(&format!(r#"{{{servers}, "user": "b"}}"#)));
        let tokens = ["one", "two"].map(|token| nats(&format!(r#"{{{servers}, "token": "{token}"}}"#)));
        assert_ne!(tokens[0], tokens[1]);
        assert!(!tokens[0].contains("one"), "{}", tokens[0]);
        assert_eq!(nats("{}"), "nats://localhost:4222");
        let accounts = ["one", "two"].map(|word| nats(&format!(r#"{{"servers": ["nats://u:{word}@a:4222"]}}"#)));
        assert_ne!(accounts[0], accounts[1]);
        assert!(!accounts[0].contains("one"), "{}", accounts[0]);
    }

    #[test]
    fn what_is_not_known_is_one_bus_if_all_of_it_is_the_same() {
        assert_eq!(bus("Other", r#"{"a": 1, "b": 2}"#), bus("Other", r#"{"b": 2, "a": 1}"#));
        assert_ne!(bus("Other", r#"{"a": 1}"#), bus("Other", r#"{"a": 2}"#));
        assert!(!bus("Other", r#"{"password": "hidden"}"#).contains("hidden"));
        assert_eq!(Bus::of(""), None);
    }
}
