//! What a valid launch is. A [`Launch`] exists only if every rule of the contract holds, so that nothing behind it
//! needs to check again.

use crate::{
    agent::v1::{self as agent_pb, AntiAffinityScope, runtime::Kind},
    bus::Bus,
    profile::ProfileName,
    raw::RawLaunch,
    restart::RestartPolicy,
    violation::Violations,
};
use prost::Message as _;
use rustic_core::devices::{self, GPUS, is_of_device};
use rustic_core::resources::{SLOTS, label_of};
use rustic_core::{
    AgentId, AgentKey, ConfinementWish, Documents, GuildId, GuildKey, OnDisconnect, Resources, SpecDigest,
};
use rustic_core::{apart::Firmness, resources::is_implied};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::{collections::BTreeMap, time::Duration};

/// Environment names with this prefix belong to the system.
pub const RESERVED_ENVIRONMENT: &str = "RUSTIC_AGENT_";
/// The one of them that a launch may set: from which level on a Python agent logs.
pub const LOG_LEVEL: &str = "RUSTIC_AGENT_LOG_LEVEL";
/// Where a launch names its runtime profile.
pub const PROFILE_FIELD: &str = "launch.runtime.python.profile";
/// The module that a program is to itself, and to no other one.
const MAIN: &str = "__main__.";
const MAX_START_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// Number of the field that lists show.
const AGENT_SPEC: u32 = 1;
/// Numbers of the fields that are no part of what a launch is: guild_spec, which grows with the guild, start_timeout, which is about one
/// start only, and inherited_environment, which depends on who launches.
const NO_IDENTITY: &[u32] = &[2, 11, 13];
/// Bounds of a liveness timeout: an interpreter shows about every second that it runs.
const LIVENESS_TIMEOUT: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(24 * 3600));

/// What turns a spec into a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuntimeKind {
    /// A Rustic AI agent class, in the environment of a profile.
    Python(ProfileName),
    /// Any program, with at least its name.
    Command(Vec<String>),
}

/// A launch that keeps every rule of the contract.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The agent's name in the cluster.
    pub key: AgentKey,
    /// "name" of its spec.
    pub name: String,
    /// Same digest, same agent: over everything but the guild's spec, which grows with the guild, and the start
    /// timeout, which is about one start only.
    pub digest: SpecDigest,
    /// One slot and what the spec asks for.
    pub demand: Resources,
    /// What a lost lease does to it.
    pub on_disconnect: OnDisconnect,
    /// How it is brought back.
    pub restart: RestartPolicy,
    /// Time from start to ready, if the caller set one.
    pub start_timeout: Option<Duration>,
    /// Longest time for which its handling loop may not come round, if there is a limit.
    pub liveness_timeout: Option<Duration>,
    /// Labels of hosts on which it would rather be.
    pub preferred_labels: BTreeMap<String, String>,
    /// What it may reach.
    pub confinement: ConfinementWish,
    /// What runs it.
    pub runtime: RuntimeKind,
    /// What this version knows of the launch.
    pub message: agent_pb::AgentLaunch,
    /// The launch as it came.
    pub raw: RawLaunch,
}

#[derive(Deserialize)]
struct AgentSpecHead {
    id: Option<Value>,
    name: Option<Value>,
    class_name: Option<Value>,
    resources: Option<Value>,
}

#[derive(Deserialize)]
struct GuildSpecHead {
    id: Option<Value>,
    agents: Option<Vec<Value>>,
}

#[derive(Deserialize)]
struct ResourcesHead {
    num_cpus: Option<f64>,
    num_gpus: Option<f64>,
    custom_resources: Option<BTreeMap<String, f64>>,
}

