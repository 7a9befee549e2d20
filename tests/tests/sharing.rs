//! What one agent's module does while it is imported is found by nobody who does not import it, and works in every life of those
//! who do: in the first one on a host, in the next ones, after a restart of the agent, after a restart of the host with its work
//! directory; and a neighbour of another guild finds everything as it would be without.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use rustic_proto::{
    agent::v1::AgentPhase,
    agent_host::v1::{self as host_pb, RuntimeProfile},
    engine::v1 as pb,
};
use rustic_tests::{Modules, Stack, StackSettings, launches::python, wait_until};
use rustix::process::Signal;
use std::collections::BTreeSet;

/// What an agent says of itself when it is built: one line.
const AGENT: &str = "from rustic_ai.core.guild.agent import Agent\n\
    class Sayer(Agent):\n    def __init__(self):\n        print('SAYS', says(), flush=True)\n";

/// Looks at everything that the modules below change.
const NEIGHBOUR: &str = "import json, locale, logging, os, signal, socket, sys, warnings\n\
    def says():\n\
    \x20   odd = [name for name in sys.modules if name.startswith('odd_')]\n\
    \x20   handlers = [type(h).__name__ for h in logging.getLogger().handlers]\n\
    \x20   files = [os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd') if os.path.exists(f'/proc/self/fd/{n}')]\n\
    \x20   odd += [name for name in files if 'odd_' in name]\n\
    \x20   return (odd, handlers, socket.getdefaulttimeout(), logging.root.manager.disable, sys.getrecursionlimit(),\n\
    \x20           json.dumps.__module__, json.JSONEncoder.default.__module__, os.environ.get('ODD'), locale.setlocale(locale.LC_ALL),\n\
    \x20           signal.getsignal(signal.SIGUSR1).name)\n";
/// What it must find, whatever it finds else: the same in every life as in the first, before anything was done.
const UNTOUCHED: &str = "([], ['StreamHandler'], None, 0, ";

/// Modules that open something: it must work in every life, and a number that a zygote had must not be another's.
const OPENING: [(&str, &str); 4] = [
    (
        "odd_sqlite",
        "import sqlite3\nDB = sqlite3.connect('odd_.db')\nDB.execute('create table t (x)')\n\
         def says():\n    DB.execute('insert into t values (1)')\n    DB.commit()\n    return DB.execute('select count(*) from t').fetchall()\n",
    ),
    (
        "odd_queue",
        "import multiprocessing\nQ = multiprocessing.SimpleQueue()\ndef says():\n    Q.put(1)\n    return [(Q.get(),)]\n",
    ),
    (
        "odd_pipe",
        "import os\nR, W = os.pipe()\ndef says():\n    os.write(W, b'1')\n    return [(int(os.read(R, 1)),)]\n",
    ),
    (
        "odd_file",
        "import os, tempfile\nF = open('odd_.txt', 'w')\ndef says():\n    others = [tempfile.TemporaryFile() for _ in range(20)]\n\
         \x20   print('1', file=F, flush=True)\n    assert not any(os.fstat(o.fileno()).st_size for o in others)\n\
         \x20   return [(int(open('odd_.txt').read()),)]\n",
    ),
];

/// Modules that change what others may look at.
const CHANGING: [(&str, &str); 8] = [
    ("odd_timeout", "import socket\nsocket.setdefaulttimeout(1.5)\n"),
    ("odd_disable", "import logging\nlogging.disable(logging.CRITICAL)\n"),
    ("odd_recursion", "import sys\nsys.setrecursionlimit(4711)\n"),
    ("odd_patch", "import json\njson.dumps = lambda *a, **k: 'patched'\n"),
    ("odd_method", "import json\njson.JSONEncoder.default = lambda self, thing: 'patched'\n"),
    ("odd_handler", "import logging\nlogging.getLogger().addHandler(logging.FileHandler('odd_.log'))\n"),
    ("odd_variable", "import os\nos.environ['ODD'] = '1'\n"),
    ("odd_signal", "import signal\nsignal.signal(signal.SIGUSR1, lambda *_: None)\n"),
];

