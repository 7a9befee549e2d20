//! All agents of this host: who may start, who is here, and how all of them end.
//!
//! Owns the map of agents. Each agent's own life belongs to its task, which lives through a panic. Where it cannot, and a process may be
//! left that nobody looks after, [`Supervisor::broken`] says so: the agent stays in the map, no stop of it is answered OK, and the host ends.

mod restore;
mod tasks;

use crate::{
    agent::{
        AgentHandle, AgentStatus, Caller, Ending, FirstStart, HostContext, Launching, Moving, StartFailure,
        StopPurpose,
        task::{AgentTask, panicked::Broken},
    },
    error::HostError,
    lease::Lease,
    runtime::{Order, Runtime},
    starts::Starts,
};
use futures_util::future::join_all;
use rustic_proto::launch::{Launch, RuntimeKind};
use rustic_registry::{
    AgentKey, AgentRecord, Claim, ClaimOutcome, Claimed, Epoch, HostId, HostRecord, IfFull, IfNamesakes, MachineId,
    Observer, Phase, ReleaseGuard, ReleaseOutcome, RequestId, Resources, Scope,
};
use std::{
    collections::{BTreeMap, btree_map::Entry},
    ops::Bound,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{Instant, interval, timeout},
};
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

/// Agents read at once.
const PAGE: usize = 200;
/// Time between two looks at the other hosts while draining.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Time beyond the agents' grace to record how they ended.
const RECORDS: Duration = Duration::from_secs(3);

/// Claim that came with a call.
#[derive(Debug, Clone)]
pub struct GivenClaim {
    /// Fencing token.
    pub epoch: Epoch,
    /// For rusticai-core's id generator.
    pub machine_id: MachineId,
    /// What it takes here.
    pub takes: Resources,
}

impl GivenClaim {
    /// The claim that a record has, if it holds room.
    fn of(record: &AgentRecord) -> Option<Self> {
        let takes = record.assignment()?.takes.clone();
        Some(Self { epoch: record.epoch, machine_id: record.machine_id, takes })
    }
}

/// A request to run an agent here.
pub struct Creation {
    /// What to run.
    pub launch: Launch,
    /// The request's id.
    pub request_id: RequestId,
    /// The claim, if the caller made it.
    pub claim: Option<GivenClaim>,
    /// What a failed first start does.
    pub first_start: FirstStart,
}

/// An agent that a creation started or found.
pub struct Attached {
    /// The agent.
    pub handle: AgentHandle,
    /// How often it was RUNNING before this creation.
    pub ran_before: u64,
    /// Somebody waits for it, until this is dropped.
    _caller: Caller,
}

impl Attached {
    fn to(handle: AgentHandle) -> Self {
        let ran_before = handle.status().times_running;
        Self { ran_before, _caller: handle.call(), handle }
    }
}

/// What the supervisor needs to know of its host.
pub struct HostSettings {
    /// Most agents at once.
    pub max_agents: usize,
    /// Time from start to ready unless the launch says otherwise.
    pub start_timeout: Duration,
    /// Time that a launch has to show that it is wrong, before its caller is answered that it was accepted.
    pub launch_patience: Duration,
    /// Time that agents get to end when this host ends.
    pub stop_timeout: Duration,
    /// Time that agents get to move elsewhere before.
    pub drain_timeout: Duration,
}

/// The agents of this host.
pub struct Supervisor {
    settings: HostSettings,
    context: HostContext,
    agents: Arc<Mutex<BTreeMap<AgentKey, AgentHandle>>>,
    tasks: TaskTracker,
    ending: AtomicBool,
    /// The first agent whose task is gone before its time, and why.
    broken: watch::Sender<Option<(AgentKey, Broken)>>,
    /// When those that have not moved are ended.
    drained_by: OnceLock<Instant>,
}

impl Supervisor {
    /// A host without agents.
    pub fn new(settings: HostSettings, context: HostContext) -> Arc<Self> {
        Arc::new(Self {
            settings,
            context,
            agents: Arc::default(),
            tasks: TaskTracker::new(),
            ending: AtomicBool::new(false),
            broken: watch::Sender::new(None),
            drained_by: OnceLock::new(),
        })
    }

    fn agents(&self) -> MutexGuard<'_, BTreeMap<AgentKey, AgentHandle>> {
        // Held for map operations only; a panic cannot leave the map half-changed.
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Host id.
    pub fn host(&self) -> &HostId {
        &self.context.host
    }

    /// Refuses a call that was meant for another host, or another life of this one.
    pub fn check_incarnation(&self, meant: &str) -> Result<(), HostError> {
        if meant.is_empty() || meant == self.context.incarnation.as_str() {
            return Ok(());
        }
        Err(HostError::OtherIncarnation(self.host().clone()))
    }

