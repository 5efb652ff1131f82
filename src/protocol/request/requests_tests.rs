use super::*;

use crate::protocol::credentials::Credentials;
use crate::protocol::request::forwarded::Forwarded;
use crate::protocol::request::{HEAD, authority};

fn addrs(client: &str, original: &str) -> AddrPair {
    AddrPair { client: client.parse().unwrap(), original: original.parse().unwrap() }
}

fn usual_addrs() -> AddrPair {
    addrs("10.1.0.2:40000", "10.2.0.5:80")
}

/// A client, and what we make of what it sends.
struct Client {
    requests: Requests,
    addrs: AddrPair,
    rewriting: Rewriting,
    kept: Vec<u8>,
    out: Vec<u8>,
}

impl Client {
    fn new() -> Client {
        Client::with(usual_addrs(), Rewriting::default())
    }

    fn with(addrs: AddrPair, rewriting: Rewriting) -> Client {
        Client { requests: Requests::new(), addrs, rewriting, kept: Vec::new(), out: Vec::new() }
    }

    /// The name that is asked for, if one is.
    fn sends(&mut self, bytes: impl AsRef<[u8]>) -> Result<Option<String>, Refusal> {
        self.kept.extend_from_slice(bytes.as_ref());
        let taken = self.requests.take(&self.kept, &self.addrs, &self.rewriting, &mut self.out)?;
        let (used, ask) = (taken.used, taken.ask.map(str::to_owned));
        self.kept.drain(..used);
        Ok(ask)
    }

    /// The proxy sends this.
    fn hears(&mut self, answer: &str) {
        assert_eq!(self.requests.answers.hear(answer.as_bytes()), Ok(()), "{answer:?}");
    }

    fn answered(&mut self, genuine: bool) -> Option<String> {
        self.requests.host_is(genuine);
        self.sends("").unwrap()
    }

    /// What has gone to the proxy since it was last asked.
    fn out(&mut self) -> String {
        String::from_utf8(mem::take(&mut self.out)).unwrap()
    }
}

fn sent(addrs: AddrPair, rewriting: Rewriting, bytes: &str) -> String {
    let mut client = Client::with(addrs, rewriting);
    assert_eq!(client.sends(bytes), Ok(None), "{bytes:?}");
    assert!(client.kept.is_empty(), "{bytes:?}");
    client.out()
}

fn becomes(bytes: &str) -> String {
    sent(usual_addrs(), Rewriting::default(), bytes)
}

fn refusal(bytes: &str) -> Option<Refusal> {
    Client::new().sends(bytes).err()
}

#[test]
fn a_connection_needs_little_memory() {
    assert!(size_of::<Requests>() <= 96, "{}", size_of::<Requests>());
}

#[test]
fn origin_form_becomes_absolute_form_and_nothing_else_changes() {
    let rest = "HTTP/1.1\r\nuser-AGENT:  x \r\nHost: moose\r\nX:\r\nAccept:\t*/* \r\nX: y\r\n\r\n";
    assert_eq!(becomes(&format!("GET /a?b=c {rest}")), format!("GET http://moose/a?b=c {rest}"));
    assert_eq!(becomes(&format!("M-SEARCH / {rest}")), format!("M-SEARCH http://moose/ {rest}"));
    assert_eq!(becomes(&format!("GET //cow/ {rest}")), format!("GET http://moose//cow/ {rest}"));
}

#[test]
fn without_a_valid_host_the_original_destination_stands_in() {
    let table = [("10.2.0.5:80", "10.2.0.5"), ("10.2.0.5:8080", "10.2.0.5:8080"), ("[fd00:2::5]:81", "[fd00:2::5]:81")];
    for (original, authority) in table {
        for headers in
            ["", "Host:\r\n", "Host: user@cow\r\n", "Host: cow/x\r\n", "Host: cow moose\r\n", "Host: a:b\r\n"]
        {
            let request = |url: &str, host: &str| format!("GET {url}/x HTTP/1.0\r\n{host}\r\n");
            let out = sent(addrs("10.1.0.2:40000", original), Rewriting::default(), &request("", headers));
            let host = if headers.is_empty() { String::new() } else { format!("Host: {authority}\r\n") };
            assert_eq!(out, request(&format!("http://{authority}"), &host), "{headers:?}");
        }
    }
}

