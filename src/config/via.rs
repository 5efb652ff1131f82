//! `--via`, and the options that go with it.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::rc::Rc;

use nix::unistd::Uid;

use crate::cli::option::OptionId;
use crate::cli::parse::Arguments;
use crate::config::{outside, trusted_file, values};
use crate::error::Error;
use crate::protocol::credentials::Credentials;
use crate::protocol::hostname::HostName;
use crate::protocol::proxy_header::Version;
use crate::protocol::request::{Forwarded, HEAD, Rewriting};
use crate::protocol::tunnel::Dialect;
use crate::relay::tunnel::Tunnel;
use crate::traffic::service::Via;

/// Reads `--via` with all that belongs to it.
///
/// Errors: a bad URL, or a bad file of `--auth-file`.
pub(super) fn read(arguments: &Arguments) -> Result<Via, Error> {
    let credentials = arguments.path(OptionId::AuthFile).map(credentials).transpose()?;
    let by_name = arguments.has(OptionId::Sni);
    let tunnel = |dialect| Tunnel { dialect, credentials: credentials.clone(), by_name };
    match arguments.text(OptionId::Via) {
        Some("http") => {
            let fallback = arguments.has(OptionId::ViaFallback).then(|| Rc::new(tunnel(Dialect::Connect)));
            Ok(Via::Http(Rc::new(rewriting(arguments, credentials)?), fallback))
        }
        Some("connect") => Ok(Via::Tunnel(tunnel(Dialect::Connect))),
        Some("socks5") => Ok(Via::Tunnel(tunnel(Dialect::Socks5))),
        _ => Ok(Via::Tcp(match arguments.text(OptionId::ProxyProtocol) {
            Some("v1") => Some(Version::V1),
            Some(_) => Some(Version::V2),
            None => None,
        })),
    }
}

fn rewriting(arguments: &Arguments, credentials: Option<Credentials>) -> Result<Rewriting, Error> {
    Ok(Rewriting {
        forwarded: match arguments.text(OptionId::Forwarded) {
            None => Forwarded::No,
            Some("forwarded") => Forwarded::Standard,
            Some("x-forwarded-for") => Forwarded::XForwardedFor,
            Some(_) => Forwarded::Both,
        },
        credentials,
        page: arguments.value(OptionId::Page, page)?,
        check_host: arguments.has(OptionId::HostCheck),
        max_head: arguments.value(OptionId::MaxHead, values::head_length)?.unwrap_or(HEAD),
        ..Rewriting::default()
    })
}

/// `-f`. A path is added where there is none, because a Referer has one.
fn page(text: &str) -> Result<String, String> {
    let found = || {
        let rest = text.strip_prefix("http://")?;
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        // A Referer has no fragment (RFC 9110, 10.1.3), so such a URL would never be one.
        let is_plain = path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
        let root = if path.starts_with('/') { "" } else { "/" };
        (is_plain && is_authority(authority)).then(|| format!("http://{authority}{root}{path}"))
    };
    found().ok_or_else(|| "an absolute URL such as http://cow/down.html, without blanks".to_owned())
}

/// `HOST` or `HOST:PORT`, IPv6 in brackets.
fn is_authority(text: &str) -> bool {
    let (host, port) = text.rsplit_once(':').filter(|_| !text.ends_with(']')).unwrap_or((text, "80"));
    // Outside brackets, the colons of IPv6 cannot be told from that of the port.
    let is_bare_v6 = host.contains(':') && !host.starts_with('[');
    let is_port = port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse().is_ok_and(|port: u16| port != 0);
    HostName::parse(host).is_some() && !is_bare_v6 && is_port
}

/// The longest file with credentials.
const LONGEST: u64 = 4096;

/// The credentials in the file of `--auth-file`.
fn credentials(path: &Path) -> Result<Credentials, Error> {
    let text = outside::answer("auth-file", path.as_os_str(), || read_credentials(path).map(Some))?;
    let shown = path.display();
    let parsed = Credentials::parse(&text.unwrap_or_default());
    parsed.map_err(|why| Error::Usage(format!("--auth-file: {shown}: {why}")))
}

