//! A client of engine-svc, and the agents it creates.

use anyhow::{Context as _, Result};
use rustic_proto::{
    agent::v1::AgentLaunch,
    engine::v1::{self as pb, engine_service_client::EngineServiceClient},
};
use serde_json::json;
use std::{env, time::Duration};
use tokio::time::sleep;
use tonic::transport::Channel;

/// Agents in a guild; see `bench/rustic_bench/workload.py`.
pub(crate) const GUILD_SIZE: usize = 20;
const CLASS: &str = "rustic_ai.testing.execution.integration_agents.ResponderProbeAgent";

/// A client, and the message bus of the agents it creates.
#[derive(Clone)]
pub(crate) struct Client {
    /// The service.
    pub(crate) engine: EngineServiceClient<Channel>,
    messaging_config: String,
}

/// A guild to fill.
pub(crate) struct Guild {
    /// Its id.
    pub(crate) id: String,
    spec: String,
}

impl Client {
    /// Reads the addresses that `engine-svc dev` puts into the environment.
    pub(crate) fn from_environment() -> Result<Self> {
        let engine = env::var("RUSTIC_ENGINE_ADDRESS").context("run it through `engine-svc dev … --`")?;
        let redis = env::var("RUSTIC_REDIS_URL")?;
        let authority = redis.trim_start_matches("redis://").split('/').next().unwrap_or_default();
        let port: u16 =
            authority.rsplit(':').next().unwrap_or_default().parse().context("RUSTIC_REDIS_URL: no port")?;
        let channel = Channel::from_shared(format!("http://{engine}"))?.tcp_nodelay(true).connect_lazy();
        let messaging_config = json!({
            "backend_module": "rustic_ai.redis.messaging.backend",
            "backend_class": "RedisMessagingBackend",
            "backend_config": {"redis_client": {"host": "127.0.0.1", "port": port}},
        });
        let engine = EngineServiceClient::new(channel).max_decoding_message_size(usize::MAX);
        Ok(Self { engine, messaging_config: messaging_config.to_string() })
    }

    /// The launch of agent number `n` of a guild.
    pub(crate) fn launch(&self, guild: &Guild, n: usize) -> AgentLaunch {
        let id = format!("agent-{n}");
        let agent = json!({"id": id, "name": id, "description": "an agent of the benchmark", "class_name": CLASS});
        AgentLaunch {
            agent_spec: agent.to_string(),
            guild_spec: guild.spec.clone(),
            messaging_config: self.messaging_config.clone(),
            ..Default::default()
        }
    }

    /// `count` launches in new guilds of [`GUILD_SIZE`], and the guilds.
    pub(crate) fn launches(&self, count: usize) -> (Vec<Guild>, Vec<AgentLaunch>) {
        let guilds: Vec<_> = (0..count.div_ceil(GUILD_SIZE)).map(|_| Guild::new()).collect();
        let launches = (0..count).map(|n| self.launch(&guilds[n / GUILD_SIZE], n % GUILD_SIZE)).collect();
        (guilds, launches)
    }

    /// Creates an agent; returns when it runs.
    pub(crate) async fn create(&self, launch: AgentLaunch) -> Result<pb::CreateAgentResponse> {
        let request = pb::CreateAgentRequest { launch: Some(launch.into()), ..Default::default() };
        Ok(self.engine.clone().create_agent(request).await?.into_inner())
    }

    /// Stops one agent.
    pub(crate) async fn stop_agent(&self, guild: &str, agent: &str) -> Result<()> {
        let (guild_id, agent_id) = (guild.to_owned(), agent.to_owned());
        let request = pb::StopAgentRequest { guild_id, agent_id, ..Default::default() };
        self.engine.clone().stop_agent(request).await?;
        Ok(())
    }

    /// Stops every agent of a guild.
    pub(crate) async fn stop(&self, guild: &Guild) -> Result<()> {
        let request = pb::StopGuildRequest { guild_id: guild.id.clone(), ..Default::default() };
        self.engine.clone().stop_guild(request).await?;
        Ok(())
    }

    /// Creates a few agents, so that every connection is open and the zygote has learned their class.
    pub(crate) async fn warm_up(&self) -> Result<()> {
        for _ in 0..3 {
            let (guilds, launches) = self.launches(2);
            for launch in launches {
                self.create(launch).await?;
            }
            self.stop(&guilds[0]).await?;
            sleep(Duration::from_secs(1)).await;
        }
        Ok(())
    }
}

impl Guild {
    fn new() -> Self {
        let id = format!("bench-{}", uuid::Uuid::new_v4());
        let spec = json!({"id": id, "name": "bench", "description": "a guild of the benchmark"}).to_string();
        Self { id, spec }
    }
}
