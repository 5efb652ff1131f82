//! How often the words of a rule match, as far as that can be said without seeing packets.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::rules::groups::{OptionWords, groups};
use crate::rules::policy_routing::{Mark, found_mark};
use crate::sys::services;

/// The packets of connections that may come. Their clients may be any hosts.
#[derive(Debug, Clone)]
pub(crate) struct ExpectedPackets<'a> {
    pub protocol: &'a str,
    /// Where they go, if that is known.
    pub to: Option<IpAddr>,
    pub port: Option<u16>,
    /// The bits of the mark that are known.
    pub mark: Option<Mark>,
    /// The interfaces on which they may come in, as `-i` takes them; empty if on any.
    pub interfaces: Vec<&'a str>,
    /// Whether their destination is one of this host's addresses.
    pub to_this_host: bool,
    /// What connection tracking says of them.
    pub states: &'a [&'a str],
}

/// How often a rule matches such packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Matches {
    Never,
    /// It has a condition that is not understood.
    Unknown,
    /// That depends on the client or on the interface.
    Sometimes,
    Always,
}

/// Modules that have no condition without an option.
const PLAIN_MODULES: &[&str] = &["tcp", "udp", "multiport", "comment", "conntrack", "state", "addrtype", "mark"];

impl ExpectedPackets<'_> {
    /// How often all conditions in the words hold.
    pub(crate) fn matches<W: AsRef<str>>(&self, words: &[W]) -> Matches {
        let groups = groups(words);
        let multiport = groups.iter().any(|group| group.option == "-m" && group.values == ["multiport"]);
        groups.iter().map(|group| self.condition(group, multiport)).min().unwrap_or(Matches::Always)
    }

    fn is_new(&self) -> bool {
        ["NEW", "UNTRACKED"].iter().any(|state| self.states.contains(state))
    }

    fn condition(&self, group: &OptionWords, multiport: bool) -> Matches {
        let value = group.values.first().copied().unwrap_or_default();
        let holds = match group.option {
            "-m" if PLAIN_MODULES.contains(&value) => Some(true),
            "--comment" => Some(true),
            "--syn" => Some(self.is_new()),
            "-p" => Some(["all", "0", self.protocol, number(self.protocol)].contains(&value)),
            "-d" => self.to.and_then(|to| holds_address(value, to)),
            "-s" => return Matches::Sometimes,
            "-i" => return self.comes_in_on(value, group.negated),
            "--dport" | "--destination-port" if !multiport => self.port.and_then(|port| holds_port(value, port)),
            "--dport" | "--dports" | "--destination-port" | "--destination-ports" => {
                self.port.and_then(|port| holds_port(value, port))
            }
            "--dst-type" if self.to_this_host => Some(value.split(',').any(|kind| kind == "LOCAL")),
            "--ctstate" | "--state" => Some(value.split(',').any(|state| self.states.contains(&state))),
            "--mark" => self.mark.and_then(|mark| mark.is_within(found_mark(value)?)),
            // What iptables-save makes of --syn.
            "--tcp-flags" if group.values == ["FIN,SYN,RST,ACK", "SYN"] => Some(self.is_new()),
            _ => None,
        };
        match holds {
            None => Matches::Unknown,
            Some(holds) if holds != group.negated => Matches::Always,
            Some(_) => Matches::Never,
        }
    }

    fn comes_in_on(&self, name: &str, negated: bool) -> Matches {
        let within = |one: &&str| is_interface(name, one) || is_interface(one, name);
        if name == "lo" {
            return if negated { Matches::Always } else { Matches::Never };
        }
        match (self.interfaces.is_empty(), self.interfaces.iter().any(within)) {
            (false, false) if negated => Matches::Always,
            (false, false) => Matches::Never,
            (true, _) | (false, true) => Matches::Sometimes,
        }
    }
}

fn number(protocol: &str) -> &'static str {
    if protocol == "udp" { "17" } else { "6" }
}

/// Whether `-i PATTERN` takes this interface.
pub(crate) fn is_interface(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('+').map_or(pattern == name, |beginning| name.starts_with(beginning))
}

