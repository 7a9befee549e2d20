//! Stopping agents: OK only when the process was reaped, or the lease that let it live has ended.

#![deny(clippy::wildcard_enum_match_arm)]

use super::Engine;
use crate::{
    answer::{HostAnswer, HostRefusal, Refused},
    error::EngineError,
};
use futures_util::{StreamExt as _, stream};
use rustic_proto::{agent::v1 as agent_pb, agent_host::v1 as pb, convert::duration};
use rustic_registry::{
    AgentKey, AgentRecord, Assignment, GuildKey, HostId, Index, RegistryError, ReleaseGuard, ReleaseOutcome, Scope,
    View,
};
use std::{collections::BTreeMap, time::Duration};
use tokio::time::Instant;
use tracing::warn;

/// Agents of a guild stopped at once.
const AT_ONCE: usize = 32;
/// Agents of a guild read at once.
const PAGE: usize = 200;
/// How often the registry is looked at again when the agent moves under our hands.
const TRIES: usize = 8;
/// Longest wait in one call for an agent whose grace its host decides.
const DEFAULT_GRACE: Duration = Duration::from_secs(10);
/// Time beyond the agent's grace that a host gets to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// What a stop does when the agent's host does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfSilent {
    /// The caller gets an error that asks it to try again.
    Refuse,
    /// If its host was retired the record is removed, also that of an agent which may outlive a lease: the caller vouches that the process
    /// is gone. A host that is not retired is never overruled.
    Force,
}

/// What came of it that an agent's host could not stop it.
enum Without {
    /// Nothing of the agent is left, or so its caller vouches.
    Removed,
    /// Things are not as they were: look again.
    Changed,
}

/// How a host is to stop an agent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stop {
    pub(super) purpose: pb::StopPurpose,
    pub(super) at_work: pb::AtWorkPolicy,
    /// Without it the host decides how long the agent gets; that may be longer than the call waits, and then the same call again waits
    /// on.
    pub(super) grace: Option<Duration>,
}

impl Stop {
    /// A handler that is at work gets `grace` to finish.
    pub(super) fn finishing(purpose: pb::StopPurpose, grace: Duration) -> Self {
        Self { purpose, at_work: pb::AtWorkPolicy::Finish, grace: Some(grace) }
    }
}

impl Engine {
    /// Stops one agent.
    pub async fn stop(
        &self,
        key: &AgentKey,
        grace: Duration,
        if_silent: IfSilent,
    ) -> Result<Option<agent_pb::LastExit>, EngineError> {
        let mut asked_in_vain = None;
        for _ in 0..TRIES {
            let record = match self.read(key, View::Basic).await {
                // A create that was given up may still be on its way.
                Err(EngineError::Unknown(_)) if !self.bury(key).await? => continue,
                record => record?,
            };
            let Some(assignment) = record.assignment().cloned() else {
                match self.registry.release(key, record.epoch, ReleaseGuard::Unassigned).await? {
                    ReleaseOutcome::Released => {
                        self.fleet.saw_stop(key, record.epoch);
                        return Ok(None);
                    }
                    ReleaseOutcome::Gone | ReleaseOutcome::Stale(_) | ReleaseOutcome::Guarded(_) => continue,
                }
            };
            if if_silent == IfSilent::Force && self.lost_its_host(&record) {
                match self.remove_by_force(&record, &assignment.host).await? {
                    Without::Removed => return Ok(None),
                    Without::Changed => continue,
                }
            }
            let refusal =
                match self.ask_host(&record, &assignment, Stop::finishing(pb::StopPurpose::Remove, grace)).await? {
                    Ok(exit) => {
                        self.fleet.saw_stop(key, record.epoch);
                        return Ok(exit);
                    }
                    Err(refusal) => refusal,
                };
            match refusal.refused() {
                Refused::Stale => {}
                Refused::UnknownAgent => {
                    // Answered so twice for the same claim, it is certain: the host neither has the agent nor ever started it.
                    let certain = asked_in_vain == Some(record.epoch);
                    asked_in_vain = Some(record.epoch);
                    let guard = if certain { ReleaseGuard::Vouched } else { ReleaseGuard::Unaccepted };
                    if self.registry.release(key, record.epoch, guard).await? == ReleaseOutcome::Released {
                        return Ok(None);
                    }
                }
                Refused::Silent | Refused::CallerGone | Refused::Closed | Refused::InTrouble => {
                    match self.without_host(&record, &assignment.host, refusal, if_silent).await? {
                        Without::Removed => return Ok(None),
                        Without::Changed => {}
                    }
                }
                Refused::Busy
                | Refused::NoRoom
                | Refused::Exhausted
                | Refused::StartFailed
                | Refused::Invalid
                | Refused::Unfinished
                | Refused::Other => return Err(EngineError::Host { host: assignment.host, refusal }),
            }
        }
        Err(EngineError::Restless(key.clone()))
    }

