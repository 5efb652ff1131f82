//! Tells when a listening socket stops listening. Every worker shares its own with the guardian, and one that was taken over
//! can do that to it.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, RawFd};

use mio::unix::SourceFd;
use mio::{Interest, Poll, Token};

/// An epoll(7) descriptor of its own, which has an event when a socket in it has one. When it is closed it forgets all of
/// them, although other processes have them open.
#[derive(Debug)]
pub(crate) struct ListenerWatch {
    poll: Poll,
}

impl ListenerWatch {
    /// Watches these sockets. New connections are no event: a listening socket can never be written to. One that does not
    /// listen any more hangs up (`tcp_poll`, net/ipv4/tcp.c).
    pub(crate) fn new<'a>(listeners: impl Iterator<Item = &'a TcpListener>) -> io::Result<ListenerWatch> {
        let poll = Poll::new()?;
        for listener in listeners {
            poll.registry().register(&mut SourceFd(&listener.as_raw_fd()), Token(0), Interest::WRITABLE)?;
        }
        Ok(ListenerWatch { poll })
    }
}

impl AsRawFd for ListenerWatch {
    fn as_raw_fd(&self) -> RawFd {
        self.poll.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::sockopt::{self, PortSharing};
    use mio::Events;
    use std::net::{SocketAddr, TcpStream};
    use std::time::Duration;

    #[test]
    fn a_listener_that_is_disconnected_is_an_event_and_a_new_connection_is_none() {
        let listener = sockopt::listener(SocketAddr::from(([127, 0, 0, 1], 0)), PortSharing::Exclusive).unwrap();
        let address = listener.local_addr().unwrap();
        let mut watch = ListenerWatch::new([&listener].into_iter()).unwrap();
        let mut has_event = || {
            let mut events = Events::with_capacity(4);
            watch.poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
            !events.is_empty()
        };
        let _client = TcpStream::connect(address).unwrap();
        assert!(!has_event());
        sockopt::disconnect(&listener).unwrap();
        assert!(has_event());
        assert!(!sockopt::listens(&listener).unwrap() && TcpStream::connect(address).is_err());
        let next = sockopt::listener_instead_of(&listener, address).unwrap();
        assert_eq!(next.local_addr().unwrap(), address);
        TcpStream::connect(address).unwrap();
    }
}
