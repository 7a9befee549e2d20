//! What one pass of the keeper does: takes agents off hosts that are gone, gives places to those that wait, and calls
//! hosts again whose claims were never accepted.

use super::{Creation, Engine, create::Place, stop::StopKind};
use crate::{
    error::EngineError,
    takeover::{self, Cause, Loss, Settled},
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use rustic_proto::{agent_host::v1 as pb, launch::Launch};
use rustic_registry::{
    Advance, AgentKey, AgentRecord, Claimed, Epoch, HostRecord, HostState, Index, Phase, PlaceOutcome, Queue,
    ReleaseGuard, ReleaseOutcome, View,
};
use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tracing::{debug, info, warn};

/// Agents seen to at once.
const AT_ONCE: usize = 32;
/// Agents moved at once: each is away for as long as one stop and one start take, and not for a queue of them.
const MOVES_AT_ONCE: usize = 6;
/// Longest wait for an agent that moved to become ready, and time between two looks at it.
const READY: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Agents read at once.
const PAGE: usize = 200;
/// Agents that wait, looked at in one pass; the oldest first.
const LOOKED_AT: usize = 2_000;
/// Age at which a claim that nobody accepted is seen to: whoever made it has given up or is gone.
const UNACCEPTED: Duration = Duration::from_secs(5);
/// Time between SIGTERM and SIGKILL of an agent that moves.
const MOVE_GRACE: Duration = Duration::from_secs(10);
/// Longest wait for a host that is asked to take an agent.
const HOST_CALL: Duration = Duration::from_secs(3);

impl Engine {
    /// One pass.
    pub async fn keep(&self, settled: &mut Settled) -> Result<(), EngineError> {
        self.fleet.refresh().await?;
        for loss in takeover::losses(&self.fleet.view(), self.lease_grace, settled) {
            self.take_over(&loss).await?;
            if loss.cause == Cause::FormerLife {
                settled.insert(loss.host, loss.incarnation);
            }
        }
        self.call_again().await?;
        self.place_waiting().await
    }

    /// Moves agents off hosts that drain, as far as others have room. Takes as long as agents take to stop.
    pub async fn empty_draining(&self) -> Result<(), EngineError> {
        let view = self.fleet.view();
        let drains = |h: &HostRecord| h.state == HostState::Draining && h.deadline > view.now;
        for host in &view.hosts {
            if !drains(host) {
                continue;
            }
            let index = Index::Host(host.host.clone());
            let page = self.registry.list(&index, None, PAGE, View::Basic).await?;
            let mut here = page.agents;
            here.retain(|record| record.accepted.is_some());
            let moves: Vec<_> = here.iter().map(|record| self.move_off(record)).collect();
            stream::iter(moves).buffer_unordered(MOVES_AT_ONCE).try_collect::<()>().await?;
        }
        Ok(())
    }

    /// Stops an agent where it is and starts it elsewhere, if there is room elsewhere.
    async fn move_off(&self, record: &AgentRecord) -> Result<(), EngineError> {
        let Some(host) = &record.host else { return Ok(()) };
        if record.phase == Phase::Stopping || self.fleet.candidates(&record.demand, &BTreeSet::new()).is_empty() {
            return Ok(());
        }
        match self.ask_host(record, host, StopKind::Moves, MOVE_GRACE).await? {
            Ok(_exit) => {}
            // Somebody else moved or stopped it; or the host is in trouble, and is seen to by another step.
            Err(status) => {
                debug!(agent = %record.key, %host, %status, "the agent was not moved");
                return Ok(());
            }
        }
        let Some(waiting) = self.registry.get(&record.key, View::Basic).await? else { return Ok(()) };
        let Some(place) = self.place(&waiting).await? else { return Ok(()) };
        let epoch = place.epoch;
        self.start_on(&waiting, place).await?;
        self.until_ready(&waiting.key, epoch).await
    }

    /// Waits until an agent that was started has become ready, or is somebody else's matter; for a while.
    async fn until_ready(&self, key: &AgentKey, epoch: Epoch) -> Result<(), EngineError> {
        let give_up = Instant::now() + READY;
        while Instant::now() < give_up {
            match self.registry.get(key, View::Basic).await? {
                Some(record) if record.epoch == epoch && record.phase == Phase::Starting => sleep(LOOK_EVERY).await,
                _ => break,
            }
        }
        Ok(())
    }

    /// Takes the agents off a host that is gone: they wait for another place.
    async fn take_over(&self, loss: &Loss) -> Result<(), EngineError> {
        let Loss { host, incarnation, cause } = loss;
        let mut after = None;
        let mut taken = 0;
        loop {
            let index = Index::Host(host.clone());
            let page = self.registry.list(&index, after.as_ref(), PAGE, View::Basic).await?;
            let reason = format!("its host {host} is gone; it moves to another one");
            let is_lost = |r: &AgentRecord| match cause {
                Cause::Gone => true,
                Cause::FormerLife => r.incarnation.as_ref() != Some(incarnation),
            };
            let mut lost = page.agents;
            lost.retain(is_lost);
            let guard = ReleaseGuard::Expired(self.lease_grace);
            let taking: Vec<_> =
                lost.iter().map(|r| self.registry.unplace(&r.key, r.epoch, guard, &reason)).collect();
            let outcomes: Vec<_> = stream::iter(taking).buffer_unordered(AT_ONCE).try_collect().await?;
            taken += outcomes.iter().filter(|outcome| **outcome == ReleaseOutcome::Released).count();
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        if taken > 0 {
            warn!(%host, agents = taken, "the host is gone; its agents move to others");
        }
        if *cause == Cause::Gone && self.registry.retire(host, incarnation, self.lease_grace).await? {
            info!(%host, "the host is forgotten");
        }
        Ok(())
    }

    /// Claims whose engine died between claim and call, or whose host did not get to accept them.
    async fn call_again(&self) -> Result<(), EngineError> {
        let left = self.registry.oldest(Queue::Unaccepted(UNACCEPTED), 0, PAGE, View::Basic).await?;
        let mut calls = vec![];
        for record in &left {
            if let Some(host) = record.host.clone() {
                let (incarnation, epoch, machine_id) = (record.incarnation.clone(), record.epoch, record.machine_id);
                calls.push(self.start_on(record, Place { host, incarnation, epoch, machine_id }));
            }
        }
        stream::iter(calls).buffer_unordered(AT_ONCE).try_collect().await
    }

    /// Gives a place to every agent that waits, as far as there is room, oldest first.
    async fn place_waiting(&self) -> Result<(), EngineError> {
        let mut skip = 0;
        while skip < LOOKED_AT {
            let waiting = self.registry.oldest(Queue::Pending, skip, PAGE, View::Basic).await?;
            let looked_at = waiting.len();
            let placed = AtomicUsize::new(0);
            // Places are given one after the other: the order in which agents wait is the order in which they get room.
            // Whoever has a place starts while the next ones are looked for.
            let places = stream::iter(waiting.into_iter().map(Ok::<_, EngineError>))
                .and_then(async |record| Ok((self.place(&record).await?, record)));
            places
                .try_for_each_concurrent(AT_ONCE, async |(place, record)| match place {
                    Some(place) => {
                        placed.fetch_add(1, Ordering::Relaxed);
                        self.start_on(&record, place).await
                    }
                    None => Ok(()),
                })
                .await?;
            if looked_at < PAGE {
                break;
            }
            skip += looked_at - placed.into_inner();
        }
        Ok(())
    }

    async fn place(&self, record: &AgentRecord) -> Result<Option<Place>, EngineError> {
        let candidates = self.fleet.candidates(&record.demand, &BTreeSet::new());
        if candidates.is_empty() {
            return Ok(None);
        }
        match self.registry.place(&record.key, record.epoch, &candidates).await? {
            PlaceOutcome::Placed(Claimed { host, incarnation, epoch, machine_id }) => {
                self.fleet.reserve(&host, &record.demand);
                info!(agent = %record.key, %host, %epoch, "placed");
                Ok(Some(Place { host, incarnation: Some(incarnation), epoch, machine_id }))
            }
            PlaceOutcome::NoRoom | PlaceOutcome::Changed | PlaceOutcome::Held => Ok(None),
        }
    }

    /// Has the host of a claim take the agent. If it does not, the agent waits for another place; if no host ever could,
    /// it becomes FAILED.
    async fn start_on(&self, record: &AgentRecord, place: Place) -> Result<(), EngineError> {
        let key = &record.key;
        let Some(full) = self.registry.get(key, View::Full).await?.filter(|r| r.epoch == place.epoch) else {
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
            wait: pb::WaitMode::Accepted,
            if_full: rustic_registry::IfFull::Wait,
            deadline: Instant::now() + HOST_CALL,
            caller_gone: CancellationToken::new(),
        };
        let Err(status) = self.ask_to_take(&creation, &place).await? else { return Ok(()) };
        warn!(agent = %key, host = %place.host, %status, "host could not take the agent");
        if status.code() == Code::InvalidArgument {
            return self.fail(&full, &format!("host {} refuses it: {}", place.host, status.message())).await;
        }
        // Guarded: it was accepted after all, and its host sees to it.
        let reason = format!("host {} could not take it: {}", place.host, status.message());
        self.registry.unplace(key, place.epoch, ReleaseGuard::Unaccepted, &reason).await?;
        Ok(())
    }

    async fn fail(&self, record: &AgentRecord, reason: &str) -> Result<(), EngineError> {
        let failed = Advance {
            key: record.key.clone(),
            epoch: record.epoch,
            phase: Phase::Failed,
            pid: None,
            restarts: record.restarts,
            reason: reason.to_owned(),
            exit: None,
            knew: None,
        };
        self.registry.advance(&failed).await?;
        Ok(())
    }
}
