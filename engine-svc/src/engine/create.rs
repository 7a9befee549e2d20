//! Creating an agent: claim, call the host, and go on to the next host while it is certain that none runs it.
//!
//! ```text
//!  claim ──Claimed──▶ call host ──OK──▶ done
//!    │                   │ silent, busy, without room, closed, in trouble
//!    │ Exists            ▼
//!    │            release if never accepted ──▶ claim elsewhere
//!    ▼                   │ accepted: it has the agent, or had it
//!  RUNNING: done         ▼
//!  else: call its host   call the same host again, by the same epoch
//! ```

#![deny(clippy::wildcard_enum_match_arm)]

use super::{Engine, PendingPolicy};
use crate::{
    answer::{HostAnswer, HostRefusal, Refused},
    channels::Callee,
    error::{EngineError, why_full},
    metrics,
};
use rustic_proto::{
    agent::v1::{self as agent_pb, StartTimings},
    agent_host::v1 as pb,
    bus::Bus,
    convert,
    launch::Launch,
};
use rustic_registry::{
    AgentReason, AgentRecord, Claim, ClaimOutcome, Claimed, Condition, FirstStart, GuildKey, HostId, IfFull,
    IfNamesakes, Incarnation, Index, OrganizationId, Phase, ReleaseGuard, ReleaseOutcome, RequestId, Scope, View,
};
use std::{collections::BTreeSet, time::Duration};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, debug, info, info_span, warn};

/// Delay before a host that has the agent is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// Agents of another organization that are looked at in one read.
const NAMESAKES: usize = 20;
/// How often one create call tries before its caller gets an error.
const TRIES: usize = 8;

/// A request to run an agent.
pub struct Creation {
    /// What to run.
    pub launch: Launch,
    /// The request's id.
    pub request_id: RequestId,
    /// How long to wait.
    pub wait: agent_pb::WaitMode,
    /// What a failed first start does, beside what `wait` says.
    pub first_start: pb::FirstStart,
    /// What happens when no host has room.
    pub pending: PendingPolicy,
    /// When the caller stops waiting.
    pub deadline: Instant,
    /// Cancelled when the caller has hung up.
    pub caller_gone: CancellationToken,
}

impl Creation {
    /// How long the caller still waits.
    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    fn is_given_up(&self) -> bool {
        self.left().is_zero() || self.caller_gone.is_cancelled()
    }
}

/// An agent that runs, or was accepted.
#[derive(Debug)]
pub struct Created {
    /// The agent.
    pub agent: agent_pb::Agent,
    /// Steps of its start.
    pub timings: StartTimings,
}

/// What to do after a host was called.
enum Next {
    /// Try another host.
    Elsewhere,
    /// Look at the registry again.
    Again,
}

impl Engine {
    /// Runs an agent on the best host. Idempotent.
    pub async fn create(&self, creation: &Creation) -> Result<Created, EngineError> {
        let began = Instant::now();
        let created = self.create_from(creation, began).await;
        metrics::created(&created, began.elapsed());
        created
    }

    async fn create_from(&self, creation: &Creation, began: Instant) -> Result<Created, EngineError> {
        let mut excluded = BTreeSet::new();
        let mut trouble = None;
        let mut tries = 0;
        while tries < TRIES {
            tries += 1;
            if creation.is_given_up() {
                // Nobody waits any more: what is not claimed yet is not claimed at all.
                return Err(trouble.unwrap_or_else(|| EngineError::TooLate(creation.launch.key.clone())));
            }
            let (claimed, claim) = match self.claim(creation, &excluded).instrument(info_span!("claim")).await? {
                ClaimResult::Claimed(claimed, took) => (claimed, took),
                ClaimResult::Done(record) => return Ok(answer(&record, began)),
                ClaimResult::Again => continue,
                ClaimResult::Held => {
                    // Hosts still report to the registry what they run: that takes seconds, and is no try.
                    trouble = Some(EngineError::Held(creation.launch.key.clone()));
                    tries -= 1;
                    sleep(ASK_AGAIN).await;
                    continue;
                }
                ClaimResult::NoRoom => {
                    return Err(trouble.unwrap_or_else(|| self.no_room(creation)));
                }
            };
            let calling = Instant::now();
            match self.call_host(creation, &claimed).instrument(info_span!("host_call", host = %claimed.host)).await?
            {
                Ok(mut response) => {
                    let host_call = calling.elapsed();
                    metrics::step("host_call", host_call);
                    let mut timings = response.timings.take().unwrap_or_default();
                    timings.claim = claim.map(convert::duration).or(timings.claim);
                    timings.host_call = Some(convert::duration(host_call));
                    timings.total = Some(convert::duration(began.elapsed()));
                    // As the registry has it: the same answer to everybody, whoever's call made the agent.
                    let record = self.registry.get(&creation.launch.key, View::Basic).await.unwrap_or_else(|error| {
                        // The agent runs, and its host's own answer says so as well.
                        debug!(agent = %creation.launch.key, %error, "answered with what the host said");
                        None
                    });
                    let record = record.filter(|record| record.epoch == claimed.epoch);
                    let agent = record.as_ref().map(convert::agent).or(response.agent).unwrap_or_default();
                    return Ok(Created { agent, timings });
                }
                Err(refusal) => {
                    let (error, next) = self.after_refusal(creation, &claimed, refusal).await?;
                    warn!(agent = %creation.launch.key, host = %claimed.host, %error, "host could not take the agent");
                    trouble = Some(error);
                    match next {
                        Next::Elsewhere => _ = excluded.insert(claimed.host),
                        Next::Again => sleep(ASK_AGAIN).await,
                    }
                }
            }
        }
        Err(trouble.unwrap_or_else(|| self.no_room(creation)))
    }

