//! Agents that may be moved even out the load of hosts: idle ones first, within their guild's budget, and nobody else is touched.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use rustic_proto::{
    agent::v1::{Agent, AgentLaunch, AgentPhase, Placement},
    engine::v1 as pb,
};
use rustic_tests::{
    Bus, Modules, Stack, StackSettings,
    bus::DOER,
    launches::idle,
    program::Program,
    stack::{engine_arguments, words},
    wait_until,
};
use rustix::process::Signal;
use serde_json::json;
use std::collections::BTreeMap;
use tokio::join;

const ALL_THE_TIME: &str = "--rebalance-every 100ms --rebalance-threshold 0";

fn rebalancing(more: &str) -> StackSettings {
    StackSettings { engine_arguments: words(&format!("{ALL_THE_TIME} {more}")), ..StackSettings::default() }
}

fn movable(launch: AgentLaunch) -> AgentLaunch {
    AgentLaunch { placement: Some(Placement { movable: true, ..Placement::default() }), ..launch }
}

/// An idle agent of an organization.
fn agent_of(organization: &str, agent: &str) -> AgentLaunch {
    AgentLaunch { organization_id: organization.to_owned(), ..idle("g", agent) }
}

async fn agents(stack: &Stack) -> Vec<Agent> {
    let listed = stack.client.clone().list_agents(pb::ListAgentsRequest::default()).await;
    listed.map_or(vec![], |page| page.into_inner().agents)
}

/// How many agents each of two hosts has, once all `count` run.
fn spread(agents: &[Agent], count: usize) -> Option<[usize; 2]> {
    let on = |host: &str| agents.iter().filter(|a| a.host_id == host).count();
    let all_run = agents.len() == count && agents.iter().all(|a| a.phase() == AgentPhase::Running);
    all_run.then(|| [on("agent-host-0"), on("agent-host-1")])
}

async fn are_spread(stack: &Stack, what: &str, count: usize, wanted: [usize; 2]) -> Vec<Agent> {
    wait_until(what, async || {
        let agents = agents(stack).await;
        if spread(&agents, count) == Some(wanted) { Ok(agents) } else { Err(agents) }
    })
    .await
}

#[tokio::test]
async fn agents_move_to_a_host_that_joins_and_in_its_second_life_and_those_that_may_not_stay() {
    let mut stack = Stack::with(rebalancing("--rebalance-per-hour 100")).await;
    let more = words(&format!("{ALL_THE_TIME} --rebalance-per-hour 100"));
    let _other = Program::start("engine-svc", &engine_arguments(&stack.redis.url(), &more));
    for n in 0..4 {
        for organization in ["acme", "globex"] {
            stack.create(movable(agent_of(organization, &n.to_string()))).await.unwrap();
        }
    }
    let mut fixed = BTreeMap::new();
    for n in 0..2 {
        let stays = stack.create(agent_of("acme", &format!("stays{n}"))).await.unwrap();
        fixed.insert(stays.agent_id, (stays.host_id, stays.pid, stays.epoch));
    }
    let stays_fixed = |agents: &[Agent]| {
        for agent in agents.iter().filter(|a| a.agent_id.starts_with("stays")) {
            let as_it_was = (agent.host_id.clone(), agent.pid, agent.epoch);
            assert_eq!(fixed.get(&agent.agent_id), Some(&as_it_was), "{agent:?}");
        }
    };
    stack.add_host().await;
    stays_fixed(&are_spread(&stack, "half of all on the host that has joined", 10, [5, 5]).await);

    // Its agents move back when it ends, and out again when it is there again.
    stack.hosts[1].signal(Signal::TERM);
    stack.hosts[1].ended().await;
    stays_fixed(&are_spread(&stack, "all on the host that is left", 10, [10, 0]).await);
    stack.restart_host(1);
    let agents = are_spread(&stack, "half of all on the host that is back", 10, [5, 5]).await;
    stays_fixed(&agents);
    for organization in ["acme", "globex"] {
        let request = pb::StopGuildRequest {
            organization_id: organization.to_owned(),
            guild_id: "g".to_owned(),
            ..Default::default()
        };
        stack.client.clone().stop_guild(request).await.unwrap();
    }
    stack.assert_nothing_left().await;
}

