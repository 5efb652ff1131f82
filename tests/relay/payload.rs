//! What one side says reaches the other, at once, to the end, in either direction.

use super::*;

/// Median of the times of `count` round trips.
fn median_round_trip(stream: &mut TcpStream, count: usize) -> Duration {
    let mut times: Vec<Duration> = (0..count)
        .map(|_| {
            let start = Instant::now();
            round_trip(stream, b"ping").expect("round trip");
            start.elapsed()
        })
        .collect();
    times.sort();
    times[count / 2]
}

#[test]
fn bytes_pass_in_both_directions() {
    let server = Server::echo(LOCAL);
    let relay = LoopbackRelay::start("", server.address);
    let mut client = relay.connect();
    for size in [1, 100, 4096, 70_000] {
        round_trip(&mut client, &vec![b'x'; size]).expect("echo");
    }
}

#[test]
fn a_server_that_speaks_first_is_heard() {
    let server = Server::threaded(LOCAL, |mut stream| {
        let _ = stream.write_all(b"220 welcome\r\n");
        let _ = stream.read(&mut [0; 16]);
    });
    let relay = LoopbackRelay::start("", server.address);
    let mut greeting = [0; 13];
    relay.connect().read_exact(&mut greeting).expect("greeting");
    assert_eq!(&greeting, b"220 welcome\r\n");
}

#[test]
fn an_answer_never_waits_for_more_bytes() {
    let server = Server::echo(LOCAL);
    let relay = LoopbackRelay::start("", server.address);
    let median = median_round_trip(&mut relay.connect(), 501);
    report(&format!("relay: median round trip of 501: {median:?}"));
    assert!(median < Duration::from_millis(10), "median round trip {median:?}");
}

#[test]
fn a_bulk_transfer_does_not_starve_small_messages() {
    let (bulk, _sums) = Server::exchange(LOCAL, Pattern { seed: 1, bytes: 4096 * MIB }, Cut::Bulk);
    let relay = LoopbackRelay::start_to("", &format!("127.0.0.1 {}", bulk.address.port()));
    let mut reader = relay.connect();
    let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stop = std::sync::Arc::clone(&done);
    let draining = std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 20];
        while !stop.load(std::sync::atomic::Ordering::Relaxed) && reader.read(&mut buffer).is_ok_and(|count| count > 0)
        {
        }
    });
    // The same upstream: its stream begins at once, so the time to the first byte is the figure.
    let mut times: Vec<Duration> = (0..21)
        .map(|_| {
            let start = Instant::now();
            relay.connect().read_exact(&mut [0; 8]).expect("first bytes");
            start.elapsed()
        })
        .collect();
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    draining.join().expect("reader");
    times.sort();
    assert!(times[10] < Duration::from_millis(200), "median time to the first byte {:?}", times[10]);
}

#[test]
fn a_stalled_connection_does_not_hold_up_another() {
    let (server, accepted) = Server::handing_over(LOCAL);
    let relay = LoopbackRelay::start("", server.address);
    let stalled = relay.connect();
    let source = accepted.recv().expect("upstream");
    source.set_nonblocking(true).expect("nonblocking");
    // Fills every buffer on the way to a client that does not read.
    let chunk = vec![7; 1 << 20];
    wait::until_true(
        "the way to the stalled client is full",
        || matches!((&source).write(&chunk), Err(error) if error.kind() == ErrorKind::WouldBlock),
    );
    let mut client = relay.connect();
    let mut upstream = accepted.recv().expect("second upstream");
    client.write_all(b"hello").expect("write");
    let mut got = [0; 5];
    upstream.read_exact(&mut got).expect("read");
    assert_eq!(&got, b"hello");
    drop(stalled);
}

#[test]
fn client_half_close_keeps_the_download() {
    let pattern = Pattern { seed: 3, bytes: 8 * MIB };
    let (server, sums) = Server::answer_after_end(LOCAL, pattern);
    let relay = LoopbackRelay::start("", server.address);
    let mut client = relay.connect();
    let upload = Pattern { seed: 4, bytes: MIB };
    upload.send(&mut client, Cut::Bulk).expect("upload");
    client.shutdown(Shutdown::Write).expect("half-close");
    assert_eq!(sum_of(&mut client).expect("download"), pattern.sum());
    assert_eq!(sums.recv().expect("server").expect("upload"), upload.sum());
    let line = relay.daemon.journal.wait_connection_of(client.local_addr().expect("address"));
    assert_eq!((line.up, line.down, line.ending.as_str()), (MIB, 8 * MIB, "finished"));
}

#[test]
fn upstream_half_close_keeps_the_upload() {
    let (server, accepted) = Server::handing_over(LOCAL);
    let relay = LoopbackRelay::start("", server.address);
    let mut client = relay.connect();
    let mut upstream = accepted.recv().expect("upstream");
    upstream.write_all(b"bye").expect("write");
    upstream.shutdown(Shutdown::Write).expect("half-close");
    assert_eq!(read_all(&mut client), (b"bye".to_vec(), None));
    let upload = Pattern { seed: 5, bytes: 8 * MIB };
    let sending = std::thread::spawn(move || {
        upload.send(&mut client, Cut::Bulk).expect("upload after the server's end");
    });
    assert_eq!(sum_of(&mut upstream).expect("upload"), upload.sum());
    sending.join().expect("sender");
}

#[test]
fn client_end_before_upstream_connects_is_passed_on_afterwards() {
    let server = FullServer::new();
    let relay = LoopbackRelay::start("", server.address);
    let mut client = relay.connect();
    client.write_all(b"question").expect("write");
    client.shutdown(Shutdown::Write).expect("half-close");
    // The relay has everything from the client before the server lets it in.
    wait_acknowledged(&client);
    let mut upstream = server.accept_real();
    assert_eq!(read_all(&mut upstream), (b"question".to_vec(), None));
    upstream.write_all(b"answer").expect("answer");
    drop(upstream);
    assert_eq!(read_all(&mut client), (b"answer".to_vec(), None));
}
