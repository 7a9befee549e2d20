//! Who waits for room, and who may go past whom.

use crate::requests::*;
use proptest::prelude::*;
use rustic_registry::{
    Announce, AssignOutcome, Claim, ClaimOutcome, Cordon, Epoch, IfFull, Phase, Queue, Registry, ReleaseGuard,
    Resources, View, devices::Device,
};

promises![
    nobody_waits_behind_one_whose_room_is_elsewhere,
    nobody_waits_behind_one_that_lacks_something_else,
    who_waits_has_the_room_that_it_could_use,
    who_can_have_one_of_two_places_leaves_the_other,
    who_waits_is_overtaken_at_most_32_times,
    one_host_is_kept_for_it_and_the_others_are_not,
    a_host_that_takes_nobody_any_more_is_not_kept,
    who_waits_and_came_later_overtakes_no_more_often,
    who_ran_before_stands_in_nobodys_line,
    a_reading_of_lines_has_the_oldest_of_each,
];

/// Claims that may overtake one that waits.
const MOST: usize = 32;

fn room(slots: f64, gpus: f64) -> Resources {
    let mut room = Resources::default();
    room.set("slots", slots).unwrap();
    room.set("gpus", gpus).unwrap();
    room
}

fn with_room(id: &str, slots: f64, gpus: u32) -> Announce {
    let mut capacity = room(slots, 0.0);
    let device = |n: u32| Device { id: n.to_string(), share: 1.0, memory: 0.0 };
    capacity.add_devices(&(0..gpus).map(device).collect::<Vec<_>>());
    Announce { capacity, ..announce(id, "i", 0.0) }
}

fn wanting(agent: &str, demand: Resources, hosts: &[&str]) -> Claim {
    Claim { if_full: IfFull::Wait, demand, ..claim(&key("g", agent), "r", "d", hosts) }
}

async fn waits(store: &Store, agent: &str, demand: Resources, hosts: &[&str]) -> bool {
    match store.claim(&wanting(agent, demand, hosts)).await.unwrap() {
        ClaimOutcome::Waits => true,
        ClaimOutcome::Claimed(_) => false,
        other => panic!("{agent}: {other:?}"),
    }
}

async fn stop(store: &Store, agent: &str) {
    let epoch = store.get(&key("g", agent), View::Basic).await.unwrap().unwrap().epoch;
    store.release(&key("g", agent), epoch, ReleaseGuard::Reaped).await.unwrap();
}

async fn placed(store: &Store, agent: &str, on: &[&str]) -> bool {
    let epoch = store.get(&key("g", agent), View::Basic).await.unwrap().unwrap().epoch;
    let hosts: Vec<_> = on.iter().map(|id| host(id)).collect();
    match store.assign(&key("g", agent), epoch, &hosts.into()).await.unwrap() {
        AssignOutcome::Assigned(_) => true,
        AssignOutcome::NoRoom => false,
        other => panic!("{agent}: {other:?}"),
    }
}

/// Two slots, one of them taken for good, and `large`, which waits for both.
async fn one_waits_for_all_of(store: &Store, hosts: &[&str]) {
    for id in hosts {
        arrive(store, &with_room(id, 2.0, 0)).await;
        assert!(!waits(store, &format!("on {id}"), room(1.0, 0.0), &[id]).await);
    }
    assert!(waits(store, "large", room(2.0, 0.0), hosts).await);
}

/// Has so many agents come and go on a host.
async fn overtake(store: &Store, times: usize, hosts: &[&str]) {
    for n in 0..times {
        assert!(!waits(store, "small", room(1.0, 0.0), hosts).await, "the claim number {n}");
        stop(store, "small").await;
    }
}

async fn nobody_waits_behind_one_whose_room_is_elsewhere(store: Store) {
    arrive(&store, &with_room("h-0", 100.0, 0)).await;
    assert!(waits(&store, "gpus", room(1.0, 1.0), &["h-0"]).await);
    for n in 0..=2 * MOST {
        assert!(!waits(&store, &n.to_string(), room(1.0, 0.0), &["h-0"]).await, "claim {n}");
    }
}

