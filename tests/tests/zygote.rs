//! Warm Python agents, and everything that can go wrong with what they are forked from.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use rustic_proto::{
    agent::v1::{self as agent_pb, AgentLaunch, AgentPhase},
    agent_host::v1::{self as host_pb, RuntimeProfile},
};
use rustic_tests::{
    Modules, Stack, StackSettings, Zygote,
    launches::{RESPONDER, python, script},
    processes::{agents, children, lives, name, niceness, parent_and_session},
    wait_until,
};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::{BTreeMap, BTreeSet};

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

async fn profile(stack: &Stack, name: &str) -> RuntimeProfile {
    let health = stack.host(0).await.health(host_pb::HealthRequest {}).await.unwrap().into_inner();
    health.profiles.into_iter().find(|profile| profile.name == name).unwrap()
}

async fn health(stack: &Stack) -> RuntimeProfile {
    profile(stack, "default").await
}

/// Waits until the zygote forks. Returns its process id.
async fn ready(stack: &Stack) -> u32 {
    let ready = |l: &serde_json::Value| l["message"].as_str().is_some_and(|m| m.starts_with("the zygote is ready"));
    let last = wait_until("the zygote to be ready", async || match health(stack).await {
        // What a host says and what it logs come by different ways, in either order.
        health if health.zygote == "ready" => stack.hosts[0].log().into_iter().rfind(|l| ready(l)).ok_or(health),
        health => Err(health),
    })
    .await;
    u32::try_from(last["pid"].as_u64().unwrap()).unwrap()
}

fn command_of(pid: u32) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    text.trim_end_matches('\0').to_owned()
}

async fn start() -> Stack {
    Stack::with(StackSettings { zygote: Zygote::On, ..StackSettings::default() }).await
}

/// A stack whose zygote preloads `odd`, a module with this text.
async fn with_odd_module(text: &str) -> (Stack, Modules) {
    let modules = Modules::new(&[("odd", text)]);
    (modules.stack(&["--preload", "odd,json"]).await, modules)
}

#[tokio::test]
async fn a_warm_agent_is_the_hosts_own_child_in_a_session_of_its_own() {
    let stack = start().await;
    let zygote = ready(&stack).await;
    let one = stack.create(python("g", "one", RESPONDER)).await.unwrap();
    let two = stack.create(python("g", "two", RESPONDER)).await.unwrap();
    let host = stack.hosts[0].pid();
    for agent in [&one, &two] {
        assert_eq!(parent_and_session(agent.pid), Some((host, agent.pid)));
        assert_eq!(name(agent.pid), "rustic-agent");
        assert_eq!(command_of(agent.pid), format!("rustic-agent {}", agent.epoch));
    }
    assert_eq!(health(&stack).await.cold_starts, 0);
    assert!(children(zygote).is_empty(), "no middle process stays");
    // The host knows how its child ended, and brings it back warm.
    signal(one.pid, Signal::KILL);
    let back = |a: &agent_pb::Agent| a.phase() == AgentPhase::Running && a.restarts == 1;
    let one = stack.agent_is("the killed agent to come back", "g", "one", back).await;
    assert_eq!(one.last_exit.unwrap().status, Some(agent_pb::last_exit::Status::Signal(9)));
    let exit = stack.stop("g", "one").await.unwrap().unwrap();
    assert_eq!(exit.status, Some(agent_pb::last_exit::Status::Code(0)));
    stack.stop("g", "two").await.unwrap();
    assert!(agents(host).is_empty(), "nothing but zygotes and watchdog stays");
    assert_eq!(health(&stack).await.cold_starts, 0);
}

#[tokio::test]
async fn agents_yield_to_their_host_however_they_were_started() {
    let host_arguments = vec!["--agent-nice".to_owned(), "3".to_owned()];
    let stack = Stack::with(StackSettings { zygote: Zygote::On, host_arguments, ..StackSettings::default() }).await;
    ready(&stack).await;
    let warm = stack.create(python("g", "warm", RESPONDER)).await.unwrap();
    let other = stack.create(script("g", "other", "exec sleep 1000")).await.unwrap();
    assert_eq!((niceness(warm.pid), niceness(other.pid)), (Some(3), Some(3)));
    assert_eq!(niceness(stack.hosts[0].pid()), niceness(std::process::id()));
}

