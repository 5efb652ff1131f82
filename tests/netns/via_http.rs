//! `--via http` with real proxies and real clients.

use std::fs::File;
use std::io::Write;
use std::net::IpAddr;

use super::HEAVY;
use super::via::{Office, text};
use lab::daemon::Launch;
use lab::origin::{Origin, Seen, hex};
use lab::pattern::{Cut, Pattern};
use lab::peers::{self, PASSWORD, Peer, USER};
use lab::servers::Server;
use lab::{alone, clients, report, wait};

const MOOSE: &str = "10.2.0.5:80";
const MOOSE6: &str = "[fd00:2::5]:80";
const SQUID: &str = "--via http cow 3128";

#[test]
fn unconfigured_clients_reach_the_web_through_every_proxy() {
    let Some((office, origin)) = Office::with_origin() else { return };
    for proxy in [Peer::squid, Peer::tinyproxy] {
        let proxy = proxy(&office.lab.cow);
        let daemon = office.relay("80", SQUID);
        for host in ["moose", "moose6"] {
            let curl = office.curl(&[&format!("http://{host}/curl?a=b&c=%20")]);
            assert!(curl.starts_with("GET /curl?a=b&c=%20 "), "{curl}");
            expect_by_way_of_cow(&origin.last(), host);
            let url = format!("http://{host}/wget");
            let wget = peers::attempt(&office.lab.client, &["wget", "-q", "-T", "20", "-t", "1", "-O", "-", &url]);
            assert!(text(&wget.stdout).starts_with("GET /wget "), "{wget:?}");
            expect_by_way_of_cow(&origin.last(), host);
            proxy.wait_for(&format!("GET http://{host}/curl?a=b&c=%20 "));
            proxy.wait_for(&format!("GET http://{host}/wget "));
        }
        let lines = daemon.journal.wait_connections(4);
        let ways: Vec<_> = lines.iter().map(|line| (line.original.as_str(), line.upstream.as_str())).collect();
        let cow = "10.3.0.3:3128";
        assert_eq!(ways, [(MOOSE, cow), (MOOSE, cow), (MOOSE6, cow), (MOOSE6, cow)]);
        assert!(lines.iter().all(|line| line.ending == "finished" && line.up > 0 && line.down > 0), "{lines:?}");
    }
}

fn expect_by_way_of_cow(seen: &Seen, host: &str) {
    let cow: [IpAddr; 2] = ["10.3.0.3".parse().expect("address"), "fd00:3::3".parse().expect("address")];
    let peer = match seen.peer.ip() {
        IpAddr::V6(ip) => ip.to_canonical(),
        ip => ip,
    };
    assert!(cow.contains(&peer), "not by way of the proxy: {seen:?}");
    assert_eq!(seen.header("Host"), Some(host), "{seen:?}");
    assert!(seen.header("Via").is_some(), "{seen:?}");
}

#[test]
fn a_proxy_that_is_reached_over_ipv6_serves_both_families() {
    let Some((office, origin)) = Office::with_origin() else { return };
    let squid = Peer::squid(&office.lab.cow);
    let daemon = office.relay("80", "--via http fd00:3::3 3128");
    for host in ["moose", "moose6"] {
        assert!(office.curl(&[&format!("http://{host}/")]).starts_with("GET / "));
        expect_by_way_of_cow(&origin.last(), host);
        squid.wait_for(&format!("GET http://{host}/ 200"));
    }
    let lines = daemon.journal.wait_connections(2);
    assert!(lines.iter().all(|line| line.upstream == "[fd00:3::3]:3128"), "{lines:?}");
}

