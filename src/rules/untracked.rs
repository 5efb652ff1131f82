//! The raw table: connections that TPROXY intercepts are kept out of connection tracking (`--no-conntrack`), and those to
//! the upstream too. A packet without an entry has no translation either, so nothing but what is ours may be caught: each
//! rule names what the MATCH or the upstream says, and asks for a socket of this host or for a source that is not its own.

use std::net::IpAddr;

use crate::redirection::RedirectionId;
use crate::rules::address::Family;
use crate::rules::chains::{Chain, FOR_ESTABLISHED, FOR_LOCAL_ANSWERS, Jump, Rule, Table};
use crate::rules::groups::{OptionWords, groups};
use crate::rules::matching::ResolvedMatch;
use crate::rules::policy_routing::Connects;
use crate::rules::rule::{Action, RuleSpec};

/// A redirection whose connections are not tracked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Untracked {
    pub redirection: RedirectionId,
    /// Where connections are relayed to; `None` is their original destination.
    pub upstreams: Option<Vec<(IpAddr, Option<u16>)>>,
}

const NOTRACK: [&str; 3] = ["-j", "CT", "--notrack"];
/// Packets for a connected socket of this host (iptables-extensions(8)).
const TO_SOCKET: [&str; 2] = ["-m", "socket"];
/// Only a socket of a relay can send with an address of another host.
const FROM_FOREIGN: [&str; 5] = ["-m", "addrtype", "!", "--src-type", "LOCAL"];
/// Packets that stay on this host.
const STAYING: [&str; 2] = ["-o", "lo"];

/// The table, unless all connections are tracked. `specs` are rules of one family, for TCP; of those that are `idle` only
/// established connections know.
pub(super) fn raw(
    chain: &str,
    (family, connects): (Family, Connects),
    untracked: &[Untracked],
    [specs, idle]: [&[&RuleSpec]; 2],
) -> Option<Table> {
    let of = |spec: &RuleSpec| {
        let its = untracked.iter().find(|one| one.redirection == spec.redirection);
        its.filter(|_| matches!(spec.action, Action::Tproxy { .. }))
    };
    let all = specs.iter().chain(idle);
    let ours: Vec<(&RuleSpec, &Untracked)> = all.filter_map(|spec| Some((*spec, of(spec)?))).collect();
    if ours.is_empty() {
        return None;
    }
    // The target does not end the chain, but whatever comes then leaves the packet as it is.
    let verdict = |spec: &&RuleSpec| spec.rule(if of(spec).is_some() { &NOTRACK } else { &["-j", "RETURN"] });
    let own = Rule::new(["-i", "lo", "-j", "RETURN"], 1);
    let new = std::iter::once(own).chain(specs.iter().map(verdict)).collect();
    let (mut arriving, mut leaving) = (Vec::new(), Vec::new());
    let add = |rules: &mut Vec<Rule>, rule: Rule| {
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    };
    // Answers to addresses of clients are kept on this host by connection tracking (`local_answers`).
    if connects != Connects::No {
        leaving.push(Rule::new([&STAYING[..], &FROM_FOREIGN, &["-j", "RETURN"]].concat(), 1));
    }
    for (spec, untracked) in ours {
        let transparent = [&TO_SOCKET[..], &["--transparent"], &NOTRACK].concat();
        add(&mut arriving, spec.rule(&transparent));
        add(&mut leaving, Words::reversed(&spec.matching).rule(&[&FROM_FOREIGN[..], &NOTRACK].concat()));
        for upstream in Words::of_upstreams(untracked, &spec.matching, family) {
            add(&mut leaving, upstream.rule(&NOTRACK));
            // Those of an upstream on this host do not arrive.
            add(&mut leaving, upstream.turned().rule(&[&STAYING[..], &NOTRACK].concat()));
            add(&mut arriving, upstream.turned().rule(&[&TO_SOCKET[..], &NOTRACK].concat()));
        }
    }
    let name = |suffix| format!("{chain}{suffix}");
    let mut table = Table::new("raw");
    table.jumps = vec![
        jump("PREROUTING", &["!", "--syn"], &name(FOR_ESTABLISHED)),
        jump("PREROUTING", &["--syn"], chain),
        jump("OUTPUT", &[], &name(FOR_LOCAL_ANSWERS)),
    ];
    table.chains = vec![
        Chain { name: chain.to_owned(), rules: new },
        Chain { name: name(FOR_ESTABLISHED), rules: arriving },
        Chain { name: name(FOR_LOCAL_ANSWERS), rules: leaving },
    ];
    Some(table)
}

/// Both parts of the table. A packet keeps what the first CT target gives it: what is not tracked has no zone, and must
/// come first. Jumps are put before those that are there.
pub(super) fn with_zone(raw: Option<Table>, zone: Option<Table>) -> Option<Table> {
    let (Some(raw), Some(zone)) = (&raw, &zone) else { return raw.or(zone) };
    Some(Table {
        name: raw.name,
        chains: [raw.chains.as_slice(), &zone.chains].concat(),
        jumps: [zone.jumps.as_slice(), &raw.jumps].concat(),
    })
}

fn jump(from: &str, condition: &[&str], to: &str) -> Jump {
    let text = Rule::new([&["-p", "tcp"], condition, &["-j", to]].concat(), 1).text;
    Jump { from: from.to_owned(), at: 1, at_head: true, text }
}

