//! What the other side sees when a connection fails: the table of failures, row by row.

use super::*;

#[test]
fn refused_upstream_resets_the_client_and_says_why() {
    let nobody = local(free_port());
    let relay = LoopbackRelay::start("", nobody);
    let mut client = relay.connect();
    expect_reset(&mut client);
    let line = relay.daemon.journal.wait_connection_of(client.local_addr().expect("address"));
    assert!(line.ending.starts_with("connect failed: "), "{line:?}");
    assert!(line.ending.to_lowercase().contains("refused"), "{line:?}");
    assert_eq!((line.up, line.down), (0, 0));
    assert_eq!(line.upstream, nobody.to_string());
}

#[test]
fn connect_timeout_resets_the_client() {
    let server = FullServer::new();
    let relay = LoopbackRelay::start("--connect-timeout 1", server.address);
    let mut client = relay.connect();
    let start = Instant::now();
    expect_reset(&mut client);
    let took = start.elapsed();
    assert!(took > Duration::from_millis(700) && took < Duration::from_secs(4), "took {took:?}");
    let line = relay.daemon.journal.wait_connection_of(client.local_addr().expect("address"));
    assert!(line.ending.starts_with("connect failed: "), "{line:?}");
    assert!(line.ending.to_lowercase().contains("timed out"), "{line:?}");
}

#[test]
fn an_upstream_given_by_name_is_reached() {
    // That every address of a name is tried is shown in a namespace, where the test decides what the name means.
    let server = Server::echo(LOCAL);
    let relay = LoopbackRelay::start_to("", &format!("localhost {}", server.address.port()));
    round_trip(&mut relay.connect(), b"named").expect("server on 127.0.0.1");
}

#[test]
fn an_ipv6_upstream_is_reached_from_an_ipv4_client() {
    let server = Server::echo("[::1]:0");
    let relay = LoopbackRelay::start_to("", &format!("::1 {}", server.address.port()));
    round_trip(&mut relay.connect(), b"six").expect("server on ::1");
}

#[test]
fn client_reset_delivers_what_is_in_flight_then_resets_the_upstream() {
    let (server, accepted) = Server::handing_over(LOCAL);
    let relay = LoopbackRelay::start("", server.address);
    let mut client = relay.connect();
    let address = client.local_addr().expect("address");
    let mut upstream = accepted.recv().expect("upstream");
    let data = vec![b'u'; 256 * 1024];
    client.write_all(&data).expect("write");
    wait_acknowledged(&client);
    reset(client);
    let (got, error) = read_all(&mut upstream);
    assert_eq!(got.len(), data.len(), "bytes in flight were lost");
    assert_eq!(error, Some(ErrorKind::ConnectionReset));
    let line = relay.daemon.journal.wait_connection_of(address);
    assert_eq!((line.up, line.ending.as_str()), (data.len() as u64, "reset by client"));
}

#[test]
fn upstream_reset_delivers_what_is_in_flight_then_resets_the_client() {
    let (server, accepted) = Server::handing_over(LOCAL);
    let relay = LoopbackRelay::start("", server.address);
    let mut client = relay.connect();
    let mut upstream = accepted.recv().expect("upstream");
    let data = vec![b'd'; 256 * 1024];
    upstream.write_all(&data).expect("write");
    wait_acknowledged(&upstream);
    reset(upstream);
    // The client does not read yet: everything waits for it.
    wait::holds_for(Duration::from_millis(500), "the client is not reset before delivery", || {
        client.peek(&mut [0]).is_ok_and(|count| count == 1)
    });
    let (got, error) = read_all(&mut client);
    assert_eq!(got.len(), data.len(), "bytes in flight were lost");
    assert_eq!(error, Some(ErrorKind::ConnectionReset));
    let line = relay.daemon.journal.wait_connection_of(client.local_addr().expect("address"));
    assert_eq!((line.down, line.ending.as_str()), (data.len() as u64, "reset by upstream"));
}

#[test]
fn upstream_reset_reaches_a_client_whose_buffers_are_full() {
    let (server, accepted) = Server::handing_over(LOCAL);
    let relay = LoopbackRelay::start("", server.address);
    let mut client = relay.connect();
    let upstream = accepted.recv().expect("upstream");
    upstream.set_nonblocking(true).expect("nonblocking");
    let chunk = vec![9; 1 << 16];
    wait::until_true(
        "the way to the client is full",
        || matches!((&upstream).write(&chunk), Err(error) if error.kind() == ErrorKind::WouldBlock),
    );
    reset(upstream);
    let (got, error) = read_all(&mut client);
    assert!(!got.is_empty());
    assert_eq!(error, Some(ErrorKind::ConnectionReset));
}

