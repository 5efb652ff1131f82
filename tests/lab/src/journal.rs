//! What a daemon wrote, line by line, while it writes; and the line that ends a connection, taken apart.

use crate::wait;
use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The lines of one or more streams, collected by threads of their own so that nothing blocks on a full pipe.
#[derive(Clone, Default)]
pub struct Journal {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    lines: Vec<String>,
    readers: usize,
}

impl Journal {
    /// Collects a stream until its end.
    pub fn follow(&self, stream: impl Read + Send + 'static) {
        self.inner.lock().expect("journal").readers += 1;
        let inner = Arc::clone(&self.inner);
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stream);
            let mut raw = Vec::new();
            while reader.read_until(b'\n', &mut raw).is_ok_and(|count| count > 0) {
                let line = String::from_utf8_lossy(&raw).trim_end().to_string();
                inner.lock().expect("journal").lines.push(line);
                raw.clear();
            }
            inner.lock().expect("journal").readers -= 1;
        });
    }

    /// All lines so far.
    pub fn lines(&self) -> Vec<String> {
        self.inner.lock().expect("journal").lines.clone()
    }

    /// All lines so far, as text.
    pub fn text(&self) -> String {
        self.lines().join("\n")
    }

    /// Whether every stream has come to its end.
    pub fn ended(&self) -> bool {
        self.inner.lock().expect("journal").readers == 0
    }

    /// How many lines hold this text.
    pub fn count(&self, needle: &str) -> usize {
        self.lines().iter().filter(|line| line.contains(needle)).count()
    }

    /// Waits for a line that holds this text.
    pub fn wait_for(&self, needle: &str) -> String {
        self.wait_within(wait::PATIENCE, needle)
    }

    /// Waits for a line that holds this text, for as long as told.
    pub fn wait_within(&self, patience: Duration, needle: &str) -> String {
        let found = wait::try_until(patience, || self.lines().into_iter().find(|line| line.contains(needle)));
        found.unwrap_or_else(|| panic!("no line with {needle:?} in the log:\n{}", self.text()))
    }

    /// The end lines of connections so far.
    pub fn connections(&self) -> Vec<ConnectionLine> {
        self.lines().iter().filter_map(|line| ConnectionLine::parse(line)).collect()
    }

    /// Waits until this many connections have ended, and gives their lines.
    pub fn wait_connections(&self, count: usize) -> Vec<ConnectionLine> {
        let found = wait::try_until(wait::PATIENCE, || Some(self.connections()).filter(|all| all.len() >= count));
        found.unwrap_or_else(|| panic!("fewer than {count} connections in the log:\n{}", self.text()))
    }

    /// Waits for the end line of the connection that came from this address.
    pub fn wait_connection_of(&self, client: impl ToString) -> ConnectionLine {
        let client = client.to_string();
        let found = wait::try_until(wait::PATIENCE, || self.connections().into_iter().find(|c| c.client == client));
        found.unwrap_or_else(|| panic!("no line for the connection of {client} in the log:\n{}", self.text()))
    }
}

/// `#ID CLIENT ORIGINAL LOCAL UPSTREAM UP DOWN SECONDS ENDING`, with or without what stands before it.
#[derive(Clone, Debug, PartialEq)]
pub struct ConnectionLine {
    /// The connection's number: `WORKER-NUMBER`.
    pub id: String,
    /// The client's address and port.
    pub client: String,
    /// Where the client wanted to go, or `-`.
    pub original: String,
    /// Our own outgoing address and port, or `-`.
    pub local: String,
    /// Where we connected to, or `-`.
    pub upstream: String,
    /// Bytes from client to upstream.
    pub up: u64,
    /// Bytes from upstream to client.
    pub down: u64,
    /// How long it lived.
    pub seconds: f64,
    /// How it ended.
    pub ending: String,
    /// What stands before the line: a timestamp, or the process and its pid.
    pub before: String,
}

impl ConnectionLine {
    /// Takes a line apart; `None` if it is not the end line of a connection.
    pub fn parse(line: &str) -> Option<ConnectionLine> {
        let (before, rest) = line.split_once('#')?;
        let fields: Vec<&str> = rest.splitn(9, ' ').collect();
        let [id, client, original, local, upstream, up, down, seconds, ending] = fields[..] else { return None };
        let (worker, number) = id.split_once('-')?;
        let _: (u32, u64) = (worker.parse().ok()?, number.parse().ok()?);
        Some(ConnectionLine {
            id: id.to_string(),
            client: client.to_string(),
            original: original.to_string(),
            local: local.to_string(),
            upstream: upstream.to_string(),
            up: up.parse().ok()?,
            down: down.parse().ok()?,
            seconds: seconds.parse().ok()?,
            ending: ending.to_string(),
            before: before.trim_end().to_string(),
        })
    }
}
