//! Flags of engine-svc, each with an environment twin `ENGINE_SVC_…`.

use crate::{
    balance::{MOST_MOVES, Rebalancing},
    engine::Leases,
    reconciler::OptionalMoves,
};
use anyhow::ensure;
use clap::{
    Args, Parser, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};
use rustic_core::placement::Policy;
use rustic_registry::{RedisAccess, RedisSettings};
use rustic_telemetry::{
    TelemetrySettings,
    grpc::{ServerSettings, parse_duration},
};
use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// Prefix of the environment twins.
pub const ENVIRONMENT_PREFIX: &str = "ENGINE_SVC";

/// Runs Rustic AI agents on a cluster of agent-hosts.
#[derive(Debug, Parser)]
#[command(name = "engine-svc", version, args_conflicts_with_subcommands = true)]
pub struct Program {
    /// What to run; the service unless said otherwise.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Settings of the service.
    #[command(flatten)]
    pub settings: Settings,
}

/// What to run.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Brings up Redis, engine-svc and agent-hosts on this machine until Ctrl-C, or until a command ends
    Dev(DevSettings),
}

/// Settings of the service.
#[derive(Debug, Clone, Args)]
pub struct Settings {
    /// Redis that holds the registry
    #[arg(long, default_value = "redis://127.0.0.1:6379/0", value_name = "URL", hide_env_values = true)]
    pub redis_url: String,
    /// Prefix of all registry keys
    #[arg(long, default_value = "rustic", value_name = "WORD")]
    pub redis_prefix: String,
    /// Identity and trust
    #[command(flatten)]
    pub redis_access: RedisAccess,
    /// Longest wait for Redis
    #[arg(long, default_value = "2s", value_parser = parse_duration, value_name = "DURATION")]
    pub redis_timeout: Duration,
    /// How hosts are picked
    #[arg(long, default_value_t = Policy::LeastLoaded, value_parser = policies(), value_name = "POLICY")]
    pub placement: Policy,
    /// Time between two agents that are moved to lower hosts, so that the highest one is empty before it is scaled away;
    /// needs --placement packed; default: none are
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    pub compact_every: Option<Duration>,
    /// Evening out the load of hosts
    #[command(flatten)]
    pub rebalance: RebalanceSettings,
    /// Longest time between looks at the renewals of all hosts; what else changes is heard of at once
    #[arg(long, default_value = "600ms", value_parser = parse_duration, value_name = "DURATION")]
    pub hosts_refresh: Duration,
    /// Longest wait for a connection to a host
    #[arg(long, default_value = "1s", value_parser = parse_duration, value_name = "DURATION")]
    pub connect_timeout: Duration,
    /// Longest lease of any host: their --lease-ttl
    #[arg(long, default_value = "10s", value_parser = parse_duration, value_name = "DURATION")]
    pub lease_ttl: Duration,
    /// Time after the end of a host's lease when its agents are certainly gone
    #[arg(long, default_value = "2s", value_parser = parse_duration, value_name = "DURATION")]
    pub lease_grace: Duration,
    /// By how much the rates of two clocks may differ, as a part of one
    #[arg(long, default_value_t = 0.01, value_name = "PART")]
    pub clock_drift: f64,
    /// Nobody has ever used this registry: agents are placed at once, instead of after the longest lease and its grace
    #[arg(long)]
    pub new_registry: bool,
    /// Guilds of two organizations may have one id though they are on one message bus, where they read each other's messages
    #[arg(long)]
    pub allow_shared_guild_ids: bool,
    /// Time calls in flight get to end when this engine stops
    #[arg(long, default_value = "20s", value_parser = parse_duration, value_name = "DURATION")]
    pub stop_timeout: Duration,
    /// Address to listen on, ip:port; [::] listens on IPv6 and IPv4, port 0 takes a free port
    #[arg(long, default_value = "0.0.0.0:50051", value_name = "IP:PORT")]
    pub listen: SocketAddr,
    /// gRPC server
    #[command(flatten)]
    pub server: ServerSettings,
    /// Logs and traces
    #[command(flatten)]
    pub telemetry: TelemetrySettings,
}