async fn nobody_waits_behind_one_that_lacks_something_else(store: Store) {
    arrive(&store, &with_room("h-0", 100.0, 1)).await;
    assert!(!waits(&store, "has it", room(1.0, 1.0), &["h-0"]).await);
    assert!(waits(&store, "gpus", room(1.0, 1.0), &["h-0"]).await);
    // As long as a slot is left for it.
    for n in 0..98 {
        assert!(!waits(&store, &n.to_string(), room(1.0, 0.0), &["h-0"]).await, "claim {n}");
    }
    overtake(&store, MOST, &["h-0"]).await;
    assert!(waits(&store, "98", room(1.0, 0.0), &["h-0"]).await);
}

async fn who_waits_has_the_room_that_it_could_use(store: Store) {
    arrive(&store, &with_room("elsewhere", 0.0, 0)).await;
    assert!(waits(&store, "a", room(1.0, 0.0), &[]).await);
    assert!(waits(&store, "b", room(1.0, 0.0), &[]).await);
    arrive(&store, &with_room("h-0", 3.0, 0)).await;
    let refused = Claim { if_full: IfFull::Refuse, ..wanting("later", room(2.0, 0.0), &["h-0"]) };
    assert_eq!(store.claim(&refused).await.unwrap(), ClaimOutcome::NoRoom, "two of the three are theirs");
    assert!(!waits(&store, "small", room(1.0, 0.0), &["h-0"]).await, "one is nobody's");
    assert!(waits(&store, "c", room(1.0, 0.0), &["h-0"]).await);
    assert!(!placed(&store, "c", &["h-0"]).await, "in order");
    assert!(placed(&store, "a", &["h-0"]).await);
    assert!(placed(&store, "b", &["h-0"]).await);
}

async fn who_can_have_one_of_two_places_leaves_the_other(store: Store) {
    arrive(&store, &with_room("elsewhere", 0.0, 0)).await;
    assert!(waits(&store, "a", room(1.0, 0.0), &[]).await);
    for id in ["h-0", "h-1"] {
        arrive(&store, &with_room(id, 1.0, 0)).await;
    }
    assert!(!waits(&store, "b", room(1.0, 0.0), &["h-0", "h-1"]).await);
    assert!(waits(&store, "c", room(1.0, 0.0), &["h-0", "h-1"]).await);
    assert!(placed(&store, "a", &["h-0"]).await);
}

async fn who_waits_is_overtaken_at_most_32_times(store: Store) {
    one_waits_for_all_of(&store, &["h-0"]).await;
    overtake(&store, MOST, &["h-0"]).await;
    let refused = Claim { if_full: IfFull::Refuse, ..wanting("small", room(1.0, 0.0), &["h-0"]) };
    assert_eq!(store.claim(&refused).await.unwrap(), ClaimOutcome::NoRoom);
    arrive(&store, &with_room("h-1", 1.0, 0)).await;
    overtake(&store, 2 * MOST, &["h-0", "h-1"]).await;
    assert!(waits(&store, "small", room(1.0, 0.0), &["h-0"]).await, "a host of two is kept, and one of one is not");
    stop(&store, "on h-0").await;
    assert!(!placed(&store, "small", &["h-0"]).await);
    assert!(placed(&store, "large", &["h-0"]).await);
    stop(&store, "large").await;
    assert!(placed(&store, "small", &["h-0"]).await);
    // The next one is overtaken as often as the one before.
    stop(&store, "small").await;
    one_waits_for_all_of(&store, &["h-0"]).await;
    overtake(&store, MOST, &["h-0"]).await;
}

