//! One redirection: where connections arrive, the rules, and what becomes of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;

use crate::cli::option::OptionId;
use crate::cli::options;
use crate::cli::parse::{ArgumentValue, Arguments};
use crate::config::{control, source, values, via};
use crate::error::Error;
use crate::relay::timeouts::Timeouts;
use crate::rules::matching::{Match, RELAYED};
use crate::rules::quic;
use crate::sys::clock::ticks;
use crate::traffic::service::{Balance, Destination, HostPort, Interception, SAME, Service, Source, Via};
use crate::traffic::upstreams::HOSTS;

/// One entry of the table.
#[derive(Debug, Clone)]
pub(crate) struct Redirection {
    pub listen: Listen,
    pub target: Target,
    /// The rules, in the order of the command line.
    pub rules: Vec<(RuleKind, Match)>,
    /// Whether HTTP/3 of what is redirected is rejected.
    pub reject_quic: bool,
    /// Whether this host's own connections are redirected too.
    pub output: bool,
    /// The file and the line that it was read from.
    pub place: Option<(String, usize)>,
}

/// Where redirected connections arrive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Listen {
    /// At a port that is opened for them, on one address of this host or on all (`None`).
    Port { port: u16, bind: Option<IpAddr> },
    /// At sockets that were passed to the daemon: those of this name, or all.
    Passed(Option<String>),
}

/// What becomes of the connections of a redirection.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    Relay(Service),
    /// They go to this port of this host; `None` is the port that the client asked for.
    Local(Option<u16>),
    /// The kernel sends them to another host.
    Kernel(HostPort),
}

/// What a rule does with the traffic that it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RuleKind {
    /// `-X`: leaves it alone.
    Exempt,
    /// `--reject`: refuses it.
    Reject,
    /// `-R`: hands it to the target.
    Redirect,
}

impl Redirection {
    /// The upstreams.
    pub(crate) fn hosts(&self) -> &[HostPort] {
        match &self.target {
            Target::Relay(service) => service.destination.hosts(),
            Target::Kernel(host) => std::slice::from_ref(host),
            Target::Local(_) => &[],
        }
    }

    /// Whether its connections are intercepted by TPROXY.
    pub(crate) fn is_tproxy(&self) -> bool {
        is_tproxy(&self.target)
    }

    /// Whether it has sockets whose addresses are not this host's: packets for them must be kept here.
    pub(crate) fn needs_routing(&self) -> bool {
        let redirects = self.rules.iter().any(|(kind, _)| *kind == RuleKind::Redirect);
        let uses_clients = |service: &Service| matches!(service.source, Source::Client { .. });
        (self.is_tproxy() && redirects) || matches!(&self.target, Target::Relay(service) if uses_clients(service))
    }

    /// The addresses to listen on.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        let Listen::Port { port, bind } = self.listen else { return Vec::new() };
        let all = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let wanted = bind.map_or(all.to_vec(), |address| vec![address]);
        wanted.into_iter().map(|ip| SocketAddr::new(ip, port)).collect()
    }
}

/// Reads a redirection. The arguments have been checked for what goes together.
pub(super) fn read(arguments: &Arguments) -> Result<Redirection, Error> {
    let target = target(arguments)?;
    let protocols = protocols(arguments, &target)?;
    let listen = match &target {
        Target::Relay(_) => listen(arguments)?,
        Target::Local(_) | Target::Kernel(_) => Listen::Passed(None),
    };
    let rules = rules(arguments, protocols)?;
    let redirects = rules.iter().any(|(kind, _)| *kind == RuleKind::Redirect);
    if let Listen::Port { bind: Some(ip), .. } = listen
        && ip.is_loopback()
        && redirects
        && !is_tproxy(&target)
    {
        // The kernel sends them to the address of the interface that they come in on.
        let expected = "an address that redirected connections can reach, which the loopback address is not";
        return Err(Error::value("-b", ip.to_string(), expected));
    }
    let (reject_quic, output) = (arguments.has(OptionId::RejectQuic), arguments.has(OptionId::Output));
    let redirected = rules.iter().filter(|(kind, _)| *kind == RuleKind::Redirect);
    if reject_quic && let Some(error) = redirected.filter_map(|(_, written)| unfit_for_quic(written)).next() {
        return Err(error);
    }
    Ok(Redirection { listen, target, rules, reject_quic, output, place: None })
}

fn is_tproxy(target: &Target) -> bool {
    matches!(target, Target::Relay(service) if service.interception == Interception::Tproxy)
}

/// The protocols of rules that relay nothing.
const EITHER: &[&str] = &["tcp", "udp"];

fn listen(arguments: &Arguments) -> Result<Listen, Error> {
    let bind = arguments.value(OptionId::Bind, values::address)?;
    match arguments.text(OptionId::Listen).map(|text| text.strip_prefix("fd:")) {
        None => Ok(Listen::Passed(None)),
        Some(Some(name)) => Ok(Listen::Passed(Some(name.to_owned()))),
        Some(None) => {
            let port = arguments.value(OptionId::Listen, values::port)?.unwrap_or_default();
            Ok(Listen::Port { port, bind })
        }
    }
}

