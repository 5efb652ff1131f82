//! What clients name, and a proxy on the gateway resolves: it must not lead them to what they could not reach.

use std::time::Duration;

use super::via::{Office, Talk};
use lab::daemon::{Daemon, Launch};
use lab::peers::{self, Peer};
use lab::servers::Server;
use lab::wait;

const MOOSE: &str = "10.2.0.5:80";
const SECRET: &str = "what only this host may see";

/// A proxy on the gateway, which also has a service that is not for clients.
struct OwnProxy {
    office: Office,
    squid: Peer,
    _secret: Server,
    _origin: lab::origin::Origin,
}

impl OwnProxy {
    fn new() -> Option<OwnProxy> {
        let (office, origin) = Office::with_origin()?;
        office.lab.gateway.hosts(
            "127.0.0.1 localhost\n::1 ip6-localhost\n127.0.1.1 gate.example gate\n10.1.0.1 lan.example\n\
             fd00:1::1 lan6.example\n0.0.0.0 blocked.example\n10.77.0.1 denied.example\n\
             10.2.0.5 moose\n127.0.0.1 moose-too\n10.2.0.5 moose-too\n10.3.0.3 cow\n",
        );
        let secret = office.lab.gateway.enter(|| Server::page("[::]:80", SECRET));
        let squid = Peer::squid(&office.lab.gateway);
        Some(OwnProxy { office, squid, _secret: secret, _origin: origin })
    }

    fn relay(&self, more: &str) -> Daemon {
        self.office.relay("80", &format!("--deny 10.77.0.0/16 {more} --via http 127.0.0.1 3128"))
    }

    /// A client that was going to moose sends this. What it gets, to the end.
    fn answer(&self, request: &str) -> String {
        let mut talk: Talk = self.office.by_hand(MOOSE);
        talk.say(request);
        talk.rest()
    }
}

/// A host that stands for an address that no client is relayed to, as clients may write it.
fn forbidden_hosts() -> Vec<String> {
    let own = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("a name");
    let addresses = [
        "127.0.0.1",
        "127.9.9.9",
        "127.1",
        "127.0.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0X7F.0.0.0x1",
        "0177.0.0.1",
        "017700000001",
        "127.0.0.1.",
        "127.1.",
        "0",
        "0.0.0.0",
        "[::1]",
        "[::]",
        "[0:0::0:1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::127.0.0.1]",
        "[2002:7f00:1::]",
        "[::1%25lo]",
        "[::1%lo]",
        "10.1.0.1",
        "10.3.0.1",
        "[fd00:1::1]",
        "[::ffff:10.1.0.1]",
        "10.1.1",
        "0x0a010001",
        "169.254.169.254",
        "[fe80::1]",
        "10.77.0.1",
        "[64:ff9b::10.77.0.1]",
        "224.0.0.1",
        "255.255.255.255",
    ];
    let names = [
        "localhost",
        "LOCALHOST",
        "localhost.",
        "a.localhost",
        "b.a.LocalHost.",
        "localhost.localdomain",
        "ip6-localhost",
        "ip6-loopback",
        "gate",
        "GATE.example",
        "gate.example.",
        "lan.example",
        "lan6.example",
        "blocked.example",
        "denied.example",
        "moose-too",
        own.trim(),
    ];
    addresses.into_iter().chain(names).map(str::to_owned).collect()
}