async fn one_host_is_kept_for_it_and_the_others_are_not(store: Store) {
    one_waits_for_all_of(&store, &["h-0", "h-1"]).await;
    overtake(&store, MOST, &["h-1"]).await;
    // The next on which somebody would be in its way.
    overtake(&store, 2 * MOST, &["h-0", "h-1"]).await;
    assert!(waits(&store, "small", room(1.0, 0.0), &["h-0"]).await);
    stop(&store, "small").await;
    assert!(!waits(&store, "other", room(1.0, 0.0), &["h-0", "h-1"]).await);
}

async fn a_host_that_takes_nobody_any_more_is_not_kept(store: Store) {
    one_waits_for_all_of(&store, &["h-0", "h-1"]).await;
    overtake(&store, MOST, &["h-1"]).await;
    overtake(&store, 1, &["h-0", "h-1"]).await;
    store.cordon(&host("h-0"), Cordon::On).await.unwrap();
    assert!(waits(&store, "small", room(1.0, 0.0), &["h-0", "h-1"]).await, "now the other is kept");
}

async fn who_waits_and_came_later_overtakes_no_more_often(store: Store) {
    one_waits_for_all_of(&store, &["h-0"]).await;
    for n in 0..=MOST {
        assert!(waits(&store, "later", room(1.0, 0.0), &[]).await);
        assert_eq!(placed(&store, "later", &["h-0"]).await, n < MOST, "number {n}");
        stop(&store, "later").await;
    }
}

async fn who_ran_before_stands_in_nobodys_line(store: Store) {
    arrive(&store, &with_room("h-0", 2.0, 0)).await;
    assert!(waits(&store, "large", room(2.0, 0.0), &[]).await);
    let (moves, starts) = (key("g", "moves"), key("g", "starts"));
    arrive(&store, &with_room("h-1", 2.0, 0)).await;
    store.cordon(&host("h-0"), Cordon::On).await.unwrap();
    let large = store.get(&key("g", "large"), View::Basic).await.unwrap().unwrap();
    store.release(&large.key, large.epoch, ReleaseGuard::Unassigned).await.unwrap();
    for key in [&moves, &starts] {
        let claimed = claimed(&store, key, "r", &["h-1"]).await;
        let phase = if *key == moves { Phase::Running } else { Phase::Starting };
        store.advance(&advance(key, claimed.epoch, phase)).await.unwrap();
    }
    assert!(waits(&store, "large", room(2.0, 0.0), &[]).await);
    store.cordon(&host("h-0"), Cordon::Off).await.unwrap();
    for (key, goes) in [(&starts, true), (&moves, true)] {
        let epoch = store.get(key, View::Basic).await.unwrap().unwrap().epoch;
        store.unassign(&unassign(key, epoch, ReleaseGuard::Vouched, "moves")).await.unwrap();
        let agent = key.agent.to_string();
        assert_eq!(placed(&store, &agent, &["h-0"]).await, goes, "{agent} was created before");
    }
    // Restored by an engine, it counts as created when it began to wait; but it ran, and goes first all the same.
    for _ in 0..2 {
        let record = store.get(&moves, View::Launch).await.unwrap().unwrap();
        assert!(record.running.is_some());
        store.unassign(&unassign(&moves, record.epoch, ReleaseGuard::Vouched, "moves")).await.unwrap();
        assert!(placed(&store, "moves", &["h-0"]).await);
    }
}

async fn a_reading_of_lines_has_the_oldest_of_each(store: Store) {
    arrive(&store, &with_room("elsewhere", 0.0, 0)).await;
    for (agent, gpus) in [("a", 1.0), ("b", 1.0), ("c", 2.0), ("d", 1.0), ("e", 3.0)] {
        assert!(waits(&store, agent, room(1.0, gpus), &[]).await);
    }
    let names = async |skip, limit| {
        let agents = store.oldest(Queue::Lines, skip, limit, View::Basic).await.unwrap();
        agents.iter().map(|record| record.key.agent.to_string()).collect::<Vec<_>>().concat()
    };
    assert_eq!(names(0, 100).await, "abcde");
    assert_eq!(names(0, 6).await, "abce");
    assert_eq!(names(0, 3).await, "ace");
    assert_eq!(names(1, 100).await, "ce");
    assert_eq!(names(3, 100).await, "");
    stop(&store, "a").await;
    stop(&store, "e").await;
    assert_eq!(names(0, 2).await, "bc");
}

