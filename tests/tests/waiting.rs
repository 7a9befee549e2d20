//! Waiting for room: who waits, who goes past whom, and how an agent starts that has waited.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use rustic_proto::{
    agent::v1::{self as agent_pb, AgentLaunch, AgentPhase, WaitMode},
    engine::v1::{self as pb, PendingPolicy},
};
use rustic_tests::{
    Stack, StackSettings,
    launches::{RESPONDER, idle, python},
};
use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

async fn create(stack: &Stack, launch: AgentLaunch, pending: PendingPolicy) -> Result<agent_pb::Agent, Status> {
    let wait = WaitMode::Running.into();
    let request =
        pb::CreateAgentRequest { launch: Some(launch.into()), wait, pending: pending.into(), ..Default::default() };
    stack.client.clone().create_agent(request).await.map(|response| response.into_inner().agent.unwrap())
}

/// The same agent, with a demand.
fn needing(mut launch: AgentLaunch, resources: Value) -> AgentLaunch {
    let mut spec: Value = serde_json::from_str(&launch.agent_spec).unwrap();
    spec["resources"] = resources;
    launch.agent_spec = spec.to_string();
    launch
}

/// A host with so many slots and two gpus.
async fn stack(slots: usize) -> Stack {
    let host_arguments = ["--max-agents", &slots.to_string(), "--gpus", "2"].map(str::to_owned).to_vec();
    Stack::with(StackSettings { host_arguments, ..StackSettings::default() }).await
}

const NONSENSE: &str = "no.such.module.Agent";

#[tokio::test]
async fn whom_nobody_stands_in_the_way_of_does_not_wait() {
    let stack = stack(40).await;
    for n in 0..3 {
        let gpus = needing(idle("large", &n.to_string()), json!({"num_gpus": 4}));
        let waits = create(&stack, gpus, PendingPolicy::WaitForAnyHost).await.unwrap();
        assert_eq!(waits.phase(), AgentPhase::Pending);
    }
    let agent = create(&stack, python("g", "a", RESPONDER), PendingPolicy::WaitForRoom).await.unwrap();
    assert_eq!(agent.phase(), AgentPhase::Running);
    let refused = create(&stack, python("g", "b", NONSENSE), PendingPolicy::WaitForRoom).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    assert!(refused.message().contains("No module named 'no'"), "{}", refused.message());
    assert_eq!(stack.get("g", "b").await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_class_that_cannot_be_imported_fails_at_once_though_it_has_waited() {
    let stack = stack(1).await;
    create(&stack, idle("g", "first"), PendingPolicy::Refuse).await.unwrap();
    let waits = create(&stack, python("g", "a", NONSENSE), PendingPolicy::WaitForRoom).await.unwrap();
    assert_eq!(waits.phase(), AgentPhase::Pending);
    stack.stop("g", "first").await.unwrap();
    let failed = stack.agent_is("it to fail", "g", "a", |a| a.phase() == AgentPhase::Failed).await;
    assert_eq!(failed.restarts, 0);
    assert!(failed.message.contains("No module named 'no'"), "{}", failed.message);
    // Started anew it was never ready either.
    let again = pb::RestartAgentRequest { guild_id: "g".to_owned(), agent_id: "a".to_owned(), ..Default::default() };
    // The call is refused at once, or answers that the agent waits for a place, by a view of the hosts from before it failed.
    if let Err(refused) = stack.client.clone().restart_agent(again).await {
        assert!(refused.message().contains("No module named 'no'"), "{}", refused.message());
    }
    let anew = |a: &agent_pb::Agent| a.phase() == AgentPhase::Failed && a.epoch > failed.epoch;
    assert_eq!(stack.agent_is("it to fail again", "g", "a", anew).await.restarts, 0);
}

#[tokio::test]
async fn one_that_was_created_to_be_accepted_keeps_its_restart_policy() {
    let stack = stack(1).await;
    create(&stack, idle("g", "first"), PendingPolicy::Refuse).await.unwrap();
    let mut launch = python("g", "a", NONSENSE);
    launch.restart_policy = Some(agent_pb::RestartPolicy {
        max_restarts: Some(1),
        initial_backoff: Some(prost_types::Duration { seconds: 0, nanos: 10_000_000 }),
        ..Default::default()
    });
    let request = pb::CreateAgentRequest {
        launch: Some(launch.into()),
        wait: WaitMode::Accepted.into(),
        pending: PendingPolicy::WaitForRoom.into(),
        ..Default::default()
    };
    stack.client.clone().create_agent(request).await.unwrap();
    stack.stop("g", "first").await.unwrap();
    let failed = stack.agent_is("it to fail", "g", "a", |a| a.phase() == AgentPhase::Failed).await;
    assert_eq!(failed.restarts, 1);
}

#[tokio::test]
async fn a_large_one_is_overtaken_32_times_and_not_more_often() {
    let stack = stack(10).await;
    let idle = |guild: &str, agent: &str| needing(idle(guild, agent), json!({"num_gpus": 1}));
    create(&stack, idle("g", "first"), PendingPolicy::Refuse).await.unwrap();
    let both = needing(idle("g", "large"), json!({"num_gpus": 2}));
    create(&stack, both, PendingPolicy::WaitForRoom).await.unwrap();
    for n in 0..32 {
        let small = create(&stack, idle("g", "small"), PendingPolicy::WaitForRoom).await.unwrap();
        assert_eq!(small.phase(), AgentPhase::Running, "number {n}");
        stack.stop("g", "small").await.unwrap();
    }
    let refused = create(&stack, idle("g", "impatient"), PendingPolicy::Refuse).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let waits = create(&stack, idle("g", "small"), PendingPolicy::WaitForRoom).await.unwrap();
    assert_eq!(waits.phase(), AgentPhase::Pending);
    stack.stop("g", "first").await.unwrap();
    stack.agent_is("the large one to run", "g", "large", |a| a.phase() == AgentPhase::Running).await;
    assert_eq!(stack.get("g", "small").await.unwrap().phase(), AgentPhase::Pending);
    stack.stop("g", "large").await.unwrap();
    stack.agent_is("the small one to run", "g", "small", |a| a.phase() == AgentPhase::Running).await;
}

#[tokio::test]
async fn what_no_host_could_ever_hold_is_refused_with_what_there_is_unless_others_will_come() {
    let stack = stack(4).await;
    let launch = || needing(idle("g", "a"), json!({"num_gpus": 3}));
    for pending in [PendingPolicy::Refuse, PendingPolicy::WaitForRoom] {
        let refused = create(&stack, launch(), pending).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(refused.message().contains("3 gpus (most on one host: 2)"), "{}", refused.message());
        let info = refused.get_details_error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.metadata["asked_gpus"].as_str()), ("AGENT_TOO_LARGE", "3"));
        assert_eq!(info.metadata["largest_gpus"], "2");
        assert_eq!(stack.get("g", "a").await.unwrap_err().code(), Code::NotFound);
    }
    let waits = create(&stack, launch(), PendingPolicy::WaitForAnyHost).await.unwrap();
    assert_eq!(waits.phase(), AgentPhase::Pending);
}

