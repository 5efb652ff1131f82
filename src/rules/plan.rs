//! The tables of one family as an instance's rules want them.

use std::net::{IpAddr, SocketAddr};

use crate::rules::address::Family;
use crate::rules::chains::{Chain, Jump, PREFIX, Rule, Table};
use crate::rules::conntrack_match::ConntrackMatch;
use crate::rules::matching::ResolvedMatch;
use crate::rules::policy_routing::{Connects, PolicyRouting};
use crate::rules::rule::{Action, RuleSpec};
use crate::rules::untracked::Untracked;
use crate::rules::{interception, local_answers, untracked};

/// Matches a packet whose destination was translated.
const TRANSLATED: [&str; 4] = ["-m", "conntrack", "--ctstate", "DNAT"];

/// What the name of the chain ends with in which redirects are that are idle.
const IDLE: &str = ".idle";

/// A table before its chains have names.
struct Draft<'a> {
    name: &'static str,
    /// The kernel's chains that jump to ours.
    hooks: &'static [&'static str],
    specs: Vec<&'a RuleSpec>,
    /// Whether an action needs this table. Other actions are in it only to take effect before a later rule.
    needs: &'a dyn Fn(Action) -> bool,
    rules: &'a dyn Fn(&[&RuleSpec]) -> Vec<Rule>,
    /// Stand before the rules in the chain for arriving packets.
    first: Vec<Rule>,
}

/// What an instance wants in one family.
pub(crate) struct Wanted<'a> {
    pub name: &'a str,
    pub own_uid: Option<u32>,
    pub family: Family,
    pub routing: Option<&'a PolicyRouting>,
    pub holds: bool,
    pub untracked: &'a [Untracked],
    pub specs: Vec<&'a RuleSpec>,
    /// Those of which only established connections know.
    pub idle: Vec<&'a RuleSpec>,
}

/// The tables for these rules. Empty if they need none.
pub(crate) fn tables(wanted: Wanted<'_>) -> Vec<Table> {
    let Wanted { name, own_uid, family, routing, holds, untracked, specs, idle } = wanted;
    let chain = format!("{PREFIX}{name}");
    // Only TCP is intercepted.
    let is_tcp = |spec: &&RuleSpec| spec.matching.protocol == "tcp";
    let of_tcp: Vec<&RuleSpec> = specs.iter().copied().filter(is_tcp).collect();
    let idle_of_tcp: Vec<&RuleSpec> = idle.iter().copied().filter(is_tcp).collect();
    let mut mangle = interception::mangle(&chain, routing, family, &of_tcp);
    if let (Some(mangle), Some(routing)) = (&mut mangle, routing) {
        local_answers::add(mangle, &chain, routing);
    }
    let connects = routing.map_or(Connects::No, |routing| routing.connects);
    let raw = untracked::raw(&chain, (family, connects), untracked, [&of_tcp, &idle_of_tcp]);
    let raw = untracked::with_zone(raw, interception::zone(&chain, routing));
    // OUTPUT decides about this host's own connections (with -O), or nothing does (without). One that goes to this
    // host also passes INPUT. Without this rule the relay could not reach an upstream on its own machine.
    let own = rule(&["-i", "lo", "-j", "RETURN"]);
    let intercepted = routing.map(passes_marked);
    let mut filter = Draft {
        name: "filter",
        hooks: &["INPUT", "FORWARD"],
        specs: specs.clone(),
        needs: &|action| action == Action::Reject || (holds && matches!(action, Action::Tproxy { .. })),
        rules: &|specs| filter_rules(specs, &idle, holds),
        first: std::iter::once(own).chain(intercepted).collect(),
    };
    let mut nat = Draft {
        name: "nat",
        hooks: &["PREROUTING"],
        specs,
        needs: &Action::translates,
        rules: &nat_rules,
        first: Vec::new(),
    };
    let masquerade = masquerade(&chain, &nat.specs);
    let mut nat = nat.table(&chain, own_uid);
    if let (Some(nat), Some((chain, jumps))) = (&mut nat, masquerade) {
        nat.chains.push(chain);
        nat.jumps.extend(jumps);
    }
    let nat = with_idle(nat, &chain, &idle);
    filter.table(&chain, own_uid).into_iter().chain(raw).chain(mangle).chain(nat).collect()
}

