//! An agent that uses more than it may harms itself, and nobody else.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use rustic_proto::{agent::v1 as agent_pb, reason::Reason};
use rustic_tests::{
    Bus, Modules, Stack, StackSettings, Zygote,
    launches::{python, script},
    processes::lives,
    wait_until,
};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;

/// Takes 1 GiB as it is built, or when a thread of its own finds a file; says what came of it.
const GREEDY: &str = "import os, threading, time\nfrom rustic_ai.core.guild.agent import Agent\n\
    def take():\n    try:\n        got = bytearray(1 << 30)\n        print('GOT', len(got), flush=True)\n\
    \x20   except MemoryError:\n        print('MEMORY ERROR', flush=True)\n\
    class Later(Agent):\n    def __init__(self):\n        threading.Thread(target=take, daemon=True).start()\n\
    class AtOnce(Agent):\n    def __init__(self):\n        self.everything = bytearray(1 << 30)\n\
    class Modest(Agent):\n    def __init__(self):\n        self.some = bytearray(50 << 20)\n        print('MODEST', flush=True)\n";

/// An agent of one of these classes that may use so much memory; `None`: its host says how much.
fn agent(id: &str, class: &str, memory: Option<f64>) -> agent_pb::AgentLaunch {
    let launch = python("g", id, &format!("greedy.{class}"));
    let mut spec: Value = serde_json::from_str(&launch.agent_spec).unwrap();
    if let Some(memory) = memory {
        spec["resources"] = json!({"custom_resources": {"memory": memory}});
    }
    agent_pb::AgentLaunch { agent_spec: spec.to_string(), ..launch }
}

#[tokio::test]
async fn an_allocation_beyond_the_memory_limit_fails_in_the_agent_alone_in_every_life() {
    let modules = Modules::new(&[("greedy", GREEDY)]);
    for zygote in [Zygote::On, Zygote::Off] {
        let stack = Stack::with(StackSettings { zygote, ..modules.settings(&["--resource", "memory=8e9"]) }).await;
        let said = |pid: u32, what: &'static str| {
            move |line: &Value| line["message"].as_str().is_some_and(|m| m.starts_with(what)) && line["pid"] == pid
        };
        let free = stack.create(agent("free", "Later", None)).await.unwrap();
        stack.hosts[0].logged("what has no limit to get it", said(free.pid, "GOT")).await;
        let modest = stack.create(agent("modest", "Modest", Some(200e6))).await.unwrap();
        stack.hosts[0].logged("what stays below to live", said(modest.pid, "MODEST")).await;

        let greedy = stack.create(agent("greedy", "Later", Some(200e6))).await.unwrap();
        stack.hosts[0].logged("the allocation to fail", said(greedy.pid, "MEMORY ERROR")).await;
        assert!(lives(greedy.pid), "its handler can say so");
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(greedy.pid.try_into().unwrap()).unwrap(),
            Signal::KILL,
        )
        .unwrap();
        let again = |a: &agent_pb::Agent| a.restarts >= 1 && a.phase() == agent_pb::AgentPhase::Running;
        let second = stack.agent_is("its second life", "g", "greedy", again).await;
        stack.hosts[0].logged("it to fail again", said(second.pid, "MEMORY ERROR")).await;

        let refused = stack.create(agent("at-once", "AtOnce", Some(200e6))).await.unwrap_err();
        assert_eq!(Reason::of(&refused), Some(Ok(Reason::AgentInitFailed)), "{refused:?}");
        let text = refused.message();
        assert!(text.contains("of its memory limit of 200,000,000 bytes"), "{text}");
        assert!(lives(free.pid) && lives(modest.pid) && lives(second.pid));
    }
}

