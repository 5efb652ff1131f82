//! Cables that are pulled, upstreams that break every custom, packets that a full table drops.

use super::scene::{ECHO, Holdings, Scene, attempt};
use lab::clients::{self, IO_PATIENCE};
use lab::process;
use lab::servers::Server;
use lab::transfer::{Manners, Order, Transfer};
use lab::{report, wait};
use nix::sys::signal::Signal;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

#[test]
fn transfers_survive_a_cable_that_is_pulled_and_put_back() {
    let Some(scene) = Scene::new() else { return };
    let daemon = scene.relay();
    let (gateway, worker) = (&scene.lab.gateway, daemon.family.worker());
    scene.assert_serves("before");
    let before = Holdings::at_rest(worker);
    let mut longest = Duration::ZERO;
    for cable in ["eth1", "eth3"] {
        let transfer = Transfer::new(7, 48 << 20, 48 << 20, Order::AtOnce);
        std::thread::scope(|scope| {
            let old = scope.spawn(|| scene.transfer(&transfer, Manners::pausing(Duration::from_millis(300))));
            wait::until_true("it is under way", || Holdings::of(worker).descriptors > before.descriptors);
            gateway.run(&["ip", "link", "set", cable, "down"]);
            let ticks = process::cpu_ticks(worker);
            let begin = Instant::now();
            if cable == "eth3" {
                // Nobody gets there now, which is said at once.
                let refused = scene.lab.moose.enter(|| attempt(MOOSE_FROM_INSIDE, &transfer, Manners::default()));
                assert!(refused.cut.is_some() && begin.elapsed() < Duration::from_secs(5), "{refused:?}");
                daemon.journal.wait_for("cannot reach the upstream");
            }
            // How long the cable is out, not a wait for something.
            std::thread::sleep(Duration::from_millis(1000).saturating_sub(begin.elapsed()));
            let spent = process::cpu_ticks(worker) - ticks;
            gateway.run(&["ip", "link", "set", cable, "up"]);
            let outcome = old.join().expect("the old one");
            assert_eq!(outcome.cut, None, "{cable}");
            assert!(outcome.stall > Duration::from_millis(300), "{cable}: it was not in the way: {:?}", outcome.stall);
            assert!(spent < 60, "{cable}: spinning: {spent} ticks of 10 ms in 1 s");
            longest = longest.max(outcome.stall);
        });
        // What an address failed is remembered for two seconds, and it is tried all the same.
        scene.assert_serves(cable);
        before.wait_returned(worker, cable);
    }
    scene.ledger.assert_right();
    report(&format!("faults: a second without a cable: 48 MiB each way whole, the longest stall {longest:.1?}"));
}

/// moose asks for itself by the gateway's own address: another way in, while the client's is not to be touched.
const MOOSE_FROM_INSIDE: &str = "10.2.0.1:9";

/// What an upstream does with a connection.
type Custom = fn(TcpStream);

/// Each with the bytes that the client must get, whether its end is a regular one, and the words of the log.
const CUSTOMS: &[(&str, Custom, usize, Option<ErrorKind>, &str)] = &[
    ("resets at once", clients::reset, 0, Some(ErrorKind::ConnectionReset), "reset by upstream"),
    ("resets after the request", reset_after_request, 0, Some(ErrorKind::ConnectionReset), "reset by upstream"),
    ("resets in its answer", reset_in_answer, 300_000, Some(ErrorKind::ConnectionReset), "reset by upstream"),
    ("resets after its end", reset_after_end, 300_000, None, "reset by upstream"),
    ("ends at once and reads on", end_first, 0, None, "finished"),
    ("never reads", never_read, 0, Some(ErrorKind::ConnectionReset), "idle"),
    ("never answers", never_answer, 0, Some(ErrorKind::ConnectionReset), "idle"),
];

const REQUEST: &[u8] = b"what time is it?";

fn hear(stream: &mut TcpStream) {
    let mut request = [0; REQUEST.len()];
    stream.read_exact(&mut request).expect("request");
}

fn reset_after_request(mut stream: TcpStream) {
    hear(&mut stream);
    clients::reset(stream);
}

fn reset_in_answer(mut stream: TcpStream) {
    hear(&mut stream);
    stream.write_all(&[7; 300_000]).expect("answer");
    clients::wait_acknowledged(&stream);
    clients::reset(stream);
}

/// The client has read to the end.
static HAS_READ: AtomicBool = AtomicBool::new(false);

/// A worker that hears of both at once cannot tell that the end came before the reset.
fn reset_after_end(mut stream: TcpStream) {
    hear(&mut stream);
    HAS_READ.store(false, Ordering::SeqCst);
    stream.write_all(&[7; 300_000]).expect("answer");
    stream.shutdown(Shutdown::Write).expect("shutdown");
    wait::until_true("the client has read to the end", || HAS_READ.load(Ordering::SeqCst));
    clients::reset(stream);
}

fn end_first(mut stream: TcpStream) {
    stream.shutdown(Shutdown::Write).expect("shutdown");
    let (got, error) = clients::read_all(&mut stream);
    assert_eq!((&got[..], error), (REQUEST, None));
}

fn never_read(stream: TcpStream) {
    let _ = stream.set_nonblocking(true);
    // Until the other end gives up.
    wait::try_until(IO_PATIENCE, || stream.take_error().ok().flatten());
}

fn never_answer(mut stream: TcpStream) {
    let _ = clients::read_all(&mut stream);
}

