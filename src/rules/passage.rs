//! Whether the filter table lets a connection in at all. Rules may drop what no rule before has accepted, and then the
//! connections that are redirected to a port vanish unless a rule accepts that port.

use std::cell::Cell;
use std::collections::HashMap;

use crate::rules::chains::unquote;
use crate::rules::save::Lines;
use crate::rules::verdict::{ExpectedPackets, Matches};

/// A table that filters.
#[derive(Debug, Clone, Default)]
pub(crate) struct FilterTable {
    chains: HashMap<String, FilterChain>,
    /// How many rules were looked at.
    steps: Cell<usize>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct FilterChain {
    /// Only a chain to which the kernel leads has one.
    pub policy: String,
    /// The words of each rule as iptables has them, without the name of the chain.
    pub rules: Vec<Vec<String>>,
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
    /// The chain of this name, which is made if it is not there.
    pub(crate) fn chain(&mut self, name: &str) -> &mut FilterChain {
        self.chains.entry(name.to_owned()).or_default()
    }

    /// The filter table in the output of iptables-save.
    pub(crate) fn read(save: &str) -> FilterTable {
        let mut filter = FilterTable::default();
        let table = Lines::new(save).skip_while(|line| *line != "*filter").skip(1).take_while(|line| *line != "COMMIT");
        for line in table {
            if let Some((name, rest)) = line.strip_prefix(':').and_then(|line| line.split_once(' ')) {
                let policy = rest.split(' ').next().unwrap_or_default();
                filter.chain(name).policy = policy.to_owned();
            } else if let Some((name, rule)) = line.strip_prefix("-A ").and_then(|line| line.split_once(' ')) {
                filter.chain(name).rules.push(unquote(rule));
            }
        }
        filter
    }

    /// Whether a chain to which the kernel leads lets none of these connections pass.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn is_closed(rules: &str) -> bool {
        let save = format!("*nat\n:INPUT DROP [0:0]\nCOMMIT\n*filter\n{rules}COMMIT\n");
        let expected = ExpectedPackets {
            protocol: "tcp",
            to: None,
            port: Some(8081),
            mark: None,
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
