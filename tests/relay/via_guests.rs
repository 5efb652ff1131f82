//! Connections whose first bytes decide where they go: behind a balancer (`--accept-proxy`) and with `--sni`.

use super::*;
use lab::speaker::{
    ORIGINAL, Stage, Tongue, behind_a_balancer, block, header, hear_head, introduced, line_of, original, stranger,
};

/// From `openssl s_client -servername cow.example.com`.
const HELLO: &[u8] = include_bytes!("../fixtures/openssl.hello");

/// Both versions of a header for a client.
fn headers(client: &TcpStream) -> [Vec<u8>; 2] {
    let address = client.local_addr().expect("address");
    [header(address, original()), block(address, original())]
}

/// Sends a byte at a time, with a gap, until all is sent or nobody takes it any more.
fn drip(client: &TcpStream, bytes: &[u8], gap: Duration) {
    let mut client = client.try_clone().expect("clone");
    for byte in bytes {
        // The rhythm of the client is the subject of the test.
        std::thread::sleep(gap);
        if client.write_all(&[*byte]).is_err() {
            return;
        }
    }
}

#[test]
fn a_header_says_who_the_client_is_however_it_is_cut_and_what_follows_it_is_payload() {
    let server = Server::echo(LOCAL);
    let relay = behind_a_balancer("", server.address);
    for version in 0..2 {
        for size in [1, 7, 1000] {
            let mut client = relay.connect();
            let words = [&headers(&client)[version][..], b"payload"].concat();
            words.chunks(size).for_each(|piece| client.write_all(piece).expect("write"));
            client.shutdown(Shutdown::Write).expect("half-close");
            assert_eq!(read_all(&mut client), (b"payload".to_vec(), None), "version {version}, {size} bytes");
            let line = line_of(&relay, &client);
            assert_eq!((line.original.as_str(), line.ending.as_str()), (ORIGINAL, "finished"), "{line:?}");
            assert_eq!((line.up, line.down), (7, 7), "{line:?}");
        }
    }
    // Whom the balancer names, and not the balancer, is the client in the log.
    let mut client = relay.connect();
    client.write_all(&header("203.0.113.9:7000".parse().expect("address"), original())).expect("header");
    round_trip(&mut client, b"in").expect("echo");
    drop(client);
    relay.daemon.journal.wait_connection_of("203.0.113.9:7000");
}

#[test]
fn a_client_that_speaks_for_itself_is_taken_for_itself() {
    const LOCAL_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    const UNSPEC_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\0\0\x03abc";
    let server = Server::echo(LOCAL);
    let plain = behind_a_balancer("", server.address);
    let proxied = ["http", "connect", "socks5"].map(|via| behind_a_balancer(&format!("--via {via}"), server.address));
    for words in [b"PROXY UNKNOWN\r\n", &b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n"[..], LOCAL_V2, UNSPEC_V2] {
        let mut client = plain.connect();
        client.write_all(&[words, b"payload"].concat()).expect("write");
        client.shutdown(Shutdown::Write).expect("half-close");
        assert_eq!(read_all(&mut client), (b"payload".to_vec(), None), "{words:?}");
        let line = line_of(&plain, &client);
        assert_eq!((line.original.as_str(), line.ending.as_str()), ("-", "finished"));
        for relay in &proxied {
            let mut client = relay.connect();
            client.write_all(words).expect("write");
            expect_reset(&mut client);
            assert_eq!(line_of(relay, &client).ending, "loop", "{words:?}");
            relay.daemon.journal.wait_for("in its PROXY header");
        }
    }
}

