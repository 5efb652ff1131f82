//! One option of a match module in nft's words, where it is a comparison.

use std::net::IpAddr;

use crate::rules::address::Family;
use crate::rules::groups::{OptionWords, number};
use crate::rules::nft::addresses::{Network, header, prefix, without_overlaps};
use crate::sys::services;

/// A comparison: what is looked at, and what it must be.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Comparison {
    pub left: String,
    pub negated: bool,
    /// One of these.
    pub values: Vec<String>,
}

impl Comparison {
    pub(crate) fn new(left: impl Into<String>, negated: bool, values: Vec<String>) -> Comparison {
        Comparison { left: left.into(), negated, values }
    }

    pub(crate) fn text(&self) -> String {
        let not = if self.negated { "!= " } else { "" };
        match self.values.as_slice() {
            [one] => format!("{} {not}{one}", self.left),
            several => format!("{} {not}{{ {} }}", self.left, several.join(", ")),
        }
    }
}

/// Conditions that must hold together. Only one of the alternatives must hold: each becomes a rule.
pub(crate) type Alternatives = Vec<Vec<Comparison>>;

/// Conditions that always hold, and such that never do.
pub(crate) fn always() -> Alternatives {
    vec![Vec::new()]
}

pub(crate) fn never() -> Alternatives {
    Vec::new()
}

fn only(left: impl Into<String>, negated: bool, values: Vec<String>) -> Option<Alternatives> {
    Some(vec![vec![Comparison::new(left, negated, values)]])
}

/// `-s`, `-d` and the addresses of connection tracking: a list of networks.
pub(crate) fn networks(field: &str, negated: bool, list: &str) -> Option<Alternatives> {
    let networks = without_overlaps(list.split(',').map(Network::read).collect::<Option<_>>()?);
    if networks.iter().any(Network::is_everything) {
        return Some(if negated { never() } else { always() });
    }
    let mut alternatives = Alternatives::new();
    let mut prefixes = Vec::new();
    for network in &networks {
        match network {
            Network::Prefix(address, length) => prefixes.push(prefix(address, *length)),
            Network::Masked { mask, value } => {
                alternatives.push(vec![Comparison::new(
                    format!("{field} & {mask} =="),
                    false,
                    vec![value.to_string()],
                )]);
            }
        }
    }
    if !prefixes.is_empty() {
        alternatives.push(vec![Comparison::new(field, negated, prefixes)]);
    }
    if negated {
        // Only one address can be negated.
        let masked = |one: &mut Comparison| {
            if let Some(left) = one.left.strip_suffix(" ==") {
                (one.left, one.negated) = (left.to_owned(), true);
            }
        };
        alternatives.iter_mut().flatten().for_each(masked);
    }
    Some(alternatives)
}

/// `-i` and `-o`: a plus sign at the end stands for any letters.
pub(crate) fn interface(field: &str, negated: bool, name: &str) -> Option<Alternatives> {
    let (name, more) = match name.strip_suffix('+') {
        Some(beginning) => (beginning, "*"),
        None => (name, ""),
    };
    if name.contains(['"', '*', '\\', '+']) || name.len() > 15 {
        return None;
    }
    if name.is_empty() {
        return Some(if negated { never() } else { always() });
    }
    only(field, negated, vec![format!("\"{name}{more}\"")])
}

