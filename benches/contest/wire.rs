//! What the load and the origin say to each other: as much HTTP as a relay would see of a browser, and endless streams
//! of blocks that carry the time at which they were sent.

use std::io::{self, IoSlice, Write};
use std::sync::LazyLock;
use std::time::Instant;

/// Length of a block of a stream, and of one write; what iperf3 writes at once.
pub const BLOCK: usize = 128 * 1024;

/// Where the origin answers.
pub const WEB_PORT: u16 = 9000;

/// Where the origin is first asked to connect, as a SOCKS5 proxy is.
pub const SOCKS_PORT: u16 = 1080;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Nanoseconds of the clock that load and origin share.
pub fn now() -> u64 {
    START.elapsed().as_nanos() as u64
}

/// Which way a stream flows, seen from the client.
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

/// What a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// So many bytes, and then the end of the connection or the next request.
    Object { size: usize, close: bool },
    /// A stream for as long as the connection lasts.
    Stream(Direction),
}

impl Asked {
    pub fn request(self) -> Vec<u8> {
        let (path, end) = match self {
            Asked::Object { size, close } => (format!("object/{size}"), if close { "close" } else { "keep-alive" }),
            Asked::Stream(direction) => (format!("stream/{}", direction.name()), "close"),
        };
        let head = format!("GET /{path} HTTP/1.1\r\nHost: moose.example\r\nUser-Agent: contest\r\nAccept: */*\r\n");
        format!("{head}Connection: {end}\r\n\r\n").into_bytes()
    }

    /// The request at the beginning of what was heard, and its length; `None` while it is incomplete. The blocks of a
    /// stream may follow it at once.
    pub fn parse(heard: &[u8]) -> Option<(Asked, usize)> {
        let length = heard.windows(4).position(|bytes| bytes == b"\r\n\r\n")? + 4;
        let text = std::str::from_utf8(&heard[..length]).ok()?;
        let path = text.split(' ').nth(1)?;
        let asked = match path.strip_prefix("/object/") {
            Some(size) => Asked::Object { size: size.parse().ok()?, close: text.contains("Connection: close") },
            None => Asked::Stream(Direction::from_name(path.strip_prefix("/stream/")?)?),
        };
        Some((asked, length))
    }

    /// What comes before the bytes of an object.
    pub fn head(size: usize, close: bool) -> Vec<u8> {
        let end = if close { "close" } else { "keep-alive" };
        let head = "HTTP/1.1 200 OK\r\nServer: contest\r\nContent-Type: application/octet-stream\r\n";
        format!("{head}Content-Length: {size}\r\nConnection: {end}\r\n\r\n").into_bytes()
    }
}

/// One direction of a stream at either of its ends: blocks that begin with the time of their sending.
#[derive(Debug, Default)]
pub struct Blocks {
    at: usize,
    stamp: [u8; STAMP],
}

const STAMP: usize = size_of::<u64>();

impl Blocks {
    /// Writes the rest of the block, or as much of it as is taken.
    pub fn write(&mut self, mut to: impl Write, filler: &[u8]) -> io::Result<usize> {
        if self.at == 0 {
            self.stamp = now().to_le_bytes();
        }
        let parts = [&self.stamp[self.at.min(STAMP)..], &filler[self.at.max(STAMP)..BLOCK]];
        let count = to.write_vectored(&parts.map(IoSlice::new))?;
        self.at = (self.at + count) % BLOCK;
        Ok(count)
    }

    /// Takes in what was read, and tells for each block in it how long it was under way.
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
