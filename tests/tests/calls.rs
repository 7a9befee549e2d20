//! What every gRPC call gets: a trace from the caller to the agent, a deadline, a bound on load.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
    trace_service_server::{TraceService, TraceServiceServer},
};
use rustic_proto::{agent::v1 as agent_pb, engine::v1 as pb, reason::Reason};
use rustic_registry::{EventId, Index, Phase, Registry as _, Scope, View};
use rustic_tests::{
    Modules, Stack, StackSettings, Zygote,
    launches::{RESPONDER, python, script},
    wait_until,
};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response, Status, transport::Server};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// An OTLP collector that keeps the names of the spans of one trace.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<BTreeSet<String>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let spans = request.into_inner().resource_spans.into_iter().flat_map(|r| r.scope_spans).flat_map(|s| s.spans);
        let hex = |id: &[u8]| id.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let of_ours = spans.filter(|span| hex(&span.trace_id) == TRACE).map(|span| span.name);
        self.0.lock().unwrap().extend(of_ours);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tokio::test]
async fn a_trace_goes_from_the_caller_through_engine_and_host_into_the_agent() {
    let collector = Collector::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let server = Server::builder().add_service(TraceServiceServer::new(collector.clone()));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let flags = vec!["--otlp-endpoint".to_owned(), endpoint];
    let settings =
        StackSettings { engine_arguments: flags.clone(), host_arguments: flags, ..StackSettings::default() };
    let mut stack = Stack::with(settings).await;

    let launch = Some(script("g", "a", "echo traceparent=$TRACEPARENT; exec sleep 1000").into());
    let mut request = Request::new(pb::CreateAgentRequest { launch, ..Default::default() });
    let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    request.metadata_mut().insert("traceparent", parent.parse().unwrap());
    stack.client.create_agent(request).await.unwrap();
    let printed = |l: &serde_json::Value| l["message"].as_str().is_some_and(|m| m.starts_with("traceparent="));
    let line = stack.hosts[0].logged("the agent's trace context", printed).await;
    assert!(line["message"].as_str().unwrap().contains(TRACE), "{line}");

    // Stopping flushes what is still queued.
    stack.stop("g", "a").await.unwrap();
    stack.hosts[0].stop().await;
    stack.engine.stop().await;
    wait_until("spans of engine and host", async || {
        let names = collector.0.lock().unwrap().clone();
        let has = |name: &str| names.iter().any(|n| n.ends_with(name));
        let all = has("EngineService/CreateAgent") && has("AgentHostService/CreateAgent");
        if all { Ok(()) } else { Err(names) }
    })
    .await;
}

#[tokio::test]
async fn without_an_endpoint_an_agent_has_no_trace_context() {
    let stack = Stack::start().await;
    stack.create(script("g", "a", "echo traceparent=[$TRACEPARENT]; exec sleep 1000")).await.unwrap();
    stack.hosts[0].logged("no trace context", |l| l["message"] == "traceparent=[]").await;
}

#[tokio::test]
async fn a_call_ends_at_its_deadline_and_the_agent_does_not_get_lost() {
    let slow = "import time\nfrom rustic_ai.core.guild.agent import Agent\n\
        class Slow(Agent):\n    def __init__(self):\n        time.sleep(2)\n";
    let modules = Modules::new(&[("slow", slow)]);
    let stack = Stack::with(StackSettings { zygote: Zygote::Off, ..modules.settings(&[]) }).await;
    let request =
        || pb::CreateAgentRequest { launch: Some(python("g", "a", "slow.Slow").into()), ..Default::default() };
    let mut hasty = Request::new(request());
    // Long enough for the process to begin, too short for it to become ready.
    hasty.set_timeout(Duration::from_secs(1));
    let status = stack.client.clone().create_agent(hasty).await.unwrap_err();
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
    // The same call again finds the agent that the first one made.
    let agent = stack.client.clone().create_agent(request()).await.unwrap().into_inner().agent.unwrap();
    assert_eq!((agent.phase(), agent.restarts), (agent_pb::AgentPhase::Running, 0));
    let events = stack.registry().events(EventId::default(), 100, Duration::ZERO).await.unwrap();
    let claims: Vec<_> = events.agents().filter(|e| e.phase == Some(Phase::Starting)).map(|e| e.epoch.0).collect();
    assert_eq!(claims, [agent.epoch], "one claim");
    stack.stop("g", "a").await.unwrap();
    stack.assert_nothing_left().await;
}

#[tokio::test]
async fn calls_that_give_up_early_leave_no_claim_without_an_owner() {
    let mut stack = Stack::of(2).await;
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..60u64 {
        let mut client = stack.client.clone();
        let launch = Some(script("g", &format!("a{n}"), "exec sleep 1000").into());
        let mut request = Request::new(pb::CreateAgentRequest { launch, ..Default::default() });
        request.set_timeout(Duration::from_millis(1 + n % 20));
        calls.spawn(async move { client.create_agent(request).await.map(drop) });
    }
    calls.join_all().await;
    // An engine that stops finishes its work first: after that nobody is left to mend a claim.
    stack.engine.stop().await;
    let registry = stack.registry();
    wait_until("every agent that was claimed to run", async || {
        let left = registry.list(&Index::Within(Scope::All), None, 100, View::Basic).await.unwrap().agents;
        let stuck: Vec<_> = left.into_iter().filter(|a| a.phase() != Phase::Running).collect();
        if stuck.is_empty() { Ok(()) } else { Err(stuck) }
    })
    .await;
}