#[tokio::test]
async fn thousands_that_find_no_place_starve_nobody() {
    let stack = stack(1).await;
    create(&stack, idle("g", "first"), PendingPolicy::Refuse).await.unwrap();
    // More than a pass of the reconciler reads, in the registry itself: a create each would take minutes.
    let registry = stack.registry();
    crowd(&registry, 2_500).await;
    let waits = create(&stack, idle("g", "second"), PendingPolicy::WaitForRoom).await.unwrap();
    assert_eq!(waits.phase(), AgentPhase::Pending);
    stack.stop("g", "first").await.unwrap();
    stack.agent_is("it to run", "g", "second", |a| a.phase() == AgentPhase::Running).await;
}

/// Agents that wait for what nobody has, with a hundred demands.
async fn crowd(registry: &rustic_registry::RedisRegistry, size: usize) {
    use rustic_registry::{
        AgentKey, Claim, ClaimOutcome, Documents, FirstStart, IfFull, OnDisconnect, Registry as _, Resources,
        SpecDigest,
    };
    let view = registry.hosts().await.unwrap();
    for n in 0..size {
        let mut demand = Resources::one_slot();
        demand.set("gpus", 3.0 + (n % 100) as f64).unwrap();
        let claim = Claim {
            key: AgentKey::parse("default", "crowd", &n.to_string()).unwrap(),
            name: String::new(),
            request_id: "r".parse().unwrap(),
            digest: SpecDigest("d".to_owned()),
            demand,
            on_disconnect: OnDisconnect::Stop,
            documents: Documents::default(),
            candidates: vec![].into(),
            if_full: IfFull::Wait,
            waits: None,
            if_namesakes: rustic_registry::IfNamesakes::Ignore,
            first_start: FirstStart::MustSucceed,
            store_life: view.store_life.clone(),
            asked: view.stops,
        };
        assert_eq!(registry.claim(&claim).await.unwrap(), ClaimOutcome::Waits);
    }
}
