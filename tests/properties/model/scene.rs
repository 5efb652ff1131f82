//! The scenes a relay is tried in: who speaks to whom in which way, and what must come of it.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::LazyLock;

use tproxy::testing::AddrPair;
use tproxy::testing::Credentials;
use tproxy::testing::HttpFilter;
use tproxy::testing::Peer;
use tproxy::testing::ProxyLayer;
use tproxy::testing::Tunnel;
use tproxy::testing::TunnelHandshake;
use tproxy::testing::request::{HEAD, Refusal, Requests, Rewriting};
use tproxy::testing::{Dialect, Dialogue, TunnelTarget};

use super::speech::{Hearing, Script};

/// How the upstream is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scene {
    /// As the client speaks.
    Plain,
    /// The same behind a PROXY header.
    Introduced,
    /// As to a proxy that is asked to connect us through: one of [`PROXIES`].
    Tunnel { proxy: usize },
    /// As to an HTTP proxy; the client makes one of [`TALKS`].
    Http {
        /// Which.
        talk: usize,
        /// The proxy that what is not HTTP goes through.
        tunnel: Option<usize>,
        /// `--host-check`.
        checks: bool,
    },
}

/// The PROXY header of [`Scene::Introduced`].
pub const HEADER: &[u8] = b"PROXY TCP4 10.1.0.2 10.2.0.5 40000 80\r\n";

/// A proxy: what it speaks, whether it knows us by name, and its answers, one for each of its turns.
#[derive(Debug)]
pub struct Proxy {
    dialect: Dialect,
    signed: bool,
    answers: &'static [&'static [u8]],
    grants: bool,
}

const fn proxy(dialect: Dialect, signed: bool, answers: &'static [&'static [u8]], grants: bool) -> Proxy {
    Proxy { dialect, signed, answers, grants }
}

/// Proxies that grant what they are asked for, and those that do not.
pub const PROXIES: &[Proxy] = &[
    proxy(Dialect::Connect, false, &[b"HTTP/1.1 200 OK\r\n\r\n"], true),
    proxy(Dialect::Connect, true, &[b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 Fine\r\nVia: cow\r\n\r\n"], true),
    proxy(Dialect::Socks5, false, &[b"\x05\0", b"\x05\0\0\x01\x0a\0\0\x01\0\x50"], true),
    proxy(Dialect::Socks5, true, &[b"\x05\x02", b"\x01\0", b"\x05\0\0\x03\x03cow\0\x50"], true),
    proxy(Dialect::Connect, false, &[b"HTTP/1.1 403 Forbidden\r\n\r\n"], false),
    proxy(Dialect::Socks5, false, &[b"\x05\0", b"\x05\x05\0\x01\0\0\0\0\0\0"], false),
    proxy(Dialect::Socks5, true, &[b"\x05\xff"], false),
];

/// The addresses of the connection that brings the requests.
pub static ADDRS: LazyLock<AddrPair> = LazyLock::new(|| AddrPair {
    client: SocketAddr::from(([10, 1, 0, 2], 40_000)),
    original: SocketAddr::from(([10, 2, 0, 5], 80)),
});

/// Whether a name that a client claims leads to where it was going.
pub fn is_genuine(name: &str) -> bool {
    name == "moose"
}

const CONNECT: &str = "CONNECT cow:443 HTTP/1.1\r\nHost: cow:443\r\n\r\n";
const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: cow\r\nConnection: upgrade\r\nUpgrade: web\r\n\r\n";

/// What the proxy answers to those of [`TALKS`] that ask for more than an answer.
fn decision(talk: &[u8]) -> &'static [u8] {
    match str::from_utf8(talk) {
        Ok(talk) if talk.starts_with(CONNECT) => b"HTTP/1.1 200 Connected\r\n\r\n",
        Ok(talk) if talk.starts_with(UPGRADE) => b"HTTP/1.1 101 Switching\r\n\r\n",
        Ok(talk) if talk.contains(UPGRADE) => {
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOKHTTP/1.1 404 x\r\nContent-Length: 0\r\n\r\n"
        }
        _ => b"",
    }
}

/// How far the proxy has come to decide about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decided {
    /// The answer is under way.
    Open,
    /// It has answered.
    Answered,
    /// It has ended without an answer.
    Never,
}

