//! This end of the messages between host and zygote. What they mean is documented in
//! `python/src/rustic_ai/k8s/runtime/wire.py`: four bytes of length, big-endian, and a JSON object; descriptors ride on
//! the length.

use super::{Descriptors, Share, closure::Unit};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixStream as StdUnixStream,
    },
    path::{Path, PathBuf},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest},
    net::UnixStream,
};

/// Version of the messages.
pub(super) const VERSION: u32 = 6;
/// Longest reply.
const MAX_REPLY: usize = 16 << 20;

/// A module that could not be imported.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct FailedPreload {
    pub(super) module: String,
    pub(super) error: String,
    pub(super) traceback: String,
}

/// What a zygote reports once it has imported what may be shared.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Hello {
    pub(super) version: u32,
    /// Units that it has imported.
    pub(super) shared: Vec<String>,
    /// Modules that its children find loaded, beyond those of its ancestor.
    pub(super) modules: Vec<String>,
    /// Units that it has not, and why.
    pub(super) refused: BTreeMap<String, String>,
    /// Units that it has not for a reason that may pass, or holds for this class only.
    pub(super) postponed: BTreeMap<String, String>,
    /// What the modules came from.
    pub(super) files: Vec<PathBuf>,
    /// Variables of the environment that they asked for.
    pub(super) reads: BTreeSet<String>,
    /// Memory of its own that it uses, in bytes.
    pub(super) private: u64,
    /// Processor time that it and its children have spent, in seconds.
    pub(super) spent: f64,
    pub(super) failed_preloads: Vec<FailedPreload>,
    /// Why it will refuse to fork; empty: it will not.
    pub(super) obstacle: String,
    /// The module that is to blame.
    pub(super) culprit: String,
}

/// What the zygote says.
#[derive(Debug, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Reply {
    Hello(Box<Hello>),
    Forked { id: u64, pid: u32 },
    Refused { id: u64, reason: String },
    Exhausted { id: u64, reason: String },
}

/// What may be preloaded.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Preload {
    pub(super) version: u32,
    pub(super) units: Vec<Unit>,
    /// Module of the class; empty: an operator names the units.
    pub(super) own: String,
    pub(super) share: Share,
    pub(super) proven: Vec<String>,
    pub(super) refused: Vec<String>,
    pub(super) vouched: Vec<String>,
    pub(super) memory: u64,
    /// Variables of which every agent has a value of its own.
    pub(super) varying: &'static [&'static str],
    /// Where trials are made.
    pub(super) directory: PathBuf,
}

/// What the host asks for.
#[derive(Serialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(super) enum Request<'a> {
    Preload(&'a Preload),
    Fork {
        id: u64,
        title: &'a str,
        directory: &'a Path,
        environment: &'a BTreeMap<String, String>,
        learn: bool,
        confinement: Option<Confines>,
    },
    Branch {
        id: u64,
        confinement: Option<Confines>,
    },
}

/// What a process takes on that is confined. Its ruleset is the fourth descriptor, if the kernel has any.
#[derive(Serialize)]
pub(super) struct Confines {
    /// Its filter in hexadecimal digits, unless it has that from the zygote.
    pub(super) filter: Option<String>,
}

/// What goes with a request.
pub(super) struct Attached<'a> {
    pub(super) descriptors: &'a Descriptors,
    pub(super) ruleset: Option<OwnedFd>,
}

/// The socket to a zygote.
pub(super) struct Wire {
    socket: UnixStream,
}

impl Wire {
    pub(super) fn new(socket: StdUnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { socket: UnixStream::from_std(socket)? })
    }

    /// Sends a request and waits for the answer. Not cancel-safe: after a cut the zygote must be replaced.
    pub(super) async fn ask(&mut self, request: &Request<'_>, attached: Option<Attached<'_>>) -> io::Result<Reply> {
        let body = serde_json::to_vec(request)?;
        let length = u32::try_from(body.len()).map_err(io::Error::other)?.to_be_bytes();
        match attached {
            Some(attached) => self.send_with_descriptors(&length, &attached).await?,
            None => self.socket.write_all(&length).await?,
        }
        self.socket.write_all(&body).await?;
        self.receive().await
    }

    /// The length goes first and carries the descriptors; it is small enough to go as a whole.
    async fn send_with_descriptors(&self, length: &[u8; 4], attached: &Attached<'_>) -> io::Result<()> {
        let Attached { descriptors: Descriptors { control, stdout, stderr }, ruleset } = attached;
        let usual = [control.as_fd(), stdout.as_fd(), stderr.as_fd()];
        let descriptors: Vec<_> = usual.into_iter().chain(ruleset.as_ref().map(|one| one.as_fd())).collect();
        let sent = self
            .socket
            .async_io(Interest::WRITABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
                let mut ancillary = SendAncillaryBuffer::new(&mut space);
                ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
                let data = [IoSlice::new(length)];
                Ok(sendmsg(&self.socket, &data, &mut ancillary, SendFlags::NOSIGNAL)?)
            })
            .await?;
        if sent == length.len() { Ok(()) } else { Err(io::Error::other("the socket took half a length")) }
    }

    async fn receive(&mut self) -> io::Result<Reply> {
        let length = self.socket.read_u32().await? as usize;
        if length > MAX_REPLY {
            return Err(io::Error::other(format!("a reply of {length} bytes is longer than {MAX_REPLY}")));
        }
        let mut body = vec![0; length];
        self.socket.read_exact(&mut body).await?;
        Ok(serde_json::from_slice(&body)?)
    }
}
