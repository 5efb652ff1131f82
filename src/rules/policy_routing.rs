//! Policy routing (ip-rule(8)) that brings packets to sockets of this host whose addresses are not its own: a rule leads
//! marked packets to a table, and all of that table is local.
//!
//! It belongs to the rules that mark the packets, and to all instances with the same mark. What is ours carries a number
//! of our own in place of the routing protocol, so nothing of others is ever changed. The last instance whose chains have
//! a mark takes its rule and route away.

use std::fmt;
use std::str::FromStr;

use crate::rules::address::Family;

/// The number that tags what is ours (`rtm_protocol`, rtnetlink(7)). No program is registered for it in rt_protos.
pub(crate) const PROTOCOL: u32 = 129;

/// Bits of the mark of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    pub value: u32,
    /// The bits that count. No other one is touched.
    pub mask: u32,
}

/// Whether sockets connect from addresses that are not this host's (`--source client`).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Connects {
    #[default]
    No,
    Yes,
    /// They do, and have the mark [`Mark::of_zone`].
    Zoned,
}

impl Connects {
    pub(crate) const ALL: [Connects; 3] = [Connects::No, Connects::Yes, Connects::Zoned];

    /// The word for it in a handover.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Connects::No => "-",
            Connects::Yes => "connects",
            Connects::Zoned => "zoned",
        }
    }
}

/// How marked packets are routed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyRouting {
    pub mark: Mark,
    /// The routing table.
    pub table: u32,
    /// The address families in which it is needed.
    pub families: Vec<Family>,
    pub connects: Connects,
}

impl Mark {
    /// A single bit, which leaves the others to the administrator. Of the programs that are known for their marks
    /// (container networks, VPNs, multi-WAN routers) none uses it by itself.
    pub const DEFAULT: Mark = Mark { value: 0x1000_0000, mask: 0x1000_0000 };

    /// A bit outside of this one, for sockets whose connections have a zone of their own in connection tracking.
    pub(crate) fn of_zone(self) -> Mark {
        let bits = (0..u32::BITS).rev().map(|bit| 1 << bit);
        let value = [0x2000_0000].into_iter().chain(bits).find(|bit| bit & self.mask == 0).unwrap_or_default();
        Mark { value, mask: value }
    }

    /// Whether packets of which this much is known have a mark; `None` if that cannot be said.
    pub(crate) fn is_within(self, wanted: Mark) -> Option<bool> {
        let known = self.mask & wanted.mask;
        if (self.value ^ wanted.value) & known != 0 { Some(false) } else { (known == wanted.mask).then_some(true) }
    }

    /// Whether a packet that has this mark and no other bit can have the other one.
    fn meets(self, other: Mark) -> bool {
        let common = self.mask & other.mask;
        common != 0 && (self.value ^ other.value) & common == 0
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}/{:#x}", self.value, self.mask)
    }
}

impl FromStr for Mark {
    type Err = ();

    /// `VALUE/MASK`, or `VALUE`, of which only the bits count that are set.
    fn from_str(text: &str) -> Result<Mark, ()> {
        let (value, mask) = text.split_once('/').unwrap_or((text, text));
        let mark = Mark { value: number(value).ok_or(())?, mask: number(mask).ok_or(())? };
        if mark.value == 0 || mark.value & !mark.mask != 0 { Err(()) } else { Ok(mark) }
    }
}

/// A number as iptables and ip take it.
fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

impl PolicyRouting {
    /// The table by default: a number far from those that programs count up from.
    pub const TABLE: u32 = 12_970;

    /// What is needed for one, the other, or both: with the mark and the table of the first one.
    pub(crate) fn both(one: Option<&PolicyRouting>, other: Option<&PolicyRouting>) -> Option<PolicyRouting> {
        let mut routing = one.or(other)?.clone();
        let needed = |family: &Family| [one, other].into_iter().flatten().any(|each| each.families.contains(family));
        routing.families = Family::BOTH.into_iter().filter(needed).collect();
        routing.connects = [one, other].into_iter().flatten().map(|each| each.connects).max().unwrap_or_default();
        Some(routing)
    }

    /// The words behind `ip rule add` and `ip rule del`. Without a priority the kernel puts a rule before all others except
    /// that of the table `local`. No rule of others must decide before ours.
    pub(crate) fn rule(&self) -> Vec<String> {
        words(&format!("fwmark {} lookup {} protocol {PROTOCOL}", self.mark, self.table))
    }