    /// Has a host stop an agent.
    pub(super) async fn ask_host(
        &self,
        record: &AgentRecord,
        Assignment { host, incarnation, .. }: &Assignment,
        Stop { purpose, at_work, grace }: Stop,
    ) -> Result<HostAnswer<Option<agent_pb::LastExit>>, EngineError> {
        let callee = self.callee(host, incarnation).await?;
        let message = pb::StopAgentRequest {
            organization_id: record.key.guild.organization.to_string(),
            guild_id: record.key.guild.id.to_string(),
            agent_id: record.key.agent.to_string(),
            timeout: grace.map(duration),
            claim: Some(pb::Claim {
                incarnation: incarnation.to_string(),
                epoch: Some(record.epoch.0),
                machine_id: None,
                devices: BTreeMap::new(),
            }),
            purpose: purpose.into(),
            at_work: at_work.into(),
        };
        let deadline = Instant::now() + grace.unwrap_or(DEFAULT_GRACE) + ANSWER;
        Ok(self.hosts.stop_agent(&callee, message, deadline).await.map(|response| response.exit))
    }

    /// Notes that somebody asked to stop an unknown agent. Returns whether it is unknown.
    async fn bury(&self, key: &AgentKey) -> Result<bool, EngineError> {
        match self.registry.bury(key).await {
            Err(RegistryError::Lost(_)) => Err(EngineError::Held(key.clone())),
            unknown => Ok(unknown?),
        }
    }

    async fn remove_by_force(&self, record: &AgentRecord, host: &HostId) -> Result<Without, EngineError> {
        let released = self.registry.release(&record.key, record.epoch, ReleaseGuard::Retired).await?;
        let removed = matches!(released, ReleaseOutcome::Released | ReleaseOutcome::Gone);
        if removed {
            warn!(agent = %record.key, %host, "removed by force, as its host was retired");
            self.fleet.saw_stop(&record.key, record.epoch);
            return Ok(Without::Removed);
        }
        self.fleet.refresh().await?;
        Ok(Without::Changed)
    }

    /// The host does not answer, or cannot do it. Its agents are gone once its lease has ended for long enough, except those that
    /// may outlive it.
    async fn without_host(
        &self,
        record: &AgentRecord,
        host: &HostId,
        refusal: HostRefusal,
        if_silent: IfSilent,
    ) -> Result<Without, EngineError> {
        self.fleet.refresh().await?;
        if self.is_orphaned(record) {
            warn!(agent = %record.key, %host, "the host is gone and its lease has ended; removing the agent");
            let released = self.registry.release(&record.key, record.epoch, ReleaseGuard::Ended).await?;
            if matches!(released, ReleaseOutcome::Released | ReleaseOutcome::Gone) {
                return Ok(Without::Removed);
            }
        }
        let (key, why) = (record.key.clone(), refusal.to_string());
        match (if_silent, refusal.refused()) {
            // It was retired while it was asked.
            (IfSilent::Force, _) if self.lost_its_host(record) => Ok(Without::Changed),
            (IfSilent::Force, _) => Err(EngineError::HostNotRetired { key, host: host.clone(), why }),
            (IfSilent::Refuse, Refused::Silent) => Err(EngineError::HostSilent { key, host: host.to_string(), why }),
            (IfSilent::Refuse, _) => Err(EngineError::Host { host: host.clone(), refusal }),
        }
    }

    /// Stops all agents of a guild. Returns how many this call stopped.
    pub async fn stop_guild(&self, guild: &GuildKey, grace: Duration) -> Result<u32, EngineError> {
        let mut keys = vec![];
        let mut after = None;
        loop {
            let index = Index::Within(Scope::Guild(guild.clone()));
            let page = self.registry.list(&index, after.as_ref(), PAGE, View::Basic).await?;
            self.check_whole(&page)?;
            after.clone_from(&page.next);
            keys.extend(page.into_keys());
            if after.is_none() {
                break;
            }
        }
        let stops = keys.into_iter().map(|key| async move { self.stop(&key, grace, IfSilent::Refuse).await });
        let outcomes: Vec<_> = stream::iter(stops).buffer_unordered(AT_ONCE).collect().await;
        // What was read may have been lost since, and with it agents that were not read yet.
        if self.fleet.is_restoring().await? {
            return Err(EngineError::Restoring);
        }
        let mut stopped = 0;
        let mut left = vec![];
        for outcome in outcomes {
            match outcome {
                Ok(_) => stopped += 1,
                Err(EngineError::Unknown(_)) => {}
                Err(error) => left.push(error.to_string()),
            }
        }
        if left.is_empty() { Ok(stopped) } else { Err(EngineError::SomeLeft(left)) }
    }
}