fn target(arguments: &Arguments) -> Result<Target, Error> {
    if arguments.has(OptionId::Kernel) {
        let host = values::host(arguments.operands())?;
        if host.interface != 0 {
            let expected = "an address that the kernel forwards to, which a link-local one is not";
            return Err(Error::value("HOST", host.name.to_string(), expected));
        }
        // connect(2) takes an unspecified address for loopback. The kernel takes it for nobody's.
        if host.name.literal().is_some_and(|ip| ip.is_unspecified()) {
            return Err(Error::value("HOST", host.name.to_string(), "the address of a host"));
        }
        return Ok(Target::Kernel(host));
    }
    match arguments.text(OptionId::Local) {
        Some("same") => Ok(Target::Local(None)),
        Some(_) => Ok(Target::Local(arguments.value(OptionId::Local, values::port)?)),
        None => Ok(Target::Relay(service(arguments)?)),
    }
}

fn unfit_for_quic(written: &Match) -> Option<Error> {
    let (option, shown) = (quic::unfit(written.conditions())?, written.shown());
    let advice = "write a --reject '-p udp --dport 443 ...' instead";
    Some(Error::Usage(format!("--reject-quic: {option} of {shown} cannot be tested for UDP; {advice}")))
}

/// The protocols that a MATCH of `-R` may name, first the one that is meant when it names none.
fn protocols(arguments: &Arguments, target: &Target) -> Result<&'static [&'static str], Error> {
    match (arguments.text(OptionId::Proto), target) {
        (Some("udp"), Target::Relay(_)) => {
            Err(Error::value("--proto", "udp", "tcp; udp needs --local or --kernel, because it cannot be relayed"))
        }
        (Some("udp"), Target::Local(_) | Target::Kernel(_)) => Ok(&["udp", "tcp"]),
        (_, Target::Local(_) | Target::Kernel(_)) => Ok(EITHER),
        (_, Target::Relay(_)) => Ok(RELAYED),
    }
}

fn service(arguments: &Arguments) -> Result<Service, Error> {
    let seconds = |id, least| arguments.value(id, |text| values::seconds(text, least));
    let or_never = |id, default| {
        let given = seconds(id, 0)?.unwrap_or(std::time::Duration::from_secs(default));
        Ok(Some(given).filter(|duration| !duration.is_zero()).map(ticks))
    };
    let via = via::read(arguments)?;
    let destination = destination(arguments)?;
    if !matches!(via, Via::Tcp(_)) && destination.follows_port() {
        return Err(Error::value("PORT", SAME, "the port of the proxy (--via), which is one for all clients"));
    }
    let at_least_one = |id| Ok(ticks(seconds(id, 1)?.unwrap_or(std::time::Duration::from_secs(10))));
    Ok(Service {
        interception: match arguments.text(OptionId::Intercept) {
            Some("tproxy") => Interception::Tproxy,
            _ => Interception::Redirect,
        },
        untracked: arguments.has(OptionId::NoConntrack),
        destination,
        source: source::read(arguments)?,
        via,
        accept_proxy: arguments.has(OptionId::AcceptProxy),
        balance: match arguments.text(OptionId::Balance) {
            Some("round-robin") => Balance::RoundRobin,
            Some("source") => Balance::Source,
            _ => Balance::First,
        },
        fallback: arguments.has(OptionId::Fallback),
        allow: values::networks(arguments, OptionId::Allow)?,
        only_redirected: arguments.has(OptionId::OnlyRedirected),
        deny: values::networks(arguments, OptionId::Deny)?,
        check_host: arguments.has(OptionId::HostCheck),
        local_names: Rc::default(),
        timeouts: Timeouts {
            connect: at_least_one(OptionId::ConnectTimeout)?,
            handshake: at_least_one(OptionId::HandshakeTimeout)?,
            idle: or_never(OptionId::IdleTimeout, 7440)?,
            fin: or_never(OptionId::FinTimeout, 300)?,
        },
        check: control::check(arguments)?,
    })
}

fn destination(arguments: &Arguments) -> Result<Destination, Error> {
    let words = arguments.operands();
    if arguments.has(OptionId::Transparent) {
        // Command lines of transproxy name a HOST PORT here that is not used.
        return match words.len() {
            0 | 2 => Ok(Destination::Original),
            _ => Err(Error::value("-t", words.join(" "), "HOST PORT, or nothing")),
        };
    }
    if words.is_empty() {
        return Err(Error::Usage(
            "HOST PORT: missing; name an upstream, or relay to the original destination with -t".into(),
        ));
    }
    if words.len() > 2 * HOSTS {
        let count = words.len().div_ceil(2);
        return Err(Error::Usage(format!("HOST PORT: {count} upstreams; at most {HOSTS} are possible")));
    }
    words.chunks(2).map(values::host).collect::<Result<_, _>>().map(Destination::Hosts)
}

fn rules(arguments: &Arguments, protocols: &[&str]) -> Result<Vec<(RuleKind, Match)>, Error> {
    let mut rules = Vec::new();
    for argument in arguments.options() {
        let kind = match argument.id {
            OptionId::Redirect => RuleKind::Redirect,
            OptionId::Exempt => RuleKind::Exempt,
            OptionId::Reject => RuleKind::Reject,
            _ => continue,
        };
        if let ArgumentValue::Text(text) = &argument.value {
            // What is not relayed may be of any protocol that a rule can be about.
            let protocols = if kind != RuleKind::Redirect && protocols == RELAYED { EITHER } else { protocols };
            rules.push((kind, Match::parse(&options::opt(argument.id).to_string(), text, protocols)?));
        }
    }
    Ok(rules)
}
