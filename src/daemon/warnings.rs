//! Rules that look right and under which connections would vanish, or lock the administrator out. This is told at the
//! start and at a reload, and by `--check`.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use crate::config::rules::Known;
use crate::config::{Config, Target};
use crate::daemon::return_path;
use crate::redirection::RedirectionId;
use crate::rules::address::Family;
use crate::rules::groups;
use crate::rules::rule::{Action, RuleSpec};
use crate::rules::ruleset::RuleSet;
use crate::rules::verdict::{ExpectedPackets, Matches, holds_address, is_interface};
use crate::sys::interfaces::{self, Interface};
use crate::traffic::service::SAME;

/// What the rules are judged by.
struct Judge<'a> {
    config: &'a Config,
    set: &'a RuleSet,
    /// Where each redirection listens.
    listening: &'a dyn Fn(RedirectionId) -> Vec<SocketAddr>,
    interfaces: Vec<Interface>,
    warnings: Vec<String>,
}

/// A sentence for each thing that will not work.
pub(crate) fn of_rules(config: &Config, set: &RuleSet, known: &Known<'_>) -> Vec<String> {
    let interfaces = interfaces::interfaces().unwrap_or_default();
    let warnings = return_path::warnings(config, set, &interfaces, known.addresses);
    let mut judge = Judge { config, set, listening: known.listening, interfaces, warnings };
    // Before the others, which may be many.
    judge.locked_out();
    for spec in &set.specs {
        if judge.warnings.len() >= MOST {
            break;
        }
        match spec.action {
            Action::Redirect { port } => {
                judge.interfaces_without_address(spec);
                judge.listener_beside(spec, port);
            }
            Action::Local { .. } => judge.interfaces_without_address(spec),
            Action::Kernel { to, port } => judge.kernel_to_loopback(spec, to, port),
            Action::Exempt | Action::Reject | Action::Tproxy { .. } => {}
        }
    }
    judge.warnings
}

/// The most warnings. The others are like these.
const MOST: usize = 16;

