//! Destinations that clients are not relayed to: what a client cannot reach by itself it must not reach because the
//! relay is nearer to it.

use std::iter;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::relay::close::DenyReason;
use crate::traffic::embedded::embedded;

/// Whether a client on this host is exempt: it can reach the destination by itself.
pub(crate) fn spares_local_clients(reason: DenyReason) -> bool {
    matches!(reason, DenyReason::Loopback | DenyReason::LinkLocal | DenyReason::Own)
}

/// An address, and the IPv4 addresses that it stands for: it may be reached as any of them.
pub(crate) fn forms(address: IpAddr) -> impl Iterator<Item = IpAddr> {
    let address = address.to_canonical();
    let v4 = match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) => Some(embedded(v6)),
    };
    iter::once(address).chain(v4.into_iter().flatten().map(IpAddr::V4))
}

/// To whom a set of destinations is forbidden, in which each may be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Forbidden {
    pub to_all: bool,
    /// To clients that are not on this host.
    pub to_others: bool,
}

impl Forbidden {
    /// One of the destinations is forbidden for this reason.
    pub(crate) fn add(&mut self, reason: DenyReason) {
        match spares_local_clients(reason) {
            true => self.to_others = true,
            false => self.to_all = true,
        }
    }
}

/// Whether an address, or one that it stands for, is in one of these networks.
pub(crate) fn is_denied(to: IpAddr, deny: &[IpNet]) -> bool {
    forms(to).any(|form| deny.iter().any(|network| network.contains(&form)))
}

/// Why a destination is forbidden, as far as the address alone decides that.
pub(crate) fn deny_reason(to: IpAddr, deny: &[IpNet]) -> Option<DenyReason> {
    if is_denied(to, deny) {
        return Some(DenyReason::Denied);
    }
    forms(to).find_map(deny_reason_of_kind)
}

/// Why an address of this kind is forbidden.
fn deny_reason_of_kind(to: IpAddr) -> Option<DenyReason> {
    match to {
        IpAddr::V4(v4) if v4.octets()[0] == 0 || v4.is_multicast() || v4.is_broadcast() => Some(DenyReason::NoHost),
        IpAddr::V6(v6) if v6.is_unspecified() || v6.is_multicast() => Some(DenyReason::NoHost),
        IpAddr::V4(v4) if v4.is_link_local() => Some(DenyReason::LinkLocal),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some(DenyReason::LinkLocal),
        to if to.is_loopback() => Some(DenyReason::Loopback),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            (DenyReason::Denied, &["64:ff9b::10.9.1.1", "2002:a09:101::1", "64:ff9b:1::10.9.1.1"]),
            (DenyReason::Loopback, &["64:ff9b::127.0.0.1", "2002:7f00:1::1"]),
            (DenyReason::LinkLocal, &["64:ff9b::169.254.169.254"]),
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
