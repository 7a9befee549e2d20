//! Flags of agent-host, each with an environment twin `AGENT_HOST_…`.

use crate::{
    cgroups,
    confinement::{Kernel, Policy},
    gpus::Gpus,
    lease::LeaseTimes,
    output::OutputLimit,
    process::{Life, memory::Pressure},
    profiles::{self, Profile},
    runtime::Workdirs,
    starts::Starts,
    zygote::{Cache, Share, Sharing},
};
use anyhow::{Context as _, ensure};
use clap::Parser;
use rustic_proto::profile::ProfileName;
use rustic_registry::{
    ConfinementLevel, ConfinementWish, HostId, Incarnation, Openings, RedisAccess, RedisSettings, Resources,
    devices::{GPU_MEMORY, GPUS, is_of_device},
    resources::{SLOTS, label_of},
};
use rustic_telemetry::{
    TelemetrySettings,
    grpc::{ServerSettings, parse_duration},
};
use sha2::{Digest as _, Sha256};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::Duration,
};

/// Prefix of the environment twins.
pub const ENVIRONMENT_PREFIX: &str = "AGENT_HOST";
/// Runs Rustic AI agents, one operating system process each, under a lease in Redis.
#[derive(Debug, Clone, Parser)]
#[command(name = "agent-host", version)]
pub struct Settings {
    /// Name of this host, the pod's name; default: the machine's host name
    #[arg(long, value_name = "ID")]
    pub host_id: Option<String>,
    /// UID of the pod, part of the incarnation
    #[arg(long, default_value = "", value_name = "UID")]
    pub pod_uid: String,
    /// Address that engine-svc reaches this host at, host:port; default: from --listen
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise_address: Option<String>,
    /// IP that engine-svc reaches this host at, IPv4 or IPv6, such as that of the pod; the port is that of --listen
    #[arg(long, conflicts_with = "advertise_address", value_name = "IP")]
    pub advertise_ip: Option<IpAddr>,
    /// DNS name of this host that stays the same when its address changes, such as that of a StatefulSet's pod
    #[arg(long, default_value = "", hide_default_value = true, value_parser = dns_name, value_name = "NAME")]
    pub dns_name: String,
    /// Address of engine-svc, handed to agents so that they can launch agents
    #[arg(long, value_name = "HOST:PORT")]
    pub engine_address: Option<String>,
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
    /// Most agents at once
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub max_agents: u32,
    /// Further capacity, NAME=AMOUNT, such as memory=8e9; cpus defaults to the machine's
    #[arg(long, value_parser = parse_pair, value_delimiter = ',', value_name = "NAME=AMOUNT")]
    pub resource: Vec<(String, String)>,
    /// GPUs of this host: auto, as NVIDIA's driver lists them; none; how many; or their ids, each with its memory in bytes:
    /// GPU-8f2c=24e9,GPU-91aa=24e9
    #[arg(long, default_value = "auto", value_name = "WHICH")]
    pub gpus: Gpus,
    /// Label of this host, NAME=VALUE
    #[arg(long, value_parser = parse_pair, value_delimiter = ',', value_name = "NAME=VALUE")]
    pub label: Vec<(String, String)>,
    /// How long a lease lasts without renewal
    #[arg(long, default_value = "10s", value_parser = parse_duration, value_name = "DURATION")]
    pub lease_ttl: Duration,
    /// Time between two renewals of the lease; default: a third of it
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    pub lease_renew_every: Option<Duration>,
    /// Time after the end of the lease after which engine-svc may take its agents over
    #[arg(long, default_value = "2s", value_parser = parse_duration, value_name = "DURATION")]
    pub lease_grace: Duration,
    /// Time before the end of the lease at which its agents are killed
    #[arg(long, default_value = "2s", value_parser = parse_duration, value_name = "DURATION")]
    pub lease_margin: Duration,
    /// Time a process may take from its start to ready
    #[arg(long, default_value = "60s", value_parser = parse_duration, value_name = "DURATION")]
    pub start_timeout: Duration,
    /// Deaths of an agent over one message after which the message is set aside, in the guild's dead-letter topic; 0: never
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub max_deliveries: u32,
    /// Time agents get between SIGTERM and SIGKILL when this host stops
    #[arg(long, default_value = "10s", value_parser = parse_duration, value_name = "DURATION")]
    pub stop_timeout: Duration,
    /// Time that engine-svc gets to move agents elsewhere when this host stops, and agents that move to finish what they handle
    #[arg(long, default_value = "20s", value_parser = parse_duration, value_name = "DURATION")]
    pub drain_timeout: Duration,
    /// Python interpreter of the python runtime
    #[arg(long, default_value = "python3", value_name = "PATH")]
    pub python: PathBuf,
    /// Module that all agents share, used or not, beside Rustic AI's own, if it is proven to be safe; may be given several times
    #[arg(long, value_delimiter = ',', value_name = "MODULE")]
    pub preload: Vec<String>,
    /// File with further Python environments for launches to choose from, in TOML
    #[arg(long, value_name = "FILE")]
    pub runtime_profiles: Option<PathBuf>,
    /// What agents share beyond Rustic AI itself, of what their classes import
    #[arg(long, default_value = "proven", value_name = "WHAT")]
    pub share: Share,
    /// Package that agents share although it is not proven to be safe, with all that it imports; may be given several times
    #[arg(long, value_delimiter = ',', value_name = "PACKAGE")]
    pub share_unproven: Vec<String>,
    /// Sets of packages that are kept ready at once, for each runtime profile; the least used goes first
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub share_branches: usize,
    /// Memory that these may use beyond what all agents share
    #[arg(long, default_value_t = 512 << 20, value_name = "BYTES")]
    pub share_memory: u64,
    /// Memory that an agent may use which asks for none in its spec (custom_resources.memory), beyond what its process begins with; an
    /// allocation beyond it fails. Default: no limit
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1 << 20..))]
    pub agent_memory: Option<u64>,
    /// Bytes that the working directory and TMPDIR of an agent may take on disk together; an agent that takes more is ended. Default: no limit
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1 << 20..))]
    pub agent_scratch: Option<u64>,
    /// Processes and threads that an agent may have together; an agent that has more is ended
    #[arg(long, default_value_t = 1024, value_name = "N", value_parser = clap::value_parser!(u32).range(16..))]
    pub agent_processes: u32,
    /// Descriptors that each process of an agent may open at most, if its hard limit is not lower
    #[arg(long, default_value_t = 16384, value_name = "N", value_parser = clap::value_parser!(u64).range(64..))]
    pub agent_descriptors: u64,
    /// Whether each agent gets a control group of its own (cgroup v2), with limits of memory and processes and a share of the processor: where
    /// this host may make them, required, or not
    #[arg(long, default_value = "auto", value_name = "WHEN")]
    pub agent_cgroups: cgroups::Wanted,
    /// Do not end the agent that has the most beyond what it asked for when the memory of the control group is nearly used up
    #[arg(long, conflicts_with = "memory_cgroup")]
    pub no_memory_guard: bool,
    /// Directory of the control group whose memory limit all agents share; default: this program's own, if it has such a limit
    #[arg(long, value_name = "DIRECTORY")]
    pub memory_cgroup: Option<PathBuf>,
    /// How far agents are confined that ask for nothing else: off, standard or strict
    #[arg(long, default_value = "standard", value_name = "LEVEL")]
    pub confinement: ConfinementLevel,
    /// The loosest level that a launch may ask for; default: that of --confinement, or of its runtime profile
    #[arg(long, value_name = "LEVEL")]
    pub confinement_max: Option<ConfinementLevel>,
    /// Refuse agents if the kernel lacks something that their confinement needs
    #[arg(long)]
    pub confinement_required: bool,
    /// File or directory that every agent may read and execute; may be given several times
    #[arg(long, value_delimiter = ',', value_parser = absolute, value_name = "PATH")]
    pub confinement_read: Vec<PathBuf>,
    /// File or directory that every agent may write, too; may be given several times
    #[arg(long, value_delimiter = ',', value_parser = absolute, value_name = "PATH")]
    pub confinement_write: Vec<PathBuf>,
    /// TCP port that every agent may connect to under strict; may be given several times
    #[arg(long, value_delimiter = ',', value_name = "PORT")]
    pub confinement_port: Vec<u16>,
    /// File or directory below which a launch may ask to read and execute; may be given several times
    #[arg(long, value_delimiter = ',', value_parser = absolute, value_name = "PATH")]
    pub confinement_allow_read: Vec<PathBuf>,
    /// File or directory below which a launch may ask to write, too; may be given several times
    #[arg(long, value_delimiter = ',', value_parser = absolute, value_name = "PATH")]
    pub confinement_allow_write: Vec<PathBuf>,
    /// TCP port that a launch may ask for under strict; may be given several times
    #[arg(long, value_delimiter = ',', value_name = "PORT")]
    pub confinement_allow_port: Vec<u16>,
    /// Start every Python agent in a fresh interpreter
    #[arg(long)]
    pub no_zygote: bool,
    /// Agents that start at once, more wait for their turn; default: two for each processor
    #[arg(long, value_name = "N")]
    pub concurrent_starts: Option<usize>,
    /// Time for which an agent that starts holds up those behind it; a warm start takes a third of the default
    #[arg(long, default_value = "150ms", value_parser = parse_duration, value_name = "DURATION")]
    pub start_patience: Duration,
    /// Time for which a call that launches an agent waits to see whether it can start at all
    #[arg(long, default_value = "2s", value_parser = parse_duration, value_name = "DURATION")]
    pub launch_patience: Duration,
    /// Niceness of agents, 0 to 19: the more, the more of the processor is left to this host when there is too little
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(i32).range(0..=19), value_name = "N")]
    pub agent_nice: i32,
    /// Folder for the directories of agents, where each begins and its TMPDIR; default: the system's temporary folder
    #[arg(long, value_name = "DIR")]
    pub work_dir: Option<PathBuf>,
    /// Time between two looks at what the agents use, for the metrics
    #[arg(long, default_value = "60s", value_parser = parse_duration, value_name = "DURATION")]
    pub usage_every: Duration,
    /// Output of one agent that is logged in the long run; more is counted and left out
    #[arg(long, default_value_t = 512 << 10, value_name = "BYTES")]
    pub agent_log_bytes_per_second: u64,
    /// Output of one agent that is logged at once
    #[arg(long, default_value_t = 4 << 20, value_name = "BYTES")]
    pub agent_log_burst: u64,
    /// Address to listen on, ip:port; [::] listens on IPv6 and IPv4, port 0 takes a free port
    #[arg(long, default_value = "0.0.0.0:50052", value_name = "IP:PORT")]
    pub listen: SocketAddr,
    /// gRPC server
    #[command(flatten)]
    pub server: ServerSettings,
    /// Logs and traces
    #[command(flatten)]
    pub telemetry: TelemetrySettings,
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("must be NAME=VALUE")?;
    if name.is_empty() {
        return Err("the name before = is missing".to_owned());
    }
    Ok((name.to_owned(), value.to_owned()))
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() { Ok(path) } else { Err("give an absolute path".to_owned()) }
}

