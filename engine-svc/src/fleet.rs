//! What this engine knows of the hosts: a view that is read from the registry when something has changed, so that placing an agent
//! costs no walk over the hosts in Redis; and how long each of them has been silent, by this engine's own clock. The renewals of all
//! hosts are looked at all the time, which is one command however many they are.
//!
//! The view may be stale: the registry's claim decides, the view only proposes. What this engine claimed since a
//! reading began is added to it, so that a burst does not land on one host. Readings that overtake one another do not set it back.
//!
//! ```text
//!   a store life      first seen ──▶ restored (all that this engine knows of the former one) ──▶ watched for the longest lease ──▶ settled
//!   a host's renewal  first seen ──────▶ silent for TTL + grace ──▶ retired, if it has not renewed since
//! ```

mod avoided;
mod known;
mod moves;

use crate::{
    backoff,
    changes::Changes,
    rounds::{Chance, Wake},
    shortage::{self, Shortage},
};
use avoided::Avoided;
use known::Known;
use moves::Moves;
use rustic_core::placement::{self, Policy};
use rustic_registry::{
    AgentKey, AgentReason, AgentRecord, Bring, Candidates, Epoch, Events, GuildKey, HostId, HostRecord, HostsView,
    Incarnation, Index, Queue, Registry, RegistryError, Resources, Retire, Stops, StoreLife, View,
};
use rustic_telemetry::{
    outage::Outage,
    pulse::{self, Pulse},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

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
    /// Where round robin goes on.
    turn: AtomicUsize,
    known: Mutex<Known>,
    avoided: Mutex<Avoided>,
    moves: Mutex<Moves>,
    changes: Arc<Changes>,
    store: watch::Sender<Option<StoreLife>>,
    reach: watch::Sender<Option<Result<(), String>>>,
}

/// Hosts that are offered to a claim. The view counts the claim on the first of them until this is dropped or taken.
pub struct Offer<'a> {
    fleet: &'a Fleet,
    /// The hosts.
    pub candidates: Candidates,
    number: Option<u64>,
}

impl Offer<'_> {
    /// A host was claimed: the view counts the claim there from now on.
    pub fn taken(mut self, epoch: Epoch, host: &HostId, takes: &Resources) {
        let mut known = self.fleet.known();
        known.withdraw(self.number.take());
        known.reserve(epoch, host, takes);
    }
}

impl Drop for Offer<'_> {
    fn drop(&mut self) {
        self.fleet.known().withdraw(self.number.take());
    }
}

/// The hosts at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FleetView {
    /// As the registry has it.
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

