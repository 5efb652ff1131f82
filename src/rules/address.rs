//! Address families, and the values of `-s` and `-d` in a MATCH.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::error::Error;
use crate::protocol::hostname::is_host_name;

/// An address family. Each has its own tables, tools and rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// Both, in the order in which their rules are installed and printed.
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];

    pub fn of(address: &IpAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

/// The value of one `-s` or `-d`: a list separated by commas, perhaps negated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MatchAddresses {
    /// With `!` before the option.
    pub negated: bool,
    list: Vec<Address>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Address {
    Network(Family, String),
    Name(String),
}

const WANTED: &str = "addresses such as 10.1.2.3, 10.0.0.0/8 or fd00::/8, or host names, separated by commas";

impl MatchAddresses {
    /// Errors name `option`, the tproxy option whose value the MATCH is.
    pub(crate) fn parse(option: &str, value: &str, negated: bool) -> Result<MatchAddresses, Error> {
        let list = value
            .split(',')
            .map(|item| Address::parse(item).ok_or_else(|| Error::value(option, item, WANTED)))
            .collect::<Result<Vec<_>, _>>()?;
        if negated && list.len() > 1 {
            return Err(Error::value(option, format!("! {value}"), "a single address after '!' (as in iptables)"));
        }
        Ok(MatchAddresses { negated, list })
    }

    /// The host names, as typed.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.list.iter().filter_map(|address| match address {
            Address::Name(name) => Some(name.as_str()),
            Address::Network(..) => None,
        })
    }

    /// Whether packets of this family may match. A name may match both until it is resolved.
    pub(crate) fn may_be(&self, family: Family) -> bool {
        self.list.iter().any(|address| match address {
            Address::Network(of, _) => *of == family,
            Address::Name(_) => true,
        })
    }

    /// The addresses of this family, each once. Those of a name are sorted: an answer in another order (round robin) must
    /// not look like another rule.
    pub(crate) fn addresses(&self, family: Family, lookup: &dyn Fn(&str) -> Vec<IpAddr>) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        for address in &self.list {
            match address {
                Address::Network(of, text) if *of == family => found.push(text.clone()),
                Address::Network(..) => {}
                Address::Name(name) => {
                    let mut addresses = lookup(name);
                    addresses.sort_unstable();
                    found.extend(addresses.iter().filter(|a| Family::of(a) == family).map(IpAddr::to_string));
                }
            }
        }
        let mut once: Vec<String> = Vec::new();
        for address in found {
            if !once.contains(&address) {
                once.push(address);
            }
        }
        once
    }
}

impl Address {
    fn parse(text: &str) -> Option<Address> {
        let (address, mask) = match text.split_once('/') {
            Some((address, mask)) => (address, Some(mask)),
            None => (text, None),
        };
        let network = |family| Some(Address::Network(family, text.to_string()));
        if address.parse::<Ipv4Addr>().is_ok() {
            return if mask.is_none_or(|m| is_mask::<Ipv4Addr>(m, 32)) { network(Family::V4) } else { None };
        }
        if address.parse::<Ipv6Addr>().is_ok() {
            return if mask.is_none_or(|m| is_mask::<Ipv6Addr>(m, 128)) { network(Family::V6) } else { None };
        }
        (mask.is_none() && is_host_name(text)).then(|| Address::Name(text.to_string()))
    }
}

/// A mask is a prefix length, or written like an address.
fn is_mask<A: std::str::FromStr>(mask: &str, longest: u8) -> bool {
    let digits = !mask.is_empty() && mask.bytes().all(|b| b.is_ascii_digit());
    digits && mask.parse::<u8>().is_ok_and(|length| length <= longest) || mask.parse::<A>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str) -> Vec<IpAddr> {
        match name {
            "moose" => vec!["10.0.0.9".parse().unwrap(), "10.0.0.2".parse().unwrap(), "fd00::1".parse().unwrap()],
            _ => Vec::new(),
        }
    }

    #[test]
    fn addresses_networks_masks_and_names_are_taken() {
        let table: &[(&str, bool, bool)] = &[
            ("10.1.2.3", true, false),
            ("10.0.0.0/8", true, false),
            ("10.0.0.0/255.0.0.0", true, false),
            ("0.0.0.0/0", true, false),
            ("::/0", false, true),
            ("fd00::/8", false, true),
            ("fe80::/ffc0::", false, true),
            ("moose", true, true),
            ("cow.example.com.", true, true),
            ("3com.example", true, true),
            ("10.1.2.3,fd00::1", true, true),
        ];
        for (text, v4, v6) in table {
            let peers = MatchAddresses::parse("-R", text, false).unwrap();
            assert_eq!((peers.may_be(Family::V4), peers.may_be(Family::V6)), (*v4, *v6), "{text}");
        }
    }

    #[test]
    fn what_is_neither_address_nor_name_is_refused() {
        for text in [
            "",
            ",",
            "10",
            "10.1",
            "10/8",
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "::/129",
            "fe80::1%eth0",
            "256.1.1.1",
            "moose/24",
            "a,,b",
            "-j",
            "a b",
            "[::1]",
            "!10.0.0.1",
            "a..b",
        ] {
            let error = MatchAddresses::parse("--redirect", text, false).unwrap_err();
            assert_eq!(error.exit_status(), 64, "{text}");
            assert!(error.to_string().starts_with("--redirect: invalid value '"), "{error}");
        }
    }

    #[test]
    fn a_list_cannot_be_negated() {
        assert!(MatchAddresses::parse("-R", "10.0.0.1", true).is_ok());
        let error = MatchAddresses::parse("-R", "10.0.0.1,10.0.0.2", true).unwrap_err();
        assert_eq!(
            error.to_string(),
            "-R: invalid value '! 10.0.0.1,10.0.0.2': expected a single address after '!' (as in iptables)"
        );
    }

    #[test]
    fn names_become_the_addresses_of_the_family_sorted_and_once() {
        let peers = MatchAddresses::parse("-R", "10.0.0.2,moose,fd00::/8", false).unwrap();
        assert_eq!(peers.names().collect::<Vec<_>>(), ["moose"]);
        assert_eq!(peers.addresses(Family::V4, &lookup), ["10.0.0.2", "10.0.0.9"]);
        assert_eq!(peers.addresses(Family::V6, &lookup), ["fd00::1", "fd00::/8"]);
    }
}
