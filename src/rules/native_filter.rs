//! Filters that were made with nft(8), which iptables-save does not show. Their rules are put into the words of iptables
//! as far as those have a meaning in `verdict`; anything else becomes a condition that is not understood.

use std::iter::Peekable;
use std::vec::IntoIter;

use crate::rules::address::Family;
use crate::rules::lacking::{Hook, PacketFilter};
use crate::rules::native::block;
use crate::rules::passage::FilterTable;
use crate::rules::save::Lines;

/// Tables that iptables makes, and shows.
const OF_IPTABLES: [&str; 5] = ["filter", "nat", "mangle", "raw", "security"];

/// A condition that is not understood, and one that never holds.
const UNKNOWN: &str = "--unknown";
const NEVER: [&str; 2] = ["-p", "none"];

/// The filters of a family in the output of `nft -s -t list ruleset`.
pub(crate) fn filters(text: &str, family: Family) -> Vec<PacketFilter> {
    let mut found = Vec::new();
    let mut lines = Lines::without_escapes(text);
    while let Some(line) = lines.next() {
        let Some(name) = block("table", line) else { continue };
        let (table, hooks) = read_table(&mut lines, family);
        let filter = |(hook, chain)| PacketFilter { table: table.clone(), hook, chain, native: Some(name.to_owned()) };
        if is_of_family(name, family) {
            found.extend(hooks.into_iter().map(filter));
        }
    }
    found
}

fn is_of_family(table: &str, family: Family) -> bool {
    match (table.split_once(' '), family) {
        (Some(("inet", _)), _) => true,
        (Some(("ip", name)), Family::V4) | (Some(("ip6", name)), Family::V6) => !OF_IPTABLES.contains(&name),
        _ => false,
    }
}

/// Reads to the end of a table: its chains, and those to which a hook leads.
fn read_table(lines: &mut Lines, family: Family) -> (FilterTable, Vec<(Hook, String)>) {
    let (mut table, mut hooks) = (FilterTable::default(), Vec::new());
    while let Some(line) = lines.next() {
        match (line.trim(), block("chain", line)) {
            ("}", _) => break,
            (_, Some(name)) => hooks.extend(read_chain(lines, name, family, &mut table)),
            // A set or the like.
            (line, None) if line.ends_with('{') => drop(lines.find(|line| line.trim() == "}")),
            _ => {}
        }
    }
    (table, hooks)
}

fn read_chain(lines: &mut Lines, name: &str, family: Family, table: &mut FilterTable) -> Option<(Hook, String)> {
    let chain = table.chain(name);
    let mut hook = None;
    while let Some(line) = lines.next().map(str::trim).filter(|line| *line != "}") {
        if let Some(kind) = line.strip_prefix("type ") {
            hook = [("filter hook input ", Hook::Input), ("filter hook forward ", Hook::Forward)]
                .into_iter()
                .find(|(beginning, _)| kind.starts_with(beginning))
                .map(|(_, hook)| (hook, name.to_owned()));
            chain.policy = if line.contains("policy drop") { "DROP".to_owned() } else { "ACCEPT".to_owned() };
            continue;
        }
        let mut rule = line.to_owned();
        // A long set goes on in the next line.
        while rule.matches('{').count() > rule.matches('}').count() {
            let Some(more) = lines.next() else { break };
            rule.push_str(more);
        }
        chain.rules.extend(Translator::new(&rule, family).rules());
    }
    hook
}

/// A word of a rule, or a list in braces.
#[derive(Debug, Clone, PartialEq, Eq)]
enum NftToken {
    Word(String),
    List(Vec<String>),
}

fn tokens(rule: &str) -> Vec<NftToken> {
    let mut tokens = Vec::new();
    let mut rest = rule.trim_start();
    while !rest.is_empty() {
        let (token, after) = if let Some(quoted) = rest.strip_prefix('"') {
            let (word, after) = quoted.split_once('"').unwrap_or((quoted, ""));
            (NftToken::Word(word.to_owned()), after)
        } else if let Some(list) = rest.strip_prefix('{') {
            let (list, after) = list.split_once('}').unwrap_or((list, ""));
            (NftToken::List(list.split(',').map(|item| item.trim().replace('"', "")).collect()), after)
        } else {
            let (word, after) = rest.split_once(' ').unwrap_or((rest, ""));
            (NftToken::Word(word.to_owned()), after)
        };
        tokens.push(token);
        rest = after.trim_start();
    }
    tokens
}

/// Goes through the tokens of a rule once.
struct Translator {
    tokens: Peekable<IntoIter<NftToken>>,
    family: Family,
    words: Vec<String>,
    /// Rules that end before this one: those of a map from states to verdicts.
    before: Vec<Vec<String>>,
}

impl Translator {
    fn new(rule: &str, family: Family) -> Translator {
        Translator { tokens: tokens(rule).into_iter().peekable(), family, words: Vec::new(), before: Vec::new() }
    }

