//! `--source client`: all ports that a client has towards an upstream. This takes more sockets than one process may have
//! open, so this program runs itself again for them.

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};

use super::*;
use lab::attack::connect_from;
use lab::netns::Net;
use lab::{alone, clients, report, wait};

/// What a copy of this program does: `serve ADDRESS` or `connect ADDRESS COUNT`.
const WORK: &str = "TPROXY_TEST_HOLD";

/// A copy of this program, which holds connections until it is dropped.
struct Holder {
    child: Child,
    /// It says more.
    _output: BufReader<ChildStdout>,
}

impl Holder {
    /// It has begun to serve, or has all its connections.
    fn start(net: &Net, work: &str) -> Holder {
        let program = std::env::current_exe().expect("this program");
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &net.name]).arg(program);
        command.args(["--exact", "client_ports::a_copy_holds_connections", "--nocapture"]).env(WORK, work);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("spawn");
        let mut output = BufReader::new(child.stdout.take().expect("its output"));
        let ready = output.by_ref().lines().map_while(Result::ok).any(|line| line.contains("holds:"));
        assert!(ready, "{work}");
        Holder { child, _output: output }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

#[test]
fn a_copy_holds_connections() {
    let Ok(work) = std::env::var(WORK) else { return };
    let words: Vec<&str> = work.split(' ').collect();
    let address: SocketAddr = words[1].parse().expect("an address");
    let (_held, _server): (Vec<TcpStream>, _) = match words[0] {
        "serve" => (Vec::new(), Some(serve(address))),
        _ => {
            let count: usize = words[2].parse().expect("a number");
            ((0..count).map(|_| TcpStream::connect(address).expect("connect")).collect(), None)
        }
    };
    println!("\nholds: {work}");
    let _ = std::io::stdin().read(&mut [0]);
}

/// Others listen there as well.
fn serve(address: SocketAddr) -> std::thread::JoinHandle<()> {
    use nix::sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, sockopt,
    };
    let socket =
        nix::sys::socket::socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None).expect("socket");
    setsockopt(&socket, sockopt::ReusePort, &true).expect("SO_REUSEPORT");
    bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &SockaddrStorage::from(address)).expect("bind");
    listen(&socket, Backlog::MAXALLOWABLE).expect("listen");
    let listener = TcpListener::from(socket);
    std::thread::spawn(move || {
        let _held: Vec<TcpStream> = listener.incoming().map_while(Result::ok).collect();
    })
}

/// The range as it is by default, 28,232 ports, with TPROXY_MANY; a sixteenth of it without.
#[test]
fn a_client_can_use_every_port_and_the_next_connection_is_told_in_the_log() {
    let Some(scene) = Scene::new() else { return };
    let _alone = alone(&HEAVY);
    let (first, last) = (32768, if std::env::var("TPROXY_MANY").is_ok() { 60999 } else { 34531 });
    let count = usize::from(last - first + 1u16);
    for net in [&scene.lab.client, &scene.lab.gateway] {
        // Both rounds use the same ports.
        net.sysctl(&[&format!("net.ipv4.ip_local_port_range={first} {last}"), "net.ipv4.tcp_max_tw_buckets=0"]);
    }
    scene.lab.client.run(&["ip", "addr", "add", "10.1.0.9/24", "dev", "eth0"]);
    let _servers = [0; 3].map(|_| Holder::start(&scene.lab.cow, "serve 10.3.0.3:7"));
    for interception in ["redirect", "tproxy"] {
        let begin = ["-d", "-s", "12970", "-r", "nobody", "-w", "4", "--source", "client", "--intercept", interception];
        let mut daemon = scene.relay(&[&begin[..], &["-R", "-d moose --dport 7:8", "10.3.0.3", "7"]].concat());
        let begin = std::time::Instant::now();
        let held = [0; 2].map(|_| Holder::start(&scene.lab.client, &format!("connect 10.2.0.5:7 {}", count / 2)));
        wait::until_true("all ports", || scene.lab.cow.sockets_in("established") >= count);
        let seconds = begin.elapsed().as_secs_f64();
        // The client has its ports again towards another one.
        let connect = |from: &str| {
            let (from, to) = (from.parse().expect("address"), "10.2.0.5:8".parse().expect("address"));
            scene.lab.client.enter(|| connect_from(from, to))
        };
        clients::expect_connect_reset(connect("10.1.0.2"));
        daemon.journal.wait_for("out of local ports of 10.1.0.2 towards 10.3.0.3:7 for 10.1.0.2:");
        daemon.journal.wait_for("no resources: Cannot assign requested address");
        let _other = connect("10.1.0.9").expect("another client");
        wait::until_true("another client", || scene.lab.cow.sockets_in("established") > count);
        assert_eq!(daemon.journal.count("is down"), 0);
        report(&format!(
            "--source client, {interception}: {count} connections at once from one client in {seconds:.1} s"
        ));
        drop(held);
        assert_eq!(daemon.stop(), 0);
    }
}
