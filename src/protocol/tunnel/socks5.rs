//! SOCKS 5 (RFC 1928), with authentication by user name and password (RFC 1929).

use std::net::IpAddr;

use crate::protocol::credentials::Credentials;
use crate::protocol::tunnel::answer::{Expected, Parsed, ProxyRefusal};
use crate::protocol::tunnel::target::TunnelTarget;

/// The first byte of every message, and of those about user name and password.
const VERSION: u8 = 5;
const SUBNEGOTIATION: u8 = 1;

/// Methods of authentication.
const OPEN: u8 = 0;
const PASSWORD: u8 = 2;
const NONE_ACCEPTABLE: u8 = 0xff;

/// Types of an address.
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

pub(super) fn write_greeting(with_password: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(if with_password { &[VERSION, 2, OPEN, PASSWORD] } else { &[VERSION, 1, OPEN] });
}

pub(super) fn write_credentials(credentials: &Credentials, out: &mut Vec<u8>) {
    out.push(SUBNEGOTIATION);
    write_counted(&credentials.user, out);
    write_counted(&credentials.password, out);
}

pub(super) fn write_request(target: TunnelTarget<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(&[VERSION, 1, 0]);
    let port = match target {
        TunnelTarget::Name(name, port) => {
            out.push(NAME);
            write_counted(name, out);
            port
        }
        TunnelTarget::Address(address) => {
            match address.ip().to_canonical() {
                IpAddr::V4(ip) => {
                    out.push(IPV4);
                    out.extend_from_slice(&ip.octets());
                }
                IpAddr::V6(ip) => {
                    out.push(IPV6);
                    out.extend_from_slice(&ip.octets());
                }
            }
            address.port()
        }
    };
    out.extend_from_slice(&port.to_be_bytes());
}

/// A text after its length in one byte. Names and passwords are no longer than that: a longer text would be cut, and
/// the message stay well formed.
fn write_counted(text: &str, out: &mut Vec<u8>) {
    let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
    out.push(length);
    out.extend(text.bytes().take(length.into()));
}

pub(super) fn parse_method(input: &[u8], with_password: bool) -> Parsed {
    check_version(input)?;
    match input.get(1) {
        None => Ok(None),
        Some(&OPEN) => Ok(Some((2, Expected::Reply))),
        Some(&PASSWORD) if with_password => Ok(Some((2, Expected::Authentication))),
        Some(&NONE_ACCEPTABLE) if with_password => {
            Err(ProxyRefusal::new("SOCKS: no authentication by user name and password"))
        }
        Some(&NONE_ACCEPTABLE) => Err(ProxyRefusal::new("SOCKS: authentication required")),
        Some(method) => {
            Err(ProxyRefusal::new(&format!("SOCKS: authentication method {method}, which was not offered")))
        }
    }
}

fn check_version(input: &[u8]) -> Result<(), ProxyRefusal> {
    match input.first() {
        Some(&VERSION) | None => Ok(()),
        Some(_) => Err(ProxyRefusal::new("the answer is not SOCKS 5")),
    }
}

/// The first byte should be the version of the subnegotiation. It is not checked: some proxies send 5.
pub(super) fn parse_authentication(input: &[u8]) -> Parsed {
    match input.get(1) {
        None => Ok(None),
        Some(0) => Ok(Some((2, Expected::Reply))),
        Some(_) => Err(ProxyRefusal::new("SOCKS: user name or password not accepted")),
    }
}

pub(super) fn parse_reply(input: &[u8]) -> Parsed {
    check_version(input)?;
    match input.get(1) {
        None => return Ok(None),
        Some(0) => {}
        Some(code) => return Err(ProxyRefusal::new(&format!("SOCKS: {}", meaning(*code)))),
    }
    let address = match (input.get(3), input.get(4)) {
        (Some(&IPV4), _) => 4,
        (Some(&IPV6), _) => 16,
        (Some(&NAME), Some(length)) => 1 + usize::from(*length),
        (Some(&NAME), None) | (None, _) => return Ok(None),
        (Some(kind), _) => return Err(ProxyRefusal::new(&format!("SOCKS: an address of type {kind} in the reply"))),
    };
    let length = 4 + address + 2;
    Ok((input.len() >= length).then_some((length, Expected::Payload)))
}

/// The code of a reply in words (RFC 1928, 6).
fn meaning(code: u8) -> String {
    let known = match code {
        1 => "general failure",
        2 => "connection not allowed by ruleset",
        3 => "network unreachable",
        4 => "host unreachable",
        5 => "connection refused",
        6 => "TTL expired",
        7 => "command not supported",
        8 => "address type not supported",
        _ => return format!("failure {code}"),
    };
    known.to_owned()
}
