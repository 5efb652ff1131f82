//! Limits, refusals and loops: who waits, who is reset, and that nothing spins.

use super::*;
use lab::attack::connect_from;
use lab::speaker::{behind_a_balancer, block, header};
use std::net::IpAddr;

/// With room for `limit` connections: fills it, and shows that the next one waits and is served later.
fn beyond_the_limit_clients_wait(relay_port: u16, daemon: &lab::daemon::Daemon, limit: usize) {
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

/// A client on another address of this host.
fn client_at(last: u8, relay: &LoopbackRelay) -> TcpStream {
    connect_from(IpAddr::from([127, 0, 0, last]), relay.address).expect("connect")
}

/// Asserts that a connection is reset with this ending in the log.
fn ends_as(relay: &LoopbackRelay, mut client: TcpStream, ending: &str) {
    expect_reset(&mut client);
    let line = relay.daemon.journal.wait_connection_of(client.local_addr().expect("address"));
    assert_eq!((line.ending.as_str(), line.upstream.as_str()), (ending, "-"), "{line:?}");
}

const CROWDED: &str = "too many from this source";

#[test]
fn a_source_has_no_more_than_its_share_and_others_do_not_suffer() {
    let server = Server::echo(LOCAL);
    let relay = LoopbackRelay::start("--max-per-source 2", server.address);
    let mut two = [client_at(2, &relay), client_at(2, &relay)];
    two.iter_mut().for_each(|client| round_trip(client, b"in").expect("served"));
    ends_as(&relay, client_at(2, &relay), CROWDED);
    round_trip(&mut client_at(3, &relay), b"another source").expect("served");
    two.iter_mut().for_each(|client| round_trip(client, b"still here").expect("served"));
    let [first, _second] = two;
    let address = first.local_addr().expect("address");
    drop(first);
    relay.daemon.journal.wait_connection_of(address);
    round_trip(&mut client_at(2, &relay), b"instead of the first").expect("served");
    assert_eq!(relay.daemon.journal.count("too many from this source: 127.0.0.2:"), 1, "one warning");
}

#[test]
fn what_one_source_is_can_be_said() {
    let server = Server::echo(LOCAL);
    let relay = LoopbackRelay::start("--max-per-source 1 --source-block 31:64", server.address);
    let mut client = client_at(2, &relay);
    round_trip(&mut client, b"in").expect("served");
    ends_as(&relay, client_at(3, &relay), CROWDED);
    round_trip(&mut client_at(4, &relay), b"another network").expect("served");
}

#[test]
fn behind_a_balancer_the_client_that_it_names_is_the_source() {
    let server = Server::echo(LOCAL);
    let relay = behind_a_balancer("--max-per-source 1", server.address);
    let original = "192.0.2.7:443".parse().expect("address");
    let named = |name: &str, version: usize| {
        let mut client = relay.connect();
        let name = name.parse().expect("address");
        client.write_all(&[header(name, original), block(name, original)][version]).expect("header");
        client
    };
    let mut first = named("203.0.113.1:7000", 0);
    round_trip(&mut first, b"in").expect("served");
    round_trip(&mut named("203.0.113.2:7000", 1), b"in").expect("served");
    expect_reset(&mut named("203.0.113.1:7001", 1));
    assert_eq!(relay.daemon.journal.wait_connection_of("203.0.113.1:7001").ending, CROWDED);
}

#[test]
fn however_a_connection_ends_its_source_may_have_another() {
    let server = Server::echo(LOCAL);
    let relay = LoopbackRelay::start("--max-per-source 1", server.address);
    let nobody = LoopbackRelay::start("--max-per-source 1", local(free_port()));
    let silent = LoopbackRelay::start("--max-per-source 1 --via connect --sni -a 127.0.0.2", server.address);
    let ended = |relay: &LoopbackRelay, end: fn(TcpStream)| {
        let client = client_at(2, relay);
        let address = client.local_addr().expect("address");
        end(client);
        relay.daemon.journal.wait_connection_of(address).ending
    };
    for _ in 0..20 {
        assert_eq!(ended(&relay, drop), "finished");
        assert!(["reset by client", "finished"].contains(&ended(&relay, reset).as_str()));
        assert!(ended(&nobody, |mut client| expect_reset(&mut client)).starts_with("connect failed: "));
        assert_eq!(ended(&silent, drop), "loop");
    }
    round_trip(&mut client_at(2, &relay), b"after all").expect("served");
    expect_reset(&mut client_at(2, &nobody));
    assert_eq!(nobody.daemon.journal.count(CROWDED), 0, "{}", nobody.daemon.journal.text());
    assert_eq!(silent.daemon.journal.count(CROWDED), 0, "{}", silent.daemon.journal.text());
}

/// How many of `count` connections from one source are served, and these.
fn served_of(relay: &LoopbackRelay, count: usize) -> Vec<TcpStream> {
    let patience = Some(Duration::from_millis(300));
    let mut all: Vec<TcpStream> = (0..count).map(|_| client_at(2, relay)).collect();
    all.retain_mut(|client| {
        client.set_read_timeout(patience).expect("timeout");
        client.write_all(b"?").is_ok() && client.read(&mut [0]).is_ok_and(|count| count == 1)
    });
    all
}

#[test]
fn the_limit_of_a_source_holds_for_all_workers_together_and_survives_their_death() {
    let server = Server::echo(LOCAL);
    let relay = LoopbackRelay::start("-w 3 --max-per-source 4", server.address);
    let workers = || relay.daemon.family.named("tproxy-worker");
    let first = served_of(&relay, 40);
    assert_eq!(first.len(), 4);
    let before = workers();
    before.iter().for_each(|pid| process::signal(*pid, Signal::SIGKILL));
    wait::until_true("three other workers", || {
        let now = workers();
        now.len() == 3 && now.iter().all(|pid| !before.contains(pid))
    });
    assert_eq!(served_of(&relay, 40).len(), 4, "the connections of the dead count no more");
}

#[test]
fn the_limit_of_all_connections_holds_for_all_workers_together() {
    let server = Server::echo(LOCAL);
    let relay = LoopbackRelay::start("-w 2 -m 6", server.address);
    relay.daemon.journal.wait_for("at most 6 connections");
    // Each worker has three places, and the kernel throws dice over who gets whom.
    assert_eq!(served_of(&relay, 40).len(), 6);
}

#[test]
fn who_was_not_redirected_is_reset_where_only_those_who_were_may_come() {
    let server = Server::echo(LOCAL);
    let relay = LoopbackRelay::start("--only-redirected", server.address);
    ends_as(&relay, relay.connect(), "not redirected");
    relay.daemon.journal.wait_for("not redirected: 127.0.0.1:");
}

#[test]
fn nobody_is_relayed_to_what_he_could_not_reach_by_himself() {
    let (server, accepted) = Server::handing_over(LOCAL);
    let port = server.address.port();
    let relays = [
        LoopbackRelay::start_to("-a 127.0.0.1 --accept-proxy -t --deny 192.0.2.0/24", ""),
        behind_a_balancer("--via http --deny 192.0.2.0/24", server.address),
        behind_a_balancer("--via connect --deny 192.0.2.0/24", server.address),
        behind_a_balancer("--fallback --deny 192.0.2.0/24", local(free_port())),
    ];
    let cases = [
        ("127.0.0.1", "loopback address"),
        ("127.9.9.9", "loopback address"),
        ("::1", "loopback address"),
        ("::ffff:127.0.0.1", "loopback address"),
        ("0.0.0.0", "address of no host"),
        ("224.0.0.1", "address of no host"),
        ("255.255.255.255", "address of no host"),
        ("169.254.169.254", "link-local address"),
        ("fe80::1", "link-local address"),
        ("192.0.2.7", "in --deny"),
        ("::ffff:192.0.2.7", "in --deny"),
    ];
    for (number, relay) in relays.iter().enumerate() {
        for (case, (address, ground)) in cases.iter().enumerate() {
            let mut client = relay.connect();
            let (family, name) = if address.contains(':') { ("TCP6", "2001:db8::9") } else { ("TCP4", "203.0.113.9") };
            let from = 7000 + case;
            client.write_all(format!("PROXY {family} {name} {address} {from} {port}\r\n").as_bytes()).expect("header");
            expect_reset(&mut client);
            let name = if address.contains(':') { format!("[{name}]:{from}") } else { format!("{name}:{from}") };
            let line = relay.daemon.journal.wait_connection_of(name);
            // With an upstream that is the administrator's choice it is the fallback that does not take place.
            let fallback = number == 3 && line.ending.starts_with("connect failed: ");
            assert!(fallback || line.ending == format!("forbidden: {ground}"), "{number}: {line:?}");
            assert_eq!(line.upstream == "-", number != 3, "{line:?}");
        }
    }
    accepted.try_recv().expect_err("nobody has reached the server");
    // A client on this host has it within its reach anyway.
    let mut local = relays[0].connect();
    local.write_all(&header(local.local_addr().expect("address"), server.address)).expect("header");
    accepted.recv_timeout(clients::IO_PATIENCE).expect("a local client's connection to a local service");
}

#[test]
fn a_direct_connection_in_transparent_mode_is_a_loop_and_is_reset() {
    let relay = LoopbackRelay::start_to("-t", "");
    let pid = relay.daemon.relaying_pid();
    let before = process::resting_descriptor_count(pid);
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