#[test]
fn client_reset_while_connecting_ends_the_attempt() {
    let server = FullServer::new();
    let relay = LoopbackRelay::start("", server.address);
    let client = relay.connect();
    let address = client.local_addr().expect("address");
    let pid = relay.daemon.relaying_pid();
    wait::until_true("the attempt has begun", || process::descriptor_count(pid) > 0);
    reset(client);
    let line = relay.daemon.journal.wait_connection_of(address);
    assert_eq!(line.ending, "reset by client", "{line:?}");
    assert!(line.seconds < 5.0, "the end was seen only after {} s", line.seconds);
}

#[test]
fn idle_connection_is_reset_on_both_sides() {
    let (server, accepted) = Server::handing_over(LOCAL);
    let relay = LoopbackRelay::start("--idle-timeout 1", server.address);
    let mut client = relay.connect();
    round_trip_through(&mut client, &mut accepted.recv().expect("upstream"), |client, upstream| {
        let start = Instant::now();
        expect_reset(client);
        expect_reset(upstream);
        let took = start.elapsed();
        assert!(took > Duration::from_millis(700) && took < Duration::from_secs(4), "took {took:?}");
    });
    let line = relay.daemon.journal.wait_connection_of(client.local_addr().expect("address"));
    assert_eq!(line.ending, "idle");
}

/// Proves that a connection works, then hands both ends to the test.
fn round_trip_through(
    client: &mut TcpStream,
    upstream: &mut TcpStream,
    then: impl FnOnce(&mut TcpStream, &mut TcpStream),
) {
    let mut byte = [0];
    client.write_all(b"?").expect("write");
    upstream.read_exact(&mut byte).expect("read");
    upstream.write_all(b"!").expect("write");
    client.read_exact(&mut byte).expect("read");
    then(client, upstream);
}

#[test]
fn activity_in_one_direction_keeps_a_connection_from_being_idle() {
    let (server, accepted) = Server::handing_over(LOCAL);
    let relay = LoopbackRelay::start("--idle-timeout 1", server.address);
    let mut client = relay.connect();
    let mut upstream = accepted.recv().expect("upstream");
    let start = Instant::now();
    let mut byte = [0];
    while start.elapsed() < Duration::from_millis(2500) {
        upstream.write_all(b"x").expect("the connection is alive");
        client.read_exact(&mut byte).expect("the connection is alive");
        // The rhythm of the sender is the subject of the test.
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn half_closed_connection_whose_other_side_is_silent_is_reset() {
    let (server, accepted) = Server::handing_over(LOCAL);
    let relay = LoopbackRelay::start("--fin-timeout 1", server.address);
    let mut client = relay.connect();
    let mut upstream = accepted.recv().expect("upstream");
    client.shutdown(Shutdown::Write).expect("half-close");
    assert_eq!(read_all(&mut upstream), (Vec::new(), None));
    let start = Instant::now();
    expect_reset(&mut client);
    let took = start.elapsed();
    assert!(took > Duration::from_millis(700) && took < Duration::from_secs(4), "took {took:?}");
    let line = relay.daemon.journal.wait_connection_of(client.local_addr().expect("address"));
    assert_eq!(line.ending, "half-closed");
    wait::until_true("the upstream is reset too", || upstream.write_all(b"late").is_err());
}

#[test]
fn half_closed_connection_that_still_moves_is_left_alone() {
    let (server, accepted) = Server::handing_over(LOCAL);
    let relay = LoopbackRelay::start("--fin-timeout 1", server.address);
    let mut client = relay.connect();
    let mut upstream = accepted.recv().expect("upstream");
    client.shutdown(Shutdown::Write).expect("half-close");
    let start = Instant::now();
    let mut byte = [0];
    while start.elapsed() < Duration::from_millis(2500) {
        upstream.write_all(b"x").expect("the connection is alive");
        client.read_exact(&mut byte).expect("the connection is alive");
        std::thread::sleep(Duration::from_millis(100));
    }
}
