//! Documents that are written from the code.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use clap::{Arg, ArgAction, Command, CommandFactory as _};
use rustic_registry::AgentReason;
use rustic_telemetry::settings::with_environment_twins;
use rustic_tests::root;
use std::fmt::Write as _;

const HEAD: &str = "<!-- Written by `make docs` from the programs' own help; change it there. -->
# Settings

Every flag has an environment variable that does the same; the flag goes before it. Durations are written like `500ms`, `10s` or `2m`,
lists with commas. A duration or number that cannot be used is refused at the start, with the flag's name.

`--lease-ttl` and `--lease-grace` of engine-svc are for hosts that it has not heard of yet: those that it knows say their own.
";

const TAIL: &str = r#"
## Runtime profiles

A **runtime profile** is a Python environment of the hosts: an interpreter (such as that of a venv with rusticai-k8s),
modules that all its agents share, and environment variables. A launch picks one by name
(`"runtime": {"python": {"profile": "vision"}}`; guild code by `RUSTIC_RUNTIME_PROFILE`). Give every host the same file:

```toml
[vision]
python = "/opt/vision/bin/python"      # default: --python
preload = ["torch"]
environment = { OMP_NUM_THREADS = "1" }
```
"#;

/// The flags of one program.
fn table(title: &str, command: &Command) -> String {
    let mut text = format!("\n## {title}\n\n| flag | environment | default | what |\n| --- | --- | --- | --- |\n");
    for flag in command.get_arguments().filter(|flag| !flag.is_hide_set() && flag.get_long().is_some()) {
        let environment = flag.get_env().map(|name| format!("`{}`", name.to_string_lossy())).unwrap_or_default();
        writeln!(text, "| `{}` | {environment} | {} | {} |", usage(flag), default(flag), help(flag)).unwrap();
    }
    text
}

/// A flag with what it takes.
fn usage(flag: &Arg) -> String {
    let long = flag.get_long().unwrap();
    let takes = flag.get_action().takes_values();
    let names = flag.get_value_names().filter(|_| takes).map(|names| names.join(" "));
    names.map_or_else(|| format!("--{long}"), |names| format!("--{long} <{names}>"))
}

fn default(flag: &Arg) -> String {
    let values: Vec<_> = flag.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    match (flag.get_action(), values.join(",")) {
        (ArgAction::SetTrue, _) => "off".to_owned(),
        (_, text) if text.is_empty() => String::new(),
        (_, text) => format!("`{text}`"),
    }
}

/// The whole help, in one line.
fn help(flag: &Arg) -> String {
    let help = flag.get_long_help().or(flag.get_help()).unwrap().to_string();
    let values = flag.get_possible_values();
    let listed: Vec<_> = values.iter().map(|value| format!("`{}`", value.get_name())).collect();
    let listed = if flag.get_action().takes_values() && !listed.is_empty() {
        format!("; one of {}", listed.join(", "))
    } else {
        String::new()
    };
    (help.split_whitespace().collect::<Vec<_>>().join(" ") + &listed).replace('|', "\\|").replace('<', "&lt;")
}

const REASONS_HEAD: &str = "<!-- Written by `make docs` from core/src/condition.rs; change it there. -->
# Reasons of agents

Why an agent is in its phase stands in `Agent.reason`, as one of the words below, and in `Agent.message`, as a sentence that may change
from version to version. Both are empty when all is well. A word keeps its meaning for ever; a newer version may add words. Until the
next thing happens, an agent that starts, restarts or stops shows the word that it had before.

Why a *call* failed is another list: [errors](errors.md). `AGENT_FAILED` there has the word of the agent in its metadata, as
`agent_reason`.

| reason | phases | what it means | what to do |
| --- | --- | --- | --- |
";

#[test]
fn the_reasons_of_agents_in_the_documents_are_those_of_the_code() {
    let row = |reason: &AgentReason| {
        let phases: Vec<_> = reason.phases().iter().map(|phase| phase.as_str()).collect();
        let phases = if phases.is_empty() { "UNSPECIFIED".to_owned() } else { phases.join(", ") };
        format!("| `{reason}` | {phases} | {} | {} |\n", reason.meaning().trim(), reason.cure())
    };
    let text = REASONS_HEAD.to_owned() + &AgentReason::ALL.iter().map(row).collect::<String>();
    is_written("docs/reasons.md", &text);
}

#[test]
fn the_settings_in_the_documents_are_the_programs_own() {
    let engine = with_environment_twins(engine_svc::Program::command(), engine_svc::settings::ENVIRONMENT_PREFIX);
    let host = with_environment_twins(agent_host::Settings::command(), agent_host::settings::ENVIRONMENT_PREFIX);
    let dev = engine.find_subcommand("dev").unwrap().clone();
    let text = [
        HEAD.to_owned(),
        table("engine-svc", &engine),
        table("agent-host", &host),
        table("engine-svc dev: a whole stack on one machine, for trying out", &dev),
        TAIL.to_owned(),
    ]
    .concat();
    is_written("docs/settings.md", &text);
}

/// Compares a document with what it should hold, or writes it.
fn is_written(path: &str, text: &str) {
    let file = root().join(path);
    if std::env::var_os("RUSTIC_WRITE_DOCS").is_some() {
        std::fs::write(&file, text).unwrap();
    }
    let written = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(written == text, "{path} is not what the programs say; run `make docs`");
}
