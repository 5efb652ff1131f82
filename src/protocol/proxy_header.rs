//! The PROXY protocol of HAProxy (proxy-protocol.txt). Its header tells a server the client's address.

use std::fmt;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::protocol::addr_pair::AddrPair;

/// Bytes of the longest line of version 1, with its end.
const LINE: usize = 107;

/// Bytes of the longest header of version 2 that is read. The addresses take 52; the rest is for what load balancers
/// add, such as the names in certificates.
const LONGEST: usize = 4096;

/// The first bytes of version 2.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Bytes of version 2 before the addresses.
const FIXED: usize = 16;

/// The commands of version 2, in the byte after the signature.
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;

/// Family and protocol in version 2: TCP over IPv4 and over IPv6.
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// The first words of version 1, and the characters that may follow.
const LINES: [(&str, &str); 2] = [("PROXY TCP4 ", "0123456789. "), ("PROXY TCP6 ", "0123456789abcdefABCDEF:. ")];
const UNKNOWN: &str = "PROXY UNKNOWN";

const NO_HEADER: Malformed = Malformed("no PROXY header");
const BAD_LINE: Malformed = Malformed("a malformed PROXY line");
const BAD_BLOCK: Malformed = Malformed("a malformed PROXY header of version 2");
const TOO_LONG: Malformed = Malformed("a PROXY header that is too long");

/// The form of the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Text.
    V1,
    /// Binary.
    V2,
}

/// The first bytes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderRead {
    /// An incomplete header.
    More,
    Header {
        /// In bytes. The payload follows.
        length: usize,
        /// `None` if it is not about a TCP connection: the sender opened this one for itself, or does not know.
        addrs: Option<AddrPair>,
    },
}

/// Why the bytes are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(&'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Appends a header. It can hold addresses of one family only: of two families, the IPv4 address is written as
/// IPv4-mapped IPv6.
pub fn write(version: Version, source: SocketAddr, destination: SocketAddr, out: &mut Vec<u8>) {
    let ips = match (source.ip().to_canonical(), destination.ip().to_canonical()) {
        (from @ IpAddr::V4(_), to @ IpAddr::V4(_)) => [from, to],
        (from, to) => [mapped(from), mapped(to)],
    };
    match version {
        Version::V1 => write_line(ips, [source.port(), destination.port()], out),
        Version::V2 => write_block(ips, [source.port(), destination.port()], out),
    }
}

fn mapped(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => IpAddr::V6(ip.to_ipv6_mapped()),
        IpAddr::V6(_) => ip,
    }
}

fn write_line(ips: [IpAddr; 2], ports: [u16; 2], out: &mut Vec<u8>) {
    out.extend_from_slice(if ips[0].is_ipv4() { b"PROXY TCP4" } else { b"PROXY TCP6" });
    for ip in ips {
        // The protocol allows no dots in an IPv6 address, although a mapped one is commonly written with them. Writing to
        // a Vec cannot fail, here and below.
        let _ = match ip {
            IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => {
                write!(out, " ::ffff:{:x}:{:x}", ip.segments()[6], ip.segments()[7])
            }
            ip => write!(out, " {ip}"),
        };
    }
    let _ = write!(out, " {} {}\r\n", ports[0], ports[1]);
}

fn write_block(ips: [IpAddr; 2], ports: [u16; 2], out: &mut Vec<u8>) {
    out.extend_from_slice(&SIGNATURE);
    out.extend_from_slice(if ips[0].is_ipv4() { &[PROXY, TCP4, 0, 12] } else { &[PROXY, TCP6, 0, 36] });
    for ip in ips {
        match ip {
            IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
            IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
        }
    }
    for port in ports {
        out.extend_from_slice(&port.to_be_bytes());
    }
}

/// Reads a header of either version from the beginning of a connection. An IPv4-mapped address is returned as IPv4.
pub fn read(bytes: &[u8]) -> Result<HeaderRead, Malformed> {
    match bytes.first() {
        None => Ok(HeaderRead::More),
        Some(b'P') => read_line(bytes),
        Some(b'\r') => read_block(bytes),
        Some(_) => Err(NO_HEADER),
    }
}

