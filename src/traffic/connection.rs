//! A connection in its table: its stages, and the events of its sockets.

use std::io;
use std::os::fd::AsRawFd;

use mio::event::Event;
use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use crate::relay::relay::Relay;
use crate::relay::side::{Peer, Side};
use crate::relay::tcp::Tcp;
use crate::sys::sockopt;
use crate::traffic::preread::Preread;
use crate::traffic::session::Session;
use crate::traffic::shared_counters::{UpstreamPlace, WorkerCounters};
use crate::traffic::token::{EventToken, Key};
use crate::traffic::upstreams::Attempt;

/// A connection.
#[derive(Debug)]
pub(crate) enum Connection {
    /// Its first bytes decide where it goes.
    Preread(Preread),
    /// It has an upstream, which may still be connecting.
    Relayed(Relayed),
}

/// A connection with its upstream.
#[derive(Debug)]
pub(crate) struct Relayed {
    pub session: Session,
    pub relay: Relay<Tcp>,
    /// Which addresses of the upstreams were tried.
    pub attempt: Attempt,
    /// Whether it waits for a turn.
    pub queued: bool,
    /// Whether its events are told by the epoll set of the bulk streams.
    pub in_bulk: bool,
    /// When it was last tried to connect, in microseconds, which wrap after an hour.
    pub dialed: u32,
    /// The upstream that has answered, among those of the redirection.
    upstream: Option<u8>,
}

impl Relayed {
    /// One whose upstream is being connected since this time.
    pub(crate) fn new(session: Session, relay: Relay<Tcp>, attempt: Attempt, dialed: u32) -> Relayed {
        Relayed { session, relay, attempt, queued: false, in_bulk: false, dialed, upstream: None }
    }

    /// Counts what it has moved since it had moved so much.
    pub(crate) fn count_since(&self, before: (u64, u64), counters: &WorkerCounters) {
        let moved = self.relay.moved();
        if moved != before {
            counters.moved(self.session.redirection, moved.0 - before.0, moved.1 - before.1);
        }
    }

    /// It is connected to this upstream, which counts it.
    pub(crate) fn counts_at(&mut self, upstream: UpstreamPlace) {
        self.upstream = u8::try_from(upstream.host).ok();
    }

    /// The upstream that counts it.
    pub(crate) fn counted_at(&self) -> Option<UpstreamPlace> {
        let host = self.upstream?.into();
        Some(UpstreamPlace { redirection: self.session.redirection, host })
    }
}

/// How the events of a socket are asked for: the first time, or again with another token.
pub(crate) type Register = fn(&Registry, &mut TcpStream, Token, Interest) -> io::Result<()>;

pub(crate) const INTEREST: Interest = Interest::READABLE.add(Interest::WRITABLE).add(Interest::PRIORITY);

/// The token of one socket of a connection.
pub(crate) fn token(key: Key, peer: Peer) -> Token {
    Token::from(EventToken::Connection(key, peer))
}

/// Moves both sockets of a relay from one epoll set to another. In between both tell their events, which does no harm.
/// The new one tells at once what is ready already.
pub(crate) fn move_events(key: Key, relay: &Relay<Tcp>, from: &Registry, to: &Registry) -> io::Result<()> {
    let sides = [(Peer::Client, relay.client.socket.as_raw_fd()), (Peer::Upstream, relay.upstream.socket.as_raw_fd())];
    for (peer, descriptor) in sides {
        to.register(&mut SourceFd(&descriptor), token(key, peer), INTEREST)?;
    }
    sides.iter().try_for_each(|(_, descriptor)| from.deregister(&mut SourceFd(descriptor)))
}

/// Updates the readiness of a side.
pub(crate) fn observe(side: &mut Side<Tcp>, event: &Event) {
    side.can_read |= event.is_readable() || event.is_read_closed() || event.is_error();
    side.can_write |= event.is_writable() || event.is_error();
    side.hung_up |= event.is_read_closed() || event.is_error();
    if event.is_priority() && !side.urgent {
        side.urgent = true;
        if let Err(error) = sockopt::urgent_inline(&side.socket) {
            log::debug!("urgent data cannot be kept in line: {error}");
        }
    }
}

/// Makes the close of a socket a reset, so that the peer does not take it for a regular end.
pub(crate) fn reset(socket: &TcpStream) {
    if let Err(error) = sockopt::reset_on_close(socket) {
        log::debug!("reset: {error}");
    }
}
