//! What one pass of the reconciler does: takes agents off hosts that are gone, gives places to those that wait (`line.rs`), and
//! calls hosts again whose claims were never accepted.

use super::{Creation, Engine, PendingPolicy, stop::Stop};
use crate::{
    answer::Refused,
    error::EngineError,
    metrics::{self, Move},
    rounds::{Again, LEFT, PAUSE},
    scale,
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use rustic_proto::{agent::v1 as agent_pb, agent_host::v1 as pb, launch::Launch};
use rustic_registry::{
    Advance, AgentKey, AgentReason, AgentRecord, Assignment, Claimed, Condition, Epoch, FirstStart, FormerState,
    HostId, Incarnation, Index, Phase, Queue, ReleaseGuard, ReleaseOutcome, Unassign, View,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// Agents seen to at once.
pub(super) const AT_ONCE: usize = 32;
/// Agents moved at once: each is away for as long as one stop and one start take, and not for a queue of them.
const MOVES_AT_ONCE: usize = 6;
/// Longest wait for an agent that moved to become ready.
const READY: Duration = Duration::from_secs(2);
/// Agents read at once.
pub(super) const PAGE: usize = 200;
/// Age at which a claim that nobody accepted is seen to: whoever made it has given up or is gone.
const UNACCEPTED: Duration = Duration::from_secs(5);
/// Longest wait for a host that is asked to take an agent.
const HOST_CALL: Duration = Duration::from_secs(3);

/// What a reconciler remembers from pass to pass: claims that nobody has accepted, and since when it has seen them.
#[derive(Debug, Default)]
pub struct Unaccepted(BTreeMap<AgentKey, (Epoch, Instant)>);

/// How an agent is moved.
pub(super) struct Relocation<'a> {
    pub(super) why: Move,
    /// What happens if a handler of it is at work.
    pub(super) at_work: pb::AtWorkPolicy,
    /// Hosts on which it may not be.
    pub(super) not_on: &'a BTreeSet<HostId>,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relocated {
    /// It has left its host, and starts elsewhere, or waits for room.
    Moved,
    /// Its host has not given it away.
    Refused(Refused),
}

impl Engine {
    /// One pass.
    pub async fn reconcile(&self, unaccepted: &mut Unaccepted) -> Result<Again, EngineError> {
        let troubles = self.troubles.met();
        let restoring = self.fleet.is_restoring().await?;
        self.hosts.retain(&self.fleet.alive());
        self.retire_silent().await?;
        if restoring {
            // What the registry says is not so yet. No change shows that a host has reported, or that the time is over: so this looks at
            // short intervals, as long as a lease lasts at most.
            self.settle().await?;
            return Ok(Again::In(PAUSE));
        }
        let former = self.fleet.view().registry.former;
        for process in former.iter().filter(|f| f.state == FormerState::Over) {
            let taken = self.take_over(&process.host, &process.incarnation).await;
            self.troubles.own("take_over", &process.host, taken)?;
        }
        let unaccepted = self.call_again(unaccepted).await?;
        self.place_waiting().await?;
        let waiting = self.fleet.view().registry.pending > 0;
        let left = unaccepted || waiting || self.troubles.met() > troubles;
        Ok(if left { Again::In(LEFT) } else { Again::OnChange })
    }

    /// Takes hosts their leases that have been silent for as long as those last. Whoever has renewed meanwhile keeps it.
    async fn retire_silent(&self) -> Result<(), EngineError> {
        let silent = self.fleet.silent(self.leases.slack());
        for silent in &silent {
            if self.registry.retire(silent).await? {
                warn!(host = %silent.host, process = %silent.incarnation, "the host is retired: it was silent for as long as its lease lasts");
            }
        }
        if !silent.is_empty() {
            self.fleet.refresh().await?;
        }
        Ok(())
    }

    /// Ends the time in which a store life settles, when it may.
    async fn settle(&self) -> Result<(), EngineError> {
        let Some((store, watched)) = self.fleet.settling(self.leases.longest, self.leases.slack()) else {
            return Ok(());
        };
        if (watched || self.leases.new_registry) && self.registry.settle(&store, watched).await? {
            info!(%store, "the registry has settled: every host that is known of has reported what it runs, or is retired");
            self.fleet.refresh().await?;
            self.wake.wake();
        }
        Ok(())
    }

    /// Moves agents off hosts that drain, as far as others have room. Takes as long as agents take to stop.
    pub async fn empty_draining(&self) -> Result<Again, EngineError> {
        self.fleet.catch_up().await?;
        let view = self.fleet.view();
        if view.registry.held {
            return Ok(Again::OnChange);
        }
        let mut left = false;
        for host in view.alive().filter(|host| !host.takes_agents()) {
            let index = Index::Host(host.host.clone());
            let page = self.registry.list(&index, None, PAGE, View::Basic).await?;
            let mut here = page.agents;
            left |= !here.is_empty();
            here.retain(|record| record.accepted().is_some());
            let move_off = async |record| {
                let moved = self.move_off(record).await;
                self.troubles.own("move", &record.key, moved).map(|_| ())
            };
            let moves: Vec<_> = here.iter().map(move_off).collect();
            stream::iter(moves).buffer_unordered(MOVES_AT_ONCE).try_collect::<()>().await?;
        }
        // Those that are still at work are asked again, and a host may have got the memory back that it lacked.
        Ok(if left { Again::In(LEFT) } else { Again::OnChange })
    }

    /// Moves one agent off the highest host, if the ones below it have room for all it holds.
    pub async fn compact(&self) -> Result<(), EngineError> {
        self.fleet.refresh().await?;
        let view = self.fleet.view();
        let Some(host) = scale::topmost(&view) else { return Ok(()) };
        let agents = self.fleet.agents_on(&host).await?;
        let demands: Vec<_> = agents.iter().map(|agent| agent.demand.clone()).collect();
        if !scale::fit_below(&view, &host, &demands) {
            return Ok(());
        }
        let not_below = view.registry.hosts.iter().filter(|h| h.host.ordinal() >= host.ordinal());
        let not_below: BTreeSet<_> = not_below.map(|h| h.host.clone()).collect();
        let moves = |r: &&AgentRecord| {
            let runs = r.phase() == Phase::Running && r.accepted().is_some();
            runs && self.fleet.has_room(&r.demand, &not_below)
        };
        let moving = agents.iter().find(moves).and_then(|record| Some((record, record.assignment()?)));
        if let Some((record, assignment)) = moving {
            info!(%host, agent = %record.key, "moving it to a lower host, so that this one is empty before it goes");
            let why = Relocation { why: Move::Compaction, at_work: pb::AtWorkPolicy::Finish, not_on: &not_below };
            self.relocate(record, assignment, &why).await?;
        }
        Ok(())
    }

    /// Moves an agent off a host that drains, if there is room elsewhere.
    async fn move_off(&self, record: &AgentRecord) -> Result<(), EngineError> {
        let Some(assignment) = record.assignment() else { return Ok(()) };
        // Its host may take agents again by now: others were moved before this one.
        let drains = self.fleet.host(&assignment.host).is_some_and(|host| !host.takes_agents());
        if !drains || record.phase() == Phase::Stopping || !self.fleet.has_room(&record.demand, &BTreeSet::new()) {
            return Ok(());
        }
        let anywhere = BTreeSet::new();
        let why = Relocation { why: Move::Drain, at_work: pb::AtWorkPolicy::Finish, not_on: &anywhere };
        self.relocate(record, assignment, &why).await.map(|_| ())
    }

    /// Stops an agent where it is and starts it where placement wants it.
    pub(super) async fn relocate(
        &self,
        record: &AgentRecord,
        assignment: &Assignment,
        Relocation { why, at_work, not_on }: &Relocation<'_>,
    ) -> Result<Relocated, EngineError> {
        let purpose = match why {
            Move::Drain | Move::Compaction => pb::StopPurpose::Drain,
            Move::Rebalancing => pb::StopPurpose::Rebalance,
        };
        let stop = Stop { purpose, at_work: *at_work, grace: None };
        match self.ask_host(record, assignment, stop).await? {
            Ok(_exit) => metrics::moved(*why),
            // Somebody else moved or stopped it; or it still finishes what it handles, and is asked again; or the host is in trouble,
            // and is seen to by another step.
            Err(refusal) => {
                debug!(agent = %record.key, host = %assignment.host, refused = ?refusal.refused(), %refusal, "the agent was not moved");
                return Ok(Relocated::Refused(refusal.refused()));
            }
        }
        let Some(waiting) = self.registry.get(&record.key, View::Basic).await? else { return Ok(Relocated::Moved) };
        // Without one it waits in line, like everybody.
        let Some(claimed) = self.assign(&waiting, not_on).await? else { return Ok(Relocated::Moved) };
        let epoch = claimed.epoch;
        self.start_on(&waiting, claimed).await?;
        self.until_ready(&waiting.key, epoch).await?;
        Ok(Relocated::Moved)
    }

    /// Waits until an agent that was started has become ready, or is somebody else's matter; for a while.
    async fn until_ready(&self, key: &AgentKey, epoch: Epoch) -> Result<(), EngineError> {
        let starts = |record: &Option<AgentRecord>| {
            record.as_ref().is_some_and(|record| record.epoch == epoch && record.phase() == Phase::Starting)
        };
        self.follow(key, Instant::now() + READY, |record| Ok((!starts(&record)).then_some(()))).await?;
        Ok(())
    }

    /// Takes the agents of a process that is over: they wait for another place. Forgets the process once nothing is left.
    async fn take_over(&self, host: &HostId, incarnation: &Incarnation) -> Result<(), EngineError> {
        let gone = Condition::new(AgentReason::HostLost, format!("its host {host} is gone; it moves to another one"));
        let is_its = |r: &AgentRecord| r.incarnation() == Some(incarnation);
        let taken = self.take_off(host, ReleaseGuard::Ended, &gone, is_its).await?;
        if taken > 0 {
            warn!(%host, agents = taken, "the host is gone; its agents move to others");
            metrics::taken_over(taken);
        }
        self.registry.forget(host, incarnation).await?;
        Ok(())
    }

    /// Takes agents off a host, those that are to go and for which `guard` holds: they wait for another place. Returns how many.
    pub(super) async fn take_off(
        &self,
        host: &HostId,
        guard: ReleaseGuard,
        condition: &Condition,
        goes: impl Fn(&AgentRecord) -> bool,
    ) -> Result<usize, EngineError> {
        let unassign = |r: AgentRecord| Unassign {
            key: r.key,
            epoch: r.epoch,
            guard,
            condition: condition.clone(),
            store_life: None,
        };
        let here = self.fleet.agents_on(host).await?;
        let requests: Vec<_> = here.into_iter().filter(|r| goes(r)).map(unassign).collect();
        let take = async |request: &Unassign| {
            let outcome = self.registry.unassign(request).await.map_err(EngineError::from);
            self.troubles.own("take_off", &request.key, outcome)
        };
        let taking: Vec<_> = requests.iter().map(take).collect();
        let outcomes: Vec<_> = stream::iter(taking).buffer_unordered(AT_ONCE).try_collect().await?;
        Ok(outcomes.iter().filter(|outcome| **outcome == Some(ReleaseOutcome::Released)).count())
    }

    /// Claims whose engine died between claim and call, or whose host did not get to accept them: those that this engine has seen for
    /// a while. Returns whether there are any, however new.
    async fn call_again(&self, Unaccepted(seen): &mut Unaccepted) -> Result<bool, EngineError> {
        let left = self.registry.oldest(Queue::Unaccepted, 0, PAGE, View::Basic).await?;
        let now = Instant::now();
        let since =
            |r: &AgentRecord| seen.get(&r.key).filter(|(epoch, _)| *epoch == r.epoch).map_or(now, |(_, at)| *at);
        let still: BTreeMap<_, _> = left.iter().map(|r| (r.key.clone(), (r.epoch, since(r)))).collect();
        let old: Vec<_> = left.iter().filter(|r| now.saturating_duration_since(since(r)) >= UNACCEPTED).collect();
        *seen = still;
        let call = async |record: &AgentRecord| {
            let Some(assignment) = record.assignment() else { return Ok(()) };
            let started = self.start_on(record, Claimed::of(record, assignment)).await;
            self.troubles.own("call_again", &record.key, started).map(|_| ())
        };
        let calls: Vec<_> = old.into_iter().map(call).collect();
        stream::iter(calls).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        Ok(!left.is_empty())
    }

    /// Has the host of a claim take the agent. If it does not, the agent waits for another place; if no host ever could,
    /// it becomes FAILED.
    pub(super) async fn start_on(&self, record: &AgentRecord, claimed: Claimed) -> Result<(), EngineError> {
        let key = &record.key;
        let Some(full) = self.registry.get(key, View::Launch).await?.filter(|r| r.epoch == claimed.epoch) else {
            // Stopped, or moved on by another replica.
            return Ok(());
        };
        let launch = full.documents.as_ref().map(Launch::from_documents);
        let launch = match launch {
            Some(Ok(launch)) => launch,
            Some(Err(violations)) => return self.fail(&full, &format!("it cannot be launched: {violations}")).await,
            None => return Ok(()),
        };
        let creation = Creation {
            launch,
            request_id: full.request_id.clone(),
            wait: agent_pb::WaitMode::Accepted,
            first_start: match full.first_start {
                _ if full.running.is_some() => pb::FirstStart::Unspecified,
                FirstStart::MustSucceed => pb::FirstStart::Fail,
                FirstStart::FailsIfWrong => pb::FirstStart::FailIfWrong,
                FirstStart::FollowsPolicy => pb::FirstStart::Unspecified,
            },
            pending: PendingPolicy::Refuse,
            deadline: Instant::now() + HOST_CALL,
            caller_gone: CancellationToken::new(),
        };
        let Err(refusal) = self.call_host(&creation, &claimed).await? else { return Ok(()) };
        warn!(agent = %key, host = %claimed.host, refused = ?refusal.refused(), %refusal, "host could not take the agent");
        if refusal.refused() == Refused::Exhausted {
            self.fleet.avoid(&claimed.host);
        }
        if refusal.refused() == Refused::Invalid {
            return self.fail(&full, &format!("host {} refuses it: {refusal}", claimed.host)).await;
        }
        // Guarded: it was accepted after all, and its host sees to it.
        let condition =
            Condition::new(AgentReason::HostRefused, format!("host {} could not take it: {refusal}", claimed.host));
        let (key, epoch, guard) = (key.clone(), claimed.epoch, ReleaseGuard::Unaccepted);
        self.registry.unassign(&Unassign { key, epoch, guard, condition, store_life: None }).await?;
        Ok(())
    }

    async fn fail(&self, record: &AgentRecord, why: &str) -> Result<(), EngineError> {
        let failed = Advance {
            key: record.key.clone(),
            epoch: record.epoch,
            phase: Phase::Failed,
            pid: None,
            restarts: record.restarts,
            condition: Some(Condition::new(AgentReason::LaunchInvalid, why)),
            last_lines: vec![],
            exit: None,
            store_life: None,
            // Only if no host has written before.
            sequence: 0,
        };
        self.registry.advance(&failed).await?;
        Ok(())
    }
}
