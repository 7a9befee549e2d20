//! What every registry must do when an agent is claimed: who gets it, with what, and who does not.

use crate::requests::*;
use rustic_registry::{
    AgentReason, Announce, AssignOutcome, Bring, Candidates, Claim, ClaimOutcome, Condition, Epoch, HostState,
    IfFull, IfNamesakes, MachineId, Phase, Queue, RedisRegistry, RedisSettings, ReleaseGuard, ReleaseOutcome, Renew,
    Renewal, Resources, Stops, View,
};
use std::sync::Arc;

promises!(
    a_claim_takes_the_first_candidate_with_room,
    of_the_hosts_to_spread_over_the_least_loaded_takes_a_claim_and_the_others_come_after,
    a_host_that_was_retired_gets_no_claims_until_it_announces_itself,
    a_draining_host_gets_no_claims,
    the_same_claim_again_answers_with_what_exists,
    the_same_id_with_another_digest_is_a_conflict,
    a_failed_agent_can_be_claimed_anew_but_not_by_a_retry_of_the_request_that_failed,
    concurrent_claims_of_one_agent_make_one_claim,
    an_agent_that_finds_no_room_waits_for_its_turn,
    fractional_resources_are_reserved_exactly,
    machine_ids_are_the_smallest_free_and_no_two_agents_have_one,
    whoever_asks_learns_which_organizations_have_a_guild_with_the_same_id,
    the_epoch_counter_is_raised_to_what_hosts_saw,
    epochs_begin_at_the_time_at_which_the_store_was_new,
    a_claim_made_before_a_stop_comes_late_and_asks_again,
    a_failed_agent_that_was_stopped_is_not_brought_back_by_who_asked_before,
    a_stop_of_an_agent_that_nobody_knows_counts,
    who_asked_before_the_oldest_stop_that_is_remembered_asks_again,
);

async fn a_claim_takes_the_first_candidate_with_room(store: Store) {
    arrive(&store, &announce("h-0", "i", 1.0)).await;
    arrive(&store, &announce("h-1", "i", 1.0)).await;
    let (a, b, c) = (key("g", "a"), key("g", "b"), key("g", "c"));
    assert_eq!(claimed(&store, &a, "r", &["gone", "h-0", "h-1"]).await.host, host("h-0"));
    assert_eq!(claimed(&store, &b, "r", &["h-0", "h-1"]).await.host, host("h-1"));
    let full = store.claim(&claim(&c, "r", "d", &["h-0", "h-1"])).await.unwrap();
    assert_eq!(full, ClaimOutcome::NoRoom);
    assert_eq!(phase(&store, &c).await, None);
    let record = store.get(&a, View::Basic).await.unwrap().unwrap();
    assert_eq!((record.phase(), record.name.as_str()), (Phase::Starting, "name of a"));
    assert_eq!(record.incarnation(), Some(&life("i")));
    assert_eq!(record.accepted(), None);
}

async fn of_the_hosts_to_spread_over_the_least_loaded_takes_a_claim_and_the_others_come_after(store: Store) {
    for (id, slots) in [("h-0", 2.0), ("h-1", 4.0), ("h-2", 9.0)] {
        arrive(&store, &announce(id, "i", slots)).await;
    }
    let candidates = Candidates { hosts: ["gone", "h-0", "h-1", "h-2"].map(host).to_vec(), spread: 3 };
    let mut hosts = vec![];
    for n in 0..8 {
        let request = Claim { candidates: candidates.clone(), ..claim(&key("g", &n.to_string()), "r", "d", &[]) };
        let ClaimOutcome::Claimed(claimed) = store.claim(&request).await.unwrap() else { panic!("there is room") };
        hosts.push(claimed.host.to_string());
    }
    // By share: 1/2, 1/4; a tie goes to the first. The last one is not spread over: it is empty, and comes last all the same.
    assert_eq!(hosts, ["h-1", "h-0", "h-1", "h-1", "h-0", "h-1", "h-2", "h-2"]);
}

async fn a_host_that_was_retired_gets_no_claims_until_it_announces_itself(store: Store) {
    arrive(&store, &announce("h-0", "i", 5.0)).await;
    assert!(retire(&store, "h-0", "i").await);
    let a = key("g", "a");
    assert_eq!(store.claim(&claim(&a, "r", "d", &["h-0"])).await.unwrap(), ClaimOutcome::NoRoom);
    arrive(&store, &announce("h-0", "i", 5.0)).await;
    claimed(&store, &a, "r", &["h-0"]).await;
}

