//! A channel between two of our processes: whole messages in order, each with a descriptor if need be (socketpair(2) of
//! type SOCK_SEQPACKET, cmsg(3)).

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recv, recvmsg, send, sendmsg,
    socketpair,
};

/// The most descriptors that come with one message (`SCM_MAX_FD`, net/scm.h).
pub(crate) const DESCRIPTORS: usize = 253;

/// One end of a channel. Never blocks.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

/// The result of a read.
#[derive(Debug)]
pub(crate) enum Received {
    /// A message with its length in bytes; 0 if it was too long to be one of ours.
    Message(usize),
    /// No message is there now.
    Nothing,
    /// The other end is closed.
    Closed,
}

impl Channel {
    /// The two ends of a new channel.
    pub(crate) fn pair() -> io::Result<(Channel, Channel)> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (a, b) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        Ok((Channel(a), Channel(b)))
    }

    /// Sends a whole message, or nothing.
    ///
    /// Errors: `WouldBlock` if the other end does not read, `BrokenPipe` if it is closed.
    pub(crate) fn send(&self, message: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        match descriptor {
            Some(descriptor) => {
                let rights = [descriptor.as_raw_fd()];
                let rights = [ControlMessage::ScmRights(&rights)];
                sendmsg::<()>(self.0.as_raw_fd(), &[IoSlice::new(message)], &rights, flags, None)?;
            }
            // Confined processes have no sendmsg(2).
            None => drop(send(self.0.as_raw_fd(), message, flags)?),
        }
        Ok(())
    }

    /// Sends a whole message with these descriptors, at most [`DESCRIPTORS`]. Errors as for [`Channel::send`].
    pub(crate) fn send_with(&self, message: &[u8], descriptors: &[OwnedFd]) -> io::Result<()> {
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        let rights: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&rights)];
        sendmsg::<()>(self.0.as_raw_fd(), &[IoSlice::new(message)], &rights, flags, None)?;
        Ok(())
    }

    /// Takes the next message. Descriptors that come with it are never accepted.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        // MSG_TRUNC returns the whole length, even of a message that did not fit.
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
        received(recv(self.0.as_raw_fd(), buffer, flags), buffer.len())
    }

    /// Takes the next message with its descriptors, from an end that is trusted.
    pub(crate) fn receive_with_descriptors(&self, buffer: &mut [u8]) -> io::Result<(Received, Vec<OwnedFd>)> {
        let mut space = nix::cmsg_space!([RawFd; DESCRIPTORS]);
        let room = buffer.len();
        let mut slices = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_TRUNC;
        let message = match recvmsg::<()>(self.0.as_raw_fd(), &mut slices, Some(&mut space), flags) {
            Ok(message) => message,
            Err(errno) => return Ok((received(Err(errno), room)?, Vec::new())),
        };
        let mut all = Vec::new();
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(descriptors) = control {
                // SAFETY: the kernel has just made these descriptors for us (SCM_RIGHTS, unix(7)); nothing else in the
                // process knows their numbers.
                all.extend(descriptors.into_iter().map(|raw| unsafe { OwnedFd::from_raw_fd(raw) }));
            }
        }
        Ok((received(Ok(message.bytes), room)?, all))
    }
}

fn received(result: nix::Result<usize>, room: usize) -> io::Result<Received> {
    match result {
        // Our messages are never empty: zero bytes mean that the other end is closed.
        Ok(0) | Err(Errno::ECONNRESET) => Ok(Received::Closed),
        Ok(count) if count > room => Ok(Received::Message(0)),
        Ok(count) => Ok(Received::Message(count)),
        Err(Errno::EAGAIN | Errno::EINTR) => Ok(Received::Nothing),
        Err(errno) => Err(errno.into()),
    }
}

impl From<OwnedFd> for Channel {
    /// An end that another process has made with [`Channel::pair`] and passed on.
    fn from(descriptor: OwnedFd) -> Channel {
        Channel(descriptor)
    }
}

impl From<Channel> for OwnedFd {
    /// An end to pass on.
    fn from(channel: Channel) -> OwnedFd {
        channel.0
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_keep_their_boundaries_and_descriptors_arrive() {
        let (a, b) = Channel::pair().unwrap();
        let (read, _write) = nix::unistd::pipe().unwrap();
        a.send(b"one", None).unwrap();
        a.send(b"two!", Some(read.as_fd())).unwrap();
        let mut buffer = [0; 16];
        let copies: Vec<OwnedFd> = (0..DESCRIPTORS).map(|_| read.try_clone().unwrap()).collect();
        a.send_with(b"many", &copies).unwrap();
        let mut counts = Vec::new();
        for wanted in [3, 4, 4] {
            let (received, descriptors) = b.receive_with_descriptors(&mut buffer).unwrap();
            assert!(matches!(received, Received::Message(count) if count == wanted));
            counts.push(descriptors.len());
        }
        assert_eq!(counts, [0, 1, DESCRIPTORS]);
        assert!(matches!(b.receive_with_descriptors(&mut buffer).unwrap().0, Received::Nothing));
        drop(a);
        assert!(matches!(b.receive_with_descriptors(&mut buffer).unwrap().0, Received::Closed));
    }

    #[test]
    fn a_message_that_is_too_long_is_none_and_unwanted_descriptors_are_closed() {
        let (a, b) = Channel::pair().unwrap();
        let (read, write) = nix::unistd::pipe().unwrap();
        let mut buffer = [0; 16];
        for (length, counted) in [(16, 16), (17, 0), (60_000, 0)] {
            a.send(&vec![7; length], None).unwrap();
            assert!(matches!(b.receive(&mut buffer).unwrap(), Received::Message(count) if count == counted));
            a.send(&vec![7; length], None).unwrap();
            let (received, _) = b.receive_with_descriptors(&mut buffer).unwrap();
            assert!(matches!(received, Received::Message(count) if count == counted));
        }
        let all = [read.as_raw_fd(); 3];
        let rights = [ControlMessage::ScmRights(&all)];
        sendmsg::<()>(a.as_raw_fd(), &[IoSlice::new(b"four")], &rights, MsgFlags::empty(), None).unwrap();
        assert!(matches!(b.receive(&mut buffer).unwrap(), Received::Message(4)));
        drop(read);
        // No process has the reading end any more, not even this one under another number.
        assert_eq!(nix::unistd::write(&write, b"x"), Err(Errno::EPIPE));
    }
}