impl Settings {
    /// What agents may reach.
    pub fn confinement(&self) -> Policy {
        let engine = self.engine_address.as_deref().and_then(|address| address.rsplit_once(':')?.1.parse().ok());
        Policy {
            level: self.confinement,
            loosest: self.confinement_max,
            given: Openings {
                read: self.confinement_read.clone(),
                write: self.confinement_write.clone(),
                ports: self.confinement_port.iter().copied().chain(engine).collect(),
            },
            allowed: Openings {
                read: self.confinement_allow_read.clone(),
                write: self.confinement_allow_write.clone(),
                ports: self.confinement_allow_port.clone(),
            },
            required: self.confinement_required,
            kernel: Kernel::here(),
        }
    }

    /// Name of this host.
    pub fn host(&self) -> anyhow::Result<HostId> {
        let name = match &self.host_id {
            Some(id) => id.clone(),
            None => rustix::system::uname().nodename().to_string_lossy().into_owned(),
        };
        name.parse().with_context(|| format!("--host-id {name:?} is no host id"))
    }

    /// This life of the host: pod UID and boot nonce.
    pub fn incarnation(&self) -> anyhow::Result<Incarnation> {
        let nonce = uuid::Uuid::new_v4();
        let text = if self.pod_uid.is_empty() { nonce.to_string() } else { format!("{}.{nonce}", self.pod_uid) };
        text.parse().with_context(|| format!("--pod-uid {:?} cannot be used", self.pod_uid))
    }

