//! EngineService: reads requests, asks the engine, writes answers. No decisions of its own.

use crate::{
    changes::Revision,
    engine::{AgentsQuery, Creation, Drain, Engine, Explained, Explanation, IfSilent, Listed, WatchEvent, Watched},
    error::EngineError,
};
use futures_util::{
    StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use rustic_proto::{
    agent::v1::Agent,
    agent_host::v1::FirstStart,
    convert,
    engine::v1::{self as pb, engine_service_server::EngineService, watch_agents_response::Change},
    launch::Launch,
    request,
};
use rustic_registry::HostId;
use rustic_telemetry::grpc::{CallDeadline, CallPermit};
use std::{panic::resume_unwind, sync::Arc, time::Duration};
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status};
use tracing::Instrument as _;

/// How long before the deadline of its call a wait ends, so that its answer reaches the caller instead of the deadline.
const TO_ANSWER: Duration = Duration::from_millis(100);

/// What comes with a call beside its request.
struct Call {
    deadline: Instant,
    /// Kept by what goes on when the caller has hung up: it counts as under way.
    permit: Option<CallPermit>,
}

/// The service.
#[derive(Clone)]
pub struct Service {
    engine: Arc<Engine>,
    /// Work that goes on when its caller has hung up, so that nothing is left half done.
    work: TaskTracker,
    default_deadline: Duration,
    /// Ends watches, which would go on for ever.
    stopping: CancellationToken,
}

impl Service {
    /// The service over an engine. `work` ends before the process does.
    pub fn new(
        engine: Arc<Engine>,
        work: TaskTracker,
        default_deadline: Duration,
        stopping: CancellationToken,
    ) -> Self {
        Self { engine, work, default_deadline, stopping }
    }