async fn a_draining_host_gets_no_claims(store: Store) {
    let lease = arrive(&store, &announce("h-0", "i", 5.0)).await;
    let draining = Renew { state: HostState::Draining, ..renew("h-0", "i", &lease) };
    store.renew(&draining).await.unwrap();
    assert_eq!(store.claim(&claim(&key("g", "a"), "r", "d", &["h-0"])).await.unwrap(), ClaimOutcome::NoRoom);
    assert_eq!(store.hosts().await.unwrap().hosts[0].state, HostState::Draining);
    arrive(&store, &Announce { state: HostState::Draining, ..announce("h-0", "next", 5.0) }).await;
    assert_eq!(store.claim(&claim(&key("g", "a"), "r", "d", &["h-0"])).await.unwrap(), ClaimOutcome::NoRoom);
}

async fn the_same_claim_again_answers_with_what_exists(store: Store) {
    arrive(&store, &announce("h-0", "i", 5.0)).await;
    let a = key("g", "a");
    let first = claimed(&store, &a, "r1", &["h-0"]).await;
    for request in ["r1", "r2"] {
        match store.claim(&claim(&a, request, "d", &["h-0"])).await.unwrap() {
            ClaimOutcome::Exists(record) => assert_eq!(record.epoch, first.epoch),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(used_slots(&store, "h-0").await, 1000);
}

async fn the_same_id_with_another_digest_is_a_conflict(store: Store) {
    arrive(&store, &announce("h-0", "i", 5.0)).await;
    let a = key("g", "a");
    claimed(&store, &a, "r", &["h-0"]).await;
    let other = store.claim(&claim(&a, "r", "other", &["h-0"])).await.unwrap();
    assert_eq!(other, ClaimOutcome::Conflict(Phase::Starting));
}

async fn a_failed_agent_can_be_claimed_anew_but_not_by_a_retry_of_the_request_that_failed(store: Store) {
    arrive(&store, &announce("h-0", "i", 5.0)).await;
    let a = key("g", "a");
    let first = claimed(&store, &a, "r1", &["h-0"]).await;
    store.advance(&advance(&a, first.epoch, Phase::Failed)).await.unwrap();
    let retry = store.claim(&claim(&a, "r1", "d", &["h-0"])).await.unwrap();
    assert!(matches!(retry, ClaimOutcome::Exists(record) if record.phase() == Phase::Failed));
    let second = claimed(&store, &a, "r2", &["h-0"]).await;
    assert!(second.epoch > first.epoch);
    assert_eq!(second.machine_id, first.machine_id);
    assert_eq!(used_slots(&store, "h-0").await, 1000);
}

async fn concurrent_claims_of_one_agent_make_one_claim(store: Store) {
    arrive(&store, &announce("h-0", "i", 50.0)).await;
    let a = key("g", "a");
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..20 {
        let (store, request) = (store.clone(), claim(&a, &format!("r{n}"), "d", &["h-0"]));
        calls.spawn(async move { store.claim(&request).await.unwrap() });
    }
    let outcomes = calls.join_all().await;
    let made = outcomes.iter().filter(|o| matches!(o, ClaimOutcome::Claimed(_))).count();
    let exist = outcomes.iter().filter(|o| matches!(o, ClaimOutcome::Exists(_))).count();
    assert_eq!((made, exist), (1, 19));
    assert_eq!(used_slots(&store, "h-0").await, 1000);
}

async fn an_agent_that_finds_no_room_waits_for_its_turn(store: Store) {
    let waiting =
        |agent: &str, hosts: &[&str]| Claim { if_full: IfFull::Wait, ..claim(&key("g", agent), "r", "d", hosts) };
    let why = Some(Condition::new(AgentReason::NoRoom, "as the caller says"));
    assert_eq!(
        store.claim(&waiting("a", &["h-0"])).await.unwrap(),
        ClaimOutcome::Held,
        "nobody has come to the store"
    );
    arrive(&store, &announce("h-1", "i", 1.0)).await;
    assert_eq!(store.claim(&waiting("a", &["h-0"])).await.unwrap(), ClaimOutcome::Waits);
    arrive(&store, &announce("h-0", "i", 1.0)).await;
    let second = Claim { waits: why.clone(), ..waiting("b", &["h-0"]) };
    assert_eq!(store.claim(&second).await.unwrap(), ClaimOutcome::Waits, "behind the first");
    assert!(matches!(store.claim(&waiting("a", &["h-0"])).await.unwrap(), ClaimOutcome::Exists(_)));
    let queue = store.oldest(Queue::Pending, 0, 10, View::Launch).await.unwrap();
    let names: Vec<_> = queue.iter().map(|r| r.key.agent.to_string()).collect();
    assert_eq!(names, ["a", "b"]);
    let (reason, message) = Condition::parts(queue[0].condition.as_ref());
    assert!(reason == "NoRoom" && message.contains("no host has room"), "{reason}: {message}");
    assert_eq!(queue[1].condition, why);
    assert_eq!((queue[0].host(), queue[0].machine_id, queue[1].machine_id), (None, machine(1), machine(2)));
    assert_eq!(store.oldest(Queue::Pending, 1, 10, View::Basic).await.unwrap().len(), 1);

    let placed = store.assign(&queue[0].key, queue[0].epoch, &vec![host("h-0")].into()).await.unwrap();
    let AssignOutcome::Assigned(placed) = placed else { panic!("{placed:?}") };
    assert!(placed.epoch > queue[0].epoch && placed.machine_id == machine(1));
    assert_eq!(
        store.assign(&queue[0].key, queue[0].epoch, &vec![host("h-0")].into()).await.unwrap(),
        AssignOutcome::Changed
    );
    assert_eq!(
        store.assign(&queue[1].key, queue[1].epoch, &vec![host("h-0")].into()).await.unwrap(),
        AssignOutcome::NoRoom
    );
    let stopped = store.release(&queue[1].key, queue[1].epoch, ReleaseGuard::Unassigned).await.unwrap();
    assert_eq!(stopped, ReleaseOutcome::Released);
    assert_eq!(store.oldest(Queue::Pending, 0, 10, View::Basic).await.unwrap(), []);
}

async fn fractional_resources_are_reserved_exactly(store: Store) {
    arrive(&store, &announce("h-0", "i", 100.0)).await;
    let mut demand = Resources::one_slot();
    demand.set("cpus", 0.4).unwrap();
    let with = |n: u32| Claim { demand: demand.clone(), ..claim(&key("g", &format!("a{n}")), "r", "d", &["h-0"]) };
    for n in 0..10 {
        assert!(matches!(store.claim(&with(n)).await.unwrap(), ClaimOutcome::Claimed(_)), "agent {n}");
    }
    assert_eq!(store.claim(&with(10)).await.unwrap(), ClaimOutcome::NoRoom);
    let view = store.hosts().await.unwrap();
    assert_eq!(view.hosts[0].used.milli("cpus"), 4000);
}

async fn machine_ids_are_the_smallest_free_and_no_two_agents_have_one(store: Store) {
    arrive(&store, &announce("h-0", "i", 1000.0)).await;
    let agent = |n: u32| key("g", &format!("a{n}"));
    for n in 1..=300u32 {
        assert_eq!(claimed(&store, &agent(n), "r", &["h-0"]).await.machine_id, machine(n));
    }
    assert_eq!(claimed(&store, &key("other", "a"), "r", &["h-0"]).await.machine_id, machine(1));
    for n in [256, 7] {
        let epoch = store.get(&agent(n), View::Basic).await.unwrap().unwrap().epoch;
        store.release(&agent(n), epoch, ReleaseGuard::Reaped).await.unwrap();
    }
    for n in [7, 256, 301] {
        assert_eq!(claimed(&store, &agent(1000 + n), "r", &["h-0"]).await.machine_id, machine(n));
    }
}

async fn the_epoch_counter_is_raised_to_what_hosts_saw(store: Store) {
    let highest = Epoch(1 << 52);
    let lease = arrive(&store, &Announce { highest_epoch: highest, ..announce("h-0", "i", 5.0) }).await;
    assert_eq!(claimed(&store, &key("g", "a"), "r", &["h-0"]).await.epoch, Epoch(highest.0 + 1));
    let highest = Epoch(3 << 51);
    store.renew(&Renew { highest_epoch: highest, ..renew("h-0", "i", &lease) }).await.unwrap();
    assert_eq!(claimed(&store, &key("g", "b"), "r", &["h-0"]).await.epoch, Epoch(highest.0 + 1));
    // Nonsense must not stop all claims, and who saw less takes nothing back.
    for seen in [Epoch(u64::MAX), Epoch(Epoch::MAX.0 + 1), Epoch(7)] {
        store.renew(&Renew { highest_epoch: seen, ..renew("h-0", "i", &lease) }).await.unwrap();
    }
    assert_eq!(claimed(&store, &key("g", "c"), "r", &["h-0"]).await.epoch, Epoch(highest.0 + 2));
}

async fn epochs_begin_at_the_time_at_which_the_store_was_new(store: Store) {
    arrive(&store, &announce("h-0", "i", 5.0)).await;
    let epoch = claimed(&store, &key("g", "a"), "r", &["h-0"]).await.epoch;
    let now = store.hosts().await.unwrap().now;
    let (earliest, latest) = ((now.0 - 600_000) * 1_000, (now.0 + 1) * 1_000);
    assert!((earliest..latest).contains(&epoch.0), "{epoch} at {now:?}");
}

async fn a_claim_made_before_a_stop_comes_late_and_asks_again(store: Store) {
    let asked = arrive(&store, &announce("h-0", "i", 5.0)).await.stops;
    assert_eq!(asked, Stops(0));
    let (a, b) = (key("g", "a"), key("g", "b"));
    let epoch = claimed(&store, &a, "r1", &["h-0"]).await.epoch;
    store.release(&a, epoch, ReleaseGuard::Reaped).await.unwrap();
    let late = store.claim(&asked_first(claim(&a, "r2", "d", &["h-0"]))).await.unwrap();
    assert_eq!(late, ClaimOutcome::Late(Stops(1)));
    assert_eq!(phase(&store, &a).await, None, "nothing changed");
    claimed(&store, &b, "r", &["h-0"]).await;
    let again = claimed_by(&store, &Claim { asked: Stops(1), ..claim(&a, "r2", "d", &["h-0"]) }).await;
    assert!(again.epoch > epoch);
    // What exists answers for itself, however old the question.
    let old = asked_first(claim(&a, "r3", "d", &["h-0"]));
    assert!(matches!(store.claim(&old).await.unwrap(), ClaimOutcome::Exists(_)));
    assert_eq!(store.hosts().await.unwrap().stops, Stops(1));
}

async fn a_failed_agent_that_was_stopped_is_not_brought_back_by_who_asked_before(store: Store) {
    arrive(&store, &announce("h-0", "i", 5.0)).await;
    let a = key("g", "a");
    let epoch = claimed(&store, &a, "r1", &["h-0"]).await.epoch;
    store.advance(&advance(&a, epoch, Phase::Failed)).await.unwrap();
    store.release(&a, epoch, ReleaseGuard::Unassigned).await.unwrap();
    let late = Claim { if_full: IfFull::Wait, ..asked_first(claim(&a, "r1", "d", &[])) };
    assert_eq!(store.claim(&late).await.unwrap(), ClaimOutcome::Late(Stops(1)), "nor put in line");
}

async fn a_stop_of_an_agent_that_nobody_knows_counts(store: Store) {
    let lease = arrive(&store, &announce("h-0", "i", 5.0)).await;
    let (a, b) = (key("g", "a"), key("g", "b"));
    assert!(store.bury(&a).await.unwrap());
    let late = asked_first(claim(&a, "r", "d", &["h-0"]));
    assert_eq!(store.claim(&late).await.unwrap(), ClaimOutcome::Late(Stops(1)));
    claimed(&store, &b, "r", &["h-0"]).await;
    assert!(!store.bury(&b).await.unwrap(), "it is known: who stops it goes another way");
    assert_eq!(store.hosts().await.unwrap().stops, Stops(1));
    let renewal = store.renew(&renew("h-0", "i", &lease)).await.unwrap();
    assert!(matches!(renewal, Renewal::Held { cordoned: false, stops: Stops(1), .. }), "{renewal:?}");
    assert_eq!(store.announce(&announce("h-0", "i", 5.0)).await.unwrap().stops, Stops(1));
    let again = Claim { asked: Stops(1), ..claim(&a, "r", "d", &["h-0"]) };
    claimed_by(&store, &again).await;
}

/// How many stops are remembered one by one.
const REMEMBERED: u64 = 10_000;

async fn who_asked_before_the_oldest_stop_that_is_remembered_asks_again(store: Store) {
    let lease = arrive(&store, &announce("h-0", "i", 5.0)).await;
    let stopped: Vec<_> = (0..=REMEMBERED).map(|n| (key("g", &format!("stopped {n}")), Epoch(1))).collect();
    let another = || asked_first(claim(&key("g", "another"), "r", "d", &[]));
    let former_store_life = store_life("elsewhere.1");
    store.bring(&Bring { stopped: stopped[1..].to_vec(), ..bring(&former_store_life) }).await.unwrap();
    assert_eq!(store.claim(&another()).await.unwrap(), ClaimOutcome::NoRoom, "all of them are remembered");
    let first = asked_first(claim(&stopped[1].0, "r", "d", &[]));
    assert_eq!(store.claim(&first).await.unwrap(), ClaimOutcome::Late(Stops(REMEMBERED)));

    store.bring(&Bring { stopped: stopped[..1].to_vec(), ..bring(&former_store_life) }).await.unwrap();
    let late = ClaimOutcome::Late(Stops(REMEMBERED + 1));
    assert_eq!(store.claim(&another()).await.unwrap(), late, "it may be the one that was forgotten");
    assert_eq!(store.claim(&Claim { asked: Stops(1), ..another() }).await.unwrap(), ClaimOutcome::NoRoom);
    let second = Claim { asked: Stops(1), ..claim(&stopped[2].0, "r", "d", &[]) };
    assert_eq!(store.claim(&second).await.unwrap(), late);
    claimed_by(&store, &Claim { asked: Stops(REMEMBERED + 1), ..claim(&stopped[2].0, "r", "d", &["h-0"]) }).await;
    assert_eq!(store.hosts().await.unwrap().store_life, Some(lease.store_life));
}

async fn whoever_asks_learns_which_organizations_have_a_guild_with_the_same_id(store: Store) {
    arrive(&store, &announce("h-0", "i", 9.0)).await;
    let asks = |guild: &str, agent: &str| Claim {
        if_namesakes: IfNamesakes::Report,
        ..claim(&key(guild, agent), "r", "d", &["h-0"])
    };
    let made = async |request: &Claim| matches!(store.claim(request).await.unwrap(), ClaimOutcome::Claimed(_));
    assert!(made(&asks("o/g", "a")).await && made(&asks("o/g", "b")).await, "it is no namesake of its own");
    assert!(made(&asks("p/other", "a")).await);
    let named = |names: &[&str]| ClaimOutcome::Namesakes(names.iter().map(|name| name.parse().unwrap()).collect());
    assert_eq!(store.claim(&asks("p/g", "a")).await.unwrap(), named(&["o"]));
    assert_eq!(store.get(&key("p/g", "a"), View::Basic).await.unwrap(), None, "nothing was made");
    for organization in ["p", "a:b"] {
        claimed(&store, &key(&format!("{organization}/g"), "a"), "r", &["h-0"]).await;
    }
    assert_eq!(store.claim(&asks("q/g", "a")).await.unwrap(), named(&["a:b", "o", "p"]));
    // An organization of which nothing is left is not named.
    for (guild, agent) in [("o/g", "a"), ("o/g", "b"), ("a:b/g", "a")] {
        let epoch = store.get(&key(guild, agent), View::Basic).await.unwrap().unwrap().epoch;
        store.release(&key(guild, agent), epoch, ReleaseGuard::Reaped).await.unwrap();
    }
    assert_eq!(store.claim(&asks("q/g", "a")).await.unwrap(), named(&["p"]));
}

#[tokio::test]
async fn a_guild_has_no_more_agents_than_there_are_machine_ids() {
    let redis = TestRedis::start();
    let store: Store = Arc::new(RedisRegistry::new(&RedisSettings::new(&redis.url())).unwrap());
    arrive(&store, &announce("h-0", "i", 9.0)).await;
    // All but the last two are taken.
    let last = u32::from(MachineId::LAST);
    let taken = format!("for bit = 0, {} do redis.call('SETBIT', KEYS[1], bit, 1) end", last - 3);
    redis.admin().run(&format!("EVAL \"{taken}\" 1 {{rustic}}:machines:o:g"));
    for (agent, id) in [("a", last - 1), ("b", last)] {
        assert_eq!(claimed(&store, &key("g", agent), "r", &["h-0"]).await.machine_id, machine(id));
    }
    let more = claim(&key("g", "c"), "r", "d", &["h-0"]);
    assert_eq!(store.claim(&more).await.unwrap(), ClaimOutcome::NoMachineId);
    assert_eq!(store.get(&more.key, View::Basic).await.unwrap(), None);
    assert_eq!(used_slots(&store, "h-0").await, 2000);
    let epoch = store.get(&key("g", "a"), View::Basic).await.unwrap().unwrap().epoch;
    store.release(&key("g", "a"), epoch, ReleaseGuard::Reaped).await.unwrap();
    assert_eq!(claimed(&store, &more.key, "r", &["h-0"]).await.machine_id, machine(last - 1));
}
