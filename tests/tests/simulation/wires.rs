//! What engines and hosts hand to the world instead of a network and processes: their registry, their hosts, their runtime.

use crate::ambient::{self, LeftOut};
use agent_host::{
    output::Tail,
    process::Signal,
    runtime::{Order, Process, ProcessEvent, PythonStatus, Runtime, StartError},
    watchdog::BootTime,
    zygote::Imports,
};
use async_trait::async_trait;
use engine_svc::{
    answer::{self, HostAnswer, HostRefusal},
    channels::{Callee, HostCalls},
};
use futures_util::FutureExt as _;
use rustic_proto::agent_host::v1 as pb;
use rustic_registry::{
    Advance, AdvanceOutcome, AgentKey, AgentRecord, Announce, Announced, AssignOutcome, Bring, Candidates, Claim,
    ClaimOutcome, Cordon, Drift, Epoch, EventId, Events, HostId, HostsView, Incarnation, Index, Look, MemoryRegistry,
    Page, Queue, Registry, RegistryError, ReleaseGuard, ReleaseOutcome, Remember, Remembered, Renew, Renewal,
    Restore, Retire, StoreLife, Unassign, View,
};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout, timeout_at},
};
use tonic::{Status, TimeoutExpired};

/// Longest wait for the store, as `--redis-timeout`.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

/// Time between two questions for changes, where the other end cannot wait.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// One run of an engine or a host.
pub(crate) type LifeId = usize;

/// Hands the answer of an operation to whoever waits for it.
pub(crate) type Reply = Box<dyn FnOnce() + Send>;

/// An operation on its way to the store.
pub(crate) struct StoreCall {
    pub(crate) name: &'static str,
    pub(crate) run: Box<dyn FnOnce(&MemoryRegistry) -> Reply + Send>,
}

/// A call of a host.
#[derive(Debug, Clone)]
pub(crate) enum HostCall {
    Create(Box<pb::CreateAgentRequest>),
    Stop(pb::StopAgentRequest),
}

/// What a host answers.
#[derive(Debug, Clone)]
pub(crate) enum HostReply {
    Created(Box<pb::CreateAgentResponse>),
    Stopped(pb::StopAgentResponse),
}

/// A process that was made: its id, and its events.
pub(crate) type Born = (u32, mpsc::UnboundedReceiver<ProcessEvent>);

/// What a life does to the world.
pub(crate) enum Outgoing {
    Store(StoreCall),
    Call { address: String, call: HostCall, left: Duration, reply: oneshot::Sender<Result<HostReply, Status>> },
    Answer { call: u64, reply: Result<HostReply, Status> },
    Spawn { order: Order, reply: oneshot::Sender<Born> },
    Signal { pid: u32, signal: Signal },
    Deadline(BootTime),
    KeepEpoch(Epoch),
    ClientAnswer { call: u64, answer: Result<(), String> },
    Ended,
}

/// Where a life puts what it does; taken up by the world when the life's turn is over.
#[derive(Clone)]
pub(crate) struct Outbox {
    pub(crate) life: LifeId,
    pub(crate) queue: Arc<Mutex<Vec<(LifeId, Outgoing)>>>,
}

impl Outbox {
    pub(crate) fn put(&self, outgoing: Outgoing) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).push((self.life, outgoing));
    }
}

/// The registry at the other end of the world's network.
pub(crate) struct FarStore {
    outbox: Outbox,
}

impl FarStore {
    pub(crate) fn new(outbox: Outbox) -> Self {
        Self { outbox }
    }

    async fn call<T: Send + 'static>(
        &self,
        name: &'static str,
        run: impl FnOnce(&MemoryRegistry) -> Result<T, RegistryError> + Send + 'static,
    ) -> Result<T, RegistryError> {
        let (reply, answer) = oneshot::channel();
        let run = Box::new(move |store: &MemoryRegistry| -> Reply {
            let result = run(store);
            Box::new(move || _ = reply.send(result))
        });
        self.outbox.put(Outgoing::Store(StoreCall { name, run }));
        match timeout(STORE_TIMEOUT, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_closed)) => Err(RegistryError::Unreachable("the connection broke".to_owned())),
            Err(_elapsed) => Err(RegistryError::Timeout(STORE_TIMEOUT)),
        }
    }
}

