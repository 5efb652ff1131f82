//! One rule as the user wants it: which traffic, and what happens to it.

use std::net::{IpAddr, SocketAddr};

use crate::redirection::RedirectionId;
use crate::rules::address::Family;
use crate::rules::chains::Rule;
use crate::rules::matching::ResolvedMatch;

/// One `-X`, `--reject` or `-R` in one address family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleSpec {
    pub action: Action,
    pub matching: ResolvedMatch,
    /// The redirection that it belongs to.
    pub redirection: RedirectionId,
    /// Also for this host's own connections (`-O`).
    pub output: bool,
}

/// What happens to the traffic that matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// `-X`: left alone.
    Exempt,
    /// `--reject`: refused at once, also when it is to be forwarded.
    Reject,
    /// `-R` of a relay: redirected to the port that a worker listens on.
    Redirect { port: u16 },
    /// The same with `--intercept tproxy`: handed to the socket that listens at this address, unchanged.
    Tproxy { to: SocketAddr },
    /// `-R` with `--local`: redirected to a service on this host. Without a port, to the port of the original
    /// destination.
    Local { port: Option<u16> },
    /// `-R` with `--kernel`: the kernel alone sends it to another host, which must be of the rule's family. Without a
    /// port, to the port of the original destination.
    Kernel { to: IpAddr, port: Option<u16> },
}

/// Whether the redirects of a redirection are in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// The rules are as the user wrote them.
    Normal,
    /// The traffic goes to its original destination.
    Withdrawn,
    /// The traffic is refused.
    Rejected,
    /// An administrator has taken the redirects away: the traffic goes to its original destination.
    Disabled,
}

impl RuleSpec {
    /// A redirect of all TCP of a family, to stand where nothing leads.
    pub(crate) fn redirect_of_all(family: Family, port: u16) -> RuleSpec {
        let words = vec!["-p".to_owned(), "tcp".to_owned()];
        let matching = ResolvedMatch { family, protocol: "tcp".to_owned(), words, expands_to: 1 };
        RuleSpec { action: Action::Redirect { port }, matching, redirection: RedirectionId(0), output: false }
    }

    /// The rule for iptables: the match, and then `verdict`.
    pub(crate) fn rule(&self, verdict: &[&str]) -> Rule {
        let words = self.matching.words.iter().map(String::as_str);
        Rule::new(words.chain(verdict.iter().copied()), self.matching.expands_to)
    }

    /// Whether it is a `--kernel` rule.
    pub(crate) fn is_kernel(&self) -> bool {
        matches!(self.action, Action::Kernel { .. })
    }
}

impl Action {
    /// The action behind a gate. Only a relay's redirect is withdrawn or rejected: no other action depends on a worker or
    /// an upstream. All of them can be disabled.
    ///
    /// A withdrawn redirect becomes an exemption in the same place: its traffic must reach its original destination,
    /// and not match a later rule instead.
    pub fn behind(self, gate: Gate) -> Action {
        match (self, gate) {
            (Action::Redirect { .. } | Action::Tproxy { .. }, Gate::Withdrawn) => Action::Exempt,
            (Action::Redirect { .. } | Action::Tproxy { .. }, Gate::Rejected) => Action::Reject,
            (action, Gate::Disabled) if action.redirects() => Action::Exempt,
            (action, _) => action,
        }
    }

    /// Whether it changes the destination, which only the nat table can.
    pub fn translates(self) -> bool {
        matches!(self, Action::Redirect { .. } | Action::Local { .. } | Action::Kernel { .. })
    }

    /// The port that a worker listens on; 1 if there is none, where only a port will do.
    pub(crate) fn port(self) -> u16 {
        match self {
            Action::Redirect { port } => port,
            _ => 1,
        }
    }

    /// Whether it leads connections elsewhere.
    pub fn redirects(self) -> bool {
        !matches!(self, Action::Exempt | Action::Reject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_redirect_to_a_worker_is_gated() {
        let local = Action::Local { port: None };
        let kernel = Action::Kernel { to: [10, 3, 0, 3].into(), port: Some(80) };
        for action in [Action::Exempt, Action::Reject, local, kernel] {
            for gate in [Gate::Normal, Gate::Withdrawn, Gate::Rejected] {
                assert_eq!(action.behind(gate), action);
            }
        }
        for redirect in [Action::Redirect { port: 1 }, Action::Tproxy { to: SocketAddr::from(([0, 0, 0, 0], 1)) }] {
            let gates = [Gate::Normal, Gate::Withdrawn, Gate::Rejected].map(|gate| redirect.behind(gate));
            assert_eq!(gates, [redirect, Action::Exempt, Action::Reject]);
            assert_eq!(redirect.behind(Gate::Disabled), Action::Exempt);
        }
        for action in [local, kernel] {
            assert_eq!(action.behind(Gate::Disabled), Action::Exempt);
        }
        assert_eq!(Action::Reject.behind(Gate::Disabled), Action::Reject);
    }
}