    /// What this host has. Asks the driver of its GPUs.
    pub fn capacity(&self) -> anyhow::Result<Resources> {
        let mut capacity = Resources::default();
        capacity.set("cpus", std::thread::available_parallelism().map_or(1.0, |n| n.get() as f64))?;
        for (name, amount) in &self.resource {
            let number: f64 = amount.parse().with_context(|| format!("--resource {name}={amount}: no number"))?;
            ensure!(name != SLOTS, "--resource {name}: use --max-agents");
            ensure!(label_of(name).is_none(), "--resource {name}: use --label");
            let is_of_gpus = name == GPUS || name == GPU_MEMORY || is_of_device(name);
            ensure!(!is_of_gpus, "--resource {name}: use --gpus");
            capacity.set(name, number)?;
        }
        capacity.set(SLOTS, self.max_agents.into())?;
        self.label.iter().for_each(|(name, value)| capacity.add_label(name, value));
        capacity.add_devices(&self.gpus.find());
        Ok(capacity)
    }

    /// Labels of this host.
    pub fn labels(&self) -> BTreeMap<String, String> {
        self.label.iter().cloned().collect()
    }

    /// Where engine-svc reaches this host, given where it listens.
    pub fn advertised(&self, bound: SocketAddr, host: &HostId) -> String {
        match (&self.advertise_address, self.advertise_ip) {
            (Some(address), _) => address.clone(),
            (None, Some(ip)) => SocketAddr::new(ip, bound.port()).to_string(),
            (None, None) if bound.ip().is_unspecified() => format!("{host}:{}", bound.port()),
            (None, None) => bound.to_string(),
        }
    }