#[tokio::test]
async fn a_warm_agent_has_its_own_environment_and_descriptors_only() {
    let module = "import os, sys\nfrom rustic_ai.core.guild.agent import Agent\n\
        class Curious(Agent):\n    def __init__(self):\n\
        \x20       print('GREETING', os.environ['GREETING'], 'OTHER', os.environ.get('OTHER'))\n\
        \x20       print('STDIN', os.readlink('/proc/self/fd/0'))\n\
        \x20       print('CWD', os.getcwd(), os.listdir())\n\
        \x20       open('mine', 'w').close()\n\
        \x20       links = []\n\
        \x20       for entry in os.listdir('/proc/self/fd'):\n\
        \x20           try:\n                links.append(os.readlink(f'/proc/self/fd/{entry}'))\n\
        \x20           except OSError:\n                pass\n\
        \x20       print('SOCKETS', sum(link.startswith('socket') for link in links))\n\
        \x20       sys.stdout.flush()\n";
    let modules = Modules::new(&[("curious", module)]);
    let work = tempfile::tempdir().unwrap();
    let stack = modules.stack(&["--work-dir", work.path().to_str().unwrap()]).await;
    ready(&stack).await;
    for (agent, name) in [("one", "GREETING"), ("two", "OTHER")] {
        let mut launch = python("g", agent, "curious.Curious");
        launch.environment.insert("GREETING".to_owned(), format!("hello {agent}"));
        launch.environment.insert(name.to_owned(), format!("hello {agent}"));
        stack.create(launch).await.unwrap();
    }
    let said = |text: &'static str| move |l: &serde_json::Value| l["message"] == text;
    stack.hosts[0].logged("one's environment", said("GREETING hello one OTHER None")).await;
    stack.hosts[0].logged("two's environment", said("GREETING hello two OTHER hello two")).await;
    stack.hosts[0].logged("an empty standard input", said("STDIN /dev/null")).await;
    stack.hosts[0].logged("one socket, to the host", said("SOCKETS 1")).await;
    let place = |l: &serde_json::Value| Some(l["message"].as_str()?.strip_prefix("CWD ")?.to_owned());
    let places = wait_until("a folder for each", async || {
        let places: BTreeSet<_> = stack.hosts[0].log().iter().filter_map(place).collect();
        if places.len() == 2 { Ok(places) } else { Err(places) }
    })
    .await;
    let theirs = |place: &String| place.starts_with(work.path().to_str().unwrap()) && place.ends_with(" []");
    assert!(places.iter().all(theirs), "each began in an empty folder of its own: {places:?}");
    assert_eq!(health(&stack).await.cold_starts, 0);
    stack.stop("g", "one").await.unwrap();
    stack.stop("g", "two").await.unwrap();
    let mut entries = std::fs::read_dir(work.path()).unwrap().map(|entry| entry.unwrap().path());
    let root = entries.find(|path| path.is_dir()).unwrap();
    wait_until("the folders to go", async || match std::fs::read_dir(&root).unwrap().count() {
        0 => Ok(()),
        left => Err(left),
    })
    .await;
}

#[tokio::test]
async fn a_zygote_that_dies_is_replaced_and_running_agents_are_not_touched() {
    let stack = start().await;
    let zygote = ready(&stack).await;
    let before = stack.create(python("g", "before", RESPONDER)).await.unwrap();
    signal(zygote, Signal::KILL);
    let during = stack.create(python("g", "during", RESPONDER)).await.unwrap();
    assert_eq!(during.phase(), AgentPhase::Running);
    let next = wait_until("another zygote", async || match ready(&stack).await {
        pid if pid != zygote => Ok(pid),
        pid => Err(pid),
    })
    .await;
    assert!(lives(next) && lives(before.pid));
    assert_eq!(stack.get("g", "before").await.unwrap().restarts, 0);
    stack.create(python("g", "after", RESPONDER)).await.unwrap();
}

#[tokio::test]
async fn a_zygote_that_talks_nonsense_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let fake = dir.path().join("python");
    let python_path = rustic_tests::venv("python");
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *zygote*) printf 'nonsense!' >&0; exec sleep 1000;; esac\nexec {} \"$@\"\n",
        python_path.display()
    );
    std::fs::write(&fake, script).unwrap();
    std::fs::set_permissions(&fake, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let host_arguments = vec!["--python".to_owned(), fake.display().to_string()];
    let stack = Stack::with(StackSettings { zygote: Zygote::On, host_arguments, ..StackSettings::default() }).await;
    let agent = stack.create(python("g", "a", RESPONDER)).await.unwrap();
    assert_eq!(agent.phase(), AgentPhase::Running);
    let health = health(&stack).await;
    assert_eq!(health.cold_starts, 1);
    assert_ne!(health.zygote, "ready");
}

