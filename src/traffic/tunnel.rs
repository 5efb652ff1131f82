//! The dialogue with a proxy before payload flows: what is to be said, and what was heard of an answer so far.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use crate::protocol::tunnel::{ANSWER, Dialogue, TunnelTarget};
use crate::traffic::flow::{Side, Socket};
use crate::traffic::service::Tunnel;

/// A dialogue that is under way. It is gone, with what it holds, before the first byte of payload is read.
pub struct TunnelHandshake {
    dialogue: Dialogue,
    /// To be sent.
    outgoing: Vec<u8>,
    /// Received and not yet understood.
    incoming: Vec<u8>,
    /// Bytes that were understood.
    understood: usize,
}

/// What became of a turn.
#[derive(Debug)]
pub enum TunnelProgress {
    /// The proxy has not said all.
    Waiting,
    /// We are through. These bytes of payload came along with the answer.
    Through(Vec<u8>),
}

impl TunnelHandshake {
    /// A dialogue that asks for `original`, or for `name` at its port.
    pub fn new(tunnel: &Tunnel, original: SocketAddr, name: Option<&str>) -> TunnelHandshake {
        let target = match name {
            Some(name) => TunnelTarget::Name(name, original.port()),
            None => TunnelTarget::Address(original),
        };
        let mut outgoing = Vec::new();
        let dialogue = Dialogue::begin(tunnel.dialect, target, tunnel.credentials.as_ref(), &mut outgoing);
        TunnelHandshake { dialogue, outgoing, incoming: Vec::new(), understood: 0 }
    }

    /// Says and hears what can be.
    ///
    /// Errors: the words in which the proxy refused, or what became of it.
    pub fn advance<S: Socket>(&mut self, proxy: &mut Side<S>, buffer: &mut [u8]) -> Result<TunnelProgress, String> {
        loop {
            self.say(proxy);
            if !proxy.can_read {
                return Ok(TunnelProgress::Waiting);
            }
            match proxy.socket.receive(buffer) {
                Ok(0) => return Err("closed without an answer".into()),
                Ok(count) => self.incoming.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => proxy.can_read = false,
                Err(error) => return Err(words(&error)),
            }
            // Between its answers the proxy waits for us, and we for it.
            proxy.socket.acknowledge().map_err(|error| words(&error))?;
            let heard =
                self.dialogue.hear(&self.incoming, &mut self.outgoing).map_err(|refused| refused.to_string())?;
            self.incoming.drain(..heard.used);
            if heard.done {
                return Ok(TunnelProgress::Through(std::mem::take(&mut self.incoming)));
            }
            self.understood += heard.used;
            if self.understood > ANSWER {
                return Err("the answer is too long".into());
            }
        }
    }

    fn say<S: Socket>(&mut self, proxy: &mut Side<S>) {
        while proxy.can_write && !self.outgoing.is_empty() {
            match proxy.socket.send(&self.outgoing) {
                Ok(count) => drop(self.outgoing.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => proxy.can_write = false,
                // It does not listen any more, and may still have said why.
                Err(_) => self.outgoing.clear(),
            }
        }
    }
}

fn words(error: &io::Error) -> String {
    format!("closed without an answer: {error}")
}

/// Credentials may be among what is to be said.
impl fmt::Debug for TunnelHandshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TunnelHandshake").finish_non_exhaustive()
    }
}
