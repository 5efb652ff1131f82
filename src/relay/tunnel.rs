//! The handshake with a proxy that connects to the original destination (CONNECT, SOCKS 5).

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use crate::protocol::credentials::Credentials;
use crate::protocol::tunnel::{ANSWER, Dialect, Dialogue, TunnelTarget};
use crate::relay::io::{Io, Socket};
use crate::relay::side::Side;

/// How a proxy is asked for a connection to the original destination.
#[derive(Debug, Clone)]
pub struct Tunnel {
    /// What the proxy speaks.
    pub dialect: Dialect,
    /// User and password for the proxy.
    pub credentials: Option<Credentials>,
    /// Whether the proxy is asked for the name that the client asks for, where there is one, instead of the address.
    pub by_name: bool,
}

/// A handshake that is under way. It is dropped before the first byte of payload is read.
pub struct TunnelHandshake {
    dialogue: Dialogue,
    outgoing: Vec<u8>,
    /// Received and not yet parsed.
    incoming: Vec<u8>,
    /// Bytes that were parsed.
    parsed: usize,
}

/// How far the handshake is.
#[derive(Debug)]
pub enum TunnelProgress {
    /// The answer is not complete.
    Waiting,
    /// The proxy has connected. These bytes of payload came with its answer.
    Connected(Vec<u8>),
}

impl TunnelHandshake {
    /// Asks for `original`, or for `name` at its port.
    pub fn new(tunnel: &Tunnel, original: SocketAddr, name: Option<&str>) -> TunnelHandshake {
        let target = match name {
            Some(name) => TunnelTarget::Name(name, original.port()),
            None => TunnelTarget::Address(original),
        };
        let mut outgoing = Vec::new();
        let dialogue = Dialogue::begin(tunnel.dialect, target, tunnel.credentials.as_ref(), &mut outgoing);
        TunnelHandshake { dialogue, outgoing, incoming: Vec::new(), parsed: 0 }
    }

    /// Sends and receives what is possible now.
    ///
    /// Errors: the text of the proxy's refusal, or what is wrong with its answer.
    pub fn advance<I: Io>(&mut self, proxy: &mut Side<I>, buffer: &mut [u8]) -> Result<TunnelProgress, String> {
        loop {
            self.send(proxy);
            if !proxy.can_read {
                return Ok(TunnelProgress::Waiting);
            }
            match proxy.socket.receive(buffer) {
                Ok(0) => return Err("closed without an answer".into()),
                Ok(count) => self.incoming.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => proxy.can_read = false,
                Err(error) => return Err(no_answer(&error)),
            }
            // Between its answers the proxy waits for us, and we for it.
            proxy.socket.acknowledge().map_err(|error| no_answer(&error))?;
            let heard =
                self.dialogue.hear(&self.incoming, &mut self.outgoing).map_err(|refused| refused.to_string())?;
            self.incoming.drain(..heard.used);
            if heard.done {
                return Ok(TunnelProgress::Connected(std::mem::take(&mut self.incoming)));
            }
            self.parsed += heard.used;
            if self.parsed > ANSWER {
                return Err("the answer is too long".into());
            }
        }
    }

    fn send<I: Io>(&mut self, proxy: &mut Side<I>) {
        while proxy.can_write && !self.outgoing.is_empty() {
            match proxy.socket.send(&self.outgoing) {
                Ok(count) => drop(self.outgoing.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => proxy.can_write = false,
                // The proxy does not read any more, and may still have sent the reason.
                Err(_) => self.outgoing.clear(),
            }
        }
    }
}

fn no_answer(error: &io::Error) -> String {
    format!("closed without an answer: {error}")
}

/// Without the bytes to be sent, which may contain credentials.
impl fmt::Debug for TunnelHandshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TunnelHandshake").finish_non_exhaustive()
    }
}
