//! The network interfaces of this namespace and their addresses (getifaddrs(3)).

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::SockaddrStorage;

use crate::sys::procfs;

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interface {
    pub name: String,
    /// In the kernel's order: the first IPv4 address is the primary one.
    pub addresses: Vec<IpAddr>,
}

/// All interfaces but loopback.
pub(crate) fn interfaces() -> io::Result<Vec<Interface>> {
    let mut found: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    for entry in getifaddrs()? {
        // An IPv4 address may have a label (`eth0:1`), which getifaddrs(3) returns in place of the name.
        let name = entry.interface_name.split(':').next().unwrap_or_default();
        if !entry.flags.contains(nix::net::if_::InterfaceFlags::IFF_LOOPBACK) {
            found.entry(name.to_owned()).or_default().extend(entry.address.as_ref().and_then(ip));
        }
    }
    Ok(found.into_iter().map(|(name, addresses)| Interface { name, addresses }).collect())
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}

/// The number of an interface.
pub(crate) fn number(name: &str) -> Option<u32> {
    if_nametoindex(name).ok()
}

/// Whether a setting of an interface is switched on, for example `ipv4/conf/eth0/route_localnet`.
pub(crate) fn is_on(setting: &str) -> bool {
    procfs::sysctl(&format!("net/{setting}")).is_some_and(|value| value != "0")
}
