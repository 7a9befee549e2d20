//! WatchAgents: from any engine, over restarts of engines, and when the registry is lost.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use rustic_proto::{
    agent::v1::AgentPhase,
    engine::v1::{self as pb, engine_service_client::EngineServiceClient, watch_agents_response::Change},
};
use rustic_tests::{
    Stack, StackSettings,
    launches::idle,
    program::Program,
    stack::{client, engine_arguments},
    wait_until,
};
use rustix::process::Signal;
use tonic::{Code, Status, Streaming, transport::Channel};

/// What a watcher has received, in words.
#[derive(Debug, Default)]
struct Watcher {
    received: Vec<String>,
    revision: String,
}

impl Watcher {
    /// Reads on until `enough` was received.
    async fn read(&mut self, stream: &mut Streaming<pb::WatchAgentsResponse>, enough: &str) -> Result<(), Status> {
        loop {
            let answer = stream.message().await?.expect("a watch ends with an error only");
            let word = match answer.change.unwrap() {
                Change::Agent(agent) => {
                    format!("{}/{} {}", agent.guild_id, agent.agent_id, agent.phase().as_str_name())
                }
                Change::Removed(removed) => format!("{}/{} removed", removed.guild_id, removed.agent_id),
                Change::Bookmark(_) => "bookmark".to_owned(),
            };
            if !answer.revision.is_empty() {
                self.revision = answer.revision;
            }
            let done = word == enough;
            self.received.push(word);
            if done {
                return Ok(());
            }
        }
    }
}

fn running(agent: &str) -> String {
    format!("{agent} {}", AgentPhase::Running.as_str_name())
}

async fn watch(
    client: &EngineServiceClient<Channel>,
    guild: &str,
    revision: &str,
) -> Result<Streaming<pb::WatchAgentsResponse>, Status> {
    let request =
        pb::WatchAgentsRequest { guild_id: guild.to_owned(), revision: revision.to_owned(), ..Default::default() };
    client.clone().watch_agents(request).await.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn a_watcher_is_sent_who_is_there_and_what_becomes_of_them() {
    let stack = Stack::of(2).await;
    stack.create(idle("g", "before")).await.unwrap();
    stack.create(idle("other", "a")).await.unwrap();
    let (mut watcher, mut stream) = (Watcher::default(), watch(&stack.client, "g", "").await.unwrap());
    watcher.read(&mut stream, "bookmark").await.unwrap();
    assert_eq!(watcher.received, [running("g/before"), "bookmark".to_owned()]);
    stack.create(idle("other", "b")).await.unwrap();
    stack.create(idle("g", "after")).await.unwrap();
    watcher.read(&mut stream, &running("g/after")).await.unwrap();
    for agent in ["before", "after"] {
        stack.stop("g", agent).await.unwrap();
        watcher.read(&mut stream, &format!("g/{agent} removed")).await.unwrap();
    }
    assert!(watcher.received.iter().all(|word| !word.starts_with("other/")), "{:?}", watcher.received);
    // Its second life is sent as well.
    stack.create(idle("g", "before")).await.unwrap();
    watcher.read(&mut stream, &running("g/before")).await.unwrap();
}

#[tokio::test]
async fn any_engine_goes_on_where_another_one_ended() {
    let mut stack = Stack::of(1).await;
    let second = Program::start("engine-svc", &engine_arguments(&stack.redis.url(), &[]));
    let at_second = client(&second.address().await);
    wait_until("the second engine", async || watch(&at_second, "g", "").await.map_err(|status| status.to_string()))
        .await;
    stack.create(idle("g", "first")).await.unwrap();
    let (mut watcher, mut stream) = (Watcher::default(), watch(&stack.client, "g", "").await.unwrap());
    watcher.read(&mut stream, "bookmark").await.unwrap();
    drop(stream);
    stack.create(idle("g", "second")).await.unwrap();
    stack.stop("g", "first").await.unwrap();
    watcher.received.clear();
    let mut stream = watch(&at_second, "g", &watcher.revision).await.unwrap();
    while watcher.received.len() < 2 || !watcher.received.contains(&"g/first removed".to_owned()) {
        let any = running("g/second");
        let enough = if watcher.received.contains(&any) { "g/first removed".to_owned() } else { any };
        watcher.read(&mut stream, &enough).await.unwrap();
    }
    assert!(
        !watcher.received.contains(&"bookmark".to_owned()),
        "what was sent before is not sent again: {:?}",
        watcher.received
    );
    // The first engine ends: its watchers get an error, and go on with the engine that comes.
    let mut stream = watch(&stack.client, "g", &watcher.revision).await.unwrap();
    stack.engine.signal(Signal::TERM);
    let ended = loop {
        match stream.message().await {
            Ok(_) => {}
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::Unavailable, "{ended:?}");
    stack.engine.ended().await;
    stack.engine = Program::start("engine-svc", &engine_arguments(&stack.redis.url(), &[]));
    stack.connect_to_engine().await;
    let mut stream = wait_until("the engine that was started again", async || {
        watch(&stack.client, "g", &watcher.revision).await.map_err(|status| status.to_string())
    })
    .await;
    watcher.received.clear();
    stack.create(idle("g", "third")).await.unwrap();
    watcher.read(&mut stream, &running("g/third")).await.unwrap();
    assert!(watcher.received.iter().all(|word| word.starts_with("g/third")), "{:?}", watcher.received);
}

#[tokio::test]
async fn a_lost_registry_has_everybody_watch_anew() {
    let host_arguments =
        ["--lease-ttl", "1500ms", "--lease-margin", "400ms", "--lease-grace", "300ms"].map(str::to_owned).to_vec();
    let engine_arguments = ["--lease-grace", "300ms"].map(str::to_owned).to_vec();
    let stack =
        Stack::with(StackSettings { hosts: 2, host_arguments, engine_arguments, ..StackSettings::default() }).await;
    stack.create(idle("g", "a")).await.unwrap();
    let (mut watcher, mut stream) = (Watcher::default(), watch(&stack.client, "g", "").await.unwrap());
    watcher.read(&mut stream, "bookmark").await.unwrap();
    stack.redis.wipe();
    let ended = watcher.read(&mut stream, "never sent").await.unwrap_err();
    assert_eq!(ended.code(), Code::OutOfRange, "{ended:?}");
    assert!(!watcher.received.contains(&"g/a removed".to_owned()), "it runs: {:?}", watcher.received);
    // While the registry is being restored a watch is refused; then the revision is of another store life.
    let expired = wait_until("the registry to settle", async || {
        match watch(&stack.client, "g", &watcher.revision).await.map(drop) {
            Err(status) if status.code() == Code::Unavailable => Err(status),
            other => Ok(other),
        }
    })
    .await;
    assert_eq!(expired.unwrap_err().code(), Code::OutOfRange);
    let (mut watcher, mut stream) = (Watcher::default(), watch(&stack.client, "g", "").await.unwrap());
    watcher.read(&mut stream, "bookmark").await.unwrap();
    assert_eq!(watcher.received, [running("g/a"), "bookmark".to_owned()]);
}

#[tokio::test]
async fn nonsense_is_refused_with_what_to_do() {
    let stack = Stack::of(1).await;
    let refused = watch(&stack.client, "g", "yesterday").await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message().contains("without one")),
        (Code::InvalidArgument, true),
        "{refused:?}"
    );
    let request = pb::WatchAgentsRequest { agent_id: "a".to_owned(), ..Default::default() };
    let refused = stack.client.clone().watch_agents(request).await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message().contains("guild_id")),
        (Code::InvalidArgument, true),
        "{refused:?}"
    );
}
