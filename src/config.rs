//! From the command line to a checked configuration. Checks values and touches nothing.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use getopts::Matches;
use ipnet::IpNet;
use syslog::Facility;

use crate::error::Error;
use crate::options;
use crate::rules::rule::{Action, Family, Line, Match, RELAYED, RuleSet};
use crate::sys::account::{self, Account};
use crate::sys::services;
use crate::traffic::deadline::{Tick, ticks};
use crate::traffic::service::{Destination, Patience, Service};

/// What the command line asks for.
#[derive(Debug)]
pub enum Command {
    /// `--help`.
    Help,
    /// `--version`.
    Version,
    /// `--flush`, of the instance of this name or of all.
    Flush(Option<String>),
    /// `--print-rules`.
    PrintRules(Config),
    /// `--check`.
    Check(Config),
    /// Relay.
    Run(Config),
}

/// A whole daemon.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where redirected connections go.
    pub service: Service,
    /// The rules that redirect them, in the order of the command line.
    pub lines: Vec<(Action, Match)>,
    /// Whether this host's own connections are redirected too.
    pub output: bool,
    /// Who relays, if not who started it.
    pub user: Option<Account>,
    /// Stay in the foreground.
    pub foreground: bool,
    /// The file for one line per connection.
    pub access_log: Option<PathBuf>,
    /// The file for the process id.
    pub pidfile: Option<PathBuf>,
    /// The most connections at once, if less than the descriptors allow.
    pub max_connections: Option<usize>,
    /// Log more.
    pub verbose: bool,
    /// Where in syslog.
    pub facility: Facility,
    /// What becomes of the redirection when no worker can be kept alive.
    pub fail: Fail,
    /// How long connections may go on after SIGTERM.
    pub drain: Duration,
}

/// What becomes of traffic for which no worker can be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fail {
    /// It goes where it wanted to.
    Open,
    /// It is rejected.
    Closed,
}

impl Config {
    /// Whether a single process can do it all: no rules to own, no privileges to shed, no name to follow.
    pub fn needs_no_guardian(&self) -> bool {
        self.foreground && self.user.is_none() && self.lines.is_empty() && self.service.name().is_none()
    }
}

impl Config {
    /// The host names in the MATCHes, which have to be resolved before the rules can be made.
    pub fn names_in_rules(&self) -> Vec<&str> {
        self.lines.iter().flat_map(|(_, matching)| matching.names()).collect()
    }

    /// The rules for listeners of these families; `None` when there are none to own. `lookup` knows the addresses of
    /// the names.
    ///
    /// Errors: a MATCH that comes to nothing with these addresses.
    pub fn rules(&self, families: Vec<Family>, lookup: &dyn Fn(&str) -> Vec<IpAddr>) -> Result<Option<RuleSet>, Error> {
        if self.lines.is_empty() {
            return Ok(None);
        }
        let line =
            |(action, matching): &(Action, Match)| Ok(Line { action: *action, matching: matching.resolve(lookup)? });
        let lines = self.lines.iter().map(line).collect::<Result<_, Error>>()?;
        let own_uid = self.user.map(|user| user.uid);
        Ok(Some(RuleSet { name: self.service.port.to_string(), lines, families, output: self.output, own_uid }))
    }
}

/// Reads a command line, without the name of the program.
///
/// Errors: one sentence on the first value that cannot be used.
pub fn parse(arguments: &[String]) -> Result<Command, Error> {
    let matches = options::parse(arguments)?;
    if matches.opt_present("help") {
        return Ok(Command::Help);
    }
    if matches.opt_present("version") {
        return Ok(Command::Version);
    }
    if matches.opt_present("flush") {
        let name = matches.opt_str("listen").map(|text| port("-s", &text)).transpose()?.map(|port| port.to_string());
        let others = options::OPTIONS
            .iter()
            .any(|opt| !["flush", "listen"].contains(&opt.long) && matches.opt_present(opt.long));
        if others || !matches.free.is_empty() {
            return Err(Error::Usage("--flush: other arguments given, only -s PORT or none wanted".into()));
        }
        return Ok(Command::Flush(name));
    }
    let config = config(&matches)?;
    if matches.opt_present("print-rules") {
        return Ok(Command::PrintRules(config));
    }
    if matches.opt_present("check") {
        return Ok(Command::Check(config));
    }
    if !account::is_root() {
        if !config.lines.is_empty() {
            return Err(Error::Privilege("-R and -X: rules can be installed by root only".into()));
        }
        if config.user.is_some() {
            return Err(Error::Privilege("-r: only root can become another user".into()));
        }
    }
    Ok(Command::Run(config))
}

