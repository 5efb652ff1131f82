//! The clients: one thread with one epoll loop for all parts of a load.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::load::{Load, Part};
use crate::origin::{Origin, unless_blocked};
use crate::protocol::{BLOCK, Blocks, Direction, Request, now};
use crate::wrk;

/// Reads the state of the contestant at the beginning and at the end of the time that counts.
pub trait Probe {
    fn begin(&mut self) -> Result<(), String>;
    fn end(&mut self) -> Result<(), String>;
}

/// What the clients counted in a turn.
#[derive(Debug, Default)]
pub struct Counts {
    pub seconds: f64,
    /// Bytes of streams, received on both sides.
    pub streamed: u64,
    /// Complete answers.
    pub answers: u64,
    /// Connections that broke, and requests without an answer for more than a second.
    pub failures: u64,
    pub first_failure: Option<String>,
    /// Microseconds from a request (or from connect) to the end of its answer.
    pub response_times: Vec<u32>,
    /// Microseconds that the blocks of streams were in transit.
    pub delays: Vec<u32>,
}

/// The load runs for this long before anything is counted, so that windows are open and buffers are full.
pub const WARM_UP: Duration = Duration::from_millis(400);

/// Every client must have had its first answer within this time.
const SET_UP: Duration = Duration::from_secs(30);

/// Connections that are opened at a time. More would measure the listener's backlog.
const OPENING: usize = 64;

/// Nanoseconds after which an answer counts as lost.
const LOST: u64 = 1_000_000_000;

/// Bytes that a slow reader reads at a time, and the time between two reads.
const SLOW_READ: usize = 4096;
const SLOW_READ_EVERY: Duration = Duration::from_secs(1);

/// Runs a load against an address, from the namespace of this thread.
pub fn run(
    load: &Load,
    to: SocketAddr,
    window: Duration,
    origin: &Origin,
    probe: &mut dyn Probe,
) -> Result<Counts, String> {
    if let [Part::Wrk { size, count }] = load.parts[..] {
        return wrk::run(size, count, to, window, probe);
    }
    let mut clients = Clients::new(load, to, origin)?;
    clients.connect_all()?;
    clients.run_for(WARM_UP)?;
    clients.counts = Counts::default();
    origin.take_delays();
    let received = origin.received.load(Ordering::Relaxed);
    origin.recording.store(true, Ordering::Relaxed);
    probe.begin()?;
    let start = Instant::now();
    clients.run_for(window)?;
    clients.counts.seconds = start.elapsed().as_secs_f64();
    clients.counts.streamed += origin.received.load(Ordering::Relaxed) - received;
    probe.end()?;
    origin.recording.store(false, Ordering::Relaxed);
    clients.counts.delays.extend(origin.take_delays());
    clients.count_lost();
    Ok(clients.counts)
}

struct Clients {
    epoll: Epoll,
    to: SocketAddr,
    kinds: Vec<Kind>,
    clients: Vec<Client>,
    unopened: VecDeque<usize>,
    opening: usize,
    /// Clients that have had their first answer.
    ready: usize,
    slow: Vec<usize>,
    next_slow_read: usize,
    slow_since: Instant,
    buffer: Box<[u8]>,
    counts: Counts,
}

/// What all clients of a part share.
struct Kind {
    part: Part,
    request: Vec<u8>,
    /// Length of the answer.
    answer: usize,
}

struct Client {
    kind: usize,
    stream: Option<TcpStream>,
    connected: bool,
    /// Whether it has had its first answer.
    ready: bool,
    /// When the current request began.
    since: u64,
    /// Bytes of the current answer that are missing.
    missing: usize,
    received_blocks: Blocks,
    sent_blocks: Blocks,
}

impl Clients {
    fn new(load: &Load, to: SocketAddr, origin: &Origin) -> Result<Clients, String> {
        let kind = |part: &Part| {
            let request = part.request();
            let answer = match request {
                Request::Object { size, .. } => origin.head_length(request)? + size,
                Request::Stream(_) => usize::MAX,
            };
            Ok(Kind { part: *part, request: request.bytes(), answer })
        };
        let numbers = load.parts.iter().enumerate().flat_map(|(kind, part)| std::iter::repeat_n(kind, part.count()));
        let client = |kind| Client {
            kind,
            stream: None,
            connected: false,
            ready: false,
            since: 0,
            missing: 0,
            received_blocks: Blocks::default(),
            sent_blocks: Blocks::default(),
        };
        let clients: Vec<Client> = numbers.map(client).collect();
        Ok(Clients {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(|error| format!("epoll: {error}"))?,
            to,
            kinds: load.parts.iter().map(kind).collect::<Result<_, String>>()?,
            unopened: (0..clients.len()).collect(),
            clients,
            opening: 0,
            ready: 0,
            slow: Vec::new(),
            next_slow_read: 0,
            slow_since: Instant::now(),
            buffer: vec![0; 2 * BLOCK].into_boxed_slice(),
            counts: Counts::default(),
        })
    }

