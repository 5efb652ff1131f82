use super::*;

/// What real clients sent to a listener that recorded it: openssl 3.0 s_client, the same without -servername and with
/// -max_send_frag 512 (three records), curl 7.88, Chromium 156 (GREASE, ECH, X25519MLKEM768: more than one segment).
const OPENSSL: &[u8] = include_bytes!("../../../tests/fixtures/openssl.hello");
const NAMELESS: &[u8] = include_bytes!("../../../tests/fixtures/openssl-nameless.hello");
const RECORDS: &[u8] = include_bytes!("../../../tests/fixtures/openssl-records.hello");
const CURL: &[u8] = include_bytes!("../../../tests/fixtures/curl.hello");
const CHROMIUM: &[u8] = include_bytes!("../../../tests/fixtures/chromium.hello");

fn found(text: &str) -> Sniff<'_> {
    Sniff::Name(Cow::Borrowed(text))
}

/// The answer to the whole and the number of bytes that it takes, after seeing that none of the others changes it.
fn answer(bytes: &[u8]) -> (Sniff<'_>, usize) {
    let decided = |count: &usize| name(&bytes[..*count]) != Sniff::More;
    let count = (0..=bytes.len()).find(decided).unwrap_or(bytes.len());
    let first = name(&bytes[..count]);
    for more in count..=bytes.len() {
        assert_eq!(name(&bytes[..more]), first, "{more} of {bytes:?}");
    }
    (first, count)
}

fn position(bytes: &[u8], text: &str) -> usize {
    bytes.windows(text.len()).position(|window| window == text.as_bytes()).unwrap()
}

fn counted(width: usize, content: &[u8]) -> Vec<u8> {
    [&content.len().to_be_bytes()[8 - width..], content].concat()
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &counted(2, content)].concat()
}

fn server_name(name: &[u8]) -> Vec<u8> {
    extension(0, &counted(2, &[&[0][..], &counted(2, name)].concat()))
}

/// A hello with these after the random number.
fn message(session: &[u8], suites: &[u8], compressions: &[u8], extensions: &[u8]) -> Vec<u8> {
    let lists = [counted(1, session), counted(2, suites), counted(1, compressions), extensions.to_vec()].concat();
    [&[1][..], &counted(3, &[&[3, 3][..], &[7; 32], &lists].concat())].concat()
}

fn hello(extensions: &[&[u8]]) -> Vec<u8> {
    message(&[1; 32], &[0x13, 1], &[0], &counted(2, &extensions.concat()))
}

fn records(message: &[u8], size: usize) -> Vec<u8> {
    message.chunks(size).flat_map(|chunk| [&[22, 3, 1][..], &counted(2, chunk)].concat()).collect()
}

fn of_host(value: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: {value}\r\n\r\n")
}

#[test]
fn real_hellos_give_their_names_with_the_last_byte_of_them() {
    let table = [
        (OPENSSL, "cow.example.com"),
        (RECORDS, "split.example.com"),
        (CURL, "curl.example.com"),
        (CHROMIUM, "chromium.example.com"),
    ];
    for (bytes, text) in table {
        assert_eq!(answer(bytes), (found(text), position(bytes, text) + text.len()));
    }
}

#[test]
fn a_real_hello_without_a_name_is_read_to_its_end() {
    assert_eq!(answer(NAMELESS), (Sniff::None, NAMELESS.len()));
}

#[test]
fn records_of_any_size_give_the_same_name() {
    let message = &CHROMIUM[5..];
    for size in [1, 2, 3, 4, 5, 7, 100, 1000] {
        let bytes = records(message, size);
        assert_eq!(name(&bytes), found("chromium.example.com"), "{size}");
    }
    let bytes = records(&hello(&[&server_name(b"cow.example.com")]), 1);
    assert_eq!(answer(&bytes).0, found("cow.example.com"));
}

#[test]
fn only_a_name_that_lies_in_two_records_is_copied() {
    let message = hello(&[&server_name(b"cow.example.com")]);
    let middle = position(&message, "example");
    assert!(matches!(name(&records(&message, middle)), Sniff::Name(Cow::Owned(_))));
    assert!(matches!(name(&records(&message, message.len())), Sniff::Name(Cow::Borrowed(_))));
}

