//! A line between two of our processes: whole messages in order, a descriptor with one of them if need be
//! (socketpair(2) of type SOCK_SEQPACKET, cmsg(3)).

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg, socketpair,
};

/// One end of the line. Never blocks.
#[derive(Debug)]
pub struct Channel(OwnedFd);

/// What a look into the line brought.
#[derive(Debug)]
pub enum Received {
    /// A message of so many bytes, and the descriptor that came with it.
    Message(usize, Option<OwnedFd>),
    /// Nothing there now.
    Nothing,
    /// The other end is closed for good.
    Closed,
}

impl Channel {
    /// The two ends of a new line.
    pub fn pair() -> io::Result<(Channel, Channel)> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (a, b) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        Ok((Channel(a), Channel(b)))
    }

    /// Sends a whole message or nothing.
    ///
    /// Errors: `WouldBlock` when the other end does not read, `BrokenPipe` when it is gone.
    pub fn send(&self, message: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let raw: Vec<RawFd> = descriptor.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control = if raw.is_empty() { &[][..] } else { &rights[..] };
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        sendmsg::<()>(self.0.as_raw_fd(), &[IoSlice::new(message)], control, flags, None)?;
        Ok(())
    }

    /// Takes the next message. What does not fit into `buffer` is lost, so offer room for the largest.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        let mut space = nix::cmsg_space!([RawFd; 1]);
        let mut slices = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let message = match recvmsg::<()>(self.0.as_raw_fd(), &mut slices, Some(&mut space), flags) {
            Ok(message) => message,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(Received::Nothing),
            Err(Errno::ECONNRESET) => return Ok(Received::Closed),
            Err(errno) => return Err(errno.into()),
        };
        let mut descriptor = None;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(descriptors) = control {
                for raw in descriptors {
                    // SAFETY: the kernel has just made this descriptor for us (SCM_RIGHTS, unix(7)); nobody else in
                    // the process knows its number. A second one would replace, and so close, the first.
                    descriptor = Some(unsafe { OwnedFd::from_raw_fd(raw) });
                }
            }
        }
        // Our messages are never empty: zero bytes are the end of the line.
        Ok(if message.bytes == 0 { Received::Closed } else { Received::Message(message.bytes, descriptor) })
    }
}

impl From<OwnedFd> for Channel {
    /// An end that another process made ([`Channel::pair`]) and passed on.
    fn from(descriptor: OwnedFd) -> Channel {
        Channel(descriptor)
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
    fn messages_keep_their_borders_and_descriptors_arrive() {
        let (a, b) = Channel::pair().unwrap();
        let (read, _write) = nix::unistd::pipe().unwrap();
        a.send(b"one", None).unwrap();
        a.send(b"two!", Some(read.as_fd())).unwrap();
        let mut buffer = [0; 16];
        assert!(matches!(b.receive(&mut buffer).unwrap(), Received::Message(3, None)));
        assert!(matches!(b.receive(&mut buffer).unwrap(), Received::Message(4, Some(_))));
        assert!(matches!(b.receive(&mut buffer).unwrap(), Received::Nothing));
        drop(a);
        assert!(matches!(b.receive(&mut buffer).unwrap(), Received::Closed));
    }
}
