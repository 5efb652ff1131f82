//! System calls that fail: each of those that relaying is made of, with each error that it may have, one call in so
//! many, while connections are made and data flows. Whether the fault has really happened is counted.

use super::inject::{Call, Faults, Role, SHORT};
use super::scene::{Holdings, MOOSE, Scene, attempt};
use lab::daemon::Daemon;
use lab::journal::ConnectionLine;
use lab::report;
use lab::transfer::{Manners, Order, Outcome, Transfer};
use libc::{
    EACCES, EADDRNOTAVAIL, EAGAIN, ECONNABORTED, ECONNREFUSED, ECONNRESET, EHOSTUNREACH, EINTR, EINVAL, EMFILE,
    ENETDOWN, ENETUNREACH, ENFILE, ENOBUFS, ENOENT, ENOMEM, ENOPROTOOPT, ENOSPC, ENOSYS, ENOTCONN, EOPNOTSUPP, EPERM,
    EPIPE, EPROTO, ETIMEDOUT,
};
use std::io::{Error, ErrorKind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What a failed call may do to connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    /// Nothing.
    None,
    /// The one whose call it was may be reset.
    One,
}

/// A call, its errors with how often they strike, the harm, and a text that the log must hold then.
type Row<'a> = (Call, &'a [(i32, u32)], Harm, Option<&'a str>);

const ACCEPTING: &[Row] = &[
    (Call::Accept4, &[(EMFILE, 4), (ENFILE, 4), (ENOBUFS, 4), (ENOMEM, 4)], Harm::None, Some("accepting pauses")),
    (
        Call::Accept4,
        &[
            (ECONNABORTED, 2),
            (EPROTO, 2),
            (EINTR, 2),
            (EPERM, 2),
            (EACCES, 2),
            (ENETDOWN, 2),
            (EHOSTUNREACH, 2),
            (EOPNOTSUPP, 2),
            (ETIMEDOUT, 2),
            (EAGAIN, 2),
        ],
        Harm::None,
        None,
    ),
    (Call::Getsockopt, &[(ENOENT, 2), (ENOPROTOOPT, 2), (ENOBUFS, 2)], Harm::None, None),
    (Call::EpollWait, &[(EINTR, 2)], Harm::None, None),
];

const CONNECTING: &[Row] = &[
    (
        Call::Connect,
        &[(EPERM, 3), (EACCES, 3), (ENETUNREACH, 3), (EHOSTUNREACH, 3), (ECONNREFUSED, 3), (ETIMEDOUT, 3)],
        Harm::One,
        Some("cannot reach the upstream"),
    ),
    (Call::Connect, &[(EADDRNOTAVAIL, 3), (EAGAIN, 3)], Harm::One, Some("out of local ports towards 10.3.0.3:9")),
    (Call::Connect, &[(ENOBUFS, 3), (ENOMEM, 3)], Harm::One, None),
    (Call::Socket, &[(EMFILE, 3), (ENFILE, 3), (ENOBUFS, 3), (ENOMEM, 3), (EACCES, 3)], Harm::One, None),
    (Call::Getsockname, &[(ENOBUFS, 3)], Harm::One, None),
    (Call::Setsockopt, &[(ENOPROTOOPT, 3), (ENOMEM, 3), (EPERM, 3)], Harm::One, None),
    (Call::EpollCtl, &[(ENOMEM, 4), (ENOSPC, 4)], Harm::One, None),
];

const FLOWING: &[Row] = &[
    (Call::Recv, &[(EAGAIN, 3), (SHORT, 3), (EINTR, 5)], Harm::None, None),
    (Call::Send, &[(EAGAIN, 3), (SHORT, 3), (EINTR, 5)], Harm::None, None),
    (Call::Splice, &[(EAGAIN, 3), (SHORT, 3), (EINTR, 3)], Harm::None, None),
    (
        Call::Recv,
        &[(ECONNRESET, 50), (ETIMEDOUT, 50), (EHOSTUNREACH, 50), (ENOMEM, 50), (ENOBUFS, 50)],
        Harm::One,
        None,
    ),
    (Call::Send, &[(EPIPE, 50), (ECONNRESET, 50), (ENOMEM, 50), (ENOBUFS, 50)], Harm::One, None),
    (Call::Splice, &[(ENOMEM, 200), (ECONNRESET, 200), (EPIPE, 200)], Harm::One, None),
    (Call::Shutdown, &[(ENOTCONN, 3)], Harm::One, None),
];

