//! Loads: which clients there are, and what they do.

use std::fmt;
use std::str::FromStr;

use crate::protocol::{Direction, Request};

/// The object of a slow reader. It is larger than the buffers of one socket, so a relay has to hold a part of it, and
/// small enough for thousands of them in the memory of the machine.
const SLOW_OBJECT: usize = 256 * 1024;

/// The object of an idle client.
const IDLE_OBJECT: usize = 200;

/// Clients that do the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Each has an endless stream.
    Stream { direction: Direction, count: usize },
    /// Each fetches objects one after the other, over one kept-alive connection or over a new connection for each.
    Get { size: usize, count: usize, new: bool },
    /// Each fetches one object and keeps its connection open.
    Idle { count: usize },
    /// Each reads 4 KiB of its object in a second.
    Slow { count: usize },
}

impl Part {
    /// The number of clients, which is also the number of connections at a time.
    pub fn count(&self) -> usize {
        match *self {
            Part::Stream { count, .. } | Part::Get { count, .. } | Part::Idle { count } | Part::Slow { count } => count,
        }
    }

    pub fn request(&self) -> Request {
        match *self {
            Part::Stream { direction, .. } => Request::Stream(direction),
            Part::Get { size, new, .. } => Request::Object { size, close: new },
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
        self.parts.iter().any(|part| matches!(part, Part::Stream { .. }))
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
        self.parts.iter().any(|part| matches!(part, Part::Get { .. }))
    }
}

impl FromStr for Load {
    type Err = String;

    fn from_str(text: &str) -> Result<Load, String> {
        let parts: Option<Vec<Part>> = text.split('+').map(part).collect();
        parts.map(|parts| Load { parts }).ok_or_else(|| {
            format!("{text}: expected parts joined by +, of down:N up:N both:N get:SIZE:N new:SIZE:N idle:N slow:N")
        })
    }
}

fn part(text: &str) -> Option<Part> {
    let words: Vec<&str> = text.split(':').collect();
    let number = |at: usize| words.get(at).and_then(|word| word.parse::<usize>().ok());
    Some(match (words[0], words.len()) {
        ("get", 3) => Part::Get { size: number(1)?, count: number(2)?, new: false },
        ("new", 3) => Part::Get { size: number(1)?, count: number(2)?, new: true },
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
                Part::Idle { count } => write!(f, "idle:{count}")?,
                Part::Slow { count } => write!(f, "slow:{count}")?,
            }
        }
        Ok(())
    }
}