/// Keeps redirects that are idle in a chain to which nothing leads. With the last rule that needs connection tracking the
/// kernel would switch that off (`nf_ct_netns_put`, net/netfilter/nf_conntrack_proto.c), and the connections that were
/// redirected would lose their way.
fn with_idle(nat: Option<Table>, chain: &str, idle: &[&RuleSpec]) -> Option<Table> {
    let idle: Vec<&RuleSpec> = idle.iter().copied().filter(|spec| spec.action.translates()).collect();
    if idle.is_empty() {
        return nat;
    }
    let mut nat = nat.unwrap_or_else(|| Table::new("nat"));
    nat.chains.push(Chain { name: format!("{chain}{IDLE}"), rules: nat_rules(&idle) });
    Some(nat)
}

impl Draft<'_> {
    /// The table with the instance's chain, and with a second one for OUTPUT if a rule asks for it (`-O`).
    fn table(&mut self, chain: &str, own_uid: Option<u32>) -> Option<Table> {
        let needing: Vec<&RuleSpec> = self.specs.iter().copied().filter(|spec| (self.needs)(spec.action)).collect();
        if needing.is_empty() {
            return None;
        }
        self.specs.retain(|spec| needing.iter().any(|other| other.matching.protocol == spec.matching.protocol));
        let mut table = Table::new(self.name);
        let rules = self.first.iter().cloned().chain((self.rules)(&self.specs)).collect();
        table.chains.push(Chain { name: chain.to_string(), rules });
        table.jumps = self.hooks.iter().flat_map(|hook| jumps(hook, &needing, &[], chain)).collect();
        let output: Vec<&RuleSpec> = needing.into_iter().filter(|spec| spec.output).collect();
        if !output.is_empty() {
            let out = Chain { name: format!("{chain}.out"), rules: self.output_rules(chain, own_uid) };
            table.jumps.extend(jumps("OUTPUT", &output, &[], &out.name));
            table.chains.push(out);
        }
        Some(table)
    }

    /// The rules for this host's own connections. Those of the relay itself leave the chain first.
    fn output_rules(&self, chain: &str, own_uid: Option<u32>) -> Vec<Rule> {
        let own = own_uid.map(|uid| rule(&["-m", "owner", "--uid-owner", &uid.to_string(), "-j", "RETURN"]));
        let output: Vec<&RuleSpec> = self.specs.iter().copied().filter(|spec| spec.output).collect();
        let all = output.len() == self.specs.len();
        let rules = if all { vec![rule(&["-j", chain])] } else { (self.rules)(&output) };
        own.into_iter().chain(rules).collect()
    }
}

/// The jumps from a kernel's chain to one of ours, one for each protocol of the rules.
fn jumps(from: &str, needing: &[&RuleSpec], condition: &[&str], to: &str) -> Vec<Jump> {
    // A connection from before the rules is not ours: where they are the first to need connection tracking, its next
    // packet is taken for a new connection (nf_conntrack_tcp_loose), but it carries no SYN. UDP has no such sign.
    //
    // A redirected connection whose entry is lost (`conntrack -F`) looks the same, and what is not ours is left alone. The
    // two differ in that we have a socket for one of them, but it has the address from after the translation, so
    // `-m socket` finds it in INPUT only. Tried: redirect every such packet once (`-m hashlimit` by both addresses and
    // ports), and drop it in INPUT if no socket is there, before its entry is confirmed; the retransmission then passes
    // untranslated. Both kinds of connections go on, but only if the client speaks first. What the relay sends leaves
    // untranslated, the client resets it, and no rule can know the address that it should have. For the few connections
    // that are left, this asks for a rule that drops in everybody's INPUT chain, and for two more modules.
    let protocols: [(&str, &[&str]); 2] = [("tcp", &["-p", "tcp", "--syn"]), ("udp", &["-p", "udp"])];
    let needed = |(protocol, _): &(&str, _)| needing.iter().any(|spec| spec.matching.protocol == *protocol);
    let jump = |(_, words): (_, &[&str])| {
        let text = rule(&[words, condition, &["-j", to]].concat()).text;
        Jump { from: from.to_string(), at: 1, at_head: true, text }
    };
    protocols.into_iter().filter(needed).map(jump).collect()
}

