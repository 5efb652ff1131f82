//! HTTP CONNECT (RFC 9110, 9.3.6).

use std::io::Write;

use crate::protocol::credentials::Credentials;
use crate::protocol::tunnel::answer::{Expected, Parsed, ProxyRefusal};
use crate::protocol::tunnel::target::TunnelTarget;

/// Bytes of the longest head of an answer.
pub(crate) const ANSWER: usize = 8 * 1024;

/// Where the status is in the first line of an answer.
const STATUS: usize = 9;

pub(super) fn write_request(target: TunnelTarget<'_>, credentials: Option<&Credentials>, out: &mut Vec<u8>) {
    // Writing to a Vec cannot fail.
    let _ = write!(out, "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    if let Some(credentials) = credentials {
        credentials.write_header(out);
    }
    out.extend_from_slice(b"\r\n");
}

/// Any status 2xx connects us, whatever the fields say (RFC 9110, 9.3.6). The fields are skipped without a check:
/// proxies write them carelessly.
pub(super) fn parse_head(input: &[u8]) -> Parsed {
    let seen = input.get(..ANSWER).unwrap_or(input);
    if !seen.iter().enumerate().all(|(at, byte)| fits_status_line(at, *byte)) {
        return Err(ProxyRefusal::new("the answer is not HTTP/1"));
    }
    let mut lines = seen.split_inclusive(|byte| *byte == b'\n');
    let Some(first) = lines.next().filter(|line| line.ends_with(b"\n")) else { return incomplete(seen) };
    let next = match first.get(STATUS..STATUS + 3) {
        Some([b'2', ..]) => Expected::Payload,
        // 101 switches to another protocol, which we did not ask for.
        Some([b'1', rest @ ..]) if rest != b"01" => Expected::Head,
        _ => return Err(ProxyRefusal::new(String::from_utf8_lossy(first).trim_end())),
    };
    let mut length = first.len();
    for line in lines {
        length += line.len();
        if matches!(line, b"\n" | b"\r\n") {
            return Ok(Some((length, next)));
        }
    }
    incomplete(seen)
}

fn fits_status_line(at: usize, byte: u8) -> bool {
    match at {
        0..=6 => b"HTTP/1.".get(at) == Some(&byte),
        7 | STATUS..=11 => byte.is_ascii_digit(),
        8 => byte == b' ',
        12 => matches!(byte, b' ' | b'\r' | b'\n'),
        _ => true,
    }
}

fn incomplete(seen: &[u8]) -> Parsed {
    if seen.len() < ANSWER { Ok(None) } else { Err(ProxyRefusal::new("the head of the answer is too long")) }
}
