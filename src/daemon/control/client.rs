//! A client of the control socket, or a scrape: its bytes in and out, and what it waits for.

use std::io::{self, ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};

use crate::control::command::LINE;
use crate::control::filter::ConnectionFilter;
use crate::control::http::SCRAPE_HEAD;
use crate::traffic::listing::{Condemned, ListedConnection};

/// Time for the first command, for the next one after `prompt`, for a reader to take something of an answer, and for the
/// guardian to answer.
const FIRST: Duration = Duration::from_secs(10);
const NEXT: Duration = Duration::from_secs(600);
const STALLED: Duration = Duration::from_secs(30);
const GUARDIAN: Duration = Duration::from_secs(300);

/// Bytes of an answer that wait for the client before more is asked for.
const ENOUGH: usize = 64 * 1024;

/// Bytes of events that may wait for a client.
const EVENTS: usize = 64 * 1024;

/// A connection to a client.
#[derive(Debug)]
pub(super) enum ClientStream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl ClientStream {
    /// Says a last word, if it can be said at once.
    pub(super) fn refuse(&mut self, sentence: &[u8]) {
        let _ = self.write(sentence);
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            ClientStream::Unix(stream) => stream.read(buffer),
            ClientStream::Tcp(stream) => stream.read(buffer),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            ClientStream::Unix(stream) => stream.write(bytes),
            ClientStream::Tcp(stream) => stream.write(bytes),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientKind {
    Control,
    Scrape,
}

/// What a client waits for.
#[derive(Debug)]
pub(super) enum ClientTask {
    /// Its next command.
    Nothing,
    /// A list of connections.
    List(Listing),
    /// Connections are reset.
    Kill { which: Condemned, walk: Walk, count: u64 },
    /// The guardian's answer.
    Guardian { number: u32, change: Option<AwaitedChange> },
    /// Events.
    Monitor { missed: u64 },
}

/// What a client waits for that the guardian does in its own time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AwaitedChange {
    Reload,
    Upgrade,
}

/// Pieces of a list.
#[derive(Debug)]
pub(super) struct Listing {
    pub filter: Box<ConnectionFilter>,
    pub walk: Walk,
    /// A connection has been listed.
    pub begun: bool,
}

/// A walk through the tables of workers.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// Those that are left; the last one is asked now.
    pub workers: Vec<u32>,
    /// The slot to go on with.
    pub next: u32,
    /// Since when an answer is awaited.
    pub asked: Option<Instant>,
}

/// What a worker has found.
#[derive(Debug)]
pub(super) enum WalkFound {
    Connections(Vec<ListedConnection>),
    Killed(u32),
}

/// A client.
#[derive(Debug)]
pub(super) struct ControlClient {
    pub number: u32,
    pub kind: ClientKind,
    pub is_administrator: bool,
    stream: ClientStream,
    can_read: bool,
    can_write: bool,
    /// It has closed its side for good.
    gone: bool,
    /// It sends no more.
    ended: bool,
    input: Vec<u8>,
    output: Vec<u8>,
    sent: usize,
    pub prompt: bool,
    pub json: bool,
    pub task: ClientTask,
    /// Its answer is the last one.
    pub closing: bool,
    due: Instant,
}

/// What a client has sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// Nothing whole yet.
    Nothing,
    Line(Vec<u8>),
    TooLong,
    /// It is gone, or has nothing more to say.
    End,
}

