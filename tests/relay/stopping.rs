//! Stopping: connections may finish, for a while.

use super::*;

#[test]
fn termination_lets_connections_finish() {
    let server = Server::echo(LOCAL);
    let mut relay = LoopbackRelay::start("", server.address);
    let mut client = relay.connect();
    round_trip(&mut client, b"before").expect("echo");
    relay.daemon.signal(Signal::SIGTERM);
    wait::until_true("no new connections are taken", || TcpStream::connect(relay.address).is_err());
    round_trip(&mut client, b"after").expect("the connection still flows");
    assert!(relay.daemon.running());
    client.shutdown(Shutdown::Write).expect("half-close");
    assert_eq!(read_all(&mut client), (Vec::new(), None));
    assert_eq!(relay.daemon.wait(), 0);
    let line = relay.daemon.journal.wait_connection_of(client.local_addr().expect("address"));
    assert_eq!(line.ending, "finished");
}

#[test]
fn whoever_reads_that_it_is_ready_may_stop_it_at_once() {
    for turn in 0..20 {
        let (mut output, stderr) = std::io::pipe().expect("pipe");
        let line = format!("-d -b 127.0.0.1 -s {} 127.0.0.1 9", free_port());
        let mut daemon = Launch::line(&line).spawn_into(stderr);
        let mut said = Vec::new();
        while !said.windows(7).any(|part| part == b"ready: ") {
            let mut part = [0; 256];
            let count = output.read(&mut part).expect("read");
            assert_ne!(count, 0, "it ended: {}", String::from_utf8_lossy(&said));
            said.extend(&part[..count]);
        }
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.wait(), 0, "turn {turn}");
    }
}

#[test]
fn second_termination_resets_what_is_left() {
    let server = Server::echo(LOCAL);
    let mut relay = LoopbackRelay::start("", server.address);
    let mut client = relay.connect();
    round_trip(&mut client, b"before").expect("echo");
    relay.daemon.signal(Signal::SIGTERM);
    wait::until_true("no new connections are taken", || TcpStream::connect(relay.address).is_err());
    relay.daemon.signal(Signal::SIGTERM);
    expect_reset(&mut client);
    assert_eq!(relay.daemon.wait(), 0);
    let line = relay.daemon.journal.wait_connection_of(client.local_addr().expect("address"));
    assert_eq!(line.ending, "stopped");
}

#[test]
fn drain_time_over_resets_what_is_left() {
    let server = Server::echo(LOCAL);
    let mut relay = LoopbackRelay::start("--drain 1", server.address);
    let mut client = relay.connect();
    round_trip(&mut client, b"before").expect("echo");
    relay.daemon.signal(Signal::SIGTERM);
    let start = Instant::now();
    expect_reset(&mut client);
    let took = start.elapsed();
    assert!(took > Duration::from_millis(700) && took < Duration::from_secs(4), "took {took:?}");
    assert_eq!(relay.daemon.wait(), 0);
    let line = relay.daemon.journal.wait_connection_of(client.local_addr().expect("address"));
    assert_eq!(line.ending, "stopped");
}

#[test]
fn termination_without_connections_is_immediate() {
    let server = Server::echo(LOCAL);
    let mut relay = LoopbackRelay::start("", server.address);
    let start = Instant::now();
    relay.daemon.signal(Signal::SIGTERM);
    assert_eq!(relay.daemon.wait(), 0);
    assert!(start.elapsed() < Duration::from_secs(3), "took {:?}", start.elapsed());
}

#[test]
fn interrupt_stops_like_termination() {
    let server = Server::echo(LOCAL);
    let mut relay = LoopbackRelay::start("", server.address);
    relay.daemon.signal(Signal::SIGINT);
    assert_eq!(relay.daemon.wait(), 0);
}

#[test]
fn clients_in_the_backlog_at_termination_are_served_or_reset_but_never_left_hanging() {
    let server = Server::page(LOCAL, "page");
    let mut relay = LoopbackRelay::start("", server.address);
    let pid = relay.daemon.relaying_pid();
    process::signal(pid, Signal::SIGSTOP);
    let clients: Vec<TcpStream> = (0..20).map(|_| relay.connect()).collect();
    relay.daemon.signal(Signal::SIGTERM);
    process::signal(pid, Signal::SIGCONT);
    // The kernel had told them that they are connected.
    let served = clients.into_iter().filter(|client| clients::ask(client.try_clone().expect("clone")).is_ok()).count();
    assert_eq!(served, 20, "connections that were established before the stop");
    assert_eq!(relay.daemon.wait(), 0);
}

#[test]
fn a_process_for_one_connection_ends_when_that_is_refused() {
    // inetd (nowait) passes the connection as standard input.
    for options in ["-a 192.0.2.1 127.0.0.1 9", "--only-redirected 127.0.0.1 9", "-t", "127.0.0.1 9"] {
        let inetd = std::net::TcpListener::bind(LOCAL).expect("bind");
        let mut client = clients::connect(inetd.local_addr().expect("address")).expect("connect");
        let connection = std::os::fd::OwnedFd::from(inetd.accept().expect("accept").0);
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tproxy"));
        command.args(options.split(' ')).stdin(connection);
        let mut process = command.stdout(std::process::Stdio::null()).spawn().expect("spawn");
        // It holds a copy of the connection.
        drop(command);
        expect_reset(&mut client);
        let ended = wait::try_until(wait::PATIENCE, || process.try_wait().expect("wait"));
        let _ = process.kill();
        assert!(ended.is_some_and(|status| status.success()), "{options}: {ended:?}");
    }
}
