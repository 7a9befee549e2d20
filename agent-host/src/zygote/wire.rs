//! Messages between host and zygote: four bytes of length, big-endian, and a JSON object; descriptors ride along. The
//! other end, and the messages by example, are in `rustic_ai/k8s/runtime/zygote.py`.

use super::ForkRequest;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::{fd::AsFd as _, unix::net::UnixStream as StdUnixStream},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest},
    net::UnixStream,
};

/// Version of the messages.
pub(super) const VERSION: u32 = 1;
/// Longest reply.
const MAX_REPLY: usize = 4 << 20;

/// A module that could not be imported.
#[derive(Debug, Deserialize)]
pub(super) struct FailedPreload {
    pub(super) module: String,
    pub(super) error: String,
    pub(super) traceback: String,
}

/// What the zygote says.
#[derive(Debug, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Reply {
    Hello { version: u32, failed_preloads: Vec<FailedPreload> },
    Forked { id: u64, pid: u32 },
    Refused { id: u64, reason: String },
}

#[derive(Serialize)]
struct Fork<'a> {
    op: &'static str,
    id: u64,
    title: &'a str,
    environment: &'a BTreeMap<String, String>,
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

    /// Asks for a fork and waits for the answer. Not cancel-safe: after a cut the zygote must be replaced.
    pub(super) async fn fork(&mut self, id: u64, request: &ForkRequest) -> io::Result<Reply> {
        let ForkRequest { title, environment, .. } = request;
        let body = serde_json::to_vec(&Fork { op: "fork", id, title, environment })?;
        let length = u32::try_from(body.len()).map_err(io::Error::other)?.to_be_bytes();
        self.send_with_descriptors(&length, request).await?;
        self.socket.write_all(&body).await?;
        self.receive().await
    }

    /// The length goes first and carries the descriptors; it is small enough to go as a whole.
    async fn send_with_descriptors(&self, length: &[u8; 4], request: &ForkRequest) -> io::Result<()> {
        let descriptors = [request.control.as_fd(), request.stdout.as_fd(), request.stderr.as_fd()];
        let sent = self
            .socket
            .async_io(Interest::WRITABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
                let mut ancillary = SendAncillaryBuffer::new(&mut space);
                ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
                let data = [IoSlice::new(length)];
                Ok(sendmsg(&self.socket, &data, &mut ancillary, SendFlags::NOSIGNAL)?)
            })
            .await?;
        if sent == length.len() { Ok(()) } else { Err(io::Error::other("the socket took half a length")) }
    }

    /// The next message.
    pub(super) async fn receive(&mut self) -> io::Result<Reply> {
        let length = self.socket.read_u32().await? as usize;
        if length > MAX_REPLY {
            return Err(io::Error::other(format!("a reply of {length} bytes is longer than {MAX_REPLY}")));
        }
        let mut body = vec![0; length];
        self.socket.read_exact(&mut body).await?;
        Ok(serde_json::from_slice(&body)?)
    }
}
