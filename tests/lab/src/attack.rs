//! Clients that mean harm, and one that does not and is watched meanwhile.

use crate::AtEnd;
use crate::clients::{self, IO_PATIENCE};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, bind, connect, send, setsockopt, socket, sockopt,
};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A socket bound to an address of this host.
fn bound(source: IpAddr, flags: SockFlag) -> io::Result<OwnedFd> {
    let family = if source.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC | flags, None)?;
    // So many connections to one destination need one port each, which connect(2) can choose better than bind(2).
    setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(source, 0)))?;
    Ok(socket)
}

/// Connects from this address of this host.
pub fn connect_from(source: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = bound(source, SockFlag::empty())?;
    connect(socket.as_raw_fd(), &SockaddrStorage::from(to))?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(IO_PATIENCE))?;
    stream.set_write_timeout(Some(IO_PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Begins to connect from this address of this host, and waits for nothing, now or later.
pub fn begin_from(source: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = bound(source, SockFlag::SOCK_NONBLOCK)?;
    match connect(socket.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(TcpStream::from(socket)),
        Err(errno) => Err(errno.into()),
    }
}

/// Sends a byte as urgent data.
pub fn send_urgent(stream: &TcpStream) -> io::Result<()> {
    send(stream.as_raw_fd(), b"!", MsgFlags::MSG_OOB)?;
    Ok(())
}

/// How long the round trips of a connection took.
#[derive(Debug, Default)]
pub struct Trips {
    all: Vec<Duration>,
}

impl Trips {
    /// How many there were.
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// The time that 99 of 100 do not exceed.
    pub fn p99(&self) -> Duration {
        let mut sorted = self.all.clone();
        sorted.sort_unstable();
        sorted[(sorted.len() * 99).div_ceil(100) - 1]
    }

    /// The longest one.
    pub fn longest(&self) -> Duration {
        self.all.iter().copied().max().unwrap_or_default()
    }
}

/// A connection on which somebody says 200 bytes every few milliseconds and waits for the answer.
pub struct Innocent {
    stream: TcpStream,
}

impl Innocent {
    /// To an echo server.
    pub fn new(stream: TcpStream) -> Innocent {
        Innocent { stream }
    }

    /// Talks for this long.
    pub fn talk_for(&mut self, span: Duration) -> Trips {
        let end = Instant::now() + span;
        self.talk_while(|| Instant::now() < end)
    }

    /// Talks while `work` is done; gives what came of either.
    pub fn talk_during<T>(&mut self, work: impl FnOnce() -> T) -> (Trips, T) {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let talking = scope.spawn(|| self.talk_while(|| !over.load(Ordering::Relaxed)));
            let end = AtEnd(&over);
            let done = work();
            drop(end);
            let trips = talking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (trips, done)
        })
    }

    fn talk_while(&mut self, go_on: impl Fn() -> bool) -> Trips {
        let mut trips = Trips::default();
        while go_on() {
            let begin = Instant::now();
            clients::round_trip(&mut self.stream, &[7; 200]).expect("the innocent connection is served");
            trips.all.push(begin.elapsed());
            // The rhythm of the client.
            std::thread::sleep(Duration::from_millis(3));
        }
        trips
    }
}