impl Launch {
    /// Checks a launch; the error names every field that is wrong.
    pub fn check(launch: Option<RawLaunch>) -> Result<Self, Violations> {
        let mut v = Violations::default();
        let Some(raw) = launch else {
            v.add("launch", "is required; say what to run");
            return Err(v);
        };
        let message = match raw.known() {
            Ok(message) => message,
            Err(error) => {
                v.add("launch", format!("cannot be read: {error}"));
                return Err(v);
            }
        };
        let runtime = runtime(message.runtime.as_ref(), &mut v);
        let spec = json::<AgentSpecHead>("launch.agent_spec", &message.agent_spec, &mut v);
        let guild = json::<GuildSpecHead>("launch.guild_spec", &message.guild_spec, &mut v);
        let members = guild.as_ref().and_then(|guild| guild.agents.clone());
        let guild = guild
            .and_then(|g| text("launch.guild_spec.id", g.id, &mut v))
            .and_then(|id| v.id::<GuildId>("launch.guild_spec.id", &id));
        let organization = crate::request::organization("launch.organization_id", &message.organization_id, &mut v);
        let guild = organization.zip(guild).map(|(organization, id)| GuildKey { organization, id });
        let mut agent = None;
        let mut name = None;
        let mut demand = Resources::one_slot();
        if let Some(spec) = spec {
            agent = text("launch.agent_spec.id", spec.id, &mut v)
                .and_then(|id| v.id::<AgentId>("launch.agent_spec.id", &id));
            name = text("launch.agent_spec.name", spec.name, &mut v);
            if matches!(runtime, Some(RuntimeKind::Python(_))) {
                let class = text("launch.agent_spec.class_name", spec.class_name, &mut v);
                if class.is_some_and(|class| class.starts_with(MAIN)) {
                    v.add(
                        "launch.agent_spec.class_name",
                        "is in the program that was started, which hosts do not have: put the class into a module of its own, which \
                         they can import",
                    );
                }
            }
            add_resources(&mut demand, spec.resources, &mut v);
        }
        let is_other =
            |member: &&Value| member.get("id").and_then(Value::as_str) != agent.as_ref().map(AgentId::as_str);
        let others = members.map(|members| members.iter().filter(is_other).count());
        if matches!(runtime, Some(RuntimeKind::Python(_))) {
            json::<BTreeMap<String, Value>>("launch.messaging_config", &message.messaging_config, &mut v);
            if let Some(class) = Bus::in_one_process(&message.messaging_config)
                && others.is_some_and(|others| others > 0)
            {
                v.add(
                    "launch.messaging_config.backend_class",
                    format!(
                        "is {class}, which lives in one process, but the guild has other agents, and each has a process of its own: no \
                         message would arrive; use RedisMessagingBackend of rusticai-redis or NATSMessagingBackend of rusticai-nats"
                    ),
                );
            }
        }
        if !message.client_properties.is_empty() {
            json::<BTreeMap<String, Value>>("launch.client_properties", &message.client_properties, &mut v);
        }
        check_environment("environment", &message.environment, &mut v);
        check_environment("inherited_environment", &message.inherited_environment, &mut v);
        let on_disconnect = on_disconnect(message.on_disconnect, &mut v);
        let restart = RestartPolicy::read(message.restart_policy.as_ref(), &mut v);
        let timeout = message.start_timeout.as_ref();
        let start_timeout = crate::request::duration("launch.start_timeout", timeout, MAX_START_TIMEOUT, &mut v);
        let liveness_timeout = liveness_timeout(&message, runtime.as_ref(), &mut v);
        let placement = message.placement.clone().unwrap_or_default();
        check_labels("required_labels", &placement.required_labels, &mut v);
        check_labels("preferred_labels", &placement.preferred_labels, &mut v);
        placement.required_labels.iter().for_each(|(name, value)| demand.need_label(name, value));
        if let Some((guild, name)) = guild.as_ref().zip(name.as_ref()) {
            stay_apart(&placement.anti_affinities, guild, name, &mut demand, &mut v);
        }
        if placement.movable {
            demand.allow_moves();
        }
        let preferred_labels = placement.preferred_labels;
        let confinement = crate::confinement::read(message.confinement.as_ref(), &mut v);
        let digest = SpecDigest(hash(&raw.without(NO_IDENTITY).canonical()));
        let launch = guild.zip(agent).zip(name).zip(runtime).map(|(((guild, agent), name), runtime)| Self {
            key: AgentKey { guild, agent },
            name,
            digest,
            demand,
            on_disconnect,
            restart,
            start_timeout,
            liveness_timeout,
            preferred_labels,
            confinement,
            runtime,
            message,
            raw,
        });
        v.into_result(launch)
    }

    /// Reads what [`Launch::documents`] wrote.
    pub fn from_documents(documents: &Documents) -> Result<Self, Violations> {
        match RawLaunch::decode(&*documents.launch) {
            Ok(rest) => Self::check(Some(rest.with_text(AGENT_SPEC, &documents.spec))),
            Err(error) => {
                let mut v = Violations::default();
                v.add("launch", format!("cannot be read: {error}"));
                Err(v)
            }
        }
    }

