//! Destinations that clients are not relayed to: what a client cannot reach by itself it must not reach because the
//! relay is nearer to it.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use crate::relay::close::DenyReason;
use crate::sys::clock::Tick;

/// Whether a client on this host is exempt: it can reach the destination by itself.
pub(crate) fn spares_local_clients(reason: DenyReason) -> bool {
    matches!(reason, DenyReason::Loopback | DenyReason::LinkLocal | DenyReason::Own)
}

/// Why a destination is forbidden, as far as the address alone decides that.
pub(crate) fn deny_reason(to: IpAddr, deny: &[IpNet]) -> Option<DenyReason> {
    let to = to.to_canonical();
    if deny.iter().any(|network| network.contains(&to)) {
        return Some(DenyReason::Denied);
    }
    match to {
        IpAddr::V4(v4) if v4.octets()[0] == 0 || v4.is_multicast() || v4.is_broadcast() => Some(DenyReason::NoHost),
        IpAddr::V6(v6) if v6.is_unspecified() || v6.is_multicast() => Some(DenyReason::NoHost),
        IpAddr::V4(v4) if v4.is_link_local() => Some(DenyReason::LinkLocal),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some(DenyReason::LinkLocal),
        to if to.is_loopback() => Some(DenyReason::Loopback),
        _ => None,
    }
}

/// A cache of addresses that are not this host's. A look at the routing table costs a tenth of a short connection, and
/// most connections go where others went a moment ago.
#[derive(Debug)]
pub(crate) struct Foreign {
    /// Each with its time of expiry, at the place that its hash says.
    found: Box<[(IpAddr, Tick)]>,
    hasher: RandomState,
}

/// How many of them are remembered, and for how many ticks: this host may get an address at any time.
const REMEMBERED: usize = 256;
const BELIEVED: Tick = 10;

impl Foreign {
    pub(crate) fn new() -> Foreign {
        let nothing = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        Foreign { found: vec![nothing; REMEMBERED].into(), hasher: RandomState::new() }
    }

    fn place(&self, ip: IpAddr) -> usize {
        self.hasher.hash_one(ip) as usize % REMEMBERED
    }

    /// Whether this was found to be another host's address not long ago.
    pub(crate) fn holds(&self, ip: IpAddr, now: Tick) -> bool {
        let (found, until) = self.found[self.place(ip)];
        found == ip && now < until
    }

    /// This is another host's address.
    pub(crate) fn learn(&mut self, ip: IpAddr, now: Tick) {
        self.found[self.place(ip)] = (ip, now.saturating_add(BELIEVED));
    }
}

impl Default for Foreign {
    fn default() -> Foreign {
        Foreign::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_is_believed_for_a_while_and_of_that_address_only() {
        let mut foreign = Foreign::new();
        let [a, b] = ["10.0.0.1", "10.0.0.2"].map(|text| text.parse().unwrap());
        assert!(!foreign.holds(a, 0));
        foreign.learn(a, 5);
        assert!(foreign.holds(a, 5) && foreign.holds(a, 4 + BELIEVED));
        assert!(!foreign.holds(a, 5 + BELIEVED) && !foreign.holds(b, 5));
        for last in 0..=u32::from(u16::MAX) {
            foreign.learn(Ipv4Addr::from(last).into(), 6);
        }
        assert!(!foreign.holds(a, 6), "the latest are remembered");
    }

    fn of(to: &str) -> Option<DenyReason> {
        deny_reason(to.parse().unwrap(), &["10.9.0.0/16".parse().unwrap(), "2001:db8::/32".parse().unwrap()])
    }

    #[test]
    fn an_address_is_judged_by_what_it_means_however_it_is_written() {
        let cases = [
            (DenyReason::Loopback, &["127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1", "::ffff:7f00:1"][..]),
            (DenyReason::NoHost, &["0.0.0.0", "0.1.2.3", "::", "::ffff:0.0.0.0", "255.255.255.255"]),
            (DenyReason::NoHost, &["224.0.0.1", "239.255.255.255", "ff02::1", "::ffff:224.0.0.1"]),
            (DenyReason::LinkLocal, &["169.254.169.254", "fe80::1", "febf::1", "::ffff:169.254.0.1"]),
            (DenyReason::Denied, &["10.9.0.0", "10.9.255.255", "::ffff:10.9.1.1", "2001:db8:ffff::1"]),
        ];
        for (wanted, addresses) in cases {
            for address in addresses {
                assert_eq!(of(address), Some(wanted), "{address}");
            }
        }
        for address in ["10.8.255.255", "10.10.0.0", "128.0.0.1", "126.255.255.255", "192.168.1.255", "fec0::1", "::2"]
        {
            assert_eq!(of(address), None, "{address}");
        }
        assert_eq!(of("2001:db7::1"), None);
    }

    #[test]
    fn what_the_administrator_denies_counts_for_everybody() {
        assert!(!spares_local_clients(DenyReason::Denied) && !spares_local_clients(DenyReason::NoHost));
        assert!(spares_local_clients(DenyReason::Own));
    }
}
