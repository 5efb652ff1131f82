//! What is said before the payload: by clients whom a balancer introduces, and by a proxy that the test plays.

use crate::clients::IO_PATIENCE;
use crate::daemon::LoopbackRelay;
use crate::journal::ConnectionLine;
use crate::servers::Server;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::Receiver;
use std::time::Duration;

/// Where the clients say that they were going. Nobody is there.
pub const ORIGINAL: &str = "192.0.2.7:443";

/// The beginning of a command line behind a balancer on this host.
const BEHIND_A_BALANCER: &str = "-a 127.0.0.1 --accept-proxy";

/// tproxy behind a balancer, without which a connection that was not redirected has no original destination.
pub fn behind_a_balancer(options: &str, upstream: SocketAddr) -> LoopbackRelay {
    LoopbackRelay::start(&format!("{BEHIND_A_BALANCER} {options}"), upstream)
}

/// The header of version 1 for a client's connection to `original`, both IPv4.
pub fn header(client: SocketAddr, original: SocketAddr) -> Vec<u8> {
    let (from, to) = (client.ip(), original.ip());
    format!("PROXY TCP4 {from} {to} {} {}\r\n", client.port(), original.port()).into_bytes()
}

/// The same in version 2.
pub fn block(client: SocketAddr, original: SocketAddr) -> Vec<u8> {
    let (SocketAddr::V4(from), SocketAddr::V4(to)) = (client, original) else { panic!("IPv4 only") };
    let ips = [from.ip().octets(), to.ip().octets()].concat();
    let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", &ips[..], &ports[..]].concat()
}

/// A client that says nothing yet, and the header that introduces it by its own address.
pub fn stranger(relay: &LoopbackRelay, original: SocketAddr) -> (TcpStream, Vec<u8>) {
    let client = relay.connect();
    let introduction = header(client.local_addr().expect("address"), original);
    (client, introduction)
}

/// A client that was introduced as one that was going to `original`.
pub fn introduced(relay: &LoopbackRelay, original: SocketAddr) -> TcpStream {
    let (mut client, introduction) = stranger(relay, original);
    client.write_all(&introduction).expect("header");
    client
}

/// The line of a connection in the log.
pub fn line_of(relay: &LoopbackRelay, client: &TcpStream) -> ConnectionLine {
    relay.daemon.journal.wait_connection_of(client.local_addr().expect("address"))
}

/// tproxy between clients that were introduced and a proxy that the test plays.
pub struct Stage {
    /// The relay.
    pub relay: LoopbackRelay,
    proxies: Receiver<TcpStream>,
    _server: Server,
}

impl Stage {
    /// With blank-separated options.
    pub fn new(options: &str) -> Stage {
        let (server, proxies) = Server::handing_over("127.0.0.1:0");
        Stage { relay: behind_a_balancer(options, server.address), proxies, _server: server }
    }

    /// A client that was introduced.
    pub fn client(&self) -> TcpStream {
        introduced(&self.relay, original())
    }

    /// The next connection as the proxy sees it.
    pub fn proxy(&self) -> TcpStream {
        self.proxies.recv_timeout(IO_PATIENCE).expect("a connection to the proxy")
    }

    /// Whether no connection comes to the proxy in this time.
    pub fn asks_nothing_for(&self, time: Duration) -> bool {
        self.proxies.recv_timeout(time).is_err()
    }

    /// A client and its connection to the proxy.
    pub fn pair(&self) -> (TcpStream, TcpStream) {
        (self.client(), self.proxy())
    }

    /// The line of a client's connection in the log.
    pub fn line(&self, client: &TcpStream) -> ConnectionLine {
        line_of(&self.relay, client)
    }
}

/// [`ORIGINAL`] as an address.
pub fn original() -> SocketAddr {
    ORIGINAL.parse().expect("address")
}

/// Reads a head to its empty line, and nothing beyond it.
pub fn hear_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap_or_else(|error| panic!("a head, but {error} after {head:?}"));
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("a head of text")
}

/// What a proxy that connects clients through can speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tongue {
    /// HTTP CONNECT.
    Connect,
    /// SOCKS 5.
    Socks5,
}

impl Tongue {
    /// All there are.
    pub const BOTH: [Tongue; 2] = [Tongue::Connect, Tongue::Socks5];

    /// The option that makes tproxy speak it.
    pub fn option(self) -> &'static str {
        match self {
            Tongue::Connect => "--via connect",
            Tongue::Socks5 => "--via socks5",
        }
    }

    /// Plays the proxy up to its last answer, and gives what it was asked for: an address or name, and a port.
    pub fn hear_request(self, proxy: &mut TcpStream) -> String {
        match self {
            Tongue::Connect => {
                let head = hear_head(proxy);
                head.split(' ').nth(1).expect("a target").to_string()
            }
            Tongue::Socks5 => {
                let mut greeting = [0; 3];
                proxy.read_exact(&mut greeting).expect("greeting");
                assert_eq!(greeting, [5, 1, 0]);
                [5, 0].iter().for_each(|byte| proxy.write_all(&[*byte]).expect("method"));
                let mut request = [0; 10];
                proxy.read_exact(&mut request).expect("request");
                let [5, 1, 0, 1, a, b, c, d, high, low] = request else { panic!("not for an address: {request:?}") };
                SocketAddr::from(([a, b, c, d], u16::from_be_bytes([high, low]))).to_string()
            }
        }
    }

    /// The answer with which payload begins.
    pub fn consent(self) -> &'static [u8] {
        match self {
            Tongue::Connect => b"HTTP/1.1 200 Connection established\r\nVia: 1.1 cow\r\n\r\n",
            Tongue::Socks5 => &[5, 0, 0, 1, 10, 0, 0, 1, 0x12, 0x34],
        }
    }

    /// Plays the proxy to the beginning of the payload.
    pub fn accept(self, proxy: &mut TcpStream) {
        self.hear_request(proxy);
        proxy.write_all(self.consent()).expect("consent");
    }
}