/// Modules that take something from the process that imports them.
const IDENTITY: [(&str, &str); 5] = [
    ("odd_uuid", "import uuid\nID = uuid.uuid4()\ndef says():\n    return ID\n"),
    ("odd_random", "import random\nR = random.Random()\ndef says():\n    return R.random()\n"),
    ("odd_pid", "import os\nPID = os.getpid()\ndef says():\n    assert PID == os.getpid()\n    return PID\n"),
    (
        "odd_directory",
        "import os\nCWD = os.getcwd()\ndef says():\n    assert CWD == os.getcwd(), (CWD, os.getcwd())\n    return CWD\n",
    ),
    (
        "odd_environment",
        "import os\nID = os.environ.get('RUSTIC_AGENT_ID')\ndef says():\n    assert ID == os.environ['RUSTIC_AGENT_ID']\n\
         \x20   return ID + os.environ['RUSTIC_AGENT_EPOCH'] + str(os.getpid())\n",
    ),
];

fn with_agents(modules: &[(&str, &str)]) -> Modules {
    let whole = |(name, text): &(&str, &str)| {
        let says = if text.contains("def says()") { "" } else { "def says():\n    return 'fine'\n" };
        ((*name).to_owned(), format!("{text}{says}{AGENT}"))
    };
    let mut all: Vec<_> = modules.iter().map(whole).collect();
    all.push(("neighbour".to_owned(), format!("{NEIGHBOUR}{AGENT}")));
    let texts: Vec<_> = all.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    Modules::new(&texts)
}

async fn profile(stack: &Stack, host: usize) -> RuntimeProfile {
    let health = stack.host(host).await.health(host_pb::HealthRequest {}).await.unwrap().into_inner();
    health.profiles.into_iter().find(|profile| profile.name == "default").unwrap()
}

/// What an agent said when it was built, in each life of the first `count`, on whatever host. Its words may come later than the
/// answer that it runs.
async fn lives(stack: &Stack, agent: &str, count: usize) -> Vec<String> {
    let words = |l: serde_json::Value| {
        let by = l["agent_id"] == agent && l["target"] == "agent";
        by.then(|| l["message"].as_str()?.strip_prefix("SAYS ").map(str::to_owned)).flatten()
    };
    wait_until(&format!("{count} lives of {agent}"), async || {
        let said: Vec<_> = stack.hosts.iter().flat_map(|host| host.log()).filter_map(words).collect();
        if said.len() >= count { Ok(said) } else { Err(said) }
    })
    .await
}

async fn said(stack: &Stack, agent: &str) -> Vec<String> {
    lives(stack, agent, 1).await
}

/// Waits until it was tried on a host to share each of these modules.
async fn tried(stack: &Stack, host: usize, modules: &[(&str, &str)]) {
    wait_until("every module to be tried", async || {
        let profile = profile(stack, host).await;
        let shared: BTreeSet<_> = profile.branches.iter().flat_map(|branch| branch.packages.clone()).collect();
        let known = |name: &str| shared.contains(name) || profile.not_shared.contains_key(name);
        if modules.iter().all(|(name, _)| known(name)) { Ok(()) } else { Err(profile) }
    })
    .await;
}

async fn create(stack: &Stack, guild: &str, agent: &str, module: &str) {
    let agent = stack.create(python(guild, agent, &format!("{module}.Sayer"))).await.unwrap();
    assert_eq!(agent.phase(), AgentPhase::Running);
}

/// Every module in every life, and a neighbour after each; `works` is what its agents must say.
async fn in_every_life(modules: &[(&str, &str)], works: impl Fn(&str, &[String])) {
    let written = with_agents(modules);
    let mut stack = written.stack(&[]).await;
    create(&stack, "before", "first neighbour", "neighbour").await;
    for (name, _) in modules {
        create(&stack, "odd", name, name).await;
    }
    tried(&stack, 0, modules).await;
    for (name, _) in modules {
        create(&stack, "odd", &format!("second {name}"), name).await;
        let (guild_id, agent_id) = ("odd".to_owned(), (*name).to_owned());
        let request = pb::RestartAgentRequest { guild_id, agent_id, ..Default::default() };
        stack.client.clone().restart_agent(request).await.unwrap();
        lives(&stack, name, 2).await;
    }
    create(&stack, "another", "second neighbour", "neighbour").await;
    let mut so_far = vec![];
    for (name, _) in modules {
        so_far.push((lives(&stack, name, 2).await, said(&stack, &format!("second {name}")).await));
    }
    let neighbours = [said(&stack, "first neighbour").await, said(&stack, "second neighbour").await].concat();

    stack.hosts[0].signal(Signal::KILL);
    stack.hosts[0].ended().await;
    stack.restart_host(0);
    for ((name, _), (first, second)) in modules.iter().zip(so_far) {
        let third = lives(&stack, name, 1).await;
        works(name, &[first, second, third].concat());
    }
    create(&stack, "yet another", "third neighbour", "neighbour").await;
    lives(&stack, "first neighbour", 1).await;
    assert!(neighbours[0].starts_with(UNTOUCHED), "{neighbours:?}");
    let again = [said(&stack, "first neighbour").await, said(&stack, "third neighbour").await].concat();
    for words in neighbours.iter().chain(&again) {
        assert_eq!(*words, neighbours[0]);
    }
    let profile = profile(&stack, 0).await;
    assert_eq!((profile.zygote.as_str(), profile.cold_starts), ("ready", 0), "{profile:?}");
}

