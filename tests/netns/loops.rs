//! Loops end in one refused connection and one line, not in a pile of descriptors.

use super::{MOOSE, Scene};
use lab::daemon::Daemon;
use lab::{clients, process, wait};
use std::net::TcpStream;
use std::time::Duration;

/// The most descriptors that a worker without connections may have.
const FEW: usize = 40;

/// Five connections, one after the other: each is reset, makes one diagnosis and at most two lines, and leaves nothing.
fn ends_at_once(daemon: &Daemon, connect: impl Fn() -> std::io::Result<TcpStream>) {
    let pid = daemon.relaying_pid();
    let loops = || daemon.journal.connections().iter().filter(|line| line.ending == "loop").count();
    for round in 1..=5 {
        clients::expect_connect_reset(connect());
        wait::until_true("the diagnosis", || loops() >= round);
        assert!(process::descriptor_count(pid) < FEW, "a pile of descriptors");
    }
    wait::holds_for(Duration::from_millis(500), "five connections, five diagnoses", || loops() == 5);
    assert!(daemon.journal.connections().len() <= 10, "at most two lines for each");
    assert!(process::descriptor_count(pid) < FEW, "a pile of descriptors");
}

#[test]
fn transparent_with_output_and_no_exemption_is_refused_at_the_first_turn() {
    let Some(scene) = Scene::new() else { return };
    let daemon = scene.relay(&["-d", "-s", "8081", "-t", "-O", "-R", "--dport 80"]);
    ends_at_once(&daemon, || scene.lab.client.connect(MOOSE));
}

#[test]
fn transparent_and_a_direct_connection_to_the_port_is_refused() {
    let Some(scene) = Scene::new() else { return };
    let daemon = scene.relay(&["-d", "-s", "8081", "-t", "-R", "--dport 80"]);
    ends_at_once(&daemon, || scene.lab.client.connect("10.1.0.1:8081"));
    assert_eq!(scene.page(MOOSE), "moose", "others are served");
}

#[test]
fn an_upstream_name_that_is_ourselves_is_refused() {
    let Some(scene) = Scene::new() else { return };
    scene.lab.gateway.hosts("10.2.0.5 moose\n10.3.0.1 cow\n");
    let daemon = scene.launch(&["-d", "-s", "12970", "-r", "nobody", "-R", "-d moose --dport 80", "cow", "12970"]);
    let daemon = daemon.ready();
    ends_at_once(&daemon, || scene.lab.client.connect(MOOSE));
}

#[test]
fn an_upstream_that_is_ours_by_the_routing_table_alone_is_refused() {
    let Some(scene) = Scene::new() else { return };
    scene.lab.gateway.run(&["ip", "route", "add", "local", "10.71.0.0/16", "dev", "lo"]);
    scene.lab.gateway.run(&["ip", "-6", "route", "add", "local", "fd00:71::/64", "dev", "lo"]);
    for host in ["10.71.0.9", "fd00:71::9", "::ffff:10.1.0.1", "0.0.0.0"] {
        let args = ["-d", "-s", "12970", "-r", "nobody", "-R", "-d moose --dport 80", host, "12970"];
        let mut daemon = scene.relay(&args);
        ends_at_once(&daemon, || scene.lab.client.connect(MOOSE));
        let lines = daemon.journal.connections();
        assert!(lines.len() == 5 && lines.iter().all(|line| line.upstream == "-"), "{host}: {lines:?}");
        assert_eq!(daemon.stop(), 0);
    }
}
