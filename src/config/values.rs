//! Values of options: from what was typed to what it means, or one sentence.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use getopts::Matches;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use syslog::Facility;

use crate::config::{FailMode, Listen, Workers};
use crate::error::Error;
use crate::protocol::hostname::HostName;
use crate::sys::account::{self, Account};
use crate::sys::clock::{Tick, ticks};
use crate::sys::services;
use crate::traffic::service::{Balance, HostPort};
use crate::traffic::source_limit::{self, SourcePrefix};

/// `HOST PORT`.
pub(crate) fn host(pair: &[String]) -> Result<HostPort, Error> {
    match pair {
        [name, number] => {
            let wants = || Error::value("HOST", name, "a host name, an IPv4 or an IPv6 address");
            Ok(HostPort { name: HostName::parse(name).ok_or_else(wants)?, port: port("PORT", number)? })
        }
        words => Err(Error::Usage(format!("'{}' given, HOST PORT wanted", words.join(" ")))),
    }
}

/// A number from 1 to 65535 or a name from services(5).
pub(crate) fn port(option: &str, text: &str) -> Result<u16, Error> {
    let number = text.parse().ok().filter(|port| *port != 0);
    let digits = text.chars().all(|c| c.is_ascii_digit());
    let found = if digits { number } else { services::tcp_port(text) };
    found.ok_or_else(|| Error::value(option, text, "a port from 1 to 65535 or the name of a TCP service"))
}

/// `-s` and `-b`.
pub(crate) fn listen(matches: &Matches) -> Result<Listen, Error> {
    let bind = matches.opt_str("bind");
    let address = |text: String| {
        text.parse::<IpAddr>().map_err(|_| Error::value("-b", text, "an IPv4 or IPv6 address of this host"))
    };
    match matches.opt_str("listen") {
        Some(text) => match text.strip_prefix("fd:") {
            Some(name) => Ok(Listen::Passed(Some(name.to_owned()))),
            None => Ok(Listen::Port { port: port("-s", &text)?, bind: bind.map(address).transpose()? }),
        },
        None if bind.is_some() => Err(Error::Usage("-b: given without -s, which says on what port".into())),
        None => Ok(Listen::Passed(None)),
    }
}

/// `-r`.
pub(crate) fn user(name: &str) -> Result<Account, Error> {
    let found = account::find(name).map_err(|error| Error::sys(format!("-r: looking up '{name}'"), error))?;
    found.ok_or_else(|| Error::value("-r", name, "the name or #UID of a user of this host"))
}

/// `-a` and `--deny`.
pub(crate) fn networks(matches: &Matches, option: &str, name: &str) -> Result<Vec<IpNet>, Error> {
    matches.opt_strs(name).iter().map(|text| network(option, text)).collect()
}

fn network(option: &str, text: &str) -> Result<IpNet, Error> {
    if let Ok(network) = text.parse() {
        return Ok(canonical(network));
    }
    match text.parse::<IpAddr>() {
        // The ancestor took this for a network of a length that it guessed.
        Ok(IpAddr::V4(v4)) if v4.octets()[3] == 0 => {
            let wants = format!("a network with its length (such as {text}/24) or the address of a host");
            Err(Error::value(option, text, wants))
        }
        Ok(ip) => Ok(ip.to_canonical().into()),
        Err(_) => Err(Error::value(option, text, "the address of a host or a network such as 10.0.0.0/8")),
    }
}

/// IPv4 that is written as IPv6 (`::ffff:10.0.0.0/104`) as what it is.
fn canonical(network: IpNet) -> IpNet {
    let v4 = |v6: Ipv6Net| Ipv4Net::new(v6.addr().to_ipv4_mapped()?, v6.prefix_len().checked_sub(96)?).ok();
    match network {
        IpNet::V6(v6) => v4(v6).map_or(network, IpNet::V4),
        IpNet::V4(_) => network,
    }
}

