//! The program agent-host: parse, telemetry, run until asked to stop. Asked for by its first argument, it is the watchdog of
//! another agent-host instead.

use agent_host::{Settings, secrecy, settings::ENVIRONMENT_PREFIX, watchdog};
use anyhow::Context as _;
use clap::{CommandFactory as _, FromArgMatches as _};
use rustic_telemetry::{Telemetry, settings::with_environment_twins, signals};
use std::os::fd::AsFd as _;

fn main() -> anyhow::Result<()> {
    // Before there is any thread.
    secrecy::begin().context("what this program knows cannot be kept from others")?;
    let mut words = std::env::args().skip(1);
    if words.next().is_some_and(|word| word == watchdog::WORD) {
        let life = words.next().context("a watchdog is started by agent-host alone")?.parse()?;
        // A watchdog is as little as can be.
        return Ok(watchdog::process::run(std::io::stdin().as_fd(), life)?);
    }
    host()
}

#[tokio::main]
async fn host() -> anyhow::Result<()> {
    let command = with_environment_twins(Settings::command(), ENVIRONMENT_PREFIX);
    let settings = Settings::from_arg_matches(&command.get_matches())?;
    let telemetry = Telemetry::start("agent-host", &settings.telemetry)?;
    let result = agent_host::run(settings, signals::stop_requests()?).await;
    telemetry.stop();
    result
}
