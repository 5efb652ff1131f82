//! `--source client`: the upstream sees the client's address.

use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::signal::Signal;

use super::*;
use lab::attack::connect_from;
use lab::peers::Peer;
use lab::{alone, clients, process, report, rules, wait};

/// Tells each client its address and port.
fn mirror(at: &str) -> Server {
    Server::inline(at, 2, |mut stream| {
        let peer = stream.peer_addr().map(|peer| SocketAddr::new(peer.ip().to_canonical(), peer.port()));
        let _ = peer.and_then(|peer| write!(stream, "{peer}"));
    })
}

/// The two mirrors: moose's, where clients want to go, and cow's.
fn mirrors(scene: &Scene) -> [Server; 2] {
    [scene.lab.moose.enter(|| mirror("[::]:7")), scene.lab.cow.enter(|| mirror("[::]:7"))]
}

/// What a mirror has told; `None` if the connection was reset.
fn told(mut stream: TcpStream) -> Option<SocketAddr> {
    let (bytes, error) = clients::read_all(&mut stream);
    assert!(error.is_none() || bytes.is_empty(), "{error:?}");
    String::from_utf8_lossy(&bytes).parse().ok()
}

fn ask(net: &lab::netns::Net, to: &str) -> Option<SocketAddr> {
    net.connect(to).ok().and_then(told)
}

/// Relays what goes to moose's echo port.
const CAUGHT: [&str; 9] =
    ["-d", "-s", "12970", "-r", "nobody", "-R", "-s 10.1.0.0/24 --dport 7", "-R", "-s fd00:1::/64 --dport 7"];

fn relay(scene: &Scene, more: &[&str]) -> Daemon {
    scene.relay(&[&CAUGHT[..], more].concat())
}

const MOOSE7: [&str; 2] = ["10.2.0.5:7", "[fd00:2::5]:7"];
const CLIENT: [&str; 2] = ["10.1.0.2", "fd00:1::2"];

#[test]
fn the_upstream_sees_the_client_in_both_families() {
    let Some(scene) = Scene::new() else { return };
    let _mirrors = mirrors(&scene);
    let cow = ["10.3.0.3", "7", "fd00:3::3", "7"];
    let cases = [("client", &["-t"][..]), ("client", &cow), ("client:port", &cow), ("client:port", &["-t"])];
    let firewalls = rules::firewalls();
    for (firewall, (source, more)) in firewalls.iter().flat_map(|firewall| cases.map(|case| (firewall, case))) {
        let mut daemon = relay(&scene, &[&["--firewall", firewall, "--source", source], more].concat());
        for (to, client) in MOOSE7.into_iter().zip(CLIENT) {
            // Where the first upstream is of the other family.
            let swapped = more.len() > 1 && to.starts_with('[');
            let stream = scene.lab.client.connect(to).expect("connect");
            let port = stream.local_addr().expect("address").port();
            let seen = told(stream).unwrap_or_else(|| panic!("{source} {more:?} {to}"));
            if swapped {
                assert_eq!(seen.ip().to_string(), "10.3.0.1", "an IPv6 client has no address towards an IPv4 upstream");
                daemon.journal.wait_for("from our own address, for they are of different families");
            } else {
                assert_eq!(seen.ip().to_string(), client, "{source} {more:?}");
                let same = source == "client:port";
                assert!(!same || seen.port() == port, "{source} {more:?}: {} {port}", seen.port());
            }
        }
        daemon.signal(Signal::SIGUSR1);
        let own = usize::from(more.len() > 1);
        daemon.journal.wait_for(&format!("; {own} from our own address, 0 from another port"));
        assert_eq!(daemon.stop(), 0);
    }
}

