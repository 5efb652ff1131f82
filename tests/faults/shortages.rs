//! What this host is short of is not the upstream's fault: connections end as `no resources`, and the upstream is not
//! taken for down, its redirection is not withdrawn, and no client is relayed past it.

use super::inject::{Call, Role};
use super::scene::{ECHO, Scene};
use lab::servers::Server;
use lab::{clients, wait};
use nix::sys::signal::Signal;
use std::io::Error;
use std::time::{Duration, Instant};

/// A redirection that is withdrawn after a second without its upstream, and one that goes to moose without it.
const TABLE: &str = "-r nobody\n--upstream-grace 1\n-s 12971 -R '--dport 7' cow 7\n\
                     -s 12972 --fallback -R '--dport 11' cow 7\n";

/// Where the second one takes clients from. moose answers there with a page.
const FALLBACK: &str = "10.2.0.5:11";

/// Each call with an error, and what the warning says is missing.
const SHORTAGES: &[(Call, i32, &str)] = &[
    (Call::Connect, libc::EADDRNOTAVAIL, "local ports towards 10.3.0.3:7"),
    (Call::Connect, libc::ENOBUFS, "kernel memory"),
    (Call::Socket, libc::EMFILE, "open files"),
    (Call::Socket, libc::ENFILE, "open files"),
    (Call::Socket, libc::ENOMEM, "kernel memory"),
    (Call::EpollCtl, libc::ENOSPC, "epoll watches"),
    (Call::EpollCtl, libc::ENOMEM, "kernel memory"),
];