#[tokio::test]
async fn a_host_bounds_agents_that_name_no_limit_and_commands_too() {
    let modules = Modules::new(&[("greedy", GREEDY)]);
    let stack = modules.stack(&["--agent-memory", "200000000"]).await;
    let greedy = stack.create(agent("greedy", "Later", None)).await.unwrap();
    let failed = |line: &Value| line["message"] == "MEMORY ERROR" && line["pid"] == greedy.pid;
    stack.hosts[0].logged("the allocation to fail", failed).await;
    let command = stack.create(script("g", "command", "exec sleep 1000")).await.unwrap();
    let limits = fs::read_to_string(format!("/proc/{}/limits", command.pid)).unwrap();
    let of = |name: &str| limits.lines().find_map(|line| line.strip_prefix(name)).unwrap().split_whitespace().next();
    let data: u64 = of("Max data size").unwrap().parse().unwrap();
    assert!((200_000_000..300_000_000).contains(&data), "{limits}");
    assert_eq!(of("Max core file size"), Some("0"));
    for pid in [greedy.pid, command.pid] {
        let sooner = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
        let own = fs::read_to_string(format!("/proc/{}/oom_score_adj", stack.hosts[0].pid())).unwrap();
        let score = |text: &str| text.trim().parse::<i32>().unwrap();
        assert!(score(&sooner) > score(&own), "{sooner} {own}");
    }
}

#[tokio::test]
async fn an_agent_that_fills_its_scratch_space_is_ended_and_says_so_and_others_run_on() {
    let stack = Stack::with(StackSettings {
        host_arguments: ["--agent-scratch", "20000000", "--usage-every", "200ms"].map(str::to_owned).to_vec(),
        ..StackSettings::default()
    })
    .await;
    let quiet = stack.create(script("g", "quiet", "exec sleep 1000")).await.unwrap();
    let never = agent_pb::RestartPolicy { max_restarts: Some(1), ..Default::default() };
    for place in [".", "$TMPDIR"] {
        let fills = script("g", "fills", &format!("head -c 30000000 /dev/zero > {place}/file; exec sleep 1000"));
        stack.create(agent_pb::AgentLaunch { restart_policy: Some(never), ..fills }).await.unwrap();
        let failed = |a: &agent_pb::Agent| a.phase() == agent_pb::AgentPhase::Failed;
        let failed = stack.agent_is("it to be ended in both lives", "g", "fills", failed).await;
        assert_eq!((failed.reason.as_str(), failed.restarts), ("ScratchExceeded", 1), "{failed:?}");
        assert!(failed.message.contains("its host allows 20000000 (--agent-scratch)"), "{failed:?}");
        stack.stop("g", "fills").await.unwrap();
    }
    assert!(lives(quiet.pid));
    assert_eq!(stack.get("g", "quiet").await.unwrap().restarts, 0);
}

#[tokio::test]
async fn when_memory_runs_out_the_agent_that_has_most_beyond_what_it_asked_for_is_ended() {
    let group = tempfile::tempdir().unwrap();
    let used = |bytes: u64| fs::write(group.path().join("memory.current"), bytes.to_string()).unwrap();
    fs::write(group.path().join("memory.max"), "1000000000\n").unwrap();
    fs::write(group.path().join("memory.stat"), "anon 1\ninactive_file 100000000\n").unwrap();
    // Much of it is only kept because there is room.
    used(980_000_000);
    let modules = Modules::new(&[("greedy", GREEDY)]);
    let group_path = group.path().display().to_string();
    let stack = modules.stack(&["--memory-cgroup", &group_path, "--resource", "memory=8e9"]).await;
    stack.create(script("g", "small", "exec sleep 1000")).await.unwrap();
    // The one that has the most has asked for it.
    stack.create(agent("entitled", "Modest", Some(500e6))).await.unwrap();
    let greedy = stack.create(agent("greedy", "Modest", None)).await.unwrap();
    used(1_060_000_000);
    // It may be back and be ended again before anybody looks, as long as memory is used up.
    let ended = |a: &agent_pb::Agent| a.restarts >= 1 && a.reason == "MemoryPressure";
    let ended = stack.agent_is("the greedy one to be ended", "g", "greedy", ended).await;
    used(500_000_000);
    assert!(ended.message.contains("of 1000000000 bytes of memory"), "{ended:?}");
    assert!(!lives(greedy.pid));
    let evicted = |line: &Value| line["message"] == "memory is nearly used up; the agent is ended";
    let first = stack.hosts[0].logged("the first one that was ended", evicted).await;
    assert_eq!(first["agent"], "default/g/greedy");
    for agent in ["greedy", "entitled", "small"] {
        let runs = |a: &agent_pb::Agent| a.phase() == agent_pb::AgentPhase::Running;
        stack.agent_is("it to run, in whatever life", "g", agent, runs).await;
    }
}

