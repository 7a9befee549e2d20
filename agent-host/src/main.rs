//! The program agent-host: parse, telemetry, run until told to stop. Asked for by its first argument, it is the watchdog of
//! another agent-host instead.

use agent_host::{Settings, settings::ENVIRONMENT_PREFIX, watchdog};
use clap::{CommandFactory as _, FromArgMatches as _};
use rustic_telemetry::{Telemetry, settings::with_environment_twins, signals};
use std::os::fd::AsFd as _;

fn main() -> anyhow::Result<()> {
    if std::env::args_os().nth(1).is_some_and(|word| word == watchdog::WORD) {
        // Before there is any thread: a watchdog is as little as can be.
        return Ok(watchdog::process::run(std::io::stdin().as_fd())?);
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