#[test]
fn another_port_than_80_is_part_of_the_url() {
    let Some(office) = Office::new() else { return };
    let _origin = office.lab.moose.enter(|| Origin::start("[::]:8000"));
    let squid = Peer::squid(&office.lab.cow);
    let _daemon = office.relay("8000", SQUID);
    assert!(office.curl(&["http://moose:8000/named"]).starts_with("GET /named "));
    squid.wait_for("GET http://moose:8000/named 200");
    assert!(office.curl(&["-H", "Host: moose", "http://moose:8000/bare"]).starts_with("GET /bare "));
    squid.wait_for("GET http://moose:8000/bare 200");
    assert!(office.curl(&["-H", "Host:", "http://moose6:8000/nameless"]).starts_with("GET /nameless "));
    squid.wait_for("GET http://[fd00:2::5]:8000/nameless 200");
}

/// One connection's worth of requests of every kind, and what the web server makes of each.
fn medley() -> (Vec<String>, Vec<&'static str>) {
    let post =
        |body: &str| format!("POST /post HTTP/1.1\r\nHost: moose\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let requests = vec![
        "GET /first HTTP/1.1\r\nHost: moose\r\n\r\n".to_owned(),
        // The body looks like a request, which it is not.
        post("GET /smuggled HTTP/1.1\r\nHost: moose\r\n\r\n"),
        "HEAD /head HTTP/1.1\r\nhost:moose\r\n\r\n".to_owned(),
        "PUT /chunked HTTP/1.1\r\nHost: moose\r\nTransfer-Encoding: chunked\r\n\r\n\
         5\r\nhello\r\n1b;name=value\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n\r\n0\r\nTrailer: yes\r\n\r\n"
            .to_owned(),
        post(""),
        "GET http://moose6/absolute HTTP/1.1\r\nHost: moose6\r\n\r\n".to_owned(),
        "GET /last?x=http://y/ HTTP/1.1\r\nHost: moose\r\n\r\n".to_owned(),
    ];
    let seen = ["GET /first 0", "POST /post 39", "HEAD /head 0", "PUT /chunked 32", "POST /post 0", "GET /absolute 0"];
    (requests, [&seen[..], &["GET /last?x=http://y/ 0"]].concat())
}

fn understood(origin: &Origin) -> Vec<String> {
    origin.seen().iter().map(|seen| format!("{} {} {}", seen.method, seen.target, seen.body.bytes)).collect()
}

#[test]
fn every_request_of_a_kept_alive_connection_is_rewritten() {
    let Some((office, origin)) = Office::with_origin() else { return };
    let squid = Peer::squid(&office.lab.cow);
    let daemon = office.relay("80", SQUID);
    let (requests, wanted) = medley();
    let mut talk = office.by_hand(MOOSE);
    for (number, request) in requests.iter().enumerate() {
        talk.say(request);
        let answer = if number == 2 { talk.head() } else { talk.answer() };
        assert_eq!(answer.status, "HTTP/1.1 200 OK", "to {request:?}: {answer:?}");
    }
    assert_eq!(understood(&origin), wanted);
    squid.wait_for("GET http://moose/last?x=http://y/ 200");
    for url in ["GET http://moose/first ", "PUT http://moose/chunked ", "GET http://moose6/absolute "] {
        assert_eq!(squid.count(url), 1, "{}", squid.log());
    }
    drop(talk);
    assert_eq!(daemon.journal.wait_connections(1)[0].ending, "finished");
    assert_eq!(daemon.journal.connections().len(), 1);
}

#[test]
fn a_kerberos_token_passes_if_it_may() {
    let Some((office, origin)) = Office::with_origin() else { return };
    let _squid = Peer::squid(&office.lab.cow);
    let token = format!("Authorization: Negotiate {}", "YII".repeat(16_000));
    for (options, status) in [("", "431"), ("--max-head 65536 ", "200")] {
        let _daemon = office.relay("80", &format!("{options}{SQUID}"));
        let code = ["-o", "/dev/null", "-w", "%{http_code}", "-H", &token, "http://moose/"];
        assert_eq!(office.curl(&code), status, "{options}");
    }
    assert_eq!(origin.last().header("Authorization").map(str::len), Some(48_010));
}

