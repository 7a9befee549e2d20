//! How an agent stops: what it handles is finished, what comes stays for the next life, and what it has registered runs.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use rustic_proto::{
    agent::v1::{self as agent_pb, AgentPhase, last_exit},
    engine::v1 as pb,
};
use rustic_tests::{Bus, Modules, Stack, StackSettings, bus::DOER, wait_until};
use rustix::process::Signal;
use serde_json::{Value, json};

fn modules() -> Modules {
    Modules::new(&[("doer", DOER)])
}

async fn stack(modules: &Modules, hosts: usize, host_arguments: &[&str]) -> (Stack, Bus) {
    let stack = Stack::with(StackSettings { hosts, ..modules.settings(host_arguments) }).await;
    let bus = Bus::to(stack.redis.port());
    (stack, bus)
}

/// Everything that agents printed on a host.
fn printed(stack: &Stack) -> Vec<String> {
    let log = stack.hosts[0].log();
    let lines = log.iter().filter(|line| line["target"] == "agent");
    lines.map(|line| line["message"].as_str().unwrap_or_default().to_owned()).collect()
}

async fn is_at_work(stack: &Stack, host: usize, n: u64) {
    let heard = format!("HEARD {n}");
    stack.hosts[host].logged("it to be at work", |line: &Value| line["message"] == heard.as_str()).await;
}

async fn stop(stack: &Stack, agent: &str, seconds: i64) -> agent_pb::LastExit {
    let timeout = Some(prost_types::Duration { seconds, nanos: 0 });
    let (guild_id, agent_id) = ("g".to_owned(), agent.to_owned());
    let request =
        pb::StopAgentRequest { guild_id, agent_id, timeout, force: pb::ForceMode::None.into(), ..Default::default() };
    stack.client.clone().stop_agent(request).await.unwrap().into_inner().exit.unwrap()
}

#[tokio::test]
async fn a_handler_at_work_finishes_and_what_comes_after_sigterm_is_for_the_next_life() {
    let modules = modules();
    let (stack, mut bus) = stack(&modules, 1, &[]).await;
    // Longer than everything that once cut it.
    let first = stack.create(bus.agent("g", "a", "doer.Doer")).await.unwrap();
    bus.say("g", "a", json!({"n": 1, "do": "sleep", "seconds": 4})).await;
    bus.say("g", "a", json!({"n": 2})).await;
    is_at_work(&stack, 0, 1).await;
    let exit = stop(&stack, "a", 30).await;
    assert_eq!(exit.status, Some(last_exit::Status::Code(0)));
    let finished = bus.answers("g", 1).await;
    assert_eq!((finished.len(), finished[0]["pid"].as_u64()), (1, Some(first.pid.into())));
    assert!(bus.answers("g", 2).await.is_empty(), "no further message is taken");
    let second = stack.create(bus.agent("g", "a", "doer.Doer")).await.unwrap();
    let later = wait_until("an answer of the next life", async || match bus.answers("g", 2).await.as_slice() {
        [answer] => Ok(answer.clone()),
        other => Err(other.to_vec()),
    })
    .await;
    assert_eq!(later["pid"].as_u64(), Some(second.pid.into()));
    assert_eq!(bus.answers("g", 1).await.len(), 1, "what was finished is not done twice");
}

#[tokio::test]
async fn a_handler_that_takes_longer_than_the_stop_allows_is_cut_and_repeated_and_not_counted_as_poison() {
    let modules = modules();
    let (stack, mut bus) = stack(&modules, 1, &[]).await;
    bus.say("g", "a", json!({"n": 1, "do": "sleep", "seconds": 2})).await;
    for life in 1..=4 {
        stack.create(bus.agent("g", "a", "doer.Doer")).await.unwrap();
        wait_until("it to be at work", async || {
            let times = printed(&stack).iter().filter(|line| *line == "HEARD 1").count();
            if times == life { Ok(()) } else { Err(times) }
        })
        .await;
        assert_eq!(stop(&stack, "a", 0).await.status, Some(last_exit::Status::Signal(9)));
    }
    stack.create(bus.agent("g", "a", "doer.Doer")).await.unwrap();
    wait_until("an answer", async || if bus.answers("g", 1).await.is_empty() { Err(()) } else { Ok(()) }).await;
    assert!(bus.heard("g", "dead_letter_queue").await.is_empty());
}