    /// Runs `work` to its end even if the caller hangs up or its deadline passes.
    async fn to_the_end<T: Send + 'static>(
        &self,
        call: Call,
        work: impl Future<Output = Result<T, EngineError>> + Send + 'static,
    ) -> Result<T, EngineError> {
        let work = async move {
            let _counts = call.permit;
            work.await
        };
        self.work.spawn(work.in_current_span()).await.unwrap_or_else(|error| match error.try_into_panic() {
            // As if it had panicked here: the call is answered by the layer for that.
            Ok(panic) => resume_unwind(panic),
            // By the runtime's end.
            Err(_cancelled) => Err(EngineError::Stopping),
        })
    }

    fn call<T>(&self, request: &Request<T>) -> Call {
        let given = request.extensions().get::<CallDeadline>();
        let deadline = given.map_or_else(|| Instant::now() + self.default_deadline, |deadline| deadline.0);
        Call { deadline, permit: request.extensions().get().cloned() }
    }

    async fn create(&self, r: pb::CreateAgentRequest, call: Call) -> Result<pb::CreateAgentResponse, EngineError> {
        let wait = convert::wait_mode(r.wait)?;
        let request_id = request::request_id(&r.request_id)?;
        let launch = Launch::check(r.launch)?;
        let caller_gone = CancellationToken::new();
        // Dropped with this call: by its answer, or because nobody waits for one any more.
        let _caller = caller_gone.clone().drop_guard();
        let (pending, first_start) = (convert::pending_policy(r.pending)?, FirstStart::Unspecified);
        let deadline = call.deadline;
        let creation = Creation { launch, request_id, wait, first_start, pending, deadline, caller_gone };
        let engine = self.engine.clone();
        let created = self.to_the_end(call, async move { engine.create(&creation).await }).await?;
        Ok(pb::CreateAgentResponse { agent: Some(created.agent), timings: Some(created.timings) })
    }

    async fn stop(&self, r: pb::StopAgentRequest, call: Call) -> Result<pb::StopAgentResponse, EngineError> {
        let key = request::agent_key(&r.organization_id, &r.guild_id, &r.agent_id)?;
        let grace = request::stop_timeout(r.timeout.as_ref())?;
        let if_silent = if convert::forces(r.force)? { IfSilent::Force } else { IfSilent::Refuse };
        let engine = self.engine.clone();
        let exit = self.to_the_end(call, async move { engine.stop(&key, grace, if_silent).await }).await?;
        Ok(pb::StopAgentResponse { exit })
    }

    async fn restart(&self, r: pb::RestartAgentRequest, call: Call) -> Result<pb::RestartAgentResponse, EngineError> {
        let key = request::agent_key(&r.organization_id, &r.guild_id, &r.agent_id)?;
        let grace = request::stop_timeout(r.timeout.as_ref())?;
        let wait = convert::wait_mode(r.wait)?;
        let engine = self.engine.clone();
        let deadline = call.deadline - TO_ANSWER;
        let record = self.to_the_end(call, async move { engine.restart(&key, grace, wait, deadline).await }).await?;
        Ok(pb::RestartAgentResponse { agent: Some(convert::agent(&record)) })
    }

    async fn stop_guild(&self, r: pb::StopGuildRequest, call: Call) -> Result<pb::StopGuildResponse, EngineError> {
        let guild = request::guild_key(&r.organization_id, &r.guild_id)?;
        let grace = request::stop_timeout(r.timeout.as_ref())?;
        let engine = self.engine.clone();
        let stopped = self.to_the_end(call, async move { engine.stop_guild(&guild, grace).await }).await?;
        Ok(pb::StopGuildResponse { stopped })
    }

    async fn get(&self, r: pb::GetAgentRequest) -> Result<pb::GetAgentResponse, EngineError> {
        let key = request::agent_key(&r.organization_id, &r.guild_id, &r.agent_id)?;
        let agent = self.engine.get(&key, convert::view(r.view)?).await?;
        Ok(pb::GetAgentResponse { agent: Some(shown(&agent)) })
    }

    async fn list(&self, r: pb::ListAgentsRequest) -> Result<pb::ListAgentsResponse, EngineError> {
        let query = AgentsQuery {
            within: request::scope(&r.organization_id, &r.guild_id)?,
            name: Some(r.name).filter(|name| !name.is_empty()),
            host: request::host_filter(&r.host_id)?,
            phase: convert::phase_filter(r.phase)?,
            after: request::read_agent_token(&r.page_token)?,
            size: request::page_size(r.page_size)?,
            view: convert::view(r.view)?,
        };
        let page = self.engine.list(&query).await?;
        let next_page_token = request::agent_token(page.next.as_ref());
        Ok(pb::ListAgentsResponse { agents: page.agents.iter().map(shown).collect(), next_page_token })
    }

    async fn watch(&self, r: pb::WatchAgentsRequest) -> Result<AgentChanges, EngineError> {
        let watched = match &*r.agent_id {
            "" => Watched::Within(request::scope(&r.organization_id, &r.guild_id)?),
            agent => Watched::Agent(request::agent_key(&r.organization_id, &r.guild_id, agent)?),
        };
        let after = Some(&*r.revision).filter(|text| !text.is_empty()).map(str::parse::<Revision>);
        let after = after.transpose().map_err(|_| request::unknown_revision())?;
        let watch = self.engine.watch(watched, convert::view(r.view)?, after.as_ref()).await?;
        let stopping = self.stopping.clone();
        let changes = stream::try_unfold(watch, move |mut watch| {
            let stopping = stopping.clone();
            async move {
                // Cancel-safe: the stream ends with it.
                let next = tokio::select! {
                    biased;
                    () = stopping.cancelled() => Err(EngineError::Stopping),
                    next = watch.next() => next,
                };
                next.map(|(events, revision)| Some((changes(&events, revision), watch)))
            }
        });
        let one_by_one =
            changes.map_ok(|changes| stream::iter(changes.into_iter().map(Ok::<_, EngineError>))).try_flatten();
        Ok(one_by_one.map_err(Status::from).boxed())
    }

    async fn explain(&self, r: pb::ExplainPlacementRequest) -> Result<pb::ExplainPlacementResponse, EngineError> {
        let explanation = match r.launch {
            Some(launch) => {
                let launch = Launch::check(Some(launch))?;
                self.engine.explain_demand(&launch.demand, &launch.preferred_labels).await?
            }
            None => {
                let key = request::agent_key(&r.organization_id, &r.guild_id, &r.agent_id)?;
                self.engine.explain(&key).await?
            }
        };
        let Explanation { hosts, demand, message, host } = explanation;
        let verdict = |Explained { host, verdict, message, load }| pb::HostVerdict {
            host_id: HostId::to_string(&host),
            verdict: verdict.into(),
            message,
            load,
        };
        Ok(pb::ExplainPlacementResponse {
            hosts: hosts.into_iter().map(verdict).collect(),
            demand: convert::amounts(&demand),
            message,
            host_id: host.map(|host| host.to_string()).unwrap_or_default(),
        })
    }

    async fn hosts(&self, r: pb::ListHostsRequest) -> Result<pb::ListHostsResponse, EngineError> {
        let after = request::read_host_token(&r.page_token)?;
        let (view, next) = self.engine.hosts(after.as_ref(), request::page_size(r.page_size)?).await?;
        let hosts =
            view.registry.hosts.iter().map(|host| convert::host(host, view.silent.contains(&host.host))).collect();
        Ok(pb::ListHostsResponse { hosts, next_page_token: request::host_token(next.as_ref()) })
    }
}