/// Ports of the protocol: a number, a name or a range, or a list of them.
pub(crate) fn ports(protocol: &str, list: &str) -> Option<Vec<String>> {
    let port = |text: &str| number(text)?.try_into().ok();
    let port = |text: &str| port(text).or_else(|| services::port(protocol, text));
    let mut ranges = Vec::new();
    for item in list.split(',') {
        let (first, last) = item.split_once(':').unwrap_or((item, item));
        let first = if first.is_empty() && item.contains(':') { 0 } else { port(first)? };
        let last: u16 = if last.is_empty() && item.contains(':') { u16::MAX } else { port(last)? };
        if first > last {
            return None;
        }
        ranges.push((first, last));
    }
    ranges.sort_unstable();
    let mut merged: Vec<(u16, u16)> = Vec::new();
    for (first, last) in ranges {
        match merged.last_mut() {
            // nft refuses intervals of a set that overlap.
            Some(former) if first <= former.1 => former.1 = former.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    let written = |(first, last): (u16, u16)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    Some(merged.into_iter().map(written).collect())
}

/// `--sport`, `--dports` and the like.
pub(crate) fn port(protocol: &str, which: &str, group: &OptionWords) -> Option<Alternatives> {
    let [list] = group.values.as_slice() else { return None };
    let ports = ports(protocol, list)?;
    match which {
        "ports" if group.negated => {
            let none = |field| Comparison::new(format!("{protocol} {field}"), true, apart(field, true, ports.clone()));
            Some(vec![vec![none("sport"), none("dport")]])
        }
        "ports" => {
            let one = |field| vec![Comparison::new(format!("{protocol} {field}"), false, ports.clone())];
            Some(vec![one("sport"), one("dport")])
        }
        field => only(format!("{protocol} {field}"), group.negated, apart(field, group.negated, ports)),
    }
}

/// A negated source port as a range of one. nft 1.0.6 makes one comparison of `sport != 1 dport != 2`, which then excludes
/// only packets with both (`payload_try_merge`, src/payload.c).
fn apart(field: &str, negated: bool, ports: Vec<String>) -> Vec<String> {
    match ports.as_slice() {
        [port] if negated && field == "sport" && !port.contains('-') => vec![format!("{port}-{port}")],
        _ => ports,
    }
}

/// `--mark VALUE[/MASK]` of a packet or of its connection.
pub(crate) fn mark(field: &str, negated: bool, text: &str) -> Option<Alternatives> {
    let (value, mask) = match text.split_once('/') {
        Some((value, mask)) => (number(value)?, Some(number(mask)?)),
        None => (number(text)?, None),
    };
    let value = vec![format!("{value:#x}")];
    match mask {
        None => only(field, negated, value),
        Some(mask) => {
            let equals = if negated { "" } else { " ==" };
            only(format!("{field} & {mask:#x}{equals}"), negated, value)
        }
    }
}

/// `--ctstate` and `--state`.
pub(crate) fn connection_state(negated: bool, list: &str) -> Option<Alternatives> {
    let (mut states, mut status) = (Vec::new(), Vec::new());
    for name in list.split(',') {
        let name = name.to_ascii_lowercase();
        match name.as_str() {
            "invalid" | "new" | "established" | "related" | "untracked" => states.push(name),
            "snat" | "dnat" => status.push(name),
            _ => return None,
        }
    }
    let state = (!states.is_empty()).then(|| Comparison::new("ct state", negated, states));
    let translated = (!status.is_empty()).then(|| flags("ct status", negated, &status));
    if !negated {
        // One of them is enough.
        return Some(state.into_iter().chain(translated).map(|one| vec![one]).collect());
    }
    // None of them may hold. A packet without an entry has no status at all, and nft stops there.
    let Some(translated) = translated else { return Some(vec![state.into_iter().collect()]) };
    let none = Comparison::new("ct state", false, vec!["invalid".into(), "untracked".into()]);
    Some([none, translated].map(|other| state.iter().cloned().chain([other]).collect()).into())
}

/// `--ctstatus`.
pub(crate) fn connection_status(negated: bool, list: &str) -> Option<Alternatives> {
    let name = |name: &str| {
        Some(match name.to_ascii_uppercase().as_str() {
            "EXPECTED" => "expected",
            "SEEN_REPLY" => "seen-reply",
            "ASSURED" => "assured",
            "CONFIRMED" => "confirmed",
            _ => return None,
        })
    };
    let names: Vec<String> = list.split(',').map(|one| name(one).map(str::to_owned)).collect::<Option<_>>()?;
    Some(vec![vec![flags("ct status", negated, &names)]])
}

/// Whether any of these bits is set, or none.
fn flags(left: &str, negated: bool, names: &[String]) -> Comparison {
    let not = if negated { " ==" } else { " !=" };
    Comparison::new(format!("{left} & ({}){not}", names.join("|")), false, vec!["0".into()])
}

/// `--tcp-flags MASK SET` and `--syn`.
pub(crate) fn tcp_flags(negated: bool, mask: &str, set: &str) -> Option<Alternatives> {
    const ALL: &str = "fin,syn,rst,psh,ack,urg";
    let names = |list: &str| {
        let list = if list == "ALL" { ALL.to_owned() } else { list.to_ascii_lowercase() };
        let names: Vec<String> = list.split(',').filter(|name| *name != "none").map(str::to_owned).collect();
        names.iter().all(|name| ALL.split(',').any(|known| known == name)).then(|| names.join("|"))
    };
    let mask = Some(names(mask)?).filter(|mask| !mask.is_empty())?;
    let set = Some(names(set)?).filter(|set| !set.is_empty()).map_or_else(|| "0x0".into(), |set| format!("({set})"));
    let equals = if negated { "" } else { " ==" };
    only(format!("tcp flags & ({mask}){equals}"), negated, vec![set])
}

/// `--uid-owner` and `--gid-owner`: a number, a range or a name.
pub(crate) fn owner(field: &str, negated: bool, text: &str) -> Option<Alternatives> {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let plain = |text: &str| text.chars().all(|letter| letter.is_ascii_alphanumeric() || "_-.".contains(letter));
    let value = match text.split_once('-') {
        Some((first, last)) if is_number(first) && is_number(last) => format!("{first}-{last}"),
        _ if is_number(text) => text.to_owned(),
        _ if plain(text) && !text.is_empty() => format!("\"{text}\""),
        _ => return None,
    };
    only(field, negated, vec![value])
}

/// `--src-range` and `--dst-range`.
pub(crate) fn address_range(family: Family, which: &str, negated: bool, text: &str) -> Option<Alternatives> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last): (IpAddr, IpAddr) = (first.parse().ok()?, last.parse().ok()?);
    if first > last || Family::of(&first) != family || Family::of(&last) != family {
        return None;
    }
    let value = if first == last { first.to_string() } else { format!("{first}-{last}") };
    only(format!("{} {which}", header(family)), negated, vec![value])
}

