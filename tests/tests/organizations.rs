//! Two organizations whose guilds and agents have the same ids: neither is seen or touched by the other, in no life of agent, host or
//! registry.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use rustic_proto::{
    agent::v1::{self as agent_pb, AgentPhase},
    engine::v1::{self as pb, watch_agents_response::Change},
    reason::Reason,
};
use rustic_tests::{
    Stack, StackSettings,
    launches::{idle, python},
    processes::lives,
    wait_until,
};
use rustix::process::Signal;
use serde_json::json;
use tonic::{Code, Status};

const RESPONDER: &str = rustic_tests::launches::RESPONDER;

fn of(organization: &str, launch: agent_pb::AgentLaunch) -> agent_pb::AgentLaunch {
    agent_pb::AgentLaunch { organization_id: organization.to_owned(), ..launch }
}

async fn get(stack: &Stack, organization: &str, agent: &str) -> Result<agent_pb::Agent, Status> {
    let request = pb::GetAgentRequest {
        organization_id: organization.to_owned(),
        guild_id: "twin".to_owned(),
        agent_id: agent.to_owned(),
        ..Default::default()
    };
    Ok(stack.client.clone().get_agent(request).await?.into_inner().agent.unwrap())
}

async fn list(stack: &Stack, organization: &str, guild: &str) -> Result<Vec<String>, Status> {
    let request = pb::ListAgentsRequest {
        organization_id: organization.to_owned(),
        guild_id: guild.to_owned(),
        page_size: 1,
        ..Default::default()
    };
    let (mut names, mut page) = (vec![], request);
    loop {
        let answer = stack.client.clone().list_agents(page.clone()).await?.into_inner();
        names.extend(answer.agents.iter().map(|a| format!("{}/{}/{}", a.organization_id, a.guild_id, a.agent_id)));
        if answer.next_page_token.is_empty() {
            return Ok(names);
        }
        page.page_token = answer.next_page_token;
    }
}

