//! What a host sends its watchdog: one packet each, with a descriptor where one is needed. Both ends are this program.

use super::{BootTime, Outlives};
use rustix::{
    fd::OwnedFd,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
    },
};
use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::AsFd,
    time::Duration,
};

/// One packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// Watch this process, under this number; its pidfd comes along.
    Watch { number: u64, pid: u32, outlives: Outlives },
    /// The process of this number was reaped.
    Forget { number: u64 },
    /// When those that must not outlive the lease are killed.
    Deadline(BootTime),
    /// The watchdog's answer to a deadline.
    Heard,
}

/// Length of a packet: a letter, a number, and the id of a process or 0.
const LENGTH: usize = 13;

/// A connected pair of packet sockets. Sending to a full one is an error: a watchdog that does not read is of no use.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    Ok((ours, theirs))
}

impl Message {
    fn encode(&self) -> [u8; LENGTH] {
        let (letter, number, pid) = match self {
            Self::Watch { number, pid, outlives: Outlives::Nothing } => (b'w', *number, *pid),
            Self::Watch { number, pid, outlives: Outlives::Lease } => (b'k', *number, *pid),
            Self::Forget { number } => (b'f', *number, 0),
            Self::Deadline(BootTime(at)) => (b'd', u64::try_from(at.as_nanos()).unwrap_or(u64::MAX), 0),
            Self::Heard => (b'h', 0, 0),
        };
        let mut packet = [letter; LENGTH];
        packet[1..9].copy_from_slice(&number.to_be_bytes());
        packet[9..].copy_from_slice(&pid.to_be_bytes());
        packet
    }

    fn decode(packet: &[u8]) -> Option<Self> {
        let (letter, rest) = packet.split_first()?;
        let (number, pid) = rest.split_at_checked(8)?;
        let (number, pid) = (u64::from_be_bytes(number.try_into().ok()?), u32::from_be_bytes(pid.try_into().ok()?));
        Some(match letter {
            b'w' => Self::Watch { number, pid, outlives: Outlives::Nothing },
            b'k' => Self::Watch { number, pid, outlives: Outlives::Lease },
            b'f' => Self::Forget { number },
            b'd' => Self::Deadline(BootTime(Duration::from_nanos(number))),
            b'h' => Self::Heard,
            _ => return None,
        })
    }

    /// Sends the packet as a whole.
    pub(super) fn send(&self, socket: impl AsFd, descriptor: Option<&OwnedFd>) -> io::Result<()> {
        let packet = self.encode();
        let descriptors = descriptor.map(|d| [d.as_fd()]);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if let Some(descriptors) = &descriptors {
            ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        sendmsg(socket, &[IoSlice::new(&packet)], &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// The next packet and its descriptor; `None` when the other end is closed. A descriptor for which there is no room, here or
    /// in the whole system, does not arrive: the packet comes without it. Errors: `WouldBlock` when there is none.
    pub(super) fn receive(socket: impl AsFd) -> io::Result<Option<(Self, Option<OwnedFd>)>> {
        let mut packet = [0; LENGTH];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut data = [IoSliceMut::new(&mut packet)];
        let received = recvmsg(socket, &mut data, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
        if received.bytes == 0 {
            return Ok(None);
        }
        let mut descriptors = ancillary.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(rights) => Some(rights),
            _ => None,
        });
        let descriptor = descriptors.next().and_then(|mut rights| rights.next());
        let message = Self::decode(&packet[..received.bytes]);
        message.map(|message| Some((message, descriptor))).ok_or_else(|| io::Error::other("no message of ours"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_come_out_as_they_went_in_and_a_closed_end_is_seen() {
        let (ours, theirs) = pair().expect("a pair");
        let messages = [
            Message::Watch { number: 1 << 40, pid: 7, outlives: Outlives::Nothing },
            Message::Watch { number: 2, pid: u32::MAX, outlives: Outlives::Lease },
            Message::Forget { number: 1 << 40 },
            Message::Deadline(BootTime(Duration::from_nanos(123_456_789_012))),
            Message::Heard,
        ];
        let descriptor: OwnedFd = std::fs::File::open("/dev/null").expect("it is there").into();
        for message in &messages {
            message
                .send(&ours, Some(&descriptor).filter(|_| matches!(message, Message::Watch { .. })))
                .expect("sent");
        }
        for message in messages {
            let (received, descriptor) = Message::receive(&theirs).expect("one more").expect("not closed");
            assert_eq!(descriptor.is_some(), matches!(message, Message::Watch { .. }));
            assert_eq!(received, message);
        }
        let empty = Message::receive(&theirs).expect_err("nothing left");
        assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
        drop(ours);
        assert!(Message::receive(&theirs).expect("closed").is_none());
    }
}
