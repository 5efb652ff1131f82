//! From the lines of the command line to the rules of the kernel. All of it is pure: the same [`RuleSet`] makes what
//! is installed, what is printed and what is compared, so that these cannot drift apart.
//!
//! A connection meets the nat table first, and only once. There each line ends the matter: what is exempt or to be
//! rejected RETURNs untouched, what is to be redirected is. What was redirected reaches the filter table with its new
//! destination, and RETURNs from there before any reject is looked at. So the order on the command line decides in
//! both tables.

use crate::redirection::RedirectionId;
use crate::rules::address::Family;
use crate::rules::chains::{Table, change};
use crate::rules::plan;
use crate::rules::spec::{Gate, RuleSpec};

/// All that one instance asks of the firewall.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleSet {
    /// The name of the instance, at most 16 characters. Its chains are called after it.
    pub name: String,
    /// The lines in the order of the command line; the first that matches decides.
    pub lines: Vec<RuleSpec>,
    /// The families that the listener has: without a listener a redirect would lead nowhere.
    pub families: Vec<Family>,
    /// The user whose own connections are left alone under `-O`: the relay itself.
    pub own_uid: Option<u32>,
    /// The file and the line in which each redirection was written, for messages.
    pub places: Vec<Option<(String, usize)>>,
}

impl RuleSet {
    /// The same with the redirects of each redirection behind its gate.
    pub fn with(&self, gate: impl Fn(RedirectionId) -> Gate) -> RuleSet {
        let mut gated = self.clone();
        for line in &mut gated.lines {
            line.action = line.action.behind(gate(line.redirection));
        }
        gated
    }

    /// What is to stand in the tables of a family. Empty if nothing is.
    pub fn plan(&self, family: Family) -> Vec<Table> {
        if !self.families.contains(&family) {
            return Vec::new();
        }
        plan::tables(&self.name, self.own_uid, &self.lines, family)
    }

    /// The exact input for `iptables-restore --noflush` (or `ip6tables-restore`) of an installation where nothing of
    /// this instance stands yet.
    pub fn restore_text(&self, family: Family) -> String {
        change(&[], &self.plan(family))
    }
}

/// What a clean installation would feed to the tools, word for word, under the commands that take it.
pub(crate) fn print_rules(set: &RuleSet) -> String {
    let mut text = String::new();
    for (family, tool) in [(Family::V4, "iptables-restore"), (Family::V6, "ip6tables-restore")] {
        let rules = set.restore_text(family);
        if !rules.is_empty() {
            text.push_str(&format!("# {tool} --noflush\n{rules}"));
        }
    }
    text
}

#[cfg(test)]
#[path = "rule_tests.rs"]
mod tests;
