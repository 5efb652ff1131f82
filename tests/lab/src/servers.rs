//! Servers in threads: what a relay's upstream may do to it.

use crate::pattern::{Cut, Pattern, Sum, sum_of};
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, SockaddrIn};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// A listening socket with threads behind it; gone when dropped.
pub struct Server {
    listener: Arc<TcpListener>,
    /// Where it listens.
    pub address: SocketAddr,
    acceptors: Vec<JoinHandle<()>>,
}

impl Server {
    /// Serves each connection in a thread of its own.
    pub fn threaded(at: &str, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Server {
        let serve = Arc::new(serve);
        Server::inline(at, 1, move |stream| {
            let serve = Arc::clone(&serve);
            std::thread::spawn(move || serve(stream));
        })
    }

    /// Serves connections in `threads` accepting threads; for many short ones.
    pub fn inline(at: &str, threads: usize, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Server {
        let listener = Arc::new(TcpListener::bind(at).unwrap_or_else(|error| panic!("listening on {at}: {error}")));
        let address = listener.local_addr().expect("address");
        let serve = Arc::new(serve);
        let acceptors = (0..threads)
            .map(|_| {
                let (listener, serve) = (Arc::clone(&listener), Arc::clone(&serve));
                std::thread::spawn(move || accept_all(&listener, &*serve))
            })
            .collect();
        Server { listener, address, acceptors }
    }

    /// Sends back what it gets, and its end.
    pub fn echo(at: &str) -> Server {
        Server::threaded(at, |stream| {
            let _ = stream.set_nodelay(true);
            let mut reader = &stream;
            let mut writer = &stream;
            let _ = io::copy(&mut reader, &mut writer);
            let _ = stream.shutdown(Shutdown::Write);
        })
    }

    /// Answers each request (up to an empty line) with a page that holds `text`, and closes.
    pub fn page(at: &str, text: &'static str) -> Server {
        Server::inline(at, 2, move |stream| {
            let _ = answer(&stream, text);
        })
    }

    /// Keeps connections open and never says a word.
    pub fn silent(at: &str) -> Server {
        let kept = Mutex::new(Vec::new());
        Server::inline(at, 1, move |stream| kept.lock().expect("kept").push(stream))
    }

    /// Hands the accepted connections to the test.
    pub fn handing_over(at: &str) -> (Server, Receiver<TcpStream>) {
        let (sender, receiver) = channel();
        let sender = Mutex::new(sender);
        let server = Server::inline(at, 1, move |stream| {
            let _ = stream.set_read_timeout(Some(crate::clients::IO_PATIENCE));
            let _ = stream.set_write_timeout(Some(crate::clients::IO_PATIENCE));
            let _ = stream.set_nodelay(true);
            let _ = sender.lock().expect("sender").send(stream);
        });
        (server, receiver)
    }

    /// Sends `pattern` while it reads to the end of the client's stream, whose sum it reports.
    pub fn exchange(at: &str, pattern: Pattern, cut: Cut) -> (Server, Receiver<io::Result<Sum>>) {
        let (sender, receiver) = channel();
        let sender: Mutex<Sender<_>> = Mutex::new(sender);
        let server = Server::threaded(at, move |stream| {
            let _ = stream.set_nodelay(true);
            let mut reader = stream.try_clone().expect("clone");
            let reading = std::thread::spawn(move || sum_of(&mut reader));
            let sent = pattern.send(&mut &stream, cut);
            let _ = stream.shutdown(Shutdown::Write);
            let got = reading.join().expect("reader");
            let _ = sender.lock().expect("sender").send(sent.and(got));
        });
        (server, receiver)
    }

    /// Reads to the end of the client's stream, and only then sends `pattern`.
    pub fn answer_after_end(at: &str, pattern: Pattern) -> (Server, Receiver<io::Result<Sum>>) {
        let (sender, receiver) = channel();
        let sender: Mutex<Sender<_>> = Mutex::new(sender);
        let server = Server::threaded(at, move |stream| {
            let got = sum_of(&mut &stream);
            let sent = pattern.send(&mut &stream, Cut::Bulk);
            let _ = stream.shutdown(Shutdown::Write);
            let _ = sender.lock().expect("sender").send(sent.and(got));
        });
        (server, receiver)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // On Linux shutting a listening socket down wakes everyone who waits in accept(2).
        let _ = socket::shutdown(self.listener.as_raw_fd(), socket::Shutdown::Both);
        for acceptor in self.acceptors.drain(..) {
            let _ = acceptor.join();
        }
    }
}

fn accept_all(listener: &TcpListener, serve: &(impl Fn(TcpStream) + ?Sized)) {
    loop {
        match listener.accept() {
            Ok((stream, _)) => serve(stream),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return,
            Err(error) if error.raw_os_error() == Some(libc::EMFILE) => {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            Err(_) => {}
        }
    }
}

fn answer(mut stream: &TcpStream, text: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(crate::clients::IO_PATIENCE))?;
    stream.set_nodelay(true)?;
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    while !request.ends_with(b"\r\n\r\n") {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        request.extend_from_slice(&buffer[..count]);
    }
    let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", text.len());
    stream.write_all(format!("{head}{text}").as_bytes())
}

/// A server that is too busy to accept: connections to it hang in SYN-SENT, until `accept` is called.
pub struct FullServer {
    listener: TcpListener,
    /// Where it listens.
    pub address: SocketAddr,
    _filler: Vec<TcpStream>,
}

impl FullServer {
    /// Fills a backlog on loopback.
    pub fn new() -> FullServer {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket: OwnedFd = socket::socket(AddressFamily::Inet, SockType::Stream, flags, None).expect("socket");
        socket::bind(socket.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).expect("bind");
        socket::listen(&socket, Backlog::new(0).expect("backlog")).expect("listen");
        let listener = TcpListener::from(socket);
        let address = listener.local_addr().expect("address");
        let patience = std::time::Duration::from_millis(200);
        // A backlog of 0 holds one connection; the next attempts prove that it is full.
        let filler = (0..4).filter_map(|_| TcpStream::connect_timeout(&address, patience).ok()).collect();
        FullServer { listener, address, _filler: filler }
    }

    /// Makes room for good: accepts the fillers and then whoever retries, and gives the first real client.
    pub fn accept_real(self) -> TcpStream {
        let ours: Vec<_> = self._filler.iter().map(|stream| stream.local_addr().expect("address")).collect();
        loop {
            let (stream, peer) = self.listener.accept().expect("accept");
            if !ours.contains(&peer) {
                let _ = stream.set_read_timeout(Some(crate::clients::IO_PATIENCE));
                return stream;
            }
        }
    }
}
