//! Stand-ins that several tests use.

use crate::{
    answer::HostAnswer,
    channels::{Callee, HostCalls},
};
use async_trait::async_trait;
use rustic_proto::agent_host::v1 as pb;
use rustic_registry::{
    Advance, AdvanceOutcome, AgentKey, AgentRecord, Announce, Announced, AssignOutcome, Bring, Candidates, Claim,
    ClaimOutcome, Cordon, Drift, Epoch, EventId, Events, HostId, HostLife, HostRecord, HostState, HostsView,
    Incarnation, Index, Look, MemoryRegistry, Page, Queue, Registry, RegistryError, ReleaseGuard, ReleaseOutcome,
    Remember, Remembered, Renew, Renewal, Resources, Restore, Retire, StoreLife, Unassign, UnixMillis, View,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};
use tokio::time::Instant;

/// A host that lives.
pub(crate) fn host(id: &str, capacity: Resources, used: Resources) -> HostRecord {
    HostRecord {
        host: id.parse().expect("an id"),
        incarnation: "i".parse().expect("an incarnation"),
        address: String::new(),
        dns_name: String::new(),
        state: HostState::Ready,
        cordoned: false,
        capacity,
        used,
        labels: BTreeMap::new(),
        version: String::new(),
        life: HostLife(1),
        renewals: 0,
        ttl: Duration::ZERO,
        lasts: Duration::ZERO,
        renewed: UnixMillis(0),
    }
}

/// There are none that could be called.
pub(crate) struct NoHosts;

#[async_trait]
impl HostCalls for NoHosts {
    async fn create_agent(
        &self,
        host: &Callee,
        _message: pb::CreateAgentRequest,
        _deadline: Instant,
    ) -> HostAnswer<pb::CreateAgentResponse> {
        panic!("{} is called", host.host)
    }

    async fn stop_agent(
        &self,
        host: &Callee,
        _message: pb::StopAgentRequest,
        _deadline: Instant,
    ) -> HostAnswer<pb::StopAgentResponse> {
        panic!("{} is called", host.host)
    }

    fn retain(&self, _hosts: &BTreeSet<HostId>) {}
}

/// A registry in memory of which reads of one agent can fail.
pub(crate) struct Unreliable {
    pub(crate) inner: MemoryRegistry,
    /// They fail.
    pub(crate) fails: AtomicBool,
}

impl Unreliable {
    /// One that does not fail yet.
    pub(crate) fn new(inner: MemoryRegistry) -> Self {
        Self { inner, fails: AtomicBool::new(false) }
    }
}

macro_rules! forward {
    ($($name:ident($($arg:ident: $type:ty),*) -> $out:ty;)+) => {
        #[async_trait]
        impl Registry for Unreliable {
            async fn get(&self, key: &AgentKey, view: View) -> Result<Option<AgentRecord>, RegistryError> {
                if self.fails.load(Ordering::Relaxed) {
                    return Err(RegistryError::Timeout(Duration::from_secs(2)));
                }
                self.inner.get(key, view).await
            }

            $(async fn $name(&self, $($arg: $type),*) -> Result<$out, RegistryError> {
                self.inner.$name($($arg),*).await
            })+
        }
    };
}

forward! {
    announce(request: &Announce) -> Announced;
    renew(request: &Renew) -> Renewal;
    depart(host: &HostId, incarnation: &Incarnation) -> ();
    claim(request: &Claim) -> ClaimOutcome;
    advance(request: &Advance) -> AdvanceOutcome;
    restore(request: &Restore) -> AdvanceOutcome;
    remember(request: &Remember) -> Remembered;
    release(key: &AgentKey, epoch: Epoch, guard: ReleaseGuard) -> ReleaseOutcome;
    unassign(request: &Unassign) -> ReleaseOutcome;
    assign(key: &AgentKey, epoch: Epoch, candidates: &Candidates) -> AssignOutcome;
    cordon(host: &HostId, cordon: Cordon) -> bool;
    audit(host: &HostId) -> Option<Drift>;
    retire(request: &Retire) -> bool;
    forget(host: &HostId, incarnation: &Incarnation) -> bool;
    bring(request: &Bring) -> ();
    settle(store: &StoreLife, watched: bool) -> bool;
    bury(key: &AgentKey) -> bool;
    oldest(queue: Queue, skip: usize, limit: usize, view: View) -> Vec<AgentRecord>;
    list(index: &Index, after: Option<&AgentKey>, limit: usize, view: View) -> Page;
    hosts() -> HostsView;
    look() -> Look;
    events(after: EventId, limit: usize, wait: Duration) -> Events;
}
