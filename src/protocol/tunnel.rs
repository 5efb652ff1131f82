//! Asking a proxy for a connection to somewhere else: HTTP CONNECT (RFC 9110, 9.3.6) and SOCKS 5 (RFC 1928, RFC 1929).

use std::fmt;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};

use crate::protocol::credentials::Credentials;

/// Bytes of the longest head of an answer to CONNECT.
pub(crate) const ANSWER: usize = 8 * 1024;

/// Characters that are shown of what a proxy said.
const SHOWN: usize = 120;

/// Where the status is in the first line of such an answer.
const STATUS: usize = 9;

/// The version at the beginning of every message of SOCKS 5, and of those about user and password.
const SOCKS: u8 = 5;
const SUBNEGOTIATION: u8 = 1;

/// Methods of authentication.
const OPEN: u8 = 0;
const PASSWORD: u8 = 2;
const NONE_OF_THEM: u8 = 0xff;

/// Types of an address.
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// What the proxy speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// HTTP CONNECT.
    Connect,
    /// SOCKS 5.
    Socks5,
}

/// Where the proxy is asked to connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TunnelTarget<'a> {
    /// An address.
    Address(SocketAddr),
    /// A host name, as [`crate::protocol::sniff`] finds them, and a port.
    Name(&'a str, u16),
}

impl fmt::Display for TunnelTarget<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TunnelTarget::Address(address) => SocketAddr::new(address.ip().to_canonical(), address.port()).fmt(f),
            TunnelTarget::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

/// What was understood of what the proxy said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DialogueStep {
    /// Bytes that need not be shown again.
    pub used: usize,
    /// The proxy has connected us: what follows the used bytes is payload.
    pub done: bool,
}

/// Why the proxy does not connect us, in words for the log: ASCII without control characters, and not many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyRefusal(String);

impl ProxyRefusal {
    fn new(words: &str) -> ProxyRefusal {
        let shown = words.chars().take(SHOWN);
        ProxyRefusal(shown.map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' }).collect())
    }
}

impl fmt::Display for ProxyRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One handshake with a proxy. Nothing is said before its turn: there are proxies that do not take it.
pub struct Dialogue {
    next: Step,
    /// What has to be said later: user and password, and then the request from `request` on.
    later: Box<[u8]>,
    request: usize,
}

/// What the proxy says next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The head of an answer to CONNECT.
    Head,
    /// Which method of authentication it wants.
    Method,
    /// Whether user and password are right.
    Welcome,
    /// Whether it has connected us.
    Reply,
    /// Payload.
    Payload,
}

impl Dialogue {
    /// Begins: appends what is to be said first.
    pub fn begin(
        dialect: Dialect,
        target: TunnelTarget<'_>,
        credentials: Option<&Credentials>,
        out: &mut Vec<u8>,
    ) -> Dialogue {
        match dialect {
            Dialect::Connect => {
                connect(target, credentials, out);
                Dialogue { next: Step::Head, later: Box::default(), request: 0 }
            }
            Dialect::Socks5 => {
                let mut later = Vec::new();
                out.extend_from_slice(match credentials {
                    Some(_) => &[SOCKS, 2, OPEN, PASSWORD],
                    None => &[SOCKS, 1, OPEN],
                });
                if let Some(credentials) = credentials {
                    sign_in(credentials, &mut later);
                }
                let request = later.len();
                ask(target, &mut later);
                Dialogue { next: Step::Method, later: later.into(), request }
            }
        }
    }

    /// Understands what the proxy said and was not used yet; appends what is to be answered.
    pub fn hear(&mut self, said: &[u8], out: &mut Vec<u8>) -> Result<DialogueStep, ProxyRefusal> {
        let mut used = 0;
        while self.next != Step::Payload {
            let Some((length, next)) = self.understand(said.get(used..).unwrap_or_default())? else { break };
            used += length;
            match next {
                Step::Welcome => out.extend_from_slice(self.later.get(..self.request).unwrap_or_default()),
                Step::Reply => out.extend_from_slice(self.later.get(self.request..).unwrap_or_default()),
                Step::Head | Step::Method | Step::Payload => {}
            }
            self.next = next;
        }
        Ok(DialogueStep { used, done: self.next == Step::Payload })
    }

    /// The length of one message and what comes after it, `None` while it is not whole.
    fn understand(&self, said: &[u8]) -> Result<Option<(usize, Step)>, ProxyRefusal> {
        match self.next {
            Step::Head => head(said),
            Step::Method => method(said, self.request != 0),
            Step::Welcome => welcome(said),
            Step::Reply => reply(said),
            Step::Payload => Ok(None),
        }
    }
}

fn connect(target: TunnelTarget<'_>, credentials: Option<&Credentials>, out: &mut Vec<u8>) {
    // Writing to a Vec cannot fail.
    let _ = write!(out, "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    if let Some(credentials) = credentials {
        credentials.write_header(out);
    }
    out.extend_from_slice(b"\r\n");
}