#[test]
fn absolute_form_and_connect_pass_unchanged() {
    for request in [
        "GET http://cow:81/a HTTP/1.1\r\nHost: COW:81\r\n\r\n",
        "GET http://cow:80/a?b=c://d/ HTTP/1.1\r\nHost: cow\r\n\r\n",
        "GET https://cow HTTP/1.0\r\n\r\n",
        "GET ftp://cow/a HTTP/1.0\r\nHost: cow\r\n\r\n",
        "CONNECT cow:443 HTTP/1.1\r\nHost: cow:443\r\n\r\n",
        "CONNECT cow:443 HTTP/1.1\r\n\r\n",
    ] {
        assert_eq!(becomes(request), request);
    }
}

#[test]
fn the_host_line_agrees_with_the_target() {
    let table = [
        ("GET http://cow:81/a", "moose", "cow:81"),
        ("GET http://cow/a?http://moose/", "moose", "cow"),
        ("GET http://cow?a", "", "cow"),
        ("CONNECT cow:443", "moose:443", "cow:443"),
        ("CONNECT cow:443", "cow:80", "cow:443"),
    ];
    for (line, host, wanted) in table {
        // Whatever stands around it, and in whatever order.
        for (before, behind) in [("", ""), ("A: b\r\n", "C: d\r\n")] {
            let request = |host: &str| format!("{line} HTTP/1.1\r\n{before}{host}\r\n{behind}\r\n");
            let out = becomes(&request(&format!("hOST:{host}")));
            assert_eq!(out, request(&format!("Host: {wanted}")), "{line} {host}");
        }
    }
    for lines in ["Host: a\r\nProxy-Authorization: b\r\nC: d\r\n", "Proxy-Authorization: b\r\nHost: a\r\nC: d\r\n"] {
        let out = sent(usual_addrs(), with_credentials(), &format!("GET http://cow/ HTTP/1.1\r\n{lines}\r\n"));
        let ours = "Proxy-Authorization: Basic Y293Om1vbw==\r\n";
        assert_eq!(out, format!("GET http://cow/ HTTP/1.1\r\nHost: cow\r\nC: d\r\n{ours}\r\n"));
    }
}

#[test]
fn a_host_that_not_everybody_understands_in_the_same_way_is_not_passed_on() {
    for url in [
        "http://127.1/",
        "http://0x7f.1/",
        "http://2130706433/",
        "http://127.0.0.1./",
        "http://0177.0.0.1/",
        "http://[::1%25lo]/",
        "http://[::1/",
        "http://moose@127.0.0.1/",
        "http://127.0.0.1:80@moose/",
        "http://127.0.0.1\\@moose/",
        "http:///127.0.0.1/",
        "http://127.0.0.1%2f/",
        "http://moose\\.cow/",
        "ftp://me:secret@localhost/",
        "gopher://127.1/",
    ] {
        let out = becomes(&request_to("moose", url));
        let (line, rest) = out.split_once("\r\n").unwrap();
        assert!(line.starts_with("GET http://10.2.0.5"), "{url}: {line}");
        assert!(line.strip_prefix("GET http://10.2.0.5").unwrap().starts_with([' ', '/']), "{url}: {line}");
        assert_eq!(rest, "Host: 10.2.0.5\r\n\r\n", "{url}");
    }
}

#[test]
fn an_address_and_a_name_of_this_host_are_asked_for_though_hosts_are_not_checked() {
    for (target, host, asked) in [
        ("/a", "127.0.0.1", "127.0.0.1"),
        ("/a", "[::1]:3128", "::1"),
        ("/a", "LocalHost", "LocalHost"),
        ("http://a.localhost./a", "moose", "a.localhost."),
        ("https://10.2.0.6/a", "moose", "10.2.0.6"),
        ("gopher://localhost/info", "moose", "localhost"),
    ] {
        let mut client = Client::new();
        assert_eq!(client.sends(request_to(host, target)), Ok(Some(asked.to_owned())));
        assert_eq!((client.answered(false), client.out().contains("10.2.0.5")), (None, true));
        let mut client = Client::new();
        client.sends(request_to(host, target)).unwrap();
        assert_eq!((client.answered(true), client.out().contains(asked)), (None, true));
    }
    let connect = |target: &str| format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
    let mut client = Client::new();
    assert_eq!(client.sends(connect("127.0.0.1:22")), Ok(Some("127.0.0.1".to_owned())));
    assert_eq!(client.answered(false), None);
    assert_eq!(client.out(), connect("10.2.0.5:80"));
}

#[test]
fn an_asterisk_becomes_the_server() {
    let request = |target| format!("OPTIONS {target} HTTP/1.1\r\nHost: moose\r\n\r\n");
    assert_eq!(becomes(&request("*")), request("http://moose"));
    assert_eq!(becomes("OPTIONS * HTTP/1.0\r\n\r\n"), "OPTIONS http://10.2.0.5 HTTP/1.0\r\n\r\n");
    assert_eq!(refusal("GET * HTTP/1.1\r\n\r\n"), Some(Refusal::Malformed("the target")));
}