    /// Why there is no room for an agent, by what is known.
    fn no_room(&self, creation: &Creation) -> EngineError {
        let key = creation.launch.key.clone();
        if !self.fleet.has_hosts() {
            return EngineError::NoHost(key);
        }
        EngineError::NoRoom { key, shortage: self.fleet.shortage(&creation.launch.demand) }
    }

    async fn claim(&self, creation: &Creation, excluded: &BTreeSet<HostId>) -> Result<ClaimResult, EngineError> {
        let began = Instant::now();
        let launch = &creation.launch;
        let mut offer = self.fleet.offer(&launch.demand, &launch.preferred_labels, excluded);
        let mut request = Claim {
            key: launch.key.clone(),
            name: launch.name.clone(),
            request_id: creation.request_id.clone(),
            digest: launch.digest.clone(),
            demand: launch.demand.clone(),
            on_disconnect: launch.on_disconnect,
            documents: launch.documents(),
            candidates: offer.candidates.clone(),
            // First like everybody: whom the view of the hosts has no room for may find some when it is read again.
            if_full: IfFull::Refuse,
            waits: None,
            if_namesakes: self.if_namesakes,
            first_start: match creation.wait {
                agent_pb::WaitMode::Accepted => FirstStart::FollowsPolicy,
                agent_pb::WaitMode::Launched => FirstStart::FailsIfWrong,
                agent_pb::WaitMode::Unspecified | agent_pb::WaitMode::Running => FirstStart::MustSucceed,
            },
            store_life: self.fleet.restored(),
            asked: self.fleet.stops(),
        };
        let mut outcome = self.claim_as(&mut request, launch).await?;
        if outcome == ClaimOutcome::NoRoom {
            // The view may be older than the room that was made since.
            self.fleet.refresh().await?;
            let too_large = self.fleet.too_large(&launch.demand);
            request.if_full = match creation.pending {
                PendingPolicy::WaitForAnyHost => IfFull::Wait,
                _ if too_large.is_some() => IfFull::Refuse,
                PendingPolicy::WaitForRoom => IfFull::Wait,
                PendingPolicy::Unspecified | PendingPolicy::Refuse => IfFull::Refuse,
            };
            if let (IfFull::Refuse, Some(lack)) = (request.if_full, too_large) {
                return Err(EngineError::TooLarge { key: launch.key.clone(), lack });
            }
            let why = why_full(self.fleet.shortage(&launch.demand).as_ref());
            let waits = format!("no host has room for it{why}; it starts as soon as one has");
            request.waits = Some(Condition::new(AgentReason::NoRoom, waits));
            offer = self.fleet.offer(&launch.demand, &launch.preferred_labels, excluded);
            request.candidates = offer.candidates.clone();
            outcome = self.claim_as(&mut request, launch).await?;
        }
        match outcome {
            ClaimOutcome::Claimed(claimed) => {
                metrics::step("claim", began.elapsed());
                offer.taken(claimed.epoch, &claimed.host, &claimed.takes);
                self.fleet.saw(claimed.epoch);
                info!(agent = %launch.key, host = %claimed.host, epoch = %claimed.epoch, "claimed");
                Ok(ClaimResult::Claimed(claimed, Some(began.elapsed())))
            }
            ClaimOutcome::Exists(record) => self.existing(creation, *record).await,
            ClaimOutcome::Conflict(phase) => Err(EngineError::OtherSpec { key: launch.key.clone(), phase }),
            ClaimOutcome::Stopping => Err(EngineError::AgentStopping(launch.key.clone())),
            ClaimOutcome::NoRoom => Ok(ClaimResult::NoRoom),
            ClaimOutcome::NoMachineId => Err(EngineError::GuildTooLarge(launch.key.guild.clone())),
            // Only a claim that asks for it gets this answer, and `claim_as` no longer does then.
            ClaimOutcome::Namesakes(_) => Ok(ClaimResult::Again),
            ClaimOutcome::Held => {
                self.fleet.refresh().await?;
                Ok(ClaimResult::Held)
            }
            // Stopped once more: what this caller wants comes before that.
            ClaimOutcome::Late(_) => Err(EngineError::AgentStopping(launch.key.clone())),
            ClaimOutcome::Waits => {
                info!(agent = %launch.key, "no host has room; the agent waits");
                // Room may have been made just now.
                self.wake.wake();
                self.read(&launch.key, View::Basic).await.map(|record| ClaimResult::Done(Box::new(record)))
            }
        }
    }