    /// Times of the lease. Errors: they cannot work together.
    pub fn lease_times(&self) -> anyhow::Result<LeaseTimes> {
        let (ttl, margin) = (self.lease_ttl, self.lease_margin);
        let renew_every = self.lease_renew_every.unwrap_or(ttl / 3);
        ensure!(ttl >= Duration::from_millis(100), "--lease-ttl {ttl:?} is too short; use at least 100ms");
        ensure!(!margin.is_zero(), "--lease-margin must be more than nothing: killing and dying take time");
        ensure!(
            renew_every >= Duration::from_millis(20),
            "--lease-renew-every {renew_every:?} asks too much of Redis; use at least 20ms"
        );
        ensure!(
            renew_every + margin < ttl,
            "--lease-margin {margin:?} leaves no time to renew a lease of {ttl:?}, which happens every \
             {renew_every:?} (--lease-renew-every); together they must be less than --lease-ttl"
        );
        Ok(LeaseTimes { ttl, renew_every, margin })
    }

    /// The Python environments of this host. Errors: the file cannot be used.
    pub fn profiles(&self) -> anyhow::Result<BTreeMap<ProfileName, Profile>> {
        let environment = BTreeMap::new();
        let confinement = ConfinementWish::default();
        let default =
            Profile { python: self.python.clone(), preload: self.preload.clone(), environment, confinement };
        profiles::read(default, self.runtime_profiles.as_deref())
    }

    /// How much agents share; what proves that begins in `directory`.
    pub fn sharing(&self, directory: PathBuf) -> Sharing {
        Sharing {
            share: self.share,
            branches: self.share_branches,
            memory: self.share_memory,
            vouched: self.share_unproven.clone(),
            directory,
        }
    }

    /// The memory that is guarded; `None`: it has no limit, or nobody guards it. Errors: the group that was named has none.
    pub fn pressure(&self) -> anyhow::Result<Option<Pressure>> {
        match &self.memory_cgroup {
            _ if self.no_memory_guard => Ok(None),
            None => Ok(Pressure::own()),
            Some(group) => {
                let limited = Pressure::of(group);
                anyhow::ensure!(
                    limited.is_some(),
                    "--memory-cgroup {}: there is no control group with a limit of memory; name its directory, such as \
                     /sys/fs/cgroup, or leave the flag out",
                    group.display()
                );
                Ok(limited)
            }
        }
    }

