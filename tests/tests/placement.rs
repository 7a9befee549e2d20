//! Where agents land that are created at once.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use rustic_proto::{
    agent::v1::{Agent, AgentLaunch, AgentPhase, AntiAffinity, AntiAffinityScope, Placement},
    engine::v1::{self as pb, Verdict, engine_service_client::EngineServiceClient},
};
use rustic_tests::{
    Stack, StackSettings,
    launches::idle,
    program::Program,
    stack::{client, engine_arguments, words},
};
use std::collections::BTreeMap;
use tokio::task::JoinSet;
use tonic::{Code, transport::Channel};

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

#[tokio::test]
async fn placement_is_explained_for_an_agent_that_runs_for_one_that_waits_and_for_a_launch() {
    let settings = StackSettings { hosts: 2, host_arguments: words("--max-agents 1"), ..StackSettings::default() };
    let stack = Stack::with(settings).await;
    let explain = async |request: pb::ExplainPlacementRequest| {
        stack.client.clone().explain_placement(request).await.map(tonic::Response::into_inner)
    };
    let named = |agent: &str| pb::ExplainPlacementRequest {
        guild_id: "g".to_owned(),
        agent_id: agent.to_owned(),
        ..Default::default()
    };
    let verdicts = |answer: &pb::ExplainPlacementResponse| -> Vec<_> {
        answer.hosts.iter().map(|host| (host.host_id.clone(), host.verdict())).collect()
    };
    let launch =
        |launch: AgentLaunch| pb::ExplainPlacementRequest { launch: Some(launch.into()), ..Default::default() };

    let free = explain(launch(idle("g", "a"))).await.unwrap();
    assert_eq!((free.message.as_str(), free.host_id.as_str(), free.demand["slots"]), ("", "", 1.0));
    assert!(
        free.hosts.len() == 2 && free.hosts.iter().all(|h| h.verdict() == Verdict::Fits && h.load == 1.0),
        "{free:?}"
    );
    let first = stack.create(idle("g", "a")).await.unwrap();
    assert_eq!(first.host_id, free.hosts[0].host_id, "it is what placing does");
    stack.create(idle("g", "b")).await.unwrap();

    let request = pb::CreateAgentRequest {
        launch: Some(idle("g", "waits").into()),
        pending: pb::PendingPolicy::WaitForRoom.into(),
        ..Default::default()
    };
    stack.client.clone().create_agent(request).await.unwrap();
    let waits = explain(named("waits")).await.unwrap();
    let both = |verdict| ["agent-host-0", "agent-host-1"].map(|host| (host.to_owned(), verdict)).to_vec();
    assert_eq!(verdicts(&waits), both(Verdict::NoRoom));
    let agent = stack.get("g", "waits").await.unwrap();
    assert!(!waits.message.is_empty() && agent.message.contains(&waits.message), "{agent:?} {waits:?}");
    assert_eq!(explain(named("a")).await.unwrap().host_id, first.host_id);

    let mut large = idle("g", "large");
    large.agent_spec = r#"{"id": "large", "name": "l", "resources": {"num_gpus": 2}}"#.to_owned();
    let large = explain(launch(large)).await.unwrap();
    assert_eq!(verdicts(&large), both(Verdict::TooSmall));
    assert_eq!(large.message, "2 gpus (most on one host: 0)");
    assert_eq!(large.hosts[0].message, "it is too small: 2 gpus (it has: 0)");

    let host_id = "agent-host-1".to_owned();
    stack.client.clone().drain_host(pb::DrainHostRequest { host_id, ..Default::default() }).await.unwrap();
    let drained = explain(launch(idle("g", "c"))).await.unwrap();
    assert_eq!(drained.hosts[1].verdict(), Verdict::Draining, "{drained:?}");

    assert_eq!(explain(named("nobody")).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(explain(pb::ExplainPlacementRequest::default()).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(explain(launch(AgentLaunch::default())).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(stack.get("g", "c").await.unwrap_err().code(), Code::NotFound, "nothing was created");
}

#[tokio::test]
async fn an_agent_is_on_a_host_with_its_labels_in_every_life_or_waits_for_one() {
    let mut stack = Stack::with(StackSettings { hosts: 0, ..StackSettings::default() }).await;
    let start = |stack: &Stack, n: usize, labels: &str| {
        let mut arguments = stack.host_arguments(n);
        arguments.extend(words(labels));
        Program::start("agent-host", &arguments)
    };
    stack.hosts = vec![start(&stack, 0, "--label zone=a"), start(&stack, 1, "--label zone=b,disk=fast")];
    stack.wait_for_hosts().await;
    let placed = |agent: &str, required: &[(&str, &str)], preferred: &[(&str, &str)]| {
        let map = |labels: &[(&str, &str)]| labels.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let mut launch = idle("g", agent);
        launch.placement = Some(Placement {
            required_labels: map(required),
            preferred_labels: map(preferred),
            ..Placement::default()
        });
        launch
    };
    for n in 0..4 {
        let agent = stack.create(placed(&format!("b{n}"), &[("zone", "b")], &[])).await.unwrap();
        assert_eq!(agent.host_id, "agent-host-1");
        let agent = stack.create(placed(&format!("fast{n}"), &[], &[("disk", "fast")])).await.unwrap();
        assert_eq!(agent.host_id, "agent-host-1", "though it has more agents");
    }
    assert_eq!(stack.create(idle("g", "any")).await.unwrap().host_id, "agent-host-0");
    let hosts = stack.client.clone().list_hosts(pb::ListHostsRequest::default()).await.unwrap().into_inner().hosts;
    assert!(hosts.iter().all(|host| host.capacity.keys().all(|name| !name.contains("zone"))), "{hosts:?}");

    let refused = stack.create(placed("none", &[("zone", "c")], &[])).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("the label zone=c, which no host has"), "{refused:?}");
    let wrong = stack.create(placed("wrong", &[("", "x"), ("a", "b=c")], &[])).await.unwrap_err();
    assert!(wrong.code() == Code::InvalidArgument && wrong.message().contains("required_labels"), "{wrong:?}");
    let mut spec = idle("g", "spec");
    spec.agent_spec =
        r#"{"id": "s", "name": "s", "resources": {"custom_resources": {"label:zone=b": 1}}}"#.to_owned();
    assert_eq!(stack.create(spec).await.unwrap_err().code(), Code::InvalidArgument);

    // Its host is gone: it waits, and holds up nobody else, until a host with its labels comes.
    stack.hosts[1].signal(rustix::process::Signal::TERM);
    stack.hosts[1].ended().await;
    let waits = |agent: &Agent| agent.phase() == AgentPhase::Pending;
    stack.agent_is("it to wait for its zone", "g", "b0", waits).await;
    let moved = |agent: &Agent| agent.phase() == AgentPhase::Running && agent.host_id == "agent-host-0";
    stack.agent_is("who may be anywhere to move", "g", "fast0", moved).await;
    let other = start(&stack, 2, "--label zone=b");
    stack.hosts[1] = other;
    let back = |agent: &Agent| agent.phase() == AgentPhase::Running && agent.host_id == "agent-host-2";
    for n in 0..4 {
        stack.agent_is("it to return to its zone", "g", &format!("b{n}"), back).await;
    }
}

/// An agent that stays apart from others.
fn apart(organization: &str, guild: &str, agent: &str, scope: AntiAffinityScope, across: &str) -> AgentLaunch {
    let group = if scope == AntiAffinityScope::Group { "replicas" } else { "" };
    let wish =
        AntiAffinity { scope: scope.into(), group: group.to_owned(), across: across.to_owned(), preferred: false };
    let spec = serde_json::json!({"id": agent, "name": "worker"}).to_string();
    AgentLaunch {
        organization_id: organization.to_owned(),
        agent_spec: spec,
        placement: Some(Placement { anti_affinities: vec![wish], ..Placement::default() }),
        ..idle(guild, agent)
    }
}

#[tokio::test]
async fn agents_that_stay_apart_share_no_host_and_no_zone_through_two_engines_and_after_a_restart() {
    let mut stack = Stack::with(StackSettings { hosts: 3, ..StackSettings::default() }).await;
    // Two hosts of one zone, and one of another, each in its second life.
    for (host, zone) in ["zone=a", "zone=a", "zone=b"].into_iter().enumerate() {
        stack.hosts[host].signal(rustix::process::Signal::KILL);
        stack.hosts[host].ended().await;
        stack.restart_host_with(host, &["--label", zone]);
    }
    let other = Program::start("engine-svc", &engine_arguments(&stack.redis.url(), &[]));
    let engines = [stack.client.clone(), client(&other.address().await)];
    for engine in &engines {
        rustic_tests::wait_until("the engine to see the zones", async || {
            let hosts =
                engine.clone().list_hosts(pb::ListHostsRequest::default()).await.map_err(|s| s.to_string())?;
            let hosts = hosts.into_inner().hosts;
            if hosts.iter().filter(|host| host.labels.contains_key("zone")).count() == 3 {
                Ok(())
            } else {
                Err(format!("{hosts:?}"))
            }
        })
        .await;
    }
    for (scope, organization, across, most) in [
        (AntiAffinityScope::Guild, "acme", "zone", 2),
        (AntiAffinityScope::Guild, "globex", "zone", 2),
        (AntiAffinityScope::Name, "acme", "", 3),
        (AntiAffinityScope::Group, "acme", "zone", 2),
    ] {
        let guild = format!("{scope:?} {across}");
        let mut calls = JoinSet::new();
        for n in 0..8 {
            let mut engine = engines[n % 2].clone();
            let launch = Some(apart(organization, &guild, &n.to_string(), scope, across).into());
            calls.spawn(
                async move { engine.create_agent(pb::CreateAgentRequest { launch, ..Default::default() }).await },
            );
        }
        let (mut places, mut refusals) = (vec![], vec![]);
        while let Some(done) = calls.join_next().await {
            match done.unwrap() {
                Ok(answer) => places.push(answer.into_inner().agent.unwrap().host_id),
                Err(refusal) => refusals.push(refusal),
            }
        }
        let zone =
            |host: &String| if across.is_empty() { host.clone() } else { (host == "agent-host-2").to_string() };
        let different: std::collections::BTreeSet<_> = places.iter().map(zone).collect();
        assert_eq!((places.len(), different.len()), (most, most), "{guild} of {organization}: {places:?}");
        let place =
            if across.is_empty() { "a host without another agent of " } else { "a zone without another agent of " };
        for refusal in refusals {
            assert_eq!(refusal.code(), Code::ResourceExhausted, "{refusal:?}");
            assert!(refusal.message().contains(place), "{}", refusal.message());
        }
    }
    // Who would rather stay apart goes where there is none of them, and anywhere if it must.
    let mut hosts = BTreeMap::<String, usize>::new();
    for n in 0..6 {
        let mut launch = apart("acme", "rather", &n.to_string(), AntiAffinityScope::Guild, "");
        launch.placement.as_mut().unwrap().anti_affinities[0].preferred = true;
        *hosts.entry(stack.create(launch).await.unwrap().host_id).or_default() += 1;
    }
    assert_eq!(hosts.values().copied().collect::<Vec<_>>(), [2, 2, 2], "{hosts:?}");

    let another = apart("acme", "Guild zone", "another", AntiAffinityScope::Guild, "zone");
    let request = pb::ExplainPlacementRequest { launch: Some(another.into()), ..Default::default() };
    let explained = stack.client.clone().explain_placement(request).await.unwrap().into_inner();
    assert!(explained.hosts.iter().all(|host| host.verdict() == Verdict::NoRoom), "{explained:?}");
    assert!(explained.message.contains("a zone without another agent of guild acme/Guild zone"), "{explained:?}");

    let mut wrong = apart("acme", "g", "wrong", AntiAffinityScope::Group, "a:b");
    wrong.placement.as_mut().unwrap().anti_affinities[0].group.clear();
    let refused = stack.create(wrong).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    for field in ["anti_affinities[0].across", "anti_affinities[0].group"] {
        assert!(refused.message().contains(field), "{}", refused.message());
    }
}
