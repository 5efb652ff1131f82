//! Whether the filter table lets a connection in at all. Rules may drop what no rule before has accepted, and then the
//! connections that are redirected to a port vanish unless a rule accepts that port.

use std::cell::Cell;
use std::collections::HashMap;
use std::net::IpAddr;

use crate::rules::address::Family;
use crate::rules::chains::unquote;
use crate::rules::groups::{interfaces, only_port};
use crate::rules::matching::ResolvedMatch;
use crate::rules::rule::{Action, RuleSpec};
use crate::rules::save::Lines;
use crate::rules::verdict::{ExpectedPackets, Matches};

/// The filter table, as iptables-save shows it.
#[derive(Debug)]
pub(crate) struct FilterTable {
    chains: HashMap<String, FilterChain>,
    /// How many rules were looked at.
    steps: Cell<usize>,
}

#[derive(Debug, Default)]
struct FilterChain {
    /// Only the kernel's own chains have one.
    policy: String,
    /// The words of each rule, without the name of the chain.
    rules: Vec<Vec<String>>,
}

/// What becomes of a connection in a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Passage {
    /// Some may pass, or nobody can say.
    Open,
    /// All are dropped or rejected.
    Closed,
    /// It goes on in the chain that led here.
    Returns,
}

/// The most rules that are looked at, for all connections together, and the most jumps within each other. Beyond that
/// everything counts as open.
const STEPS: usize = 200_000;
const DEPTH: usize = 64;

impl FilterTable {
    pub(crate) fn read(save: &str) -> FilterTable {
        let mut chains: HashMap<String, FilterChain> = HashMap::new();
        let table = Lines::new(save).skip_while(|line| *line != "*filter").skip(1).take_while(|line| *line != "COMMIT");
        for line in table {
            if let Some((name, rest)) = line.strip_prefix(':').and_then(|line| line.split_once(' ')) {
                let policy = rest.split(' ').next().unwrap_or_default();
                chains.entry(name.to_owned()).or_default().policy = policy.to_owned();
            } else if let Some((name, rule)) = line.strip_prefix("-A ").and_then(|line| line.split_once(' ')) {
                chains.entry(name.to_owned()).or_default().rules.push(unquote(rule));
            }
        }
        FilterTable { chains, steps: Cell::new(0) }
    }

    /// Whether a chain of the kernel's (`INPUT`, `FORWARD`) lets none of these connections pass.
    pub(crate) fn is_closed(&self, chain: &str, expected: &ExpectedPackets) -> bool {
        match self.walk(chain, expected, 0) {
            Passage::Open => false,
            Passage::Closed => true,
            Passage::Returns => self.chains.get(chain).is_some_and(|chain| chain.policy == "DROP"),
        }
    }

    fn walk(&self, chain: &str, expected: &ExpectedPackets, depth: usize) -> Passage {
        let Some(chain) = self.chains.get(chain) else { return Passage::Returns };
        for rule in &chain.rules {
            self.steps.set(self.steps.get() + 1);
            if self.steps.get() > STEPS || depth > DEPTH {
                return Passage::Open;
            }
            let at = rule.iter().position(|word| word == "-j" || word == "-g");
            let Some((conditions, [how, target, ..])) = at.and_then(|at| rule.split_at_checked(at)) else { continue };
            let matches = expected.matches(conditions);
            if matches == Matches::Never {
                continue;
            }
            let passage = match target.as_str() {
                // A program decides, or the rest of the table does not count.
                "ACCEPT" | "NFQUEUE" | "QUEUE" => Passage::Open,
                "DROP" | "REJECT" => Passage::Closed,
                "RETURN" => Passage::Returns,
                other if self.chains.contains_key(other) => {
                    let passage = self.walk(other, expected, depth + 1);
                    if passage == Passage::Returns && how == "-j" {
                        continue;
                    }
                    passage
                }
                // LOG and the like.
                _ => continue,
            };
            if passage == Passage::Open || matches == Matches::Always {
                return passage;
            }
        }
        Passage::Returns
    }
}

/// The most lines of [`lacking`]. The others are like these.
const MOST: usize = 16;

/// The rules that an administrator has to add so that connections get where these rules lead them: what lacks, and the
/// command that adds it. `save` is the output of iptables-save, and `is_own` knows the addresses of this host.
pub(crate) fn lacking(save: &str, specs: &[&RuleSpec], mut is_own: impl FnMut(IpAddr) -> bool) -> Vec<String> {
    let table = FilterTable::read(save);
    let mut lacking = Vec::new();
    for spec in specs {
        if lacking.len() >= MOST {
            break;
        }
        let (chain, to) = match spec.action {
            Action::Exempt | Action::Reject => continue,
            Action::Redirect { port } => ("INPUT", (None, Some(port))),
            Action::Local { port } => ("INPUT", (None, port.or_else(|| only_port(&spec.matching.words)))),
            Action::Kernel { to } if is_own(to.ip()) => ("INPUT", (Some(to.ip()), Some(to.port()))),
            Action::Kernel { to } => ("FORWARD", (Some(to.ip()), Some(to.port()))),
        };
        for line in lacking_for(&table, spec, chain, to) {
            if !lacking.contains(&line) {
                lacking.push(line);
            }
        }
    }
    lacking
}

