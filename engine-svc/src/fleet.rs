//! What this engine knows of the hosts: a view that is read from the registry every so often, so that placing an agent
//! costs no walk over the hosts in Redis.
//!
//! The view may be stale: the registry's claim decides, the view only proposes. What this engine claimed since the last
//! reading is added to it, so that a burst does not land on one host.

mod avoided;

use crate::{
    backoff,
    placement::{self, Policy},
};
use avoided::Avoided;
use rustic_registry::{
    AgentRecord, HostId, HostRecord, HostsView, Index, Queue, Registry, RegistryError, Resources, StoreClock,
    UnixMillis, View,
};
use rustic_telemetry::pulse::{self, Pulse};
use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Most hosts a claim is offered: more would make the script longer without making it luckier.
const CANDIDATES: usize = 8;

/// Agents read at once, and most agents that wait which are looked at one by one.
const PAGE: usize = 200;
const WAITING: usize = 1_000;

/// Age at which the view says nothing about a single host any more. Well below any lease.
const TOO_OLD: Duration = Duration::from_secs(2);

/// The view.
pub struct Fleet {
    registry: Arc<dyn Registry>,
    policy: Policy,
    turn: AtomicUsize,
    known: Mutex<Known>,
    avoided: Mutex<Avoided>,
}

struct Known {
    view: HostsView,
    /// `None` before the first reading.
    clock: Option<StoreClock>,
    /// The life of the store that this engine has told what it remembers; of the first that it saw there is nothing to tell. A
    /// store that has none was lost, and is in none until a host comes.
    told: Option<String>,
}

