//! Agents in control groups of their own, on a machine that lets a host make some; and a host that may make none.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use rustic_proto::{
    agent::v1::{Agent, AgentLaunch, AgentPhase, RestartMode, RestartPolicy},
    engine::v1 as pb,
};
use rustic_tests::{
    Stack, StackSettings, Zygote,
    launches::{RESPONDER, python, script},
    processes::lives,
    program::Program,
    stack::words,
    venv, wait_until,
};
use rustix::process::Signal;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A group for the hosts of one test. Dropping it removes it.
struct Delegated(PathBuf);

impl Delegated {
    /// `None` where version 2 is not mounted, or not to be written.
    fn make(name: &str) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let mount = mounts.find(|fields| fields[2] == "cgroup2")?[1].to_owned();
        let path = Path::new(&mount).join(format!("rustic-test-{name}-{}", std::process::id()));
        fs::create_dir(&path).ok()?;
        Some(Self(path))
    }

    /// What starts a host in it.
    fn starter(&self) -> Vec<String> {
        let script = format!("echo 0 > {}/cgroup.procs && exec \"$@\"", self.0.display());
        ["sh", "-c", &script, "sh"].map(str::to_owned).to_vec()
    }

    /// Names of the groups of all agents, of all lives of hosts.
    fn runs(&self) -> Vec<String> {
        let below = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.path());
        let all = below(&self.0).filter(|path| path.is_dir()).flat_map(|life| below(&life).collect::<Vec<_>>());
        let runs = all.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("run-"));
        runs.map(|path| path.display().to_string()).collect()
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        let below = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.path());
        for life in below(&self.0).filter(|path| path.is_dir()).collect::<Vec<_>>() {
            below(&life).filter(|path| path.is_dir()).for_each(|group| _ = fs::remove_dir(group));
            let _ = fs::remove_dir(life);
        }
        let _ = fs::remove_dir(&self.0);
    }
}

/// The group of a process, by its last two names.
fn group_of(pid: u32) -> String {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let group = groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default();
    let names: Vec<_> = group.rsplit('/').take(2).collect();
    names.into_iter().rev().collect::<Vec<_>>().join("/")
}

/// An agent that starts two processes which leave it, and says their ids and whether it gets out of its group.
fn daemons(agent: &str, outside: &Path) -> AgentLaunch {
    let out = outside.join("cgroup.procs");
    let text = format!(
        "setsid sleep 1000 & (env -i setsid sh -c 'echo daemon $$; exec sleep 1000' &); \
         (echo 0 > {}) 2>/dev/null && echo got out || echo stays in; wait",
        out.display()
    );
    script("g", agent, &text)
}

/// Ids that agents wrote as `daemon <id>`.
fn daemon_ids(stack: &Stack) -> Vec<u32> {
    let log = stack.hosts[0].log();
    log.iter().filter_map(|line| line["message"].as_str()?.strip_prefix("daemon ")?.parse().ok()).collect()
}