fn nat_rules(specs: &[&RuleSpec]) -> Vec<Rule> {
    let rule = |spec: &&RuleSpec| match spec.action {
        Action::Redirect { port } | Action::Local { port: Some(port) } => {
            spec.rule(&["-j", "REDIRECT", "--to-ports", &port.to_string()])
        }
        Action::Local { port: None } => spec.rule(&["-j", "REDIRECT"]),
        Action::Kernel { to, port } => {
            let to = port.map_or_else(|| to.to_string(), |port| SocketAddr::new(to, port).to_string());
            spec.rule(&["-j", "DNAT", "--to-destination", &to])
        }
        Action::Exempt | Action::Reject | Action::Tproxy { .. } => spec.rule(&["-j", "RETURN"]),
    };
    specs.iter().map(rule).collect()
}

fn filter_rules(specs: &[&RuleSpec], idle: &[&RuleSpec], holds: bool) -> Vec<Rule> {
    let mut rules: Vec<Rule> = answers_of_udp(specs).into_iter().collect();
    // Translated connections come before the other rules, which would judge them by their new destination.
    for translated in specs.iter().chain(idle).flat_map(|spec| translated(spec)) {
        if !rules.contains(&translated) {
            rules.push(translated);
        }
    }
    let verdict = |spec: &&RuleSpec| match spec.action {
        Action::Reject => Some(spec.rule(&["-j", "REJECT", "--reject-with", refusal(&spec.matching)])),
        // It has no mark, so the rules of the mangle table or the socket are gone.
        Action::Tproxy { .. } if holds => Some(spec.rule(&["-j", "REJECT", "--reject-with", "tcp-reset"])),
        // A connection that already went to the rule's target was not translated. No later rule may decide about it.
        Action::Exempt | Action::Local { .. } | Action::Kernel { .. } => Some(spec.rule(&["-j", "RETURN"])),
        Action::Redirect { .. } | Action::Tproxy { .. } => None,
    };
    rules.extend(specs.iter().filter_map(verdict));
    rules
}

/// A chain gets each packet of UDP, not only those that begin something. An answer is not what a MATCH names.
fn answers_of_udp(specs: &[&RuleSpec]) -> Option<Rule> {
    let any = specs.iter().any(|spec| spec.matching.protocol == "udp");
    any.then(|| rule(&["-p", "udp", "-m", "conntrack", "--ctdir", "REPLY", "-j", "RETURN"]))
}

/// How a client learns at once that nobody serves it.
fn refusal(matching: &ResolvedMatch) -> &'static str {
    match (matching.protocol.as_str(), matching.family) {
        ("tcp", _) => "tcp-reset",
        (_, Family::V4) => "icmp-port-unreachable",
        (_, Family::V6) => "icmp6-port-unreachable",
    }
}

/// Lets the connections pass that the nat table translated for this rule, and only those: a client that connects to
/// the new destination directly is judged by the other rules.
fn translated(spec: &RuleSpec) -> Vec<Rule> {
    let protocol = ["-p", &spec.matching.protocol];
    let pass = |now: &[&str]| vec![rule(&[&protocol, now, &TRANSLATED, &["-j", "RETURN"]].concat())];
    // Where the port did not change, it does not tell them apart.
    let as_asked = |now: &[&str]| ConntrackMatch::of(&spec.matching).rules(now, &["-j", "RETURN"]);
    match spec.action {
        Action::Redirect { port } | Action::Local { port: Some(port) } => pass(&["--dport", &port.to_string()]),
        Action::Local { port: None } => as_asked(&[]),
        Action::Kernel { to, port: Some(port) } => pass(&["-d", &to.to_string(), "--dport", &port.to_string()]),
        Action::Kernel { to, port: None } => as_asked(&["-d", &to.to_string()]),
        Action::Exempt | Action::Reject | Action::Tproxy { .. } => Vec::new(),
    }
}