#[test]
fn no_way_to_write_a_host_leads_through_a_proxy_on_the_gateway_to_its_own_services() {
    let Some(scene) = OwnProxy::new() else { return };
    let _daemon = scene.relay("");
    for (number, host) in forbidden_hosts().iter().enumerate() {
        for port in ["", ":80"] {
            let requests = [
                format!("GET /{number} HTTP/1.1\r\nHost: {host}{port}\r\nConnection: close\r\n\r\n"),
                format!("GET http://{host}{port}/{number} HTTP/1.1\r\nHost: moose\r\nConnection: close\r\n\r\n"),
                format!("GET HTTP://{host}{port}/{number} HTTP/1.0\r\n\r\n"),
                format!("GET http://moose@{host}{port}/{number} HTTP/1.1\r\nHost: moose\r\nConnection: close\r\n\r\n"),
                format!(
                    "GET http://{host}{port}\\@moose/{number} HTTP/1.1\r\nHost: moose\r\nConnection: close\r\n\r\n"
                ),
            ];
            for request in requests {
                let answer = scene.answer(&request);
                assert!(!answer.contains(SECRET), "{request}{answer}");
                assert!(answer.contains(&format!("GET /{number} ")), "{request}{answer}");
            }
        }
        // Nothing is left of what the client has named: not in the URL, and not in the Host line.
        let url = format!("GET http://10.2.0.5/{number} 200");
        wait::until_true("Squid's log", || scene.squid.count(&url) == 10);
        let seen = scene._origin.last();
        assert_eq!(seen.header("Host"), Some("10.2.0.5"), "{host}: {seen:?}");
    }
}

#[test]
fn a_connect_to_this_host_goes_where_the_client_was_going_or_nowhere() {
    let Some(scene) = OwnProxy::new() else { return };
    let _daemon = scene.relay("");
    for host in forbidden_hosts() {
        let answer = scene.answer(&format!(
            "CONNECT {host}:80 HTTP/1.1\r\nHost: {host}:80\r\n\r\nGET /in HTTP/1.0\r\nConnection: close\r\n\r\n"
        ));
        assert!(!answer.contains(SECRET), "{host}: {answer}");
        assert!(answer.contains("GET /in ") || answer.starts_with("HTTP/1.1 400 "), "{host}: {answer}");
    }
}

