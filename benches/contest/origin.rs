//! The server behind all contestants: one thread with one epoll loop, in the server's namespace. It answers with one
//! write if the socket takes it, and never sets TCP_CORK.

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use mio::net::{TcpListener, TcpStream};
use nix::sched::{CloneFlags, setns};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::contestant::Lab;
use crate::protocol::{BLOCK, Blocks, Direction, HTTP_PROXY_PORT, Request, SOCKS_PORT, WEB_PORT, head_length};
use crate::web_server::{self, WebServer};

/// What the rest of the program reads of the origin.
#[derive(Debug, Default)]
pub struct Origin {
    /// Bytes of streams received.
    pub received: AtomicU64,
    /// Open connections.
    pub connections: AtomicUsize,
    /// Whether delays are recorded.
    pub recording: AtomicBool,
    /// Microseconds that the blocks were in transit.
    delays: Mutex<Vec<u32>>,
    /// The web server that stands in for this one's, if one does.
    web_server: Option<WebServer>,
}

impl Origin {
    pub fn take_delays(&self) -> Vec<u32> {
        std::mem::take(&mut *self.delays.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The length of the head before an object.
    pub fn head_length(&self, request: Request) -> Result<usize, String> {
        match (&self.web_server, request) {
            (None, Request::Object { size, close }) => Ok(Request::answer_head(size, close).len()),
            _ => web_server::head_of(request),
        }
    }

    fn record(&self, delay: u64) {
        if self.recording.load(Ordering::Relaxed) {
            self.delays.lock().unwrap_or_else(PoisonError::into_inner).push((delay / 1000) as u32);
        }
    }
}

/// Starts the origin in the server's namespace. It runs as long as this process. With a web server, which runs already,
/// it is only the proxies.
pub fn start(lab: &Lab, web_server: Option<WebServer>) -> io::Result<Arc<Origin>> {
    let services = if web_server.is_some() { &SERVICES[1..] } else { &SERVICES };
    let origin = Arc::new(Origin { web_server, ..Origin::default() });
    let netns = File::open(Path::new("/run/netns").join(&lab.server))?;
    let mut server = Server {
        origin: Arc::clone(&origin),
        epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
        connections: Vec::new(),
        free: Vec::new(),
        filler: vec![b'x'; FILLER].into_boxed_slice(),
        buffer: vec![0; BLOCK].into_boxed_slice(),
        services,
    };
    let (ready, started) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let entered = setns(&netns, CloneFlags::CLONE_NEWNET).map_err(io::Error::from);
        match entered.and_then(|()| server.listen()) {
            Ok(listeners) => {
                let _ = ready.send(Ok(()));
                server.serve(&listeners)
            }
            Err(error) => ready.send(Err(error)).unwrap_or(()),
        }
    });
    started.recv().unwrap_or_else(|_| Err(io::Error::other("its thread ended"))).map(|()| origin)
}

/// Bytes in memory for one write of an object.
const FILLER: usize = 1024 * 1024;

/// Event data from here on is a listener's number; smaller data is a connection's slot.
const LISTENERS: u64 = 1 << 32;

struct Server {
    origin: Arc<Origin>,
    epoll: Epoll,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    filler: Box<[u8]>,
    buffer: Box<[u8]>,
    services: &'static [(u16, Service)],
}

struct Connection {
    stream: TcpStream,
    /// What has been received of an incomplete request.
    input: Vec<u8>,
    service: Service,
    state: State,
    sent_blocks: Blocks,
    received_blocks: Blocks,
}

/// What the origin is to a connection. A SOCKS5 proxy is a web server once it has answered the greeting and the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Service {
    Web,
    SocksGreeting,
    SocksRequest,
    HttpProxy,
}

static SERVICES: [(u16, Service); 3] =
    [(WEB_PORT, Service::Web), (SOCKS_PORT, Service::SocksGreeting), (HTTP_PROXY_PORT, Service::HttpProxy)];