#[tokio::test]
async fn what_an_agent_has_registered_for_its_end_runs_also_after_a_restart_and_when_it_ends_itself() {
    let modules = modules();
    let (stack, mut bus) = stack(&modules, 1, &[]).await;
    stack.create(bus.agent("g", "careful", "doer.Careful")).await.unwrap();
    let (guild_id, agent_id) = ("g".to_owned(), "careful".to_owned());
    let restart = pb::RestartAgentRequest { guild_id, agent_id, ..Default::default() };
    stack.client.clone().restart_agent(restart).await.unwrap();
    assert_eq!(stop(&stack, "careful", 10).await.status, Some(last_exit::Status::Code(0)), "ours stays in charge");
    let count = |what: &str| printed(&stack).iter().filter(|line| *line == what).count();
    for what in ["OWN HANDLER GOT 15 IN MAIN True", "ATEXIT RAN", "UNFLUSHED"] {
        wait_until(what, async || if count(what) == 2 { Ok(()) } else { Err(printed(&stack)) }).await;
    }
    stack.create(bus.agent("g", "careful", "doer.Careful")).await.unwrap();
    bus.say("g", "careful", json!({"n": 1, "do": "exit"})).await;
    wait_until("atexit to run", async || if count("ATEXIT RAN") >= 3 { Ok(()) } else { Err(printed(&stack)) }).await;
}

#[tokio::test]
async fn an_event_loop_of_the_agent_is_notified_of_sigterm_and_what_never_ends_does_not_keep_the_process() {
    let modules = modules();
    let (stack, bus) = stack(&modules, 1, &[]).await;
    stack.create(bus.agent("g", "looper", "doer.Looper")).await.unwrap();
    stack.create(bus.agent("g", "slow", "doer.Slow")).await.unwrap();
    for agent in ["looper", "slow"] {
        assert_eq!(stop(&stack, agent, 600).await.status, Some(last_exit::Status::Code(0)), "{agent}");
    }
    stack.hosts[0].logged("the loop's word", |line: &Value| line["message"] == "LOOP GOT SIGTERM").await;
}

#[tokio::test]
async fn a_handler_in_flight_on_a_host_that_drains_or_ends_is_handled_exactly_once() {
    let modules = modules();
    let (stack, mut bus) = stack(&modules, 2, &["--drain-timeout", "40s", "--stop-timeout", "1s"]).await;
    let mut here = 0;
    for (round, n) in [1_u64, 2].into_iter().enumerate() {
        // Longer than the second call of the engine, in the first round.
        let seconds = [13, 3][round];
        if round == 0 {
            let agent = stack.create(bus.agent("g", "a", "doer.Doer")).await.unwrap();
            here = usize::from(agent.host_id == "agent-host-1");
        }
        bus.say("g", "a", json!({"n": n, "do": "sleep", "seconds": seconds})).await;
        is_at_work(&stack, here, n).await;
        let host_id = format!("agent-host-{here}");
        if round == 0 {
            let request = pb::DrainHostRequest { host_id: host_id.clone(), force: pb::ForceMode::None.into() };
            stack.client.clone().drain_host(request).await.unwrap();
        } else {
            stack.hosts[here].signal(Signal::TERM);
        }
        let elsewhere = |a: &agent_pb::Agent| a.phase() == AgentPhase::Running && a.host_id != host_id;
        stack.agent_is("it to run elsewhere", "g", "a", elsewhere).await;
        bus.say("g", "a", json!({"n": 10 + n})).await;
        wait_until("an answer", async || if bus.answers("g", 10 + n).await.is_empty() { Err(()) } else { Ok(()) })
            .await;
        assert_eq!(bus.answers("g", n).await.len(), 1, "round {round}");
        let log = stack.hosts[1 - here].log();
        assert!(
            !log.iter().any(|l| l["message"] == format!("HEARD {n}").as_str()),
            "it was begun anew, round {round}"
        );
        if round == 0 {
            stack.client.clone().undrain_host(pb::UndrainHostRequest { host_id }).await.unwrap();
        }
        here = 1 - here;
    }
}

#[tokio::test]
async fn an_agent_that_is_stopped_while_it_starts_leaves_in_order() {
    let modules = Modules::new(&[(
        "slowly",
        "import time\nfrom rustic_ai.core.guild import Agent\nclass Slowly(Agent):\n    def __init__(self):\n\
         \x20       print('BUILDING', flush=True)\n        time.sleep(1000)\n",
    )]);
    let (stack, bus) = stack(&modules, 1, &[]).await;
    let launch = Some(bus.agent("g", "a", "slowly.Slowly").into());
    let wait = agent_pb::WaitMode::Accepted.into();
    let request = pb::CreateAgentRequest { launch, wait, ..Default::default() };
    stack.client.clone().create_agent(request).await.unwrap();
    stack.hosts[0].logged("it to be built", |line: &Value| line["message"] == "BUILDING").await;
    assert_eq!(stop(&stack, "a", 600).await.status, Some(last_exit::Status::Code(0)));
}
