//! One zygote process, base or branch: how it comes to be, and what it does on demand.

use super::{
    Descriptors, ForkRequest, ZygoteError,
    wire::{self, Attached, Confines, Hello, Preload, Reply, Request, Wire},
};
use crate::{
    confinement::{Confinement, Filter, Grant, Interpreter, Places},
    output::{Output, OutputLimit, Source, Tail},
    process::{Child, Orphans, Signal, SpawnError, Spawner, Started, output_pipe},
};
use std::{
    fs::DirBuilder,
    os::{
        fd::OwnedFd,
        unix::{fs::DirBuilderExt as _, net::UnixStream},
    },
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};
use tokio::time::timeout;

/// Module of the distribution `rusticai-k8s` that is the zygote.
const MODULE: &str = "rustic_ai.k8s.runtime.zygote";
/// Longest wait for the zygote's imports, proofs included.
const HELLO: Duration = Duration::from_secs(300);
/// Longest wait for a fork; one takes milliseconds.
const FORK: Duration = Duration::from_secs(5);
/// What a zygote may log.
const OUTPUT: OutputLimit = OutputLimit { bytes_per_second: 64 << 10, burst: 1 << 20 };

/// Where the zygotes of a profile come from.
pub struct ZygoteSpec {
    /// Profile, for log lines.
    pub profile: String,
    /// Interpreter, and their environment.
    pub interpreter: Arc<Interpreter>,
    /// What branches may reach; none: they are not confined, and fork no agent that is.
    pub grant: Option<Grant>,
    /// Where agents have their directories, and trials.
    pub directories: PathBuf,
    /// Starts them.
    pub spawner: Spawner,
    /// Adopts their children.
    pub orphans: Arc<Orphans>,
}

/// A zygote that was started and has not said hello.
pub(super) struct Newborn {
    child: Child,
    wire: Wire,
    filter: Option<&'static Filter>,
    output: Output,
}

/// A zygote that said hello.
pub(super) struct Live {
    child: Child,
    wire: Wire,
    /// The filter that it has taken on, which its children have from it.
    filter: Option<&'static Filter>,
    forks: u64,
    orphans: Arc<Orphans>,
    _output: Output,
}

/// A fork that was answered, or a zygote that is of no more use.
pub(super) enum ForkError {
    /// It said no, and goes on.
    Refused(ZygoteError),
    /// It must be replaced.
    Broken(String),
}

impl ZygoteSpec {
    /// Starts a base zygote: a fresh interpreter.
    pub(super) async fn start(&self) -> Result<Newborn, SpawnError> {
        let watch = SpawnError::Watch;
        let (ours, theirs) = UnixStream::pair().map_err(watch)?;
        let mut command = Command::new(&self.interpreter.python);
        // -P: the working directory is no place to import from.
        command.args(["-P", "-m", MODULE]).stdin(Stdio::from(OwnedFd::from(theirs)));
        command.env_clear().envs(&self.interpreter.environment);
        let started = self.spawner.spawn(command).await?;
        self.newborn(started, ours, None).map_err(watch)
    }

    /// What a branch takes on: it has imported code of agents, and forks some of them.
    async fn confinement(&self) -> anyhow::Result<Option<Confinement>> {
        let Some(grant) = &self.grant else { return Ok(None) };
        DirBuilder::new().mode(0o700).recursive(true).create(&self.directories)?;
        let environment = Some(self.interpreter.places().await?);
        let places = Places { own: &[&self.directories], environment, program: None };
        Ok(Some(Confinement::new(grant, places)?))
    }

    fn newborn(
        &self,
        started: Started,
        socket: UnixStream,
        filter: Option<&'static Filter>,
    ) -> std::io::Result<Newborn> {
        let Started { child, stdout, stderr } = started;
        let agent = format!("zygote of profile {}", self.profile);
        let source = Source { organization: String::new(), guild: String::new(), agent, epoch: 0, pid: child.pid() };
        let output = Output::read(stdout, stderr, &source, OUTPUT, &Tail::default())?;
        Ok(Newborn { child, wire: Wire::new(socket)?, filter, output })
    }

