//! What stands in the tables of one family for the lines of one instance.

use crate::rules::address::Family;
use crate::rules::chains::{Chain, Jump, PREFIX, Rule, Table};
use crate::rules::conntrack_match::Origin;
use crate::rules::matching::FamilyWords;
use crate::rules::spec::{Action, RuleSpec};

/// PrereadStep of a packet whose destination was translated.
const TRANSLATED: [&str; 4] = ["-m", "conntrack", "--ctstate", "DNAT"];

/// A line in one family.
#[derive(Clone, Copy)]
struct Item<'a> {
    line: &'a RuleSpec,
    words: &'a FamilyWords,
    /// Where a kernel line leads to in this family.
    target: Option<std::net::SocketAddr>,
}

/// What is the same for all tables of an instance.
struct Instance {
    chain: String,
    own_uid: Option<u32>,
}

/// A table before its chains are named.
struct Draft<'a> {
    name: &'static str,
    hooks: &'static [&'static str],
    items: Vec<Item<'a>>,
    /// Whether an action is why there is such a table; the others only stand in its way.
    needs: fn(Action) -> bool,
    rules: fn(&[Item]) -> Vec<Rule>,
    /// What goes before them where packets arrive.
    first: Option<Rule>,
}

/// The tables of a family. Empty if nothing is to stand there.
pub(crate) fn tables(name: &str, own_uid: Option<u32>, lines: &[RuleSpec], family: Family) -> Vec<Table> {
    let items: Vec<Item> = lines.iter().filter_map(|line| Item::of(line, family)).collect();
    let instance = Instance { chain: format!("{PREFIX}{name}"), own_uid };
    let filter = Draft {
        name: "filter",
        hooks: &["INPUT", "FORWARD"],
        // A reset is TCP's, so nothing else is refused.
        items: items.iter().copied().filter(|item| item.protocol() == "tcp").collect(),
        needs: |action| action == Action::Reject,
        rules: filter_rules,
        // What comes from this host was decided in OUTPUT (with -O) or is not meant (without), and comes by again in
        // INPUT when it goes to this host. Without this the relay could not reach an upstream on its own machine.
        first: Some(rule(&["-i", "lo", "-j", "RETURN"])),
    };
    let nat =
        Draft { name: "nat", hooks: &["PREROUTING"], items, needs: Action::translates, rules: nat_rules, first: None };
    let post = masquerade(&instance, &nat.items);
    let mut nat = nat.table(&instance);
    if let (Some(nat), Some((chain, jumps))) = (&mut nat, post) {
        nat.chains.push(chain);
        nat.jumps.extend(jumps);
    }
    filter.table(&instance).into_iter().chain(nat).collect()
}

impl<'a> Item<'a> {
    /// None if the line says nothing about the family: its MATCH holds for the other one, or it leads to an address
    /// of the other one only.
    fn of(line: &'a RuleSpec, family: Family) -> Option<Item<'a>> {
        let words = line.matching.words(family)?;
        let target = match line.action {
            Action::Kernel { to } => Some(to.of(family)?),
            _ => None,
        };
        Some(Item { line, words, target })
    }

    fn protocol(&self) -> &'a str {
        self.line.matching.protocol()
    }

    /// The MATCH and what then happens.
    fn rule(&self, verdict: &[&str]) -> Rule {
        let words: Vec<&str> = self.words.words.iter().map(String::as_str).chain(verdict.iter().copied()).collect();
        Rule::new(&words, self.words.rules)
    }
}

impl Draft<'_> {
    /// The table with the instance's chain, and with a second one for OUTPUT if a line asks for it (`-O`).
    fn table(&self, instance: &Instance) -> Option<Table> {
        let needing: Vec<Item> = self.items.iter().copied().filter(|item| (self.needs)(item.line.action)).collect();
        if needing.is_empty() {
            return None;
        }
        let mut table = Table::new(self.name);
        let rules = self.first.iter().cloned().chain((self.rules)(&self.items)).collect();
        table.chains.push(Chain { name: instance.chain.clone(), rules });
        table.jumps = self.hooks.iter().flat_map(|hook| jumps(hook, &needing, &[], &instance.chain)).collect();
        let of_this_host: Vec<Item> = needing.into_iter().filter(|item| item.line.output).collect();
        if !of_this_host.is_empty() {
            let out = Chain { name: format!("{}.out", instance.chain), rules: self.output_rules(instance) };
            table.jumps.extend(jumps("OUTPUT", &of_this_host, &[], &out.name));
            table.chains.push(out);
        }
        Some(table)
    }

    /// What meets this host's own connections: the relay's leave first, then come the lines that are meant for them.
    fn output_rules(&self, instance: &Instance) -> Vec<Rule> {
        let own = instance.own_uid.map(|uid| rule(&["-m", "owner", "--uid-owner", &uid.to_string(), "-j", "RETURN"]));
        let meant: Vec<Item> = self.items.iter().copied().filter(|item| item.line.output).collect();
        let rules =
            if meant.len() == self.items.len() { vec![rule(&["-j", &instance.chain])] } else { (self.rules)(&meant) };
        own.into_iter().chain(rules).collect()
    }
}

