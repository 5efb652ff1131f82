//! Host names whose addresses are known without a name server: those of hosts(5), this host's own, and `localhost`. A
//! proxy on this host resolves them to the same addresses.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use crate::protocol::hostname::is_host_name;

/// Names of this host, beside those that end in `.localhost` (RFC 6761, 6.3): of the hosts(5) of distributions, of
/// nss-myhostname(8), and of systemd-resolved(8), which has them for the addresses where it listens.
const LOCAL: &[&str] = &[
    "localhost",
    "localhost.localdomain",
    "localhost4",
    "localhost4.localdomain4",
    "localhost6",
    "localhost6.localdomain6",
    "ip6-localhost",
    "ip6-loopback",
    "_outbound",
    "_localdnsstub",
    "_localdnsproxy",
];
const BELOW_LOCAL: &[&str] = &[".localhost", ".localhost.localdomain"];

/// What they stand for.
const LOOPBACK: &[IpAddr] = &[IpAddr::V4(Ipv4Addr::LOCALHOST)];

/// The longest name with a final dot.
const LONGEST: usize = 254;

/// The names, in lower case and without a final dot, with their addresses.
#[derive(Debug, Clone, Default)]
pub struct LocalNames(HashMap<Box<str>, Vec<IpAddr>>);

impl LocalNames {
    /// The names in a text of the form of hosts(5), and those of this host.
    pub fn read(hosts: &str, own: &str) -> LocalNames {
        let mut names = LocalNames::default();
        for line in hosts.lines() {
            let mut words = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
            // An address with a zone, such as fe80::1%eth0, is one of another form too.
            let address = words.next().and_then(|word| word.split('%').next()?.parse().ok());
            address.into_iter().for_each(|address| words.by_ref().for_each(|name| names.add(name, address)));
        }
        let short = own.split('.').next().unwrap_or_default();
        // The last one is known to daemons of multicast DNS (RFC 6762, 3).
        for name in [own, short, &format!("{short}.local")] {
            names.add(name, IpAddr::V4(Ipv4Addr::LOCALHOST));
        }
        names
    }

    fn add(&mut self, name: &str, address: IpAddr) {
        if is_host_name(name) {
            let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
            self.0.entry(name.into()).or_default().push(address);
        }
    }

    /// The addresses of such a name; `None` if only a name server may know it.
    pub fn addresses(&self, name: &str) -> Option<&[IpAddr]> {
        let name = name.strip_suffix('.').unwrap_or(name);
        let mut room = [0; LONGEST];
        let lower = room.get_mut(..name.len())?;
        lower.iter_mut().zip(name.bytes()).for_each(|(place, byte)| *place = byte.to_ascii_lowercase());
        let name = str::from_utf8(lower).ok()?;
        if LOCAL.contains(&name) || BELOW_LOCAL.iter().any(|end| name.ends_with(end)) {
            return Some(LOOPBACK);
        }
        self.0.get(name).map(Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> LocalNames {
        let hosts = "127.0.0.1\tlocalhost\n\
                     127.0.1.1 Gate.Example.com gate-alias # the gateway\n\
                     # 10.0.0.1 commented\n\
                     \n\
                     10.0.0.2 moose moose.example.com. #cow\n\
                     fd00::2 moose\n\
                     fe80::1%eth0 zone\n\
                     not-an-address nobody\n\
                     10.0.0.3\n\
                     0.0.0.0 ads.example 10.0.0.9\r\n";
        LocalNames::read(hosts, "gw.example.net")
    }

    #[test]
    fn names_of_this_host_are_known_however_they_are_written() {
        let names = names();
        for name in [
            "localhost",
            "LocalHost",
            "localhost.",
            "a.localhost",
            "a.b.LOCALHOST.",
            "localhost.localdomain",
            "ip6-localhost",
            "ip6-loopback",
            "localhost6",
            "gw.example.net",
            "GW",
            "gw.",
            "GW.local.",
            "_localdnsstub",
            "_LocalDNSproxy.",
        ] {
            assert_eq!(names.addresses(name), Some(LOOPBACK), "{name}");
        }
    }

    #[test]
    fn names_of_hosts_have_all_of_its_addresses() {
        let names = names();
        let of = |name: &str| -> Option<String> {
            Some(names.addresses(name)?.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" "))
        };
        let table = [
            ("gate.example.com", Some("127.0.1.1")),
            ("gate-alias", Some("127.0.1.1")),
            ("MOOSE", Some("10.0.0.2 fd00::2")),
            ("moose.example.com", Some("10.0.0.2")),
            ("zone", Some("fe80::1")),
            ("ads.example", Some("0.0.0.0")),
            ("nobody", None),
            ("commented", None),
            ("cow", None),
            ("gate", None),
            ("gate.local", None),
            ("gw.example.net.local", None),
            ("notlocalhost", None),
            ("localhost.example", None),
            ("", None),
            (".", None),
        ];
        for (name, wanted) in table {
            assert_eq!(of(name).as_deref(), wanted, "{name}");
        }
        assert_eq!(of(&"a".repeat(300)), None);
    }
}