#[test]
fn other_extensions_are_passed_over() {
    let (grease, empty, large) = (extension(0x0a0a, &[0]), extension(23, &[]), extension(51, &[9; 1300]));
    let bytes = records(&hello(&[&grease, &empty, &large, &server_name(b"cow.example.com"), &grease]), 16384);
    assert_eq!(answer(&bytes).0, found("cow.example.com"));
}

#[test]
fn a_hello_that_is_wrong_anywhere_before_its_name_has_none() {
    let name = server_name(b"cow.example.com");
    let (suites, extensions) = (&[0x13, 1][..], &counted(2, &name)[..]);
    assert_eq!(answer(&records(&message(&[], suites, &[0], extensions), 999)).0, found("cow.example.com"));
    for wrong in [
        message(&[1; 33], suites, &[0], extensions),
        message(&[], &[], &[0], extensions),
        message(&[], &[0x13, 1, 2], &[0], extensions),
        message(&[], suites, &[], extensions),
        message(&[], suites, &[0], &[]),
        message(&[], suites, &[0], &counted(2, &[])),
        message(&[], suites, &[0], &[extensions, &[0]].concat()),
        message(&[], suites, &[0], &extensions[..extensions.len() - 1]),
        message(&[], suites, &[0], &counted(2, &name[..name.len() - 1])),
        message(&[], suites, &[0], &counted(2, &extension(0, b""))),
        message(&[], suites, &[0], &counted(2, &extension(0, &counted(2, b"")))),
        message(&[], suites, &[0], &counted(2, &extension(0, &counted(2, &[1, 0, 1, b'a'])))),
        message(&[], suites, &[0], &counted(2, &extension(0, &counted(2, &[0, 0, 1, b'a', 0, 0, 1, b'b'])))),
        message(&[], suites, &[0], &counted(2, &extension(0, &[0, 4, 0, 0, 1, b'a', 0]))),
        message(&[], suites, &[0], &counted(2, &server_name(b""))),
        message(&[], suites, &[0], &counted(2, &server_name(&[b'a'; 255]))),
    ] {
        assert_eq!(answer(&records(&wrong, 16384)).0, Sniff::None, "{wrong:?}");
    }
}

#[test]
fn what_is_no_hello_is_known_at_once() {
    let table: [(&[u8], usize); 9] = [
        (&[23, 3, 3], 1),
        (&[0x80, 46, 1, 3, 1], 1),
        (&[22, 2], 2),
        (&[22, 3, 1, 0, 0], 5),
        (&[22, 3, 1, 0x40, 1], 5),
        (&[22, 3, 1, 0, 4, 2], 6),
        (&[22, 3, 1, 0, 4, 1, 0, 0x40, 1], 9),
        (&[22, 3, 1, 0, 5, 1, 0, 1, 0, 2], 10),
        (&[22, 3, 1, 0, 1, 1, 21], 7),
    ];
    for (bytes, count) in table {
        assert_eq!(answer(bytes), (Sniff::None, count), "{bytes:?}");
    }
    assert_eq!(name(&[22, 3, 1, 0x40, 0, 1, 0, 0x40, 0]), Sniff::More);
}

#[test]
fn nothing_is_looked_for_beyond_16_kib() {
    let pad = |size| records(&hello(&[&extension(21, &vec![0; size]), &server_name(b"cow.example.com")]), 16384);
    let spare = MOST - pad(0).len();
    assert_eq!(name(&pad(spare)), found("cow.example.com"));
    assert_eq!(name(&pad(spare + 1)), Sniff::None);
    assert_eq!(name(&pad(spare + 1)[..MOST - 1]), Sniff::More);
    let request = |size| format!("GET /{} HTTP/1.1\r\nHost: cow\r\n\r\n", "x".repeat(size));
    let spare = MOST - request(0).len();
    assert_eq!(name(request(spare).as_bytes()), found("cow"));
    assert_eq!(name(request(spare + 1).as_bytes()), Sniff::None);
    assert_eq!(name(&request(spare + 1).as_bytes()[..MOST - 1]), Sniff::More);
}