    fn connect_all(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + SET_UP;
        while self.ready < self.clients.len() {
            while self.opening < OPENING
                && let Some(number) = self.unopened.pop_front()
            {
                self.opening += 1;
                self.open(number)?;
            }
            self.handle_events()?;
            if let Some(first_failure) = self.counts.first_failure.take() {
                return Err(first_failure);
            }
            if Instant::now() > deadline {
                return Err(format!("only {} of {} connections had an answer", self.ready, self.clients.len()));
            }
        }
        self.slow_since = Instant::now();
        self.next_slow_read = 0;
        Ok(())
    }

    fn run_for(&mut self, span: Duration) -> Result<(), String> {
        let end = Instant::now() + span;
        while Instant::now() < end {
            self.handle_events()?;
            self.read_slowly();
        }
        Ok(())
    }

    fn handle_events(&mut self) -> Result<(), String> {
        let mut events = [EpollEvent::empty(); 512];
        let timeout = EpollTimeout::from(5u8);
        let count = match self.epoll.wait(&mut events, timeout) {
            Ok(count) => count,
            Err(nix::errno::Errno::EINTR) => 0,
            Err(error) => return Err(format!("epoll: {error}")),
        };
        for event in &events[..count] {
            let number = event.data() as usize;
            if let Err(error) = self.handle(number, event.events()) {
                self.fail(number, &error)?;
            }
        }
        Ok(())
    }

    fn open(&mut self, number: usize) -> Result<(), String> {
        let flags = match self.kinds[self.clients[number].kind].part {
            Part::Stream { .. } | Part::Bulk { .. } => EpollFlags::EPOLLOUT,
            _ => EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET,
        };
        let client = &mut self.clients[number];
        client.since = now();
        client.connected = false;
        let open = || {
            let stream = TcpStream::connect(self.to)?;
            stream.set_nodelay(true)?;
            self.epoll.add(&stream, EpollEvent::new(flags, number as u64))?;
            Ok::<_, io::Error>(stream)
        };
        client.stream = Some(open().map_err(|error| format!("connect: {error}"))?);
        Ok(())
    }

    /// Counts a connection that broke, and opens another.
    fn fail(&mut self, number: usize, error: &io::Error) -> Result<(), String> {
        self.counts.failures += 1;
        self.counts.first_failure.get_or_insert_with(|| error.to_string());
        self.clients[number].stream = None;
        self.open(number)
    }

    fn handle(&mut self, number: usize, flags: EpollFlags) -> io::Result<()> {
        let client = &mut self.clients[number];
        let Some(stream) = &mut client.stream else { return Ok(()) };
        let kind = &self.kinds[client.kind];
        if !client.connected {
            if let Some(error) = stream.take_error()? {
                return Err(error);
            }
            if !flags.contains(EpollFlags::EPOLLOUT) {
                return Ok(());
            }
            client.connected = true;
            client.missing = kind.answer;
            client.received_blocks = Blocks::default();
            client.sent_blocks = Blocks::default();
            stream.write_all(&kind.request)?;
            let wanted = match kind.part {
                Part::Stream { direction: Direction::Down, .. } | Part::Bulk { .. } => EpollFlags::EPOLLIN,
                Part::Stream { direction: Direction::Up, .. } => EpollFlags::EPOLLOUT,
                Part::Stream { direction: Direction::Both, .. } => EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT,
                _ => return Ok(()),
            };
            self.epoll.modify(&*stream, &mut EpollEvent::new(wanted, number as u64))?;
            return Ok(());
        }
        match kind.part {
            Part::Stream { direction, .. } => self.stream(number, direction, flags),
            Part::Bulk { .. } => self.read_bulk(number),
            Part::Get { .. } | Part::Idle { .. } | Part::Wrk { .. } => self.read_answer(number),
            Part::Slow { .. } => self.start_slow(number),
        }
    }