impl Judge<'_> {
    /// Each once: a MATCH may have become many rules.
    fn warn(&mut self, spec: &RuleSpec, what: String) {
        let place = match self.set.locations.get(spec.redirection.index()) {
            Some(Some((file, line))) => format!("{file}:{line}: "),
            _ => String::new(),
        };
        let warning = format!("{place}{what}");
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    /// The interfaces that a rule names.
    fn named(&self, spec: &RuleSpec) -> Vec<Interface> {
        let patterns = groups::interfaces(&spec.matching.words);
        let named = |one: &&Interface| patterns.iter().any(|pattern| is_interface(pattern, &one.name));
        self.interfaces.iter().filter(named).cloned().collect()
    }

    /// REDIRECT sends a connection to an address of the interface that it came in on, and drops it if there is none
    /// (`nf_nat_redirect_ipv4`, net/netfilter/nf_nat_redirect.c). A link-local address is for link-local clients.
    fn interfaces_without_address(&mut self, spec: &RuleSpec) {
        let family = spec.matching.family;
        for Interface { name, addresses } in self.named(spec) {
            let is_v4 = |ip: &IpAddr| ip.is_ipv4();
            let serves = |ip: &IpAddr| Family::of(ip) == family && !is_link_local(ip);
            // Where IPv6 is not forwarded, nobody sends connections to others this way.
            let matters = family == Family::V4
                || !addresses.iter().any(is_v4)
                || interfaces::is_on(&format!("ipv6/conf/{name}/forwarding"));
            if matters && !addresses.iter().any(serves) {
                let what = if family == Family::V4 { "IPv4 address" } else { "IPv6 address beside a link-local one" };
                self.warn(
                    spec,
                    format!(
                        "interface {name} has no {what}: {family} connections that come in there get no answer, because \
                         REDIRECT needs one"
                    ),
                );
            }
        }
    }

    /// `-b` with an address that REDIRECT does not use.
    fn listener_beside(&mut self, spec: &RuleSpec, port: u16) {
        let family = spec.matching.family;
        let there = (self.listening)(spec.redirection);
        let listeners: Vec<IpAddr> =
            there.iter().filter(|at| at.port() == port && Family::of(&at.ip()) == family).map(SocketAddr::ip).collect();
        let (Some(first), false) = (listeners.first(), listeners.iter().any(IpAddr::is_unspecified)) else { return };
        if spec.output && !listeners.iter().any(IpAddr::is_loopback) {
            let loopback = if family == Family::V4 { "127.0.0.1" } else { "::1" };
            self.warn(
                spec,
                format!(
                    "-O: connections of this host are redirected to {loopback}, and refused: tproxy listens on {first} \
                     only (-b)"
                ),
            );
        }
        // The first one that has the address for its first.
        let uses =
            |one: &Interface| one.addresses.iter().find(|ip| ip.is_ipv4()).is_some_and(|ip| listeners.contains(ip));
        let named = self.named(spec);
        let all = if named.is_empty() { &self.interfaces } else { &named };
        if family == Family::V4 && !all.is_empty() && !all.iter().any(uses) {
            self.warn(
                spec,
                format!(
                    "-b {first}: no redirected connection arrives there, because REDIRECT sends each to the first address \
                     of the interface that it comes in on"
                ),
            );
        }
    }

    /// A packet from outside with a loopback destination is a martian (`ip_route_input_slow`, net/ipv4/route.c).
    fn kernel_to_loopback(&mut self, spec: &RuleSpec, to: IpAddr, port: Option<u16>) {
        let permits = |name: &str| interfaces::is_on(&format!("ipv4/conf/{name}/route_localnet"));
        let named = self.named(spec);
        let all = if named.is_empty() { &self.interfaces } else { &named };
        if !to.is_loopback() || (to.is_ipv4() && (permits("all") || all.iter().any(|one| permits(&one.name)))) {
            return;
        }
        let port = port.map_or(SAME.to_owned(), |port| port.to_string());
        let unless = if to.is_ipv4() { " unless net.ipv4.conf.all.route_localnet is 1" } else { "" };
        self.warn(
            spec,
            format!(
                "--kernel: the kernel drops what comes from other hosts for {to}{unless}; for a service of this host use \
                 --local {port}"
            ),
        );
    }

    /// Connections to this host's own SSH server are redirected like all others.
    fn locked_out(&mut self) {
        // Most rules are about other ports.
        let to_port = ssh_to(None);
        let possible = |spec: &&RuleSpec| to_port.matches(&spec.matching.words) != Matches::Never;
        let specs: Vec<&RuleSpec> = self.set.specs.iter().filter(possible).collect();
        let own = self.interfaces.iter().flat_map(|one| &one.addresses).filter(|ip| !is_link_local(ip));
        let caught: Vec<(IpAddr, &RuleSpec)> = own.filter_map(|ip| Some((*ip, catches_ssh(&specs, *ip)?))).collect();
        let Some((_, first)) = caught.first() else { return };
        let addresses: BTreeSet<IpAddr> = caught.iter().map(|(ip, _)| *ip).collect();
        let addresses: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
        let outcome = match first.action {
            Action::Redirect { .. } | Action::Tproxy { .. } if self.is_refused(first) => "redirected, and refused",
            Action::Reject => "rejected",
            _ => "redirected",
        };
        self.warn(
            &(*first).clone(),
            format!(
                "new SSH connections to this host (port 22) are {outcome}; before that rule, -X '-d {}' leaves them alone",
                addresses.join(",")
            ),
        );
    }

    /// Whether the redirection refuses clients that go to this host.
    fn is_refused(&self, spec: &RuleSpec) -> bool {
        let redirection = self.config.redirections.get(spec.redirection.index());
        redirection.is_some_and(|one| matches!(&one.target, Target::Relay(service) if service.clients_choose()))
    }
}

/// The rule that takes SSH connections to this address of ours.
fn catches_ssh<'a>(specs: &[&'a RuleSpec], ip: IpAddr) -> Option<&'a RuleSpec> {
    let expected = ssh_to(Some(ip));
    for spec in specs.iter().filter(|spec| spec.matching.family == Family::of(&ip)) {
        let matches = expected.matches(&spec.matching.words);
        match spec.action {
            Action::Exempt if matches != Matches::Never => return None,
            Action::Local { port } if port.is_none_or(|port| port == SSH) && matches == Matches::Always => return None,
            Action::Exempt | Action::Local { port: None | Some(SSH) } => {}
            // A rule that names this very address means it.
            _ if matches >= Matches::Sometimes && !names_host(spec, ip) => return Some(spec),
            _ => {}
        }
    }
    None
}

/// New SSH connections to an address of this host.
fn ssh_to(to: Option<IpAddr>) -> ExpectedPackets<'static> {
    let (interfaces, mark) = (Vec::new(), None);
    ExpectedPackets { protocol: "tcp", to, port: Some(SSH), mark, interfaces, to_this_host: true, states: &["NEW"] }
}

const SSH: u16 = 22;

fn is_link_local(ip: &IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// Whether `-d` of a rule has this address, and not only a network with it.
fn names_host(spec: &RuleSpec, ip: IpAddr) -> bool {
    let mut words = spec.matching.words.iter().skip_while(|word| *word != "-d");
    let list = words.nth(1).map(String::as_str).unwrap_or_default();
    list.split(',').any(|item| !item.contains('/') && holds_address(item, ip) == Some(true))
}
