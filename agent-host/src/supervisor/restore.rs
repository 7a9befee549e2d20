//! What the host and the registry exchange beside calls: the host takes in agents that come back from a former life, and restores
//! all that runs here to a registry that may have lost it.

use super::{Creation, GivenClaim, PAGE, Supervisor};
use crate::{agent::FirstStart, error::HostError};
use rustic_proto::launch::Launch;
use rustic_registry::{AgentReason, AgentRecord, Condition, Index, ReleaseGuard, Scope, StoreLife, Unassign, View};
use rustic_telemetry::{
    outage::Outage,
    pulse::{self, Pulse},
};
use std::{sync::Arc, time::Duration};
use tokio::time::sleep;
use tracing::{error, warn};

/// Pause before a comparison with the registry that failed is made again.
const COMPARE_AGAIN: Duration = Duration::from_millis(200);

impl Supervisor {
    /// Sets until when processes of the runtime may live, takes in agents that come back from a former life, and sees to it that
    /// everything is reported to another store life. Ends never; each part goes on where it was when cut off.
    pub async fn follow_lease(self: Arc<Self>) {
        let pulse = Pulse::of("the follower of the lease", pulse::TURN);
        let all = async { tokio::join!(self.follow_deadline(), self.take_back_always(), self.restore_always()) };
        // What they wait for may take any time: the store, and every agent's task.
        pulse.waits(all).await;
    }

    async fn follow_deadline(&self) {
        let mut lease = self.context.lease.clone();
        loop {
            self.context.runtime.set_deadline(lease.next_deadline().await);
        }
    }

    async fn take_back_always(&self) {
        let mut lease = self.context.lease.clone();
        loop {
            lease.agents_returned().await;
            if let Err(error) = self.take_back().await {
                // engine-svc asks this host again for every agent that it does not accept.
                warn!(%error, "returned agents could not be read");
            }
        }
    }

    async fn restore_always(&self) {
        let mut lease = self.context.lease.clone();
        let mut outage = Outage::of("comparing the registry's records of this host");
        loop {
            lease.store_changed().await;
            while let Some(store) = self.context.lease.store() {
                match self.restore_all(&store).await {
                    Ok(()) if self.context.lease.store().as_ref() != Some(&store) => continue,
                    Ok(()) => {
                        outage.over();
                        self.context.lease.has_reported(store).await;
                        break;
                    }
                    Err(error) => _ = outage.failed(&error),
                }
                sleep(COMPARE_AGAIN).await;
            }
        }
    }

    /// Waits until every agent's task has restored its record to another store life. Then unassigns each agent that the store has on
    /// this host and that is not here: the store lacks the write that ended it.
    async fn restore_all(&self, store: &StoreLife) -> Result<(), HostError> {
        for handle in self.list(&Scope::All, None, usize::MAX) {
            // The store life of now: it may have changed once more, and then nobody writes to the one before any more.
            handle.wait(|s| s.written_to == self.context.lease.store()).await;
        }
        for record in self.own_records(View::Basic).await? {
            let here = self.get(&record.key).is_some_and(|here| here.epoch == record.epoch);
            if record.accepted().is_some() && !here {
                let condition = Condition::new(AgentReason::RecordLost, "the registry had lost how it ended");
                warn!(agent = %record.key, epoch = %record.epoch, cause = %condition, "the agent starts again");
                let (key, epoch, guard) = (record.key, record.epoch, ReleaseGuard::Reaped);
                let unassign = Unassign { key, epoch, guard, condition, store_life: Some(store.clone()) };
                self.context.registry.unassign(&unassign).await?;
            }
        }
        Ok(())
    }

    /// What the store has of this life of the host.
    async fn own_records(&self, view: View) -> Result<Vec<AgentRecord>, HostError> {
        let index = Index::Host(self.host().clone());
        let (mut own, mut after) = (vec![], None);
        loop {
            let page = self.context.registry.list(&index, after.as_ref(), PAGE, view).await?;
            let ours = |r: &AgentRecord| r.incarnation() == Some(&self.context.incarnation);
            own.extend(page.agents.into_iter().filter(ours));
            after = page.next;
            if after.is_none() {
                return Ok(own);
            }
        }
    }

    /// Takes in the agents of this host's former life, which the registry gave to this one.
    async fn take_back(&self) -> Result<(), HostError> {
        for record in self.own_records(View::Launch).await? {
            if record.accepted().is_none() {
                self.take_in(record);
            }
        }
        Ok(())
    }

    fn take_in(&self, record: AgentRecord) {
        let launch = record.documents.as_ref().map(Launch::from_documents);
        let launch = match launch {
            Some(Ok(launch)) => launch,
            unreadable => return error!(agent = %record.key, ?unreadable, "a returned agent cannot be launched"),
        };
        let Some(claim) = GivenClaim::of(&record) else { return };
        let first_start = match record.first_start {
            _ if record.running.is_some() => FirstStart::FollowsPolicy,
            rustic_registry::FirstStart::MustSucceed => FirstStart::FailsAtOnce,
            rustic_registry::FirstStart::FailsIfWrong => FirstStart::FailsIfWrong,
            rustic_registry::FirstStart::FollowsPolicy => FirstStart::FollowsPolicy,
        };
        let creation = Creation { launch, request_id: record.request_id, claim: None, first_start };
        // One that is not admitted stays unaccepted, and engine-svc finds another place for it.
        if let Err(error) = self.admit(creation, claim, None) {
            warn!(agent = %record.key, %error, "a returned agent was not taken in");
        }
    }
}
