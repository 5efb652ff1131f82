//! Values of options: from what was typed to what it means. What cannot be used is answered with what is expected.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ipnet::IpNet;
use nix::net::if_::if_nametoindex;
use syslog::Facility;

use crate::cli::option::OptionId;
use crate::cli::options;
use crate::cli::parse::Arguments;
use crate::config::outside;
use crate::error::Error;
use crate::protocol::hostname::HostName;
use crate::protocol::request::MAX_HEAD;
use crate::rules::policy_routing::Mark;
use crate::sys::account::{self, Account};
use crate::sys::services;
use crate::traffic::compact_addr::network_with_length;
use crate::traffic::service::{HostPort, SAME};
use crate::traffic::source_limit::{self, SourcePrefix};

/// `HOST PORT`
pub(super) fn host(pair: &[String]) -> Result<HostPort, Error> {
    let [name, number] = pair else {
        let given = pair.join(" ");
        return Err(match pair.len() {
            0 => Error::Usage("HOST PORT: missing".into()),
            1 => Error::Usage(format!("HOST PORT: '{given}' has no PORT")),
            _ => Error::value("HOST PORT", given, "one host and one port"),
        });
    };
    let (name, interface) = host_name(name).map_err(|expected| Error::value("HOST", name, expected))?;
    let port = match number.as_str() {
        SAME => None,
        _ => Some(port(number).map_err(|expected| Error::value("PORT", number, format!("{expected}, or {SAME}")))?),
    };
    Ok(HostPort { name, port, interface })
}

/// A host with the number of its interface: a link-local IPv6 address means nothing without one.
fn host_name(text: &str) -> Result<(HostName, u32), String> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let (address, interface) = bare.split_once('%').map_or((text, None), |(address, name)| (address, Some(name)));
    let host = HostName::parse(address).ok_or("a host name, an IPv4 address or an IPv6 address")?;
    if host.literal().is_some_and(|ip| ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST)) {
        return Err("the address of a host".to_owned());
    }
    let is_link_local = matches!(host.literal(), Some(IpAddr::V6(v6)) if v6.is_unicast_link_local());
    match interface {
        None if is_link_local => Err(format!("the interface of this link-local address, such as {bare}%eth0")),
        None => Ok((host, 0)),
        Some(_) if !is_link_local => Err("an interface only behind a link-local IPv6 address".to_owned()),
        Some(name) => {
            let number = if_nametoindex(name).map_err(|_| format!("an interface of this host, which {name} is not"))?;
            Ok((host, number))
        }
    }
}

/// A number from 1 to 65535, or a name from services(5).
pub(super) fn port(text: &str) -> Result<u16, String> {
    let number = text.parse().ok().filter(|port| *port != 0);
    let digits = text.chars().all(|c| c.is_ascii_digit());
    let service = || Ok::<_, String>(services::tcp_port(text).map(|port| port.to_string()));
    let found = if digits {
        number
    } else {
        outside::answer("service", OsStr::new(text), service)?.and_then(|port| port.parse().ok())
    };
    found.ok_or_else(|| "a port from 1 to 65535 or the name of a TCP service".to_owned())
}

/// `--tproxy-mark`
pub(super) fn mark(text: &str) -> Result<Mark, String> {
    text.parse().map_err(|()| "VALUE or VALUE/MASK, with a bit that is set and none outside of the mask".to_owned())
}

/// `--tproxy-table`: not one of the kernel's own (rtnetlink(7)).
pub(super) fn table(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|table| !matches!(table, 0 | 253..=255));
    number.ok_or_else(|| "a number from 1 to 4294967295 other than 253, 254 and 255".to_owned())
}

/// `-b`
pub(super) fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| "an IPv4 or IPv6 address of this host".to_owned())
}

/// `-r`
pub(super) fn user(arguments: &Arguments) -> Result<Option<Account>, Error> {
    let Some(name) = arguments.text(OptionId::User) else { return Ok(None) };
    let failed = |error| Error::sys(format!("-r: looking up '{name}'"), error);
    let numbers = |account: Account| format!("{} {}", account.uid, account.gid);
    let found = outside::answer("user", OsStr::new(name), || {
        account::find(name).map(|found| found.map(numbers)).map_err(failed)
    })?;
    let account = |text: &str| {
        let (uid, gid) = text.split_once(' ')?;
        Some(Account { uid: uid.parse().ok()?, gid: gid.parse().ok()? })
    };
    found
        .as_deref()
        .and_then(account)
        .map(Some)
        .ok_or_else(|| Error::value("-r", name, "the name or #UID of a user of this host"))
}

/// `-a` and `--deny`
pub(super) fn networks(arguments: &Arguments, id: OptionId) -> Result<Vec<IpNet>, Error> {
    let read = |text| network(text).map_err(|expected| Error::value(options::opt(id).to_string(), text, expected));
    arguments.texts(id).map(read).collect()
}

fn network(text: &str) -> Result<IpNet, String> {
    if let Some(network) = network_with_length(text) {
        return Ok(network);
    }
    match text.parse::<IpAddr>() {
        // transproxy took this for a network, of a length that it guessed.
        Ok(IpAddr::V4(v4)) if v4.octets()[3] == 0 => {
            Err(format!("a network with its length (such as {text}/24) or the address of a host"))
        }
        Ok(ip) => Ok(ip.to_canonical().into()),
        Err(_) => Err("the address of a host or a network such as 10.0.0.0/8".to_owned()),
    }
}

/// `-m` and `--max-per-source`
pub(super) fn connections(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=source_limit::MOST).contains(number));
    number.ok_or_else(|| format!("a number of connections from 1 to {}", source_limit::MOST))
}

/// `--max-head`
pub(super) fn head_length(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| MAX_HEAD.contains(number));
    number.ok_or_else(|| format!("a number of bytes from {} to {}", MAX_HEAD.start(), MAX_HEAD.end()))
}

/// `--source-block`
pub(super) fn source_block(text: &str) -> Result<SourcePrefix, String> {
    let bits = |text: &str, most: u8| text.parse().ok().filter(|bits| (1..=most).contains(bits));
    let both = text.split_once(':').and_then(|(v4, v6)| Some(SourcePrefix { v4: bits(v4, 32)?, v6: bits(v6, 128)? }));
    both.ok_or_else(|| "a prefix length for IPv4 and one for IPv6, such as 32:64".to_owned())
}

/// The most workers: more have no use on any machine, and each has its own listening sockets.
const MOST_WORKERS: usize = 64;

/// `-w`
pub(super) fn workers(text: &str) -> Result<usize, String> {
    if text == "auto" {
        return Ok(std::thread::available_parallelism().map_or(1, |count| count.get().min(MOST_WORKERS)));
    }
    let number = text.parse().ok().filter(|number| (1..=MOST_WORKERS).contains(number));
    number.ok_or_else(|| format!("auto or a number of workers from 1 to {MOST_WORKERS}"))
}

/// `--syslog`
pub(super) fn facility(text: &str) -> Result<Facility, String> {
    text.parse().map_err(|()| "a facility such as daemon, auth or local0 to local7".to_owned())
}

/// Thirty days: longer than any connection is silent, short enough for every counter of ticks.
const LONGEST: u64 = 30 * 24 * 3600;

/// A number of seconds, at least `least`.
pub(super) fn seconds(text: &str, least: u64) -> Result<Duration, String> {
    let number = text.parse().ok().filter(|number| (least..=LONGEST).contains(number));
    number.map(Duration::from_secs).ok_or_else(|| format!("a number of seconds from {least} to {LONGEST}"))
}
