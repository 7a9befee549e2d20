//! The agent's record in the store: what is written of it, and how it survives the loss of the store.
//!
//! Every write quotes the store life in which the record was written last. Another store life has lost the record. Then the
//! whole record is restored, under the epoch it had, and only by the one task that looks after the agent, so that an
//! agent that ends meanwhile is not restored.

use super::machine::{Action, Becomes, Event};
use crate::runtime::Order;
use futures_util::future::{BoxFuture, FutureExt as _};
use rustic_registry::{
    Advance, AdvanceOutcome, AgentKey, Condition, ExitStatus, HostId, Incarnation, Phase, Registry, RegistryError,
    ReleaseGuard, ReleaseOutcome, RequestId, Restore, StoreLife, Unassign, UnixMillis,
};
use std::{sync::Arc, time::Duration};
use tokio::time::sleep;

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Write {
    /// What the machine asked for.
    Asked(Action),
    /// Nothing new: the store was lost and gets the record again, or the claim may have been given to another host meanwhile.
    Again,
}

/// How the agent is, as far as its record shows it.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) phase: Phase,
    pub(super) pid: Option<u32>,
    pub(super) restarts: u32,
    pub(super) condition: Option<Condition>,
    pub(super) exit: Option<ExitStatus>,
    pub(super) last_lines: Vec<String>,
}

/// What the store answered; no event if the machine asked for nothing.
pub(super) type Written = Result<Option<Event>, RegistryError>;

/// Writes one agent's record.
pub(super) struct Record {
    pub(super) registry: Arc<dyn Registry>,
    pub(super) host: HostId,
    pub(super) incarnation: Incarnation,
    pub(super) order: Order,
    pub(super) request_id: RequestId,
    pub(super) created: UnixMillis,
    /// The store life that has the record, as far as this host knows.
    pub(super) written_to: Option<StoreLife>,
    /// A write was acknowledged: the claim is this host's. One that was forgotten before is void.
    pub(super) accepted: bool,
    /// Number of the latest write; grows from task to task of this host.
    pub(super) sequence: u64,
}

impl Record {
    /// The write, after a delay. `store_life` is the one of now, as far as this host knows.
    pub(super) fn write(
        &mut self,
        write: Write,
        facts: &Facts,
        store_life: Option<StoreLife>,
        after: Duration,
    ) -> BoxFuture<'static, Written> {
        let (registry, key, epoch) = (self.registry.clone(), self.order.launch.key.clone(), self.order.epoch);
        let lost = self.accepted && self.written_to != store_life;
        let void = !self.accepted;
        self.sequence += 1;
        let advance = self.advance(facts, if lost { store_life.clone() } else { self.written_to.clone() });
        let restore = lost.then(|| self.restore(advance.clone()));
        let (host, to) = (self.host.clone(), advance.store_life.clone());
        async move {
            // A sleep of nothing lasts until the timer's next tick, a millisecond or so.
            if !after.is_zero() {
                sleep(after).await;
            }
            match write {
                Write::Asked(Action::Release(Becomes::Gone)) => {
                    registry.release(&key, epoch, ReleaseGuard::Reaped).await.map(released).map(Some)
                }
                Write::Asked(Action::Release(Becomes::Pending(why))) => {
                    if let Some(restore) = &restore {
                        acknowledged(registry.restore(restore).await?, Event::Restored, &key)?;
                    }
                    let (guard, condition) = (ReleaseGuard::Reaped, why.condition(&host));
                    match registry.unassign(&Unassign { key, epoch, guard, condition, store_life: to }).await {
                        // The store lost a claim that this host had not accepted yet: there is nothing to give back.
                        Err(RegistryError::Lost(_)) if void => Ok(Some(Event::Lost)),
                        outcome => Ok(Some(released(outcome?))),
                    }
                }
                Write::Asked(_) => {
                    let done = match &restore {
                        Some(restore) => acknowledged(registry.restore(restore).await?, Event::Restored, &key),
                        None => match registry.advance(&advance).await? {
                            AdvanceOutcome::StoreLost if void => Ok(Event::Lost),
                            outcome => acknowledged(outcome, Event::Recorded, &key),
                        },
                    };
                    done.map(Some)
                }
                Write::Again => {
                    let outcome = match &restore {
                        Some(restore) => registry.restore(restore).await?,
                        None => registry.advance(&advance).await?,
                    };
                    Ok(match acknowledged(outcome, Event::Recorded, &key)? {
                        Event::Lost => Some(Event::Lost),
                        _ => None,
                    })
                }
            }
        }
        .boxed()
    }

    fn advance(&self, facts: &Facts, store_life: Option<StoreLife>) -> Advance {
        let Facts { phase, pid, restarts, condition, exit, last_lines } = facts.clone();
        Advance {
            key: self.order.launch.key.clone(),
            epoch: self.order.epoch,
            phase,
            pid,
            restarts,
            condition,
            exit,
            last_lines,
            store_life,
            sequence: self.sequence,
        }
    }

    fn restore(&self, advance: Advance) -> Restore {
        let launch = &self.order.launch;
        Restore {
            advance,
            host: self.host.clone(),
            incarnation: self.incarnation.clone(),
            name: launch.name.clone(),
            request_id: self.request_id.clone(),
            digest: launch.digest.clone(),
            demand: launch.demand.clone(),
            takes: self.order.takes.clone(),
            on_disconnect: launch.on_disconnect,
            documents: launch.documents(),
            machine_id: self.order.machine_id,
            created: self.created,
            former_store_life: self.written_to.clone(),
        }
    }
}

fn acknowledged(outcome: AdvanceOutcome, done: Event, key: &AgentKey) -> Result<Event, RegistryError> {
    match outcome {
        AdvanceOutcome::Done => Ok(done),
        AdvanceOutcome::Stale(_) | AdvanceOutcome::Gone | AdvanceOutcome::Illegal(_) => Ok(Event::Lost),
        AdvanceOutcome::StoreLost => Err(RegistryError::Lost(key.to_string())),
        // Until this host has announced itself again, or others have taken the agent.
        AdvanceOutcome::Retired => Err(RegistryError::Retired(key.to_string())),
    }
}

fn released(outcome: ReleaseOutcome) -> Event {
    match outcome {
        ReleaseOutcome::Released | ReleaseOutcome::Gone => Event::Released,
        ReleaseOutcome::Stale(_) | ReleaseOutcome::Guarded(_) => Event::Lost,
    }
}