/// Starts what it is told to without end, or opens what it may; says how far it came.
const OFFENDER: &str = "import os, resource, subprocess, sys, threading, time\nfrom rustic_ai.core.guild.agent import Agent\n\
def forks():\n    while True:\n        subprocess.Popen(['sleep', '4711'], start_new_session=True)\n\
def threads():\n    while True:\n        threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()\n\
def opens():\n    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)\n    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))\n    held = []\n\
\x20   try:\n        while True:\n            held.append(os.open('/dev/null', os.O_RDONLY))\n\
\x20   except OSError as error:\n        print('OPENED', len(held), error, flush=True)\n\
\x20   time.sleep(1000)\n\
def leaks():\n    held = []\n    while True:\n        try:\n            held.append(bytearray(10 << 20))\n        except MemoryError:\n            time.sleep(0.01)\n\
def writes():\n    with open('big', 'wb') as file:\n        while True:\n            file.write(bytes(1 << 20))\n            file.flush()\n\
def floods():\n    while True:\n        os.write(1, b'x' * 65535 + b'\\n')\n\
def spins():\n    for _ in range(2 * os.cpu_count()):\n        subprocess.Popen([sys.executable, '-c', 'while True: pass'])\n\
class Offender(Agent):\n    def __init__(self):\n        threading.Thread(target=globals()[os.environ['OFFENCE']], daemon=True).start()\n";

fn offender(agent: &str, offence: &str) -> agent_pb::AgentLaunch {
    let mut launch = python("offenders", agent, "offender.Offender");
    launch.environment.insert("OFFENCE".to_owned(), offence.to_owned());
    launch
}

fn sleepers() -> usize {
    let asleep = |pid: &u32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == b"sleep\x004711\x00");
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(asleep).count()
}

#[tokio::test]
async fn an_agent_that_forks_or_makes_threads_without_end_is_ended_with_all_of_them_in_every_life() {
    let modules = Modules::new(&[("offender", OFFENDER)]);
    let stack = modules.stack(&["--agent-processes", "100"]).await;
    let neighbour = stack.create(script("g", "neighbour", "exec sleep 1000")).await.unwrap();
    for offence in ["forks", "threads"] {
        let mut launch = offender(offence, offence);
        let soon = prost_types::Duration { seconds: 0, nanos: 50_000_000 };
        launch.restart_policy = Some(agent_pb::RestartPolicy {
            max_restarts: Some(1),
            initial_backoff: Some(soon),
            ..Default::default()
        });
        stack.create(launch).await.unwrap();
        let failed = |a: &agent_pb::Agent| a.phase() == agent_pb::AgentPhase::Failed;
        let agent = stack.agent_is("its second life to end", "offenders", offence, failed).await;
        assert_eq!((agent.reason.as_str(), agent.restarts), ("ProcessesExceeded", 1), "{agent:?}");
        assert!(agent.message.contains("--agent-processes"), "{agent:?}");
    }
    wait_until("all that it started to go", async || match sleepers() {
        0 => Ok(()),
        left => Err(left),
    })
    .await;
    assert!(lives(neighbour.pid));
}

#[tokio::test]
async fn an_agent_opens_no_more_descriptors_than_it_may() {
    let modules = Modules::new(&[("offender", OFFENDER)]);
    for zygote in [Zygote::On, Zygote::Off] {
        let stack = Stack::with(StackSettings { zygote, ..modules.settings(&["--agent-descriptors", "200"]) }).await;
        stack.create(offender("opens", "opens")).await.unwrap();
        let said = stack.hosts[0]
            .logged("it to have opened all", |l| l["message"].as_str().is_some_and(|m| m.starts_with("OPENED ")))
            .await;
        let opened: u64 = said["message"].as_str().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        assert!((100..200).contains(&opened), "{said}");
    }
}

