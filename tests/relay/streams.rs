//! Streams without end are looked at apart from all that may wait for an answer.

use super::*;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;

/// More than what makes a stream one without end.
const MUCH: usize = 8 << 20;

/// How many sockets are in the smaller of a process's two epoll sets (proc(5), fdinfo).
fn apart(pid: i32) -> usize {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors").flatten();
    let is_epoll = |entry: &std::fs::DirEntry| {
        std::fs::read_link(entry.path()).is_ok_and(|target| target.ends_with("anon_inode:[eventpoll]"))
    };
    let sets = descriptors.filter(is_epoll).map(|entry| {
        let info = format!("/proc/{pid}/fdinfo/{}", entry.file_name().display());
        std::fs::read_to_string(info).expect("information").matches("tfd:").count()
    });
    sets.min().expect("an epoll set")
}

/// A relay to a server whose connections are handed over.
struct Way {
    relay: LoopbackRelay,
    accepted: Receiver<TcpStream>,
    _server: Server,
}

impl Way {
    fn new() -> Way {
        let (server, accepted) = Server::handing_over(LOCAL);
        Way { relay: LoopbackRelay::start("", server.address), accepted, _server: server }
    }

    /// The two ends of a connection through it, the client's first.
    fn connect(&self) -> (TcpStream, TcpStream) {
        let client = self.relay.connect();
        (client, self.accepted.recv_timeout(clients::IO_PATIENCE).expect("accepted"))
    }
}

fn carry(from: &mut TcpStream, to: &mut TcpStream, bytes: usize) {
    std::thread::scope(|scope| {
        scope.spawn(|| from.write_all(&vec![7; bytes]).expect("write"));
        to.read_exact(&mut vec![0; bytes]).expect("read");
    });
}

#[test]
fn a_stream_stands_apart_until_the_other_side_says_something() {
    let way = Way::new();
    let (mut client, mut upstream) = way.connect();
    let pid = way.relay.daemon.relaying_pid();
    carry(&mut client, &mut upstream, 1 << 20);
    assert_eq!(apart(pid), 0, "an object is no stream");
    carry(&mut upstream, &mut client, MUCH);
    assert_eq!(apart(pid), 2, "a stream down");
    carry(&mut client, &mut upstream, 100);
    wait::until_true("a question brings it back", || apart(pid) == 0);
    carry(&mut client, &mut upstream, MUCH);
    assert_eq!(apart(pid), 2, "a stream up");
    drop((client, upstream));
    way.relay.daemon.journal.wait_connections(1);
    assert_eq!(apart(pid), 0);
}

/// While a stream has something to move all the time.
#[test]
fn requests_are_answered_beside_a_stream() {
    let way = Way::new();
    let (mut client, mut upstream) = way.connect();
    let (mut asker, mut answerer) = way.connect();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let block = vec![7; 256 << 10];
            while !stop.load(Ordering::Relaxed) {
                upstream.write_all(&block).expect("write");
            }
            upstream.shutdown(Shutdown::Write).expect("shutdown");
        });
        let end = AtEnd(&stop);
        let reading = scope.spawn(|| std::io::copy(&mut client, &mut std::io::sink()).expect("read"));
        let pid = way.relay.daemon.relaying_pid();
        let stands_apart = wait::try_until(clients::IO_PATIENCE, || (apart(pid) == 2).then_some(()));
        let mut round_trips: Vec<Duration> = (0..200)
            .map(|_| {
                let begin = Instant::now();
                carry(&mut asker, &mut answerer, 100);
                carry(&mut answerer, &mut asker, 200);
                begin.elapsed()
            })
            .collect();
        drop(end);
        assert!(reading.join().expect("reader") > MUCH as u64 / 2);
        assert!(stands_apart.is_some());
        round_trips.sort_unstable();
        let (median, longest) = (round_trips[100], round_trips[199]);
        report(&format!("beside a stream: median {median:?}, longest {longest:?}"));
        assert!(median < Duration::from_millis(20) && longest < Duration::from_secs(1), "{median:?}, {longest:?}");
    });
}
