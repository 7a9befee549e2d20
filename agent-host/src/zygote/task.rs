//! Keeps one profile's zygotes alive, forks from them in order, and grows branches.

use super::{
    BranchStatus, Cache, Command, ForkRequest, IDENTITY, Lesson, Share, Sharing, VARYING, ZygoteError, ZygoteHandle,
    ZygoteState, ZygoteStatus,
    closure::Unit,
    family::{Branch, Building, Built, Family, Member, differing},
    files::{Files, Watched},
    known::{Knowledge, Shared, Wish},
    process::{ForkError, Live, ZygoteSpec},
    wire::{self, FailedPreload, Hello, Preload},
};
use crate::{agent::backoff, process::Child};
use futures_util::future::{FutureExt as _, pending};
use rustic_proto::restart::RestartPolicy;
use rustic_telemetry::{
    pulse::{self, Pulse},
    tasks::Tasks,
};
use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, SystemTime},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep, sleep_until, timeout_at},
};
use tracing::{info, warn};

/// Forks that may wait in line. More callers start cold.
const LINE: usize = 256;
/// Longest wait of the first forks for branches that a former life had; after it they start without.
const FORMER_BRANCHES: Duration = Duration::from_secs(5);

/// How long a zygote that would not fork a branch is taken to be busy.
const REFUSED: Duration = Duration::from_secs(1);

/// What a zygote is kept alive with.
pub struct ZygoteTask {
    spec: ZygoteSpec,
    preload: Vec<String>,
    sharing: Sharing,
    cache: Cache,
    /// Environment of the zygotes, as far as it is text.
    environment: BTreeMap<String, String>,
    status: watch::Sender<ZygoteStatus>,
}

/// What the task knows and has to do, from zygote to zygote.
struct Work {
    queue: mpsc::Receiver<Command>,
    /// Forks that came when the base had to be replaced.
    held: VecDeque<(ForkRequest, oneshot::Sender<Result<Child, ZygoteError>>)>,
    knowledge: Knowledge,
    files: Files,
    /// The last base was not used, because its files seemed to change meanwhile.
    doubted: bool,
}

impl ZygoteTask {
    /// Prepares the zygote of a profile.
    pub fn new(spec: ZygoteSpec, preload: Vec<String>, sharing: Sharing, cache: Cache) -> Self {
        let environment = spec.interpreter.environment.iter();
        let text = |text: &std::ffi::OsString| text.to_string_lossy().into_owned();
        let environment = environment.map(|(name, value)| (text(name), text(value))).collect();
        let state = ZygoteState::Starting;
        let status = ZygoteStatus { state, generation: 0, branches: vec![], refused: BTreeMap::new() };
        Self { spec, preload, sharing, cache, environment, status: watch::Sender::new(status) }
    }

    /// Starts the task as one of `tasks`; the zygote ends with it.
    pub fn start(self, tasks: &Tasks) -> ZygoteHandle {
        let (commands, queue) = mpsc::channel(LINE);
        let handle = ZygoteHandle { commands, status: self.status.subscribe() };
        // On cancel the zygotes' handles are dropped, which kills them; children already forked live on.
        let name = format!("the zygote of profile {}", self.spec.profile);
        tasks.spawn(name.clone(), async move {
            // Imports and forks take their time, which is bounded where they are waited for; agents start cold meanwhile.
            Pulse::of(name, pulse::TURN).waits(self.run(queue)).await;
        });
        handle
    }

    async fn run(self, queue: mpsc::Receiver<Command>) {
        let profile = &self.spec.profile;
        let policy = RestartPolicy { max_backoff: Duration::from_secs(30), ..RestartPolicy::default() };
        let knowledge = self.recalled();
        let mut work = Work { queue, held: VecDeque::new(), knowledge, files: Files::new(), doubted: false };
        let mut failures: u32 = 0;
        loop {
            self.status.send_modify(|status| status.state = ZygoteState::Starting);
            let end = match self.base(&mut work).await {
                Ok(family) => {
                    failures = 0;
                    self.serve(family, &mut work).await
                }
                Err(why) => End::Broken(why),
            };
            self.status.send_modify(|status| status.branches.clear());
            work.knowledge.lost(self.sharing.branches);
            match end {
                End::Outdated(file) => info!(profile, file, "a file has changed; the zygote is replaced"),
                End::Broken(why) => {
                    failures += 1;
                    warn!(profile, why, failures, "the zygote is replaced; agents start cold meanwhile");
                    self.refuse_all(&why, &mut work);
                    sleep(backoff::delay(&policy, failures, rand::random())).await;
                }
            }
        }
    }

