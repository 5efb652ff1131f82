//! What of a configuration waits for host names that do not resolve. The rest is served.

use std::net::IpAddr;

use crate::config::{Config, Redirection, RuleKind};
use crate::redirection::RedirectionId;
use crate::rules::matching::Match;

/// The addresses of a host name.
type Addresses<'a> = &'a dyn Fn(&str) -> Vec<IpAddr>;

impl Config {
    /// What waits for names that do not resolve, one sentence each.
    pub(crate) fn what_waits_for_names(&self, addresses: Addresses<'_>) -> Vec<String> {
        let all = self.redirections.iter().enumerate();
        all.flat_map(|(index, redirection)| what_waits(redirection, RedirectionId::from(index), addresses)).collect()
    }

    /// Whether one of the redirections can serve with the names that have addresses.
    pub(crate) fn can_serve(&self, addresses: Addresses<'_>) -> bool {
        self.redirections.iter().any(|redirection| can_serve(redirection, addresses))
    }
}

fn has_upstream(redirection: &Redirection, addresses: Addresses<'_>) -> bool {
    redirection.hosts().is_empty() || redirection.hosts().iter().any(|host| !host.addresses(addresses).is_empty())
}

/// For each rule whether it waits for a name. Without an upstream no redirect leads anywhere. Behind an exemption or a
/// reject that lacks an address, a redirect could take what that rule is about.
pub(super) fn withheld(redirection: &Redirection, addresses: Addresses<'_>) -> Vec<bool> {
    let mut redirects_wait = !has_upstream(redirection, addresses);
    let waits = |(kind, written): &(RuleKind, Match)| match kind {
        RuleKind::Redirect => redirects_wait,
        RuleKind::Exempt | RuleKind::Reject => {
            redirects_wait |= written.names().into_iter().any(|name| addresses(name).is_empty());
            false
        }
    };
    redirection.rules.iter().map(waits).collect()
}

fn can_serve(redirection: &Redirection, addresses: Addresses<'_>) -> bool {
    let mut redirects = redirection
        .rules
        .iter()
        .zip(withheld(redirection, addresses))
        .filter(|((kind, _), _)| *kind == RuleKind::Redirect);
    // An error in a match is told when the rules are made.
    let leads_on = |((_, written), withheld): (&(RuleKind, Match), bool)| {
        !withheld && written.resolve(addresses).map_or(true, |resolved| !resolved.is_empty())
    };
    let has_redirects = redirection.rules.iter().any(|(kind, _)| *kind == RuleKind::Redirect);
    has_upstream(redirection, addresses) && (!has_redirects || redirects.any(leads_on))
}

fn what_waits(redirection: &Redirection, id: RedirectionId, addresses: Addresses<'_>) -> Vec<String> {
    let place = redirection.place.as_ref().map(|(file, line)| format!(" ({file}:{line})")).unwrap_or_default();
    let sentence = |name: &str, what: String| match addresses(name).is_empty() {
        true => format!("'{name}' does not resolve: {what} until it does"),
        false => format!("'{name}' has link-local addresses only, of which nobody knows the interface: {what}"),
    };
    let mut sentences = Vec::new();
    for host in redirection.hosts().iter().filter(|host| host.addresses(addresses).is_empty()) {
        let what = if has_upstream(redirection, addresses) { "goes without this upstream" } else { "is withheld" };
        sentences.push(sentence(host.name.as_str(), format!("redirection {id}{place} {what}")));
    }
    for (kind, written) in &redirection.rules {
        for name in written.names().into_iter().filter(|name| addresses(name).is_empty()) {
            let what = match kind {
                RuleKind::Redirect => "goes without its addresses",
                RuleKind::Exempt | RuleKind::Reject => "and each redirect after it are withheld",
            };
            sentences.push(sentence(name, format!("{} of redirection {id}{place} {what}", written.shown())));
        }
    }
    sentences
}
