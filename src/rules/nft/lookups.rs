//! Rules that differ only in addresses and ports become one look-up: a set or a map, whose cost does not grow with the
//! number of its elements.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use crate::rules::nft::conditions::Comparison;
use crate::rules::nft::nft_rule::NftRule;
use crate::rules::nft::targets::{NftVerdict, TargetChain};
use crate::rules::nft::translation::Part;

/// So many rules are a look-up; fewer are rules.
const LEAST: usize = 3;

/// The most elements that one rule may become.
const PRODUCT: usize = 256;

/// What a chain holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ChainEntry {
    Rule(NftRule),
    Lookup(Lookup),
}

/// Rules with the same shape, whose keys do not overlap, so that their order does not matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lookup {
    /// What is the same in all of them.
    common: Vec<Comparison>,
    /// What is looked up.
    fields: Vec<String>,
    elements: Vec<(Vec<Span>, NftVerdict)>,
}

/// The values of one field, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Span {
    first: u128,
    last: u128,
    is_ipv4: bool,
    /// The length of its prefix, if it is a network.
    length: Option<u8>,
}

/// A rule taken apart.
struct Shape {
    common: Vec<Comparison>,
    fields: Vec<String>,
    keys: Vec<Vec<Span>>,
    verdict: NftVerdict,
}

/// Puts rules together that can be one look-up.
pub(crate) fn grouped(rules: Vec<NftRule>) -> Vec<ChainEntry> {
    let mut entries = Vec::new();
    let mut run = Run::default();
    for rule in rules {
        let shape = Shape::of(&rule);
        if !shape.as_ref().is_some_and(|shape| run.takes(shape)) {
            run.finish(&mut entries);
        }
        match shape {
            Some(shape) => run.add(rule, shape),
            None => entries.push(ChainEntry::Rule(rule)),
        }
    }
    run.finish(&mut entries);
    entries
}

/// Rules that follow each other and have one shape.
#[derive(Default)]
struct Run {
    rules: Vec<NftRule>,
    lookup: Option<Lookup>,
    /// The first field of the elements: which elements have it.
    known: BTreeMap<Span, Vec<usize>>,
    /// The networks that the first field of an element may be within.
    lengths: HashMap<u8, usize>,
}

impl Run {
    /// Whether a rule can be added without changing what the others do.
    fn takes(&self, shape: &Shape) -> bool {
        let Some(lookup) = &self.lookup else { return true };
        let same = lookup.common == shape.common && lookup.fields == shape.fields && lookup.is_like(&shape.verdict);
        same && shape.keys.iter().all(|key| self.relation(key) != Relation::Overlaps)
    }

    fn add(&mut self, rule: NftRule, shape: Shape) {
        self.rules.push(rule);
        let Shape { common, fields, keys, verdict } = shape;
        for key in keys {
            // The first rule that matches decides: what another one holds already never gets here.
            if self.relation(&key) == Relation::Apart {
                let lookup = self.lookup.get_or_insert_with(|| Lookup {
                    common: common.clone(),
                    fields: fields.clone(),
                    elements: Vec::new(),
                });
                if let Some(first) = key.first() {
                    self.known.entry(*first).or_default().push(lookup.elements.len());
                    first.length.iter().for_each(|length| *self.lengths.entry(*length).or_default() += 1);
                }
                lookup.elements.push((key, verdict.clone()));
            }
        }
    }

    /// How a key stands to those that are there.
    fn relation(&self, key: &[Span]) -> Relation {
        let (Some(lookup), Some(first)) = (&self.lookup, key.first()) else { return Relation::Apart };
        let within = self.known.range(Span { last: 0, ..*first }..).take_while(|(span, _)| span.first <= first.last);
        let inside: Vec<&Vec<usize>> = within.map(|(_, at)| at).collect();
        let around: Vec<&Vec<usize>> = match first.length {
            Some(_) => self.lengths.keys().filter_map(|length| self.known.get(&first.network(*length)?)).collect(),
            None => self.known.iter().filter(|(span, _)| span.overlaps(first)).map(|(_, at)| at).collect(),
        };
        let candidates = inside.into_iter().chain(around).flatten();
        let mut others = candidates.filter_map(|at| lookup.elements.get(*at).map(|(other, _)| other));
        let mut relation = Relation::Apart;
        others.try_for_each(|other| {
            let pairs = || other.iter().zip(key);
            if pairs().all(|(other, span)| other.first <= span.first && other.last >= span.last) {
                relation = Relation::Within;
                return None;
            }
            if pairs().all(|(other, span)| other.overlaps(span)) {
                relation = Relation::Overlaps;
            }
            Some(())
        });
        relation
    }

