//! How long agents are away when their host drains, or dies.

use crate::{
    client::{Client, GUILD_SIZE},
    figures::{milliseconds, percentile, seconds},
    host::Host,
};
use anyhow::{Result, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use rustic_proto::{
    agent_host::v1::{Agent, AgentPhase},
    engine::v1 as pb,
};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};
use tokio::time::{Instant, sleep};

/// Create calls under way at any time.
const AT_ONCE: usize = 16;
/// Longest wait for all agents to be back.
const PATIENCE: Duration = Duration::from_secs(120);

/// What happens to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Blow {
    /// SIGTERM: it gives its agents away.
    Drain,
    /// SIGKILL: its lease must end first.
    Kill,
}

impl Blow {
    /// Time between two looks at all agents: what gaps are measured to. Looking costs the processor that agents need.
    fn look_every(self) -> Duration {
        match self {
            Self::Drain => Duration::from_millis(10),
            Self::Kill => Duration::from_millis(50),
        }
    }
}

/// Puts `count` agents on each of two hosts, ends the first, and watches its agents come back on the other.
pub(crate) async fn run(client: &Client, count: usize, blow: Blow) -> Result<Value> {
    let host = Host::by_id("agent-host-0")?;
    let (guilds, launches) = client.launches(2 * count);
    let creates = launches.into_iter().map(|launch| client.create(launch));
    let _answers: Vec<_> = stream::iter(creates).buffer_unordered(AT_ONCE).try_collect().await?;
    let there: Vec<_> = list(client).await?.into_iter().filter(|a| a.host == "agent-host-0").collect();
    ensure!(there.len() >= count / 2, "only {} agents on the host", there.len());

    let began = Instant::now();
    host.signal(if blow == Blow::Drain { Signal::TERM } else { Signal::KILL })?;
    let mut away: BTreeMap<_, _> =
        there.iter().map(|a| (key(a), Away { epoch: a.epoch, since: None, back: None })).collect();
    while away.values().any(|a| a.back.is_none()) {
        ensure!(began.elapsed() < PATIENCE, "not all agents came back within {PATIENCE:?}");
        let agents = list(client).await?;
        let now = Instant::now();
        for agent in &agents {
            if let Some(away) = away.get_mut(&key(agent)) {
                away.see(agent, now);
            }
        }
        sleep(blow.look_every()).await;
    }
    let all_back = began.elapsed();
    let gaps: Vec<_> = away.values().filter_map(|a| Some(a.back?.duration_since(a.since?))).collect();
    let first = away.values().filter_map(|a| a.since).min();
    for guild in &guilds {
        client.stop(guild).await?;
    }
    Ok(json!({"recovery": [{
        "name": match blow { Blow::Drain => "drain of a host", Blow::Kill => "kill -9 of a host" },
        "n": there.len(),
        "guild_size": GUILD_SIZE,
        "all_back_seconds": seconds(all_back),
        "first_away_after_seconds": first.map(|at| seconds(at.duration_since(began))),
        "all_back_after_first_away_seconds": first.map(|at| seconds(all_back.saturating_sub(at.duration_since(began)))),
        "gap_p50_ms": milliseconds(percentile(&gaps, 0.50)),
        "gap_p99_ms": milliseconds(percentile(&gaps, 0.99)),
    }]}))
}

/// An agent of the host that ends.
struct Away {
    epoch: u64,
    /// When it was first seen not to run there any more.
    since: Option<Instant>,
    back: Option<Instant>,
}

impl Away {
    fn see(&mut self, agent: &Agent, now: Instant) {
        let runs = agent.phase() == AgentPhase::Running;
        let moved = agent.epoch != self.epoch;
        if moved || !runs {
            self.since.get_or_insert(now);
        }
        if moved && runs {
            self.back.get_or_insert(now);
        }
    }
}

fn key(agent: &Agent) -> (String, String) {
    (agent.guild_id.clone(), agent.agent_id.clone())
}

/// All agents.
async fn list(client: &Client) -> Result<Vec<Agent>> {
    let mut request = pb::ListAgentsRequest { page_size: 1000, ..Default::default() };
    let mut all = vec![];
    loop {
        let page = client.engine.clone().list_agents(request.clone()).await?.into_inner();
        all.extend(page.agents);
        if page.next_page_token.is_empty() {
            return Ok(all);
        }
        request.page_token = page.next_page_token;
    }
}
