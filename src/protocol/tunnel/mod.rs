//! Asking a proxy for a connection to another host, with HTTP CONNECT or SOCKS 5.

mod answer;
mod connect;
mod socks5;
mod target;

use crate::protocol::credentials::Credentials;
use crate::protocol::tunnel::answer::{Expected, Parsed};

pub use crate::protocol::tunnel::answer::ProxyRefusal;
pub(crate) use crate::protocol::tunnel::connect::ANSWER;
pub use crate::protocol::tunnel::target::TunnelTarget;

/// The protocol of the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    Connect,
    Socks5,
}

/// What [`Dialogue::hear`] took from the proxy's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DialogueStep {
    /// Bytes that need not be shown again.
    pub used: usize,
    /// The proxy has connected us. The bytes behind the used ones are payload.
    pub done: bool,
}

/// One handshake with a proxy. Each message is sent only when the proxy expects it: some proxies refuse early ones.
pub struct Dialogue {
    next: Expected,
    /// The messages that are sent later: the user name and password, and from `request` on the request.
    later: Box<[u8]>,
    request: usize,
}

impl Dialogue {
    /// Begins a handshake, and appends its first message to `out`.
    pub fn begin(
        dialect: Dialect,
        target: TunnelTarget<'_>,
        credentials: Option<&Credentials>,
        out: &mut Vec<u8>,
    ) -> Dialogue {
        match dialect {
            Dialect::Connect => {
                connect::write_request(target, credentials, out);
                Dialogue { next: Expected::Head, later: Box::default(), request: 0 }
            }
            Dialect::Socks5 => {
                socks5::write_greeting(credentials.is_some(), out);
                let mut later = Vec::new();
                if let Some(credentials) = credentials {
                    socks5::write_credentials(credentials, &mut later);
                }
                let request = later.len();
                socks5::write_request(target, &mut later);
                Dialogue { next: Expected::Method, later: later.into(), request }
            }
        }
    }

    /// Reads the bytes of the proxy that were not used yet, and appends our answer to `out`.
    pub fn hear(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<DialogueStep, ProxyRefusal> {
        let mut used = 0;
        while self.next != Expected::Payload {
            let Some((length, next)) = self.parse(input.get(used..).unwrap_or_default())? else { break };
            used += length;
            match next {
                Expected::Authentication => out.extend_from_slice(self.later.get(..self.request).unwrap_or_default()),
                Expected::Reply => out.extend_from_slice(self.later.get(self.request..).unwrap_or_default()),
                Expected::Head | Expected::Method | Expected::Payload => {}
            }
            self.next = next;
        }
        Ok(DialogueStep { used, done: self.next == Expected::Payload })
    }

    fn parse(&self, input: &[u8]) -> Parsed {
        match self.next {
            Expected::Head => connect::parse_head(input),
            Expected::Method => socks5::parse_method(input, self.request != 0),
            Expected::Authentication => socks5::parse_authentication(input),
            Expected::Reply => socks5::parse_reply(input),
            Expected::Payload => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests;