/// Sends owned copies of the arguments to the other end.
macro_rules! far {
    ($($name:ident($($arg:ident: $type:ty),*) -> $out:ty;)+) => {
        #[async_trait]
        impl Registry for FarStore {
            async fn retire(&self, request: &Retire) -> Result<bool, RegistryError> {
                let request = request.clone();
                if ambient::left_out() == Some(LeftOut::Comparing) {
                    // One that comes late is harmless because of what is compared.
                    tokio::time::sleep(Duration::from_millis(700)).await;
                }
                self.call("retire", move |store| {
                    let request = without_what_is_left_out(store, request);
                    store.retire(&request).now_or_never().expect("the store in memory never waits")
                })
                .await
            }

            /// The other end cannot wait: it is asked again until there is something.
            async fn events(&self, after: EventId, limit: usize, wait: Duration) -> Result<Events, RegistryError> {
                let give_up = Instant::now() + wait;
                loop {
                    let read = self.call("events", move |store| {
                        let read = store.events(after, limit, Duration::ZERO);
                        read.now_or_never().expect("the store in memory never waits")
                    });
                    let events = read.await?;
                    if !events.entries.is_empty() || Instant::now() >= give_up {
                        return Ok(events);
                    }
                    tokio::time::sleep(ASK_AGAIN).await;
                }
            }

            $(async fn $name(&self, $($arg: $type),*) -> Result<$out, RegistryError> {
                $(let $arg = Owned::own($arg);)*
                self.call(stringify!($name), move |store| {
                    store.$name($(Owned::lend(&$arg)),*).now_or_never().expect("the store in memory never waits")
                }).await
            })+
        }
    };
}

/// What is left of the comparison that a retirement rests on, in a world that does without some of it.
fn without_what_is_left_out(store: &MemoryRegistry, request: Retire) -> Retire {
    let view = store.hosts().now_or_never().expect("it never waits").expect("it never fails");
    let host = view.hosts.iter().find(|h| h.host == request.host && h.incarnation == request.incarnation);
    match ambient::left_out() {
        Some(LeftOut::Comparing) => {
            let seen = host.map_or(request.seen, |h| (h.life, h.renewals));
            Retire { seen, store_life: view.store_life.unwrap_or(request.store_life), ..request }
        }
        Some(LeftOut::Observing) | None => request,
    }
}

/// An argument that can travel.
trait Owned<'a> {
    type Kept: Send + 'static;
    fn own(self) -> Self::Kept;
    fn lend(kept: &'a Self::Kept) -> Self;
}

impl<'a, T: ToOwned<Owned: Send + 'static> + ?Sized> Owned<'a> for &'a T {
    type Kept = T::Owned;
    fn own(self) -> T::Owned {
        self.to_owned()
    }
    fn lend(kept: &'a T::Owned) -> Self {
        std::borrow::Borrow::borrow(kept)
    }
}

impl<'a> Owned<'a> for Option<&'a AgentKey> {
    type Kept = Option<AgentKey>;
    fn own(self) -> Option<AgentKey> {
        self.cloned()
    }
    fn lend(kept: &'a Option<AgentKey>) -> Self {
        kept.as_ref()
    }
}

