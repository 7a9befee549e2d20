//! AgentHostService: reads requests, asks the supervisor, writes answers. No decisions of its own.

use crate::{
    agent::{AgentHandle, AgentStatus, Ending, FirstStart, Moving, StartFailure, StopPurpose},
    error::HostError,
    process::usage::Usage,
    runtime::PythonStatus,
    supervisor::{Attached, Creation, GivenClaim, Supervisor},
    zygote::{BranchStatus, ZygoteState},
};
use rustic_proto::{
    agent::v1 as agent_pb,
    agent_host::v1::{self as pb, agent_host_service_server::AgentHostService},
    confinement::level_on_wire,
    convert,
    launch::Launch,
    request,
    violation::Violations,
};
use rustic_registry::{Condition, ConfinementLevel, Epoch, LastExit, MachineId, Phase, Resources, devices::is_id};
use rustic_telemetry::grpc::CallPermit;
use std::{panic::resume_unwind, sync::Arc, time::Duration};
use tokio::time::timeout;
use tonic::{Request, Response, Status};
use tracing::Instrument as _;

/// Lines of output quoted when a start failed.
const QUOTED_LINES: usize = 10;

/// The service.
#[derive(Clone)]
pub struct Service {
    supervisor: Arc<Supervisor>,
}

impl Service {
    /// The service over a supervisor.
    pub fn new(supervisor: Arc<Supervisor>) -> Self {
        Self { supervisor }
    }

    fn message(&self, handle: &AgentHandle, status: &AgentStatus) -> agent_pb::Agent {
        let exit = status.last_exit.map(|(status, at)| LastExit { status, at });
        let (reason, message) = Condition::parts(status.condition.as_ref());
        agent_pb::Agent {
            organization_id: handle.launch.key.guild.organization.to_string(),
            guild_id: handle.launch.key.guild.id.to_string(),
            agent_id: handle.launch.key.agent.to_string(),
            name: handle.launch.name.clone(),
            phase: convert::phase(status.phase).into(),
            host_id: self.supervisor.host().to_string(),
            pid: status.pid.unwrap_or(0),
            epoch: handle.epoch.0,
            restarts: status.restarts,
            reason: reason.to_owned(),
            message: message.to_owned(),
            last_exit: exit.as_ref().map(convert::last_exit),
            create_time: Some(convert::timestamp(handle.created)),
            last_running_time: status.running.map(convert::timestamp),
            machine_id: handle.machine_id.into(),
            devices: convert::device_parts(&handle.takes),
            agent_spec: String::new(),
            usage: None,
            last_lines: vec![],
            confinement: status
                .grant
                .as_ref()
                .filter(|_| status.pid.is_some())
                .map(|g| confinement(g.level, &g.missing)),
        }
    }

    async fn message_with_usage(&self, handle: &AgentHandle) -> agent_pb::Agent {
        let usage = handle.usage().await.map(usage);
        agent_pb::Agent { usage, ..self.message(handle, &handle.status()) }
    }

