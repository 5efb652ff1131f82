use super::*;

const V4: &str = "192.0.2.7:443";
const V6: &str = "[2001:db8::7]:443";

fn moose() -> Credentials {
    Credentials { user: "moose".into(), password: "bell:1".into() }
}

fn address(text: &str) -> TunnelTarget<'_> {
    TunnelTarget::Address(text.parse().unwrap())
}

fn begun(dialect: Dialect, target: TunnelTarget<'_>, credentials: Option<&Credentials>) -> (Dialogue, Vec<u8>) {
    let mut out = b"before".to_vec();
    let dialogue = Dialogue::begin(dialect, target, credentials, &mut out);
    (dialogue, out.split_off(6))
}

/// What is answered, the bytes used and whether it is done, or how it was refused.
type Outcome = Result<(Vec<u8>, usize, bool), ProxyRefusal>;

fn told(dialogue: &mut Dialogue, said: &[u8]) -> Outcome {
    let mut out = Vec::new();
    dialogue.hear(said, &mut out).map(|heard| (out, heard.used, heard.done))
}

/// The same byte by byte.
fn told_slowly(dialogue: &mut Dialogue, said: &[u8]) -> Outcome {
    let (mut out, mut used) = (Vec::new(), 0);
    for end in 1..=said.len() {
        let heard = dialogue.hear(&said[used..end], &mut out)?;
        used += heard.used;
        if heard.done {
            return Ok((out, used, true));
        }
    }
    Ok((out, used, false))
}

/// The outcome, after seeing that the pieces in which it comes do not matter.
fn outcome(dialect: Dialect, credentials: Option<&Credentials>, said: &[u8]) -> Outcome {
    let whole = told(&mut begun(dialect, address(V4), credentials).0, said);
    assert_eq!(told_slowly(&mut begun(dialect, address(V4), credentials).0, said), whole, "{}", said.escape_ascii());
    whole
}

fn connected(said: &[u8]) -> Outcome {
    outcome(Dialect::Connect, None, said)
}

fn refusal(outcome: Outcome) -> String {
    outcome.unwrap_err().to_string()
}

/// A dialogue in SOCKS that has come to the reply.
fn replied(reply: &[u8]) -> Outcome {
    outcome(Dialect::Socks5, None, &[&[5, 0], reply].concat())
}

fn request(target: TunnelTarget<'_>) -> Vec<u8> {
    told(&mut begun(Dialect::Socks5, target, None).0, &[5, 0]).unwrap().0
}

#[test]
fn connect_names_the_target_twice_and_the_user_once() {
    let (_, said) = begun(Dialect::Connect, address(V4), None);
    assert_eq!(said, b"CONNECT 192.0.2.7:443 HTTP/1.1\r\nHost: 192.0.2.7:443\r\n\r\n");
    let (_, said) = begun(Dialect::Connect, TunnelTarget::Name("cow.example.com", 8443), Some(&moose()));
    let text = "CONNECT cow.example.com:8443 HTTP/1.1\r\nHost: cow.example.com:8443\r\n\
        Proxy-Authorization: Basic bW9vc2U6YmVsbDox\r\n\r\n";
    assert_eq!(String::from_utf8(said).unwrap(), text);
}

#[test]
fn connect_has_ipv6_in_brackets_without_its_scope_and_mapped_ipv4_as_ipv4() {
    for (target, shown) in [(V6, V6), ("[fe80::1%3]:80", "[fe80::1]:80"), ("[::ffff:192.0.2.7]:443", V4)] {
        let (_, said) = begun(Dialect::Connect, address(target), None);
        assert_eq!(said, format!("CONNECT {shown} HTTP/1.1\r\nHost: {shown}\r\n\r\n").as_bytes());
    }
}

#[test]
fn any_2xx_is_the_end_of_the_answer_and_what_follows_is_payload() {
    for head in [
        "HTTP/1.1 200 Connection established\r\n\r\n",
        "HTTP/1.0 200 Connection established\r\nProxy-agent: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 299\r\n\r\n",
        "HTTP/1.1 204 \r\n\r\n",
        "HTTP/1.0 200 OK\nno header at all\n\n",
    ] {
        let said = format!("{head}220 moose\r\n\r\nHTTP/1.1 403 Forbidden\r\n\r\n");
        assert_eq!(connected(said.as_bytes()), Ok((vec![], head.len(), true)), "{head:?}");
        assert_eq!(connected(&head.as_bytes()[..head.len() - 1]), Ok((vec![], 0, false)), "{head:?}");
    }
}