/// Each with a worker that has no pipe yet.
const LENDING: &[(i32, u32)] = &[(EMFILE, 1), (ENFILE, 1), (ENOMEM, 1)];

/// Faults and bytes of all tables so far.
static FAULTS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

#[test]
fn failures_while_accepting_harm_nobody() {
    play(ACCEPTING, "accepting");
}

#[test]
fn failures_while_connecting_harm_only_the_connection_that_has_them() {
    play(CONNECTING, "connecting");
}

#[test]
fn failures_while_data_flows_harm_at_most_the_connection_that_has_them() {
    play(FLOWING, "flowing");
}

#[test]
fn without_pipes_data_flows_all_the_same() {
    for row in LENDING.chunks(1) {
        play(&[(Call::Pipe2, row, Harm::None, None)], "no pipes");
    }
}

#[test]
fn a_kernel_that_does_not_splice_is_told_once_and_data_is_copied() {
    let Some(scene) = Scene::new() else { return };
    for error in [ENOSYS, EINVAL] {
        let faults = Faults::new();
        faults.strike(Role::Worker, Call::Splice, error, 1);
        let mut daemon = faults.preload(scene.launch("")).ready();
        let before = Holdings::at_rest(daemon.family.worker());
        let outcomes: Vec<Outcome> = (0..5).flat_map(|turn| load(&scene, turn)).collect();
        assert!(outcomes.iter().all(|outcome| outcome.cut.is_none()), "{outcomes:?}");
        assert_eq!(faults.hits(Call::Splice), 1);
        assert_eq!(daemon.journal.count("splice does not work here"), 1, "{}", daemon.journal.text());
        before.wait_returned(daemon.family.worker(), "without splice");
        assert_eq!(daemon.stop(), 0);
    }
    scene.ledger.assert_right();
}

fn play(rows: &[Row], what: &str) {
    let Some(scene) = Scene::new() else { return };
    let (daemon, faults) = scene.fragile("");
    let before = Holdings::at_rest(daemon.family.worker());
    let begin = Instant::now();
    let mut sum = Sum::default();
    for (call, errors, harm, says) in rows {
        for (error, every) in *errors {
            strike(&scene, &daemon, &faults, (*call, *error, *every), *harm, *says, &mut sum);
            before.wait_returned(daemon.family.worker(), &format!("{call:?} {error}"));
        }
    }
    scene.ledger.assert_right();
    BYTES.fetch_add(scene.ledger.bytes.load(Ordering::Relaxed), Ordering::Relaxed);
    report(&format!(
        "faults: {what}: {} kinds, {} calls failed in {:.1} s: {} connections whole, {} cut, none wrong; in all {} \
         calls failed and {} MiB checked",
        sum.kinds,
        sum.hits,
        begin.elapsed().as_secs_f64(),
        sum.whole,
        sum.cut,
        FAULTS.load(Ordering::Relaxed),
        BYTES.load(Ordering::Relaxed) >> 20,
    ));
}

#[derive(Default)]
struct Sum {
    kinds: usize,
    hits: u64,
    whole: u64,
    cut: u64,
}

