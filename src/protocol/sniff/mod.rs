//! The name that a client asks for, read from the first bytes that it sends: the server_name of a TLS ClientHello or
//! the Host of an HTTP/1 request. It is what the client claims, no more.

mod head;
mod hello;

use std::borrow::Cow;

use crate::protocol::hostname::is_host_name;

/// Bytes that are looked at; a client that has not named anything by then does not.
pub const MOST: usize = 16 * 1024;

/// What the first bytes of a client say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sniff<'a> {
    /// Too little to know.
    More,
    /// The name of a host, fit for a request to a proxy; never an address.
    Name(Cow<'a, str>),
    /// No name, whatever follows.
    None,
}

/// Why there is no name in the bytes so far.
#[derive(Debug, PartialEq, Eq)]
enum Stop {
    /// It may be in those that follow.
    Short,
    /// It will never be.
    Never,
}

/// Looks at all that a client has sent so far.
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

fn text(name: Cow<'_, [u8]>) -> Option<Cow<'_, str>> {
    let text = match name {
        Cow::Borrowed(bytes) => Cow::Borrowed(std::str::from_utf8(bytes).ok()?),
        Cow::Owned(bytes) => Cow::Owned(String::from_utf8(bytes).ok()?),
    };
    is_host_name(&text).then_some(text)
}

#[cfg(test)]
mod tests;