#[tokio::test]
async fn a_burst_of_calls_that_give_up_does_not_cut_off_the_others() {
    let stack = Stack::start().await;
    stack.create(script("g", "a", "exec sleep 1000")).await.unwrap();
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let mut client = stack.client.clone();
        let launch = Some(python("g", "slow", RESPONDER).into());
        let mut request = Request::new(pb::CreateAgentRequest { launch, ..Default::default() });
        request.set_timeout(Duration::from_millis(1));
        calls.spawn(async move { client.create_agent(request).await.map(drop) });
    }
    calls.join_all().await;
    stack.get("g", "a").await.unwrap();
}

#[tokio::test]
async fn calls_over_the_limit_are_turned_away_and_health_checks_are_not() {
    let engine_arguments = vec!["--max-calls".to_owned(), "1".to_owned()];
    let stack = Stack::with(StackSettings { engine_arguments, ..StackSettings::default() }).await;
    let mut client = stack.client.clone();
    let slow = tokio::spawn(async move {
        let launch = Some(python("g", "a", RESPONDER).into());
        client.create_agent(pb::CreateAgentRequest { launch, ..Default::default() }).await
    });
    // Looked at behind the engine's back, so as not to take the one place.
    let key = rustic_registry::AgentKey::parse("default", "g", "a").unwrap();
    let registry = stack.registry();
    wait_until("the first call to be under way", async || registry.get(&key, View::Basic).await.unwrap().ok_or(()))
        .await;
    let busy = stack.get("g", "a").await.unwrap_err();
    assert_eq!(busy.code(), Code::Unavailable, "{busy:?}");
    assert!(busy.message().contains("the most this service takes"), "{}", busy.message());
    assert_eq!(Reason::of(&busy), Some(Ok(Reason::TooManyCalls)));
    let channel = tonic::transport::Channel::from_shared(format!("http://{}", stack.engine_address())).unwrap();
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel.connect().await.unwrap());
    health.check(tonic_health::pb::HealthCheckRequest::default()).await.unwrap();
    slow.await.unwrap().unwrap();
    stack.stop("g", "a").await.unwrap();
}

#[tokio::test]
async fn a_host_with_as_many_calls_as_it_takes_lives_and_force_does_not_overrule_it() {
    let host_arguments = vec!["--max-calls".to_owned(), "1".to_owned()];
    let stack = Stack::with(StackSettings { host_arguments, ..StackSettings::default() }).await;
    let stubborn =
        stack.create(script("g", "stubborn", "trap '' TERM; echo deaf; while :; do sleep 1; done")).await.unwrap();
    stack.hosts[0].logged("it to be deaf", |line| line["message"] == "deaf").await;
    let other = stack.create(script("g", "other", "exec sleep 1000")).await.unwrap();
    let stop = |agent: &str, seconds, force: pb::ForceMode| {
        let force = force.into();
        let (guild_id, agent_id) = ("g".to_owned(), agent.to_owned());
        let timeout = Some(prost_types::Duration { seconds, nanos: 0 });
        let mut client = stack.client.clone();
        async move {
            client.stop_agent(pb::StopAgentRequest { guild_id, agent_id, timeout, force, ..Default::default() }).await
        }
    };
    let slow = tokio::spawn(stop("stubborn", 60, pb::ForceMode::None));
    stack
        .agent_is("its stop to be under way", "g", "stubborn", |a| a.phase() == agent_pb::AgentPhase::Stopping)
        .await;
    for force in [pb::ForceMode::None, pb::ForceMode::RetiredHost] {
        let busy = stop("other", 0, force).await.unwrap_err();
        assert_eq!(Reason::of(&busy), Some(Ok(Reason::TooManyCalls)), "{busy:?}");
    }
    let refused = stack.create(script("g", "third", "exec sleep 1000")).await.unwrap_err();
    assert_eq!(Reason::of(&refused), Some(Ok(Reason::TooManyCalls)), "{refused:?}");
    assert_eq!(stack.get("g", "third").await.unwrap_err().code(), Code::NotFound, "no claim is left");
    let same = stack.get("g", "other").await.unwrap();
    assert_eq!((same.phase(), same.pid), (agent_pb::AgentPhase::Running, other.pid));
    // What has ended is stopped.
    let pid = i32::try_from(stubborn.pid).ok().and_then(rustix::process::Pid::from_raw).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    slow.await.unwrap().unwrap();
    stop("other", 0, pb::ForceMode::None).await.unwrap();
    stack.assert_nothing_left().await;
}
