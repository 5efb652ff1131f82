//! Numbers: killed workers under load, thousands of idle connections, a minute at 2,000 connections a second.

use super::{HEAVY, MOOSE, Scene, Server};
use lab::netns::Net;
use lab::tempdir::TempDir;
use lab::{alone, clients, number_from_env, process, raise_open_files, report, wait};
use nix::sys::signal::Signal;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// One connection that did not get its page: when it began and ended, and how.
#[derive(Debug)]
#[expect(dead_code, reason = "the kind of the error is read in panic messages only")]
struct Loss {
    began: Instant,
    ended: Instant,
    connected: bool,
    kind: ErrorKind,
}

fn moose() -> SocketAddr {
    MOOSE.parse().expect("an address")
}

/// Fetches pages in a loop from `threads` threads until `total` are done; gives the losses.
fn fetch_many(client: &Net, threads: usize, total: usize, done: &AtomicUsize) -> Vec<Loss> {
    let losses = Mutex::new(Vec::new());
    client.enter(|| {
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while done.fetch_add(1, Ordering::Relaxed) < total {
                        if let Err(loss) = fetch_one() {
                            losses.lock().expect("losses").push(loss);
                        }
                    }
                });
            }
        });
    });
    losses.into_inner().expect("losses")
}

fn fetch_one() -> Result<(), Loss> {
    let began = Instant::now();
    let loss =
        |connected: bool, error: &io::Error| Loss { began, ended: Instant::now(), connected, kind: error.kind() };
    let stream = clients::connect(moose()).map_err(|error| loss(false, &error))?;
    match clients::ask(stream) {
        Ok(page) if page == "cow" => Ok(()),
        Ok(page) => panic!("the page of {page}: a connection got past the redirection"),
        Err(error) => Err(loss(true, &error)),
    }
}

#[test]
fn five_killed_workers_during_ten_thousand_connections_refuse_nobody() {
    const TOTAL: usize = 10_000;
    const THREADS: usize = 8;
    let Some(scene) = Scene::new() else { return };
    let _alone = alone(&HEAVY);
    let daemon = scene.stand_in();
    let done = AtomicUsize::new(0);
    let begin = Instant::now();
    let (losses, kills) = std::thread::scope(|scope| {
        let killer = scope.spawn(|| {
            let mut kills: Vec<RangeInclusive<Instant>> = Vec::new();
            for turn in 1..=5 {
                let due = turn * TOTAL / 6;
                wait::until_within(Duration::from_secs(60), "progress", || {
                    (done.load(Ordering::Relaxed) >= due).then_some(())
                });
                let worker = daemon.family.worker();
                let begin = Instant::now();
                process::signal(worker, Signal::SIGKILL);
                wait::until_true("the worker's end", || !process::alive(worker));
                kills.push(begin..=Instant::now());
                daemon.family.next_worker(worker);
            }
            kills
        });
        let losses = fetch_many(&scene.lab.client, THREADS, TOTAL, &done);
        (losses, killer.join().expect("killer"))
    });
    let refused = losses.iter().filter(|loss| !loss.connected).count();
    // A killed worker takes connections until the kernel runs it the last time.
    let at_a_kill = |loss: &&Loss| kills.iter().any(|kill| loss.began <= *kill.end() && *kill.start() <= loss.ended);
    let explained = losses.iter().filter(at_a_kill).count();
    report(&format!(
        "endurance: {TOTAL} connections in {:.1} s, 5 workers killed: {refused} refused, {} lost with a killed worker",
        begin.elapsed().as_secs_f64(),
        losses.len() - refused
    ));
    assert_eq!(refused, 0, "{losses:?}");
    assert_eq!(explained, losses.len(), "losses without a kill: {losses:?}");
    assert!(losses.len() <= 5 * THREADS, "more losses than connections that were established: {losses:?}");
}

#[test]
fn five_thousand_idle_connections_cost_two_descriptors_and_300_bytes_each() {
    const COUNT: usize = 5_000;
    raise_open_files();
    let Some(scene) = Scene::new() else { return };
    let _alone = alone(&HEAVY);
    let (_server, accepted) = scene.lab.cow.enter(|| Server::handing_over("[::]:7"));
    let daemon = scene.relay(&["-d", "-s", "12970", "-r", "nobody", "-R", "-d moose --dport 7", "cow", "7"]);
    let worker = daemon.family.worker();
    // A connection that talked and fell silent: its first byte goes there, an answer comes back.
    let one = || {
        let mut client = scene.lab.client.connect("10.2.0.5:7").expect("connect");
        client.write_all(b"?").expect("write");
        let mut upstream = accepted.recv_timeout(clients::IO_PATIENCE).expect("upstream");
        upstream.read_exact(&mut [0]).expect("read");
        upstream.write_all(b"!").expect("write");
        client.read_exact(&mut [0]).expect("read");
        (client, upstream)
    };
    drop(one());
    daemon.journal.wait_connections(1);
    let measure = || (process::descriptor_count(worker), process::anonymous_memory(worker));
    let (descriptors, memory) = process::at_rest(measure);
    let pairs: Vec<_> = (0..COUNT).map(|_| one()).collect();
    let (more_descriptors, more_memory) = measure();
    let per_connection = (more_descriptors - descriptors) as f64 / COUNT as f64;
    let bytes = more_memory.saturating_sub(memory) as f64 / COUNT as f64;
    report(&format!("endurance: {COUNT} idle connections: {per_connection:.3} descriptors, {bytes:.0} bytes each"));
    assert!(per_connection <= 2.0, "{per_connection} descriptors per idle connection");
    // One page more or less is 0.8 bytes of each.
    assert!(bytes < 301.0, "{bytes} bytes of user memory per idle connection");
    drop(pairs);
    wait::until_true("descriptors return", || process::descriptor_count(worker) <= descriptors);
}