/// What clients say to a server, as far as it is meant as HTTP. Noise comes after it.
pub static TALKS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let get = |host| format!("GET /a HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let post = |length| format!("POST /b HTTP/1.1\r\nHost: moose\r\nContent-Length: {length}\r\n\r\n{}", body(length));
    let chunks = |size| {
        let chunk = format!("{size:x}\r\n{}\r\n", body(size));
        let head = "PUT /c HTTP/1.1\r\nHost: cow\r\nTransfer-Encoding: chunked\r\n\r\n";
        format!("{head}{chunk}3\r\nabc\r\n{chunk}0\r\nX: y\r\n\r\n")
    };
    let long = format!("GET / HTTP/1.1\r\nHost: moose\r\nX: {}\r\n\r\n", body(9000));
    let bad = "GET / HTTP/1.1\r\nHost : cow\r\n\r\n";
    [
        get("cow") + &get("moose") + &get("10.2.0.5") + &get("10.9.9.9"),
        post(40_000) + &get("moose"),
        chunks(20_000) + &get("cow"),
        chunks(10) + &post(3),
        get("moose") + bad,
        post(30_000) + bad,
        post(100) + bad,
        CONNECT.to_owned() + &body(40_000),
        UPGRADE.to_owned() + &body(40_000),
        get("moose") + UPGRADE + &get("moose") + &post(20_000),
        bad.to_owned(),
        String::new(),
        long.clone() + &long,
        get("moose") + &"X".repeat(HEAD + 10),
        "GET ".to_owned() + &"X".repeat(HEAD),
        chunks(40_000) + "junk",
    ]
    .map(String::into_bytes)
    .into()
});

fn body(length: usize) -> String {
    (0..length).map(|at| char::from(b'a' + (at % 23 + at / 1000) as u8 % 26)).collect()
}

/// What becomes of the beginning of a talk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewritten {
    /// What arrives at the proxy.
    pub words: Vec<u8>,
    /// What is wrong with it.
    pub refusal: Option<Refusal>,
    /// A head has begun.
    pub is_unfinished: bool,
}

/// Rewrites in one go, as the relay must do it in any number of pieces. tests/properties/request.rs has the proof that
/// the pieces do not matter.
pub fn rewritten(talk: &[u8], length: usize, checks: bool, decided: Decided) -> Rewritten {
    let said = &talk[..length];
    let rewriting = Rewriting { check_host: checks, ..Rewriting::default() };
    let (mut requests, mut words, mut at) = (Requests::new(), Vec::new(), 0);
    loop {
        let input = &said[at..said.len().min(at + HEAD)];
        match requests.take(input, &ADDRS, &rewriting, &mut words) {
            Err(refusal) => return Rewritten { words, refusal: Some(refusal), is_unfinished: false },
            Ok(taken) => {
                let (used, genuine) = (taken.used, taken.ask.map(is_genuine));
                at += used;
                match genuine {
                    Some(genuine) => requests.host_is(genuine),
                    None if requests.is_waiting() => match decided {
                        Decided::Open => return Rewritten { words, refusal: None, is_unfinished: false },
                        Decided::Answered => requests.answers.hear(decision(talk)).expect("an answer"),
                        Decided::Never => requests.answers.end(),
                    },
                    None if used == 0 => return Rewritten { words, refusal: None, is_unfinished: at < said.len() },
                    None => {}
                }
            }
        }
    }
}

/// What a proxy says, and when.
#[derive(Debug, Clone, Default)]
pub struct Manners {
    /// Where each of its answers ends, and how many bytes of ours it must have got before.
    turns: Vec<(u64, u64)>,
    /// Whether it has anything to say after that.
    pub is_silent_then: bool,
}

impl Manners {
    /// How many bytes it may say next.
    pub fn allow(&self, said: u64, heard: u64) -> u64 {
        match self.turns.iter().find(|(end, _)| said < *end) {
            Some((end, needed)) if heard >= *needed => end - said,
            Some(_) => 0,
            None if self.is_silent_then => 0,
            None => u64::MAX,
        }
    }
}

/// What is said and heard.
#[derive(Debug)]
pub struct Parts {
    /// What client and upstream say.
    pub scripts: [Script; 2],
    /// What client and upstream hear.
    pub hearings: [Hearing; 2],
    /// How the upstream behaves.
    pub manners: Manners,
    /// Bytes to the upstream that are no payload: the dialogue with a proxy.
    pub dialogue: u64,
    /// Whether the relay has nothing to say to the upstream before the client has spoken.
    pub words_wait: bool,
    /// Whether requests are rewritten, and their hosts checked.
    pub requests: Option<bool>,
}

