//! How long agents are away when their host drains, or dies.
//!
//! An agent's record says to the millisecond when it was back; when it went away is seen by polling. Polling costs the processor time
//! that agents need, so it is done rarely once nothing more is to be seen.

use crate::{
    client::{Client, GUILD_SIZE, Guild},
    figures::{milliseconds, percentile, seconds},
    host::Host,
};
use anyhow::{Result, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use rustic_proto::{
    agent::v1::{Agent, AgentPhase},
    engine::v1 as pb,
};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};
use tokio::time::{Instant, sleep};

/// Create calls under way at any time.
const AT_ONCE: usize = 16;
/// The host that ends, and the one that its agents may move to.
const ENDS: &str = "agent-host-0";
const OTHER: &str = "agent-host-1";
/// Time after which nothing is left to settle before the blow.
const SETTLED: Duration = Duration::from_secs(3);
/// Longest wait for all agents to be back.
const PATIENCE: Duration = Duration::from_secs(120);

/// What happens to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Blow {
    /// SIGTERM: it gives its agents away.
    Drain,
    /// SIGKILL: its lease must end first.
    Kill,
    /// SIGKILL, and started again in place: its agents come back to it.
    Restart,
}

impl Blow {
    /// Time between two looks at all agents. Those of a host that drains go one by one, the others all at once.
    fn look_every(self, any_went: bool) -> Duration {
        Duration::from_millis(match self {
            Self::Drain => 20,
            Self::Kill | Self::Restart if any_went => 250,
            Self::Kill | Self::Restart => 50,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Drain => "drain of a host",
            Self::Kill => "kill -9 of a host",
            Self::Restart => "kill -9 of a host and restart in place",
        }
    }

    /// Deals it; a host that was started again is ended with the value.
    fn strike(self, host: &Host) -> Result<Option<Again>> {
        match self {
            Self::Drain => host.signal(Signal::TERM)?,
            Self::Kill => host.signal(Signal::KILL)?,
            Self::Restart => return Ok(Some(Again(host.restart()?))),
        }
        Ok(None)
    }
}

/// A host that was started by this program.
struct Again(std::process::Child);

impl Drop for Again {
    fn drop(&mut self) {
        // Both fail only when it has ended already; its watchdog ends its agents.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Puts `count` agents on one of two hosts and up to a guild of the same kind on the other, ends the first, and watches its agents
/// come back.
pub(crate) async fn run(client: &Client, count: usize, blow: Blow) -> Result<Value> {
    let host = Host::by_id(ENDS)?;
    let guilds = fill(client, count).await?;
    let there: Vec<_> = list(client).await?.into_iter().filter(|a| a.host_id == ENDS).collect();

    let (began, patience) = (SystemTime::now(), Instant::now() + PATIENCE);
    let _again = blow.strike(&host)?;
    let mut away: BTreeMap<_, _> =
        there.iter().map(|a| (key(a), Away { epoch: a.epoch, ran: began, since: None, back: None })).collect();
    while away.values().any(|a| a.back.is_none()) {
        ensure!(Instant::now() < patience, "not all agents came back within {PATIENCE:?}");
        let agents = list(client).await?;
        let now = SystemTime::now();
        for agent in &agents {
            if let Some(away) = away.get_mut(&key(agent)) {
                away.see(agent, now);
            }
        }
        sleep(blow.look_every(away.values().any(|a| a.since.is_some()))).await;
    }
    let gaps: Vec<_> = away.values().filter_map(|a| Some(between(a.since?, a.back?))).collect();
    let all_back = away.values().filter_map(|a| a.back).max().map(|at| between(began, at)).unwrap_or_default();
    let first_away = away.values().filter_map(|a| a.since).min().map(|at| between(began, at));
    for guild in &guilds {
        client.stop(guild).await?;
    }
    Ok(json!({"recovery": [{
        "name": blow.name(),
        "n": there.len(),
        "guild_size": GUILD_SIZE,
        "all_back_seconds": seconds(all_back),
        "first_away_after_seconds": first_away.map(seconds),
        "all_back_after_first_away_seconds": first_away.map(|at| seconds(all_back.saturating_sub(at))),
        "gap_p50_ms": milliseconds(percentile(&gaps, 0.50)),
        "gap_p99_ms": milliseconds(percentile(&gaps, 0.99)),
        "gap_max_ms": milliseconds(percentile(&gaps, 1.0)),
    }]}))
}

/// Fills the host that ends while the other takes none, then gives that one a guild, or half of `count` if less. Returns all guilds.
async fn fill(client: &Client, count: usize) -> Result<Vec<Guild>> {
    let mut engine = client.engine.clone();
    engine.drain_host(pb::DrainHostRequest { host_id: OTHER.to_owned(), force: pb::ForceMode::None.into() }).await?;
    let mut guilds = create(client, count, ENDS).await?;
    engine.undrain_host(pb::UndrainHostRequest { host_id: OTHER.to_owned() }).await?;
    // Until every engine has seen it; then the emptier host is preferred.
    sleep(SETTLED).await;
    guilds.extend(create(client, GUILD_SIZE.min(count / 2), OTHER).await?);
    // Until the zygotes have learned what these agents import.
    sleep(SETTLED).await;
    Ok(guilds)
}

async fn create(client: &Client, count: usize, host: &str) -> Result<Vec<Guild>> {
    let (guilds, launches) = client.launches(count);
    let creates = launches.into_iter().map(|launch| client.create(launch));
    let answers: Vec<_> = stream::iter(creates).buffer_unordered(AT_ONCE).try_collect().await?;
    let elsewhere = answers.into_iter().filter_map(|a| a.agent).find(|agent| agent.host_id != host);
    ensure!(elsewhere.is_none(), "not on {host}: {elsewhere:?}");
    Ok(guilds)
}

/// An agent of the host that ends.
struct Away {
    epoch: u64,
    /// When it was last seen to run there.
    ran: SystemTime,
    /// The same, once it is known to run there no more: it was away for at most so long.
    since: Option<SystemTime>,
    /// When it was RUNNING elsewhere, or in its host's next life.
    back: Option<SystemTime>,
}

impl Away {
    fn see(&mut self, agent: &Agent, now: SystemTime) {
        let runs = agent.phase() == AgentPhase::Running;
        let moved = agent.epoch != self.epoch;
        if moved || !runs {
            self.since.get_or_insert(self.ran);
        } else {
            self.ran = now;
        }
        if let Some(running) = agent.last_running_time.filter(|_| moved && runs) {
            self.back = SystemTime::try_from(running).ok();
        }
    }
}

/// From one moment to a later one.
fn between(earlier: SystemTime, later: SystemTime) -> Duration {
    later.duration_since(earlier).unwrap_or_default()
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