    /// What a former life of this host has learned.
    fn recalled(&self) -> Knowledge {
        let mut knowledge = Knowledge::default();
        // The latest stands first.
        for entry in self.cache.take().into_iter().rev().filter(|_| self.sharing.share != Share::None) {
            knowledge.recall(entry.kind, entry.imports, entry.shared, Instant::now());
        }
        knowledge.lost(self.sharing.branches);
        knowledge
    }

    /// Whoever waits in line starts cold.
    fn refuse_all(&self, why: &str, work: &mut Work) {
        self.status.send_modify(|status| status.state = ZygoteState::Down(why.to_owned()));
        let refuse = |reply: oneshot::Sender<_>| _ = reply.send(Err(ZygoteError::Down(why.to_owned())));
        work.held.drain(..).for_each(|(_, reply)| refuse(reply));
        while let Ok(order) = work.queue.try_recv() {
            match order {
                Command::Fork(_, reply) => refuse(reply),
                Command::Learn(lesson) => self.learn(lesson, work),
            }
        }
    }

    async fn base(&self, work: &mut Work) -> Result<Family, String> {
        let began = SystemTime::now();
        let newborn = self.spec.start().await.map_err(|e| e.to_string())?;
        let units = self.preload.iter().map(|module| Unit::named(module)).collect();
        let preload = self.preload(units, String::new(), vec![], vec![]);
        let (live, hello) = newborn.hello(&preload, self.spec.orphans.clone()).await?;
        for FailedPreload { module, error, traceback } in &hello.failed_preloads {
            warn!(module, error, traceback, "a module of Rustic AI could not be imported");
        }
        for (module, why) in &hello.refused {
            warn!(module, why, "a module is not preloaded, because it is not safe to share; --share-unproven would");
        }
        let (profile, pid) = (&self.spec.profile, live.pid());
        if hello.obstacle.is_empty() {
            info!(profile, pid, "the zygote is ready");
        } else {
            let Hello { obstacle, culprit, .. } = &hello;
            warn!(profile, pid, why = obstacle, culprit, "the zygote is ready, but cannot fork; agents start cold");
        }
        // Once: a file whose time lies ahead of this machine's clock must not keep it from ever having a zygote.
        let watched = work.files.watch(&hello.files, began);
        if watched == Watched::Changed && !std::mem::replace(&mut work.doubted, true) {
            return Err("files changed while it imported them".to_owned());
        }
        work.doubted = false;
        Ok(Family::new(live, &hello))
    }

    fn preload(&self, units: Vec<Unit>, own: String, proven: Vec<String>, refused: Vec<String>) -> Preload {
        // Without sharing only an operator's own modules come here, which are proven.
        let share = if self.sharing.share == Share::None { Share::Proven } else { self.sharing.share };
        let Sharing { memory, vouched, directory, .. } = self.sharing.clone();
        Preload {
            version: wire::VERSION,
            units,
            own,
            share,
            proven,
            refused,
            vouched,
            memory,
            varying: &VARYING,
            directory,
        }
    }

    /// Forks until something goes wrong with the base, ends all processes of this zygote, and returns what went wrong.
    async fn serve(&self, mut family: Family, work: &mut Work) -> End {
        let end = match self.regrow(&mut family, work).await {
            Ok(()) => {
                self.status.send_modify(|status| status.state = ZygoteState::Ready);
                self.serve_always(&mut family, work).await
            }
            Err(why) => End::Broken(why),
        };
        family.base.kill();
        end
    }

