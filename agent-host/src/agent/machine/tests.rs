//! Tables for the paths that matter, and random events for the rules that always hold.

use super::*;
use crate::runtime::InitFailure;
use proptest::prelude::*;

const GRACE: Duration = Duration::from_secs(10);

fn rules() -> Rules {
    Rules {
        restart: RestartPolicy { max_restarts: 2, ..RestartPolicy::default() },
        first_start: FirstStart::MustSucceed,
        start_timeout: Duration::from_secs(30),
        on_disconnect: OnDisconnect::Stop,
    }
}

/// A machine and a clock that only the test moves.
struct Run {
    machine: Machine,
    now: Instant,
}

impl Run {
    fn new(rules: Rules) -> Self {
        Self { machine: Machine::new(rules, Poison::new(3)).0, now: Instant::now() }
    }

    fn on(&mut self, event: Event) -> Vec<Action> {
        self.machine.on(event, self.now, 0.0)
    }

    fn all(&mut self, events: impl IntoIterator<Item = Event>) -> Vec<Action> {
        events.into_iter().flat_map(|event| self.on(event)).collect()
    }

    /// Goes to the time the machine wants to wake at.
    fn wake(&mut self) -> Vec<Action> {
        self.now = self.machine.wake_at().expect("something to wake for");
        self.on(Event::Timer)
    }

    fn running(rules: Rules) -> Self {
        let mut run = Self::new(rules);
        run.all([Event::Recorded, Event::Turn, Event::Spawned, Event::Ready, Event::Recorded]);
        assert_eq!(run.machine.phase(), Phase::Running);
        run
    }
}

#[test]
fn the_happy_path_writes_before_it_spawns_and_ends_when_released() {
    let (_, first) = Machine::new(rules(), Poison::new(3));
    assert_eq!(first, [Action::Record(Phase::Starting)]);
    let mut run = Run::new(rules());
    assert_eq!(run.on(Event::Recorded), [Action::Queue]);
    assert_eq!(run.on(Event::Turn), [Action::Spawn]);
    assert_eq!(run.all([Event::Spawned, Event::Ready]), [Action::Record(Phase::Running)]);
    assert_eq!(run.machine.phase(), Phase::Starting, "not RUNNING before it is recorded");
    run.on(Event::Recorded);
    let stop = run.on(Event::Stop(StopPurpose::Asked, GRACE));
    assert_eq!(stop, [Action::Record(Phase::Stopping), Action::Terminate]);
    assert_eq!(run.on(Event::Exited(ExitStatus::Code(0).into())), [Action::Release(Becomes::Gone)]);
    run.on(Event::Released);
    assert!(matches!(run.machine.state(), State::Ended(Ending::Stopped(Some(ExitStatus::Code(0))))));
}

#[test]
fn an_agent_that_ignores_sigterm_is_killed_after_its_grace() {
    let mut run = Run::running(rules());
    run.on(Event::Stop(StopPurpose::Asked, GRACE));
    let stopped_at = run.now;
    assert_eq!(run.wake(), [Action::Kill]);
    assert_eq!(run.now - stopped_at, GRACE);
    assert_eq!(run.machine.wake_at(), None);
}

#[test]
fn a_second_stop_can_only_hurry() {
    let mut run = Run::running(rules());
    run.on(Event::Stop(StopPurpose::Asked, GRACE));
    assert_eq!(run.on(Event::Stop(StopPurpose::Asked, GRACE * 2)), []);
    assert_eq!(run.machine.wake_at(), Some(run.now + GRACE));
    assert_eq!(run.on(Event::Stop(StopPurpose::Asked, Duration::ZERO)), [Action::Kill]);
}

#[test]
fn a_crash_restarts_in_place_after_a_backoff_and_a_fresh_write() {
    let mut run = Run::running(rules());
    assert_eq!(run.on(Event::Exited(ExitStatus::Signal(9).into())), [Action::Record(Phase::Restarting)]);
    assert_eq!(run.on(Event::Recorded), []);
    assert_eq!(run.wake(), [Action::Record(Phase::Restarting)]);
    assert_eq!(run.on(Event::Recorded), [Action::Queue]);
    assert_eq!(run.on(Event::Turn), [Action::Spawn]);
    run.all([Event::Spawned, Event::Ready, Event::Recorded]);
    assert_eq!((run.machine.restarts(), run.machine.phase()), (1, Phase::Running));
}

