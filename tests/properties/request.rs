//! The requests of a client on their way to an HTTP proxy: what arrives are the same requests in absolute form, however
//! they were cut; whatever else is sent does no harm; and what could be understood in two ways is refused.

#[path = "request/model.rs"]
mod model;
#[path = "request/smuggling.rs"]
mod smuggling;

use std::net::{IpAddr, SocketAddr};

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use tproxy::testing::AddrPair;
use tproxy::testing::Credentials;
use tproxy::testing::request::{Forwarded, HEAD, Refusal, Requests, Rewriting};

use super::cases::cases;
use model::{AsRead, Request, read, request};

/// How what a client sends comes in.
#[derive(Debug, Clone)]
struct Cuts {
    /// Where one read ends and the next one begins.
    places: Vec<Index>,
    /// How many of the opaque bytes at hand pass without being shown, in turn.
    outside: Vec<Index>,
}

fn cuts() -> impl Strategy<Value = Cuts> {
    (vec(any::<Index>(), 0..8), vec(any::<Index>(), 1..4)).prop_map(|(places, outside)| Cuts { places, outside })
}

impl Cuts {
    fn none() -> Cuts {
        Cuts { places: Vec::new(), outside: Vec::new() }
    }

    fn pieces<'a>(&self, bytes: &'a [u8]) -> Vec<&'a [u8]> {
        let mut places: Vec<usize> = self.places.iter().map(|place| place.index(bytes.len() + 1)).collect();
        places.sort_unstable();
        let starts = [0].into_iter().chain(places.iter().copied());
        let addrs = places.iter().copied().chain([bytes.len()]);
        starts.zip(addrs).map(|(start, end)| &bytes[start..end]).collect()
    }
}

/// What became of a connection.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    out: Vec<u8>,
    end: Result<(), Refusal>,
    requests: u32,
    is_between: bool,
    /// What is left: the beginning of something.
    kept: Vec<u8>,
}

/// Whether a host that is asked for is believed.
fn is_believed(host: &str) -> bool {
    host.len().is_multiple_of(2)
}

/// What the proxy says to a request that asks for another protocol or for a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    Upgrade,
    Tunnel,
    Refusal,
}

impl Decision {
    fn answer(self) -> &'static [u8] {
        match self {
            Decision::Upgrade => b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
            Decision::Tunnel => b"HTTP/1.1 200 Connection established\r\n\r\n",
            Decision::Refusal => b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
        }
    }
}

fn decision() -> impl Strategy<Value = Decision> {
    select(vec![Decision::Upgrade, Decision::Tunnel, Decision::Refusal])
}

/// Relays what a client sends, with a buffer of the usual size. The proxy
/// refuses what it is asked for.
fn relayed(bytes: &[u8], cuts: &Cuts, addrs: &AddrPair, rewriting: &Rewriting) -> Outcome {
    relayed_by(Decision::Refusal, bytes, cuts, addrs, rewriting)
}

/// The same by a proxy that decides otherwise.
fn relayed_by(decision: Decision, bytes: &[u8], cuts: &Cuts, addrs: &AddrPair, rewriting: &Rewriting) -> Outcome {
    let mut requests = Requests::new();
    let mut answered = 0;
    let (mut out, mut kept) = (Vec::new(), Vec::new());
    let mut outside = cuts.outside.iter().cycle();
    let mut end = Ok(());
    for piece in cuts.pieces(bytes) {
        kept.extend_from_slice(piece);
        let mut asked = false;
        while end.is_ok() && !kept.is_empty() {
            let opaque = usize::try_from(requests.opaque()).unwrap_or(usize::MAX).min(kept.len());
            let skipped = outside.next().filter(|_| opaque > 0).map_or(0, |share| share.index(opaque + 1));
            out.extend(kept.drain(..skipped));
            requests.passed(skipped as u64);
            let input = &kept[..kept.len().min(HEAD)];
            match requests.take(input, addrs, rewriting, &mut out) {
                Ok(taken) => {
                    assert!(taken.used <= input.len());
                    assert!(taken.ask.is_none() || !asked || taken.used > 0, "asked again after the answer");
                    asked = taken.ask.is_some();
                    let (used, genuine) = (taken.used, taken.ask.map(is_believed));
                    kept.drain(..used);
                    match genuine {
                        Some(genuine) => requests.host_is(genuine),
                        None if requests.is_waiting() => {
                            let before = b"HTTP/1.1 204 No Content\r\n\r\n"
                                .repeat((requests.requests() - 1 - answered) as usize);
                            answered = requests.requests();
                            let heard = requests.answers.hear(&[&before, decision.answer()].concat());
                            end = heard.map_err(|_| Refusal::Answer);
                            assert!(end.is_err() || !requests.is_waiting());
                        }
                        None if used + skipped == 0 => break,
                        None => {}
                    }
                }
                Err(refusal) => end = Err(refusal),
            }
        }
    }
    Outcome { out, end, requests: requests.requests(), is_between: requests.is_between(), kept }
}

