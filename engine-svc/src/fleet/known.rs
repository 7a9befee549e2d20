//! What is known of the hosts, and what an engine has seen of a store, for the case that it is lost. One lock; no clock, no store.

use rustic_core::placement::{self, Policy, Ranking};
use rustic_registry::{
    AgentKey, Bring, Candidates, Epoch, FormerState, HostId, HostLife, HostRecord, HostsView, Incarnation, Look,
    Observer, Resources, StoreLife,
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};
use tokio::time::Instant;
use tracing::{info, warn};

/// Stops that are remembered for a store that is lost: the latest.
const STOPS: usize = 2_000;

/// Which reading, and how many changes this engine had heard of when it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Reading {
    number: u64,
    changes: u64,
}

pub(super) struct Known {
    pub(super) view: HostsView,
    /// Its hosts, in the order in which agents are placed on them.
    ranking: Ranking,
    policy: Policy,
    /// When that was so; `None` before the first reading.
    pub(super) at: Option<Instant>,
    pub(super) observer: Observer,
    /// Readings that were begun, and the latest of them that was taken in.
    begun: u64,
    taken_in: Reading,
    /// What this engine claimed and the view does not hold yet, by epoch.
    reserved: Vec<(Epoch, HostId, Resources)>,
    /// Claims that are under way, by number.
    expected: BTreeMap<u64, Expected>,
    numbers: u64,
    /// The store life to which this engine has restored what it remembers; to the first one that it saw there is nothing to restore. If
    /// the store has no life any more, it was lost.
    pub(super) restored: Option<StoreLife>,
    /// What was seen in that life, for the next one.
    pub(super) seen: Seen,
}

/// What an engine brings to a store that was lost, beside the agents that no host runs.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) hosts: BTreeMap<(HostId, Incarnation), Duration>,
    stopped: BTreeMap<AgentKey, Epoch>,
    /// Of those the latest, in order.
    latest: VecDeque<AgentKey>,
    highest_epoch: Epoch,
    highest_life: HostLife,
}

impl Seen {
    pub(super) fn saw(&mut self, epoch: Epoch) {
        self.highest_epoch = self.highest_epoch.max(epoch);
    }

    /// Notes that an agent was stopped: once, however often this engine learns of it.
    pub(super) fn saw_stop(&mut self, key: &AgentKey, epoch: Epoch) {
        match self.stopped.insert(key.clone(), epoch) {
            Some(before) if before >= epoch => {
                self.stopped.insert(key.clone(), before);
                return;
            }
            Some(_earlier_life) => self.latest.retain(|known| known != key),
            None => {}
        }
        self.latest.push_back(key.clone());
        if self.latest.len() > STOPS
            && let Some(oldest) = self.latest.pop_front()
        {
            self.stopped.remove(&oldest);
        }
    }

    pub(super) fn brings(&self, former_store_life: StoreLife) -> Bring {
        let hosts = self.hosts.iter().map(|((host, process), lasts)| (host.clone(), process.clone(), *lasts));
        let stopped = self.latest.iter().filter_map(|key| Some((key.clone(), *self.stopped.get(key)?)));
        Bring {
            former_store_life,
            hosts: hosts.collect(),
            stopped: stopped.collect(),
            highest_epoch: self.highest_epoch,
            highest_life: self.highest_life,
        }
    }
}

impl Known {
    /// Nothing is known yet.
    pub(super) fn new(policy: Policy) -> Self {
        Self {
            view: HostsView::default(),
            ranking: Ranking::of(policy, &[]),
            policy,
            at: None,
            observer: Observer::default(),
            begun: 0,
            taken_in: Reading::default(),
            reserved: vec![],
            expected: BTreeMap::new(),
            numbers: 0,
            restored: None,
            seen: Seen::default(),
        }
    }

    /// Begins a reading, after so many changes.
    pub(super) fn begin(&mut self, changes: u64) -> Reading {
        self.begun += 1;
        Reading { number: self.begun, changes }
    }

    /// Whether something has changed since the view was read.
    pub(super) fn is_behind(&self, changes: u64) -> bool {
        self.at.is_none() || self.taken_in.changes < changes
    }