    /// The words behind `ip route add` and `ip route del`.
    pub(crate) fn route(&self) -> Vec<String> {
        route(self.table)
    }

    /// The commands that install it in a family.
    pub(crate) fn commands(&self, family: Family) -> String {
        let (ip, route, rule) = (option(family), self.route().join(" "), self.rule().join(" "));
        format!("# ip {ip} route add {route}\n# ip {ip} rule add {rule}\n")
    }
}

fn route(table: u32) -> Vec<String> {
    words(&format!("local default dev lo table {table} protocol {PROTOCOL}"))
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

/// The option that chooses the family.
pub(crate) fn option(family: Family) -> &'static str {
    match family {
        Family::V4 => "-4",
        Family::V6 => "-6",
    }
}

/// A rule as `ip -N rule show` prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FoundRule {
    line: String,
    priority: u32,
    /// It has `not` before its conditions.
    negated: bool,
    mark: Option<Mark>,
    table: Option<u32>,
    is_ours: bool,
    /// It has nothing that ours would not have.
    plain: bool,
}

impl FoundRule {
    fn read(line: &str) -> Option<FoundRule> {
        let (priority, conditions) = line.split_once(':')?;
        let mut rule = FoundRule {
            line: line.split_ascii_whitespace().collect::<Vec<_>>().join(" "),
            priority: priority.trim().parse().ok()?,
            negated: false,
            mark: None,
            table: None,
            is_ours: false,
            plain: true,
        };
        let mut words = conditions.split_ascii_whitespace();
        while let Some(word) = words.next() {
            match word {
                "not" => rule.negated = true,
                "from" => rule.plain &= words.next() == Some("all"),
                "fwmark" => rule.mark = words.next().and_then(found_mark),
                "lookup" | "table" => rule.table = words.next().and_then(number),
                "proto" | "protocol" => rule.is_ours = words.next().and_then(number) == Some(PROTOCOL),
                _ => rule.plain = false,
            }
        }
        Some(rule)
    }

    fn is(&self, wanted: &PolicyRouting) -> bool {
        self.is_ours
            && self.plain
            && !self.negated
            && self.mark == Some(wanted.mark)
            && self.table == Some(wanted.table)
    }

    /// Whether it may decide about packets with this mark, as far as the mark says.
    fn takes(&self, mark: Mark) -> bool {
        self.negated || self.mark.is_none_or(|own| own.meets(mark))
    }
}

/// A mark as ip(8) and iptables-save print it: without a mask, all bits count.
pub(crate) fn found_mark(text: &str) -> Option<Mark> {
    let (value, mask) = text.split_once('/').unwrap_or((text, "0xffffffff"));
    Some(Mark { value: number(value)?, mask: number(mask)? })
}

/// A route as `ip -N route show` prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FoundRoute {
    line: String,
    table: Option<u32>,
    is_ours: bool,
}

impl FoundRoute {
    /// ip(8) does not print what it was asked for: a table, or without one our protocol.
    fn read(line: &str, asked: Option<u32>) -> FoundRoute {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let after = |name: &str| {
            let at = words.iter().position(|word| *word == name)?;
            number(words.get(at + 1)?)
        };
        let is_local = matches!(words.as_slice(), ["local" | "2", "default", "dev", "lo", ..]);
        FoundRoute {
            line: words.join(" "),
            table: after("table").or(asked),
            is_ours: is_local && (asked.is_none() || after("proto") == Some(PROTOCOL)),
        }
    }
}

/// The policy routing of one family as it is.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct FoundRouting {
    rules: Vec<FoundRule>,
    /// Those of one table, or ours in all tables.
    routes: Vec<FoundRoute>,
}

impl FoundRouting {
    /// From what `ip -N rule show` and `ip -N route show` print, the latter of this table, or of our protocol.
    pub(crate) fn read(rules: &str, routes: &str, table: Option<u32>) -> FoundRouting {
        FoundRouting {
            rules: rules.lines().filter_map(FoundRule::read).collect(),
            routes: routes.lines().map(|line| FoundRoute::read(line, table)).collect(),
        }
    }

    fn our_rules(&self, wanted: &PolicyRouting) -> impl Iterator<Item = &FoundRule> {
        self.rules.iter().filter(|rule| rule.is(wanted))
    }

    fn has_route(&self, wanted: &PolicyRouting) -> bool {
        self.routes.iter().any(|route| route.is_ours && route.table == Some(wanted.table))
    }

