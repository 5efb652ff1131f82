use super::*;

fn parse(text: &str) -> Result<Head<'_>, Refusal> {
    Head::parse(text.as_bytes())
}

fn refusal(text: &str) -> Option<Refusal> {
    parse(text).err()
}

fn with(headers: &str) -> String {
    format!("GET /a HTTP/1.1\r\n{headers}\r\n\r\n")
}

fn upgrade(version: &str, headers: &str) -> Option<Switch> {
    parse(&format!("GET / HTTP/{version}\r\n{headers}\r\n\r\n")).unwrap().switch
}

#[test]
fn a_head_is_read_and_keeps_its_bytes() {
    let text =
        "POST /a?b HTTP/1.1\r\nhOsT:moose\r\nContent-Length:\t5 \r\nreferer: http://cow/\r\nX:\r\nY: \u{fc} \r\n\r\n";
    let head = parse(text).unwrap();
    assert_eq!((head.method, head.target), ("POST", &b"/a?b"[..]));
    assert_eq!(head.rest, &text.as_bytes()[9..text.len() - 2]);
    assert_eq!(head.body, Body::Length(5));
    assert_eq!(head.host, Some(&b"moose"[..]));
    assert_eq!(head.referer, Some(&b"http://cow/"[..]));
    assert_eq!(head.lines, SpecialLines::default());
    assert_eq!(head.switch, None);
}

