//! What an agent starts ends with it, wherever it hid; what is another's is not touched. The same for its directories.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use rustic_proto::{
    agent::v1::{self as agent_pb, AgentLaunch, AgentPhase},
    agent_host::v1 as host_pb,
    engine::v1 as pb,
};
use rustic_tests::{
    Modules, Stack, StackSettings, Zygote,
    launches::{python, script},
    processes::{agents, children, lives, mark, name, state, watchdog, with_word},
    wait_until,
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

/// Names one family in the process table: seconds that nobody else sleeps.
fn word() -> String {
    static WORDS: AtomicU32 = AtomicU32::new(0);
    format!("4711.{}{:03}", std::process::id(), WORDS.fetch_add(1, Ordering::Relaxed))
}

fn kill(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

/// A daemon that left everything behind, and a chain of processes of which each begins the next in a session of its own,
/// and ends.
fn escapes(word: &str) -> String {
    format!(
        "(env -i setsid sh -c '(exec sleep {word} &)' &)\n\
         c='sleep 0.01; setsid sh -c \"$0\" \"$0\" & : {word}'\n\
         setsid sh -c \"$c\" \"$c\" &\n"
    )
}

/// An agent that starts a server the way the SDK for MCP does, and what escapes.
fn parent(word: &str) -> String {
    format!(
        "import subprocess\nfrom rustic_ai.core.guild.agent import Agent\nPIPE = subprocess.PIPE\n\
         class Parent(Agent):\n    def __init__(self):\n\
         \x20       server = ['/bin/sleep', '{word}']\n\
         \x20       self.server = subprocess.Popen(server, env={{}}, start_new_session=True, stdin=PIPE, stdout=PIPE)\n\
         \x20       subprocess.run(['/bin/sh', '-c', {:?}], check=True)\n",
        escapes(word)
    )
}

fn command(guild: &str, word: &str) -> AgentLaunch {
    script(guild, "a", &format!("env -i setsid sleep {word} &\n{}exec sleep 1000", escapes(word)))
}

/// Waits until a family is complete; the two that stay.
async fn family(word: &str) -> Vec<u32> {
    wait_until("a server, a daemon and a chain", async || {
        let all = with_word(word);
        let (stay, chain): (Vec<_>, Vec<_>) = all.iter().partition(|pid| name(**pid) == "sleep");
        // Before it is executed, a link of the chain goes by other names.
        let complete = stay.len() == 2 && chain.iter().any(|pid| name(*pid) == "sh");
        if complete { Ok(stay) } else { Err(format!("{all:?}")) }
    })
    .await
}

/// The agent of a guild in its next life, with nobody of the one before.
async fn next_life(stack: &Stack, guild: &str, word: &str, before: &[u32], restarts: u32) -> Vec<u32> {
    let back = |a: &agent_pb::Agent| a.phase() == AgentPhase::Running && a.restarts == restarts;
    let agent = stack.agent_is("the agent's next life", guild, "a", back).await;
    assert!(!before.iter().any(|pid| lives(*pid)), "it began when the one before was over");
    let now = family(word).await;
    let others: Vec<_> =
        with_word(word).into_iter().filter(|pid| mark(*pid).is_some_and(|m| Some(m) != mark(agent.pid))).collect();
    assert_eq!(others.iter().filter(|pid| lives(**pid)).count(), 0, "only of its own: {others:?}");
    now
}

/// Lets an agent end in every way; its host at last.
async fn ends_with_its_agent(mut stack: Stack, launch: impl Fn(&str, &str) -> AgentLaunch) {
    let (mine, neighbours) = (word(), word());
    stack.create(launch("h", &neighbours)).await.unwrap();
    let untouched = family(&neighbours).await;
    let launch = |guild: &str| AgentLaunch {
        restart_policy: Some(agent_pb::RestartPolicy {
            initial_backoff: Some(prost_types::Duration { seconds: 0, nanos: 1 }),
            ..Default::default()
        }),
        ..launch(guild, &mine)
    };
    let mut before = {
        stack.create(launch("g")).await.unwrap();
        family(&mine).await
    };
    for (restarts, signal) in [(1, Signal::KILL), (2, Signal::ABORT)] {
        kill(stack.get("g", "a").await.unwrap().pid, signal);
        before = next_life(&stack, "g", &mine, &before, restarts).await;
    }
    let restart =
        pb::RestartAgentRequest { guild_id: "g".to_owned(), agent_id: "a".to_owned(), ..Default::default() };
    stack.client.clone().restart_agent(restart).await.unwrap();
    next_life(&stack, "g", &mine, &before, 0).await;
    stack.stop("g", "a").await.unwrap();
    assert_eq!(with_word(&mine), [0; 0], "when it is stopped, they are gone");

    stack.create(launch("g")).await.unwrap();
    family(&mine).await;
    let guild = pb::StopGuildRequest { guild_id: "g".to_owned(), timeout: None, ..Default::default() };
    assert_eq!(stack.client.clone().stop_guild(guild).await.unwrap().into_inner().stopped, 1);
    assert_eq!(with_word(&mine), [0; 0], "when its guild is stopped, they are gone");
    assert!(untouched.iter().all(|pid| lives(*pid)), "a neighbour's are not touched");

    stack.create(launch("g")).await.unwrap();
    family(&mine).await;
    assert!(stack.hosts[0].stop().await.success());
    assert_eq!((with_word(&mine), with_word(&neighbours)), (vec![], vec![]));
}

async fn python_family(zygote: Zygote) {
    let modules = Modules::new(&[]);
    let stack = Stack::with(StackSettings { zygote, ..modules.settings(&[]) }).await;
    ends_with_its_agent(stack, |guild, word| {
        let module = format!("parent_{}", word.replace('.', "_"));
        std::fs::write(Path::new(&modules.path()).join(format!("{module}.py")), parent(word)).unwrap();
        python(guild, "a", &format!("{module}.Parent"))
    })
    .await;
}

#[tokio::test]
async fn what_a_warm_agent_started_ends_with_it_in_every_way_that_it_may_end() {
    python_family(Zygote::On).await;
}

#[tokio::test]
async fn what_a_cold_agent_started_ends_with_it_in_every_way_that_it_may_end() {
    python_family(Zygote::Off).await;
}

#[tokio::test]
async fn what_a_command_started_ends_with_it_in_every_way_that_it_may_end() {
    ends_with_its_agent(Stack::start().await, command).await;
}

async fn nobody_is_left(word: &str) {
    wait_until("all of the family to be gone", async || match with_word(word) {
        none if none.is_empty() => Ok(()),
        left => Err(left),
    })
    .await;
}

#[tokio::test]
async fn what_agents_started_ends_with_a_host_that_is_killed_before_its_next_life_begins() {
    let mut stack = Stack::start().await;
    let word = word();
    stack.create(command("g", &word)).await.unwrap();
    let before = family(&word).await;
    stack.hosts[0].signal(Signal::KILL);
    stack.hosts[0].ended().await;
    stack.restart_host(0);
    stack.hosts[0].address().await;
    assert!(!before.iter().any(|pid| lives(*pid)), "the watchdog keeps the name until they are gone");
    family(&word).await;
    wait_until("stops to be taken again", async || stack.stop("g", "a").await).await;
    assert_eq!(with_word(&word), [0; 0]);
}

#[tokio::test]
async fn what_agents_started_ends_with_the_next_life_of_a_host_that_was_killed_with_its_watchdog() {
    let mut stack = Stack::start().await;
    let word = word();
    stack.create(command("g", &word)).await.unwrap();
    let before = family(&word).await;
    let watchdog = watchdog(stack.hosts[0].pid()).unwrap();
    // Frozen, it cannot act before it is killed.
    kill(watchdog, Signal::STOP);
    stack.hosts[0].signal(Signal::KILL);
    kill(watchdog, Signal::KILL);
    stack.hosts[0].ended().await;
    assert!(before.iter().all(|pid| lives(*pid)), "nobody is there to end them");
    stack.restart_host(0);
    stack.hosts[0].address().await;
    assert!(!before.iter().any(|pid| lives(*pid)));
    stack.hosts[0]
        .logged("what was ended", |l| l["message"].as_str().is_some_and(|m| m.contains("former life of this host")))
        .await;
    // The engine may not have heard of the new address yet.
    wait_until("stops to be taken again", async || stack.stop("g", "a").await).await;
    nobody_is_left(&word).await;
}

#[tokio::test]
async fn what_agents_started_does_not_outlive_the_lease_of_a_frozen_host_and_what_may_outlive_it_does() {
    let stack = Stack::with(StackSettings {
        host_arguments: ["--lease-ttl", "1500ms", "--lease-margin", "400ms"].map(str::to_owned).to_vec(),
        ..StackSettings::default()
    })
    .await;
    let (mine, kept) = (word(), word());
    stack.create(command("g", &mine)).await.unwrap();
    let keeps = AgentLaunch { on_disconnect: agent_pb::OnDisconnect::Keep.into(), ..command("h", &kept) };
    stack.create(keeps).await.unwrap();
    family(&mine).await;
    let stay = family(&kept).await;
    stack.hosts[0].signal(Signal::STOP);
    nobody_is_left(&mine).await;
    assert!(stay.iter().all(|pid| lives(*pid)));
    stack.hosts[0].signal(Signal::CONT);
}

#[tokio::test]
async fn a_process_that_has_tampered_with_its_mark_ends_with_its_agent() {
    let stack = Stack::start().await;
    let word = word();
    // Hard limits can be lowered by everybody.
    let body = format!("(setsid sh -c 'ulimit -x 5; exec sleep {word}' &); exec sleep 1000");
    let script = format!("exec bash -c '{}'", body.replace('\'', "'\\''").replace("sh -c", "bash -c"));
    stack.create(self::script("g", "a", &script)).await.unwrap();
    // By its mark: the agent's shell has the word too, until it becomes another `sleep`.
    wait_until("the process to be there, with another mark", async || match with_word(&word)[..] {
        [pid] if mark(pid).as_deref() == Some("5") && name(pid) == "sleep" => Ok(()),
        _ => Err(with_word(&word)),
    })
    .await;
    stack.stop("g", "a").await.unwrap();
    assert_eq!(with_word(&word), [0; 0]);
}

/// Uses a server for MCP, by the SDK itself.
const CLIENT: &str = "import asyncio, os, sys, threading\nfrom mcp import ClientSession, StdioServerParameters\n\
    from mcp.client.stdio import stdio_client\nfrom rustic_ai.core.guild.agent import Agent\n\
    async def serve(word):\n\
    \x20   server = os.path.join(os.path.dirname(__file__), 'server.py')\n\
    \x20   # One that does not end when nobody writes to it any more.\n\
    \x20   script = f'{sys.executable} {server} {word}; exec sleep {word}'\n\
    \x20   async with stdio_client(StdioServerParameters(command='/bin/sh', args=['-c', script])) as (reader, writer):\n\
    \x20       async with ClientSession(reader, writer) as session:\n\
    \x20           await session.initialize()\n\
    \x20           print('TOOLS', [tool.name for tool in (await session.list_tools()).tools], flush=True)\n\
    \x20           await asyncio.Event().wait()\n\
    class Client(Agent):\n    def __init__(self):\n\
    \x20       work = lambda: asyncio.run(serve(os.environ['WORD']))\n\
    \x20       threading.Thread(target=work, daemon=True).start()\n";
const SERVER: &str = "from mcp.server.mcpserver import MCPServer\nserver = MCPServer('for a test')\n\
    @server.tool()\ndef answer() -> int:\n    return 42\nserver.run()\n";

#[tokio::test]
async fn a_server_that_the_sdk_for_mcp_started_ends_with_its_agent_and_serves_its_next_life() {
    let modules = Modules::new(&[("client", CLIENT), ("server", SERVER)]);
    let stack = modules.stack(&[]).await;
    let word = word();
    let mut launch = python("g", "a", "client.Client");
    launch.environment.insert("WORD".to_owned(), word.clone());
    let agent = stack.create(launch).await.unwrap();
    let served = |pid: u32| move |l: &serde_json::Value| l["message"] == "TOOLS ['answer']" && l["pid"] == pid;
    stack.hosts[0].logged("the server's answer", served(agent.pid)).await;
    let before = with_word(&word);
    assert!(!before.is_empty());
    kill(agent.pid, Signal::KILL);
    let back = |a: &agent_pb::Agent| a.phase() == AgentPhase::Running && a.restarts == 1;
    let agent = stack.agent_is("the agent's next life", "g", "a", back).await;
    assert!(!before.iter().any(|pid| lives(*pid)), "it began when the one before was over");
    stack.hosts[0].logged("the next server's answer", served(agent.pid)).await;
    stack.stop("g", "a").await.unwrap();
    assert_eq!(with_word(&word), [0; 0]);
}

/// Starts a hundred daemons that end; then prints how a process ended that another thread had started.
const DAEMONS: &str = "import subprocess, threading\nfrom rustic_ai.core.guild.agent import Agent\n\
    class Starter(Agent):\n    def __init__(self):\n\
    \x20       def start():\n            self.early = subprocess.Popen(['/bin/sh', '-c', 'exit 7'])\n\
    \x20       thread = threading.Thread(target=start)\n        thread.start()\n        thread.join()\n\
    \x20       hundred = 'for n in $(seq 100); do (setsid true &); done'\n\
    \x20       subprocess.run(['/bin/sh', '-c', hundred], check=True)\n\
    \x20       def wait():\n            print('code', self.early.wait(), flush=True)\n\
    \x20       threading.Thread(target=wait, daemon=True).start()\n";

#[tokio::test]
async fn daemons_of_an_agent_leave_no_zombies_and_its_own_children_are_its_own_to_wait_for() {
    let modules = Modules::new(&[("starter", DAEMONS)]);
    for zygote in [Zygote::On, Zygote::Off] {
        let stack = Stack::with(StackSettings { zygote, ..modules.settings(&[]) }).await;
        let agent = stack.create(python("g", "a", "starter.Starter")).await.unwrap();
        stack.hosts[0].logged("the exit code", |l| l["message"] == "code 7").await;
        wait_until("no zombie of the agent or its host", async || {
            let mut all = [children(agent.pid), agents(stack.hosts[0].pid())].concat();
            all.retain(|pid| *pid != agent.pid);
            if all.is_empty() { Ok(()) } else { Err(all.iter().map(|p| (*p, state(*p))).collect::<Vec<_>>()) }
        })
        .await;
    }
}

/// Folders that agents were given, whichever life of a host made them.
fn folders(work: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(work).unwrap().flatten();
    let mut names: Vec<_> = entries.filter(|e| e.path().is_dir()).map(|e| e.path().display().to_string()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn directories_of_agents_go_with_the_lives_of_their_host_however_often_it_is_killed() {
    let work = tempfile::tempdir().unwrap();
    let other = work.path().join("agent-host.somebody.else");
    std::fs::create_dir(&other).unwrap();
    let host_arguments = ["--work-dir", work.path().to_str().unwrap()].map(str::to_owned).to_vec();
    let mut stack = Stack::with(StackSettings { host_arguments, ..StackSettings::default() }).await;
    let body = "mkdir -p deep/er $TMPDIR/locked; touch deep/er/file $TMPDIR/locked/file\n\
                chmod 0 deep $TMPDIR/locked; echo filled; exec sleep 1000";
    stack.create(script("g", "a", body)).await.unwrap();
    for _ in 0..10 {
        stack.hosts[0].logged("the agent to have filled its folders", |l| l["message"] == "filled").await;
        stack.hosts[0].signal(Signal::KILL);
        stack.hosts[0].ended().await;
        stack.restart_host(0);
    }
    stack.hosts[0].logged("the agent to have filled its folders", |l| l["message"] == "filled").await;
    wait_until("one life's folders, and somebody else's", async || match folders(work.path()) {
        two if two.len() == 2 => Ok(()),
        more => Err(more),
    })
    .await;
    assert!(stack.hosts[0].stop().await.success());
    wait_until("only somebody else's", async || match folders(work.path()) {
        one if one == [other.display().to_string()] => Ok(()),
        more => Err(more),
    })
    .await;
}

/// Leaves a temporary folder behind, as many do.
const MESSY: &str = "import os, tempfile\nfrom rustic_ai.core.guild.agent import Agent\n\
    class Messy(Agent):\n    def __init__(self):\n\
    \x20       self.folder = tempfile.TemporaryDirectory()\n\
    \x20       with open(os.path.join(self.folder.name, 'big'), 'wb') as big:\n            big.write(bytes(1 << 20))\n\
    \x20       print('IN', self.folder.name, flush=True)\n";

/// Where an agent's temporary folder is.
async fn place(stack: &Stack, agent: &str) -> String {
    let place = |l: &serde_json::Value| Some(l["message"].as_str()?.strip_prefix("IN ")?.to_owned());
    let its = |l: &serde_json::Value| l["agent_id"] == agent && place(l).is_some();
    place(&stack.hosts[0].logged("its folder", its).await).unwrap()
}

#[tokio::test]
async fn an_agents_tmpdir_is_its_own_shows_in_its_usage_and_goes_with_it() {
    // Preloaded, as a zygote may have asked for the folder already.
    let asks = "import tempfile\ntempfile.gettempdir()\n";
    let modules = Modules::new(&[("messy", MESSY), ("asks", asks)]);
    let work = tempfile::tempdir().unwrap();
    let arguments = ["--preload", "asks", "--work-dir", work.path().to_str().unwrap()];
    for zygote in [Zygote::On, Zygote::Off] {
        let stack = Stack::with(StackSettings { zygote, ..modules.settings(&arguments) }).await;
        for agent in ["one", "two"] {
            stack.create(python("g", agent, "messy.Messy")).await.unwrap();
        }
        let (one, two) = (place(&stack, "one").await, place(&stack, "two").await);
        assert!([&one, &two].iter().all(|place| place.starts_with(work.path().to_str().unwrap())), "{one} {two}");
        assert_ne!(Path::new(&one).parent(), Path::new(&two).parent());
        let request =
            host_pb::GetAgentRequest { guild_id: "g".to_owned(), agent_id: "one".to_owned(), ..Default::default() };
        let info = stack.host(0).await.get_agent(request).await.unwrap().into_inner().agent.unwrap();
        let bytes = info.usage.unwrap().scratch_bytes;
        assert!((1 << 20..2 << 20).contains(&bytes), "{bytes}");
        // It is not unwound: a temporary folder outlives such an end.
        kill(info.pid, Signal::KILL);
        wait_until("its folder to go", async || if Path::new(&one).exists() { Err(&one) } else { Ok(()) }).await;
        assert!(Path::new(&two).exists());
        let mut launch = python("g", "chooses", "messy.Messy");
        let own = tempfile::tempdir().unwrap();
        launch.environment.insert("TMPDIR".to_owned(), own.path().display().to_string());
        stack.create(launch).await.unwrap();
        assert!(place(&stack, "chooses").await.starts_with(own.path().to_str().unwrap()), "the caller's stands");
    }
}