impl Fleet {
    /// An empty view.
    pub fn new(registry: Arc<dyn Registry>, policy: Policy) -> Self {
        let known = Known { view: HostsView::default(), clock: None, told: None };
        Self { registry, policy, turn: AtomicUsize::new(0), known: Mutex::new(known), avoided: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Held for reading and replacing only; a panic cannot leave it half-changed.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the hosts again.
    pub async fn refresh(&self) -> Result<(), RegistryError> {
        let view = self.registry.hosts().await?;
        let mut known = self.known();
        let before: BTreeSet<_> = alive(&known.view).collect();
        let after: BTreeSet<_> = alive(&view).collect();
        after.difference(&before).for_each(|host| info!(%host, "host joined"));
        for host in before.difference(&after) {
            if view.hosts.iter().any(|h| h.host == **host) {
                warn!(%host, "host let its lease run out");
            } else {
                info!(%host, "host left");
            }
        }
        drop((before, after));
        let told = known.told.take().or_else(|| view.generation.clone());
        *known = Known { clock: Some(StoreClock::told(view.now)), view, told };
        Ok(())
    }

    /// Keeps the view fresh until `stop`. A reading that fails is told by the health of this engine.
    pub async fn keep_fresh(self: Arc<Self>, every: Duration, stop: CancellationToken) {
        let mut failures = 0;
        let mut pause = Duration::ZERO;
        let pulse = Pulse::of("the view of the hosts", pulse::TURN);
        // Cancel-safe: a reading that is cut off has changed nothing.
        while pulse.waits(stop.run_until_cancelled(sleep(pause))).await.is_some() {
            match self.refresh().await {
                Ok(()) => failures = 0,
                Err(error) => {
                    failures += 1;
                    tracing::debug!(%error, failures, "the hosts could not be read");
                }
            }
            pause = if failures == 0 { every } else { backoff::delay(failures, rand::random()) };
        }
    }

    /// The hosts as they were read last, and the store's time then.
    pub fn view(&self) -> HostsView {
        self.known().view.clone()
    }

    /// Hosts whose lease lasted when they were read last.
    pub fn alive(&self) -> BTreeSet<HostId> {
        alive(&self.known().view).cloned().collect()
    }

    /// Hosts to offer a claim, best first; those that lacked something a moment ago come last.
    pub fn candidates(&self, demand: &Resources, excluded: &BTreeSet<HostId>) -> Vec<HostId> {
        self.place(demand, excluded, &self.avoided().now())
    }

    /// The same without those that lacked something a moment ago: for an agent that can wait.
    pub fn willing(&self, demand: &Resources, excluded: &BTreeSet<HostId>) -> Vec<HostId> {
        let avoided = self.avoided().now();
        let mut hosts = self.place(demand, excluded, &avoided);
        hosts.retain(|host| !avoided.contains(host));
        hosts
    }

    fn place(&self, demand: &Resources, excluded: &BTreeSet<HostId>, avoided: &BTreeSet<HostId>) -> Vec<HostId> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let request = placement::Request { demand, excluded, avoided, turn, limit: CANDIDATES };
        let known = self.known();
        placement::place(self.policy, &known.view.hosts, known.store_time(), &request)
    }

    /// A host said that it lacks what every process needs: others are preferred for a while.
    pub fn avoid(&self, host: &HostId) {
        self.avoided().add(host);
    }

    fn avoided(&self) -> MutexGuard<'_, Avoided> {
        self.avoided.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the registry was lost, and hosts or this engine are telling it what they know, or will: asks anew.
    pub async fn is_telling(&self) -> Result<bool, RegistryError> {
        self.refresh().await?;
        let known = self.known();
        Ok(known.view.held || known.told != known.view.generation)
    }

    /// The life of the store that this engine has told what it remembers, even if that was lost since.
    pub fn store(&self) -> Option<String> {
        self.known().told.clone()
    }

    /// This life of the store was told all that this engine remembers.
    pub fn has_told(&self, store: String) {
        self.known().told = Some(store);
    }

    /// Whether any host lives.
    pub fn has_hosts(&self) -> bool {
        let known = self.known();
        let now = known.store_time();
        known.view.hosts.iter().any(|h| h.deadline > now)
    }

    /// Every agent on a host.
    pub async fn agents_on(&self, host: &HostId) -> Result<Vec<AgentRecord>, RegistryError> {
        let (mut agents, mut after) = (vec![], None);
        loop {
            let page = self.registry.list(&Index::Host(host.clone()), after.as_ref(), PAGE, View::Basic).await?;
            agents.extend(page.agents);
            after = page.next;
            if after.is_none() {
                return Ok(agents);
            }
        }
    }

    /// What the agents need that wait for room, the oldest of them.
    pub async fn waiting(&self) -> Result<Vec<Resources>, RegistryError> {
        let mut demands = vec![];
        while demands.len() < WAITING {
            let page = self.registry.oldest(Queue::Pending, demands.len(), PAGE, View::Basic).await?;
            let full = page.len() == PAGE;
            demands.extend(page.into_iter().map(|agent| agent.demand));
            if !full {
                break;
            }
        }
        Ok(demands)
    }

    /// Notes a claim of our own until the next reading.
    pub fn reserve(&self, host: &HostId, demand: &Resources) {
        if let Some(record) = self.known().view.hosts.iter_mut().find(|h| h.host == *host) {
            record.used.add(demand);
        }
    }

    /// What is known of one host, and the store's time now. `None` too when the view is too old to tell.
    pub fn host(&self, host: &HostId) -> Option<(HostRecord, UnixMillis)> {
        let known = self.known();
        known.clock.filter(|clock| clock.age() <= TOO_OLD)?;
        let record = known.view.hosts.iter().find(|h| h.host == *host)?;
        Some((record.clone(), known.store_time()))
    }
}

impl Known {
    /// The store's clock, as far as it went on since the last reading.
    fn store_time(&self) -> UnixMillis {
        self.clock.map_or(self.view.now, |clock| clock.now())
    }
}

fn alive(view: &HostsView) -> impl Iterator<Item = &HostId> {
    view.hosts.iter().filter(|h| h.deadline > view.now).map(|h| &h.host)
}
