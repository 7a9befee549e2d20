//! What a panic of an agent's task means for its process, its record, its callers and the others, in paused time.

use super::*;
use crate::{
    fakes::{FakeHost, Hand, key},
    process::Signal,
    runtime::{ProcessEvent, Report, StartTimes},
};
use futures_util::FutureExt as _;
use rustic_registry::{Condition, ExitStatus, Resources};
use std::pin::pin;

const KILLED: ExitStatus = ExitStatus::Signal(9);

/// An agent that runs, and a hand on its process.
async fn running(host: &FakeHost, supervisor: &Supervisor, agent: &str) -> Hand {
    let attached = supervisor.create(FakeHost::creation(agent)).await.expect("there is room");
    let process = host.runtime.process_of(agent).await;
    process.sends(ProcessEvent::Report(Report::Ready(StartTimes::default(), None)));
    attached.handle.wait(|s| s.phase == Phase::Running).await;
    process
}

async fn stop(supervisor: &Supervisor, agent: &str) -> Result<AgentStatus, HostError> {
    supervisor.stop(&key(agent), None, StopPurpose::Asked, Duration::ZERO).await
}

#[tokio::test(start_paused = true)]
async fn an_agent_whose_task_panics_is_killed_and_failed_with_the_reason_and_others_live_on() {
    let host = FakeHost::start().await;
    let supervisor = host.supervisor();
    let (process, other) = (running(&host, &supervisor, "a").await, running(&host, &supervisor, "b").await);
    process.panics();
    process.signalled(Signal::Kill).await;
    // Until it was reaped its record says nothing else.
    assert_eq!(host.record("a").await.map(|r| r.phase()), Some(Phase::Running));
    let handle = supervisor.get(&key("a")).expect("it is here");
    process.ends(KILLED);
    let ending = handle.wait(|_| false).await.ending;
    assert!(matches!(ending, Some(Ending::Failed)), "{ending:?}");
    let record = host.record("a").await.expect("its record");
    assert_eq!((record.phase(), record.pid()), (Phase::Failed, None));
    let (reason, message) = Condition::parts(record.condition.as_ref());
    assert!(reason == "HostFault" && message.ends_with("please report it: as the test wants it"), "{message}");
    assert_eq!(host.record("b").await.map(|r| r.phase()), Some(Phase::Running));
    assert_eq!(other.signals(), []);
    assert!(supervisor.broken().now_or_never().is_none(), "the host goes on");
}

#[tokio::test(start_paused = true)]
async fn a_stop_of_an_agent_whose_task_panicked_is_answered_when_its_process_was_reaped() {
    let host = FakeHost::start().await;
    let supervisor = host.supervisor();
    let process = running(&host, &supervisor, "a").await;
    process.panics();
    process.signalled(Signal::Kill).await;
    let mut stopping = pin!(stop(&supervisor, "a"));
    tokio::select! {
        answer = &mut stopping => panic!("it lives, and its stop is answered: {:?}", answer.map(|s| s.phase)),
        () = tokio::time::sleep(Duration::from_secs(60)) => {}
    }
    process.ends(KILLED);
    stopping.await.expect("it is stopped now");
    assert_eq!(host.record("a").await, None);
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_was_asked_for_before_the_panic_goes_on() {
    let host = FakeHost::start().await;
    let supervisor = host.supervisor();
    let process = running(&host, &supervisor, "a").await;
    let handle = supervisor.get(&key("a")).expect("it is here");
    handle.stop(StopPurpose::Asked, Duration::from_secs(3600)).await;
    process.signalled(Signal::Terminate).await;
    process.panics();
    process.signalled(Signal::Kill).await;
    process.ends(KILLED);
    let ending = handle.wait(|_| false).await.ending;
    assert!(matches!(ending, Some(Ending::Stopped(_))), "{ending:?}");
    assert_eq!(host.record("a").await, None);
}

#[tokio::test(start_paused = true)]
async fn where_nobody_knows_whether_the_process_has_ended_the_host_ends_and_no_stop_is_answered_ok() {
    let host = FakeHost::start().await;
    let supervisor = host.supervisor();
    let (process, other) = (running(&host, &supervisor, "a").await, running(&host, &supervisor, "b").await);
    let before = host.record("a").await.expect("its record");
    process.panics();
    process.panics();
    let why = supervisor.broken().await;
    assert_eq!(why, "the task of agent default/g/a panicked: as the test wants it");
    assert_eq!(process.signals().last(), Some(&Signal::Kill), "the process is ended all the same");
    let answer = stop(&supervisor, "a").await;
    assert!(matches!(answer, Err(HostError::Broken(_))), "{:?}", answer.map(|s| s.phase));
    // Nor does a later claim start it here beside a process that may live.
    let later = GivenClaim {
        epoch: Epoch(before.epoch.0 + 1),
        machine_id: rustic_registry::MachineId::FIRST,
        takes: Resources::one_slot(),
    };
    let again = supervisor.create(Creation { claim: Some(later), ..FakeHost::creation("a") }).await;
    assert!(matches!(again.map(|_| ()), Err(HostError::Broken(_))));
    assert_eq!(host.record("a").await, Some(before), "its next life takes it over as it is");
    // The end of the host is as ordinary as it can be.
    let mut ending = pin!(supervisor.end(Duration::from_secs(5)));
    assert!((&mut ending).now_or_never().is_none(), "the other agent is waited for");
    other.signalled(Signal::Terminate).await;
    other.ends(ExitStatus::Signal(15));
    ending.await;
    assert_eq!(host.record("b").await.map(|r| r.phase()), Some(Phase::Pending));
}

#[tokio::test(start_paused = true)]
async fn a_panic_while_a_process_is_made_ends_the_host_unless_the_runtime_contains_it() {
    let host = FakeHost::start().await;
    let supervisor = host.supervisor();
    host.runtime.panics.store(true, Ordering::Relaxed);
    let attached = supervisor.create(FakeHost::creation("a")).await.expect("there is room");
    assert_eq!(supervisor.broken().await, "the task of agent default/g/a panicked: as the test wants it");
    assert!(attached.handle.status().ending.is_none());
    assert!(matches!(stop(&supervisor, "a").await, Err(HostError::Broken(_))));
}
