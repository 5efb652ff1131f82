//! The host name in the first bytes of a client: the server_name of a TLS ClientHello, or the Host of an HTTP/1 request.
//! It is only a claim of the client.

mod head;
mod hello;
mod stop;

use std::borrow::Cow;

use crate::protocol::hostname::is_host_name;
use stop::Stop;

pub use stop::MOST;

/// The result for the first bytes of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sniff<'a> {
    /// More bytes are needed.
    More,
    /// A host name that can be sent to a proxy; never an address.
    Name(Cow<'a, str>),
    /// There is no name, whatever follows.
    None,
}

/// Searches everything that a client has sent so far.
pub fn name(bytes: &[u8]) -> Sniff<'_> {
    let seen = bytes.get(..MOST).unwrap_or(bytes);
    let found = match seen.first() {
        None => Err(Stop::Short),
        Some(&hello::HANDSHAKE) => hello::server_name(seen),
        Some(_) => head::host(seen).map(Cow::Borrowed),
    };
    match found {
        Ok(name) => text(name).map_or(Sniff::None, Sniff::Name),
        Err(Stop::Short) if seen.len() < MOST => Sniff::More,
        Err(_) => Sniff::None,
    }
}

/// Whether bytes that are too few for a name are the beginning of a ClientHello or of a request. Others may be a whole
/// message of another protocol, which the client has sent and waits for the answer to.
pub fn has_begun(bytes: &[u8]) -> bool {
    bytes.first() == Some(&hello::HANDSHAKE) || head::has_begun(bytes)
}

fn text(name: Cow<'_, [u8]>) -> Option<Cow<'_, str>> {
    let text = match name {
        Cow::Borrowed(bytes) => Cow::Borrowed(std::str::from_utf8(bytes).ok()?),
        Cow::Owned(bytes) => Cow::Owned(String::from_utf8(bytes).ok()?),
    };
    is_host_name(&text).then_some(text)
}

#[cfg(test)]
mod tests;