fn config(matches: &Matches) -> Result<Config, Error> {
    let service = service(matches)?;
    let config = Config {
        lines: lines(matches, service.port)?,
        output: matches.opt_present("output"),
        service,
        user: matches.opt_str("user").map(|name| user(&name)).transpose()?,
        foreground: matches.opt_present("foreground"),
        access_log: path(matches, "l", "access-log")?,
        pidfile: path(matches, "P", "pidfile")?,
        max_connections: matches.opt_str("max-connections").map(|text| connections(&text)).transpose()?,
        verbose: matches.opt_present("verbose"),
        facility: facility(matches.opt_str("syslog"))?,
        fail: fail(matches.opt_str("fail"))?,
        drain: Duration::from_secs(seconds(matches, "drain", 0, 30)?),
    };
    if config.output && config.lines.is_empty() {
        return Err(Error::Usage("-O: given without -R, which says what to redirect".into()));
    }
    if let Some(ip) = config.service.bind.filter(|ip| ip.is_loopback())
        && !config.lines.is_empty()
    {
        return Err(Error::value(
            "-b",
            ip.to_string(),
            "an address that redirected connections can reach (the kernel sends them to the address of the interface they come in on)",
        ));
    }
    Ok(config)
}

fn service(matches: &Matches) -> Result<Service, Error> {
    let Some(listen) = matches.opt_str("listen") else {
        return Err(Error::Usage("-s: not given; the port to listen on is wanted".into()));
    };
    let port = self::port("-s", &listen)?;
    Ok(Service {
        port,
        bind: matches.opt_str("bind").map(|text| bind(&text)).transpose()?,
        destination: destination(matches)?,
        allow: matches.opt_strs("allow").iter().map(|text| network(text)).collect::<Result<_, _>>()?,
        patience: Patience {
            connect: ticks(Duration::from_secs(seconds(matches, "connect-timeout", 1, 10)?)),
            idle: timeout(matches, "idle-timeout", 7440)?,
            fin: timeout(matches, "fin-timeout", 300)?,
        },
    })
}

fn destination(matches: &Matches) -> Result<Destination, Error> {
    let last = |name: &str| matches.opt_positions(name).last().copied();
    if last("transparent") > last("proxy-only") {
        return match matches.free.len() {
            0 | 2 => Ok(Destination::Original),
            _ => Err(Error::Usage(format!("'{}' given, HOST PORT or nothing wanted with -t", matches.free.join(" ")))),
        };
    }
    match matches.free.as_slice() {
        [host, number] => Ok(Destination::Host { host: host_name(host)?, port: port("PORT", number)? }),
        [] => Err(Error::Usage("HOST PORT: not given; where to relay to is wanted, or -t".into())),
        words => Err(Error::Usage(format!("'{}' given, HOST PORT wanted", words.join(" ")))),
    }
}

fn host_name(text: &str) -> Result<String, Error> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if bare.parse::<IpAddr>().is_ok() {
        return Ok(bare.to_owned());
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    // 253 characters is the longest name that fits into DNS (RFC 1035, 2.3.4); digits and dots alone would be an
    // address with a mistake in it.
    let name = text.len() <= 253 && text.chars().all(plain) && text.chars().any(|c| c.is_ascii_alphabetic());
    if name && !text.starts_with('-') {
        return Ok(text.to_owned());
    }
    Err(Error::value("HOST", text, "a host name, an IPv4 or an IPv6 address"))
}