#[test]
fn letters_beyond_ascii_and_empty_lines_between_requests_come_through_every_proxy() {
    let Some((office, origin)) = Office::with_origin() else { return };
    for (proxy, keeps) in [(Peer::squid as fn(&_) -> _, true), (Peer::tinyproxy, false)] {
        let proxy = proxy(&office.lab.cow);
        let _daemon = office.relay("80", SQUID);
        let mut talk = office.by_hand(MOOSE);
        for (number, empty) in ["", "\r\n", "\n", "\r\n\r\n", "\n\r\n\n"].into_iter().enumerate() {
            let target = [b"/", number.to_string().as_bytes(), b"?k\xfcche=\xc3\xbc"].concat();
            talk.say([empty.as_bytes(), b"GET ", &target, b" HTTP/1.1\r\nHost: moose\r\n\r\n"].concat());
            assert_eq!(talk.answer().status, "HTTP/1.1 200 OK", "{empty:?}");
            let seen = origin.last().target;
            assert!(seen.starts_with(&format!("/{number}?k")) && seen.ends_with("che=ü"), "{seen:?}");
            if !keeps {
                talk = office.by_hand(MOOSE);
            }
        }
        drop(proxy);
    }
}

#[test]
fn curl_keeps_its_connection_for_the_next_url() {
    let Some((office, origin)) = Office::with_origin() else { return };
    let _squid = Peer::squid(&office.lab.cow);
    let daemon = office.relay("80", SQUID);
    // With --http2 curl offers an upgrade in its first request, which nobody takes, and goes on with HTTP/1.1.
    for more in ["--http1.1", "--http2"] {
        let before = origin.seen().len();
        let urls = ["http://moose/1", "http://moose/2", "http://moose/3"];
        let format = ["-o", "/dev/null", "-w", "%{http_code} %{num_connects}\n"];
        let one = |url: &'static str| [&format[..], &[url, "--next"]].concat();
        let mut words: Vec<&str> = vec![more];
        words.extend(urls.into_iter().flat_map(one));
        words.pop();
        assert_eq!(office.curl(&words), "200 1\n200 0\n200 0\n", "{more}");
        let targets: Vec<String> = origin.seen()[before..].iter().map(|seen| seen.target.clone()).collect();
        assert_eq!(targets, ["/1", "/2", "/3"], "{more}");
    }
    assert_eq!(daemon.journal.wait_connections(2).len(), 2);
}