#[tokio::test]
async fn a_zygote_that_hangs_is_replaced_and_the_agent_starts_cold() {
    let stack = start().await;
    let zygote = ready(&stack).await;
    signal(zygote, Signal::STOP);
    let agent = stack.create(python("g", "a", RESPONDER)).await.unwrap();
    assert_eq!(agent.phase(), AgentPhase::Running);
    assert_eq!(health(&stack).await.cold_starts, 1);
    wait_until("the hung zygote to be gone", async || if lives(zygote) { Err(zygote) } else { Ok(()) }).await;
    ready(&stack).await;
}

#[tokio::test]
async fn a_preload_that_is_not_safe_to_share_is_left_out_and_logged() {
    let threads = "import threading, time\nthreading.Thread(target=time.sleep, args=(1000,), name='meddler', daemon=True).start()\n";
    for (text, why) in [(threads, "meddler"), ("raise ValueError('not today')\n", "ValueError: not today")] {
        let (stack, _dir) = with_odd_module(text).await;
        ready(&stack).await;
        stack.create(python("g", "a", RESPONDER)).await.unwrap();
        assert_eq!(health(&stack).await.cold_starts, 0, "{why}");
        let blamed =
            |l: &serde_json::Value| l["module"] == "odd" && l["why"].as_str().is_some_and(|w| w.contains(why));
        stack.hosts[0].logged("the module that is to blame", blamed).await;
    }
}

#[tokio::test]
async fn a_zygote_with_something_unknown_open_does_not_fork_and_names_who_left_it() {
    let modules = Modules::new(&[("odd", "HELD = open('/dev/zero')\n")]);
    let stack = modules.stack(&["--preload", "odd", "--share-unproven", "odd"]).await;
    ready(&stack).await;
    let agent = stack.create(python("g", "a", RESPONDER)).await.unwrap();
    assert_eq!(agent.phase(), AgentPhase::Running, "it starts cold");
    assert_eq!(health(&stack).await.cold_starts, 1);
    let named = |l: &serde_json::Value| {
        let why = l["why"].as_str().unwrap_or_default();
        why.contains("/dev/zero") && why.contains("since odd was imported")
    };
    stack.hosts[0].logged("the module that is to blame", named).await;
}

#[tokio::test]
async fn warm_agents_die_with_their_host() {
    let mut stack = start().await;
    let zygote = ready(&stack).await;
    let agent = stack.create(python("g", "a", RESPONDER)).await.unwrap();
    assert_eq!(health(&stack).await.cold_starts, 0);
    stack.hosts[0].signal(Signal::KILL);
    stack.hosts[0].ended().await;
    for pid in [agent.pid, zygote] {
        wait_until("the process to die with its host", async || if lives(pid) { Err(pid) } else { Ok(()) }).await;
    }
}

#[tokio::test]
async fn an_agent_logs_from_the_level_that_its_launch_asks_for_warm_and_cold() {
    let talker = "import logging\nfrom rustic_ai.core.guild.agent import Agent\nLOG = logging.getLogger('mine')\n\
        class Talker(Agent):\n    def __init__(self):\n        LOG.info('in detail')\n        LOG.warning('in short')\n";
    let modules = Modules::new(&[("talker", talker)]);
    for zygote in [Zygote::On, Zygote::Off] {
        let stack = Stack::with(StackSettings { zygote, ..modules.settings(&[]) }).await;
        let level = |level: &str| BTreeMap::from([("RUSTIC_AGENT_LOG_LEVEL".to_owned(), level.to_owned())]);
        let launch = |agent: &str| python("g", agent, "talker.Talker");
        stack.create(launch("plain")).await.unwrap();
        stack
            .create(AgentLaunch { environment: level("info").into_iter().collect(), ..launch("loud") })
            .await
            .unwrap();
        let said = |agent: &'static str, what: &'static str| {
            move |l: &serde_json::Value| {
                l["agent_id"] == agent && l["message"].as_str().is_some_and(|m| m.contains(what))
            }
        };
        stack.hosts[0].logged("what is always logged", said("plain", "WARNING mine: in short")).await;
        stack.hosts[0].logged("what was asked for", said("loud", "INFO mine: in detail")).await;
        assert!(!stack.hosts[0].log().iter().any(said("plain", "in detail")), "nobody asked for it");

        let odd = AgentLaunch { environment: level("chatty").into_iter().collect(), ..launch("odd") };
        let refused = stack.create(odd).await.unwrap_err();
        assert!(refused.message().contains("RUSTIC_AGENT_LOG_LEVEL is 'CHATTY'; choose one of"), "{refused}");
    }
}