    fn rules(mut self) -> Vec<Vec<String>> {
        while let Some(token) = self.tokens.next() {
            match token {
                NftToken::Word(word) => self.statement(&word),
                NftToken::List(_) => self.add(&[UNKNOWN]),
            }
        }
        self.before.push(self.words);
        self.before
    }

    fn add(&mut self, words: &[&str]) {
        self.words.extend(words.iter().map(|word| (*word).to_owned()));
    }

    fn statement(&mut self, word: &str) {
        match word {
            "accept" => self.add(&["-j", "ACCEPT"]),
            "drop" | "reject" => self.add(&["-j", "DROP"]),
            "return" => self.add(&["-j", "RETURN"]),
            "queue" => self.add(&["-j", "NFQUEUE"]),
            "jump" | "goto" => {
                let target = self.word();
                self.add(&[if word == "jump" { "-j" } else { "-g" }, &target]);
            }
            "counter" | "continue" => {}
            "packets" | "bytes" | "name" | "comment" | "prefix" | "level" | "group" | "flags" | "snaplen" | "with" => {
                self.word();
            }
            "log" => {}
            "iif" | "iifname" => self.interface(),
            "tcp" | "udp" | "th" => self.transport(word),
            "ct" => self.conntrack(),
            "meta" => match self.word().as_str() {
                "l4proto" => self.protocol(),
                "iif" | "iifname" => self.interface(),
                "nfproto" => {
                    let is_v4 = self.word() == "ipv4";
                    self.only(if is_v4 { Family::V4 } else { Family::V6 });
                }
                _ => self.add(&[UNKNOWN]),
            },
            "ip" | "ip6" => self.network(if word == "ip" { Family::V4 } else { Family::V6 }),
            "icmp" | "icmpv6" | "igmp" | "esp" | "ah" | "udplite" | "sctp" | "dccp" => self.add(&NEVER),
            "fib" => self.destination_type(),
            // It leads somewhere that is not known.
            "vmap" => self.add(&[UNKNOWN, "-j", "ACCEPT"]),
            _ => self.add(&[UNKNOWN]),
        }
    }

    /// The next token, if it is a word.
    fn word(&mut self) -> String {
        match self.tokens.next_if(|token| matches!(token, NftToken::Word(_))) {
            Some(NftToken::Word(word)) => word,
            _ => String::new(),
        }
    }

    /// The values that follow, separated by commas, and whether they are negated; `None` before a map.
    fn values(&mut self) -> Option<(bool, Vec<String>)> {
        if self.tokens.peek() == Some(&NftToken::Word("vmap".to_owned())) {
            return None;
        }
        let negated = self.tokens.next_if_eq(&NftToken::Word("!=".to_owned())).is_some();
        match self.tokens.next()? {
            NftToken::Word(word) => Some((negated, word.split(',').map(str::to_owned).collect())),
            NftToken::List(list) => Some((negated, list)),
        }
    }

    fn condition(&mut self, negated: bool, words: &[&str]) {
        if negated {
            self.add(&["!"]);
        }
        self.add(words);
    }

    fn only(&mut self, family: Family) {
        if family != self.family {
            self.add(&NEVER);
        }
    }

    fn interface(&mut self) {
        match self.values() {
            None => {}
            Some((negated, names)) => match names.as_slice() {
                [name] => self.condition(negated, &["-i", &name.replace('*', "+")]),
                // One of several.
                _ if !negated => self.add(&["-s", "any"]),
                _ => self.add(&[UNKNOWN]),
            },
        }
    }

    fn transport(&mut self, protocol: &str) {
        if protocol != "th" {
            self.add(&["-p", protocol]);
        }
        match (self.word().as_str(), self.values()) {
            ("dport", Some((negated, ports))) => {
                self.condition(negated, &["--dports", &ports.join(",").replace('-', ":")]);
            }
            ("dport", None) => {}
            _ => self.add(&[UNKNOWN]),
        }
    }

    fn protocol(&mut self) {
        let Some((negated, list)) = self.values() else { return };
        let has = |names: [&str; 2]| list.iter().any(|name| names.contains(&name.as_str()));
        match (has(["tcp", "6"]), has(["udp", "17"])) {
            (true, true) if negated => self.add(&NEVER),
            (true, true) => {}
            (true, false) => self.condition(negated, &["-p", "tcp"]),
            (false, true) => self.condition(negated, &["-p", "udp"]),
            (false, false) if negated => {}
            (false, false) => self.add(&NEVER),
        }
    }

    fn network(&mut self, family: Family) {
        self.only(family);
        match self.word().as_str() {
            "saddr" => {
                self.values();
                self.add(&["-s", "any"]);
            }
            "daddr" => {
                if let Some((negated, list)) = self.values() {
                    self.condition(negated, &["-d", &list.join(",")]);
                }
            }
            "protocol" | "nexthdr" => self.protocol(),
            _ => self.add(&[UNKNOWN]),
        }
    }