impl ControlClient {
    pub(super) fn new(stream: ClientStream, kind: ClientKind, is_administrator: bool) -> ControlClient {
        ControlClient {
            number: 0,
            kind,
            is_administrator,
            stream,
            can_read: true,
            can_write: true,
            gone: false,
            ended: false,
            input: Vec::new(),
            output: Vec::new(),
            sent: 0,
            prompt: false,
            json: false,
            task: ClientTask::Nothing,
            closing: false,
            due: Instant::now() + FIRST,
        }
    }

    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        match &mut self.stream {
            ClientStream::Unix(stream) => registry.register(stream, token, interest),
            ClientStream::Tcp(stream) => registry.register(stream, token, interest),
        }
    }

    /// Its socket has something to tell.
    pub(super) fn note(&mut self, event: &Event) {
        self.can_read |= event.is_readable() || event.is_read_closed();
        self.can_write |= event.is_writable();
        self.gone |= event.is_error() || event.is_write_closed();
    }

    /// It takes too long.
    pub(super) fn is_late(&self, now: Instant) -> bool {
        let waits = !matches!(self.task, ClientTask::Monitor { .. }) || self.has_output();
        self.due <= now && waits
    }

    pub(super) fn waits_for_worker(&self) -> bool {
        matches!(self.task, ClientTask::List(_) | ClientTask::Kill { .. })
    }

    /// It has not asked a worker yet of which others want something.
    pub(super) fn waits_to_ask(&self) -> bool {
        match &self.task {
            ClientTask::List(Listing { walk, .. }) | ClientTask::Kill { walk, .. } => walk.asked.is_none(),
            _ => false,
        }
    }

    /// The process ends soon: what the client waits for now is its last answer.
    pub(super) fn hurry(&mut self) {
        self.closing = true;
        if matches!(self.task, ClientTask::Monitor { .. }) {
            self.task = ClientTask::Nothing;
        }
    }

    pub(super) fn has_output(&self) -> bool {
        self.sent < self.output.len()
    }

    /// There is enough that waits for the client.
    pub(super) fn is_full(&self) -> bool {
        self.output.len() - self.sent >= ENOUGH
    }

    /// Bytes of an answer.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if !self.has_output() {
            self.due = Instant::now() + STALLED;
            self.output.clear();
            self.sent = 0;
        }
        self.output.extend_from_slice(bytes);
    }

    /// An event; it is dropped and counted if too many wait.
    pub(super) fn push_event(&mut self, line: &str, missed: impl Fn(u64, bool) -> String) {
        let waits = self.output.len() - self.sent;
        let json = self.json;
        let ClientTask::Monitor { missed: count } = &mut self.task else { return };
        if waits + line.len() > EVENTS {
            *count += 1;
            return;
        }
        let before = std::mem::take(count);
        if before > 0 {
            self.push(missed(before, json).as_bytes());
        }
        self.push(line.as_bytes());
    }

    /// Waits for the guardian.
    pub(super) fn await_guardian(&mut self, number: u32, change: Option<AwaitedChange>) {
        self.task = ClientTask::Guardian { number, change };
        self.due = Instant::now() + GUARDIAN;
    }

    /// Ends an answer.
    pub(super) fn end_answer(&mut self) {
        self.task = ClientTask::Nothing;
        if self.prompt {
            self.push(b"\n");
            self.due = Instant::now() + if self.has_output() { STALLED } else { NEXT };
        } else {
            self.closing = true;
        }
    }

    /// Gives the client what there is. Returns `false` when it takes nothing more now.
    ///
    /// Errors: it is gone.
    pub(super) fn flush(&mut self) -> Result<bool, ()> {
        if self.gone {
            return Err(());
        }
        while self.has_output() {
            if !self.can_write {
                return Ok(false);
            }
            match self.stream.write(&self.output[self.sent..]) {
                Ok(0) => return Err(()),
                Ok(count) => {
                    self.sent += count;
                    self.due = Instant::now() + if self.has_output() { STALLED } else { NEXT };
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.can_write = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(()),
            }
        }
        self.output.clear();
        self.sent = 0;
        Ok(true)
    }

    /// The next line.
    pub(super) fn line(&mut self) -> Input {
        loop {
            if let Some(end) = self.input.iter().position(|byte| *byte == b'\n') {
                if end > LINE {
                    return Input::TooLong;
                }
                let mut line: Vec<u8> = self.input.drain(..=end).collect();
                line.pop();
                line.pop_if(|byte| *byte == b'\r');
                return Input::Line(line);
            }
            if self.input.len() > LINE {
                return Input::TooLong;
            }
            match self.fill(LINE + 2) {
                Some(true) => {}
                Some(false) => return Input::Nothing,
                None if self.input.is_empty() => return Input::End,
                None => return Input::Line(std::mem::take(&mut self.input)),
            }
        }
    }

    /// The head of a request, as far as it has come. `None`: no more will come.
    pub(super) fn head(&mut self) -> Option<&[u8]> {
        while self.input.len() < SCRAPE_HEAD && !self.input.windows(4).any(|end| end == b"\r\n\r\n") {
            if !self.fill(SCRAPE_HEAD)? {
                break;
            }
        }
        Some(&self.input)
    }

    /// Reads more, up to so many bytes in all. `Some(false)`: nothing is there now; `None`: there will be nothing more.
    fn fill(&mut self, most: usize) -> Option<bool> {
        if self.ended {
            return None;
        }
        if !self.can_read {
            return Some(false);
        }
        let mut buffer = [0; 2048];
        let room = most.saturating_sub(self.input.len()).clamp(1, buffer.len());
        match self.stream.read(&mut buffer[..room]) {
            Ok(0) => {
                self.ended = true;
                None
            }
            Ok(count) => {
                self.input.extend_from_slice(&buffer[..count]);
                Some(true)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.can_read = false;
                Some(false)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Some(true),
            Err(_) => {
                self.ended = true;
                None
            }
        }
    }

    /// Throws away what a client sends that only listens, or that has had its last answer: a close with unread bytes would
    /// be a reset, and the answer be lost (unix_release_sock, net/unix/af_unix.c).
    pub(super) fn drop_input(&mut self) {
        self.input.clear();
        for _ in 0..64 {
            if self.fill(LINE) != Some(true) {
                return;
            }
            self.input.clear();
        }
    }
}
