//! `engine-svc dev`: the whole stack on one machine, for daily work and for tests.
//!
//! Brings up a private Redis, engine-svc in this process and agent-hosts as its children; waits until all hosts take
//! agents; then either runs a command with the stack's addresses in its environment, or waits for Ctrl-C. Ends what it
//! started, in reverse.

mod hosts;

use crate::settings::{DevSettings, Settings};
use anyhow::{Context as _, bail};
use futures_util::future::{BoxFuture, FutureExt as _};
use hosts::Hosts;
use rustic_registry::{
    RedisRegistry, RedisSettings, Registry as _,
    dev_server::{DevServer, Durability},
};
use rustic_telemetry::{TelemetrySettings, settings::LogFormat};
use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};
use tokio::{
    net::TcpListener,
    process::Command,
    time::{interval, timeout},
};
use tokio_util::sync::CancellationToken;

/// Longest wait for the hosts to come up.
const COME_UP: Duration = Duration::from_secs(30);

/// Keeps this process's own log out of the way of what the stack prints for people.
pub fn quiet(telemetry: &mut TelemetrySettings) {
    if telemetry.log_level == "info" && telemetry.log_format == LogFormat::Auto {
        "warn".clone_into(&mut telemetry.log_level);
    }
}

/// Where the stack is.
struct Stack {
    engine: SocketAddr,
    redis: String,
    logs: PathBuf,
    hosts: Vec<(String, String)>,
}

/// Runs the stack until `stop`, or until the command ends; then the exit code is the command's. Boxed for the same reason as
/// `run` of the service.
pub fn run(
    settings: Settings,
    dev: DevSettings,
    stop: CancellationToken,
) -> BoxFuture<'static, anyhow::Result<ExitCode>> {
    stack(settings, dev, stop).boxed()
}

async fn stack(settings: Settings, dev: DevSettings, stop: CancellationToken) -> anyhow::Result<ExitCode> {
    let scratch = tempdir().context("cannot make a temporary folder")?;
    let redis = DevServer::start(&scratch, Durability::EverySecond)?;
    let listener = TcpListener::bind(dev.listen).await.with_context(|| {
        format!("cannot listen on {}; is another stack running? --listen 127.0.0.1:0 takes a free port", dev.listen)
    })?;
    let engine = listener.local_addr()?;
    let logs = dev.log_dir.clone().unwrap_or_else(|| scratch.join("logs"));
    std::fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;

    // Nobody but this stack has used its Redis.
    let settings = Settings { redis_url: redis.url(), new_registry: true, ..settings };
    let engine_stop = CancellationToken::new();
    let mut service = tokio::spawn(crate::serve(settings, listener, engine_stop.clone()));
    let mut hosts = Hosts::start(&dev, engine, &redis.url(), &scratch, &logs)?;
    let outcome = async {
        let addresses = wait_for_hosts(&redis.url(), &mut hosts, &logs).await?;
        let stack = Stack { engine, redis: redis.url(), logs: logs.clone(), hosts: addresses };
        if dev.command.is_empty() {
            banner(&stack);
            while let Some(ended) = stop.run_until_cancelled(hosts.next_end()).await {
                say(&format!("{ended}; its log is in {}", stack.logs.display()));
            }
            Ok(ExitCode::SUCCESS)
        } else {
            run_command(&dev.command, &stack, &stop).await
        }
    };
    // An engine that fails ends the stack: without it nothing is of use.
    let outcome = tokio::select! {
        outcome = outcome => outcome,
        served = &mut service => {
            let served = served.context("engine-svc panicked").and_then(|served| served);
            served.and_then(|()| bail!("engine-svc ended before the stack"))
        }
    };
    hosts.stop().await;
    engine_stop.cancel();
    if !service.is_finished() {
        service.await.context("engine-svc panicked")??;
    }
    drop(redis);
    // Logs that were asked for elsewhere stay; the rest of the scratch folder goes.
    let _ = std::fs::remove_dir_all(&scratch);
    outcome
}

fn tempdir() -> std::io::Result<PathBuf> {
    let dir = std::env::temp_dir().join(format!("engine-svc-dev-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// Waits until every host holds a lease. Returns their ids and addresses.
async fn wait_for_hosts(
    redis: &str,
    hosts: &mut Hosts,
    logs: &std::path::Path,
) -> anyhow::Result<Vec<(String, String)>> {
    let registry = RedisRegistry::new(&RedisSettings::new(redis))?;
    let all_ready = async {
        let mut ticks = interval(Duration::from_millis(50));
        loop {
            ticks.tick().await;
            if let Some(ended) = hosts.ended()? {
                bail!("{ended} ended at once; its log is in {}", logs.display());
            }
            let view = registry.hosts().await?;
            let ready = view.hosts.iter().filter(|h| h.takes_agents());
            let ready: Vec<_> = ready.map(|h| (h.host.to_string(), h.address.clone())).collect();
            if ready.len() == hosts.count() && !view.held {
                return Ok(ready);
            }
        }
    };
    timeout(COME_UP, all_ready).await.with_context(|| format!("the hosts did not come up; see {}", logs.display()))?
}

#[allow(clippy::print_stdout, reason = "this subcommand talks to a person at a terminal")]
fn banner(stack: &Stack) {
    let Stack { engine, redis, logs, hosts } = stack;
    println!("engine-svc    {engine}");
    for (host, address) in hosts {
        println!("{host}  {address}");
    }
    println!("redis         {redis}");
    println!("logs          {}", logs.display());
    println!();
    let (grpcurl, python) = (hosts::of_venv("grpcurl"), hosts::of_venv("python"));
    println!("try:   {grpcurl} -plaintext {engine} rustic_ai.engine.v1.EngineService/ListHosts");
    println!("guild: RUSTIC_ENGINE_ADDRESS={engine} RUSTIC_REDIS_URL={redis} {python} examples/ping_pong_guild.py");
    println!("stop:  Ctrl-C");
}

#[allow(clippy::print_stdout, reason = "this subcommand talks to a person at a terminal")]
fn say(line: &str) {
    println!("{line}");
}

/// Runs the command until it ends. When asked to stop, asks the command and goes on waiting for it.
async fn run_command(argv: &[String], stack: &Stack, stop: &CancellationToken) -> anyhow::Result<ExitCode> {
    let (program, arguments) = argv.split_first().context("no command")?;
    let mut child = Command::new(program)
        .args(arguments)
        .env("RUSTIC_ENGINE_ADDRESS", stack.engine.to_string())
        .env("RUSTIC_REDIS_URL", &stack.redis)
        .env("RUSTIC_DEV_LOGS", &stack.logs)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    let status = match stop.run_until_cancelled(child.wait()).await {
        Some(status) => status?,
        None => {
            hosts::terminate(&child);
            child.wait().await?
        }
    };
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(1)))
}
