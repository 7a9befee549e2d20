//! Which agents import the same: those of one class that are given the same dependencies.

use rustic_proto::launch::Launch;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

/// Longest name of a kind; agents with a longer one are not learned from.
const MAX_NAME: usize = 4096;

/// The class of an agent and the classes that may resolve its dependencies, by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Kind(String);

impl fmt::Display for Kind {
    /// The class alone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.split(' ').next().unwrap_or_default())
    }
}

#[derive(Deserialize)]
struct AgentSpec {
    class_name: String,
    #[serde(default)]
    dependency_map: Option<BTreeMap<String, Dependency>>,
    #[serde(default)]
    additional_dependencies: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct GuildSpec {
    #[serde(default)]
    dependency_map: Option<BTreeMap<String, Dependency>>,
}

#[derive(Deserialize)]
struct Dependency {
    #[serde(default)]
    class_name: String,
}

impl Kind {
    /// The kind of a launch; none if its documents are not what Rustic AI expects, which its process will report.
    pub fn of(launch: &Launch) -> Option<Self> {
        let agent: AgentSpec = serde_json::from_str(&launch.message.agent_spec).ok()?;
        let guild: GuildSpec = serde_json::from_str(&launch.message.guild_spec).ok()?;
        // The agent's own stand over the guild's.
        let mut dependencies = guild.dependency_map.unwrap_or_default();
        dependencies.extend(agent.dependency_map.unwrap_or_default());
        let mut name = agent.class_name;
        for (key, dependency) in &dependencies {
            name.push_str(&format!(" {key}={}", dependency.class_name));
        }
        for key in agent.additional_dependencies.iter().flatten() {
            name.push_str(&format!(" +{key}"));
        }
        (name.len() <= MAX_NAME).then_some(Self(name))
    }

    #[cfg(test)]
    pub(super) fn named(name: &str) -> Self {
        Self(name.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustic_proto::agent::v1::AgentLaunch;

    fn kind(agent: &str, guild: &str) -> Option<Kind> {
        let launch = AgentLaunch {
            agent_spec: format!(r#"{{"id": "a", "name": "a", {agent}}}"#),
            guild_spec: format!(r#"{{"id": "g" {guild}}}"#),
            messaging_config: "{}".to_owned(),
            ..AgentLaunch::default()
        };
        Kind::of(&Launch::check(Some(launch.into())).expect("valid"))
    }

    #[test]
    fn agents_of_a_class_with_other_dependencies_are_of_another_kind() {
        let plain = kind(r#""class_name": "m.C""#, "").expect("a kind");
        assert_eq!(plain.to_string(), "m.C");
        assert_eq!(kind(r#""class_name": "m.C", "properties": {"a": 1}"#, ""), Some(plain.clone()));
        let resolver = r#""dependency_map": {"llm": {"class_name": "x.Resolver"}}"#;
        let with = kind(&format!(r#""class_name": "m.C", {resolver}"#), "");
        assert_ne!(with.as_ref(), Some(&plain));
        assert_eq!(kind(r#""class_name": "m.C""#, &format!(", {resolver}")), with);
        assert_eq!(with.map(|kind| kind.to_string()).as_deref(), Some("m.C"));
    }

    #[test]
    fn a_kind_whose_name_is_endless_is_none() {
        assert_eq!(kind(&format!(r#""class_name": "{}""#, "m".repeat(5000)), ""), None);
    }
}
