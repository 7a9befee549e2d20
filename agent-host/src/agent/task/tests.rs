//! The task of one agent, step by step, in paused time.

use super::*;
use crate::fakes::FakeHost;
use rustic_registry::Phase;

#[tokio::test(start_paused = true)]
async fn a_write_is_sent_at_once_and_once() {
    let host = FakeHost::start().await;
    let (mut task, _handle) = AgentTask::new(host.claimed("a").await, host.context.clone());
    let (began, writes) = (Instant::now(), task.record.sequence);
    task.carry_out(Action::Record(Phase::Starting));
    let happened = task.next().await;
    // What the task knew from the start, as the store life and the lease, is no news to it.
    assert!(matches!(happened, Happened::Wrote(Ok(Some(Event::Recorded)))), "something else came before");
    assert_eq!(task.record.sequence, writes + 1, "it was sent once");
    assert_eq!(began.elapsed(), Duration::ZERO, "no timer was waited for");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_lost_after_the_task_was_made_is_noticed() {
    let host = FakeHost::start().await;
    let (mut task, _handle) = AgentTask::new(host.claimed("a").await, host.context.clone());
    task.carry_out(Action::Record(Phase::Starting));
    let recorded = task.next().await;
    task.take_in(recorded).await;
    host.registry.wipe();
    assert!(matches!(task.next().await, Happened::StoreChanged));
}
