//! `--via http` with real proxies: clients that ask for another protocol or a tunnel, and what they send after that.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use super::via::Office;
use lab::peers::Peer;
use lab::servers::Server;

const MOOSE: &str = "10.2.0.5:80";
const OPTIONS: &str = "--forwarded x-forwarded-for --via http cow 3128";

/// A web server that upgrades those who say who they are, on a connection that it keeps.
fn guarded() -> Server {
    Server::threaded("[::]:80", |stream| _ = guard(&stream))
}

fn guard(stream: &TcpStream) -> std::io::Result<()> {
    let (mut reader, mut writer) = (BufReader::new(stream), stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        let head = head.to_ascii_lowercase();
        if head.contains("authorization: basic edp5\r\n") && head.contains("upgrade: websocket\r\n") {
            writer.write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                  Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
            )?;
            return std::io::copy(&mut reader, &mut writer).map(|_| ());
        }
        writer.write_all(
            b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=x\r\nContent-Length: 5\r\n\r\nwho?\n",
        )?;
    }
}

#[test]
fn a_web_socket_is_asked_for_again_on_the_same_connection_after_401() {
    let Some(office) = Office::new() else { return };
    let _guarded = office.lab.moose.enter(guarded);
    let squid = Peer::squid(&office.lab.cow);
    let daemon = office.relay("80", OPTIONS);
    let question = |more: &str| {
        format!(
            "GET /socket HTTP/1.1\r\nHost: moose\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{more}\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
    };
    let mut talk = office.by_hand(MOOSE);
    for _ in 0..3 {
        talk.say(question(""));
        assert_eq!(talk.answer().status, "HTTP/1.1 401 Unauthorized");
    }
    talk.say("GET /plain HTTP/1.1\r\nHost: moose\r\n\r\n");
    assert_eq!(talk.answer().status, "HTTP/1.1 401 Unauthorized");
    talk.say(question("Authorization: Basic eDp5\r\n"));
    assert_eq!(talk.head().status, "HTTP/1.1 101 Switching Protocols");
    for message in [&b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"[..], b"GET / HTTP/1.1\n\n", &[0; 50_000]] {
        talk.say(message);
        assert_eq!(talk.hear(message.len()), message);
    }
    drop(talk);
    squid.wait_for("GET http://moose/socket 101");
    squid.wait_for("GET http://moose/plain 401");
    assert_eq!(daemon.journal.wait_connections(1)[0].ending, "finished");
}

#[test]
fn clients_that_offer_an_upgrade_with_every_request_are_served() {
    let Some((office, origin)) = Office::with_origin() else { return };
    let offers = ["TLS/1.2", "h2c", "TLS/1.2", "h2c"];
    for (proxy, keeps) in [(Peer::squid as fn(&_) -> _, true), (Peer::tinyproxy, false)] {
        let proxy = proxy(&office.lab.cow);
        let daemon = office.relay("80", OPTIONS);
        let mut talk = office.by_hand(MOOSE);
        for (number, offer) in offers.into_iter().enumerate() {
            talk.say(format!(
                "GET /{number} HTTP/1.1\r\nHost: moose\r\nUpgrade: {offer}\r\nHTTP2-Settings: AAMAAABkAARAAAAA\r\n\
                 Connection: Upgrade, HTTP2-Settings\r\n\r\n"
            ));
            let answer = talk.answer();
            assert_eq!(answer.status, "HTTP/1.1 200 OK");
            assert!(answer.body.starts_with(&format!("GET /{number} ")), "{answer:?}");
            proxy.wait_for(&format!("GET http://moose/{number} "));
            let seen = origin.last();
            assert!(seen.header("X-Forwarded-For").is_some_and(|value| value.contains("10.1.0.2")), "{seen:?}");
            if !keeps {
                talk = office.by_hand(MOOSE);
            }
        }
        drop(talk);
        assert_eq!(daemon.journal.wait_connections(1)[0].ending, "finished");
    }
}

#[test]
fn what_follows_a_connect_that_squid_refuses_is_looked_at() {
    let Some((office, origin)) = Office::with_origin() else { return };
    let squid = Peer::squid(&office.lab.cow);
    let _daemon = office.relay("80", OPTIONS);
    let forged = "GET http://moose/forged HTTP/1.1\r\nHost: moose\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n";
    let refused = "CONNECT refused.example:443 HTTP/1.1\r\nHost: refused.example:443\r\n\r\n";
    for at_once in [true, false] {
        let mut talk = office.by_hand(MOOSE);
        talk.say([refused, if at_once { forged } else { "" }].concat());
        assert_eq!(talk.answer().status, "HTTP/1.1 403 Forbidden");
        if !at_once {
            talk.say(forged);
        }
        assert_eq!(talk.answer().status, "HTTP/1.1 200 OK");
        let seen = origin.last();
        assert_eq!(seen.header("X-Forwarded-For"), Some("1.2.3.4, 10.1.0.2, 10.3.0.1"), "{seen:?}");
    }
    assert_eq!((squid.count("CONNECT refused.example:443 403"), origin.seen().len()), (2, 2));
}

#[test]
fn web_sockets_pass_proxies_that_pass_upgrades() {
    let Some(office) = Office::new() else { return };
    let _guarded = office.lab.moose.enter(guarded);
    for (proxy, status) in [
        (Peer::squid as fn(&_) -> _, "HTTP/1.1 101 Switching Protocols"),
        (Peer::haproxy_witness, "HTTP/1.1 101 Switching Protocols"),
        // It takes the line with Upgrade away.
        (Peer::tinyproxy, "HTTP/1.1 401 Unauthorized"),
    ] {
        let proxy = proxy(&office.lab.cow);
        let _daemon = office.relay("80", OPTIONS);
        let mut talk = office.by_hand(MOOSE);
        talk.say(
            "GET /socket HTTP/1.1\r\nHost: moose\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Authorization: Basic eDp5\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        );
        let answer = talk.head();
        assert_eq!(answer.status, status, "{answer:?}");
        if status.contains("101") {
            let message = b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58\r\n\r\nGET / HTTP/1.1\n\n";
            talk.say(message);
            assert_eq!(talk.hear(message.len()), message);
        }
        drop(proxy);
    }
}
