//! Redis that answers, but not as it should: agents go on, callers get an error that says what is wrong, and nothing must be restarted.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use rustic_proto::{
    agent::v1::{self as agent_pb, AgentPhase},
    engine::v1::{self as pb, PendingPolicy::WaitForRoom},
};
use rustic_registry::{
    RedisRegistry, RedisSettings, Registry as _,
    dev_server::{Admin, DevServer, Durability},
};
use rustic_tests::{Stack, launches::idle, processes::lives, wait_until};
use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    time::Duration,
};
use tonic::Code;

/// Brings trouble, looks at whether a caller's error contains `why`, ends the trouble, and looks at what is left of it.
async fn survives(begin: &[&str], end: &[&str], why: &str) {
    let stack = Stack::start().await;
    let agent = stack.create(idle("g", "a")).await.unwrap();
    let mut admin = stack.redis.admin();
    let mut run = |commands: &[&str]| commands.iter().for_each(|command| _ = answered(&mut admin, command));
    run(begin);
    let refused = wait_until("a create to be refused", async || match stack.create(idle("g", "b")).await {
        Err(status) if status.message().contains(why) => Ok(status),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    run(end);
    wait_until("creates to work again", async || stack.create(idle("g", "b")).await.map_err(|s| s.to_string())).await;
    let same = stack.get("g", "a").await.unwrap();
    assert_eq!((same.pid, same.epoch, same.phase()), (agent.pid, agent.epoch, AgentPhase::Running));
    assert!(lives(agent.pid));
    for agent in ["a", "b"] {
        stack.stop("g", agent).await.unwrap();
    }
    stack.assert_nothing_left().await;
}

fn answered(admin: &mut Admin, command: &str) -> String {
    let answer = admin.run(command);
    assert!(!answer.starts_with('-'), "{command}: {answer}");
    answer
}

#[tokio::test]
async fn a_redis_that_is_full_is_reported_and_survived() {
    survives(&["CONFIG SET maxmemory 1"], &["CONFIG SET maxmemory 0"], "OOM").await;
}

#[tokio::test]
async fn a_redis_that_became_a_replica_is_reported_and_survived() {
    // Of nobody: port 1 answers no one.
    survives(&["REPLICAOF 127.0.0.1 1"], &["REPLICAOF NO ONE"], "READONLY").await;
}

#[tokio::test]
async fn a_redis_that_wants_a_password_is_reported_and_survived() {
    let begin = ["CONFIG SET requirepass secret", "CLIENT KILL TYPE normal SKIPME yes"];
    survives(&begin, &["CONFIG SET requirepass \"\""], "NOAUTH").await;
}

#[tokio::test]
async fn a_redis_that_is_slower_than_its_callers_wait_is_reported_and_survived() {
    survives(&["CLIENT PAUSE 5500 ALL"], &[], "the registry").await;
}

#[tokio::test]
async fn a_stop_is_the_last_word_over_what_a_frozen_redis_received_before() {
    let stack = Stack::start().await;
    stack.create(idle("g", "before")).await.unwrap();
    stack.redis.pause();
    let refused = stack.create(idle("g", "late")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    stack.redis.resume();
    wait_until("the engine to see Redis again", async || {
        stack.get("g", "before").await.map_err(|status| status.to_string())
    })
    .await;
    // The create was answered with an error. Redis had received it, and may have carried it out when it went on: the stop shows whether.
    // After the stop the agent is not there, and nothing brings it.
    match stack.stop("g", "late").await {
        Ok(_) => {}
        Err(status) => assert_eq!(status.code(), Code::NotFound, "{status:?}"),
    }
    let status = stack.get("g", "late").await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
    stack.create(idle("g", "late")).await.unwrap();
    for agent in ["before", "late"] {
        stack.stop("g", agent).await.unwrap();
    }
    stack.assert_nothing_left().await;
}

#[tokio::test]
async fn a_redis_that_loads_is_reported() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}/0", listener.local_addr().unwrap());
    // Not a Redis: it says what one says that has just been started over a large file.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            std::thread::spawn(move || {
                let (mut writer, reader) = (stream.try_clone().unwrap(), BufReader::new(stream));
                for _command in reader.lines().map_while(Result::ok).filter(|line| line.starts_with('*')) {
                    let _gone = writer.write_all(b"-LOADING Redis is loading the dataset in memory\r\n");
                }
            });
        }
    });
    let registry = RedisRegistry::new(&RedisSettings::new(&url)).unwrap();
    let error = registry.hosts().await.unwrap_err();
    assert!(error.is_retryable() && error.to_string().to_lowercase().contains("loading"), "{error}");
}

