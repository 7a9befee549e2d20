//! What this engine knows of the hosts: a view that is read from the registry every so often, so that placing an agent
//! costs no walk over the hosts in Redis; and how long each of them has been silent, by this engine's own clock.
//!
//! The view may be stale: the registry's claim decides, the view only proposes. What this engine claimed since a
//! reading began is added to it, so that a burst does not land on one host. Readings that overtake one another do not set it back.
//!
//! ```text
//!   store's life      first seen ──▶ told (all that this engine knows of a former one) ──▶ watched as long as any lease lasts ──▶ settled
//!   a host's renewal  first seen ──────▶ silent for TTL + grace ──▶ retired, if it has not renewed since
//! ```

mod avoided;

use crate::{
    backoff,
    too_large::{self, TooLarge},
};
use avoided::Avoided;
use rustic_core::placement::{self, Policy};
use rustic_registry::{
    AgentKey, AgentRecord, Bring, Epoch, FormerState, HostId, HostLife, HostRecord, HostsView, Incarnation, Index,
    Observer, Queue, Registry, RegistryError, Resources, Retire, Stops, StoreLife, View,
};
use rustic_telemetry::pulse::{self, Pulse};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Most hosts a claim is offered: more would make the script longer without making it luckier.
const CANDIDATES: usize = 8;

/// Agents read at once, and most agents that wait which are looked at one by one.
const PAGE: usize = 200;
const WAITING: usize = 1_000;

/// Age at which the view says nothing about a single host any more. Well below any lease.
const TOO_OLD: Duration = Duration::from_secs(2);

/// Stops that are remembered for a store that is lost: the latest.
const STOPS: usize = 2_000;

/// The view.
pub struct Fleet {
    registry: Arc<dyn Registry>,
    policy: Policy,
    turn: AtomicUsize,
    known: Mutex<Known>,
    avoided: Mutex<Avoided>,
}

/// The hosts at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FleetView {
    /// As the registry tells it.
    pub registry: HostsView,
    /// Hosts that have not renewed their leases for longer than those last, by this engine's clock.
    pub silent: BTreeSet<HostId>,
}

impl FleetView {
    /// Hosts that hold a lease and were heard of lately.
    pub fn alive(&self) -> impl Iterator<Item = &HostRecord> {
        self.registry.hosts.iter().filter(|h| !self.silent.contains(&h.host))
    }
}

#[derive(Default)]
struct Known {
    view: HostsView,
    /// When that was read; `None` before the first reading.
    at: Option<Instant>,
    observer: Observer,
    /// Readings that were begun, and the latest of them that was taken in.
    begun: u64,
    taken_in: u64,
    /// What this engine claimed, and how many readings had begun before.
    reserved: Vec<(u64, HostId, Resources)>,
    /// The life of the store that this engine has told what it remembers; of the first that it saw there is nothing to tell. A
    /// store that has none was lost.
    told: Option<StoreLife>,
    /// What was seen in that life, for the next one.
    seen: Seen,
}

/// What an engine brings to a store that was lost, beside the agents that no host runs.
#[derive(Default)]
struct Seen {
    hosts: BTreeMap<(HostId, Incarnation), Duration>,
    stopped: VecDeque<(AgentKey, Epoch)>,
    highest_epoch: Epoch,
    highest_life: HostLife,
}