    fn finish(&mut self, entries: &mut Vec<ChainEntry>) {
        let Run { rules, lookup, .. } = std::mem::take(self);
        match lookup {
            Some(lookup) if rules.len() >= LEAST => entries.push(ChainEntry::Lookup(lookup)),
            _ => entries.extend(rules.into_iter().map(ChainEntry::Rule)),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relation {
    Apart,
    /// Another key holds all of it.
    Within,
    Overlaps,
}

impl Shape {
    /// `None` if the rule has a condition or a verdict that no look-up has.
    fn of(rule: &NftRule) -> Option<Shape> {
        match &rule.verdict {
            NftVerdict::Statement(text) if text != "return" => return None,
            NftVerdict::Mark(_) => return None,
            _ => {}
        }
        let (mut common, mut fields) = (Vec::new(), Vec::new());
        let mut keys: Vec<Vec<Span>> = vec![Vec::new()];
        for part in &rule.matching.parts {
            let Part::Compare(comparison) = part else { return None };
            let spans: Option<Vec<Span>> = comparison.values.iter().map(|value| Span::read(value)).collect();
            match spans.filter(|_| !comparison.negated && is_field(&comparison.left)) {
                None => common.push(comparison.clone()),
                Some(_) if fields.contains(&comparison.left) => return None,
                Some(spans) if keys.len() * spans.len() <= PRODUCT => {
                    fields.push(comparison.left.clone());
                    keys = keys.iter().flat_map(|key| spans.iter().map(|span| with(key, *span))).collect();
                }
                Some(_) => return None,
            }
        }
        (!fields.is_empty()).then(|| Shape { common, fields, keys, verdict: rule.verdict.clone() })
    }
}

fn with(key: &[Span], span: Span) -> Vec<Span> {
    key.iter().copied().chain([span]).collect()
}

/// What a set of addresses and ports can be asked.
fn is_field(left: &str) -> bool {
    matches!(
        left,
        "ip saddr" | "ip daddr" | "ip6 saddr" | "ip6 daddr" | "tcp sport" | "tcp dport" | "udp sport" | "udp dport"
    )
}

impl Span {
    /// Reads an address, a network, a range of addresses, a port or a range of ports.
    fn read(text: &str) -> Option<Span> {
        if let Some((first, last)) = text.split_once('-') {
            let (first, last) = (Span::read(first)?, Span::read(last)?);
            return Some(Span { last: last.last, length: None, ..first });
        }
        if let Ok(port) = text.parse::<u16>() {
            return Some(Span { first: port.into(), last: port.into(), is_ipv4: false, length: None });
        }
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length.parse().ok()?)),
            None => (text, None),
        };
        let (number, bits, is_ipv4) = match address.parse().ok()? {
            IpAddr::V4(v4) => (u128::from(u32::from(v4)), 32, true),
            IpAddr::V6(v6) => (u128::from(v6), 128, false),
        };
        let length: u8 = length.unwrap_or(bits);
        let rest = hosts(length, bits);
        Some(Span { first: number & !rest, last: number | rest, is_ipv4, length: Some(length) })
    }

    /// The network of this length around it; `None` if that is not larger.
    fn network(&self, length: u8) -> Option<Span> {
        let bits = if self.is_ipv4 { 32 } else { 128 };
        self.length.filter(|own| *own > length)?;
        let rest = hosts(length, bits);
        Some(Span { first: self.first & !rest, last: self.first | rest, length: Some(length), ..*self })
    }

    fn overlaps(&self, other: &Span) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    fn is_single(&self) -> bool {
        self.first == self.last
    }

    fn text(&self, is_address: bool) -> String {
        let one = |number: u128| match u32::try_from(number) {
            _ if !is_address => number.to_string(),
            Ok(number) if self.is_ipv4 => IpAddr::from(number.to_be_bytes()).to_string(),
            _ => IpAddr::from(number.to_be_bytes()).to_string(),
        };
        match self.length {
            _ if self.is_single() => one(self.first),
            Some(length) => format!("{}/{length}", one(self.first)),
            None => format!("{}-{}", one(self.first), one(self.last)),
        }
    }
}