    /// Waits as long as the caller wants. Returns how the agent is then, or what went wrong.
    async fn wait(&self, attached: &Attached, mode: agent_pb::WaitMode) -> Result<AgentStatus, HostError> {
        let Attached { handle, ran_before, .. } = attached;
        let runs = |s: &AgentStatus| s.phase == Phase::Running || s.times_running > *ran_before;
        let done = |s: &AgentStatus| match mode {
            agent_pb::WaitMode::Accepted => s.admitted,
            agent_pb::WaitMode::Unspecified | agent_pb::WaitMode::Running => runs(s),
            agent_pb::WaitMode::Launched => runs(s) || s.phase == Phase::Restarting,
        };
        let shown = handle.wait(|s| done(s) || s.trouble.is_some());
        let (status, late) = match mode {
            // Cancel-safe: to wait changes nothing.
            agent_pb::WaitMode::Launched => match timeout(self.supervisor.launch_patience(), shown).await {
                Ok(status) => (status, false),
                Err(_elapsed) => (handle.wait(|s| s.admitted || s.trouble.is_some()).await, true),
            },
            _ => (shown.await, false),
        };
        let done = |s: &AgentStatus| done(s) || (late && s.admitted);
        let key = || handle.launch.key.clone();
        let start_failed = |failure: &StartFailure| HostError::StartFailed {
            key: key(),
            failure: Box::new(failure.clone()),
            last_lines: handle.tail.last(QUOTED_LINES),
        };
        match (&status.ending, &status.trouble) {
            (None | Some(Ending::Failed), _) if done(&status) => Ok(status),
            (None, Some(trouble)) => Err(HostError::Unrecorded { key: key(), trouble: trouble.clone() }),
            (None, None) => Err(HostError::Broken(key())),
            (Some(Ending::StartFailed(failure)), _) => Err(start_failed(failure)),
            (Some(Ending::Failed), _) => Err(match status.wrong {
                Some(failure) => start_failed(&failure),
                None => HostError::Failed { key: key(), condition: status.condition },
            }),
            (Some(Ending::Stopped(_) | Ending::Moved(_)), _) => Err(HostError::StoppedMeanwhile(key())),
            (Some(Ending::Superseded), _) => Err(HostError::Superseded(key())),
        }
    }

    async fn create(
        &self,
        r: pb::CreateAgentRequest,
        permit: Option<CallPermit>,
    ) -> Result<pb::CreateAgentResponse, HostError> {
        let incarnation = r.claim.as_ref().map_or("", |claim| &claim.incarnation);
        self.supervisor.check_incarnation(incarnation)?;
        let mode = convert::wait_mode(r.wait)?;
        let first_start = match (convert::first_start(r.first_start)?, mode) {
            (pb::FirstStart::Fail, _) => FirstStart::FailsAtOnce,
            (pb::FirstStart::FailIfWrong, _) | (_, agent_pb::WaitMode::Launched) => FirstStart::FailsIfWrong,
            (pb::FirstStart::Unspecified, agent_pb::WaitMode::Accepted) => FirstStart::FollowsPolicy,
            (pb::FirstStart::Unspecified, agent_pb::WaitMode::Unspecified | agent_pb::WaitMode::Running) => {
                FirstStart::MustSucceed
            }
        };
        let request_id = request::request_id(&r.request_id)?;
        let launch = Launch::check(r.launch)?;
        let claim = r.claim.as_ref().map(|claim| given_claim(claim, &launch.demand)).transpose()?;
        let creation = Creation { launch, request_id, claim, first_start };
        // To the end even if the caller hangs up: a claim without a task would belong to nobody.
        let supervisor = self.supervisor.clone();
        let creating = async move {
            // It counts as under way.
            let _counts = permit;
            supervisor.create(creation).await
        };
        let creating = tokio::spawn(creating.in_current_span());
        let stopping = || Err(HostError::Stopping(self.supervisor.host().clone()));
        let attached = creating.await.unwrap_or_else(|error| match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            Err(_cancelled) => stopping(),
        })?;
        let status = self.wait(&attached, mode).await?;
        let handle = &attached.handle;
        let timings = timings(&status);
        Ok(pb::CreateAgentResponse { agent: Some(self.message(handle, &status)), timings: Some(timings) })
    }

    async fn stop(&self, r: pb::StopAgentRequest) -> Result<pb::StopAgentResponse, HostError> {
        let claim = r.claim.unwrap_or_default();
        self.supervisor.check_incarnation(&claim.incarnation)?;
        let key = request::agent_key(&r.organization_id, &r.guild_id, &r.agent_id)?;
        let asked = request::stop_timeout(r.timeout.as_ref())?;
        let epoch = epoch(&claim)?;
        let kind = match convert::stop_purpose(r.purpose)? {
            pb::StopPurpose::Unspecified | pb::StopPurpose::Remove => StopPurpose::Asked,
            pb::StopPurpose::Drain => StopPurpose::Moves(Moving::GivenAway),
            pb::StopPurpose::Restart => StopPurpose::Moves(Moving::Restarts),
            pb::StopPurpose::Rebalance => StopPurpose::Moves(Moving::Rebalances),
        };
        let grace = match (kind, r.timeout) {
            (StopPurpose::Moves(_), None) => self.supervisor.time_to_move(),
            (StopPurpose::Moves(_), Some(_)) | (StopPurpose::Asked, _) => asked,
        };
        if convert::at_work_policy(r.at_work)? == pb::AtWorkPolicy::Refuse {
            self.supervisor.check_idle(&key, epoch)?;
        }
        let status = self.supervisor.stop(&key, epoch, kind, grace).await?;
        let exit = status.last_exit.map(|(status, at)| convert::last_exit(&LastExit { status, at }));
        Ok(pb::StopAgentResponse { exit })
    }
}

