//! The host's lease: announced once, renewed for ever, and shown to everyone who must not act without it.
//!
//! ```text
//!              announced          no answer for TTL − margin, retired, or unknown
//!  ▶ Waiting ────────────▶ Held ───────────────────────────────────────────────────▶ Lost
//!                           ▲ ▲        renewed, or announced again for another lease    │
//!                           │ └─────────────────────────────────────────────────────────┘
//!     another process holds the name: Superseded, for ever; the program must end
//! ```
//!
//! The time counts from the moment *before* the last good renewal was sent: whoever retires this host has seen that renewal later, and
//! waits longer (`rustic_registry::observe`). Another store life is no reason to lose the lease: the host announces itself
//! there, and reports what it runs.

mod epochs;

pub use epochs::KeepEpoch;

use self::epochs::Epochs;
use crate::{ambient::Ambient, watchdog::BootTime};
use rustic_registry::{
    Announce, Announced, Epoch, HostLife, HostState, Registry, RegistryError, Renew, Renewal, Stops, StoreLife,
};
use rustic_telemetry::{
    metrics,
    outage::Outage,
    pulse::{self, Pulse},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// Delay after the first failure, and the longest one.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(1));

/// Whether this host may run agents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lease {
    /// Not announced yet.
    Waiting,
    /// Held.
    Held,
    /// Not renewed in time.
    Lost,
    /// Another incarnation holds the name.
    Superseded,
}

/// The lease, and how often it was lost: a watcher that looks too late for a loss still sees that there was one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseView {
    /// The lease now.
    pub state: Lease,
    /// Losses so far.
    pub losses: u64,
}

/// Times of the lease.
#[derive(Debug, Clone, Copy)]
pub struct LeaseTimes {
    /// How long a renewal lasts.
    pub ttl: Duration,
    /// Time between renewals.
    pub renew_every: Duration,
    /// Time before the end at which agents must be gone.
    pub margin: Duration,
}

/// Handle to the renewer of the lease.
#[derive(Clone)]
pub struct LeaseHandle {
    lease: watch::Receiver<LeaseView>,
    reachable: watch::Receiver<bool>,
    epochs: Arc<Epochs>,
    drain: mpsc::Sender<()>,
    returned: watch::Receiver<u64>,
    deadline: watch::Receiver<Option<BootTime>>,
    store: watch::Receiver<Option<StoreLife>>,
    stops: Arc<AtomicU64>,
    reported: mpsc::Sender<StoreLife>,
    /// From a renewal to the moment at which agents must be gone.
    lasts: Duration,
}

impl LeaseHandle {
    /// The store life, as far as this host knows it.
    pub fn store(&self) -> Option<StoreLife> {
        self.store.borrow().clone()
    }

    /// Stops that the store had counted when it answered last.
    pub fn stops(&self) -> Stops {
        Stops(self.stops.load(Ordering::Relaxed))
    }

    /// Another handle, to which neither the lease nor the store life as they are now is a change.
    pub fn from_now_on(&self) -> Self {
        let mut handle = self.clone();
        handle.lease.mark_unchanged();
        handle.store.mark_unchanged();
        handle
    }