    /// Claims, and once more where what the store answered is no reason to give up.
    async fn claim_as(&self, request: &mut Claim, launch: &Launch) -> Result<ClaimOutcome, EngineError> {
        let mut was_late = false;
        loop {
            let outcome = self.registry.claim(request).await?;
            if let ClaimOutcome::Late(stops) = outcome
                && !was_late
            {
                // The agent was stopped a moment ago, and is wanted since: the caller waits for this very answer.
                request.asked = stops;
                was_late = true;
            } else if let ClaimOutcome::Namesakes(organizations) = &outcome
                && request.if_namesakes == IfNamesakes::Report
            {
                self.check_apart(launch, organizations).await?;
                request.if_namesakes = IfNamesakes::Ignore;
            } else {
                return Ok(outcome);
            }
        }
    }

    /// Refuses an agent that would meet a guild of another organization on its message bus: topics are named by guild id alone.
    async fn check_apart(&self, launch: &Launch, organizations: &[OrganizationId]) -> Result<(), EngineError> {
        let Some(bus) = Bus::of(&launch.message.messaging_config) else { return Ok(()) };
        for organization in organizations {
            let guild = GuildKey { organization: organization.clone(), id: launch.key.guild.id.clone() };
            let index = Index::Within(Scope::Guild(guild.clone()));
            let mut after = None;
            loop {
                // All of them: some have no bus, and each may have one of its own.
                let page = self.registry.list(&index, after.as_ref(), NAMESAKES, View::Launch).await?;
                let documents = page.agents.into_iter().filter_map(|agent| agent.documents);
                let mut others = documents.filter_map(|documents| Launch::from_documents(&documents).ok());
                if others.any(|other| Bus::of(&other.message.messaging_config).as_ref() == Some(&bus)) {
                    warn!(agent = %launch.key, with = %guild, %bus, "refused: two organizations would share a guild id on one bus");
                    return Err(EngineError::GuildIdShared { key: launch.key.clone(), bus });
                }
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Calls the host of a claim; what it answers instead of yes is for the caller to judge.
    pub(super) async fn call_host(
        &self,
        creation: &Creation,
        claimed: &Claimed,
    ) -> Result<HostAnswer<pb::CreateAgentResponse>, EngineError> {
        let callee = self.callee(&claimed.host, &claimed.incarnation).await?;
        let message = pb::CreateAgentRequest {
            request_id: creation.request_id.to_string(),
            launch: Some(creation.launch.raw.clone()),
            wait: creation.wait.into(),
            claim: Some(pb::Claim {
                incarnation: claimed.incarnation.to_string(),
                epoch: Some(claimed.epoch.0),
                machine_id: Some(claimed.machine_id.into()),
                devices: convert::device_parts(&claimed.takes),
            }),
            first_start: creation.first_start.into(),
        };
        // Cancel-safe: a host notices that its caller hung up. It gives up a start that has not begun, and finishes one
        // that has; either way the claim is looked after, here or there.
        tokio::select! {
            biased;
            answer = self.hosts.create_agent(&callee, message, creation.deadline) => Ok(answer),
            () = creation.caller_gone.cancelled() => Ok(Err(HostRefusal::caller_gone())),
        }
    }

    /// Where a process of a host is. One that just came, perhaps in the place of another, may not be in the view yet.
    pub(super) async fn callee(&self, host: &HostId, incarnation: &Incarnation) -> Result<Callee, EngineError> {
        let there = self.fleet.host(host).map(|record| record.incarnation);
        if there.as_ref() != Some(incarnation) {
            self.fleet.refresh().await?;
        }
        let address = self.fleet.host(host).map(|record| record.address).unwrap_or_default();
        Ok(Callee { host: host.clone(), address })
    }

    /// Decides how to go on when a host did not start the agent; `Err` when there is no going on.
    async fn after_refusal(
        &self,
        creation: &Creation,
        claimed: &Claimed,
        refusal: HostRefusal,
    ) -> Result<(EngineError, Next), EngineError> {
        let key = &creation.launch.key;
        let refused = refusal.refused();
        let elsewhere = match refused {
            Refused::Stale => {
                return Ok((EngineError::Host { host: claimed.host.clone(), refusal }, Next::Again));
            }
            Refused::Exhausted => {
                self.fleet.avoid(&claimed.host);
                true
            }
            Refused::Silent | Refused::Busy | Refused::NoRoom | Refused::Closed | Refused::InTrouble => true,
            Refused::CallerGone
            | Refused::UnknownAgent
            | Refused::StartFailed
            | Refused::Invalid
            | Refused::Unfinished
            | Refused::Other => false,
        };
        let why = refusal.to_string();
        let of_host = EngineError::Host { host: claimed.host.clone(), refusal };
        // Whatever happened, a claim that no host took must not stay. Never accepted means never started, and after the
        // release it never will be: the host's first write under this epoch fails.
        match self.registry.release(key, claimed.epoch, ReleaseGuard::Unaccepted).await? {
            _ if !elsewhere => Err(of_host),
            ReleaseOutcome::Released | ReleaseOutcome::Gone => {
                // A host that returned under a new address was called at its old one: it may be tried again.
                let called = self.fleet.host(&claimed.host).map(|h| h.incarnation);
                self.fleet.refresh().await?;
                let same = called == self.fleet.host(&claimed.host).map(|h| h.incarnation);
                Ok((of_host, if same { Next::Elsewhere } else { Next::Again }))
            }
            ReleaseOutcome::Stale(_) => Ok((of_host, Next::Again)),
            // It has the agent, or had it: it is asked again.
            ReleaseOutcome::Guarded(_) if refused == Refused::Silent => {
                let silent = EngineError::HostSilent { key: key.clone(), host: claimed.host.to_string(), why };
                Ok((silent, Next::Again))
            }
            ReleaseOutcome::Guarded(_) => Ok((of_host, Next::Again)),
        }
    }

    /// What an agent that exists already means for a request that wants it.
    async fn existing(&self, creation: &Creation, record: AgentRecord) -> Result<ClaimResult, EngineError> {
        let enough = record.phase() == Phase::Running
            || (creation.wait != agent_pb::WaitMode::Running && record.accepted().is_some());
        if self.is_orphaned(&record) {
            // Its process ended with its host's lease: the agent is created anew.
            if let ReleaseOutcome::Guarded(_) =
                self.registry.release(&record.key, record.epoch, ReleaseGuard::Ended).await?
            {
                // Its host has announced itself again, which this engine has not seen.
                self.fleet.refresh().await?;
            }
            return Ok(ClaimResult::Again);
        }
        if self.lost_its_host(&record) {
            let why = "it is silent, and the agent may outlive that, as on_disconnect = keep asks for".to_owned();
            let host = record.host().map(|h| h.to_string()).unwrap_or_default();
            return Err(EngineError::HostSilent { key: record.key, host, why });
        }
        match record.assignment() {
            _ if record.phase() == Phase::Failed => {
                Err(EngineError::Failed { key: record.key, condition: record.condition })
            }
            Some(assignment) if !enough => Ok(ClaimResult::Claimed(Claimed::of(&record, assignment), None)),
            _ => Ok(ClaimResult::Done(Box::new(record))),
        }
    }
}

enum ClaimResult {
    Claimed(Claimed, Option<Duration>),
    Done(Box<AgentRecord>),
    Again,
    Held,
    NoRoom,
}

fn answer(record: &AgentRecord, began: Instant) -> Created {
    let total = Some(convert::duration(began.elapsed()));
    Created { agent: convert::agent(record), timings: StartTimings { total, ..StartTimings::default() } }
}
