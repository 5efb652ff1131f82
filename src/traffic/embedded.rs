//! IPv6 addresses that stand for an IPv4 address: a translator or a tunnel on the way takes their packets there.

use std::net::{Ipv4Addr, Ipv6Addr};

/// The IPv4 addresses that an IPv6 address may stand for: usually none, sometimes several. The prefix that an operator has
/// chosen for a translator from his own network (RFC 6052, 2.2) cannot be known.
pub(crate) fn embedded(address: Ipv6Addr) -> impl Iterator<Item = Ipv4Addr> {
    let bytes = address.octets();
    let v4 = |places: [usize; 4]| Ipv4Addr::from(places.map(|place| bytes[place]));
    let last = v4([12, 13, 14, 15]);
    let mut found = [None; 5];
    found[0] = match address.segments() {
        // Mapped, translated (RFC 2765, 2.1) and compatible addresses (RFC 4291, 2.5.5). ::1 and its like are none.
        [0, 0, 0, 0, 0, 0xffff, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => Some(last),
        [0, 0, 0, 0, 0, 0, high, _] if high > 0xff => Some(last),
        // NAT64 with the well-known prefix (RFC 6052, 2.1).
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => Some(last),
        // 6to4 (RFC 3056).
        [0x2002, ..] => Some(v4([2, 3, 4, 5])),
        // Teredo: the client's address, inverted (RFC 4380, 4).
        [0x2001, 0, ..] => Some(Ipv4Addr::from_bits(!last.to_bits())),
        _ => None,
    };
    if bytes[..6] == [0, 0x64, 0xff, 0x9b, 0, 1] {
        // NAT64 with the prefix for local use (RFC 8215), of which an operator takes 96, 64, 56 or 48 bits (RFC 6052, 2.2).
        // Where the address is not, there are often zeros.
        let places = [[12, 13, 14, 15], [9, 10, 11, 12], [7, 9, 10, 11], [6, 7, 9, 10]];
        let is_host = |v4: &Ipv4Addr| v4.octets()[0] != 0;
        found[..4].copy_from_slice(&places.map(|place| Some(v4(place)).filter(is_host)));
    }
    // ISATAP: the end says it, behind any prefix (RFC 5214, 6.1).
    if matches!(bytes[8..12], [0 | 2, 0, 0x5e, 0xfe]) {
        found[4] = Some(last);
    }
    found.into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_stands_for_the_address_that_its_standard_says() {
        let table: &[(&str, &[&str])] = &[
            ("::ffff:192.0.2.33", &["192.0.2.33"]),
            ("::ffff:0:192.0.2.33", &["192.0.2.33"]),
            ("::192.0.2.33", &["192.0.2.33"]),
            ("64:ff9b::192.0.2.33", &["192.0.2.33"]),
            ("64:ff9b:1::192.0.2.33", &["192.0.2.33"]),
            // The examples of RFC 6052, 2.4, with the prefix of RFC 8215.
            ("64:ff9b:1:c000:2:2100::", &["2.33.0.0", "192.0.2.33"]),
            ("64:ff9b:1:1c0:0:221::", &["192.0.2.33", "1.192.0.2"]),
            ("64:ff9b:1:1:c0:2:2100:0", &["33.0.0.0", "192.0.2.33", "1.192.0.2"]),
            ("64:ff9b:1::", &[]),
            ("2002:c000:221::1", &["192.0.2.33"]),
            ("2001:0:4136:e378:8000:63bf:3fff:fdd2", &["192.0.2.45"]),
            ("2001:db8::5efe:192.0.2.33", &["192.0.2.33"]),
            ("2001:db8::200:5efe:192.0.2.33", &["192.0.2.33"]),
            ("2002:c000:221::5efe:10.0.0.1", &["192.0.2.33", "10.0.0.1"]),
            ("::", &[]),
            ("::1", &[]),
            ("::2", &[]),
            ("2001:db8::192.0.2.33", &[]),
            ("2001:1::192.0.2.33", &[]),
            ("64:ff9b:2::192.0.2.33", &[]),
            ("fd00::1", &[]),
            ("fe80::5efe", &[]),
        ];
        for (text, wanted) in table {
            let found: Vec<String> = embedded(text.parse().unwrap()).map(|v4| v4.to_string()).collect();
            assert_eq!(found, *wanted, "{text}");
        }
    }
}
