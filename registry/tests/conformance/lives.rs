//! A store in another run of Redis, which may lack its last writes: both stores must notice it alike.

use crate::requests::*;
use rustic_registry::{
    AdvanceOutcome, AgentRecord, Announce, Claim, ClaimOutcome, Cordon, Epoch, IfFull, MemoryRegistry, Phase,
    PlaceOutcome, Queue, RedisRegistry, RedisSettings, Registry, RegistryError, ReleaseGuard, ReleaseOutcome,
    Remember, Remembered, Renew, Restore, UnixMillis, View,
};
use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::time::{Instant, sleep};

/// A store, and a way to put it into another run.
struct Run {
    store: Arc<dyn Registry>,
    restart: Box<dyn Fn()>,
    _redis: Option<TestRedis>,
}

fn in_memory() -> Run {
    let wall = || UnixMillis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64);
    let store = Arc::new(MemoryRegistry::new(wall));
    let again = store.clone();
    Run { store, restart: Box::new(move || again.restart_from(again.snapshot())), _redis: None }
}

fn in_redis() -> Run {
    let redis = TestRedis::start();
    let store = Arc::new(RedisRegistry::new(&RedisSettings::new(&redis.url())).unwrap());
    // As if the run that wrote it was another one.
    let mut admin = redis.admin();
    let admin = std::sync::Mutex::new(move || assert_eq!(admin.run("SET {rustic}:run another"), "+OK"));
    Run { store, restart: Box::new(move || (admin.lock().unwrap())()), _redis: Some(redis) }
}

