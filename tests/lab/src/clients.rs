//! Clients: connecting, asking, and ending a connection in every way that there is.

use crate::wait;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrStorage, bind, setsockopt, socket, sockopt,
};
use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

/// How long a read or a write of a test may block: longer than any delay that a test provokes on purpose.
pub const IO_PATIENCE: Duration = Duration::from_secs(20);

/// Connects, with timeouts so that no test hangs, and with TCP_NODELAY so that each write is a segment.
pub fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, IO_PATIENCE)?;
    stream.set_read_timeout(Some(IO_PATIENCE))?;
    stream.set_write_timeout(Some(IO_PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Connects from this port, over IPv4.
pub fn connect_from_port(port: u16, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    bind(socket.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, port))?;
    nix::sys::socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(to))?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(IO_PATIENCE))?;
    Ok(stream)
}

/// Connects to something that resets connections, again and again until one is reset only after connect(2).
pub fn connect_before_reset(to: SocketAddr) -> TcpStream {
    wait::until("a connection that outlives its beginning", || match connect(to) {
        Ok(stream) => Some(stream),
        Err(error) => {
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
            None
        }
    })
}

/// Asks a page server and gives the page.
pub fn fetch(to: SocketAddr) -> io::Result<String> {
    ask(connect(to)?)
}

/// Asks for a page over a connection.
pub fn ask(mut stream: TcpStream) -> io::Result<String> {
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    match text.split_once("\r\n\r\n") {
        Some((_, page)) => Ok(page.to_string()),
        None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("not a page: {text:?}"))),
    }
}

/// Ends a connection with RST instead of FIN.
pub fn reset(stream: TcpStream) {
    reset_at_close(&stream);
    drop(stream);
}

/// The connection ends with RST when it is closed.
pub fn reset_at_close(stream: &TcpStream) {
    setsockopt(stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).expect("SO_LINGER");
}

/// One message to an echo server and back.
pub fn round_trip(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    stream.write_all(message)?;
    let mut back = vec![0; message.len()];
    stream.read_exact(&mut back)?;
    assert_eq!(back, message, "the echo differs");
    Ok(())
}

/// Reads to the end: what came, and the error if the end was not a proper one.
pub fn read_all(stream: &mut TcpStream) -> (Vec<u8>, Option<io::ErrorKind>) {
    let mut all = Vec::new();
    let mut buffer = [0; 65536];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return (all, None),
            Ok(count) => all.extend_from_slice(&buffer[..count]),
            // A read with a timeout is interrupted when the process is stopped and continued (signal(7)).
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (all, Some(error.kind())),
        }
    }
}

/// Asserts that the connection ends with RST and without a byte.
pub fn expect_reset(stream: &mut TcpStream) {
    let (got, error) = read_all(stream);
    assert_eq!((got.len(), error), (0, Some(io::ErrorKind::ConnectionReset)), "wanted nothing but a reset");
}

/// Asserts that a connection is reset, at the latest when it is read. A reset that is quick enough shows in connect(2)
/// already, and then the client's address is not known.
pub fn expect_connect_reset(connected: io::Result<TcpStream>) -> Option<SocketAddr> {
    match connected {
        Ok(mut stream) => {
            let address = stream.local_addr().ok();
            expect_reset(&mut stream);
            address
        }
        Err(error) => {
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
            None
        }
    }
}

/// Waits until the kernel at the other end has all that was written here (its own process may not have).
///
/// The figure is the transmit queue in `/proc/net/tcp`, which holds bytes that were not acknowledged yet.
pub fn wait_acknowledged(stream: &TcpStream) {
    let local = stream.local_addr().expect("address");
    let peer = stream.peer_addr().expect("peer");
    wait::until_true("all bytes are acknowledged", || transmit_queue(local, peer) == Some(0));
}

fn transmit_queue(local: SocketAddr, peer: SocketAddr) -> Option<u64> {
    let table = fs::read_to_string("/proc/thread-self/net/tcp").ok()?;
    let (local, peer) = (kernel_notation(local), kernel_notation(peer));
    let line = table.lines().find(|line| line.contains(&format!(" {local} {peer} ")))?;
    let queues = line.split_whitespace().nth(4)?;
    u64::from_str_radix(queues.split(':').next()?, 16).ok()
}

/// An IPv4 address and port as `/proc/net/tcp` writes it.
fn kernel_notation(address: SocketAddr) -> String {
    let IpAddr::V4(ip) = address.ip() else { panic!("IPv4 only") };
    format!("{:08X}:{:04X}", u32::from_le_bytes(ip.octets()), address.port())
}