#[test]
fn interim_answers_are_passed_over() {
    let interim = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\nA: b\r\n\r\n";
    let said = [interim, "HTTP/1.1 200 OK\r\n\r\n"].concat();
    assert_eq!(connected(said.as_bytes()), Ok((vec![], said.len(), true)));
    assert_eq!(connected(&said.as_bytes()[..said.len() - 1]), Ok((vec![], interim.len(), false)));
    let said = [interim, "HTTP/1.1 502 Bad Gateway\r\n"].concat();
    assert_eq!(refusal(connected(said.as_bytes())), "HTTP/1.1 502 Bad Gateway");
}

#[test]
fn every_other_status_refuses_with_its_line_as_soon_as_that_is_whole() {
    for line in [
        "HTTP/1.1 403 Forbidden",
        "HTTP/1.0 407 Proxy Authentication Required",
        "HTTP/1.1 101 Switching Protocols",
        "HTTP/1.1 302 Found",
        "HTTP/1.1 999",
        "HTTP/1.1 000 x",
    ] {
        assert_eq!(refusal(connected(format!("{line}\r\n").as_bytes())), line);
        assert_eq!(connected(line.as_bytes()), Ok((vec![], 0, false)));
    }
}

#[test]
fn a_refusal_is_short_and_harmless_in_a_log() {
    let wild = "HTTP/1.1 503 \x1b[31mnein\tübel\0\u{9b}\r\n".as_bytes();
    assert_eq!(refusal(connected(wild)), "HTTP/1.1 503 ?[31mnein??bel??");
    assert_eq!(refusal(connected(b"HTTP/1.1 503 \xff\xfe\r\n")), "HTTP/1.1 503 ??");
    let long = format!("HTTP/1.1 503 {}\r\n", "x".repeat(4000));
    assert_eq!(refusal(connected(long.as_bytes())), long[..120]);
}

#[test]
fn what_is_no_answer_to_connect_is_known_at_once() {
    let proof = |said: &[u8]| {
        assert_eq!(refusal(connected(said)), "the answer is not HTTP/1");
        (0..).find(|count| connected(&said[..*count]).is_err()).unwrap()
    };
    let table: [(&[u8], usize); 10] = [
        (b"\x05\x00", 1),
        (b"HTTP/1,1 200 OK\r\n\r\n", 7),
        (b"220 smtp.example.com\r\n", 1),
        (b"\r\nHTTP/1.1 200 OK\r\n\r\n", 1),
        (b"HTTP/2 200\r\n\r\n", 6),
        (b"HTTP/1.x 200 OK\r\n\r\n", 8),
        (b"HTTP/1.1  200 OK\r\n\r\n", 10),
        (b"HTTP/1.1 20 OK\r\n\r\n", 12),
        (b"HTTP/1.1 2000 OK\r\n\r\n", 13),
        (b"HTTP/1.1\r\n\r\n", 9),
    ];
    for (said, count) in table {
        assert_eq!(proof(said), count, "{}", said.escape_ascii());
    }
}

#[test]
fn the_head_of_an_answer_has_8_kib_at_most() {
    let of_size = |size: usize| {
        let head =
            format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "x".repeat(size - "HTTP/1.1 200 OK\r\nA: \r\n\r\n".len()));
        assert_eq!(head.len(), size);
        head.into_bytes()
    };
    assert_eq!(connected(&of_size(ANSWER)), Ok((vec![], ANSWER, true)));
    assert_eq!(refusal(connected(&of_size(ANSWER + 1))), "the head of the answer is too long");
    let line = [b"HTTP/1.1 403 ", &[b'x'; ANSWER][..]].concat();
    assert_eq!(refusal(connected(&line)), "the head of the answer is too long");
    assert_eq!(connected(&line[..ANSWER - 1]), Ok((vec![], 0, false)));
}

#[test]
fn socks_offers_a_password_only_when_there_is_one() {
    assert_eq!(begun(Dialect::Socks5, address(V4), None).1, [5, 1, 0]);
    assert_eq!(begun(Dialect::Socks5, address(V4), Some(&moose())).1, [5, 2, 0, 2]);
}

#[test]
fn socks_asks_for_a_name_or_an_address_of_either_family() {
    let name = [&[5, 1, 0, 3, 15][..], b"cow.example.com", &[0x20, 0xfb]].concat();
    assert_eq!(request(TunnelTarget::Name("cow.example.com", 8443)), name);
    let four = [5, 1, 0, 1, 192, 0, 2, 7, 1, 187];
    assert_eq!(request(address(V4)), four);
    assert_eq!(request(address("[::ffff:192.0.2.7]:443")), four);
    let six = [5, 1, 0, 4, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 1, 187];
    assert_eq!(request(address(V6)), six);
}