/// Whether the load of hosts is evened out.
#[derive(Debug, Clone, Args)]
pub struct RebalanceSettings {
    /// Time between two agents that are moved to hosts with less load, of those whose launch allows it; needs --placement least-loaded;
    /// default: none are
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    pub rebalance_every: Option<Duration>,
    /// By how much the loads of two hosts may differ before agents are moved, as a part of one
    #[arg(long, default_value_t = 0.1, value_name = "PART")]
    pub rebalance_threshold: f64,
    /// Most agents of one guild that are moved in an hour to even out load
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub rebalance_per_hour: usize,
}

impl RebalanceSettings {
    fn rule(&self, placement: Policy) -> anyhow::Result<Option<Rebalancing>> {
        let Some(every) = self.rebalance_every else { return Ok(None) };
        ensure!(
            placement == Policy::LeastLoaded,
            "--rebalance-every evens out the load of hosts, and --placement {placement} would undo that; use --placement \
             least-loaded, or --compact-every"
        );
        let (threshold, per_guild) = (self.rebalance_threshold, self.rebalance_per_hour);
        ensure!(
            (0.0..1.0).contains(&threshold),
            "--rebalance-threshold {threshold} is no part of one; 0.1 is a tenth"
        );
        ensure!(
            (1..=MOST_MOVES).contains(&per_guild),
            "--rebalance-per-hour {per_guild} must be 1 to {MOST_MOVES}; leave --rebalance-every out to move none"
        );
        Ok(Some(Rebalancing { every, threshold, per_guild }))
    }
}

impl Settings {
    /// What is known of the leases of hosts. Errors: they cannot work together.
    pub fn leases(&self) -> anyhow::Result<Leases> {
        let (longest, grace) = (self.lease_ttl, self.lease_grace);
        ensure!(longest >= Duration::from_millis(100), "--lease-ttl {longest:?} is too short; use at least 100ms");
        ensure!(
            grace <= longest,
            "--lease-grace {grace:?} is longer than a lease of {longest:?} (--lease-ttl); agents of a lost host would wait \
             for it, and nothing is gained"
        );
        let drift = self.clock_drift;
        ensure!((0.0..0.5).contains(&drift), "--clock-drift {drift} is no part of one; 0.01 is a hundredth");
        Ok(Leases { longest: longest + grace, drift, new_registry: self.new_registry })
    }

    /// Whether agents move, and when. Errors: new agents would undo it, or a figure makes no sense.
    pub fn optional_moves(&self) -> anyhow::Result<OptionalMoves> {
        ensure!(
            self.compact_every.is_none() || self.placement == Policy::Packed,
            "--compact-every empties the highest host, and --placement {} would fill it again; use --placement packed",
            self.placement
        );
        Ok(OptionalMoves { compact_every: self.compact_every, rebalancing: self.rebalance.rule(self.placement)? })
    }

    /// How to reach Redis.
    pub fn redis(&self) -> RedisSettings {
        RedisSettings {
            prefix: self.redis_prefix.clone(),
            timeout: self.redis_timeout,
            access: self.redis_access.clone(),
            ..RedisSettings::new(&self.redis_url)
        }
    }
}

/// The words of `--placement`.
fn policies() -> impl TypedValueParser<Value = Policy> {
    let words = Policy::ALL.iter().map(|policy| policy.as_str());
    PossibleValuesParser::new(words).map(|word| Policy::parse(&word).unwrap_or(Policy::LeastLoaded))
}

/// Settings of the stack for development.
#[derive(Debug, Clone, Args)]
pub struct DevSettings {
    /// Number of agent-hosts
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub hosts: u32,
    /// Address engine-svc listens on
    #[arg(long, default_value = "127.0.0.1:50051", value_name = "IP:PORT")]
    pub listen: SocketAddr,
    /// Python that has rusticai-k8s installed; default: .venv/bin/python if there is one, else python3
    #[arg(long, value_name = "PATH")]
    pub python: Option<PathBuf>,
    /// The agent-host program; default: beside this one
    #[arg(long, value_name = "PATH")]
    pub agent_host: Option<PathBuf>,
    /// Most agents on each host
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub max_agents: u32,
    /// Folder for the hosts' logs; default: a temporary one
    #[arg(long, value_name = "DIR")]
    pub log_dir: Option<PathBuf>,
    /// Command to run with the stack's addresses in its environment; the stack ends with it
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}
