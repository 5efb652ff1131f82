//! The PROXY protocol, towards real servers and from a real balancer.

use std::io::{Read, Write};

use nix::sys::signal::Signal;

use super::via::Office;
use lab::clients;
use lab::daemon::Launch;
use lab::peers::Peer;
use lab::process;
use lab::servers::Server;

/// What a client sees of a server that tells what it was told, and what it should be.
fn expect_told(office: &Office, to: &str, client: &str, original: &str) {
    let mut stream = office.lab.client.connect(to).expect("connect");
    let port = stream.local_addr().expect("address").port();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("send");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answer");
    assert!(answer.ends_with(&format!("\r\n\r\n{client} {port} {original} 80")), "{answer:?}");
}

#[test]
fn a_server_is_told_who_asks_and_for_what() {
    let Some(office) = Office::new() else { return };
    for server in [Peer::haproxy_echo, Peer::nginx_echo] {
        let _server = server(&office.lab.cow);
        for version in ["v1", "v2"] {
            // The family of the client decides, not that of the upstream.
            for cow in ["10.3.0.3", "fd00:3::3"] {
                let mut daemon = office.relay("80", &format!("--proxy-protocol {version} {cow} 8080"));
                expect_told(&office, "10.2.0.5:80", "10.1.0.2", "10.2.0.5");
                expect_told(&office, "[fd00:2::5]:80", "fd00:1::2", "fd00:2::5");
                assert!(daemon.journal.wait_connections(2).iter().all(|line| line.ending == "finished"));
                assert_eq!(daemon.stop(), 0);
            }
        }
    }
}

#[test]
fn the_header_and_the_first_data_are_one_segment() {
    let Some(office) = Office::new() else { return };
    for (version, header) in [("v1", "PROXY TCP4 10.1.0.2 10.2.0.5 ".len() + "80 \r\n".len() + 5), ("v2", 28)] {
        let (server, accepted) = office.lab.cow.enter(|| Server::handing_over("[::]:8080"));
        let daemon = office.relay("80", &format!("--proxy-protocol {version} cow 8080"));
        // Stopped, so that the data is there before the server is connected to.
        let worker = daemon.family.worker();
        process::signal(worker, Signal::SIGSTOP);
        let mut stream = office.lab.client.connect("10.2.0.5:80").expect("connect");
        stream.write_all(b"first").expect("send");
        office.lab.client.enter(|| clients::wait_acknowledged(&stream));
        process::signal(worker, Signal::SIGCONT);
        let mut upstream = accepted.recv_timeout(clients::IO_PATIENCE).expect("accepted");
        let mut buffer = [0; 1000];
        let count = upstream.read(&mut buffer).expect("read");
        assert!(buffer[..count].ends_with(b"first"), "{version}: {:?}", String::from_utf8_lossy(&buffer[..count]));
        assert!(count <= header + 5, "{version}: {count}");
        // The kernel's own count of segments with data that came in.
        let peer = upstream.peer_addr().expect("peer").port();
        let shown =
            office.lab.cow.run(&["ss", "-Htin", "sport", "=", ":8080", "and", "dport", "=", &format!(":{peer}")]);
        assert!(shown.contains(" data_segs_in:1 "), "{version}: {shown}");
        drop(server);
    }
}

#[test]
fn a_server_that_speaks_first_gets_its_header_without_data() {
    let Some(office) = Office::new() else { return };
    let _server = office.lab.cow.enter(|| {
        Server::threaded("[::]:8080", |mut stream| {
            let mut header = [0; 28];
            let _ = stream.read_exact(&mut header);
            let _ = stream.write_all(b"220 after the header\r\n");
        })
    });
    let _daemon = office.relay("25", "--proxy-protocol v2 cow 8080");
    let mut stream = office.lab.client.connect("10.2.0.5:25").expect("connect");
    assert_eq!(clients::read_all(&mut stream).0, b"220 after the header\r\n");
}