    fn conntrack(&mut self) {
        let key = self.word();
        if key == "state"
            && self.tokens.next_if_eq(&NftToken::Word("vmap".to_owned())).is_some()
            && let Some(NftToken::List(pairs)) = self.tokens.next()
        {
            for (state, verdict) in pairs.iter().filter_map(|pair| pair.split_once(':')) {
                let rule = format!("ct state {} {}", state.trim(), verdict.trim());
                let words = Translator::new(&rule, self.family).rules().concat();
                self.before.push([self.words.clone(), words].concat());
            }
            return;
        }
        match (key.as_str(), self.values()) {
            ("state" | "status", Some((negated, states))) => {
                self.condition(negated, &["--ctstate", &states.join(",").to_uppercase()]);
            }
            _ => self.add(&[UNKNOWN]),
        }
    }

    fn destination_type(&mut self) {
        match (self.word().as_str(), self.word().as_str(), self.values()) {
            ("daddr", "type", Some((negated, kinds))) => {
                self.condition(negated, &["--dst-type", &kinds.join(",").to_uppercase()]);
            }
            _ => self.add(&[UNKNOWN]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::verdict::ExpectedPackets;

    fn is_closed(rules: &str, family: Family) -> bool {
        let text = format!(
            "table ip filter {{\n\tchain input {{\n\t\ttype filter hook input priority 0; policy drop;\n\t}}\n}}\n\
             table inet filter {{\n\tset x {{\n\t\ttype ipv4_addr\n\t}}\n\n\tchain input {{\n\
             \t\ttype filter hook input priority filter; policy drop;\n{rules}\n\t}}\n\n\
             \tchain mine {{\n\t\ttcp dport 8081 accept\n\t}}\n}}\n"
        );
        let found = filters(&text, family);
        let [filter] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((filter.hook, filter.native.as_deref()), (Hook::Input, Some("inet filter")));
        let expected = ExpectedPackets {
            protocol: "tcp",
            to: None,
            port: Some(8081),
            mark: None,
            interfaces: vec!["eth1"],
            to_this_host: true,
            states: &["NEW", "DNAT"],
        };
        filter.table.is_closed(&filter.chain, &expected)
    }

    #[test]
    fn rules_of_nft_are_read_as_the_kernel_would() {
        for (rules, closed) in [
            ("", true),
            ("ct state vmap { invalid : drop, established : accept, related : accept }", true),
            ("ct state vmap { invalid : drop, new : accept }", false),
            ("ct state vmap { new : jump mine }", false),
            ("ct state established,related accept\nct state { established, related } accept", true),
            ("ct state != invalid accept", false),
            ("ct status dnat accept", false),
            ("iifname \"lo\" accept\niif \"lo\" accept", true),
            ("iif != \"lo\" accept", false),
            ("iifname \"eth1\" accept", false),
            ("iifname \"eth0\" accept", true),
            ("iifname \"eth*\" accept", false),
            (
                "iifname { \"eth0\", \"eth1\" } tcp dport { 22, 80-90, 443 } counter packets 1 bytes 2 accept comment \"x accept\"",
                true,
            ),
            ("iifname { \"eth0\", \"eth1\" } tcp dport { 22, 8000-8090 } counter accept", false),
            ("tcp dport {\n22,\n8081 } accept", false),
            ("tcp dport != 22 accept", false),
            ("udp dport 8081 accept", true),
            ("meta l4proto { icmp, ipv6-icmp } accept\nicmp type echo-request accept\nip protocol igmp accept", true),
            ("meta l4proto { tcp, udp } accept", false),
            ("meta l4proto { tcp, udp } th dport 53 accept", true),
            ("ip saddr @x tcp dport 8081 accept", false),
            ("ip saddr @x tcp dport 22 accept", true),
            ("tcp flags syn tcp dport 99 limit rate 10/minute log prefix \"a accept\" accept", true),
            ("limit rate 10/minute log prefix \"b\" level info accept", false),
            ("log prefix \"accept \" flags all drop", true),
            ("fib daddr type local tcp dport 8081 accept", false),
            ("fib daddr type multicast accept", true),
            ("iifname vmap { \"lo\" : accept, \"eth1\" : jump mine }", false),
            ("jump mine", false),
            ("tcp dport 22 jump mine", true),
            ("reject with icmpx admin-prohibited", true),
            ("tcp dport 8081 accept", false),
            ("drop\ntcp dport 8081 accept", true),
        ] {
            assert_eq!(is_closed(rules, Family::V4), closed, "{rules}");
        }
        for (rules, v4, v6) in [
            ("meta nfproto ipv4 accept", false, true),
            ("ip6 saddr fe80::/10 accept", true, false),
            ("ip daddr 10.0.0.1 accept", false, true),
            ("ip6 nexthdr ipv6-icmp accept", true, true),
        ] {
            assert_eq!([Family::V4, Family::V6].map(|family| is_closed(rules, family)), [v4, v6], "{rules}");
        }
    }
}
