//! Whatever clients, balancers and proxies say first: nothing of it panics, an answer that was given never changes with
//! what comes later, and what is right is understood wherever it is cut.

mod hello;

use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use tproxy::testing::AddrPair;
use tproxy::testing::Credentials;
use tproxy::testing::proxy_header::{self, HeaderRead, Version};
use tproxy::testing::sniff::{self, Sniff};
use tproxy::testing::{Dialect, Dialogue, ProxyRefusal, TunnelTarget};

use super::cases::cases;

/// Pieces, between bars, of what is said on the wire: put together at random they come further than arbitrary bytes.
const REQUESTS: &[u8] =
    b"GET / HTTP/1.1\r\n|GET |CONNECT |/|http://| HTTP/1.1\r\n|Host: |cow|.|:80|10.0.0.1|Accept: */*\r\n|\
    \r\n\r\n|\r\n|\n| |\xc3\xbc|\0";
const HEADERS: &[u8] =
    b"PROXY TCP4 |PROXY TCP6 |PROXY UNKNOWN|PROXY|10.0.0.1|fd00::1| 80| |\r\n|\r|\n|\r\n\r\n\0\r\nQUIT\n|\
    \x20\0\0\0|\x21\x11\0\x0c|\x21\x21\0\x24";
const HTTP_ANSWERS: &[u8] =
    b"HTTP/1.1 200 OK\r\n|HTTP/1.0 100 Continue\r\n\r\n|HTTP/1.1 |200|100|403|A: b\r\n|\r\n\r\n|\r\n|\n| |\
    \t|\xff";
const SOCKS_ANSWERS: &[u8] =
    b"\x05\0|\x05\x02|\x01\0|\x05\0\0\x01|\x05\0\0\x03|\x05\0\0\x04|\0|\x01|\x02|\x03|\x04|\x05|\xff";

/// Bytes that are put in place of others.
fn damage() -> impl Strategy<Value = Vec<(Index, u8)>> {
    vec((any::<Index>(), any::<u8>()), 1..4)
}

fn damaged(mut bytes: Vec<u8>, damage: &[(Index, u8)]) -> Vec<u8> {
    for (at, byte) in damage {
        let at = at.index(bytes.len());
        bytes[at] = *byte;
    }
    bytes
}

/// These pieces in any order, with something else between them now and then.
fn babble(pieces: &'static [u8]) -> impl Strategy<Value = Vec<u8>> {
    let pieces: Vec<&[u8]> = pieces.split(|byte| *byte == b'|').collect();
    let piece = prop_oneof![9 => select(pieces).prop_map(<[u8]>::to_vec), 1 => vec(any::<u8>(), 0..20)];
    vec(piece, 0..30).prop_map(|pieces| pieces.concat())
}

/// A beginning has the answer of the whole or none yet.
fn keeps_its_word<T: PartialEq + Debug>(bytes: &[u8], cut: Index, undecided: &T, read: impl Fn(&[u8]) -> T) {
    let beginning = read(&bytes[..cut.index(bytes.len() + 1)]);
    if beginning != *undecided {
        assert_eq!(beginning, read(bytes), "{}", bytes.escape_ascii());
    }
}

/// What is found is fit for a request to a proxy.
fn finds_only_names(bytes: &[u8]) {
    if let Sniff::Name(name) = sniff::name(bytes) {
        assert!((1..=254).contains(&name.len()), "{name}");
        assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte)), "{name}");
        assert!(name.parse::<IpAddr>().is_err(), "{name}");
    }
}

