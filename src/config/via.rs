//! How the upstreams are spoken to: `--via`, and what goes with it.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::rc::Rc;

use getopts::Matches;
use nix::unistd::Uid;

use crate::config::values;
use crate::error::Error;
use crate::protocol::credentials::Credentials;
use crate::protocol::hostname::HostName;
use crate::protocol::proxy_header::Version;
use crate::protocol::request::{Forwarded, Rewriting};
use crate::protocol::tunnel::Dialect;
use crate::relay::tunnel::Tunnel;
use crate::traffic::service::{Destination, Via};

/// Which `--via` an option goes with, where it does not go with all of them.
const GOES_WITH: &[(&str, &str, &[&str])] = &[
    ("via-fallback", "--via-fallback", &["http"]),
    ("forwarded", "--forwarded", &["http"]),
    ("host-check", "--host-check", &["http"]),
    ("page", "-f", &["http"]),
    ("sni", "--sni", &["connect", "socks5", "http"]),
    ("auth-file", "--auth-file", &["http", "connect", "socks5"]),
    ("proxy-protocol", "--proxy-protocol", &["tcp"]),
];

/// `--via` with all that belongs to it.
///
/// Errors: options that do not go together, or a file of `--auth-file` that is not what it must be.
pub(crate) fn via(matches: &Matches, destination: &Destination) -> Result<Via, Error> {
    let given = matches.opt_str("via");
    let kind = given.as_deref().unwrap_or("tcp");
    if !["tcp", "http", "connect", "socks5"].contains(&kind) {
        return Err(Error::value("--via", kind, "tcp, http, connect or socks5"));
    }
    if kind != "tcp" && *destination == Destination::Original {
        return Err(Error::Usage(format!("--via: '{kind}' given with -t, the proxy's HOST PORT and no -t wanted")));
    }
    check_company(matches, kind)?;
    let credentials =
        values::path(matches, "--auth-file", "auth-file")?.map(|path| read_credentials(&path)).transpose()?;
    let by_name = matches.opt_present("sni");
    let tunnel = |dialect| Tunnel { dialect, credentials: credentials.clone(), by_name };
    match kind {
        "http" => {
            let fallback = fallback(matches)?.map(|dialect| Rc::new(tunnel(dialect)));
            Ok(Via::Http(Rc::new(rewriting(matches, credentials)?), fallback))
        }
        "connect" => Ok(Via::Tunnel(tunnel(Dialect::Connect))),
        "socks5" => Ok(Via::Tunnel(tunnel(Dialect::Socks5))),
        _ => Ok(Via::Tcp(header(matches)?)),
    }
}

fn check_company(matches: &Matches, kind: &str) -> Result<(), Error> {
    let lonely = GOES_WITH.iter().find(|(name, _, kinds)| matches.opt_present(name) && !kinds.contains(&kind));
    if let Some((_, option, kinds)) = lonely {
        let default = if matches.opt_present("via") { "" } else { "the default " };
        let wanted = kinds.join(" or ");
        return Err(Error::Usage(format!("{option}: given with {default}--via {kind}, --via {wanted} wanted")));
    }
    if kind == "http" && matches.opt_present("sni") && !matches.opt_present("via-fallback") {
        return Err(Error::Usage("--sni: given with --via http alone, --via-fallback connect beside it wanted".into()));
    }
    Ok(())
}

fn fallback(matches: &Matches) -> Result<Option<Dialect>, Error> {
    match matches.opt_str("via-fallback").as_deref() {
        None => Ok(None),
        Some("connect") => Ok(Some(Dialect::Connect)),
        Some(other) => Err(Error::value("--via-fallback", other, "connect")),
    }
}

fn rewriting(matches: &Matches, credentials: Option<Credentials>) -> Result<Rewriting, Error> {
    Ok(Rewriting {
        forwarded: forwarded(matches)?,
        credentials,
        page: matches.opt_str("page").map(|text| page(&text)).transpose()?,
        check_host: matches.opt_present("host-check"),
    })
}

fn header(matches: &Matches) -> Result<Option<Version>, Error> {
    match matches.opt_str("proxy-protocol").as_deref() {
        None => Ok(None),
        Some("v1") => Ok(Some(Version::V1)),
        Some("v2") => Ok(Some(Version::V2)),
        Some(other) => Err(Error::value("--proxy-protocol", other, "v1 or v2")),
    }
}

fn forwarded(matches: &Matches) -> Result<Forwarded, Error> {
    match matches.opt_str("forwarded").as_deref() {
        None => Ok(Forwarded::No),
        Some("forwarded") => Ok(Forwarded::Standard),
        Some("x-forwarded-for") => Ok(Forwarded::XForwardedFor),
        Some("both") => Ok(Forwarded::Both),
        Some(other) => Err(Error::value("--forwarded", other, "forwarded, x-forwarded-for or both")),
    }
}

/// `-f`. A path is added where there is none: a Referer has one.
fn page(text: &str) -> Result<String, Error> {
    let found = || {
        let rest = text.strip_prefix("http://")?;
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        // A Referer has no fragment (RFC 9110, 10.1.3), so such a URL would never be one.
        let is_plain = path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
        let root = if path.starts_with('/') { "" } else { "/" };
        (is_plain && is_authority(authority)).then(|| format!("http://{authority}{root}{path}"))
    };
    found().ok_or_else(|| Error::value("-f", text, "an absolute URL such as http://cow/down.html, without blanks"))
}

/// `HOST` or `HOST:PORT`, IPv6 in brackets.
fn is_authority(text: &str) -> bool {
    let (host, port) = text.rsplit_once(':').filter(|_| !text.ends_with(']')).unwrap_or((text, "80"));
    // Outside brackets, the colons of IPv6 cannot be told from that of the port.
    let is_bare_v6 = host.contains(':') && !host.starts_with('[');
    let is_port = port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse().is_ok_and(|port: u16| port != 0);
    HostName::parse(host).is_some() && !is_bare_v6 && is_port
}

/// The most bytes of a file with credentials.
const LONGEST: u64 = 4096;

/// Reads what the file says. It is judged when it is open: nobody can put another in its place then.
fn read_credentials(path: &Path) -> Result<Credentials, Error> {
    let shown = path.display().to_string();
    let failed = |error| Error::file(shown.clone(), error);
    // A FIFO would wait for somebody to write.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
    let about = file.metadata().map_err(failed)?;
    let wrong = if !about.is_file() {
        Some("a regular file")
    } else if about.mode() & 0o077 != 0 {
        Some("a file that nobody but its owner may read or write (chmod 600)")
    } else if about.uid() != 0 && about.uid() != Uid::effective().as_raw() {
        Some("a file of root or of the user who starts tproxy")
    } else if about.len() > LONGEST {
        Some("a file of one line, USER:PASSWORD")
    } else {
        None
    };
    if let Some(wants) = wrong {
        return Err(Error::value("--auth-file", shown, wants));
    }
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text).map_err(failed)?;
    Credentials::parse(&text).map_err(|why| Error::Usage(format!("--auth-file: {shown}: {why}")))
}

/// How it reads behind the upstreams.
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
    use crate::cli::options;
    use lab::tempdir::TempDir;
    use std::io::Write;

    fn parsed(line: &str) -> Result<Via, Error> {
        let matches = options::parse(&shell_words::split(line).unwrap()).unwrap();
        via(&matches, &Destination::Hosts(Vec::new()))
    }

    #[test]
    fn what_is_said_of_the_proxy_arrives_where_it_is_used() {
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
