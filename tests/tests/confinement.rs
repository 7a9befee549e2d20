//! What an agent cannot reach: another agent's files, processes and sockets, its host, the system. And what it must reach all the
//! same. Each attack is made by an agent that was forked, by its next life, which may come from a branch, by one that started in a fresh
//! interpreter and by a program; the victim is of another guild and organization.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use rustic_proto::{
    agent::v1::{self as agent_pb, AgentLaunch, AgentPhase, Confinement, ConfinementLevel as Level},
    agent_host::v1 as host_pb,
    engine::v1 as pb,
};
use rustic_tests::{
    Modules, Stack, StackSettings,
    launches::{python, script},
    stack::words,
    venv, wait_until,
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs, path::Path};
use tonic::Code;

const ATTACK: &str = include_str!("../src/attack.py");
const ATTACKER: &str = "from rustic_ai.core.guild.agent import Agent\nimport attack\n\
    class Attacker(Agent):\n    def __init__(self):\n        attack.attack()\n";
/// Has what others would like to have, and says where.
const VICTIM: &str = "import json, os, socket\nfrom rustic_ai.core.guild.agent import Agent\n\
    class Victim(Agent):\n    def __init__(self):\n\
    \x20       open('secret', 'w').write('secret')\n\
    \x20       open('program', 'w').write('#!/bin/sh\\n')\n        os.chmod('program', 0o755)\n\
    \x20       self.socket = socket.socket(socket.AF_UNIX)\n        self.socket.bind('\\0victim-%d' % os.getpid())\n        self.socket.listen()\n\
    \x20       print('VICTIM', json.dumps({'secret': os.path.abspath('secret'), 'program': os.path.abspath('program'),\n\
    \x20             'abstract': 'victim-%d' % os.getpid(), 'victim': os.getpid()}), flush=True)\n";

/// What agents said after `word`, in order.
fn said(stack: &Stack, agent: &str, word: &str) -> Vec<Value> {
    let lines = stack.hosts.iter().flat_map(|host| host.log());
    let by = lines.filter(|l| l["agent_id"] == agent && l["target"] == "agent");
    by.filter_map(|l| serde_json::from_str(l["message"].as_str()?.strip_prefix(word)?).ok()).collect()
}

async fn nth(stack: &Stack, agent: &str, word: &str, count: usize) -> Value {
    wait_until(&format!("{agent} to say {word}"), async || {
        said(stack, agent, word).into_iter().nth(count - 1).ok_or_else(|| stack.hosts[0].text())
    })
    .await
}

/// Starts a host whose registry has a password, and a victim. Returns what attackers need to know.
async fn with_victim(level: &str) -> (Modules, Stack, Value) {
    let modules = Modules::new(&[("attack", ATTACK), ("attacker", ATTACKER), ("victim", VICTIM)]);
    // For the program, which has no Python environment of its host's.
    let interpreter = fs::canonicalize(venv("python")).unwrap();
    let prefix = |python: &Path| python.parent().unwrap().parent().unwrap().display().to_string();
    let readable = [prefix(&venv("python")), prefix(&interpreter), modules.path()];
    let stack = Stack::with(StackSettings {
        password: Some("a-secret-password".to_owned()),
        confinement: words(&format!("--confinement-read {}", readable.join(","))),
        ..modules.settings(&[])
    })
    .await;
    let mut launch = python("victims", "victim", "victim.Victim");
    launch.organization_id = "another".to_owned();
    launch.environment.insert("SECRET".to_owned(), "secret".to_owned());
    stack.create(launch).await.unwrap();
    let mut target = nth(&stack, "victim", "VICTIM ", 1).await;
    let work_dir = stack.directory().display().to_string();
    let lock = fs::read_dir(&work_dir).unwrap().flatten().map(|entry| entry.path());
    let lock = lock.into_iter().find(|path| path.extension().is_some_and(|end| end == "lock")).unwrap();
    let library = venv("python").parent().unwrap().parent().unwrap().join("pyvenv.cfg");
    target["host"] = stack.hosts[0].pid().into();
    target["work_dir"] = work_dir.into();
    target["lock"] = lock.display().to_string().into();
    target["library"] = library.display().to_string().into();
    target["password"] = "a-secret-password".into();
    target["home"] = std::env::var("HOME").unwrap().into();
    target["port"] = stack.redis.port().into();
    target["level"] = level.into();
    (modules, stack, target)
}