#[tokio::test]
async fn a_guild_has_its_budget_whichever_engine_moves_its_agents_and_after_a_restart_of_the_engine() {
    let mut stack = Stack::with(rebalancing("--rebalance-per-hour 2")).await;
    for n in 0..6 {
        stack.create(movable(agent_of("acme", &n.to_string()))).await.unwrap();
    }
    stack.add_host().await;
    are_spread(&stack, "as many as the budget allows", 6, [4, 2]).await;
    // Another engine in its place has seen nothing of that itself. What it moves of another guild shows that it looks.
    stack.engine.signal(Signal::TERM);
    stack.engine.ended().await;
    let arguments = engine_arguments(&stack.redis.url(), &words(&format!("{ALL_THE_TIME} --rebalance-per-hour 2")));
    stack.engine = Program::start("engine-svc", &arguments);
    stack.connect_to_engine().await;
    for n in 0..4 {
        // They begin on the host with less load, so that there is something to move when those that were there are gone.
        stack.create(movable(agent_of("globex", &n.to_string()))).await.unwrap();
    }
    let before = are_spread(&stack, "all to run", 10, [5, 5]).await;
    for agent in before.iter().filter(|a| a.organization_id == "acme" && a.host_id == "agent-host-1") {
        let request = pb::StopAgentRequest {
            organization_id: "acme".to_owned(),
            guild_id: "g".to_owned(),
            agent_id: agent.agent_id.clone(),
            ..Default::default()
        };
        stack.client.clone().stop_agent(request).await.unwrap();
    }
    let after = are_spread(&stack, "one of the other guild to move", 8, [4, 4]).await;
    let of_acme: Vec<_> = after.iter().filter(|a| a.organization_id == "acme").map(|a| &a.host_id).collect();
    assert_eq!(of_acme, ["agent-host-0"; 4], "its budget is spent");
}

#[tokio::test]
async fn an_idle_agent_moves_before_one_that_is_at_work_and_whoever_moves_answers_every_message_once() {
    let modules = Modules::new(&[("doer", DOER)]);
    let mut settings = modules.settings(&[]);
    settings.engine_arguments = rebalancing("").engine_arguments;
    let mut stack = Stack::with(settings).await;
    let mut bus = Bus::to(stack.redis.port());
    let dir = tempfile::tempdir().unwrap();
    let gate = |name: &str| dir.path().join(name).display().to_string();
    for name in ["a", "b", "c"] {
        stack.create(movable(bus.agent("g", name, "doer.Doer"))).await.unwrap();
    }
    for (n, name) in [(1, "a"), (2, "b")] {
        bus.say("g", name, json!({"n": n, "do": "await", "path": gate("first")})).await;
        let heard = format!("HEARD {n}");
        stack.hosts[0].logged("it to be at work", |line| line["message"] == heard.as_str()).await;
    }
    stack.add_host().await;
    let on = |host: &'static str| move |agent: &Agent| agent.host_id == host && agent.phase() == AgentPhase::Running;
    stack.agent_is("the idle one to move", "g", "c", on("agent-host-1")).await;
    for name in ["a", "b"] {
        let at_work = stack.get("g", name).await.unwrap();
        assert!(on("agent-host-0")(&at_work), "{at_work:?}");
    }

    // Nobody is idle where there are too many: one goes when its handler is done.
    stack.stop("g", "c").await.unwrap();
    let goes = wait_until("one to be asked to go", async || {
        let (a, b) = join!(stack.get("g", "a"), stack.get("g", "b"));
        let goes = [a, b].into_iter().flatten().find(|agent| agent.phase() != AgentPhase::Running);
        goes.ok_or(())
    })
    .await;
    assert_eq!(bus.answers("g", 1).await.len() + bus.answers("g", 2).await.len(), 0, "its handler is let finish");
    std::fs::write(gate("first"), "").unwrap();
    stack.agent_is("it to move", "g", &goes.agent_id, on("agent-host-1")).await;
    let stays = if goes.agent_id == "a" { "b" } else { "a" };
    assert!(on("agent-host-0")(&stack.get("g", stays).await.unwrap()));
    for (n, name) in [(3, "a"), (4, "b")] {
        bus.say("g", name, json!({"n": n})).await;
    }
    for n in 1..=4 {
        wait_until("an answer", async || if bus.answers("g", n).await.is_empty() { Err(n) } else { Ok(()) }).await;
        assert_eq!(bus.answers("g", n).await.len(), 1, "message {n}");
    }
}