impl Fleet {
    /// An empty view.
    pub fn new(registry: Arc<dyn Registry>, policy: Policy, changes: Arc<Changes>) -> Self {
        Self {
            registry,
            turn: AtomicUsize::new(0),
            known: Mutex::new(Known::new(policy)),
            avoided: Mutex::default(),
            moves: Mutex::default(),
            changes,
            store: watch::Sender::default(),
            reach: watch::Sender::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Held for reading and replacing only; a panic cannot leave it half-changed.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the hosts again.
    pub async fn refresh(&self) -> Result<(), RegistryError> {
        let reading = self.known().begin(self.changes.moved());
        let read = self.registry.hosts().await;
        self.show_reach(&read);
        let store = {
            let mut known = self.known();
            known.take_in(reading, read?, Instant::now());
            known.view.store_life.clone()
        };
        self.store.send_if_modified(|seen| std::mem::replace(seen, store.clone()) != store);
        Ok(())
    }

    /// Reads the hosts again if anything has changed since they were read.
    pub async fn catch_up(&self) -> Result<(), RegistryError> {
        if self.known().is_behind(self.changes.moved()) { self.refresh().await } else { Ok(()) }
    }

    /// Looks which leases there are, and how often they were renewed; reads the hosts if they are not the ones that are known.
    async fn look(&self) -> Result<(), RegistryError> {
        let reading = self.known().begin(self.changes.moved());
        let look = self.registry.look().await;
        self.show_reach(&look);
        let look = look?;
        if self.known().take_in_look(reading, &look, Instant::now()) { Ok(()) } else { self.refresh().await }
    }

    fn show_reach<T>(&self, answer: &Result<T, RegistryError>) {
        let reach = answer.as_ref().map(|_| ()).map_err(ToString::to_string);
        self.reach.send_if_modified(|known| known.replace(reach.clone()) != Some(reach));
    }

    /// Whether the registry answered when it was asked last, and why not; `None` before the first answer.
    pub fn reach(&self) -> watch::Receiver<Option<Result<(), String>>> {
        self.reach.subscribe()
    }

    /// The store's life, as it was seen last.
    pub fn store_life_seen(&self) -> watch::Receiver<Option<StoreLife>> {
        self.store.subscribe()
    }

    /// Takes in what changes show: of a store, for the case that it is lost; and of agents that are moved.
    pub fn saw_changes(&self, events: &Events) {
        let now = Instant::now();
        let moved = events.agents().filter(|agent| agent.reason == Some(AgentReason::Rebalanced));
        moved.for_each(|agent| self.moves().saw(&agent.key.guild, now));
        let mut known = self.known();
        for agent in events.agents() {
            known.seen.saw(agent.epoch);
            if agent.phase.is_none() {
                known.seen.saw_stop(&agent.key, agent.epoch);
            }
        }
    }

    /// Agents of a guild that were moved within an hour to even out load.
    pub fn moves_of(&self, guild: &GuildKey) -> usize {
        self.moves().of(guild, Instant::now())
    }

    /// Time since any agent was moved to even out load.
    pub fn since_moved(&self) -> Option<Duration> {
        self.moves().rest(Instant::now())
    }

    fn moves(&self) -> MutexGuard<'_, Moves> {
        self.moves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the view fresh until `stop`: looks `every` so often at the renewals, sooner where leases are short, and when a host has been
    /// silent for as long as its lease lasts, times `slack`; then `wake` is notified. Reads all of the hosts when one of them changed.
    pub async fn keep_fresh(
        self: Arc<Self>,
        every: Duration,
        slack: f64,
        wake: Wake,
        chance: Chance,
        stop: CancellationToken,
    ) {
        let mut outage = Outage::of("reading the hosts from the registry");
        let mut pause = Duration::ZERO;
        let pulse = Pulse::of("the view of the hosts", pulse::TURN);
        // Cancel-safe: a reading that is cut off has changed nothing.
        while pulse.waits(stop.run_until_cancelled(sleep(pause))).await.is_some() {
            let behind = self.known().is_behind(self.changes.moved());
            let seen = if behind { self.refresh().await } else { self.look().await };
            match seen {
                Ok(()) => _ = outage.over(),
                Err(error) => _ = outage.failed(&error),
            }
            if !self.silent(slack).is_empty() {
                wake.silent();
            }
            pause = match outage.failures() {
                0 => self.next_look(every, slack),
                n => backoff::delay(n, chance()),
            };
        }
    }

    fn next_look(&self, every: Duration, slack: f64) -> Duration {
        let observer = &self.known().observer;
        let sooner = [observer.next_due(Instant::now(), slack), observer.look_within()];
        sooner.into_iter().flatten().fold(every, Duration::min)
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

    /// The store life that settles, if this engine has restored to it all that it knows; and whether it was watched for as long as any
    /// lease lasts, which is `longest` at least, times `slack`.
    pub fn settling(&self, longest: Duration, slack: f64) -> Option<(StoreLife, bool)> {
        let known = self.known();
        let store = known.view.store_life.clone().filter(|_| known.view.held)?;
        let lasts = known.view.hosts.iter().map(|h| h.lasts).chain(known.seen.hosts.values().copied());
        let longest = lasts.fold(longest, Duration::max).mul_f64(slack);
        let watched = known.observer.watched(&store, Instant::now()) >= longest;
        (known.restored.as_ref() == Some(&store)).then_some((store, watched))
    }

    /// What this engine brings to a store in another life.
    pub fn brings(&self, former_store_life: StoreLife) -> Bring {
        self.known().seen.brings(former_store_life)
    }

    /// An agent was seen under this epoch.
    pub fn saw(&self, epoch: Epoch) {
        self.known().seen.saw(epoch);
    }

    /// An agent was stopped.
    pub fn saw_stop(&self, key: &AgentKey, epoch: Epoch) {
        self.known().seen.saw_stop(key, epoch);
    }

    /// Stops that the store had counted at the last reading.
    pub fn stops(&self) -> Stops {
        self.known().view.stops
    }

    /// Hosts to offer a claim, best first; those that lacked something a moment ago come last. Until the claim is answered, the view counts
    /// it on the first of them.
    pub fn offer(
        &self,
        demand: &Resources,
        preferred: &BTreeMap<String, String>,
        excluded: &BTreeSet<HostId>,
    ) -> Offer<'_> {
        let avoided = self.avoided().now();
        let mut known = self.known();
        let candidates = self.place(&known, demand, preferred, excluded, &avoided);
        self.count(&mut known, candidates, demand)
    }

    /// The same without those that lacked something a moment ago: for an agent that can wait.
    pub fn offer_willing(&self, demand: &Resources, excluded: &BTreeSet<HostId>) -> Offer<'_> {
        let avoided = self.avoided().now();
        let mut known = self.known();
        let mut candidates = self.place(&known, demand, &BTreeMap::new(), excluded, &avoided);
        candidates.hosts.retain(|host| !avoided.contains(host));
        self.count(&mut known, candidates, demand)
    }

    /// Whether an agent that can wait would find room.
    pub fn has_room(&self, demand: &Resources, excluded: &BTreeSet<HostId>) -> bool {
        !self.offer_willing(demand, excluded).candidates.is_empty()
    }

    /// All hosts on which an agent could be placed, best first; no turn is taken.
    pub fn order(&self, demand: &Resources, preferred: &BTreeMap<String, String>) -> Vec<HostId> {
        let (avoided, excluded) = (self.avoided_now(), BTreeSet::new());
        let known = self.known();
        let turn = self.turn.load(Ordering::Relaxed);
        let request = placement::Request {
            demand,
            excluded: &excluded,
            avoided: &avoided,
            preferred,
            turn,
            limit: known.view.hosts.len(),
        };
        known.candidates(&request, Instant::now()).0.hosts
    }

    /// Hosts that lacked something a moment ago.
    pub fn avoided_now(&self) -> BTreeSet<HostId> {
        self.avoided().now()
    }

    fn place(
        &self,
        known: &Known,
        demand: &Resources,
        preferred: &BTreeMap<String, String>,
        excluded: &BTreeSet<HostId>,
        avoided: &BTreeSet<HostId>,
    ) -> Candidates {
        let turn = self.turn.load(Ordering::Relaxed);
        let request = placement::Request { demand, excluded, avoided, preferred, turn, limit: CANDIDATES };
        let (candidates, next) = known.candidates(&request, Instant::now());
        self.turn.store(next.unwrap_or(turn), Ordering::Relaxed);
        candidates
    }

    fn count(&self, known: &mut Known, candidates: Candidates, demand: &Resources) -> Offer<'_> {
        let number = candidates.hosts.first().map(|first| known.expect(first, demand));
        Offer { fleet: self, candidates, number }
    }