#[test]
fn behind_a_balancer_the_clients_own_address_counts() {
    let Some(office) = Office::new() else { return };
    let _page = office.lab.cow.enter(|| Server::page("[::]:80", "cow"));
    for header in ["send-proxy", "send-proxy-v2"] {
        for (balancer, to, allowed) in
            [("10.2.0.5", "10.2.0.1:12970", "10.2.0.5"), ("[fd00:2::5]", "[fd00:2::1]:12970", "fd00:2::5")]
        {
            let _balancer = Peer::haproxy_balancer(&office.lab.moose, to, header);
            let line = format!("-d -s 12970 -r nobody -a {allowed} --accept-proxy cow 80");
            let mut daemon = Launch::line(&line).within(&office.lab.gateway).ready();
            let stream = office.lab.client.connect(&format!("{balancer}:80")).expect("connect");
            let client = stream.local_addr().expect("address");
            assert_eq!(clients::ask(stream).expect("page"), "cow");
            let line = daemon.journal.wait_connection_of(client);
            assert_eq!(
                (line.original.as_str(), line.upstream.as_str()),
                (format!("{balancer}:80").as_str(), "10.3.0.3:80")
            );
            // Bytes are those of the payload, as ever.
            assert_eq!((line.up, line.ending.as_str()), (18, "finished"), "{line:?}");
            assert_eq!(daemon.stop(), 0);
        }
    }
}

#[test]
fn a_header_is_handed_on() {
    let Some(office) = Office::new() else { return };
    let _nginx = Peer::nginx_echo(&office.lab.cow);
    for (header, version) in [("send-proxy", "v2"), ("send-proxy-v2", "v1")] {
        let _balancer = Peer::haproxy_balancer(&office.lab.moose, "10.2.0.1:12970", header);
        let line = format!("-d -s 12970 -r nobody -a 10.2.0.5 --accept-proxy --proxy-protocol {version} cow 8080");
        let mut daemon = Launch::line(&line).within(&office.lab.gateway).ready();
        expect_told(&office, "10.2.0.5:80", "10.1.0.2", "10.2.0.5");
        expect_told(&office, "[fd00:2::5]:80", "fd00:1::2", "fd00:2::5");
        assert_eq!(daemon.stop(), 0);
    }
}

#[test]
fn nobody_else_may_say_who_the_client_is() {
    let Some(office) = Office::new() else { return };
    let _page = office.lab.cow.enter(|| Server::page("[::]:80", "cow"));
    let line = "-d -s 12970 -r nobody -a 10.2.0.5 --handshake-timeout 1 --accept-proxy cow 80";
    let daemon = Launch::line(line).within(&office.lab.gateway).ready();
    let header = "PROXY TCP4 10.2.0.5 10.2.0.5 1111 80\r\nGET / HTTP/1.0\r\n\r\n";
    // From an address that may not, whatever it is going to claim.
    clients::expect_connect_reset(office.lab.client.connect("10.1.0.1:12970"));
    assert_eq!(daemon.journal.wait_connections(1)[0].ending, "denied");
    for (number, (said, ending)) in [
        ("GET / HTTP/1.0\r\n\r\n", "bad PROXY header: "),
        ("PROXY TCP4 10.2.0.5 10.2.0.5 1111 99999\r\n", "bad PROXY header: "),
        ("PROXY TCP4 10.2.0", "handshake timed out"),
        ("", "handshake timed out"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut stream = office.lab.moose.connect("10.2.0.1:12970").expect("connect");
        stream.write_all(said.as_bytes()).expect("send");
        clients::expect_reset(&mut stream);
        let lines = daemon.journal.wait_connections(number + 2);
        assert!(lines[number + 1].ending.starts_with(ending), "{said:?}: {lines:?}");
    }
    let mut stream = office.lab.moose.connect("10.2.0.1:12970").expect("connect");
    stream.write_all(header.as_bytes()).expect("send");
    let (page, error) = clients::read_all(&mut stream);
    assert!(page.ends_with(b"\r\n\r\ncow") && error.is_none(), "{:?} {error:?}", String::from_utf8_lossy(&page));
    drop(stream);
    assert_eq!(daemon.journal.wait_connection_of("10.2.0.5:1111").ending, "finished");
}