/// Word and sentence.
fn said(run: &Run) -> (&str, &str) {
    Condition::parts(run.machine.condition())
}

#[test]
fn what_is_to_be_said_of_an_exit_stands_in_its_condition_and_in_no_later_one() {
    let killed = |explanation: &str| {
        let explanation = explanation.to_owned();
        Event::Exited(Exit { explanation, ..ExitStatus::Signal(9).into() })
    };
    let mut run = Run::running(rules());
    run.on(killed(", which nobody sent"));
    assert_eq!(said(&run), ("ProcessExited", "its process ended with signal 9 (SIGKILL), which nobody sent"));
    run.wake();
    run.all([Event::Recorded, Event::Turn, Event::Spawned]);
    run.on(killed(", once more"));
    let reason = "its start failed: its process ended before it was ready, with signal 9 (SIGKILL), once more";
    assert_eq!(said(&run), ("ExitedBeforeReady", reason));
    run.wake();
    run.all([Event::Recorded, Event::Turn, Event::Spawned, Event::Ready, Event::Recorded]);
    run.on(Event::Exited(ExitStatus::Code(3).into()));
    assert_eq!(said(&run), ("ProcessExited", "its process ended with exit code 3, after 2 restarts"));
}

#[test]
fn the_restart_budget_ends_in_failed_and_health_renews_it() {
    let crash_and_return = |run: &mut Run| {
        run.on(Event::Exited(ExitStatus::Code(1).into()));
        run.wake();
        run.all([Event::Recorded, Event::Turn, Event::Spawned, Event::Ready, Event::Recorded]);
    };
    let mut run = Run::running(rules());
    crash_and_return(&mut run);
    crash_and_return(&mut run);
    assert_eq!(run.on(Event::Exited(ExitStatus::Code(1).into())), [Action::Record(Phase::Failed)]);
    assert_eq!(said(&run), ("ProcessExited", "its process ended with exit code 1, after 2 restarts"));
    run.on(Event::Recorded);
    assert!(matches!(run.machine.state(), State::Ended(Ending::Failed)));

    let mut run = Run::running(rules());
    crash_and_return(&mut run);
    crash_and_return(&mut run);
    run.now += Duration::from_secs(60);
    assert_eq!(run.on(Event::Exited(ExitStatus::Code(1).into())), [Action::Record(Phase::Restarting)]);
    assert_eq!(run.machine.restarts(), 3);
}

#[test]
fn the_restart_mode_is_honoured() {
    let with = |mode| Rules { restart: RestartPolicy { mode, ..RestartPolicy::default() }, ..rules() };
    let restarts = |mode, status: ExitStatus| {
        Run::running(with(mode)).on(Event::Exited(status.into())) == [Action::Record(Phase::Restarting)]
    };
    assert!(!restarts(RestartMode::Never, ExitStatus::Code(1)));
    assert!(!restarts(RestartMode::OnFailure, ExitStatus::Code(0)));
    assert!(restarts(RestartMode::OnFailure, ExitStatus::Signal(9)));
    assert!(restarts(RestartMode::Always, ExitStatus::Code(0)));
}

#[test]
fn a_first_start_that_must_succeed_is_removed_when_it_fails() {
    let failure = init_failure(crate::runtime::Stage::Import);
    let mut run = Run::new(rules());
    run.all([Event::Recorded, Event::Turn, Event::Spawned]);
    assert_eq!(run.on(Event::InitFailed(failure)), [Action::Kill]);
    assert_eq!(run.on(Event::Exited(ExitStatus::Code(1).into())), [Action::Release(Becomes::Gone)]);
    run.on(Event::Released);
    assert!(matches!(run.machine.state(), State::Ended(Ending::StartFailed(StartFailure::Init(_)))));

    let mut run = Run::new(rules());
    run.all([Event::Recorded, Event::Turn, Event::Spawned]);
    assert_eq!(run.wake(), [Action::Kill]);
    assert_eq!(run.on(Event::Exited(ExitStatus::Signal(9).into())), [Action::Release(Becomes::Gone)]);

    let mut run = Run::new(Rules { first_start: FirstStart::FollowsPolicy, ..rules() });
    run.all([Event::Recorded, Event::Turn, Event::Spawned]);
    assert_eq!(run.on(Event::Exited(ExitStatus::Code(3).into())), [Action::Record(Phase::Restarting)]);
}

