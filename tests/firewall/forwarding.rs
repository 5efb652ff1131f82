//! What the rules do to traffic between machines: a client, a gateway with the rules, and servers behind it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage};
use tproxy::testing::{Action, RuleSet};

use crate::common::*;
use lab::netns::{Lab, Net};
use lab::servers::Server;
use lab::{clients, rules};

/// The addresses of one family.
struct Plan {
    client: &'static str,
    /// The client's other addresses.
    other: &'static str,
    third: &'static str,
    /// The gateway's, as the client and as cow see it.
    gateway: &'static str,
    gateway_at_cow: &'static str,
    moose: &'static str,
    cow: &'static str,
    /// Nobody's, behind moose's cable.
    nobody: &'static str,
}

const V4: Plan = Plan {
    client: "10.1.0.2",
    other: "10.1.0.9",
    third: "10.1.0.77",
    gateway: "10.1.0.1",
    gateway_at_cow: "10.3.0.1",
    moose: "10.2.0.5",
    cow: "10.3.0.3",
    nobody: "10.2.0.77",
};

const V6: Plan = Plan {
    client: "fd00:1::2",
    other: "fd00:1::9",
    third: "fd00:1::77",
    gateway: "fd00:1::1",
    gateway_at_cow: "fd00:3::1",
    moose: "fd00:2::5",
    cow: "fd00:3::3",
    nobody: "fd00:2::77",
};

const BOTH: [Plan; 2] = [V4, V6];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Protocol {
    Tcp,
    Udp,
}

use Protocol::{Tcp, Udp};

impl Protocol {
    /// The words that name it in a MATCH.
    fn words(self) -> &'static str {
        if self == Tcp { "-p tcp" } else { "-p udp" }
    }
}

/// Answers whoever asks with its name and the asker's address, over TCP and UDP, IPv4 and IPv6.
struct Greeter {
    _tcp: Server,
    udp: Option<JoinHandle<()>>,
    over: Arc<AtomicBool>,
}

impl Greeter {
    fn new(net: &Net, port: u16, name: &'static str) -> Greeter {
        let greeting = move |peer: SocketAddr| format!("{name} {}", peer.ip().to_canonical());
        let over = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&over);
        let (tcp, udp) = net.enter(move || {
            let at = format!("[::]:{port}");
            let tcp = Server::threaded(&at, move |mut stream| {
                let peer = stream.peer_addr().expect("peer");
                let _ = stream.write_all(greeting(peer).as_bytes());
            });
            let socket = UdpSocket::bind(&at).expect("UDP port");
            socket.set_read_timeout(Some(Duration::from_millis(100))).expect("timeout");
            let udp = std::thread::spawn(move || {
                let mut question = [0; 16];
                while !stop.load(Ordering::Relaxed) {
                    if let Ok((_, peer)) = socket.recv_from(&mut question) {
                        let _ = socket.send_to(greeting(peer).as_bytes(), peer);
                    }
                }
            });
            (tcp, udp)
        });
        Greeter { _tcp: tcp, udp: Some(udp), over }
    }
}

impl Drop for Greeter {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.udp.take().map(JoinHandle::join);
    }
}

/// Asks from one of a machine's addresses.
fn ask(net: &Net, protocol: Protocol, from: &str, to: &str, port: u16) -> Result<String, ErrorKind> {
    let from = SocketAddr::new(from.parse().unwrap(), 0);
    let to = SocketAddr::new(to.parse().unwrap(), port);
    let answer = net.enter(|| if protocol == Tcp { ask_tcp(from, to) } else { ask_udp(from, to) });
    answer.map_err(|error| error.kind())
}

fn ask_tcp(from: SocketAddr, to: SocketAddr) -> io::Result<String> {
    let family = if from.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket: OwnedFd = socket::socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(from))?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(clients::IO_PATIENCE))?;
    stream.set_write_timeout(Some(clients::IO_PATIENCE))?;
    socket::connect(stream.as_raw_fd(), &SockaddrStorage::from(to))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Asks once more when no answer comes.
fn ask_udp(from: SocketAddr, to: SocketAddr) -> io::Result<String> {
    let socket = UdpSocket::bind(from)?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut answer = [0; 64];
    let mut received = Err(ErrorKind::TimedOut.into());
    for _ in 0..3 {
        socket.send(b"?")?;
        received = socket.recv(&mut answer);
        if received.is_ok() {
            break;
        }
    }
    Ok(String::from_utf8_lossy(&answer[..received?]).into_owned())
}

