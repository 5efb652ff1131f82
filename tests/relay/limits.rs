//! Limits, refusals and loops: who waits, who is reset, and that nothing spins.

use super::*;

/// With room for `limit` connections: fills it, and shows that the next one waits and is served later.
fn beyond_the_limit_clients_wait(relay_port: u16, daemon: &support::daemon::Daemon, limit: usize) {
    let mut served: Vec<TcpStream> = Vec::new();
    for _ in 0..limit {
        let mut client = clients::connect(local(relay_port)).expect("connect");
        round_trip(&mut client, b"in").expect("served");
        served.push(client);
    }
    let mut waiting = clients::connect(local(relay_port)).expect("the backlog takes it");
    waiting.write_all(b"late").expect("write");
    waiting.set_read_timeout(Some(Duration::from_millis(50))).expect("timeout");
    let pid = daemon.relaying_pid();
    let (ticks, lines) = (process::cpu_ticks(pid), daemon.journal.lines().len());
    let mut buffer = [0; 4];
    wait::holds_for(
        Duration::from_millis(1500),
        "the client beyond the limit waits",
        || matches!((&waiting).read(&mut buffer), Err(error) if error.kind() == ErrorKind::WouldBlock),
    );
    let spent = process::cpu_ticks(pid) - ticks;
    assert!(spent < 30, "spinning at the limit: {spent} ticks of 10 ms in 1.5 s");
    let written = daemon.journal.lines().len() - lines;
    assert!(written <= 3, "log flood at the limit: {written} lines");
    served.pop();
    waiting.set_read_timeout(Some(clients::IO_PATIENCE)).expect("timeout");
    waiting.read_exact(&mut buffer).expect("served after another has gone");
    assert_eq!(&buffer, b"late");
}

#[test]
fn clients_beyond_max_connections_wait_and_are_served_later() {
    let server = Server::echo(LOCAL);
    let relay = LoopbackRelay::start("-m 3", server.address);
    beyond_the_limit_clients_wait(relay.address.port(), &relay.daemon, 3);
}

