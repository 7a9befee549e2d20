//! The lease against a registry that can be cut off, in paused time.

use super::*;
use async_trait::async_trait;
use rustic_registry::{
    Advance, AdvanceOutcome, AgentKey, AgentRecord, Announced, AssignOutcome, Bring, Candidates, Claim, ClaimOutcome,
    Cordon, Drift, EventId, Events, HostId, HostsView, Incarnation, Index, Look, MemoryRegistry, Page, Queue,
    ReleaseGuard, ReleaseOutcome, Remember, Remembered, Resources, Restore, Retire, StoreLife, Unassign, UnixMillis,
    View,
};
use std::{collections::BTreeMap, sync::atomic::AtomicBool};

/// The in-memory registry behind a line that can be cut, or swallow what is sent.
struct CutLine {
    inner: MemoryRegistry,
    cut: AtomicBool,
    silent: AtomicBool,
}

impl CutLine {
    fn new() -> Arc<Self> {
        let start = Instant::now();
        let clock = move || UnixMillis(1_000_000 + start.elapsed().as_millis() as u64);
        Arc::new(Self {
            inner: MemoryRegistry::new(clock),
            cut: AtomicBool::new(false),
            silent: AtomicBool::new(false),
        })
    }

    fn cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::Relaxed);
    }

    fn swallow(&self, silent: bool) {
        self.silent.store(silent, Ordering::Relaxed);
    }

    async fn line(&self) -> Result<(), RegistryError> {
        if self.silent.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        match self.cut.load(Ordering::Relaxed) {
            false => Ok(()),
            true => Err(RegistryError::Timeout(Duration::from_secs(2))),
        }
    }
}

macro_rules! forward {
    ($($name:ident($($arg:ident: $type:ty),*) -> $out:ty;)+) => {
        #[async_trait]
        impl Registry for CutLine {
            $(async fn $name(&self, $($arg: $type),*) -> Result<$out, RegistryError> {
                self.line().await?;
                self.inner.$name($($arg),*).await
            })+
        }
    };
}

forward! {
    announce(request: &Announce) -> Announced;
    renew(request: &Renew) -> Renewal;
    depart(host: &HostId, incarnation: &Incarnation) -> ();
    claim(request: &Claim) -> ClaimOutcome;
    advance(request: &Advance) -> AdvanceOutcome;
    restore(request: &Restore) -> AdvanceOutcome;
    remember(request: &Remember) -> Remembered;
    release(key: &AgentKey, epoch: Epoch, guard: ReleaseGuard) -> ReleaseOutcome;
    unassign(request: &Unassign) -> ReleaseOutcome;
    assign(key: &AgentKey, epoch: Epoch, candidates: &Candidates) -> AssignOutcome;
    cordon(host: &HostId, cordon: Cordon) -> bool;
    audit(host: &HostId) -> Option<Drift>;
    retire(request: &Retire) -> bool;
    forget(host: &HostId, incarnation: &Incarnation) -> bool;
    bring(request: &Bring) -> ();
    settle(store: &StoreLife, watched: bool) -> bool;
    bury(key: &AgentKey) -> bool;
    oldest(queue: Queue, skip: usize, limit: usize, view: View) -> Vec<AgentRecord>;
    get(key: &AgentKey, view: View) -> Option<AgentRecord>;
    list(index: &Index, after: Option<&AgentKey>, limit: usize, view: View) -> Page;
    hosts() -> HostsView;
    look() -> Look;
    events(after: EventId, limit: usize, wait: Duration) -> Events;
}

const TIMES: LeaseTimes =
    LeaseTimes { ttl: Duration::from_secs(10), renew_every: Duration::from_secs(3), margin: Duration::from_secs(2) };

fn announce(incarnation: &str) -> Announce {
    Announce {
        host: "h-0".parse().expect("valid"),
        incarnation: incarnation.parse().expect("valid"),
        address: "h-0:1".to_owned(),
        dns_name: String::new(),
        capacity: Resources::one_slot(),
        labels: BTreeMap::new(),
        version: String::new(),
        state: HostState::Ready,
        cordoned: false,
        ttl: TIMES.ttl,
        lasts: TIMES.ttl + TIMES.margin,
        highest_epoch: Epoch(0),
        highest_life: HostLife::default(),
        succeeds: None,
        store_life: None,
        reported: None,
    }
}

