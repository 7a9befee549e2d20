//! What every registry must do with GPUs: which an agent is given, and when they are free again. Which of them is the best is
//! told by `core/src/devices.rs`; `twins.rs` and `lines.rs` compare the stores.

use crate::requests::*;
use rustic_registry::{
    AgentReason, Announce, AssignOutcome, Claim, ClaimOutcome, Epoch, Phase, ReleaseGuard, Resources, Restore, View,
    devices::{Device, GPU_MEMORY, GPUS},
};

promises!(
    agents_are_given_shares_that_pack_and_whole_devices_that_are_whole,
    devices_that_others_hold_are_waited_for,
    what_ends_frees_its_devices,
    a_host_that_comes_back_gives_the_same_devices_and_one_that_lost_some_gives_those_agents_away,
    an_agent_that_is_restored_has_the_devices_that_it_had,
);

/// A host with these devices, each of 24 GB.
fn with_devices(id: &str, incarnation: &str, devices: &[&str]) -> Announce {
    let mut capacity = Resources::default();
    capacity.set("slots", 100.0).unwrap();
    let device = |id: &&str| Device { id: (*id).to_owned(), share: 1.0, memory: 24e9 };
    capacity.add_devices(&devices.iter().map(device).collect::<Vec<_>>());
    Announce { capacity, ..announce(id, incarnation, 0.0) }
}

fn asking(agent: &str, gpus: f64, memory: f64) -> Claim {
    let mut demand = Resources::one_slot();
    demand.set(GPUS, gpus).unwrap();
    demand.set(GPU_MEMORY, memory).unwrap();
    Claim { demand, ..claim(&key("g", agent), "r", "d", &["h-0"]) }
}

fn named(takes: &Resources) -> Vec<(String, f64)> {
    takes.devices().map(|device| (device.id, device.share)).collect()
}

/// The devices that an agent is given; `None`: there is no room.
async fn given(store: &Store, request: &Claim) -> Option<Vec<(String, f64)>> {
    match store.claim(request).await.unwrap() {
        ClaimOutcome::Claimed(claimed) => Some(named(&claimed.takes)),
        ClaimOutcome::NoRoom => None,
        other => panic!("{other:?}"),
    }
}

fn all(devices: &[(&str, f64)]) -> Option<Vec<(String, f64)>> {
    Some(devices.iter().map(|(id, share)| ((*id).to_owned(), *share)).collect())
}

/// What is used of each device.
async fn used(store: &Store) -> Vec<(String, f64)> {
    named(&store.hosts().await.unwrap().hosts[0].used)
}

async fn agents_are_given_shares_that_pack_and_whole_devices_that_are_whole(store: Store) {
    arrive(&store, &with_devices("h-0", "i", &["a", "b", "c"])).await;
    assert_eq!(given(&store, &asking("1", 0.6, 0.0)).await, all(&[("a", 0.6)]));
    assert_eq!(given(&store, &asking("2", 0.0, 6e9)).await, all(&[("a", 0.25)]));
    assert_eq!(given(&store, &asking("3", 0.5, 0.0)).await, all(&[("b", 0.5)]), "a share is of one device");
    assert_eq!(given(&store, &asking("4", 2.0, 0.0)).await, None);
    assert_eq!(given(&store, &asking("5", 1.0, 0.0)).await, all(&[("c", 1.0)]));
    assert_eq!(given(&store, &asking("6", 0.15, 0.0)).await, all(&[("a", 0.15)]), "the fullest");
    assert_eq!(given(&store, &asking("7", 0.0, 12e9)).await, all(&[("b", 0.5)]));
    assert_eq!(given(&store, &asking("8", 0.0, 1.0)).await, None);
    assert_eq!(given(&store, &asking("9", 0.0, 0.0)).await, all(&[]));
    assert_eq!(used(&store).await, all(&[("a", 1.0), ("b", 1.0), ("c", 1.0)]).unwrap());
    let record = store.get(&key("g", "2"), View::Basic).await.unwrap().unwrap();
    assert_eq!(named(&record.assignment().unwrap().takes), [("a".to_owned(), 0.25)]);
}