impl Parts {
    /// The relay says `words` to the upstream, and everybody hears what the other says.
    fn new(client: &[u8], upstream: &[u8], words: &[u8]) -> Parts {
        Parts {
            scripts: [Script::new(Peer::Client, client), Script::new(Peer::Upstream, upstream)],
            hearings: [Hearing::new([], Some(upstream.len() as u64)), Hearing::new(words, Some(0))],
            manners: Manners::default(),
            dialogue: 0,
            words_wait: false,
            requests: None,
        }
    }

    /// The upstream is a proxy that is asked first.
    fn through(client: &[u8], proxy: &Proxy) -> Parts {
        let (_, words, manners) = proxy.dialogue();
        let dialogue = words.len() as u64;
        Parts { manners, dialogue, ..Parts::new(client, &proxy.answers.concat(), &words) }
    }

    fn requests(talk: &[u8], checks: bool) -> Parts {
        let rewritten = |decided| rewritten(talk, talk.len(), checks, decided).words;
        let hearings = [Hearing::new([], Some(0)), Hearing::new(rewritten(Decided::Answered), None)];
        let (answer, asked) = (decision(talk), rewritten(Decided::Open).len() as u64);
        let manners = Manners { turns: vec![(answer.len() as u64, asked)], is_silent_then: false };
        Parts { hearings, manners, words_wait: true, requests: Some(checks), ..Parts::new(talk, answer, b"") }
    }
}

/// A scene, ready to begin.
#[derive(Debug)]
pub struct Cast {
    /// Who says what.
    pub parts: Parts,
    /// And who does when the client turns out not to speak HTTP.
    pub other: Option<Box<Parts>>,
    /// What stands between them.
    pub layer: Option<Box<ProxyLayer>>,
}

impl Scene {
    /// Sets the scene.
    pub fn cast(self) -> Cast {
        match self {
            Scene::Plain => Cast { parts: Parts::new(b"", b"", b""), other: None, layer: None },
            Scene::Introduced => Cast { parts: Parts::new(b"", b"", HEADER), other: None, layer: None },
            Scene::Tunnel { proxy } => {
                let proxy = &PROXIES[proxy];
                let layer =
                    ProxyLayer::TunnelHandshake(TunnelHandshake::new(&proxy.dialogue().0, ADDRS.original, None));
                Cast { parts: Parts::through(b"", proxy), other: None, layer: Some(Box::new(layer)) }
            }
            Scene::Http { talk, tunnel, checks } => http(&TALKS[talk], tunnel.map(|proxy| &PROXIES[proxy]), checks),
        }
    }
}

fn http(talk: &[u8], proxy: Option<&Proxy>, checks: bool) -> Cast {
    let rewriting = Rc::new(Rewriting { check_host: checks, ..Rewriting::default() });
    let tunnel = proxy.map(|proxy| Rc::new(proxy.dialogue().0));
    let layer = Some(Box::new(ProxyLayer::HttpFilter(HttpFilter::new(*ADDRS, rewriting, tunnel))));
    let other = proxy.map(|proxy| Box::new(Parts { words_wait: true, ..Parts::through(talk, proxy) }));
    match other {
        Some(other) if talk.is_empty() => Cast { parts: *other, other: None, layer },
        other => Cast { parts: Parts::requests(talk, checks), other, layer },
    }
}

impl Proxy {
    /// What it is asked, and how it behaves.
    fn dialogue(&self) -> (Tunnel, Vec<u8>, Manners) {
        let credentials = self.signed.then(|| Credentials::parse("moose:secret").expect("credentials"));
        let tunnel = Tunnel { dialect: self.dialect, credentials, by_name: false };
        let (mut words, mut manners) = (Vec::new(), Manners::default());
        let target = TunnelTarget::Address(ADDRS.original);
        let mut dialogue = Dialogue::begin(self.dialect, target, tunnel.credentials.as_ref(), &mut words);
        let mut said = 0;
        for answer in self.answers {
            said += answer.len() as u64;
            manners.turns.push((said, words.len() as u64));
            // What it refuses with is of no interest here.
            let _ = dialogue.hear(answer, &mut words);
        }
        manners.is_silent_then = !self.grants;
        (tunnel, words, manners)
    }
}