fn read_line(bytes: &[u8]) -> Result<HeaderRead, Malformed> {
    let seen = bytes.get(..LINE).unwrap_or(bytes);
    let end = seen.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
    let (text, rest) = end.and_then(|end| seen.split_at_checked(end)).unwrap_or((seen, &[]));
    let text = std::str::from_utf8(text).ok().filter(|text| begins_a_line(text)).ok_or(NO_HEADER)?;
    match rest {
        [] | [b'\r'] if seen.len() == LINE => Err(TOO_LONG),
        [] => Ok(HeaderRead::More),
        [b'\r'] => line(text).map(|_| HeaderRead::More).ok_or(BAD_LINE),
        [b'\r', b'\n', ..] => {
            line(text).map(|addrs| HeaderRead::Header { length: text.len() + 2, addrs }).ok_or(BAD_LINE)
        }
        _ => Err(BAD_LINE),
    }
}

fn begins_a_line(text: &str) -> bool {
    let of_tcp = |(start, plain): (&str, &str)| match text.strip_prefix(start) {
        Some(rest) => rest.chars().all(|c| plain.contains(c)),
        None => start.starts_with(text),
    };
    let unknown = match text.strip_prefix(UNKNOWN) {
        Some(rest) => rest.is_empty() || rest.starts_with(' ') && rest.is_ascii(),
        None => UNKNOWN.starts_with(text),
    };
    unknown || LINES.into_iter().any(of_tcp)
}

/// The addresses in a line without its end; `None` if it is malformed.
fn line(text: &str) -> Option<Option<AddrPair>> {
    let mut words = text.split(' ');
    let ip: fn(&str) -> Option<IpAddr> = match (words.next()?, words.next()?) {
        ("PROXY", "UNKNOWN") => return Some(None),
        ("PROXY", "TCP4") => |word| word.parse().ok().map(IpAddr::V4),
        ("PROXY", "TCP6") => |word| word.parse().ok().map(IpAddr::V6),
        _ => return None,
    };
    let ips = [ip(words.next()?)?, ip(words.next()?)?];
    let ports = [port(words.next()?)?, port(words.next()?)?];
    words.next().is_none().then(|| Some(addrs(ips, ports)))
}

/// Refuses leading zeros, which std accepts. It accepts a sign too, but none can be in the line.
fn port(word: &str) -> Option<u16> {
    word.parse().ok().filter(|_| word == "0" || !word.starts_with('0'))
}

fn read_block(bytes: &[u8]) -> Result<HeaderRead, Malformed> {
    if !bytes.starts_with(&SIGNATURE) {
        return if SIGNATURE.starts_with(bytes) { Ok(HeaderRead::More) } else { Err(NO_HEADER) };
    }
    let Some(command) = bytes.get(12) else { return Ok(HeaderRead::More) };
    if !matches!(*command, LOCAL | PROXY) {
        return Err(BAD_BLOCK);
    }
    let Some(kind) = bytes.get(13) else { return Ok(HeaderRead::More) };
    // With LOCAL the sender talks about its own connection: the addresses are skipped, whatever they are.
    let least = if *command == LOCAL { 0 } else { addresses(*kind).ok_or(BAD_BLOCK)? };
    let Some(size) = bytes.get(14..).and_then(|rest| rest.first_chunk()) else { return Ok(HeaderRead::More) };
    let size = usize::from(u16::from_be_bytes(*size));
    if size < least {
        return Err(BAD_BLOCK);
    }
    if FIXED + size > LONGEST {
        return Err(TOO_LONG);
    }
    let Some(block) = bytes.get(FIXED..FIXED + size) else { return Ok(HeaderRead::More) };
    let addrs = if *command == PROXY { addrs_in(*kind, block) } else { None };
    Ok(HeaderRead::Header { length: FIXED + size, addrs })
}