#[test]
fn a_shortage_here_is_not_the_upstreams_fault() {
    let Some(scene) = Scene::new() else { return };
    let _moose = scene.lab.moose.enter(|| Server::page("0.0.0.0:11", "moose"));
    for (call, error, resource) in SHORTAGES {
        let what = format!("{call:?}: {}", Error::from_raw_os_error(*error));
        let faults = super::inject::Faults::new();
        let daemon = faults.preload(scene.launch_table(TABLE)).ready();
        let worker = daemon.family.worker();
        assert_echo(&scene, &what);
        faults.strike(Role::Worker, *call, *error, 1);
        let begin = Instant::now();
        let mut count = 0;
        // Longer than the grace.
        while begin.elapsed() < Duration::from_millis(2200) {
            for to in [ECHO, FALLBACK] {
                clients::expect_connect_reset(scene.lab.client.connect(to));
                count += 1;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        faults.heal(*call);
        assert_echo(&scene, &what);
        let lines = daemon.journal.wait_connections(count + 2);
        let text = daemon.journal.text();
        for line in &lines[1..=count] {
            assert!(line.ending.starts_with("no resources: "), "{what}: {line:?}");
        }
        for wrong in ["is down", "is withdrawn", "cannot reach the upstream"] {
            assert_eq!(daemon.journal.count(wrong), 0, "{what}: {wrong}: {text}");
        }
        assert!(daemon.journal.count(&format!("out of {resource}")) > 0, "{what}: {text}");
        assert!(daemon.journal.count("out of ") <= 2, "{what}: a flood: {text}");
        assert_eq!(daemon.family.worker(), worker, "{what}");
        daemon.signal(Signal::SIGUSR1);
        let counters = daemon.journal.wait_for("counters: ");
        assert!(counters.contains(" 0 unreachable, "), "{what}: {counters}");
        assert!(counters.contains(&format!(" {count} without resources, ")), "{what}: {counters}");
    }
}

fn assert_echo(scene: &Scene, what: &str) {
    let mut client = scene.lab.client.connect(ECHO).expect("connect");
    clients::round_trip(&mut client, b"hello").unwrap_or_else(|error| panic!("{what}: {error}"));
    clients::reset(client);
}

#[test]
fn a_shortage_here_says_nothing_about_the_upstream_of_a_probe() {
    let Some(scene) = Scene::new() else { return };
    let faults = super::inject::Faults::new();
    let daemon = faults.preload(scene.launch_table("-r nobody\n-s 12971 -R '--dport 7' cow 13 cow 7\n")).ready();
    assert_echo(&scene, "by the second upstream");
    daemon.journal.wait_for("upstream 10.3.0.3:13 is down");
    faults.strike(Role::Worker, Call::Connect, libc::EADDRNOTAVAIL, 1);
    let _late = scene.lab.cow.enter(|| Server::echo("[::]:13"));
    // The first probe is due after two seconds. If it counted as a failure, the next one would be after six.
    wait::holds_for(Duration::from_millis(3500), "no probe can begin", || daemon.journal.count("is up again") == 0);
    faults.heal(Call::Connect);
    let again = wait::try_until(Duration::from_millis(1800), || {
        (daemon.journal.count("upstream 10.3.0.3:13 is up again") > 0).then_some(())
    });
    assert!(again.is_some(), "{}", daemon.journal.text());
    assert_eq!(daemon.journal.count("is down"), 1, "{}", daemon.journal.text());
}

/// Ports in the range that [`leave_few_ports`] leaves.
const PORTS: usize = 4;

fn leave_few_ports(scene: &Scene) {
    scene.lab.gateway.sysctl(&["net.ipv4.ip_local_port_range=40000 40003"]);
}

#[test]
fn without_a_local_port_towards_one_upstream_the_next_is_tried() {
    let Some(scene) = Scene::new() else { return };
    let _server = scene.lab.cow.enter(|| Server::echo("[::]:11"));
    let daemon = scene.launch_table("-r nobody\n-s 12971 -R '--dport 7' cow 7 cow 11\n").ready();
    leave_few_ports(&scene);
    let mut all: Vec<_> = (0..2 * PORTS).map(|_| scene.lab.client.connect(ECHO).expect("connect")).collect();
    all.iter_mut().for_each(|client| clients::round_trip(client, b"hello").expect("served"));
    clients::expect_connect_reset(scene.lab.client.connect(ECHO));
    drop(all);
    let lines = daemon.journal.wait_connections(2 * PORTS + 1);
    for upstream in ["10.3.0.3:7", "10.3.0.3:11"] {
        assert_eq!(lines.iter().filter(|line| line.upstream == upstream).count(), PORTS, "{lines:#?}");
    }
    assert!(lines[0].ending.starts_with("no resources: "), "{lines:#?}");
    assert_eq!(daemon.journal.count("is down"), 0, "{}", daemon.journal.text());
}

#[test]
fn a_local_port_that_is_free_again_is_used_at_once() {
    let Some(scene) = Scene::new() else { return };
    let daemon = scene.launch_table("-r nobody\n-s 12971 -R '--dport 7' cow 7\n").ready();
    leave_few_ports(&scene);
    let connect = || scene.lab.client.connect(ECHO).expect("connect");
    let mut all: Vec<_> = (0..PORTS).map(|_| connect()).collect();
    all.iter_mut().for_each(|client| clients::round_trip(client, b"hello").expect("a port for each"));
    for _ in 0..3 {
        clients::expect_connect_reset(scene.lab.client.connect(ECHO));
    }
    let told = daemon.journal.wait_for("out of local ports towards 10.3.0.3:7");
    assert!(told.contains("Cannot assign requested address"), "{told}");
    daemon.journal.wait_connections(3);
    all.drain(..2).for_each(clients::reset);
    daemon.journal.wait_connections(5);
    // The upstream is not left alone for a while.
    let again = || clients::round_trip(&mut scene.lab.client.connect(ECHO)?, b"again");
    let served = wait::try_until(Duration::from_secs(1), || again().ok());
    assert!(served.is_some(), "{}", daemon.journal.text());
    assert_eq!(daemon.journal.count("is down"), 0, "{}", daemon.journal.text());
    let lines = daemon.journal.connections();
    assert_eq!(
        lines.iter().filter(|line| line.ending.starts_with("no resources: Cannot assign")).count(),
        3,
        "{lines:#?}"
    );
}

#[test]
fn an_own_address_is_not_taken_for_anothers_while_the_kernel_has_no_answer() {
    // The look at the routing table is a connect(2) of a datagram socket.
    let Some(scene) = Scene::new() else { return };
    let faults = super::inject::Faults::new();
    let daemon = faults.preload(scene.launch_table("-r nobody\n-s 12971 -t -R '--dport 7:9'\n")).ready();
    for (call, error) in [(Call::Socket, libc::EMFILE), (Call::Connect, libc::ENOBUFS)] {
        faults.strike(Role::Worker, call, error, 1);
        let before = daemon.journal.connections().len();
        clients::expect_connect_reset(scene.lab.client.connect("10.2.0.5:8"));
        let lines = daemon.journal.wait_connections(before + 1);
        faults.heal(call);
        let line = &lines[before];
        assert!(line.ending.starts_with("no resources: "), "{line:?}");
        assert_eq!(line.upstream, "-", "{line:?}");
    }
    assert_eq!(daemon.journal.count("is down"), 0, "{}", daemon.journal.text());
}

#[test]
fn a_host_without_an_ipv6_address_cannot_reach_an_ipv6_upstream_and_is_short_of_nothing() {
    let Some(scene) = Scene::new() else { return };
    let daemon = scene.launch_table("-r nobody\n-s 12971 -R '--dport 7' fd00:3::3 7 cow 7\n").ready();
    let gateway = &scene.lab.gateway;
    for device in ["lo", "eth1", "eth2", "eth3"] {
        gateway.run(&["ip", "-6", "addr", "flush", "dev", device]);
    }
    gateway.run(&["ip", "-6", "route", "replace", "fd00:3::/64", "dev", "eth3"]);
    assert_echo(&scene, "by the other upstream");
    let told = daemon.journal.wait_for("upstream [fd00:3::3]:7 is down: ");
    assert!(told.contains("Cannot assign requested address"), "{told}");
    assert_eq!(daemon.journal.count("out of "), 0, "{}", daemon.journal.text());
}
