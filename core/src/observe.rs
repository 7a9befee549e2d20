//! How long a host has been silent, by the clock of whoever looks.
//!
//! No deadline stands in the store, and no clock is compared with another: whoever waits notes when it *first saw* a renewal, and
//! counts from then. The renewal was sent before it was seen; so when as much time has passed here as a lease lasts, with its grace, what
//! must not outlive it is gone, as long as the rates of both clocks differ by less than the bound. Then the process may be retired,
//! if it has not renewed since: the store compares.
//!
//! ```text
//!   host      ●──────── TTL − margin ───────▶ its agents are gone
//!        sent │
//!             ▼
//!   store     ● renewal n
//!             │ read
//!             ▼
//!   observer   ●────────── TTL + grace ─────────────▶ retire, if the renewal is still n
//!           first seen
//! ```
//!
//! What was seen counts in one life of the store: data that was rolled back may show an old renewal again. Who could not look for
//! a good part of that time begins anew: the host may have been as cut off as the observer, and is given time to renew.

use crate::{
    ids::{HostId, HostLife, Incarnation, StoreLife},
    ops::{HostsView, Retire},
    record::FormerState,
};
use std::{collections::BTreeMap, time::Duration};
use tokio::time::Instant;

/// Part of a lease for which an observer may be blind.
const BLIND: f64 = 1.0 / 3.0;

/// What one observer has seen of all hosts.
#[derive(Debug, Default)]
pub struct Observer {
    /// The store's life that it was seen in, and since when.
    store: Option<(StoreLife, Instant)>,
    seen: BTreeMap<(HostId, Incarnation), Seen>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    renewal: (HostLife, u64),
    lasts: Duration,
    /// `None`: it holds no lease, and `Over` is not of interest.
    ttl: Option<Duration>,
    /// When this renewal was seen first, and last.
    since: Instant,
    last: Instant,
}

impl Observer {
    /// Takes in what the store said, which was there at `now`.
    pub fn look(&mut self, view: &HostsView, now: Instant) {
        if self.store.as_ref().map(|(store, _)| store) != view.store_life.as_ref() {
            self.seen.clear();
            self.store = view.store_life.clone().map(|store| (store, now));
        }
        let before = std::mem::take(&mut self.seen);
        let hosts = view
            .hosts
            .iter()
            .map(|h| ((h.host.clone(), h.incarnation.clone()), ((h.life, h.renewals), h.lasts, Some(h.ttl))));
        let former = view
            .former
            .iter()
            .filter(|f| f.state != FormerState::Over)
            .map(|f| ((f.host.clone(), f.incarnation.clone()), (f.renewal, f.lasts, None)));
        for (process, (renewal, lasts, ttl)) in hosts.chain(former) {
            let same = before.get(&process).filter(|seen| {
                seen.renewal == renewal && now.saturating_duration_since(seen.last) <= lasts.mul_f64(BLIND)
            });
            let since = same.map_or(now, |seen| seen.since);
            self.seen.insert(process, Seen { renewal, lasts, ttl, since, last: now });
        }
    }

    /// Whether a host has renewed within its TTL, or was not looked at for as long. For placing, which is no matter of safety.
    pub fn is_heard(&self, host: &HostId, incarnation: &Incarnation, now: Instant) -> bool {
        let seen = self.seen.get(&(host.clone(), incarnation.clone()));
        seen.and_then(|s| Some((s.since, s.ttl?)))
            .is_some_and(|(since, ttl)| now.saturating_duration_since(since) < ttl)
    }

    /// Processes that have been silent for as long as their leases last, times `slack`, which is one and the bound of the rates.
    pub fn silent(&self, now: Instant, slack: f64) -> Vec<Retire> {
        let Some((store, _)) = &self.store else { return vec![] };
        let over = |s: &Seen| now.saturating_duration_since(s.since) >= s.lasts.mul_f64(slack);
        let silent = self.seen.iter().filter(|(_, s)| over(s));
        let retire = |((host, incarnation), s): (&(HostId, Incarnation), &Seen)| Retire {
            host: host.clone(),
            incarnation: incarnation.clone(),
            seen: s.renewal,
            store_life: store.clone(),
        };
        silent.map(retire).collect()
    }