#[test]
fn a_head_without_headers_is_one() {
    let head = parse("GET / HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(head.rest, b" HTTP/1.0\r\n");
    assert_eq!((head.host, head.referer, head.body), (None, None, Body::Length(0)));
}

#[test]
fn the_request_line_has_one_shape() {
    let table = [
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET / HTTP/1.1 ",
        " GET / HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET /\tHTTP/1.1",
        "GET /\x0bHTTP/1.1",
        "GET / a HTTP/1.1",
        "GET /\r HTTP/1.1",
        "GET / HTTP/1.1\r",
        "GET /\0 HTTP/1.1",
        "GET /\x01 HTTP/1.1",
        "GET /\x7f HTTP/1.1",
        "GET HTTP/1.1",
        "GET / ",
        "GET /",
        "GET",
        "",
        " / HTTP/1.1",
        "G(T / HTTP/1.1",
        "G:T / HTTP/1.1",
        "G\"T / HTTP/1.1",
        "GET, / HTTP/1.1",
        "G\0T / HTTP/1.1",
        "G\x7fT / HTTP/1.1",
        "GÜT / HTTP/1.1",
        "GET / HTTP/1.2",
        "GET / HTTP/1.",
        "GET / HTTP/1.10",
        "GET / HTTP/1.01",
        "GET / HTTP/01.1",
        "GET / HTTP/2.0",
        "GET / HTTP/0.9",
        "GET / http/1.1",
        "GET / HTTP/1,1",
        "GET / HTTPS/1.1",
        "GET / XHTTP/1.1",
    ];
    for line in table {
        let refusal = refusal(&format!("{line}\r\nHost: moose\r\n\r\n"));
        assert!(matches!(refusal, Some(Refusal::Malformed(_))), "{line:?}: {refusal:?}");
    }
}

#[test]
fn any_token_is_a_method() {
    for method in ["GET", "M-SEARCH", "get", "!#$%&'*+-.^_`|~09aZ", &"X".repeat(1000)] {
        assert_eq!(parse(&format!("{method} / HTTP/1.1\r\n\r\n")).unwrap().method, method);
    }
}

#[test]
fn a_header_line_has_one_shape() {
    let table = [
        "Host : moose",
        "Host\t: moose",
        " Host: moose",
        "\tHost: moose",
        "Host: moose\r\n cow",
        "Host: moose\r\n\tcow",
        "Host: moose\r\n : cow",
        "Host",
        "Host moose",
        ": moose",
        "Ho st: moose",
        "Ho(st: moose",
        "Ho\"st: moose",
        "Ho\0st: moose",
        "Ho\x7fst: moose",
        "Hóst: moose",
        "A: b\rc",
        "A: b\r\rc",
        "A: b\r",
        "A:\rb",
        "A\r: b",
        "A: \0",
        "A: b\0c",
        "A: b\x01",
        "A: b\x08c",
        "A: b\x0bc",
        "A: b\x0c",
        "A: \x0bb",
        "A: b\x1bc",
        "A: b\x1f",
        "A: b\x7fc",
        "A: \x7f",
    ];
    for headers in table {
        let refusal = refusal(&with(headers));
        assert!(matches!(refusal, Some(Refusal::Malformed(_))), "{headers:?}: {refusal:?}");
    }
}

/// httparse looks at many bytes at once where it can, so the place of a byte might make a difference.
#[test]
fn a_control_character_is_found_wherever_it_stands() {
    let controls = (0..0x20).chain([0x7f]).filter(|byte| !b"\t\r\n".contains(byte));
    for control in controls {
        for place in 0..80 {
            let mut value = [b'v'; 80];
            value[place] = control;
            let text = [b"GET / HTTP/1.1\r\nA: ", &value[..], b"\r\n\r\n"].concat();
            assert_eq!(
                Head::parse(&text).unwrap_err(),
                Refusal::Malformed("the value of a field"),
                "{control} {place}"
            );
            let text = [b"GET / HTTP/1.1\r\n", &value[..], b": a\r\n\r\n"].concat();
            assert_eq!(Head::parse(&text).unwrap_err(), Refusal::Malformed("the name of a field"), "{control} {place}");
            let text = [b"GET /", &value[..], b" HTTP/1.1\r\n\r\n"].concat();
            assert_eq!(Head::parse(&text).unwrap_err(), Refusal::Malformed("the request line"), "{control} {place}");
        }
    }
}

#[test]
fn a_value_may_have_tabs_and_any_character_beyond_ascii() {
    let text = b"GET / HTTP/1.1\r\nHost: m\xf6\xf6\x80\xff\t~ !\r\n\r\n";
    assert_eq!(Head::parse(text).unwrap().host, Some(&b"m\xf6\xf6\x80\xff\t~ !"[..]));
}

#[test]
fn a_second_host_is_refused() {
    for headers in ["Host: a\r\nHost: b", "Host: a\r\nhost: a", "Host:\r\nX: y\r\nHOST:"] {
        assert_eq!(parse(&with(headers)).unwrap_err(), Refusal::Malformed("more than one Host"), "{headers:?}");
    }
}

/// What each of the two may say is tested in framing.rs.
#[test]
fn all_that_tells_the_length_of_the_body_counts() {
    let table = [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Content-Length: 5\r\ncontent-length: 5",
        "Content-Length:",
        "Transfer-Encoding:",
        "Transfer-Encoding: chunked\r\ntransfer-encoding: chunked",
    ];
    for headers in table {
        let refusal = refusal(&with(headers));
        assert!(matches!(refusal, Some(Refusal::Malformed(_))), "{headers:?}: {refusal:?}");
    }
    assert_eq!(parse(&with("transfer-encoding: gzip, chunked")).unwrap().body, Body::Chunked);
    let old = parse("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(old.unwrap_err(), Refusal::Malformed("Transfer-Encoding in HTTP/1.0"));
}

#[test]
fn an_upgrade_takes_both_headers_and_http_1_1() {
    let both = "Upgrade: websocket\r\nConnection: Upgrade";
    assert_eq!(upgrade("1.1", both), Some(Switch::Upgrade));
    assert_eq!(upgrade("1.1", "Connection: keep-alive ,\tupGrade\r\nupgrade: a"), Some(Switch::Upgrade));
    assert_eq!(upgrade("1.1", "Connection: close\r\nConnection: upgrade\r\nUpgrade: a"), Some(Switch::Upgrade));
    assert_eq!(upgrade("1.0", both), None);
    assert_eq!(upgrade("1.1", "Upgrade: websocket"), None);
    assert_eq!(upgrade("1.1", "Upgrade: websocket\r\nConnection: keep-alive"), None);
    assert_eq!(upgrade("1.1", "Upgrade: websocket\r\nConnection: no-upgrade"), None);
    assert_eq!(upgrade("1.1", "Connection: upgrade"), None);
}

#[test]
fn a_connect_asks_for_a_tunnel_and_has_no_body() {
    let connect = |version: &str, headers: &str| format!("CONNECT a:1 HTTP/{version}\r\n{headers}\r\n");
    let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\n";
    for (version, headers) in [("1.1", ""), ("1.0", ""), ("1.1", "Content-Length: 0\r\n"), ("1.1", upgrade)] {
        assert_eq!(parse(&connect(version, headers)).unwrap().switch, Some(Switch::Tunnel), "{headers}");
    }
    for headers in ["Content-Length: 1\r\n", "Transfer-Encoding: chunked\r\n"] {
        let refusal = refusal(&connect("1.1", headers));
        assert_eq!(refusal, Some(Refusal::Malformed("a CONNECT with a body")), "{headers}");
    }
}

#[test]
fn a_head_has_a_hundred_lines_at_most() {
    let lines = |count: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(count));
    assert!(parse(&lines(MOST)).is_ok());
    assert_eq!(parse(&lines(MOST + 1)).unwrap_err(), Refusal::TooLong);
}

#[test]
fn what_is_not_meant_as_http_is_known_as_early_as_can_be() {
    let table: [&[u8]; 15] = [
        b"\x16",
        b"\x00",
        b"\x80",
        b"{",
        b"<",
        b"\"",
        b"\x7f",
        b"AMQP\x00",
        b"8=FIX.4.2\x01",
        b"GET\xff",
        b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n",
        b"PRI * HTTP/2.0\r\n",
        b"OPTIONS rtsp://moose/ RTSP/1.0\r\n",
        b"EHLO moose\n",
        b"GET /\r\n",
    ];
    for bytes in table {
        assert_eq!(is_meant(bytes), Some(false), "{bytes:?}");
        assert_eq!(is_meant(&bytes[..bytes.len() - 1]), None, "{bytes:?}");
    }
}

#[test]
fn what_is_badly_meant_is_meant_all_the_same() {
    let table = [
        "GET / HTTP/1.1\r\n",
        "GET / HTTP/1.1\n",
        "GET / HTTP/1.7\r\n",
        "GET  /  HTTP/1.0 \r\n",
        "GET\t/\tHTTP/1.0\r\n",
        " GET / HTTP/1.1\r\n",
        "\tGET / HTTP/1.1\r\n",
        "GET\r/ HTTP/1.0\r\n",
        "G(T / HTTP/1.1\r\n",
        "GET /\0\u{fc}\x7f HTTP/1.1\r\n",
    ];
    for line in table {
        assert_eq!(is_meant(line.as_bytes()), Some(true), "{line:?}");
        for end in 0..line.len() {
            assert_eq!(is_meant(&line.as_bytes()[..end]), None, "{line:?} {end}");
        }
    }
}