fn armed(mut launch: AgentLaunch, target: &Value, level: Level) -> AgentLaunch {
    launch.environment.insert("ATTACK".to_owned(), target.to_string());
    launch.confinement = Some(Confinement { level: level.into(), ..Confinement::default() });
    launch
}

fn assert_repelled(who: &str, attack: &Value, at_least: u64) {
    assert_eq!(attack["reached"], json!({}), "{who}: {attack:#}");
    assert!(attack["tried"].as_u64().unwrap() >= at_least, "{who}: {attack:#}");
}

async fn attack_in_every_way(level: Level, word: &str, at_least: u64) {
    let (modules, stack, target) = with_victim(word).await;
    let attacker = "attacker.Attacker";
    for agent in ["forked", "another forked"] {
        stack.create(armed(python("attackers", agent, attacker), &target, level)).await.unwrap();
        assert_repelled(agent, &nth(&stack, agent, "ATTACKED ", 1).await, at_least);
    }
    // Its modules were looked at meanwhile, so that the next life may come from a branch that has them.
    wait_until("it to be tried whether the attacker's module can be shared", async || {
        let health = stack.host(0).await.health(host_pb::HealthRequest {}).await.unwrap().into_inner();
        let profile = &health.profiles[0];
        let shared = profile.branches.iter().any(|branch| branch.packages.iter().any(|name| name == "attacker"));
        if shared || profile.not_shared.contains_key("attacker") { Ok(()) } else { Err(health) }
    })
    .await;
    let (guild_id, agent_id) = ("attackers".to_owned(), "forked".to_owned());
    let restart = pb::RestartAgentRequest { guild_id, agent_id, ..Default::default() };
    stack.client.clone().restart_agent(restart).await.unwrap();
    assert_repelled("its second life", &nth(&stack, "forked", "ATTACKED ", 2).await, at_least);

    let mut cold = armed(python("attackers", "cold", attacker), &target, level);
    cold.environment.insert("PYTHONHASHSEED".to_owned(), "1".to_owned());
    stack.create(cold).await.unwrap();
    assert_repelled("a fresh interpreter", &nth(&stack, "cold", "ATTACKED ", 1).await, at_least);

    if level == Level::Standard {
        let program = format!("exec {} {}/attack.py", venv("python").display(), modules.path());
        stack.create(armed(script("attackers", "program", &program), &target, level)).await.unwrap();
        assert_repelled("a program", &nth(&stack, "program", "ATTACKED ", 1).await, at_least);
    }

    for agent in ["forked", "another forked", "cold"] {
        let agent = stack.get("attackers", agent).await.unwrap();
        assert_eq!((agent.phase(), agent.reason.as_str()), (AgentPhase::Running, ""), "it lives on");
    }
    let request = host_pb::GetAgentRequest {
        organization_id: "another".to_owned(),
        guild_id: "victims".to_owned(),
        agent_id: "victim".to_owned(),
    };
    let victim = stack.host(0).await.get_agent(request).await.unwrap().into_inner().agent.unwrap();
    assert_eq!((victim.phase(), victim.restarts), (AgentPhase::Running, 0));
    assert_eq!(u64::from(victim.pid), target["victim"].as_u64().unwrap());
    assert_eq!(fs::read_to_string(target["secret"].as_str().unwrap()).unwrap(), "secret");
    assert_eq!(
        victim.confinement.unwrap(),
        agent_pb::ConfinementStatus { level: Level::Standard.into(), missing: vec![] }
    );
}

#[tokio::test]
async fn an_agent_under_standard_reaches_nothing_of_others() {
    attack_in_every_way(Level::Standard, "standard", 55).await;
}

#[tokio::test]
async fn an_agent_under_strict_reaches_neither_ports_nor_programs() {
    attack_in_every_way(Level::Strict, "strict", 62).await;
}

