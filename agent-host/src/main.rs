//! The program agent-host: parse, telemetry, run until told to stop.

use agent_host::{Settings, settings::ENVIRONMENT_PREFIX};
use clap::{CommandFactory as _, FromArgMatches as _};
use rustic_telemetry::{Telemetry, settings::with_environment_twins, signals};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let command = with_environment_twins(Settings::command(), ENVIRONMENT_PREFIX);
    let settings = Settings::from_arg_matches(&command.get_matches())?;
    let telemetry = Telemetry::start("agent-host", &settings.telemetry)?;
    let result = agent_host::run(settings, signals::stop_requested()?).await;
    telemetry.stop();
    result
}