fn lacking_for(
    table: &FilterTable,
    spec: &RuleSpec,
    chain: &str,
    (to, port): (Option<IpAddr>, Option<u16>),
) -> Vec<String> {
    let ResolvedMatch { family, protocol, words, .. } = &spec.matching;
    let interfaces = interfaces(words);
    let command = if *family == Family::V4 { "iptables" } else { "ip6tables" };
    let there = |flag: &str| to.map(|ip| format!(" {flag} {ip}")).unwrap_or_default();
    let at = |flag: &str| port.map(|port| format!(" {flag} {port}")).unwrap_or_default();
    let mut expected =
        ExpectedPackets { protocol, to, port, interfaces, to_this_host: chain == "INPUT", states: &["NEW", "DNAT"] };
    let mut found = Vec::new();
    if table.is_closed(chain, &expected) {
        let only = expected.interfaces.first().map(|name| format!(" -i {name}")).unwrap_or_default();
        let rule = format!("{command} -I {chain}{only} -p {protocol}{}{} -j ACCEPT", there("-d"), at("--dport"));
        found.push(format!(
            "{chain} drops all redirected {family} connections{}; what lacks is a rule such as `{rule}`",
            at("to port")
        ));
    }
    expected =
        ExpectedPackets { to: None, port: None, interfaces: Vec::new(), states: &["ESTABLISHED", "DNAT"], ..expected };
    if chain == "FORWARD" && table.is_closed(chain, &expected) {
        let state = "-m conntrack --ctstate ESTABLISHED";
        let rule = format!("{command} -I {chain} -p {protocol}{}{} {state} -j ACCEPT", there("-s"), at("--sport"));
        found.push(format!(
            "{chain} drops all answers in redirected {family} connections; what lacks is a rule such as `{rule}`"
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_closed(rules: &str) -> bool {
        let save = format!("*nat\n:INPUT DROP [0:0]\nCOMMIT\n*filter\n{rules}COMMIT\n");
        let expected = ExpectedPackets {
            protocol: "tcp",
            to: None,
            port: Some(8081),
            interfaces: Vec::new(),
            to_this_host: true,
            states: &["NEW", "DNAT"],
        };
        FilterTable::read(&save).is_closed("INPUT", &expected)
    }

    #[test]
    fn a_chain_is_closed_if_nothing_accepts_before_what_drops() {
        let drop = ":INPUT DROP [0:0]\n:FORWARD ACCEPT [0:0]\n:mine - [0:0]\n";
        let accept = ":INPUT ACCEPT [1:2]\n:FORWARD DROP [0:0]\n:mine - [0:0]\n";
        for (policy, rules, closed) in [
            (accept, "", false),
            (drop, "", true),
            (drop, "-A INPUT -i lo -j ACCEPT\n-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n", true),
            (drop, "-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n-A INPUT -p icmp -j ACCEPT\n", true),
            (drop, "-A INPUT -p tcp -m tcp --dport 8081 -j ACCEPT\n", false),
            (drop, "-A INPUT -s 10.0.0.0/8 -j ACCEPT\n", false),
            (drop, "-A INPUT -m set --match-set friends src -j ACCEPT\n", false),
            (drop, "-A INPUT -j LOG --log-prefix \"a -j ACCEPT\"\n", true),
            (drop, "-A INPUT -j mine\n-A mine -p tcp -m multiport --dports 80,8000:9000 -j ACCEPT\n", false),
            (drop, "-A INPUT -j mine\n-A mine -p tcp -j RETURN\n-A mine -j ACCEPT\n", true),
            (drop, "-A INPUT -j NFQUEUE --queue-num 0\n", false),
            (
                accept,
                "-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n-A INPUT -j REJECT --reject-with icmp-port-unreachable\n",
                true,
            ),
            (accept, "-A INPUT -j DROP\n-A INPUT -p tcp -j ACCEPT\n", true),
            (accept, "-A INPUT -s 10.0.0.0/8 -j DROP\n", false),
            (accept, "-A INPUT -j mine\n-A mine -p tcp -j DROP\n", true),
            (accept, "-A INPUT -g mine\n-A INPUT -j DROP\n-A mine -p udp -j DROP\n", false),
            (accept, "-A INPUT -i eth0 -g mine\n-A INPUT -j DROP\n", true),
            (accept, "-A INPUT -j mine\n-A mine -j mine\n-A INPUT -j DROP\n", false),
            (accept, "-A INPUT -m comment --comment \"a\\\"\n-A INPUT -j DROP\" -j ACCEPT\n", false),
        ] {
            assert_eq!(is_closed(&format!("{policy}{rules}")), closed, "{policy}{rules}");
        }
    }
}