/// Reads the file of `--auth-file`. Its owner and mode are checked on the open file, so that nobody can replace it after
/// the check.
fn read_credentials(path: &Path) -> Result<String, Error> {
    let shown = path.display().to_string();
    let bytes = trusted_file::read("--auth-file", path, LONGEST, |about| {
        if about.mode() & 0o077 != 0 {
            Some("a file that nobody but its owner may read or write (chmod 600)")
        } else if about.uid() != 0 && about.uid() != Uid::effective().as_raw() {
            Some("a file of root or of the user who starts tproxy")
        } else if about.len() > LONGEST {
            Some("a file of one line, USER:PASSWORD")
        } else {
            None
        }
    })?;
    String::from_utf8(bytes).map_err(|_| Error::value("--auth-file", shown, "UTF-8 text"))
}

/// The words about it behind an upstream, in a log line.
pub(crate) fn text(via: &Via) -> &'static str {
    match via {
        Via::Tcp(None) => "",
        Via::Tcp(Some(Version::V1)) => " with a PROXY header, v1",
        Via::Tcp(Some(Version::V2)) => " with a PROXY header, v2",
        Via::Http(_, None) => " via http",
        Via::Http(_, Some(_)) => " via http, what is not HTTP via connect",
        Via::Tunnel(Tunnel { dialect: Dialect::Connect, .. }) => " via connect",
        Via::Tunnel(Tunnel { dialect: Dialect::Socks5, .. }) => " via socks5",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lab::tempdir::TempDir;
    use std::fs::File;
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;

    fn parsed(line: &str) -> Result<Via, Error> {
        let words: Vec<_> = shell_words::split(line).unwrap().into_iter().map(std::ffi::OsString::from).collect();
        read(&crate::cli::parse::parse(&words, Path::new("/")).unwrap())
    }

    #[test]
    fn the_options_of_a_proxy_arrive_where_they_are_used() {
        let url = "http://cow/down.html";
        let line = format!("--via http --forwarded both --host-check -f {url} --via-fallback connect --sni");
        let Via::Http(rewriting, Some(tunnel)) = parsed(&line).unwrap() else { panic!("not HTTP with a tunnel") };
        assert_eq!((rewriting.forwarded, rewriting.check_host), (Forwarded::Both, true));
        assert_eq!((rewriting.page.as_deref(), tunnel.dialect, tunnel.by_name), (Some(url), Dialect::Connect, true));
        assert!(matches!(parsed("--via http").unwrap(), Via::Http(_, None)));
        assert!(matches!(parsed("").unwrap(), Via::Tcp(None)));
        assert!(matches!(parsed("--proxy-protocol v1").unwrap(), Via::Tcp(Some(Version::V1))));
        let Via::Tunnel(tunnel) = parsed("--via socks5").unwrap() else { panic!("no tunnel") };
        assert_eq!((tunnel.dialect, tunnel.by_name), (Dialect::Socks5, false));
    }

    #[test]
    fn a_page_gets_the_path_that_its_referer_will_have() {
        for (given, wanted) in [
            ("http://cow", "http://cow/"),
            ("http://cow?why", "http://cow/?why"),
            ("http://cow:81/a?b", "http://cow:81/a?b"),
            ("http://[fd00::3]", "http://[fd00::3]/"),
        ] {
            assert_eq!(page(given).unwrap(), wanted);
        }
    }

    #[test]
    fn credentials_are_used_and_never_shown() {
        let directory = TempDir::new();
        let path = directory.file("secret");
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&path).unwrap();
        file.write_all(b"squid-user:sesame\n").unwrap();
        let ways: Vec<_> = ["http --via-fallback connect", "connect", "socks5"]
            .map(|kind| parsed(&format!("--via {kind} --auth-file {path}")))
            .into();
        for way in ways {
            let way = way.unwrap();
            let shown = format!("{way:?}{way:#?}{}", text(&way));
            assert!(!shown.contains("sesame") && !shown.contains("squid-user"), "{shown}");
            let credentials = match way {
                Via::Tunnel(tunnel) => tunnel.credentials,
                Via::Http(_, Some(tunnel)) => tunnel.credentials.clone(),
                other => panic!("no tunnel: {other:?}"),
            };
            let Credentials { user, password } = credentials.expect("credentials");
            assert_eq!((user.as_str(), password.as_str()), ("squid-user", "sesame"));
        }
    }
}
