//! The control socket, the metrics, and the checks of upstreams.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::cli::option::OptionId;
use crate::cli::parse::Arguments;
use crate::config::{outside, values};
use crate::error::Error;
use crate::sys::account;
use crate::traffic::service::{CheckKind, UpstreamCheck};

/// The settings for those who look at a daemon and steer it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ControlSettings {
    pub socket: ControlSocket,
    /// The group that the socket belongs to.
    pub group: Option<u32>,
    pub metrics: Option<MetricsAddress>,
    pub health_file: Option<PathBuf>,
}

/// `--control`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ControlSocket {
    /// In the directory of the locks, if there is one for this instance.
    Usual,
    None,
    At(PathBuf),
}

/// `--metrics`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MetricsAddress {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl ControlSettings {
    /// With its relative paths in this directory.
    pub(super) fn at(self, directory: &Path) -> ControlSettings {
        let socket = match self.socket {
            ControlSocket::At(path) => ControlSocket::At(directory.join(path)),
            other => other,
        };
        let metrics = self.metrics.map(|metrics| match metrics {
            MetricsAddress::Unix(path) => MetricsAddress::Unix(directory.join(path)),
            tcp @ MetricsAddress::Tcp(_) => tcp,
        });
        ControlSettings { socket, metrics, ..self }
    }

    /// A process that only relays is not enough.
    pub(super) fn needs_guardian(&self) -> bool {
        matches!(self.socket, ControlSocket::At(_)) || self.metrics.is_some() || self.health_file.is_some()
    }
}

/// The socket of an instance that nobody has named.
pub(crate) fn usual_path(instance: &str) -> PathBuf {
    Path::new("/run/tproxy").join(format!("{instance}.sock"))
}

/// Bytes of the longest path of a Unix socket (unix(7)); a name for the time of its making has some more.
const LONGEST_PATH: usize = 90;

fn path(text: &str) -> Result<PathBuf, String> {
    let good = !text.is_empty() && text.len() <= LONGEST_PATH && !text.contains('\0');
    good.then(|| PathBuf::from(text)).ok_or_else(|| format!("the path of a socket, of at most {LONGEST_PATH} bytes"))
}

pub(super) fn socket(text: &str) -> Result<ControlSocket, String> {
    if text == "none" { Ok(ControlSocket::None) } else { path(text).map(ControlSocket::At) }
}

/// An address with a port, or a path, which has a slash.
pub(super) fn metrics(text: &str) -> Result<MetricsAddress, String> {
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Ok(MetricsAddress::Tcp(address)),
        Err(_) if text.contains('/') => path(text).map(MetricsAddress::Unix),
        _ => Err("ADDRESS:PORT, such as 127.0.0.1:9101 or [::1]:9101, or the path of a socket".to_owned()),
    }
}

/// `--control-group`
pub(super) fn group(arguments: &Arguments) -> Result<Option<u32>, Error> {
    let Some(name) = arguments.text(OptionId::ControlGroup) else { return Ok(None) };
    let failed = |error| Error::sys(format!("--control-group: looking up '{name}'"), error);
    let found = outside::answer("group", OsStr::new(name), || {
        account::find_group(name).map(|found| found.map(|gid| gid.to_string())).map_err(failed)
    })?;
    let gid = found.and_then(|text| text.parse().ok());
    gid.map(Some).ok_or_else(|| Error::value("--control-group", name, "the name or #GID of a group of this host"))
}

/// How the upstreams of a redirection are checked.
pub(super) fn check(arguments: &Arguments) -> Result<Option<UpstreamCheck>, Error> {
    let interval = arguments.value(OptionId::CheckInterval, |text| values::seconds(text, 1))?;
    let kind = match arguments.value(OptionId::CheckHttp, request_path)? {
        Some(path) => CheckKind::Http(path),
        None if arguments.has(OptionId::CheckTls) => CheckKind::Tls,
        None => CheckKind::Connect,
    };
    let (rise, fall) = (arguments.value(OptionId::Rise, times)?, arguments.value(OptionId::Fall, times)?);
    let check = |interval| UpstreamCheck { interval, kind, rise: rise.unwrap_or(2), fall: fall.unwrap_or(3) };
    Ok(interval.map(check))
}

fn request_path(text: &str) -> Result<String, String> {
    let good = text.starts_with('/') && text.len() <= 1024 && text.bytes().all(|byte| byte.is_ascii_graphic());
    good.then(|| text.to_owned()).ok_or_else(|| "a path such as /health, without blanks".to_owned())
}

fn times(text: &str) -> Result<u8, String> {
    text.parse().ok().filter(|times| *times > 0).ok_or_else(|| "a number from 1 to 255".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_and_addresses_are_told_apart() {
        assert_eq!(socket("none"), Ok(ControlSocket::None));
        assert_eq!(socket("/run/x.sock"), Ok(ControlSocket::At("/run/x.sock".into())));
        assert!(socket("").is_err() && socket(&"x".repeat(91)).is_err());
        assert_eq!(metrics("[::1]:9101"), Ok(MetricsAddress::Tcp("[::1]:9101".parse().unwrap())));
        assert_eq!(metrics("./m.sock"), Ok(MetricsAddress::Unix("./m.sock".into())));
        for wrong in ["9101", "localhost:9101", "127.0.0.1", "127.0.0.1:0", ""] {
            assert!(metrics(wrong).is_err(), "{wrong}");
        }
        let relative = ControlSettings {
            socket: ControlSocket::At("c".into()),
            group: None,
            metrics: Some(MetricsAddress::Unix("./m".into())),
            health_file: None,
        };
        let there = relative.at(Path::new("/d"));
        assert_eq!(
            (there.socket, there.metrics),
            (ControlSocket::At("/d/c".into()), Some(MetricsAddress::Unix("/d/./m".into())))
        );
    }
}
