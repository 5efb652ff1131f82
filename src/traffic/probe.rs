//! Whether an upstream answers again that clients are kept away from: the redirection is withdrawn, so nobody else
//! would try.

use std::io;
use std::net::SocketAddr;

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use crate::redirection::RedirectionId;
use crate::sys::clock::Tick;
use crate::traffic::token::EventToken;

/// Ticks between two tries.
const EVERY: Tick = 10;

/// So many tries in a row have to succeed: an upstream that comes and goes does not take its clients with it.
const ENOUGH: u8 = 3;

/// The tries for one redirection.
#[derive(Debug, Default)]
pub(crate) struct Probe {
    socket: Option<(TcpStream, SocketAddr)>,
    answered: u8,
    next: Tick,
}

impl Probe {
    /// When to try next.
    pub(crate) fn due(&self) -> Tick {
        self.next
    }

    /// Starts a try; one that is still open has failed.
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

    /// The try has come to an end. Returns the address when that is proof enough.
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
