//! The whole stack, with settings that a test may change.

use crate::{program::Program, venv, wait_until};
use rustic_proto::{
    agent::v1::{self as agent_pb, AgentPhase},
    agent_host::v1::agent_host_service_client::AgentHostServiceClient,
    engine::v1::{self as pb, engine_service_client::EngineServiceClient},
    raw::RawLaunch,
};
use rustic_registry::{
    AgentReason, Index, Phase, RedisRegistry, RedisSettings, Registry as _, Scope, View,
    dev_server::{DevServer, Durability, Environment},
};
use std::path::Path;
use tempfile::TempDir;
use tonic::{Status, transport::Channel};

/// How to start a stack.
#[derive(Debug, Clone)]
pub struct StackSettings {
    /// Number of hosts.
    pub hosts: usize,
    /// More arguments of engine-svc.
    pub engine_arguments: Vec<String>,
    /// More arguments of every agent-host.
    pub host_arguments: Vec<String>,
    /// More environment of every agent-host.
    pub host_environment: Vec<(String, String)>,
    /// What agents may reach, as arguments of every agent-host.
    pub confinement: Vec<String>,
    /// Password by which hosts reach the registry, which asks for none.
    pub password: Option<String>,
    /// Program that becomes every agent-host, with its arguments; none: they are started as they are.
    pub host_starter: Vec<String>,
    /// More environment of the Redis.
    pub redis_environment: Environment,
    /// Whether Python agents are forked from a zygote; most tests do without, to start quickly.
    pub zygote: Zygote,
}

/// Whether hosts have a zygote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zygote {
    /// Every Python agent starts cold.
    Off,
    /// As in production.
    On,
}

impl Default for StackSettings {
    fn default() -> Self {
        Self {
            hosts: 1,
            engine_arguments: vec![],
            host_arguments: vec![],
            host_environment: vec![],
            confinement: open_to_tests(),
            password: None,
            host_starter: vec![],
            redis_environment: vec![],
            zygote: Zygote::Off,
        }
    }
}

/// A running stack.
pub struct Stack {
    /// Its Redis.
    pub redis: DevServer,
    /// Its engine.
    pub engine: Program,
    /// Its hosts.
    pub hosts: Vec<Program>,
    /// A client of its engine.
    pub client: EngineServiceClient<Channel>,
    engine_address: String,
    host_arguments: Vec<String>,
    host_environment: Vec<(String, String)>,
    host_starter: Vec<String>,
    password: Option<String>,
    dir: TempDir,
}

impl Stack {
    /// One host, usual settings.
    pub async fn start() -> Self {
        Self::with(StackSettings::default()).await
    }

    /// `hosts` hosts, usual settings.
    pub async fn of(hosts: usize) -> Self {
        Self::with(StackSettings { hosts, ..StackSettings::default() }).await
    }

