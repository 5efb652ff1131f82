//! What thousands of connections cost the daemon in memory, and that they cost it nothing more when they are gone and
//! others come.

use super::{HEAVY, Scene, Server};
use lab::attack::connect_from;
use lab::daemon::Daemon;
use lab::{alone, clients, process, raise_open_files, report, wait};
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Mutex;
use std::time::Duration;

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 0, 2));
const KIB: f64 = 1024.0;

/// The resident anonymous memory of all workers.
fn memory(daemon: &Daemon) -> f64 {
    daemon.family.named("tproxy-worker").into_iter().map(process::anonymous_memory).sum::<u64>() as f64
}

/// The descriptors that all workers have open, pipes not counted: streams come and go.
fn descriptors(daemon: &Daemon) -> usize {
    let workers = daemon.family.named("tproxy-worker").into_iter();
    let all = workers.flat_map(process::descriptors);
    all.filter(|target| !target.starts_with("pipe:")).count()
}

/// Comes twice with `count` connections of a kind; gives the memory before, with them, after them, with them again.
fn twice(scene: &Scene, daemon: &Daemon, to: SocketAddr, count: usize, begin: fn(&mut TcpStream)) -> [f64; 4] {
    let idle = process::at_rest(|| descriptors(daemon));
    let crowd = || {
        let one = || {
            let mut stream = connect_from(CLIENT, to).expect("connect");
            begin(&mut stream);
            stream
        };
        let all: Vec<TcpStream> = scene.lab.client.enter(|| (0..count).map(|_| one()).collect());
        let mut ticks = u64::MAX;
        wait::until_within(Duration::from_secs(60), "the workers have taken all and have no more to do", || {
            let workers = daemon.family.named("tproxy-worker");
            let before = std::mem::replace(&mut ticks, workers.into_iter().map(process::cpu_ticks).sum());
            std::thread::sleep(Duration::from_millis(100));
            (descriptors(daemon) == idle + 2 * count && before == ticks).then_some(())
        });
        let figure = memory(daemon);
        all.into_iter().for_each(clients::reset);
        wait::until_within(Duration::from_secs(60), "all are gone", || (descriptors(daemon) <= idle).then_some(()));
        figure
    };
    let before = memory(daemon);
    let first = crowd();
    let after = memory(daemon);
    [before, first, after, crowd()]
}

/// Asserts that `count` connections cost at most `each` bytes, and that as many who come later take what they left.
fn cost_at_most(name: &str, count: usize, each: f64, figures: [f64; 4]) {
    let [before, first, after, again] = figures;
    let [per_connection, then] = [first, again].map(|figure| (figure - before) / count as f64);
    report(&format!(
        "memory: workers' resident memory, {name}: {:.0} KiB before, {:.0} KiB with them ({per_connection:.0} bytes each), \
         {:.0} KiB after, {:.0} KiB with as many again",
        before / KIB,
        first / KIB,
        after / KIB,
        again / KIB
    ));
    assert!(per_connection <= each && then <= each, "{name}: {per_connection} bytes each, then {then}");
    assert!(after <= first + 128.0 * KIB, "{name}: more when they are gone");
}

/// A listening socket whose owner never accepts: connections to it are established, and cost nobody a descriptor.
pub(super) fn full_of_patience(at: SocketAddr) -> TcpListener {
    let socket = socket::socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("socket");
    socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(at)).expect("bind");
    socket::listen(&socket, Backlog::MAXALLOWABLE).expect("listen");
    TcpListener::from(socket)
}

pub(super) fn roomy(scene: &Scene) {
    raise_open_files();
    for net in [&scene.lab.client, &scene.lab.gateway, &scene.lab.moose] {
        net.sysctl(&["net.ipv4.ip_local_port_range=1024 65535", "net.ipv4.tcp_tw_reuse=1"]);
        net.sysctl(&["net.core.somaxconn=65535"]);
    }
}

#[test]
fn fifteen_thousand_idle_connections_at_two_workers() {
    const COUNT: usize = 15_000;
    let Some(scene) = Scene::new() else { return };
    let _alone = alone(&HEAVY);
    roomy(&scene);
    let to = SocketAddr::from(([10, 2, 0, 5], 9));
    let _listener = scene.lab.moose.enter(|| full_of_patience(to));
    let daemon =
        scene.relay(&["-d", "-l", "/dev/null", "-w", "2", "-s", "8081", "-r", "nobody", "-t", "-R", "--dport 9"]);
    let begin = |stream: &mut TcpStream| stream.write_all(b".").expect("write");
    let figures = twice(&scene, &daemon, to, COUNT, begin);
    // Each worker has a buffer and so on, and both together have room for more connections than there are.
    cost_at_most("15,000 idle connections, two workers", COUNT, 340.0, figures);
}

/// Takes connections, fills them with bytes until there is no room for more, and keeps the last `count` of them.
fn generous(at: &str, count: usize) -> Server {
    let kept = Mutex::new(VecDeque::with_capacity(count));
    Server::inline(at, 1, move |mut stream| {
        stream.set_nonblocking(true).expect("non-blocking");
        while stream.write(&[7; 65536]).is_ok() {}
        let mut kept = kept.lock().expect("kept");
        kept.truncate(count - 1);
        kept.push_front(stream);
    })
}

#[test]
fn five_thousand_readers_that_are_too_slow() {
    const COUNT: usize = 5_000;
    let Some(scene) = Scene::new() else { return };
    let _alone = alone(&HEAVY);
    roomy(&scene);
    let _server = scene.lab.moose.enter(|| generous("10.2.0.5:19", COUNT));
    let daemon = scene.relay(&["-d", "-l", "/dev/null", "-s", "8081", "-r", "nobody", "-t", "-R", "--dport 19"]);
    let begin = |stream: &mut TcpStream| stream.read_exact(&mut [0]).expect("read");
    let figures = twice(&scene, &daemon, SocketAddr::from(([10, 2, 0, 5], 19)), COUNT, begin);
    cost_at_most("5,000 slow readers with data waiting", COUNT, 17_000.0, figures);
}