#[test]
fn a_request_gives_its_host_without_the_port_when_its_head_is_whole() {
    let head = "GET /page HTTP/1.1\r\nUser-Agent: x\r\nhOsT: \tcow.example.com:8080 \r\nAccept: */*\r\n\r\n";
    let bytes = [head, "body"].concat();
    assert_eq!(answer(bytes.as_bytes()), (found("cow.example.com"), head.len()));
    for head in [
        "OPTIONS * HTTP/1.0\r\nHost: cow\r\n\r\n",
        "M-SEARCH /?a HTTP/1.1\r\nHost:cow:\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: cow:65535\r\n\r\n",
    ] {
        assert_eq!(answer(head.as_bytes()), (found("cow"), head.len()));
    }
}

#[test]
fn a_host_that_is_not_strictly_one_name_is_none() {
    for head in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.0\r\nAccept: */*\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: cow\r\nHost: cow\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: cow\r\n moose\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : cow\r\n\r\n",
        "GET / HTTP/2.0\r\nHost: cow\r\n\r\n",
    ] {
        assert_eq!(answer(head.as_bytes()).0, Sniff::None, "{head:?}");
    }
    for value in ["", "cow:x", "cow:123456", "cow:80:80", "user@cow", "cow moose", "cow/", "cow,moose", "[fd00::1]:80"]
    {
        assert_eq!(name(of_host(value).as_bytes()), Sniff::None, "{value:?}");
    }
}

#[test]
fn the_host_of_a_request_to_a_proxy_is_not_who_it_is_sent_to() {
    for line in ["CONNECT cow:443 ", "GET http://cow/ "] {
        let head = format!("{line}HTTP/1.1\r\nHost: cow\r\n\r\n");
        assert_eq!(answer(head.as_bytes()), (Sniff::None, line.len()));
    }
}

#[test]
fn other_protocols_are_known_by_their_first_line_at_the_latest() {
    let table: [(&[u8], usize); 10] = [
        (b"\r\nGET / HTTP/1.1\r\n", 1),
        (b"\nGET", 1),
        (b"\0\0\0\x08\x04\xd2\x16\x2f", 1),
        (b"<?xml version='1.0'?>", 1),
        (b"\x13BitTorrent protocol", 1),
        (b"SSH-2.0-OpenSSH_9.2\r\n", 20),
        (b"EHLO moose\r\nMAIL FROM:<>\r\n", 11),
        (b"RFB 003.008\n", 12),
        (b"*1\r\n$4\r\nPING\r\n", 3),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 12),
    ];
    for (bytes, count) in table {
        assert_eq!(answer(bytes), (Sniff::None, count), "{}", bytes.escape_ascii());
    }
    assert_eq!(name(b""), Sniff::More);
}

#[test]
fn names_are_those_that_dns_can_have() {
    let label = "l".repeat(63);
    let longest = format!("{label}.{label}.{label}.{}", "l".repeat(61));
    assert_eq!(longest.len(), 253);
    let dotted = format!("{longest}.");
    for text in
        ["moose", "Cow.Example.COM", "cow.example.com.", "_dmarc.a--b.x1", "3com.1.a", "0xyz", &longest, &dotted]
    {
        assert_eq!(name(of_host(text).as_bytes()), found(text));
        assert_eq!(name(&records(&hello(&[&server_name(text.as_bytes())]), 999)), found(text));
    }
    let longer = format!("{longest}l");
    let label = "l".repeat(64);
    for text in
        [".", "..", ".cow", "cow..com", "cow..", "-cow", "cow.-com", "a b", "kühe.de", "a\0b", "*.cow", &label, &longer]
    {
        assert_eq!(name(of_host(text).as_bytes()), Sniff::None, "{text:?}");
        assert_eq!(name(&records(&hello(&[&server_name(text.as_bytes())]), 999)), Sniff::None, "{text:?}");
    }
}

#[test]
fn addresses_in_any_form_are_no_names() {
    for text in ["10.0.0.1", "10.1", "10", "10.0.0.1.", "fd00::1", "0x7f000001", "0X7F.0x1", "cow.08", "cow.0x"] {
        assert_eq!(name(of_host(text).as_bytes()), Sniff::None, "{text:?}");
        assert_eq!(name(&records(&hello(&[&server_name(text.as_bytes())]), 999)), Sniff::None, "{text:?}");
    }
}