    /// The queue of starts.
    pub fn starts(&self) -> Starts {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Starts::new(self.concurrent_starts.unwrap_or(cores * 2), self.start_patience)
    }

    /// The file that is locked as long as a host of this name lives in this registry.
    pub fn lock_file(&self, host: &HostId) -> anyhow::Result<PathBuf> {
        self.file(host, "lock")
    }

    /// What the zygote of a profile that runs `python` learned, for the next life of the host.
    pub fn cache(&self, host: &HostId, profile: &ProfileName, python: &Path) -> anyhow::Result<Cache> {
        Ok(Cache::at(self.file(host, &format!("{profile}.learned"))?, python.to_owned()))
    }

    /// A file that outlives this life of the host.
    fn file(&self, host: &HostId, name: &str) -> anyhow::Result<PathBuf> {
        let parent = std::path::absolute(self.work_dir.clone().unwrap_or_else(std::env::temp_dir))?;
        std::fs::create_dir_all(&parent).with_context(|| format!("--work-dir {}", parent.display()))?;
        Ok(parent.join(format!("agent-host.{host}.{}.{name}", self.registry_mark()?)))
    }

    /// Hosts of other registries have files of their own. The same in every build: the next life may be another version.
    /// Nor does it depend on passwords, which are rotated between two lives.
    fn registry_mark(&self) -> anyhow::Result<String> {
        let prefix_length = self.redis_prefix.len().to_be_bytes();
        let digest = Sha256::new()
            .chain_update(prefix_length)
            .chain_update(&self.redis_prefix)
            .chain_update(self.redis().place()?)
            .finalize();
        Ok(digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect())
    }

    /// Where agents get their directories in this life of the host.
    pub fn workdirs(&self, host: &HostId, life: Life) -> anyhow::Result<Workdirs> {
        Workdirs::new(self.workdirs_root(host, life)?).context("--work-dir")
    }

    /// The folder of these, which the first one who needs it makes.
    pub fn workdirs_root(&self, host: &HostId, life: Life) -> anyhow::Result<PathBuf> {
        let (parent, prefix) = self.workdir_names(host)?;
        Ok(parent.join(format!("{prefix}{life}")))
    }

    /// Where they got them in all lives of the host that have left something.
    pub fn workdirs_of_all_lives(&self, host: &HostId) -> anyhow::Result<Vec<PathBuf>> {
        let (parent, prefix) = self.workdir_names(host)?;
        let entries = match std::fs::read_dir(&parent) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
            entries => entries.with_context(|| format!("--work-dir {}", parent.display()))?,
        };
        let name = |entry: std::io::Result<std::fs::DirEntry>| entry.ok()?.file_name().into_string().ok();
        let is_life = |name: &String| name.strip_prefix(&prefix).is_some_and(|life| life.parse::<Life>().is_ok());
        Ok(entries.filter_map(name).filter(is_life).map(|name| parent.join(name)).collect())
    }

    /// The folder, and how names in it begin. Short, since a Unix socket in an agent's TMPDIR has 108 bytes for its path; and no
    /// other host's, of this registry or another.
    fn workdir_names(&self, host: &HostId) -> anyhow::Result<(PathBuf, String)> {
        let parent = std::path::absolute(self.work_dir.clone().unwrap_or_else(std::env::temp_dir))?;
        let digest = Sha256::new().chain_update(self.registry_mark()?).chain_update(host.as_str()).finalize();
        let name: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        Ok((parent, format!("agent-host.{name}.")))
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

    /// How much output is logged.
    pub fn output_limit(&self) -> OutputLimit {
        OutputLimit { bytes_per_second: self.agent_log_bytes_per_second, burst: self.agent_log_burst }
    }
}