#[test]
fn clients_beyond_the_descriptors_wait_and_are_served_later() {
    let server = Server::echo(LOCAL);
    let port = free_port();
    let line = format!("-d -b 127.0.0.1 -s {port} 127.0.0.1 {}", server.address.port());
    let daemon = Launch::line(&line).open_files(128).ready();
    let said = daemon.journal.wait_for("at most");
    let limit = said.split("at most ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
    let limit: usize = limit.unwrap_or_else(|| panic!("no limit in {said:?}"));
    assert!((4..=30).contains(&limit), "128 descriptors do not allow {limit} connections");
    beyond_the_limit_clients_wait(port, &daemon, limit);
}

#[test]
fn hundreds_of_waiting_clients_are_all_served() {
    let server = Server::echo(LOCAL);
    let relay = LoopbackRelay::start("-m 4", server.address);
    let mut clients: Vec<TcpStream> = (0..200).map(|_| relay.connect()).collect();
    for client in &mut clients {
        client.write_all(b"x").expect("write");
        client.shutdown(Shutdown::Write).expect("half-close");
    }
    // From the last to the first: whoever waits longest must not need its predecessors to be read.
    for client in clients.iter_mut().rev() {
        assert_eq!(read_all(client), (b"x".to_vec(), None));
    }
}

#[test]
fn connections_that_die_before_accept_do_not_hurt_the_listener() {
    let server = Server::echo(LOCAL);
    let relay = LoopbackRelay::start("", server.address);
    let pid = relay.daemon.relaying_pid();
    process::signal(pid, Signal::SIGSTOP);
    for _ in 0..100 {
        reset(relay.connect());
    }
    process::signal(pid, Signal::SIGCONT);
    round_trip(&mut relay.connect(), b"still here").expect("served");
}

#[test]
fn a_source_not_allowed_is_reset_and_logged_as_denied() {
    let server = Server::echo(LOCAL);
    let relay = LoopbackRelay::start("-a 10.0.0.0/8 -a 192.168.7.7", server.address);
    let mut client = relay.connect();
    expect_reset(&mut client);
    let line = relay.daemon.journal.wait_connection_of(client.local_addr().expect("address"));
    assert_eq!(line.ending, "denied");
}

#[test]
fn a_source_that_one_of_several_allows_names_is_served() {
    let server = Server::echo(LOCAL);
    let relay = LoopbackRelay::start("-a 10.0.0.0/8 -a 127.0.0.0/8", server.address);
    round_trip(&mut relay.connect(), b"in").expect("served");
}

#[test]
fn a_direct_connection_in_transparent_mode_is_a_loop_and_is_reset() {
    let relay = LoopbackRelay::start_to("-t", "");
    let pid = relay.daemon.relaying_pid();
    let before = process::descriptor_count(pid);
    let mut client = relay.connect();
    expect_reset(&mut client);
    let line = relay.daemon.journal.wait_connection_of(client.local_addr().expect("address"));
    assert_eq!(line.ending, "loop");
    wait::until_true("descriptors return", || process::descriptor_count(pid) <= before);
    let lines = relay.daemon.journal.connections();
    assert!(lines.iter().all(|line| line.ending == "loop" && line.local == "-"), "{lines:?}");
}

#[test]
fn an_upstream_that_is_ourselves_does_not_pile_up_connections() {
    let port = free_port();
    let mut daemon = Launch::line(&format!("-d -b 127.0.0.1 -s {port} 127.0.0.1 {port}")).spawn();
    let listening = wait::until("a refusal or a listener", || {
        if !daemon.running() {
            return Some(false);
        }
        daemon.journal.text().contains("ready:").then_some(true)
    });
    if !listening {
        let said = daemon.journal.text();
        assert_eq!(daemon.wait(), 64, "{said}");
        return assert!(said.contains("itself") || said.contains("loop"), "{said}");
    }
    clients::expect_connect_reset(clients::connect(local(port)));
    daemon.journal.wait_for("loop");
    // It is over when it is over: no connection begets another.
    let lines = daemon.journal.connections().len();
    wait::holds_for(Duration::from_secs(1), "no more lines", || daemon.journal.connections().len() <= lines + 2);
    assert!(process::descriptor_count(daemon.relaying_pid()) < 40, "a pile of descriptors");
}

/// Sets the soft limit of open files of a running process.
fn limit_descriptors(pid: i32, limit: usize) {
    let limit = format!("--nofile={limit}:");
    let status = std::process::Command::new("prlimit").args(["--pid", &pid.to_string(), &limit]).status();
    assert!(status.expect("prlimit").success());
}

#[test]
fn running_out_of_descriptors_pauses_and_resumes_without_a_spin_or_a_flood() {
    let server = Server::echo(LOCAL);
    let relay = LoopbackRelay::start("", server.address);
    let mut before = relay.connect();
    round_trip(&mut before, b"before").expect("echo");
    let pid = relay.daemon.relaying_pid();
    // The next accept(2) says EMFILE although the count of connections is far from any limit.
    limit_descriptors(pid, process::next_descriptor(pid));
    let mut waiting: Vec<TcpStream> = (0..20).map(|_| relay.connect()).collect();
    for client in &mut waiting {
        client.write_all(b"later").expect("write");
    }
    let (ticks, lines) = (process::cpu_ticks(pid), relay.daemon.journal.lines().len());
    wait::holds_for(Duration::from_secs(2), "the old connection is served meanwhile", || {
        round_trip(&mut before, b"while").is_ok()
    });
    let spent = process::cpu_ticks(pid) - ticks;
    assert!(spent < 40, "spinning: {spent} ticks of 10 ms in 2 s");
    let written = relay.daemon.journal.lines().len() - lines;
    assert!(written <= 5, "log flood: {written} lines\n{}", relay.daemon.journal.text());
    limit_descriptors(pid, 1000);
    for client in &mut waiting {
        let mut back = [0; 5];
        client.read_exact(&mut back).expect("served when there are descriptors again");
        assert_eq!(&back, b"later");
    }
}

#[test]
fn a_descriptor_for_the_client_but_none_for_the_upstream_does_not_hurt_the_listener() {
    let server = Server::echo(LOCAL);
    let relay = LoopbackRelay::start("", server.address);
    let pid = relay.daemon.relaying_pid();
    round_trip(&mut relay.connect(), b"before").expect("echo");
    relay.daemon.journal.wait_connections(1);
    limit_descriptors(pid, process::next_descriptor(pid) + 1);
    let mut client = relay.connect();
    let ticks = process::cpu_ticks(pid);
    client.set_read_timeout(Some(Duration::from_millis(1000))).expect("timeout");
    // It may wait, or be reset with a reason; what it may not do is to be forgotten or to make the relay spin.
    let outcome = client.read(&mut [0]);
    assert!(process::cpu_ticks(pid) - ticks < 30, "spinning");
    limit_descriptors(pid, 1000);
    client.set_read_timeout(Some(clients::IO_PATIENCE)).expect("timeout");
    match outcome {
        Err(error) if error.kind() == ErrorKind::WouldBlock => round_trip(&mut client, b"waited").expect("served"),
        _ => drop(relay.daemon.journal.wait_connection_of(client.local_addr().expect("address"))),
    }
    round_trip(&mut relay.connect(), b"after").expect("echo");
}
