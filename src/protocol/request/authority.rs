//! The authority: the host, and perhaps port, that a request names (RFC 9110, 7.2).

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::protocol::hostname::is_host_name;
use crate::protocol::local_names::LocalNames;

/// The port of a URL that names none.
const HTTP: u16 = 80;

/// A host, and a port if one is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Authority<'a> {
    /// The host as it was written.
    text: &'a str,
    host: Host<'a>,
    port: Option<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Host<'a> {
    Name(&'a str),
    Address(IpAddr),
}

/// Whether the proxy may be asked for a host that a client names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostClaim<'a> {
    True,
    False,
    /// That has to be asked for. It is a name, or an address without brackets.
    Ask(&'a str),
}

impl<'a> Authority<'a> {
    /// Reads the value of a `Host`, or the target of a `CONNECT`.
    pub fn parse(value: &'a [u8]) -> Option<Authority<'a>> {
        let whole = str::from_utf8(value).ok()?;
        let end = match whole.strip_prefix('[') {
            Some(rest) => rest.find(']')? + 2,
            None => whole.find(':').unwrap_or(whole.len()),
        };
        let (text, rest) = whole.split_at_checked(end)?;
        let host = match text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(literal) => Host::Address(literal.parse::<Ipv6Addr>().ok()?.into()),
            None => name_or_address(text)?,
        };
        let port = match rest.strip_prefix(':') {
            Some(digits) if !digits.is_empty() => Some(port(digits)?),
            Some(_) => None,
            None if rest.is_empty() => None,
            None => return None,
        };
        Some(Authority { text, host, port })
    }

    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// The authority of a URL, where no port means the port of HTTP.
    pub fn with_port(self) -> Authority<'a> {
        Authority { port: self.port.or(Some(HTTP)), ..self }
    }

    /// Compares it with the original destination, which it has to be if it is to be checked. Otherwise addresses are
    /// judged, and names that are known without a name server; the proxy judges the other names.
    pub fn claim(&self, original: SocketAddr, check: bool, local_names: &LocalNames) -> HostClaim<'a> {
        match self.host {
            _ if check && self.port.is_some_and(|port| port != original.port()) => HostClaim::False,
            Host::Address(address) if address.to_canonical() == original.ip().to_canonical() => HostClaim::True,
            Host::Address(_) if check => HostClaim::False,
            Host::Address(_) => HostClaim::Ask(self.text.trim_matches(['[', ']'])),
            Host::Name(name) if check || local_names.addresses(name).is_some() => HostClaim::Ask(name),
            Host::Name(_) => HostClaim::True,
        }
    }

    /// Whether a Host with this does not contradict the target. One without a port means the port that the client has
    /// connected to.
    fn agrees_with(&self, target: &Authority<'_>) -> bool {
        let same_host = match (self.host, target.host) {
            (Host::Name(one), Host::Name(other)) => one.eq_ignore_ascii_case(other),
            (one, other) => one == other,
        };
        same_host && (self.port.is_none() || self.port == target.with_port().port)
    }

    /// Writes it for a URL. Without a port it means the one that the client connected to.
    pub fn write(&self, original: SocketAddr, out: &mut Vec<u8>) {
        out.extend_from_slice(self.text.as_bytes());
        match self.port {
            Some(port) => write_port(port, out),
            None if original.port() != HTTP => write_port(original.port(), out),
            None => {}
        }
    }
}

/// Whether a Host line agrees with the authority of a target (RFC 9112, 3.2).
pub fn agree(host: &[u8], authority: &[u8]) -> bool {
    host == authority
        || Authority::parse(host)
            .zip(Authority::parse(authority))
            .is_some_and(|(host, target)| host.agrees_with(&target))
}

/// Writes the original destination as the authority of a URL.
pub fn write_address(original: SocketAddr, out: &mut Vec<u8>) {
    // Writing to a Vec cannot fail, here and below.
    let _ = match original.ip().to_canonical() {
        IpAddr::V4(address) => write!(out, "{address}"),
        IpAddr::V6(address) => write!(out, "[{address}]"),
    };
    if original.port() != HTTP {
        write_port(original.port(), out);
    }
}

fn write_port(port: u16, out: &mut Vec<u8>) {
    let _ = write!(out, ":{port}");
}

fn port(digits: &str) -> Option<u16> {
    let number = if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok()? } else { 0 };
    (number != 0).then_some(number)
}

fn name_or_address(text: &str) -> Option<Host<'_>> {
    let address = text.parse().ok().map(|address: Ipv4Addr| Host::Address(address.into()));
    address.or_else(|| is_host_name(text).then_some(Host::Name(text)))
}

#[cfg(test)]
#[path = "authority_tests.rs"]
mod tests;
