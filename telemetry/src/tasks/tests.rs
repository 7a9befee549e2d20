//! Every way in which a task can end, in paused time.

use super::*;
use std::future::pending;

const SOON: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_task_that_panics_is_the_failure_of_its_program_with_its_name_and_its_words() {
    let tasks = Tasks::new();
    tasks.spawn("the renewer of the lease", async { panic!("no more {}", "room") });
    let failure = tasks.failed().await;
    assert_eq!(failure.cause, Cause::Panicked("no more room".to_owned()));
    assert!(failure.to_string().starts_with("the renewer of the lease panicked: no more room"), "{failure}");
    assert_eq!(tasks.end(SOON).await, Err(failure));
}

#[tokio::test(start_paused = true)]
async fn a_task_that_ends_before_its_time_or_with_an_error_is_a_failure() {
    let tasks = Tasks::new();
    tasks.spawn("a loop", async {});
    assert_eq!(tasks.failed().await, Failure { task: "a loop".into(), cause: Cause::Ended });

    let tasks = Tasks::new();
    let server = async { Err::<(), _>(io::Error::other("the socket is gone")) };
    tasks.spawn_until("the server", tasks.ending(), server);
    assert_eq!(tasks.failed().await.cause, Cause::Failed("the socket is gone".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn tasks_that_end_when_they_are_asked_to_are_waited_for_and_no_failure() {
    let tasks = Tasks::new();
    let ending = tasks.ending();
    let (left, mut last_step) = tokio::sync::mpsc::channel(1);
    tasks.spawn("a loop", pending());
    tasks.spawn_until("the reconciler", ending.clone(), async move {
        ending.cancelled().await;
        tokio::time::sleep(SOON / 2).await;
        left.send(()).await.expect("the test listens");
    });
    assert_eq!(tasks.end(SOON).await, Ok(()));
    assert_eq!(last_step.try_recv(), Ok(()), "its last step was waited for");
}

#[tokio::test(start_paused = true)]
async fn a_task_that_fails_at_the_end_is_a_failure_and_one_that_does_not_end_holds_up_nobody() {
    let tasks = Tasks::new();
    let ending = tasks.ending();
    tasks.spawn_until("the reconciler", ending.clone(), async move {
        ending.cancelled().await;
        assert!(!ending.is_cancelled(), "on its way out");
    });
    tasks.spawn_until("one that hangs", tasks.ending(), pending::<()>());
    let failure = tasks.end(SOON).await.expect_err("the renewer panicked");
    assert_eq!(failure.task, "the reconciler");
    let hang: Vec<_> = tasks.0.running().values().cloned().collect();
    assert_eq!(hang, ["one that hangs"]);
}

#[tokio::test(start_paused = true)]
async fn the_first_failure_is_the_one_that_is_returned() {
    let tasks = Tasks::new();
    tasks.fail("the cause", Cause::Ended);
    tasks.fail("what follows from it", Cause::Ended);
    assert_eq!(tasks.failed().await.task, "the cause");
}

#[tokio::test]
async fn a_thread_that_panics_is_a_failure_and_one_that_is_done_is_not() {
    let tasks = Tasks::new();
    tasks.spawn_thread("done", || {}).expect("a thread");
    tasks.spawn_thread("spawner", || panic!("out of pipes")).expect("a thread");
    let failure = tasks.failed().await;
    assert_eq!(failure, Failure { task: "spawner".into(), cause: Cause::Panicked("out of pipes".to_owned()) });
}