#[test]
fn a_host_that_clients_may_reach_is_the_proxys_to_judge() {
    let Some(scene) = OwnProxy::new() else { return };
    let _daemon = scene.relay("");
    let _cow = scene.office.lab.cow.enter(|| Server::page("[::]:80", "cow"));
    for host in ["cow", "10.3.0.3", "cow:80"] {
        let answer = scene.answer(&format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"));
        assert!(answer.ends_with("cow"), "{host}: {answer}");
        let answer = scene.answer(&format!("GET http://{host}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
        assert!(answer.ends_with("cow"), "{host}: {answer}");
    }
    assert!(scene.answer("GET /m HTTP/1.1\r\nHost: moose\r\nConnection: close\r\n\r\n").contains("GET /m "));
    scene.squid.wait_for("GET http://moose/m 200");
}

#[test]
fn a_client_on_this_host_may_name_it() {
    let Some(scene) = OwnProxy::new() else { return };
    let args = ["-d", "-s", "8081", "-r", "nobody", "-O", "-R", "-d moose --dport 80"];
    let launch = Launch::new(&args).within(&scene.office.lab.gateway);
    let _daemon = "--via http 127.0.0.1 3128".split(' ').fold(launch, Launch::arg).ready();
    for host in ["localhost", "127.0.0.1", "gate"] {
        let asked = ["curl", "-sS", "--max-time", "20", "-H", &format!("Host: {host}"), "http://10.2.0.5/"];
        let done = peers::attempt(&scene.office.lab.gateway, &asked);
        assert_eq!(String::from_utf8_lossy(&done.stdout), SECRET, "{host}: {done:?}");
    }
    wait::holds_for(Duration::ZERO, "Squid is asked for it by name", || scene.squid.count("GET http://gate/ 200") == 1);
}

/// The first bytes of a TLS client that asks for this name, which has as many letters as `cow.example.com`.
fn hello_for(name: &str) -> Vec<u8> {
    const HELLO: &[u8] = include_bytes!("../fixtures/openssl.hello");
    const NAME: &[u8] = b"cow.example.com";
    let at = HELLO.windows(NAME.len()).position(|piece| piece == NAME).expect("the name");
    assert_eq!(name.len(), NAME.len());
    [&HELLO[..at], name.as_bytes(), &HELLO[at + NAME.len()..]].concat()
}

/// What Squid is asked for when a client that was going to moose begins like this.
fn asked_for(office: &Office, squid: &Peer, port: &str, beginning: &[u8]) -> String {
    let before = squid.log().matches("CONNECT ").count();
    let mut talk = office.by_hand(&format!("10.2.0.5:{port}"));
    talk.say(beginning);
    let mut answer = vec![0; beginning.len()];
    std::io::Read::read_exact(talk.stream(), &mut answer).expect("an echo");
    assert_eq!(answer, beginning);
    drop(talk);
    wait::until_true("the tunnel in Squid's log", || squid.log().matches("CONNECT ").count() > before);
    squid.log().lines().rfind(|line| line.starts_with("CONNECT ")).expect("a line").to_owned()
}

/// Every way that leads to a tunnel by name, with the port that it is used for.
const BY_NAME: &[(&str, &str)] = &[
    ("--sni --via connect", "443"),
    ("--via http --via-fallback connect --sni", "443"),
    ("--sni --via connect", "80"),
];

/// A request, or a hello, for this name.
fn beginning(port: &str, name: &str) -> Vec<u8> {
    match port {
        "80" => format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n").into_bytes(),
        _ => hello_for(name),
    }
}

#[test]
fn a_name_in_the_first_bytes_is_checked_like_a_host() {
    let Some(office) = Office::new() else { return };
    let usual = "10.3.0.3 cow\n";
    office.lab.cow.hosts("10.2.0.5 true.beside.aaa dual.beside.aaa\n");
    office.lab.gateway.hosts(&format!(
        "{usual}10.2.0.5 true.beside.aaa\n10.2.0.5 dual.beside.aaa\n10.9.9.9 dual.beside.aaa\n\
         10.2.0.5 loop.beside.aaa\n127.0.0.1 loop.beside.aaa\n10.2.0.5 own6.beside.aaa\nfd00:1::1 own6.beside.aaa\n\
         10.9.9.9 else.beside.aaa\n"
    ));
    let squid = Peer::squid(&office.lab.cow);
    for (way, port) in BY_NAME {
        let _echo = office.lab.moose.enter(|| Server::echo(&format!("[::]:{port}")));
        let _daemon = office.relay(port, &format!("{way} --host-check cow 3128"));
        for name in ["true.beside.aaa", "dual.beside.aaa"] {
            // The second time the answer is known.
            for _ in 0..2 {
                let asked = asked_for(&office, &squid, port, &beginning(port, name));
                assert!(asked.starts_with(&format!("CONNECT {name}:{port} 200")), "{way}: {asked}");
            }
        }
        for name in ["loop.beside.aaa", "own6.beside.aaa", "else.beside.aaa", "none.beside.aaa", "aaaaa.localhost"] {
            let asked = asked_for(&office, &squid, port, &beginning(port, name));
            assert!(asked.starts_with(&format!("CONNECT 10.2.0.5:{port} 200")), "{way}, {name}: {asked}");
        }
    }
}

#[test]
fn a_name_of_this_host_in_the_first_bytes_is_not_asked_for() {
    let Some(office) = Office::new() else { return };
    office.lab.cow.hosts("10.2.0.5 anyone.beside.a\n");
    office.lab.gateway.hosts("10.3.0.3 cow\n127.0.1.1 gate.example.co\n10.9.9.9 gate.example.co\n");
    let squid = Peer::squid(&office.lab.cow);
    for (way, port) in BY_NAME {
        let _echo = office.lab.moose.enter(|| Server::echo(&format!("[::]:{port}")));
        let _daemon = office.relay(port, &format!("{way} cow 3128"));
        for name in ["aaaaa.localhost", "anyone.beside.a", "gate.example.co", "GATE.EXAMPLE.CO", "aaaa.localhost."] {
            let asked = asked_for(&office, &squid, port, &beginning(port, name));
            let is_ours = !name.ends_with(".a");
            let wanted = if is_ours { "10.2.0.5" } else { name };
            assert!(asked.starts_with(&format!("CONNECT {wanted}:{port} ")), "{way}, {name}: {asked}");
        }
    }
}
