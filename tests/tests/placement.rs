//! Where agents land that are created at once.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use rustic_proto::engine::v1::{self as pb, engine_service_client::EngineServiceClient};
use rustic_tests::{
    Stack,
    launches::idle,
    program::Program,
    stack::{client, engine_arguments},
};
use std::collections::BTreeMap;
use tokio::task::JoinSet;
use tonic::transport::Channel;

/// Agents that are created at once.
const BURST: usize = 40;

/// Creates agents at once, through each engine in turn. Returns how many each host got.
async fn burst(engines: &[EngineServiceClient<Channel>]) -> BTreeMap<String, usize> {
    let mut calls = JoinSet::new();
    for n in 0..BURST {
        let mut client = engines[n % engines.len()].clone();
        let launch = Some(idle("g", &n.to_string()).into());
        calls
            .spawn(async move { client.create_agent(pb::CreateAgentRequest { launch, ..Default::default() }).await });
    }
    let mut hosts = BTreeMap::new();
    while let Some(created) = calls.join_next().await {
        let agent = created.unwrap().unwrap().into_inner().agent.unwrap();
        *hosts.entry(agent.host_id).or_default() += 1;
    }
    hosts
}

/// Fails unless every host has as many as every other, or one more.
fn assert_even(hosts: &BTreeMap<String, usize>, count: usize) {
    let (least, most) = (hosts.values().min().unwrap(), hosts.values().max().unwrap());
    assert!(hosts.len() == count && most - least <= 1, "{hosts:?}");
}

#[tokio::test]
async fn a_burst_through_one_engine_spreads_over_equal_hosts() {
    let stack = Stack::of(3).await;
    assert_even(&burst(std::slice::from_ref(&stack.client)).await, 3);
}

#[tokio::test]
async fn a_burst_through_three_engines_spreads_over_equal_hosts() {
    let stack = Stack::of(2).await;
    let arguments = engine_arguments(&stack.redis.url(), &[]);
    let others = [Program::start("engine-svc", &arguments), Program::start("engine-svc", &arguments)];
    let engines = [stack.client.clone(), client(&others[0].address().await), client(&others[1].address().await)];
    for engine in &engines {
        rustic_tests::wait_until("the engine to see the hosts", async || {
            let hosts =
                engine.clone().list_hosts(pb::ListHostsRequest::default()).await.map_err(|s| s.to_string())?;
            let hosts = hosts.into_inner().hosts;
            if hosts.len() == 2 { Ok(()) } else { Err(format!("{hosts:?}")) }
        })
        .await;
    }
    assert_even(&burst(&engines).await, 2);
}