#[tokio::test]
async fn guilds_of_one_name_are_two_in_every_life() {
    let mut stack = Stack::of(2).await;
    let mut agents = vec![];
    for organization in ["a", "b"] {
        for agent in ["x", "y"] {
            let made = stack.create(of(organization, idle("twin", agent))).await.unwrap();
            assert_eq!(
                (made.organization_id.as_str(), made.machine_id),
                (organization, if agent == "x" { 1 } else { 2 })
            );
            agents.push(made);
        }
    }
    assert_eq!(list(&stack, "a", "twin").await.unwrap(), ["a/twin/x", "a/twin/y"]);
    assert_eq!(list(&stack, "b", "").await.unwrap(), ["b/twin/x", "b/twin/y"]);
    assert_eq!(list(&stack, "", "").await.unwrap().len(), 4);
    assert_eq!(list(&stack, "", "twin").await.unwrap(), [""; 0], "whoever names none means the default one");
    assert_eq!(get(&stack, "", "x").await.unwrap_err().code(), Code::NotFound);

    // The second life of a host, and of what it ran.
    stack.hosts[0].signal(Signal::KILL);
    stack.hosts[0].ended().await;
    stack.restart_host(0);
    let whole = async || {
        for before in &agents {
            let now = get(&stack, &before.organization_id, &before.agent_id).await.map_err(|s| s.to_string())?;
            // An agent of the host that was killed runs once it has another process.
            let again = before.host_id != "agent-host-0" || now.pid != before.pid;
            let runs = now.phase() == AgentPhase::Running && again && lives(now.pid);
            if !runs || now.organization_id != before.organization_id {
                return Err(format!("{now:?}"));
            }
        }
        Ok(())
    };
    wait_until("all to run after a host was killed", whole).await;
    // And of the registry.
    stack.redis.admin().run("FLUSHALL");
    wait_until("all to be reported", async || match list(&stack, "", "").await {
        Ok(names) if names.len() == 4 => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    wait_until("all to run after the registry was wiped", whole).await;

    let stop = |organization: &str| pb::StopGuildRequest {
        organization_id: organization.to_owned(),
        guild_id: "twin".to_owned(),
        timeout: None,
    };
    let theirs = get(&stack, "b", "x").await.unwrap();
    let stopped = stack.client.clone().stop_guild(stop("a")).await.unwrap().into_inner().stopped;
    assert_eq!(stopped, 2);
    assert_eq!(list(&stack, "", "").await.unwrap(), ["b/twin/x", "b/twin/y"]);
    assert_eq!(get(&stack, "b", "x").await.unwrap(), theirs);
    assert!(lives(theirs.pid));
    stack.client.clone().stop_guild(stop("b")).await.unwrap();
    stack.assert_nothing_left().await;
}

#[tokio::test]
async fn a_watcher_of_one_organization_hears_nothing_of_the_other() {
    let stack = Stack::of(2).await;
    stack.create(of("a", idle("twin", "before"))).await.unwrap();
    let request = pb::WatchAgentsRequest { organization_id: "b".to_owned(), ..Default::default() };
    let mut changes = stack.client.clone().watch_agents(request).await.unwrap().into_inner();
    for organization in ["a", "b"] {
        stack.create(of(organization, idle("twin", "after"))).await.unwrap();
    }
    loop {
        match changes.message().await.unwrap().unwrap().change.unwrap() {
            Change::Agent(agent) => {
                assert_eq!((agent.organization_id.as_str(), agent.agent_id.as_str()), ("b", "after"));
                if agent.phase() == AgentPhase::Running {
                    break;
                }
            }
            Change::Bookmark(_) => {}
            Change::Removed(removed) => panic!("{removed:?}"),
        }
    }
}

/// Messages of guild `twin` go over `bus`.
fn talks(organization: &str, bus: &str, port: u16) -> agent_pb::AgentLaunch {
    let launch = of(organization, python("twin", "x", RESPONDER));
    let messaging_config = json!({
        "backend_module": "rustic_ai.redis.messaging.backend",
        "backend_class": "RedisMessagingBackend",
        "backend_config": {"redis_client": {"host": bus, "port": port}},
    });
    agent_pb::AgentLaunch { messaging_config: messaging_config.to_string(), ..launch }
}

fn port(url: &str) -> u16 {
    url.rsplit([':', '/']).find_map(|part| part.parse().ok().filter(|port| *port > 1024)).unwrap()
}

#[tokio::test]
async fn two_organizations_do_not_meet_on_a_bus_because_their_guilds_have_one_id() {
    let stack = Stack::of(2).await;
    let port = port(&stack.redis.url());
    // One that comes first in the guild, and has no bus.
    stack.create(of("a", idle("twin", "a"))).await.unwrap();
    stack.create(talks("a", "127.0.0.1", port)).await.unwrap();
    let refused = stack.create(talks("b", "127.0.0.1", port)).await.unwrap_err();
    assert_eq!(Reason::of(&refused), Some(Ok(Reason::GuildIdShared)), "{refused:?}");
    assert!(refused.message().contains("choose another guild id, or another bus"), "{refused:?}");
    assert_eq!(get(&stack, "b", "x").await.unwrap_err().code(), Code::NotFound, "nothing is left behind");
    // Another name of the same machine counts as another bus: only who configures them knows.
    stack.create(talks("b", "localhost", port)).await.unwrap();
    // Who has a place in the guild has it also beside others.
    stack.client.clone().stop_agent(stop("b")).await.unwrap();
    stack.create(talks("b", "localhost", port)).await.unwrap();
    // Once the other one is gone, the id is free.
    for organization in ["a", "b"] {
        stack.client.clone().stop_agent(stop(organization)).await.unwrap();
    }
    stack.create(talks("b", "127.0.0.1", port)).await.unwrap();
}

fn stop(organization: &str) -> pb::StopAgentRequest {
    pb::StopAgentRequest {
        organization_id: organization.to_owned(),
        guild_id: "twin".to_owned(),
        agent_id: "x".to_owned(),
        ..Default::default()
    }
}

#[tokio::test]
async fn an_operator_may_let_them_meet() {
    let engine_arguments = vec!["--allow-shared-guild-ids".to_owned()];
    let stack = Stack::with(StackSettings { engine_arguments, ..Default::default() }).await;
    let port = port(&stack.redis.url());
    for organization in ["a", "b"] {
        stack.create(talks(organization, "127.0.0.1", port)).await.unwrap();
    }
}