    /// Has a zygote fork another one.
    pub(super) async fn branch(&self, ancestor: &mut Live) -> Result<Newborn, ForkError> {
        let confinement = self.confinement().await.map_err(|error| {
            ForkError::Refused(ZygoteError::Refused(format!("a branch cannot be confined: {error:#}")))
        })?;
        let filter = confinement.as_ref().and_then(Confinement::filter);
        let broken = |e: std::io::Error| ForkError::Broken(e.to_string());
        let (ours, theirs) = UnixStream::pair().map_err(broken)?;
        let (stdout, their_stdout) = output_pipe().map_err(broken)?;
        let (stderr, their_stderr) = output_pipe().map_err(broken)?;
        let descriptors = Descriptors { control: theirs.into(), stdout: their_stdout, stderr: their_stderr };
        let child =
            ancestor.ask(|id, confinement| Request::Branch { id, confinement }, &descriptors, confinement).await?;
        self.newborn(Started { child, stdout, stderr }, ours, filter).map_err(broken)
    }
}

impl Newborn {
    /// Sends it what to import and waits until it has. Returns also what it reports of itself.
    pub(super) async fn hello(mut self, preload: &Preload, orphans: Arc<Orphans>) -> Result<(Live, Hello), String> {
        match timeout(HELLO, self.wire.ask(&Request::Preload(preload), None)).await {
            Ok(Ok(Reply::Hello(hello))) if hello.version == wire::VERSION => {
                let Self { child, wire, filter, output } = self;
                Ok((Live { child, wire, filter, forks: 0, orphans, _output: output }, *hello))
            }
            Ok(Ok(other)) => Err(format!("it said {other:?} instead of hello; install the same release of both")),
            Ok(Err(error)) => Err(format!("it ended before it was ready: {error}")),
            Err(_elapsed) => Err(format!("it was not ready within {HELLO:?}")),
        }
    }
}

impl Live {
    pub(super) fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Forks an agent. `learn`: it is to report what its class imports.
    pub(super) async fn fork(&mut self, request: ForkRequest, learn: bool) -> Result<Child, ForkError> {
        let ForkRequest { kind: _, title, directory, environment, descriptors, confinement } = &mut { request };
        let confinement = confinement.take();
        let fork = |id, confinement| Request::Fork { id, title, directory, environment, learn, confinement };
        self.ask(fork, descriptors, confinement).await
    }

    async fn ask<'a>(
        &mut self,
        request: impl FnOnce(u64, Option<Confines>) -> Request<'a>,
        descriptors: &Descriptors,
        confinement: Option<Confinement>,
    ) -> Result<Child, ForkError> {
        let (ruleset, filter) = confinement.map(Confinement::into_parts).unzip();
        let is_inherited = |filter: &&Filter| self.filter.is_some_and(|own| std::ptr::eq(own, *filter));
        let confines = filter
            .map(|filter| Confines { filter: filter.filter(|filter| !is_inherited(filter)).map(Filter::to_hex) });
        let attached = Attached { descriptors, ruleset: ruleset.flatten() };
        self.forks += 1;
        let (id, expected) = (self.forks, self.orphans.expect());
        match timeout(FORK, self.wire.ask(&request(id, confines), Some(attached))).await {
            Ok(Ok(Reply::Forked { id: answered, pid })) if answered == id => {
                expected.adopt(pid).map_err(|e| ForkError::Broken(format!("its child cannot be watched: {e}")))
            }
            Ok(Ok(Reply::Refused { id: answered, reason })) if answered == id => {
                Err(ForkError::Refused(ZygoteError::Refused(reason)))
            }
            Ok(Ok(Reply::Exhausted { id: answered, reason })) if answered == id => {
                Err(ForkError::Refused(ZygoteError::Exhausted(reason)))
            }
            Ok(Ok(other)) => Err(ForkError::Broken(format!("it answered a fork with {other:?}"))),
            Ok(Err(error)) => Err(ForkError::Broken(error.to_string())),
            Err(_elapsed) => Err(ForkError::Broken(format!("a fork took longer than {FORK:?}"))),
        }
    }

    /// Waits for its end. Returns how it ended. Cancel-safe.
    pub(super) async fn ended(&mut self) -> String {
        match self.child.ended().await {
            Ok(status) => format!("it ended with {status}"),
            Err(error) => format!("it cannot be watched: {error}"),
        }
    }

    pub(super) fn kill(&self) {
        self.child.signal(Signal::Kill);
    }
}