#[test]
fn socks_signs_in_when_the_proxy_wants_it_and_asks_then() {
    let (mut dialogue, _) = begun(Dialect::Socks5, address(V4), Some(&moose()));
    let sign_in = b"\x01\x05moose\x06bell:1".to_vec();
    assert_eq!(told(&mut dialogue, &[5]), Ok((vec![], 0, false)));
    assert_eq!(told(&mut dialogue, &[5, 2]), Ok((sign_in, 2, false)));
    assert_eq!(told(&mut dialogue, &[1]), Ok((vec![], 0, false)));
    assert_eq!(told(&mut dialogue, &[1, 0]), Ok((vec![5, 1, 0, 1, 192, 0, 2, 7, 1, 187], 2, false)));
    assert_eq!(told(&mut dialogue, b"\x05\0\0\x01\0\0\0\0\0\0payload"), Ok((vec![], 10, true)));
    assert_eq!(told(&mut dialogue, b"payload"), Ok((vec![], 0, true)));
}

#[test]
fn socks_asks_at_once_when_the_proxy_is_open() {
    let (mut dialogue, _) = begun(Dialect::Socks5, address(V4), Some(&moose()));
    assert_eq!(told(&mut dialogue, &[5, 0]), Ok((vec![5, 1, 0, 1, 192, 0, 2, 7, 1, 187], 2, false)));
}

#[test]
fn the_longest_user_password_and_name_have_their_place() {
    let text = "x".repeat(255);
    let credentials = Credentials { user: text.clone(), password: text.clone() };
    let (mut dialogue, _) = begun(Dialect::Socks5, TunnelTarget::Name(&text[..253], 1), Some(&credentials));
    let sign_in = [&[1, 255][..], text.as_bytes(), &[255], text.as_bytes()].concat();
    assert_eq!(told(&mut dialogue, &[5, 2]), Ok((sign_in, 2, false)));
    let request = [&[5, 1, 0, 3, 253][..], &text.as_bytes()[..253], &[0, 1]].concat();
    assert_eq!(told(&mut dialogue, &[1, 0]), Ok((request, 2, false)));
}

#[test]
fn the_payload_begins_behind_the_bound_address_whatever_its_type() {
    let name = [&[5, 0, 0, 3, 4][..], b"host", &[0, 80]].concat();
    for reply in
        [&[5, 0, 0, 1, 10, 0, 0, 1, 0, 80][..], &[&[5, 0, 0, 4][..], &[1; 18]].concat(), &name, &[5, 0, 0, 3, 0, 0, 0]]
    {
        let (out, used, done) = replied(&[reply, b"\x05\x01\0\x01payload"].concat()).unwrap();
        assert_eq!((out.len(), used, done), (10, 2 + reply.len(), true), "{reply:?}");
        assert!(replied(reply).unwrap().2, "{reply:?}");
        assert!(!replied(&reply[..reply.len() - 1]).unwrap().2, "{reply:?}");
    }
}

#[test]
fn every_reply_code_has_its_words() {
    let table = [
        (1, "SOCKS: general failure"),
        (2, "SOCKS: connection not allowed by ruleset"),
        (3, "SOCKS: network unreachable"),
        (4, "SOCKS: host unreachable"),
        (5, "SOCKS: connection refused"),
        (6, "SOCKS: TTL expired"),
        (7, "SOCKS: command not supported"),
        (8, "SOCKS: address type not supported"),
        (9, "SOCKS: failure 9"),
        (255, "SOCKS: failure 255"),
    ];
    for (code, words) in table {
        assert_eq!(refusal(replied(&[5, code])), words);
    }
    assert_eq!(refusal(replied(&[5, 0, 0, 2])), "SOCKS: an address of type 2 in the reply");
}

#[test]
fn a_proxy_that_wants_another_authentication_refuses() {
    let with = |said: &[u8]| refusal(outcome(Dialect::Socks5, Some(&moose()), said));
    let without = |said: &[u8]| refusal(outcome(Dialect::Socks5, None, said));
    assert_eq!(with(&[5, 0xff]), "SOCKS: no authentication by user name and password");
    assert_eq!(without(&[5, 0xff]), "SOCKS: authentication required");
    assert_eq!(without(&[5, 2]), "SOCKS: authentication method 2, which was not offered");
    assert_eq!(with(&[5, 1]), "SOCKS: authentication method 1, which was not offered");
    for code in [1, 5, 255] {
        assert_eq!(with(&[5, 2, 1, code]), "SOCKS: user name or password not accepted");
    }
}

#[test]
fn a_password_is_accepted_by_its_status_whatever_version_stands_before() {
    for version in [1, 5] {
        assert_eq!(outcome(Dialect::Socks5, Some(&moose()), &[5, 2, version, 0]).unwrap().1, 4);
    }
}

#[test]
fn what_is_no_socks_5_is_known_by_its_first_byte() {
    for said in [&b"HTTP/1.1 400 Bad Request\r\n"[..], &[0, 90], &[5, 0, 4]] {
        assert_eq!(refusal(outcome(Dialect::Socks5, None, said)), "the answer is not SOCKS 5");
    }
}