#[test]
fn every_request_of_a_connection_is_rewritten() {
    let mut client = Client::new();
    for (count, path) in ["/a", "/b", "/c"].into_iter().enumerate() {
        assert_eq!(client.requests.requests(), count as u32);
        client.sends(format!("GET {path} HTTP/1.1\r\nHost: moose\r\n\r\n")).unwrap();
        assert_eq!(client.out(), format!("GET http://moose{path} HTTP/1.1\r\nHost: moose\r\n\r\n"));
        assert!(client.requests.is_between());
    }
}

#[test]
fn pipelined_requests_and_their_bodies_are_taken_at_once() {
    let requests = |url: &str| {
        [
            format!("GET {url}/a HTTP/1.1\r\nHost: moose\r\n\r\n"),
            format!("POST {url}/b HTTP/1.1\r\nHost: moose\r\nContent-Length: 5\r\n\r\nhello"),
            format!("PUT {url}/c HTTP/1.1\r\nHost: moose\r\nTransfer-Encoding: chunked\r\n\r\n"),
            "3;a=b\r\nabc\r\n1\r\n\r\r\n0\r\nDigest: x\r\n\r\n".to_owned(),
            format!("GET {url}/d HTTP/1.1\r\nHost: moose\r\n\r\n"),
        ]
        .concat()
    };
    assert_eq!(becomes(&requests("")), requests("http://moose"));
}

#[test]
fn an_incomplete_head_is_not_used() {
    let mut client = Client::new();
    client.sends("GET / HTTP/1.1\r\nHost: moose\r\n\r").unwrap();
    assert_eq!((client.kept.len(), client.out().as_str()), (30, ""));
    assert!(!client.requests.is_between());
    assert_eq!(client.requests.opaque(), 0);
}

