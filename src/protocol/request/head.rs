//! The head of a request. httparse parses the fields; the checks here are stricter where it is lenient.

use std::mem;

use httparse::{EMPTY_HEADER, Status};

use crate::protocol::request::answers::Switch;
use crate::protocol::request::connection_options::ConnectionOptions;
use crate::protocol::request::forwarded;
use crate::protocol::request::framing::{Body, Framing, is_token};
use crate::protocol::request::lines::MOST;
use crate::protocol::request::refusal::Refusal;

/// The parts of a head that matter here.
#[derive(Debug)]
pub struct Head<'a> {
    pub method: &'a str,
    /// As the client wrote it. Some clients send letters beyond ASCII as they are, in any encoding.
    pub target: &'a [u8],
    /// Everything behind the target, without the empty line.
    pub rest: &'a [u8],
    pub body: Body,
    /// The value of `Host`.
    pub host: Option<&'a [u8]>,
    /// The value of `Referer`.
    pub referer: Option<&'a [u8]>,
    /// Lines that may not stay as they are.
    pub lines: SpecialLines,
    /// What the client asks the proxy to make of the connection.
    pub switch: Option<Switch>,
}

/// Which lines are there that may not stay as they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpecialLines {
    /// `Proxy-Authorization`.
    pub authorization: bool,
    /// A `Connection` or `Proxy-Connection` that names a field which must stay.
    pub connection: bool,
    /// A `Forwarded` whose quotes are open at its end.
    pub forwarded: bool,
}

/// The fields of a head that were read so far.
#[derive(Debug, Default)]
struct Fields<'a> {
    framing: Framing,
    host: Option<&'a [u8]>,
    referer: Option<&'a [u8]>,
    lines: SpecialLines,
    has_upgrade: bool,
    may_upgrade: bool,
}

impl<'a> Head<'a> {
    /// Parses a head: from the first byte of the request line to the last byte of the empty line.
    pub fn parse(text: &'a [u8]) -> Result<Head<'a>, Refusal> {
        let RequestLine { method, target, minor, length } = RequestLine::parse(text)?;
        let mut headers = [EMPTY_HEADER; MOST];
        let fields_text = text.get(length..).unwrap_or_default();
        let Status::Complete((end, headers)) = httparse::parse_headers(fields_text, &mut headers)? else {
            return Err(Refusal::Malformed("the lines of the head"));
        };
        if end != fields_text.len() {
            return Err(Refusal::Malformed("the lines of the head"));
        }
        let mut fields = Fields::default();
        headers.iter().try_for_each(|header| fields.take(header.name, header.value))?;
        let end = text.len().checked_sub(2);
        let rest = end.and_then(|end| text.get(method.len() + 1 + target.len()..end));
        let rest = rest.ok_or(Refusal::Malformed("the request line"))?;
        let body = fields.framing.body(minor)?;
        let switch = match method {
            // Proxies disagree about where such a body ends (RFC 9110, 9.3.6).
            "CONNECT" if body != Body::Length(0) => return Err(Refusal::Malformed("a CONNECT with a body")),
            "CONNECT" => Some(Switch::Tunnel),
            // A server ignores Upgrade in HTTP/1.0.
            _ => (fields.has_upgrade && fields.may_upgrade && minor == 1).then_some(Switch::Upgrade),
        };
        Ok(Head { method, target, rest, body, host: fields.host, referer: fields.referer, lines: fields.lines, switch })
    }
}

/// The first line of a head.
struct RequestLine<'a> {
    method: &'a str,
    target: &'a [u8],
    minor: u8,
    /// With its end.
    length: usize,
}

impl<'a> RequestLine<'a> {
    /// Accepts one space between the parts, and nothing else (RFC 9112, 3).
    fn parse(text: &'a [u8]) -> Result<RequestLine<'a>, Refusal> {
        let malformed = Refusal::Malformed("the request line");
        let end = text.iter().position(|byte| *byte == b'\n').ok_or(malformed)?;
        let line = text.get(..end).and_then(|line| line.strip_suffix(b"\r")).ok_or(malformed)?;
        let mut parts = line.splitn(3, |byte| *byte == b' ');
        let (Some(method), Some(target), Some(version)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(malformed);
        };
        let is_method = !method.is_empty() && method.iter().all(|byte| is_token(*byte));
        let is_target = !target.is_empty() && !target.iter().any(u8::is_ascii_control);
        let minor = match version {
            b"HTTP/1.0" => 0,
            b"HTTP/1.1" => 1,
            _ if is_method && is_target => return Err(Refusal::Malformed("the version")),
            _ => return Err(malformed),
        };
        match str::from_utf8(method) {
            Ok(method) if is_method && is_target => Ok(RequestLine { method, target, minor, length: end + 1 }),
            _ => Err(malformed),
        }
    }
}

impl<'a> Fields<'a> {
    fn take(&mut self, name: &str, value: &'a [u8]) -> Result<(), Refusal> {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        if is("Host") {
            if self.host.replace(value).is_some() {
                return Err(Refusal::Malformed("more than one Host"));
            }
        } else if is("Content-Length") {
            self.framing.length(value)?;
        } else if is("Transfer-Encoding") {
            self.framing.codings(value)?;
        } else if is("Referer") {
            self.referer = Some(value);
        } else if is("Proxy-Authorization") {
            if mem::replace(&mut self.lines.authorization, true) {
                return Err(Refusal::Malformed("more than one Proxy-Authorization"));
            }
        } else if is("Connection") || is("Proxy-Connection") {
            let options = ConnectionOptions::parse(value)?;
            self.may_upgrade |= options.upgrade && is("Connection");
            self.lines.connection |= options.has_wrong;
        } else if is("Forwarded") {
            self.lines.forwarded |= forwarded::is_open(value);
        } else if is("Upgrade") {
            self.has_upgrade = true;
        }
        Ok(())
    }
}

/// Whether the first bytes of a connection are meant as HTTP/1, correct or not; `None` while that is open.
pub fn is_meant(input: &[u8]) -> Option<bool> {
    let end = input.iter().position(|byte| *byte == b'\n');
    let line = end.and_then(|end| input.get(..end)).unwrap_or(input);
    let method = line.split(|byte| *byte == b' ').next().unwrap_or_default();
    let foreign = |byte: &u8| !byte.is_ascii_graphic() && !byte.is_ascii_whitespace();
    let no_start = |byte: &u8| !is_token(*byte) && !byte.is_ascii_whitespace();
    if method.iter().any(foreign) || input.first().is_some_and(no_start) {
        return Some(false);
    }
    end.map(|_| line.windows(7).any(|part| part == b"HTTP/1."))
}

#[cfg(test)]
#[path = "head_tests.rs"]
mod tests;
