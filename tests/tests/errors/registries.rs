//! A registry that is away, was lost, or is another version's; and an engine that ends.

use crate::provoked::{Provoked, agent, e, launch};
use rustic_proto::reason::Reason;
use rustic_tests::{Stack, grpcurl::start_grpcurl, launches::idle};
use rustix::process::Signal;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};

pub(crate) async fn provoke() -> Provoked {
    let mut seen = Provoked::default();
    let stack = Stack::of(0).await;
    seen.refused(Reason::NoHost, stack.engine_address(), &e("CreateAgent"), launch("a", &json!({}))).await;

    let mut stack = Stack::start().await;
    let engine = stack.engine_address().to_owned();
    stack.create(idle("g", "a")).await.unwrap();
    stack.redis.admin().run("HSET {rustic}:agent:default:g:a phase HIBERNATING");
    seen.refused(Reason::RecordUnreadable, &engine, &e("StopAgent"), agent("a", &json!({}))).await;
    stack.redis.admin().run("HSET {rustic}:agent:default:g:a phase RUNNING");
    // Its only host cannot report what it runs.
    stack.hosts[0].signal(Signal::STOP);
    stack.redis.wipe();
    seen.refused(Reason::RegistryLost, &engine, &e("GetAgent"), agent("a", &json!({}))).await;
    stack.hosts[0].signal(Signal::CONT);
    stack.agent_is("it to be restored", "g", "a", |_| true).await;
    stack.redis.admin().run("SET {rustic}:schema 99");
    seen.refused(Reason::RegistryForm, &engine, &e("CreateAgent"), launch("b", &json!({}))).await;
    stack.redis.kill();
    seen.refused(Reason::RegistryUnreachable, &engine, &e("GetAgent"), agent("a", &json!({}))).await;

    let mut stack = Stack::start().await;
    let (method, request) = (e("WatchAgents"), json!({"guild_id": "g"}).to_string());
    let mut watch = start_grpcurl(&["-d", &request, stack.engine_address(), &method]);
    let mut answers = BufReader::new(watch.stdout.take().unwrap()).lines();
    while !answers.next_line().await.unwrap().expect("it watches").contains("bookmark") {}
    stack.engine.stop().await;
    let err = String::from_utf8(watch.wait_with_output().await.unwrap().stderr).unwrap();
    seen.printed(Reason::EngineStopping, &method, &request, err);
    seen
}