    /// Moves at most one block each way, because the other streams wait.
    fn stream(&mut self, number: usize, direction: Direction, flags: EpollFlags) -> io::Result<()> {
        let client = &mut self.clients[number];
        let Some(stream) = &mut client.stream else { return Ok(()) };
        if flags.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP) {
            return Err(stream.take_error()?.unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into()));
        }
        let mut moved = 0;
        if flags.contains(EpollFlags::EPOLLIN)
            && let Some(count) = unless_blocked(stream.read(&mut self.buffer[..BLOCK]))?
        {
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let delays = &mut self.counts.delays;
            client.received_blocks.read(&self.buffer[..count], |delay| delays.push((delay / 1000) as u32));
            self.counts.streamed += count as u64;
            moved += count;
        }
        if direction.client_writes() && flags.contains(EpollFlags::EPOLLOUT) {
            moved += unless_blocked(client.sent_blocks.write(&mut *stream, &self.buffer))?.unwrap_or(0);
        }
        if moved > 0 {
            self.mark_ready(number);
        }
        Ok(())
    }

    /// Reads at most one block, because the other clients wait.
    fn read_bulk(&mut self, number: usize) -> io::Result<()> {
        let client = &mut self.clients[number];
        let Some(stream) = &mut client.stream else { return Ok(()) };
        let most = client.missing.min(BLOCK);
        let Some(count) = unless_blocked(stream.read(&mut self.buffer[..most]))? else { return Ok(()) };
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        client.missing -= count;
        self.counts.streamed += count as u64;
        if client.missing == 0 {
            let kind = &self.kinds[client.kind];
            client.missing = kind.answer;
            stream.write_all(&kind.request)?;
        }
        self.mark_ready(number);
        Ok(())
    }

    fn read_answer(&mut self, number: usize) -> io::Result<()> {
        loop {
            let client = &mut self.clients[number];
            let Some(stream) = &mut client.stream else { return Ok(()) };
            let Kind { part, .. } = self.kinds[client.kind];
            let new = matches!(part, Part::Get { new: true, .. });
            match unless_blocked(stream.read(&mut self.buffer))? {
                None => return Ok(()),
                Some(0) if new && client.missing == 0 => return self.reconnect(number),
                Some(0) => {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended within an answer"));
                }
                Some(count) if count > client.missing => return Err(io::Error::other("an answer is too long")),
                Some(count) => {
                    client.missing -= count;
                    if client.missing == 0 && !new {
                        return self.next_request(number);
                    }
                    if count < self.buffer.len() && !new {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn next_request(&mut self, number: usize) -> io::Result<()> {
        self.count_answer(number);
        self.mark_ready(number);
        let client = &mut self.clients[number];
        let kind = &self.kinds[client.kind];
        if let (Part::Get { .. }, Some(stream)) = (kind.part, &mut client.stream) {
            client.missing = kind.answer;
            stream.write_all(&kind.request)?;
        }
        Ok(())
    }

    /// After an answer whose end is the end of the connection.
    fn reconnect(&mut self, number: usize) -> io::Result<()> {
        self.count_answer(number);
        self.mark_ready(number);
        self.clients[number].stream = None;
        self.open(number).map_err(io::Error::other)
    }

    fn count_answer(&mut self, number: usize) {
        let time = now();
        let client = &mut self.clients[number];
        self.counts.answers += 1;
        self.counts.response_times.push(((time - client.since) / 1000) as u32);
        client.since = time;
    }

    fn mark_ready(&mut self, number: usize) {
        let client = &mut self.clients[number];
        if !client.ready {
            client.ready = true;
            self.ready += 1;
            self.opening -= 1;
        }
    }

    /// Reads the first bytes. From then on, [`Clients::read_slowly`] reads by the clock.
    fn start_slow(&mut self, number: usize) -> io::Result<()> {
        let client = &mut self.clients[number];
        if client.ready {
            return Ok(());
        }
        if let Some(stream) = &mut client.stream
            && unless_blocked(stream.read(&mut self.buffer[..SLOW_READ]))?.is_some()
        {
            self.slow.push(number);
            self.mark_ready(number);
        }
        Ok(())
    }

    /// Reads for the slow readers that are due.
    fn read_slowly(&mut self) {
        let turns = self.slow_since.elapsed().as_secs_f64() / SLOW_READ_EVERY.as_secs_f64();
        let due = (turns * self.slow.len() as f64) as usize;
        while self.next_slow_read < due {
            let number = self.slow[self.next_slow_read % self.slow.len()];
            self.next_slow_read += 1;
            if let Some(stream) = &mut self.clients[number].stream
                && let Err(error) = unless_blocked(stream.read(&mut self.buffer[..SLOW_READ]))
            {
                self.counts.failures += 1;
                self.counts.first_failure.get_or_insert_with(|| error.to_string());
            }
        }
    }

    fn count_lost(&mut self) {
        let time = now();
        let waiting = |client: &&Client| {
            matches!(self.kinds[client.kind].part, Part::Get { .. }) && time.saturating_sub(client.since) > LOST
        };
        let lost = self.clients.iter().filter(waiting).count() as u64;
        if lost > 0 {
            self.counts.failures += lost;
            self.counts.first_failure.get_or_insert_with(|| "no answer for more than a second".to_owned());
        }
    }
}
