//! Addresses and networks of a MATCH in nft's words.

use std::net::IpAddr;

use crate::rules::address::Family;
use crate::rules::groups;

/// A network as nft takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Network {
    /// An address with the length of its prefix.
    Prefix(IpAddr, u8),
    /// The bits of the mask have gaps.
    Masked { mask: IpAddr, value: IpAddr },
}

impl Network {
    /// Reads `ADDRESS`, `ADDRESS/LENGTH` or `ADDRESS/MASK`. Bits outside the mask do not count, as in iptables.
    pub(crate) fn read(text: &str) -> Option<Network> {
        let (address, mask) = match text.split_once('/') {
            Some((address, mask)) => (address, Some(mask)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let bits = bits_of(&address);
        let mask = match mask {
            None => all_ones(bits, bits),
            Some(length) if !length.contains(['.', ':']) => all_ones(groups::number(length)?.try_into().ok()?, bits),
            Some(mask) => number(mask.parse().ok().filter(|mask: &IpAddr| mask.is_ipv4() == address.is_ipv4())?),
        };
        let value = number(address) & mask;
        let length = u8::try_from(mask.count_ones()).ok()?;
        let like = |number| from_number(number, address.is_ipv4());
        if mask == all_ones(length, bits) {
            return Some(Network::Prefix(like(value), length));
        }
        Some(Network::Masked { mask: like(mask), value: like(value) })
    }

    /// Whether it holds every address of its family.
    pub(crate) fn is_everything(&self) -> bool {
        matches!(self, Network::Prefix(_, 0))
    }

    /// Whether it holds all of another one. Networks whose mask has gaps are not compared.
    fn holds(&self, other: &Network) -> bool {
        match (self, other) {
            (Network::Prefix(base, length), Network::Prefix(address, longer)) => {
                let mask = all_ones(*length, bits_of(base));
                length <= longer && number(*address) & mask == number(*base)
            }
            _ => self == other,
        }
    }
}

/// Networks without those that others hold: nft refuses intervals of a set that overlap.
pub(crate) fn without_overlaps(networks: Vec<Network>) -> Vec<Network> {
    let mut kept: Vec<Network> = Vec::new();
    for network in networks {
        if !kept.iter().any(|other| other.holds(&network)) {
            kept.retain(|other| !network.holds(other));
            kept.push(network);
        }
    }
    kept
}

/// A network whose mask has no gaps, as nft writes it.
pub(crate) fn prefix(address: &IpAddr, length: u8) -> String {
    if length == bits_of(address) { address.to_string() } else { format!("{address}/{length}") }
}

/// How nft calls the header of a family.
pub(crate) fn header(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

fn bits_of(address: &IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

fn from_number(number: u128, is_ipv4: bool) -> IpAddr {
    match u32::try_from(number) {
        Ok(number) if is_ipv4 => IpAddr::from(number.to_be_bytes()),
        _ => IpAddr::from(number.to_be_bytes()),
    }
}

/// The mask of a prefix.
fn all_ones(length: u8, bits: u8) -> u128 {
    let whole = if bits == 32 { u128::from(u32::MAX) } else { u128::MAX };
    let zeros = bits.saturating_sub(length);
    whole.checked_shl(u32::from(zeros)).unwrap_or(0) & whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_as_iptables_reads_them() {
        for (text, wanted) in [
            ("10.1.2.3", "10.1.2.3"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("10.1.2.3/255.255.0.0", "10.1.0.0/16"),
            ("10.1.2.3/32", "10.1.2.3"),
            ("10.1.2.3/010", "10.0.0.0/8"),
            ("1.2.3.4/0", "0.0.0.0/0"),
            ("fd00::1/16", "fd00::/16"),
            ("fe80::1/ffc0::", "fe80::/10"),
            ("::/0", "::/0"),
        ] {
            let Some(Network::Prefix(address, length)) = Network::read(text) else { panic!("{text}") };
            assert_eq!(prefix(&address, length), wanted, "{text}");
        }
        let gaps = Network::read("10.1.2.3/255.0.255.0").unwrap();
        assert_eq!(gaps, Network::Masked { mask: "255.0.255.0".parse().unwrap(), value: "10.0.2.0".parse().unwrap() });
        for bad in ["moose", "10.1.2.3/08", "10.1.2.3/+8"] {
            assert_eq!(Network::read(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_network_within_another_is_left_out() {
        let networks = ["10.1.0.0/16", "10.0.0.0/8", "10.2.3.4", "11.0.0.1", "11.0.0.1"];
        let left = without_overlaps(networks.iter().map(|text| Network::read(text).unwrap()).collect());
        assert_eq!(left, ["10.0.0.0/8", "11.0.0.1"].map(|text| Network::read(text).unwrap()));
    }
}
