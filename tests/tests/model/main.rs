//! The protocol of claims, leases and takeover, explored exhaustively within bounds: P1 always, P2 eventually.
//!
//! The model is small on purpose: it holds what the promises rest on, and nothing of how it is carried out. It leaves to
//! chance when anybody acts, which messages are lost or late, and who crashes; a host that does not act is a frozen one.

mod loss;
mod protocol;
mod settle;
mod state;

use protocol::{Bounds, Mutation, Protocol, Step};
use state::State;
use stateright::{Checker as _, HasDiscoveries, Model, Property};

const NEVER_TWO: &str = "P1: never two processes of one agent";
const TOLD_AGAIN: &str = "a lost store was told again";
const NEVER_NONE: &str = "P2: every agent runs in the end, once faults stop";

impl Model for Protocol {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State::new()]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        self.possible(state, steps);
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut next = last.clone();
        self.take(&mut next, step);
        (next != *last).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(NEVER_TWO, |_, state: &State| state.at_most_one_process()),
            // Faults may stop in any state, and every path that ends, ends some time after that.
            Property::eventually(NEVER_NONE, |model: &Protocol, state: &State| {
                state.is_calm() && model.all_run(state)
            }),
            // The bounds leave room for what the promises are about.
            Property::sometimes("an agent was taken over", |_, state: &State| state.was_taken_over()),
            Property::sometimes("a returning host got its agent back", |_, state: &State| state.was_given_back()),
        ];
        if self.bounds.wipes > 0 {
            properties.push(Property::sometimes(TOLD_AGAIN, |_, state: &State| state.was_told_again()));
        }
        properties
    }
}

/// Fewer states than these, and the bounds say nothing.
const MANY: usize = 1_000_000;

/// Looks at every state within the bounds, or until a promise is broken.
fn explore(agents: usize, bounds: Bounds) -> impl stateright::Checker<Protocol> {
    let checker = Protocol { agents, bounds, mutation: Mutation::None }.checker().threads(2);
    checker.finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join()
}

/// Whether a checker finds that `promise` is broken. One that finds nothing when the protocol is broken would prove nothing.
fn breaks(promise: &'static str, mutation: Mutation) -> bool {
    let bounds = Bounds { time: 7, crashes: 0, messages: 2, wipes: 0 };
    breaks_within(promise, mutation, bounds)
}

fn breaks_within(promise: &'static str, mutation: Mutation, bounds: Bounds) -> bool {
    let checker = Protocol { agents: 1, bounds, mutation }.checker().threads(2);
    let checker = checker.finish_when(HasDiscoveries::AnyOf([promise].into())).spawn_bfs().join();
    checker.discovery(promise).is_some()
}

#[test]
fn one_agent_is_never_two_and_never_none() {
    let checker = explore(1, Bounds { time: 6, crashes: 1, messages: 1, wipes: 0 });
    checker.assert_properties();
    assert!(checker.unique_state_count() > MANY, "{} states", checker.unique_state_count());
}

#[test]
fn two_agents_are_never_two_and_never_none() {
    let checker = explore(2, Bounds { time: 4, crashes: 0, messages: 1, wipes: 0 });
    checker.assert_no_discovery(NEVER_TWO);
    checker.assert_no_discovery(NEVER_NONE);
    assert!(checker.unique_state_count() > MANY, "{} states", checker.unique_state_count());
}

#[test]
fn without_the_fence_two_processes_are_found() {
    assert!(breaks(NEVER_TWO, Mutation::NoFence));
}

#[test]
fn without_the_margin_a_slow_clock_makes_two_processes() {
    assert!(breaks(NEVER_TWO, Mutation::NoMargin));
}

#[test]
fn without_the_comparison_of_epochs_two_processes_are_found() {
    assert!(breaks(NEVER_TWO, Mutation::NoEpochs));
}

#[test]
fn without_a_second_call_an_agent_is_found_that_never_runs() {
    assert!(breaks(NEVER_NONE, Mutation::NoSecondCall));
}

/// Wide enough for a lease that ends, a takeover, and a store that is lost and told again.
const LOSS: Bounds = Bounds { time: 5, crashes: 0, messages: 1, wipes: 1 };

#[test]
fn with_a_store_that_is_lost_one_agent_is_never_two_and_never_none() {
    let checker = explore(1, LOSS);
    checker.assert_no_discovery(NEVER_TWO);
    checker.assert_no_discovery(NEVER_NONE);
    assert!(checker.discovery(TOLD_AGAIN).is_some());
    assert!(checker.unique_state_count() > MANY, "{} states", checker.unique_state_count());
}

#[test]
fn without_a_hold_after_a_loss_two_processes_are_found() {
    assert!(breaks_within(NEVER_TWO, Mutation::NoHold, LOSS));
}

#[test]
fn without_waiting_for_hosts_that_come_late_two_processes_are_found() {
    assert!(breaks_within(NEVER_TWO, Mutation::NoAwait, LOSS));
}

#[test]
fn with_trust_in_what_was_told_of_a_killed_agent_two_processes_are_found() {
    assert!(breaks_within(NEVER_TWO, Mutation::TrustsWhatItTold, LOSS));
}