fn keep(registry: &Arc<CutLine>, incarnation: &str) -> (LeaseHandle, CancellationToken) {
    let stop = CancellationToken::new();
    let (renewer, handle) =
        LeaseRenewer::new(announce(incarnation), TIMES, registry.clone(), Ambient::MACHINE, Box::new(|_| ()));
    tokio::spawn(renewer.run(stop.clone()));
    (handle, stop)
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_lost_by_this_hosts_own_clock_and_comes_back() {
    let registry = CutLine::new();
    let (mut lease, _stop) = keep(&registry, "i");
    assert_eq!(lease.changed().await.state, Lease::Held);
    registry.cut(true);
    let cut_at = Instant::now();
    assert_eq!(lease.changed().await.state, Lease::Lost);
    assert!(cut_at.elapsed() <= TIMES.ttl - TIMES.margin, "{:?}", cut_at.elapsed());
    registry.cut(false);
    assert_eq!(lease.changed().await, LeaseView { state: Lease::Held, losses: 1 });
}

/// What somebody does who has seen so many renewals of the first lease for long enough.
async fn retire(registry: &CutLine, renewals: u64) -> bool {
    let store = registry.inner.hosts().await.expect("in memory").store_life.expect("a life");
    let (host, incarnation) = ("h-0".parse().expect("an id"), "i".parse().expect("an id"));
    let retire = Retire { host, incarnation, seen: (HostLife(1), renewals), store_life: store };
    registry.inner.retire(&retire).await.expect("in memory")
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_was_taken_is_lost_at_once_and_another_one_is_announced() {
    let registry = CutLine::new();
    let (mut lease, _stop) = keep(&registry, "i");
    assert_eq!(lease.changed().await.state, Lease::Held);
    let before = Instant::now();
    assert!(retire(&registry, 0).await, "nobody has renewed it yet");
    let back = lease.changed().await;
    assert_eq!((back, before.elapsed()), (LeaseView { state: Lease::Held, losses: 1 }, TIMES.renew_every));
    let view = registry.inner.hosts().await.expect("in memory");
    assert_eq!(view.hosts.iter().map(|h| h.life).collect::<Vec<_>>(), [HostLife(2)]);
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_somebody_asked_for_is_restored_to_a_store_that_was_lost() {
    let registry = CutLine::new();
    let (mut lease, _stop) = keep(&registry, "i");
    assert_eq!(lease.changed().await.state, Lease::Held);
    let host = "h-0".parse().expect("an id");
    registry.inner.cordon(&host, Cordon::On).await.expect("in memory");
    tokio::time::sleep(TIMES.renew_every * 2).await;
    registry.inner.wipe();
    tokio::time::sleep(TIMES.renew_every * 2).await;
    let view = registry.inner.hosts().await.expect("in memory");
    assert_eq!((view.hosts[0].cordoned, lease.current().losses), (true, 0));
    registry.inner.cordon(&host, Cordon::Off).await.expect("in memory");
    tokio::time::sleep(TIMES.renew_every * 2).await;
    assert!(registry.inner.hosts().await.expect("in memory").hosts[0].takes_agents());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_given_up_with_the_lease_is_made_again_at_once() {
    let registry = CutLine::new();
    let (mut lease, _stop) = keep(&registry, "i");
    assert_eq!(lease.changed().await.state, Lease::Held);
    let held_at = Instant::now();
    registry.swallow(true);
    // The renewal is on its way, and will never be answered; the next one would be.
    tokio::time::sleep(TIMES.renew_every + Duration::from_secs(1)).await;
    registry.swallow(false);
    // Lost and held again, too quickly to be seen one after the other.
    assert_eq!(lease.changed().await, LeaseView { state: Lease::Held, losses: 1 });
    assert_eq!(held_at.elapsed(), TIMES.ttl - TIMES.margin);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_finds_no_registry_at_start_announces_when_there_is_one() {
    let registry = CutLine::new();
    registry.cut(true);
    let (mut lease, _stop) = keep(&registry, "i");
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(lease.current().state, Lease::Waiting);
    registry.cut(false);
    assert_eq!(lease.changed().await.state, Lease::Held);
}

#[tokio::test(start_paused = true)]
async fn a_wiped_registry_gets_the_host_announced_again() {
    let registry = CutLine::new();
    let (mut lease, _stop) = keep(&registry, "i");
    assert_eq!(lease.changed().await.state, Lease::Held);
    registry.inner.wipe();
    tokio::time::sleep(TIMES.renew_every * 2).await;
    assert_eq!(registry.inner.hosts().await.expect("in memory").hosts.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_superseded_host_learns_it_at_its_next_renewal() {
    let registry = CutLine::new();
    let (mut lease, _stop) = keep(&registry, "old");
    assert_eq!(lease.changed().await.state, Lease::Held);
    registry.announce(&announce("new")).await.expect("in memory");
    assert_eq!(lease.changed().await.state, Lease::Superseded);
}

#[tokio::test(start_paused = true)]
async fn a_stopped_host_leaves_the_registry() {
    let registry = CutLine::new();
    let (mut lease, stop) = keep(&registry, "i");
    assert_eq!(lease.changed().await.state, Lease::Held);
    stop.cancel();
    while !registry.inner.hosts().await.expect("in memory").hosts.is_empty() {
        tokio::task::yield_now().await;
    }
}