    /// The texts to store: the agent spec apart from the rest, because lists show it.
    pub fn documents(&self) -> Documents {
        let rest = self.raw.without(&[AGENT_SPEC]);
        Documents { spec: self.message.agent_spec.clone(), launch: rest.encode_to_vec().into() }
    }
}

fn json<'a, T: Deserialize<'a>>(field: &str, document: &'a str, v: &mut Violations) -> Option<T> {
    if document.trim().is_empty() {
        v.add(field, "is required; put the JSON document there as a string");
        return None;
    }
    serde_json::from_str(document).map_err(|e| v.add(field, format!("is not the JSON object it must be: {e}"))).ok()
}

fn text(field: &str, value: Option<Value>, v: &mut Violations) -> Option<String> {
    match value {
        Some(Value::String(text)) if !text.trim().is_empty() => Some(text),
        None | Some(Value::Null | Value::String(_)) => {
            v.add(field, "is required and must not be empty");
            None
        }
        Some(_) => {
            v.add(field, "must be a string");
            None
        }
    }
}

fn runtime(wire: Option<&agent_pb::Runtime>, v: &mut Violations) -> Option<RuntimeKind> {
    let Some(wire) = wire else { return Some(RuntimeKind::Python(ProfileName::default())) };
    match &wire.kind {
        Some(Kind::Python(agent_pb::PythonRuntime { profile })) if profile.is_empty() => {
            Some(RuntimeKind::Python(ProfileName::default()))
        }
        Some(Kind::Python(agent_pb::PythonRuntime { profile })) => match profile.parse() {
            Ok(profile) => Some(RuntimeKind::Python(profile)),
            Err(e) => {
                v.add(PROFILE_FIELD, format!("is wrong: {e}"));
                None
            }
        },
        Some(Kind::Command(command)) => {
            let argv = &command.argv;
            if argv.first().is_none_or(String::is_empty) {
                v.add("launch.runtime.command.argv", "must name a program");
                return None;
            }
            if argv.iter().any(|arg| arg.contains('\0')) {
                v.add("launch.runtime.command.argv", "must not contain NUL bytes");
                return None;
            }
            Some(RuntimeKind::Command(argv.clone()))
        }
        None => {
            v.add("launch.runtime", "must say python or command, or be left out for python");
            None
        }
    }
}

fn liveness_timeout(
    message: &agent_pb::AgentLaunch,
    runtime: Option<&RuntimeKind>,
    v: &mut Violations,
) -> Option<Duration> {
    const FIELD: &str = "launch.liveness_timeout";
    let (shortest, longest) = LIVENESS_TIMEOUT;
    let timeout = crate::request::duration(FIELD, message.liveness_timeout.as_ref(), longest, v)?;
    if timeout.is_zero() {
        return None;
    }
    if timeout < shortest {
        v.add(FIELD, format!("must be at least {} s; leave it out for no limit", shortest.as_secs()));
    }
    if let Some(RuntimeKind::Command(_)) = runtime {
        v.add(FIELD, "needs the python runtime: nobody knows what a command is at work on; leave it out");
    }
    Some(timeout)
}

/// Whether a resource stands for something else than an amount that agents share.
fn is_of_placement(name: &str) -> bool {
    label_of(name).is_some() || is_of_device(name) || is_implied(name)
}

/// The least memory that an agent may ask for, in bytes.
const LEAST_MEMORY: f64 = 1_048_576.0;

fn add_resources(demand: &mut Resources, wire: Option<Value>, v: &mut Violations) {
    const FIELD: &str = "launch.agent_spec.resources";
    let Some(wire) = wire.filter(|value| !value.is_null()) else { return };
    let head: ResourcesHead = match serde_json::from_value(wire) {
        Ok(head) => head,
        Err(e) => return v.add(FIELD, format!("is not a ResourceSpec: {e}")),
    };
    let named = [("cpus", head.num_cpus), (GPUS, head.num_gpus)];
    let named = named.into_iter().filter_map(|(name, amount)| Some((name.to_owned(), amount?)));
    for (name, amount) in named.chain(head.custom_resources.unwrap_or_default()) {
        if name.is_empty() || name == SLOTS || is_of_placement(&name) {
            v.add(FIELD, format!("must not name a custom resource {name:?}"));
        } else if name == rustic_core::resources::MEMORY && amount > 0.0 && amount < LEAST_MEMORY {
            // It is a limit too, and no process could begin below it.
            v.add(FIELD, format!("asks for {amount} bytes of memory; the unit is bytes, and 1 MiB is the least"));
        } else if let Err(e) = demand.set(&name, amount) {
            v.add(FIELD, e.to_string());
        }
    }
    if !devices::is_possible(demand.milli(GPUS)) {
        let asked = demand.milli(GPUS) as f64 / 1000.0;
        v.add(FIELD, format!("asks for {asked} gpus; up to one it may be a share, and beyond that a whole number"));
    }
}