async fn devices_that_others_hold_are_waited_for(store: Store) {
    arrive(&store, &with_devices("h-0", "i", &["a", "b"])).await;
    let first = claimed_by(&store, &asking("first", 0.5, 0.0)).await;
    let waits = Claim { if_full: rustic_registry::IfFull::Wait, ..asking("large", 2.0, 0.0) };
    assert_eq!(store.claim(&waits).await.unwrap(), ClaimOutcome::Waits);
    // What it lacks is on this host, and whoever takes more of it overtakes.
    assert_eq!(given(&store, &asking("second", 0.5, 0.0)).await, all(&[("a", 0.5)]));
    for (agent, epoch) in [("first", first.epoch), ("second", epoch_of(&store, "second").await)] {
        store.release(&key("g", agent), epoch, ReleaseGuard::Reaped).await.unwrap();
    }
    let large = epoch_of(&store, "large").await;
    let place = store.assign(&key("g", "large"), large, &vec![host("h-0")].into()).await.unwrap();
    let AssignOutcome::Assigned(claimed) = place else { panic!("{place:?}") };
    assert_eq!(Some(named(&claimed.takes)), all(&[("a", 1.0), ("b", 1.0)]));
}

async fn epoch_of(store: &Store, agent: &str) -> Epoch {
    store.get(&key("g", agent), View::Basic).await.unwrap().unwrap().epoch
}

async fn what_ends_frees_its_devices(store: Store) {
    arrive(&store, &with_devices("h-0", "i", &["a"])).await;
    let stopped = claimed_by(&store, &asking("stopped", 0.3, 0.0)).await;
    let fails = claimed_by(&store, &asking("fails", 0.3, 0.0)).await;
    let moves = claimed_by(&store, &asking("moves", 0.0, 8e9)).await;
    store.release(&key("g", "stopped"), stopped.epoch, ReleaseGuard::Reaped).await.unwrap();
    assert_eq!(used(&store).await, all(&[("a", 0.633)]).unwrap());
    store.advance(&advance(&key("g", "fails"), fails.epoch, Phase::Failed)).await.unwrap();
    assert_eq!(used(&store).await, all(&[("a", 0.333)]).unwrap());
    store.unassign(&unassign(&key("g", "moves"), moves.epoch, ReleaseGuard::Reaped, "why")).await.unwrap();
    assert_eq!(used(&store).await, all(&[]).unwrap());
    assert_eq!(store.hosts().await.unwrap().hosts[0].used, Resources::default(), "and all else");
}

async fn a_host_that_comes_back_gives_the_same_devices_and_one_that_lost_some_gives_those_agents_away(store: Store) {
    arrive(&store, &with_devices("h-0", "i", &["a", "b"])).await;
    assert_eq!(given(&store, &asking("1", 0.5, 0.0)).await, all(&[("a", 0.5)]));
    assert_eq!(given(&store, &asking("2", 1.0, 0.0)).await, all(&[("b", 1.0)]));
    let back = |now: &str, before: &str, devices: &[&str]| Announce {
        succeeds: Some(life(before)),
        ..with_devices("h-0", now, devices)
    };
    assert_eq!(store.announce(&back("j", "i", &["c", "b", "a"])).await.unwrap().returned, 2);
    assert_eq!(used(&store).await, all(&[("a", 0.5), ("b", 1.0)]).unwrap());
    assert_eq!(store.announce(&back("k", "j", &["a", "c"])).await.unwrap().returned, 1);
    assert_eq!(used(&store).await, all(&[("a", 0.5)]).unwrap());
    let lost = store.get(&key("g", "2"), View::Basic).await.unwrap().unwrap();
    assert_eq!(lost.phase(), Phase::Pending);
    assert_eq!(lost.condition.as_ref().map(|why| why.reason()), Some(AgentReason::DeviceLost.as_str()));
    let place = store.assign(&lost.key, lost.epoch, &vec![host("h-0")].into()).await.unwrap();
    let AssignOutcome::Assigned(claimed) = place else { panic!("{place:?}") };
    assert_eq!(Some(named(&claimed.takes)), all(&[("c", 1.0)]));
}

async fn an_agent_that_is_restored_has_the_devices_that_it_had(store: Store) {
    let lease = arrive(&store, &with_devices("h-0", "i", &["a", "b"])).await;
    let takes = Resources::parse("slots=1000;gpus=1000;gpu:b=1000;gpu_memory:b=24000000000000");
    let report = Restore {
        demand: asking("1", 1.0, 0.0).demand,
        takes,
        ..restore(&key("g", "1"), Epoch(1 << 52), "h-0", "i", &lease.store_life)
    };
    store.restore(&report).await.unwrap();
    assert_eq!(used(&store).await, all(&[("b", 1.0)]).unwrap());
    assert_eq!(given(&store, &asking("2", 0.5, 0.0)).await, all(&[("a", 0.5)]));
}
