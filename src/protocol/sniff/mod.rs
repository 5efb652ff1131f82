//! The name that a client asks for, read from the first bytes that it sends: the server_name of a TLS ClientHello or
//! the Host of an HTTP/1 request. It is what the client claims, no more.

mod head;
mod hello;

use std::borrow::Cow;

/// Bytes that are looked at; a client that has not named anything by then does not.
pub const MOST: usize = 16 * 1024;

/// Bytes of the longest host name (RFC 1035, 2.3.4), without a dot at its end.
const NAME: usize = 253;

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

/// A name that DNS can have (RFC 1123, 2.1), with the underscore that is in use although it is not allowed. A last
/// label that is a number makes an address of the whole for some resolvers, hexadecimal and short forms included.
fn is_host_name(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let plain = |label: &str| label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    let good = |label: &str| {
        (1..=63).contains(&label.len()) && plain(label) && !label.starts_with('-') && !label.ends_with('-')
    };
    name.len() <= NAME && name.split('.').all(good) && !name.rsplit('.').next().is_some_and(is_number)
}

fn is_number(label: &str) -> bool {
    let hexadecimal = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
    match hexadecimal {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => label.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

#[cfg(test)]
mod tests;
