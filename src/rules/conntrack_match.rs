//! A MATCH rewritten for connections whose destination has been translated. Their packets carry the new destination;
//! only connection tracking knows the original one.
//!
//! There are two ways to recognise a connection that a rule of ours translated. A mark would be exact, but marks belong
//! to the administrator: policy routing, shaping and container networks use them, and somebody's rule would test or
//! overwrite any bit that we took. So three things together recognise the connection: it was translated (`--ctstate
//! DNAT`), it goes to our new destination, and its original destination is the one that the MATCH names. Our jump is
//! the first in PREROUTING, so no other rule can have translated a connection that fits the MATCH.
//!
//! Addresses and ports can be matched this way. Other conditions (an interface, a module's test) cannot: they are left
//! out, and the match is not exact.

use crate::rules::chains::Rule;
use crate::rules::groups::{OptionWords, groups};
use crate::rules::matching::ResolvedMatch;

/// A MATCH after the translation.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ConntrackMatch {
    /// The conditions that the packet itself still shows: protocol, source and source port.
    kept: Vec<String>,
    /// How many rules iptables makes of the sources.
    sources: usize,
    /// The alternatives for the original destination; one without words if any will do.
    destinations: Vec<Vec<String>>,
    /// The same for the original port.
    ports: Vec<Vec<String>>,
    /// Whether all conditions of the MATCH are in it.
    pub exact: bool,
}

impl ConntrackMatch {
    pub(crate) fn of(matching: &ResolvedMatch) -> ConntrackMatch {
        let mut translated =
            ConntrackMatch { kept: Vec::new(), sources: 1, destinations: Vec::new(), ports: Vec::new(), exact: true };
        for group in groups(&matching.words) {
            translated.add(&group);
        }
        for alternatives in [&mut translated.destinations, &mut translated.ports] {
            if alternatives.is_empty() {
                alternatives.push(Vec::new());
            }
        }
        translated
    }

    fn add(&mut self, group: &OptionWords) {
        let not = |rest: &[&str]| -> Vec<String> {
            group.negated.then_some("!").into_iter().chain(rest.iter().copied()).map(String::from).collect()
        };
        match (group.option, group.values.as_slice()) {
            ("-m", ["tcp" | "udp" | "multiport" | "comment"]) | ("--comment", _) => {}
            ("-p", [protocol]) => self.kept.extend(not(&["-p", protocol])),
            ("-s", [list]) => {
                self.sources = list.split(',').count();
                self.kept.extend(not(&["-s", list]));
            }
            ("-d", [list]) => {
                self.destinations = list.split(',').map(|address| not(&["--ctorigdst", address])).collect();
            }
            ("--sport" | "--source-port", [port]) if !port.contains(',') => self.kept.extend(not(&["--sport", port])),
            // --ctorigdstport takes no list, so each port gets a rule of its own, and a negated list cannot be expressed.
            // After `-m multiport` the short names take a list too: they are abbreviations of the long ones.
            ("--dport" | "--destination-port" | "--dports" | "--destination-ports", [list])
                if self.ports.is_empty() && !(group.negated && list.contains(',')) =>
            {
                self.ports = list.split(',').map(|port| not(&["--ctorigdstport", port])).collect();
            }
            _ => self.exact = false,
        }
    }

    /// The rules for translated connections that match. `now` are conditions on the packet as it is now.
    pub(crate) fn rules(&self, now: &[&str], verdict: &[&str]) -> Vec<Rule> {
        let mut rules = Vec::new();
        for destination in &self.destinations {
            for port in &self.ports {
                let mut words: Vec<&str> = self.kept.iter().map(String::as_str).chain(now.iter().copied()).collect();
                words.extend(["-m", "conntrack", "--ctstate", "DNAT"]);
                words.extend(destination.iter().chain(port).map(String::as_str));
                words.extend(verdict);
                rules.push(Rule::new(&words, self.sources));
            }
        }
        rules
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::matching::Match;

    fn conntrack_match(text: &str) -> ConntrackMatch {
        let found = Match::parse("-R", text, &["tcp", "udp"]).unwrap().resolve(&|_| Vec::new()).unwrap();
        ConntrackMatch::of(&found[0])
    }

    #[test]
    fn addresses_and_ports_are_asked_of_the_connection() {
        let both = "-s 10.0.0.1,10.0.0.2 -d 10.1.0.1,10.1.0.2 --dport 80";
        let table: &[(&str, &[&str])] = &[
            ("-p tcp", &["-p tcp"]),
            ("! -s 10.0.0.0/8 --dport=80", &["-p tcp ! -s 10.0.0.0/8 | --ctorigdstport 80"]),
            ("-p udp -d 10.1.0.1 --sport 53", &["-p udp --sport 53 | --ctorigdst 10.1.0.1"]),
            (
                "! -d 10.1.0.1 ! --dport 1:9 -m comment --comment 'a b'",
                &["-p tcp | ! --ctorigdst 10.1.0.1 ! --ctorigdstport 1:9"],
            ),
            ("-m multiport --dport 80,90:99", &["-p tcp | --ctorigdstport 80", "-p tcp | --ctorigdstport 90:99"]),
            (
                both,
                &[
                    "-p tcp -s 10.0.0.1,10.0.0.2 | --ctorigdst 10.1.0.1 --ctorigdstport 80",
                    "-p tcp -s 10.0.0.1,10.0.0.2 | --ctorigdst 10.1.0.2 --ctorigdstport 80",
                ],
            ),
        ];
        for (text, wanted) in table {
            let found: Vec<String> =
                conntrack_match(text).rules(&["-o", "x"], &["-j", "RETURN"]).into_iter().map(|r| r.text).collect();
            let whole = |wanted: &&str| {
                let (now, then) = wanted.split_once(" | ").unwrap_or((wanted, ""));
                let space = if then.is_empty() { "" } else { " " };
                format!("{now} -o x -m conntrack --ctstate DNAT{space}{then} -j RETURN")
            };
            assert_eq!(found, wanted.iter().map(whole).collect::<Vec<_>>(), "{text}");
            assert!(conntrack_match(text).exact, "{text}");
        }
        assert!(conntrack_match(both).rules(&[], &[]).iter().all(|rule| rule.expands_to == 2));
    }

    #[test]
    fn what_cannot_be_asked_any_more_is_left_out_and_known_to_be() {
        let table = [
            ("-i eth0 --dport 80", "-p tcp -m conntrack --ctstate DNAT --ctorigdstport 80"),
            ("-m set --match-set inside src", "-p tcp -m conntrack --ctstate DNAT"),
            ("-m multiport ! --dports 80,81", "-p tcp -m conntrack --ctstate DNAT"),
            ("-m multiport --sport 80,81", "-p tcp -m conntrack --ctstate DNAT"),
            ("--dport 80 -m multiport --dports 80,81", "-p tcp -m conntrack --ctstate DNAT --ctorigdstport 80"),
        ];
        for (text, wanted) in table {
            assert_eq!(conntrack_match(text).rules(&[], &[])[0].text, wanted);
            assert!(!conntrack_match(text).exact, "{text}");
        }
    }
}
