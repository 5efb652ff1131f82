//! Requests that two readers could understand in two ways, so that one of them sees a request that the other does not.

use super::*;

use model::joined;

/// What stands behind each attempt: the end of a head, and a request that must not come through.
const BEHIND: &[u8] = b"\r\nGET /smuggled HTTP/1.1\r\nHost: cow\r\n\r\n";

/// What is done to the lines of a head. Which values of a header are wrong is tested beside the code.
type Twist = (&'static str, fn(&mut Vec<Vec<u8>>, &Index));

const HEADS: &[Twist] = &[
    ("Content-Length and chunked", |head, at| insert(head, at, &["Content-Length: 3", "Transfer-Encoding: chunked"])),
    ("chunked and Content-Length", |head, at| insert(head, at, &["Transfer-Encoding: chunked", "Content-Length: 3"])),
    ("two lengths", |head, at| insert(head, at, &["Content-Length: 3", "content-length: 3"])),
    ("an unknown coding", |head, at| insert(head, at, &["Transfer-Encoding: xchunked"])),
    ("chunked and more", |head, at| insert(head, at, &["Transfer-Encoding: chunked, identity"])),
    ("chunked twice", |head, at| insert(head, at, &["Transfer-Encoding: chunked", "Transfer-encoding: chunked"])),
    ("space before the colon", |head, at| insert(head, at, &["Transfer-Encoding : chunked"])),
    ("tab before the colon", |head, at| insert(head, at, &["Content-Length\t: 3"])),
    ("a line folded", |head, at| insert(head, at, &["X-Folded: a", " b"])),
    ("a line folded by a tab", |head, at| insert(head, at, &["Transfer-Encoding:", "\tchunked"])),
    ("two hosts", |head, at| insert(head, at, &["Host: moose", "Host: moose"])),
    ("no name", |head, at| insert(head, at, &[": chunked"])),
    ("no colon", |head, at| insert(head, at, &["Transfer-Encoding chunked"])),
    ("a NUL", |head, at| insert(head, at, &["X: a\0b"])),
    ("a line feed alone", |head, at| insert(head, at, &["X: a\nContent-Length: 3"])),
    ("a carriage return alone", |head, at| insert(head, at, &["X: a\rContent-Length: 3"])),
    ("a carriage return too many", |head, at| insert(head, at, &["X: a\r"])),
    ("chunked in HTTP/1.0", |head, at| {
        in_the_line(head, "HTTP/1.1", "HTTP/1.0");
        insert(head, at, &["Transfer-Encoding: chunked"]);
    }),
    ("two spaces", |head, _| in_the_line(head, " HTTP/", "  HTTP/")),
    ("a tab in the request line", |head, _| in_the_line(head, " HTTP/", "\tHTTP/")),
    ("a space behind the version", |head, _| head[0].push(b' ')),
    ("a space before the method", |head, _| head[0].insert(0, b' ')),
    ("a NUL in the target", |head, _| in_the_line(head, " HTTP/", "\0 HTTP/")),
    ("a fragment", |head, _| in_the_line(head, " HTTP/", "# HTTP/")),
    ("another version", |head, _| in_the_line(head, " HTTP/1.", " HTTP/1.0")),
    ("no target", |head, _| head[0] = b"GET HTTP/1.1".to_vec()),
    ("a carriage return alone before", |head, _| head[0] = [b"\r\n\r", &head[0][..]].concat()),
    ("endless empty lines before", |head, _| head[0] = [&b"\n".repeat(2000), &head[0][..]].concat()),
    ("an option in quotes", |head, at| insert(head, at, &["Connection: \"Transfer-Encoding\""])),
    ("an option with a parameter", |head, at| insert(head, at, &["Connection: close", "Proxy-Connection: host;q=1"])),
];

/// What stands in place of the chunks of a body.
const CHUNKS: &[(&str, &[u8])] = &[
    ("a line feed alone behind a size", b"3\nabc\r\n0\r\n\r\n"),
    ("a line feed alone in an extension", b"3;a\n\r\nabc\r\n0\r\n\r\n"),
    ("a carriage return alone in an extension", b"3;a\rb\r\nabc\r\n0\r\n\r\n"),
    ("no size", b"\r\nabc\r\n0\r\n\r\n"),
    ("no line end behind the data", b"3\r\nabc0\r\n\r\n"),
    ("a line feed alone behind the data", b"3\r\nabc\n0\r\n\r\n"),
    ("a line feed alone in the trailer", b"0\r\nA: b\n\r\n"),
    ("an end without a carriage return", b"0\r\n\n"),
    ("an option in the trailer", b"0\r\nConnection: close\r\n\r\n"),
    ("a client's address in the trailer", b"0\r\nx-forwarded-for: 10.1.0.3\r\n\r\n"),
    ("a trailer folded", b"0\r\nA: b\r\n c\r\n\r\n"),
];

fn insert(head: &mut Vec<Vec<u8>>, at: &Index, lines: &[&str]) {
    let at = 1 + at.index(head.len());
    head.splice(at..at, lines.iter().map(|line| line.as_bytes().to_vec()));
}

fn in_the_line(head: &mut [Vec<u8>], old: &str, new: &str) {
    let line = String::from_utf8(head[0].clone()).expect("ASCII");
    let (before, after) = line.rsplit_once(old).expect("a request line");
    head[0] = format!("{before}{new}{after}").into_bytes();
}

/// Requests whose head must be refused.
pub fn head() -> impl Strategy<Value = (&'static str, Vec<u8>)> {
    (request(), select(HEADS), any::<Index>()).prop_map(|(request, (kind, twist), at)| {
        let mut head = request.with_chunks(None).head();
        twist(&mut head, &at);
        (kind, [&joined(&head)[..], BEHIND].concat())
    })
}

/// Requests whose body must be refused.
pub fn chunks() -> impl Strategy<Value = (&'static str, Vec<u8>)> {
    (request(), select(CHUNKS)).prop_map(|(request, (kind, chunks))| {
        let head = request.with_chunks(Some(b"abc".to_vec())).head();
        (kind, [&joined(&head)[..], b"\r\n", chunks, BEHIND].concat())
    })
}
