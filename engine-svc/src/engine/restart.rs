//! Starting an agent anew, wherever it is in its life.
//!
//! ```text
//!  FAILED ──────────────────────────┐
//!  STARTING, RUNNING, RESTARTING ───┴──▶ PENDING ──place──▶ STARTING ──▶ RUNNING
//!              its host stops it first
//! ```

#![deny(clippy::wildcard_enum_match_arm)]

use super::{Engine, stop::Stop};
use crate::{answer::Refused, error::EngineError};
use rustic_proto::{agent::v1 as agent_pb, agent_host::v1 as pb};
use rustic_registry::{AgentKey, AgentReason, AgentRecord, Condition, Phase, ReleaseGuard, State, Unassign, View};
use std::{collections::BTreeSet, time::Duration};
use tokio::time::Instant;

/// How often the registry is looked at again when the agent moves under our hands.
const TRIES: usize = 8;

impl Engine {
    /// Starts an agent anew, with a new restart budget.
    pub async fn restart(
        &self,
        key: &AgentKey,
        grace: Duration,
        wait: agent_pb::WaitMode,
        deadline: Instant,
    ) -> Result<AgentRecord, EngineError> {
        let waiting = self.take_back(key, grace).await?;
        // Whoever placed it before us has done the same.
        if let Some(claimed) = self.assign(&waiting, &BTreeSet::new()).await? {
            self.start_on(&waiting, claimed).await?;
        }
        let there = self.follow(key, deadline, |record| {
            let Some(record) = record else { return Ok(Some(None)) };
            let there = match record.phase() {
                Phase::Running | Phase::Pending => true,
                Phase::Starting => wait != agent_pb::WaitMode::Running && record.accepted().is_some(),
                Phase::Failed => {
                    return Err(EngineError::Failed { key: key.clone(), condition: record.condition });
                }
                Phase::Restarting | Phase::Stopping => false,
            };
            Ok(there.then_some(Some(record)))
        });
        match there.await? {
            Some(Some(record)) => Ok(record),
            // Gone, or the registry was lost.
            Some(None) => self.read(key, View::Basic).await,
            None => Err(EngineError::NotReady(key.clone())),
        }
    }

    /// Has the agent wait for a place, without a process.
    async fn take_back(&self, key: &AgentKey, grace: Duration) -> Result<AgentRecord, EngineError> {
        for _ in 0..TRIES {
            let record = self.read(key, View::Basic).await?;
            match &record.state {
                State::Pending => return Ok(record),
                State::Stopping(_) => return Err(EngineError::AgentStopping(key.clone())),
                State::Failed(_) => {
                    let condition = requested();
                    let (key, epoch, guard) = (key.clone(), record.epoch, ReleaseGuard::Failed);
                    self.registry.unassign(&Unassign { key, epoch, guard, condition, store_life: None }).await?;
                }
                State::Starting(assignment) | State::Running(assignment) | State::Restarting(assignment) => {
                    let asked =
                        self.ask_host(&record, assignment, Stop::finishing(pb::StopPurpose::Restart, grace)).await?;
                    let (host, Err(refusal)) = (assignment.host.clone(), asked) else { continue };
                    match refusal.refused() {
                        Refused::Stale => {}
                        // Claimed, and not taken yet.
                        Refused::UnknownAgent => {
                            let condition = requested();
                            let (key, epoch, guard) = (key.clone(), record.epoch, ReleaseGuard::Unaccepted);
                            self.registry
                                .unassign(&Unassign { key, epoch, guard, condition, store_life: None })
                                .await?;
                        }
                        Refused::Silent | Refused::CallerGone => {
                            let (host, why) = (host.to_string(), refusal.to_string());
                            return Err(EngineError::HostSilent { key: key.clone(), host, why });
                        }
                        Refused::Busy
                        | Refused::NoRoom
                        | Refused::Exhausted
                        | Refused::Closed
                        | Refused::InTrouble
                        | Refused::StartFailed
                        | Refused::Invalid
                        | Refused::Unfinished
                        | Refused::Other => return Err(EngineError::Host { host, refusal }),
                    }
                }
            }
        }
        Err(EngineError::Restless(key.clone()))
    }
}

fn requested() -> Condition {
    Condition::new(AgentReason::RestartRequested, "somebody had it started anew")
}