/// The path of a file, made absolute because the daemon changes to the root directory.
pub(crate) fn path(matches: &Matches, option: &str, name: &str) -> Result<Option<PathBuf>, Error> {
    let Some(text) = matches.opt_str(name) else { return Ok(None) };
    if text.is_empty() {
        return Err(Error::value(option, text, "the path of a file"));
    }
    std::path::absolute(&text).map(Some).map_err(|error| Error::file(text, error))
}

/// `-m` and `--max-per-source`.
pub(crate) fn connections(matches: &Matches, option: &str, name: &str) -> Result<Option<usize>, Error> {
    let Some(text) = matches.opt_str(name) else { return Ok(None) };
    let number = text.parse().ok().filter(|number| (1..=source_limit::MOST).contains(number));
    let wants = format!("a number of connections from 1 to {}", source_limit::MOST);
    number.map(Some).ok_or_else(|| Error::value(option, text, wants))
}

/// `--source-block`.
pub(crate) fn block(text: &str) -> Result<SourcePrefix, Error> {
    let bits = |text: &str, most: u8| text.parse().ok().filter(|bits| (1..=most).contains(bits));
    let both = text.split_once(':').and_then(|(v4, v6)| Some(SourcePrefix { v4: bits(v4, 32)?, v6: bits(v6, 128)? }));
    let wants = "the bits that make a source of an IPv4 and of an IPv6 address, such as 32:64";
    both.ok_or_else(|| Error::value("--source-block", text, wants))
}

/// The most workers: more have no use on any machine, and each has its own listening sockets.
const MOST_WORKERS: usize = 64;

/// `-w`.
pub(crate) fn workers(text: &str) -> Result<Workers, Error> {
    if text == "auto" {
        return Ok(std::thread::available_parallelism().map_or(1, |count| count.get().min(MOST_WORKERS)));
    }
    let number = text.parse().ok().filter(|number| (1..=MOST_WORKERS).contains(number));
    number.ok_or_else(|| Error::value("-w", text, format!("auto or a number of workers from 1 to {MOST_WORKERS}")))
}

/// `--syslog`.
pub(crate) fn facility(text: Option<String>) -> Result<Facility, Error> {
    let Some(text) = text else { return Ok(Facility::LOG_DAEMON) };
    text.parse().map_err(|()| Error::value("--syslog", text, "a facility such as daemon, auth or local0 to local7"))
}

/// `--fail`.
pub(crate) fn fail(text: Option<String>) -> Result<FailMode, Error> {
    match text.as_deref() {
        None | Some("open") => Ok(FailMode::Open),
        Some("closed") => Ok(FailMode::Closed),
        Some(other) => Err(Error::value("--fail", other, "open or closed")),
    }
}

/// `--balance`.
pub(crate) fn balance(text: Option<String>) -> Result<Balance, Error> {
    match text.as_deref() {
        None | Some("first") => Ok(Balance::First),
        Some("round-robin") => Ok(Balance::RoundRobin),
        Some("source") => Ok(Balance::Source),
        Some(other) => Err(Error::value("--balance", other, "first, round-robin or source")),
    }
}

/// Thirty days: longer than any connection is silent, short enough for every counter of ticks.
const LONGEST: u64 = 30 * 24 * 3600;

/// A number of seconds, at least `least`.
pub(crate) fn seconds(matches: &Matches, name: &str, least: u64, default: u64) -> Result<Duration, Error> {
    let Some(text) = matches.opt_str(name) else { return Ok(Duration::from_secs(default)) };
    let number = text.parse().ok().filter(|number| (least..=LONGEST).contains(number));
    let wants = format!("a number of seconds from {least} to {LONGEST}");
    number.map(Duration::from_secs).ok_or_else(|| Error::value(format!("--{name}"), text, wants))
}

/// A number of seconds of which 0 means never.
pub(crate) fn unless_never(matches: &Matches, name: &str, default: u64) -> Result<Option<Duration>, Error> {
    Ok(Some(seconds(matches, name, 0, default)?).filter(|duration| !duration.is_zero()))
}

/// The same in ticks.
pub(crate) fn timeout(matches: &Matches, name: &str, default: u64) -> Result<Option<Tick>, Error> {
    Ok(unless_never(matches, name, default)?.map(ticks))
}
