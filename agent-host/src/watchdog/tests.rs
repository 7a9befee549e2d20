//! The handle and the program of the watchdog, one talking to the other, over real processes.

use super::*;
use futures_util::FutureExt as _;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::{
    os::{fd::AsFd as _, unix::process::CommandExt as _},
    process::Child,
    thread::{self, JoinHandle},
};

/// A life that started nothing.
fn life() -> Life {
    Life::of(&"a test of the watchdog".parse().expect("an incarnation"))
}

/// A watchdog that runs in this process, and its handle.
fn pair() -> (Arc<Watchdog>, JoinHandle<io::Result<()>>) {
    let (ours, theirs) = wire::pair().expect("a pair of sockets");
    let known = Known { socket: Some(ours), ..Known::default() };
    let watchdog = Arc::new(Watchdog { known: Mutex::new(known), alive: watch::Sender::new(true), life: life() });
    (watchdog, thread::spawn(move || process::run(theirs.as_fd(), life())))
}

fn sleeper() -> (Child, OwnedFd) {
    let child = Command::new("sleep").arg("1000").process_group(0).spawn().expect("sleep is everywhere");
    let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::NONBLOCK).expect("it was just started");
    (child, pidfd)
}

/// The host is gone, as its watchdog sees it.
fn close(watchdog: &Watchdog) {
    watchdog.known().socket = None;
}

#[test]
fn an_agent_that_got_the_process_id_of_one_that_was_just_reaped_stays_watched() {
    let (watchdog, program) = pair();
    let ((mut former, former_pidfd), (mut agent, pidfd)) = (sleeper(), sleeper());
    // The former agent had this id, as far as the watchdog knows.
    let watched = watchdog
        .watch(agent.id(), former_pidfd, Outlives::Nothing)
        .now_or_never()
        .expect("there is a watchdog")
        .expect("watched");
    let _stays = watchdog
        .watch(agent.id(), pidfd, Outlives::Nothing)
        .now_or_never()
        .expect("there is a watchdog")
        .expect("watched");
    former.kill().expect("it lives");
    former.wait().expect("it ended");
    drop(watched);
    close(&watchdog);
    program.join().expect("no panic").expect("it ended in order, after all that it watched");
    assert!(agent.try_wait().expect("it is ours").is_some(), "it must not outlive its host");
}

#[test]
fn an_agent_that_is_not_watched_any_more_outlives_the_watchdog() {
    let (watchdog, program) = pair();
    let (mut agent, pidfd) = sleeper();
    drop(
        watchdog
            .watch(agent.id(), pidfd, Outlives::Nothing)
            .now_or_never()
            .expect("there is a watchdog")
            .expect("watched"),
    );
    close(&watchdog);
    program.join().expect("no panic").expect("it ended in order");
    assert!(agent.try_wait().expect("it is ours").is_none());
    agent.kill().expect("it lives");
    agent.wait().expect("it ended");
}

#[test]
fn a_watchdog_that_lacks_a_descriptor_ends_and_harms_nobody_and_the_next_one_is_sent_everything() {
    let (watchdog, program) = pair();
    let (mut agent, pidfd) = sleeper();
    let _watched = watchdog
        .watch(agent.id(), pidfd, Outlives::Nothing)
        .now_or_never()
        .expect("there is a watchdog")
        .expect("watched");
    let lost = Message::Watch { number: 99, pid: 99, outlives: Outlives::Nothing };
    assert!(watchdog.send(&mut watchdog.known(), &lost, None));
    let error = program.join().expect("no panic").expect_err("it has to be replaced");
    assert!(error.to_string().contains("process 99"), "{error}");
    assert!(agent.try_wait().expect("it is ours").is_none(), "it lives on");

    let (ours, theirs) = wire::pair().expect("a pair of sockets");
    let program = thread::spawn(move || process::run(theirs.as_fd(), life()));
    watchdog.known().send_agents(&ours, &mut BTreeSet::new()).expect("sent");
    drop(ours);
    program.join().expect("no panic").expect("it ended in order");
    assert!(agent.try_wait().expect("it is ours").is_some(), "the next one watches it");
}

#[test]
fn what_is_no_packet_of_ours_costs_no_agent_its_life() {
    let (watchdog, program) = pair();
    let (mut agent, pidfd) = sleeper();
    let _watched = watchdog
        .watch(agent.id(), pidfd, Outlives::Nothing)
        .now_or_never()
        .expect("there is a watchdog")
        .expect("watched");
    {
        let known = watchdog.known();
        rustix::io::write(known.socket.as_ref().expect("there is one"), b"nonsense").expect("sent");
    }
    program.join().expect("no panic").expect_err("it has to be replaced");
    assert!(agent.try_wait().expect("it is ours").is_none(), "it lives on");
    agent.kill().expect("it lives");
    agent.wait().expect("it ended");
}
