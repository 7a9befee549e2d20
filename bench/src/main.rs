//! Puts load on a running stack and prints what it measured as one line of JSON, for `bench/rustic_bench` to collect.
//!
//! Runs as a command of `engine-svc dev`, which puts the addresses of engine-svc and Redis into its environment.

mod client;
mod density;
mod figures;
mod host;
mod recovery;
mod starts;

use clap::Parser;
use client::Client;

/// What to measure.
#[derive(Debug, Parser)]
#[command(name = "rustic-bench")]
enum Measure {
    /// Creates agents one after the other
    OneByOne {
        /// How many
        #[arg(long)]
        count: usize,
    },
    /// Creates agents all at once
    Burst {
        /// How many
        #[arg(long)]
        count: usize,
    },
    /// Creates agents that are a plain program, one after the other, and stops each
    Commands {
        /// How many
        #[arg(long)]
        count: usize,
    },
    /// Fills one host, looks at it while it is full, and empties it
    Density {
        /// Guilds of twenty agents
        #[arg(long)]
        guilds: usize,
    },
    /// Ends one of two hosts and watches its agents come back on the other
    Recovery {
        /// How many on each host
        #[arg(long)]
        count: usize,
        /// What happens to the host
        #[arg(long, value_enum)]
        blow: recovery::Blow,
    },
}

#[tokio::main]
#[allow(clippy::print_stdout, reason = "its output is what it is for")]
async fn main() -> anyhow::Result<()> {
    let client = Client::from_environment()?;
    // Not measured: from the first agents the zygote learns what to preload.
    client.warm_up().await?;
    let rows = match Measure::parse() {
        Measure::OneByOne { count } => starts::one_by_one(&client, count).await?,
        Measure::Burst { count } => starts::burst(&client, count).await?,
        Measure::Commands { count } => starts::commands(&client, count).await?,
        Measure::Density { guilds } => density::run(&client, guilds).await?,
        Measure::Recovery { count, blow } => recovery::run(&client, count, blow).await?,
    };
    println!("{rows}");
    Ok(())
}
