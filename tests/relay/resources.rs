//! What a relay holds, and that it gives it back.

use super::*;

#[test]
fn foreground_without_rules_is_one_process() {
    let server = Server::echo(LOCAL);
    let relay = LoopbackRelay::start("", server.address);
    assert_eq!(relay.daemon.family.pids(), [relay.daemon.pid()]);
}

#[test]
fn an_idle_connection_holds_two_descriptors_and_no_pipe() {
    let server = Server::echo(LOCAL);
    let relay = LoopbackRelay::start("", server.address);
    let pid = relay.daemon.relaying_pid();
    let (descriptors, pipes) = (process::resting_descriptor_count(pid), process::pipe_ends(pid));
    let mut clients: Vec<TcpStream> = (0..100).map(|_| relay.connect()).collect();
    for client in &mut clients {
        round_trip(client, &[7; 70_000]).expect("echo");
    }
    // Pipes that wait in the pool for the next stream are not the connections'.
    wait::until_true("the streams have ended", || {
        let pooled = process::pipe_ends(pid) - pipes;
        process::descriptor_count(pid) - descriptors - pooled == 200 && pooled <= 64
    });
}

#[test]
fn many_connections_return_their_descriptors() {
    let server = Server::page(LOCAL, "page");
    let relay = LoopbackRelay::start("", server.address);
    let pid = relay.daemon.relaying_pid();
    clients::fetch(relay.address).expect("fetch");
    relay.daemon.journal.wait_connections(1);
    let before = process::resting_descriptor_count(pid);
    for round in 0..300 {
        match round % 3 {
            0 => drop(clients::fetch(relay.address).expect("fetch")),
            1 => reset(relay.connect()),
            _ => drop(relay.connect()),
        }
    }
    relay.daemon.journal.wait_connections(301);
    wait::until_true("descriptors return", || process::descriptor_count(pid) <= before);
}

#[test]
fn a_finished_daemon_leaves_no_process_and_no_port() {
    let server = Server::page(LOCAL, "page");
    let mut relay = LoopbackRelay::start("", server.address);
    clients::fetch(relay.address).expect("fetch");
    assert_eq!(relay.daemon.stop(), 0);
    std::net::TcpListener::bind(relay.address).expect("the port is free again");
}

#[test]
fn closed_standard_streams_do_not_confuse_it() {
    let server = Server::page(LOCAL, "page");
    let port = free_port();
    let line = format!("-d -b 127.0.0.1 -s {port} 127.0.0.1 {}", server.address.port());
    let daemon = Launch::line(&line).without_standard_streams().spawn();
    let page = wait::until("the page", || clients::fetch(local(port)).ok());
    assert_eq!(page, "page");
    drop(daemon);
}