    /// Takes in a reading, unless a later one was taken in before.
    pub(super) fn take_in(&mut self, reading: Reading, view: HostsView, now: Instant) {
        if reading.number < self.taken_in.number {
            return;
        }
        self.taken_in = reading;
        self.log_changes(&view);
        self.observer.look(&view, now);
        self.reserved.retain(|(epoch, _, _)| *epoch > view.highest_epoch);
        self.restored = self.restored.take().or_else(|| view.store_life.clone());
        if self.restored == view.store_life {
            let current = view.hosts.iter().map(|h| ((h.host.clone(), h.incarnation.clone()), h.lasts));
            let former = view.former.iter().filter(|f| f.state != FormerState::Over);
            let former = former.map(|f| ((f.host.clone(), f.incarnation.clone()), f.lasts));
            self.seen.hosts = current.chain(former).collect();
            let highest = view.hosts.iter().map(|h| h.life).max();
            self.seen.highest_life = self.seen.highest_life.max(highest.unwrap_or_default());
        }
        self.ranking = Ranking::of(self.policy, &view.hosts);
        (self.view, self.at) = (view, Some(now));
        let reserved = std::mem::take(&mut self.reserved);
        reserved.iter().for_each(|(_, host, takes)| self.add(host, takes));
        self.reserved = reserved;
        let mut expected = std::mem::take(&mut self.expected);
        expected.values_mut().for_each(|expected| self.count(expected));
        self.expected = expected;
    }

    /// What is known of a host.
    pub(super) fn host(&self, host: &HostId) -> Option<&HostRecord> {
        self.view.hosts.get(self.ranking.position(host)?)
    }

    /// Hosts to try, best first, and where round robin goes on after that.
    pub(super) fn candidates(&self, request: &placement::Request<'_>, now: Instant) -> (Candidates, Option<usize>) {
        let found = self.ranking.candidates(&self.view.hosts, |host| self.hears(host, now), request);
        let turn = self.ranking.turn_after(&found);
        (found, turn)
    }

    /// Changes what is in use on a host.
    fn change(&mut self, host: &HostId, change: impl FnOnce(&mut HostRecord)) {
        let position = self.ranking.position(host);
        if let Some((position, record)) = position.and_then(|at| Some((at, self.view.hosts.get_mut(at)?))) {
            change(record);
            self.ranking.update(position, record);
        }
    }

    fn add(&mut self, host: &HostId, takes: &Resources) {
        self.change(host, |record| record.used.add(takes));
    }

    /// Counts a claim that the view does not count. Which devices it gets is a guess.
    fn count(&mut self, expected: &mut Expected) {
        expected.takes = Resources::default();
        self.change(&expected.host, |record| {
            expected.takes = record.capacity.place(&record.used, &expected.demand).unwrap_or_default();
            record.used.add(&expected.takes);
        });
    }

    /// Takes in how often leases were renewed, if they are the ones that are known. `false`: the hosts must be read.
    pub(super) fn take_in_look(&mut self, reading: Reading, look: &Look, now: Instant) -> bool {
        if reading.number < self.taken_in.number {
            return true;
        }
        let same = |h: &HostRecord| look.leases.get(&h.host).is_some_and(|(life, _)| *life == h.life);
        let known = look.store_life == self.view.store_life
            && look.leases.len() == self.view.hosts.len()
            && self.view.hosts.iter().all(same);
        if known {
            for host in &mut self.view.hosts {
                host.renewals = look.leases.get(&host.host).map_or(host.renewals, |(_, renewals)| *renewals);
            }
            self.observer.look(&self.view, now);
            self.at = Some(now);
            self.taken_in.number = reading.number;
        }
        known
    }

    /// A claim is under way, and asks for this host first: the view counts it there. Returns its number.
    pub(super) fn expect(&mut self, host: &HostId, demand: &Resources) -> u64 {
        self.numbers += 1;
        let mut expected = Expected { host: host.clone(), demand: demand.clone(), takes: Resources::default() };
        self.count(&mut expected);
        self.expected.insert(self.numbers, expected);
        self.numbers
    }

    /// A claim was answered, whatever the answer.
    pub(super) fn withdraw(&mut self, number: Option<u64>) {
        if let Some(Expected { host, takes, .. }) = number.and_then(|number| self.expected.remove(&number)) {
            self.change(&host, |record| record.used.take(&takes));
        }
    }

    /// A claim of our own, which the view is to show before the next reading does.
    pub(super) fn reserve(&mut self, epoch: Epoch, host: &HostId, takes: &Resources) {
        if epoch > self.view.highest_epoch {
            self.reserved.push((epoch, host.clone(), takes.clone()));
            self.add(host, takes);
        }
    }

