//! From the lines of the command line to the rules of the kernel. All of it is pure: the same [`RuleSet`] makes what
//! is installed, what is printed and what is compared, so that these cannot drift apart.
//!
//! A connection meets the nat table first, and only once. There each line ends the matter: what is exempt or to be
//! rejected RETURNs untouched, what is to be redirected is. What was redirected reaches the filter table with our
//! own port as its destination, and RETURNs from there before any reject is looked at. So the order on the command
//! line decides in both tables, and a redirect needs no second rule in the filter table.

use std::collections::BTreeSet;

pub use crate::rules::address::Family;
use crate::rules::chains::{Chain, Jump, PREFIX, Rule, Table, change};
pub use crate::rules::matching::{Match, RELAYED, Resolved, Words};

/// What happens to the traffic that a line matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// `-X`: left alone.
    Exempt,
    /// `--reject`: refused at once.
    Reject,
    /// `-R`: redirected to a local port.
    Redirect {
        /// The port.
        port: u16,
    },
}

/// One `-X`, `--reject` or `-R`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What happens.
    pub action: Action,
    /// To which traffic.
    pub matching: Resolved,
}

/// All that one instance asks of the firewall.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleSet {
    /// The name of the instance: its port. Its chains are called after it.
    pub name: String,
    /// The lines in the order of the command line; the first that matches decides.
    pub lines: Vec<Line>,
    /// The families that the listener has: without a listener a redirect would lead nowhere.
    pub families: Vec<Family>,
    /// Also catch this host's own connections (`-O`).
    pub output: bool,
    /// The user whose own connections are left alone under `-O`: the relay itself.
    pub own_uid: Option<u32>,
}

impl RuleSet {
    /// The same with every redirect turned into a reject, for `--fail closed`.
    pub fn closed(&self) -> RuleSet {
        let mut closed = self.clone();
        for line in &mut closed.lines {
            if let Action::Redirect { .. } = line.action {
                line.action = Action::Reject;
            }
        }
        closed
    }

    /// The same instance without any rule, for `--fail open`.
    pub fn open(&self) -> RuleSet {
        RuleSet { lines: Vec::new(), ..self.clone() }
    }

    /// What is to stand in the tables of a family. Empty if nothing is.
    pub fn plan(&self, family: Family) -> Vec<Table> {
        if !self.families.contains(&family) {
            return Vec::new();
        }
        let lines: Vec<(&Line, &Words)> =
            self.lines.iter().filter_map(|line| line.matching.words(family).map(|words| (line, words))).collect();
        let any = |wanted: fn(Action) -> bool| lines.iter().any(|(line, _)| wanted(line.action));
        let mut tables = Vec::new();
        if any(|action| action == Action::Reject) {
            tables.push(self.table("filter", &["INPUT", "FORWARD"], filter_rules(&lines), &lines));
        }
        if any(|action| matches!(action, Action::Redirect { .. })) {
            tables.push(self.table("nat", &["PREROUTING"], nat_rules(&lines), &lines));
        }
        tables
    }

    /// The exact input for `iptables-restore --noflush` (or `ip6tables-restore`) of an installation where nothing of
    /// this instance stands yet.
    pub fn restore_text(&self, family: Family) -> String {
        change(&[], &self.plan(family))
    }

    /// A table with the instance's chain, and with a second one for OUTPUT under `-O`.
    fn table(&self, name: &'static str, hooks: &[&str], rules: Vec<Rule>, lines: &[(&Line, &Words)]) -> Table {
        let chain = format!("{PREFIX}{}", self.name);
        let tcp = lines.iter().all(|(line, _)| line.matching.protocol() == "tcp");
        let jump = |from: &str, to: &str| {
            // A connection from before the rules is not ours: where they are the first to need connection tracking, its
            // next packet is taken for a new connection (nf_conntrack_tcp_loose), but it carries no SYN.
            let words: &[&str] = if tcp { &["-p", "tcp", "--syn", "-j", to] } else { &["-j", to] };
            Jump { from: from.to_string(), at: 1, at_head: true, text: Rule::new(words, 1).text }
        };
        let mut table = Table::new(name);
        table.jumps.extend(hooks.iter().map(|hook| jump(hook, &chain)));
        if self.output {
            let out = format!("{chain}.out");
            table.jumps.push(jump("OUTPUT", &out));
            let own = self.own_uid.map(|uid| rule(&["-m", "owner", "--uid-owner", &uid.to_string(), "-j", "RETURN"]));
            let rules = own.into_iter().chain([rule(&["-j", &chain])]).collect();
            table.chains.push(Chain { name: out, rules });
        }
        table.chains.insert(0, Chain { name: chain, rules });
        table
    }
}

