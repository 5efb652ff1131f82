//! A connection whose first bytes decide where it goes. They are looked at and left where they are (`MSG_PEEK`, recv(2)):
//! waiting costs no memory, and the relay finds them all.

use std::io::{self, ErrorKind};

use mio::net::TcpStream;

use crate::protocol::addr_pair::AddrPair;
use crate::protocol::proxy_header::{self, HeaderRead};
use crate::protocol::sniff::{self, Sniff};
use crate::redirection::RedirectionId;
use crate::traffic::flow::{Side, Socket};
use crate::traffic::relay::{CloseReason, Route};
use crate::traffic::service::Service;
use crate::traffic::timers::Tick;
use crate::traffic::token::Peer;

/// Ticks for which a name is waited for: whoever waits for the server to speak first loses no more than this.
const NAME: Tick = 2;

/// A connection that is not relayed yet.
#[derive(Debug)]
pub(crate) struct Preread {
    /// The client, or the balancer that speaks for it.
    pub side: Side<TcpStream>,
    /// Number in the log.
    pub id: u64,
    /// Milliseconds from the worker's start to its acceptance.
    pub started: u64,
    /// Its addresses, as far as they are known.
    pub route: Route,
    /// Which redirection it belongs to.
    pub redirection: RedirectionId,
    /// Whether it is counted among the connections of its source.
    pub enrolled: bool,
    awaits: Awaits,
    due: Tick,
}

/// What is to come from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaits {
    /// The PROXY header.
    Header,
    /// The name that it asks for.
    Name,
    /// Nothing.
    Nothing,
}

/// What the client has said.
#[derive(Debug)]
pub(crate) enum PrereadStep {
    /// Not enough yet.
    Waiting,
    /// For whom it speaks, if it is not for itself; it is to be listened to further.
    Introduced(Option<AddrPair>),
    /// The name that it asks for, if there is one.
    Asked(Option<String>),
    /// Something that ends it.
    Wrong(CloseReason),
}

impl Preread {
    /// A connection that was accepted just now.
    pub(crate) fn new(client: TcpStream, redirection: RedirectionId, route: Route, id: u64, started: u64) -> Preread {
        let side = Side { can_read: true, ..Side::new(client) };
        Preread { side, id, started, route, redirection, enrolled: false, awaits: Awaits::Nothing, due: 0 }
    }

    /// Begins to wait for what the redirection wants.
    pub(crate) fn await_words(&mut self, service: &Service, now: Tick) {
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

    /// Listens to what has been said so far.
    pub(crate) fn listen(&mut self, service: &Service, buffer: &mut [u8], now: Tick) -> PrereadStep {
        if self.awaits == Awaits::Nothing {
            return PrereadStep::Asked(None);
        }
        let heard = match self.side.socket.peek(buffer) {
            Ok(count) => &buffer[..count],
            Err(error) if error.kind() == ErrorKind::WouldBlock => return PrereadStep::Waiting,
            Err(_) => return PrereadStep::Wrong(CloseReason::Reset(Peer::Client)),
        };
        // All bytes of a short head may have come before the end, and the end tells nothing more of itself.
        let over = heard.is_empty() || self.side.hung_up;
        if self.awaits == Awaits::Name {
            return match sniff::name(heard) {
                Sniff::Name(name) => PrereadStep::Asked(Some(name.into())),
                Sniff::More if !over => PrereadStep::Waiting,
                Sniff::More | Sniff::None => PrereadStep::Asked(None),
            };
        }
        match proxy_header::read(heard) {
            Ok(HeaderRead::Header { length, addrs }) => match self.consume(&mut buffer[..length]) {
                Ok(()) => {
                    self.await_name(service, now);
                    PrereadStep::Introduced(addrs)
                }
                Err(_) => PrereadStep::Wrong(CloseReason::Reset(Peer::Client)),
            },
            Ok(HeaderRead::More) if !over => PrereadStep::Waiting,
            Ok(HeaderRead::More) => PrereadStep::Wrong(CloseReason::NoHeader("the connection ended before it".into())),
            Err(why) => PrereadStep::Wrong(CloseReason::NoHeader(why.to_string())),
        }
    }

    /// Takes away what was looked at.
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

    /// It has waited for long enough.
    pub(crate) fn give_up(&self) -> PrereadStep {
        match self.awaits {
            Awaits::Header => PrereadStep::Wrong(CloseReason::Unheard),
            Awaits::Name | Awaits::Nothing => PrereadStep::Asked(None),
        }
    }
}
