//! What the clients of the fuzzing say: requests of every kind, good, ambiguous and broken, cut in any way.

use std::time::Duration;

use super::answers::ANSWERS;
use lab::dice::Dice;

/// What a client does next.
#[derive(Debug)]
pub enum Step {
    Say(Vec<u8>),
    Pause(Duration),
    /// Waits for an answer, or a part of one.
    Hear(Duration),
    End,
}

const METHODS: &[&str] =
    &["GET", "GET", "GET", "HEAD", "HEAD", "POST", "PUT", "OPTIONS", "DELETE", "TRACE", "get", "M-SEARCH", "CONNECT"];

const TARGETS: &[&[u8]] = &[
    b"/",
    b"/a?b=c",
    b"/k\xfcche\xff",
    b"/k\xc3\xbcche\x80",
    b"//cow/",
    b"/http://cow/",
    b"http://moose/",
    b"http://moose:80/b",
    b"HTTP://MOOSE/",
    b"http://cow/",
    b"http://moose@cow/",
    b"http://moose.example",
    b"http://10.3.0.3:99/",
    b"https://moose/",
    b"moose:443",
    b"moose:80",
    b"cow:99",
    b"*",
    b"/a b",
    b"/a#b",
    b"",
];

const HOSTS: &[&str] = &["moose", "moose", "moose", "moose:80", "MOOSE", "moose.example", "10.2.0.5", "cow", "a b", ""];

/// Lines that may stand in any head, and how many of them tproxy passes on.
const LINES: &[&str] = &[
    "X-Forwarded-For: 1.2.3.4",
    "x-forwarded-for:1.2.3.4,5.6.7.8",
    "Forwarded: for=1.2.3.4",
    "Connection: close",
    "Connection: keep-alive",
    "Connection: X-Forwarded-For, Forwarded",
    "Proxy-Connection: x-forwarded-for",
    "Connection: close ,\tX-FORWARDED-FOR\t, Host",
    "Connection: Content-Length, Transfer-Encoding, Upgrade",
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Expect: 100-continue",
    "Referer: http://moose/",
    "Proxy-Authorization: Basic eDp5",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Accept:",
    "X: \u{fc}",
    "Transfer_Encoding: chunked",
    "Connection: \"X-Forwarded-For\"",
    "X : y",
    " folded",
    "X: y\n",
    "Host: cow",
    "Content-Length: 0",
    "Content-Length: 5",
    "Content-Length: 5, 5",
    "Content-Length: +5",
    "Content-Length : 5",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: chunked, identity",
    "Transfer-Encoding: xchunked",
    "Transfer-Encoding:\u{b}chunked",
];
const GOOD: usize = 18;

const UPGRADES: &[&str] = &["websocket", "websocket", "TLS/1.2", "h2c", "h2c, websocket", "WebSocket/13"];

const PIECES: &[&[u8]] = &[
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b" ",
    b"\t",
    b"\0",
    b":",
    b",",
    b"0",
    b"\xff",
    b"HTTP/1.1",
    b"HTTP/1.0",
    b"GET / HTTP/1.1\r\n",
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: upgrade\r\nUpgrade: websocket\r\n",
    b"CONNECT moose:443 HTTP/1.1\r\n\r\n",
    b"0\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
];

/// What the client with this number does.
pub fn steps(dice: &mut Dice, number: u64) -> Vec<Step> {
    let mut steps = Vec::new();
    for _ in 0..=dice.roll(6) {
        let mut bytes = message(dice, number);
        if dice.roll(8) == 0 {
            (0..=dice.roll(3)).for_each(|_| damage(dice, &mut bytes));
        }
        cut(dice, bytes, &mut steps);
        match dice.roll(5) {
            0 => steps.push(Step::Hear(Duration::from_millis(50))),
            1 => steps.push(Step::Pause(Duration::from_millis(dice.roll(3)))),
            // The next one follows at once.
            _ => {}
        }
    }
    if dice.roll(3) == 0 {
        steps.push(Step::End);
    }
    joined(steps)
}

/// Puts together what is said without a break: one write.
fn joined(steps: Vec<Step>) -> Vec<Step> {
    let mut all: Vec<Step> = Vec::new();
    for step in steps {
        match (all.last_mut(), step) {
            (Some(Step::Say(before)), Step::Say(bytes)) => before.extend(bytes),
            (_, step) => all.push(step),
        }
    }
    all
}