fn init_failure(stage: crate::runtime::Stage) -> InitFailure {
    InitFailure { stage, error: "no module".to_owned(), traceback: String::new(), field: String::new() }
}

#[test]
fn what_is_wrong_fails_at_once_and_what_may_come_right_is_tried_again() {
    use crate::runtime::Stage;
    let started = || {
        let mut run = Run::new(Rules { first_start: FirstStart::FailsIfWrong, ..rules() });
        run.all([Event::Recorded, Event::Turn, Event::Spawned]);
        run
    };
    for stage in [Stage::Spec, Stage::Import, Stage::ClientType] {
        let mut run = started();
        assert_eq!(run.on(Event::InitFailed(init_failure(stage))), [Action::Kill]);
        assert_eq!(run.on(Event::Exited(ExitStatus::Code(1).into())), [Action::Record(Phase::Failed)]);
        assert!(matches!(run.machine.wrong(), Some(StartFailure::Init(_))), "{stage:?}");
    }
    let mut run = started();
    assert_eq!(run.on(Event::InitFailed(init_failure(Stage::Initialize))), [Action::Kill]);
    assert_eq!(run.on(Event::Exited(ExitStatus::Code(1).into())), [Action::Record(Phase::Restarting)]);
    assert_eq!(started().on(Event::Exited(ExitStatus::Code(3).into())), [Action::Record(Phase::Restarting)]);
    // Its class could be imported once: an image that lacks it may be replaced by one that has it.
    let mut run = Run::running(Rules { first_start: FirstStart::FailsIfWrong, ..rules() });
    assert_eq!(run.on(Event::Exited(ExitStatus::Code(3).into())), [Action::Record(Phase::Restarting)]);
}

#[test]
fn a_first_start_whose_caller_has_gone_fails_at_once_unless_the_host_is_to_blame() {
    let mut run = Run::new(Rules { first_start: FirstStart::FailsAtOnce, ..rules() });
    run.all([Event::Recorded, Event::Turn, Event::Spawned]);
    assert_eq!(run.on(Event::Exited(ExitStatus::Code(3).into())), [Action::Record(Phase::Failed)]);
    let (reason, message) = said(&run);
    assert!(reason == "ExitedBeforeReady" && message.starts_with("its first start failed: "), "{reason}: {message}");

    // It got no turn: the host starts too many.
    let mut run = Run::new(Rules { first_start: FirstStart::FailsAtOnce, ..rules() });
    run.on(Event::Recorded);
    assert_eq!(run.wake(), [Action::Record(Phase::Restarting)]);

    // It was ready once.
    let mut run = Run::running(Rules { first_start: FirstStart::FailsAtOnce, ..rules() });
    assert_eq!(run.on(Event::Exited(ExitStatus::Code(3).into())), [Action::Record(Phase::Restarting)]);
}

#[test]
fn an_agent_that_is_restored_to_a_lost_store_after_a_lost_lease_starts_by_a_new_claim_only() {
    let mut run = Run::running(rules());
    // It crashed, and the store has not answered yet, when both are lost.
    assert_eq!(run.on(Event::Exited(ExitStatus::Code(1).into())), [Action::Record(Phase::Restarting)]);
    run.all([Event::Fence, Event::LeaseBack]);
    assert_eq!(run.on(Event::Restored), []);
    assert!(run.machine.is_fenced(), "the store cannot know whether the claim was given away");
    assert_eq!(run.wake(), [Action::Record(Phase::Restarting)]);
    assert_eq!(run.on(Event::Restored), [Action::Release(Becomes::Pending(Moving::GivenAway))]);
    run.on(Event::Released);
    assert!(matches!(run.machine.state(), State::Ended(Ending::Moved(_))));
}

#[test]
fn a_lost_lease_kills_and_its_return_starts_again() {
    let mut run = Run::running(rules());
    assert_eq!(run.on(Event::Fence), [Action::Kill]);
    assert_eq!(run.on(Event::Exited(ExitStatus::Signal(9).into())), []);
    assert!(matches!(run.machine.state(), State::Unleased));
    assert_eq!(run.on(Event::LeaseBack), [Action::Record(Phase::Restarting)]);
    assert_eq!(run.on(Event::Recorded), [Action::Queue]);
    assert_eq!(run.on(Event::Turn), [Action::Spawn]);

    let mut keep = Run::running(Rules { on_disconnect: OnDisconnect::Keep, ..rules() });
    assert_eq!(keep.on(Event::Fence), []);
    assert_eq!(keep.machine.phase(), Phase::Running);
}

