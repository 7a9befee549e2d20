//! What the API promises to callers of any version, in any language (`docs/api.md`).

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use prost::Message as _;
use rustic_proto::{
    agent::v1::{AgentLaunch, AgentPhase, AgentView, RestartPolicy},
    agent_host::v1 as host_pb,
    engine::v1 as pb,
    raw::RawLaunch,
    reason::Reason,
};
use rustic_tests::{
    Stack, StackSettings,
    launches::{idle, script},
};
use rustix::process::Signal;
use std::collections::BTreeMap;
use tonic::{Code, Request, Status, client::Grpc, transport::Channel};
use tonic_prost::ProstCodec;

/// A launch with a field that no version knows yet.
fn newer(launch: AgentLaunch, text: &str) -> RawLaunch {
    let mut bytes = launch.encode_to_vec();
    // Number 1000, a string.
    bytes.extend([0xc2, 0x3e, u8::try_from(text.len()).unwrap()]);
    bytes.extend(text.as_bytes());
    RawLaunch::decode(&*bytes).unwrap()
}

#[tokio::test]
async fn what_a_newer_client_sends_is_the_same_launch_and_no_other_and_outlives_its_host() {
    let stack = Stack::of(2).await;
    let environment = BTreeMap::from([("A".to_owned(), "1".to_owned()), ("B".to_owned(), "2".to_owned())]);
    let launch = || AgentLaunch { environment: environment.clone(), ..idle("g", "a") };
    let first = stack.create(newer(launch(), "new")).await.unwrap();
    assert_eq!(stack.create(newer(launch(), "new")).await.unwrap().epoch, first.epoch);
    for other in [newer(launch(), "other"), launch().into()] {
        let refused = stack.create(other).await.unwrap_err();
        assert_eq!(Reason::of(&refused), Some(Ok(Reason::AgentHasOtherSpec)), "{refused:?}");
    }
    // The next host gets it as it was sent, and says so to whoever asks there.
    let host = usize::from(first.host_id == "agent-host-1");
    stack.hosts[host].signal(Signal::KILL);
    let moved = |a: &rustic_proto::agent::v1::Agent| a.phase() == AgentPhase::Running && a.epoch > first.epoch;
    let second = stack.agent_is("it to run elsewhere", "g", "a", moved).await;
    let mut direct = stack.host(1 - host).await;
    let request = |launch| host_pb::CreateAgentRequest { launch: Some(launch), ..Default::default() };
    direct.create_agent(request(newer(launch(), "new"))).await.unwrap();
    let refused = direct.create_agent(request(launch().into())).await.unwrap_err();
    assert_eq!(Reason::of(&refused), Some(Ok(Reason::AgentHasOtherSpec)), "{refused:?}");
    assert_eq!(stack.create(newer(launch(), "new")).await.unwrap().epoch, second.epoch);
    stack.stop("g", "a").await.unwrap();
}

#[tokio::test]
async fn an_agent_that_may_not_be_restarted_at_all_is_not() {
    let stack = Stack::start().await;
    let restart_policy = Some(RestartPolicy { max_restarts: Some(0), ..Default::default() });
    stack.create(AgentLaunch { restart_policy, ..script("g", "a", "sleep 0.2; exit 3") }).await.unwrap();
    let failed = stack.agent_is("it to fail", "g", "a", |a| a.phase() == AgentPhase::Failed).await;
    assert_eq!(
        (failed.restarts, failed.message.contains("its restart policy does not restart it")),
        (0, true),
        "{failed:?}"
    );
}