#[test]
fn upstreams_that_break_every_custom_harm_only_their_own_connection() {
    let Some(scene) = Scene::new() else { return };
    let (_server, accepted) = scene.lab.cow.enter(|| Server::handing_over("0.0.0.0:11"));
    let table = "-r nobody\n-s 12970 -R '--dport 9' cow 9\n-s 12971 --idle-timeout 2 -R '--dport 11' cow 11\n";
    let daemon = scene.launch_table(table).ready();
    let worker = daemon.family.worker();
    scene.assert_serves("before");
    let before = Holdings::at_rest(worker);
    for (what, custom, bytes, end, words) in CUSTOMS {
        let mut client = scene.lab.client.connect("10.2.0.5:11").expect("connect");
        let address = client.local_addr().expect("address");
        let upstream = accepted.recv_timeout(IO_PATIENCE).expect("a connection");
        let ticks = process::cpu_ticks(worker);
        std::thread::scope(|scope| {
            scope.spawn(|| scene.lab.cow.enter(move || custom(upstream)));
            // A reset may be quicker than the request.
            let _ = client.write_all(REQUEST);
            if *what == "never reads" {
                client.set_nonblocking(true).expect("nonblocking");
                // As much as all the buffers on the way hold.
                // At once: a pause would be idle time.
                let full = std::iter::repeat_with(|| client.write(&[7; 65536])).find_map(Result::err);
                assert_eq!(full.map(|error| error.kind()), Some(ErrorKind::WouldBlock), "all buffers are full");
                client.set_nonblocking(false).expect("blocking");
            }
            let (got, error) = clients::read_all(&mut client);
            HAS_READ.store(true, Ordering::SeqCst);
            assert_eq!((got.len(), error), (*bytes, *end), "{what}");
            if *words == "finished" {
                client.shutdown(Shutdown::Write).expect("half-close");
            }
            let line = daemon.journal.wait_connection_of(address);
            // The reset may be there before the worker hears that it is connected.
            let before =
                *what == "resets at once" && line.ending.starts_with("connect failed: Connection reset by peer");
            assert!(before || line.ending == *words, "{what}: {line:?}");
        });
        let spent = process::cpu_ticks(worker) - ticks;
        assert!(spent < 60, "{what}: spinning: {spent} ticks of 10 ms");
        scene.assert_serves(what);
    }
    before.wait_returned(worker, "afterwards");
    assert_eq!(daemon.family.worker(), worker);
    scene.ledger.assert_right();
}

#[test]
fn packets_that_a_full_connection_table_drops_delay_and_lose_nothing() {
    // The size of the table (net.netfilter.nf_conntrack_max) is that of the whole machine and no namespace's own. What
    // the kernel does when it is full is to drop the first packet of each new connection, and this can be had.
    let Some(scene) = Scene::new() else { return };
    let daemon = scene.relay();
    let worker = daemon.family.worker();
    let gateway = &scene.lab.gateway;
    scene.assert_serves("before");
    let before = Holdings::at_rest(worker);
    for (chain, leg) in [("PREROUTING", "the client's"), ("OUTPUT", "the upstream's")] {
        let rule =
            |verb| gateway.run(&["iptables", "-w", "-t", "raw", verb, chain, "-p", "tcp", "--syn", "-j", "DROP"]);
        let mut old = scene.lab.client.connect(ECHO).expect("connect");
        clients::round_trip(&mut old, b"before").expect("echo");
        rule("-A");
        let ticks = process::cpu_ticks(worker);
        std::thread::scope(|scope| {
            let new =
                scope.spawn(|| scene.transfer(&Transfer::new(8, 10_000, 10_000, Order::AtOnce), Manners::default()));
            let end = Instant::now() + Duration::from_millis(700);
            while Instant::now() < end {
                clients::round_trip(&mut old, b"meanwhile").expect("the established connection");
                std::thread::sleep(Duration::from_millis(20));
            }
            let spent = process::cpu_ticks(worker) - ticks;
            rule("-D");
            assert!(spent < 40, "{leg}: spinning: {spent} ticks of 10 ms");
            let outcome = new.join().expect("the new one");
            assert_eq!(outcome.cut, None, "{leg} first packet was dropped");
        });
        drop(old);
        scene.assert_serves(leg);
        before.wait_returned(worker, leg);
    }
    scene.ledger.assert_right();
}

#[test]
fn each_process_may_stop_and_go_on_while_data_flows() {
    let Some(scene) = Scene::new() else { return };
    let daemon = scene.relay();
    let pids = [daemon.family.guardian(), daemon.family.worker(), daemon.family.resolver()];
    scene.assert_serves("before");
    let before = Holdings::at_rest(pids[1]);
    for (pid, who) in pids.into_iter().zip(["guardian", "worker", "resolver"]) {
        let transfer = Transfer::new(9, 24 << 20, 24 << 20, Order::AtOnce);
        std::thread::scope(|scope| {
            let old = scope.spawn(|| scene.transfer(&transfer, Manners::pausing(Duration::from_millis(200))));
            wait::until_true("it is under way", || Holdings::of(pids[1]).descriptors > before.descriptors);
            process::signal(pid, Signal::SIGSTOP);
            wait::until_true("it is stopped", || process::status_field(pid, "State").starts_with('T'));
            if who == "worker" {
                let new = scope.spawn(|| scene.assert_serves("a client that came while the worker was stopped"));
                wait::holds_for(Duration::from_millis(500), "it waits", || !new.is_finished());
                process::signal(pid, Signal::SIGCONT);
                new.join().expect("the new one");
            } else {
                scene.assert_serves("while it is stopped");
                process::signal(pid, Signal::SIGCONT);
            }
            assert_eq!(old.join().expect("the old one").cut, None, "{who}");
        });
        before.wait_returned(pids[1], who);
    }
    assert_eq!([daemon.family.guardian(), daemon.family.worker(), daemon.family.resolver()], pids);
    scene.ledger.assert_right();
}