/// What a clean installation would feed to the tools, word for word, under the commands that take it.
pub fn print_rules(set: &RuleSet) -> String {
    let mut text = String::new();
    for (family, tool) in [(Family::V4, "iptables-restore"), (Family::V6, "ip6tables-restore")] {
        let rules = set.restore_text(family);
        if !rules.is_empty() {
            text.push_str(&format!("# {tool} --noflush\n{rules}"));
        }
    }
    text
}

fn nat_rules(lines: &[(&Line, &Words)]) -> Vec<Rule> {
    lines
        .iter()
        .map(|(line, words)| match line.action {
            Action::Exempt | Action::Reject => ending(words, &["-j", "RETURN"]),
            Action::Redirect { port } => ending(words, &["-j", "REDIRECT", "--to-ports", &port.to_string()]),
        })
        .collect()
}

fn filter_rules(lines: &[(&Line, &Words)]) -> Vec<Rule> {
    // What comes from this host was decided in OUTPUT (with -O) or is not meant (without), and comes by again in
    // INPUT when it goes to this host. Without this the relay could not reach an upstream on its own machine.
    let mut rules = vec![rule(&["-i", "lo", "-j", "RETURN"])];
    let ports: BTreeSet<u16> = lines
        .iter()
        .filter_map(|(line, _)| match line.action {
            Action::Redirect { port } => Some(port),
            Action::Exempt | Action::Reject => None,
        })
        .collect();
    for port in ports {
        // Only what was translated: whoever calls the port directly is judged by the lines.
        let port = port.to_string();
        let decided = ["-m", "conntrack", "--ctstate", "DNAT", "-j", "RETURN"];
        rules.push(rule(&[&["-p", "tcp", "--dport", port.as_str()], decided.as_slice()].concat()));
    }
    rules.extend(lines.iter().filter_map(|(line, words)| match line.action {
        Action::Exempt => Some(ending(words, &["-j", "RETURN"])),
        Action::Reject => Some(ending(words, &["-j", "REJECT", "--reject-with", "tcp-reset"])),
        Action::Redirect { .. } => None,
    }));
    rules
}

fn rule(words: &[&str]) -> Rule {
    Rule::new(words, 1)
}

