//! Calls that are refused, and the document of what grpcurl printed.

use rustic_proto::reason::Reason;
use rustic_tests::{grpcurl::try_grpcurl, root};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// A method of the engine.
pub(crate) fn e(method: &str) -> String {
    format!("rustic_ai.engine.v1.EngineService/{method}")
}

/// A method of a host.
pub(crate) fn h(method: &str) -> String {
    format!("rustic_ai.agent_host.v1.AgentHostService/{method}")
}

/// Words of a command line.
pub(crate) fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

/// A program as a launch in JSON, with changes.
pub(crate) fn launch(agent: &str, changes: &Value) -> Value {
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

/// Ids of an agent, with changes.
pub(crate) fn agent(id: &str, changes: &Value) -> Value {
    let mut request = json!({"guild_id": "g", "agent_id": id});
    for (name, value) in changes.as_object().unwrap() {
        request[name] = value.clone();
    }
    request
}

/// What was printed so far: reason, call, output.
#[derive(Default)]
pub(crate) struct Provoked(Vec<(Reason, String, String)>);

impl Provoked {
    /// Makes a call that must be refused for this reason.
    pub(crate) async fn refused(&mut self, reason: Reason, address: &str, method: &str, request: Value) {
        self.refused_with(&[], reason, address, method, request).await;
    }

    /// The same with more arguments of grpcurl.
    pub(crate) async fn refused_with(
        &mut self,
        more: &[&str],
        reason: Reason,
        address: &str,
        method: &str,
        request: Value,
    ) {
        let request = request.to_string();
        let arguments = [more, &["-d", &request, address, method]].concat();
        let (ok, out, err) = try_grpcurl(&arguments).await;
        assert!(!ok, "{reason}: {method} {request}: {out}");
        self.printed(reason, method, &request, err);
    }

    /// Keeps what a call printed that was refused for this reason.
    pub(crate) fn printed(&mut self, reason: Reason, method: &str, request: &str, err: String) {
        let said = format!(r#""reason":"{reason}""#);
        assert!(err.contains(&said), "{reason}: {method} {request}: {err}");
        assert!(!err.contains("is not recognized"), "{err}");
        let shown = if request.len() > 400 { "…" } else { request };
        self.0.push((reason, format!("grpcurl -plaintext -d '{shown}' ADDRESS {method}"), err));
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub(crate) fn has(&self, reason: Reason) -> bool {
        self.reasons().any(|provoked| provoked == reason)
    }

    pub(crate) fn reasons(&self) -> impl Iterator<Item = Reason> {
        self.0.iter().map(|(reason, ..)| *reason)
    }

    /// All in the order of the list of reasons, without what differs from run to run.
    pub(crate) fn document(&self) -> String {
        let mut text = "<!-- Written by `make docs` from tests/tests/errors. -->\n# Errors, as grpcurl prints them\n\n\
                        What each means and what to do: [errors](errors.md). Numbers that differ from run to run are left out.\n"
            .to_owned();
        for reason in Reason::ALL.iter().filter(|reason| self.has(**reason)) {
            write!(text, "\n## {reason}\n").unwrap();
            for (_, command, output) in self.0.iter().filter(|(provoked, ..)| provoked == reason) {
                let output = output.trim_end().lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
                write!(text, "\n```text\n$ {command}\n{}\n```\n", without_numbers(&output)).unwrap();
            }
        }
        text
    }
}

/// Epochs, ports and folders differ: every number of five digits or more, and every folder of this run, becomes `…`.
fn without_numbers(text: &str) -> String {
    let text = text.replace(&root().display().to_string(), "…");
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
    let mut parts = out.trim_end().split("/tmp/.tmp");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + "/tmp/…" + part.trim_start_matches(|c: char| c.is_ascii_alphanumeric()))
}