/// The jumps from a chain to one of ours, one for each protocol that is needed there.
fn jumps(from: &str, needing: &[Item], condition: &[&str], to: &str) -> Vec<Jump> {
    // A connection from before the rules is not ours: where they are the first to need connection tracking, its next
    // packet is taken for a new connection (nf_conntrack_tcp_loose), but it carries no SYN. UDP has no such sign.
    let protocols: [(&str, &[&str]); 2] = [("tcp", &["-p", "tcp", "--syn"]), ("udp", &["-p", "udp"])];
    let needed = |(protocol, _): &(&str, _)| needing.iter().any(|item| item.protocol() == *protocol);
    let jump = |(_, words): (_, &[&str])| {
        let text = rule(&[words, condition, &["-j", to]].concat()).text;
        Jump { from: from.to_string(), at: 1, at_head: true, text }
    };
    protocols.into_iter().filter(needed).map(jump).collect()
}

fn nat_rules(items: &[Item]) -> Vec<Rule> {
    let rule = |item: &Item| match (item.line.action, item.target) {
        (Action::Redirect { port } | Action::Local { port: Some(port) }, _) => {
            item.rule(&["-j", "REDIRECT", "--to-ports", &port.to_string()])
        }
        (Action::Local { port: None }, _) => item.rule(&["-j", "REDIRECT"]),
        (Action::Kernel { .. }, Some(target)) => item.rule(&["-j", "DNAT", "--to-destination", &target.to_string()]),
        (Action::Kernel { .. } | Action::Exempt | Action::Reject, _) => item.rule(&["-j", "RETURN"]),
    };
    items.iter().map(rule).collect()
}

fn filter_rules(items: &[Item]) -> Vec<Rule> {
    // Before all lines, since what was translated would be judged by where it goes now.
    let mut rules = Vec::new();
    for decided in items.iter().flat_map(decided) {
        if !rules.contains(&decided) {
            rules.push(decided);
        }
    }
    let verdict = |item: &Item| match item.line.action {
        Action::Reject => Some(item.rule(&["-j", "REJECT", "--reject-with", "tcp-reset"])),
        // What already was where its line leads to has not been translated, and is not for a later line.
        Action::Exempt | Action::Local { .. } | Action::Kernel { .. } => Some(item.rule(&["-j", "RETURN"])),
        Action::Redirect { .. } => None,
    };
    rules.extend(items.iter().filter_map(verdict));
    rules
}

/// Lets pass what the nat table has translated for this line, and only that: whoever calls the port or the server
/// directly is judged by the lines.
fn decided(item: &Item) -> Vec<Rule> {
    let passed = |now: &[&str]| vec![rule(&[&["-p", "tcp"], now, &TRANSLATED, &["-j", "RETURN"]].concat())];
    match (item.line.action, item.target) {
        (Action::Redirect { port } | Action::Local { port: Some(port) }, _) => passed(&["--dport", &port.to_string()]),
        // The port is whatever it was before.
        (Action::Local { port: None }, _) => Origin::of(item.words).rules(&[], &["-j", "RETURN"]),
        (_, Some(target)) => passed(&["-d", &target.ip().to_string(), "--dport", &target.port().to_string()]),
        _ => Vec::new(),
    }
}

/// The chain that gives our address as source to what the kernel lines have sent elsewhere, so that the answers come
/// back this way; and the jumps to it. See [`Origin`] for how it knows them.
fn masquerade(instance: &Instance, items: &[Item]) -> Option<(Chain, Vec<Jump>)> {
    let last = items.iter().rposition(|item| item.target.is_some())?;
    let items = items.get(..=last)?;
    let mut rules = Vec::new();
    for item in items {
        let origin = Origin::of(item.words);
        match (item.line.action, item.target) {
            (_, Some(target)) => {
                let now = ["-d", &target.ip().to_string(), "--dport", &target.port().to_string()];
                rules.extend(origin.rules(&now, &["-j", "MASQUERADE"]));
            }
            // What we left alone may have been sent to the same server by others. PrereadStep only where it is exact: in
            // doubt an answer that comes back is better.
            (Action::Exempt | Action::Reject, None) if origin.exact => {
                rules.extend(origin.rules(&[], &["-j", "RETURN"]));
            }
            _ => {}
        }
    }
    let chain = Chain { name: format!("{}.post", instance.chain), rules };
    let sent: Vec<Item> = items.iter().copied().filter(|item| item.target.is_some()).collect();
    let jumps = jumps("POSTROUTING", &sent, &TRANSLATED, &chain.name);
    Some((chain, jumps))
}

fn rule(words: &[&str]) -> Rule {
    Rule::new(words, 1)
}
