//! What clients of the control socket and programs that collect metrics may send: anything. `CONTROL_FUZZ=10000000` tries
//! ten million of each.

use lab::dice::Dice;
use tproxy::testing::command::{self, LINE};
use tproxy::testing::http::{self, SCRAPE_HEAD};
use tproxy::testing::{ControlCommand, ScrapeRequest};

const WORDS: &[&str] = &[
    "json",
    "show",
    "summary",
    "redirections",
    "upstreams",
    "connections",
    "workers",
    "rules",
    "config",
    "client",
    "source",
    "original",
    "upstream",
    "port",
    "redirection",
    "worker",
    "state",
    "open",
    "older",
    "kill",
    "#2-17",
    "18446744073709551615-1",
    "10.0.0.0/8",
    "10.0.0.0/33",
    "::1",
    "fd00::/64",
    "enable",
    "disable",
    "drain",
    "cow:80",
    "[fd00::1]:80",
    "cow:same",
    "cow:0",
    ":",
    "stop",
    "--drain",
    "4294967296",
    "0",
    "65536",
    "-1",
    "verbose",
    "on",
    "off",
    "reload",
    "reopen",
    "upgrade",
    "prompt",
    "quit",
    "help",
    "health",
    "monitor",
    "é",
    "\u{7}",
    "%s",
    "\"",
];

const HEADS: &[&str] = &[
    "GET ",
    "HEAD ",
    "POST ",
    "/metrics",
    "/metrics?x",
    "/",
    " HTTP/1.1\r\n",
    " HTTP/1.0\r\n",
    "\r\n",
    "\r\n\r\n",
    "Accept: ",
    "accept:",
    "application/openmetrics-text",
    "text/plain",
    ";q=0.5",
    ";q=nan",
    ";q=",
    ",",
    "*/*",
    "Host: x\r\n",
    "X: ",
    "\0",
    "\u{ff}",
];

/// Parts in a row, with noise in between.
fn made_of(parts: &[&str], between: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..dice.roll(12) {
        bytes.extend_from_slice(dice.pick(parts).as_bytes());
        bytes.extend_from_slice(between);
        if dice.roll(20) == 0 {
            (0..dice.size(9)).for_each(|_| bytes.push(dice.roll(256) as u8));
        }
    }
    bytes
}

fn count() -> u64 {
    lab::number_from_env("CONTROL_FUZZ", 100_000)
}

#[test]
fn any_line_is_a_command_or_one_sentence() {
    let mut dice = Dice(lab::number_from_env("CONTROL_SEED", 1));
    let (mut understood, mut refused) = (0, 0);
    for number in 0..count() {
        let line = made_of(WORDS, b" ", &mut dice);
        let Some(parsed) = command::parse(&line) else {
            assert!(line.iter().all(u8::is_ascii_whitespace), "{number}: {line:?}");
            continue;
        };
        match parsed.command {
            Ok(ControlCommand::Upstream(_, name)) => assert!(name.len() <= LINE && name.contains(':'), "{number}"),
            Ok(_) => understood += 1,
            Err(why) => {
                assert!(!why.is_empty() && !why.contains(['\n', '\r']), "{number}: {why:?}");
                refused += 1;
            }
        }
    }
    assert!(understood > count() / 2000 && refused > count() / 2, "{understood} {refused}");
}

#[test]
fn any_head_is_a_scrape_a_status_or_the_beginning_of_one() {
    let mut dice = Dice(lab::number_from_env("CONTROL_SEED", 2));
    let mut scrapes = 0;
    for number in 0..count() {
        let mut head = if dice.roll(2) == 0 { b"GET /metrics HTTP/1.1\r\n".to_vec() } else { Vec::new() };
        head.extend(made_of(HEADS, b"", &mut dice));
        match http::read(&head) {
            ScrapeRequest::Partial => assert!(head.len() < SCRAPE_HEAD, "{number}"),
            ScrapeRequest::Metrics { format, with_body } => {
                scrapes += 1;
                let answer = http::answer(format, "x 1\n", with_body);
                assert_eq!(answer.ends_with(b"x 1\n"), with_body, "{number}");
                // A part of it is the same, or not enough.
                let part = http::read(&head[..dice.roll(head.len() as u64) as usize]);
                let is_same = matches!(part, ScrapeRequest::Metrics { .. }) || part == ScrapeRequest::Partial;
                assert!(is_same, "{number}: {part:?} of {head:?}");
            }
            ScrapeRequest::Refused(status) => assert!(http::refusal(status).starts_with(b"HTTP/1.1 4"), "{number}"),
        }
    }
    assert!(scrapes > count() / 100, "{scrapes}");
}
