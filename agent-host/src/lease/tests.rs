//! The lease against a registry that can be cut off, in paused time.

use super::*;
use async_trait::async_trait;
use rustic_registry::{
    Advance, AdvanceOutcome, AgentKey, AgentRecord, Announced, Claim, ClaimOutcome, Cordon, Event, EventId, HostId,
    HostsView, Incarnation, Index, MemoryRegistry, Page, PlaceOutcome, Queue, ReleaseGuard, ReleaseOutcome, Remember,
    Remembered, Resources, Restore, UnixMillis, Unplace, View,
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
    ping() -> ();
    announce(request: &Announce) -> Announced;
    renew(request: &Renew) -> Renewal;
    depart(host: &HostId, incarnation: &Incarnation) -> ();
    claim(request: &Claim) -> ClaimOutcome;
    advance(request: &Advance) -> AdvanceOutcome;
    restore(request: &Restore) -> AdvanceOutcome;
    remember(request: &Remember) -> Remembered;
    release(key: &AgentKey, epoch: Epoch, guard: ReleaseGuard) -> ReleaseOutcome;
    unplace(request: &Unplace) -> ReleaseOutcome;
    place(key: &AgentKey, epoch: Epoch, candidates: &[HostId]) -> PlaceOutcome;
    cordon(host: &HostId, cordon: Cordon) -> bool;
    retire(host: &HostId, incarnation: &Incarnation, grace: Duration) -> bool;
    oldest(queue: Queue, skip: usize, limit: usize, view: View) -> Vec<AgentRecord>;
    get(key: &AgentKey, view: View) -> Option<AgentRecord>;
    list(index: &Index, after: Option<&AgentKey>, limit: usize, view: View) -> Page;
    hosts() -> HostsView;
    events(after: &EventId, limit: usize) -> (Vec<Event>, EventId);
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
        ttl: TIMES.ttl,
        highest_epoch: Epoch(0),
        succeeds: None,
        knew: None,
        hold: TIMES.ttl,
    }
}

fn keep(registry: &Arc<CutLine>, incarnation: &str) -> (LeaseHandle, CancellationToken) {
    let stop = CancellationToken::new();
    let (keeper, handle) = LeaseKeeper::new(announce(incarnation), TIMES, registry.clone(), Ambient::MACHINE);
    tokio::spawn(keeper.run(stop.clone()));
    (handle, stop)
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_lost_before_the_registry_calls_it_expired_and_comes_back() {
    let registry = CutLine::new();
    let (mut lease, _stop) = keep(&registry, "i");
    assert_eq!(lease.changed().await.state, Lease::Held);
    registry.cut(true);
    let cut_at = Instant::now();
    assert_eq!(lease.changed().await.state, Lease::Lost);
    assert!(cut_at.elapsed() <= TIMES.ttl - TIMES.margin, "{:?}", cut_at.elapsed());
    let view = registry.inner.hosts().await.expect("in memory");
    assert!(view.hosts[0].deadline > view.now, "the host must give up first");
    registry.cut(false);
    assert_eq!(lease.changed().await.state, Lease::Held);
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