#[tokio::test]
async fn connections_that_are_cut_again_and_again_lose_and_double_nothing() {
    let stack = Stack::start().await;
    let first = stack.create(idle("g", "first")).await.unwrap();
    let mut admin = stack.redis.admin();
    let cutting = async {
        for _ in 0..40 {
            admin.run("CLIENT KILL TYPE normal SKIPME yes");
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    };
    let creating = async {
        for n in 0..20 {
            let launch = idle("g", &n.to_string());
            wait_until("a create to get through", async || {
                stack.create(launch.clone()).await.map_err(|status| {
                    // Whatever is cut off, a caller gets an error that asks it to try again.
                    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                    status.to_string()
                })
            })
            .await;
        }
    };
    tokio::join!(cutting, creating);
    let host = stack.hosts[0].pid();
    let pids: BTreeSet<_> = rustic_tests::processes::agents(host).into_iter().filter(|pid| lives(*pid)).collect();
    assert_eq!(pids.len(), 21);
    assert!(pids.contains(&first.pid), "nobody was restarted");
    for n in 0..20 {
        // The engine may learn only now that its last connection was cut.
        let agent = stack.agent_is("the agent to be read", "g", &n.to_string(), |_| true).await;
        assert!(pids.contains(&agent.pid));
    }
}

#[tokio::test]
async fn a_redis_that_was_restarted_with_its_file_is_restored_and_no_agent_notices() {
    let dir = tempfile::tempdir().unwrap();
    let mut redis = DevServer::start(dir.path(), Durability::EveryWrite).unwrap();
    let engine = rustic_tests::program::Program::start(
        "engine-svc",
        &rustic_tests::stack::engine_arguments(&redis.url(), &[]),
    );
    let address = engine.address().await;
    let more = ["--no-zygote", "--max-agents", "2"].map(str::to_owned);
    let arguments = rustic_tests::stack::host_arguments(0, dir.path(), &redis.url(), &address, &more);
    let host = rustic_tests::program::Program::start("agent-host", &arguments);
    host.address().await;
    let stack = rustic_tests::stack::client(&address);
    let create = async |agent: &str| {
        let (launch, wait) = (Some(idle("g", agent)), agent_pb::WaitMode::Accepted.into());
        let request = pb::CreateAgentRequest {
            launch: launch.map(Into::into),
            pending: WaitForRoom.into(),
            wait,
            ..Default::default()
        };
        stack.clone().create_agent(request).await.map(|r| r.into_inner().agent.unwrap()).map_err(|s| s.to_string())
    };
    let becomes = async |agent: &str, phase| {
        let (guild_id, agent_id) = ("g".to_owned(), agent.to_owned());
        let request = pb::GetAgentRequest { guild_id, agent_id, ..Default::default() };
        wait_until(&format!("{agent} to be {phase:?}"), async || {
            let found = stack.clone().get_agent(request.clone()).await.map_err(|s| s.to_string())?;
            found.into_inner().agent.filter(|a| a.phase() == phase).ok_or_else(|| "not yet".to_owned())
        })
        .await
    };
    for agent in ["a", "b", "waits"] {
        create(agent).await.unwrap();
    }
    let agent = becomes("a", AgentPhase::Running).await;
    becomes("b", AgentPhase::Running).await;
    becomes("waits", AgentPhase::Pending).await;
    redis.kill();
    redis.restart().unwrap();
    // No agent is placed until the host has reported what it runs; then an agent that waited before gets the room that there is.
    let stop = pb::StopAgentRequest { guild_id: "g".to_owned(), agent_id: "b".to_owned(), ..Default::default() };
    let stopped = async || match stack.clone().stop_agent(stop.clone()).await {
        Err(status) if status.code() != Code::NotFound => Err(status),
        _stopped => Ok(()),
    };
    wait_until("an agent to make room", stopped).await;
    becomes("waits", AgentPhase::Running).await;
    host.logged("the host to report", |l| l["message"].as_str().is_some_and(|m| m.contains("was lost or restarted")))
        .await;
    assert!(lives(agent.pid));
    let same = create("a").await.unwrap();
    assert_eq!((same.pid, same.epoch), (agent.pid, agent.epoch));
}

#[tokio::test]
async fn what_somebody_has_changed_of_what_is_reserved_is_put_right_and_counted() {
    let stack = Stack::start().await;
    stack.create(idle("g", "a")).await.unwrap();
    let used = async || {
        let hosts =
            stack.client.clone().list_hosts(pb::ListHostsRequest::default()).await.unwrap().into_inner().hosts;
        hosts[0].used.clone()
    };
    let right = used().await;
    for wrong in ["slots=99000", "", "gpus=500;slots=1000"] {
        stack.redis.admin().run(&format!("HSET {{rustic}}:host:agent-host-0 used '{wrong}'"));
        // An engine looks when it starts, and every minute.
        let engine = rustic_tests::program::Program::start(
            "engine-svc",
            &rustic_tests::stack::engine_arguments(&stack.redis.url(), &[]),
        );
        engine.logged("what differs to be named", |l| l["reserved"] == wrong && l["claimed"] == "slots=1000").await;
        wait_until("it to be put right", async || match used().await {
            now if now == right => Ok(()),
            now => Err(now),
        })
        .await;
    }
}
