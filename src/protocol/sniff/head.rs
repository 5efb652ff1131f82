//! The Host of an HTTP/1 request (RFC 9112, 3.2).

use httparse::{EMPTY_HEADER, Request};

use super::stop::Stop;

/// The most fields of a head that is parsed.
const LINES: usize = 100;

/// Letters of the longest method; `UPDATEREDIRECTREF` has seventeen.
const LONGEST_METHOD: usize = 20;

/// The host of the first request, without the port.
pub(super) fn host(bytes: &[u8]) -> Result<&[u8], Stop> {
    // httparse skips empty lines. A client that begins with one may speak any protocol.
    if bytes.first().is_some_and(|byte| matches!(byte, b'\r' | b'\n')) {
        return Err(Stop::Never);
    }
    let mut lines = [EMPTY_HEADER; LINES];
    let mut request = Request::new(&mut lines);
    let status = request.parse(bytes).map_err(|_| Stop::Never)?;
    // A target of another form is meant for a proxy. Its Host names the server behind the proxy, not the proxy.
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

/// Whether an incomplete head is one: a method, as all that are registered (RFC 9110, 18.2) are written, and the
/// beginning of a path.
pub(super) fn has_begun(bytes: &[u8]) -> bool {
    let mut parts = bytes.splitn(2, |byte| *byte == b' ');
    let method = parts.next().unwrap_or_default();
    let is_method = method.iter().all(|byte| byte.is_ascii_uppercase() || matches!(byte, b'-' | b'_'));
    (1..=LONGEST_METHOD).contains(&method.len())
        && is_method
        && parts.next().and_then(|target| target.first()).is_none_or(|byte| matches!(byte, b'/' | b'*'))
}

fn without_port(value: &[u8]) -> Option<&[u8]> {
    let mut parts = value.splitn(2, |byte| *byte == b':');
    let (host, port) = (parts.next()?, parts.next().unwrap_or_default());
    (port.len() <= 5 && port.iter().all(u8::is_ascii_digit)).then_some(host)
}
