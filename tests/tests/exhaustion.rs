//! A host that lacks what every process needs says so, harms none of its agents, and others take what it cannot.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use rustic_proto::{
    agent::v1::{AgentPhase, WaitMode},
    agent_host::v1 as host_pb,
    engine::v1::{self as pb, PendingPolicy::WaitForRoom},
    reason::Reason,
};
use rustic_registry::Registry as _;
use rustic_tests::{
    Stack, StackSettings, Zygote,
    launches::{RESPONDER, idle, python},
    processes::lives,
    wait_until,
};
use std::{fs, os::unix::fs::PermissionsExt as _};
use tonic::{Code, Status};

/// More agents than a host with 256 descriptors takes.
const MANY: usize = 70;

/// Hosts that may have so many descriptors.
fn with_descriptors(hosts: usize, limits: &str) -> StackSettings {
    StackSettings { hosts, host_starter: words(&format!("prlimit --nofile={limits}")), ..StackSettings::default() }
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

/// Creates many agents. Returns those that run, and the errors of those that were refused.
async fn crowd(stack: &Stack, count: usize) -> (Vec<String>, Vec<(String, Status)>) {
    let (mut running, mut refused) = (vec![], vec![]);
    for n in 0..count {
        let agent = n.to_string();
        match stack.create(idle("g", &agent)).await {
            Ok(_) => running.push(agent),
            Err(status) => refused.push((agent, status)),
        }
    }
    (running, refused)
}

/// Fails unless all run, each in a process.
async fn assert_all_run(stack: &Stack, agents: &[String]) {
    for agent in agents {
        let found = stack.get("g", agent).await.unwrap();
        assert_eq!((found.phase(), found.restarts), (AgentPhase::Running, 0), "{found:?}");
        assert!(lives(found.pid));
    }
}

/// Fails unless each refusal says why, and its agent is nowhere.
async fn assert_explained_and_forgotten(stack: &Stack, refused: &[(String, Status)], why: &str) {
    for (agent, status) in refused {
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        assert_eq!(Reason::of(status), Some(Ok(Reason::HostExhausted)));
        assert!(status.message().contains(why), "{status:?}");
        assert_eq!(stack.get("g", agent).await.unwrap_err().code(), Code::NotFound);
    }
}

/// Waits until every host has renewed its lease twice since now.
async fn leases_are_renewed(stack: &Stack) {
    let registry = stack.registry();
    let deadlines =
        async || -> Vec<_> { registry.hosts().await.unwrap().hosts.into_iter().map(|host| host.renewals).collect() };
    for _ in 0..2 {
        let before = deadlines().await;
        wait_until("leases to be renewed", async || {
            let now = deadlines().await;
            if now.len() == before.len() && now.iter().zip(&before).all(|(now, before)| now > before) {
                return Ok(());
            }
            Err(now)
        })
        .await;
    }
}

#[tokio::test]
async fn a_host_without_descriptors_refuses_what_does_not_fit_and_lives_on() {
    let mut settings = with_descriptors(1, "256:256");
    settings.host_arguments = words("--lease-ttl 3s --lease-margin 1s");
    let mut stack = Stack::with(settings).await;
    let (running, refused) = crowd(&stack, MANY).await;
    assert!(running.len() > 20 && !refused.is_empty(), "{} run, {} do not", running.len(), refused.len());
    assert_explained_and_forgotten(&stack, &refused, "no descriptors left").await;
    leases_are_renewed(&stack).await;
    assert_all_run(&stack, &running).await;
    // An agent less, and there is room for another.
    stack.stop("g", &running[0]).await.unwrap();
    stack.create(idle("other", "late")).await.unwrap();
    // The same in the next life of the host, which takes its agents back.
    let host = &mut stack.hosts[0];
    host.signal(rustix::process::Signal::KILL);
    host.ended().await;
    stack.restart_host(0);
    for agent in &running[1..] {
        stack.agent_is("an agent to return", "g", agent, |found| found.phase() == AgentPhase::Running).await;
    }
    leases_are_renewed(&stack).await;
}

#[tokio::test]
async fn what_one_host_lacks_another_one_has() {
    let mut settings = with_descriptors(2, "256:256");
    settings.engine_arguments = words("--placement packed");
    let stack = Stack::with(settings).await;
    let mut on_the_other = 0;
    let mut created = vec![];
    while on_the_other < 5 {
        assert!(created.len() < MANY, "a host with 256 descriptors took {} agents", created.len());
        let agent = created.len().to_string();
        let found = stack.create(idle("g", &agent)).await.unwrap();
        on_the_other += usize::from(found.host_id == "agent-host-1");
        created.push(agent);
    }
    assert_all_run(&stack, &created).await;
}

#[tokio::test]
async fn a_low_soft_limit_is_raised_for_the_host_and_kept_for_its_agents() {
    let stack = Stack::with(with_descriptors(1, "256:4096")).await;
    let (running, refused) = crowd(&stack, MANY).await;
    assert_eq!((running.len(), refused.len()), (MANY, 0));
    let limit = |pid: u32| {
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap().to_owned();
        line.split_whitespace().skip(3).take(2).collect::<Vec<_>>().join(":")
    };
    assert_eq!(limit(stack.hosts[0].pid()), "4096:4096");
    assert_eq!(limit(stack.get("g", "0").await.unwrap().pid), "256:4096");
    let line = stack.hosts[0].logged("the limits", |l| l["message"] == "limits of this host").await;
    assert_eq!((&line["from"], &line["to"]), (&"256".into(), &"4096".into()));
}

#[tokio::test]
async fn an_agent_that_may_wait_waits_for_an_exhausted_host() {
    let stack = Stack::with(with_descriptors(1, "256:256")).await;
    let (running, refused) = crowd(&stack, MANY).await;
    assert!(!refused.is_empty());
    let request = pb::CreateAgentRequest {
        launch: Some(idle("g", "waits").into()),
        pending: WaitForRoom.into(),
        wait: WaitMode::Running.into(),
        ..Default::default()
    };
    let waiting = stack.client.clone().create_agent(request).await.unwrap().into_inner().agent.unwrap();
    assert_eq!(waiting.phase(), AgentPhase::Pending);
    stack
        .agent_is("the reason to be shown", "g", "waits", |found| found.message.contains("no descriptors left"))
        .await;
    assert_eq!(stack.get("g", "waits").await.unwrap().restarts, 0, "it was not tried in vain");
    stack.stop("g", &running[0]).await.unwrap();
    stack.agent_is("it to run", "g", "waits", |found| found.phase() == AgentPhase::Running).await;
}

#[tokio::test]
async fn warm_agents_that_do_not_fit_are_refused_as_well_and_none_starts_cold() {
    let stack = Stack::with(StackSettings { zygote: Zygote::On, ..with_descriptors(1, "128:128") }).await;
    let (mut running, mut refused) = (vec![], vec![]);
    while refused.is_empty() {
        assert!(running.len() < MANY, "a host with 128 descriptors took {} agents", running.len());
        let agent = running.len().to_string();
        match stack.create(python("g", &agent, RESPONDER)).await {
            Ok(_) => running.push(agent),
            Err(status) => refused.push((agent, status)),
        }
    }
    assert_explained_and_forgotten(&stack, &refused, "no descriptors left").await;
    assert_all_run(&stack, &running).await;
    let health = stack.host(0).await.health(host_pb::HealthRequest {}).await.unwrap().into_inner();
    assert_eq!((health.profiles[0].zygote.as_str(), health.profiles[0].cold_starts), ("ready", 0));
}

/// Who may have few processes only: the limit counts those of one user, and the user root is exempt.
const NOBODY_ELSE: u32 = 54_321;

#[tokio::test]
async fn a_host_at_its_limit_of_processes_refuses_what_does_not_fit_and_lives_on() {
    if !rustix::process::geteuid().is_root() {
        // Only root can start a host as another user.
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let starter = format!("prlimit --nproc=60:60 setpriv --reuid {NOBODY_ELSE} --regid {NOBODY_ELSE} --clear-groups");
    let stack = Stack::with(StackSettings {
        host_starter: words(&starter),
        host_arguments: vec!["--work-dir".to_owned(), dir.path().display().to_string()],
        ..StackSettings::default()
    })
    .await;
    let (running, refused) = crowd(&stack, MANY).await;
    assert!(running.len() > 10 && !refused.is_empty(), "{} run, {} do not", running.len(), refused.len());
    assert_explained_and_forgotten(&stack, &refused, "no more processes or threads").await;
    leases_are_renewed(&stack).await;
    assert_all_run(&stack, &running).await;
}