    /// Starts a stack and waits until every host takes agents.
    pub async fn with(settings: StackSettings) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let redis =
            DevServer::start_with(dir.path(), Durability::None, &settings.redis_environment).expect("a Redis");
        let mut arguments = engine_arguments(&redis.url(), &settings.engine_arguments);
        arguments.push("--new-registry".to_owned());
        let engine = Program::start("engine-svc", &arguments);
        let engine_address = engine.address().await;
        let StackSettings {
            hosts,
            mut host_arguments,
            host_environment,
            host_starter,
            zygote,
            password,
            confinement,
            ..
        } = settings;
        host_arguments.extend(confinement);
        host_arguments.extend((zygote == Zygote::Off).then(|| "--no-zygote".to_owned()));
        let client = client(&engine_address);
        let mut stack = Self {
            redis,
            engine,
            hosts: vec![],
            client,
            engine_address,
            host_arguments,
            host_environment,
            host_starter,
            password,
            dir,
        };
        stack.hosts = (0..hosts).map(|n| stack.start_host(n, &[])).collect();
        stack.wait_for_hosts().await;
        wait_until("the registry to settle", async || {
            stack.client.clone().list_agents(pb::ListAgentsRequest::default()).await.map_err(|s| s.to_string())
        })
        .await;
        stack
    }

    /// Waits until every host takes agents.
    pub async fn wait_for_hosts(&self) {
        wait_until("every host to take agents", async || {
            let seen = self.client.clone().list_hosts(pb::ListHostsRequest::default()).await;
            let seen = seen.map(|r| r.into_inner().hosts).map_err(|s| s.to_string())?;
            let ready = seen.iter().filter(|h| h.state() == pb::HostState::Ready).count();
            if ready == self.hosts.len() { Ok(()) } else { Err(format!("{seen:?}")) }
        })
        .await;
    }

    /// Address of the engine.
    pub fn engine_address(&self) -> &str {
        &self.engine_address
    }

    /// Connects to the engine that was put in the place of the first one.
    pub async fn connect_to_engine(&mut self) {
        self.engine_address = self.engine.address().await;
        self.client = client(&self.engine_address);
    }

    /// Arguments of a host of this stack, with the settings that all of them have.
    pub fn host_arguments(&self, n: usize) -> Vec<String> {
        let mut url = self.redis.url();
        if let Some(password) = &self.password {
            url = url.replacen("://", &format!("://default:{password}@"), 1);
        }
        host_arguments(n, self.dir.path(), &url, &self.engine_address, &self.host_arguments)
    }

    /// The folder of this stack, where hosts have their working directories.
    pub fn directory(&self) -> &Path {
        self.dir.path()
    }

    /// A client of one host.
    pub async fn host(&self, n: usize) -> AgentHostServiceClient<Channel> {
        let address = self.hosts[n].address().await;
        let channel = Channel::from_shared(format!("http://{address}")).expect("an address").connect_lazy();
        AgentHostServiceClient::new(channel)
    }

    /// One host more joins.
    pub async fn add_host(&mut self) {
        self.hosts.push(self.start_host(self.hosts.len(), &[]));
        self.wait_for_hosts().await;
    }

    /// Starts host `n` again after it ended, with the settings it had.
    pub fn restart_host(&mut self, n: usize) {
        self.hosts[n] = self.start_host(n, &[]);
    }

    /// The same with more settings, for this life.
    pub fn restart_host_with(&mut self, n: usize, more: &[&str]) {
        self.hosts[n] = self.start_host(n, more);
    }

    fn start_host(&self, n: usize, more: &[&str]) -> Program {
        let environment: Vec<_> = self.host_environment.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let mut arguments = self.host_arguments(n);
        arguments.extend(more.iter().map(ToString::to_string));
        Program::start_under(&self.host_starter, "agent-host", &arguments, &environment)
    }

    /// Creates an agent through the engine.
    pub async fn create(&self, launch: impl Into<RawLaunch>) -> Result<agent_pb::Agent, Status> {
        let request = pb::CreateAgentRequest { launch: Some(launch.into()), ..Default::default() };
        let response = self.client.clone().create_agent(request).await?.into_inner();
        Ok(response.agent.expect("an OK answer has an agent"))
    }

    /// Reads an agent from the engine.
    pub async fn get(&self, guild: &str, agent: &str) -> Result<agent_pb::Agent, Status> {
        let request =
            pb::GetAgentRequest { guild_id: guild.to_owned(), agent_id: agent.to_owned(), ..Default::default() };
        let response = self.client.clone().get_agent(request).await?.into_inner();
        let agent = response.agent.expect("an OK answer has an agent");
        assert_documented(&agent);
        Ok(agent)
    }

    /// Stops an agent through the engine.
    pub async fn stop(&self, guild: &str, agent: &str) -> Result<Option<agent_pb::LastExit>, Status> {
        let request =
            pb::StopAgentRequest { guild_id: guild.to_owned(), agent_id: agent.to_owned(), ..Default::default() };
        Ok(self.client.clone().stop_agent(request).await?.into_inner().exit)
    }

    /// Waits until an agent is as `fits` wants it.
    pub async fn agent_is(
        &self,
        what: &str,
        guild: &str,
        agent: &str,
        fits: impl Fn(&agent_pb::Agent) -> bool,
    ) -> agent_pb::Agent {
        wait_until(what, async || match self.get(guild, agent).await {
            Ok(agent) if fits(&agent) => Ok(agent),
            other => Err(other),
        })
        .await
    }

    /// The registry itself.
    pub fn registry(&self) -> RedisRegistry {
        RedisRegistry::new(&RedisSettings::new(&self.redis.url())).expect("a registry")
    }

    /// Fails unless the registry holds no agent, no room in use, and no host runs a process.
    pub async fn assert_nothing_left(&self) {
        let registry = self.registry();
        let page = registry.list(&Index::Within(Scope::All), None, 10, View::Basic).await.expect("a page");
        assert_eq!(page.agents, [], "agents in the registry");
        for host in registry.hosts().await.expect("hosts").hosts {
            assert_eq!(host.used.iter().collect::<Vec<_>>(), [], "room in use on {}", host.host);
        }
        for host in &self.hosts {
            let agents = crate::processes::agents(host.pid());
            assert!(agents.is_empty(), "processes of host {}: {agents:?}", host.pid());
        }
    }
}