#[test]
fn where_the_clients_port_is_not_to_be_had_another_one_is_used_and_counted() {
    let Some(scene) = Scene::new() else { return };
    let _mirrors = mirrors(&scene);
    for (interception, hosts) in [("tproxy", &["-t"][..]), ("redirect", &["10.3.0.3", "7"])] {
        let args = ["--intercept", interception, "--source", "client:port"];
        let mut daemon = relay(&scene, &[&args, hosts].concat());
        let to: SocketAddr = MOOSE7[0].parse().expect("an address");
        // Port 99 is below 1024: binding it takes a privilege.
        let stream = scene.lab.client.enter(|| clients::connect_from_port(99, to)).expect("connect");
        let seen = told(stream).expect("an address");
        assert!(seen.ip().to_string() == CLIENT[0] && seen.port() != 99, "{seen}");
        daemon.signal(Signal::SIGUSR1);
        daemon.journal.wait_for("; 0 from our own address, 1 from another port");
        assert_eq!(daemon.stop(), 0);
    }
}

#[test]
fn clients_whose_address_is_not_for_others_are_refused() {
    let Some(scene) = Scene::new() else { return };
    let _mirrors = mirrors(&scene);
    let gateway = &scene.lab.gateway;
    let mut daemon = relay(&scene, &["--source", "client", "10.3.0.3", "7"]);
    for to in ["10.1.0.1:12970", "127.0.0.1:12970"] {
        assert_eq!(ask(gateway, to), None, "{to}");
    }
    daemon.journal.wait_for("10.1.0.1:");
    daemon.journal.wait_for("source refused: loopback address");
    daemon.journal.wait_for("source refused: address of this host");
    assert_eq!(daemon.stop(), 0);
    // What a balancer says is refused as well; what it says of itself is not.
    let mut daemon = scene.relay(&[
        "-d",
        "-s",
        "12970",
        "-r",
        "nobody",
        "-a",
        "10.1.0.0/24",
        "--accept-proxy",
        "--source",
        "client",
        "10.3.0.3",
        "7",
    ]);
    for (client, wanted) in [
        ("10.9.8.7", Some("10.9.8.7")),
        ("10.1.0.1", None),
        ("127.0.0.1", None),
        ("169.254.1.1", None),
        ("224.0.0.1", None),
        ("255.255.255.255", None),
        ("0.0.0.0", None),
    ] {
        let mut stream = scene.lab.client.connect("10.1.0.1:12970").expect("connect");
        let _ = write!(stream, "PROXY TCP4 {client} 10.2.0.5 4321 7\r\n");
        let seen = told(stream).map(|seen| seen.ip().to_string());
        // cow sends its answers through the gateway, whatever the address.
        assert_eq!(seen.as_deref(), wanted, "{client}");
    }
    let mut stream = gateway.connect("10.1.0.1:12970").expect("connect");
    let _ = write!(stream, "PROXY UNKNOWN\r\n");
    assert_eq!(told(stream).map(|seen| seen.ip().to_string()).as_deref(), Some("10.3.0.1"));
    assert_eq!(daemon.stop(), 0);
}

/// Its answers to the client's address would leave this host.
#[test]
fn an_upstream_on_the_same_host_sees_the_client_as_well() {
    let Some(scene) = Scene::new() else { return };
    let _mirrors = [7, 8].map(|port| scene.lab.gateway.enter(|| mirror(&format!("[::]:{port}"))));
    let before = rules::saved_with_routing(&scene.lab.gateway);
    let kinds =
        rules::firewalls().into_iter().flat_map(|firewall| ["redirect", "tproxy"].map(|kind| (firewall.clone(), kind)));
    for (firewall, interception) in kinds {
        for (source, upstream, port, to) in [
            ("client", "10.2.0.1", "8", MOOSE7[0]),
            ("client:port", "fd00:2::1", "8", MOOSE7[1]),
            // What the client asks for is the upstream itself.
            ("client:port", "10.2.0.1", "7", "10.2.0.1:7"),
            ("client", "fd00:2::1", "7", "[fd00:2::1]:7"),
        ] {
            let what = format!("{firewall} {interception} {source} {to} {upstream}");
            let args = ["--firewall", &firewall, "--intercept", interception, "--source", source, upstream, port];
            let mut daemon = relay(&scene, &args);
            let stream = scene.lab.client.connect(to).expect("connect");
            let client = stream.local_addr().expect("address");
            let seen = told(stream).unwrap_or_else(|| panic!("{what}: {}", daemon.journal.text()));
            assert_eq!(seen.ip(), client.ip(), "{what}");
            let same_port = source == "client:port" && (interception == "redirect" || port == "8");
            assert!(!same_port || seen.port() == client.port(), "{what}: {seen} {client}");
            // Whoever asks it directly is answered directly.
            let direct = ask(&scene.lab.client, ["10.1.0.1:8", "[fd00:1::1]:8"][usize::from(to.starts_with('['))]);
            assert_eq!(direct.map(|seen| seen.ip()), Some(client.ip()), "{what}");
            assert_eq!(daemon.journal.wait_connections(1).len(), 1, "{what}");
            assert_eq!(daemon.stop(), 0);
            assert_eq!(rules::saved_with_routing(&scene.lab.gateway), before);
        }
    }
    // TPROXY would have two sockets with the same addresses.
    let mut daemon = relay(&scene, &["--source", "client", "10.2.0.1", "7"]);
    ask_from_the_only_port(&scene, &daemon, "10.2.0.1:7");
    assert_eq!(daemon.stop(), 0);
    for upstream in ["127.0.0.1", "::1"] {
        let line = [&CAUGHT[..], &["--source", "client", upstream, "7"]].concat();
        let finished = Launch::new(&line).within(&scene.lab.gateway).run();
        let said = format!("HOST: invalid value '{upstream}': expected an address that can answer to clients");
        assert!(finished.status == 64 && finished.stderr.contains(&said), "{}", finished.stderr);
    }
}