#[test]
fn a_stop_while_a_process_is_being_made_waits_for_it_and_ends_it() {
    let mut run = Run::new(rules());
    run.all([Event::Recorded, Event::Turn]);
    assert_eq!(run.on(Event::Stop(StopPurpose::Asked, GRACE)), []);
    assert_eq!(run.on(Event::Spawned), [Action::Record(Phase::Stopping), Action::Terminate]);
}

#[test]
fn a_first_start_that_nobody_waits_for_leaves_the_queue() {
    let gone =
        |run: &Run| matches!(run.machine.state(), State::Releasing(Ending::StartFailed(StartFailure::Abandoned)));
    let mut run = Run::new(rules());
    run.on(Event::Recorded);
    assert_eq!(run.on(Event::Awaited(false)), [Action::Release(Becomes::Gone)]);
    assert!(gone(&run));

    let mut early = Run::new(rules());
    assert_eq!(early.on(Event::Awaited(false)), [], "the store is still asked");
    assert_eq!(early.on(Event::Recorded), [Action::Release(Becomes::Gone)]);
    assert!(gone(&early));

    let mut again = Run::new(rules());
    assert_eq!(again.all([Event::Awaited(false), Event::Awaited(true), Event::Recorded]), [Action::Queue]);

    let mut begun = Run::new(rules());
    begun.all([Event::Recorded, Event::Turn]);
    assert_eq!(begun.on(Event::Awaited(false)), [], "a start that has begun goes on");

    let mut run = Run::running(rules());
    run.on(Event::Exited(ExitStatus::Code(1).into()));
    run.wake();
    assert_eq!(run.on(Event::Awaited(false)), []);
    assert_eq!(run.on(Event::Recorded), [Action::Queue], "an agent that ran is restarted for its own sake");
}

#[test]
fn a_queued_start_heeds_its_deadline_the_lease_and_a_stop() {
    let queued = || {
        let mut run = Run::new(rules());
        run.on(Event::Recorded);
        run
    };
    assert_eq!(queued().wake(), [Action::Release(Becomes::Gone)]);
    assert_eq!(queued().on(Event::Stop(StopPurpose::Asked, GRACE)), [Action::Release(Becomes::Gone)]);
    let mut fenced = queued();
    assert_eq!(fenced.on(Event::Fence), []);
    assert_eq!(fenced.on(Event::Turn), [], "no start without a lease");
    assert_eq!(fenced.on(Event::LeaseBack), [Action::Record(Phase::Restarting)]);
}

#[test]
fn a_lost_claim_ends_the_process_and_leaves_the_record_alone() {
    let mut run = Run::running(rules());
    assert_eq!(run.on(Event::Lost), [Action::Kill]);
    assert_eq!(run.on(Event::Exited(ExitStatus::Signal(9).into())), []);
    assert!(matches!(run.machine.state(), State::Ended(Ending::Superseded)));
}

#[test]
fn a_host_that_ends_leaves_its_agents_to_others() {
    let mut run = Run::running(rules());
    assert_eq!(run.on(Event::Stop(StopPurpose::Moves(Moving::GivenAway), GRACE)), [Action::Terminate]);
    assert_eq!(
        run.on(Event::Exited(ExitStatus::Code(0).into())),
        [Action::Release(Becomes::Pending(Moving::GivenAway))]
    );
    run.on(Event::Released);
    assert!(matches!(run.machine.state(), State::Ended(Ending::Moved(_))));
}

/// An end over a message.
fn over(message_id: u64) -> Exit {
    let at_work = Some(Delivery { topic: "g:t".to_owned(), message_id });
    Exit { at_work, ..ExitStatus::Code(1).into() }
}

/// From the end of a process to the next one being ready.
fn come_back(run: &mut Run) {
    run.wake();
    run.all([Event::Recorded, Event::Turn, Event::Spawned, Event::Ready, Event::Recorded]);
}

