//! An address with its port in 18 bytes. Each connection keeps four of them, where std's `SocketAddr` would take 32 bytes
//! each.

use std::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// An IP address and a TCP port. IPv4 is held in its IPv4-mapped form (RFC 4291, 2.5.5.2) and shown as IPv4.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct CompactAddr {
    ip: Ipv6Addr,
    port: u16,
}

impl CompactAddr {
    /// Nothing known: shown as `-`. No TCP connection has port 0 at an end.
    pub const UNKNOWN: CompactAddr = CompactAddr { ip: Ipv6Addr::UNSPECIFIED, port: 0 };

    /// Whether it is not [`CompactAddr::UNKNOWN`].
    pub fn is_known(&self) -> bool {
        self.port != 0
    }

    /// The address without the port.
    pub fn ip(&self) -> IpAddr {
        self.ip.to_canonical()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Address and port in network order, as our processes hand it to each other.
    pub fn to_bytes(self) -> [u8; 18] {
        let mut bytes = [0; 18];
        bytes[..16].copy_from_slice(&self.ip.octets());
        bytes[16..].copy_from_slice(&self.port.to_be_bytes());
        bytes
    }

    /// The reverse of [`CompactAddr::to_bytes`]; every value means something.
    pub fn from_bytes(bytes: [u8; 18]) -> CompactAddr {
        let mut ip = [0; 16];
        ip.copy_from_slice(&bytes[..16]);
        CompactAddr { ip: Ipv6Addr::from(ip), port: u16::from_be_bytes([bytes[16], bytes[17]]) }
    }

    /// The same text as [`fmt::Display`] writes, for IPv4 without the machinery of std::fmt.
    pub(crate) fn push_to(&self, out: &mut String) {
        match self.ip() {
            IpAddr::V4(v4) if self.is_known() => out.push_str(V4Text::new(v4, self.port).as_str()),
            // Writing to a String cannot fail.
            _ => _ = write!(out, "{self}"),
        }
    }

    /// The form that the socket calls take.
    pub fn socket_addr(&self) -> SocketAddr {
        SocketAddr::new(self.ip(), self.port)
    }
}

impl From<SocketAddr> for CompactAddr {
    fn from(address: SocketAddr) -> CompactAddr {
        let ip = match address.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        CompactAddr { ip, port: address.port() }
    }
}

impl fmt::Display for CompactAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip() {
            _ if !self.is_known() => f.write_str("-"),
            IpAddr::V4(v4) => f.write_str(V4Text::new(v4, self.port).as_str()),
            IpAddr::V6(_) => self.socket_addr().fmt(f),
        }
    }
}

const V4_LONGEST: usize = "255.255.255.255:65535".len();

/// An IPv4 address with its port as text. Each line of the access log has four, and std formats each of their numbers by
/// itself.
struct V4Text {
    bytes: [u8; V4_LONGEST],
    length: usize,
}

impl V4Text {
    fn new(ip: Ipv4Addr, port: u16) -> V4Text {
        let mut text = V4Text { bytes: [0; V4_LONGEST], length: 0 };
        for (octet, behind) in ip.octets().into_iter().zip(*b"...:") {
            text.push_number(octet.into());
            text.push(behind);
        }
        text.push_number(port);
        text
    }

    fn push(&mut self, byte: u8) {
        self.bytes[self.length] = byte;
        self.length += 1;
    }

    fn push_number(&mut self, number: u16) {
        for (least, digit) in [(10_000, number / 10_000), (1000, number / 1000), (100, number / 100), (10, number / 10)]
        {
            if number >= least {
                self.push(b'0' + (digit % 10) as u8);
            }
        }
        self.push(b'0' + (number % 10) as u8);
    }

    fn as_str(&self) -> &str {
        str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }
}

/// A network with its length. IPv4 may be written as IPv6 (`::ffff:10.0.0.0/104`).
pub(crate) fn network_with_length(text: &str) -> Option<IpNet> {
    // ipnet takes 010.0.0.0/8 for 10.0.0.0/8, and iptables for 8.0.0.0/8.
    text.split_once('/').and_then(|(address, _)| address.parse::<IpAddr>().ok())?;
    let network = text.parse().ok()?;
    let v4 = |v6: Ipv6Net| Ipv4Net::new(v6.addr().to_ipv4_mapped()?, v6.prefix_len().checked_sub(96)?).ok();
    Some(match network {
        IpNet::V6(v6) => v4(v6).map_or(network, IpNet::V4),
        IpNet::V4(_) => network,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_are_shown_as_the_kernel_shows_them() {
        for text in ["10.1.0.2:80", "[fd00::1]:443"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(CompactAddr::from(address).to_string(), text);
            let mut pushed = String::new();
            CompactAddr::from(address).push_to(&mut pushed);
            assert_eq!(pushed, text);
            assert_eq!(CompactAddr::from(address).socket_addr(), address);
        }
        for port in 1..=u16::MAX {
            let [high, low] = port.to_be_bytes();
            let address = SocketAddr::from(([high, low, 255 - low, 255], port));
            assert_eq!(CompactAddr::from(address).to_string(), address.to_string());
        }
        assert_eq!(CompactAddr::UNKNOWN.to_string(), "-");
        assert_eq!(size_of::<CompactAddr>(), 18);
    }
}