macro_rules! copied {
    ($($type:ty),+) => {
        $(impl<'a> Owned<'a> for $type {
            type Kept = Self;
            fn own(self) -> Self { self }
            fn lend(kept: &'a Self) -> Self { *kept }
        })+
    };
}

copied!(Epoch, ReleaseGuard, Cordon, Queue, View, usize, bool);

far! {
    announce(request: &Announce) -> Announced;
    renew(request: &Renew) -> Renewal;
    depart(host: &HostId, incarnation: &Incarnation) -> ();
    advance(request: &Advance) -> AdvanceOutcome;
    restore(request: &Restore) -> AdvanceOutcome;
    remember(request: &Remember) -> Remembered;
    release(key: &AgentKey, epoch: Epoch, guard: ReleaseGuard) -> ReleaseOutcome;
    unassign(request: &Unassign) -> ReleaseOutcome;
    assign(key: &AgentKey, epoch: Epoch, candidates: &Candidates) -> AssignOutcome;
    cordon(host: &HostId, cordon: Cordon) -> bool;
    audit(host: &HostId) -> Option<Drift>;
    claim(request: &Claim) -> ClaimOutcome;
    hosts() -> HostsView;
    bring(request: &Bring) -> ();
    forget(host: &HostId, incarnation: &Incarnation) -> bool;
    settle(store: &StoreLife, watched: bool) -> bool;
    bury(key: &AgentKey) -> bool;
    oldest(queue: Queue, skip: usize, limit: usize, view: View) -> Vec<AgentRecord>;
    get(key: &AgentKey, view: View) -> Option<AgentRecord>;
    list(index: &Index, after: Option<&AgentKey>, limit: usize, view: View) -> Page;
    look() -> Look;
}

/// The hosts at the other end of the world's network.
pub(crate) struct FarHosts(pub(crate) Outbox);

impl FarHosts {
    async fn call(&self, host: &Callee, call: HostCall, deadline: Instant) -> HostAnswer<HostReply> {
        let (reply, answer) = oneshot::channel();
        let left = deadline.saturating_duration_since(Instant::now());
        self.0.put(Outgoing::Call { address: host.address.clone(), call, left, reply });
        match timeout_at(deadline, answer).await {
            Ok(Ok(reply)) => answer::read(reply),
            Ok(Err(_closed)) => Err(HostRefusal::silent("the connection broke")),
            Err(_elapsed) => answer::read(Err(Status::from_error(Box::new(TimeoutExpired(()))))),
        }
    }
}

#[async_trait]
impl HostCalls for FarHosts {
    async fn create_agent(
        &self,
        host: &Callee,
        message: pb::CreateAgentRequest,
        deadline: Instant,
    ) -> HostAnswer<pb::CreateAgentResponse> {
        match self.call(host, HostCall::Create(Box::new(message)), deadline).await? {
            HostReply::Created(created) => Ok(*created),
            HostReply::Stopped(_) => unreachable!("a host answers what it was asked"),
        }
    }

    async fn stop_agent(
        &self,
        host: &Callee,
        message: pb::StopAgentRequest,
        deadline: Instant,
    ) -> HostAnswer<pb::StopAgentResponse> {
        match self.call(host, HostCall::Stop(message), deadline).await? {
            HostReply::Stopped(stopped) => Ok(stopped),
            HostReply::Created(_) => unreachable!("a host answers what it was asked"),
        }
    }

    /// Nothing is kept: this network has no connections.
    fn retain(&self, _hosts: &BTreeSet<HostId>) {}
}

/// Makes processes on the world's machine.
pub(crate) struct FarRuntime(pub(crate) Outbox);

#[async_trait]
impl Runtime for FarRuntime {
    async fn start(&self, order: &Order, _tail: &Tail) -> Result<Box<dyn Process>, StartError> {
        let (reply, born) = oneshot::channel();
        self.0.put(Outgoing::Spawn { order: order.clone(), reply });
        let (pid, events) = born.await.map_err(|_| std::io::Error::other("no process came to be"))?;
        Ok(Box::new(FarProcess { pid, events, outbox: self.0.clone() }))
    }

    fn learn(&self, _order: &Order, _imports: Imports) {}

    fn refusal(&self) -> Option<StartError> {
        None
    }

    fn killed_for_memory(&self) -> bool {
        false
    }

    fn profiles(&self) -> Vec<PythonStatus> {
        vec![]
    }

    fn set_deadline(&self, deadline: BootTime) {
        self.0.put(Outgoing::Deadline(deadline));
    }
}

struct FarProcess {
    pid: u32,
    events: mpsc::UnboundedReceiver<ProcessEvent>,
    outbox: Outbox,
}

#[async_trait]
impl Process for FarProcess {
    fn pid(&self) -> u32 {
        self.pid
    }

    fn resident(&self) -> Option<u64> {
        None
    }

    fn signal(&self, signal: Signal) {
        self.outbox.put(Outgoing::Signal { pid: self.pid, signal });
    }

    async fn next_event(&mut self) -> ProcessEvent {
        match self.events.recv().await {
            Some(event) => event,
            // The exit was reported already.
            None => std::future::pending().await,
        }
    }

    async fn finish(self: Box<Self>) {}
}

impl Drop for FarProcess {
    fn drop(&mut self) {
        self.signal(Signal::Kill);
    }
}