macro_rules! both {
    ($($name:ident)+) => {
        mod memory { $(#[tokio::test] async fn $name() { super::$name(super::in_memory()).await })+ }
        mod redis { $(#[tokio::test] async fn $name() { super::$name(super::in_redis()).await })+ }
    };
}

both! {
    nothing_is_decided_until_hosts_have_told
    another_run_does_not_shorten_the_wait_for_whoever_may_still_have_to_tell
    what_was_forgotten_is_told_again_and_what_was_removed_is_not
    agents_are_not_given_back_while_hosts_tell
    a_late_write_changes_nothing
    what_no_host_runs_is_remembered_while_hosts_tell_and_not_later
    whoever_has_the_later_claim_is_right
    a_host_that_lives_is_waited_for_however_long_it_takes_to_tell
    a_claim_of_somebody_who_has_not_told_yet_waits
    a_later_claim_that_was_forgotten_ends_what_is_known_of_the_agent
    an_older_claim_that_no_host_has_accepted_gives_way_even_after_hosts_have_told
}

/// A third of it is longer than a busy machine lets a test wait for its turn.
const HOLD: Duration = Duration::from_secs(3);

fn short(id: &str, life: &str) -> Announce {
    Announce { hold: HOLD, ..announce(id, life, 5.0) }
}

async fn nothing_is_decided_until_hosts_have_told(Run { store, restart, _redis }: Run) {
    let before = store.announce(&short("h-0", "i")).await.unwrap().generation;
    let a = key("g", "a");
    let ClaimOutcome::Claimed(claimed) = store.claim(&claim(&a, "r", "d", &["h-0"])).await.unwrap() else { panic!() };
    store.advance(&advance(&a, claimed.epoch, Phase::Running)).await.unwrap();
    restart();
    assert_eq!(store.claim(&claim(&key("g", "b"), "r", "d", &["h-0"])).await.unwrap(), ClaimOutcome::Held);
    let view = store.hosts().await.unwrap();
    let after = view.generation.unwrap();
    assert!(view.held && after != before);
    let vouched = store.release(&a, claimed.epoch, ReleaseGuard::Vouched).await;
    assert!(matches!(vouched, Err(RegistryError::Lost(_))), "{vouched:?}");
    let stale = rustic_registry::Advance { knew: Some(before), ..advance(&a, claimed.epoch, Phase::Running) };
    assert_eq!(store.advance(&stale).await.unwrap(), AdvanceOutcome::StoreLost);
    assert_eq!(store.restore(&restore(&a, claimed.epoch, "h-0", "i", &after)).await.unwrap(), AdvanceOutcome::Done);
    // It has told, but another host may be on its way whose coming was forgotten: a third of the hold passes.
    let told = Renew { told: Some(after.clone()), ..renew("h-0", "i", LONG) };
    store.renew(&told).await.unwrap();
    assert!(store.hosts().await.unwrap().held);
    sleep(HOLD / 2).await;
    assert!(!store.hosts().await.unwrap().held);
    let next = store.claim(&claim(&key("g", "b"), "r", "d", &["h-0"])).await.unwrap();
    assert!(matches!(next, ClaimOutcome::Claimed(c) if c.epoch > claimed.epoch), "epochs never go back");
}

async fn another_run_does_not_shorten_the_wait_for_whoever_may_still_have_to_tell(
    Run { store, restart, _redis }: Run,
) {
    let began = Instant::now();
    // A store that was wiped: every host that lives has the whole time to come and tell.
    let wiped = Announce { knew: Some("before.1".to_owned()), ..short("h-0", "i") };
    store.announce(&wiped).await.unwrap();
    restart();
    let generation = store.hosts().await.unwrap().generation.unwrap();
    store.renew(&Renew { told: Some(generation), ..renew("h-0", "i", LONG) }).await.unwrap();
    while store.hosts().await.unwrap().held {
        sleep(Duration::from_millis(10)).await;
    }
    // The store counts whole milliseconds.
    assert!(began.elapsed() + Duration::from_millis(2) >= HOLD, "{:?}", began.elapsed());
}

async fn what_was_forgotten_is_told_again_and_what_was_removed_is_not(Run { store, restart, _redis }: Run) {
    let first = store.announce(&short("h-0", "i")).await.unwrap().generation;
    let (a, b) = (key("g", "a"), key("g", "b"));
    let ClaimOutcome::Claimed(known) = store.claim(&claim(&a, "r", "d", &["h-0"])).await.unwrap() else { panic!() };
    store.release(&a, known.epoch, ReleaseGuard::Reaped).await.unwrap();
    restart();
    assert!(store.hosts().await.unwrap().held);
    sleep(HOLD + HOLD / 10).await;
    let now = store.hosts().await.unwrap();
    assert!(!now.held, "nobody told, and nobody is waited for any more");
    let generation = now.generation.unwrap();
    let told = |key: &rustic_registry::AgentKey, epoch: Epoch| Restore {
        had: Some(first.clone()),
        ..restore(key, epoch, "h-0", "i", &generation)
    };
    assert_eq!(store.restore(&told(&a, known.epoch)).await.unwrap(), AdvanceOutcome::Gone, "it was removed");
    // A claim beyond what the store remembers was forgotten.
    let lost = Epoch(known.epoch.0 + 1);
    assert_eq!(store.restore(&told(&b, lost)).await.unwrap(), AdvanceOutcome::Done);
    assert_eq!(store.get(&b, View::Basic).await.unwrap().unwrap().epoch, lost);
}

async fn agents_are_not_given_back_while_hosts_tell(Run { store, restart, _redis }: Run) {
    store.announce(&short("h-0", "old")).await.unwrap();
    store.announce(&short("h-1", "i")).await.unwrap();
    let a = key("g", "a");
    let ClaimOutcome::Claimed(_) = store.claim(&claim(&a, "r", "d", &["h-0"])).await.unwrap() else { panic!() };
    restart();
    store.cordon(&host("h-1"), Cordon::Off).await.unwrap();
    let next = Announce { succeeds: Some(life("old")), ..short("h-0", "new") };
    assert_eq!(store.announce(&next).await.unwrap().returned, 0);
    assert_eq!(store.get(&a, View::Basic).await.unwrap().unwrap().incarnation, Some(life("old")));
}

async fn a_late_write_changes_nothing(Run { store, _redis, .. }: Run) {
    store.announce(&short("h-0", "i")).await.unwrap();
    let a = key("g", "a");
    let ClaimOutcome::Claimed(claimed) = store.claim(&claim(&a, "r", "d", &["h-0"])).await.unwrap() else { panic!() };
    let early = advance(&a, claimed.epoch, Phase::Restarting);
    store.advance(&advance(&a, claimed.epoch, Phase::Running)).await.unwrap();
    assert_eq!(store.advance(&early).await.unwrap(), AdvanceOutcome::Done);
    assert_eq!(store.get(&a, View::Basic).await.unwrap().unwrap().phase, Phase::Running);
}

/// An agent that waits, as a store had it, and one that failed.
async fn unhosted(store: &Arc<dyn Registry>) -> [AgentRecord; 2] {
    let (waits, failed) = (key("g", "waits"), key("g", "failed"));
    let no_room = Claim { if_full: IfFull::Wait, ..claim(&waits, "r", "d", &[]) };
    assert_eq!(store.claim(&no_room).await.unwrap(), ClaimOutcome::Waits);
    let ClaimOutcome::Claimed(claimed) = store.claim(&claim(&failed, "r", "d", &["h-0"])).await.unwrap() else {
        panic!()
    };
    let exit = Some(rustic_registry::ExitStatus::Code(3));
    let failure = rustic_registry::Advance {
        reason: "it broke".to_owned(),
        exit,
        ..advance(&failed, claimed.epoch, Phase::Failed)
    };
    store.advance(&failure).await.unwrap();
    [store.get(&waits, View::Full).await.unwrap().unwrap(), store.get(&failed, View::Full).await.unwrap().unwrap()]
}

fn remember(record: &AgentRecord, had: &str) -> Remember {
    Remember { record: record.clone(), had: had.to_owned(), hold: HOLD }
}

async fn what_no_host_runs_is_remembered_while_hosts_tell_and_not_later(Run { store, restart, _redis }: Run) {
    let first = store.announce(&short("h-0", "i")).await.unwrap().generation;
    let [waits, failed] = unhosted(&store).await;
    assert_eq!(store.remember(&remember(&waits, &first)).await.unwrap(), Remembered::Void, "nothing was lost");
    // As if the store had lost them alone: its last writes.
    for record in [&waits, &failed] {
        store.release(&record.key, record.epoch, ReleaseGuard::Unhosted).await.unwrap();
    }
    restart();
    assert!(store.hosts().await.unwrap().held);
    for record in [&waits, &failed] {
        let known = store.remember(&remember(record, &first)).await.unwrap();
        assert_eq!(known, Remembered::Void, "what this run of the store counted it knows better");
    }

    // All of it is another store.
    for record in [&waits, &failed] {
        assert_eq!(store.remember(&remember(record, "elsewhere.1")).await.unwrap(), Remembered::Done);
        let again = store.remember(&remember(record, "elsewhere.1")).await.unwrap();
        assert_eq!(again, Remembered::Void, "it stands there");
        let there = store.get(&record.key, View::Full).await.unwrap().unwrap();
        assert_eq!(there, AgentRecord { host: None, incarnation: None, pid: None, accepted: None, ..record.clone() });
    }
    let pending = store.oldest(Queue::Pending, 0, 9, View::Basic).await.unwrap();
    assert_eq!(pending.iter().map(|r| &r.key).collect::<Vec<_>>(), [&waits.key], "it waits in line again");
    assert_eq!(store.hosts().await.unwrap().pending, 1);

    while store.hosts().await.unwrap().held {
        sleep(Duration::from_millis(10)).await;
    }
    store.release(&failed.key, failed.epoch, ReleaseGuard::Unhosted).await.unwrap();
    let late = store.remember(&remember(&failed, "elsewhere.1")).await.unwrap();
    assert_eq!(late, Remembered::Void, "it was stopped since");
    let placed = store.place(&waits.key, waits.epoch, &[host("h-0")]).await.unwrap();
    assert!(matches!(placed, PlaceOutcome::Placed(c) if c.epoch > waits.epoch && c.machine_id == waits.machine_id));
}

async fn whoever_has_the_later_claim_is_right(Run { store, restart, _redis }: Run) {
    let first = store.announce(&short("h-0", "i")).await.unwrap().generation;
    let [waits, failed] = unhosted(&store).await;
    restart();
    let now = store.hosts().await.unwrap().generation.unwrap();
    // A host got it before, and was told to give it up: the store that is told now does not know that.
    let (earlier, later) = (Epoch(waits.epoch.0 - 1), Epoch(failed.epoch.0 + 1));
    store.release(&waits.key, waits.epoch, ReleaseGuard::Reaped).await.unwrap();
    let told = Restore { had: Some("elsewhere.1".to_owned()), ..restore(&waits.key, earlier, "h-0", "i", &now) };
    assert_eq!(store.restore(&told).await.unwrap(), AdvanceOutcome::Done);
    assert_eq!(store.remember(&remember(&waits, "elsewhere.1")).await.unwrap(), Remembered::Done);
    let there = store.get(&waits.key, View::Basic).await.unwrap().unwrap();
    assert_eq!((there.phase, there.host, there.epoch), (Phase::Pending, None, waits.epoch));
    assert_eq!(used(&store).await, 0, "its room is free again");
    assert_eq!(store.restore(&told).await.unwrap(), AdvanceOutcome::Stale(waits.epoch), "the host ends it");

    // Another one runs by a claim that is later than what is remembered.
    let told = Restore { had: Some(first), ..restore(&failed.key, later, "h-0", "i", &now) };
    assert_eq!(store.restore(&told).await.unwrap(), AdvanceOutcome::Done);
    assert_eq!(store.remember(&remember(&failed, "elsewhere.1")).await.unwrap(), Remembered::Void);
    assert_eq!(store.get(&failed.key, View::Basic).await.unwrap().unwrap().phase, Phase::Running);
    assert_eq!(used(&store).await, 1000);
}

async fn used(store: &Arc<dyn Registry>) -> u64 {
    store.hosts().await.unwrap().hosts[0].used.milli("slots")
}

async fn a_host_that_lives_is_waited_for_however_long_it_takes_to_tell(Run { store, restart, _redis }: Run) {
    store.announce(&short("h-0", "i")).await.unwrap();
    restart();
    let generation = store.hosts().await.unwrap().generation.unwrap();
    let began = Instant::now();
    while began.elapsed() < HOLD + HOLD / 2 {
        store.renew(&renew("h-0", "i", LONG)).await.unwrap();
        assert!(store.hosts().await.unwrap().held, "its agents may run unseen");
        sleep(Duration::from_millis(50)).await;
    }
    store.renew(&Renew { told: Some(generation), ..renew("h-0", "i", LONG) }).await.unwrap();
    assert!(!store.hosts().await.unwrap().held);
}

async fn a_claim_of_somebody_who_has_not_told_yet_waits(Run { store, restart, _redis }: Run) {
    let before = store.announce(&short("h-0", "i")).await.unwrap().generation;
    restart();
    let after = store.hosts().await.unwrap().generation.unwrap();
    store.renew(&Renew { told: Some(after.clone()), ..renew("h-0", "i", LONG) }).await.unwrap();
    while store.hosts().await.unwrap().held {
        sleep(Duration::from_millis(10)).await;
    }
    let by = |knew: &str| Claim { knew: Some(knew.to_owned()), ..claim(&key("g", "a"), "r", "d", &["h-0"]) };
    assert_eq!(store.claim(&by(&before)).await.unwrap(), ClaimOutcome::Held, "hosts have told; the caller has not");
    assert!(matches!(store.claim(&by(&after)).await.unwrap(), ClaimOutcome::Claimed(_)));
}

async fn a_later_claim_that_was_forgotten_ends_what_is_known_of_the_agent(Run { store, restart, _redis }: Run) {
    store.announce(&short("h-0", "i")).await.unwrap();
    let (stopped, moved) = (key("g", "stopped"), key("g", "moved"));
    for agent in [&stopped, &moved] {
        let earlier = claimed(&store, agent, "r", &["h-0"]).await.epoch;
        restart();
        // What came after that claim was lost: its release, and another one, whose process has ended by now.
        let later = Epoch(earlier.0 + 1_000_000);
        let older = Epoch(earlier.0 - 1);
        let too_old = store.release(agent, older, ReleaseGuard::Reaped).await.unwrap();
        assert_eq!(too_old, ReleaseOutcome::Stale(earlier));
        let released = if *agent == stopped {
            store.release(agent, later, ReleaseGuard::Reaped).await.unwrap()
        } else {
            store.unplace(&unplace(agent, later, ReleaseGuard::Reaped, "it moves")).await.unwrap()
        };
        assert_eq!(released, ReleaseOutcome::Released);
        let record = store.get(agent, View::Basic).await.unwrap();
        if *agent == stopped {
            assert_eq!(record, None);
        } else {
            let record = record.unwrap();
            assert_eq!((record.phase, record.host), (Phase::Pending, None));
            assert!(record.epoch > later, "epochs never go back");
        }
        assert_eq!(used(&store).await, 0, "its room is free again");
        let generation = store.hosts().await.unwrap().generation;
        store.renew(&Renew { told: generation, ..renew("h-0", "i", LONG) }).await.unwrap();
        while store.hosts().await.unwrap().held {
            sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn an_older_claim_that_no_host_has_accepted_gives_way_even_after_hosts_have_told(
    Run { store, restart, _redis }: Run,
) {
    store.announce(&short("h-0", "i")).await.unwrap();
    let [waits, _] = unhosted(&store).await;
    store.release(&waits.key, waits.epoch, ReleaseGuard::Unhosted).await.unwrap();
    let older = claimed(&store, &waits.key, "r", &["h-0"]).await.epoch;
    restart();
    let generation = store.hosts().await.unwrap().generation;
    store.renew(&Renew { told: generation, ..renew("h-0", "i", LONG) }).await.unwrap();
    while store.hosts().await.unwrap().held {
        sleep(Duration::from_millis(10)).await;
    }
    let later = AgentRecord { epoch: Epoch(older.0 + 1), ..waits.clone() };
    assert_eq!(store.remember(&remember(&later, "elsewhere.1")).await.unwrap(), Remembered::Done);
    let there = store.get(&waits.key, View::Basic).await.unwrap().unwrap();
    assert_eq!((there.phase, there.epoch, used(&store).await), (Phase::Pending, later.epoch, 0));
    let accepts = store.advance(&advance(&waits.key, older, Phase::Starting)).await.unwrap();
    assert_eq!(accepts, AdvanceOutcome::Stale(later.epoch), "its host is too late");

    // One that a host has accepted may run: it stays.
    let PlaceOutcome::Placed(placed) = store.place(&waits.key, later.epoch, &[host("h-0")]).await.unwrap() else {
        panic!("there is room")
    };
    store.advance(&advance(&waits.key, placed.epoch, Phase::Starting)).await.unwrap();
    let latest = AgentRecord { epoch: Epoch(placed.epoch.0 + 1), ..waits };
    assert_eq!(store.remember(&remember(&latest, "elsewhere.1")).await.unwrap(), Remembered::Void);
}
