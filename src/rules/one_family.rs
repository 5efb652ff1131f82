//! Conditions of a MATCH that only one address family knows, beside `-s` and `-d`. The other family gets no rule of it:
//! iptables would refuse one.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::rules::address::Family;
use crate::rules::groups::{OptionWords, groups};

/// Modules that only one of iptables and ip6tables has (iptables-extensions(8)).
const MODULES: [(Family, &[&str]); 2] = [
    (Family::V4, &["ttl", "realm"]),
    (Family::V6, &["dst", "eui64", "frag", "hbh", "hl", "ipv6header", "mh", "rt", "srh"]),
];

/// Options of modules whose value is an address, a network, a mask or a range of addresses.
const WITH_ADDRESSES: &[&str] =
    &["src-range", "dst-range", "ctorigsrc", "ctorigdst", "ctreplsrc", "ctrepldst", "tunnel-src", "tunnel-dst", "mask"];

/// The families in which a condition is known that the words name, of [`Family::BOTH`].
pub(crate) fn families(words: &[String]) -> Vec<Family> {
    let mut families = Family::BOTH.to_vec();
    for only in groups(words).iter().filter_map(family_of) {
        families.retain(|family| *family == only);
    }
    families
}

/// The sets of ipset(8) that the words name. Only the kernel knows their families.
pub(crate) fn sets(words: &[String]) -> impl Iterator<Item = &str> {
    groups(words)
        .into_iter()
        .filter(|group| is_option(group, "match-set"))
        .filter_map(|group| group.values.first().copied())
}

fn family_of(group: &OptionWords) -> Option<Family> {
    match (group.option, group.values.first()) {
        // Fragments (ip6tables has a module for them).
        ("-f" | "--fragment", _) => Some(Family::V4),
        ("-m" | "--match", Some(module)) => {
            MODULES.iter().find(|(_, modules)| modules.contains(module)).map(|(family, _)| *family)
        }
        (_, Some(value)) if WITH_ADDRESSES.iter().any(|option| is_option(group, option)) => family_of_address(value),
        _ => None,
    }
}

/// getopt_long(3) takes every abbreviation of a long option. One that several begin with is left to iptables to refuse.
fn is_option(group: &OptionWords, whole: &str) -> bool {
    group.option.strip_prefix("--").is_some_and(|name| name.len() > 2 && whole.starts_with(name))
}

/// The family of `ADDRESS`, `ADDRESS/MASK` or `ADDRESS-ADDRESS`.
fn family_of_address(text: &str) -> Option<Family> {
    let first = text.split(['/', '-']).next()?;
    if first.parse::<Ipv4Addr>().is_ok() {
        Some(Family::V4)
    } else {
        first.parse::<Ipv6Addr>().ok().map(|_| Family::V6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn a_condition_of_one_family_leaves_the_other_out() {
        let (v4, v6, both) = (vec![Family::V4], vec![Family::V6], Family::BOTH.to_vec());
        for (text, wanted) in [
            ("-m iprange --src-range 10.0.0.1-10.0.0.9", &v4),
            ("-m iprange ! --dst-range 10.0.0.1", &v4),
            ("-m iprange --dst-range fd00::1-fd00::9", &v6),
            ("-m iprange --src-r=fd00::1-fd00::9", &v6),
            ("-m iprange --src-range 10.0.0.1-10.0.0.9 --dst-range fd00::1-fd00::9", &vec![]),
            ("-m conntrack --ctorigdst 10.0.0.0/8", &v4),
            ("-m conntrack --ctrepldst fd00::/8", &v6),
            ("-m recent --name x --rcheck --mask 255.255.255.0", &v4),
            ("-m recent --name x --rcheck --mask ffff:ffff::", &v6),
            ("-m ttl --ttl-gt 3", &v4),
            ("-m hl --hl-gt 3", &v6),
            ("-f", &v4),
            ("--dport 80", &both),
            ("-m comment --comment 10.0.0.1", &both),
            ("-m recent --name 10.0.0.1 --rcheck", &both),
            ("-m string --algo bm --string fd00::1", &both),
            ("-m conntrack --ctstate NEW", &both),
            ("-m set --match-set inside src", &both),
        ] {
            assert_eq!(families(&words(text)), *wanted, "{text}");
        }
    }

    #[test]
    fn sets_are_found_by_name() {
        let text = words("-m set --match-set inside src ! --match-set=outside dst -m comment --comment match-set");
        assert_eq!(sets(&text).collect::<Vec<_>>(), ["inside", "outside"]);
    }
}