#[tokio::test]
async fn what_a_module_opens_works_in_every_life() {
    in_every_life(&OPENING, |name, said| {
        assert!(said.len() >= 4 && said.iter().all(|words| words == "[(1,)]"), "{name}: {said:?}");
    })
    .await;
}

#[tokio::test]
async fn what_a_module_changes_is_found_by_no_neighbour() {
    in_every_life(&CHANGING, |name, said| {
        assert!(said.len() >= 4 && said.iter().all(|words| words == "fine"), "{name}: {said:?}");
    })
    .await;
}

#[tokio::test]
async fn what_a_module_takes_from_its_process_is_each_agents_own() {
    in_every_life(&IDENTITY, |name, said| {
        let different: BTreeSet<_> = said.iter().collect();
        assert!(said.len() >= 4 && different.len() == said.len(), "{name}: {said:?}");
    })
    .await;
}

#[tokio::test]
async fn code_that_changed_on_disk_is_run_by_every_agent_from_then_on() {
    let version = |n: u32| format!("VERSION = {n}\ndef says():\n    return VERSION\n{AGENT}");
    let helper = "from odd_library import NUMBER\ndef says():\n    return NUMBER\n";
    let modules = Modules::new(&[
        ("odd_code", &version(1)),
        ("odd_library", "NUMBER = 1\n"),
        ("odd_user", &format!("{helper}{AGENT}")),
    ]);
    let stack = Stack::with(StackSettings { hosts: 2, ..modules.settings(&[]) }).await;
    let names = ["odd_code", "odd_user"];
    for name in names {
        for n in 0..4 {
            create(&stack, "odd", &format!("{name} {n}"), name).await;
        }
    }
    for host in 0..2 {
        tried(&stack, host, &names.map(|name| (name, ""))).await;
    }
    for name in names {
        create(&stack, "odd", &format!("{name} shared"), name).await;
        assert_eq!(said(&stack, &format!("{name} shared")).await, ["1"]);
    }
    let write =
        |name: &str, text: &str| std::fs::write(std::path::Path::new(&modules.path()).join(name), text).unwrap();
    write("odd_code.py", &version(2));
    write("odd_library.py", "NUMBER = 2 \n");
    for name in names {
        for n in 0..4 {
            create(&stack, "another", &format!("{name} new {n}"), name).await;
            assert_eq!(said(&stack, &format!("{name} new {n}")).await, ["2"], "on either host, at once");
        }
        let (guild_id, agent_id) = ("odd".to_owned(), format!("{name} 0"));
        let request = pb::RestartAgentRequest { guild_id, agent_id, ..Default::default() };
        stack.client.clone().restart_agent(request).await.unwrap();
        assert_eq!(lives(&stack, &format!("{name} 0"), 2).await, ["1", "2"]);
    }
}

#[tokio::test]
async fn an_agent_finds_no_module_loaded_that_its_class_does_not_import() {
    let says =
        "import sys\ndef says():\n    return sorted(name for name in sys.modules if name.startswith('odd_'))\n";
    let modules = Modules::new(&[
        ("odd_one", "ONE = 1\n"),
        ("odd_two", "TWO = 2\n"),
        ("odd_first", &format!("import odd_one\n{says}{AGENT}")),
        ("odd_both", &format!("import odd_one, odd_two\n{says}{AGENT}")),
        ("odd_none", &format!("{says}{AGENT}")),
    ]);
    let stack = modules.stack(&[]).await;
    let classes = [
        ("odd_first", "['odd_first', 'odd_one']"),
        ("odd_both", "['odd_both', 'odd_one', 'odd_two']"),
        ("odd_none", "['odd_none']"),
    ];
    for round in 0..3 {
        for (class, finds) in classes {
            let agent = format!("{class} {round}");
            create(&stack, class, &agent, class).await;
            assert_eq!(said(&stack, &agent).await, [finds]);
        }
        tried(&stack, 0, &classes.map(|(class, _)| (class, ""))).await;
    }
    assert_eq!(profile(&stack, 0).await.branches.len(), 3);
}

