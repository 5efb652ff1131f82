//! Probes of upstreams that could not be reached. When their redirection is withdrawn, no client connects to them, so
//! nothing else would tell that they answer again.

use std::io;
use std::net::SocketAddr;

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use crate::redirection::RedirectionId;
use crate::sys::clock::Tick;
use crate::traffic::token::EventToken;

/// Ticks between two probes.
const EVERY: Tick = 10;

/// So many probes in a row have to succeed, so that an upstream that comes and goes gets no clients.
const ENOUGH: u8 = 3;

/// The probes of one redirection.
#[derive(Debug, Default)]
pub(crate) struct Probe {
    socket: Option<(TcpStream, SocketAddr)>,
    answered: u8,
    next: Tick,
}

impl Probe {
    /// When the next probe is due.
    pub(crate) fn due(&self) -> Tick {
        self.next
    }

    /// Starts a probe. The previous one has failed if it is still open.
    pub(crate) fn start(
        &mut self,
        redirection: RedirectionId,
        address: SocketAddr,
        now: Tick,
        registry: &Registry,
    ) -> io::Result<()> {
        if self.socket.take().is_some() {
            self.answered = 0;
        }
        self.next = now.saturating_add(EVERY);
        let mut socket = TcpStream::connect(address)?;
        registry.register(&mut socket, Token::from(EventToken::Probe(redirection.0.into())), Interest::WRITABLE)?;
        self.socket = Some((socket, address));
        Ok(())
    }

    /// The probe has ended. Returns the address when enough of them have succeeded.
    pub(crate) fn event(&mut self, event: &Event) -> Option<SocketAddr> {
        let (_, address) = self.socket.take()?;
        if event.is_error() || !event.is_writable() {
            self.answered = 0;
            return None;
        }
        self.answered += 1;
        (self.answered >= ENOUGH).then_some(address)
    }
}
