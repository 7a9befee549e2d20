//! The agent-hosts of a development stack: children of this process, each in a process group of its own, so that
//! Ctrl-C reaches this process first and the hosts are stopped in order.

use crate::settings::DevSettings;
use anyhow::Context as _;
use futures_util::future::{pending, select_all};
use std::{
    ffi::{OsStr, OsString},
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{
    process::{Child, Command},
    time::timeout,
};

/// Longest wait for a host to end.
const END: Duration = Duration::from_secs(20);

/// Setting of a host that says where its agents may write.
const CONFINEMENT_WRITE: &str = "AGENT_HOST_CONFINEMENT_WRITE";

/// The hosts.
pub(super) struct Hosts(Vec<(String, Child)>);

impl Hosts {
    pub(super) fn start(
        dev: &DevSettings,
        engine: SocketAddr,
        redis: &str,
        scratch: &Path,
        logs: &Path,
    ) -> anyhow::Result<Self> {
        let program = dev.agent_host.clone().map_or_else(beside_this_program, Ok)?;
        let python = dev.python.clone().unwrap_or_else(default_python);
        // Databases and certificates of somebody who tries things out lie where they work, or among what is temporary.
        let open = std::env::var_os(CONFINEMENT_WRITE).map_or_else(own_places, Ok)?;
        let start = |ordinal| -> anyhow::Result<(String, Child)> {
            let id = format!("agent-host-{ordinal}");
            let log = logs.join(format!("{id}.log"));
            let log = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
            let child = Command::new(&program)
                .args(["--host-id", &id, "--listen", "127.0.0.1:0", "--redis-url", redis])
                .args(["--engine-address", &engine.to_string(), "--max-agents", &dev.max_agents.to_string()])
                .arg("--python")
                .arg(&python)
                .arg("--work-dir")
                .arg(scratch)
                .env(CONFINEMENT_WRITE, &open)
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log)
                .process_group(0)
                .kill_on_drop(true)
                .spawn()
                .with_context(|| {
                    format!("cannot run {}; build it, or name it with --agent-host", program.display())
                })?;
            Ok((id, child))
        };
        (0..dev.hosts).map(start).collect::<anyhow::Result<_>>().map(Self)
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// A host that has ended, if one has.
    pub(super) fn ended(&mut self) -> std::io::Result<Option<&str>> {
        for (id, child) in &mut self.0 {
            if child.try_wait()?.is_some() {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    /// Waits for the next host to end. Returns a sentence on how it ended. Pends for ever when none is left. Cancel-safe.
    pub(super) async fn next_end(&mut self) -> String {
        if self.0.is_empty() {
            return pending().await;
        }
        let (status, index) = {
            let ends = self.0.iter_mut().map(|(_, child)| Box::pin(child.wait()));
            let (status, index, _others) = select_all(ends).await;
            (status, index)
        };
        let (id, _child) = self.0.remove(index);
        match status {
            Ok(status) => format!("{id} ended: {status}"),
            Err(error) => format!("{id} cannot be watched: {error}"),
        }
    }

    /// Asks all hosts to end and waits for them; kills those that do not.
    pub(super) async fn stop(mut self) {
        self.0.iter().for_each(|(_, child)| terminate(child));
        for (id, child) in &mut self.0 {
            if timeout(END, child.wait()).await.is_err() {
                tracing::warn!(host = id, "did not end in time and is killed");
                // Fails only when it has ended meanwhile.
                let _ = child.kill().await;
            }
        }
    }
}

/// The directory of whoever started this program, and that for what is temporary.
fn own_places() -> anyhow::Result<OsString> {
    let here = std::env::current_dir().context("this program has no working directory")?;
    Ok([here.into_os_string(), std::env::temp_dir().into_os_string()].join(OsStr::new(",")))
}

/// SIGTERM to a child that has not been reaped.
pub(super) fn terminate(child: &Child) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        // Fails only when it has ended already.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}

fn beside_this_program() -> anyhow::Result<PathBuf> {
    let here =
        std::env::current_exe().context("cannot find where this program is; name agent-host with --agent-host")?;
    Ok(here.with_file_name("agent-host"))
}

/// How to call a program: that of `.venv` if there is one.
pub(super) fn of_venv(program: &str) -> String {
    let path = Path::new(".venv/bin").join(program);
    if path.is_file() { path.display().to_string() } else { program.to_owned() }
}

fn default_python() -> PathBuf {
    let venv = Path::new(".venv/bin/python");
    // Absolute, because hosts may run elsewhere one day.
    std::path::absolute(venv).ok().filter(|path| path.is_file()).unwrap_or_else(|| "python3".into())
}
