//! The protocol of leases, claims and takeover, explored exhaustively within bounds.
//!
//! *Modelled*: hosts that announce themselves, renew, count from before the sending, and kill when the lease is over
//! or was taken; questions and answers that take time, are lost, or arrive when nobody waits any more; engines that
//! watch renewals, retire by compare-and-set, take over, place, call, bring what they saw to another life of the
//! store, and settle it; a second process with a host's name, with and without proof that the first one ended; a
//! store that is wiped or comes back with an earlier state, each time with a clock that was set back, so that epochs
//! begin anew; a stop, and claims that come after it. Hosts', engines' and agents' crashes.
//!
//! *Clocks*: everybody counts the ticks since something happened to him, hosts by the slowest clock that is allowed
//! and engines by the fastest; a host whose clock is not slow is a step of its own. The store's clock may show
//! anything at any time: it has no state here, and a protocol that reads it ([`Mutation::WallClock`]) is found out.
//! Numbers of leases and renewals count by equality alone, so that time has no bound: every world is explored to its
//! end, 140,000 to 2,900,000 states each.
//!
//! *Not modelled*: room, several agents, restarts after crashes beyond one, FAILED and copies of records that no host
//! runs (`remember`), draining, an observer that was blind for a while (it only waits longer), processes that were
//! frozen together with their watchdog. Who does not act is frozen. The host's write and the store's answer to it are
//! one step, but for leases.
//!
//! *Sizes*: one agent; one host whose messages take time and another whose messages do not, or two processes of one
//! name; two engines where leases end, else one, and steps that any engine may do; margin, grace and the bound of the
//! clocks one tick each, a lease two ticks; two or three epochs, one crash, one loss.
//! Epochs are held to grow over a loss only where some engine has seen the latest claim: the clock from which they
//! begin may have been set back, and nobody else knows.
//!
//! *Quiet world*: from every state that is reached, faults end, everybody acts in turns, and the agent must run, or
//! be gone.

mod engine;
mod host;
mod protocol;
mod quiet;
mod state;
mod store;

use protocol::{Begin, Mutation, Protocol, Step, World};
use state::{Record, State, Wish};
use stateright::{Checker as _, HasDiscoveries, Model, Property};

const NEVER_TWO: &str = "P1: never two processes of one agent";
const EPOCHS_GROW: &str = "epochs never go back";
const STOP_MEANS_STOPPED: &str = "P3: what was stopped stays so";
const NEVER_STUCK: &str = "P2, P4: once faults end, every agent runs, or is gone if it was stopped";
const NEVER_TAKEN: &str = "an agent that outlives its lease is not taken while its host lives";
const TAKEN_OVER: &str = "an agent was taken over";
const GIVEN_BACK: &str = "a returning host got its agent back";
const RESTORED: &str = "a lost store was restored";

impl Model for Protocol {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![self.initial()]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        self.possible(state, steps);
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut next = last.clone();
        self.take(&mut next, step);
        self.normalise(&mut next);
        (next != *last).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(NEVER_TWO, |_, s: &State| s.live() <= 1),
            Property::always(EPOCHS_GROW, |model: &Protocol, s: &State| !s.epoch_went_back || !model.world.seen),
            Property::always(STOP_MEANS_STOPPED, |_, s: &State| {
                s.wish != Wish::Stopped
                    || (s.live() == 0 && (s.store.settling.is_some() || s.store.record == Record::Nothing))
            }),
            Property::always(NEVER_STUCK, |model: &Protocol, s: &State| model.recovers(s)),
            Property::always(NEVER_TAKEN, |_, s: &State| !s.taken_while_alive),
            Property::sometimes(TAKEN_OVER, |_, s: &State| s.was_taken_over()),
            Property::sometimes(GIVEN_BACK, |_, s: &State| s.was_given_back()),
            Property::sometimes(RESTORED, |_, s: &State| s.was_restored()),
        ]
    }
}

const LEASES: World = World {
    begin: Begin::Nothing,
    saved_first: false,
    ttl: 2,
    losses: true,
    seen: false,
    prompt: [false, true, false],
    names: [0, 1, 0],
    up: 2,
    slots: 2,
    engines: 1,
    keep: false,
    epochs: 3,
    calls: 1,
    crashes: 0,
    wipes: 0,
    rollbacks: 0,
    strays: false,
    stops: false,
};

/// A host's name has one process after another.
const SUCCESSION: World =
    World { names: [0, 0, 0], up: 1, prompt: [false, true, true], crashes: 1, epochs: 2, ..LEASES };

const WIPED: World = World { begin: Begin::Runs, prompt: [true; 3], epochs: 2, wipes: 1, ..LEASES };

const ROLLED_BACK: World = World { begin: Begin::Runs, saved_first: true, prompt: [true; 3], rollbacks: 1, ..LEASES };

const STOPPED: World =
    World { names: [0, 0, 0], up: 1, slots: 1, prompt: [true; 3], rollbacks: 1, epochs: 2, stops: true, ..LEASES };