fn host_name() -> impl Strategy<Value = String> {
    ("([A-Za-z0-9_]([a-z0-9_-]{0,10}[a-z0-9_])?[.]){0,4}", "[a-z]([a-z0-9-]{0,10}[a-z])?[.]?")
        .prop_map(|(front, last)| front + &last)
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Addresses of both families, some of them IPv4-mapped.
fn address() -> impl Strategy<Value = SocketAddr> {
    let mapped = any::<[u8; 4]>().prop_map(|ip| IpAddr::V6(Ipv4Addr::from(ip).to_ipv6_mapped()));
    (prop_oneof![any::<IpAddr>(), mapped], any::<u16>()).prop_map(SocketAddr::from)
}

fn header(version: Version, source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let mut out = Vec::new();
    proxy_header::write(version, source, destination, &mut out);
    out
}

fn version() -> impl Strategy<Value = Version> {
    select(&[Version::V1, Version::V2][..])
}

fn moose() -> Credentials {
    Credentials { user: "moose".into(), password: "secret bell".into() }
}

/// A dialogue that begins and is told all of this, in one piece or byte by byte: what it answered, how many bytes it
/// used, whether it is done.
fn told(dialect: Dialect, signed: bool, said: &[u8], step: usize) -> Result<(Vec<u8>, usize, bool), ProxyRefusal> {
    let credentials = moose();
    let (mut out, mut used) = (Vec::new(), 0);
    let target = TunnelTarget::Name("cow", 443);
    let mut dialogue = Dialogue::begin(dialect, target, signed.then_some(&credentials), &mut out);
    out.clear();
    for end in (step.min(said.len())..=said.len()).step_by(step) {
        let heard = dialogue.hear(&said[used..end], &mut out)?;
        used += heard.used;
        assert!(used <= end);
        if heard.done {
            return Ok((out, used, true));
        }
    }
    Ok((out, used, false))
}

fn is_consistent(dialect: Dialect, signed: bool, said: &[u8]) {
    let whole = told(dialect, signed, said, said.len().max(1));
    assert_eq!(told(dialect, signed, said, 1), whole, "{}", said.escape_ascii());
    if let Err(refused) = whole {
        let words = refused.to_string();
        assert!(words.bytes().all(|byte| (b' '..=b'~').contains(&byte)) && words.len() <= 120, "{words}");
        assert!(!words.contains("bell"), "{words}");
    }
}

/// Independent of the bytes that it was found in.
fn owned(found: Sniff<'_>) -> Sniff<'static> {
    match found {
        Sniff::More => Sniff::More,
        Sniff::Name(name) => Sniff::Name(name.into_owned().into()),
        Sniff::None => Sniff::None,
    }
}

proptest! {
    #![proptest_config(cases(2_000))]

    #[test]
    fn the_host_of_a_request_is_found_when_its_head_is_whole(
        name in host_name(),
        port in "(:[0-9]{0,5})?",
        (before, after) in ("([A-Z][a-z]{0,9}: [ -~]{0,20}\r\n){0,3}", "([A-Z][a-z]{0,9}: [ -~]{0,20}\r\n){0,3}"),
        body in vec(any::<u8>(), 0..20),
        cut in any::<Index>(),
    ) {
        let lines = [before, after].map(|lines| lines.replace("Host: ", "Hose: "));
        let head = format!("POST /path?query HTTP/1.1\r\n{}Host: {name}{port}\r\n{}\r\n", lines[0], lines[1]);
        let bytes = [head.as_bytes(), &body].concat();
        let count = cut.index(bytes.len() + 1);
        let expected = if count < head.len() { Sniff::More } else { Sniff::Name(name.into()) };
        prop_assert_eq!(sniff::name(&bytes[..count]), expected);
    }

    #[test]
    fn no_request_surprises(
        bytes in babble(REQUESTS),
        cut in any::<Index>(),
    ) {
        keeps_its_word(&bytes, cut, &Sniff::More, |bytes| owned(sniff::name(bytes)));
        finds_only_names(&bytes);
    }

    #[test]
    fn a_header_that_was_written_is_read_and_the_payload_left(
        version in version(),
        (source, destination) in (address(), address()),
        payload in vec(any::<u8>(), 0..20),
        cut in any::<Index>(),
    ) {
        let header = header(version, source, destination);
        let bytes = [&header[..], &payload].concat();
        let count = cut.index(bytes.len() + 1);
        let addrs = Some(AddrPair { client: canonical(source), original: canonical(destination) });
        let whole = HeaderRead::Header { length: header.len(), addrs };
        prop_assert_eq!(proxy_header::read(&bytes[..count]), Ok(if count < header.len() { HeaderRead::More } else { whole }));
        prop_assert_eq!(proxy_header::read(&bytes), Ok(whole));
    }

    #[test]
    fn no_header_surprises(
        bytes in prop_oneof![
            (version(), address(), address(), damage()).prop_map(|(v, from, to, by)| damaged(header(v, from, to), &by)),
            babble(HEADERS),
            vec(any::<u8>(), 0..300).prop_map(|rest| [&b"\r\n\r\n\0\r\nQUIT\n\x21"[..], &rest].concat()),
            vec(any::<u8>(), 0..300),
        ],
        cut in any::<Index>(),
    ) {
        keeps_its_word(&bytes, cut, &Ok(HeaderRead::More), proxy_header::read);
        if let Ok(HeaderRead::Header { length, .. }) = proxy_header::read(&bytes) {
            prop_assert!(length <= bytes.len().min(4096));
        }
    }

    #[test]
    fn an_answer_to_connect_is_understood(
        interim in "(HTTP/1[.][01] 10[02-9]( [A-Z]{0,5})?\r?\n([A-Z]{1,5}: [ -~]{0,9}\r?\n){0,2}\r?\n){0,2}",
        status in 200..600u16,
        reason in "( [A-Za-z ]{0,20}[a-z])?",
        lines in "([A-Za-z]{1,5}: [ -~]{0,20}\r?\n){0,3}",
        payload in vec(any::<u8>(), 0..20),
        signed in any::<bool>(),
    ) {
        let line = format!("HTTP/1.1 {status}{reason}");
        let head = format!("{interim}{line}\r\n{lines}\r\n");
        let said = [head.as_bytes(), &payload].concat();
        let expected = if status < 300 { Ok((Vec::new(), head.len(), true)) } else { Err(line) };
        let heard = told(Dialect::Connect, signed, &said, said.len());
        prop_assert_eq!(heard.map_err(|refused| refused.to_string()), expected);
        is_consistent(Dialect::Connect, signed, &said);
    }

    #[test]
    fn a_dialogue_in_socks_is_understood(
        signed in any::<bool>(),
        signs_in in any::<bool>(),
        bound in prop_oneof![
            any::<[u8; 4]>().prop_map(|ip| [&[1][..], &ip].concat()),
            any::<[u8; 16]>().prop_map(|ip| [&[4][..], &ip].concat()),
            vec(any::<u8>(), 0..256).prop_map(|name| [&[3, name.len() as u8][..], &name].concat()),
        ],
        port in any::<[u8; 2]>(),
        payload in vec(any::<u8>(), 0..20),
    ) {
        let (first, sign_in) = match signed && signs_in {
            true => (&[5, 2, 1, 0][..], &b"\x01\x05moose\x0bsecret bell"[..]),
            false => (&[5, 0][..], &[][..]),
        };
        let reply = [first, &[5, 0, 0], &bound, &port].concat();
        let said = [&reply[..], &payload].concat();
        let answered = [sign_in, b"\x05\x01\0\x03\x03cow\x01\xbb"].concat();
        prop_assert_eq!(told(Dialect::Socks5, signed, &said, said.len()), Ok((answered, reply.len(), true)));
        is_consistent(Dialect::Socks5, signed, &said);
    }

    #[test]
    fn no_answer_surprises(
        dialect in select(&[Dialect::Connect, Dialect::Socks5][..]),
        signed in any::<bool>(),
        said in prop_oneof![
            babble(HTTP_ANSWERS),
            babble(SOCKS_ANSWERS),
            vec(any::<u8>(), 0..300),
        ],
    ) {
        is_consistent(dialect, signed, &said);
    }

    #[test]
    fn connect_says_where_to_twice_and_who_we_are_once(name in option::of(host_name()), to in address()) {
        let mut out = Vec::new();
        let target = name.as_deref().map_or(TunnelTarget::Address(to), |name| TunnelTarget::Name(name, to.port()));
        Dialogue::begin(Dialect::Connect, target, Some(&moose()), &mut out);
        let text = String::from_utf8(out).unwrap();
        let words: Vec<&str> = text.split("\r\n").collect();
        let place = name.map_or(canonical(to).to_string(), |name| format!("{name}:{}", to.port()));
        prop_assert_eq!(words[0], format!("CONNECT {place} HTTP/1.1"));
        prop_assert_eq!(words[1], format!("Host: {place}"));
        prop_assert_eq!(&words[2..], ["Proxy-Authorization: Basic bW9vc2U6c2VjcmV0IGJlbGw=", "", ""]);
    }
}
