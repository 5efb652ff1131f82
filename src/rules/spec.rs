//! One line of the table: to which traffic what happens.

use std::net::{IpAddr, SocketAddr};

use crate::redirection::RedirectionId;
use crate::rules::address::Family;
use crate::rules::matching::Resolved;

/// What happens to the traffic that a line matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// `-X`: left alone.
    Exempt,
    /// `--reject`: refused at once.
    Reject,
    /// `-R` of a relay: redirected to the port that a worker listens on.
    Redirect {
        /// The port.
        port: u16,
    },
    /// `-R` with `--local`: redirected to a service on this host.
    Local {
        /// Its port; None is the port that the packet came for.
        port: Option<u16>,
    },
    /// `-R` with `--kernel`: sent to another host by the kernel alone.
    Kernel {
        /// Where to.
        to: DnatTarget,
    },
}

/// Where `--kernel` sends traffic: at most one address of each family, since the kernel translates within a family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DnatTarget {
    v4: Option<SocketAddr>,
    v6: Option<SocketAddr>,
}

/// Whether the redirects of a redirection stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// As the user wrote them.
    Normal,
    /// Their traffic goes where it wanted to.
    Withdrawn,
    /// Their traffic is refused.
    Rejected,
}

/// One `-X`, `--reject` or `-R`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleSpec {
    /// What happens.
    pub action: Action,
    /// To which traffic.
    pub matching: Resolved,
    /// The redirection that it belongs to.
    pub redirection: RedirectionId,
    /// Also for this host's own connections (`-O`).
    pub output: bool,
}

impl DnatTarget {
    /// The first address of each family, except that one in use is kept for as long as the name has it: an answer
    /// in another order (round robin) is no reason to touch the rules.
    pub fn pick(addresses: &[IpAddr], port: u16, in_use: DnatTarget) -> DnatTarget {
        let choose = |family| {
            let kept = in_use.of(family).map(|address| address.ip()).filter(|ip| addresses.contains(ip));
            let found = kept.or_else(|| addresses.iter().copied().find(|ip| Family::of(ip) == family));
            found.map(|ip| SocketAddr::new(ip, port))
        };
        DnatTarget { v4: choose(Family::V4), v6: choose(Family::V6) }
    }

    /// The address of a family, if there is one.
    pub fn of(&self, family: Family) -> Option<SocketAddr> {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }
}

impl Action {
    /// The same behind a gate. Only a relay's redirect has one: nothing else depends on a worker or an upstream, and
    /// what is exempt or refused stays so.
    ///
    /// What is withdrawn becomes an exemption in the same place, for its traffic is to go where it wanted to and not
    /// to a later line.
    pub fn behind(self, gate: Gate) -> Action {
        match (self, gate) {
            (Action::Redirect { .. }, Gate::Withdrawn) => Action::Exempt,
            (Action::Redirect { .. }, Gate::Rejected) => Action::Reject,
            (action, _) => action,
        }
    }

    /// Whether it changes where a connection goes, which is the nat table's business.
    pub fn translates(self) -> bool {
        !matches!(self, Action::Exempt | Action::Reject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_the_first_of_each_family_and_stays_while_the_name_has_it() {
        let ips = |list: &[&str]| list.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<IpAddr>>();
        let shown = |target: DnatTarget| Family::BOTH.map(|f| target.of(f).map(|a| a.to_string()).unwrap_or_default());
        let first = DnatTarget::pick(&ips(&["10.3.0.3", "fd00:3::3", "10.3.0.4"]), 80, DnatTarget::default());
        assert_eq!(shown(first), ["10.3.0.3:80", "[fd00:3::3]:80"]);
        let turned = DnatTarget::pick(&ips(&["10.3.0.4", "10.3.0.3"]), 80, first);
        assert_eq!(shown(turned), ["10.3.0.3:80", ""]);
        assert_eq!(shown(DnatTarget::pick(&ips(&["10.3.0.4"]), 81, turned)), ["10.3.0.4:81", ""]);
        assert_eq!(DnatTarget::pick(&[], 80, first), DnatTarget::default());
    }

    #[test]
    fn only_a_redirect_to_a_worker_is_gated() {
        let local = Action::Local { port: None };
        let kernel = Action::Kernel { to: DnatTarget::default() };
        for action in [Action::Exempt, Action::Reject, local, kernel] {
            for gate in [Gate::Normal, Gate::Withdrawn, Gate::Rejected] {
                assert_eq!(action.behind(gate), action);
            }
        }
        let redirect = Action::Redirect { port: 1 };
        let gates = [Gate::Normal, Gate::Withdrawn, Gate::Rejected].map(|gate| redirect.behind(gate));
        assert_eq!(gates, [redirect, Action::Exempt, Action::Reject]);
    }
}