#[tokio::test]
async fn an_agent_has_a_group_of_its_own_with_all_that_it_starts_in_every_life_and_cannot_leave_it() {
    let Some(delegated) = Delegated::make("own") else {
        return eprintln!("no control groups of version 2 can be made here: only the fallback is tested");
    };
    let settings = StackSettings {
        host_starter: delegated.starter(),
        host_arguments: words("--agent-processes 24 --resource memory=1000000000"),
        zygote: Zygote::On,
        ..StackSettings::default()
    };
    let mut stack = Stack::with(settings).await;
    let told = stack.hosts[0]
        .logged("it to say what groups limit", |line| {
            line["message"].as_str().is_some_and(|text| text.starts_with("each agent has a control group of its own"))
        })
        .await;
    let limits = told["limits"].as_str().unwrap().to_owned();

    let command = stack.create(daemons("command", &delegated.0)).await.unwrap();
    let forked = stack.create(python("g2", "forked", RESPONDER)).await.unwrap();
    stack.hosts[0].logged("it to have tried", |line| line["message"] == "stays in").await;
    let daemon = wait_until("a daemon", async || daemon_ids(&stack).first().copied().ok_or(())).await;
    for pid in [command.pid, forked.pid] {
        assert!(group_of(pid).contains("/run-"), "{}", group_of(pid));
    }
    assert_ne!(group_of(command.pid), group_of(forked.pid));
    assert_eq!(group_of(daemon), group_of(command.pid));
    assert!(group_of(stack.hosts[0].pid()).ends_with("/host"));
    assert_eq!(delegated.runs().len(), 2);

    if limits.contains("pids") {
        let many = "for i in $(seq 60); do sleep 1000 & done 2>/dev/null; echo has $(jobs -p | wc -l); wait";
        stack.create(script("g", "many", many)).await.unwrap();
        let said = stack.hosts[0]
            .logged("it to have what it may", |line| {
                line["message"].as_str().is_some_and(|text| text.starts_with("has "))
            })
            .await;
        let has: usize = said["message"].as_str().unwrap()[4..].parse().unwrap();
        assert!(has < 24, "{has}");
        assert_eq!(stack.get("g", "many").await.unwrap().restarts, 0, "it lives on");
        stack.stop("g", "many").await.unwrap();
    }

    if limits.contains("cpu") {
        let group = |pid: u32, file: &str| {
            let life = delegated.0.join(format!("rustic-{}", stack.hosts[0].pid()));
            let name = group_of(pid);
            fs::read_to_string(life.join(name.rsplit('/').next().unwrap()).join(file)).unwrap()
        };
        let mut half = script("g", "half", "exec sleep 1000");
        half.agent_spec = r#"{"id": "half", "name": "half", "resources": {"num_cpus": 0.5}}"#.to_owned();
        let half = stack.create(half).await.unwrap();
        let weights = [half.pid, command.pid, stack.hosts[0].pid()].map(|pid| group(pid, "cpu.weight"));
        assert_eq!(weights, ["50\n", "100\n", "10000\n"]);
        stack.stop("g", "half").await.unwrap();
    }
    if limits.contains("memory") {
        // Each of its processes stays within its own limit.
        let takes = format!(
            "for i in 1 2 3 4; do {} -c 'import time; x = b\"x\" * (80 << 20); time.sleep(1000)' & done; wait",
            venv("python").display()
        );
        let mut greedy = script("g", "greedy", &takes);
        greedy.agent_spec =
            r#"{"id": "greedy", "name": "g", "resources": {"custom_resources": {"memory": 100663296}}}"#.to_owned();
        greedy.restart_policy = Some(RestartPolicy { mode: RestartMode::Never.into(), ..Default::default() });
        let request = pb::CreateAgentRequest { launch: Some(greedy.into()), ..Default::default() };
        stack.client.clone().create_agent(request).await.unwrap();
        let failed = stack.agent_is("it to fail", "g", "greedy", |a| a.phase() == AgentPhase::Failed).await;
        assert!(failed.message.contains("with all that it had started it had 26"), "{}", failed.message);
        assert!(failed.message.contains("268435456 are the limit"), "{}", failed.message);
        for (guild, agent, pid) in [("g", "command", command.pid), ("g2", "forked", forked.pid)] {
            assert_eq!(stack.get(guild, agent).await.unwrap().pid, pid, "others live on");
        }
        stack.stop("g", "greedy").await.unwrap();
    }

    // A second process of the agent has a group of its own, and nothing is left of the first.
    rustix::process::kill_process(rustix::process::Pid::from_raw(command.pid as i32).unwrap(), Signal::KILL).unwrap();
    let again = |agent: &Agent| agent.phase() == AgentPhase::Running && agent.restarts == 1;
    let again = stack.agent_is("it to run again", "g", "command", again).await;
    assert!(group_of(again.pid).contains("/run-") && !lives(daemon));
    wait_until("the first group to go", async || match delegated.runs() {
        two if two.len() == 2 => Ok(()),
        other => Err(other),
    })
    .await;

    // A second life of the host, whose first was killed.
    stack.hosts[0].signal(Signal::KILL);
    stack.hosts[0].ended().await;
    stack.restart_host(0);
    stack.wait_for_hosts().await;
    let back = |agent: &Agent| agent.phase() == AgentPhase::Running && agent.epoch > again.epoch;
    let back = stack.agent_is("it to be back", "g", "command", back).await;
    assert!(group_of(back.pid).contains(&format!("rustic-{}/run-", stack.hosts[0].pid())), "{}", group_of(back.pid));
    let back = |agent: &Agent| agent.phase() == AgentPhase::Running && agent.epoch > forked.epoch;
    let back = stack.agent_is("the other one to be back", "g2", "forked", back).await;
    assert!(group_of(back.pid).contains(&format!("rustic-{}/run-", stack.hosts[0].pid())), "{}", group_of(back.pid));
    let life = format!("rustic-{}/", stack.hosts[0].pid());
    let former = |runs: Vec<String>| runs.into_iter().filter(|run| !run.contains(&life)).collect::<Vec<_>>();
    assert_eq!(former(delegated.runs()), [""; 0], "groups of the former life");

    stack.stop("g", "command").await.unwrap();
    stack.stop("g2", "forked").await.unwrap();
    stack.assert_nothing_left().await;
    assert_eq!(delegated.runs(), [""; 0]);
    assert!(daemon_ids(&stack).into_iter().all(|pid| !lives(pid)));
    stack.hosts[0].signal(Signal::TERM);
    stack.hosts[0].ended().await;
}

#[tokio::test]
async fn a_host_in_the_root_group_leaves_it_alone_and_refuses_to_do_without_if_groups_are_required() {
    let root = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    if root.lines().any(|line| line.starts_with("0::") && line != "0::/") {
        return eprintln!("these tests run in a group of their own: what a host does in the root is not seen here");
    }
    let stack = Stack::start().await;
    let told = |text: &'static str| {
        move |line: &serde_json::Value| line["message"].as_str().is_some_and(|message| message.contains(text))
    };
    stack.hosts[0].logged("it to say why", told("agents have no control groups of their own")).await;
    let agent = stack.create(script("g", "a", "exec sleep 1000")).await.unwrap();
    assert!(!group_of(agent.pid).contains("rustic-"));
    let mut arguments = stack.host_arguments(1);
    arguments.extend(words("--agent-cgroups required"));
    let both = ["sh", "-c", "exec \"$@\" 2>&1", "sh"].map(str::to_owned);
    let mut refuses = Program::start_under(&both, "agent-host", &arguments, &[]);
    assert_eq!(refuses.ended().await.code(), Some(1));
    let said = refuses.text();
    assert!(said.contains("--agent-cgroups required"), "{said}");
}
