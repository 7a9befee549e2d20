//! What becomes of a program when one of its tasks fails.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use rustic_registry::Registry as _;
use rustic_tests::{Stack, program::Program};

#[tokio::test]
async fn a_host_one_of_whose_tasks_panics_ends_in_order_and_says_which() {
    let stack = Stack::of(0).await;
    let mut arguments = stack.host_arguments(0);
    // Nothing refuses this setting, and no timer has such a period: the task that looks at memory panics.
    arguments.extend(["--usage-every", "0s"].map(str::to_owned));
    let mut host = Program::start("agent-host", &arguments);
    assert_eq!(host.ended().await.code(), Some(1), "{}", host.text());
    let log = host.log();
    let failure =
        log.iter().find(|line| line["task"] == "the look at memory").unwrap_or_else(|| panic!("{}", host.text()));
    assert!(failure["cause"].as_str().unwrap().starts_with("panicked: "), "{failure}");
    // Its other tasks have taken their last steps: it has left the registry, or never was in it.
    assert_eq!(stack.registry().hosts().await.unwrap().hosts, []);
}
