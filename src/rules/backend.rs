//! By which tool rules are installed.

use std::fmt;

/// The value of `--firewall`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FirewallChoice {
    /// What suits the host and the rules.
    Auto,
    #[default]
    Iptables,
    Nft,
}

/// What rules are installed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FirewallKind {
    Iptables,
    Nft,
}

impl fmt::Display for FirewallKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FirewallKind::Iptables => "iptables",
            FirewallKind::Nft => "nft",
        })
    }
}
