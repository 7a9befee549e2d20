//! Errors as a person meets them: each provoked, and printed by grpcurl with its reason. What it prints is kept in
//! `docs/errors-by-grpcurl.md`, which `make docs` writes.
//!
//! | module | what is provoked |
//! | --- | --- |
//! | [`requests`] | requests that a service cannot take |
//! | [`agents`] | agents that cannot be what the caller wants |
//! | [`starts`] | agents that do not start |
//! | [`hosts`] | hosts that cannot do what they are asked |
//! | [`registries`] | a registry that is away, was lost, or is another version's |
//! | [`provoked`] | the calls, and the document of what they printed |

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod agents;
mod hosts;
mod provoked;
mod registries;
mod requests;
mod starts;

use rustic_proto::reason::Reason;
use rustic_tests::root;
use std::collections::BTreeSet;

/// Reasons that no call of grpcurl provokes when it should, and where else each is tested.
const ELSEWHERE: [(Reason, &str); 4] = [
    (Reason::InternalError, "a bug of the service: telemetry/src/grpc/panics.rs"),
    (Reason::AgentAbandoned, "its caller has hung up: agent-host/src/agent/machine/tests.rs"),
    (Reason::AgentRestless, "it takes a claim in the moment of each try: engine-svc/src/engine/refusals.rs"),
    (Reason::TooLate, "it takes a deadline that ends before the claim: engine-svc/src/engine/refusals.rs"),
];

#[tokio::test]
async fn every_error_is_provoked_and_printed_with_its_reason() {
    let (mut all, agents, starts, hosts, registries) = tokio::join!(
        requests::provoke(),
        agents::provoke(),
        starts::provoke(),
        hosts::provoke(),
        registries::provoke()
    );
    for some in [agents, starts, hosts, registries] {
        all.add(some);
    }
    let missing: Vec<_> =
        Reason::ALL.iter().filter(|r| !all.has(**r) && !ELSEWHERE.iter().any(|(other, _)| other == *r)).collect();
    assert!(missing.is_empty(), "never provoked: {missing:?}");
    let path = root().join("docs/errors-by-grpcurl.md");
    if std::env::var_os("RUSTIC_WRITE_DOCS").is_some() {
        std::fs::write(&path, all.document()).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap();
    let kept: BTreeSet<_> = kept.lines().filter_map(|line| line.strip_prefix("## ")).map(str::to_owned).collect();
    let here: BTreeSet<_> = all.reasons().map(|reason| reason.to_string()).collect();
    assert_eq!(kept, here, "docs/errors-by-grpcurl.md is of other reasons; run `make docs`");
}
