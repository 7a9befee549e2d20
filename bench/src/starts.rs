//! How long agents take to start, one by one and all at once, and which step takes how much of it.

use crate::{
    client::{Client, Guild},
    figures::{seconds, times},
};
use anyhow::Result;
use futures_util::future::try_join_all;
use rustic_proto::agent::v1::{AgentLaunch, CommandRuntime, Runtime, StartTimings, runtime::Kind};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;

/// The steps of a start in their order, and where an answer has them.
type Step = (&'static str, fn(&StartTimings) -> Option<prost_types::Duration>);
const STEPS: [Step; 9] = [
    ("claim", |t| t.claim),
    ("host call", |t| t.host_call),
    ("· admit", |t| t.admit),
    ("· queue", |t| t.queue),
    ("· fork", |t| t.spawn),
    ("· import", |t| t.import),
    ("· parse and initialise", |t| t.initialize),
    ("· advance", |t| t.advance),
    ("engine, all", |t| t.total),
];

fn steps(timings: &[StartTimings]) -> Vec<Value> {
    let of = |read: fn(&StartTimings) -> Option<prost_types::Duration>| {
        let seconds = timings.iter().filter_map(read);
        seconds.map(|d| Duration::new(d.seconds.unsigned_abs(), d.nanos.unsigned_abs())).collect::<Vec<_>>()
    };
    STEPS.iter().map(|(name, read)| times(name, &of(*read))).collect()
}

async fn stop(client: &Client, guilds: &[Guild]) -> Result<()> {
    for guild in guilds {
        client.stop(guild).await?;
    }
    Ok(())
}

/// Creates `count` agents, each after the one before was ready.
pub(crate) async fn one_by_one(client: &Client, count: usize) -> Result<Value> {
    let (guilds, launches) = client.launches(count);
    let (mut took, mut timings) = (vec![], vec![]);
    for launch in launches {
        let began = Instant::now();
        let answer = client.create(launch).await?;
        took.push(began.elapsed());
        timings.extend(answer.timings);
    }
    stop(client, &guilds).await?;
    Ok(json!({"one_by_one": [times("ours, Rust client", &took)], "steps": steps(&timings)}))
}

/// Creates `count` agents that are a plain program, and stops each: what is left is ours.
pub(crate) async fn commands(client: &Client, count: usize) -> Result<Value> {
    let (_guilds, launches) = client.launches(count);
    let (mut created, mut stopped, mut timings) = (vec![], vec![], vec![]);
    for launch in launches {
        let began = Instant::now();
        let answer = client.create(program(launch)).await?;
        created.push(began.elapsed());
        let agent = answer.agent.unwrap_or_default();
        timings.extend(answer.timings);
        let began = Instant::now();
        client.stop_agent(&agent.guild_id, &agent.agent_id).await?;
        stopped.push(began.elapsed());
    }
    let mut rows = vec![times("create to RUNNING", &created), times("stop, reaped", &stopped)];
    rows.extend(steps(&timings));
    Ok(json!({"commands": rows}))
}

/// The launch of a program that waits to be ended.
fn program(launch: AgentLaunch) -> AgentLaunch {
    let command = CommandRuntime { argv: ["sleep", "1000"].map(str::to_owned).to_vec() };
    AgentLaunch { runtime: Some(Runtime { kind: Some(Kind::Command(command)) }), ..launch }
}

/// Creates `count` agents at once.
pub(crate) async fn burst(client: &Client, count: usize) -> Result<Value> {
    let (guilds, launches) = client.launches(count);
    let began = Instant::now();
    try_join_all(launches.into_iter().map(|launch| client.create(launch))).await?;
    let took = began.elapsed();
    stop(client, &guilds).await?;
    let per_second = (count as f64 / took.as_secs_f64() * 100.0).round() / 100.0;
    let row = json!({"name": "ours, Rust client", "n": count, "seconds": seconds(took), "per_second": per_second});
    Ok(json!({"burst": [row]}))
}