#[test]
fn a_body_may_pass_outside() {
    let mut client = Client::new();
    client.sends("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nab").unwrap();
    assert_eq!(client.requests.opaque(), 8);
    client.requests.passed(5);
    assert_eq!(client.requests.opaque(), 3);
    assert!(!client.requests.is_between());
    client.requests.passed(3);
    assert_eq!(client.requests.opaque(), 0);
    assert!(client.requests.is_between());
    client.out();
    client.sends("GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!(client.out(), "GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n");
}

#[test]
fn the_data_of_a_chunk_may_pass_outside_and_its_frame_does_not() {
    let mut client = Client::new();
    client.sends("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n").unwrap();
    assert_eq!(client.requests.opaque(), 255);
    client.requests.passed(255);
    assert_eq!(client.requests.opaque(), 0);
    assert!(!client.requests.is_between());
    client.sends("\r\n0\r\n").unwrap();
    assert!(!client.requests.is_between());
    client.sends("\r\n").unwrap();
    assert!(client.requests.is_between());
}

#[test]
fn a_body_of_no_bytes_is_none() {
    let mut client = Client::new();
    client.sends("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").unwrap();
    assert_eq!(client.requests.opaque(), 0);
    assert!(client.requests.is_between());
}

#[test]
fn a_body_may_be_as_long_as_a_signed_number_can_say() {
    let mut client = Client::new();
    client.sends(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", i64::MAX)).unwrap();
    assert_eq!(client.requests.opaque(), i64::MAX as u64);
}

#[test]
fn an_expectation_passes() {
    let mut client = Client::new();
    client.sends("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n").unwrap();
    assert!(client.out().contains("\r\nExpect: 100-continue\r\n"));
    assert_eq!(client.requests.opaque(), 3);
}

const UPGRADE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\n";

#[test]
fn behind_connect_all_waits_and_is_opaque_when_the_proxy_agrees() {
    let connect = "CONNECT cow:443 HTTP/1.1\r\n\r\n";
    let mut client = Client::new();
    client.sends(format!("{connect}\x16\x03\x01")).unwrap();
    assert_eq!((client.out().as_str(), client.kept.len()), (connect, 3));
    assert!(client.requests.is_waiting() && !client.requests.is_between());
    assert_eq!(client.requests.opaque(), 0);
    client.hears("HTTP/1.1 200 Connection established\r\n\r\n");
    assert_eq!(client.requests.opaque(), u64::MAX);
    client.sends("").unwrap();
    assert_eq!(client.out(), "\x16\x03\x01");
    client.requests.passed(u64::MAX);
    client.sends("GET / HTTP/1.1\n\n").unwrap();
    assert_eq!(client.out(), "GET / HTTP/1.1\n\n");
    assert!(!client.requests.is_between() && !client.requests.is_waiting());
}

#[test]
fn behind_an_upgrade_and_its_body_all_waits_and_is_opaque_when_the_proxy_agrees() {
    for (framing, body) in
        [("", ""), ("Content-Length: 3\r\n", "abc"), ("Transfer-Encoding: chunked\r\n", "1\r\na\r\n0\r\n\r\n")]
    {
        let head = |url| format!("GET {url}/ HTTP/1.1\r\nHost: a\r\n{UPGRADE}{framing}\r\n{body}");
        let behind = "GET /b HTTP/1.1\r\nHost: a\r\n\r\n\0";
        let mut client = Client::new();
        client.sends(head("") + behind).unwrap();
        assert_eq!((client.out(), client.kept.as_slice()), (head("http://a"), behind.as_bytes()));
        client.hears("HTTP/1.1 101 Switching Protocols\r\n\r\n");
        client.sends("").unwrap();
        assert_eq!(client.out(), behind);
        assert_eq!(client.requests.opaque(), u64::MAX);
    }
}

#[test]
fn a_body_goes_on_behind_an_early_answer() {
    for (answer, opaque) in [("101 Switching Protocols", true), ("404 Not Found\r\nContent-Length: 0", false)] {
        let mut client = Client::new();
        client.sends(format!("POST / HTTP/1.1\r\nHost: a\r\n{UPGRADE}Content-Length: 4\r\n\r\nab")).unwrap();
        client.hears(&format!("HTTP/1.1 {answer}\r\n\r\n"));
        assert_eq!(client.requests.opaque(), 2);
        client.out();
        client.sends("cdGET /b HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let url = if opaque { "" } else { "http://a" };
        assert_eq!(client.out(), format!("cdGET {url}/b HTTP/1.1\r\nHost: a\r\n\r\n"));
    }
}

#[test]
fn when_the_proxy_does_not_agree_requests_follow() {
    for head in
        ["GET http://a/ HTTP/1.1\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n", "CONNECT a:1 HTTP/1.1\r\n\r\n"]
    {
        let mut client = Client::new();
        for _ in 0..3 {
            client.sends([head, "GET /b HTTP/1.1\r\nHost: a\r\n\r\n"].concat()).unwrap();
            assert_eq!(client.out(), head);
            client.hears("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
            client.sends("").unwrap();
            assert_eq!(client.out(), "GET http://a/b HTTP/1.1\r\nHost: a\r\n\r\n");
            client.hears("HTTP/1.1 204 No Content\r\n\r\n");
        }
        let refusal = client.sends("PRI * HTTP/2.0\r\n\r\n");
        assert_eq!(refusal, Err(Refusal::Malformed("the version")), "nobody agreed to it");
    }
}

#[test]
fn nothing_is_asked_for_behind_an_answer_that_was_not_understood() {
    let get = "GET http://a/ HTTP/1.1\r\n\r\n";
    for head in ["GET http://a/ HTTP/1.1\r\nUpgrade: a\r\nConnection: Upgrade\r\n\r\n", "CONNECT a:1 HTTP/1.1\r\n\r\n"]
    {
        let mut client = Client::new();
        client.sends(get).unwrap();
        client.hears("ICY 200 OK\r\n\r\n");
        client.sends(get).unwrap();
        assert_eq!(client.out(), get.repeat(2));
        assert_eq!(client.sends(head), Err(Refusal::Answer));
        assert_eq!(client.out(), "");
    }
}

#[test]
fn empty_lines_before_a_request_are_dropped() {
    let request = |url| format!("POST {url}/ HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx");
    let (before, after) = (request(""), request("http://a"));
    for blank in ["\r\n", "\n", "\r\n\r\n", "\n\n\r\n\n", &"\r\n".repeat(BLANK / 2)] {
        let sent = format!("{blank}{before}{blank}{before}{blank}{before}");
        assert_eq!(becomes(&sent), after.repeat(3), "{blank:?}");
        let mut client = Client::new();
        sent.bytes().for_each(|byte| assert_eq!(client.sends([byte]), Ok(None)));
        assert_eq!(client.out(), after.repeat(3), "{blank:?}");
    }
}

#[test]
fn the_client_may_fall_silent_behind_empty_lines() {
    let mut client = Client::new();
    client.sends("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx\n\r").unwrap();
    assert!(!client.requests.is_between());
    client.sends("\n").unwrap();
    assert!(client.requests.is_between());
    assert!(client.kept.is_empty());
}

#[test]
fn a_carriage_return_alone_and_endless_empty_lines_are_refused() {
    let wrong = Some(Refusal::Malformed("empty lines before a request"));
    let request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    for blank in ["\r\r\n", "\r\n\r", "\rG", "\n\r\t", &"\n".repeat(BLANK + 1)] {
        assert_eq!(refusal(&format!("{blank}{request}")), wrong, "{blank:?}");
        assert_eq!(refusal(&format!("{request}{blank}{request}")), wrong, "{blank:?}");
    }
    let mut client = Client::new();
    client.sends(request).unwrap();
    let refused = (0..=BLANK).find_map(|count| client.sends("\n").err().map(|refusal| (count, refusal)));
    assert_eq!(refused, wrong.map(|wrong| (BLANK, wrong)));
}

#[test]
fn a_target_may_have_bytes_beyond_ascii() {
    for target in [&b"/k\xfche?\x80\xff"[..], "/kühe?\u{85}\u{a0}".as_bytes()] {
        for (before, after) in [("", "http://a"), ("http://A:80", "http://A:80")] {
            let request = |url: &str| [b"GET ", url.as_bytes(), target, b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
            let mut client = Client::new();
            client.sends(request(before)).unwrap();
            assert_eq!(client.out, request(after));
        }
    }
}

#[test]
fn what_is_not_http_is_known_at_once_and_nothing_of_it_is_used() {
    for bytes in ["\x16", "SSH-2.0-x\r\n", "PRI * HTTP/2.0\r\n", "\0", "EHLO cow\r\n", "\r\n\x16", "\r\nEHLO cow\r\n"] {
        let mut client = Client::new();
        for byte in bytes.bytes().take(bytes.len() - 1) {
            assert_eq!(client.sends([byte]), Ok(None), "{bytes:?}");
        }
        let kept = client.kept.clone();
        assert_eq!(client.sends(&bytes[bytes.len() - 1..]), Err(Refusal::NotHttp), "{bytes:?}");
        assert_eq!(kept, bytes.as_bytes()[..bytes.len() - 1], "{bytes:?}");
        assert_eq!(client.out(), "", "{bytes:?}");
    }
}

#[test]
fn after_a_request_nothing_is_not_http() {
    for bytes in ["\x16", "EHLO cow\r\n\r\n"] {
        let refusal = refusal(&format!("GET / HTTP/1.1\r\nHost: a\r\n\r\n{bytes}"));
        assert_ne!(refusal, Some(Refusal::NotHttp), "{bytes:?}");
    }
    let refused = refusal("GET / HTTP/1.1\r\nHost: a\r\n\r\nEHLO cow\r\n\r\n");
    assert_eq!(refused, Some(Refusal::Malformed("the request line")));
}

#[test]
fn what_came_before_a_refused_request_is_there() {
    let mut client = Client::new();
    let refusal = client.sends("GET /a HTTP/1.0\r\n\r\nGET /b HTTP/1.0\r\n b\r\n\r\n");
    assert_eq!(refusal, Err(Refusal::Malformed("the name of a field")));
    assert_eq!(client.out(), "GET http://10.2.0.5/a HTTP/1.0\r\n\r\n");
}

#[test]
fn a_head_may_fill_the_buffer_and_not_more() {
    let head = |size: usize| {
        let frame = "GET / HTTP/1.1\r\nA: \r\n\r\n".len();
        format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "a".repeat(size - frame))
    };
    assert!(Client::new().sends(head(HEAD)).is_ok());
    assert_eq!(refusal(&head(HEAD + 1)), Some(Refusal::TooLong));
    assert_eq!(refusal(&head(HEAD + 1)[..HEAD]), Some(Refusal::TooLong));
    assert_eq!(refusal(&"a".repeat(HEAD)), Some(Refusal::TooLong));
    assert_eq!(refusal(&format!("\r\n{}", &head(HEAD)[..HEAD - 2])), Some(Refusal::TooLong), "the line counts");
}

#[test]
fn a_trailer_is_limited_like_a_head() {
    let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n";
    let mut client = Client::new();
    client.sends(chunked).unwrap();
    assert_eq!(client.sends("A: ".to_owned() + &"a".repeat(HEAD)), Err(Refusal::TooLong));
    assert_eq!(refusal(&format!("{chunked}A: b\n\r\n")), Some(Refusal::Malformed("a bare LF")));
    assert_eq!(refusal(&format!("{chunked}A: b\r\n c\r\n\r\n")), Some(Refusal::Malformed("the name of a field")));
}

#[test]
fn the_proxy_is_told_who_the_client_is() {
    let added = |forwarded, client| {
        let rewriting = Rewriting { forwarded, ..Rewriting::default() };
        let out = sent(addrs(client, "10.2.0.5:80"), rewriting, "GET / HTTP/1.0\r\nForwarded: for=cow\r\n\r\n");
        let rest = out.strip_prefix("GET http://10.2.0.5/ HTTP/1.0\r\nForwarded: for=cow\r\n").unwrap();
        rest.strip_suffix("\r\n").unwrap().to_owned()
    };
    let (v4, v6) = ("10.1.0.2:40000", "[fd00:1::2]:40000");
    assert_eq!(added(Forwarded::No, v4), "");
    assert_eq!(added(Forwarded::Standard, v4), "Forwarded: for=10.1.0.2\r\n");
    assert_eq!(added(Forwarded::Standard, v6), "Forwarded: for=\"[fd00:1::2]\"\r\n");
    assert_eq!(added(Forwarded::XForwardedFor, v4), "X-Forwarded-For: 10.1.0.2\r\n");
    assert_eq!(added(Forwarded::XForwardedFor, v6), "X-Forwarded-For: fd00:1::2\r\n");
    assert_eq!(added(Forwarded::Both, v4), "Forwarded: for=10.1.0.2\r\nX-Forwarded-For: 10.1.0.2\r\n");
    assert_eq!(added(Forwarded::Standard, "[::ffff:10.1.0.2]:4"), "Forwarded: for=10.1.0.2\r\n");
}

#[test]
fn quotes_of_the_client_swallow_no_address_that_is_added() {
    let request = |lines: &str| format!("GET http://a/ HTTP/1.0\r\n{lines}\r\n");
    let sent =
        |forwarded, lines: &str| sent(usual_addrs(), Rewriting { forwarded, ..Rewriting::default() }, &request(lines));
    let closed = "Forwarded: for=\"[fd00::2]\"\r\n";
    for open in ["Forwarded: for=\"cow\r\n", "fOrwarded:\t\"\r\n", "Forwarded: for=\"a\\\"\r\n"] {
        for (lines, rest) in [(open.to_owned(), ""), ([open, closed, open].concat(), closed)] {
            let added = "Forwarded: for=10.1.0.2\r\n";
            assert_eq!(sent(Forwarded::Standard, &lines), request(&[rest, added].concat()), "{lines:?}");
            let added = [rest, added, "X-Forwarded-For: 10.1.0.2\r\n"].concat();
            assert_eq!(sent(Forwarded::Both, &lines), request(&added), "{lines:?}");
        }
        assert_eq!(sent(Forwarded::No, open), request(open));
        let added = [open, "X-Forwarded-For: 10.1.0.2\r\n"].concat();
        assert_eq!(sent(Forwarded::XForwardedFor, open), request(&added));
    }
}

fn with_credentials() -> Rewriting {
    let credentials = Credentials { user: "cow".to_owned(), password: "moo".to_owned() };
    Rewriting { credentials: Some(credentials), ..Rewriting::default() }
}

#[test]
fn the_credentials_are_added_to_every_request() {
    let request = "GET http://a/ HTTP/1.0\r\n\r\nCONNECT a:443 HTTP/1.0\r\n\r\n";
    let out = sent(usual_addrs(), with_credentials(), request);
    let line = "Proxy-Authorization: Basic Y293Om1vbw==\r\n";
    assert_eq!(out, format!("GET http://a/ HTTP/1.0\r\n{line}\r\nCONNECT a:443 HTTP/1.0\r\n{line}\r\n"));
}

#[test]
fn credentials_of_the_clients_own_are_replaced_where_there_are_ours() {
    for line in ["proxy-authorization: Basic eA==\r\n", "Proxy-Authorization:\r\n", "Proxy-Authorization:  \r\n"] {
        let request = format!("GET http://a/ HTTP/1.0\r\nA: b\r\n{line}C: d\r\n\r\n");
        let ours = "Proxy-Authorization: Basic Y293Om1vbw==\r\n";
        let wanted = format!("GET http://a/ HTTP/1.0\r\nA: b\r\nC: d\r\n{ours}\r\n");
        assert_eq!(sent(usual_addrs(), with_credentials(), &request), wanted);
        assert_eq!(becomes(&request), request);
    }
    let twice = "GET / HTTP/1.1\r\nProxy-Authorization: a\r\nProxy-Authorization: b\r\n\r\n";
    assert_eq!(refusal(twice), Some(Refusal::Malformed("more than one Proxy-Authorization")));
}

const PAGE: &str = "http://cow/closed.html";

fn with_page() -> Rewriting {
    Rewriting { page: Some(PAGE.to_owned()), check_host: true, ..Rewriting::default() }
}

#[test]
fn every_request_is_for_the_page() {
    let table = [
        ("GET", "/a"),
        ("POST", "http://moose/a"),
        ("OPTIONS", "*"),
        ("GET", "/a HTTP/1.1\r\nReferer: http://cow/closed.html?"),
    ];
    for (method, target) in table {
        let (target, referer) = target.split_once(" HTTP/1.1\r\n").unwrap_or((target, "X: y"));
        let request =
            |target: &str, host: &str| format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{referer}\r\n\r\n");
        assert_eq!(sent(usual_addrs(), with_page(), &request(target, "moose")), request(PAGE, "cow"), "{target}");
    }
}

#[test]
fn what_the_page_refers_to_is_not_replaced() {
    let request = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: 10.2.0.5\r\nReferer: {PAGE}\r\n\r\n");
    assert_eq!(sent(usual_addrs(), with_page(), &request("/logo.png")), request("http://10.2.0.5/logo.png"));
    let absolute = request("http://10.2.0.5/logo.png");
    let rewriting = Rewriting { check_host: false, ..with_page() };
    assert_eq!(sent(usual_addrs(), rewriting, &absolute), absolute);
}

#[test]
fn connect_is_not_for_the_page() {
    let request = "CONNECT moose:443 HTTP/1.1\r\n\r\n";
    let rewriting = Rewriting { check_host: false, ..with_page() };
    assert_eq!(sent(usual_addrs(), rewriting, request), request);
}

#[test]
fn what_is_replaced_by_the_page_must_be_correct_all_the_same() {
    let mut client = Client::with(usual_addrs(), with_page());
    assert_eq!(client.sends("GET moose HTTP/1.1\r\n\r\n"), Err(Refusal::Malformed("the target")));
}

#[test]
fn connection_cannot_take_away_what_the_proxy_must_see() {
    let rewriting = Rewriting { forwarded: Forwarded::Both, ..Rewriting::default() };
    let request = |lines: &str, added: &str| {
        format!("POST http://a/ HTTP/1.1\r\nHost: a\r\n{lines}Content-Length: 0\r\n{added}\r\n")
    };
    let added = "Forwarded: for=10.1.0.2\r\nX-Forwarded-For: 10.1.0.2\r\n";
    let table = [
        ("Connection: X-Forwarded-For, Forwarded\r\n", ""),
        ("Connection: close, x-forwarded-FOR ,Host\r\nX: y\r\n", "Connection: close\r\nX: y\r\n"),
        ("X: y\r\nProxy-Connection:\tForwarded\t,TE\t\r\n", "X: y\r\nProxy-Connection: TE\r\n"),
        ("connection: via\r\nCONNECTION: ,,close\r\nConnection: Content-Length\r\n", "CONNECTION: close\r\n"),
        ("Connection: transfer-encoding,Proxy-Authorization, Upgrade\r\n", "Connection: Upgrade\r\n"),
        ("Connection: keep-alive, X-Forwarded\r\n", "Connection: keep-alive, X-Forwarded\r\n"),
    ];
    for (lines, wanted) in table {
        let out = sent(usual_addrs(), rewriting.clone(), &request(lines, ""));
        assert_eq!(out, request(wanted, added), "{lines:?}");
    }
    for value in ["\"Forwarded\"", "close;Forwarded", "close Forwarded"] {
        let refused = refusal(&request(&format!("Connection: {value}\r\n"), ""));
        assert_eq!(refused, Some(Refusal::Malformed("Connection")), "{value:?}");
    }
}

fn checked(original: &str) -> Client {
    let rewriting = Rewriting { check_host: true, ..Rewriting::default() };
    Client::with(addrs("10.1.0.2:40000", original), rewriting)
}

fn request_to(host: &str, target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

/// The same as it is sent: with the Host of its URL, unless `host` means the same.
fn agreeing(host: &str, url: &str) -> String {
    let authority = url.split('/').nth(2).unwrap().split('?').next().unwrap();
    let same = authority::agree(host.as_bytes(), authority.as_bytes());
    request_to(if same { host } else { authority }, url)
}

#[test]
fn a_host_that_is_checked_is_asked_for_and_believed_if_it_is_genuine() {
    for (genuine, url) in [(true, "http://moose/"), (false, "http://10.2.0.5/")] {
        let mut client = checked("10.2.0.5:80");
        assert_eq!(client.sends(request_to("moose", "/")), Ok(Some("moose".to_owned())));
        assert_eq!(client.out(), "");
        assert!(!client.requests.is_between());
        assert_eq!(client.answered(genuine), None);
        assert_eq!(client.out(), agreeing("moose", url));
        assert!(client.requests.is_between());
    }
}

#[test]
fn each_request_is_asked_for_and_what_came_before_it_goes_on() {
    let mut client = checked("10.2.0.5:80");
    let two = request_to("moose", "/a") + &request_to("cow:80", "/b") + &request_to("10.2.0.5", "/c");
    assert_eq!(client.sends(two), Ok(Some("moose".to_owned())));
    assert_eq!(client.answered(true), Some("cow".to_owned()));
    assert_eq!(client.out(), request_to("moose", "http://moose/a"));
    assert_eq!(client.answered(false), None);
    let rest = agreeing("cow:80", "http://10.2.0.5/b") + &request_to("10.2.0.5", "http://10.2.0.5/c");
    assert_eq!(client.out(), rest);
}

#[test]
fn an_address_is_compared_without_asking() {
    let table = [
        ("10.2.0.5:80", "10.2.0.5", "http://10.2.0.5/"),
        ("10.2.0.5:80", "10.2.0.6", "http://10.2.0.5/"),
        ("10.2.0.5:8080", "10.2.0.6", "http://10.2.0.5:8080/"),
        ("[fd00:2::5]:80", "[fd00:2::6]:80", "http://[fd00:2::5]/"),
        ("[fd00:2::5]:80", "[fd00:2::5]:80", "http://[fd00:2::5]:80/"),
        ("10.2.0.5:80", "moose:22", "http://10.2.0.5/"),
    ];
    for (original, host, url) in table {
        let mut client = checked(original);
        assert_eq!(client.sends(request_to(host, "/")), Ok(None), "{host}");
        assert_eq!(client.out(), agreeing(host, url), "{host}");
    }
}

#[test]
fn nothing_is_asked_for_what_names_no_host_or_needs_none() {
    for request in [
        "GET https://cow/ HTTP/1.1\r\nHost: moose\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: no host\r\n\r\n",
        "CONNECT cow:443 HTTP/1.1\r\nHost: moose\r\n\r\n",
    ] {
        assert_eq!(checked("10.2.0.5:80").sends(request), Ok(None), "{request:?}");
    }
}

#[test]
fn a_whole_url_is_checked_like_a_host() {
    let table = [
        ("http://moose/a?b", true, "http://moose/a?b"),
        ("http://moose/a?b", false, "http://10.2.0.5/a?b"),
        ("http://moose?b", false, "http://10.2.0.5?b"),
        ("HTTP://moose:80", true, "HTTP://moose:80"),
        ("HTTP://moose:80", false, "http://10.2.0.5"),
    ];
    for (url, genuine, wanted) in table {
        let mut client = checked("10.2.0.5:80");
        assert_eq!(client.sends(request_to("cow", url)), Ok(Some("moose".to_owned())), "{url}");
        assert_eq!(client.answered(genuine), None);
        assert_eq!(client.out(), agreeing("cow", wanted), "{url}");
    }
    let table = [
        ("10.2.0.5:80", "http://moose:81/", "http://10.2.0.5/"),
        ("10.2.0.5:8080", "http://moose/", "http://10.2.0.5:8080/"),
        ("10.2.0.5:80", "https://moose/", "http://10.2.0.5/"),
        ("10.2.0.5:80", "http://me@moose/", "http://10.2.0.5/"),
        ("10.2.0.5:80", "http://10.2.0.5/", "http://10.2.0.5/"),
    ];
    for (original, url, wanted) in table {
        let mut client = checked(original);
        assert_eq!(client.sends(request_to("moose", url)), Ok(None), "{url}");
        assert_eq!(client.out(), agreeing("moose", wanted), "{url}");
    }
}

#[test]
fn a_connect_is_checked_too() {
    let connect = |target: &str| format!("CONNECT {target} HTTP/1.1\r\n\r\n");
    for (genuine, wanted) in [(true, "moose:443"), (false, "10.2.0.5:443")] {
        let mut client = checked("10.2.0.5:443");
        assert_eq!(client.sends(connect("moose:443")), Ok(Some("moose".to_owned())));
        assert_eq!(client.answered(genuine), None);
        assert_eq!(client.out(), connect(wanted));
    }
    let mut client = checked("[fd00:2::5]:80");
    assert_eq!(client.sends(connect("moose:443")), Ok(None));
    assert_eq!(client.out(), connect("[fd00:2::5]:80"));
}

#[test]
fn an_answer_that_nobody_waits_for_is_not_kept() {
    let mut client = checked("10.2.0.5:80");
    client.requests.host_is(true);
    assert_eq!(client.sends(request_to("moose", "/")), Ok(Some("moose".to_owned())));
    assert_eq!(client.sends(""), Ok(Some("moose".to_owned())), "asked again while there is no answer");
    client.answered(true);
    client.requests.host_is(true);
    assert_eq!(client.sends(request_to("cow", "/")), Ok(Some("cow".to_owned())));
}