#[test]
fn a_message_that_kills_is_skipped_by_the_start_after_the_third_death() {
    let restart = RestartPolicy::default();
    let mut run = Run::running(Rules { restart, ..rules() });
    for deaths in 1..=3 {
        assert_eq!(run.on(Event::Exited(over(7))), [Action::Record(Phase::Restarting)]);
        assert_eq!(run.machine.skips().len(), usize::from(deaths == 3));
        come_back(&mut run);
    }
    assert_eq!(said(&run), ("", ""), "the agent has not said so yet");
    let aside = over(7).at_work.expect("a message");
    assert_eq!(run.on(Event::SetAside(aside.clone())), [Action::Record(Phase::Running)]);
    let reason = "message 7 of topic t was set aside after 3 deaths: its process ended with exit code 1, at work on \
                  message 7 of topic t";
    assert_eq!(said(&run), ("MessagesSetAside", reason));
    assert_eq!(run.on(Event::SetAside(aside)), [], "recorded once");
    run.on(Event::Recorded);
    assert_eq!(run.machine.phase(), Phase::Running);
}

#[test]
fn only_deaths_of_its_own_count_against_a_message() {
    let mut stopped = Run::running(rules());
    stopped.on(Event::Stop(StopPurpose::Moves(Moving::GivenAway), GRACE));
    stopped.on(Event::Exited(over(7)));
    let mut fenced = Run::running(rules());
    fenced.all([Event::Fence, Event::Exited(over(7))]);
    for run in [stopped, fenced] {
        let mut poison = run.machine.poison().clone();
        let message = over(7).at_work.expect("a message");
        poison.died_over(&message, "");
        poison.died_over(&message, "");
        assert!(poison.skips().is_empty(), "two deaths, and not three");
    }
}

#[test]
fn a_first_start_that_a_message_kills_follows_the_policy_as_long_as_it_restarts() {
    let mut run = Run::new(rules());
    run.all([Event::Recorded, Event::Turn, Event::Spawned]);
    assert_eq!(run.on(Event::Exited(over(7))), [Action::Record(Phase::Restarting)]);
    for _ in 0..2 {
        run.wake();
        run.all([Event::Recorded, Event::Turn, Event::Spawned]);
        run.on(Event::Exited(over(7)));
    }
    let failed =
        |run: &Run| matches!(run.machine.state(), State::Releasing(Ending::StartFailed(StartFailure::Exited(_))));
    assert!(failed(&run), "after two restarts the policy has no more");

    let never = RestartPolicy { mode: RestartMode::Never, ..RestartPolicy::default() };
    let mut run = Run::new(Rules { restart: never, ..rules() });
    run.all([Event::Recorded, Event::Turn, Event::Spawned]);
    assert_eq!(run.on(Event::Exited(over(7))), [Action::Release(Becomes::Gone)]);
    assert!(failed(&run));
}

#[test]
fn an_agent_that_hangs_is_killed_and_restarted_and_its_message_counted() {
    let mut run = Run::running(Rules { restart: RestartPolicy::default(), ..rules() });
    for deaths in 1..=3 {
        assert_eq!(run.on(Event::Kill(AgentReason::LivenessTimeout, "it hangs".to_owned())), [Action::Kill]);
        let killed = Exit { status: ExitStatus::Signal(9), ..over(7) };
        assert_eq!(run.on(Event::Exited(killed)), [Action::Record(Phase::Restarting)]);
        assert_eq!(said(&run), ("LivenessTimeout", "it hangs"));
        assert_eq!(run.machine.skips().len(), usize::from(deaths == 3));
        come_back(&mut run);
    }
    run.on(Event::Kill(AgentReason::LivenessTimeout, "it hangs".to_owned()));
    run.on(Event::Stop(StopPurpose::Asked, GRACE));
    assert_eq!(run.on(Event::Exited(over(7))), [Action::Release(Becomes::Gone)], "stop wins");
}

