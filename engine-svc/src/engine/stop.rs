//! Stopping agents: OK only when the process was reaped, or the lease that let it live has ended.

use super::Engine;
use crate::{channels::is_unanswered, error::EngineError};
use futures_util::{StreamExt as _, stream};
use rustic_proto::{agent_host::v1 as pb, convert::duration};
use rustic_registry::{
    AgentKey, AgentRecord, GuildId, HostId, Index, RegistryError, ReleaseGuard, ReleaseOutcome, View,
};
use std::time::Duration;
use tokio::time::Instant;
use tonic::{Code, Status};
use tracing::warn;

/// Agents of a guild stopped at once.
const AT_ONCE: usize = 32;
/// Agents of a guild read at once.
const PAGE: usize = 200;
/// How often the registry is looked at again when the agent moves under our hands.
const TRIES: usize = 8;
/// Longest wait in one call for an agent whose grace its host decides.
const UNTOLD_GRACE: Duration = Duration::from_secs(10);
/// Time beyond the agent's grace that a host gets to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// What a stop does when the agent's host does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfSilent {
    /// The caller is told to try again.
    Refuse,
    /// If its host was retired the record is removed, also that of an agent which may outlive a lease: the caller vouches that the process
    /// is gone.
    Force,
}

/// What came of force.
enum Forced {
    Removed,
    /// It has another claim by now.
    Moved,
}

/// Why an agent is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StopKind {
    /// For good.
    Ends,
    /// To start elsewhere.
    Moves,
}

impl Engine {
    /// Stops one agent.
    pub async fn stop(
        &self,
        key: &AgentKey,
        grace: Duration,
        if_silent: IfSilent,
    ) -> Result<Option<pb::LastExit>, EngineError> {
        let mut asked_in_vain = None;
        for _ in 0..TRIES {
            let record = match self.read(key, View::Basic).await {
                // A create that was given up may still be on its way.
                Err(EngineError::Unknown(_)) if !self.bury(key).await? => continue,
                record => record?,
            };
            let Some(host) = record.host.clone().filter(|_| record.phase.holds_room()) else {
                match self.registry.release(key, record.epoch, ReleaseGuard::Unhosted).await? {
                    ReleaseOutcome::Released => {
                        self.fleet.saw_stop(key, record.epoch);
                        return Ok(None);
                    }
                    ReleaseOutcome::Gone | ReleaseOutcome::Stale(_) | ReleaseOutcome::Guarded(_) => continue,
                }
            };
            if if_silent == IfSilent::Force && self.lost_its_host(&record) {
                match self.remove_by_force(&record, &host).await? {
                    Forced::Removed => return Ok(None),
                    Forced::Moved => continue,
                }
            }
            match self.ask_host(&record, &host, StopKind::Ends, Some(grace)).await? {
                Ok(exit) => {
                    self.fleet.saw_stop(key, record.epoch);
                    return Ok(exit);
                }
                Err(status) if status.code() == Code::Aborted => {}
                Err(status) if status.code() == Code::NotFound => {
                    // Told twice of the same claim: the host neither has it nor ever started it.
                    let certain = asked_in_vain == Some(record.epoch);
                    asked_in_vain = Some(record.epoch);
                    let guard = if certain { ReleaseGuard::Vouched } else { ReleaseGuard::Unaccepted };
                    if self.registry.release(key, record.epoch, guard).await? == ReleaseOutcome::Released {
                        return Ok(None);
                    }
                }
                Err(status) if is_unanswered(&status) => return self.silent(&record, &host, &status).await,
                Err(status) => return Err(EngineError::Host { host, status: Box::new(status) }),
            }
        }
        let host = String::new();
        Err(EngineError::HostSilent { key: key.clone(), host, why: "it moves too quickly".to_owned() })
    }

    /// Has a host stop an agent. Without a `grace` the host decides how long the agent gets; that may be longer than this call
    /// waits, and then the same call again waits on.
    pub(super) async fn ask_host(
        &self,
        record: &AgentRecord,
        host: &HostId,
        kind: StopKind,
        grace: Option<Duration>,
    ) -> Result<Result<Option<pb::LastExit>, Status>, EngineError> {
        let callee = self.callee(host, record.incarnation.as_ref()).await?;
        let message = pb::StopAgentRequest {
            guild_id: record.key.guild.to_string(),
            agent_id: record.key.agent.to_string(),
            timeout: grace.map(duration),
            epoch: record.epoch.0,
            incarnation: record.incarnation.as_ref().map(ToString::to_string).unwrap_or_default(),
            moves: kind == StopKind::Moves,
        };
        let deadline = Instant::now() + grace.unwrap_or(UNTOLD_GRACE) + ANSWER;
        Ok(self.hosts.stop_agent(&callee, message, deadline).await.map(|response| response.exit))
    }

    /// Notes that an unknown agent was asked to be stopped; tells whether it is unknown.
    async fn bury(&self, key: &AgentKey) -> Result<bool, EngineError> {
        match self.registry.bury(key).await {
            Err(RegistryError::Lost(_)) => Err(EngineError::Held(key.clone())),
            unknown => Ok(unknown?),
        }
    }

    async fn remove_by_force(&self, record: &AgentRecord, host: &HostId) -> Result<Forced, EngineError> {
        let released = self.registry.release(&record.key, record.epoch, ReleaseGuard::Retired).await?;
        let removed = matches!(released, ReleaseOutcome::Released | ReleaseOutcome::Gone);
        if removed {
            warn!(agent = %record.key, %host, "removed by force, as its host was retired");
            self.fleet.saw_stop(&record.key, record.epoch);
            return Ok(Forced::Removed);
        }
        self.fleet.refresh().await?;
        Ok(Forced::Moved)
    }

    /// The host does not answer. Its agents are gone once its lease has ended for long enough, except those that may
    /// outlive it.
    async fn silent(
        &self,
        record: &AgentRecord,
        host: &HostId,
        status: &Status,
    ) -> Result<Option<pb::LastExit>, EngineError> {
        self.fleet.refresh().await?;
        if self.is_orphaned(record) {
            warn!(agent = %record.key, %host, "the host is gone and its lease has ended; removing the agent");
            let released = self.registry.release(&record.key, record.epoch, ReleaseGuard::Ended).await?;
            if matches!(released, ReleaseOutcome::Released | ReleaseOutcome::Gone) {
                return Ok(None);
            }
        }
        let (key, why) = (record.key.clone(), status.message().to_owned());
        Err(EngineError::HostSilent { key, host: host.to_string(), why })
    }

    /// Stops all agents of a guild; tells how many this call stopped.
    pub async fn stop_guild(&self, guild: &GuildId, grace: Duration) -> Result<u32, EngineError> {
        let mut keys = vec![];
        let mut after = None;
        loop {
            let index = Index::Guild(guild.clone());
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
        if self.fleet.is_telling().await? {
            return Err(EngineError::Telling);
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
