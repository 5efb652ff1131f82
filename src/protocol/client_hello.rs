//! A ClientHello of our own, which finds out whether a server speaks TLS (RFC 8446, 4.1.2).
//!
//! It offers TLS 1.2 and 1.3 and no key: a server of TLS 1.3 asks for one, with a message of the same type as a ServerHello.

use crate::protocol::hostname::HostName;

/// Suites of TLS 1.3, and those of TLS 1.2 that servers have.
const SUITES: &[u16] =
    &[0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8, 0xc013, 0xc014, 0x009c, 0x002f];

const SERVER_NAME: u16 = 0;
const SUPPORTED_GROUPS: u16 = 10;
const SIGNATURE_ALGORITHMS: u16 = 13;
const SUPPORTED_VERSIONS: u16 = 43;
const KEY_SHARE: u16 = 51;

/// A value behind its length in two bytes.
fn counted(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

fn list(numbers: &[u16]) -> Vec<u8> {
    counted(&numbers.iter().flat_map(|number| number.to_be_bytes()).collect::<Vec<_>>())
}

fn extension(kind: u16, value: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &counted(value)].concat()
}

/// The first record of a client. A host that is a name is asked for by it.
pub(crate) fn client_hello(host: &str, random: [u8; 32]) -> Vec<u8> {
    let name = HostName::parse(host).filter(|host| host.literal().is_none());
    let server_name = name.map_or(Vec::new(), |name| {
        extension(SERVER_NAME, &counted(&[&[0][..], &counted(name.as_str().as_bytes())].concat()))
    });
    let extensions = [
        server_name,
        extension(SUPPORTED_GROUPS, &list(&[0x001d, 0x0017, 0x0018])),
        extension(
            SIGNATURE_ALGORITHMS,
            &list(&[0x0403, 0x0503, 0x0804, 0x0805, 0x0806, 0x0401, 0x0501, 0x0601, 0x0807]),
        ),
        extension(SUPPORTED_VERSIONS, &[4, 3, 4, 3, 3]),
        extension(KEY_SHARE, &counted(&[])),
    ]
    .concat();
    let hello = [&[3, 3][..], &random, &[0], &list(SUITES), &[1, 0], &counted(&extensions)].concat();
    let length = (hello.len() as u32).to_be_bytes();
    let message = [&[1, length[1], length[2], length[3]][..], &hello].concat();
    [&[22, 3, 1][..], &counted(&message)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::sniff::{self, Sniff};

    #[test]
    fn our_own_parser_finds_the_name() {
        assert_eq!(sniff::name(&client_hello("cow.example", [7; 32])), Sniff::Name("cow.example".into()));
        assert_eq!(sniff::name(&client_hello("10.0.0.1", [7; 32])), Sniff::None);
    }
}
