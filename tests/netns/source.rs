//! `--source`: the address that connections to upstreams leave from.

use std::io::{Read, Write};
use std::net::IpAddr;
use std::sync::mpsc;

use super::*;
use lab::report;
use lab::tempdir::TempDir;
use nix::sys::signal::Signal;

/// Tells each client its address.
fn mirror(at: &str) -> Server {
    Server::inline(at, 2, |mut stream| {
        let peer = stream.peer_addr().map(|peer| peer.ip().to_canonical().to_string());
        let _ = write!(stream, "{}", peer.unwrap_or_default());
    })
}

/// What the mirror behind `to` tells the client.
fn seen_from(scene: &Scene, to: &str) -> String {
    let mut stream = match scene.lab.client.connect(to) {
        Ok(stream) => stream,
        Err(error) => return format!("({error})"),
    };
    let (bytes, error) = lab::clients::read_all(&mut stream);
    error.map_or_else(|| String::from_utf8_lossy(&bytes).into_owned(), |error| format!("({error})"))
}

fn more_addresses(scene: &Scene) {
    for address in ["10.3.0.9/24", "fd00:3::9/64"] {
        scene.lab.gateway.run(&["ip", "addr", "add", address, "dev", "eth3"]);
    }
    wait_for_v6(scene);
}

/// An address can be used only once it is known that nobody else has it.
fn wait_for_v6(scene: &Scene) {
    lab::wait::until_true("IPv6 addresses", || {
        scene.lab.gateway.run(&["ip", "-6", "addr", "show", "tentative"]).trim().is_empty()
    });
}

#[test]
fn connections_leave_from_the_address_that_was_chosen_for_their_family() {
    let Some(scene) = Scene::new() else { return };
    let _mirror = scene.lab.cow.enter(|| mirror("[::]:7"));
    more_addresses(&scene);
    let begin = ["-d", "-s", "12970", "-r", "nobody", "-R", "-d moose --dport 7", "-R", "-d fd00:2::5 --dport 7"];
    for (source, wanted) in [
        // The kernel chooses 10.3.0.1 and fd00:3::9.
        (&["--source", "10.3.0.9,fd00:3::1"][..], ["10.3.0.9", "fd00:3::1"]),
        (&["--source", "10.3.0.9"], ["10.3.0.9", "fd00:3::9"]),
        (&[], ["10.3.0.1", "fd00:3::9"]),
    ] {
        for (upstream, wanted) in ["10.3.0.3", "fd00:3::3"].into_iter().zip(wanted) {
            // A pair of upstreams, so that no address is refused for its family.
            let other = ["10.3.0.3", "fd00:3::3"].into_iter().find(|other| *other != upstream).unwrap();
            let hosts = [upstream, "7", other, "7"];
            let mut daemon = scene.relay(&[&begin[..], source, &hosts].concat());
            assert_eq!(seen_from(&scene, "10.2.0.5:7"), wanted, "{source:?} {upstream}");
            assert_eq!(daemon.stop(), 0);
        }
    }
}