/// One kind of fault, under load until it has happened a few times.
fn strike(
    scene: &Scene,
    daemon: &Daemon,
    faults: &Faults,
    (call, error, every): (Call, i32, u32),
    harm: Harm,
    says: Option<&str>,
    sum: &mut Sum,
) {
    const ENOUGH: u64 = 3;
    let what = match error {
        SHORT => format!("{call:?} does less than asked"),
        _ => format!("{call:?}: {}", Error::from_raw_os_error(error)),
    };
    let (worker, lines) = (daemon.family.worker(), daemon.journal.lines().len());
    // One that was established before.
    let old = Transfer::new(u64::from(every), 600_000, 600_000, Order::AtOnce);
    let mut outcomes = Vec::new();
    std::thread::scope(|scope| {
        let (started, go) = std::sync::mpsc::channel();
        let old = scope.spawn(move || {
            scene.lab.client.enter(move || {
                let stream = lab::clients::connect(MOOSE.parse().expect("an address")).expect("connect");
                started.send(()).expect("send");
                old.run(stream, Manners::default())
            })
        });
        go.recv().expect("the old connection");
        faults.strike(Role::Worker, call, error, every);
        let patience = Instant::now() + Duration::from_secs(15);
        for turn in 0.. {
            outcomes.extend(load(scene, turn));
            if faults.hits(call) >= ENOUGH {
                break;
            }
            assert!(Instant::now() < patience, "{what}: happened only {} times", faults.hits(call));
        }
        outcomes.push(old.join().expect("the old connection"));
    });
    faults.heal(call);
    let hits = faults.hits(call);
    scene.assert_serves(&what);
    assert_eq!(daemon.family.worker(), worker, "{what}: the worker has died");

    let cut = outcomes.iter().filter(|outcome| outcome.cut.is_some()).count() as u64;
    let kinds: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.cut).collect();
    match harm {
        Harm::None => assert_eq!(cut, 0, "{what}: {hits} times: {kinds:?}\n{}", daemon.journal.text()),
        Harm::One => assert!(cut <= hits, "{what}: {hits} times, and {cut} connections cut: {kinds:?}"),
    }
    let early = |outcome: &Outcome| outcome.cut == Some(ErrorKind::UnexpectedEof);
    assert!(!outcomes.iter().any(early), "{what}: cut off, and it looked like a regular end");
    assert_eq!(scene.ledger.truncated(), [], "{what}: an upload cut off, and it looked like a regular end");
    let told = told_since(daemon, lines);
    assert!(told.len() <= 8, "{what}: too much in the log: {told:#?}");
    if let Some(says) = says {
        daemon.journal.wait_for(says);
    }
    FAULTS.fetch_add(hits, Ordering::Relaxed);
    BYTES.fetch_add(outcomes.iter().map(|outcome| outcome.bytes).sum(), Ordering::Relaxed);
    sum.kinds += 1;
    sum.hits += hits;
    sum.cut += cut;
    sum.whole += outcomes.len() as u64 - cut;
}

/// A few connections of each kind at once.
fn load(scene: &Scene, turn: u64) -> Vec<Outcome> {
    const MIB: u64 = 1 << 20;
    let kinds = [
        (MIB, MIB, Order::AtOnce),
        (10, 200_000, Order::EndFirst),
        (400_000, 0, Order::AfterEnd),
        (300, 5_000, Order::AtOnce),
        (0, 30_000, Order::AtOnce),
        (20_000, 20_000, Order::AfterEnd),
    ];
    scene.lab.client.enter(|| {
        std::thread::scope(|scope| {
            let one = |number: usize, (up, down, order)| {
                let transfer = Transfer::new(100 * turn + number as u64, up, down, order);
                let pause = (number == 0).then_some((MIB / 4, Duration::from_millis(20)));
                attempt(MOOSE, &transfer, Manners { pause, ..Manners::default() })
            };
            let running: Vec<_> =
                kinds.into_iter().enumerate().map(|(number, kind)| scope.spawn(move || one(number, kind))).collect();
            running.into_iter().map(|one| one.join().expect("a transfer")).collect()
        })
    })
}

/// What the log has said since then, besides the ends of connections.
fn told_since(daemon: &Daemon, lines: usize) -> Vec<String> {
    let all = daemon.journal.lines();
    all[lines..].iter().filter(|line| ConnectionLine::parse(line).is_none()).cloned().collect()
}
