//! From a configuration to the rules that it asks for, once its names have addresses.

use std::net::{IpAddr, SocketAddr};

use crate::config::{Config, Listen, Redirection, RuleKind, Target};
use crate::error::Error;
use crate::redirection::RedirectionId;
use crate::rules::address::Family;
use crate::rules::matching::Match;
use crate::rules::rule::RuleSet;
use crate::rules::spec::{Action, DnatTarget, RuleSpec};
use crate::traffic::service::HostPort;

/// What is known when the rules are made.
pub(crate) struct Known<'a> {
    /// The addresses of a host name.
    pub addresses: &'a dyn Fn(&str) -> Vec<IpAddr>,
    /// Where a redirection listens; the families without a listener are left alone.
    pub listening: &'a dyn Fn(RedirectionId) -> Vec<SocketAddr>,
}

impl Known<'_> {
    /// The addresses of an upstream, in the resolver's order.
    pub(crate) fn upstream(&self, host: &HostPort) -> Vec<SocketAddr> {
        host.addresses(self.addresses)
    }
}

impl Config {
    /// The rules of this daemon; `None` when there are none to own.
    ///
    /// Errors: a MATCH that comes to nothing with these addresses.
    pub(crate) fn rules(&self, known: &Known<'_>) -> Result<Option<RuleSet>, Error> {
        if !self.has_rules() {
            return Ok(None);
        }
        let mut lines = Vec::new();
        for (index, redirection) in self.redirections.iter().enumerate() {
            for (verb, matching) in &redirection.lines {
                lines.push(redirection.line(RedirectionId::from(index), *verb, matching, known)?);
            }
        }
        let own_uid = self.process.user.map(|user| user.uid);
        let places = self.redirections.iter().map(|redirection| redirection.place.clone()).collect();
        Ok(Some(RuleSet { name: self.name.clone(), lines, families: Family::BOTH.to_vec(), own_uid, places }))
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

impl Redirection {
    fn line(&self, id: RedirectionId, verb: RuleKind, matching: &Match, known: &Known<'_>) -> Result<RuleSpec, Error> {
        let mut matching = matching.resolve(known.addresses)?;
        let listening = (known.listening)(id);
        if verb == RuleKind::Redirect && matches!(self.target, Target::Relay(_)) {
            for family in Family::BOTH {
                if !listening.iter().any(|address| Family::of(&address.ip()) == family) {
                    matching = matching.without(family);
                }
            }
        }
        let action = match verb {
            RuleKind::Exempt => Action::Exempt,
            RuleKind::Reject => Action::Reject,
            RuleKind::Redirect => self.action(&listening, known),
        };
        Ok(RuleSpec { action, matching, output: self.output, redirection: id })
    }

    fn action(&self, listening: &[SocketAddr], known: &Known<'_>) -> Action {
        match &self.target {
            Target::Relay(_) => {
                let port = match self.listen {
                    Listen::Port { port, .. } => port,
                    Listen::Passed(_) => listening.first().map_or(0, SocketAddr::port),
                };
                Action::Redirect { port }
            }
            Target::Local(port) => Action::Local { port: *port },
            Target::Kernel(host) => {
                let ips: Vec<IpAddr> = known.upstream(host).iter().map(SocketAddr::ip).collect();
                Action::Kernel { to: DnatTarget::pick(&ips, host.port, DnatTarget::default()) }
            }
        }
    }
}
