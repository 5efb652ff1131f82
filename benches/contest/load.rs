//! Loads: which clients there are, and what they do.

use std::fmt;
use std::str::FromStr;

use crate::protocol::{Direction, Request};

/// The object of a slow reader. It is larger than the buffers of one socket, so a relay has to hold a part of it, and
/// small enough for thousands of them in the memory of the machine.
const SLOW_OBJECT: usize = 256 * 1024;

/// The object of a bulk client. It is a stream for the relay, and the origin has it in its page cache.
const BULK_OBJECT: usize = 256 * 1024 * 1024;

/// The object of an idle client.
const IDLE_OBJECT: usize = 200;

/// Clients that do the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Each has an endless stream.
    Stream { direction: Direction, count: usize },
    /// Each fetches objects one after the other, over one kept-alive connection or over a new connection for each.
    Get { size: usize, count: usize, new: bool },
    /// Each fetches objects of 256 MiB. The bytes count, as of a stream, but any web server can send them.
    Bulk { count: usize },
    /// Each fetches one object and keeps its connection open.
    Idle { count: usize },
    /// Each reads 4 KiB of its object in a second.
    Slow { count: usize },
    /// The same as `Get` over kept-alive connections, by wrk(1) instead of our own clients.
    Wrk { size: usize, count: usize },
}

impl Part {
    /// The number of clients, which is also the number of connections at a time.
    pub fn count(&self) -> usize {
        match *self {
            Part::Stream { count, .. }
            | Part::Get { count, .. }
            | Part::Bulk { count }
            | Part::Idle { count }
            | Part::Slow { count }
            | Part::Wrk { count, .. } => count,
        }
    }

    pub fn request(&self) -> Request {
        match *self {
            Part::Stream { direction, .. } => Request::Stream(direction),
            Part::Get { size, new, .. } => Request::Object { size, close: new },
            Part::Wrk { size, .. } => Request::Object { size, close: false },
            Part::Bulk { .. } => Request::Object { size: BULK_OBJECT, close: false },
            Part::Idle { .. } => Request::Object { size: IDLE_OBJECT, close: false },
            Part::Slow { .. } => Request::Object { size: SLOW_OBJECT, close: false },
        }
    }
}

/// All clients of one turn. Its text is, for example, `get:65536:64+idle:5000`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    pub parts: Vec<Part>,
}

impl Load {
    /// The number of connections at a time.
    pub fn connections(&self) -> usize {
        self.parts.iter().map(Part::count).sum()
    }

    pub fn has_streams(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Stream { .. } | Part::Bulk { .. }))
    }

    pub fn has_slow_readers(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Slow { .. }))
    }

    /// Whether clients open a connection for each object.
    pub fn has_new_connections(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Get { new: true, .. }))
    }

    /// Whether the load has requests that are counted and timed.
    pub fn has_requests(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Get { .. } | Part::Wrk { .. }))
    }

    /// The sizes of all objects in it.
    pub fn sizes(&self) -> impl Iterator<Item = usize> {
        self.parts.iter().filter_map(|part| match part.request() {
            Request::Object { size, .. } => Some(size),
            Request::Stream(_) => None,
        })
    }
}

impl FromStr for Load {
    type Err = String;

    fn from_str(text: &str) -> Result<Load, String> {
        let parts: Option<Vec<Part>> = text.split('+').map(part).collect();
        parts.map(|parts| Load { parts }).ok_or_else(|| {
            format!("{text}: expected parts joined by +, of down:N up:N both:N get:SIZE:N new:SIZE:N bulk:N idle:N slow:N wrk:SIZE:N")
        })
    }
}

fn part(text: &str) -> Option<Part> {
    let words: Vec<&str> = text.split(':').collect();
    let number = |at: usize| words.get(at).and_then(|word| word.parse::<usize>().ok());
    Some(match (words[0], words.len()) {
        ("get", 3) => Part::Get { size: number(1)?, count: number(2)?, new: false },
        ("new", 3) => Part::Get { size: number(1)?, count: number(2)?, new: true },
        ("wrk", 3) => Part::Wrk { size: number(1)?, count: number(2)? },
        ("bulk", 2) => Part::Bulk { count: number(1)? },
        ("idle", 2) => Part::Idle { count: number(1)? },
        ("slow", 2) => Part::Slow { count: number(1)? },
        (name, 2) => Part::Stream { direction: Direction::from_name(name)?, count: number(1)? },
        _ => return None,
    })
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, part) in self.parts.iter().enumerate() {
            f.write_str(if number > 0 { "+" } else { "" })?;
            match part {
                Part::Stream { direction, count } => write!(f, "{}:{count}", direction.name())?,
                Part::Get { size, count, new } => {
                    write!(f, "{}:{size}:{count}", if *new { "new" } else { "get" })?;
                }
                Part::Bulk { count } => write!(f, "bulk:{count}")?,
                Part::Idle { count } => write!(f, "idle:{count}")?,
                Part::Slow { count } => write!(f, "slow:{count}")?,
                Part::Wrk { size, count } => write!(f, "wrk:{size}:{count}")?,
            }
        }
        Ok(())
    }
}