fn addrs() -> impl Strategy<Value = AddrPair> {
    let client = select(vec!["10.1.0.2:40000", "[fd00:1::2]:40000", "[::ffff:10.1.0.2]:40000"]);
    let original = select(vec!["10.2.0.5:80", "10.2.0.5:8080", "[fd00:2::5]:80", "[fd00:2::5]:8080"]);
    let address = |text: &str| text.parse::<SocketAddr>().expect("address");
    (client, original)
        .prop_map(move |(client, original)| AddrPair { client: address(client), original: address(original) })
}

const PAGE: &str = "http://cow/closed.html";

fn rewriting() -> impl Strategy<Value = Rewriting> {
    let forwarded = select(vec![Forwarded::No, Forwarded::Standard, Forwarded::XForwardedFor, Forwarded::Both]);
    let credentials = Credentials { user: "cow".to_owned(), password: "moo".to_owned() };
    let page = option::weighted(0.2, Just(PAGE.to_owned()));
    (forwarded, option::of(Just(credentials)), page, any::<bool>()).prop_map(
        |(forwarded, credentials, page, check_host)| Rewriting {
            forwarded,
            credentials,
            page,
            check_host,
            ..Rewriting::default()
        },
    )
}

/// Bytes that one request may add: a scheme, an address, and the headers that are wanted.
const ADDED: usize = 300;

fn bytes_of(requests: &[Request]) -> Vec<u8> {
    requests.iter().flat_map(Request::bytes).collect()
}

fn all_as_read(requests: &[Request], addrs: &AddrPair) -> Vec<AsRead> {
    requests.iter().map(|request| request.as_read(addrs)).collect()
}