#[tokio::test]
async fn a_page_of_large_specs_is_one_that_any_client_reads() {
    let host_arguments = vec!["--max-agents".to_owned(), "12".to_owned()];
    let stack = Stack::with(StackSettings { host_arguments, ..StackSettings::default() }).await;
    let large = |agent: &str| {
        let spec = serde_json::json!({"id": agent, "name": agent, "padding": "x".repeat(900_000)});
        AgentLaunch { agent_spec: spec.to_string(), ..idle("g", agent) }
    };
    let names: Vec<_> = (0..9).map(|n| format!("a{n}")).collect();
    for name in &names {
        stack.create(large(name)).await.unwrap();
    }
    let (mut found, mut pages, mut page_token) = (vec![], 0, String::new());
    loop {
        let request = pb::ListAgentsRequest { page_token, view: AgentView::Full.into(), ..Default::default() };
        // tonic's own limit is 4 MiB, as that of others.
        let page = stack.client.clone().list_agents(request).await.unwrap().into_inner();
        assert!(page.encoded_len() < 4 << 20, "{}", page.encoded_len());
        assert!(page.agents.len() > 1, "it is used");
        found.extend(page.agents.into_iter().map(|agent| agent.agent_id));
        pages += 1;
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!((found, pages), (names, 3));
    for name in 0..9 {
        stack.stop("g", &format!("a{name}")).await.unwrap();
    }
}

/// Calls a method with any message.
async fn raw<M: prost::Message + Default + 'static>(address: &str, path: &'static str, message: M) -> Status {
    let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let mut client = Grpc::new(channel);
    client.ready().await.unwrap();
    let codec = ProstCodec::<M, pb::GetAgentResponse>::default();
    let path = tonic::codegen::http::uri::PathAndQuery::from_static(path);
    client.unary(Request::new(message), path, codec).await.unwrap_err()
}

#[tokio::test]
async fn errors_of_every_layer_have_a_reason_on_both_services() {
    let limit = vec!["--max-message-size".to_owned(), "100000".to_owned()];
    let stack = Stack::with(StackSettings {
        engine_arguments: limit.clone(),
        host_arguments: [limit, vec!["--default-deadline".to_owned(), "2s".to_owned()]].concat(),
        ..StackSettings::default()
    })
    .await;
    let host = stack.hosts[0].address().await;
    let engine = stack.engine_address().to_owned();
    let create =
        || pb::CreateAgentRequest { launch: Some(idle("g", &"x".repeat(300_000)).into()), ..Default::default() };
    // Field 1 is a number here, and a text there.
    let number = || pb::ListHostsRequest { page_size: 5, ..Default::default() };
    let refusals = [
        (raw(&engine, "/rustic_ai.engine.v1.EngineService/Nonsense", number()).await, Reason::MethodUnknown),
        (raw(&host, "/rustic_ai.agent_host.v1.AgentHostService/Nonsense", number()).await, Reason::MethodUnknown),
        (raw(&engine, "/rustic_ai.engine.v1.EngineService/GetAgent", number()).await, Reason::RequestUnreadable),
        (raw(&host, "/rustic_ai.agent_host.v1.AgentHostService/GetAgent", number()).await, Reason::RequestUnreadable),
        (raw(&engine, "/rustic_ai.engine.v1.EngineService/CreateAgent", create()).await, Reason::RequestTooLarge),
        (
            raw(&host, "/rustic_ai.agent_host.v1.AgentHostService/CreateAgent", create()).await,
            Reason::RequestTooLarge,
        ),
        (
            raw(&engine, "/rustic_ai.engine.v1.EngineService/GetAgent", pb::GetAgentRequest::default()).await,
            Reason::InvalidRequest,
        ),
        (
            raw(&host, "/rustic_ai.agent_host.v1.AgentHostService/GetAgent", pb::GetAgentRequest::default()).await,
            Reason::InvalidRequest,
        ),
    ];
    for (status, reason) in refusals {
        assert_eq!((Reason::of(&status), status.code()), (Some(Ok(reason)), reason.code()), "{status:?}");
        assert!(!status.message().is_empty());
    }
    // Nobody's deadline but the service's own: a client with one of its own may end the call before the service does.
    stack.create(script("g", "deaf", "trap '' TERM; echo deaf; while :; do sleep 1; done")).await.unwrap();
    stack.hosts[0].logged("it to be deaf", |line| line["message"] == "deaf").await;
    let stop = |seconds| host_pb::StopAgentRequest {
        guild_id: "g".to_owned(),
        agent_id: "deaf".to_owned(),
        timeout: Some(prost_types::Duration { seconds, nanos: 0 }),
        ..Default::default()
    };
    let late = stack.host(0).await.stop_agent(stop(600)).await.unwrap_err();
    assert_eq!((Reason::of(&late), late.code()), (Some(Ok(Reason::DeadlineExceeded)), Code::DeadlineExceeded));
    stack.host(0).await.stop_agent(stop(0)).await.unwrap();
}