#[test]
fn connections_of_this_host_leave_from_its_own_address() {
    let Some(scene) = Scene::new() else { return };
    let _mirrors = mirrors(&scene);
    let mut daemon = relay(&scene, &["-O", "-R", "-d moose --dport 7", "--source", "client", "10.3.0.3", "7"]);
    assert_eq!(ask(&scene.lab.gateway, MOOSE7[0]).map(|seen| seen.ip().to_string()).as_deref(), Some("10.3.0.1"));
    assert_eq!(ask(&scene.lab.client, MOOSE7[0]).map(|seen| seen.ip().to_string()).as_deref(), Some("10.1.0.2"));
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn another_worker_has_sockets_and_one_without_a_guardian_says_what_it_does_without() {
    let Some(scene) = Scene::new() else { return };
    let _mirrors = mirrors(&scene);
    // So few descriptors that the stock is small.
    let args = [&CAUGHT[..], &["--source", "client", "10.3.0.3", "7"]].concat();
    let daemon = scene.launch(&args).open_files(512).ready();
    let seen = || ask(&scene.lab.client, MOOSE7[0]).map(|seen| seen.ip().to_string()).unwrap_or_default();
    assert_eq!(seen(), "10.1.0.2");
    let worker = daemon.family.worker();
    process::signal(worker, Signal::SIGKILL);
    daemon.family.next_worker(worker);
    wait::until_true("another worker", || seen() == "10.1.0.2");
    // 512 / 32 sockets, and those that were on their way.
    process::signal(daemon.family.guardian(), Signal::SIGKILL);
    daemon.journal.wait_for("the guardian is gone");
    let all: Vec<String> = (0..64).map(|_| seen()).collect();
    let of_client = all.iter().take_while(|seen| *seen == "10.1.0.2").count();
    assert!((8..64).contains(&of_client) && all[of_client..].iter().all(|seen| seen == "10.3.0.1"), "{all:?}");
    daemon.journal.wait_for("from our own address, for the guardian, which makes the sockets for that, is gone");
    report(&format!("--source client without a guardian: {of_client} connections from the client's address"));
}

#[test]
fn connections_wait_for_the_guardian_and_none_is_lost() {
    let Some(scene) = Scene::new() else { return };
    let _mirrors = mirrors(&scene);
    let args = [&CAUGHT[..], &["--source", "client", "10.3.0.3", "7"]].concat();
    let mut daemon = scene.launch(&args).open_files(512).ready();
    let guardian = daemon.family.guardian();
    process::signal(guardian, Signal::SIGSTOP);
    let to: SocketAddr = MOOSE7[0].parse().expect("address");
    let streams: Vec<TcpStream> =
        (0..64).map(|_| scene.lab.client.enter(|| clients::connect(to)).expect("connect")).collect();
    daemon.journal.wait_for("waits for the guardian to make a socket");
    process::signal(guardian, Signal::SIGCONT);
    for stream in streams {
        assert_eq!(told(stream).map(|seen| seen.ip().to_string()).as_deref(), Some("10.1.0.2"));
    }
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn at_the_end_of_the_port_range_the_log_says_whose_ports_towards_whom() {
    let Some(scene) = Scene::new() else { return };
    let _echo = scene.lab.cow.enter(|| Server::silent("[::]:7"));
    scene.lab.gateway.sysctl(&["net.ipv4.ip_local_port_range=40000 40031"]);
    let mut daemon = relay(&scene, &["--source", "client", "10.3.0.3", "7"]);
    scene.lab.client.run(&["ip", "addr", "add", "10.1.0.9/24", "dev", "eth0"]);
    let (to, [one, other]) = (
        MOOSE7[0].parse().expect("address"),
        ["10.1.0.2", "10.1.0.9"].map(|ip| ip.parse::<IpAddr>().expect("address")),
    );
    let connect = |from| scene.lab.client.enter(|| connect_from(from, to));
    let _kept: Vec<TcpStream> = (0..32).map(|_| connect(one).expect("connect")).collect();
    wait::until_true("all ports", || scene.lab.cow.sockets_in("established") >= 32);
    clients::expect_connect_reset(connect(one));
    daemon.journal.wait_for("out of local ports of 10.1.0.2 towards 10.3.0.3:7 for 10.1.0.2:");
    daemon.journal.wait_for("no resources: Cannot assign requested address");
    // Another client has ports of its own.
    let _other = connect(other).expect("connect");
    wait::until_true("another client", || scene.lab.cow.sockets_in("established") >= 33);
    assert_eq!(daemon.journal.count("is down"), 0);
    drop((_kept, _other));
    assert_eq!(daemon.stop(), 0);
}

/// The addresses of the client's machine, half of them IPv6.
fn many_addresses(scene: &Scene, count: usize) -> Vec<IpAddr> {
    let v4 = (0..count / 2).map(|at| IpAddr::from([10, 1, 1 + (at / 200) as u8, 1 + (at % 200) as u8]));
    let v6 = (0..count / 2).map(|at| IpAddr::from([0xfd00, 1, 0, 0, 0, 0, 7, at as u16]));
    let all: Vec<IpAddr> = v4.chain(v6).collect();
    let add = |ip: &IpAddr| match ip {
        IpAddr::V4(_) => format!("addr add {ip}/16 dev eth0\n"),
        IpAddr::V6(_) => format!("addr add {ip}/64 dev eth0 nodad\n"),
    };
    let batch = lab::tempdir::TempDir::new();
    let file = batch.write("addresses", &all.iter().map(add).collect::<String>());
    scene.lab.client.run(&["ip", "-batch", &file]);
    // The gateway knows the way back.
    scene.lab.gateway.run(&["ip", "route", "add", "10.1.0.0/16", "dev", "eth1"]);
    all
}

/// Fetches the page of a server once from each of these addresses in turn, `total` times in all, by eight threads. Returns
/// how often it was not the address of the client. `done` counts.
fn fetch_all(scene: &Scene, from: &[IpAddr], total: usize, done: &AtomicUsize) -> usize {
    let lost = AtomicUsize::new(0);
    scene.lab.client.enter(|| {
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let lost = &lost;
                scope.spawn(move || {
                    for at in (thread..total).step_by(8) {
                        let source = from[at % from.len()];
                        let to = if source.is_ipv4() { "10.2.0.5:8080" } else { "[fd00:2::5]:8080" };
                        let got = connect_from(source, to.parse().expect("address")).and_then(clients::ask);
                        done.fetch_add(1, Ordering::Relaxed);
                        let seen = got.as_ref().ok().and_then(|page| page.parse::<IpAddr>().ok());
                        if seen.map(|ip| ip.to_canonical()) != Some(source) {
                            report(&format!("{source}: {got:?}"));
                            lost.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
    });
    lost.into_inner()
}

/// 10,000 with TPROXY_MANY=10000.
fn many() -> usize {
    std::env::var("TPROXY_MANY").ok().and_then(|text| text.parse().ok()).unwrap_or(1200)
}

/// Real servers name each client, while the daemon reloads and upgrades.
#[test]
fn servers_log_each_of_many_clients_through_reloads_and_upgrades() {
    let Some(scene) = Scene::new() else { return };
    let _alone = alone(&HEAVY);
    let gateway = &scene.lab.gateway;
    let (total, sources) = (many(), many_addresses(&scene, 200));
    let before = rules::saved_with_routing(gateway);
    for (interception, server) in
        [("redirect", Peer::nginx_witness as fn(&lab::netns::Net) -> Peer), ("tproxy", Peer::haproxy_client_witness)]
    {
        let server = server(&scene.lab.moose);
        let caught = ["-R", "-s 10.1.0.0/16 --dport 8080", "-R", "-s fd00:1::/64 --dport 8080"];
        let begin = ["-d", "-s", "12970", "-r", "nobody", "-w", "2", "-t", "--source", "client"];
        let mut daemon = scene.relay(&[&begin[..], &["--intercept", interception], &caught].concat());
        // The entries of the other kind are in the zone of ours: a client with the port of one of them is taken for it.
        gateway.run(&["conntrack", "-F"]);
        let done = AtomicUsize::new(0);
        let lost = std::thread::scope(|scope| {
            let fetching = scope.spawn(|| fetch_all(&scene, &sources, total, &done));
            let changes =
                [(Signal::SIGHUP, "reloaded:"), (Signal::SIGUSR2, "upgraded to tproxy"), (Signal::SIGHUP, "reloaded:")];
            for (number, (signal, wanted)) in (1..).zip(changes) {
                let seen = daemon.journal.count(wanted);
                wait::until_true("some connections", || {
                    done.load(Ordering::Relaxed) > number * total / 5 || fetching.is_finished()
                });
                daemon.signal(signal);
                wait::until_true(wanted, || daemon.journal.count(wanted) > seen);
            }
            fetching.join().expect("clients")
        });
        assert_eq!(lost, 0, "{interception}");
        if interception == "redirect" {
            wait::until_true("all lines of the server's log", || server.clients().len() >= total);
            let seen = server.clients();
            for (at, source) in sources.iter().enumerate() {
                let wanted = total / sources.len() + usize::from(at < total % sources.len());
                assert_eq!(seen.iter().filter(|ip| *ip == source).count(), wanted, "{source}");
            }
            assert_eq!(seen.len(), total, "and nobody else");
        }
        report(&format!(
            "--source client, --intercept {interception}: {total} connections from 200 clients, none lost"
        ));
        assert_eq!(daemon.stop(), 0);
        assert_eq!(rules::saved_with_routing(gateway), before);
    }
}

/// The client and the gateway have one free port each, these.
fn leave_one_port(scene: &Scene, client: u16, gateway: u16) {
    for (net, port) in [(&scene.lab.client, client), (&scene.lab.gateway, gateway)] {
        net.sysctl(&[&format!("net.ipv4.ip_local_port_range={port} {port}")]);
    }
}

/// What the mirror behind `to` has seen of a client whose port is the only one that is free on the gateway.
fn ask_from_the_only_port(scene: &Scene, daemon: &Daemon, to: &str) -> SocketAddr {
    let seen = (40000..40100).find_map(|port| {
        leave_one_port(scene, port, port);
        // Of an earlier round it may be left in TIME-WAIT at either end.
        scene.lab.client.connect(to).ok().and_then(told)
    });
    let seen = seen.unwrap_or_else(|| panic!("{to}:\n{}", daemon.journal.text()));
    assert!(CLIENT.contains(&seen.ip().to_string().as_str()), "{seen}");
    assert_eq!(daemon.journal.count("timed out"), 0, "{}", daemon.journal.text());
    seen
}

/// The kernel's own choice may be the port that the client has.
#[test]
fn a_connection_with_the_addresses_of_the_clients_own_is_not_taken_for_it() {
    let Some(scene) = Scene::new() else { return };
    let _mirrors = mirrors(&scene);
    for interception in ["redirect", "tproxy"] {
        for source in ["client", "client:port"] {
            let mut daemon = relay(&scene, &["-t", "--source", source, "--intercept", interception]);
            MOOSE7.into_iter().for_each(|to| _ = ask_from_the_only_port(&scene, &daemon, to));
            assert_eq!(daemon.stop(), 0);
        }
    }
}

/// Each has the sockets that it needs.
#[test]
fn the_same_holds_for_redirections_of_both_kinds_in_one_process() {
    let Some(scene) = Scene::new() else { return };
    let _mirrors = [7, 8].map(|port| scene.lab.moose.enter(|| mirror(&format!("[::]:{port}"))));
    let directory = lab::tempdir::TempDir::new();
    let before = rules::saved_with_routing(&scene.lab.gateway);
    for source in ["client", "client:port"] {
        let line = |port, kind, to| {
            format!("-s {port} -t --source {source} --intercept {kind} -R '-d 10.2.0.5,fd00:2::5 --dport {to}'\n")
        };
        let text = format!("-r nobody\n{}{}", line(12970, "redirect", 7), line(12971, "tproxy", 8));
        let mut daemon = scene.relay(&["-d", "-c", &directory.write("mixed.conf", &text)]);
        for to in ["10.2.0.5:7", "10.2.0.5:8", "[fd00:2::5]:7", "[fd00:2::5]:8"] {
            ask_from_the_only_port(&scene, &daemon, to);
        }
        scene.lab.gateway.sysctl(&["net.ipv4.ip_local_port_range=30000 39999"]);
        for (to, keeps) in [("10.2.0.5:7", source == "client:port"), ("10.2.0.5:8", false)] {
            let stream = scene.lab.client.enter(|| clients::connect_from_port(50007, to.parse().expect("address")));
            let seen = told(stream.expect("connect")).expect("an address");
            assert_eq!(seen.port() == 50007, keeps, "{source} {to} {seen}");
        }
        assert_eq!(daemon.stop(), 0);
        assert_eq!(rules::saved_with_routing(&scene.lab.gateway), before);
    }
}

/// Has connection tracking look at all packets, and drops what it takes for invalid.
pub(super) fn drop_invalid(net: &lab::netns::Net) {
    for (family, chain) in
        [("iptables", "INPUT"), ("iptables", "OUTPUT"), ("ip6tables", "INPUT"), ("ip6tables", "OUTPUT")]
    {
        net.run(&[family, "-w", "-A", chain, "-p", "tcp", "-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP"]);
    }
}

/// Only the way to an upstream on this host needs connection tracking.
#[test]
fn without_connection_tracking_upstreams_see_clients_as_well() {
    let Some(scene) = Scene::new() else { return };
    let _mirrors = (mirrors(&scene), scene.lab.gateway.enter(|| mirror("[::]:7")));
    let gateway = &scene.lab.gateway;
    let caught = ["-d", "-s", "12970", "-r", "nobody", "-R", "-d 10.2.0.5 --dport 7", "-R", "-d fd00:2::5 --dport 7"];
    let caught = [&caught[..], &["--intercept", "tproxy", "--no-conntrack", "--source"]].concat();
    drop_invalid(gateway);
    let before = rules::saved_with_routing(gateway);
    for source in ["client", "client:port"] {
        for (at, upstreams) in
            [["10.3.0.3", "10.2.0.1"], ["fd00:3::3", "fd00:2::1"]].into_iter().enumerate().chain([(0, ["-t"; 2])])
        {
            for upstream in upstreams {
                let hosts = if upstream == "-t" { vec!["-t"] } else { vec![upstream, "7"] };
                let mut daemon = scene.relay(&[&caught[..], &[source], &hosts].concat());
                gateway.run(&["conntrack", "-F"]);
                let seen = ask(&scene.lab.client, MOOSE7[at]).map(|seen| seen.ip().to_string());
                assert_eq!(seen.as_deref(), Some(CLIENT[at]), "{source} {upstream}: {}", daemon.journal.text());
                let entries = gateway.run(&["conntrack", "-L", "-f", ["ipv4", "ipv6"][at], "-p", "tcp"]);
                let is_here = upstream.contains(":2::1") || upstream == "10.2.0.1";
                assert_eq!(entries.lines().count(), usize::from(is_here), "{source} {upstream}: {entries}");
                assert_eq!(daemon.stop(), 0);
                assert_eq!(rules::saved_with_routing(gateway), before);
            }
        }
    }
}

/// Ours and a client's may have the same addresses and ports.
#[test]
fn a_port_that_we_have_towards_the_upstream_is_no_loop_when_its_client_has_it_too() {
    let Some(scene) = Scene::new() else { return };
    let _echo = scene.lab.moose.enter(|| Server::echo("[::]:7"));
    for (interception, port) in [("redirect", 41000), ("tproxy", 42000)] {
        let mut daemon = relay(&scene, &["-t", "--source", "client", "--intercept", interception]);
        for to in MOOSE7 {
            leave_one_port(&scene, port, port + 1);
            let mut first = scene.lab.client.connect(to).expect("connect");
            clients::round_trip(&mut first, b"first").expect("echo");
            leave_one_port(&scene, port + 1, port + 2);
            let mut second = scene.lab.client.connect(to).expect("connect");
            clients::round_trip(&mut second, b"second").expect("a connection with our own pair");
            clients::round_trip(&mut first, b"first").expect("the first one goes on");
        }
        assert_eq!(daemon.journal.count("loop"), 0, "{}", daemon.journal.text());
        assert_eq!(daemon.stop(), 0);
    }
}

/// What an attacker has who takes a worker over, with the sockets in its stock.
#[test]
#[cfg(target_arch = "x86_64")]
fn whoever_takes_over_a_worker_can_be_a_client_and_serve_nobody() {
    use super::confinement::expect_refused;
    use lab::takeover::{Puppet, copy_of_descriptor, line};
    use nix::errno::Errno;
    use std::os::fd::AsRawFd;
    use tproxy::testing::SocketCounts;
    use tproxy::testing::message::ToGuardian;

    let Some(scene) = Scene::new() else { return };
    let _mirrors = mirrors(&scene);
    let mut daemon = relay(&scene, &["--source", "client", "10.3.0.3", "7"]);
    assert!(ask(&scene.lab.client, MOOSE7[0]).is_some());
    let worker = daemon.family.worker();
    let puppet = Puppet::take(worker);
    let number = |socket: u64, level: i32, option: i32| {
        let length = puppet.put(&[4, 0, 0, 0, 0, 0, 0, 0]);
        let arguments = [socket, level as u64, option as u64, length + 4, length];
        let done = puppet.call(libc::SYS_getsockopt, &arguments);
        done.ok().map(|_| u32::from_ne_bytes(puppet.get(length + 4, 4).try_into().expect("a number")))
    };
    let all = || (3..2000).filter(|fd| number(*fd, libc::SOL_SOCKET, libc::SO_TYPE).is_some());
    let stock: Vec<u64> = all().filter(|fd| number(*fd, libc::SOL_IP, libc::IP_TRANSPARENT) == Some(1)).collect();
    assert!((254..=1012).contains(&stock.len()), "{} sockets", stock.len());
    assert!(all().all(|fd| number(fd, libc::SOL_SOCKET, libc::SO_TYPE) != Some(libc::SOCK_DGRAM as u32)));
    let of_v4 = |fd: &&u64| number(**fd, libc::SOL_SOCKET, libc::SO_DOMAIN) == Some(libc::AF_INET as u32);
    let mut v4 = stock.iter().filter(of_v4).copied();
    let address = |ip: [u8; 4], port: u16| {
        let mut bytes = [0; 16];
        bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
        bytes[2..4].copy_from_slice(&port.to_be_bytes());
        bytes[4..8].copy_from_slice(&ip);
        puppet.put(&bytes)
    };
    // It can be anybody, towards anybody.
    let socket = v4.next().expect("a socket");
    assert_eq!(puppet.call(libc::SYS_bind, &[socket, address([10, 9, 9, 9], 0), 16]), Ok(0));
    assert_eq!(puppet.call(libc::SYS_connect, &[socket, address([10, 3, 0, 3], 7), 16]), Err(Errno::EINPROGRESS));
    // It cannot choose the port, and so not step into a connection of others; nor wait for anybody.
    let socket = v4.next().expect("a socket");
    let own = puppet.call(libc::SYS_socket, &[libc::AF_INET as u64, libc::SOCK_STREAM as u64, 0]).expect("a socket");
    let (refused, no_such_call) = (Errno::EPERM, Errno::ENOSYS);
    // One after the other: each puts its argument into the same place.
    for (what, fd, ip, port, length, wanted) in [
        ("a port of its choice", socket, [10, 9, 9, 9], 4321, 16, Errno::EACCES),
        ("a port of this host", own, [0, 0, 0, 0], 4321, 16, Errno::EACCES),
        ("an address of others", own, [10, 9, 9, 9], 0, 16, Errno::EADDRNOTAVAIL),
        ("a name", own, [10, 9, 9, 9], 0, 110, refused),
    ] {
        expect_refused(&puppet, vec![(what, libc::SYS_bind, vec![fd, address(ip, port), length], wanted)]);
    }
    let yes = puppet.put(&[1, 0, 0, 0]);
    let option = |level: i32, option: i32| vec![own, level as u64, option as u64, yes, 4];
    expect_refused(
        &puppet,
        vec![
            ("listening", libc::SYS_listen, vec![socket, 1], no_such_call),
            ("accepting", libc::SYS_accept4, vec![socket, 0, 0, 0], Errno::EINVAL),
            ("datagrams", libc::SYS_socket, vec![libc::AF_INET as u64, libc::SOCK_DGRAM as u64, 0], refused),
            ("another such socket", libc::SYS_setsockopt, option(libc::SOL_IP, libc::IP_TRANSPARENT), refused),
            ("a mark", libc::SYS_setsockopt, option(libc::SOL_SOCKET, libc::SO_MARK), refused),
        ],
    );
    drop(puppet);
    // However often it asks, it gets some at a time, and the guardian does its work.
    let guardian = daemon.family.guardian();
    let descriptors = process::resting_descriptor_count(guardian);
    let channel = copy_of_descriptor(worker, line(worker));
    let greedy = ToGuardian::Sockets(SocketCounts([u16::MAX; 4])).encode();
    process::signal(worker, Signal::SIGSTOP);
    let ask_again = || {
        let _ = nix::sys::socket::send(channel.as_raw_fd(), &greedy, nix::sys::socket::MsgFlags::MSG_DONTWAIT);
    };
    (0..20_000).for_each(|_| ask_again());
    process::signal(worker, Signal::SIGCONT);
    daemon.signal(Signal::SIGHUP);
    wait::until_true("a reload", || {
        (0..100).for_each(|_| ask_again());
        daemon.journal.count("reloaded:") == 1
    });
    wait::until_true("no descriptor more", || process::descriptor_count(guardian) <= descriptors + 8);
    assert!(ask(&scene.lab.client, MOOSE7[0]).is_some());
    assert_eq!(daemon.stop(), 0);
}

#[test]
#[cfg(target_arch = "x86_64")]
fn nothing_that_a_worker_does_for_clients_is_refused() {
    let Some(scene) = Scene::new() else { return };
    let _mirrors = mirrors(&scene);
    let mut daemon = relay(&scene, &["--source", "client:port", "10.3.0.3", "7", "fd00:3::3", "7"]);
    let watched = lab::takeover::watch(daemon.family.worker());
    for to in MOOSE7 {
        assert!((0..20).all(|_| ask(&scene.lab.client, to).is_some()));
    }
    assert_eq!(daemon.stop(), 0);
    let calls = watched.join().expect("the calls");
    assert!(calls.contains_key(&(libc::SYS_bind as u64)), "{calls:?}");
    let refused: Vec<_> = calls.iter().filter(|(_, (_, refused))| *refused > 0).collect();
    assert!(refused.is_empty(), "{refused:?}");
}
