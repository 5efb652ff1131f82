//! The one rule for host names: those of options and firewall matches, of a `Host` header, a URL and a ClientHello.

use std::fmt;
use std::net::IpAddr;

/// The longest name without a final dot, and the longest label (RFC 1035, 2.3.4).
const LONGEST_NAME: usize = 253;
const LONGEST_LABEL: usize = 63;

/// Checks a host name against RFC 1123, 2.1. Two things are in use although the RFC forbids them, and resolvers take
/// them: an underscore, and a hyphen at the end of a label.
///
/// A name whose last label is a number is refused. Some resolvers read it as an address: `10.1` and `0x7f000001` are
/// forms that inet_aton(3) takes.
pub(crate) fn is_host_name(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    name.len() <= LONGEST_NAME && name.split('.').all(is_label) && !name.rsplit('.').next().is_some_and(is_number)
}

fn is_label(label: &str) -> bool {
    let plain = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    (1..=LONGEST_LABEL).contains(&label.len()) && plain && !label.starts_with('-')
}

fn is_number(label: &str) -> bool {
    match label.strip_prefix("0x").or_else(|| label.strip_prefix("0X")) {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => label.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

/// A host as the user wrote it: a name, or an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostName {
    text: String,
    literal: Option<IpAddr>,
}

impl HostName {
    /// Reads a name or an address. IPv6 may stand in brackets, which are dropped. IPv4 that is written as IPv6
    /// (`::ffff:10.0.0.1`) is IPv4.
    pub(crate) fn parse(text: &str) -> Option<HostName> {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let literal: Option<IpAddr> = match bare {
            Some(bare) => Some(IpAddr::V6(bare.parse().ok()?)),
            None => text.parse().ok(),
        };
        let literal = literal.map(|ip| ip.to_canonical());
        let good = literal.is_some() || is_host_name(text);
        good.then(|| HostName { text: bare.unwrap_or(text).to_owned(), literal })
    }

    /// The name, or the address without brackets.
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// The address, if this is not a name.
    pub(crate) fn literal(&self) -> Option<IpAddr> {
        self.literal
    }

    /// The addresses of this host. Only a name is looked up.
    pub(crate) fn addresses(&self, look_up: impl FnOnce(&str) -> Vec<IpAddr>) -> Vec<IpAddr> {
        self.literal.map_or_else(|| look_up(&self.text), |ip| vec![ip])
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_resolvers_take_are_names() {
        let label = "l".repeat(63);
        let longest = format!("{label}.{label}.{label}.{}", "l".repeat(61));
        assert_eq!(longest.len(), 253);
        let dotted = format!("{longest}.");
        let names = [
            "moose",
            "Cow.Example.COM",
            "cow.example.",
            "_dmarc.a--b.x1",
            "a_b",
            "cow-.com",
            "3com.1.a",
            "0xyz",
            "1-2",
        ];
        for text in names.into_iter().chain([longest.as_str(), &dotted]) {
            assert!(is_host_name(text), "{text:?}");
            let host = HostName::parse(text).unwrap();
            assert_eq!((host.as_str(), host.literal()), (text, None));
            assert_eq!(host.addresses(|_| Vec::new()), [] as [IpAddr; 0]);
        }
    }

    #[test]
    fn what_no_resolver_should_be_asked_is_no_name() {
        let label = "l".repeat(64);
        let long = ["abcdefg."; 32].concat() + "a";
        let wrong = [
            "",
            ".",
            "..",
            ".cow",
            "a..b",
            "cow..",
            "-cow",
            "cow.-com",
            "a b",
            " cow",
            "k\u{fc}he",
            "a\0b",
            "*.cow",
            "a/b",
            "a:1",
            "10",
            "10.1",
            "10.0.0.1.",
            "256.1.1.1",
            "0x7f000001",
            "0X7F.0x1",
            "cow.08",
            "cow.0x",
            "[moose]",
            "[]",
            "[10.0.0.1]",
            "[fd00::1",
            "fd00::1%eth0",
            &label,
            &long,
        ];
        for text in wrong {
            assert!(!is_host_name(text), "{text:?}");
            assert_eq!(HostName::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn an_address_is_not_looked_up() {
        for (text, shown) in [
            ("10.0.0.1", "10.0.0.1"),
            ("fd00::1", "fd00::1"),
            ("[fd00::1]", "fd00::1"),
            ("::ffff:10.0.0.1", "::ffff:10.0.0.1"),
        ] {
            let host = HostName::parse(text).unwrap();
            assert_eq!(host.to_string(), shown);
            assert!(!is_host_name(text));
            let address = shown.parse::<IpAddr>().unwrap().to_canonical();
            assert_eq!(host.addresses(|_| panic!("looked up")), [address]);
        }
    }
}