fn event() -> impl Strategy<Value = Event> {
    let failure = InitFailure {
        stage: crate::runtime::Stage::Initialize,
        error: "boom".to_owned(),
        traceback: String::new(),
        field: String::new(),
    };
    let error = Arc::new(StartError::Pipe(std::io::Error::other("no")));
    prop::sample::select(vec![
        Event::Recorded,
        Event::Restored,
        Event::Lost,
        Event::Released,
        Event::Turn,
        Event::Awaited(false),
        Event::Awaited(true),
        Event::Spawned,
        Event::SpawnFailed(error),
        Event::Ready,
        Event::InitFailed(failure),
        Event::Exited(ExitStatus::Code(1).into()),
        Event::Exited(ExitStatus::Code(0).into()),
        Event::Exited(over(1)),
        Event::Exited(over(2)),
        Event::SetAside(over(1).at_work.expect("a message")),
        Event::Kill(AgentReason::LivenessTimeout, "it hangs".to_owned()),
        Event::Stop(StopPurpose::Asked, GRACE),
        Event::Stop(StopPurpose::Asked, Duration::ZERO),
        Event::Stop(StopPurpose::Moves(Moving::GivenAway), GRACE),
        Event::Timer,
        Event::Fence,
        Event::LeaseBack,
    ])
}

/// What the task would know: it only passes on events that can happen.
#[derive(Default)]
struct World {
    process: bool,
    queued: bool,
    spawning: bool,
    writing: bool,
    acknowledged: bool,
    asked_to_stop: bool,
}

impl World {
    fn can_happen(&self, event: &Event, machine: &Machine) -> bool {
        match event {
            Event::Recorded | Event::Restored | Event::Lost | Event::Released => self.writing,
            Event::Turn => self.queued,
            Event::Spawned | Event::SpawnFailed(_) => self.spawning,
            Event::Ready | Event::InitFailed(_) | Event::Exited(_) | Event::Kill(..) | Event::SetAside(_) => {
                self.process
            }
            Event::Timer => machine.wake_at().is_some(),
            Event::Stop(..) | Event::Fence | Event::LeaseBack | Event::Awaited(_) => true,
        }
    }
}

proptest! {
    #[test]
    fn no_events_in_any_order_break_the_rules(events in prop::collection::vec(event(), 0..200), chance in 0.0..1.0) {
        let (mut machine, first) = Machine::new(rules(), Poison::new(3));
        let mut world = World { writing: !first.is_empty(), ..World::default() };
        let mut releasing = false;
        let mut now = Instant::now();
        for event in events {
            let wrong_answer = matches!(event, Event::Released) != releasing && matches!(event, Event::Released | Event::Recorded | Event::Restored);
            if !world.can_happen(&event, &machine) || wrong_answer {
                continue;
            }
            match &event {
                Event::Recorded | Event::Restored => { world.writing = false; world.acknowledged = true; }
                Event::Lost | Event::Released => world.writing = false,
                Event::Turn => world.queued = false,
                Event::Spawned => { world.spawning = false; world.process = true; }
                Event::SpawnFailed(_) => world.spawning = false,
                Event::Exited(_) => { world.process = false; world.acknowledged = false; }
                Event::Stop(StopPurpose::Asked, _) => world.asked_to_stop |= !matches!(machine.state(), State::Ended(_)),
                Event::Timer => now = machine.wake_at().unwrap_or(now),
                _ => {}
            }
            let ended_before = matches!(machine.state(), State::Ended(_));
            let actions = machine.on(event.clone(), now, chance);
            for action in &actions {
                match action {
                    Action::Queue => {
                        prop_assert!(!world.process && !world.spawning, "queued while alive");
                        world.queued = true;
                    }
                    Action::Spawn => {
                        prop_assert!(!world.process && !world.spawning, "two processes after {event:?}");
                        prop_assert!(world.acknowledged, "spawned without the store's word");
                        prop_assert!(!world.asked_to_stop, "started after a stop");
                        world.spawning = true;
                    }
                    Action::Record(_) => { world.writing = true; releasing = false; }
                    Action::Release(_) => {
                        prop_assert!(!world.process && !world.spawning, "released while alive");
                        world.writing = true;
                        releasing = true;
                    }
                    Action::Terminate | Action::Kill => prop_assert!(world.process, "signal without a process"),
                }
            }
            // Whoever left the queue has no turn any more.
            world.queued &= matches!(machine.state(), State::Queued { .. });
            if let State::Ended(_) = machine.state() {
                prop_assert!(!world.process && !world.spawning, "ended with a process");
                prop_assert!(!ended_before || actions.is_empty(), "acted after the end");
            } else {
                let owned = world.writing || world.queued || world.spawning || world.process || machine.wake_at().is_some();
                prop_assert!(owned || matches!(machine.state(), State::Unleased), "stuck in {:?}", machine.state());
            }
        }
    }
}