/// The machines, with all addresses of the client.
fn lab() -> Option<Lab> {
    let lab = Lab::new()?;
    for plan in BOTH {
        let (length, nodad): (_, &[&str]) = if plan.client.contains(':') { (64, &["nodad"]) } else { (24, &[]) };
        for address in [plan.other, plan.third].map(|address| format!("{address}/{length}")) {
            lab.client.run(&[&["ip", "addr", "add", &address, "dev", "eth0"], nodad].concat());
        }
    }
    Some(lab)
}

/// Works with these rules on the gateway and asserts that they go without a trace.
fn with_rules(lab: &Lab, set: &RuleSet, test: impl FnOnce()) {
    let before = rules::saved(&lab.gateway);
    let mut firewall = lab.gateway.enter(|| {
        let mut firewall = Wall::find();
        firewall.install(set);
        firewall
    });
    test();
    lab.gateway.enter(|| firewall.remove(&set.name));
    assert_eq!(rules::saved(&lab.gateway), before);
}

const REFUSED: Result<String, ErrorKind> = Err(ErrorKind::ConnectionRefused);

#[test]
fn two_sources_get_two_local_services_and_others_the_server() {
    let Some(lab) = lab() else { return };
    let _servers = [
        Greeter::new(&lab.gateway, 1113, "inside"),
        Greeter::new(&lab.gateway, 1114, "outside"),
        Greeter::new(&lab.moose, 113, "moose"),
    ];
    for (protocol, plan) in [Tcp, Udp].into_iter().flat_map(|protocol| BOTH.map(|plan| (protocol, plan))) {
        let named = |from: &str| format!("{} -s {from} --dport 113", protocol.words());
        let (one, two) = (named(plan.client), named(plan.other));
        let rules = [(Action::Local { port: Some(1113) }, one.as_str()), (Action::Local { port: Some(1114) }, &two)];
        with_rules(&lab, &set(&rules), || {
            let answer = |from: &str| ask(&lab.client, protocol, from, plan.moose, 113);
            assert_eq!(answer(plan.client), Ok(format!("inside {}", plan.client)), "{protocol:?}");
            assert_eq!(answer(plan.other), Ok(format!("outside {}", plan.other)), "{protocol:?}");
            assert_eq!(answer(plan.third), Ok(format!("moose {}", plan.third)), "{protocol:?}");
        });
    }
}

#[test]
fn a_redirect_to_the_same_port_is_reached_by_its_sources_and_refused_to_all_others() {
    let Some(lab) = lab() else { return };
    let _servers = [Greeter::new(&lab.gateway, 79, "gateway"), Greeter::new(&lab.moose, 79, "moose")];
    let same = Action::Local { port: None };
    for plan in BOTH {
        let inside = format!("-s {} --dport 79", plan.client);
        let udp = format!("-p udp {inside}");
        let rules = [(same, inside.as_str()), (same, &udp), (Action::Reject, "--dport 79")];
        with_rules(&lab, &set(&rules), || {
            let greeted = Ok(format!("gateway {}", plan.client));
            // Also where nothing has to be translated, for it is for us already.
            for to in [plan.moose, plan.gateway] {
                assert_eq!(ask(&lab.client, Tcp, plan.client, to, 79), greeted, "{to}");
                assert_eq!(ask(&lab.client, Udp, plan.client, to, 79), greeted, "{to}");
                assert_eq!(ask(&lab.client, Tcp, plan.other, to, 79), REFUSED, "{to}");
            }
            let other = ask(&lab.client, Udp, plan.other, plan.moose, 79);
            assert_eq!(other, Ok(format!("moose {}", plan.other)));
        });
    }
}