/// `--src-type` and `--dst-type`: what the routing table says of an address (`RTN_*`).
pub(crate) fn address_type(family: Family, which: &str, negated: bool, list: &str) -> Option<Alternatives> {
    if family == Family::V6 {
        return address_type_v6(which, negated, &list.to_ascii_lowercase());
    }
    const KNOWN: [&str; 9] =
        ["unicast", "local", "broadcast", "anycast", "multicast", "blackhole", "unreachable", "prohibit", "unspec"];
    let names: Vec<String> = list.split(',').map(str::to_ascii_lowercase).collect();
    names.iter().all(|name| KNOWN.contains(&name.as_str())).then_some(())?;
    only(format!("fib {which} type"), negated, names)
}

/// The same for IPv6, where iptables looks at the address itself for some types, and wants all types of a list together
/// (`match_type6`, net/netfilter/xt_addrtype.c).
fn address_type_v6(which: &str, negated: bool, name: &str) -> Option<Alternatives> {
    match name {
        "local" | "anycast" | "unreachable" => only(format!("fib {which} type"), negated, vec![name.into()]),
        "multicast" => only(format!("ip6 {which}"), negated, vec!["ff00::/8".into()]),
        "unicast" => only(format!("ip6 {which}"), !negated, vec!["::".into(), "ff00::/8".into()]),
        _ => None,
    }
}

/// `--pkt-type`.
pub(crate) fn packet_type(negated: bool, name: &str) -> Option<Alternatives> {
    let name = match name.to_ascii_lowercase().as_str() {
        "unicast" | "host" => "host",
        "broadcast" => "broadcast",
        "multicast" => "multicast",
        _ => return None,
    };
    only("meta pkttype", negated, vec![name.into()])
}

/// `--dscp` and `--dscp-class`.
pub(crate) fn dscp(family: Family, negated: bool, class: bool, text: &str) -> Option<Alternatives> {
    let value = match (class, text.to_ascii_lowercase()) {
        (false, _) => number(text).filter(|value| *value < 64)?.to_string(),
        (true, name) => class_of(&name)?.to_string(),
    };
    only(format!("{} dscp", header(family)), negated, vec![value])
}

/// The value of a class: CSx of RFC 2474, AFxy of RFC 2597, EF of RFC 3246.
fn class_of(name: &str) -> Option<u32> {
    let digit = |text: &str| text.parse::<u32>().ok();
    match name {
        "ef" => Some(46),
        "be" => Some(0),
        _ => match name.split_at_checked(2)? {
            ("cs", class) => digit(class).filter(|class| *class < 8 && name.len() == 3).map(|class| class * 8),
            ("af", rest) => {
                let both = digit(rest).filter(|_| rest.len() == 2)?;
                let (class, drop) = (both / 10, both % 10);
                ((1..=4).contains(&class) && (1..=3).contains(&drop)).then_some(class * 8 + drop * 2)
            }
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_iptables_reads_them() {
        for (text, wanted) in [
            ("80", Some("80")),
            ("0x50", Some("80")),
            ("010", Some("8")),
            ("010:020,00", Some("0 8-16")),
            ("http", Some("80")),
            ("080", None),
            ("+80", None),
            ("65536", None),
        ] {
            assert_eq!(ports("tcp", text).map(|ports| ports.join(" ")).as_deref(), wanted, "{text}");
        }
    }
}