/// Most labels of a launch, and most bytes of a name or a value, as in Kubernetes.
const MOST_LABELS: usize = 16;
const LONGEST_LABEL: usize = 253;

fn check_labels(of: &str, labels: &BTreeMap<String, String>, v: &mut Violations) {
    let field = format!("launch.placement.{of}");
    if labels.len() > MOST_LABELS {
        v.add(&field, format!("has {} labels; {MOST_LABELS} are the most", labels.len()));
    }
    let is_one = |text: &str| text.len() <= LONGEST_LABEL && !text.contains(|c: char| c.is_control() || c == '=');
    for (name, value) in labels {
        if name.is_empty() || !is_one(name) || !is_one(value) {
            v.add(
                &field,
                format!("has {name:?}: {value:?}, which no host can have; give name and value without '='"),
            );
        }
    }
}

/// Most agents to stay apart from, and most bytes of a group's name.
const MOST_APART: usize = 8;
const LONGEST_GROUP: usize = 128;

fn stay_apart(
    wishes: &[agent_pb::AntiAffinity],
    guild: &GuildKey,
    name: &str,
    demand: &mut Resources,
    v: &mut Violations,
) {
    const FIELD: &str = "launch.placement.anti_affinities";
    if wishes.len() > MOST_APART {
        v.add(FIELD, format!("has {}; {MOST_APART} are the most", wishes.len()));
    }
    for (n, wish) in wishes.iter().enumerate() {
        let field = |of: &str| format!("{FIELD}[{n}].{of}");
        let is_text = |text: &str, longest| text.len() <= longest && !text.contains(|c: char| c.is_control());
        if !is_text(&wish.across, LONGEST_LABEL) || wish.across.contains(['=', ':']) {
            v.add(&field("across"), format!("{:?} cannot be the name of a label", wish.across));
        }
        let organization = &guild.organization;
        let from = match wish.scope() {
            AntiAffinityScope::Guild => format!("guild {organization}/{}", guild.id),
            AntiAffinityScope::Name => format!("name {organization}/{name}"),
            AntiAffinityScope::Group => format!("group {organization}/{}", wish.group),
            AntiAffinityScope::Unspecified => {
                v.add(&field("scope"), "is required: it says which agents to stay apart from");
                continue;
            }
        };
        let names_group = wish.scope() == AntiAffinityScope::Group;
        if names_group == wish.group.is_empty() || !is_text(&wish.group, LONGEST_GROUP) {
            let words =
                format!("must have 1 to {LONGEST_GROUP} bytes for ANTI_AFFINITY_SCOPE_GROUP, and be empty else");
            v.add(&field("group"), words);
        }
        let firmness = if wish.preferred { Firmness::Preferred } else { Firmness::Required };
        demand.stay_apart(&wish.across, &from, firmness);
    }
}

fn check_environment(of: &str, environment: &BTreeMap<String, String>, v: &mut Violations) {
    for (name, value) in environment {
        let field = format!("launch.{of}[{name:?}]");
        if name.is_empty() || name.contains(['=', '\0']) {
            v.add(&field, "is no name for an environment variable");
        } else if name.starts_with(RESERVED_ENVIRONMENT) && name != LOG_LEVEL {
            v.add(&field, format!("is set by the system; choose a name without {RESERVED_ENVIRONMENT}"));
        }
        if value.contains('\0') {
            v.add(&field, "must not contain NUL bytes");
        }
    }
}

fn on_disconnect(wire: i32, v: &mut Violations) -> OnDisconnect {
    match agent_pb::OnDisconnect::try_from(wire) {
        Ok(agent_pb::OnDisconnect::Unspecified | agent_pb::OnDisconnect::Stop) => OnDisconnect::Stop,
        Ok(agent_pb::OnDisconnect::Keep) => OnDisconnect::Keep,
        Err(_) => {
            v.add("launch.on_disconnect", "is not one of OnDisconnect; use STOP or KEEP");
            OnDisconnect::Stop
        }
    }
}