#[test]
fn the_kernel_sends_on_what_matches_and_masquerades_nothing_else() {
    let Some(lab) = lab() else { return };
    let _servers = [Greeter::new(&lab.cow, 8080, "cow"), Greeter::new(&lab.moose, 80, "moose")];
    for (protocol, plan) in [Tcp, Udp].into_iter().flat_map(|protocol| BOTH.map(|plan| (protocol, plan))) {
        let words = protocol.words();
        let exempt = format!("{words} -s {} --dport 80", plan.other);
        let matching = format!("{words} -d {} --dport 80", plan.moose);
        let set = set(&[(Action::Exempt, exempt.as_str()), (kernel(plan.cow, 8080), &matching)]);
        let mut admin = Vec::new();
        // The administrator's own: another destination, and the same one for whom we leave alone.
        for (from, to) in [(plan.client, plan.nobody), (plan.other, plan.moose)] {
            let target =
                if plan.cow.contains(':') { format!("[{}]:8080", plan.cow) } else { format!("{}:8080", plan.cow) };
            let rule = format!("PREROUTING {words} -s {from} -d {to} --dport 80 -j DNAT --to-destination {target}");
            admin.push(rule);
        }
        let tool = if plan.cow.contains(':') { "ip6tables" } else { "iptables" };
        let change = |verb: &str, rule: &str| {
            let words: Vec<&str> = [tool, "-w", "-t", "nat", verb].into_iter().chain(rule.split(' ')).collect();
            lab.gateway.run(&words);
        };
        admin.iter().for_each(|rule| change("-A", rule));
        with_rules(&lab, &set, || {
            let answer = |from: &str, to: &str, port| ask(&lab.client, protocol, from, to, port);
            let cow_sees = |whom: &str| Ok(format!("cow {whom}"));
            assert_eq!(answer(plan.client, plan.moose, 80), cow_sees(plan.gateway_at_cow), "{protocol:?}");
            assert_eq!(
                answer(plan.client, plan.nobody, 80),
                cow_sees(plan.client),
                "{protocol:?} by the administrator"
            );
            assert_eq!(answer(plan.other, plan.moose, 80), cow_sees(plan.other), "{protocol:?} left alone");
            assert_eq!(answer(plan.client, plan.cow, 8080), cow_sees(plan.client), "{protocol:?} directly");
            let at_moose = if plan.cow.contains(':') { "fd00:2::1" } else { "10.2.0.1" };
            let own = || ask(&lab.gateway, protocol, at_moose, plan.moose, 80);
            assert_eq!(own(), Ok(format!("moose {at_moose}")), "{protocol:?} without -O");
        });
        with_rules(&lab, &with_output(set), || {
            let at_moose = if plan.cow.contains(':') { "fd00:2::1" } else { "10.2.0.1" };
            let own = ask(&lab.gateway, protocol, at_moose, plan.moose, 80);
            assert_eq!(own, Ok(format!("cow {}", plan.gateway_at_cow)), "{protocol:?} with -O");
        });
        admin.iter().for_each(|rule| change("-D", rule));
    }
}

#[test]
fn an_answer_comes_back_to_a_client_beside_the_server() {
    let Some(lab) = lab() else { return };
    // cow asks moose and is answered by itself: without our address as source it would talk to itself.
    let _server = Greeter::new(&lab.cow, 80, "cow");
    for plan in BOTH {
        let matching = format!("-d {} --dport 80", plan.moose);
        with_rules(&lab, &set(&[(kernel(plan.cow, 80), &matching)]), || {
            let answer = ask(&lab.cow, Tcp, plan.cow, plan.moose, 80);
            assert_eq!(answer, Ok(format!("cow {}", plan.gateway_at_cow)));
        });
    }
}

#[test]
fn a_reject_holds_through_and_to_the_gateway_and_not_for_what_the_kernel_sends_on() {
    let Some(lab) = lab() else { return };
    let _servers = [
        Greeter::new(&lab.moose, 81, "moose"),
        Greeter::new(&lab.gateway, 81, "gateway"),
        Greeter::new(&lab.cow, 81, "cow"),
    ];
    for plan in BOTH {
        let matching = format!("-d {} --dport 82", plan.moose);
        let rules = [(kernel(plan.cow, 81), matching.as_str()), (Action::Reject, "--dport 81")];
        let answer = |to: &str, port| ask(&lab.client, Tcp, plan.client, to, port);
        with_rules(&lab, &set(&rules), || {
            assert_eq!(answer(plan.moose, 81), REFUSED);
            assert_eq!(answer(plan.gateway, 81), REFUSED);
            assert_eq!(answer(plan.cow, 81), REFUSED);
            assert_eq!(answer(plan.moose, 82), Ok(format!("cow {}", plan.gateway_at_cow)));
        });
        assert_eq!(answer(plan.moose, 81), Ok(format!("moose {}", plan.client)));
        assert_eq!(answer(plan.gateway, 81), Ok(format!("gateway {}", plan.client)));
    }
}

#[test]
fn a_connection_from_before_the_kernel_rule_goes_on_as_it_was() {
    let Some(lab) = lab() else { return };
    let _moose = lab.moose.enter(|| Server::echo("[::]:80"));
    for plan in BOTH {
        let to: IpAddr = plan.moose.parse().unwrap();
        let mut stream = lab.client.enter(|| clients::connect(SocketAddr::new(to, 80)).unwrap());
        clients::round_trip(&mut stream, b"before").unwrap();
        let matching = format!("-d {} --dport 80", plan.moose);
        with_rules(&lab, &set(&[(kernel(plan.cow, 80), &matching)]), || {
            clients::round_trip(&mut stream, b"meanwhile").unwrap();
        });
        clients::round_trip(&mut stream, b"after").unwrap();
    }
}
