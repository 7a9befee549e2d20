//! Whatever an agent writes, nobody waits for it and memory stays bounded.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use rustic_tests::{Stack, launches::script, processes::resident_bytes};

fn says(text: &'static str) -> impl Fn(&serde_json::Value) -> bool {
    move |line| line["message"] == text
}

#[tokio::test]
async fn a_line_far_longer_than_the_memory_allowed_and_binary_output_block_nothing() {
    let stack = Stack::start().await;
    let host = &stack.hosts[0];
    let before = resident_bytes(host.pid());
    let flood = "head -c 300000000 /dev/zero | tr '\\0' x; head -c 1000000 /dev/urandom; echo; sleep 1; echo all written; exec sleep 1000";
    stack.create(script("g", "flood", flood)).await.unwrap();
    let last = host.logged("the line after the flood", says("all written")).await;
    assert_eq!((&last["agent_id"], &last["stream"]), (&"flood".into(), &"stdout".into()));
    let pieces: Vec<_> = host.log().into_iter().filter(|l| l["partial"] == true).collect();
    assert!(pieces.len() > 100, "{} pieces", pieces.len());
    assert!(pieces.iter().all(|l| l["message"].as_str().unwrap().len() <= 3 * 8 * 1024));
    let grown = resident_bytes(host.pid()).saturating_sub(before);
    assert!(grown < 64 << 20, "the host grew by {grown} bytes");
    stack.create(script("g", "quiet", "echo still here; exec sleep 1000")).await.unwrap();
    host.logged("another agent's line", says("still here")).await;
    stack.stop("g", "flood").await.unwrap();
}

#[tokio::test]
async fn an_endless_flood_is_cut_to_its_budget_and_the_rest_is_counted() {
    let stack = Stack::start().await;
    let host = &stack.hosts[0];
    stack.create(script("g", "flood", "exec yes a flood of words")).await.unwrap();
    stack.create(script("g", "quiet", "echo still here; exec sleep 1000")).await.unwrap();
    host.logged("another agent's line", says("still here")).await;
    host.logged("the count of what was left out", says("output over the limit left out")).await;
    stack.stop("g", "flood").await.unwrap();
    stack.stop("g", "quiet").await.unwrap();
    stack.assert_nothing_left().await;
}

#[tokio::test]
async fn a_line_that_does_not_end_is_shown_and_goes_on_when_the_rest_comes() {
    let stack = Stack::start().await;
    let host = &stack.hosts[0];
    let asks = "printf 'name? '; until [ -e $GATE ]; do sleep 0.05; done; echo Bob; exec sleep 1000";
    let dir = tempfile::tempdir().unwrap();
    let mut launch = script("g", "asks", asks);
    launch.environment.insert("GATE".to_owned(), format!("{}/open", dir.path().display()));
    stack.create(launch).await.unwrap();
    let asked = host.logged("the question", says("name? ")).await;
    assert_eq!((&asked["partial"], &asked["continues"]), (&true.into(), &false.into()));
    std::fs::write(dir.path().join("open"), "").unwrap();
    let answered = host.logged("the answer", says("Bob")).await;
    assert_eq!((&answered["partial"], &answered["continues"]), (&false.into(), &true.into()));
    stack.stop("g", "asks").await.unwrap();
}

#[tokio::test]
async fn the_frames_of_a_progress_bar_are_lines_while_it_is_drawn() {
    let stack = Stack::start().await;
    let host = &stack.hosts[0];
    let bar = "printf '10%%\\r20%%\\r\\n30%%\\r'; exec sleep 1000";
    stack.create(script("g", "bar", bar)).await.unwrap();
    host.logged("the last frame", says("30%")).await;
    let log = host.log();
    let lines: Vec<_> = log.iter().filter(|line| line["agent_id"] == "bar" && line["stream"] == "stdout").collect();
    let texts: Vec<_> = lines.iter().map(|line| line["message"].as_str().unwrap()).collect();
    assert_eq!(texts, ["10%", "20%", "30%"]);
    assert!(lines.iter().all(|line| line["partial"] == false), "{lines:?}");
    stack.stop("g", "bar").await.unwrap();
}
