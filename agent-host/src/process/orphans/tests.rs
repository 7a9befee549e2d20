//! What is decided about children that no task has, and that it is done: with real processes, all children of this test.

use super::*;
use std::process::{Command, Stdio};

fn orphans(test: &str) -> Arc<Orphans> {
    Orphans::new(Life::of(&format!("{test}.{}", std::process::id()).parse().expect("an incarnation")))
}

/// A child that no task has, with a mark from before it does anything.
#[allow(clippy::zombie_processes, reason = "who reaps it is what is tested")]
fn child(mark: Option<Mark>, script: &str) -> Pid {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("read line; {script}")]).stdin(Stdio::piped());
    let mut child = command.spawn().expect("a shell");
    let pid = Pid::from_child(&child);
    mark.into_iter().for_each(|mark| mark.put_on(pid).expect("it is ours"));
    drop(child.stdin.take());
    pid
}

#[test]
fn what_carries_the_mark_of_a_run_that_lives_is_spared_and_so_is_what_has_none() {
    let orphans = orphans("spared");
    let (run, other) = (orphans.begin(1), orphans.begin(2));
    let (mark, ended) = (run.mark().expect("marks"), other.mark().expect("marks"));
    drop(other);
    let state = orphans.lock();
    assert!(state.is_spared(None) && state.is_spared(Some(mark)));
    assert!(!state.is_spared(Some(ended)));
}

#[test]
fn only_what_was_born_since_the_oldest_expectation_may_be_what_is_expected() {
    let orphans = orphans("expected");
    let before = Ticks::of_birth(Pid::INIT);
    assert!(!orphans.lock().is_expected(Some(Ticks::now()), None), "nothing is");
    let first = orphans.expect();
    assert!(!orphans.lock().is_expected(before, None), "it was there before");
    assert!(orphans.lock().is_expected(Some(Ticks::now()), None));
    assert!(orphans.lock().is_expected(None, None), "nobody knows");
    let second = orphans.expect();
    drop(first);
    assert!(orphans.lock().is_expected(Some(Ticks::now()), None));
    let ended = orphans.begin(1).mark();
    assert!(!orphans.lock().is_expected(Some(Ticks::now()), ended), "of a run that has ended nobody is made");
    drop(second);
    assert!(!orphans.lock().is_expected(Some(Ticks::now()), None));
}

/// One test for all that needs the children of this process: whatever has no handle there is reaped.
#[tokio::test]
async fn a_run_is_over_when_nothing_of_it_is_left_and_others_are_not_touched() {
    let orphans = orphans("over");
    let tasks = Tasks::new();
    orphans.start(&tasks).expect("a subreaper");
    // The end of a run is not held up by a child that is being made, however long that takes.
    let expected = orphans.expect();
    let (run, other) = (orphans.begin(1), orphans.begin(2));
    // Whatever is killed leaves a child, three deep.
    let mine = child(run.mark(), "sh -c 'sh -c \"sleep 1000 & wait\" & wait' & wait");
    let others = child(other.mark(), "exec sleep 1000");
    let strangers = child(None, "exec sleep 1000");
    run.end().await;
    let mark = run.mark();
    let left: Vec<_> = table::everybody().expect("a list").into_iter().filter(|pid| Mark::of(*pid) == mark).collect();
    assert_eq!((left, table::reap(mine)), (vec![], Fate::Gone));
    assert_eq!((table::reap(others), table::reap(strangers)), (Fate::Lives, Fate::Lives));
    // The status of one that is expected is somebody's to read, until it is given up.
    let early = child(None, "exit 3");
    process::waitid(process::WaitId::Pid(early), process::WaitIdOptions::EXITED | process::WaitIdOptions::NOWAIT)
        .expect("it ends and is not reaped");
    orphans.look();
    drop(expected);
    while table::reap(early) != Fate::Gone {
        tokio::task::yield_now().await;
    }
    other.end().await;
    assert_eq!(table::reap(others), Fate::Gone);
    process::kill_process(strangers, process::Signal::KILL).expect("it lives");
    while table::reap(strangers) != Fate::Gone {
        tokio::task::yield_now().await;
    }
    // Who makes a process and panics leaves nothing behind.
    let run = orphans.begin(3);
    let mark = run.mark();
    let contained = run.contain(async |run: Kin| -> Pid {
        child(run.mark(), "sh -c 'sleep 1000 & wait' & wait");
        panic!("a bug");
    });
    assert_eq!(contained.await, Err("a bug".to_owned()));
    let left: Vec<_> = table::everybody().expect("a list").into_iter().filter(|pid| Mark::of(*pid) == mark).collect();
    assert_eq!(left, vec![]);
    tasks.end(GONE).await.expect("no task has failed");
}

/// What a look and an end cost a host with many agents: `cargo test -p agent-host -- --ignored --nocapture thousand`.
#[test]
#[ignore = "measures, and starts a thousand processes"]
#[allow(clippy::print_stdout, reason = "figures are what it is for")]
fn a_look_among_a_thousand_children() {
    let orphans = orphans("thousand");
    let run = orphans.begin(1);
    let children: Vec<_> = (0..1000).map(|_| child(run.mark(), "exec sleep 1000")).collect();
    let timed = |what: &str, work: &dyn Fn()| {
        let began = tokio::time::Instant::now();
        (0..100).for_each(|_| work());
        println!("{what}: {:?}", began.elapsed() / 100);
    };
    timed("an end that is nobody's, looked for", &|| orphans.reap());
    timed("a look at a thousand orphans of a run that lives", &|| drop(orphans.sweep()));
    orphans.lock().managed.extend(&children);
    timed("a look at a thousand agents", &|| drop(orphans.sweep()));
    for pid in children {
        process::kill_process(pid, process::Signal::KILL).expect("it lives");
        process::waitpid(Some(pid), process::WaitOptions::empty()).expect("it ends");
    }
}