#[derive(Debug, Clone)]
enum Step {
    Claim { agent: u8, hosts: [u8; 2] },
    Place { agent: u8, hosts: [u8; 2] },
    Stop { agent: u8 },
    Moves { agent: u8 },
}

/// Small agents come and go, so that large ones are overtaken as often as they may be.
fn step() -> impl Strategy<Value = Step> {
    let hosts = || prop::array::uniform2(0..3u8);
    prop_oneof![
        8 => (0..9u8, hosts()).prop_map(|(agent, hosts)| Step::Claim { agent, hosts }),
        2 => (0..9u8, hosts()).prop_map(|(agent, hosts)| Step::Place { agent, hosts }),
        6 => (3..9u8).prop_map(|agent| Step::Stop { agent }),
        1 => (0..9u8).prop_map(|agent| Step::Moves { agent }),
    ]
}

async fn take(store: &dyn Registry, step: &Step) -> String {
    let names = |hosts: &[u8; 2]| hosts.map(|n| host(&format!("h-{n}"))).to_vec();
    let epoch = async |agent: &u8| {
        let record = store.get(&key("g", &agent.to_string()), View::Basic).await.unwrap();
        (key("g", &agent.to_string()), record.map_or(Epoch(1), |r| r.epoch))
    };
    match step {
        Step::Claim { agent, hosts } => {
            let demand = match agent {
                0 => room(3.0, 0.0),
                1 => room(2.0, 1.0),
                2 => room(3.0, 2.0),
                n => room(1.0, f64::from(n % 4) * 0.4),
            };
            let wants = wanting(&agent.to_string(), demand, &[]);
            match store.claim(&Claim { candidates: names(hosts).into(), ..wants }).await.unwrap() {
                ClaimOutcome::Exists(_) => "exists".to_owned(),
                other => format!("{other:?}"),
            }
        }
        Step::Place { agent, hosts } => {
            let (key, epoch) = epoch(agent).await;
            format!("{:?}", store.assign(&key, epoch, &names(hosts).into()).await.unwrap())
        }
        Step::Stop { agent } => {
            let (key, epoch) = epoch(agent).await;
            format!("{:?}", store.release(&key, epoch, ReleaseGuard::Reaped).await.unwrap())
        }
        Step::Moves { agent } => {
            let (key, epoch) = epoch(agent).await;
            format!("{:?}", store.unassign(&unassign(&key, epoch, ReleaseGuard::Vouched, "moves")).await.unwrap())
        }
    }
}

#[test]
fn twins_agree_on_who_goes_past_whom() {
    let redis = TestRedis::start();
    let config = ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(steps in prop::collection::vec(step(), 1..400))| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (real, twin) = (redis.registry(), memory());
            for store in [&real, &twin] {
                for (id, gpus) in [("h-0", 2), ("h-1", 1), ("h-2", 0)] {
                    let seen = Epoch(1 << 52);
                    arrive(store, &Announce { highest_epoch: seen, ..with_room(id, 3.0, gpus) }).await;
                }
            }
            for (n, step) in steps.iter().enumerate() {
                let answers = (take(&*real, step).await, take(&*twin, step).await);
                prop_assert_eq!(&answers.0, &answers.1, "answers differ at step {} {:?}", n, step);
            }
            for queue in [Queue::Pending, Queue::Lines] {
                let read = async |store: &dyn Registry| {
                    let agents = store.oldest(queue, 0, 100, View::Basic).await.unwrap();
                    agents.into_iter().map(|record| record.key).collect::<Vec<_>>()
                };
                prop_assert_eq!(read(&*real).await, read(&*twin).await, "{:?}", queue);
            }
            Ok(())
        })?;
    });
}