    async fn serve_always(&self, family: &mut Family, work: &mut Work) -> End {
        loop {
            match next(family, work).await {
                Happened::Asked(Command::Learn(lesson)) => self.learn(lesson, work),
                Happened::Asked(Command::Fork(_, reply)) if reply.is_closed() => {}
                Happened::Asked(Command::Fork(request, reply)) => {
                    if let Some(file) = self.heed_changes(family, work) {
                        work.held.push_front((request, reply));
                        return End::Outdated(file);
                    }
                    let (answer, broken) = self.fork(family, request, &mut work.knowledge).await;
                    // A caller that is gone drops the child, which kills it.
                    let _ = reply.send(answer);
                    if let Some(why) = broken {
                        return End::Broken(why);
                    }
                }
                Happened::Closed => return End::Broken("the host is stopping".to_owned()),
                Happened::BaseEnded(why) => return End::Broken(why),
                Happened::BranchEnded(number, why) => self.branch_lost(family, number, &why),
                Happened::Built(built) => self.take_in(family, *built, work).await,
                Happened::Due => {
                    if let Err(why) = self.grow(family, &mut work.knowledge).await {
                        return End::Broken(why);
                    }
                }
            }
        }
    }

    /// Grows the branches that a former life had: when a host comes back, all its agents start at once. `Err` says why the
    /// base must be replaced.
    async fn regrow(&self, family: &mut Family, work: &mut Work) -> Result<(), String> {
        let give_up = Instant::now() + FORMER_BRANCHES;
        for _ in 0..self.sharing.branches {
            if work.knowledge.settled().is_empty() || work.knowledge.due(Instant::now()).is_none() {
                return Ok(());
            }
            self.grow(family, &mut work.knowledge).await?;
            if family.building.is_none() {
                return Ok(());
            }
            match timeout_at(give_up, Family::built(&mut family.building)).await {
                Ok(done) => self.take_in(family, done, work).await,
                // It goes on; agents that come meanwhile import for themselves.
                Err(_elapsed) => return Ok(()),
            }
        }
        Ok(())
    }

    /// Forks a child. Returns also why the base must be replaced, if it must.
    async fn fork(
        &self,
        family: &mut Family,
        request: ForkRequest,
        knowledge: &mut Knowledge,
    ) -> (Result<Child, ZygoteError>, Option<String>) {
        let now = Instant::now();
        let differing = differing(&request.environment, &self.environment);
        if let Some(name) = family.base_has.reads_one_of(&differing) {
            return (Err(ZygoteError::Environment(name.to_owned())), None);
        }
        let known = request.kind.as_ref().and_then(|kind| knowledge.of(kind, now));
        // A branch hands its confinement down.
        let as_branches = request.confinement.is_some() == self.spec.grant.is_some();
        let member = if as_branches { family.best(known, &differing) } else { Member::Base };
        let learn = as_branches && known.is_none() && request.kind.is_some() && self.sharing.share != Share::None;
        // Nothing is missed by an agent whose environment keeps it from the branch of its kind.
        let missing =
            as_branches && known.is_some_and(|known| known.shared.is_some() && !family.has_branch_of(known));
        if let Some(kind) = request.kind.as_ref().filter(|_| missing) {
            knowledge.miss(kind);
        }
        let (live, _has) = family.use_member(member, now);
        match (live.fork(request, learn).await, member) {
            (Ok(child), _) => (Ok(child), None),
            (Err(ForkError::Refused(why)), _) => (Err(why), None),
            (Err(ForkError::Broken(why)), Member::Branch(number)) => {
                self.branch_lost(family, number, &why);
                (Err(ZygoteError::Failed(why)), None)
            }
            (Err(ForkError::Broken(why)), Member::Base) => (Err(ZygoteError::Failed(why.clone())), Some(why)),
        }
    }

