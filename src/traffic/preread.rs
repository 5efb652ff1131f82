//! A connection whose first bytes decide where it goes. They are left in the socket (`MSG_PEEK`, recv(2)): waiting costs
//! no memory, and the relay finds them all.

use std::io::{self, ErrorKind};

use mio::net::TcpStream;

use crate::protocol::addr_pair::AddrPair;
use crate::protocol::proxy_header::{self, HeaderRead};
use crate::protocol::sniff::{self, Sniff};
use crate::relay::close::CloseReason;
use crate::relay::io::Socket;
use crate::relay::side::{Peer, Side};
use crate::relay::tcp::Tcp;
use crate::sys::clock::Tick;
use crate::traffic::service::Service;
use crate::traffic::session::Session;

/// Ticks for which the first byte of a name is waited for. With a protocol in which the server speaks first, this is all
/// that a client loses.
const NAME: Tick = 2;

/// A connection that is not relayed yet.
#[derive(Debug)]
pub(crate) struct Preread {
    /// The client, or the balancer in front of it.
    pub side: Side<Tcp>,
    pub session: Session,
    awaits: Awaits,
    due: Tick,
    /// The name that the client asks for, while a socket is awaited.
    name: Option<Box<str>>,
}

/// The bytes that are awaited from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaits {
    Header,
    Name,
    /// The rest of a ClientHello or of a head that has begun.
    Rest,
    /// Not the client, but whether the name is believed.
    Answer,
    /// Not the client, but a socket for its connection to the upstream.
    Socket,
    Nothing,
}

/// What was found in the first bytes.
#[derive(Debug)]
pub(crate) enum PrereadStep {
    /// Not enough yet.
    Waiting,
    /// The addresses of a PROXY header, if it has any. There is more to read.
    Header(Option<AddrPair>),
    /// The connection can be relayed. This is the name that the client asks for, if there is one.
    Ready(Option<String>),
    /// The connection is to be closed.
    Close(CloseReason),
}

impl Preread {
    /// A connection that was accepted just now.
    pub(crate) fn new(client: TcpStream, session: Session) -> Preread {
        let side = Side { can_read: true, ..Side::new(client) };
        Preread { side, session, awaits: Awaits::Nothing, due: 0, name: None }
    }

    /// Begins to wait for what the redirection needs.
    pub(crate) fn begin(&mut self, service: &Service, now: Tick) {
        if service.accept_proxy {
            self.awaits = Awaits::Header;
            self.due = now.saturating_add(service.timeouts.handshake);
        } else {
            self.await_name(service, now);
        }
    }

    /// When it has waited for long enough.
    pub(crate) fn due(&self) -> Tick {
        self.due
    }

    /// Looks at what has come so far.
    pub(crate) fn read(&mut self, service: &Service, buffer: &mut [u8], now: Tick) -> PrereadStep {
        match self.awaits {
            Awaits::Nothing => return PrereadStep::Ready(None),
            Awaits::Answer | Awaits::Socket => return PrereadStep::Waiting,
            Awaits::Header | Awaits::Name | Awaits::Rest => {}
        }
        let peeked = match self.side.socket.peek(buffer) {
            Ok(count) => &buffer[..count],
            Err(error) if error.kind() == ErrorKind::WouldBlock => return PrereadStep::Waiting,
            Err(_) => return PrereadStep::Close(CloseReason::Reset(Peer::Client)),
        };
        // All bytes of a short head may have come before the FIN, and there is no further event for that.
        let over = peeked.is_empty() || self.side.hung_up;
        if matches!(self.awaits, Awaits::Name | Awaits::Rest) {
            return match sniff::name(peeked) {
                Sniff::Name(name) => PrereadStep::Ready(Some(name.into())),
                Sniff::More if !over => {
                    if self.awaits == Awaits::Name && sniff::has_begun(peeked) {
                        self.awaits = Awaits::Rest;
                        self.due = now.saturating_add(service.timeouts.handshake);
                    }
                    PrereadStep::Waiting
                }
                Sniff::More | Sniff::None => PrereadStep::Ready(None),
            };
        }
        match proxy_header::read(peeked) {
            Ok(HeaderRead::Header { length, addrs }) => match self.consume(&mut buffer[..length]) {
                Ok(()) => {
                    self.await_name(service, now);
                    PrereadStep::Header(addrs)
                }
                Err(_) => PrereadStep::Close(CloseReason::Reset(Peer::Client)),
            },
            Ok(HeaderRead::More) if !over => PrereadStep::Waiting,
            Ok(HeaderRead::More) => bad_header("the connection ended before it".into()),
            Err(why) => bad_header(why.to_string()),
        }
    }

    /// Takes the header out of the socket.
    fn consume(&self, header: &mut [u8]) -> io::Result<()> {
        match self.side.socket.receive(header)? {
            count if count == header.len() => Ok(()),
            _ => Err(ErrorKind::UnexpectedEof.into()),
        }
    }

    fn await_name(&mut self, service: &Service, now: Tick) {
        self.awaits = if service.asks_by_name() { Awaits::Name } else { Awaits::Nothing };
        self.due = now.saturating_add(NAME);
    }

    /// The name has to be looked up.
    pub(crate) fn await_answer(&mut self, service: &Service, now: Tick) {
        self.awaits = Awaits::Answer;
        self.due = now.saturating_add(service.timeouts.handshake);
    }

    /// A socket for the connection to the upstream is to come. `name` is the one that the client asks for.
    pub(crate) fn await_socket(&mut self, name: Option<&str>, service: &Service, now: Tick) {
        self.awaits = Awaits::Socket;
        self.name = name.map(Box::from);
        self.due = now.saturating_add(service.timeouts.connect);
    }

    /// A socket may have come: ends that, and returns the name. `None` if it waits for something else.
    pub(crate) fn socket_has_come(&mut self) -> Option<Option<Box<str>>> {
        (self.awaits == Awaits::Socket).then(|| self.name.take())
    }

    /// It has waited for long enough.
    pub(crate) fn timed_out(&self) -> PrereadStep {
        match self.awaits {
            Awaits::Header | Awaits::Rest => PrereadStep::Close(CloseReason::HandshakeTimeout),
            Awaits::Socket => {
                let error = io::Error::other("the guardian has made no socket");
                PrereadStep::Close(CloseReason::Resources(error))
            }
            Awaits::Name | Awaits::Answer | Awaits::Nothing => PrereadStep::Ready(None),
        }
    }
}

fn bad_header(why: String) -> PrereadStep {
    PrereadStep::Close(CloseReason::BadProxyHeader(why))
}
