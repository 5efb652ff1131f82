//! `show connections` with thousands of them: what it costs those who are relayed, and the process that answers.

use super::memory::{full_of_patience, roomy};
use super::{HEAVY, Scene, Server};
use lab::controller;
use lab::daemon::Daemon;
use lab::tempdir::TempDir;
use lab::{AtEnd, alone, clients, process, report, wait};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A gateway with two workers, idle connections, and an echo server for others.
struct Crowded {
    scene: Scene,
    daemon: Daemon,
    directory: TempDir,
    _idle: Vec<TcpStream>,
    _servers: (TcpListener, Server),
}

impl Crowded {
    fn with(count: usize) -> Option<Crowded> {
        let scene = Scene::new()?;
        roomy(&scene);
        let directory = TempDir::new();
        let to = SocketAddr::from(([10, 2, 0, 5], 9));
        let servers =
            (scene.lab.moose.enter(|| full_of_patience(to)), scene.lab.cow.enter(|| Server::echo("0.0.0.0:7")));
        let table = format!(
            "-r nobody -w 2 -l /dev/null --control {}\n-s 8081 -t -R '-d 10.2.0.5 --dport 9'\n\
             -s 8082 -R '-d 10.2.0.5 --dport 7' 10.3.0.3 7\n",
            directory.file("c.sock")
        );
        let daemon = scene.relay(&["-d", "-c", &directory.write("table.conf", &table)]);
        let connect = || clients::connect(to).expect("connect");
        let idle = scene.lab.client.enter(|| (0..count).map(|_| connect()).collect());
        let crowded = Crowded { scene, daemon, directory, _idle: idle, _servers: servers };
        wait::until_within(Duration::from_secs(60), "all are open", || {
            let all = format!("\nopen: {count}\n");
            controller::run(&crowded.socket(), "show summary").succeeded().contains(&all).then_some(())
        });
        Some(crowded)
    }

    fn socket(&self) -> String {
        self.directory.file("c.sock")
    }

    /// The whole list, once.
    fn list(&self) -> usize {
        controller::run(&self.socket(), "--json show connections").succeeded().matches("\"id\":").count()
    }

    /// Asks for the list and reads nothing of it.
    fn ask_and_stall(&self) -> UnixStream {
        let mut stream = UnixStream::connect(self.socket()).expect("connect");
        stream.write_all(b"json show connections\n").expect("write");
        stream
    }
}

/// `LISTED=15000` makes it as large as a gateway may be.
#[test]
fn lists_of_connections_that_nobody_reads_cost_little_memory() {
    const READERS: usize = 40;
    let count = lab::number_from_env("LISTED", 2_000) as usize;
    let _alone = alone(&HEAVY);
    let Some(crowded) = Crowded::with(count) else { return };
    assert_eq!(crowded.list(), count);
    let control = crowded.daemon.family.one("tproxy-control");
    let before = process::anonymous_memory(control);
    let mut stalled: Vec<UnixStream> = (0..READERS).map(|_| crowded.ask_and_stall()).collect();
    // All have been answered as far as they may: the last one, who asks after them, gets all of it.
    assert_eq!(crowded.list(), count);
    let memory = process::anonymous_memory(control);
    // Whoever reads on gets the rest, to the end.
    let mut longest = 0;
    for stream in &mut stalled {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the answer");
        assert!(answer.ends_with("\n]}\n") && answer.matches("\"id\":").count() == count, "it is whole");
        longest = longest.max(answer.len());
    }
    let each = memory.saturating_sub(before) / READERS as u64;
    report(&format!(
        "listing: {READERS} readers that stall over lists of {count} connections, {longest} bytes each, cost the control \
         process {each} bytes each; it had {before} bytes before"
    ));
    assert!(each <= 128 * 1024, "{each} bytes for each reader");
    assert_eq!(crowded.daemon.family.one("tproxy-control"), control, "it is still the same");
}