/// SHA-256, in hexadecimal digits.
pub(crate) fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> agent_pb::AgentLaunch {
        agent_pb::AgentLaunch {
            agent_spec: r#"{"id":"a","name":"A","class_name":"m.C","big":12345678901234567890.10}"#.to_owned(),
            guild_spec: r#"{"id":"g"}"#.to_owned(),
            messaging_config: r#"{"backend_module":"m"}"#.to_owned(),
            ..Default::default()
        }
    }

    fn wrong(change: impl FnOnce(&mut agent_pb::AgentLaunch)) -> Vec<String> {
        let mut message = good();
        change(&mut message);
        let violations = Launch::check(Some(message.into())).expect_err("must be refused");
        violations.iter().map(|(field, _)| field.to_owned()).collect()
    }

    #[test]
    fn a_good_launch_is_taken_apart_and_kept_as_it_came() {
        let launch = Launch::check(Some(good().into())).expect("good");
        assert_eq!(launch.key.to_string(), "default/g/a");
        assert_eq!(launch.documents().spec, good().agent_spec);
        let again = Launch::from_documents(&launch.documents()).expect("what was written can be read");
        assert_eq!((again.message, again.digest), (launch.message.clone(), launch.digest.clone()));
        assert_eq!(launch.demand, Resources::one_slot());
        let with = |seconds| {
            let liveness_timeout = Some(prost_types::Duration { seconds, nanos: 0 });
            Launch::check(Some(agent_pb::AgentLaunch { liveness_timeout, ..good() }.into()))
                .expect("good")
                .liveness_timeout
        };
        assert_eq!((launch.liveness_timeout, with(0), with(9)), (None, None, Some(Duration::from_secs(9))));
    }

    #[test]
    fn every_wrong_field_is_named() {
        assert_eq!(wrong(|m| m.agent_spec = "{".to_owned()), ["launch.agent_spec"]);
        assert_eq!(wrong(|m| m.agent_spec = "[]".to_owned()), ["launch.agent_spec"]);
        let all = ["launch.agent_spec.id", "launch.agent_spec.name", "launch.agent_spec.class_name"];
        assert_eq!(wrong(|m| m.agent_spec = "{}".to_owned()), all);
        let here = r#"{"id":"a","name":"A","class_name":"__main__.Agent"}"#;
        assert_eq!(wrong(|m| m.agent_spec = here.to_owned()), ["launch.agent_spec.class_name"]);
        assert_eq!(wrong(|m| m.guild_spec.clear()), ["launch.guild_spec"]);
        assert_eq!(wrong(|m| m.messaging_config = "nope".to_owned()), ["launch.messaging_config"]);
        assert_eq!(wrong(|m| m.client_properties = "1".to_owned()), ["launch.client_properties"]);
        assert_eq!(wrong(|m| m.on_disconnect = 9), ["launch.on_disconnect"]);
        assert_eq!(wrong(|m| m.runtime = Some(agent_pb::Runtime { kind: None })), ["launch.runtime"]);
        let profile = |profile: &str| Kind::Python(agent_pb::PythonRuntime { profile: profile.to_owned() });
        assert_eq!(
            wrong(|m| m.runtime = Some(agent_pb::Runtime { kind: Some(profile("no good")) })),
            [PROFILE_FIELD]
        );
        let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        assert_eq!(wrong(|m| m.liveness_timeout = seconds(4)), ["launch.liveness_timeout"]);
        assert_eq!(wrong(|m| m.liveness_timeout = seconds(100_000)), ["launch.liveness_timeout"]);
        assert_eq!(wrong(|m| m.liveness_timeout = seconds(-1)), ["launch.liveness_timeout"]);
        let control = r#"{"id":"a\u0007","name":"A","class_name":"m.C"}"#;
        assert_eq!(wrong(|m| m.agent_spec = control.to_owned()), ["launch.agent_spec.id"]);
        let reserved = |m: &mut agent_pb::AgentLaunch| {
            m.environment.insert("RUSTIC_AGENT_EPOCH".to_owned(), "9".to_owned());
        };
        assert_eq!(wrong(reserved), [r#"launch.environment["RUSTIC_AGENT_EPOCH"]"#]);
        let mut detailed = good();
        detailed.environment.insert(LOG_LEVEL.to_owned(), "INFO".to_owned());
        assert!(Launch::check(Some(detailed.into())).is_ok(), "the one of ours that callers may set");
        assert_eq!(Launch::check(None).expect_err("refused").iter().count(), 1);
    }

    #[test]
    fn a_command_needs_no_class_and_no_messaging() {
        let command = agent_pb::CommandRuntime { argv: vec!["sleep".to_owned(), "1".to_owned()] };
        let message = agent_pb::AgentLaunch {
            agent_spec: r#"{"id":"a","name":"A"}"#.to_owned(),
            messaging_config: String::new(),
            runtime: Some(agent_pb::Runtime { kind: Some(Kind::Command(command)) }),
            ..good()
        };
        assert!(Launch::check(Some(message.clone().into())).is_ok());
        let liveness_timeout = Some(prost_types::Duration { seconds: 60, nanos: 0 });
        let refused =
            Launch::check(Some(agent_pb::AgentLaunch { liveness_timeout, ..message }.into())).expect_err("refused");
        assert_eq!(refused.iter().map(|(field, _)| field).collect::<Vec<_>>(), ["launch.liveness_timeout"]);
    }

    #[test]
    fn resources_of_the_spec_are_demanded() {
        let spec = r#"{"id":"a","name":"A","class_name":"m.C","resources":
            {"num_cpus":0.5,"num_gpus":null,"custom_resources":{"tpu":2}}}"#;
        let launch = Launch::check(Some(agent_pb::AgentLaunch { agent_spec: spec.to_owned(), ..good() }.into()))
            .expect("good");
        let amounts: Vec<_> = launch.demand.iter().collect();
        assert_eq!(amounts, [("cpus", 500), ("slots", 1000), ("tpu", 2000)]);
    }

    #[test]
    fn memory_in_another_unit_than_bytes_is_refused() {
        let asking = |memory: &str| {
            let spec = format!(
                r#"{{"id":"a","name":"A","class_name":"m.C","resources":{{"custom_resources":{{"memory":{memory}}}}}}}"#
            );
            Launch::check(Some(agent_pb::AgentLaunch { agent_spec: spec, ..good() }.into()))
        };
        for memory in ["4", "512", "1048575"] {
            let refused = asking(memory).expect_err("megabytes or gigabytes, it seems");
            let (field, why) = refused.iter().next().expect("a violation");
            assert_eq!(field, "launch.agent_spec.resources");
            assert!(why.contains(memory) && why.contains("the unit is bytes"), "{why}");
        }
        for memory in ["0", "1048576", "8e9"] {
            asking(memory).expect("it may be");
        }
    }

    #[test]
    fn a_bus_within_one_process_is_refused_where_others_are_to_hear() {
        let on = |class: &str, agents: &str| {
            let messaging_config = format!(r#"{{"backend_module": "m", "backend_class": "{class}"}}"#);
            let guild_spec = format!(r#"{{"id": "g", "agents": {agents}}}"#);
            Launch::check(Some(agent_pb::AgentLaunch { messaging_config, guild_spec, ..good() }.into()))
        };
        let (alone, two) = (r#"[{"id": "a"}]"#, r#"[{"id": "a"}, {"id": "b"}]"#);
        for class in ["InMemoryMessagingBackend", "EmbeddedMessagingBackend"] {
            let refused = on(class, two).expect_err("nobody would hear it");
            let (field, why) = refused.iter().next().expect("a violation");
            assert_eq!(field, "launch.messaging_config.backend_class");
            assert!(why.contains(class) && why.contains("RedisMessagingBackend"), "{why}");
            on(class, alone).expect("it talks to nobody");
        }
        on("RedisMessagingBackend", two).expect("they meet in Redis");
    }

    #[test]
    fn the_digest_follows_the_agent_and_not_the_growing_guild() {
        let digest = |m: agent_pb::AgentLaunch| Launch::check(Some(m.into())).expect("good").digest;
        let settings = BTreeMap::from([("RUSTIC_RUNTIME_PROFILE".to_owned(), "p".to_owned())]);
        let elsewhere = agent_pb::AgentLaunch { inherited_environment: settings, ..good() };
        assert_eq!(digest(elsewhere), digest(good()));
        let grown = agent_pb::AgentLaunch { guild_spec: r#"{"id":"g","agents":[{}]}"#.to_owned(), ..good() };
        assert_eq!(digest(good()), digest(grown));
        let other = agent_pb::AgentLaunch { client_type: "RetryingClient".to_owned(), ..good() };
        assert_ne!(digest(good()), digest(other));
    }
}
