//! What the clients and the origin send each other: HTTP as a browser and a web server speak it, and endless streams of
//! blocks that carry the time at which they were sent.

use std::io::{self, IoSlice, Write};
use std::sync::LazyLock;
use std::time::Instant;

/// Length of a block of a stream, and of one write. iperf3 writes as much at once.
pub const BLOCK: usize = 128 * 1024;

/// The origin is a web server on this port.
pub const WEB_PORT: u16 = 9000;

/// The origin is a SOCKS5 proxy on this port.
pub const SOCKS_PORT: u16 = 1080;

/// The origin is an HTTP proxy on this port.
pub const HTTP_PROXY_PORT: u16 = 3128;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Nanoseconds of the clock that the clients and the origin share.
pub fn now() -> u64 {
    START.elapsed().as_nanos() as u64
}

/// The direction of a stream, seen from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Down,
    Up,
    Both,
}

impl Direction {
    pub fn name(self) -> &'static str {
        match self {
            Direction::Down => "down",
            Direction::Up => "up",
            Direction::Both => "both",
        }
    }

    pub fn from_name(name: &str) -> Option<Direction> {
        [Direction::Down, Direction::Up, Direction::Both].into_iter().find(|direction| direction.name() == name)
    }

    pub fn client_reads(self) -> bool {
        self != Direction::Up
    }

    pub fn client_writes(self) -> bool {
        self != Direction::Down
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// An object of this size, and afterwards the end of the connection or the next request.
    Object { size: usize, close: bool },
    /// A stream that lasts as long as the connection.
    Stream(Direction),
}

impl Request {
    pub fn bytes(self) -> Vec<u8> {
        let (path, connection) = match self {
            Request::Object { size, close: true } => (format!("object/{size}"), "close"),
            Request::Object { size, close: false } => (format!("object/{size}"), "keep-alive"),
            Request::Stream(direction) => (format!("stream/{}", direction.name()), "close"),
        };
        let head = format!("GET /{path} HTTP/1.1\r\nHost: moose.example\r\nUser-Agent: contest\r\nAccept: */*\r\n");
        format!("{head}Connection: {connection}\r\n\r\n").into_bytes()
    }

    /// Parses a complete head, whose URI may be in absolute form.
    pub fn parse(head: &str) -> Option<Request> {
        let uri = head.split(' ').nth(1)?;
        let path = match uri.strip_prefix("http://") {
            Some(rest) => rest.split_once('/')?.1,
            None => uri.strip_prefix('/')?,
        };
        let close = || head.lines().any(|line| line.eq_ignore_ascii_case("connection: close"));
        match path.strip_prefix("object/") {
            Some(size) => Some(Request::Object { size: size.parse().ok()?, close: close() }),
            None => Some(Request::Stream(Direction::from_name(path.strip_prefix("stream/")?)?)),
        }
    }

    /// The head of the answer to a request for an object. It is written as HAProxy would write it, so that a proxy that
    /// rewrites it does not change its length.
    pub fn answer_head(size: usize, close: bool) -> Vec<u8> {
        let head = "HTTP/1.1 200 OK\r\nserver: contest\r\ncontent-type: application/octet-stream\r\n";
        let connection = if close { "connection: close\r\n" } else { "" };
        format!("{head}content-length: {size}\r\n{connection}\r\n").into_bytes()
    }
}

/// The length of the head at the beginning of some bytes; `None` while it is incomplete.
pub fn head_length(bytes: &[u8]) -> Option<usize> {
    Some(bytes.windows(4).position(|end| end == b"\r\n\r\n")? + 4)
}

/// One direction of a stream, at the sender or at the receiver. Each block begins with the time of its sending.
#[derive(Debug, Default)]
pub struct Blocks {
    at: usize,
    stamp: [u8; STAMP],
}

const STAMP: usize = size_of::<u64>();

impl Blocks {
    /// Writes the rest of the current block, or as much of it as the socket takes.
    pub fn write(&mut self, mut to: impl Write, filler: &[u8]) -> io::Result<usize> {
        if self.at == 0 {
            self.stamp = now().to_le_bytes();
        }
        let parts = [&self.stamp[self.at.min(STAMP)..], &filler[self.at.max(STAMP)..BLOCK]];
        let count = to.write_vectored(&parts.map(IoSlice::new))?;
        self.at = (self.at + count) % BLOCK;
        Ok(count)
    }

    /// Accounts for bytes that were read, and calls back with the nanoseconds that each block was in transit.
    pub fn read(&mut self, mut bytes: &[u8], mut arrived: impl FnMut(u64)) {
        while !bytes.is_empty() {
            let end = if self.at < STAMP { STAMP } else { BLOCK };
            let count = bytes.len().min(end - self.at);
            if self.at < STAMP {
                self.stamp[self.at..self.at + count].copy_from_slice(&bytes[..count]);
            }
            self.at += count;
            if self.at == STAMP {
                arrived(now().saturating_sub(u64::from_le_bytes(self.stamp)));
            }
            self.at %= BLOCK;
            bytes = &bytes[count..];
        }
    }
}