/// Conditions on addresses and ports.
struct Words {
    words: Vec<String>,
    expands_to: usize,
}

/// An option and what it is for packets that go the other way.
const TURNED: [(&str, &str); 6] = [
    ("-s", "-d"),
    ("--sport", "--dport"),
    ("--source-port", "--destination-port"),
    ("--sports", "--dports"),
    ("--source-ports", "--destination-ports"),
    ("-i", "-o"),
];

impl Words {
    /// The conditions for answers to packets that match. Those that answers do not show are left out.
    fn reversed(matching: &ResolvedMatch) -> Words {
        Words::from(&groups(&matching.words), |option| turned(option).is_some()).turned()
    }

    /// The conditions for packets to the upstreams. Where these are the original destinations, and the MATCH names none,
    /// there are no conditions.
    fn of_upstreams(untracked: &Untracked, matching: &ResolvedMatch, family: Family) -> Vec<Words> {
        let Some(upstreams) = &untracked.upstreams else {
            let destination = |option: &str| TURNED.iter().any(|(_, to)| *to == option && *to != "-o");
            let words = Words::from(&groups(&matching.words), destination);
            let names_one = words.words.iter().any(|word| destination(word));
            return if names_one { vec![words] } else { Vec::new() };
        };
        let words = |(ip, port): &(IpAddr, Option<u16>)| {
            let mut words = vec!["-p".to_owned(), "tcp".to_owned(), "-d".to_owned(), ip.to_string()];
            words.extend(port.iter().flat_map(|port| ["--dport".to_owned(), port.to_string()]));
            Words { words, expands_to: 1 }
        };
        upstreams.iter().filter(|(ip, _)| Family::of(ip) == family).map(words).collect()
    }

    fn from(groups: &[OptionWords<'_>], wanted: impl Fn(&str) -> bool) -> Words {
        let mut all = Words { words: Vec::new(), expands_to: 1 };
        for group in groups {
            let is_plain = matches!((group.option, group.values.as_slice()), ("-p", _) | ("-m", ["tcp" | "multiport"]));
            if !is_plain && !wanted(group.option) {
                continue;
            }
            all.words.extend(group.words().map(str::to_owned));
            if let ("-s" | "-d", [list]) = (group.option, group.values.as_slice()) {
                all.expands_to *= list.split(',').count();
            }
        }
        all.without_idle_multiport()
    }

    /// The module must have an option.
    fn without_idle_multiport(mut self) -> Words {
        let has_port = self.words.iter().any(|word| word.contains("port") && word.starts_with("--"));
        if let (Some(at), false) = (self.words.iter().position(|word| word == "multiport"), has_port) {
            let words = self.words.into_iter().enumerate();
            self.words = words.filter(|(place, _)| *place != at && place + 1 != at).map(|(_, word)| word).collect();
        }
        self
    }

    fn turned(&self) -> Words {
        let words = self.words.iter().map(|word| turned(word).unwrap_or(word).to_owned()).collect();
        Words { words, expands_to: self.expands_to }
    }

    fn rule(&self, verdict: &[&str]) -> Rule {
        Rule::new(self.words.iter().map(String::as_str).chain(verdict.iter().copied()), self.expands_to)
    }
}

fn turned(option: &str) -> Option<&'static str> {
    TURNED.iter().find_map(|(one, other)| match option {
        _ if option == *one => Some(*other),
        _ if option == *other => Some(*one),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::matching::{Match, RELAYED};

    fn matching(text: &str) -> ResolvedMatch {
        Match::parse("-R", text, RELAYED).unwrap().resolve(&|_| Vec::new()).unwrap().remove(0)
    }

    #[test]
    fn answers_are_matched_by_what_they_show_of_the_match() {
        for (text, answers) in [
            ("-d 10.2.0.5 --dport 80", "-p tcp -s 10.2.0.5 --sport 80"),
            (
                "! -s 10.0.0.0/8 -i eth1 -m multiport --dports 80,443",
                "-p tcp ! -d 10.0.0.0/8 -o eth1 -m multiport --sports 80,443",
            ),
            ("-m set --match-set x src --dport 1:9", "-p tcp --sport 1:9"),
            ("-m multiport --dports 80 -d 10.0.0.1,10.0.0.2", "-p tcp -s 10.0.0.1,10.0.0.2 -m multiport --sports 80"),
        ] {
            let rule = Words::reversed(&matching(text)).rule(&["-j", "X"]);
            assert_eq!(rule.text, format!("{answers} -j X"), "{text}");
        }
        assert_eq!(Words::reversed(&matching("-s 10.0.0.1,10.0.0.2 -d 10.1.0.1,10.1.0.2")).expands_to, 4);
    }

    #[test]
    fn without_a_destination_nothing_towards_the_upstream_is_caught() {
        let original = Untracked { redirection: RedirectionId(0), upstreams: None };
        let words = |text| -> Vec<String> {
            let found = Words::of_upstreams(&original, &matching(text), Family::V4);
            found.iter().map(|words| words.words.join(" ")).collect()
        };
        assert_eq!(words("-s 10.0.0.1 -i eth1"), [""; 0]);
        assert_eq!(words("-m multiport --sports 1,2"), [""; 0]);
        assert_eq!(words("-s 10.0.0.1 -i eth1 -d 10.2.0.5 --dport 80"), ["-p tcp -d 10.2.0.5 --dport 80"]);
    }
}
