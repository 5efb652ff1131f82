//! Entries of connection tracking that are lost while their connections live.

use super::Scene;
use lab::servers::Server;
use lab::{clients, wait};
use std::io;
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// A client's connection to an echo server on moose, for which cow's stands in.
fn echo(scene: &Scene) -> TcpStream {
    scene.lab.client.connect("10.2.0.5:7").expect("a connection")
}

/// Whether a connection still echoes.
fn echoes(stream: &mut TcpStream, text: &[u8]) -> bool {
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("timeout");
    clients::round_trip(stream, text).is_ok()
}

fn would_block(error: io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

#[test]
fn an_idle_connection_outlives_a_short_timeout_of_connection_tracking() {
    for args in [&["-s", "12970"][..], &["-s", "12970", "-w", "2", "-r", "nobody"]] {
        let Some(scene) = Scene::new() else { return };
        let _cow = scene.lab.cow.enter(|| Server::echo("[::]:7"));
        scene.lab.gateway.sysctl(&["net.netfilter.nf_conntrack_tcp_timeout_established=4"]);
        let daemon = scene.relay(&[&["-d"], args, &["-R", "-d moose --dport 7", "10.3.0.3", "7"]].concat());
        let said = daemon.journal.wait_for("nf_conntrack_tcp_timeout_established is short");
        assert!(said.contains("every 2 seconds"), "{said}");
        let mut client = echo(&scene);
        assert!(echoes(&mut client, b"first"));
        // Twice the timeout: without keep-alive the entry is gone then.
        client.set_nonblocking(true).expect("flags");
        wait::holds_for(Duration::from_secs(9), "silence", || client.peek(&mut [0]).is_err_and(would_block));
        client.set_nonblocking(false).expect("flags");
        assert!(echoes(&mut client, b"after the timeout"));
    }
}

#[test]
fn when_all_entries_are_deleted_older_connections_go_on_and_redirected_ones_end_at_once() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    let servers = [&scene.lab.moose, &scene.lab.cow].map(|net| net.enter(|| Server::echo("[::]:7")));
    let mut older = echo(&scene);
    assert!(echoes(&mut older, b"before the rules"));
    let _daemon = scene.relay(&["-d", "-s", "12970", "-r", "nobody", "-R", "-d moose --dport 7", "10.3.0.3", "7"]);
    assert!(echoes(&mut older, b"with the rules"));
    let mut redirected = echo(&scene);
    assert!(echoes(&mut redirected, b"redirected"));
    gateway.run(&["conntrack", "-F"]);
    assert!(echoes(&mut older, b"without an entry"));
    // No entry, no translation: moose does not know it.
    let begin = Instant::now();
    assert!(!echoes(&mut redirected, b"without an entry"));
    assert!(begin.elapsed() < Duration::from_secs(5), "reset, not silence");
    assert!(echoes(&mut echo(&scene), b"a new one"));
    drop(servers);
}

#[test]
fn the_usual_timeout_of_connection_tracking_changes_nothing() {
    let Some(scene) = Scene::new() else { return };
    let daemon = scene.stand_in();
    assert_eq!(daemon.journal.count("nf_conntrack_tcp_timeout_established"), 0);
}