/// The chain that gives connections translated by `--kernel` our address as source, so that the answers come back
/// through this host; and the jumps to it.
fn masquerade(chain: &str, specs: &[&RuleSpec]) -> Option<(Chain, Vec<Jump>)> {
    let last = specs.iter().rposition(|spec| spec.is_kernel())?;
    let specs = specs.get(..=last)?;
    let mut rules = Vec::new();
    for spec in specs {
        let before = ConntrackMatch::of(&spec.matching);
        match spec.action {
            Action::Kernel { to, port } => {
                let now = destination(to, port);
                let now: Vec<&str> = now.iter().map(String::as_str).collect();
                rules.extend(before.rules(&now, &["-j", "MASQUERADE"]));
            }
            // Rules of others may have sent an exempt connection to the same server. Without an exact match it is
            // masqueraded as well: its answers come back either way.
            Action::Exempt | Action::Reject if before.exact => {
                rules.extend(before.rules(&[], &["-j", "RETURN"]));
            }
            _ => {}
        }
    }
    let chain = Chain { name: format!("{chain}.post"), rules };
    let kernel: Vec<&RuleSpec> = specs.iter().copied().filter(|spec| spec.is_kernel()).collect();
    let jumps = jumps("POSTROUTING", &kernel, &TRANSLATED, &chain.name);
    Some((chain, jumps))
}

/// The conditions on a packet that goes there; without a port, to any.
fn destination(to: IpAddr, port: Option<u16>) -> Vec<String> {
    let port = port.map(|port| ["--dport".to_owned(), port.to_string()]);
    ["-d".to_owned(), to.to_string()].into_iter().chain(port.into_iter().flatten()).collect()
}

/// Leaves alone what was intercepted.
fn passes_marked(routing: &PolicyRouting) -> Rule {
    rule(&["-m", "mark", "--mark", &routing.mark.to_string(), "-j", "RETURN"])
}

/// The table that rejects once the others are gone: new connections that were neither translated nor intercepted, and what
/// was rejected before, whether the user wants it so or nobody could serve it. `None` if there is no such thing.
pub(crate) fn closed(table: &'static str, wanted: Wanted<'_>) -> Option<Table> {
    let Wanted { name, own_uid, routing, specs, .. } = wanted;
    let mut draft = Draft {
        name: table,
        hooks: &["INPUT", "FORWARD"],
        specs,
        needs: &|action| action != Action::Exempt,
        rules: &closed_rules,
        first: vec![rule(&["-i", "lo", "-j", "RETURN"])],
    };
    let mut planned = draft.table(&format!("{PREFIX}{name}"), own_uid)?;
    // They come first in the chain, and not into the jumps: this holds for this host's own connections too.
    let translated = rule(&[&TRANSLATED[..], &["-j", "RETURN"]].concat());
    let passed: Vec<Rule> = std::iter::once(translated).chain(routing.map(passes_marked)).collect();
    for chain in &mut planned.chains {
        chain.rules.splice(0..0, passed.iter().cloned());
    }
    Some(planned)
}

fn closed_rules(specs: &[&RuleSpec]) -> Vec<Rule> {
    let rule = |spec: &&RuleSpec| match spec.action {
        Action::Exempt => spec.rule(&["-j", "RETURN"]),
        _ => spec.rule(&["-j", "REJECT", "--reject-with", refusal(&spec.matching)]),
    };
    answers_of_udp(specs).into_iter().chain(specs.iter().map(rule)).collect()
}

fn rule(words: &[&str]) -> Rule {
    Rule::new(words, 1)
}
