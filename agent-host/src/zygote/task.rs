//! Keeps one profile's zygote alive, forks from it in order, and grows its next generations.

use super::{
    Ancestor, ForkRequest, LearningLimits, Notes, Order, ZygoteError, ZygoteHandle, ZygoteState, ZygoteStatus,
    learned::Learned,
    process::{ForkError, Hello, Live, Nursery},
    wire::FailedPreload,
};
use crate::{agent::backoff, process::usage};
use futures_util::future::{BoxFuture, FutureExt as _, pending};
use rustic_proto::restart::RestartPolicy;
use std::time::Duration;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Forks that may wait in line. More callers start cold.
const LINE: usize = 256;
/// Longest wait of the first forks for the modules that a former zygote had learned; after it they start without.
const FIRST_GENERATION: Duration = Duration::from_secs(5);

/// What a zygote is kept alive with.
pub struct ZygoteTask {
    nursery: Nursery,
    preload: Vec<String>,
    limits: LearningLimits,
    notes: Notes,
    status: watch::Sender<ZygoteStatus>,
}

/// A branch that is being built: what it preloads, and the wait for its hello.
struct Building {
    modules: Vec<String>,
    hello: BoxFuture<'static, Result<Hello, String>>,
}

/// The processes of now.
struct Family {
    base: Live,
    branch: Option<Live>,
    building: Option<Building>,
}

impl ZygoteTask {
    /// Prepares the zygote of a profile.
    pub fn new(nursery: Nursery, preload: Vec<String>, limits: LearningLimits, notes: Notes) -> Self {
        let status = ZygoteStatus { state: ZygoteState::Starting, generation: 0, learned: vec![] };
        Self { nursery, preload, limits, notes, status: watch::Sender::new(status) }
    }

    /// Starts the task; it ends with `stop`, and the zygote with it.
    pub fn start(self, stop: CancellationToken) -> ZygoteHandle {
        let (orders, queue) = mpsc::channel(LINE);
        let handle = ZygoteHandle { orders, status: self.status.subscribe() };
        // On cancel the zygote's handle is dropped, which kills it; children already forked live on.
        tokio::spawn(async move { stop.run_until_cancelled(self.run(queue)).await });
        handle
    }

    fn show(&self, state: ZygoteState) {
        self.status.send_modify(|status| status.state = state);
    }

    async fn run(self, mut queue: mpsc::Receiver<Order>) {
        let profile = &self.nursery.profile;
        let policy = RestartPolicy { max_backoff: Duration::from_secs(30), ..RestartPolicy::default() };
        let mut learned = Learned::new(self.limits);
        learned.saw(self.notes.take());
        let mut failures: u32 = 0;
        loop {
            self.show(ZygoteState::Starting);
            let why = match self.base().await {
                Ok(base) => {
                    failures = 0;
                    self.serve(base, &mut learned, &mut queue).await
                }
                Err(why) => why,
            };
            failures += 1;
            warn!(profile, why, failures, "the zygote is replaced; agents start cold meanwhile");
            learned.lost();
            self.status.send_modify(|status| {
                status.state = ZygoteState::Down(why.clone());
                status.learned.clear();
            });
            // Whoever waits in line starts cold.
            while let Ok(order) = queue.try_recv() {
                match order {
                    Order::Fork(_, reply) => _ = reply.send(Err(ZygoteError::Down(why.clone()))),
                    Order::Learn(modules) => learned.saw(modules),
                }
            }
            sleep(backoff::delay(&policy, failures, rand::random())).await;
        }
    }

    async fn base(&self) -> Result<Live, String> {
        let newborn = self.nursery.start().await.map_err(|e| e.to_string())?;
        let hello = newborn.hello(&self.preload, self.nursery.orphans.clone()).await?;
        for FailedPreload { module, error, traceback } in &hello.failed {
            warn!(module, error, traceback, "a module could not be preloaded");
        }
        let (profile, pid) = (&self.nursery.profile, hello.live.pid());
        if hello.obstacle.is_empty() {
            info!(profile, pid, "the zygote is ready");
        } else {
            warn!(profile, pid, why = hello.obstacle, "the zygote is ready, but cannot fork; agents start cold");
        }
        Ok(hello.live)
    }

    /// Forks until something goes wrong with the base, and tells what. Ends all processes of this zygote.
    async fn serve(&self, base: Live, learned: &mut Learned, queue: &mut mpsc::Receiver<Order>) -> String {
        let mut family = Family { base, branch: None, building: None };
        if let Err(why) = self.make_ready(&mut family, learned).await {
            family.base.kill();
            return why;
        }
        self.show(ZygoteState::Ready);
        let why = loop {
            let due = learned.due(Instant::now()).filter(|_| family.building.is_none());
            // Cancel-safe: neither the queue, the pidfds nor the kept future lose anything.
            tokio::select! {
                order = queue.recv() => match order {
                    Some(Order::Learn(modules)) => learned.saw(modules),
                    Some(Order::Fork(_, reply)) if reply.is_closed() => {}
                    Some(Order::Fork(request, reply)) => {
                        let (answer, broken) = self.fork(&mut family, &request, learned).await;
                        // A caller that is gone drops the child, which kills it.
                        let _ = reply.send(answer);
                        if let Some(why) = broken {
                            break why;
                        }
                    }
                    None => break "the host is stopping".to_owned(),
                },
                why = family.base.ended() => return why,
                why = ended(&mut family.branch) => self.branch_lost(&mut family, learned, &why),
                hello = built(&mut family.building) => self.take_over(&mut family, hello, learned).await,
                () = until(due) => {
                    let modules = learned.begin(Instant::now());
                    if let Err(why) = self.grow(&mut family, modules).await {
                        break why;
                    }
                }
            }
        };
        family.base.kill();
        why
    }