/// Requests that ask for a switch, and what grants it.
const SWITCHES: [(Decision, &[u8]); 2] = [
    (Decision::Tunnel, b"CONNECT cow:443 HTTP/1.1\r\nHost: cow:443\r\n\r\n"),
    (
        Decision::Upgrade,
        b"GET http://cow/ HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
];

/// Bytes that are inserted, or put in place of others.
#[derive(Debug, Clone)]
enum Damage {
    Replace(Index, u8),
    Insert(Index, &'static [u8]),
    Cut(Index, Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    let pieces: Vec<&[u8]> = vec![
        b"\r",
        b"\n",
        b"\r\n",
        b"\r\n\r\n",
        b" ",
        b"\t",
        b":",
        b"\0",
        b"0",
        b"f",
        b";",
        b",",
        b"\x0b",
        b"\x7f",
        b"\xff",
        b"HTTP/1.1",
        b"HTTP/1.0",
        b"Host: a\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Content-Length: 3\r\n",
        b"Connection: upgrade\r\nUpgrade: h2c\r\n",
        b"Connection: upgrade\r\nUpgrade: x\r\n",
        b"CONNECT a:1 HTTP/1.1\r\n",
        b"PRI * HTTP/2.0\r\n\r\n",
        b"GET / HTTP/1.1\r\n",
        b"0\r\n\r\n",
        b"9223372036854775807",
    ];
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Replace(at, byte)),
        (any::<Index>(), select(pieces)).prop_map(|(at, piece)| Damage::Insert(at, piece)),
        (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Damage::Cut(from, to)),
    ]
}

fn damaged(mut bytes: Vec<u8>, damages: &[Damage]) -> Vec<u8> {
    for damage in damages {
        let place = |at: &Index| at.index(bytes.len() + 1);
        match damage {
            Damage::Replace(at, byte) if !bytes.is_empty() => {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            Damage::Replace(..) => {}
            Damage::Insert(at, piece) => {
                let at = place(at);
                bytes.splice(at..at, piece.iter().copied());
            }
            Damage::Cut(from, to) => {
                let (from, to) = (place(from), place(to));
                // Short cuts do more interesting things than long ones.
                bytes.drain(from.min(to)..from.max(to).min(from.min(to) + 8));
            }
        }
    }
    bytes
}

/// No panic, no more bytes than there is reason for, and the same whether it comes in pieces or as a whole.
fn does_no_harm(
    bytes: &[u8],
    cuts: &Cuts,
    addrs: &AddrPair,
    rewriting: &Rewriting,
    decision: Decision,
) -> Result<(), TestCaseError> {
    let outcome = relayed_by(decision, bytes, cuts, addrs, rewriting);
    prop_assert!(outcome.out.len() <= bytes.len() + outcome.requests as usize * ADDED);
    if outcome.end == Err(Refusal::NotHttp) {
        prop_assert_eq!((outcome.out.len(), outcome.requests), (0, 0));
        prop_assert!(bytes.starts_with(&outcome.kept));
    }
    let whole = relayed_by(decision, bytes, &Cuts::none(), addrs, rewriting);
    prop_assert_eq!(&outcome.out, &whole.out);
    prop_assert_eq!(outcome.end, whole.end);
    prop_assert_eq!(outcome.requests, whole.requests);
    if outcome.end.is_ok() {
        prop_assert_eq!((outcome.kept, outcome.is_between), (whole.kept, whole.is_between));
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases(2_000))]

    #[test]
    fn valid_requests_arrive_the_same_in_absolute_form(
        requests in vec(request(), 1..4),
        cuts in cuts(),
        addrs in addrs(),
    ) {
        let outcome = relayed(&bytes_of(&requests), &cuts, &addrs, &Rewriting::default());
        prop_assert_eq!(outcome.end, Ok(()));
        prop_assert!(outcome.kept.is_empty() && outcome.is_between);
        prop_assert_eq!(outcome.requests as usize, requests.len());
        prop_assert_eq!(read(&outcome.out), all_as_read(&requests, &addrs));
    }

    #[test]
    fn what_follows_a_switch_that_is_granted_arrives_as_it_is(
        requests in vec(request(), 0..3),
        (decision, last) in select(&SWITCHES[..]),
        behind in vec(any::<u8>(), 0..100),
        cuts in cuts(),
        addrs in addrs(),
    ) {
        let sent = [&bytes_of(&requests), last, &behind].concat();
        let outcome = relayed_by(decision, &sent, &cuts, &addrs, &Rewriting::default());
        prop_assert_eq!(outcome.end, Ok(()));
        prop_assert!(outcome.kept.is_empty() && !outcome.is_between);
        let rest = outcome.out.strip_suffix(&behind[..]).and_then(|out| out.strip_suffix(last));
        prop_assert_eq!(rest.map(read), Some(all_as_read(&requests, &addrs)));
    }

    #[test]
    fn what_follows_a_switch_that_is_refused_is_read_as_if_nobody_had_asked_for_it(
        requests in vec(request(), 0..3),
        (_, switch) in select(&SWITCHES[..]),
        behind in vec(request(), 1..3),
        damages in vec(damage(), 0..2),
        cuts in cuts(),
        addrs in addrs(),
    ) {
        let behind = damaged(bytes_of(&behind), &damages);
        let plain = b"GET http://cow/ HTTP/1.1\r\n\r\n";
        let outcome = relayed(&[&bytes_of(&requests), switch, &behind].concat(), &cuts, &addrs, &Rewriting::default());
        let wanted = relayed(&[&plain[..], &behind].concat(), &Cuts::none(), &addrs, &Rewriting::default());
        prop_assert_eq!(outcome.end, wanted.end);
        let before = relayed(&[&bytes_of(&requests), switch].concat(), &Cuts::none(), &addrs, &Rewriting::default());
        let rest = outcome.out.strip_prefix(&before.out[..]).map(<[u8]>::escape_ascii);
        prop_assert_eq!(rest.map(|rest| rest.to_string()), Some(wanted.out[plain.len()..].escape_ascii().to_string()));
    }

    #[test]
    fn heads_that_could_be_understood_in_two_ways_are_refused(
        before in vec(request(), 0..3),
        (kind, bad) in smuggling::head(),
        cuts in cuts(),
        addrs in addrs(),
    ) {
        let good = bytes_of(&before);
        let outcome = relayed(&[&good[..], &bad].concat(), &cuts, &addrs, &Rewriting::default());
        prop_assert!(matches!(outcome.end, Err(Refusal::Malformed(_))), "{}: {:?}", kind, outcome.end);
        let whole = relayed(&good, &Cuts::none(), &addrs, &Rewriting::default());
        prop_assert_eq!(outcome.out, whole.out, "{}", kind);
    }

    #[test]
    fn chunks_that_could_be_understood_in_two_ways_are_refused(
        before in vec(request(), 0..3),
        (kind, bad) in smuggling::chunks(),
        cuts in cuts(),
        addrs in addrs(),
    ) {
        let sent = [&bytes_of(&before)[..], &bad].concat();
        let outcome = relayed(&sent, &cuts, &addrs, &Rewriting::default());
        prop_assert!(matches!(outcome.end, Err(Refusal::Malformed(_))), "{}: {:?}", kind, outcome.end);
        prop_assert_eq!(outcome.requests as usize, before.len() + 1, "{}", kind);
    }

    #[test]
    fn damaged_requests_do_no_harm(
        requests in vec(request(), 1..4),
        damages in vec(damage(), 1..4),
        cuts in cuts(),
        addrs in addrs(),
        rewriting in rewriting(),
        decision in decision(),
    ) {
        does_no_harm(&damaged(bytes_of(&requests), &damages), &cuts, &addrs, &rewriting, decision)?;
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(
        bytes in vec(any::<u8>(), 0..200),
        behind in option::of(request()),
        cuts in cuts(),
        addrs in addrs(),
        rewriting in rewriting(),
        decision in decision(),
    ) {
        let bytes = [behind.map_or(Vec::new(), |request| request.bytes()), bytes].concat();
        does_no_harm(&bytes, &cuts, &addrs, &rewriting, decision)?;
    }
}
