//! The rules that a configuration asks for, once its host names have addresses.

use std::net::{IpAddr, SocketAddr};

use nix::sys::socket::AddressFamily;

use crate::config::{Config, FailMode, Redirection, RuleKind, Target, waiting};
use crate::error::Error;
use crate::redirection::RedirectionId;
use crate::rules::address::Family;
use crate::rules::matching::ResolvedMatch;
use crate::rules::policy_routing::PolicyRouting;
use crate::rules::quic;
use crate::rules::rule::{Action, RuleSpec};
use crate::rules::ruleset::RuleSet;
use crate::rules::untracked::Untracked;
use crate::sys::ipset;
use crate::traffic::service::{Destination, HostPort, Service};

/// What is known when the rules are made.
pub(crate) struct Known<'a> {
    /// The addresses of a host name.
    pub addresses: &'a dyn Fn(&str) -> Vec<IpAddr>,
    /// Where a redirection listens.
    pub listening: &'a dyn Fn(RedirectionId) -> Vec<SocketAddr>,
}

impl Known<'_> {
    /// The addresses of an upstream, in the resolver's order.
    pub(crate) fn upstream(&self, host: &HostPort) -> Vec<SocketAddr> {
        host.addresses(self.addresses)
    }
}

impl Config {
    /// The rules of this instance; `None` when it owns none.
    ///
    /// Errors: a MATCH that no address family can fulfil.
    pub(crate) fn rules(&self, known: &Known<'_>) -> Result<Option<RuleSet>, Error> {
        if !self.has_rules() {
            return Ok(None);
        }
        let mut specs = Vec::new();
        for (index, redirection) in self.redirections.iter().enumerate() {
            let id = RedirectionId::from(index);
            let listening = (known.listening)(id);
            for ((kind, written), withheld) in
                redirection.rules.iter().zip(waiting::withheld(redirection, known.addresses))
            {
                let mut resolved = written.resolve(known.addresses)?;
                let has_addresses = !resolved.is_empty();
                resolved.retain(|matching| written.sets().all(|set| may_hold(set, matching.family)));
                if has_addresses && resolved.is_empty() {
                    let shown = written.shown();
                    let why = "its sets and its other conditions have no address family in common";
                    return Err(Error::Failed(format!("{shown}: {why}")));
                }
                for matching in resolved {
                    let Some(action) = action(redirection, *kind, matching.family, &listening, known) else { continue };
                    // In the place of the rule, so that no later one takes its traffic (`Action::behind`).
                    let action = if withheld { Action::Exempt } else { action };
                    let spec =
                        |action, matching| RuleSpec { action, matching, redirection: id, output: redirection.output };
                    let quic = quic_rule(action, &matching).filter(|_| redirection.reject_quic);
                    specs.push(spec(action, matching));
                    specs.extend(quic.map(|(action, matching)| spec(action, matching)));
                }
            }
        }
        let own_uid = self.process.user.map(|user| user.uid);
        let locations = self.redirections.iter().map(|redirection| redirection.place.clone()).collect();
        let (name, holds) = (self.name.clone(), self.process.fail == FailMode::Closed);
        let (routing, untracked, firewall) = (self.routing(known), self.untracked(known), self.process.firewall);
        Ok(Some(RuleSet { name, specs, idle: Vec::new(), own_uid, routing, holds, untracked, firewall, locations }))
    }

    /// How packets get to sockets whose addresses are not this host's, if there are such sockets.
    fn routing(&self, known: &Known<'_>) -> Option<PolicyRouting> {
        let foreign = self.redirections.iter().enumerate().filter(|(_, redirection)| redirection.needs_routing());
        let listening: Vec<SocketAddr> =
            foreign.flat_map(|(index, _)| (known.listening)(RedirectionId::from(index))).collect();
        let has = |family: &Family| listening.iter().any(|address| Family::of(&address.ip()) == *family);
        let families: Vec<Family> = Family::BOTH.into_iter().filter(has).collect();
        let (mark, table, connects) = (self.process.mark, self.process.table, self.connects());
        (!families.is_empty()).then_some(PolicyRouting { mark, table, families, connects })
    }

    /// The redirections whose connections are not tracked, with the addresses of their upstreams.
    fn untracked(&self, known: &Known<'_>) -> Vec<Untracked> {
        let upstream = |host: &HostPort| -> Vec<(IpAddr, Option<u16>)> {
            known.upstream(host).iter().map(|address| (address.ip().to_canonical(), host.port)).collect()
        };
        let of = |(redirection, _, service): (RedirectionId, _, &Service)| {
            let hosts = match &service.destination {
                Destination::Original => None,
                Destination::Hosts(hosts) => Some(hosts.iter().flat_map(upstream).collect()),
            };
            service.untracked.then_some(Untracked { redirection, upstreams: hosts })
        };
        self.relayed().filter_map(of).collect()
    }

    /// Whether the kernel has to forward for one of the redirections, by family.
    pub(crate) fn forwards(&self, known: &Known<'_>) -> Vec<Family> {
        let kernel = self.redirections.iter().filter(|redirection| matches!(redirection.target, Target::Kernel(_)));
        let upstreams = kernel.flat_map(Redirection::hosts).flat_map(|host| known.upstream(host));
        let mut families: Vec<Family> = upstreams.map(|address| Family::of(&address.ip())).collect();
        families.dedup();
        families
    }
}

/// The rule of `--reject-quic` beside another one.
fn quic_rule(action: Action, matching: &ResolvedMatch) -> Option<(Action, ResolvedMatch)> {
    match action {
        Action::Exempt => Some((Action::Exempt, quic::exempted(matching)?)),
        Action::Reject => None,
        _ => Some((Action::Reject, quic::rejected(matching)?)),
    }
}

/// Whether a set may hold addresses of a family. What is not known of it is iptables's to say.
fn may_hold(set: &str, family: Family) -> bool {
    match ipset::family(set) {
        Ok(Some(AddressFamily::Inet)) => family == Family::V4,
        Ok(Some(_)) => family == Family::V6,
        Ok(None) | Err(_) => true,
    }
}

/// The action of a rule in one family; `None` when the redirection has nothing to lead to there: no listener, or no
/// upstream.
fn action(
    redirection: &Redirection,
    kind: RuleKind,
    family: Family,
    listening: &[SocketAddr],
    known: &Known<'_>,
) -> Option<Action> {
    let of_family = |address: &&SocketAddr| Family::of(&address.ip()) == family;
    match (kind, &redirection.target) {
        (RuleKind::Exempt, _) => Some(Action::Exempt),
        (RuleKind::Reject, _) => Some(Action::Reject),
        (RuleKind::Redirect, Target::Relay(_)) => {
            let action = |to: &SocketAddr| match redirection.is_tproxy() {
                true => Action::Tproxy { to: *to },
                false => Action::Redirect { port: to.port() },
            };
            listening.iter().find(of_family).map(action)
        }
        (RuleKind::Redirect, Target::Local(port)) => Some(Action::Local { port: *port }),
        (RuleKind::Redirect, Target::Kernel(host)) => {
            known.upstream(host).iter().find(of_family).map(|to| Action::Kernel { to: to.ip(), port: host.port })
        }
    }
}