/// What libraries do that agents use.
const WORKER: &str = "import asyncio, json, locale, multiprocessing, os, socket, sqlite3, ssl, subprocess, sys, tempfile, threading, zoneinfo\n\
from multiprocessing import shared_memory\n\
from rustic_ai.core.guild.agent import Agent\n\
def square(n):\n    return n * n\n\
def served():\n    server = socket.create_server(('127.0.0.1', 0))\n\
\x20   thread = threading.Thread(target=lambda: server.accept()[0].sendall(b'hello'))\n    thread.start()\n\
\x20   with socket.create_connection(server.getsockname()) as s:\n        return s.recv(5).decode()\n\
def accelerator():\n    with open(os.environ['DEVICE'], 'r+b') as device:\n        device.write(b'x')\n    return 'written'\n\
def pool():\n    with multiprocessing.get_context('spawn').Pool(2) as pool:\n        return pool.map(square, range(3))\n\
def queue():\n    queue = multiprocessing.get_context('fork').Queue()\n    queue.put(7)\n    return queue.get()\n\
def shared():\n    memory = shared_memory.SharedMemory(create=True, size=16)\n    memory.close()\n    memory.unlink()\n    return 'shared'\n\
async def child():\n    process = await asyncio.create_subprocess_exec('sh', '-c', 'cat', stdin=-1, stdout=-1)\n\
\x20   return (await process.communicate(b'hello'))[0].decode()\n\
def stopped():\n    process = subprocess.Popen(['sleep', '1000'])\n    process.terminate()\n    return process.wait()\n\
def temporary():\n    with tempfile.TemporaryDirectory() as folder:\n        path = os.path.join(folder, 'x')\n        open(path, 'w').write('1')\n        os.rename(path, path + 'y')\n        return os.listdir(folder)\n\
class Worker(Agent):\n    def __init__(self):\n        print('WORKS', json.dumps({\n\
\x20       'sqlite': sqlite3.connect('db').execute('select 1').fetchone(), 'temporary': temporary(), 'pool': pool(), 'queue': queue(),\n\
\x20       'shared': shared(), 'child': asyncio.run(child()), 'stopped': stopped(), 'served': served(), 'accelerator': accelerator(),\n\
\x20       'certificates': ssl.create_default_context() is not None, 'host': socket.gethostbyname('localhost'),\n\
\x20       'interfaces': len(socket.if_nameindex()) > 0, 'zone': str(zoneinfo.ZoneInfo('Europe/Paris')), 'random': len(os.urandom(4)),\n\
\x20       'self': len(os.listdir('/proc/self/fd')) > 2, 'program': subprocess.run([sys.executable, '-c', 'print(1)'], capture_output=True).stdout.decode(),\n\
\x20       'written': open('own', 'w').write('x'), 'null': open('/dev/null', 'w').write('x')}), flush=True)\n";

#[tokio::test]
async fn what_libraries_do_works_under_standard() {
    let device = format!("/dev/nvidia-test-{}", std::process::id());
    if fs::write(&device, "").is_err() {
        // Only root can make one.
        return;
    }
    let modules = Modules::new(&[("worker", WORKER)]);
    let stack = Stack::with(StackSettings { confinement: vec![], ..modules.settings(&[]) }).await;
    let mut launch = python("g", "worker", "worker.Worker");
    launch.environment.insert("DEVICE".to_owned(), device.clone());
    let created = stack.create(launch).await;
    fs::remove_file(&device).unwrap();
    created.unwrap();
    let works = nth(&stack, "worker", "WORKS ", 1).await;
    let expected: BTreeMap<_, Value> = [
        ("sqlite", json!([1])),
        ("temporary", json!(["xy"])),
        ("pool", json!([0, 1, 4])),
        ("queue", json!(7)),
        ("shared", json!("shared")),
        ("child", json!("hello")),
        ("stopped", json!(-15)),
        ("served", json!("hello")),
        ("accelerator", json!("written")),
        ("certificates", json!(true)),
        ("host", json!("127.0.0.1")),
        ("interfaces", json!(true)),
        ("zone", json!("Europe/Paris")),
        ("random", json!(4)),
        ("self", json!(true)),
        ("program", json!("1\n")),
        ("written", json!(1)),
        ("null", json!(1)),
    ]
    .into();
    assert_eq!(works, json!(expected));
}

const ASKS: &str = "if [ -r $DATA/in ] && cat $DATA/in; then echo READS; fi; if echo x > $DATA/out; then echo WRITES; fi; sleep 1000";