/// The bits of an address that a prefix leaves to its hosts.
fn hosts(length: u8, bits: u8) -> u128 {
    1u128.checked_shl(u32::from(bits.saturating_sub(length))).map_or(u128::MAX, |size| size - 1)
}

impl Lookup {
    /// Whether a verdict can stand beside those that are there.
    fn is_like(&self, verdict: &NftVerdict) -> bool {
        let Some((_, first)) = self.elements.first() else { return true };
        match (first, verdict) {
            (NftVerdict::Port(_), NftVerdict::Port(_))
            | (NftVerdict::Host(_), NftVerdict::Host(_))
            | (NftVerdict::Chain { .. }, NftVerdict::Chain { .. }) => true,
            (first, verdict) => first == verdict,
        }
    }

    /// The chains that it leads to.
    pub(crate) fn chains(&self) -> impl Iterator<Item = &TargetChain> {
        self.elements.iter().filter_map(|(_, verdict)| match verdict {
            NftVerdict::Chain { chain, .. } => Some(chain),
            _ => None,
        })
    }

    /// The set or map of this name, and the rule that asks it.
    pub(crate) fn text(&self, name: &str) -> (String, String) {
        let type_of = |field: &String| match field.as_str() {
            "ip saddr" | "ip daddr" => "ipv4_addr",
            "ip6 saddr" | "ip6 daddr" => "ipv6_addr",
            _ => "inet_service",
        };
        let key_type = self.fields.iter().map(type_of).collect::<Vec<_>>().join(" . ");
        let (kind, value_type) = match self.elements.first() {
            Some((_, NftVerdict::Port(_))) => ("map", " : inet_service"),
            Some((_, NftVerdict::Host(to))) if to.is_ipv4() => ("map", " : ipv4_addr . inet_service"),
            Some((_, NftVerdict::Host(_))) => ("map", " : ipv6_addr . inet_service"),
            Some((_, NftVerdict::Chain { .. })) => ("map", " : verdict"),
            _ => ("set", ""),
        };
        let exact = self.elements.iter().all(|(key, _)| key.iter().all(Span::is_single));
        let flags = if exact { "" } else { " flags interval;" };
        let elements = self.elements.iter().map(|(key, verdict)| self.element(key, verdict));
        let elements = elements.collect::<Vec<_>>().join(",\n\t\t\t");
        let declaration = format!(
            "\t{kind} {name} {{\n\t\ttype {key_type}{value_type};{flags}\n\t\telements = {{\n\t\t\t{elements}\n\t\t}}\n\t}}\n"
        );
        let key = self.fields.join(" . ");
        let common: String = self.common.iter().map(|one| one.text() + " ").collect();
        let rule = match self.elements.first().map(|(_, verdict)| verdict) {
            Some(NftVerdict::Port(_)) => format!("{common}redirect to :{key} map @{name}"),
            Some(NftVerdict::Host(to)) if to.is_ipv4() => format!("{common}dnat ip to {key} map @{name}"),
            Some(NftVerdict::Host(_)) => format!("{common}dnat ip6 to {key} map @{name}"),
            Some(NftVerdict::Chain { .. }) => format!("{common}{key} vmap @{name}"),
            Some(verdict) => format!("{common}{key} @{name} {}", verdict.text()),
            None => String::new(),
        };
        (declaration, rule)
    }

