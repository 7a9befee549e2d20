//! One program of ours, started and ended by a test, and what it logs.

use crate::{PATIENCE, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex},
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    time::timeout,
};

/// A running program. Dropping it kills it.
pub struct Program {
    name: String,
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Program {
    /// Starts `name` of the workspace with `arguments`.
    pub fn start(name: &str, arguments: &[String]) -> Self {
        Self::start_with(name, arguments, &[])
    }

    /// The same with environment variables.
    pub fn start_with(name: &str, arguments: &[String], environment: &[(&str, &str)]) -> Self {
        Self::start_under(&[], name, arguments, environment)
    }

    /// The same by another program, such as `prlimit`, which becomes the one that it is given.
    pub fn start_under(starter: &[String], name: &str, arguments: &[String], environment: &[(&str, &str)]) -> Self {
        let words = starter.iter().map(Into::into).chain([binary(name)]);
        let mut words = words.chain(arguments.iter().map(Into::into));
        let mut child = Command::new(words.next().expect("the program itself, at least"))
            .args(words)
            .env("RUST_BACKTRACE", "1")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|e| panic!("cannot run {name}: {e}; run make build"));
        let lines = Arc::new(Mutex::new(vec![]));
        let mut stdout = BufReader::new(child.stdout.take().expect("piped")).lines();
        let kept = lines.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = stdout.next_line().await {
                kept.lock().unwrap().push(line);
            }
        });
        Self { name: name.to_owned(), child, lines }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("it has not been waited for")
    }

    /// What it logged so far, as JSON.
    pub fn log(&self) -> Vec<Value> {
        let lines = self.lines.lock().unwrap();
        lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// What it logged so far, as text.
    pub fn text(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    /// Waits for a log line that `fits`.
    pub async fn logged(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        wait_until(what, async || self.log().into_iter().find(|l| fits(l)).ok_or_else(|| self.text())).await
    }

    /// Waits until it serves. Returns its address.
    pub async fn address(&self) -> String {
        let line = self.logged(&format!("{} to serve", self.name), |l| l["message"] == "serving").await;
        line["address"].as_str().expect("an address").to_owned()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).expect("a pid")).expect("not zero");
        kill_process(pid, signal).expect("it lives");
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> std::process::ExitStatus {
        let end = timeout(PATIENCE, self.child.wait()).await;
        end.unwrap_or_else(|_| panic!("{} did not end; its log:\n{}", self.name, self.text())).expect("waited")
    }

    /// Asks it to end and waits for that.
    pub async fn stop(&mut self) -> std::process::ExitStatus {
        self.signal(Signal::TERM);
        self.ended().await
    }
}

/// A binary beside this test.
fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    test.parent().and_then(|deps| deps.parent()).expect("target/<profile>/deps").join(name)
}