/// Bytes of the addresses of this family; `None` if there is no such family or protocol.
fn addresses(kind: u8) -> Option<usize> {
    match (kind >> 4, kind & 15) {
        (0, 0..=2) => Some(0),
        (1, 0..=2) => Some(12),
        (2, 0..=2) => Some(36),
        (3, 0..=2) => Some(216),
        _ => None,
    }
}

fn addrs_in(kind: u8, block: &[u8]) -> Option<AddrPair> {
    let port = |at: usize| Some(u16::from_be_bytes(*block.get(at..)?.first_chunk()?));
    match kind {
        TCP4 => {
            let ip = |at: usize| Some(IpAddr::V4(Ipv4Addr::from(*block.get(at..)?.first_chunk::<4>()?)));
            Some(addrs([ip(0)?, ip(4)?], [port(8)?, port(10)?]))
        }
        TCP6 => {
            let ip = |at: usize| Some(IpAddr::V6(Ipv6Addr::from(*block.get(at..)?.first_chunk::<16>()?)));
            Some(addrs([ip(0)?, ip(16)?], [port(32)?, port(34)?]))
        }
        _ => None,
    }
}

fn addrs(ips: [IpAddr; 2], ports: [u16; 2]) -> AddrPair {
    let ([from, to], [from_port, to_port]) = (ips.map(|ip| ip.to_canonical()), ports);
    AddrPair { client: SocketAddr::new(from, from_port), original: SocketAddr::new(to, to_port) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn written(version: Version, source: &str, destination: &str) -> Vec<u8> {
        let mut out = b"before".to_vec();
        write(version, end(source), end(destination), &mut out);
        out.split_off(6)
    }

    fn line_of(source: &str, destination: &str) -> String {
        String::from_utf8(written(Version::V1, source, destination)).unwrap()
    }

    /// The answer to the whole, after seeing that it comes with the last byte that it needs and stays.
    fn read_in_pieces(bytes: &[u8]) -> Result<HeaderRead, Malformed> {
        let whole = read(bytes);
        let first = (0..=bytes.len()).map(|count| read(&bytes[..count])).find(|answer| *answer != Ok(HeaderRead::More));
        assert_eq!(first.unwrap_or(Ok(HeaderRead::More)), whole, "{bytes:?}");
        whole
    }

    /// How many bytes it takes until these are known to be no header.
    fn proof(bytes: &[u8]) -> usize {
        (0..=bytes.len()).find(|count| read(&bytes[..*count]).is_err()).unwrap_or_else(|| panic!("{bytes:?}"))
    }

    fn block(command: u8, kind: u8, content: &[u8]) -> Vec<u8> {
        let size = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, kind], &size, content].concat()
    }

    #[test]
    fn lines_are_what_the_specification_shows() {
        let line = "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n";
        assert_eq!(line_of("192.168.0.1:56324", "192.168.0.11:443"), line);
        assert_eq!(
            line_of("[fd00::1]:1", "[2001:DB8:0:0:1::]:65535"),
            "PROXY TCP6 fd00::1 2001:db8:0:0:1:: 1 65535\r\n"
        );
    }

    #[test]
    fn blocks_are_what_the_specification_shows() {
        let four = [192, 168, 0, 1, 192, 168, 0, 11, 0xdc, 4, 1, 187];
        assert_eq!(written(Version::V2, "192.168.0.1:56324", "192.168.0.11:443"), block(0x21, 0x11, &four));
        let (from, to): (Ipv6Addr, Ipv6Addr) = ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap());
        let six = [&from.octets()[..], &to.octets(), &[0, 1, 255, 255]].concat();
        assert_eq!(written(Version::V2, "[fd00::1]:1", "[fd00::2]:65535"), block(0x21, 0x21, &six));
    }

    #[test]
    fn ends_of_two_families_are_both_ipv6_and_lose_nothing() {
        assert_eq!(line_of("10.0.0.1:1", "[fd00::2]:2"), "PROXY TCP6 ::ffff:a00:1 fd00::2 1 2\r\n");
        assert_eq!(line_of("[fd00::2]:2", "10.0.0.1:1"), "PROXY TCP6 fd00::2 ::ffff:a00:1 2 1\r\n");
        let block = written(Version::V2, "10.0.0.1:1", "[fd00::2]:2");
        assert_eq!(block[12..20], [0x21, 0x21, 0, 36, 0, 0, 0, 0]);
        assert_eq!(block[26..32], [0xff, 0xff, 10, 0, 0, 1]);
        let addrs = AddrPair { client: end("10.0.0.1:1"), original: end("[fd00::2]:2") };
        assert_eq!(read(&block), Ok(HeaderRead::Header { length: 52, addrs: Some(addrs) }));
    }

    #[test]
    fn mapped_addresses_are_ipv4() {
        assert_eq!(line_of("[::ffff:10.0.0.1]:1", "10.0.0.2:2"), "PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n");
        let addrs = Some(AddrPair { client: end("10.0.0.1:1"), original: end("10.0.0.2:2") });
        for text in ["PROXY TCP6 ::ffff:10.0.0.1 ::FFFF:A00:2 1 2\r\n", "PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n"] {
            assert_eq!(read_in_pieces(text.as_bytes()), Ok(HeaderRead::Header { length: text.len(), addrs }));
        }
    }

    #[test]
    fn what_was_written_is_read_and_the_payload_left() {
        let pairs =
            [("10.0.0.1:0", "255.255.255.255:65535"), ("[::]:0", "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:1")];
        for (source, destination) in pairs {
            for version in [Version::V1, Version::V2] {
                let header = written(version, source, destination);
                let addrs = Some(AddrPair { client: end(source), original: end(destination) });
                let whole = Ok(HeaderRead::Header { length: header.len(), addrs });
                assert_eq!(read_in_pieces(&[&header[..], b"\r\nPROXY"].concat()), whole);
                assert_eq!(read(&header[..header.len() - 1]), Ok(HeaderRead::More));
            }
        }
    }

    #[test]
    fn a_line_about_the_unknown_is_passed_over() {
        let longest = format!("PROXY UNKNOWN {}\r\n", "f".repeat(107 - 16));
        for text in ["PROXY UNKNOWN\r\n", "PROXY UNKNOWN \r\n", "PROXY UNKNOWN so what \0\r\n", &longest] {
            let header = HeaderRead::Header { length: text.len(), addrs: None };
            assert_eq!(read_in_pieces(text.as_bytes()), Ok(header), "{text:?}");
        }
    }

    #[test]
    fn a_line_of_more_than_107_bytes_is_none() {
        for tail in ["f", "f\r", "f\r\n", "\r", "\r\n"] {
            let text = format!("PROXY UNKNOWN {}{tail}", "f".repeat(107 - 15));
            assert_eq!(read_in_pieces(text.as_bytes()), Err(TOO_LONG), "{text:?}");
        }
    }

    #[test]
    fn a_line_is_taken_to_the_letter() {
        for text in [
            "PROXY TCP4 10.0.0.1 10.0.0.2 1 2\n",
            "PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\r\n",
            "PROXY TCP4 10.0.0.1 10.0.0.2 1 2 \r\n",
            "PROXY TCP4 10.0.0.1 10.0.0.2 1 2 3\r\n",
            "PROXY TCP4 10.0.0.1 10.0.0.2 1\r\n",
            "PROXY TCP4 10.0.0.1  10.0.0.2 1 2\r\n",
            "PROXY TCP4 10.0.0.1 10.0.0.2 01 2\r\n",
            "PROXY TCP4 10.0.0.1 10.0.0.2 +1 2\r\n",
            "PROXY TCP4 10.0.0.1 10.0.0.2 1 -2\r\n",
            "PROXY TCP4 10.0.0.1 10.0.0.2 1 65536\r\n",
            "PROXY TCP4 10.0.0.1 10.0.0.2 1 \r\n",
            "PROXY TCP4 10.0.0.01 10.0.0.2 1 2\r\n",
            "PROXY TCP4 10.0.0.256 10.0.0.2 1 2\r\n",
            "PROXY TCP4 10.0.1 10.0.0.2 1 2\r\n",
            "PROXY TCP6 fd00::1 10.0.0.2 1 2\r\n",
            "PROXY TCP6 fd00::1 fd00:::2 1 2\r\n",
            "PROXY TCP6 1:2:3:4:5:6:7 fd00::2 1 2\r\n",
            "PROXY TCP6 \r\n",
            "PROXY\r\n",
        ] {
            assert!(read_in_pieces(text.as_bytes()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_header_is_known_as_soon_as_it_can_be() {
        let table: [(&[u8], usize); 15] = [
            (b"GET / HTTP/1.1\r\n", 1),
            (b"\x16\x03\x01", 1),
            (b"POST / HTTP/1.1\r\n", 2),
            (b"PROXY  TCP4", 7),
            (b"PROXY TCP5", 10),
            (b"PROXY TCP4\r\n", 11),
            (b"PROXY TCP4 10.0.0.x", 19),
            (b"PROXY TCP4 fd00::1", 12),
            (b"PROXY TCP6 fd00::g", 18),
            (b"PROXY TCP6 fd00::1 -1", 20),
            (b"PROXY UNKNOWNS", 14),
            (b"PROXY UNKNOWN \xc3\xbc", 15),
            (b"\r\n\r\nGET", 5),
            (b"\r\n\r\n\0\r\nQUIT\n\x11", 13),
            (b"\r\n\r\n\0\r\nQUIT\n\x21\x13", 14),
        ];
        for (bytes, count) in table {
            assert_eq!(proof(bytes), count, "{bytes:?}");
        }
        assert_eq!(read(b""), Ok(HeaderRead::More));
    }

    #[test]
    fn what_follows_the_addresses_of_a_block_is_passed_over() {
        let header = block(PROXY, TCP4, &[1; 4096 - 16]);
        let addrs = Some(AddrPair { client: end("1.1.1.1:257"), original: end("1.1.1.1:257") });
        assert_eq!(read_in_pieces(&header), Ok(HeaderRead::Header { length: 4096, addrs }));
        assert_eq!(proof(&block(PROXY, TCP4, &[1; 4096 - 15])), 16);
        assert_eq!(read(&block(LOCAL, 0, &[1; 4096 - 15])), Err(TOO_LONG));
    }

    #[test]
    fn a_block_that_is_not_about_tcp_has_no_ends() {
        for empty in [block(LOCAL, 0, &[]), block(LOCAL, TCP4, &[]), block(PROXY, 0, &[])] {
            assert_eq!(read_in_pieces(&empty), Ok(HeaderRead::Header { length: 16, addrs: None }));
        }
        let of_others = [0x00, 0x01, 0x02, 0x10, 0x12, 0x20, 0x22, 0x30, 0x31, 0x32];
        for kind in of_others {
            let header = block(PROXY, kind, &[7; 216]);
            assert_eq!(read_in_pieces(&header), Ok(HeaderRead::Header { length: 232, addrs: None }), "{kind:x}");
        }
        for kind in [0x00, TCP4, TCP6, 0xff] {
            let header = block(LOCAL, kind, &[7; 3]);
            assert_eq!(read_in_pieces(&header), Ok(HeaderRead::Header { length: 19, addrs: None }), "{kind:x}");
        }
    }

    #[test]
    fn a_block_without_room_for_its_addresses_is_none() {
        for (kind, least) in [(TCP4, 12), (0x12, 12), (TCP6, 36), (0x22, 36), (0x31, 216), (0x32, 216)] {
            assert_eq!(proof(&block(PROXY, kind, &vec![1; least - 1])), 16, "{kind:x}");
            assert!(read(&block(PROXY, kind, &vec![1; least])).is_ok(), "{kind:x}");
        }
        for kind in [0x03, 0x13, 0x23, 0x33, 0x40, 0xf1] {
            assert_eq!(read_in_pieces(&block(PROXY, kind, &[1; 216])), Err(BAD_BLOCK), "{kind:x}");
        }
    }

    #[test]
    fn what_is_wrong_has_words() {
        assert_eq!(read(b"GET").unwrap_err().to_string(), "no PROXY header");
    }
}
