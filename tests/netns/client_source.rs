//! `--source client`: the upstream sees the client's address.

use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpStream};

use nix::sys::signal::Signal;

use super::*;
use lab::attack::connect_from;
use lab::{clients, process, report, wait};

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
    for (source, more) in [("client", &["-t"][..]), ("client", &cow), ("client:port", &cow), ("client:port", &["-t"])] {
        let mut daemon = relay(&scene, &[&["--source", source], more].concat());
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
                let same = source == "client:port" && more.len() > 1;
                assert!(!same || seen.port() == port, "{source} {more:?}: {} {port}", seen.port());
            }
        }
        daemon.signal(Signal::SIGUSR1);
        let (own, port) = (usize::from(more.len() > 1), usize::from(source == "client:port" && more.len() == 1) * 2);
        daemon.journal.wait_for(&format!("; {own} from our own address, {port} from another port"));
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
