//! The program engine-svc: parse, telemetry, run until asked to stop.

use clap::{CommandFactory as _, FromArgMatches as _};
use engine_svc::{Command, Program, dev, settings::ENVIRONMENT_PREFIX};
use rustic_telemetry::{Telemetry, settings::with_environment_twins, signals};
use std::process::ExitCode;

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let command = with_environment_twins(Program::command(), ENVIRONMENT_PREFIX);
    let program = Program::from_arg_matches(&command.get_matches())?;
    let mut settings = program.settings;
    if program.command.is_some() {
        dev::quiet(&mut settings.telemetry);
    }
    let telemetry = Telemetry::start("engine-svc", &settings.telemetry)?;
    let stop = signals::stop_requests()?.stop;
    let result = match program.command {
        None => engine_svc::run(settings, stop).await.map(|()| ExitCode::SUCCESS),
        Some(Command::Dev(dev)) => dev::run(settings, dev, stop).await,
    };
    telemetry.stop();
    result
}