/// Whether a list of addresses and networks holds this one; `None` if it cannot be read.
pub(crate) fn holds_address(list: &str, to: IpAddr) -> Option<bool> {
    let network = |text: &str| -> Option<IpNet> {
        let Some((address, mask)) = text.split_once('/') else { return Some(text.parse::<IpAddr>().ok()?.into()) };
        let address: IpAddr = address.parse().ok()?;
        match mask.parse() {
            Ok(length) => IpNet::new(address, length).ok(),
            Err(_) => IpNet::with_netmask(address, mask.parse().ok()?).ok(),
        }
    };
    let networks: Option<Vec<IpNet>> = list.split(',').map(network).collect();
    networks.map(|networks| networks.iter().any(|network| network.contains(&to)))
}

/// Whether a list of ports, names of services and ranges holds this one; `None` if it cannot be read.
fn holds_port(list: &str, port: u16) -> Option<bool> {
    let number = |text: &str| text.parse().ok().or_else(|| services::tcp_port(text));
    let range = |text: &str| {
        let (first, last) = text.split_once(':').unwrap_or((text, text));
        let first = if first.is_empty() { 0 } else { number(first)? };
        let last = if last.is_empty() { u16::MAX } else { number(last)? };
        Some((first..=last).contains(&port))
    };
    let ranges: Option<Vec<bool>> = list.split(',').map(range).collect();
    ranges.map(|ranges| ranges.contains(&true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Matches::{Always, Never, Sometimes, Unknown};

    #[test]
    fn a_rule_is_read_as_the_kernel_would() {
        let expected = ExpectedPackets {
            protocol: "tcp",
            to: Some([10, 1, 0, 1].into()),
            port: Some(22),
            mark: Some(Mark { value: 0x10, mask: 0x30 }),
            interfaces: vec!["eth1", "ppp+"],
            to_this_host: true,
            states: &["NEW", "DNAT"],
        };
        for (text, wanted) in [
            ("", Always),
            ("-p tcp", Always),
            ("-p 6", Always),
            ("-p udp", Never),
            ("! -p udp", Always),
            ("-p tcp -m tcp --dport 22", Always),
            ("-p tcp --dport ssh", Always),
            ("-p tcp --dport=20:25", Always),
            ("-p tcp --dport :21", Never),
            ("-p tcp ! --dport 22", Never),
            ("-p tcp ! --dport 80", Always),
            ("-p tcp -m multiport --dports 80,20:30", Always),
            ("-p tcp -m multiport ! --dports 80,22", Never),
            ("-d 10.1.0.1", Always),
            ("-d 10.0.0.0/8", Always),
            ("-d 10.1.0.0/255.255.255.0", Always),
            ("-d 10.2.0.0/16,10.3.0.1", Never),
            ("! -d 10.0.0.0/8", Never),
            ("! -d 10.2.0.0/16", Always),
            ("-s 10.9.0.0/16", Sometimes),
            ("-i eth1", Sometimes),
            ("-i ppp0", Sometimes),
            ("-i eth+", Sometimes),
            ("-i eth2", Never),
            ("! -i eth2", Always),
            ("-i lo", Never),
            ("! -i lo", Always),
            ("-m addrtype --dst-type LOCAL", Always),
            ("-m addrtype ! --dst-type LOCAL", Never),
            ("-m conntrack --ctstate RELATED,ESTABLISHED", Never),
            ("-m conntrack --ctstate NEW", Always),
            ("-m conntrack ! --ctstate INVALID", Always),
            ("-m state --state NEW,ESTABLISHED", Always),
            ("-m conntrack --ctstate DNAT", Always),
            ("-m socket", Unknown),
            ("-m mark --mark 0x10/0x30", Always),
            ("-m mark --mark 0x10/0x10", Always),
            ("-m mark --mark 0x30/0x30", Never),
            ("-m mark ! --mark 0x10/0x10", Never),
            ("-m mark --mark 0x10", Unknown),
            ("-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN", Always),
            ("-m limit --limit 1/s", Unknown),
            ("-m set --match-set x src -s 10.0.0.1", Unknown),
            ("-m set --match-set x src -p udp", Never),
        ] {
            let words: Vec<&str> = text.split_ascii_whitespace().collect();
            assert_eq!(expected.matches(&words), wanted, "{text}");
        }
        let anywhere = ExpectedPackets { interfaces: Vec::new(), to: None, port: None, ..expected };
        for (text, wanted) in [
            ("-i eth1", Sometimes),
            ("! -i eth1", Sometimes),
            ("-i lo", Never),
            ("-d 10.1.0.1", Unknown),
            ("--dport 22", Unknown),
        ] {
            let words: Vec<&str> = text.split_ascii_whitespace().collect();
            assert_eq!(anywhere.matches(&words), wanted, "{text}");
        }
    }
}