#[tokio::test]
async fn a_launch_gets_what_the_operator_allows_and_is_refused_what_he_does_not() {
    let data = tempfile::tempdir().unwrap();
    fs::write(data.path().join("in"), "data\n").unwrap();
    let path = data.path().display().to_string();
    let stack = Stack::with(StackSettings {
        confinement: words(&format!("--confinement-allow-write {path} --confinement-allow-port 443")),
        ..StackSettings::default()
    })
    .await;
    let launch = |agent: &str, confinement: Confinement| {
        let mut launch = script("g", agent, ASKS);
        launch.environment.insert("DATA".to_owned(), path.clone());
        launch.confinement = Some(confinement);
        launch
    };
    let lines = |agent: &str| -> Vec<String> {
        let of = |l: &Value| l["agent_id"] == agent && l["target"] == "agent";
        let log = stack.hosts[0].log().into_iter().filter(of);
        log.filter_map(|l| l["message"].as_str().map(str::to_owned)).collect()
    };
    let writes = Confinement { write_paths: vec![path.clone()], ..Confinement::default() };
    stack.create(launch("writes", writes)).await.unwrap();
    wait_until("it to write", async || {
        let lines = lines("writes");
        if lines.contains(&"WRITES".to_owned()) && lines.contains(&"READS".to_owned()) { Ok(()) } else { Err(lines) }
    })
    .await;
    let reads = Confinement { read_paths: vec![path.clone()], ..Confinement::default() };
    stack.create(launch("reads", reads)).await.unwrap();
    wait_until("it to be denied", async || {
        let lines = lines("reads");
        let denied = lines.iter().any(|line| line.contains("ermission denied") || line.contains("cannot create"));
        if denied && lines.contains(&"READS".to_owned()) { Ok(()) } else { Err(lines) }
    })
    .await;
    assert!(!lines("reads").contains(&"WRITES".to_owned()));
    let refused = [
        (Confinement { level: Level::Off.into(), ..Confinement::default() }, "--confinement-max"),
        (Confinement { read_paths: vec!["/root".to_owned()], ..Confinement::default() }, "--confinement-allow-read"),
        (Confinement { write_paths: vec!["/etc".to_owned()], ..Confinement::default() }, "--confinement-allow-write"),
        (Confinement { read_paths: vec![format!("{path}/none")], ..Confinement::default() }, "does not have"),
        (Confinement { connect_ports: vec![80], ..Confinement::default() }, "--confinement-allow-port"),
        (Confinement { read_paths: vec!["data/../x".to_owned()], ..Confinement::default() }, "absolute"),
        (Confinement { connect_ports: vec![65536], ..Confinement::default() }, "65535"),
        (Confinement { level: 9, ..Confinement::default() }, "STANDARD"),
    ];
    for (confinement, why) in refused {
        let status = stack.create(launch("refused", confinement)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(status.message().contains(why) && status.message().contains("launch.confinement"), "{status:?}");
    }
    assert_eq!(stack.get("g", "refused").await.unwrap_err().code(), Code::NotFound, "nothing is left of it");
}

#[tokio::test]
async fn an_operator_may_leave_agents_unconfined_and_a_launch_may_still_ask_for_more() {
    let stack =
        Stack::with(StackSettings { confinement: words("--confinement off"), ..StackSettings::default() }).await;
    let script = |agent: &str| {
        script("g", agent, "if [ -r $HOME ] && ls $HOME > /dev/null; then echo OPEN; else echo SHUT; fi; sleep 1000")
    };
    stack.create(script("open")).await.unwrap();
    stack.hosts[0].logged("an open home", |l| l["agent_id"] == "open" && l["message"] == "OPEN").await;
    let mut shut = script("shut");
    shut.confinement = Some(Confinement { level: Level::Standard.into(), ..Confinement::default() });
    stack.create(shut).await.unwrap();
    stack.hosts[0].logged("a shut home", |l| l["agent_id"] == "shut" && l["message"] == "SHUT").await;
    let health = stack.host(0).await.health(host_pb::HealthRequest {}).await.unwrap().into_inner();
    assert_eq!(health.confinement.unwrap().level(), Level::Off);
}