    /// An agent has reported what its class imports. It is known from now on, if the agent saw it in the same environment as that of
    /// the zygotes, as far as that matters.
    fn learn(&self, lesson: Lesson, work: &mut Work) {
        let Lesson { kind, imports, environment } = lesson;
        let other = differing(&environment, &self.environment)
            .into_iter()
            .any(|name| imports.reads.contains(name) && !VARYING.contains(&name));
        if other || !imports.is_of(&kind) || work.files.watch(imports.files(), SystemTime::now()) == Watched::TooMany
        {
            return;
        }
        let identity = IDENTITY.iter().find(|name| imports.reads.contains(**name));
        work.knowledge.saw(kind.clone(), imports, Instant::now());
        if let Some(name) = identity {
            // What it imports may depend on who it is.
            work.knowledge.refuse(&kind, format!("it reads the variable {name}, which differs from agent to agent"));
            self.show_refusals(&work.knowledge);
        }
    }

    fn show_refusals(&self, knowledge: &Knowledge) {
        let refused = knowledge.refusals();
        self.status.send_modify(|status| status.refused = refused);
    }

    /// Gives up what rests on files that have changed. Returns the file, if the base rests on one.
    fn heed_changes(&self, family: &mut Family, work: &mut Work) -> Option<String> {
        let changed = work.files.changed();
        if changed.is_empty() {
            return None;
        }
        work.knowledge.heed(&changed);
        if let Some(file) = family.base_has.rests_on(&changed) {
            return Some(file.display().to_string());
        }
        if let Some(building) = family.building.take_if(|building| building.has.rests_on(&changed).is_some()) {
            work.knowledge.miss(&building.wish.kind);
        }
        let outdated = |branch: &&Branch| branch.has.rests_on(&changed).is_some();
        let numbers: Vec<u64> = family.branches.iter().filter(outdated).map(|branch| branch.number).collect();
        numbers.into_iter().for_each(|number| self.branch_lost(family, number, "its files have changed"));
        None
    }

    /// Begins a branch. `Err` says why the base must be replaced.
    async fn grow(&self, family: &mut Family, knowledge: &mut Knowledge) -> Result<(), String> {
        let Some(wish) = knowledge.begin() else { return Ok(()) };
        let now = Instant::now();
        let ancestor = family.best(knowledge.of(&wish.kind, now), &[]);
        let Wish { units, own, proven, refused, .. } = wish.clone();
        let preload = self.preload(units, own, proven, refused);
        let began = (now, SystemTime::now());
        let (live, has) = family.use_member(ancestor, now);
        let has = has.clone();
        match (self.spec.branch(live).await, ancestor) {
            (Ok(newborn), _) => {
                let orphans = self.spec.orphans.clone();
                let hello = async move { newborn.hello(&preload, orphans).await }.boxed();
                family.building = Some(Building { has, wish, began, hello });
            }
            // Agents start cold from such a zygote, and it has said why; it may be able to later.
            (Err(ForkError::Refused(_)), _) => {
                knowledge.rest(now, REFUSED);
                knowledge.miss(&wish.kind);
            }
            (Err(ForkError::Broken(why)), Member::Base) => return Err(why),
            (Err(ForkError::Broken(why)), Member::Branch(number)) => {
                self.branch_lost(family, number, &why);
                knowledge.miss(&wish.kind);
            }
        }
        Ok(())
    }