fn cut(dice: &mut Dice, bytes: Vec<u8>, steps: &mut Vec<Step>) {
    let mut rest = &bytes[..];
    while dice.roll(3) == 0 && !rest.is_empty() {
        let (piece, more) = rest.split_at(dice.roll(rest.len() as u64 + 1) as usize);
        steps.push(Step::Say(piece.to_vec()));
        steps.push(Step::Pause(Duration::from_micros(dice.roll(2000))));
        rest = more;
    }
    steps.push(Step::Say(rest.to_vec()));
}

fn message(dice: &mut Dice, number: u64) -> Vec<u8> {
    match dice.roll(20) {
        0 => (0..dice.roll(60)).map(|_| dice.roll(256) as u8).collect(),
        1 => dice.pick(&["\r\n", "\n", "\r\n\n", "\n\r\n\r\n", "\r"]).into(),
        2 => dice.pick(PIECES).to_vec(),
        3..6 => upgrade(dice, number),
        6..8 => request(dice, number, &["CONNECT"], &[b"moose:443", b"moose:80", b"cow:99", b"10.2.0.5:80"], ""),
        _ => request(dice, number, METHODS, TARGETS, ""),
    }
}

fn upgrade(dice: &mut Dice, number: u64) -> Vec<u8> {
    let lines = format!("Connection: Upgrade\r\nUpgrade: {}\r\n", dice.pick(UPGRADES));
    request(dice, number, METHODS, &[b"/socket", b"http://moose/socket"], &lines)
}

fn request(dice: &mut Dice, number: u64, methods: &[&str], targets: &[&[u8]], more: &str) -> Vec<u8> {
    let method = dice.pick(methods);
    // Mostly what is refused at once would hide what comes after it.
    let target = if dice.roll(3) == 0 || method == "CONNECT" { dice.pick(targets) } else { targets[0] };
    let minor = if dice.roll(8) == 0 { 0 } else { 1 };
    let answer = dice.roll(ANSWERS.len() as u64);
    let mut bytes = [method.as_bytes(), b" ", target, format!(" HTTP/1.{minor}\r\n").as_bytes()].concat();
    let host = if dice.roll(4) == 0 { dice.pick(HOSTS) } else { HOSTS[0] };
    bytes.extend(format!("Host: {host}\r\nX-Number: {number}\r\nX-Answer: {answer}\r\n{more}").bytes());
    while dice.roll(3) == 0 {
        // Most of the others are refused at once, and what comes behind is not seen.
        let lines = if dice.roll(4) == 0 { LINES } else { &LINES[..GOOD] };
        bytes.extend(dice.pick(lines).bytes());
        bytes.extend(b"\r\n");
    }
    let body = dice.pick(&["", "hello", "GET /smuggled HTTP/1.1\r\nHost: moose\r\n\r\n", "0\r\n\r\n"]);
    match dice.roll(if method == "CONNECT" { 20 } else { 4 }) {
        0 => bytes.extend(format!("Content-Length: {}\r\n\r\n{body}", body.len()).bytes()),
        1 => {
            let extension = dice.pick(&["", "", "", "", ";a=b", ";", " ", ";\n"]);
            bytes
                .extend(format!("Transfer-Encoding: chunked\r\n\r\n{:x}{extension}\r\n{body}\r\n", body.len()).bytes());
            if !body.is_empty() {
                let trailer =
                    dice.pick(&["", "X: y\r\n", "Connection: X-Forwarded-For\r\n", "X-Forwarded-For: 1.2.3.4\r\n"]);
                bytes.extend(format!("0\r\n{trailer}\r\n").bytes());
            }
        }
        _ => bytes.extend(b"\r\n"),
    }
    bytes
}

fn damage(dice: &mut Dice, bytes: &mut Vec<u8>) {
    let at = dice.roll(bytes.len() as u64 + 1) as usize;
    match dice.roll(4) {
        0 if at < bytes.len() => bytes[at] = dice.roll(256) as u8,
        1 => drop(bytes.drain(at..(at + dice.roll(8) as usize).min(bytes.len()))),
        2 => drop(bytes.splice(at..at, bytes[at..(at + 20).min(bytes.len())].to_vec())),
        _ => drop(bytes.splice(at..at, dice.pick(PIECES).iter().copied())),
    }
}
