//! The table of an instance, as text for nft(8). It is made from the same plan as the rules for iptables, so both do the
//! same.
//!
//! Its chains run just before those of iptables at the same hook, so of two rules that translate a connection ours comes
//! first; a connection that we leave alone is for the others to decide. Only where marks are set ours run just after: there
//! the last one to set a mark wins.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::error::Error;
use crate::redirection::RedirectionId;
use crate::rules::address::Family;
use crate::rules::chains::{Chain, Jump, PREFIX, Table};
use crate::rules::nft::extensions::KeptSet;
use crate::rules::nft::lookups::{ChainEntry, grouped};
use crate::rules::nft::nft_rule::NftRule;
use crate::rules::nft::targets::{NftVerdict, TargetChain, number};
use crate::rules::ruleset::RuleSet;

/// A chain of the kernel that jumps to ours: table and chain of iptables, and its place for nft. The priorities are those
/// of include/uapi/linux/netfilter_ipv4.h, a little less (earlier) or more. A chain of type route has the kernel look for a
/// route again when it changes the mark.
const HOOKS: &[(&str, &str, &str)] = &[
    ("raw", "PREROUTING", "type filter hook prerouting priority -301"),
    ("raw", "OUTPUT", "type filter hook output priority -301"),
    ("mangle", "PREROUTING", "type filter hook prerouting priority -149"),
    ("mangle", "OUTPUT", "type route hook output priority -149"),
    ("filter", "INPUT", "type filter hook input priority -1"),
    ("filter", "FORWARD", "type filter hook forward priority -1"),
    ("filter", "OUTPUT", "type filter hook output priority -1"),
    ("nat", "PREROUTING", "type nat hook prerouting priority -110"),
    ("nat", "OUTPUT", "type nat hook output priority -110"),
    ("nat", "POSTROUTING", "type nat hook postrouting priority 90"),
    (CLOSED, "INPUT", "type filter hook input priority -2"),
    (CLOSED, "FORWARD", "type filter hook forward priority -2"),
    (CLOSED, "OUTPUT", "type filter hook output priority -2"),
];

/// The part that rejects what should have been redirected. Only nft has it.
const CLOSED: &str = "closed";

/// What the names of the kernel's chains end with that lead packets of established connections to ours.
pub(crate) const ESTABLISHED: &str = ".established";

/// Text of a table under construction.
struct TableWriter<'a> {
    set: &'a RuleSet,
    sets: Vec<KeptSet>,
    /// Sets and maps of look-ups.
    lookups: String,
    chains: String,
    /// The chains of targets, by name.
    targets: BTreeMap<String, Vec<String>>,
}

/// The name of the table of an instance.
pub(crate) fn name(instance: &str) -> String {
    format!("{PREFIX}{instance}")
}

/// The body of the instance's table, between its braces. Empty if it needs no rule.
///
/// Errors: what nft has no words for.
pub(crate) fn body(set: &RuleSet) -> Result<String, Error> {
    write(set, &Family::BOTH.map(|family| (family, set.plan(family))))
}

/// The same of the table that rejects new connections which the instance's table would have redirected, and has not:
/// nobody serves any more, so it is gone. Empty if it would reject nothing.
pub(crate) fn closed_body(set: &RuleSet) -> Result<String, Error> {
    let plan = |family| (family, set.plan_closed(CLOSED, family).into_iter().collect());
    write(set, &Family::BOTH.map(plan))
}

fn write(set: &RuleSet, plans: &[(Family, Vec<Table>)]) -> Result<String, Error> {
    let (lookups, chains) = (String::new(), String::new());
    let mut writer = TableWriter { set, sets: Vec::new(), lookups, chains, targets: BTreeMap::new() };
    for (family, tables) in plans {
        for table in tables {
            table.chains.iter().try_for_each(|chain| writer.chain(*family, table.name, chain))?;
        }
    }
    for (table, chain, place) in HOOKS {
        for established in [false, true] {
            writer.hook((table, chain, place), established, plans)?;
        }
    }
    let mut text = String::new();
    for KeptSet { name, declaration } in &writer.sets {
        let _ = writeln!(text, "\tset {name} {{\n\t\t{declaration}\n\t}}");
    }
    text.push_str(&writer.lookups);
    for (name, rules) in &writer.targets {
        let _ = write!(text, "\tchain {name} {{\n\t\t{}\n\t}}\n", rules.join("\n\t\t"));
    }
    Ok(text + &writer.chains)
}