    fn log_changes(&self, view: &HostsView) {
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

    pub(super) fn hears(&self, host: &HostRecord, now: Instant) -> bool {
        self.observer.is_heard(&host.host, &host.incarnation, now)
    }
}

/// A claim that is under way.
struct Expected {
    /// The host that it asks for first.
    host: HostId,
    demand: Resources,
    /// What the view counts for it there.
    takes: Resources,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes;

    fn key(n: usize) -> AgentKey {
        AgentKey::parse("default", "g", &n.to_string()).expect("an id")
    }

    /// Of which agents, under which epochs, stops are brought.
    fn brought(seen: &Seen) -> Vec<(AgentKey, Epoch)> {
        seen.brings(StoreLife::NONE).stopped
    }

    #[test]
    fn a_stop_that_is_seen_twice_is_noted_once() {
        let mut seen = Seen::default();
        // Seen when the stop is answered, and again in the registry's changes.
        for n in (0..STOPS).flat_map(|n| [n, n]) {
            seen.saw_stop(&key(n), Epoch(7));
        }
        assert_eq!(brought(&seen), (0..STOPS).map(|n| (key(n), Epoch(7))).collect::<Vec<_>>());
        seen.saw_stop(&key(STOPS), Epoch(7));
        assert_eq!(brought(&seen)[0], (key(1), Epoch(7)), "the oldest gives way");
        assert_eq!((seen.latest.len(), seen.stopped.len()), (STOPS, STOPS));
    }

    #[test]
    fn a_claim_of_our_own_counts_once_whether_a_reading_has_seen_it_or_not() {
        let slots = |count: u64| Resources::parse(&format!("slots={count}000"));
        let (host, one): (HostId, _) = ("h-0".parse().expect("an id"), slots(1));
        let view = |claims: u64| {
            let hosts = vec![fakes::host("h-0", slots(9), slots(claims))];
            HostsView { highest_epoch: Epoch(claims), hosts, ..HostsView::default() }
        };
        let used = |known: &Known| known.view.hosts[0].used.milli("slots");
        let mut known = Known::new(Policy::LeastLoaded);
        let now = Instant::now();
        let (first, second) = (known.begin(0), known.begin(0));
        known.take_in(first, view(0), now);
        // The reading began before the claim, and the store answered it after: its answer is here after that of the claim.
        known.reserve(Epoch(1), &host, &one);
        assert_eq!(used(&known), 1000);
        known.take_in(second, view(1), now);
        assert_eq!(used(&known), 1000);
        // The other way round: before it.
        let third = known.begin(0);
        known.take_in(third, view(2), now);
        known.reserve(Epoch(2), &host, &one);
        assert_eq!(used(&known), 2000);
        // One that the store answered before the claim.
        let fourth = known.begin(0);
        known.reserve(Epoch(3), &host, &one);
        known.take_in(fourth, view(2), now);
        assert_eq!(used(&known), 3000);
    }

    #[test]
    fn a_claim_under_way_counts_on_the_host_that_it_asks_for_until_it_is_answered() {
        let slots = |count: u64| Resources::parse(&format!("slots={count}000"));
        let (host, one): (HostId, _) = ("h-0".parse().expect("an id"), slots(1));
        let view = || HostsView { hosts: vec![fakes::host("h-0", slots(9), slots(4))], ..HostsView::default() };
        let used = |known: &Known| known.view.hosts[0].used.milli("slots");
        let mut known = Known::new(Policy::LeastLoaded);
        let reading = known.begin(0);
        known.take_in(reading, view(), Instant::now());
        let (first, second) = (known.expect(&host, &one), known.expect(&host, &one));
        assert_eq!(used(&known), 6000);
        let reading = known.begin(0);
        known.take_in(reading, view(), Instant::now());
        assert_eq!(used(&known), 6000, "whatever is read meanwhile");
        known.withdraw(Some(first));
        known.withdraw(Some(first));
        known.withdraw(None);
        assert_eq!(used(&known), 5000);
        known.withdraw(Some(second));
        assert_eq!(used(&known), 4000);
    }

    #[test]
    fn the_stop_of_a_later_life_counts() {
        let mut seen = Seen::default();
        for (n, epoch) in [(0, 7), (1, 8), (0, 9), (0, 7)] {
            seen.saw_stop(&key(n), Epoch(epoch));
        }
        assert_eq!(brought(&seen), [(key(1), Epoch(8)), (key(0), Epoch(9))]);
    }
}