/// A name as DNS has it: RFC 1123, labels of letters, digits and inner hyphens.
fn dns_name(text: &str) -> Result<String, String> {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if text.is_empty() || (text.len() <= 253 && text.split('.').all(is_label)) {
        return Ok(text.to_owned());
    }
    Err("give a DNS name without a port, such as agent-host-0.agent-host.rustic-ai.svc".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(args: &[&str]) -> Settings {
        Settings::try_parse_from(["agent-host"].iter().chain(args)).expect("valid flags")
    }

    #[test]
    fn times_that_cannot_work_together_are_refused() {
        assert!(settings(&[]).lease_times().is_ok());
        assert!(settings(&["--lease-ttl", "3s", "--lease-margin", "2s"]).lease_times().is_err());
        assert!(settings(&["--lease-ttl", "1ms"]).lease_times().is_err());
        assert!(settings(&["--lease-margin", "0s"]).lease_times().is_err());
        assert!(settings(&["--lease-renew-every", "1ms"]).lease_times().is_err());
        assert!(
            settings(&["--lease-renew-every", "8s"]).lease_times().is_err(),
            "8 s and the margin of 2 s make 10 s"
        );
        let times = settings(&["--lease-renew-every", "1s"]).lease_times().expect("they work together");
        assert_eq!(times.renew_every, Duration::from_secs(1));
    }

    #[test]
    fn capacity_is_slots_cpus_and_what_was_named() {
        let capacity = settings(&["--max-agents", "7", "--resource", "ports=0.5,cpus=3", "--gpus", "none"])
            .capacity()
            .expect("valid");
        let amounts: Vec<_> = capacity.iter().collect();
        assert_eq!(amounts, [("cpus", 3000), ("ports", 500), ("slots", 7000)]);
        for used_otherwise in ["slots=3", "gpus=1", "gpu_memory=1", "label:a=b=1"] {
            assert!(settings(&["--resource", used_otherwise]).capacity().is_err(), "{used_otherwise}");
        }
        let capacity = settings(&["--gpus", "a=24e9,b"]).capacity().expect("valid");
        assert_eq!((capacity.milli("gpus"), capacity.devices().count()), (2000, 2));
    }

    #[test]
    fn files_of_a_host_have_names_that_no_build_changes() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().display().to_string();
        let host = "agent-host-0".parse().expect("valid");
        let name = |more: &[&str]| {
            let settings = settings(&[&["--work-dir", &folder], more].concat());
            let path = settings.lock_file(&host).expect("a path");
            path.file_name().expect("a name").to_string_lossy().into_owned()
        };
        assert_eq!(name(&["--redis-url", "redis://r:1/0"]), "agent-host.agent-host-0.9fdacf4dc5d1bdcc.lock");
        // Neither a password nor TLS makes it another registry.
        for same in ["redis://user:secret@r:1/0", "rediss://r:1/0"] {
            assert_eq!(name(&["--redis-url", same]), name(&["--redis-url", "redis://r:1/0"]));
        }
        let names = [
            name(&[]),
            name(&["--redis-url", "redis://r:1/0"]),
            name(&["--redis-url", "redis://r:1/0", "--redis-prefix", "other"]),
        ];
        assert_eq!(names.iter().collect::<std::collections::BTreeSet<_>>().len(), 3, "{names:?}");
    }

    #[test]
    fn a_dns_name_is_one() {
        let parsed = |name| Settings::try_parse_from(["agent-host", "--dns-name", name]).map(|s| s.dns_name).ok();
        for good in ["agent-host-0.agent-host.rustic-ai.svc.cluster.local", "a", "A.b1", ""] {
            assert_eq!(parsed(good).as_deref(), Some(good));
        }
        for bad in ["a:1", "a..b", "-a", "a.", "a b", "10.0.0.7/8", &"a".repeat(64), &"a.".repeat(127)] {
            assert_eq!(parsed(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_advertised_address_never_says_everywhere() {
        let host = "agent-host-0".parse().expect("valid");
        let bound = "0.0.0.0:50052".parse().expect("valid");
        assert_eq!(settings(&[]).advertised(bound, &host), "agent-host-0:50052");
        let pod = |ip| settings(&["--advertise-ip", ip]).advertised(bound, &host);
        assert_eq!((pod("10.0.0.7"), pod("fd00::7")), ("10.0.0.7:50052".to_owned(), "[fd00::7]:50052".to_owned()));
        let bound = "127.0.0.1:1".parse().expect("valid");
        assert_eq!(settings(&[]).advertised(bound, &host), "127.0.0.1:1");
    }
}
