//! Flags of telemetry, and the rule that every flag has an environment twin.

use clap::{Args, Command, ValueEnum};
use std::net::SocketAddr;

/// Form of the log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Pretty on a terminal, JSON elsewhere.
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Pretty,
}

/// Settings of logs and traces.
#[derive(Debug, Clone, Args)]
pub struct TelemetrySettings {
    /// Level of log lines: error, warn, info, debug or trace, or a tracing filter such as `info,engine_svc=debug`
    #[arg(long, default_value = "info")]
    pub log_level: String,
    /// Form of log lines
    #[arg(long, value_enum, default_value_t = LogFormat::Auto)]
    pub log_format: LogFormat,
    /// OTLP gRPC endpoint for traces, such as http://collector:4317; no traces when absent
    #[arg(long, value_name = "URL")]
    pub otlp_endpoint: Option<String>,
    /// Address that serves Prometheus metrics at /metrics, ip:port; no metrics when absent
    #[arg(long, value_name = "IP:PORT")]
    pub metrics_listen: Option<SocketAddr>,
}

/// Gives every long flag of a program and its subcommands an environment twin: `--lease-ttl` becomes
/// `<PREFIX>_LEASE_TTL`.
pub fn with_environment_twins(command: Command, prefix: &str) -> Command {
    let twin = |arg: clap::Arg| match arg.get_long() {
        Some(long) if long != "help" && long != "version" => {
            // Clap wants names that live as long as the program; this runs once, at start.
            let name = format!("{prefix}_{}", long.replace('-', "_").to_uppercase());
            arg.env(&*Box::leak(name.into_boxed_str()))
        }
        _ => arg,
    };
    command.mut_args(twin).mut_subcommands(|sub| with_environment_twins(sub, prefix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        telemetry: TelemetrySettings,
    }

    #[test]
    fn every_flag_has_an_environment_twin() {
        use clap::CommandFactory as _;
        let command = with_environment_twins(Program::command(), "ENGINE_SVC");
        let twins: Vec<_> = command.get_arguments().filter_map(|a| a.get_env()?.to_str()).collect();
        let names = ["LOG_LEVEL", "LOG_FORMAT", "OTLP_ENDPOINT", "METRICS_LISTEN"];
        assert_eq!(twins, names.map(|name| format!("ENGINE_SVC_{name}")));
        let program = Program::try_parse_from(["p"]).expect("defaults");
        assert_eq!(program.telemetry.log_level, "info");
    }
}