fn ending(matching: &Words, rest: &[&str]) -> Rule {
    let words: Vec<&str> = matching.words.iter().map(String::as_str).chain(rest.iter().copied()).collect();
    Rule::new(&words, matching.rules)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn lookup(name: &str) -> Vec<IpAddr> {
        match name {
            "moose" => vec!["10.2.0.5".parse().unwrap(), "fd00:2::5".parse().unwrap()],
            _ => Vec::new(),
        }
    }

    fn set(lines: &[(Action, &str)]) -> RuleSet {
        let line = |(action, text): &(Action, &str)| Line {
            action: *action,
            matching: Match::parse("-R", text, RELAYED).unwrap().resolve(&lookup).unwrap(),
        };
        RuleSet {
            name: "12970".into(),
            lines: lines.iter().map(line).collect(),
            families: Family::BOTH.to_vec(),
            output: false,
            own_uid: None,
        }
    }

    const TO: Action = Action::Redirect { port: 12970 };

    #[test]
    fn a_redirect_is_printed_for_both_families_word_for_word() {
        let set =
            set(&[(Action::Exempt, "-s 10.9.0.0/16"), (TO, "-d moose --dport 80 -m comment --comment 'a \"b\"'")]);
        assert_eq!(
            print_rules(&set),
            r#"# iptables-restore --noflush
*nat
:tproxy.12970 - [0:0]
-A tproxy.12970 -p tcp -s 10.9.0.0/16 -j RETURN
-A tproxy.12970 -p tcp -d 10.2.0.5 --dport 80 -m comment --comment "a \"b\"" -j REDIRECT --to-ports 12970
-I PREROUTING -p tcp --syn -j tproxy.12970
COMMIT
# ip6tables-restore --noflush
*nat
:tproxy.12970 - [0:0]
-A tproxy.12970 -p tcp -d fd00:2::5 --dport 80 -m comment --comment "a \"b\"" -j REDIRECT --to-ports 12970
-I PREROUTING -p tcp --syn -j tproxy.12970
COMMIT
"#
        );
    }

    #[test]
    fn own_connections_are_caught_through_a_chain_that_lets_the_relay_out() {
        let set = RuleSet { output: true, own_uid: Some(65534), ..set(&[(TO, "--dport 80")]) };
        let wanted = "*nat
:tproxy.12970 - [0:0]
:tproxy.12970.out - [0:0]
-A tproxy.12970 -p tcp --dport 80 -j REDIRECT --to-ports 12970
-A tproxy.12970.out -m owner --uid-owner 65534 -j RETURN
-A tproxy.12970.out -j tproxy.12970
-I PREROUTING -p tcp --syn -j tproxy.12970
-I OUTPUT -p tcp --syn -j tproxy.12970.out
COMMIT
";
        assert_eq!(set.restore_text(Family::V4), wanted);
        assert_eq!(set.restore_text(Family::V6), wanted);
    }

    #[test]
    fn a_reject_fills_the_filter_table_and_stays_out_of_the_redirect() {
        let lines = [
            (Action::Exempt, "-s 10.9.0.1"),
            (Action::Reject, "! -s 10.0.0.0/8 --dport 80"),
            (TO, "-d moose --dport 80"),
        ];
        let set = RuleSet { families: vec![Family::V4], output: true, ..set(&lines) };
        assert_eq!(
            print_rules(&set),
            "# iptables-restore --noflush
*filter
:tproxy.12970 - [0:0]
:tproxy.12970.out - [0:0]
-A tproxy.12970 -i lo -j RETURN
-A tproxy.12970 -p tcp --dport 12970 -m conntrack --ctstate DNAT -j RETURN
-A tproxy.12970 -p tcp -s 10.9.0.1 -j RETURN
-A tproxy.12970 -p tcp ! -s 10.0.0.0/8 --dport 80 -j REJECT --reject-with tcp-reset
-A tproxy.12970.out -j tproxy.12970
-I INPUT -p tcp --syn -j tproxy.12970
-I FORWARD -p tcp --syn -j tproxy.12970
-I OUTPUT -p tcp --syn -j tproxy.12970.out
COMMIT
*nat
:tproxy.12970 - [0:0]
:tproxy.12970.out - [0:0]
-A tproxy.12970 -p tcp -s 10.9.0.1 -j RETURN
-A tproxy.12970 -p tcp ! -s 10.0.0.0/8 --dport 80 -j RETURN
-A tproxy.12970 -p tcp -d 10.2.0.5 --dport 80 -j REDIRECT --to-ports 12970
-A tproxy.12970.out -j tproxy.12970
-I PREROUTING -p tcp --syn -j tproxy.12970
-I OUTPUT -p tcp --syn -j tproxy.12970.out
COMMIT
"
        );
    }

    #[test]
    fn each_redirect_port_is_let_through_the_filter_once() {
        let to = |port| Action::Redirect { port };
        let set = set(&[
            (to(2), "--dport 80"),
            (to(1), "--dport 81"),
            (to(2), "--dport 82"),
            (Action::Reject, "--dport 1:99"),
        ]);
        let text = set.restore_text(Family::V4);
        let ports: Vec<&str> = text.lines().filter(|line| line.contains("--ctstate DNAT")).collect();
        let line = |port| format!("-A tproxy.12970 -p tcp --dport {port} -m conntrack --ctstate DNAT -j RETURN");
        assert_eq!(ports, [line(1), line(2)]);
    }

    #[test]
    fn failing_closed_rejects_what_was_redirected_and_failing_open_leaves_no_rule() {
        let set = set(&[(Action::Exempt, "-s 10.9.0.1"), (TO, "--dport 80")]);
        assert_eq!(
            set.closed().restore_text(Family::V4),
            "*filter
:tproxy.12970 - [0:0]
-A tproxy.12970 -i lo -j RETURN
-A tproxy.12970 -p tcp -s 10.9.0.1 -j RETURN
-A tproxy.12970 -p tcp --dport 80 -j REJECT --reject-with tcp-reset
-I INPUT -p tcp --syn -j tproxy.12970
-I FORWARD -p tcp --syn -j tproxy.12970
COMMIT
"
        );
        assert_eq!(print_rules(&set.open()), "");
    }

    #[test]
    fn a_family_without_listener_or_line_gets_no_rule() {
        let set = set(&[(TO, "-d fd00::1 --dport 80")]);
        assert!(set.plan(Family::V4).is_empty());
        assert_eq!(set.plan(Family::V6).len(), 1);
        assert!(RuleSet { families: vec![Family::V4], ..set }.plan(Family::V6).is_empty());
    }

    #[test]
    fn jumps_name_tcp_only_if_every_line_does() {
        let mut set = set(&[(TO, "--dport 80")]);
        let udp = Match::parse("-R", "-p udp --dport 53", &["tcp", "udp"]).unwrap().resolve(&lookup).unwrap();
        set.lines.push(Line { action: TO, matching: udp });
        assert!(set.restore_text(Family::V4).contains("\n-I PREROUTING -j tproxy.12970\n"));
    }

    #[test]
    fn lists_count_as_the_rules_that_they_become() {
        let set = set(&[(TO, "-s 10.0.0.1,10.0.0.2 -d 10.1.0.1,10.1.0.2,10.1.0.3")]);
        assert_eq!(set.plan(Family::V4)[0].chains[0].rules[0].copies, 6);
    }
}