/// The epoch that a claim names.
fn epoch(claim: &pb::Claim) -> Result<Option<Epoch>, Violations> {
    let Some(number) = claim.epoch else { return Ok(None) };
    let epoch = Epoch::from_wire(number).filter(|epoch| *epoch <= Epoch::MAX);
    if epoch.is_none() {
        let mut violations = Violations::default();
        violations.add("claim.epoch", format!("must be 1 to {}", Epoch::MAX));
        return Err(violations);
    }
    Ok(epoch)
}

/// A claim that somebody else made for this host.
fn given_claim(claim: &pb::Claim, demand: &Resources) -> Result<GivenClaim, Violations> {
    let mut violations = Violations::default();
    let epoch = epoch(claim).unwrap_or_else(|wrong| {
        violations.extend(wrong);
        None
    });
    if claim.epoch.is_none() {
        violations.add(
            "claim.epoch",
            "is required: it says which claim is meant; leave claim out to have the host claim the agent",
        );
    }
    let machine_id = claim.machine_id.and_then(MachineId::new);
    if machine_id.is_none() {
        violations.add("claim.machine_id", format!("must be 1 to {}", MachineId::LAST));
    }
    let takes = demand
        .with_devices(convert::parts(&claim.devices))
        .map_err(|error| violations.add("claim.devices", error.to_string()));
    let is_part = |(id, part): (&String, &agent_pb::DevicePart)| is_id(id) && part.share > 0.0 && part.share <= 1.0;
    if let Some((id, part)) = claim.devices.iter().find(|one| !is_part(*one)) {
        violations
            .add("claim.devices", format!("has {} of {id:?}; give ids of ListHosts, and shares up to 1", part.share));
    }
    if demand.asks_for_devices() && claim.devices.is_empty() {
        violations.add("claim.devices", "is required: the launch asks for gpus, and the claim says which it has");
    }
    let parts = epoch.zip(machine_id).zip(takes.ok());
    violations.into_result(parts.map(|((epoch, machine_id), takes)| GivenClaim { epoch, machine_id, takes }))
}

fn usage(usage: Usage) -> agent_pb::AgentUsage {
    agent_pb::AgentUsage {
        pss_bytes: usage.pss,
        private_bytes: usage.private,
        cpu_time: Some(convert::duration(usage.cpu)),
        threads: usage.threads,
        scratch_bytes: usage.scratch,
    }
}

fn profile(python: PythonStatus) -> pb::RuntimeProfile {
    let PythonStatus { name, zygote, cold_starts } = python;
    let state = match zygote.as_ref().map(|zygote| &zygote.state) {
        None => "off".to_owned(),
        Some(ZygoteState::Starting) => "starting".to_owned(),
        Some(ZygoteState::Ready) => "ready".to_owned(),
        Some(ZygoteState::Down(why)) => why.clone(),
    };
    pb::RuntimeProfile {
        name: name.to_string(),
        zygote: state,
        cold_starts,
        generation: zygote.as_ref().map_or(0, |zygote| zygote.generation),
        branches: zygote.iter().flat_map(|zygote| zygote.branches.iter().map(branch)).collect(),
        not_shared: zygote.map(|zygote| zygote.refused.into_iter().collect()).unwrap_or_default(),
    }
}