    /// Time until the next process will have been silent for as long as its lease lasts, times `slack`, if it stays so. Those that have
    /// been by now are known.
    pub fn next_due(&self, now: Instant, slack: f64) -> Option<Duration> {
        let left = |s: &Seen| s.lasts.mul_f64(slack).checked_sub(now.saturating_duration_since(s.since));
        self.seen.values().filter_map(left).filter(|left| !left.is_zero()).min()
    }

    /// Longest time between two looks that leaves nobody blind, whatever one of them takes. `None` while nobody holds a lease.
    pub fn look_within(&self) -> Option<Duration> {
        self.seen.values().map(|seen| seen.lasts.mul_f64(BLIND / 3.0)).min()
    }

    /// How long this life of the store has been watched.
    pub fn watched(&self, store: &StoreLife, now: Instant) -> Duration {
        let since = self.store.as_ref().filter(|(known, _)| known == store).map(|(_, since)| *since);
        since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        record::{FormerProcess, HostRecord, HostState},
        resources::Resources,
    };
    use proptest::prelude::*;
    use tokio::time::advance;

    const TTL: Duration = Duration::from_secs(9);
    /// A third of it is four seconds.
    const LASTS: Duration = Duration::from_secs(12);
    const SECOND: Duration = Duration::from_secs(1);

    fn host(id: &str) -> HostId {
        id.parse().expect("valid")
    }

    fn process(id: &str) -> Incarnation {
        id.parse().expect("valid")
    }

    fn lease(id: &str, life: u64, renewals: u64) -> HostRecord {
        HostRecord {
            host: host(id),
            incarnation: process("i"),
            address: String::new(),
            dns_name: String::new(),
            state: HostState::Ready,
            cordoned: false,
            capacity: Resources::default(),
            used: Resources::default(),
            labels: BTreeMap::new(),
            version: String::new(),
            life: HostLife(life),
            renewals,
            ttl: TTL,
            lasts: LASTS,
            renewed: Default::default(),
        }
    }

    fn former(id: &str, state: FormerState, renewal: (u64, u64)) -> FormerProcess {
        let (life, renewals) = renewal;
        let renewal = (HostLife(life), renewals);
        FormerProcess { host: host(id), incarnation: process("i"), state, lasts: LASTS, renewal }
    }

    fn view(store: &str, hosts: Vec<HostRecord>, former: Vec<FormerProcess>) -> HostsView {
        HostsView { store_life: Some(StoreLife(store.to_owned())), hosts, former, ..HostsView::default() }
    }

    fn retire(store: &str, id: &str, life: u64, renewals: u64) -> Retire {
        let store = StoreLife(store.to_owned());
        Retire { host: host(id), incarnation: process("i"), seen: (HostLife(life), renewals), store_life: store }
    }