    /// What of others is in the way of `wanted`: `in_use` are the marks of other instances of tproxy.
    pub(crate) fn conflict(&self, wanted: &PolicyRouting, in_use: &[Mark]) -> Option<String> {
        let counts = |rule: &&FoundRule| {
            !rule.is(wanted) && (!rule.is_ours || rule.mark.is_some_and(|mark| in_use.contains(&mark)))
        };
        for rule in self.rules.iter().filter(counts) {
            if !rule.negated && rule.mark.is_some_and(|mark| mark.meets(wanted.mark)) {
                return Some(format!("--tproxy-mark: {} is taken by the rule '{}'", wanted.mark, rule.line));
            }
            if rule.table == Some(wanted.table) && !rule.is_ours {
                return Some(format!("--tproxy-table: {} is taken by the rule '{}'", wanted.table, rule.line));
            }
        }
        let other = |route: &&FoundRoute| route.table == Some(wanted.table) && !route.is_ours;
        let route = self.routes.iter().find(other)?;
        Some(format!("--tproxy-table: {} is taken by the route '{}'", wanted.table, route.line))
    }

    /// What lacks of `wanted`, or is out of place, one short sentence each.
    pub(crate) fn differences(&self, wanted: &PolicyRouting) -> Vec<String> {
        let mut said = Vec::new();
        let rule = || wanted.rule().join(" ");
        match self.our_rules(wanted).next() {
            None => said.push(format!("the rule '{}' is gone", rule())),
            Some(_) if self.is_behind(wanted) => said.push(format!("the rule '{}' has another one before it", rule())),
            Some(_) => {}
        }
        if !self.has_route(wanted) {
            said.push(format!("the route '{}' is gone", wanted.route().join(" ")));
        }
        said
    }

    /// Whether a rule of others may decide about marked packets before ours. Nothing can come before priority 0.
    fn is_behind(&self, wanted: &PolicyRouting) -> bool {
        let before = self.rules.iter().take_while(|rule| !rule.is(wanted));
        before.filter(|rule| !rule.is_ours && rule.priority > 0).any(|rule| rule.takes(wanted.mark))
    }

    /// The commands, without their first word, that make it hold `wanted`.
    pub(crate) fn repair(&self, wanted: &PolicyRouting) -> Vec<Vec<String>> {
        let mut commands = Vec::new();
        // First, so that no packet is led to an empty table.
        if !self.has_route(wanted) {
            commands.push(command(&["route", "add"], wanted.route()));
        }
        let behind = self.is_behind(wanted);
        if behind || self.our_rules(wanted).next().is_none() {
            commands.push(command(&["rule", "add"], wanted.rule()));
        }
        if behind {
            commands.extend(self.our_rules(wanted).map(remove));
        }
        commands
    }

    /// The commands that remove what is ours and belongs to none of these marks.
    pub(crate) fn purge(&self, in_use: &[Mark]) -> Vec<Vec<String>> {
        let stays = |rule: &&FoundRule| rule.mark.is_some_and(|mark| in_use.contains(&mark));
        let ours = self.rules.iter().filter(|rule| rule.is_ours);
        let (kept, unused): (Vec<&FoundRule>, Vec<&FoundRule>) = ours.partition(stays);
        let mut commands: Vec<Vec<String>> = unused.into_iter().map(remove).collect();
        let is_kept = |table: u32| kept.iter().any(|rule| rule.table == Some(table));
        let tables = self.routes.iter().filter(|route| route.is_ours).filter_map(|route| route.table);
        commands.extend(tables.filter(|table| !is_kept(*table)).map(|table| command(&["route", "del"], route(table))));
        commands
    }
}

fn command(verb: &[&str], words: Vec<String>) -> Vec<String> {
    verb.iter().map(|word| (*word).to_owned()).chain(words).collect()
}

/// Deletes exactly this rule: the priority tells it from a second one like it.
fn remove(rule: &FoundRule) -> Vec<String> {
    let mut words = vec!["rule".to_owned(), "del".to_owned(), "pref".to_owned(), rule.priority.to_string()];
    words.extend(
        rule.mark.map(|mark| format!("fwmark {mark}")).iter().flat_map(|text| text.split(' ').map(String::from)),
    );
    words.extend(
        rule.table.map(|table| format!("lookup {table}")).iter().flat_map(|text| text.split(' ').map(String::from)),
    );
    words.extend(["protocol".to_owned(), PROTOCOL.to_string()]);
    words
}