/// Looks at every state within the bounds, or until a promise is broken.
fn explore(world: World, many: usize, happens: &[&'static str]) {
    let checker = Protocol { world, mutation: Mutation::None }.checker().threads(2);
    let checker = checker.finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let states = checker.unique_state_count();
    eprintln!("{states} states, {} steps deep: {world:?}", checker.max_depth());
    for promise in [NEVER_TWO, EPOCHS_GROW, STOP_MEANS_STOPPED, NEVER_STUCK, NEVER_TAKEN] {
        checker.assert_no_discovery(promise);
    }
    for what in happens {
        assert!(checker.discovery(what).is_some(), "the bounds leave no room: {what}");
    }
    assert!(states > many, "{states} states: the bounds say nothing");
}

/// Whether a checker finds that `promise` is broken. One that finds nothing when the protocol is broken would prove nothing.
fn breaks(promise: &'static str, mutation: Mutation, world: World) -> bool {
    let checker = Protocol { world, mutation }.checker().threads(2);
    let checker = checker.finish_when(HasDiscoveries::AnyOf([promise].into())).spawn_bfs().join();
    eprintln!("{mutation:?}: {} states", checker.unique_state_count());
    checker.discovery(promise).is_some()
}

/// From a claim on, to be found sooner.
const CLAIMED: World = World { begin: Begin::Claimed, ..LEASES };

#[test]
fn with_leases_that_end_all_promises_hold() {
    explore(World { engines: 2, ..CLAIMED }, 100_000, &[TAKEN_OVER]);
}

#[test]
fn with_questions_that_arrive_when_nobody_waits_any_more_all_promises_hold() {
    explore(World { strays: true, losses: false, ..SUCCESSION }, 100_000, &[GIVEN_BACK]);
}

#[test]
fn with_agents_that_outlive_leases_none_is_taken_from_a_host_that_lives() {
    explore(World { keep: true, ..LEASES }, 50_000, &[]);
}

#[test]
fn with_one_process_of_a_host_after_another_all_promises_hold() {
    explore(SUCCESSION, 100_000, &[GIVEN_BACK]);
}

#[test]
fn with_a_store_that_is_wiped_all_promises_hold() {
    explore(WIPED, 100_000, &[TAKEN_OVER, RESTORED]);
}

#[test]
fn with_engines_that_saw_every_claim_epochs_grow_though_the_store_is_wiped() {
    explore(World { seen: true, ..WIPED }, 100_000, &[TAKEN_OVER, RESTORED]);
}

/// Nobody may be left who has seen the latest claims.
#[test]
fn with_a_store_that_is_wiped_and_a_crash_all_promises_hold() {
    explore(World { crashes: 1, ..WIPED }, 100_000, &[RESTORED]);
}

#[test]
fn with_a_store_that_forgets_a_claim_all_promises_hold() {
    explore(World { begin: Begin::Claimed, ..ROLLED_BACK }, 100_000, &[TAKEN_OVER, RESTORED]);
}

#[test]
fn with_a_store_that_forgets_the_end_of_an_agent_all_promises_hold() {
    explore(ROLLED_BACK, 100_000, &[TAKEN_OVER, RESTORED]);
}

#[test]
fn with_stops_that_a_store_forgets_all_promises_hold() {
    explore(STOPPED, 50_000, &[RESTORED]);
}

macro_rules! mutants {
    ($($name:ident: $mutation:ident breaks $promise:ident in $world:expr;)*) => {
        $(#[test]
        fn $name() {
            assert!(breaks($promise, Mutation::$mutation, $world));
        })*
    };
}

mutants! {
    without_the_fence_two_processes_are_found: NoFence breaks NEVER_TWO in CLAIMED;
    without_the_margin_a_slow_clock_makes_two_processes: NoMargin breaks NEVER_TWO in CLAIMED;
    a_host_that_counts_from_the_answer_makes_two_processes: CountsFromAnswer breaks NEVER_TWO in CLAIMED;
    a_retired_host_that_does_not_kill_leaves_two_processes_for_ever: RetiredGoesOn breaks NEVER_STUCK in CLAIMED;
    without_observation_two_processes_are_found: NoObservation breaks NEVER_TWO in CLAIMED;
    without_the_comparison_of_renewals_two_processes_are_found: NoComparison breaks NEVER_TWO in CLAIMED;
    by_a_wall_clock_two_processes_are_found: WallClock breaks NEVER_TWO in CLAIMED;
    without_an_end_in_one_step_two_processes_are_found: NotAtomic breaks NEVER_TWO in CLAIMED;
    without_the_comparison_of_epochs_two_processes_are_found: NoEpochs breaks NEVER_TWO in CLAIMED;
    without_a_second_call_an_agent_is_found_that_never_runs: NoSecondCall breaks NEVER_STUCK in CLAIMED;
    an_observation_of_another_life_of_the_store_makes_two_processes:
        CarriesOver breaks NEVER_TWO in ROLLED_BACK;
    without_settling_two_processes_are_found: NoSettling breaks NEVER_TWO in WIPED;
    without_bringing_and_watching_two_processes_are_found: NoBringNorWatching breaks NEVER_TWO in WIPED;
    without_watching_a_new_store_two_processes_are_found:
        NewSettlesAtOnce breaks NEVER_TWO in World { crashes: 1, ..WIPED };
    without_waiting_for_hosts_that_report_two_processes_are_found:
        NoAwait breaks NEVER_TWO in WIPED;
    with_trust_in_what_was_reported_of_a_killed_agent_two_processes_are_found:
        TrustsItsReport breaks NEVER_TWO in ROLLED_BACK;
    a_claim_that_comes_late_undoes_a_stop: TakesLateClaims breaks STOP_MEANS_STOPPED in STOPPED;
    a_stop_that_is_brought_and_ends_nothing_is_undone: BringsNoStops breaks STOP_MEANS_STOPPED in STOPPED;
    a_call_of_another_life_of_the_store_makes_two_processes:
        CallsOfAnyLife breaks NEVER_TWO in World { begin: Begin::Claimed, calls: 2, ..ROLLED_BACK };
    a_late_host_that_displaces_a_claim_leaves_a_process_without_a_record:
        LateReportDisplaces breaks NEVER_STUCK in World { begin: Begin::Claimed, epochs: 3, ..WIPED };
}