/// Answers with how long the question took to arrive.
const PROMPT: &str = "import time\nfrom rustic_ai.core.guild import Agent, agent\nfrom rustic_ai.core.utils import JsonDict\n\
class Prompt(Agent):\n    def __init__(self):\n        self._route_to_default_topic = True\n\
\x20   @agent.processor(JsonDict, lambda _, message: 'n' in message.payload)\n\
\x20   def hear(self, ctx):\n        ctx.send_dict({'answers': ctx.payload['n'], 'took': time.time() - ctx.payload['at']})\n";
/// Agents that answer.
const MANY: u64 = 93;

/// Asks every agent, `rounds` times. Returns how long questions took, in seconds, the shortest first.
async fn ask_all(bus: &mut Bus, rounds: u64, first: u64) -> Vec<f64> {
    let asked = rounds * MANY;
    for n in 0..asked {
        let at = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        bus.say("many", &format!("a{}", n % MANY), json!({"n": first + n, "at": at})).await;
    }
    let bus = tokio::sync::Mutex::new(bus);
    let mut took = wait_until("every agent to answer", async || {
        let answers = bus.lock().await.heard("many", "default_topic").await;
        let of_now = answers.iter().filter(|a| a["answers"].as_u64().is_some_and(|n| n >= first));
        let took: Vec<_> = of_now.filter_map(|a| a["took"].as_f64()).collect();
        if took.len() as u64 == asked { Ok(took) } else { Err((took.len(), asked)) }
    })
    .await;
    took.sort_by(f64::total_cmp);
    took
}

/// Of a hundred agents seven do the worst that they can. The figures of `docs/limits.md` are what this prints.
#[tokio::test]
async fn a_hundred_agents_of_which_some_do_the_worst_that_they_can() {
    let modules = Modules::new(&[("offender", OFFENDER), ("prompt", PROMPT)]);
    let flags = "--agent-memory 300000000 --agent-scratch 20000000 --agent-processes 200 --agent-descriptors 1000 --usage-every 1s";
    let settings = modules.settings(&flags.split(' ').collect::<Vec<_>>());
    // As in production: agents leave the processor to their host.
    let stack = Stack::with(StackSettings {
        host_arguments: [settings.host_arguments.clone(), vec!["--agent-nice".to_owned(), "10".to_owned()]].concat(),
        ..settings
    })
    .await;
    let mut bus = Bus::to(stack.redis.port());
    for n in 0..MANY {
        stack.create(bus.agent("many", &format!("a{n}"), "prompt.Prompt")).await.unwrap();
    }
    let quiet = ask_all(&mut bus, 5, 0).await;
    for offence in ["forks", "threads", "opens", "leaks", "writes", "floods", "spins"] {
        stack.create(offender(offence, offence)).await.unwrap();
    }
    let ended = |a: &agent_pb::Agent| a.restarts > 0;
    // Each thread reserves its stack, so that the memory limit stops who makes threads.
    for offence in ["forks", "writes"] {
        stack.agent_is(&format!("who {offence} to be ended"), "offenders", offence, ended).await;
    }
    let noisy = ask_all(&mut bus, 5, 1_000_000).await;
    for n in 0..MANY {
        let agent = stack.get("many", &format!("a{n}")).await.unwrap();
        assert_eq!((agent.phase(), agent.restarts), (agent_pb::AgentPhase::Running, 0), "{agent:?}");
    }
    let lapsed =
        stack.hosts[0].log().into_iter().find(|l| l["message"].as_str().is_some_and(|m| m.contains("lease is lost")));
    assert_eq!(lapsed, None, "no lease lapses");
    let p99 = |all: &[f64]| all[all.len() * 99 / 100] * 1000.0;
    let p50 = |all: &[f64]| all[all.len() / 2] * 1000.0;
    eprintln!("p50 and p99 in ms, quiet: {:.1} {:.1}", p50(&quiet), p99(&quiet));
    eprintln!("p50 and p99 in ms, beside seven offenders: {:.1} {:.1}", p50(&noisy), p99(&noisy));
}