    /// Looks once a second at what stays the same.
    async fn watch(observer: &mut Observer, view: &HostsView, seconds: u64) {
        for _ in 0..seconds {
            observer.look(view, Instant::now());
            advance(SECOND).await;
        }
        observer.look(view, Instant::now());
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_counts_from_when_it_was_seen_first() {
        let mut observer = Observer::default();
        let seen = view("s", vec![lease("h-0", 1, 7)], vec![]);
        assert_eq!(observer.silent(Instant::now(), 1.0), []);
        watch(&mut observer, &seen, 11).await;
        assert_eq!(observer.silent(Instant::now(), 1.0), []);
        watch(&mut observer, &seen, 1).await;
        assert_eq!(observer.silent(Instant::now(), 1.0), [retire("s", "h-0", 1, 7)]);
        // Nobody is silent before it was seen at all, however long the observer has been there.
        let two = view("s", vec![lease("h-0", 1, 8), lease("h-1", 2, 0)], vec![]);
        observer.look(&two, Instant::now());
        assert_eq!(observer.silent(Instant::now(), 1.0), []);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_known_when_the_next_one_will_have_been_silent_for_long_enough() {
        let mut observer = Observer::default();
        assert_eq!((observer.next_due(Instant::now(), 1.0), observer.look_within()), (None, None));
        observer.look(&view("s", vec![lease("h-0", 1, 7)], vec![]), Instant::now());
        advance(SECOND).await;
        observer.look(&view("s", vec![lease("h-0", 1, 7), lease("h-1", 1, 7)], vec![]), Instant::now());
        assert_eq!(observer.next_due(Instant::now(), 1.0), Some(11 * SECOND));
        assert_eq!(observer.look_within(), Some(LASTS / 9), "a third of the time for which it may be blind");
        assert_eq!(observer.next_due(Instant::now(), 1.5), Some(17 * SECOND));
        assert_eq!(observer.next_due(Instant::now() + 11 * SECOND, 1.0), Some(SECOND), "the first one is due");
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_and_another_lease_begin_anew() {
        let mut observer = Observer::default();
        watch(&mut observer, &view("s", vec![lease("h-0", 1, 7)], vec![]), 11).await;
        for (life, renewals) in [(1, 8), (2, 8), (3, 0)] {
            watch(&mut observer, &view("s", vec![lease("h-0", life, renewals)], vec![]), 11).await;
            assert_eq!(observer.silent(Instant::now(), 1.0), []);
            assert_eq!(observer.silent(Instant::now() + SECOND, 1.0), [retire("s", "h-0", life, renewals)]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn another_life_of_the_store_begins_anew() {
        let mut observer = Observer::default();
        let hosts = || vec![lease("h-0", 1, 7)];
        watch(&mut observer, &view("s", hosts(), vec![]), 11).await;
        let first = StoreLife("s".to_owned());
        assert_eq!(observer.watched(&first, Instant::now()), 11 * SECOND);
        watch(&mut observer, &view("t", hosts(), vec![]), 11).await;
        assert_eq!(observer.watched(&first, Instant::now()), Duration::ZERO);
        assert_eq!(observer.watched(&StoreLife("t".to_owned()), Instant::now()), 11 * SECOND);
        assert_eq!(observer.silent(Instant::now(), 1.0), []);
        // So does the first one, should it come back, and a store that is not there has nobody in it.
        observer.look(&view("s", hosts(), vec![]), Instant::now());
        watch(&mut observer, &HostsView::default(), 20).await;
        assert_eq!(observer.silent(Instant::now(), 1.0), []);
        assert_eq!(observer.watched(&first, Instant::now()), Duration::ZERO);
        watch(&mut observer, &view("s", hosts(), vec![]), 12).await;
        assert_eq!(observer.silent(Instant::now(), 1.0), [retire("s", "h-0", 1, 7)]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_blind_for_a_third_of_a_lease_begins_anew() {
        let mut observer = Observer::default();
        let seen = view("s", vec![lease("h-0", 1, 7)], vec![]);
        watch(&mut observer, &seen, 8).await;
        advance(4 * SECOND).await;
        observer.look(&seen, Instant::now());
        assert_eq!(observer.silent(Instant::now(), 1.0).len(), 1, "as short as that is no matter");

        watch(&mut observer, &seen, 8).await;
        advance(4 * SECOND + Duration::from_millis(1)).await;
        observer.look(&seen, Instant::now());
        assert_eq!(observer.silent(Instant::now(), 1.0), [], "the host may have been as cut off");
        watch(&mut observer, &seen, 12).await;
        assert_eq!(observer.silent(Instant::now(), 1.0).len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn former_processes_are_watched_unless_they_are_over() {
        let mut observer = Observer::default();
        let formers = vec![
            former("h-0", FormerState::Silent, (3, 9)),
            former("h-1", FormerState::Awaited, (0, 0)),
            former("h-2", FormerState::Over, (0, 0)),
        ];
        let seen = view("s", vec![], formers);
        watch(&mut observer, &seen, 11).await;
        assert_eq!(observer.silent(Instant::now(), 1.0), []);
        watch(&mut observer, &seen, 1).await;
        let both = [retire("s", "h-0", 3, 9), retire("s", "h-1", 0, 0)];
        assert_eq!(observer.silent(Instant::now(), 1.0), both);
        assert!(!observer.is_heard(&host("h-0"), &process("i"), Instant::now()));
        observer.look(&view("s", vec![], vec![]), Instant::now());
        assert_eq!(observer.silent(Instant::now(), 1.0), [], "they are gone");
    }

    #[tokio::test(start_paused = true)]
    async fn who_loses_its_name_is_as_silent_as_before() {
        let mut observer = Observer::default();
        watch(&mut observer, &view("s", vec![lease("h-0", 3, 9)], vec![]), 8).await;
        watch(&mut observer, &view("s", vec![], vec![former("h-0", FormerState::Silent, (3, 9))]), 4).await;
        assert_eq!(observer.silent(Instant::now(), 1.0), [retire("s", "h-0", 3, 9)]);

        // One that renewed meanwhile was heard.
        watch(&mut observer, &view("s", vec![lease("h-0", 4, 9)], vec![]), 8).await;
        watch(&mut observer, &view("s", vec![], vec![former("h-0", FormerState::Silent, (4, 10))]), 11).await;
        assert_eq!(observer.silent(Instant::now(), 1.0), []);
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_is_heard_for_its_ttl_from_a_renewal() {
        let mut observer = Observer::default();
        let heard = |observer: &Observer| observer.is_heard(&host("h-0"), &process("i"), Instant::now());
        assert!(!heard(&observer), "nobody has looked");
        watch(&mut observer, &view("s", vec![lease("h-0", 1, 0)], vec![]), 8).await;
        assert!(heard(&observer));
        watch(&mut observer, &view("s", vec![lease("h-0", 1, 0)], vec![]), 1).await;
        assert!(!heard(&observer));
        assert_eq!(observer.silent(Instant::now(), 1.0), [], "which is not silent yet");
        observer.look(&view("s", vec![lease("h-0", 1, 1)], vec![]), Instant::now());
        assert!(heard(&observer));
        assert!(!observer.is_heard(&host("h-0"), &process("another"), Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn slack_makes_the_wait_longer() {
        let mut observer = Observer::default();
        let seen = view("s", vec![lease("h-0", 1, 7)], vec![]);
        watch(&mut observer, &seen, 13).await;
        assert_eq!(observer.silent(Instant::now(), 1.0).len(), 1);
        assert_eq!(observer.silent(Instant::now(), 1.25), []);
        watch(&mut observer, &seen, 2).await;
        assert_eq!(observer.silent(Instant::now(), 1.25).len(), 1);
    }

    /// How much slower or faster than real time a clock may run, in millionths.
    const BOUND: f64 = 100_000.0;
    /// What makes up for a host whose clock is as slow as may be, seen by a clock as fast as may be.
    const SLACK: f64 = (1_000_000.0 + BOUND) / (1_000_000.0 - BOUND);

    /// What happens in a world of one host, one store and one observer. Delays are in real milliseconds.
    #[derive(Debug, Clone, Copy)]
    enum Step {
        /// The host sends a renewal, which the store takes later; another one may overtake it.
        Renew {
            delay: u64,
        },
        /// The host asks for another lease.
        Announce {
            delay: u64,
        },
        /// The observer asks; how long until the store answers, until that is read, and until the store is asked to retire.
        Look {
            asks: u64,
            reads: u64,
            acts: u64,
        },
        LoseName,
        /// The store shows again what it held long before.
        LoseStore,
    }

    fn step() -> impl Strategy<Value = (u64, Step)> {
        let step = prop_oneof![
            3 => (0..6_000u64).prop_map(|delay| Step::Renew { delay }),
            1 => (0..6_000u64).prop_map(|delay| Step::Announce { delay }),
            24 => (0..500u64, 0..500u64, 0..500u64).prop_map(|(asks, reads, acts)| Step::Look { asks, reads, acts }),
            1 => Just(Step::LoseName),
            1 => Just(Step::LoseStore),
        ];
        (0..2_500u64, step)
    }

    struct World {
        /// Real milliseconds.
        now: u64,
        store: u64,
        renewal: (u64, u64),
        has_name: bool,
        /// When the last renewal was sent that the store took.
        sent: u64,
        /// On their way: when each arrives, when and to which life of the store it was sent, and under which lease, or for another one.
        underway: Vec<(u64, u64, u64, Option<u64>)>,
    }

    impl World {
        fn send(&mut self, delay: u64, lease: Option<u64>) {
            self.underway.push((self.now + delay, self.now, self.store, lease));
        }

        /// Time passes, and the store takes what arrives.
        fn pass(&mut self, millis: u64) {
            self.now += millis;
            self.underway.sort();
            while let Some((_, sent, store, lease)) = self.underway.first().copied().filter(|m| m.0 <= self.now) {
                self.underway.remove(0);
                let (life, renewals) = self.renewal;
                match lease {
                    _ if store != self.store || !self.has_name => continue,
                    Some(lease) if lease != life => continue,
                    Some(_) => self.renewal = (life, renewals + 1),
                    None => self.renewal = (life + 1, 0),
                }
                self.sent = self.sent.max(sent);
            }
        }

        fn view(&self) -> HostsView {
            let (life, renewals) = self.renewal;
            let name = self.store.to_string();
            match self.has_name {
                true => view(&name, vec![lease("h-0", life, renewals)], vec![]),
                false => view(&name, vec![], vec![former("h-0", FormerState::Silent, self.renewal)]),
            }
        }
    }

    /// Whoever is called silent has not renewed for as long as its lease lasts on its own clock, and whoever is retired for that has
    /// not either. Returns how often somebody was retired.
    fn happens(steps: &[(u64, Step)], host_rate: f64, observer_rate: f64) -> Result<usize, TestCaseError> {
        let begin = Instant::now();
        let at = |real: u64, rate: f64| begin + Duration::from_millis(real).mul_f64(rate);
        // Clocks count nanoseconds, and so do sums.
        let deadline = |sent: u64| at(sent, host_rate) + LASTS - Duration::from_micros(1);
        let mut observer = Observer::default();
        let mut world = World { now: 0, store: 0, renewal: (1, 0), has_name: true, sent: 0, underway: vec![] };
        let mut retired = 0;
        for (wait, step) in steps {
            world.pass(*wait);
            match *step {
                Step::Renew { delay } => world.send(delay, Some(world.renewal.0)),
                Step::Announce { delay } => world.send(delay, None),
                Step::LoseName => world.has_name = false,
                Step::LoseStore => (world.store, world.renewal.1) = (world.store + 1, world.renewal.1 / 2),
                Step::Look { asks, reads, acts } => {
                    world.pass(asks);
                    let (seen, sent) = (world.view(), world.sent);
                    world.pass(reads);
                    observer.look(&seen, at(world.now, observer_rate));
                    let silent = observer.silent(at(world.now, observer_rate), SLACK);
                    if !silent.is_empty() {
                        let host = at(world.now, host_rate);
                        prop_assert!(host >= deadline(sent), "sent at {sent} ms, silent at {} ms", world.now);
                    }
                    world.pass(acts);
                    let (life, renewals) = world.renewal;
                    let as_it_is = retire(&world.store.to_string(), "h-0", life, renewals);
                    if silent.contains(&as_it_is) {
                        let host = at(world.now, host_rate);
                        prop_assert!(host >= deadline(world.sent), "sent at {} ms, now {} ms", world.sent, world.now);
                        retired += 1;
                    }
                }
            }
        }
        Ok(retired)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn nobody_is_silent_before_its_lease_is_over_on_its_own_clock(
            steps in prop::collection::vec(step(), 1..120),
            host in -BOUND..BOUND,
            observer in -BOUND..BOUND,
        ) {
            happens(&steps, 1.0 + host / 1_000_000.0, 1.0 + observer / 1_000_000.0)?;
        }

        #[test]
        fn nor_when_both_clocks_are_as_wrong_as_they_may_be(steps in prop::collection::vec(step(), 1..120)) {
            happens(&steps, 1.0 - BOUND / 1_000_000.0, 1.0 + BOUND / 1_000_000.0)?;
        }
    }

    #[test]
    fn a_world_without_renewals_has_a_silent_host() {
        let steps = [(500, Step::Look { asks: 10, reads: 10, acts: 10 }); 30];
        assert!(happens(&steps, 1.0, 1.0).expect("no promise is broken") > 0);
    }
}
