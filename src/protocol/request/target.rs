//! The four forms of a request's target (RFC 9112, 3.2).

use std::ops::Range;

use crate::protocol::request::authority::Authority;
use crate::protocol::request::refusal::Refusal;

/// The form of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A path on the server that the client connected to.
    Origin,
    /// A whole URL, as proxies expect it.
    Absolute,
    /// The host and port of a CONNECT.
    Authority,
    /// `*`: the server as a whole.
    Asterisk,
}

impl Form {
    pub fn of(method: &str, target: &[u8]) -> Result<Form, Refusal> {
        // Clients send `|`, `[`, bytes beyond ASCII and others that RFC 3986 does not allow in a path or query. No client
        // may send a fragment, and servers disagree about its meaning.
        let is_visible = |byte: &u8| (byte.is_ascii_graphic() || !byte.is_ascii()) && *byte != b'#';
        let form = match (method, target) {
            ("CONNECT", _) => has_host_and_port(target).then_some(Form::Authority),
            ("OPTIONS", b"*") => Some(Form::Asterisk),
            _ if target.starts_with(b"/") => Some(Form::Origin),
            _ => is_url(target).then_some(Form::Absolute),
        };
        form.filter(|_| target.iter().all(is_visible)).ok_or(Refusal::Malformed("the target"))
    }
}

/// The authority of a URL, and the rest behind it. There is none if its host is not understood by everybody in the same
/// way, which a user name in front of it makes worse.
pub fn url(target: &[u8]) -> (Option<Authority<'_>>, &[u8]) {
    let place = authority_place(target);
    let path = target.get(place.end..).unwrap_or_default();
    (target.get(place).and_then(Authority::parse).map(Authority::with_port), path)
}

/// Whether it is a URL of plain `http`.
pub fn is_plain_http(target: &[u8]) -> bool {
    split_scheme(target).is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case(b"http"))
}

/// The place of the authority in a URL. The target of a CONNECT is nothing else.
pub fn authority_place(target: &[u8]) -> Range<usize> {
    let start = split_scheme(target).map_or(0, |(_, rest)| target.len() - rest.len());
    let rest = target.get(start..).unwrap_or_default();
    let length = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    start..start + length
}

fn has_host_and_port(target: &[u8]) -> bool {
    Authority::parse(target).is_some_and(|authority| authority.port().is_some())
}

fn is_url(target: &[u8]) -> bool {
    let of_scheme = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
    split_scheme(target).is_some_and(|(scheme, rest)| {
        scheme.first().is_some_and(u8::is_ascii_alphabetic) && scheme.iter().all(of_scheme) && !rest.is_empty()
    })
}

fn split_scheme(target: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = target.windows(3).position(|three| three == b"://")?;
    Some((target.get(..end)?, target.get(end + 3..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_is_known() {
        let table = [
            ("GET", "/", Form::Origin),
            ("GET", "//moose/a", Form::Origin),
            ("POST", "/a?b=c|d&e=[f]^\"g\"{h}<i>\\`'", Form::Origin),
            ("GET", "/kühe?\u{a0}\u{85}", Form::Origin),
            ("GET", "http://moose/kühe", Form::Absolute),
            ("OPTIONS", "/", Form::Origin),
            ("OPTIONS", "*", Form::Asterisk),
            ("GET", "http://moose/a", Form::Absolute),
            ("GET", "HTTPS://moose", Form::Absolute),
            ("GET", "svn+ssh://moose/", Form::Absolute),
            ("OPTIONS", "http://moose", Form::Absolute),
            ("CONNECT", "moose:443", Form::Authority),
            ("CONNECT", "10.2.0.5:443", Form::Authority),
            ("CONNECT", "[fd00:2::5]:443", Form::Authority),
        ];
        for (method, target, wanted) in table {
            assert_eq!(Form::of(method, target.as_bytes()), Ok(wanted), "{method} {target}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let table = [
            ("GET", "moose"),
            ("GET", "moose:80"),
            ("GET", "*"),
            ("options", "*"),
            ("OPTIONS", "*/"),
            ("GET", "?a"),
            ("GET", "://moose/"),
            ("GET", "http://"),
            ("GET", "http:/moose/"),
            ("GET", "1http://moose/"),
            ("GET", "ht tp://moose/"),
            ("GET", "/#a"),
            ("GET", "http://moose/#a"),
            ("GET", "/\u{7f}"),
            ("CONNECT", "/"),
            ("CONNECT", "moose"),
            ("CONNECT", "moose:"),
            ("CONNECT", "moose:0"),
            ("CONNECT", "user@moose:443"),
            ("CONNECT", "http://moose/"),
            ("CONNECT", "fd00:2::5:443"),
            ("CONNECT", "kühe:443"),
            ("GET", "kühe://moose/"),
            ("connect", "moose:443"),
        ];
        for (method, target) in table {
            assert_eq!(Form::of(method, target.as_bytes()), Err(Refusal::Malformed("the target")), "{method} {target}");
        }
    }
}
