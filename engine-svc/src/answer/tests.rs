//! What each answer is taken for, as it comes over the wire.

use super::*;
use rustic_proto::{
    status::{DOMAIN, with_reason},
    violation::Violations,
};
use rustic_telemetry::grpc::{Deadline, LoadLimit, MessageSize, Next, Panics, Policy};
use std::{collections::HashMap, future, sync::Arc, time::Duration};
use tonic::{ConnectError, body::Body, codegen::http};
use tonic_types::{ErrorDetails, StatusExt as _};

/// A status as the engine has it after it has travelled.
fn sent(status: Status) -> Status {
    Status::from_header_map(status.into_http::<()>().headers()).expect("a status")
}

fn taken_for(status: Status) -> Refused {
    HostRefusal::of(status).refused()
}

/// Reasons that agent-host sends (`agent-host/src/error.rs`, and the layer that bounds its calls), with what they mean.
const OF_HOSTS: &[(Reason, Refused)] = &[
    (Reason::TooManyCalls, Refused::Busy),
    (Reason::HostFull, Refused::NoRoom),
    (Reason::HostExhausted, Refused::Exhausted),
    (Reason::HostStopping, Refused::Closed),
    (Reason::HostWithoutLease, Refused::Closed),
    (Reason::HostReplaced, Refused::Closed),
    (Reason::HostCannotStart, Refused::InTrouble),
    (Reason::RegistryUnreachable, Refused::InTrouble),
    (Reason::EpochStale, Refused::Stale),
    (Reason::AgentAbandoned, Refused::Stale),
    (Reason::AgentUnknown, Refused::UnknownAgent),
    (Reason::AgentFailed, Refused::StartFailed),
    (Reason::AgentInitFailed, Refused::StartFailed),
    (Reason::AgentExitedBeforeReady, Refused::StartFailed),
    (Reason::AgentNotReadyInTime, Refused::StartFailed),
    (Reason::AgentHasOtherSpec, Refused::Other),
    (Reason::AgentOnOtherHost, Refused::Other),
    (Reason::AgentAtWork, Refused::Other),
    (Reason::AgentWaits, Refused::Other),
    (Reason::AgentStopping, Refused::Other),
    (Reason::RegistryForm, Refused::Other),
];

#[test]
fn every_reason_of_a_host_has_its_meaning() {
    for (reason, refused) in OF_HOSTS {
        let status = sent(with_reason(*reason, "why", &[("host_id", "h")]));
        assert_eq!(taken_for(status), *refused, "{reason}");
    }
}

#[test]
fn what_no_host_says_today_is_never_taken_for_silence_nor_for_certainty() {
    let of_hosts = |reason: &Reason| OF_HOSTS.iter().any(|(known, _)| known == reason);
    for reason in Reason::ALL.iter().filter(|reason| !of_hosts(reason)) {
        let refused = taken_for(sent(with_reason(*reason, "why", &[])));
        let certain = [Refused::Silent, Refused::Busy, Refused::UnknownAgent, Refused::Exhausted];
        assert!(!certain.contains(&refused), "{reason}: {refused:?}");
    }
}

#[test]
fn a_reason_of_a_newer_host_is_read_by_its_code() {
    let newer = |code| {
        let details = ErrorDetails::with_error_info("ON_FIRE", DOMAIN, HashMap::new());
        taken_for(sent(Status::with_error_details(code, "why", details)))
    };
    for (code, refused) in [
        (Code::Unavailable, Refused::InTrouble),
        (Code::ResourceExhausted, Refused::NoRoom),
        (Code::Aborted, Refused::Stale),
        (Code::InvalidArgument, Refused::Invalid),
        (Code::DeadlineExceeded, Refused::Unfinished),
        (Code::NotFound, Refused::Other),
        (Code::FailedPrecondition, Refused::Other),
        (Code::Internal, Refused::Other),
        (Code::Unknown, Refused::Other),
    ] {
        assert_eq!(newer(code), refused, "{code:?}");
    }
}

#[test]
fn an_answer_without_a_reason_is_read_by_its_code() {
    let mut violations = Violations::default();
    violations.add("launch", "must be given");
    assert_eq!(taken_for(sent(violations.into())), Refused::Invalid);
    for (code, refused) in [
        // A proxy, for a host that it does not reach; an older host over its limit.
        (Code::Unavailable, Refused::Silent),
        // The client, for an answer without an end.
        (Code::Unknown, Refused::Silent),
        // The server's own timer.
        (Code::Cancelled, Refused::Unfinished),
        // Nobody says that of an agent without a reason: no record may go because of it.
        (Code::NotFound, Refused::Other),
        (Code::Unimplemented, Refused::Other),
    ] {
        assert_eq!(taken_for(sent(Status::new(code, "why"))), refused, "{code:?}");
    }
}

#[test]
fn whatever_the_transport_says_is_silence() {
    let sources: [Box<dyn std::error::Error + Send + Sync>; 3] =
        [Box::new(TimeoutExpired(())), Box::new(ConnectError("refused".into())), "h2 protocol error".into()];
    let code = [Code::DeadlineExceeded, Code::Unavailable, Code::Unavailable];
    for (source, code) in sources.into_iter().zip(code) {
        let refusal = HostRefusal::of(Status::from_error(source));
        assert_eq!((refusal.refused(), refusal.status().code()), (Refused::Silent, code), "{refusal:?}");
    }
    // Whatever its code, such as those of a stream that was reset.
    for code in (0..=16).map(Code::from_i32) {
        let mut status = Status::new(code, "reset");
        status.set_source(Arc::new(ConnectError("reset".into())));
        assert_eq!(taken_for(status), Refused::Silent, "{code:?}");
    }
    assert_eq!(HostRefusal::silent("no address").refused(), Refused::Silent);
    assert_eq!(HostRefusal::caller_gone().refused(), Refused::CallerGone);
}

/// A handler that never answers.
struct Never;

impl Next for Never {
    async fn run(self, _request: http::Request<Body>) -> http::Response<Body> {
        future::pending().await
    }
}

/// A handler with a bug.
struct Bug;

impl Next for Bug {
    async fn run(self, _request: http::Request<Body>) -> http::Response<Body> {
        panic!("as the test wants it")
    }
}

/// What a layer of a host's server answers to a call with this body.
async fn layer(policy: impl Policy, next: impl Next, body: &str) -> Refused {
    let body = Body::new(body.to_owned());
    let request = http::Request::builder().uri("/rustic_ai.agent_host.v1.AgentHostService/StopAgent");
    let response = policy.around(request.body(body).expect("a request"), next).await;
    taken_for(Status::from_header_map(response.headers()).expect("a status"))
}

#[tokio::test(start_paused = true)]
async fn the_layers_of_a_hosts_server_are_distinguished() {
    assert_eq!(layer(LoadLimit::new(0), Never, "").await, Refused::Busy);
    assert_eq!(layer(Deadline { default: Duration::from_secs(1) }, Never, "").await, Refused::Unfinished);
    assert_eq!(layer(MessageSize { limit: 8 }, Never, "\0\0\0\0\u{9}").await, Refused::Other);
    assert_eq!(layer(Panics, Bug, "").await, Refused::Other);
}

#[test]
fn only_what_may_pass_is_retried() {
    for (reason, refused) in OF_HOSTS {
        let refusal = HostRefusal::of(with_reason(*reason, "why", &[]));
        let passes = matches!(reason.code(), Code::Unavailable | Code::ResourceExhausted);
        assert_eq!(refusal.is_retryable(), passes, "{reason}: {refused:?}");
    }
}