enum State {
    Reading,
    Answering { head: Vec<u8>, size: usize, sent: usize, close: bool },
    Streaming(Direction),
}

/// Whether a connection goes on.
#[derive(PartialEq, Eq)]
enum Next {
    Keep,
    Close,
}

impl Server {
    fn listen(&mut self) -> io::Result<Vec<TcpListener>> {
        let mut listeners = Vec::new();
        for (number, (port, _)) in self.services.iter().enumerate() {
            let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, *port)))?;
            self.epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENERS + number as u64))?;
            listeners.push(listener);
        }
        Ok(listeners)
    }

    fn serve(&mut self, listeners: &[TcpListener]) {
        let mut events = [EpollEvent::empty(); 512];
        loop {
            let count = self.epoll.wait(&mut events, EpollTimeout::NONE).unwrap_or(0);
            for event in &events[..count] {
                match event.data().checked_sub(LISTENERS) {
                    Some(number) => self.accept(&listeners[number as usize], self.services[number as usize].1),
                    None => self.handle(event.data() as usize, event.events()),
                }
            }
        }
    }

    fn accept(&mut self, listener: &TcpListener, service: Service) {
        while let Ok((stream, _)) = listener.accept() {
            let _ = stream.set_nodelay(true);
            let slot = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
            if self.epoll.add(&stream, EpollEvent::new(flags, slot as u64)).is_err() {
                self.free.push(slot);
                continue;
            }
            self.connections[slot] = Some(Connection {
                stream,
                input: Vec::new(),
                service,
                state: State::Reading,
                sent_blocks: Blocks::default(),
                received_blocks: Blocks::default(),
            });
            self.origin.connections.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn handle(&mut self, slot: usize, flags: EpollFlags) {
        let Some(mut connection) = self.connections[slot].take() else { return };
        let next = match connection.state {
            State::Streaming(direction) => self.stream(&mut connection, direction, flags),
            // The edge of a request that arrived during the answer has passed, so it is read after the answer.
            State::Answering { .. } => {
                self.answer(&mut connection).and_then(|next| self.read_again(&mut connection, slot, next))
            }
            // One edge announces a request and the end behind it.
            State::Reading if flags.contains(EpollFlags::EPOLLRDHUP) => {
                self.read(&mut connection, slot).and_then(|next| self.read_again(&mut connection, slot, next))
            }
            State::Reading => self.read(&mut connection, slot),
        };
        match next {
            Ok(Next::Keep) => self.connections[slot] = Some(connection),
            Ok(Next::Close) | Err(_) => {
                self.free.push(slot);
                self.origin.connections.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Reads until a request is complete or the socket is empty.
    fn read(&mut self, connection: &mut Connection, slot: usize) -> io::Result<Next> {
        loop {
            let count = match unless_blocked(connection.stream.read(&mut self.buffer))? {
                None => return Ok(Next::Keep),
                Some(0) => return Ok(Next::Close),
                Some(count) => count,
            };
            connection.input.extend_from_slice(&self.buffer[..count]);
            let Some(request) = connection.next_request()? else { continue };
            match request {
                Request::Object { size, close } => {
                    let head = Request::answer_head(size, close);
                    connection.state = State::Answering { head, size, sent: 0, close };
                    return self.answer(connection);
                }
                Request::Stream(direction) => {
                    connection.state = State::Streaming(direction);
                    // Level-triggered from now on: every stream moves one block in each turn of the loop.
                    let flags = stream_events(direction.client_writes(), direction.client_reads());
                    self.epoll.modify(&connection.stream, &mut EpollEvent::new(flags, slot as u64))?;
                    return Ok(Next::Keep);
                }
            }
        }
    }

    fn read_again(&mut self, connection: &mut Connection, slot: usize, next: Next) -> io::Result<Next> {
        let reading = next == Next::Keep && matches!(connection.state, State::Reading);
        if reading { self.read(connection, slot) } else { Ok(next) }
    }

    /// Sends the rest of an answer, as far as the socket takes it.
    fn answer(&mut self, connection: &mut Connection) -> io::Result<Next> {
        let State::Answering { head, size, sent, close } = &mut connection.state else { return Ok(Next::Keep) };
        while *sent < head.len() + *size {
            match unless_blocked(self.send(&mut connection.stream, head, *size, *sent))? {
                Some(count) => *sent += count,
                None => return Ok(Next::Keep),
            }
        }
        if *close {
            return Ok(Next::Close);
        }
        connection.state = State::Reading;
        Ok(Next::Keep)
    }

    fn send(&self, stream: &mut TcpStream, head: &[u8], size: usize, sent: usize) -> io::Result<usize> {
        let rest = (head.len() + size - sent.max(head.len())).min(FILLER);
        stream.write_vectored(&[&head[sent.min(head.len())..], &self.filler[..rest]].map(IoSlice::new))
    }

    /// Moves at most one block each way.
    fn stream(&mut self, connection: &mut Connection, direction: Direction, flags: EpollFlags) -> io::Result<Next> {
        if flags.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP | EpollFlags::EPOLLRDHUP) {
            return Ok(Next::Close);
        }
        if direction.client_reads() && flags.contains(EpollFlags::EPOLLOUT) {
            unless_blocked(connection.sent_blocks.write(&mut connection.stream, &self.filler))?;
        }
        if flags.contains(EpollFlags::EPOLLIN) {
            let Some(count) = unless_blocked(connection.stream.read(&mut self.buffer))? else { return Ok(Next::Keep) };
            if count == 0 {
                return Ok(Next::Close);
            }
            self.origin.received.fetch_add(count as u64, Ordering::Relaxed);
            connection.received_blocks.read(&self.buffer[..count], |delay| self.origin.record(delay));
        }
        Ok(Next::Keep)
    }
}

impl Connection {
    /// Takes a complete request from the input, after it has answered what comes before with a proxy.
    fn next_request(&mut self) -> io::Result<Option<Request>> {
        loop {
            let length = match self.service {
                // The number of methods, and the methods, RFC 1928.
                Service::SocksGreeting => self.input.get(1).map(|methods| 2 + usize::from(*methods)),
                // A request with an IPv4 address.
                Service::SocksRequest => Some(10),
                Service::Web | Service::HttpProxy => head_length(&self.input),
            };
            let Some(length) = length.filter(|length| self.input.len() >= *length) else { return Ok(None) };
            let unit = &self.input[..length];
            let (service, answer): (_, &[u8]) = match self.service {
                Service::SocksGreeting => (Service::SocksRequest, &[5, 0]),
                Service::SocksRequest => (Service::Web, &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]),
                Service::HttpProxy if unit.starts_with(b"CONNECT ") => (Service::Web, b"HTTP/1.1 200 OK\r\n\r\n"),
                Service::HttpProxy if !unit.starts_with(b"GET http://") => {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                Service::Web | Service::HttpProxy => {
                    let request = std::str::from_utf8(unit).ok().and_then(Request::parse);
                    // The blocks of a stream can follow its request at once.
                    self.received_blocks.read(&self.input[length..], |_| ());
                    self.input.clear();
                    return request.map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into());
                }
            };
            self.input.drain(..length);
            self.service = service;
            self.stream.write_all(answer)?;
        }
    }
}

/// The events of a stream. A side that does not read needs EPOLLRDHUP to learn of the end.
fn stream_events(read: bool, write: bool) -> EpollFlags {
    let reading = if read { EpollFlags::EPOLLIN } else { EpollFlags::EPOLLRDHUP };
    if write { reading | EpollFlags::EPOLLOUT } else { reading }
}

/// `None` stands for "would block".
pub fn unless_blocked(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        other => other.map(Some),
    }
}

const _: () = assert!(FILLER >= BLOCK);