    /// A branch has said hello, or never will: it becomes a member of the family if it is fit to.
    async fn take_in(&self, family: &mut Family, built: Built, work: &mut Work) {
        let profile = &self.spec.profile;
        let Built { has, wish, began, hello } = built;
        let (kind, mut grown) = (&wish.kind, 0);
        let took = began.0.elapsed();
        // What others take of the processor meanwhile is no reason to rest for longer.
        let spent = hello.as_ref().ok().and_then(|(_, hello)| Duration::try_from_secs_f64(hello.spent).ok());
        work.knowledge.rest(Instant::now(), spent.map_or(took, |spent| spent.min(took)));
        match self.examine(hello).await {
            Err((why, mut refused)) => {
                warn!(profile, %kind, why, "what agents import cannot be shared");
                refused.insert(wish.own.clone(), why);
                work.knowledge.tried(kind, Shared::default(), refused, BTreeMap::new());
            }
            Ok((live, hello, memory)) => {
                for (unit, why) in hello.refused.iter().chain(&hello.postponed) {
                    info!(profile, %kind, unit, why, "agents import this themselves");
                }
                // What was proven before was not looked at again.
                let known = work.knowledge.of(kind, Instant::now()).and_then(|known| known.shared.clone());
                let has = has.and(&hello).resting_on(&known.unwrap_or_default());
                match work.files.watch(has.files(), began.1) {
                    Watched::Changed => work.knowledge.tried_in_vain(kind),
                    Watched::TooMany => work.knowledge.refuse(kind, "too many files are behind it".to_owned()),
                    Watched::Unchanged => {
                        work.knowledge.tried(kind, has.as_shared(), hello.refused, hello.postponed);
                        if !hello.modules.is_empty() {
                            let (pid, packages) = (live.pid(), &has.units);
                            info!(profile, pid, %kind, ?packages, modules = has.modules.len(), "a branch is ready");
                            family.adopt(live, has, memory, self.sharing.branches, self.sharing.memory);
                            grown = 1;
                        }
                    }
                }
            }
        }
        // Kept before it is shown: what somebody has seen, the next life of this host knows.
        self.cache.keep(&work.knowledge, &work.files);
        let (branches, refused) = (branches(family), work.knowledge.refusals());
        // All at once: whoever looks sees no branch counted that is not there.
        self.status.send_modify(|status| {
            status.generation += grown;
            (status.branches, status.refused) = (branches, refused);
        });
    }

    /// A branch that can fork and does not use too much, and how much it uses; or why it is of no use, and what it refused.
    async fn examine(&self, hello: Result<(Live, Hello), String>) -> Result<(Live, Hello, u64), (String, Refusals)> {
        let (live, hello) = hello.map_err(|why| (why, Refusals::new()))?;
        if !hello.obstacle.is_empty() {
            return Err((hello.obstacle, hello.refused));
        }
        let memory = hello.private;
        if memory > self.sharing.memory {
            let why = format!("it would use {memory} bytes; --share-memory is {}", self.sharing.memory);
            return Err((why, hello.refused));
        }
        Ok((live, hello, memory))
    }

    fn branch_lost(&self, family: &mut Family, number: u64, why: &str) {
        if let Some(branch) = family.remove(number) {
            warn!(profile = self.spec.profile, pid = branch.live.pid(), why, "a branch is given up");
        }
        self.status.send_modify(|status| status.branches = branches(family));
    }
}

/// Units that are not shared, and why.
type Refusals = BTreeMap<String, String>;

/// Why a base is of no more use.
enum End {
    /// A file that it was made from has changed.
    Outdated(String),
    /// It ended, hung or talked nonsense.
    Broken(String),
}

/// What a family waits for.
enum Happened {
    Asked(Command),
    /// Nobody will ask any more.
    Closed,
    BaseEnded(String),
    BranchEnded(u64, String),
    Built(Box<Built>),
    /// The next branch may be begun.
    Due,
}

/// The next thing to happen. Cancel-safe: neither the queue, the pidfds nor the kept future lose anything.
async fn next(family: &mut Family, work: &mut Work) -> Happened {
    if let Some((request, reply)) = work.held.pop_front() {
        return Happened::Asked(Command::Fork(request, reply));
    }
    let due = work.knowledge.due(Instant::now()).filter(|_| family.building.is_none());
    tokio::select! {
        order = work.queue.recv() => order.map_or(Happened::Closed, Happened::Asked),
        why = family.base.ended() => Happened::BaseEnded(why),
        (number, why) = Family::branch_ended(&mut family.branches) => Happened::BranchEnded(number, why),
        built = Family::built(&mut family.building) => Happened::Built(Box::new(built)),
        () = until(due) => Happened::Due,
    }
}

fn branches(family: &Family) -> Vec<BranchStatus> {
    let status = |branch: &Branch| BranchStatus {
        pid: branch.live.pid(),
        packages: branch.has.units.clone(),
        modules: branch.has.modules.len(),
        memory: branch.memory,
    };
    family.branches.iter().map(status).collect()
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}