fn port(option: &str, text: &str) -> Result<u16, Error> {
    let number = text.parse().ok().filter(|port| *port != 0);
    let digits = text.chars().all(|c| c.is_ascii_digit());
    let found = if digits { number } else { services::tcp_port(text) };
    found.ok_or_else(|| Error::value(option, text, "a port from 1 to 65535 or the name of a TCP service"))
}

fn bind(text: &str) -> Result<IpAddr, Error> {
    text.parse().map_err(|_| Error::value("-b", text, "an IPv4 or IPv6 address of this host"))
}

fn user(name: &str) -> Result<Account, Error> {
    let found = account::find(name).map_err(|error| Error::sys(format!("-r: looking up '{name}'"), error))?;
    found.ok_or_else(|| Error::value("-r", name, "the name or #UID of a user of this host"))
}

fn network(text: &str) -> Result<IpNet, Error> {
    if let Ok(network) = text.parse() {
        return Ok(network);
    }
    match text.parse::<IpAddr>() {
        // The ancestor took this for a network of a length that it guessed.
        Ok(IpAddr::V4(v4)) if v4.octets()[3] == 0 => Err(Error::value(
            "-a",
            text,
            format!("a network with its length (such as {text}/24) or the address of a host"),
        )),
        Ok(ip) => Ok(ip.into()),
        Err(_) => Err(Error::value("-a", text, "the address of a host or a network such as 10.0.0.0/8")),
    }
}

fn lines(matches: &Matches, port: u16) -> Result<Vec<(Action, Match)>, Error> {
    let mut found = Vec::new();
    for name in ["redirect", "exempt"] {
        for (position, text) in matches.opt_strs_pos(name) {
            let action = if name == "redirect" { Action::Redirect { port } } else { Action::Exempt };
            let letter = if name == "redirect" { "-R" } else { "-X" };
            found.push((position, action, Match::parse(letter, &text, RELAYED)?));
        }
    }
    found.sort_by_key(|(position, ..)| *position);
    Ok(found.into_iter().map(|(_, action, matching)| (action, matching)).collect())
}

fn path(matches: &Matches, letter: &str, name: &str) -> Result<Option<PathBuf>, Error> {
    let Some(text) = matches.opt_str(name) else { return Ok(None) };
    if text.is_empty() {
        return Err(Error::value(format!("-{letter}"), text, "the path of a file"));
    }
    // The daemon changes to the root directory.
    std::path::absolute(&text).map(Some).map_err(|error| Error::file(text, error))
}

fn connections(text: &str) -> Result<usize, Error> {
    let number = text.parse().ok().filter(|number| (1..=1_000_000).contains(number));
    number.ok_or_else(|| Error::value("-m", text, "a number of connections from 1 to 1000000"))
}

fn facility(text: Option<String>) -> Result<Facility, Error> {
    let Some(text) = text else { return Ok(Facility::LOG_DAEMON) };
    text.parse().map_err(|()| Error::value("--syslog", text, "a facility such as daemon, auth or local0 to local7"))
}

fn fail(text: Option<String>) -> Result<Fail, Error> {
    match text.as_deref() {
        None | Some("open") => Ok(Fail::Open),
        Some("closed") => Ok(Fail::Closed),
        Some(other) => Err(Error::value("--fail", other, "open or closed")),
    }
}

/// Thirty days: longer than any connection is silent, short enough for every counter of ticks.
const LONGEST: u64 = 30 * 24 * 3600;

fn seconds(matches: &Matches, name: &str, least: u64, default: u64) -> Result<u64, Error> {
    let Some(text) = matches.opt_str(name) else { return Ok(default) };
    let number = text.parse().ok().filter(|number| (least..=LONGEST).contains(number));
    let wants = format!("a number of seconds from {least} to {LONGEST}");
    number.ok_or_else(|| Error::value(format!("--{name}"), text, wants))
}

fn timeout(matches: &Matches, name: &str, default: u64) -> Result<Option<Tick>, Error> {
    let seconds = seconds(matches, name, 0, default)?;
    Ok((seconds != 0).then(|| ticks(Duration::from_secs(seconds))))
}