    /// Waits until there is another store life. Cancel-safe. Pends for ever when the renewer is gone.
    pub async fn store_changed(&mut self) {
        if self.store.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// The lease now.
    pub fn current(&self) -> LeaseView {
        *self.lease.borrow()
    }

    /// The next change. Cancel-safe. Pends for ever when the renewer is gone.
    pub async fn changed(&mut self) -> LeaseView {
        match self.lease.changed().await {
            Ok(()) => *self.lease.borrow_and_update(),
            Err(_) => std::future::pending().await,
        }
    }

    /// Whether the registry answered last time.
    pub fn is_reachable(&self) -> bool {
        *self.reachable.borrow()
    }

    /// Waits until the lease or the registry's reachability changes. Cancel-safe. Pends for ever when the renewer is
    /// gone.
    pub async fn any_change(&mut self) {
        let changed = tokio::select! {
            changed = self.lease.changed() => changed,
            changed = self.reachable.changed() => changed,
        };
        if changed.is_err() {
            std::future::pending().await
        }
    }

    /// Waits until agents of a former life were given to this one. Cancel-safe. Pends for ever when the renewer is gone.
    pub async fn agents_returned(&mut self) {
        if self.returned.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// The next moment at which agents must be gone unless the lease is renewed again. Cancel-safe. Pends for ever when
    /// the renewer is gone.
    pub async fn next_deadline(&mut self) -> BootTime {
        loop {
            if self.deadline.changed().await.is_err() {
                return std::future::pending().await;
            }
            if let Some(deadline) = *self.deadline.borrow_and_update() {
                return deadline;
            }
        }
    }

    /// Whether agents that must not outlive the lease had to be gone by `now`, unless it is renewed after all.
    pub fn is_over(&self, now: BootTime) -> bool {
        self.deadline.borrow().is_some_and(|deadline| deadline <= now)
    }

    /// Time since the last good renewal was sent; none before the first.
    pub fn age(&self, now: BootTime) -> Option<Duration> {
        let deadline = (*self.deadline.borrow())?;
        Some((now.up() + self.lasts).saturating_sub(deadline.up()))
    }

    /// Remembers the highest epoch that this host ever heard of; renewals send it to the registry.
    pub fn saw(&self, epoch: Epoch) {
        self.epochs.saw(epoch);
    }

    /// This host has reported everything that it runs to this store life.
    pub async fn has_reported(&self, store: StoreLife) {
        // Fails only when the renewer is gone, and with it the lease.
        let _ = self.reported.send(store).await;
    }

    /// Asks for no more claims.
    pub async fn drain(&self) {
        // A full or closed channel means that it was asked for before.
        let _ = self.drain.try_send(());
    }
}

/// Keeps the lease.
pub struct LeaseRenewer {
    announce: Announce,
    times: LeaseTimes,
    registry: Arc<dyn Registry>,
    ambient: Ambient,
    lease: watch::Sender<LeaseView>,
    reachable: watch::Sender<bool>,
    epochs: Arc<Epochs>,
    drain: mpsc::Receiver<()>,
    returned: watch::Sender<u64>,
    deadline: watch::Sender<Option<BootTime>>,
    store: watch::Sender<Option<StoreLife>>,
    stops: Arc<AtomicU64>,
    reports: mpsc::Receiver<StoreLife>,
    reported: Option<StoreLife>,
    state: HostState,
    /// The lease that this host announced itself for last.
    life: HostLife,
    /// Somebody else has this host drain: restored to a store that was lost.
    cordoned: bool,
}

impl LeaseRenewer {
    /// Prepares the renewer and its handle. `keep` keeps an epoch for the next life on this machine, which announces it.
    pub fn new(
        announce: Announce,
        times: LeaseTimes,
        registry: Arc<dyn Registry>,
        ambient: Ambient,
        keep: KeepEpoch,
    ) -> (Self, LeaseHandle) {
        let (lease, shown) = watch::channel(LeaseView { state: Lease::Waiting, losses: 0 });
        let (reachable, answers) = watch::channel(false);
        let (drain, asked) = mpsc::channel(1);
        let (returned, news) = watch::channel(0);
        let (deadline, reported) = watch::channel(None);
        let (store, life) = watch::channel(None);
        let stops = Arc::new(AtomicU64::new(0));
        let (reports_to, reports) = mpsc::channel(1);
        let epochs = Arc::new(Epochs::new(announce.highest_epoch, keep));
        let handle = LeaseHandle {
            lease: shown,
            reachable: answers,
            epochs: epochs.clone(),
            drain,
            returned: news,
            deadline: reported,
            store: life,
            stops: stops.clone(),
            reported: reports_to,
            lasts: times.ttl - times.margin,
        };
        let renewer = Self {
            announce,
            times,
            registry,
            ambient,
            lease,
            reachable,
            epochs,
            drain: asked,
            returned,
            deadline,
            store,
            stops,
            reports,
            reported: None,
            state: HostState::Ready,
            life: HostLife::default(),
            cordoned: false,
        };
        (renewer, handle)
    }

    /// Announces the host and renews until `stop`, then takes the host off the registry. Ends early when superseded.
    pub async fn run(mut self, stop: CancellationToken) {
        // On cancel between turns nothing is half done: a call in flight is answered or given up as a whole.
        if stop.run_until_cancelled(self.keep()).await.is_none() {
            let left = self.registry.depart(&self.announce.host, &self.announce.incarnation);
            if let Err(error) = left.await {
                warn!(%error, "the host could not be taken off the registry; its lease will run out");
            }
        }
    }

    async fn keep(&mut self) {
        let mut known = false;
        let mut fence_at: Option<Instant> = None;
        let mut outage = Outage::of("renewing the lease");
        let pulse = Pulse::of("the renewer of the lease", pulse::TURN);
        loop {
            pulse.beat();
            let (sent, sent_boot) = (Instant::now(), (self.ambient.boot)());
            let answer = self.ask(known, fence_at).await;
            let answered = matches!(answer, Some(Ok(_)));
            self.reachable.send_if_modified(|reachable| std::mem::replace(reachable, answered) != answered);
            match answer {
                Some(Ok(Answer::Held)) => {
                    known = true;
                    outage.over();
                    let lasts = self.times.ttl - self.times.margin;
                    fence_at = Some(sent + lasts);
                    self.deadline.send_replace(Some(sent_boot + lasts));
                    self.become_held();
                }
                Some(Ok(Answer::Elsewhere)) => {
                    known = false;
                    continue;
                }
                Some(Ok(Answer::Taken)) => {
                    warn!("the registry has taken this host's lease; announcing it again, for another one");
                    known = false;
                    if self.lease.borrow().state != Lease::Lost {
                        self.lose_lease();
                    }
                    continue;
                }
                Some(Ok(Answer::Superseded)) => {
                    error!("another process holds this host's name; ending all agents and this process");
                    self.lose(Lease::Superseded);
                    return;
                }
                Some(Err(error)) => {
                    outage.failed(&error);
                }
                None => {
                    outage.failed(&"no answer before the lease had to end");
                    // The registry may be about to answer: it is asked again at once, and from now on as long as it takes.
                    self.lose_lease();
                    continue;
                }
            }
            if fence_at.is_some_and(|at| at <= Instant::now()) && self.lease.borrow().state == Lease::Held {
                self.lose_lease();
            }
            pulse.waits(self.pause(sent, outage.failures(), fence_at)).await;
        }
    }

    /// One call, given up at the moment the lease must be called lost.
    async fn ask(&mut self, known: bool, fence_at: Option<Instant>) -> Option<Result<Answer, RegistryError>> {
        let still_held = self.lease.borrow().state == Lease::Held;
        match fence_at.filter(|_| still_held) {
            Some(at) => timeout_at(at, self.call(known)).await.ok(),
            None => Some(self.call(known).await),
        }
    }

    async fn call(&mut self, known: bool) -> Result<Answer, RegistryError> {
        let highest_epoch = self.epochs.highest();
        let store = self.store.borrow().clone();
        let Some(store) = store.filter(|_| known) else { return self.announce(highest_epoch).await };
        let renew = Renew {
            host: self.announce.host.clone(),
            incarnation: self.announce.incarnation.clone(),
            life: self.life,
            state: self.state,
            highest_epoch,
            reported: self.reported.as_ref() == Some(&store),
            store_life: store,
        };
        Ok(match self.registry.renew(&renew).await? {
            Renewal::Held { cordoned, stops, highest_epoch } => {
                self.cordoned = cordoned;
                self.epochs.saw(highest_epoch);
                self.stops.store(stops.0, Ordering::Relaxed);
                Answer::Held
            }
            Renewal::StoreLost => Answer::Elsewhere,
            Renewal::Retired | Renewal::Unknown => Answer::Taken,
            Renewal::Superseded => Answer::Superseded,
        })
    }

    async fn announce(&mut self, highest_epoch: Epoch) -> Result<Answer, RegistryError> {
        let announce = Announce {
            highest_epoch,
            highest_life: self.life,
            state: self.state,
            cordoned: self.cordoned,
            store_life: self.store.borrow().clone(),
            reported: self.reported.clone(),
            ..self.announce.clone()
        };
        let Announced { store_life: store, life, returned, stops, highest_epoch } =
            self.registry.announce(&announce).await?;
        info!(host = %self.announce.host, address = self.announce.address, %life, returned, "announced");
        self.life = life;
        self.epochs.saw(highest_epoch);
        self.stops.store(stops.0, Ordering::Relaxed);
        if returned > 0 {
            self.returned.send_modify(|times| *times += 1);
        }
        self.learn_store(store);
        Ok(Answer::Held)
    }

    fn learn_store(&self, life: StoreLife) {
        self.store.send_if_modified(|store| {
            let changed = store.as_ref() != Some(&life);
            if changed && store.is_some() {
                warn!("the registry was lost or restarted; every agent on this host is reported to it again");
            }
            *store = Some(life);
            changed
        });
    }

    fn become_held(&self) {
        self.lease.send_if_modified(|lease| {
            let changed = lease.state != Lease::Held;
            lease.state = Lease::Held;
            changed
        });
    }

    fn lose_lease(&self) {
        error!("the lease is lost: agents that must not outlive it are killed");
        self.lose(Lease::Lost);
    }

    fn lose(&self, state: Lease) {
        self.lease.send_modify(|lease| {
            lease.state = state;
            lease.losses += 1;
        });
        metrics::count("rustic_host_lease_losses_total", &[]);
    }

    /// Delay after so many failures: grows, up to a point from which the end of an outage is still noticed soon. Chance takes
    /// off up to a half, so that hosts do not all ask at once when the registry is back.
    fn retry_after(&self, failures: u32) -> Duration {
        let full = (RETRY.0 * (1 << (failures - 1).min(8))).min(RETRY.1).min(self.times.renew_every);
        full.mul_f64(1.0 - 0.5 * (self.ambient.chance)())
    }

    /// Waits for the next turn: a third of the TTL when all is well, a growing delay when it is not, never past the
    /// fence, and at once when draining begins, or when this host has reported to a store life: others wait for that.
    async fn pause(&mut self, sent: Instant, failures: u32, fence_at: Option<Instant>) {
        let next = match failures {
            0 => sent + self.times.renew_every,
            n => Instant::now() + self.retry_after(n),
        };
        let held = self.lease.borrow().state == Lease::Held;
        let next = fence_at.filter(|_| held).map_or(next, |at| next.min(at));
        tokio::select! {
            biased;
            Some(()) = self.drain.recv() => self.state = HostState::Draining,
            Some(store) = self.reports.recv() => self.reported = Some(store),
            () = sleep_until(next) => {}
        }
    }
}

enum Answer {
    Held,
    /// The store is another one: announce there.
    Elsewhere,
    /// Somebody has taken the lease.
    Taken,
    Superseded,
}

#[cfg(test)]
mod tests;