/// Any 2xx is the end of it, whatever its other lines say (RFC 9110, 9.3.6). Of them nothing is looked at but where
/// they end: proxies are careless about them.
fn head(said: &[u8]) -> Result<Option<(usize, Step)>, ProxyRefusal> {
    let seen = said.get(..ANSWER).unwrap_or(said);
    if !seen.iter().enumerate().all(|(at, byte)| may_stand(at, *byte)) {
        return Err(ProxyRefusal::new("the answer is not HTTP/1"));
    }
    let mut lines = seen.split_inclusive(|byte| *byte == b'\n');
    let Some(first) = lines.next().filter(|line| line.ends_with(b"\n")) else { return undecided(seen) };
    let next = match first.get(STATUS..STATUS + 3) {
        Some([b'2', ..]) => Step::Payload,
        // 101 would be another protocol, which nobody asked for.
        Some([b'1', rest @ ..]) if rest != b"01" => Step::Head,
        _ => return Err(ProxyRefusal::new(String::from_utf8_lossy(first).trim_end())),
    };
    let mut length = first.len();
    for line in lines {
        length += line.len();
        if matches!(line, b"\n" | b"\r\n") {
            return Ok(Some((length, next)));
        }
    }
    undecided(seen)
}

/// Whether a status line can have this byte there.
fn may_stand(at: usize, byte: u8) -> bool {
    match at {
        0..=6 => b"HTTP/1.".get(at) == Some(&byte),
        7 | STATUS..=11 => byte.is_ascii_digit(),
        8 => byte == b' ',
        12 => matches!(byte, b' ' | b'\r' | b'\n'),
        _ => true,
    }
}

fn undecided(seen: &[u8]) -> Result<Option<(usize, Step)>, ProxyRefusal> {
    if seen.len() < ANSWER { Ok(None) } else { Err(ProxyRefusal::new("the head of the answer is too long")) }
}

fn sign_in(credentials: &Credentials, out: &mut Vec<u8>) {
    out.push(SUBNEGOTIATION);
    counted(&credentials.user, out);
    counted(&credentials.password, out);
}

fn ask(target: TunnelTarget<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(&[SOCKS, 1, 0]);
    let port = match target {
        TunnelTarget::Name(name, port) => {
            out.push(NAME);
            counted(name, out);
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

/// A text behind its length. No name or password is longer than one byte can count; if one were, the message would
/// still be in order.
fn counted(text: &str, out: &mut Vec<u8>) {
    let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
    out.push(length);
    out.extend(text.bytes().take(length.into()));
}

fn method(said: &[u8], with_password: bool) -> Result<Option<(usize, Step)>, ProxyRefusal> {
    of_socks(said)?;
    match said.get(1) {
        None => Ok(None),
        Some(&OPEN) => Ok(Some((2, Step::Reply))),
        Some(&PASSWORD) if with_password => Ok(Some((2, Step::Welcome))),
        Some(&NONE_OF_THEM) if with_password => {
            Err(ProxyRefusal::new("SOCKS: no authentication by user name and password"))
        }
        Some(&NONE_OF_THEM) => Err(ProxyRefusal::new("SOCKS: authentication required")),
        Some(method) => {
            Err(ProxyRefusal::new(&format!("SOCKS: authentication method {method}, which was not offered")))
        }
    }
}

fn of_socks(said: &[u8]) -> Result<(), ProxyRefusal> {
    match said.first() {
        Some(&SOCKS) | None => Ok(()),
        Some(_) => Err(ProxyRefusal::new("the answer is not SOCKS 5")),
    }
}

/// The first byte should be the version of the subnegotiation; there are proxies that put their own there.
fn welcome(said: &[u8]) -> Result<Option<(usize, Step)>, ProxyRefusal> {
    match said.get(1) {
        None => Ok(None),
        Some(0) => Ok(Some((2, Step::Reply))),
        Some(_) => Err(ProxyRefusal::new("SOCKS: user name or password not accepted")),
    }
}

fn reply(said: &[u8]) -> Result<Option<(usize, Step)>, ProxyRefusal> {
    of_socks(said)?;
    match said.get(1) {
        None => return Ok(None),
        Some(0) => {}
        Some(code) => return Err(ProxyRefusal::new(&format!("SOCKS: {}", words(*code)))),
    }
    let address = match (said.get(3), said.get(4)) {
        (Some(&IPV4), _) => 4,
        (Some(&IPV6), _) => 16,
        (Some(&NAME), Some(length)) => 1 + usize::from(*length),
        (Some(&NAME), None) | (None, _) => return Ok(None),
        (Some(kind), _) => return Err(ProxyRefusal::new(&format!("SOCKS: an address of type {kind} in the reply"))),
    };
    let length = 4 + address + 2;
    Ok((said.len() >= length).then_some((length, Step::Payload)))
}

/// What a reply means (RFC 1928, 6).
fn words(code: u8) -> String {
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

#[cfg(test)]
#[path = "tunnel_tests.rs"]
mod tests;
