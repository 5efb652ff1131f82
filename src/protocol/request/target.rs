//! The four forms of a request's target (RFC 9112, 3.2).

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
    pub fn of(method: &str, target: &str) -> Result<Form, Refusal> {
        // Browsers send `|`, `[` and others that RFC 3986 does not allow in a path or query. No client may send a
        // fragment, and servers disagree about its meaning.
        let is_visible = |byte: u8| byte.is_ascii_graphic() && byte != b'#';
        let form = match (method, target) {
            ("CONNECT", _) => has_host_and_port(target).then_some(Form::Authority),
            ("OPTIONS", "*") => Some(Form::Asterisk),
            _ if target.starts_with('/') => Some(Form::Origin),
            _ => is_url(target).then_some(Form::Absolute),
        };
        form.filter(|_| target.bytes().all(is_visible)).ok_or(Refusal::Malformed("the target"))
    }
}

/// The authority of a URL, and the rest behind it. There is none if the URL is not plain `http`, or its host is not
/// understood by everybody in the same way.
pub fn url(target: &str) -> (Option<Authority<'_>>, &str) {
    let Some((scheme, rest)) = target.split_once("://") else { return (None, "") };
    let (authority, path) = rest.find(['/', '?']).and_then(|at| rest.split_at_checked(at)).unwrap_or((rest, ""));
    let host = Authority::parse(authority.as_bytes()).filter(|_| scheme.eq_ignore_ascii_case("http"));
    (host.map(Authority::with_port), path)
}

fn has_host_and_port(target: &str) -> bool {
    Authority::parse(target.as_bytes()).is_some_and(|authority| authority.port().is_some())
}

fn is_url(target: &str) -> bool {
    let of_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    target.split_once("://").is_some_and(|(scheme, rest)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.bytes().all(of_scheme) && !rest.is_empty()
    })
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
            assert_eq!(Form::of(method, target), Ok(wanted), "{method} {target}");
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
            ("GET", "/kühe"),
            ("GET", "/\u{a0}"),
            ("CONNECT", "/"),
            ("CONNECT", "moose"),
            ("CONNECT", "moose:"),
            ("CONNECT", "moose:0"),
            ("CONNECT", "user@moose:443"),
            ("CONNECT", "http://moose/"),
            ("CONNECT", "fd00:2::5:443"),
            ("connect", "moose:443"),
        ];
        for (method, target) in table {
            assert_eq!(Form::of(method, target), Err(Refusal::Malformed("the target")), "{method} {target}");
        }
    }
}