/// One worker's holdings.
#[derive(Debug)]
struct Holdings {
    descriptors: usize,
    pipe_ends: usize,
    memory: u64,
}

fn holdings(pid: i32) -> Holdings {
    Holdings {
        descriptors: process::descriptor_count(pid),
        pipe_ends: process::pipe_ends(pid),
        memory: process::anonymous_memory(pid),
    }
}

/// Opens `rate` connections a second for `span` from four threads; gives the count and the failures.
fn steady_rate(client: &Net, rate: u64, span: Duration) -> (usize, Vec<Loss>) {
    const THREADS: u64 = 4;
    let (count, losses, over) = (AtomicUsize::new(0), Mutex::new(Vec::new()), AtomicBool::new(false));
    let begin = Instant::now();
    client.enter(|| {
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (count, losses, over) = (&count, &losses, &over);
                scope.spawn(move || {
                    for turn in 0.. {
                        let due = begin + Duration::from_micros((turn * THREADS + thread) * 1_000_000 / rate);
                        // The rhythm of the load, not a wait for readiness.
                        std::thread::sleep(due.saturating_duration_since(Instant::now()));
                        if begin.elapsed() >= span || over.load(Ordering::Relaxed) {
                            return;
                        }
                        count.fetch_add(1, Ordering::Relaxed);
                        if let Err(loss) = fetch_one() {
                            losses.lock().expect("losses").push(loss);
                            over.store(true, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
    });
    (count.into_inner(), losses.into_inner().expect("losses"))
}

/// Makes room for the traces that 120,000 connections a minute leave in the kernel for a while.
fn roomy(net: &Net) {
    net.sysctl(&["net.ipv4.ip_local_port_range=1024 65535", "net.ipv4.tcp_tw_reuse=1"]);
}

#[test]
fn a_minute_at_two_thousand_connections_a_second_leaves_nothing_behind() {
    const RATE: u64 = 2_000;
    let Some(scene) = Scene::new() else { return };
    let _alone = alone(&HEAVY);
    let seconds = number_from_env("TPROXY_SOAK_SECONDS", 60);
    [&scene.lab.client, &scene.lab.gateway, &scene.lab.cow].into_iter().for_each(roomy);
    scene.lab.gateway.sysctl(&["net.netfilter.nf_conntrack_tcp_timeout_time_wait=5"]);
    let directory = TempDir::new();
    let log = directory.file("access.log");
    let daemon = scene.relay(&[&["-l", &log], super::STAND_IN].concat());
    let worker = daemon.family.worker();
    // Warm up: tables and pools take the size that this load needs.
    steady_rate(&scene.lab.client, RATE, Duration::from_secs(3));
    let ended = || std::fs::read_to_string(&log).map(|text| text.lines().count()).unwrap_or(0);
    let settle = |what: &str| {
        let mut last = usize::MAX;
        wait::until(what, || {
            let now = (ended(), process::descriptor_count(worker));
            let settled = now.0 == last;
            last = now.0;
            std::thread::sleep(Duration::from_millis(100));
            settled.then_some(())
        });
    };
    settle("the warm-up's connections end");
    let before = holdings(worker);
    let begin = Instant::now();
    let (count, losses) = steady_rate(&scene.lab.client, RATE, Duration::from_secs(seconds));
    let rate = count as f64 / begin.elapsed().as_secs_f64();
    settle("the last connections end");
    let after = holdings(worker);
    let lines = ended();
    report(&format!(
        "endurance: {count} connections in {seconds} s ({rate:.0} a second): {before:?} before, {after:?} after"
    ));
    assert!(losses.is_empty(), "{losses:?}");
    assert!(lines >= count, "{count} connections, but {lines} lines in the access log");
    assert!(rate > 0.9 * RATE as f64, "this machine made only {rate:.0} connections a second");
    assert_eq!(after.descriptors - after.pipe_ends, before.descriptors - before.pipe_ends, "descriptors");
    assert!(after.pipe_ends <= before.pipe_ends + 4, "pipes");
    assert!(after.memory <= before.memory + 128 * 1024, "memory");
    assert_eq!(daemon.family.worker(), worker, "the worker has lived through it");
}
