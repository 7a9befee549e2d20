//! Starts processes, all from one thread.
//!
//! PDEATHSIG fires when the *thread* that forked ends, not the process. Worker threads of an async runtime may end;
//! this one lives as long as the program.

use super::{child::Child, mark::Mark, orphans::Orphans};
use crate::{confinement::Confinement, limits::Inherited};
use rustic_telemetry::tasks::Tasks;
use rustix::process::Pid;
use std::{
    fs::{self, File},
    io,
    os::{fd::OwnedFd, unix::process::CommandExt as _},
    process::{Command, Stdio},
    sync::{Arc, mpsc},
};
use tokio::sync::oneshot;

/// Why a process could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// Fork or exec failed.
    #[error("cannot execute {program:?}: {source}")]
    Exec {
        /// The program.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// The process runs but cannot be watched; it was killed.
    #[error("cannot watch the new process: {0}")]
    Watch(#[source] io::Error),
    /// The spawner thread is gone.
    #[error("the host is stopping")]
    Stopping,
}

/// A process that was just started.
pub struct Started {
    /// The process.
    pub child: Child,
    /// What it writes to standard output.
    pub stdout: OwnedFd,
    /// What it writes to standard error.
    pub stderr: OwnedFd,
}

struct SpawnOrder {
    command: Command,
    end: OnHostsEnd,
    agent: OfAgent,
    reply: oneshot::Sender<Result<(Child, Pipes), SpawnError>>,
}

/// What a process is given that belongs to an agent.
#[derive(Default)]
pub struct OfAgent {
    /// A mark that it hands down to whatever it starts.
    pub mark: Option<Mark>,
    /// What it takes on before it is executed.
    pub confinement: Option<Confinement>,
    /// The way into its control group.
    pub entry: Option<File>,
}

/// What becomes of a process when this host ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnHostsEnd {
    /// It is killed, and yields the processor to this host while both live.
    Dies,
    /// It lives on and knows itself when to end.
    Outlives,
}

/// Our ends of a process's standard output and error, where they were piped.
type Pipes = (Option<OwnedFd>, Option<OwnedFd>);

/// Handle to the spawner thread.
#[derive(Clone)]
pub struct Spawner {
    orders: mpsc::SyncSender<SpawnOrder>,
}

impl Spawner {
    /// Starts the thread. It ends with the last handle. What it starts yields the processor to this host by `nice`
    /// levels, and has the limits that this host was started with.
    pub fn start(orphans: Arc<Orphans>, nice: i32, limits: Inherited, tasks: &Tasks) -> io::Result<Self> {
        // As many orders as may ever wait: each belongs to one agent, and the caller awaits its reply.
        let (orders, queue) = mpsc::sync_channel::<SpawnOrder>(1024);
        tasks.spawn_thread("spawner", move || {
            for order in queue {
                // A caller that is gone drops the child, which kills it.
                let _ = order.reply.send(start(order.command, order.end, order.agent, &orphans, nice, limits));
            }
        })?;
        Ok(Self { orders })
    }

    /// Starts `command` as the leader of a new session, with its output piped to us.
    pub async fn spawn(&self, command: Command) -> Result<Started, SpawnError> {
        self.spawn_agent(command, OfAgent::default()).await
    }

    /// The same, for an agent.
    pub async fn spawn_agent(&self, mut command: Command, agent: OfAgent) -> Result<Started, SpawnError> {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let (child, pipes) = self.order(command, OnHostsEnd::Dies, agent).await?;
        match pipes {
            (Some(stdout), Some(stderr)) => Ok(Started { child, stdout, stderr }),
            // Dropping the child kills it.
            _ => Err(SpawnError::Watch(io::Error::other("its output is not piped"))),
        }
    }

    /// Starts `command` as the leader of a new session, with `stdout` as its output and no place for its errors.
    pub async fn spawn_with(
        &self,
        mut command: Command,
        stdout: Stdio,
        end: OnHostsEnd,
    ) -> Result<Child, SpawnError> {
        command.stdout(stdout).stderr(Stdio::null());
        self.order(command, end, OfAgent::default()).await.map(|(child, _)| child)
    }

    async fn order(&self, command: Command, end: OnHostsEnd, agent: OfAgent) -> Result<(Child, Pipes), SpawnError> {
        let (reply, answer) = oneshot::channel();
        self.orders.try_send(SpawnOrder { command, end, agent, reply }).map_err(|_| SpawnError::Stopping)?;
        answer.await.map_err(|_| SpawnError::Stopping)?
    }
}

fn start(
    mut command: Command,
    end: OnHostsEnd,
    agent: OfAgent,
    orphans: &Arc<Orphans>,
    nice: i32,
    limits: Inherited,
) -> Result<(Child, Pipes), SpawnError> {
    prepare(&mut command, end, agent, nice, limits);
    let program = command.get_program().to_string_lossy().into_owned();
    // Keeps the orphan reaper away until the new process is known to be ours.
    let expected = orphans.expect();
    let mut child = command.spawn().map_err(|source| SpawnError::Exec { program, source })?;
    if end == OnHostsEnd::Dies {
        yield_as_a_session(child.id(), nice);
    }
    let pipes = (child.stdout.take().map(Into::into), child.stderr.take().map(Into::into));
    let adopted = expected.adopt(child.id()).map_err(|error| {
        // Fails only when it has ended already.
        let _ = rustix::process::kill_process_group(Pid::from_child(&child), rustix::process::Signal::KILL);
        SpawnError::Watch(error)
    })?;
    Ok((adopted, pipes))
}

/// A pipe for the output of a process that somebody else starts for us: our end, and the child's.
pub fn output_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    Ok((reader.into(), writer.into()))
}

#[allow(unsafe_code, reason = "std marks pre_exec unsafe: its closure runs between fork and exec")]
fn prepare(command: &mut Command, end: OnHostsEnd, agent: OfAgent, nice: i32, limits: Inherited) {
    let host = rustix::process::getpid();
    let OfAgent { mark, mut confinement, entry } = agent;
    let before_exec = move || {
        // Only system calls here: async-signal-safe, no allocation, no lock.
        rustix::process::setsid()?;
        if end == OnHostsEnd::Outlives {
            return Ok(());
        }
        limits.give_back()?;
        rustix::process::nice(nice)?;
        if let Some(mark) = mark {
            mark.put_on_self()?;
        }
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        if rustix::process::getppid() != Some(host) {
            // The host died between fork and prctl; nobody will signal us any more.
            return Err(io::Error::from(rustix::io::Errno::SRCH));
        }
        if let Some(entry) = &entry {
            // Whoever writes this is meant.
            rustix::io::write(entry, b"0")?;
        }
        // The last thing: what comes before may be denied to an agent.
        confinement.take().map_or(Ok(()), Confinement::take_on)
    };
    // SAFETY: the closure calls nothing but the system calls above, on memory that was made before the fork.
    unsafe { command.pre_exec(before_exec) };
}

/// Applies the niceness to the new session of a process. Outside a container's cgroup Linux may schedule by sessions, each with a
/// niceness of its own (sched(7), "The autogroup feature"), and that of the process alone would count for nothing. Done from outside:
/// between fork and exec the process is this host to the kernel, which keeps its files in /proc from it.
fn yield_as_a_session(pid: u32, nice: i32) {
    // Fails where it is not in use, or changed too often by somebody who is not root: then all have equal shares.
    let _ = fs::write(format!("/proc/{pid}/autogroup"), nice.to_string());
}