    /// Number of agents, whatever their phase.
    pub fn count(&self) -> usize {
        self.agents().len()
    }

    /// One agent.
    pub fn get(&self, key: &AgentKey) -> Option<AgentHandle> {
        self.agents().get(key).cloned()
    }

    /// Up to `limit` agents after `after`, in order of organization, guild and agent id.
    pub fn list(&self, within: &Scope, after: Option<&AgentKey>, limit: usize) -> Vec<AgentHandle> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let agents = self.agents();
        let later = agents.range::<AgentKey, _>((from, Bound::Unbounded)).map(|(_, handle)| handle);
        later.filter(|h| within.holds(&h.launch.key)).take(limit).cloned().collect()
    }

    /// Why no agent may start now, if that is so.
    pub fn refusal(&self) -> Option<HostError> {
        if self.ending.load(Ordering::Relaxed) {
            return Some(HostError::Stopping(self.host().clone()));
        }
        match self.context.lease.current().state {
            Lease::Held => None,
            Lease::Waiting | Lease::Lost | Lease::Superseded => Some(HostError::NoLease(self.host().clone())),
        }
    }

    /// Why this host is not healthy, if that is so: it may start no agent, or the registry does not answer.
    pub fn trouble(&self) -> Option<HostError> {
        let unreachable = || (!self.context.lease.is_reachable()).then(|| HostError::NoRegistry(self.host().clone()));
        self.refusal().or_else(unreachable)
    }

    /// Time since the last good renewal of the lease was sent; none before the first.
    pub fn lease_age(&self) -> Option<Duration> {
        self.context.lease.age((self.context.ambient.boot)())
    }

    /// What runs the agents.
    pub fn runtime(&self) -> &dyn Runtime {
        &*self.context.runtime
    }

    /// The queue of starts.
    pub fn starts(&self) -> &Starts {
        &self.context.starts
    }

    /// Starts an agent, or finds it if it is here already. The answer may come before it runs.
    pub async fn create(&self, mut creation: Creation) -> Result<Attached, HostError> {
        if let Some(refusal) = self.refusal() {
            return Err(refusal);
        }
        if let RuntimeKind::Python(profile) = &creation.launch.runtime
            && let profiles = self.runtime().profiles()
            && !profiles.iter().any(|known| known.name == *profile)
        {
            let known = profiles.iter().map(|known| known.name.to_string()).collect();
            return Err(HostError::UnknownProfile { profile: profile.clone(), known });
        }
        match creation.claim.take() {
            Some(claim) => self.admit_claimed(creation, claim).await,
            None => self.claim_and_admit(creation).await,
        }
    }

    async fn admit_claimed(&self, creation: Creation, claim: GivenClaim) -> Result<Attached, HostError> {
        let key = creation.launch.key.clone();
        loop {
            let Some(here) = self.get(&key) else { break };
            if here.epoch == claim.epoch {
                return Ok(Attached::to(here));
            }
            if here.epoch > claim.epoch {
                return Err(HostError::StaleEpoch { key, given: claim.epoch, current: here.epoch });
            }
            // The registry gave the agent to us anew: what we still have of it is void.
            here.supersede().await;
            if here.wait(|_| false).await.ending.is_none() {
                return Err(HostError::Broken(key));
            }
            self.forget(&key, here.epoch);
        }
        self.admit(creation, claim, None)
    }

    async fn claim_and_admit(&self, creation: Creation) -> Result<Attached, HostError> {
        let began = Instant::now();
        let launch = &creation.launch;
        let request = Claim {
            key: launch.key.clone(),
            name: launch.name.clone(),
            request_id: creation.request_id.clone(),
            digest: launch.digest.clone(),
            demand: launch.demand.clone(),
            on_disconnect: launch.on_disconnect,
            documents: launch.documents(),
            candidates: vec![self.host().clone()].into(),
            if_full: IfFull::Refuse,
            first_start: match creation.first_start {
                FirstStart::MustSucceed | FirstStart::FailsAtOnce => rustic_registry::FirstStart::MustSucceed,
                FirstStart::FailsIfWrong => rustic_registry::FirstStart::FailsIfWrong,
                FirstStart::FollowsPolicy => rustic_registry::FirstStart::FollowsPolicy,
            },
            // Who calls a host directly knows what it does.
            waits: None,
            if_namesakes: IfNamesakes::Ignore,
            store_life: self.context.lease.store(),
            asked: self.context.lease.stops(),
        };
        let key = launch.key.clone();
        let outcome = match self.context.registry.claim(&request).await? {
            // Its caller still waits.
            ClaimOutcome::Late(asked) => self.context.registry.claim(&Claim { asked, ..request }).await?,
            outcome => outcome,
        };
        match outcome {
            ClaimOutcome::Claimed(Claimed { epoch, machine_id, takes, .. }) => {
                let claim = GivenClaim { epoch, machine_id, takes };
                let admitted = self.admit(creation, claim, Some(began.elapsed()));
                if admitted.is_err() {
                    // Our own claim, which no task will look after.
                    self.context.registry.release(&key, epoch, ReleaseGuard::Unaccepted).await?;
                }
                admitted
            }
            ClaimOutcome::Exists(record) if record.phase() == Phase::Failed => {
                Err(HostError::Failed { key, condition: record.condition })
            }
            ClaimOutcome::Exists(record) if record.host().is_none() => Err(HostError::Waits(key)),
            ClaimOutcome::Exists(record) => match GivenClaim::of(&record) {
                Some(claim) if record.host() == Some(self.host()) => self.admit_claimed(creation, claim).await,
                _ => {
                    let host = record.host().map(|h| h.to_string()).unwrap_or_default();
                    Err(HostError::Elsewhere { key, host })
                }
            },
            ClaimOutcome::Conflict(phase) => Err(HostError::OtherSpec { key, phase }),
            ClaimOutcome::Stopping => Err(HostError::AgentStopping(key)),
            ClaimOutcome::Held | ClaimOutcome::Late(_) => Err(HostError::NoLease(self.host().clone())),
            ClaimOutcome::NoMachineId => Err(HostError::GuildTooLarge(key.guild)),
            // Neither is asked for.
            ClaimOutcome::Namesakes(_) | ClaimOutcome::Waits | ClaimOutcome::NoRoom => {
                Err(HostError::Full(self.host().clone()))
            }
        }
    }

    /// Gives a claimed agent its task. The second of two calls at once finds the task of the first.
    fn admit(
        &self,
        creation: Creation,
        claim: GivenClaim,
        claim_took: Option<Duration>,
    ) -> Result<Attached, HostError> {
        let key = creation.launch.key.clone();
        let GivenClaim { epoch, machine_id, takes } = claim;
        let launch = Arc::new(creation.launch);
        let order = Order { launch, epoch, machine_id, takes, skip: vec![], state: None, memory: None };
        let launching = Launching {
            order,
            request_id: creation.request_id,
            first_start: creation.first_start,
            start_timeout: self.settings.start_timeout,
            claim: claim_took,
        };
        let mut agents = self.agents();
        // Looked at under the lock, so that no agent slips in after `end` has looked for the last time.
        if self.ending.load(Ordering::Relaxed) {
            return Err(HostError::Stopping(self.host().clone()));
        }
        let full = agents.len() >= self.settings.max_agents;
        match agents.entry(key) {
            Entry::Occupied(here) if here.get().epoch == epoch => Ok(Attached::to(here.get().clone())),
            Entry::Occupied(here) => {
                let (key, current) = (here.key().clone(), here.get().epoch);
                Err(HostError::StaleEpoch { key, given: epoch, current })
            }
            Entry::Vacant(_) if full => Err(HostError::Full(self.host().clone())),
            Entry::Vacant(place) => {
                // Refused before it is accepted: another host may have what this one lacks.
                if let Some(lack) = self.context.runtime.refusal() {
                    let failure = Box::new(StartFailure::Spawn(Arc::new(lack)));
                    return Err(HostError::StartFailed { key: place.into_key(), failure, last_lines: vec![] });
                }
                let (task, handle) = AgentTask::new(launching, self.context.clone());
                place.insert(handle.clone());
                let attached = Attached::to(handle);
                self.start(task, &attached.handle);
                Ok(attached)
            }
        }
    }

    fn forget(&self, key: &AgentKey, epoch: Epoch) {
        remove(&self.agents, key, epoch);
    }

    /// The agent that a claim means; any claim, if none is named.
    fn claimed(&self, key: &AgentKey, epoch: Option<Epoch>) -> Result<AgentHandle, HostError> {
        let handle = self.get(key).ok_or_else(|| HostError::Unknown(key.clone()))?;
        match epoch.filter(|given| *given != handle.epoch) {
            Some(given) => Err(HostError::StaleEpoch { key: key.clone(), given, current: handle.epoch }),
            None => Ok(handle),
        }
    }

    /// Checks that no handler of an agent is at work. One may begin right after; a stop lets it finish.
    pub fn check_idle(&self, key: &AgentKey, epoch: Option<Epoch>) -> Result<(), HostError> {
        match self.claimed(key, epoch)?.at_work() {
            Some(message) => Err(HostError::AtWork { key: key.clone(), message }),
            None => Ok(()),
        }
    }

    /// Stops an agent and waits until that is certain.
    pub async fn stop(
        &self,
        key: &AgentKey,
        epoch: Option<Epoch>,
        kind: StopPurpose,
        grace: Duration,
    ) -> Result<AgentStatus, HostError> {
        let handle = self.claimed(key, epoch)?;
        handle.stop(kind, grace).await;
        let status = handle.wait(|s| s.pid.is_none() && s.trouble.is_some()).await;
        match (&status.ending, &status.trouble) {
            (None, Some(trouble)) => Err(HostError::Unrecorded { key: key.clone(), trouble: trouble.clone() }),
            // Its task is gone: nobody can say that its process is.
            (None, None) => Err(HostError::Broken(key.clone())),
            (Some(Ending::Superseded), _) => Err(HostError::Superseded(key.clone())),
            // It was given away before the stop reached it, and lives on elsewhere.
            (Some(Ending::Moved(_)), _) if kind == StopPurpose::Asked => Err(HostError::Superseded(key.clone())),
            (Some(Ending::Failed), _) => {
                // It failed before the stop reached it: what is left is its record.
                self.forget(key, handle.epoch);
                match self.context.registry.release(key, handle.epoch, ReleaseGuard::Unassigned).await? {
                    ReleaseOutcome::Released | ReleaseOutcome::Gone => Ok(status),
                    ReleaseOutcome::Stale(_) | ReleaseOutcome::Guarded(_) => Err(HostError::Superseded(key.clone())),
                }
            }
            (Some(Ending::Stopped(_) | Ending::Moved(_) | Ending::StartFailed(_)), _) => {
                self.forget(key, handle.epoch);
                Ok(status)
            }
        }
    }

    /// Waits until others have taken all agents, for as long as there is another host to take them.
    pub async fn emptied(&self) {
        let mut looks = interval(LOOK_EVERY);
        let mut observer = Observer::default();
        while self.count() > 0 {
            looks.tick().await;
            match self.context.registry.hosts().await {
                Ok(view) => {
                    let now = Instant::now();
                    observer.look(&view, now);
                    let takes = |h: &HostRecord| h.takes_agents() && observer.is_heard(&h.host, &h.incarnation, now);
                    if !view.hosts.iter().any(|h| h.host != *self.host() && takes(h)) {
                        return info!("no other host takes agents; they wait for this one, or another, to come back");
                    }
                }
                // A registry that restarts is back before the lease ends; after that no agent is left to move.
                Err(error) if self.context.lease.current().state == Lease::Held => {
                    debug!(%error, "the registry cannot be reached; looking again");
                }
                Err(error) => return warn!(%error, "the registry cannot be reached; the agents cannot be moved"),
            }
        }
    }

    /// Time between SIGTERM and SIGKILL of an agent that moves: what is left of the time to drain, and never less than agents
    /// get whose host ends.
    pub fn time_to_move(&self) -> Duration {
        let HostSettings { stop_timeout, drain_timeout, .. } = self.settings;
        let left = self.drained_by.get().map(|by| by.saturating_duration_since(Instant::now()));
        left.unwrap_or(drain_timeout).max(stop_timeout)
    }

    /// Time that a launch has to show that it is wrong.
    pub fn launch_patience(&self) -> Duration {
        self.settings.launch_patience
    }

    /// Takes no more agents.
    pub async fn close(&self) {
        self.drained_by.get_or_init(|| Instant::now() + self.settings.drain_timeout);
        self.ending.store(true, Ordering::Relaxed);
        self.context.lease.drain().await;
    }

    /// Ends every agent, each with `grace`, and waits for all of them. Their records stay, PENDING.
    pub async fn end(&self, grace: Duration) {
        self.close().await;
        self.tasks.close();
        let handles: Vec<_> = self.agents().values().cloned().collect();
        let all = async {
            // At once: one whose task does not take in what it is asked must not hold up the others.
            join_all(handles.iter().map(|handle| handle.stop(StopPurpose::Moves(Moving::GivenAway), grace))).await;
            self.tasks.wait().await;
        };
        if timeout(grace + RECORDS, all).await.is_err() {
            // Every process was killed by now. The next life of this host voids what could not be recorded.
            warn!("some agents' records could not be written; leaving without");
        }
    }
}

fn remove(agents: &Mutex<BTreeMap<AgentKey, AgentHandle>>, key: &AgentKey, epoch: Epoch) {
    let mut agents = agents.lock().unwrap_or_else(PoisonError::into_inner);
    if agents.get(key).is_some_and(|here| here.epoch == epoch) {
        agents.remove(key);
    }
}

#[cfg(test)]
mod tests;
