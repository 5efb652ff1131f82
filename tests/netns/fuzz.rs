//! Fuzzing of what clients send through `--via http`, with real proxies as witnesses: no request may reach a proxy that
//! tproxy has not looked at.
//!
//! Every request that tproxy passes on gets the client's address (`--forwarded`). Squid and HAProxy log that address with
//! each request that they have understood, and so does the web server behind them. A request without it has come past
//! tproxy. With `--host-check`, one for another host has.
//!
//! `FUZZ_SECONDS` says how long (12), `FUZZ_SEED` repeats a run: `make fuzz`. Each connection has a number, which its
//! requests carry, and its bytes depend on nothing but the seed and that number.

#[path = "fuzz/answers.rs"]
mod answers;
#[path = "fuzz/talk.rs"]
mod talk;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::via::Office;
use super::{HEAVY, MOOSE};
use answers::Witness;
use lab::dice::Dice;
use lab::peers::Peer;
use lab::{alone, number_from_env, report, wait};
use talk::Step;

/// Who makes the connections, and where all of them come from.
const THREADS: u64 = 8;
const CLIENT: &str = "10.1.0.2";

/// A proxy, and how tproxy is told to speak to it.
type Round = (fn(&lab::netns::Net) -> Peer, &'static str);

const ROUNDS: [Round; 4] = [
    (Peer::squid_witness, ""),
    (Peer::haproxy_witness, ""),
    (Peer::squid_witness, "--host-check"),
    (Peer::haproxy_witness, "--host-check"),
];

/// What a run has come to.
#[derive(Default)]
struct Figures {
    connections: u64,
    logged: u64,
    unread: u64,
    at_server: u64,
    switched: u64,
    endings: BTreeMap<String, u64>,
}

#[test]
fn no_request_reaches_a_proxy_that_was_not_looked_at() {
    let _alone = alone(&HEAVY);
    let seconds = number_from_env("FUZZ_SECONDS", 12);
    let seed = number_from_env("FUZZ_SEED", 1 + u64::from(std::process::id()));
    let each = (seconds / 4).clamp(1, 30);
    let connections = AtomicU64::new(0);
    let mut figures = Figures::default();
    for round in ROUNDS.into_iter().cycle().take((seconds / each) as usize) {
        let Some(office) = Office::new() else { return };
        play(&office, round, seed, &connections, Duration::from_secs(each), &mut figures);
    }
    figures.connections = connections.load(Ordering::Relaxed);
    tell(seed, seconds, &figures);
}

fn tell(seed: u64, seconds: u64, figures: &Figures) {
    let Figures { connections, logged, unread, at_server, switched, endings } = figures;
    report(&format!(
        "fuzz: seed {seed}, {seconds} s: {connections} connections; the proxies logged {logged} requests and {unread} that \
         they could not read, the web server {at_server}, {switched} switches; every one was looked at"
    ));
    endings.iter().for_each(|(ending, count)| report(&format!("fuzz: {count} ended: {ending}")));
    assert!(*logged > *connections / 4 && *switched > 0, "too little came through to prove anything");
}

/// One round: a proxy, a relay, and as many connections as there is time for.
fn play(office: &Office, (proxy, options): Round, seed: u64, next: &AtomicU64, time: Duration, figures: &mut Figures) {
    let witness = Witness::default();
    let _server = office.lab.moose.enter(|| witness.serve());
    let peer = proxy(&office.lab.cow);
    let daemon = office.relay("80", &format!("--forwarded x-forwarded-for {options} --via http cow 3128"));
    let (worker, until) = (daemon.relaying_pid(), Instant::now() + time);
    office.lab.client.enter(|| {
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    while Instant::now() < until {
                        converse(seed, next.fetch_add(1, Ordering::Relaxed));
                    }
                });
            }
        });
    });
    assert_eq!(daemon.relaying_pid(), worker, "seed {seed}: the worker has died:\n{}", daemon.journal.text());
    for line in daemon.journal.connections() {
        *figures.endings.entry(line.ending).or_default() += 1;
    }
    // The proxies log a request when it is over.
    drop(daemon);
    let (mut before, mut since) = (0, Instant::now());
    wait::until_true("a log that does not grow", || {
        let now = peer.log().len();
        if now != before {
            (before, since) = (now, Instant::now());
        }
        now > 0 && since.elapsed() > Duration::from_secs(1)
    });
    judge(&peer, options, seed, figures);
    witness.judge(seed);
    figures.at_server += witness.requests();
    figures.switched += witness.switched();
}

/// One connection of a client.
fn converse(seed: u64, number: u64) {
    let mut dice = Dice(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ number);
    let steps = talk::steps(&mut dice, number);
    let Ok(mut stream) = lab::clients::connect(MOOSE.parse().expect("address")) else { return };
    for step in steps {
        let done = match step {
            Step::Say(bytes) => stream.write_all(&bytes).is_ok(),
            // How the bytes are cut is a part of what is tried.
            Step::Pause(time) => {
                std::thread::sleep(time);
                true
            }
            Step::Hear(time) => hear(&mut stream, time),
            Step::End => stream.shutdown(Shutdown::Write).is_ok(),
        };
        if !done {
            return;
        }
    }
    while hear(&mut stream, Duration::from_millis(20)) {}
}

/// Reads what comes within a time. False if nothing does, or the end.
fn hear(stream: &mut TcpStream, time: Duration) -> bool {
    let _ = stream.set_read_timeout(Some(time));
    match stream.read(&mut [0; 16384]) {
        Ok(count) => count > 0,
        Err(error) => error.kind() == ErrorKind::Interrupted,
    }
}

/// Each request that a proxy has understood must tell of the client, and with `--host-check` be for moose.
fn judge(peer: &Peer, options: &str, seed: u64, figures: &mut Figures) {
    for line in peer.log().lines() {
        let Some(words) = line.split_once("witness ").map(|(_, rest)| rest.split(' ').collect::<Vec<_>>()) else {
            continue;
        };
        let [method, url, status, forwarded, number, ..] = words[..] else { panic!("seed {seed}: {line}") };
        if url == "error:transaction-end-before-headers" {
            continue;
        }
        // Squid refuses a URL that it does not understand before it has read the fields.
        let has_no_fields = (status, forwarded, number.trim()) == ("400", "-", "-");
        if url.starts_with("error:") || method.starts_with('<') || has_no_fields {
            figures.unread += 1;
            continue;
        }
        figures.logged += 1;
        let is_told = forwarded.trim_matches(['{', '}', '"']).rsplit([',', '+', ' ']).next();
        let is_told = is_told.map(|last| last.trim_start_matches("%20")) == Some(CLIENT);
        assert!(is_told, "seed {seed}: came past tproxy: {line}");
        assert!(options.is_empty() || is_for_moose(url), "seed {seed}: for another host: {line}");
    }
}

fn is_for_moose(url: &str) -> bool {
    let lower = url.to_ascii_lowercase();
    let authority = lower.strip_prefix("http://").unwrap_or(&lower);
    let authority = authority.split(['/', '?']).next().unwrap_or_default();
    // 080 is a way to write it, too.
    let host = authority.rsplit_once(':').filter(|(_, port)| port.trim_start_matches('0') == "80");
    let host = host.map_or(authority, |(host, _)| host);
    ["moose", "moose.example", "10.2.0.5"].contains(&host.trim_end_matches('.'))
}
