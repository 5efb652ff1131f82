//! The Host of an HTTP/1 request (RFC 9112, 3.2).

use httparse::{EMPTY_HEADER, Request};

use super::Stop;

/// Header lines of the longest head that is looked at.
const LINES: usize = 100;

/// The host that the first request is for, without the port.
pub(super) fn host(bytes: &[u8]) -> Result<&[u8], Stop> {
    // httparse passes over empty lines first. A client that begins with one may be anything.
    if bytes.first().is_some_and(|byte| matches!(byte, b'\r' | b'\n')) {
        return Err(Stop::Never);
    }
    let mut lines = [EMPTY_HEADER; LINES];
    let mut request = Request::new(&mut lines);
    let status = request.parse(bytes).map_err(|_| Stop::Never)?;
    // Any other form is meant for a proxy. Its Host is what that proxy shall ask for, not who that proxy is.
    if request.path.is_some_and(|path| !path.starts_with('/') && path != "*") {
        return Err(Stop::Never);
    }
    if status.is_partial() {
        return Err(Stop::Short);
    }
    let mut hosts = request.headers.iter().filter(|line| line.name.eq_ignore_ascii_case("host"));
    match (hosts.next(), hosts.next()) {
        (Some(line), None) => without_port(line.value).ok_or(Stop::Never),
        _ => Err(Stop::Never),
    }
}

fn without_port(value: &[u8]) -> Option<&[u8]> {
    let mut parts = value.splitn(2, |byte| *byte == b':');
    let (host, port) = (parts.next()?, parts.next().unwrap_or_default());
    (port.len() <= 5 && port.iter().all(u8::is_ascii_digit)).then_some(host)
}