#[test]
fn a_body_waits_until_the_server_asks_for_it() {
    let Some((office, origin)) = Office::with_origin() else { return };
    let _squid = Peer::squid(&office.lab.cow);
    let _daemon = office.relay("80", SQUID);
    let mut talk = office.by_hand(MOOSE);
    for number in 1..=2 {
        talk.say("POST /large HTTP/1.1\r\nHost: moose\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
        assert_eq!(talk.head().status, "HTTP/1.1 100 Continue");
        talk.say("hello");
        assert_eq!(talk.answer().status, "HTTP/1.1 200 OK");
        assert_eq!((origin.seen().len(), origin.last().body.bytes), (number, 5));
    }
}

#[test]
fn large_bodies_arrive_as_they_were_sent() {
    let _alone = alone(&HEAVY);
    let Some((office, origin)) = Office::with_origin() else { return };
    let body = Pattern { seed: 4, bytes: 100 << 20 };
    let path = office.files.file("body");
    let sum = body.send(&mut File::create(&path).expect("body"), Cut::Bulk).expect("body");
    let data = format!("@{path}");
    let chunked = ["-H", "Transfer-Encoding: chunked"];
    let whole: [&str; 0] = [];
    for (proxy, ways) in [(Peer::squid as fn(&_) -> _, &[&whole[..], &chunked[..]][..]), (Peer::tinyproxy, &[&whole])] {
        let proxy = proxy(&office.lab.cow);
        let daemon = office.relay("80", SQUID);
        for way in ways {
            let page = office.curl(&[way, &["--data-binary", &data, "http://moose/body"][..]].concat());
            assert_eq!(page, format!("POST /body {} {}\n", sum.bytes, hex(&sum.hash)), "{way:?}");
            assert_eq!(origin.last().body, sum, "{way:?}");
        }
        let lines = daemon.journal.wait_connections(ways.len());
        assert!(lines.iter().all(|line| line.up > sum.bytes && line.ending == "finished"), "{lines:?}");
        drop(proxy);
    }
}

#[test]
fn after_an_upgrade_nothing_is_rewritten() {
    let Some((office, _origin)) = Office::with_origin() else { return };
    let squid = Peer::squid(&office.lab.cow);
    let _daemon = office.relay("80", SQUID);
    let mut talk = office.by_hand(MOOSE);
    talk.say(
        "GET /socket HTTP/1.1\r\nHost: moose\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    );
    assert_eq!(talk.head().status, "HTTP/1.1 101 Switching Protocols");
    // A masked frame, as a browser sends it, and then every byte there is.
    let frame = b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58".to_vec();
    let all: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    for message in [frame, b"\r\n\r\n".to_vec(), all] {
        talk.say(&message);
        assert_eq!(talk.hear(message.len()), message);
    }
    drop(talk);
    squid.wait_for("GET http://moose/socket 101");
}

#[test]
fn a_proxy_with_a_password_gets_it_and_nobody_else_does() {
    let Some((office, origin)) = Office::with_origin() else { return };
    let squid = Peer::squid_with_password(&office.lab.cow);
    let (right, wrong) = (office.auth_file(USER, PASSWORD), office.auth_file(USER, "wrong"));
    let mut daemon = office.relay("80", &format!("--auth-file {right} {SQUID}"));
    let ask = |path: &str| office.curl(&["-o", "/dev/null", "-w", "%{http_code}\n", &format!("http://moose/{path}")]);
    assert_eq!(ask("known"), "200\n");
    squid.wait_for(&format!("GET http://moose/known 200 {USER}"));
    // What a client shows is not what counts.
    let own = ["-H", "Proxy-Authorization: Basic eDp5", "-o", "/dev/null", "-w", "%{http_code}\n", "http://moose/own"];
    assert_eq!(office.curl(&own), "200\n");
    squid.wait_for(&format!("GET http://moose/own 200 {USER}"));
    assert!(origin.seen().iter().all(|seen| seen.header("Proxy-Authorization").is_none()), "{:?}", origin.seen());
    assert_eq!(daemon.stop(), 0);
    assert!(!daemon.journal.text().contains("Sesame"), "{}", daemon.journal.text());
    let daemon = office.relay("80", &format!("--auth-file {wrong} {SQUID}"));
    assert_eq!(ask("stranger"), "407\n", "the client sees what the proxy says");
    squid.wait_for("GET http://moose/stranger 407");
    assert_eq!(daemon.journal.wait_connections(1)[0].ending, "finished");
}

#[test]
fn one_page_stands_for_all_but_its_own_pictures() {
    let Some((office, origin)) = Office::with_origin() else { return };
    let squid = Peer::squid(&office.lab.cow);
    let _daemon = office.relay("80", &format!("-f http://cow.example:8088/down.html {SQUID}"));
    let _cow = office.lab.cow.enter(|| Server::page("[::]:8088", "down for surgery"));
    let page = "http://cow.example:8088/down.html";
    assert_eq!(office.curl(&["http://moose/anything"]), "down for surgery");
    assert_eq!(office.curl(&["-H", "Referer: http://elsewhere/", "http://moose6/more?x"]), "down for surgery");
    wait::until_true("both pages", || squid.count(&format!("GET {page} 200")) == 2);
    assert!(office.curl(&["-e", page, "http://moose/picture.png"]).starts_with("GET /picture.png "));
    squid.wait_for("GET http://moose/picture.png 200");
    assert_eq!(origin.seen().len(), 1);
}

#[test]
fn the_clients_address_is_told_when_asked_for() {
    let Some((office, origin)) = Office::with_origin() else { return };
    let _squid = Peer::squid(&office.lab.cow);
    let _daemon = office.relay("80", &format!("--forwarded both {SQUID}"));
    for (host, client, element) in
        [("moose", "10.1.0.2", "for=10.1.0.2"), ("moose6", "fd00:1::2", "for=\"[fd00:1::2]\"")]
    {
        office.curl(&[&format!("http://{host}/")]);
        let seen = origin.last();
        assert_eq!(seen.header("Forwarded"), Some(element), "{seen:?}");
        // Squid adds the address that it sees: the gateway's.
        assert_eq!(seen.header("X-Forwarded-For"), Some(format!("{client}, 10.3.0.1").as_str()), "{seen:?}");
    }
}

#[test]
fn a_client_cannot_have_the_proxy_take_away_its_address() {
    let Some((office, origin)) = Office::with_origin() else { return };
    for proxy in [Peer::squid, Peer::tinyproxy] {
        let _proxy = proxy(&office.lab.cow);
        let _daemon = office.relay("80", &format!("--forwarded both {SQUID}"));
        for options in [
            &["Connection: X-Forwarded-For, Forwarded"][..],
            &["Connection: close,x-forwarded-for\t,\tFORWARDED, via,host"],
            &["Proxy-Connection: Forwarded, X-Forwarded-For"],
            &["Connection: close", "X: y", "connection: x-forwarded-for", "Proxy-connection: forwarded"],
            &["Forwarded: for=\"cow", "Connection: forwarded"],
        ] {
            let headers: Vec<&str> = options.iter().flat_map(|line| ["-H", line]).collect();
            office.curl(&[&headers[..], &["http://moose/"]].concat());
            let seen = origin.last();
            let told = seen.header("X-Forwarded-For").is_some_and(|value| value.contains("10.1.0.2"));
            assert!(told && seen.header("Forwarded") == Some("for=10.1.0.2"), "{options:?}: {seen:?}");
            assert!(seen.header("Host") == Some("moose") && seen.header("Via").is_some(), "{options:?}: {seen:?}");
        }
    }
}

#[test]
fn a_host_is_believed_when_it_leads_to_where_the_client_was_going() {
    let Some((office, origin)) = Office::with_origin() else { return };
    let squid = Peer::squid(&office.lab.cow);
    let daemon = office.relay("80", &format!("--host-check {SQUID}"));
    let ask = |host: &str, path: &str| {
        let page = office.curl(&["-H", &format!("Host: {host}"), &format!("http://moose/{path}")]);
        assert!(page.starts_with(&format!("GET /{path} ")), "{page}");
    };
    ask("moose", "honest");
    ask("moose.example", "alias");
    ask("10.2.0.5", "address");
    ask("cow", "lie");
    ask("nobody.example", "unknown");
    ask("10.3.0.3", "false-address");
    for url in ["moose/honest", "moose.example/alias", "10.2.0.5/address", "10.2.0.5/lie", "10.2.0.5/unknown"] {
        squid.wait_for(&format!("GET http://{url} 200"));
    }
    squid.wait_for("GET http://10.2.0.5/false-address 200");
    assert_eq!(origin.seen().len(), 6, "all of them came to moose");
    // On one connection, where the one must not speak for the other.
    let mut talk = office.by_hand(MOOSE6);
    let request = |host: &str| format!("GET /{host} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    talk.say(["moose6", "cow6", "moose6"].map(request).concat());
    (0..3).for_each(|_| assert_eq!(talk.answer().status, "HTTP/1.1 200 OK"));
    squid.wait_for("GET http://[fd00:2::5]/cow6 200");
    wait::until_true("the last of the three", || squid.count("GET http://moose6/moose6 200") == 2);
    drop(talk);
    daemon.journal.wait_connections(7);
}

/// What stands in hosts(5) beside the usual: a name for each line, with these addresses and moose's.
fn hosts_beside_moose(lines: &[(&str, &str)]) -> String {
    let usual = "10.2.0.5 moose moose.example\nfd00:2::5 moose6\n10.3.0.3 cow\nfd00:3::3 cow6\n".to_owned();
    let line = |(name, addresses): &(&str, &str)| {
        addresses.split(' ').chain(["10.2.0.5"]).map(|address| format!("{address} {name}\n")).collect::<String>()
    };
    lines.iter().map(line).fold(usual, |text, line| text + &line)
}

/// Addresses that no client is relayed to, each as a name has it beside its true one.
const FORBIDDEN_BESIDE: &[(&str, &str)] = &[
    ("loopback.beside", "127.0.0.1"),
    ("loopback-elsewhere.beside", "127.9.9.9"),
    ("loopback6.beside", "::1"),
    ("mapped.beside", "::ffff:127.0.0.1"),
    ("translated.beside", "64:ff9b::7f00:1"),
    ("own.beside", "10.3.0.1"),
    ("own-mapped.beside", "::ffff:10.1.0.1"),
    ("own6.beside", "fd00:3::1"),
    ("link.beside", "169.254.169.254"),
    ("link6.beside", "fe80::1"),
    ("nobody.beside", "0.0.0.0"),
    ("multicast.beside", "224.0.0.1"),
    ("denied.beside", "10.77.0.1"),
    ("denied-translated.beside", "64:ff9b::10.77.0.1"),
    ("both-families.beside", "fd00:2::5 192.0.2.7 ::1"),
];

#[test]
fn a_name_is_believed_only_if_every_one_of_its_addresses_is_permitted() {
    let Some((office, origin)) = Office::with_origin() else { return };
    let crowd: Vec<String> = (1..60).map(|last| format!("10.9.1.{last}")).collect();
    let honest = [("crowd.beside", &*crowd.join(" ")), ("dual.beside", "fd00:2::5 2001:db8::1")];
    office.lab.gateway.hosts(&hosts_beside_moose(&[FORBIDDEN_BESIDE, &honest].concat()));
    office.lab.cow.hosts("10.2.0.5 moose crowd.beside dual.beside\n");
    let squid = Peer::squid(&office.lab.cow);
    let _daemon = office.relay("80", &format!("--host-check --deny 10.77.0.0/16 {SQUID}"));
    for (host, _) in FORBIDDEN_BESIDE {
        let page = office.curl(&["-H", &format!("Host: {host}"), &format!("http://moose/{host}")]);
        assert!(page.starts_with(&format!("GET /{host} ")), "{page}");
        squid.wait_for(&format!("GET http://10.2.0.5/{host} 200"));
        assert_eq!(origin.last().header("Host"), Some("10.2.0.5"), "{host}");
    }
    for (host, _) in honest {
        office.curl(&["-H", &format!("Host: {host}"), &format!("http://moose/{host}")]);
        squid.wait_for(&format!("GET http://{host}/{host} 200"));
    }
}

#[test]
fn a_refusal_of_the_proxy_is_the_clients_to_read() {
    let Some((office, origin)) = Office::with_origin() else { return };
    let squid = Peer::squid(&office.lab.cow);
    let _daemon = office.relay("80", SQUID);
    let code = ["-o", "/dev/null", "-w", "%{http_code}\n"];
    assert_eq!(office.curl(&[&code[..], &["http://refused.example/"]].concat()), "403\n");
    squid.wait_for("GET http://refused.example/ 403");
    assert_eq!(origin.seen().len(), 0);
}

/// A server that sends back what it gets, where a web server would be expected.
fn echo_at_80(office: &Office) -> Server {
    office.lab.moose.enter(|| Server::echo("[::]:80"))
}

/// What is not HTTP: SSH, TLS, and a protocol of zeros.
const FOREIGN: &[&[u8]] = &[b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", b"\x16\x03\x01\x00\x05hello", &[0; 300]];

/// What Squid was asked for. It also has a line for a connection on which nothing came.
fn asked(squid: &Peer) -> Vec<String> {
    let lines = squid.log();
    let asked = lines.lines().filter(|line| !line.starts_with("- error:transaction-end-before-headers "));
    asked.map(str::to_string).collect()
}

#[test]
fn what_is_not_http_goes_through_a_tunnel_if_it_may() {
    let Some(office) = Office::new() else { return };
    let (echo, squid) = (echo_at_80(&office), Peer::squid(&office.lab.cow));
    let daemon = office.relay("80", &format!("--via-fallback connect {SQUID}"));
    for (number, (to, url)) in [(MOOSE, "10.2.0.5:80"), (MOOSE6, "[fd00:2::5]:80")].into_iter().enumerate() {
        for foreign in FOREIGN {
            let mut talk = office.by_hand(to);
            talk.say(foreign);
            assert_eq!(talk.hear(foreign.len()), *foreign);
            clients::round_trip(talk.stream(), b"GET /later HTTP/1.1\r\n\r\n").expect("echo");
        }
        wait::until_true("the tunnels in Squid's log", || squid.count(&format!("CONNECT {url} 200")) == FOREIGN.len());
        assert_eq!(
            daemon.journal.wait_connections((number + 1) * FOREIGN.len()).last().expect("line").ending,
            "finished"
        );
    }
    drop(echo);
    // What is HTTP goes its own way all the same.
    let _origin = office.lab.moose.enter(|| Origin::start("[::]:80"));
    assert!(office.curl(&["http://moose/page"]).starts_with("GET /page "));
    squid.wait_for("GET http://moose/page 200");
}

#[test]
fn an_ambiguous_request_after_a_good_one_ends_the_connection_and_spares_the_answer() {
    let Some((office, origin)) = Office::with_origin() else { return };
    let squid = Peer::squid(&office.lab.cow);
    let _daemon = office.relay("80", SQUID);
    let mut talk = office.by_hand(MOOSE);
    talk.say("GET /good HTTP/1.1\r\nHost: moose\r\n\r\n");
    assert_eq!(talk.answer().status, "HTTP/1.1 200 OK");
    talk.say("POST / HTTP/1.1\r\nHost: moose\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    let rest = talk.rest();
    assert!(rest.starts_with("HTTP/1.1 400 "), "{rest:?}");
    wait::until_true("the good one in Squid's log", || asked(&squid).len() == 1);
    assert_eq!(origin.seen().len(), 1);
}

#[test]
fn when_the_proxy_is_down_requests_go_where_they_were_going_if_asked_for() {
    let Some((office, origin)) = Office::with_origin() else { return };
    let daemon = office.relay("80", &format!("--fallback {SQUID}"));
    assert!(office.curl(&["http://moose/direct"]).starts_with("GET /direct "));
    assert_eq!(origin.last().target, "/direct", "in the form that a web server wants");
    assert_eq!(daemon.journal.wait_connections(1)[0].upstream, MOOSE);
}

#[test]
fn a_browser_sees_the_page_through_squid() {
    let _alone = alone(&HEAVY);
    let Some((office, origin)) = Office::with_origin() else { return };
    let squid = Peer::squid(&office.lab.cow);
    let daemon = office.relay("80", SQUID);
    let profile = office.files.file("profile");
    let begin = std::time::Instant::now();
    let done = peers::browse(&office.lab.client, &profile, "http://moose.example/browser");
    assert!(text(&done.stdout).contains("GET /browser "), "{}{}", text(&done.stdout), text(&done.stderr));
    squid.wait_for("GET http://moose.example/browser 200");
    let seen = origin.seen();
    let page = seen.iter().find(|seen| seen.target == "/browser").expect("the page");
    assert!(page.header("User-Agent").is_some_and(|value| value.contains("Chrome")), "{page:?}");
    report(&format!(
        "via http: a browser took {:?} and {} connections",
        begin.elapsed(),
        daemon.journal.connections().len()
    ));
}

#[test]
fn large_bodies_and_small_requests_alternate_on_one_connection() {
    let _alone = alone(&HEAVY);
    let Some((office, origin)) = Office::with_origin() else { return };
    let _squid = Peer::squid(&office.lab.cow);
    let daemon = office.relay("80", SQUID);
    let mut all = Vec::new();
    let mut wanted = Vec::new();
    for number in 0..24u64 {
        let body = Pattern { seed: number, bytes: 100_000 * number + number };
        let mut bytes = Vec::new();
        wanted.push(body.send(&mut bytes, Cut::Bulk).expect("a vector takes all"));
        if number % 2 == 0 {
            let head = format!("POST /{number} HTTP/1.1\r\nHost: moose\r\nContent-Length: {}\r\n\r\n", bytes.len());
            all.extend([head.as_bytes(), &bytes].concat());
        } else {
            let head = format!("POST /{number} HTTP/1.1\r\nHost: moose\r\nTransfer-Encoding: chunked\r\n\r\n");
            all.extend_from_slice(head.as_bytes());
            // Chunks of one byte, of some, and of many.
            let mut rest = &bytes[..];
            for size in [1, 15, 4096, 70_000, 1_000_000].into_iter().cycle() {
                let (chunk, later) = rest.split_at(size.min(rest.len()));
                all.extend([format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
                rest = later;
                // The empty chunk is the last one.
                if chunk.is_empty() {
                    break;
                }
            }
        }
        all.extend_from_slice(b"GET /small HTTP/1.1\r\nHost: moose\r\n\r\n");
    }
    let mut talk = office.by_hand(MOOSE);
    let mut writer = talk.stream().try_clone().expect("clone");
    let sending = std::thread::spawn(move || writer.write_all(&all));
    for (number, sum) in wanted.iter().enumerate() {
        let page = format!("POST /{number} {} {}\n", sum.bytes, hex(&sum.hash));
        assert_eq!(talk.answer().body, page);
        assert!(talk.answer().body.starts_with("GET /small 0 "), "after {number}");
    }
    sending.join().expect("sender").expect("send");
    assert_eq!(origin.seen().len(), 2 * wanted.len());
    drop(talk);
    assert_eq!(daemon.journal.wait_connections(1)[0].ending, "finished");
}

#[test]
fn the_next_proxy_serves_when_the_first_is_down_and_a_new_password_comes_with_a_reload() {
    let Some((office, _origin)) = Office::with_origin() else { return };
    let squid = Peer::squid_with_password(&office.lab.cow);
    let file = office.auth_file(USER, "wrong");
    let daemon = office.relay("80", &format!("--via http --auth-file {file} cow 3127 cow 3128"));
    let ask = |path: &str| office.curl(&["-o", "/dev/null", "-w", "%{http_code}\n", &format!("http://moose/{path}")]);
    assert_eq!(ask("before"), "407\n");
    std::fs::write(&file, format!("{USER}:{PASSWORD}\n")).expect("auth file");
    daemon.signal(nix::sys::signal::Signal::SIGHUP);
    daemon.journal.wait_for("reloaded");
    wait::until_true("the new password", || ask("after") == "200\n");
    squid.wait_for(&format!("GET http://moose/after 200 {USER}"));
}

#[test]
fn own_connections_go_through_the_proxy_as_well_with_output() {
    let Some((office, _origin)) = Office::with_origin() else { return };
    let squid = Peer::squid(&office.lab.cow);
    let args = ["-d", "-s", "8081", "-r", "nobody", "-O", "-X", "-s cow", "-R", "--dport 80", "--via", "http", "cow"];
    let _daemon = Launch::new(&args).arg("3128").within(&office.lab.gateway).ready();
    let done = peers::attempt(&office.lab.gateway, &["curl", "-sS", "--max-time", "20", "http://moose/own"]);
    assert!(text(&done.stdout).starts_with("GET /own "), "{done:?}");
    squid.wait_for("GET http://moose/own 200");
}