/// A client of an engine.
pub fn client(address: &str) -> EngineServiceClient<Channel> {
    let channel = Channel::from_shared(format!("http://{address}")).expect("an address").connect_lazy();
    EngineServiceClient::new(channel).max_decoding_message_size(usize::MAX)
}

/// Lets agents leave marks where tests look for them, and nothing else: tests of confinement do without.
fn open_to_tests() -> Vec<String> {
    words(&format!("--confinement-write {}", std::env::temp_dir().display()))
}

/// Arguments, parted by spaces.
pub fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// Arguments of an engine on a free port.
pub fn engine_arguments(redis: &str, more: &[String]) -> Vec<String> {
    let mut arguments = words(&format!("--listen 127.0.0.1:0 --log-format json --redis-url {redis}"));
    arguments.extend_from_slice(more);
    arguments
}

/// Arguments of host `n` on a free port.
pub fn host_arguments(n: usize, dir: &Path, redis: &str, engine: &str, more: &[String]) -> Vec<String> {
    let mut arguments =
        words(&format!("--log-format json --host-id agent-host-{n} --redis-url {redis} --engine-address {engine}"));
    let mut usual = |flag: &str, value: String| {
        if !more.iter().any(|given| given == flag) {
            arguments.extend([flag.to_owned(), value]);
        }
    };
    usual("--listen", "127.0.0.1:0".to_owned());
    usual("--python", venv("python").display().to_string());
    usual("--work-dir", dir.display().to_string());
    // Agents of a test get their share of processors that other tests keep busy.
    usual("--agent-nice", "0".to_owned());
    // What else runs on this machine is no fault of the agents.
    if !more.iter().any(|given| given == "--memory-cgroup") {
        arguments.push("--no-memory-guard".to_owned());
    }
    arguments.extend_from_slice(more);
    arguments
}

/// Why an agent is in its phase is a documented word that belongs to the phase, with a sentence beside it.
fn assert_documented(agent: &agent_pb::Agent) {
    assert_eq!(agent.reason.is_empty(), agent.message.is_empty(), "{agent:?}");
    if agent.reason.is_empty() {
        assert!(!matches!(agent.phase(), AgentPhase::Failed | AgentPhase::Pending), "no reason: {agent:?}");
        return;
    }
    let reason = AgentReason::parse(&agent.reason);
    let phases = reason.unwrap_or_else(|| panic!("no documented reason: {agent:?}")).phases();
    let fits = |phase| phases.contains(&phase);
    let belongs = match agent.phase() {
        AgentPhase::Pending => fits(Phase::Pending),
        AgentPhase::Running => fits(Phase::Running),
        AgentPhase::Failed => fits(Phase::Failed),
        AgentPhase::Unspecified => phases.is_empty(),
        // What was said before stands until the next thing happens.
        AgentPhase::Starting | AgentPhase::Restarting | AgentPhase::Stopping => true,
    };
    assert!(belongs, "the reason is of another phase: {agent:?}");
}