/// Microseconds of each of the requests that four clients make for `span`, one after the other; sorted.
fn response_times(crowded: &Crowded, span: Duration) -> Vec<u64> {
    let to = SocketAddr::from(([10, 2, 0, 5], 7));
    let ask = || {
        let mut stream = clients::connect(to).expect("connect");
        let (mut times, begin) = (Vec::new(), Instant::now());
        while begin.elapsed() < span {
            let since = Instant::now();
            clients::round_trip(&mut stream, &[7; 100]).expect("echo");
            times.push(since.elapsed().as_micros() as u64);
        }
        times
    };
    let mut all: Vec<u64> = crowded.scene.lab.client.enter(|| {
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            clients.into_iter().flat_map(|client| client.join().expect("client")).collect()
        })
    });
    all.sort_unstable();
    all
}

/// The one below which are so many in a thousand.
fn permille(sorted: &[u64], part: usize) -> u64 {
    sorted[(sorted.len() * part / 1000).min(sorted.len() - 1)]
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// Uses a processor for so long.
fn compute(span: Duration) {
    let used = || {
        let usage = getrusage(UsageWho::RUSAGE_THREAD).expect("usage");
        usage.user_time() + usage.system_time()
    };
    let begin = used();
    while (used() - begin).num_microseconds() < span.as_micros() as i64 {
        std::hint::spin_loop();
    }
}

/// `PAUSE` is the time between two lists in milliseconds: `tproxyctl top` asks once a second. With `COMPUTING=11` nothing is
/// listed; a thread uses a processor for 11 milliseconds instead, for comparison.
#[test]
#[ignore = "measures, on a machine that does nothing else: cargo test --profile tested --test netns -- --ignored listing"]
fn requests_are_as_quick_while_connections_are_listed() {
    let count = lab::number_from_env("LISTED", 15_000) as usize;
    let rounds = lab::number_from_env("ROUNDS", 10);
    let pause = Duration::from_millis(lab::number_from_env("PAUSE", 1000));
    let computing = Duration::from_millis(lab::number_from_env("COMPUTING", 0));
    let span = Duration::from_secs(2);
    let _alone = alone(&HEAVY);
    let Some(crowded) = Crowded::with(count) else { return };
    response_times(&crowded, Duration::from_millis(300));
    let (mut without, mut ratios, lists) = (Vec::new(), Vec::new(), AtomicU64::new(0));
    let listing = AtomicU64::new(0);
    for round in 0..rounds {
        let quiet = || permille(&response_times(&crowded, span), 990) as f64;
        let listed = || {
            let over = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        let begin = Instant::now();
                        match computing.is_zero() {
                            true => assert!(crowded.list() >= count),
                            false => compute(computing),
                        }
                        listing.fetch_add(begin.elapsed().as_millis() as u64, Ordering::Relaxed);
                        lists.fetch_add(1, Ordering::Relaxed);
                        let next = begin + pause;
                        // The pace of the reader.
                        while Instant::now() < next && !over.load(Ordering::Relaxed) {
                            std::thread::sleep(Duration::from_millis(1));
                        }
                    }
                });
                let _end = AtEnd(&over);
                quiet()
            })
        };
        // Whoever is first in a pair must not always be the same.
        let (a, b) = if round % 2 == 0 {
            let a = quiet();
            (a, listed())
        } else {
            let b = listed();
            (quiet(), b)
        };
        without.push(a);
        ratios.push(b / a);
    }
    let (lists, ratio) = (lists.into_inner(), median(ratios.clone()));
    let what = if computing.is_zero() { "lists" } else { "computations instead of lists" };
    report(&format!(
        "listing: {count} connections, {lists} {what} of {} ms each, {} ms apart: the 99th percentile of requests is {:.0} \
         us without, and {ratio:.3} of that with them (pairs: {ratios:.2?})",
        listing.into_inner() / lists.max(1),
        pause.as_millis(),
        median(without)
    ));
    assert!(ratio <= 1.1 || !computing.is_zero(), "{ratio}");
}
