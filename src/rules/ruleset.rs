//! All rules that one instance wants in the kernel. Everything here is pure: the same [`RuleSet`] makes what is
//! installed, what is printed and what is compared, so these three cannot differ.
//!
//! A new connection meets the mangle table first. There a rule with `--intercept tproxy` hands it to the listening socket
//! and marks it; for all other rules it goes on. Then it meets the nat table, and only once. The first rule that matches decides: an exempt or
//! rejected connection RETURNs untouched, a redirected one gets a new destination. A redirected connection reaches the
//! filter table with its new destination, and RETURNs from there before any reject is looked at. So the order on the
//! command line decides in both tables.

use crate::redirection::RedirectionId;
use crate::rules::address::Family;
use crate::rules::backend::FirewallChoice;
use crate::rules::chains::{Table, restore_text};
use crate::rules::plan::{self, Wanted};
use crate::rules::policy_routing::PolicyRouting;
use crate::rules::rule::{Gate, RuleSpec};
use crate::rules::untracked::Untracked;

/// All that one instance asks of the firewall.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleSet {
    /// The name of the instance, at most 16 characters. Its chains are called after it.
    pub name: String,
    /// In the order of the command line: the first rule that matches decides.
    pub specs: Vec<RuleSpec>,
    /// Redirects that a gate keeps new connections from. What they have redirected before needs them still.
    pub idle: Vec<RuleSpec>,
    /// The user whose own connections are left alone under `-O`: the workers'.
    pub own_uid: Option<u32>,
    /// How packets get to sockets whose addresses are not this host's; `None` if there are no such sockets.
    pub routing: Option<PolicyRouting>,
    /// Whether connections are refused that should have been intercepted and were not (`--fail closed`).
    pub holds: bool,
    /// The redirections whose connections are not tracked.
    pub untracked: Vec<Untracked>,
    /// The file and the line in which each redirection was written, for messages.
    pub locations: Vec<Option<(String, usize)>>,
    /// What installs the rules.
    pub firewall: FirewallChoice,
}

impl RuleSet {
    /// The same rules, with the redirects of each redirection behind its gate.
    pub fn with_gates(&self, gate: impl Fn(RedirectionId) -> Gate) -> RuleSet {
        let behind = |spec: &RuleSpec| spec.action.behind(gate(spec.redirection));
        let specs = self.specs.iter().map(|spec| RuleSpec { action: behind(spec), ..spec.clone() }).collect();
        let idle = self.specs.iter().filter(|spec| behind(spec) != spec.action).cloned().collect();
        RuleSet { specs, idle, ..self.clone() }
    }

    /// One redirect of each family that has any. It is enough for connection tracking to stay at work.
    pub(crate) fn one_redirect_each(&self) -> Vec<RuleSpec> {
        Family::BOTH.into_iter().filter_map(|family| self.redirect_of(family).cloned()).collect()
    }

    /// The same rules, with those redirects of earlier rules without which connections would lose their way.
    pub(crate) fn with_former(mut self, redirects: &[RuleSpec]) -> RuleSet {
        for former in redirects {
            if self.redirect_of(former.matching.family).is_none() {
                self.idle.push(former.clone());
            }
        }
        self
    }

    fn redirect_of(&self, family: Family) -> Option<&RuleSpec> {
        let mut all = self.specs.iter().chain(&self.idle);
        all.find(|spec| spec.matching.family == family && spec.action.translates())
    }

    /// The tables of a family as they should be. Empty if the family gets no rule.
    pub fn plan(&self, family: Family) -> Vec<Table> {
        plan::tables(self.wanted(family))
    }

    /// A table of this name that rejects what the others of the family would redirect, once these are gone.
    pub(crate) fn plan_closed(&self, table: &'static str, family: Family) -> Option<Table> {
        plan::closed(table, self.wanted(family))
    }

    fn wanted(&self, family: Family) -> Wanted<'_> {
        let RuleSet { name, own_uid, holds, untracked, .. } = self;
        let (own_uid, holds, routing) = (*own_uid, *holds, self.routing_of(family));
        let is_wanted = |spec: &&RuleSpec| spec.matching.family == family;
        let specs = self.specs.iter().filter(is_wanted).collect();
        let idle = self.idle.iter().filter(is_wanted).collect();
        Wanted { name, own_uid, family, routing, holds, untracked, specs, idle }
    }

    /// The policy routing, if this family needs it.
    pub(crate) fn routing_of(&self, family: Family) -> Option<&PolicyRouting> {
        self.routing.as_ref().filter(|routing| routing.families.contains(&family))
    }

    /// The exact input for `iptables-restore --noflush` (or `ip6tables-restore`) where nothing of this instance is
    /// installed yet.
    pub fn restore_text(&self, family: Family) -> String {
        restore_text(&[], &self.plan(family))
    }
}

/// The commands of a clean installation, each with its input, word for word.
pub(crate) fn print_rules(set: &RuleSet) -> String {
    let mut text = String::new();
    for (family, tool) in [(Family::V4, "iptables-restore"), (Family::V6, "ip6tables-restore")] {
        text.push_str(&routing_commands(set, family));
        let rules = set.restore_text(family);
        if !rules.is_empty() {
            text.push_str(&format!("# {tool} --noflush\n{rules}"));
        }
    }
    text
}

/// The commands that install its policy routing in a family.
pub(crate) fn routing_commands(set: &RuleSet, family: Family) -> String {
    set.routing_of(family).map(|routing| routing.commands(family)).unwrap_or_default()
}

#[cfg(test)]
#[path = "ruleset_tests.rs"]
mod tests;