    fn element(&self, key: &[Span], verdict: &NftVerdict) -> String {
        let is_address = |field: &String| field.starts_with("ip");
        let texts = key.iter().zip(&self.fields).map(|(span, field)| span.text(is_address(field)));
        let key = texts.collect::<Vec<_>>().join(" . ");
        match verdict {
            NftVerdict::Port(port) => format!("{key} : {port}"),
            NftVerdict::Host(to) => format!("{key} : {} . {}", to.ip(), to.port()),
            NftVerdict::Chain { .. } => format!("{key} : {}", verdict.text()),
            _ => key,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::address::Family;

    fn entries(rules: &[&str]) -> Vec<String> {
        let chain = |_: &str| None;
        let all = rules.iter().flat_map(|rule| NftRule::translate(rule, Family::V4, &chain).unwrap()).collect();
        let text = |entry: &ChainEntry| match entry {
            ChainEntry::Rule(rule) => rule.text(Family::V4).0,
            ChainEntry::Lookup(lookup) => {
                let (declaration, rule) = lookup.text("m");
                let elements = declaration.split("elements = {").nth(1).unwrap().split('}').next().unwrap();
                let elements: Vec<&str> = elements.split(',').map(str::trim).collect();
                format!("{rule} [{}]", elements.join(", "))
            }
        };
        grouped(all).iter().map(text).collect()
    }

    #[test]
    fn rules_that_differ_in_addresses_and_ports_are_one_lookup() {
        assert_eq!(
            entries(&[
                "-p tcp -d 10.0.0.1 --dport 80 -j REDIRECT --to-ports 1",
                "-p tcp -d 10.0.0.2,10.0.0.3 --dport 80 -j REDIRECT --to-ports 2",
                "-p tcp -d 10.0.0.1 -m multiport --dports 81,82 -j REDIRECT --to-ports 3",
                "-p udp -d 10.0.0.9 --dport 80 -j REDIRECT --to-ports 4",
            ]),
            [
                "meta l4proto tcp redirect to :ip daddr . tcp dport map @m [10.0.0.1 . 80 : 1, 10.0.0.2 . 80 : 2, \
                 10.0.0.3 . 80 : 2, 10.0.0.1 . 81 : 3, 10.0.0.1 . 82 : 3]",
                "meta l4proto udp ip daddr 10.0.0.9 udp dport 80 redirect to :4",
            ]
        );
        assert_eq!(
            entries(&[
                "-p tcp -s 10.0.0.1 -j RETURN",
                "-p tcp -s 10.1.0.0/16 -j RETURN",
                "-p tcp -s 10.2.0.7 -j RETURN"
            ]),
            ["meta l4proto tcp ip saddr @m return [10.0.0.1, 10.1.0.0/16, 10.2.0.7]"]
        );
        assert_eq!(
            entries(&[
                "-p tcp --dport 1 -j DNAT --to-destination 10.3.0.3:80",
                "-p tcp --dport 2 -j DNAT --to-destination 10.3.0.3:81",
                "-p tcp --dport 3 -j DNAT --to-destination 10.3.0.4:80",
            ]),
            ["meta l4proto tcp dnat ip to tcp dport map @m [1 : 10.3.0.3 . 80, 2 : 10.3.0.3 . 81, 3 : 10.3.0.4 . 80]"]
        );
        assert_eq!(
            entries(&[
                "-p tcp --dport 1 -j TPROXY --on-port 7 --tproxy-mark 0x1/0x1",
                "-p tcp --dport 2 -j TPROXY --on-port 7 --tproxy-mark 0x1/0x1",
                "-p tcp --dport 3:5 -j TPROXY --on-port 8 --tproxy-mark 0x1/0x1",
            ]),
            ["meta l4proto tcp tcp dport vmap @m [1 : goto to4.7, 2 : goto to4.7, 3-5 : goto to4.8]"]
        );
        assert_eq!(
            entries(&[
                "-p tcp --dport 1 -j CT --notrack",
                "-p tcp --dport 2 -j CT --notrack",
                "-p tcp --dport 3 -j CT --notrack"
            ]),
            ["meta l4proto tcp tcp dport @m notrack accept [1, 2, 3]"]
        );
    }

    #[test]
    fn the_first_rule_that_matches_still_decides() {
        // What another one holds already is left out. What holds more, or other things, begins anew.
        assert_eq!(
            entries(&[
                "-p tcp --dport 1:10 -j REDIRECT --to-ports 1",
                "-p tcp --dport 5 -j REDIRECT --to-ports 2",
                "-p tcp --dport 20 -j REDIRECT --to-ports 3",
                "-p tcp --dport 8:15 -j REDIRECT --to-ports 4",
                "-p tcp -d 10.0.0.0/8 -j REDIRECT --to-ports 5",
                "-p tcp -d 10.1.0.0/16 -j REDIRECT --to-ports 6",
                "-p tcp -d 0.0.0.0/0 -j REDIRECT --to-ports 7",
            ]),
            [
                "meta l4proto tcp redirect to :tcp dport map @m [1-10 : 1, 20 : 3]",
                "meta l4proto tcp tcp dport 8-15 redirect to :4",
                "meta l4proto tcp ip daddr 10.0.0.0/8 redirect to :5",
                "meta l4proto tcp ip daddr 10.1.0.0/16 redirect to :6",
                "meta l4proto tcp redirect to :7",
            ]
        );
    }
}
