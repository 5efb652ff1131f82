//! Redirects that lead nowhere: what they match has one address family, and what they lead to has the other one; or what
//! they lead to is the loopback address, which redirected connections do not reach.

use std::net::SocketAddr;

use crate::config::rules::Known;
use crate::config::{Config, Redirection, RuleKind, Target, waiting};
use crate::error::Error;
use crate::redirection::RedirectionId;
use crate::rules::address::Family;
use crate::traffic::service;

/// Returns a sentence for each redirect that leads nowhere, in a redirection in which others do.
///
/// Errors: a redirection of which none leads anywhere.
pub(crate) fn check(config: &Config, known: &Known<'_>) -> Result<Vec<String>, Error> {
    let mut sentences = Vec::new();
    for (index, redirection) in config.redirections.iter().enumerate() {
        let there = leads_to(redirection, RedirectionId::from(index), known);
        let redirects = redirection.rules.iter().filter(|(kind, _)| *kind == RuleKind::Redirect).count();
        if redirects > 0 && !there.is_empty() && is_loopback_only(redirection, &there) {
            let list = list(&there);
            return Err(Error::Usage(format!(
                "redirected connections cannot reach {list}, which is passed; use another address"
            )));
        }
        let nowhere = if there.is_empty() { Vec::new() } else { nowhere(redirection, &there, known)? };
        match nowhere.first() {
            Some(sentence) if nowhere.len() == redirects => {
                let error = Error::Usage(sentence.clone());
                return Err(match &redirection.place {
                    Some((file, line)) => error.in_file(file, *line),
                    None => error,
                });
            }
            _ => sentences.extend(nowhere),
        }
    }
    Ok(sentences)
}

/// The kernel sends redirected connections to the address of the interface that they come in on.
fn is_loopback_only(redirection: &Redirection, there: &[SocketAddr]) -> bool {
    matches!(redirection.target, Target::Relay(_))
        && !redirection.is_tproxy()
        && there.iter().all(|address| address.ip().is_loopback())
}

fn list(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(service::shown).collect::<Vec<_>>().join(", ")
}

/// Where a redirection leads to; empty if that is not known yet, or everywhere.
fn leads_to(redirection: &Redirection, id: RedirectionId, known: &Known<'_>) -> Vec<SocketAddr> {
    match &redirection.target {
        Target::Relay(_) => (known.listening)(id),
        Target::Kernel(host) => known.upstream(host),
        Target::Local(_) => Vec::new(),
    }
}

/// A redirect that waits for a name may lead on when it resolves.
fn nowhere(redirection: &Redirection, there: &[SocketAddr], known: &Known<'_>) -> Result<Vec<String>, Error> {
    let mut sentences = Vec::new();
    let families: Vec<Family> = there.iter().map(|address| Family::of(&address.ip())).collect();
    for ((kind, written), withheld) in redirection.rules.iter().zip(waiting::withheld(redirection, known.addresses)) {
        if *kind != RuleKind::Redirect || withheld {
            continue;
        }
        let matched = written.resolve(known.addresses)?;
        if let (Some(first), true) = (matched.first(), matched.iter().all(|one| !families.contains(&one.family))) {
            let (shown, there) = (written.shown(), list(there));
            sentences.push(format!(
                "{shown}: redirects nothing, for it matches {} only, and leads to {there}",
                first.family
            ));
        }
    }
    Ok(sentences)
}