#[test]
fn checks_leave_from_the_address_that_connections_leave_from() {
    let Some(scene) = Scene::new() else { return };
    let (seen, all_seen) = mpsc::channel();
    let _cow = scene.lab.cow.enter(|| {
        Server::inline("[::]:7", 1, move |mut stream| {
            let _ = stream.peer_addr().map(|peer| seen.send(peer.ip().to_canonical()));
            let _ = stream.read(&mut [0; 512]);
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n");
        })
    });
    more_addresses(&scene);
    let table = TempDir::new();
    let path = table.file("table.conf");
    let (hosts, mut daemon) = ("--check-interval 1 --check-http / 10.3.0.3 7 fd00:3::3 7", None::<Daemon>);
    // The first one starts it, and the others are reloads.
    for (source, wanted) in [
        ("--source 10.3.0.9,fd00:3::1", ["10.3.0.9", "fd00:3::1"]),
        ("--source 10.3.0.9", ["10.3.0.9", "fd00:3::9"]),
        ("--source client", ["10.3.0.1", "fd00:3::9"]),
        ("--source fd00:3::1,10.3.0.9", ["10.3.0.9", "fd00:3::1"]),
    ] {
        table.write("table.conf", &format!("-s 12970 -R '--dport 7' {source} {hosts}\n"));
        match &daemon {
            None => daemon = Some(scene.relay(&["-d", "-r", "nobody", "-c", &path, "--control", "none"])),
            Some(daemon) => daemon.signal(Signal::SIGHUP),
        }
        for wanted in wanted.map(|ip| ip.parse::<IpAddr>().expect("an address")) {
            lab::wait::until_true(&format!("{source}: a check from {wanted}"), || {
                all_seen.recv_timeout(lab::clients::IO_PATIENCE).expect("a check") == wanted
            });
        }
    }
    let mut daemon = daemon.expect("a daemon");
    // What this host lacks is not held against the upstream.
    scene.lab.gateway.run(&["ip", "addr", "del", "10.3.0.9/24", "dev", "eth3"]);
    daemon.journal.wait_for("upstream 10.3.0.3:7 (10.3.0.3:7) cannot be checked: Cannot assign requested address");
    assert_eq!(daemon.journal.count("is down"), 0);
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_process_without_a_guardian_chooses_the_address_as_well() {
    let Some(scene) = Scene::new() else { return };
    let _mirror = scene.lab.cow.enter(|| mirror("[::]:7"));
    more_addresses(&scene);
    let mut daemon = scene.relay(&["-d", "-s", "12970", "--source", "10.3.0.9", "10.3.0.3", "7"]);
    assert_eq!(seen_from(&scene, "10.1.0.1:12970"), "10.3.0.9");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn an_address_that_is_gone_is_said_and_does_not_hurt_the_upstream() {
    let Some(scene) = Scene::new() else { return };
    let _mirror = scene.lab.cow.enter(|| mirror("[::]:7"));
    more_addresses(&scene);
    let begin = ["-d", "-s", "12970", "-r", "nobody", "-R", "-d moose --dport 7", "--source", "10.3.0.9"];
    let mut daemon = scene.relay(&[&begin[..], &["10.3.0.3", "7"]].concat());
    scene.lab.gateway.run(&["ip", "addr", "del", "10.3.0.9/24", "dev", "eth3"]);
    assert!(seen_from(&scene, "10.2.0.5:7").starts_with('('));
    daemon.journal.wait_for("--source: cannot connect from 10.3.0.9 to 10.3.0.3:7 for 10.1.0.2:");
    assert_eq!(daemon.journal.count("is down"), 0);
    scene.lab.gateway.run(&["ip", "addr", "add", "10.3.0.9/24", "dev", "eth3"]);
    assert_eq!(seen_from(&scene, "10.2.0.5:7"), "10.3.0.9");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn an_address_that_cannot_be_used_is_an_error_at_start_that_names_it() {
    let Some(scene) = Scene::new() else { return };
    let upstream = ["10.3.0.3", "80"];
    for (source, wanted) in [
        ("10.9.9.9", "'10.9.9.9': expected an address of this host"),
        ("fd00:9::9", "'fd00:9::9': expected an address of this host"),
        ("224.0.0.1", "'224.0.0.1': expected an address of this host that others can answer to"),
        ("ff02::1", "'ff02::1': expected an address of this host that others can answer to"),
        ("0.0.0.0", "'0.0.0.0': expected an address of this host that others can answer to"),
        ("10.3.0.255", "'10.3.0.255': expected an address of this host that others can answer to"),
        ("fd00:3::1", "'fd00:3::1': expected an address of the upstream's family, IPv4"),
        ("cow", "'cow': expected client, client:port or an address of this host"),
    ] {
        let line =
            [&["-d", "-s", "12970", "-r", "nobody", "-R", "-d moose", "--source", source], &upstream[..]].concat();
        let finished = Launch::new(&line).within(&scene.lab.gateway).run();
        assert_eq!(finished.status, 64, "{source}: {}", finished.stderr);
        let said = format!("--source: invalid value {wanted}");
        assert!(finished.stderr.contains(&said), "{source}: {}", finished.stderr);
    }
    report("--source: eight addresses that cannot be used were refused by name");
}
