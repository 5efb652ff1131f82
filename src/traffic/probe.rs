//! The worker's own connections to upstreams that did not answer: they find out whether these answer again, so that no
//! client has to.

use std::io;
use std::net::{IpAddr, SocketAddr};

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use crate::redirection::RedirectionId;
use crate::sys::clock::Tick;
use crate::sys::outgoing::{self, ThirdPacket};
use crate::sys::shortage::ConnectError;
use crate::traffic::token::EventToken;

/// Ticks between two probes of a redirection, at least.
pub(crate) const EVERY: Tick = 10;

/// So many probes in a row have to succeed where no upstream answered at all, so that an upstream that comes and goes gets
/// no clients.
pub(crate) const ENOUGH: u8 = 3;

/// The probes of one redirection, one at a time.
#[derive(Debug, Default)]
pub(crate) struct Probe {
    running: Option<Running>,
    /// How many have succeeded in a row.
    answered: u8,
    next: Tick,
}

#[derive(Debug)]
struct Running {
    socket: TcpStream,
    address: SocketAddr,
    /// It has failed then.
    until: Tick,
}

/// How a probe has ended.
#[derive(Debug)]
pub(crate) enum Probed {
    /// The upstream has answered, so many times in a row.
    Answered(u8),
    Failed(io::Error),
}

impl Probe {
    /// When the next probe may start, or the running one is over.
    pub(crate) fn due(&self) -> Tick {
        self.running.as_ref().map_or(self.next, |running| running.until)
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Starts a probe, which may take `limit` ticks.
    pub(crate) fn start(
        &mut self,
        redirection: RedirectionId,
        (address, source): (SocketAddr, Option<IpAddr>),
        (now, limit): (Tick, Tick),
        registry: &Registry,
    ) -> Result<(), ConnectError> {
        self.next = now.saturating_add(EVERY);
        let mut socket = TcpStream::from_std(outgoing::connecting(address, source, None, ThirdPacket::AtOnce)?.0);
        let token = Token::from(EventToken::Probe(redirection.0.into()));
        registry.register(&mut socket, token, Interest::WRITABLE).map_err(ConnectError::Shortage)?;
        self.running = Some(Running { socket, address, until: now.saturating_add(limit) });
        Ok(())
    }

    /// The probe that has taken too long, if there is one.
    pub(crate) fn expire(&mut self, now: Tick) -> Option<(SocketAddr, Probed)> {
        let Running { address, .. } = self.running.take_if(|running| running.until <= now)?;
        self.answered = 0;
        Some((address, Probed::Failed(io::ErrorKind::TimedOut.into())))
    }

    /// The socket of the probe has something to tell: `None` if that is not the end.
    pub(crate) fn event(&mut self, event: &Event) -> Option<(SocketAddr, Probed)> {
        let Running { socket, .. } = self.running.as_ref()?;
        let error = match socket.take_error() {
            Ok(Some(error)) | Err(error) => Some(error),
            // The event of a socket that was here before.
            Ok(None) if !event.is_writable() || socket.peer_addr().is_err() => return None,
            Ok(None) => None,
        };
        let Running { address, .. } = self.running.take()?;
        self.answered = if error.is_some() { 0 } else { self.answered.saturating_add(1) };
        Some((address, error.map_or(Probed::Answered(self.answered), Probed::Failed)))
    }
}