impl TableWriter<'_> {
    fn chain(&mut self, family: Family, table: &str, chain: &Chain) -> Result<(), Error> {
        let name = self.chain_name(family, table, &chain.name);
        let mut rules = Vec::new();
        for rule in &chain.rules {
            rules.extend(self.translated(family, table, &rule.text)?);
        }
        let mut lines = String::new();
        for (at, entry) in grouped(rules).iter().enumerate() {
            let line = match entry {
                ChainEntry::Rule(rule) => self.rule(family, rule),
                ChainEntry::Lookup(lookup) => {
                    lookup.chains().for_each(|chain| self.target(chain));
                    let (declaration, rule) = lookup.text(&format!("{name}.{at}"));
                    self.lookups.push_str(&declaration);
                    rule
                }
            };
            let _ = writeln!(lines, "\t\t{line}");
        }
        let _ = write!(self.chains, "\tchain {name} {{\n{lines}\t}}\n");
        Ok(())
    }

    fn rule(&mut self, family: Family, rule: &NftRule) -> String {
        let (text, sets) = rule.text(family);
        for set in sets {
            if !self.sets.contains(&set) {
                self.sets.push(set);
            }
        }
        if let NftVerdict::Chain { chain, .. } = &rule.verdict {
            self.target(chain);
        }
        text
    }

    fn target(&mut self, chain: &TargetChain) {
        if !self.targets.contains_key(&chain.name) {
            self.targets.insert(chain.name.clone(), chain.rules.clone());
        }
    }

    /// The chain of the kernel's hook, with our jumps from it: those that serve established connections, or the others.
    fn hook(
        &mut self,
        (table, from, place): (&str, &str, &str),
        established: bool,
        plans: &[(Family, Vec<Table>)],
    ) -> Result<(), Error> {
        let mut lines = String::new();
        // The kernel translates established connections as long as there is a hook of this kind (`nf_nat_register_fn`,
        // net/netfilter/nf_nat_core.c), also if nothing leads anywhere from it.
        let nat = plans.iter().flat_map(|(_, tables)| tables).any(|one| one.name == "nat");
        let mut any = (table, from) == ("nat", "PREROUTING") && nat;
        for (family, tables) in plans {
            let jumps = tables.iter().filter(|one| one.name == table).flat_map(|one| &one.jumps);
            // iptables puts each before those that are there.
            let jumps = jumps.filter(|jump| jump.from == from && jump.serves_established() == established);
            for Jump { text, .. } in jumps.collect::<Vec<_>>().into_iter().rev() {
                any = true;
                for rule in self.translated(*family, table, text)? {
                    let nfproto = if *family == Family::V4 { "ipv4" } else { "ipv6" };
                    let _ = writeln!(lines, "\t\tmeta nfproto {nfproto} {}", self.rule(*family, &rule));
                }
            }
        }
        if any {
            let name = format!("{table}.{}{}", from.to_ascii_lowercase(), if established { ESTABLISHED } else { "" });
            let _ = write!(self.chains, "\tchain {name} {{\n\t\t{place}; policy accept;\n{lines}\t}}\n");
        }
        Ok(())
    }

    fn translated(&self, family: Family, table: &str, text: &str) -> Result<Vec<NftRule>, Error> {
        let name = |chain: &str| {
            let ours = chain.strip_prefix(PREFIX).is_some_and(|rest| rest.starts_with(&self.set.name));
            ours.then(|| self.chain_name(family, table, chain))
        };
        NftRule::translate(text, family, &name).map_err(|what| self.untranslated(family, text, &what))
    }

    /// How a chain of ours is called: after its table and family, since one table of nft has them all.
    fn chain_name(&self, family: Family, table: &str, chain: &str) -> String {
        let suffix = chain.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix(&self.set.name)).unwrap_or_default();
        format!("{table}{}{suffix}", number(family))
    }

    fn untranslated(&self, family: Family, rule: &str, what: &str) -> Error {
        let error = Error::Usage(format!("{what} needs --firewall iptables"));
        let mut specs = self.set.specs.iter().filter(|spec| spec.matching.family == family);
        let spec = specs.find(|spec| rule.starts_with(&spec.rule(&[]).text));
        let id: Option<RedirectionId> = spec.map(|spec| spec.redirection);
        match id.and_then(|id| self.set.locations.get(id.index())?.as_ref()) {
            Some((file, line)) => error.in_file(file, *line),
            None => error,
        }
    }
}