    /// Makes ready what the first agents are forked from: the generation with all that former zygotes had learned, if there
    /// is something, for when a host comes back, all its agents start at once; else the base. `Err` tells why the base must
    /// be replaced.
    async fn make_ready(&self, family: &mut Family, learned: &mut Learned) -> Result<(), String> {
        let now = Instant::now();
        if learned.due(now).is_none_or(|due| due > now) {
            return family.base.share().await;
        }
        self.grow(family, learned.begin(now)).await?;
        // Not built in time, it takes over later.
        if family.building.is_some()
            && let Ok(hello) = timeout(FIRST_GENERATION, built(&mut family.building)).await
        {
            self.take_over(family, hello, learned).await;
        }
        Ok(())
    }

    /// Forks a child; tells also why the base must be replaced, if it must.
    async fn fork(
        &self,
        family: &mut Family,
        request: &ForkRequest,
        learned: &mut Learned,
    ) -> (Result<crate::process::Child, ZygoteError>, Option<String>) {
        let branch = family.branch.as_mut().filter(|_| request.ancestor == Ancestor::Newest);
        let from_branch = branch.is_some();
        match branch.unwrap_or(&mut family.base).fork(request).await {
            Ok(child) => (Ok(child), None),
            Err(ForkError::Refused(why)) => (Err(why), None),
            Err(ForkError::Broken(why)) if from_branch => {
                self.branch_lost(family, learned, &why);
                (Err(ZygoteError::Failed(why)), None)
            }
            Err(ForkError::Broken(why)) => (Err(ZygoteError::Failed(why.clone())), Some(why)),
        }
    }

    /// Begins the next generation; `Err` tells why the base must be replaced.
    async fn grow(&self, family: &mut Family, modules: Vec<String>) -> Result<(), String> {
        match self.nursery.branch(&mut family.base).await {
            Ok(newborn) => {
                let (wanted, orphans) = (modules.clone(), self.nursery.orphans.clone());
                let hello = async move {
                    let mut hello = newborn.hello(&wanted, orphans).await?;
                    hello.live.share().await?;
                    Ok(hello)
                }
                .boxed();
                family.building = Some(Building { modules, hello });
                Ok(())
            }
            // Agents start cold from such a base, and it has said why; it learns nothing.
            Err(ForkError::Refused(_)) => Ok(()),
            Err(ForkError::Broken(why)) => Err(why),
        }
    }

    /// A generation is ready: it takes over if it is fit to.
    async fn take_over(&self, family: &mut Family, built: Built, learned: &mut Learned) {
        let profile = &self.nursery.profile;
        let Built { modules, hello } = built;
        let new: Vec<_> = {
            let before = self.status.borrow();
            modules.iter().filter(|module| !before.learned.contains(module)).cloned().collect()
        };
        // Whatever it is that makes a generation unfit came with what it has more than the one before.
        let refuse_new = |learned: &mut Learned, why: &str| {
            warn!(profile, why, modules = ?new, "what agents import cannot be preloaded");
            new.iter().for_each(|module| learned.refuse(module, why));
            learned.lost();
        };
        let hello = match hello {
            Ok(hello) => hello,
            Err(why) => return refuse_new(learned, &why),
        };
        for FailedPreload { module, error, .. } in &hello.failed {
            info!(profile, module, error, "a module that an agent imported cannot be preloaded");
            learned.refuse(module, error);
        }
        if !hello.obstacle.is_empty() {
            warn!(profile, why = hello.obstacle, module = hello.culprit, "a module cannot be preloaded");
            learned.refuse(&hello.culprit, &hello.obstacle);
            return learned.lost();
        }
        let used = usage::private_memory(hello.live.pid()).await.unwrap_or(0);
        if used > self.limits.memory {
            let limit = self.limits.memory;
            return refuse_new(learned, &format!("the zygote would use {used} bytes; --learned-memory is {limit}"));
        }
        let kept = |module: &String| !hello.failed.iter().any(|failed| failed.module == *module);
        let modules: Vec<_> = modules.into_iter().filter(kept).collect();
        let pid = hello.live.pid();
        self.notes.keep(&modules);
        self.status.send_modify(|status| {
            status.generation += 1;
            status.learned.clone_from(&modules);
        });
        info!(
            profile,
            pid,
            generation = self.status.borrow().generation,
            ?modules,
            "a new zygote generation is ready"
        );
        // The one before is dropped, which kills it.
        family.branch = Some(hello.live);
    }

    fn branch_lost(&self, family: &mut Family, learned: &mut Learned, why: &str) {
        warn!(profile = self.nursery.profile, why, "a zygote generation is replaced; agents start from its base");
        family.branch = None;
        learned.lost();
        self.status.send_modify(|status| status.learned.clear());
    }
}

/// What became of a generation.
struct Built {
    modules: Vec<String>,
    hello: Result<Hello, String>,
}

/// Waits for the generation that is being built. Cancel-safe: it is kept until it is there.
async fn built(building: &mut Option<Building>) -> Built {
    let Some(b) = building else { return pending().await };
    let hello = (&mut b.hello).await;
    let modules = std::mem::take(&mut b.modules);
    *building = None;
    Built { modules, hello }
}

async fn ended(branch: &mut Option<Live>) -> String {
    match branch {
        Some(branch) => branch.ended().await,
        None => pending().await,
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}