#[tokio::test]
async fn a_variable_that_a_module_read_decides_whether_an_agent_shares_it_and_others_do_not() {
    let module = "import os, sys\nMARK, KEY = object(), os.environ.get('KEY')\n\
        def says():\n    return KEY, 'shared' if sys.getrefcount(MARK) > 1 << 30 else 'own'\n";
    let modules = Modules::new(&[("odd_reader", &format!("{module}{AGENT}"))]);
    let mut stack = modules.stack(&[]).await;
    create(&stack, "odd", "first", "odd_reader").await;
    tried(&stack, 0, &[("odd_reader", "")]).await;
    for life in ["this life", "the next life of the host"] {
        for (agent, name, finds) in [
            ("other", "OTHER", "(None, 'shared')"),
            ("key", "KEY", "('value', 'own')"),
            ("again", "OTHER", "(None, 'shared')"),
        ] {
            let agent = format!("{agent} in {life}");
            let mut launch = python("odd", &agent, "odd_reader.Sayer");
            launch.environment.insert(name.to_owned(), "value".to_owned());
            stack.create(launch).await.unwrap();
            assert_eq!(said(&stack, &agent).await, [finds], "{agent}");
        }
        assert_eq!(profile(&stack, 0).await.cold_starts, 0);
        stack.hosts[0].signal(Signal::KILL);
        stack.hosts[0].ended().await;
        stack.restart_host(0);
        lives(&stack, "first", 1).await;
    }
}

#[tokio::test]
async fn a_variable_that_acts_only_when_a_program_starts_starts_it_cold_and_the_timings_say_so() {
    let module = "import ctypes\ndef says():\n    return hash('text')\n";
    let modules = Modules::new(&[("odd_hash", &format!("{module}{AGENT}"))]);
    let stack = modules.stack(&[]).await;
    for (agent, name) in [("one", "PYTHONHASHSEED"), ("two", "PYTHONHASHSEED"), ("three", "MALLOC_ARENA_MAX")] {
        let mut launch = python("odd", agent, "odd_hash.Sayer");
        launch.environment.insert(name.to_owned(), "1".to_owned());
        let request = pb::CreateAgentRequest { launch: Some(launch.into()), ..Default::default() };
        let timings = stack.client.clone().create_agent(request).await.unwrap().into_inner().timings.unwrap();
        assert!(timings.cold_reason.contains(name), "{timings:?}");
    }
    assert_eq!(said(&stack, "one").await, said(&stack, "two").await, "it is heeded");
    assert_eq!(profile(&stack, 0).await.cold_starts, 3);
    let request =
        pb::CreateAgentRequest { launch: Some(python("odd", "warm", "odd_hash.Sayer").into()), ..Default::default() };
    let timings = stack.client.clone().create_agent(request).await.unwrap().into_inner().timings.unwrap();
    assert_eq!(timings.cold_reason, "");
}

#[tokio::test]
async fn invented_modules_cost_neither_branches_without_end_nor_anybody_else() {
    let invented = "import sys, types\n\
        def says():\n    return 'fine'\n\
        from importlib.machinery import ModuleSpec\n\
        for n in range(300):\n    m = types.ModuleType(f'odd_invented_{n}')\n    m.__spec__ = ModuleSpec(m.__name__, None)\n    sys.modules[m.__name__] = m\n";
    let modules = with_agents(&[("odd_inventor", invented)]);
    let stack = modules.stack(&[]).await;
    for n in 0..5 {
        create(&stack, "odd", &format!("inventor {n}"), "odd_inventor").await;
    }
    create(&stack, "another", "plain", "neighbour").await;
    tried(&stack, 0, &[("neighbour", "")]).await;
    let profile = profile(&stack, 0).await;
    assert!(profile.generation <= 2 && profile.not_shared.len() <= 400, "{profile:?}");
    assert!(said(&stack, "plain").await[0].starts_with(UNTOUCHED));
}