    /// What an agent asks for that no host could ever give, by what is known.
    pub fn too_large(&self, demand: &Resources) -> Option<Shortage> {
        shortage::ever(&self.view(), demand)
    }

    /// What an agent asks for that no host has free now, by what is known.
    pub fn shortage(&self, demand: &Resources) -> Option<Shortage> {
        shortage::now(&self.view(), demand)
    }

    /// A host said that it lacks what every process needs: others are preferred for a while.
    pub fn avoid(&self, host: &HostId) {
        self.avoided().add(host);
    }

    fn avoided(&self) -> MutexGuard<'_, Avoided> {
        self.avoided.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the registry was lost, and hosts have not reported yet or this engine has not restored what it knows. Reads the hosts anew.
    pub async fn is_restoring(&self) -> Result<bool, RegistryError> {
        self.refresh().await?;
        let known = self.known();
        Ok(known.view.held || known.restored != known.view.store_life)
    }

    /// The store life to which this engine has restored what it remembers, even if that life was lost since.
    pub fn restored(&self) -> Option<StoreLife> {
        self.known().restored.clone()
    }

    /// Notes that this engine has restored all that it remembers to this store life.
    pub fn has_restored(&self, store: StoreLife) {
        self.known().restored = Some(store);
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

    /// What is known of one host. `None` too when the view is too old to say.
    pub fn host(&self, host: &HostId) -> Option<HostRecord> {
        let known = self.known();
        known.at.filter(|at| at.elapsed() <= TOO_OLD)?;
        known.host(host).cloned()
    }

    /// Whether a process of a host was retired or has ended, as far as this engine knows.
    pub fn is_over(&self, host: &HostId, incarnation: &Incarnation) -> bool {
        self.known().view.is_over(host, incarnation)
    }
}
