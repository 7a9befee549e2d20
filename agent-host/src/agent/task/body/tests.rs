//! From nothing to a process and back, in paused time.

use super::*;
use crate::{
    fakes::FakeHost,
    output::Tail,
    runtime::{Order, Runtime as _},
    starts::Starts,
};
use futures_util::FutureExt as _;
use rustic_registry::ExitStatus;
use std::{io, time::Duration};

const PATIENCE: Duration = Duration::from_secs(1);

/// One start at a time.
fn starts() -> Starts {
    Starts::new(1, PATIENCE)
}

fn wait(starts: &Starts) -> BoxFuture<'static, Turn> {
    let starts = starts.clone();
    async move { starts.turn().await }.boxed()
}

fn is_free(starts: &Starts) -> bool {
    starts.turn().now_or_never().is_some()
}

/// A body whose turn has come.
async fn due(starts: &Starts) -> Body {
    let mut body = Body::Nothing;
    body.queue(wait(starts));
    assert!(matches!(body.next().await, Happens::Turn));
    body
}

struct World {
    host: FakeHost,
    order: Order,
}

impl World {
    async fn new() -> Self {
        let host = FakeHost::start().await;
        let order = host.claimed("a").await.order;
        Self { host, order }
    }

    fn making(&self) -> BoxFuture<'static, Made> {
        let (runtime, order) = (self.host.runtime.clone(), self.order.clone());
        async move { runtime.start(&order, &Tail::default()).await }.boxed()
    }

    /// A body with a process.
    async fn alive(&self, starts: &Starts) -> Body {
        let mut body = due(starts).await;
        body.make(self.making());
        assert!(matches!(body.next().await, Happens::Made(Ok(()))));
        assert!(body.pid().is_some());
        body
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_leaves_the_line_gives_its_place_or_its_turn_to_the_next() {
    let starts = starts();
    let mut first = due(&starts).await;
    let mut second = Body::Nothing;
    second.queue(wait(&starts));
    assert!(second.next().now_or_never().is_none());
    assert_eq!(starts.waiting(), 1);
    second.leave_line();
    assert_eq!(starts.waiting(), 0);
    assert!(!is_free(&starts));
    first.leave_line();
    assert!(is_free(&starts));
}

#[tokio::test(start_paused = true)]
async fn a_start_that_fails_holds_up_nobody() {
    let starts = starts();
    let mut body = due(&starts).await;
    let failed: Made = Err(StartError::from(io::Error::other("no processes")));
    body.make(async move { failed }.boxed());
    assert!(!is_free(&starts));
    assert!(matches!(body.next().await, Happens::Made(Err(_))));
    assert!(matches!(body, Body::Nothing));
    assert!(is_free(&starts), "its turn is over with it, and not only when patience is");
}

#[tokio::test(start_paused = true)]
async fn a_slow_start_gives_its_turn_away_and_goes_on() {
    let starts = starts();
    let world = World::new().await;
    let mut making = due(&starts).await;
    making.make(pending().boxed());
    let mut alive = Body::Nothing;
    alive.queue(wait(&starts));
    tokio::select! {
        biased;
        _ = making.next() => panic!("it is never made"),
        turn = alive.next() => assert!(matches!(turn, Happens::Turn)),
    }
    assert!(matches!(making, Body::Making { turn: None, .. }));
    alive.make(world.making());
    assert!(matches!(alive.next().await, Happens::Made(Ok(()))));
    // Alive, and not ready for longer than patience lasts.
    tokio::select! {
        biased;
        _ = alive.next() => panic!("it says nothing"),
        _turn = starts.turn() => {}
    }
    assert!(alive.pid().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_is_given_up_loses_nothing() {
    let starts = starts();
    let world = World::new().await;
    let first = starts.turn().await;
    let mut body = Body::Nothing;
    body.queue(wait(&starts));
    for _ in 0..3 {
        assert!(body.next().now_or_never().is_none());
    }
    drop(first);
    assert!(matches!(body.next().await, Happens::Turn));
    let (go, gone) = tokio::sync::oneshot::channel();
    let making = world.making();
    body.make(
        async move {
            gone.await.expect("it is asked to go on");
            making.await
        }
        .boxed(),
    );
    for _ in 0..3 {
        assert!(body.next().now_or_never().is_none());
    }
    go.send(()).expect("it is awaited");
    assert!(matches!(body.next().await, Happens::Made(Ok(()))));
    for _ in 0..3 {
        assert!(body.next().now_or_never().is_none());
    }
    world.host.runtime.process_of("a").await.ends(ExitStatus::Code(0));
    assert!(matches!(body.next().await, Happens::ProcessEvent(ProcessEvent::Exit(ExitStatus::Code(0)))));
    assert!(body.pid().is_some(), "until it is taken");
    assert!(body.reaped().is_some() && body.reaped().is_none());
    assert!(body.next().now_or_never().is_none() && is_free(&starts));
}

#[tokio::test(start_paused = true)]
async fn what_is_known_of_a_process_goes_with_it() {
    let starts = starts();
    let world = World::new().await;
    let mut body = world.alive(&starts).await;
    body.signal(Signal::Terminate);
    let alive = body.alive().expect("it lives");
    assert!(!alive.was_killed());
    alive.says("its last words".to_owned());
    body.signal(Signal::Kill);
    let alive = body.alive().expect("it was not reaped yet");
    assert!(alive.was_killed());
    assert_eq!(alive.last().0.as_deref(), Some("its last words"));
    assert_eq!(world.host.runtime.process_of("a").await.signals(), [Signal::Terminate, Signal::Kill]);
    drop(body.reaped());
    // Nobody is there to be signalled.
    body.signal(Signal::Kill);
    let mut body = world.alive(&starts).await;
    let alive = body.alive().expect("another one");
    assert!(!alive.was_killed() && alive.last().0.is_none());
}
