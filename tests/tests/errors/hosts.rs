//! Hosts that cannot do what they are asked.

use crate::provoked::{Provoked, agent, e, h, launch, words};
use rustic_proto::reason::Reason;
use rustic_tests::{
    Stack, StackSettings,
    launches::{idle, script},
};
use rustix::process::Signal;
use serde_json::json;

pub(crate) async fn provoke() -> Provoked {
    let mut seen = Provoked::default();
    // Long enough that no call here outlasts the lease.
    let host_arguments = words("--lease-ttl 120s");
    let stack = Stack::with(StackSettings { host_arguments, ..StackSettings::default() }).await;
    let engine = stack.engine_address();
    seen.refused(Reason::HostUnknown, engine, &e("DrainHost"), json!({"host_id": "nobody"})).await;
    let force = json!({"host_id": "agent-host-0", "force": "FORCE_MODE_RETIRED_HOST"});
    seen.refused(Reason::HostLives, engine, &e("DrainHost"), force).await;

    // A host that hangs, and holds its lease.
    stack.create(idle("g", "a")).await.unwrap();
    stack.hosts[0].signal(Signal::STOP);
    let force = agent("a", &json!({"timeout": "0s", "force": "FORCE_MODE_RETIRED_HOST"}));
    seen.refused(Reason::HostNotRetired, engine, &e("StopAgent"), force).await;
    let at_once = agent("a", &json!({"timeout": "0s"}));
    seen.refused(Reason::HostUnreachable, engine, &e("StopAgent"), at_once).await;
    let guild = json!({"guild_id": "g", "timeout": "0s"});
    seen.refused(Reason::GuildPartlyStopped, engine, &e("StopGuild"), guild).await;
    stack.hosts[0].signal(Signal::CONT);

    ending(&mut seen).await;
    seen
}

/// A host that ends, and one that lost its lease with the registry.
async fn ending(seen: &mut Provoked) {
    let stack = Stack::start().await;
    let host = stack.hosts[0].address().await;
    stack.create(script("g", "deaf", "trap '' TERM; echo deaf; while :; do sleep 1; done")).await.unwrap();
    stack.hosts[0].logged("it to be deaf", |line| line["message"] == "deaf").await;
    stack.hosts[0].signal(Signal::TERM);
    stack.hosts[0].logged("it to drain", |l| l["message"].as_str().is_some_and(|m| m.starts_with("draining"))).await;
    seen.refused(Reason::HostStopping, &host, &h("CreateAgent"), launch("late", &json!({}))).await;
    stack.hosts[0].signal(Signal::TERM);

    let host_arguments = words("--lease-ttl 1500ms --lease-margin 400ms --lease-grace 300ms");
    let mut stack = Stack::with(StackSettings { host_arguments, ..StackSettings::default() }).await;
    stack.redis.kill();
    stack.hosts[0]
        .logged("its lease to end", |line| {
            line["message"].as_str().is_some_and(|m| m.starts_with("the lease is lost"))
        })
        .await;
    let host = stack.hosts[0].address().await;
    seen.refused(Reason::HostWithoutLease, &host, &h("CreateAgent"), launch("a", &json!({}))).await;
}
