//! Long streams, hashed at both ends, with senders and readers of every kind.

use super::*;

/// Both directions at the same time; the client reads with a pause if told so.
fn both_ways(bytes: u64, cut: Cut, pause: Option<Duration>) {
    let (down, up) = (Pattern { seed: 11, bytes }, Pattern { seed: 12, bytes });
    let (server, sums) = Server::exchange(LOCAL, down, cut);
    let relay = LoopbackRelay::start("", server.address);
    let client = relay.connect();
    let mut writer = client.try_clone().expect("clone");
    let sending = std::thread::spawn(move || {
        up.send(&mut writer, cut).expect("upload");
        writer.shutdown(Shutdown::Write).expect("half-close");
    });
    let got = sum_with_pause(&mut &client, bytes / 4, pause.unwrap_or_default()).expect("download");
    sending.join().expect("sender");
    assert_eq!(got, down.sum(), "download");
    assert_eq!(sums.recv().expect("server").expect("upload"), up.sum(), "upload");
    let line = relay.daemon.journal.wait_connection_of(client.local_addr().expect("address"));
    assert_eq!((line.up, line.down, line.ending.as_str()), (bytes, bytes, "finished"));
}

#[test]
fn sixty_four_mib_arrive_whole_with_fast_readers() {
    both_ways(64 * MIB, Cut::Bulk, None);
}

#[test]
fn sixty_four_mib_arrive_whole_when_the_reader_pauses() {
    both_ways(64 * MIB, Cut::Bulk, Some(Duration::from_secs(1)));
}

#[test]
fn sixty_four_mib_arrive_whole_in_1448_byte_segments() {
    both_ways(64 * MIB, Cut::Every(1448), None);
}

#[test]
fn small_segments_arrive_whole_when_the_reader_pauses() {
    // Each small segment takes a whole slot of the pipe: the case in which EAGAIN does not mean "socket dry".
    both_ways(8 * MIB, Cut::Every(1448), Some(Duration::from_millis(500)));
}

#[test]
fn one_byte_segments_arrive_whole() {
    both_ways(MIB / 2, Cut::Every(1), Some(Duration::from_millis(500)));
}

#[test]
fn mixed_segments_arrive_whole_when_the_reader_pauses() {
    both_ways(16 * MIB, Cut::OneThenFull, Some(Duration::from_millis(500)));
}

#[test]
fn copying_takes_over_where_no_pipe_is_to_be_had() {
    // Room for a few connections, not for a pair of pipes for each.
    let pattern = Pattern { seed: 21, bytes: 32 * MIB };
    let (server, sums) = Server::exchange(LOCAL, pattern, Cut::Bulk);
    let port = free_port();
    let line = format!("-d -b 127.0.0.1 -s {port} 127.0.0.1 {}", server.address.port());
    let daemon = Launch::line(&line).open_files(80).ready();
    let clients: Vec<_> = (0..12)
        .map(|_| {
            std::thread::spawn(move || {
                let mut client = clients::connect(local(port)).expect("connect");
                client.shutdown(Shutdown::Write).expect("half-close");
                sum_of(&mut client).expect("download")
            })
        })
        .collect();
    let wanted = pattern.sum();
    for client in clients {
        assert_eq!(client.join().expect("client"), wanted);
    }
    drop((sums, daemon));
}