fn confinement(level: ConfinementLevel, missing: &[&str]) -> agent_pb::ConfinementStatus {
    let missing = missing.iter().map(|what| (*what).to_owned()).collect();
    agent_pb::ConfinementStatus { level: level_on_wire(level).into(), missing }
}

fn branch(branch: &BranchStatus) -> pb::ZygoteBranch {
    pb::ZygoteBranch {
        packages: branch.packages.clone(),
        modules: u32::try_from(branch.modules).unwrap_or(u32::MAX),
        private_bytes: branch.memory,
        pid: branch.pid,
    }
}

fn timings(status: &AgentStatus) -> agent_pb::StartTimings {
    let times = &status.times;
    let wire = |duration: Option<Duration>| duration.map(convert::duration);
    agent_pb::StartTimings {
        claim: wire(times.claim),
        admit: wire(times.admit),
        spawn: wire(times.spawn),
        import: wire(times.import),
        initialize: wire(times.initialize),
        host_total: wire(times.total),
        total: None,
        queue: wire(times.queue),
        advance: wire(times.advance),
        host_call: None,
        cold_reason: status.cold_reason.clone(),
    }
}

#[tonic::async_trait]
impl AgentHostService for Service {
    async fn create_agent(
        &self,
        request: Request<pb::CreateAgentRequest>,
    ) -> Result<Response<pb::CreateAgentResponse>, Status> {
        let permit = request.extensions().get().cloned();
        Ok(Response::new(self.create(request.into_inner(), permit).await?))
    }

    async fn stop_agent(
        &self,
        request: Request<pb::StopAgentRequest>,
    ) -> Result<Response<pb::StopAgentResponse>, Status> {
        Ok(Response::new(self.stop(request.into_inner()).await?))
    }

    async fn get_agent(
        &self,
        request: Request<pb::GetAgentRequest>,
    ) -> Result<Response<pb::GetAgentResponse>, Status> {
        let r = request.into_inner();
        let key = request::agent_key(&r.organization_id, &r.guild_id, &r.agent_id)?;
        let handle = self.supervisor.get(&key).ok_or(HostError::Unknown(key))?;
        let mut agent = self.message_with_usage(&handle).await;
        agent.agent_spec.clone_from(&handle.launch.message.agent_spec);
        if agent.phase() == agent_pb::AgentPhase::Failed {
            agent.last_lines = handle.tail.all();
        }
        Ok(Response::new(pb::GetAgentResponse { agent: Some(agent) }))
    }

    async fn list_agents(
        &self,
        request: Request<pb::ListAgentsRequest>,
    ) -> Result<Response<pb::ListAgentsResponse>, Status> {
        let r = request.into_inner();
        let within = request::scope(&r.organization_id, &r.guild_id)?;
        let size = request::page_size(r.page_size)?;
        let after = request::read_agent_token(&r.page_token)?;
        let handles = self.supervisor.list(&within, after.as_ref(), size);
        let last = handles.last().filter(|_| handles.len() == size).map(|h| &h.launch.key);
        let next_page_token = request::agent_token(last);
        let mut agents = Vec::with_capacity(handles.len());
        for handle in &handles {
            agents.push(if r.with_usage {
                self.message_with_usage(handle).await
            } else {
                self.message(handle, &handle.status())
            });
        }
        Ok(Response::new(pb::ListAgentsResponse { agents, next_page_token }))
    }

    async fn health(&self, _request: Request<pb::HealthRequest>) -> Result<Response<pb::HealthResponse>, Status> {
        let trouble = self.supervisor.trouble();
        Ok(Response::new(pb::HealthResponse {
            healthy: trouble.is_none(),
            agent_count: u32::try_from(self.supervisor.count()).unwrap_or(u32::MAX),
            host_id: self.supervisor.host().to_string(),
            reason: trouble.map(|r| r.to_string()).unwrap_or_default(),
            profiles: self.supervisor.runtime().profiles().into_iter().map(profile).collect(),
            confinement: self
                .supervisor
                .runtime()
                .confinement()
                .map(|policy| confinement(policy.level, &policy.missing())),
        }))
    }
}