#[test]
fn whoever_does_not_begin_with_a_header_is_reset() {
    let server = Server::echo(LOCAL);
    let relay = behind_a_balancer("", server.address);
    let long_v1 = ["PROXY UNKNOWN ", &"x".repeat(200), "\r\n"].concat();
    let long_v2 = [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff", &[0; 3000][..]].concat();
    let table: [(&[u8], &str); 7] = [
        (b"GET / HTTP/1.1\r\n\r\n", "no PROXY header"),
        (b"PROXY TCP4 10.0.0.1 10.0.0.2 1\r\n", "a malformed PROXY line"),
        (b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\n", "a malformed PROXY line"),
        (b"\r\n\r\n\0\r\nQUIT\n\x31", "a malformed PROXY header of version 2"),
        (long_v1.as_bytes(), "a PROXY header that is too long"),
        (&long_v2, "a PROXY header that is too long"),
        (b"PROXY TCP4 10.", "the connection ended before it"),
    ];
    for (words, why) in table {
        let mut client = relay.connect();
        client.write_all(words).expect("write");
        if why.contains("ended") {
            client.shutdown(Shutdown::Write).expect("half-close");
        }
        expect_reset(&mut client);
        let line = line_of(&relay, &client);
        assert_eq!((line.ending.as_str(), line.upstream.as_str()), (&*format!("bad PROXY header: {why}"), "-"));
    }
    let silent = relay.connect();
    drop(silent.shutdown(Shutdown::Write));
    assert_eq!(line_of(&relay, &silent).ending, "bad PROXY header: the connection ended before it");
    let (mut gone, introduction) = stranger(&relay, original());
    gone.write_all(&introduction[..9]).expect("write");
    let address = gone.local_addr().expect("address");
    reset(gone);
    assert_eq!(relay.daemon.journal.wait_connection_of(address).ending, "reset by client");
}

#[test]
fn a_header_that_does_not_come_in_time_is_not_waited_for_however_it_drips() {
    let server = Server::echo(LOCAL);
    let relay = behind_a_balancer("--handshake-timeout 1", server.address);
    let start = Instant::now();
    let (mut dripping, introduction) = stranger(&relay, original());
    let mut silent = relay.connect();
    let writer = dripping.try_clone().expect("clone");
    let sending = std::thread::spawn(move || drip(&writer, &introduction, Duration::from_millis(60)));
    for client in [&mut silent, &mut dripping] {
        // It is the writer of the dripping one that may get to know of the reset.
        assert_eq!(read_all(client).0, b"");
        let took = start.elapsed();
        assert!(took > Duration::from_millis(700) && took < Duration::from_secs(2), "took {took:?}");
        assert_eq!(line_of(&relay, client).ending, "handshake timed out");
    }
    sending.join().expect("client");
}

#[test]
fn the_name_in_a_hello_is_asked_for_and_the_hello_stays_where_it_is() {
    for tongue in [Tongue::Connect, Tongue::Socks5] {
        let stage = Stage::new(&format!("--sni {}", tongue.option()));
        for size in [1000, 100, 7] {
            let mut client = stage.client();
            HELLO.chunks(size).for_each(|piece| client.write_all(piece).expect("write"));
            let mut proxy = stage.proxy();
            match tongue {
                Tongue::Connect => {
                    let head = hear_head(&mut proxy);
                    assert!(head.starts_with("CONNECT cow.example.com:443 HTTP/1.1\r\n"), "{head}");
                }
                Tongue::Socks5 => {
                    proxy.read_exact(&mut [0; 3]).expect("greeting");
                    proxy.write_all(&[5, 0]).expect("method");
                    let mut request = [0; 22];
                    proxy.read_exact(&mut request).expect("request");
                    assert_eq!(&request, b"\x05\x01\0\x03\x0fcow.example.com\x01\xbb");
                }
            }
            proxy.write_all(tongue.consent()).expect("consent");
            client.shutdown(Shutdown::Write).expect("half-close");
            assert_eq!(read_all(&mut proxy), (HELLO.to_vec(), None), "{tongue:?}, {size} bytes");
        }
    }
}

#[test]
fn the_host_of_a_request_is_asked_for_by_its_name() {
    let stage = Stage::new("--sni --via connect");
    let (mut client, introduction) = stranger(&stage.relay, original());
    let request = b"GET / HTTP/1.1\r\nHost: cow.example.com:8080\r\n\r\n";
    // The header and what follows it may be one segment.
    client.write_all(&[&introduction, &request[..]].concat()).expect("write");
    let mut proxy = stage.proxy();
    assert!(hear_head(&mut proxy).starts_with("CONNECT cow.example.com:443 "));
    proxy.write_all(Tongue::Connect.consent()).expect("consent");
    client.shutdown(Shutdown::Write).expect("half-close");
    assert_eq!(read_all(&mut proxy), (request.to_vec(), None));
}

#[test]
fn a_name_is_waited_for_a_moment_and_no_longer() {
    let stage = Stage::new("--sni --via connect");
    let times: Vec<Duration> = (0..3)
        .map(|_| {
            let start = Instant::now();
            let (mut client, mut proxy) = stage.pair();
            assert_eq!(Tongue::Connect.hear_request(&mut proxy), ORIGINAL);
            let took = start.elapsed();
            proxy.write_all(&[Tongue::Connect.consent(), b"220 moose"].concat()).expect("banner");
            let mut banner = [0; 9];
            client.read_exact(&mut banner).expect("banner");
            assert_eq!(&banner, b"220 moose");
            took
        })
        .collect();
    let fastest = times.iter().min().expect("times");
    assert!(*fastest < Duration::from_millis(260), "{times:?}");
    // Bytes that begin neither a hello nor a head are a whole message, as far as we know.
    for words in [&b"user moose"[..], b"Hello", b"GET moose", b"A-METHOD-THAT-IS-TOO-LONG"] {
        let start = Instant::now();
        let mut client = stage.client();
        client.write_all(words).expect("write");
        let mut proxy = stage.proxy();
        assert_eq!(Tongue::Connect.hear_request(&mut proxy), ORIGINAL);
        assert!(start.elapsed() < Duration::from_millis(800), "took {:?}", start.elapsed());
    }
}

/// The same hello in records of this many bytes each (RFC 8446, 5.1).
fn in_records(size: usize) -> Vec<u8> {
    let record = |piece: &[u8]| [&HELLO[..3], &(piece.len() as u16).to_be_bytes(), piece].concat();
    HELLO[5..].chunks(size).flat_map(record).collect()
}

#[test]
fn a_name_whose_beginning_has_come_is_waited_for() {
    const REQUEST: &[u8] = b"PROPFIND /a?b HTTP/1.1\r\nAccept: */*\r\nHost: cow.example.com\r\n\r\n";
    let stage = Stage::new("--sni --via connect");
    let (records, tiny) = (in_records(100), in_records(1));
    // In the type, in the header of a record, behind it, in the message, and in the header of the second record.
    let cuts = [(HELLO, &[1, 3, 5, 6, 60][..]), (&records, &[105, 107, 110, 150]), (&tiny, &[1, 7, 70])];
    let requests = (REQUEST, &[1, 3, 8, 9, 10, 22, 40, REQUEST.len() - 1][..]);
    for (hello, cuts) in cuts.into_iter().chain([requests]) {
        let parts = cuts.iter().map(|cut| hello.split_at(*cut));
        let mut clients: Vec<_> = parts.map(|(first, rest)| (stage.client(), first, rest)).collect();
        clients.iter_mut().for_each(|(client, first, _)| client.write_all(first).expect("the beginning"));
        // Longer than a client is waited for that says nothing: the second segment was lost and is sent again.
        assert!(stage.asks_nothing_for(Duration::from_millis(900)));
        for (mut client, first, rest) in clients {
            client.write_all(rest).expect("the rest");
            let mut proxy = stage.proxy();
            let head = hear_head(&mut proxy);
            assert!(head.starts_with("CONNECT cow.example.com:443 "), "{} bytes first: {head}", first.len());
            proxy.write_all(Tongue::Connect.consent()).expect("consent");
            client.shutdown(Shutdown::Write).expect("half-close");
            assert_eq!(read_all(&mut proxy), (hello.to_vec(), None));
        }
    }
    // One byte at a time, which takes longer than the first moment.
    for hello in [HELLO, REQUEST] {
        let client = stage.client();
        client.set_nodelay(true).expect("no delay");
        let writer = client.try_clone().expect("clone");
        let sending = std::thread::spawn(move || {
            drip(&writer, &hello[..60], Duration::from_millis(15));
            (&writer).write_all(&hello[60..]).expect("the rest");
        });
        let mut proxy = stage.proxy();
        assert!(hear_head(&mut proxy).starts_with("CONNECT cow.example.com:443 "));
        proxy.write_all(Tongue::Connect.consent()).expect("consent");
        sending.join().expect("client");
        client.shutdown(Shutdown::Write).expect("half-close");
        assert_eq!(read_all(&mut proxy), (hello.to_vec(), None));
    }
}

#[test]
fn a_name_that_does_not_come_to_its_end_is_waited_for_as_long_as_any_head() {
    let stage = Stage::new("--sni --handshake-timeout 1 --via connect");
    let start = Instant::now();
    let mut clients = [&HELLO[..1], &HELLO[..100], b"GET / HTTP/1.1\r\nHost: cow"].map(|words| {
        let mut client = stage.client();
        client.write_all(words).expect("write");
        client
    });
    let dripping = stage.client();
    let writer = dripping.try_clone().expect("clone");
    let sending = std::thread::spawn(move || drip(&writer, HELLO, Duration::from_millis(60)));
    for client in clients.iter_mut().chain([&mut { dripping }]) {
        assert_eq!(read_all(client).0, b"");
        let took = start.elapsed();
        assert!(took > Duration::from_millis(700) && took < Duration::from_secs(2), "took {took:?}");
        assert_eq!(stage.line(client).ending, "handshake timed out");
    }
    sending.join().expect("client");
    assert!(stage.asks_nothing_for(Duration::ZERO));
}

#[test]
fn who_says_nothing_more_is_not_waited_for_at_all() {
    let stage = Stage::new("--sni --via connect");
    for words in [&b""[..], &HELLO[..9]] {
        let mut client = stage.client();
        client.write_all(words).expect("write");
        client.shutdown(Shutdown::Write).expect("half-close");
        let mut proxy = stage.proxy();
        assert_eq!(Tongue::Connect.hear_request(&mut proxy), ORIGINAL);
        proxy.write_all(&[Tongue::Connect.consent(), b"220 moose"].concat()).expect("banner");
        assert_eq!(read_all(&mut proxy), (words.to_vec(), None));
        drop(proxy);
        assert_eq!(read_all(&mut client), (b"220 moose".to_vec(), None));
        let line = stage.line(&client);
        assert_eq!(line.ending, "finished");
    }
}

#[test]
fn the_server_is_told_who_asks_in_one_segment_with_the_first_data() {
    for (version, form) in [("v1", header as fn(SocketAddr, SocketAddr) -> Vec<u8>), ("v2", block)] {
        let stage = Stage::new(&format!("--proxy-protocol {version}"));
        let (mut client, introduction) = stranger(&stage.relay, original());
        let address = client.local_addr().expect("address");
        client.write_all(&[&introduction, &b"first"[..]].concat()).expect("write");
        let mut upstream = stage.proxy();
        let mut buffer = [0; 1000];
        let count = upstream.read(&mut buffer).expect("read");
        let wanted = [&form(address, original())[..], b"first"].concat();
        assert_eq!(&buffer[..count], &wanted[..], "{version}");
        client.write_all(b"second").expect("write");
        upstream.read_exact(&mut buffer[..6]).expect("read");
        assert_eq!(&buffer[..6], b"second");
        // A server that speaks first is not left waiting for the client.
        let client = introduced(&stage.relay, original());
        let mut upstream = stage.proxy();
        let wanted = form(client.local_addr().expect("address"), original());
        let count = upstream.read(&mut buffer).expect("read");
        assert_eq!(&buffer[..count], &wanted[..], "{version}");
        // And one whose client has ended gets the header and then the end.
        drop(client.shutdown(Shutdown::Write));
        assert_eq!(read_all(&mut upstream), (Vec::new(), None));
        drop(upstream);
        assert_eq!(stage.line(&client).ending, "finished");
    }
}

#[test]
fn a_connection_that_was_not_redirected_was_going_to_where_it_arrived() {
    let (server, accepted) = Server::handing_over(LOCAL);
    let relay = LoopbackRelay::start("--proxy-protocol v1", server.address);
    let client = relay.connect();
    let mut upstream = accepted.recv_timeout(clients::IO_PATIENCE).expect("upstream");
    let wanted = header(client.local_addr().expect("address"), relay.address);
    let mut got = vec![0; wanted.len()];
    upstream.read_exact(&mut got).expect("header");
    assert_eq!(got, wanted);
}

#[test]
fn much_data_behind_the_header_is_delivered_behind_the_next_header() {
    let pattern = Pattern { seed: 51, bytes: 8 * MIB };
    let stage = Stage::new("--proxy-protocol v2");
    let (mut client, introduction) = stranger(&stage.relay, original());
    let wanted = block(client.local_addr().expect("address"), original());
    let sending = std::thread::spawn(move || {
        client.write_all(&introduction).expect("header");
        pattern.send(&mut client, Cut::Bulk).expect("payload");
    });
    let mut upstream = stage.proxy();
    let mut got = vec![0; wanted.len()];
    upstream.read_exact(&mut got).expect("header");
    assert_eq!(got, wanted);
    assert_eq!(sum_with_pause(&mut upstream, MIB, Duration::from_millis(100)).expect("payload"), pattern.sum());
    sending.join().expect("sender");
}
