//! A thousand agents on one host: how long it takes to fill and empty it, and how the engine answers meanwhile.

use crate::{
    client::{Client, GUILD_SIZE, Guild},
    figures::{milliseconds, percentile, seconds},
    host::{Host, machine_memory_in_use},
};
use anyhow::{Context as _, Result, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use rustic_proto::{
    agent::v1::{AgentPhase, AgentView},
    engine::v1::{self as pb, HostState},
};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, interval, sleep},
};

/// Create calls under way at any time.
const AT_ONCE: usize = 16;
/// How long the full host is watched.
const WATCH: Duration = Duration::from_secs(30);
/// Time between two GetAgent calls of the watcher.
const ASK_EVERY: Duration = Duration::from_millis(20);

/// Fills a host with `guilds` guilds, watches it, empties it.
pub(crate) async fn run(client: &Client, guilds: usize) -> Result<Value> {
    let host = Arc::new(Host::of_stack()?);
    let memory_before = machine_memory_in_use()?;
    let count = guilds * GUILD_SIZE;
    let (guilds, mut launches) = client.launches(count);
    // One agent first, for the watcher to ask about.
    client.create(launches.remove(0)).await?;
    let watcher = Watcher::start(client, &guilds[0]);

    let began = Instant::now();
    let creates = launches.into_iter().map(|launch| client.create(launch));
    let _answers: Vec<_> = stream::iter(creates).buffer_unordered(AT_ONCE).try_collect().await?;
    let filled = began.elapsed();
    let while_filling = watcher.so_far();

    let running = running(client).await?;
    ensure!(running == count, "{running} of {count} agents are RUNNING");
    let pss = host.pss();
    let memory_at_peak = machine_memory_in_use()? - memory_before;
    let lapses = watch_lease(client).await?;

    let began = Instant::now();
    stream::iter(&guilds).map(|guild| client.stop(guild)).buffer_unordered(4).try_collect::<Vec<_>>().await?;
    let emptied = began.elapsed();
    let asked = watcher.stop().await?;
    Ok(json!({"density": [{
        "name": "ours, one host",
        "n": count,
        "guild_size": GUILD_SIZE,
        "fill_seconds": seconds(filled),
        "starts_per_second": (count as f64 / filled.as_secs_f64()).round(),
        "running": running,
        "get_agent_while_filling_p50_ms": milliseconds(percentile(&while_filling, 0.50)),
        "get_agent_while_filling_p99_ms": milliseconds(percentile(&while_filling, 0.99)),
        "get_agent_p99_ms": milliseconds(percentile(&asked, 0.99)),
        "get_agent_calls": asked.len(),
        "lease_lapses": lapses,
        "stop_seconds": seconds(emptied),
        "pss_mb": pss / 1_000_000,
        "machine_memory_mb": memory_at_peak / 1_000_000,
        "zombies": host.zombies(),
        "leftover_processes": host.agents(),
        "leftover_records": records(client).await?,
    }]}))
}

/// Counts agents that are RUNNING.
async fn running(client: &Client) -> Result<usize> {
    let mut request = pb::ListAgentsRequest {
        page_size: 500,
        phase: AgentPhase::Running.into(),
        view: AgentView::Basic.into(),
        ..Default::default()
    };
    let mut count = 0;
    loop {
        let page = client.engine.clone().list_agents(request.clone()).await?.into_inner();
        count += page.agents.len();
        if page.next_page_token.is_empty() {
            return Ok(count);
        }
        request.page_token = page.next_page_token;
    }
}

/// Counts all records that are left.
async fn records(client: &Client) -> Result<usize> {
    let page = client.engine.clone().list_agents(pb::ListAgentsRequest::default()).await?.into_inner();
    Ok(page.agents.len())
}

/// Looks at the full host for a while. Returns how often it did not hold its lease.
async fn watch_lease(client: &Client) -> Result<u32> {
    let mut lapses = 0;
    let until = Instant::now() + WATCH;
    while Instant::now() < until {
        let hosts = client.engine.clone().list_hosts(pb::ListHostsRequest::default()).await?.into_inner().hosts;
        let host = hosts.first().context("the host is gone")?;
        lapses += u32::from(host.state() != HostState::Ready);
        sleep(Duration::from_secs(1)).await;
    }
    Ok(lapses)
}

/// Asks the engine for one agent again and again.
struct Watcher {
    took: watch::Receiver<Vec<Duration>>,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<()>>,
}

impl Watcher {
    fn start(client: &Client, guild: &Guild) -> Self {
        let (seconds, took) = watch::channel(vec![]);
        let (stop, mut stopped) = watch::channel(false);
        let mut engine = client.engine.clone();
        let agent_id = "agent-0".to_owned();
        let request = pb::GetAgentRequest { guild_id: guild.id.clone(), agent_id, ..Default::default() };
        let task = tokio::spawn(async move {
            let mut ticks = interval(ASK_EVERY);
            while !*stopped.borrow_and_update() {
                ticks.tick().await;
                let began = Instant::now();
                match engine.get_agent(request.clone()).await {
                    Ok(_) => seconds.send_modify(|all| all.push(began.elapsed())),
                    // Its guild was stopped: the end of the run.
                    Err(status) if status.code() == tonic::Code::NotFound => break,
                    Err(status) => return Err(status.into()),
                }
            }
            Ok(())
        });
        Self { took, stop, task }
    }

    fn so_far(&self) -> Vec<Duration> {
        self.took.borrow().clone()
    }

    async fn stop(self) -> Result<Vec<Duration>> {
        self.stop.send_replace(true);
        self.task.await??;
        Ok(self.took.borrow().clone())
    }
}