impl Fleet {
    /// An empty view.
    pub fn new(registry: Arc<dyn Registry>, policy: Policy) -> Self {
        Self { registry, policy, turn: AtomicUsize::new(0), known: Mutex::default(), avoided: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Held for reading and replacing only; a panic cannot leave it half-changed.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the hosts again.
    pub async fn refresh(&self) -> Result<(), RegistryError> {
        let number = self.known().begin();
        let view = self.registry.hosts().await?;
        self.known().take_in(number, view, Instant::now());
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

    /// The hosts as they were read last.
    pub fn view(&self) -> FleetView {
        let known = self.known();
        let now = Instant::now();
        let silent = known.view.hosts.iter().filter(|h| !known.hears(h, now)).map(|h| h.host.clone()).collect();
        FleetView { registry: known.view.clone(), silent }
    }

    /// Hosts that were heard of lately.
    pub fn alive(&self) -> BTreeSet<HostId> {
        let known = self.known();
        let now = Instant::now();
        known.view.hosts.iter().filter(|h| known.hears(h, now)).map(|h| h.host.clone()).collect()
    }

    /// Processes of hosts that have been silent for as long as their leases last, times `slack`.
    pub fn silent(&self, slack: f64) -> Vec<Retire> {
        self.known().observer.silent(Instant::now(), slack)
    }

    /// A life of the store that settles, if this engine has told it all it knows; and whether it was watched for as long as any lease
    /// lasts, which is `longest` at least, times `slack`.
    pub fn settling(&self, longest: Duration, slack: f64) -> Option<(StoreLife, bool)> {
        let known = self.known();
        let store = known.view.store.clone().filter(|_| known.view.held)?;
        let lasts = known.view.hosts.iter().map(|h| h.lasts).chain(known.seen.hosts.values().copied());
        let longest = lasts.fold(longest, Duration::max).mul_f64(slack);
        let watched = known.observer.watched(&store, Instant::now()) >= longest;
        (known.told.as_ref() == Some(&store)).then_some((store, watched))
    }

    /// What this engine brings to a store in another life.
    pub fn brings(&self, had: StoreLife) -> Bring {
        let known = self.known();
        let Seen { hosts, stopped, highest_epoch, highest_life } = &known.seen;
        let hosts = hosts.iter().map(|((host, process), lasts)| (host.clone(), process.clone(), *lasts));
        Bring {
            had,
            hosts: hosts.collect(),
            stopped: stopped.iter().cloned().collect(),
            highest_epoch: *highest_epoch,
            highest_life: *highest_life,
        }
    }

    /// An agent was seen under this epoch.
    pub fn saw(&self, epoch: Epoch) {
        let mut known = self.known();
        known.seen.highest_epoch = known.seen.highest_epoch.max(epoch);
    }

    /// An agent was stopped.
    pub fn saw_stop(&self, key: &AgentKey, epoch: Epoch) {
        let stopped = &mut self.known().seen.stopped;
        if stopped.len() == STOPS {
            stopped.pop_front();
        }
        stopped.push_back((key.clone(), epoch));
    }

    /// Stops that the store had counted at the last reading.
    pub fn stops(&self) -> Stops {
        self.known().view.stops
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
        let (known, now) = (self.known(), Instant::now());
        placement::place(self.policy, known.view.hosts.iter().filter(|h| known.hears(h, now)), &request)
    }

    /// What an agent asks for that no host could ever give, by what is known.
    pub fn too_large(&self, demand: &Resources) -> Option<TooLarge> {
        too_large::too_large(&self.view(), demand)
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
        Ok(known.view.held || known.told != known.view.store)
    }

    /// The life of the store that this engine has told what it remembers, even if that was lost since.
    pub fn store(&self) -> Option<StoreLife> {
        self.known().told.clone()
    }

    /// This life of the store was told all that this engine remembers.
    pub fn has_told(&self, store: StoreLife) {
        self.known().told = Some(store);
    }

    /// Whether any host lives.
    pub fn has_hosts(&self) -> bool {
        !self.alive().is_empty()
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

    /// Notes a claim of our own, for readings that began before it.
    pub fn reserve(&self, host: &HostId, demand: &Resources) {
        let mut known = self.known();
        let begun = known.begun;
        known.reserved.push((begun, host.clone(), demand.clone()));
        add(&mut known.view, host, demand);
    }

    /// What is known of one host. `None` too when the view is too old to tell.
    pub fn host(&self, host: &HostId) -> Option<HostRecord> {
        let known = self.known();
        known.at.filter(|at| at.elapsed() <= TOO_OLD)?;
        known.view.hosts.iter().find(|h| h.host == *host).cloned()
    }

    /// Whether a process of a host was retired or has ended, as far as this engine knows.
    pub fn is_over(&self, host: &HostId, incarnation: &Incarnation) -> bool {
        self.known().view.is_over(host, incarnation)
    }
}

impl Known {
    fn begin(&mut self) -> u64 {
        self.begun += 1;
        self.begun
    }

    /// Takes in a reading, unless a later one was taken in before.
    fn take_in(&mut self, number: u64, mut view: HostsView, now: Instant) {
        if number < self.taken_in {
            return;
        }
        self.taken_in = number;
        self.tell_changes(&view);
        self.observer.look(&view, now);
        // Claims that the reading may not have seen.
        self.reserved.retain(|(begun, _, _)| *begun >= number);
        self.reserved.iter().for_each(|(_, host, demand)| add(&mut view, host, demand));
        self.told = self.told.take().or_else(|| view.store.clone());
        if self.told == view.store {
            let current = view.hosts.iter().map(|h| ((h.host.clone(), h.incarnation.clone()), h.lasts));
            let former = view.former.iter().filter(|f| f.state != FormerState::Over);
            let former = former.map(|f| ((f.host.clone(), f.incarnation.clone()), f.lasts));
            self.seen.hosts = current.chain(former).collect();
            let highest = view.hosts.iter().map(|h| h.life).max();
            self.seen.highest_life = self.seen.highest_life.max(highest.unwrap_or_default());
        }
        (self.view, self.at) = (view, Some(now));
    }

    fn tell_changes(&self, view: &HostsView) {
        let names = |view: &HostsView| view.hosts.iter().map(|h| h.host.clone()).collect::<BTreeSet<_>>();
        let (before, after) = (names(&self.view), names(view));
        after.difference(&before).for_each(|host| info!(%host, "host joined"));
        for host in before.difference(&after) {
            if view.former.iter().any(|f| f.host == *host) {
                warn!(%host, "host was retired, or left agents behind");
            } else {
                info!(%host, "host left");
            }
        }
    }

    fn hears(&self, host: &HostRecord, now: Instant) -> bool {
        self.observer.is_heard(&host.host, &host.incarnation, now)
    }
}

fn add(view: &mut HostsView, host: &HostId, demand: &Resources) {
    if let Some(record) = view.hosts.iter_mut().find(|h| h.host == *host) {
        record.used.add(demand);
    }
}