/// What a watcher gets, one by one.
type AgentChanges = BoxStream<'static, Result<pb::WatchAgentsResponse, Status>>;

/// Only the last carries the revision: a watcher that stops before it gets all of them again.
fn changes(events: &[WatchEvent], revision: Option<Revision>) -> Vec<pb::WatchAgentsResponse> {
    let mut changes: Vec<_> = events.iter().map(change).collect();
    if let Some((last, revision)) = changes.last_mut().zip(revision) {
        last.revision = revision.to_string();
    }
    changes
}

fn change(event: &WatchEvent) -> pb::WatchAgentsResponse {
    let change = match event {
        WatchEvent::Agent(agent) => Change::Agent(shown(agent)),
        WatchEvent::Removed(key, epoch) => Change::Removed(pb::RemovedAgent {
            organization_id: key.guild.organization.to_string(),
            guild_id: key.guild.id.to_string(),
            agent_id: key.agent.to_string(),
            epoch: epoch.0,
        }),
        WatchEvent::Bookmark => Change::Bookmark(pb::Bookmark {}),
    };
    pb::WatchAgentsResponse { change: Some(change), revision: String::new() }
}

fn shown(agent: &Listed) -> Agent {
    match agent {
        Listed::Agent(record) => convert::agent(record),
        Listed::Unreadable(agent) => convert::unreadable_agent(agent),
    }
}

#[tonic::async_trait]
impl EngineService for Service {
    async fn create_agent(
        &self,
        request: Request<pb::CreateAgentRequest>,
    ) -> Result<Response<pb::CreateAgentResponse>, Status> {
        let call = self.call(&request);
        Ok(Response::new(self.create(request.into_inner(), call).await?))
    }

    async fn stop_agent(
        &self,
        request: Request<pb::StopAgentRequest>,
    ) -> Result<Response<pb::StopAgentResponse>, Status> {
        let call = self.call(&request);
        Ok(Response::new(self.stop(request.into_inner(), call).await?))
    }

    async fn restart_agent(
        &self,
        request: Request<pb::RestartAgentRequest>,
    ) -> Result<Response<pb::RestartAgentResponse>, Status> {
        let call = self.call(&request);
        Ok(Response::new(self.restart(request.into_inner(), call).await?))
    }

    async fn stop_guild(
        &self,
        request: Request<pb::StopGuildRequest>,
    ) -> Result<Response<pb::StopGuildResponse>, Status> {
        let call = self.call(&request);
        Ok(Response::new(Service::stop_guild(self, request.into_inner(), call).await?))
    }

    async fn get_agent(
        &self,
        request: Request<pb::GetAgentRequest>,
    ) -> Result<Response<pb::GetAgentResponse>, Status> {
        Ok(Response::new(self.get(request.into_inner()).await?))
    }

    async fn list_agents(
        &self,
        request: Request<pb::ListAgentsRequest>,
    ) -> Result<Response<pb::ListAgentsResponse>, Status> {
        Ok(Response::new(self.list(request.into_inner()).await?))
    }

    type WatchAgentsStream = AgentChanges;

    async fn watch_agents(
        &self,
        request: Request<pb::WatchAgentsRequest>,
    ) -> Result<Response<Self::WatchAgentsStream>, Status> {
        Ok(Response::new(self.watch(request.into_inner()).await?))
    }

    async fn drain_host(
        &self,
        request: Request<pb::DrainHostRequest>,
    ) -> Result<Response<pb::DrainHostResponse>, Status> {
        let r = request.into_inner();
        let force = convert::forces(r.force).map_err(EngineError::from)?;
        let drain = if force { Drain::Forced } else { Drain::Moves };
        self.engine.drain(&request::host_id(&r.host_id).map_err(EngineError::from)?, drain).await?;
        Ok(Response::new(pb::DrainHostResponse {}))
    }

    async fn undrain_host(
        &self,
        request: Request<pb::UndrainHostRequest>,
    ) -> Result<Response<pb::UndrainHostResponse>, Status> {
        let r = request.into_inner();
        self.engine.undrain(&request::host_id(&r.host_id).map_err(EngineError::from)?).await?;
        Ok(Response::new(pb::UndrainHostResponse {}))
    }

    async fn explain_placement(
        &self,
        request: Request<pb::ExplainPlacementRequest>,
    ) -> Result<Response<pb::ExplainPlacementResponse>, Status> {
        Ok(Response::new(self.explain(request.into_inner()).await?))
    }

    async fn list_hosts(
        &self,
        request: Request<pb::ListHostsRequest>,
    ) -> Result<Response<pb::ListHostsResponse>, Status> {
        Ok(Response::new(self.hosts(request.into_inner()).await?))
    }
}
