//! What a handler may do: whatever ends the thread that handles messages ends the process, which says so; a message that kills
//! its agent again and again is set aside; a handler that hangs is ended, if its caller wants that.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use rustic_proto::{
    agent::v1::{self as agent_pb, AgentLaunch, AgentPhase, RestartMode, RestartPolicy},
    engine::v1 as pb,
};
use rustic_tests::{Bus, Modules, Stack, bus::DOER, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

fn modules() -> Modules {
    Modules::new(&[("doer", DOER)])
}

/// A stack whose one host has agents that answer, and a way to talk to them.
async fn stack(modules: &Modules) -> (Stack, Bus) {
    let stack = modules.stack(&[]).await;
    let bus = Bus::to(stack.redis.port());
    (stack, bus)
}

async fn answered(bus: &mut Bus, guild: &str, n: u64) -> u32 {
    let answer = wait_until("an answer", async || match bus.answers(guild, n).await.as_slice() {
        [] => Err(()),
        [first, ..] => Ok(first.clone()),
    })
    .await;
    u32::try_from(answer["pid"].as_u64().unwrap()).unwrap()
}

async fn is_back(stack: &Stack, agent: &str, restarts: u32) -> agent_pb::Agent {
    let back = |a: &agent_pb::Agent| a.phase() == AgentPhase::Running && a.restarts == restarts;
    stack.agent_is("it to run again", "g", agent, back).await
}

/// How processes ended, by the log of the host.
fn ends(stack: &Stack) -> Vec<String> {
    let log = stack.hosts[0].log();
    let ends = log.iter().filter(|line| line["message"] == "process ended");
    ends.map(|line| line["how"].as_str().unwrap_or_default().to_owned()).collect()
}

/// Reasons that the log of the host gives for restarts.
fn reasons(stack: &Stack) -> Vec<String> {
    let log = stack.hosts[0].log();
    let restarts = log.iter().filter(|line| line["message"] == "agent is RESTARTING");
    restarts.map(|line| line["cause"].as_str().unwrap_or_default().to_owned()).collect()
}

#[tokio::test]
async fn whatever_ends_the_handling_thread_ends_the_process_and_is_reported_until_the_message_is_set_aside() {
    let modules = modules();
    let (stack, mut bus) = stack(&modules).await;
    stack.create(bus.agent("neighbour", "n", "doer.Doer")).await.unwrap();
    stack.create(bus.listener("g", "reader", "doer.Reader", "dead_letter_queue")).await.unwrap();
    let endings = [
        ("exit", "a handler raised SystemExit: 3; its process ended with exit code 70"),
        ("usage", "a handler raised SystemExit: 2; its process ended with exit code 70"),
        ("interrupt", "a handler raised KeyboardInterrupt: by hand; its process ended with exit code 70"),
        ("cancel", "a handler raised CancelledError: ; its process ended with exit code 70"),
        ("close", "a handler raised GeneratorExit: ; its process ended with exit code 70"),
        (
            "group",
            "a handler raised BaseExceptionGroup: several (2 sub-exceptions); its process ended with exit code 70",
        ),
        ("hard", "its process ended with exit code 5"),
        ("crash", "its process ended with signal 11 (SIGSEGV)"),
    ];
    for (name, _) in endings {
        stack.create(bus.agent("g", name, "doer.Doer")).await.unwrap();
    }
    let neighbour = stack.get("neighbour", "n").await.unwrap();
    let mut poisoned = vec![];
    for (n, (name, _)) in (0..).zip(endings) {
        poisoned.push(bus.say("g", name, json!({"n": n, "do": name})).await);
        bus.say("g", name, json!({"n": 100 + n})).await;
        bus.say("neighbour", "n", json!({"n": n})).await;
    }
    for ((n, id), (name, how)) in (0..).zip(&poisoned).zip(endings) {
        answered(&mut bus, "g", 100 + n).await;
        let at = format!("{how}, at work on message {id} of topic {name}");
        let set_aside = format!("message {id} of topic {name} was set aside after 3 deaths: ");
        let says_so = |a: &agent_pb::Agent| {
            a.phase() == AgentPhase::Running && a.reason == "MessagesSetAside" && a.message.starts_with(&set_aside)
        };
        let agent = stack.agent_is("it to run, and to say why not all was answered", "g", name, says_so).await;
        assert!(agent.message.ends_with(&at), "{}", agent.message);
        assert_eq!(agent.restarts, 3, "{name}");
        let times = ends(&stack).iter().filter(|how| **how == at).count();
        assert_eq!(times, 3, "{name}: {:?}", ends(&stack));
        assert!(bus.answers("g", n).await.is_empty(), "{name}");
        let letters = bus.heard("g", "dead_letter_queue").await;
        let letter = letters.iter().filter(|l| l["original_message_id"] == *id).collect::<Vec<_>>();
        assert_eq!(letter.len(), 1, "{letters:?}");
        assert!(letter[0]["error_message"].as_str().unwrap().ends_with(&at), "{letter:?}");
        wait_until("the letter to be read by an agent", async || {
            let heard = bus.heard("g", "default_topic").await;
            if heard.iter().any(|payload| payload["dead"] == *id) { Ok(()) } else { Err(heard) }
        })
        .await;
        // Nobody else was troubled.
        assert_eq!(answered(&mut bus, "neighbour", n).await, neighbour.pid);
    }
    assert_eq!(stack.get("neighbour", "n").await.unwrap(), neighbour);
}

#[tokio::test]
async fn an_exception_is_rustic_ais_to_report_and_what_a_handler_forks_may_end_as_it_likes() {
    let modules = modules();
    let (stack, mut bus) = stack(&modules).await;
    let agent = stack.create(bus.agent("g", "a", "doer.Doer")).await.unwrap();
    bus.say("g", "a", json!({"n": 1, "do": "fail"})).await;
    bus.say("g", "a", json!({"n": 2, "do": "fork"})).await;
    assert_eq!(answered(&mut bus, "g", 2).await, agent.pid);
    let reported =
        |l: &serde_json::Value| l["message"].as_str().is_some_and(|m| m.contains("Error in processor hear: no good"));
    stack.hosts[0].logged("Rustic AI's own report", reported).await;
    assert_eq!(stack.get("g", "a").await.unwrap(), agent);
}

#[tokio::test]
async fn a_handling_thread_that_ends_between_messages_ends_the_process() {
    let modules = modules();
    let (stack, mut bus) = stack(&modules).await;
    stack.create(bus.agent("g", "a", "doer.Doer")).await.unwrap();
    bus.say("g", "a", json!({"n": 1, "do": "deafen"})).await;
    answered(&mut bus, "g", 1).await;
    is_back(&stack, "a", 1).await;
    let reasons = reasons(&stack);
    assert!(
        reasons[0].contains("which handles messages, has ended; its process ended with exit code 70"),
        "{reasons:?}"
    );
    bus.say("g", "a", json!({"n": 2})).await;
    answered(&mut bus, "g", 2).await;
}

#[tokio::test]
async fn deaths_are_counted_over_a_restart_that_somebody_asked_for_and_set_aside_stays_set_aside() {
    let modules = modules();
    let (mut stack, mut bus) = stack(&modules).await;
    let never = RestartPolicy { mode: RestartMode::Never.into(), ..Default::default() };
    let launch = AgentLaunch { restart_policy: Some(never), ..bus.agent("g", "a", "doer.Doer") };
    stack.create(launch).await.unwrap();
    let id = bus.say("g", "a", json!({"n": 1, "do": "hard"})).await;
    bus.say("g", "a", json!({"n": 2})).await;
    let restart = async || {
        let (guild_id, agent_id) = ("g".to_owned(), "a".to_owned());
        // It may fail at once, as it has the message again; its phase says so as well.
        let _ = stack
            .client
            .clone()
            .restart_agent(pb::RestartAgentRequest { guild_id, agent_id, ..Default::default() })
            .await;
    };
    let mut epoch = 0;
    for _ in 0..3 {
        let failed = |a: &agent_pb::Agent| a.phase() == AgentPhase::Failed && a.epoch > epoch;
        let failed = stack.agent_is("FAILED", "g", "a", failed).await;
        let why = format!("at work on message {id} of topic a; its restart policy does not restart it");
        assert!(failed.message.ends_with(&why), "{}", failed.message);
        epoch = failed.epoch;
        restart().await;
    }
    answered(&mut bus, "g", 2).await;
    let aside =
        |a: &agent_pb::Agent| a.phase() == AgentPhase::Running && a.message.contains("was set aside after 3 deaths");
    stack.agent_is("it to run", "g", "a", aside).await;
    restart().await;
    bus.say("g", "a", json!({"n": 3})).await;
    answered(&mut bus, "g", 3).await;
    // The next life of the host knows nothing of it, and needs not to.
    stack.hosts[0].signal(Signal::KILL);
    stack.restart_host(0);
    let back = |a: &agent_pb::Agent| a.phase() == AgentPhase::Running && a.epoch > epoch + 1 && a.message.is_empty();
    stack.agent_is("it to be back", "g", "a", back).await;
    bus.say("g", "a", json!({"n": 4})).await;
    answered(&mut bus, "g", 4).await;
    assert_eq!(bus.heard("g", "dead_letter_queue").await.len(), 1);
}

#[tokio::test]
async fn a_backlog_that_kills_does_not_fail_a_create() {
    let modules = modules();
    let (stack, mut bus) = stack(&modules).await;
    bus.say("g", "a", json!({"n": 1, "do": "hard"})).await;
    bus.say("g", "a", json!({"n": 2})).await;
    let created = stack.create(bus.agent("g", "a", "doer.Doer")).await.unwrap();
    assert_eq!(created.phase(), AgentPhase::Running);
    answered(&mut bus, "g", 2).await;
    assert_eq!(bus.heard("g", "dead_letter_queue").await.len(), 1);
}

#[tokio::test]
async fn with_no_limit_of_deliveries_nothing_is_set_aside() {
    let modules = modules();
    let stack = modules.stack(&["--max-deliveries", "0"]).await;
    let mut bus = Bus::to(stack.redis.port());
    let policy = RestartPolicy { max_restarts: Some(4), ..bus.agent("g", "a", "doer.Doer").restart_policy.unwrap() };
    stack.create(AgentLaunch { restart_policy: Some(policy), ..bus.agent("g", "a", "doer.Doer") }).await.unwrap();
    bus.say("g", "a", json!({"n": 1, "do": "exit"})).await;
    let failed = stack.agent_is("FAILED", "g", "a", |a| a.phase() == AgentPhase::Failed).await;
    assert!(failed.message.ends_with("after 4 restarts"), "{}", failed.message);
    assert!(bus.heard("g", "dead_letter_queue").await.is_empty());
}

#[tokio::test]
async fn a_process_that_is_killed_from_outside_says_what_it_was_at_work_on() {
    let modules = modules();
    let (stack, mut bus) = stack(&modules).await;
    let agent = stack.create(bus.agent("g", "a", "doer.Doer")).await.unwrap();
    let id = bus.say("g", "a", json!({"n": 1, "do": "sleep", "seconds": 1})).await;
    stack.hosts[0].logged("it to be at work", |line| line["message"] == "HEARD 1").await;
    kill_process(Pid::from_raw(i32::try_from(agent.pid).unwrap()).unwrap(), Signal::KILL).unwrap();
    is_back(&stack, "a", 1).await;
    let reasons = reasons(&stack);
    assert!(reasons[0].ends_with(&format!("at work on message {id} of topic a")), "{reasons:?}");
    assert_ne!(answered(&mut bus, "g", 1).await, agent.pid, "the next life handles it");
}

#[tokio::test]
async fn a_handler_that_hangs_is_ended_by_the_liveness_timeout_also_when_it_holds_the_interpreter() {
    let modules = modules();
    let (stack, mut bus) = stack(&modules).await;
    let liveness_timeout = Some(prost_types::Duration { seconds: 5, nanos: 0 });
    for agent in ["sleeps", "spins"] {
        let launch = AgentLaunch { liveness_timeout, ..bus.agent("g", agent, "doer.Doer") };
        stack.create(launch).await.unwrap();
    }
    let patient = stack.create(bus.agent("g", "patient", "doer.Doer")).await.unwrap();
    let sleeps = bus.say("g", "sleeps", json!({"n": 1, "do": "sleep", "seconds": 100_000})).await;
    let spins = bus.say("g", "spins", json!({"n": 2, "do": "spin"})).await;
    bus.say("g", "patient", json!({"n": 3, "do": "sleep", "seconds": 7})).await;
    for (agent, id) in [("sleeps", sleeps), ("spins", spins)] {
        stack.agent_is("it to be restarted", "g", agent, |a| a.restarts >= 1).await;
        let at = format!("at work on message {id} of topic {agent}");
        let by_timeout = |why: &String| why.contains(&at) && why.contains("more than 5 s, its liveness timeout");
        assert!(reasons(&stack).iter().any(by_timeout), "{:?}", reasons(&stack));
    }
    assert_eq!(answered(&mut bus, "g", 3).await, patient.pid, "without a timeout a handler may think");
}
