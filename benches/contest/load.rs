//! The clients: one thread, one epoll loop, all kinds of load at once.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::origin::{Origin, unless_blocked};
use crate::wire::{Asked, BLOCK, Blocks, Direction, now};

/// Some clients of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Endless streams.
    Stream { direction: Direction, count: usize },
    /// Objects one after the other, each over a connection of its own or over one that is kept.
    Get { size: usize, count: usize, fresh: bool },
    /// Connections that have been used once and are kept.
    Idle { count: usize },
    /// Clients that take 4 KiB of an object in a second.
    Slow { count: usize },
}

impl Part {
    /// How many connections at once.
    pub fn count(&self) -> usize {
        match *self {
            Part::Stream { count, .. } | Part::Get { count, .. } | Part::Idle { count } | Part::Slow { count } => count,
        }
    }

    fn asked(&self) -> Asked {
        match *self {
            Part::Stream { direction, .. } => Asked::Stream(direction),
            Part::Get { size, fresh, .. } => Asked::Object { size, close: fresh },
            Part::Idle { .. } => Asked::Object { size: 200, close: false },
            Part::Slow { .. } => Asked::Object { size: SLOW_OBJECT, close: false },
        }
    }
}

/// All clients of one turn, written as for example `get:65536:64+idle:5000`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    pub parts: Vec<Part>,
}

impl Load {
    /// How many connections at once.
    pub fn connections(&self) -> usize {
        self.parts.iter().map(Part::count).sum()
    }

    /// Whether there are endless streams to be measured.
    pub fn streams(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Stream { .. }))
    }

    /// Whether it takes long until nothing moves any more.
    pub fn is_slow(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Slow { .. }))
    }

    /// Whether there is a connection for each object.
    pub fn is_fresh(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Get { fresh: true, .. }))
    }

    /// Whether there are requests to be measured.
    pub fn requests(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Get { .. }))
    }
}

impl FromStr for Load {
    type Err = String;

    fn from_str(text: &str) -> Result<Load, String> {
        let parts: Option<Vec<Part>> = text.split('+').map(part).collect();
        parts.map(|parts| Load { parts }).ok_or_else(|| {
            format!("{text}: a load is made of down:N up:N both:N get:SIZE:N new:SIZE:N idle:N slow:N, joined by +")
        })
    }
}

fn part(text: &str) -> Option<Part> {
    let words: Vec<&str> = text.split(':').collect();
    let number = |at: usize| words.get(at).and_then(|word| word.parse::<usize>().ok());
    Some(match (words[0], words.len()) {
        ("get", 3) => Part::Get { size: number(1)?, count: number(2)?, fresh: false },
        ("new", 3) => Part::Get { size: number(1)?, count: number(2)?, fresh: true },
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
                Part::Get { size, count, fresh } => {
                    write!(f, "{}:{size}:{count}", if *fresh { "new" } else { "get" })?;
                }
                Part::Idle { count } => write!(f, "idle:{count}")?,
                Part::Slow { count } => write!(f, "slow:{count}")?,
            }
        }
        Ok(())
    }
}

/// Who looks at the contestant at the very moments between which the load is counted.
pub trait Probe {
    fn begin(&mut self) -> Result<(), String>;
    fn end(&mut self) -> Result<(), String>;
}

/// What was counted.
#[derive(Debug, Default)]
pub struct Tally {
    pub seconds: f64,
    /// Bytes of streams that arrived.
    pub streamed: u64,
    /// Answers that arrived whole.
    pub answers: u64,
    /// Connections that broke, and requests that were still unanswered after a second.
    pub failures: u64,
    /// What the first failure was.
    pub complaint: Option<String>,
    /// Microseconds from a request (or connect) to the end of its answer.
    pub waits: Vec<u32>,
    /// Microseconds for which the blocks of streams were under way.
    pub delays: Vec<u32>,
}

/// How long the load runs before it is counted, so that windows have opened and buffers are filled.
const WARM_UP: Duration = Duration::from_millis(400);

/// How long it may take until every connection has been used once.
const SET_UP: Duration = Duration::from_secs(30);

/// How many connections are being opened at once; a listener's backlog must not decide.
const OPENING: usize = 64;

/// Nanoseconds after which an answer is taken for lost.
const LOST: u64 = 1_000_000_000;

/// What a slow reader has asked for: more than the buffers of one socket, so that a relay has to hold some of it, and
/// not so much that thousands of them fill the machine.
const SLOW_OBJECT: usize = 256 * 1024;

/// Bytes that a slow reader takes at once, and how often.
const SIP: usize = 4096;
const SIP_EVERY: Duration = Duration::from_secs(1);

/// Runs a load against an address of the namespace that this thread is in.
pub fn run(
    load: &Load,
    to: SocketAddr,
    window: Duration,
    origin: &Origin,
    probe: &mut dyn Probe,
) -> Result<Tally, String> {
    let mut clients = Clients::new(load, to).map_err(|error| format!("epoll: {error}"))?;
    clients.set_up()?;
    clients.serve_for(WARM_UP)?;
    clients.tally = Tally::default();
    origin.take_delays();
    let received = origin.received.load(Ordering::Relaxed);
    origin.recording.store(true, Ordering::Relaxed);
    probe.begin()?;
    let start = Instant::now();
    clients.serve_for(window)?;
    clients.tally.seconds = start.elapsed().as_secs_f64();
    clients.tally.streamed += origin.received.load(Ordering::Relaxed) - received;
    probe.end()?;
    origin.recording.store(false, Ordering::Relaxed);
    clients.tally.delays.extend(origin.take_delays());
    clients.count_lost();
    Ok(clients.tally)
}

struct Clients {
    epoll: Epoll,
    to: SocketAddr,
    kinds: Vec<Kind>,
    peers: Vec<Peer>,
    unborn: VecDeque<usize>,
    opening: usize,
    settled: usize,
    slow: Vec<usize>,
    next_sip: usize,
    sipping_since: Instant,
    buffer: Box<[u8]>,
    tally: Tally,
}

/// What all clients of a part have in common.
struct Kind {
    part: Part,
    request: Vec<u8>,
    answer: usize,
}

struct Peer {
    kind: usize,
    stream: Option<TcpStream>,
    connected: bool,
    /// Has been answered once.
    settled: bool,
    since: u64,
    left: usize,
    blocks: (Blocks, Blocks),
}

impl Clients {
    fn new(load: &Load, to: SocketAddr) -> io::Result<Clients> {
        let kind = |part: &Part| {
            let asked = part.asked();
            let answer = match asked {
                Asked::Object { size, close } => Asked::head(size, close).len() + size,
                Asked::Stream(_) => usize::MAX,
            };
            Kind { part: *part, request: asked.request(), answer }
        };
        let numbers = load.parts.iter().enumerate().flat_map(|(kind, part)| std::iter::repeat_n(kind, part.count()));
        let peer = |kind| Peer {
            kind,
            stream: None,
            connected: false,
            settled: false,
            since: 0,
            left: 0,
            blocks: Default::default(),
        };
        let peers: Vec<Peer> = numbers.map(peer).collect();
        Ok(Clients {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            to,
            kinds: load.parts.iter().map(kind).collect(),
            unborn: (0..peers.len()).collect(),
            peers,
            opening: 0,
            settled: 0,
            slow: Vec::new(),
            next_sip: 0,
            sipping_since: Instant::now(),
            buffer: vec![0; 2 * BLOCK].into_boxed_slice(),
            tally: Tally::default(),
        })
    }

    fn set_up(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + SET_UP;
        while self.settled < self.peers.len() {
            while self.opening < OPENING
                && let Some(number) = self.unborn.pop_front()
            {
                self.opening += 1;
                self.open(number)?;
            }
            self.turn()?;
            if let Some(complaint) = self.tally.complaint.take() {
                return Err(complaint);
            }
            if Instant::now() > deadline {
                return Err(format!("only {} of {} connections were answered", self.settled, self.peers.len()));
            }
        }
        self.sipping_since = Instant::now();
        self.next_sip = 0;
        Ok(())
    }

    fn serve_for(&mut self, span: Duration) -> Result<(), String> {
        let end = Instant::now() + span;
        while Instant::now() < end {
            self.turn()?;
            self.sip();
        }
        Ok(())
    }

    fn turn(&mut self) -> Result<(), String> {
        let mut events = [EpollEvent::empty(); 512];
        let patience = EpollTimeout::from(5u8);
        let count = match self.epoll.wait(&mut events, patience) {
            Ok(count) => count,
            Err(nix::errno::Errno::EINTR) => 0,
            Err(error) => return Err(format!("epoll: {error}")),
        };
        for event in &events[..count] {
            let number = event.data() as usize;
            if let Err(error) = self.attend(number, event.events()) {
                self.fail(number, &error)?;
            }
        }
        Ok(())
    }

    fn open(&mut self, number: usize) -> Result<(), String> {
        let flags = match self.kinds[self.peers[number].kind].part {
            Part::Stream { .. } => EpollFlags::EPOLLOUT,
            _ => EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET,
        };
        let peer = &mut self.peers[number];
        peer.since = now();
        peer.connected = false;
        let open = || {
            let stream = TcpStream::connect(self.to)?;
            stream.set_nodelay(true)?;
            self.epoll.add(&stream, EpollEvent::new(flags, number as u64))?;
            Ok::<_, io::Error>(stream)
        };
        peer.stream = Some(open().map_err(|error| format!("connect: {error}"))?);
        Ok(())
    }

    /// A connection broke: it is counted, and made anew.
    fn fail(&mut self, number: usize, error: &io::Error) -> Result<(), String> {
        self.tally.failures += 1;
        self.tally.complaint.get_or_insert_with(|| error.to_string());
        self.peers[number].stream = None;
        self.open(number)
    }

    fn attend(&mut self, number: usize, flags: EpollFlags) -> io::Result<()> {
        let peer = &mut self.peers[number];
        let Some(stream) = &mut peer.stream else { return Ok(()) };
        let kind = &self.kinds[peer.kind];
        if !peer.connected {
            if let Some(error) = stream.take_error()? {
                return Err(error);
            }
            if !flags.contains(EpollFlags::EPOLLOUT) {
                return Ok(());
            }
            peer.connected = true;
            peer.left = kind.answer;
            peer.blocks = Default::default();
            stream.write_all(&kind.request)?;
            if let Part::Stream { direction, .. } = kind.part {
                let wanted = match direction {
                    Direction::Down => EpollFlags::EPOLLIN,
                    Direction::Up => EpollFlags::EPOLLOUT,
                    Direction::Both => EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT,
                };
                self.epoll.modify(&*stream, &mut EpollEvent::new(wanted, number as u64))?;
            }
            return Ok(());
        }
        match kind.part {
            Part::Stream { direction, .. } => self.stream(number, direction, flags),
            Part::Get { .. } | Part::Idle { .. } => self.hear(number),
            Part::Slow { .. } => self.settle_slow(number),
        }
    }

    /// At most one block each way: the other streams wait.
    fn stream(&mut self, number: usize, direction: Direction, flags: EpollFlags) -> io::Result<()> {
        let peer = &mut self.peers[number];
        let Some(stream) = &mut peer.stream else { return Ok(()) };
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
            let delays = &mut self.tally.delays;
            peer.blocks.0.read(&self.buffer[..count], |delay| delays.push((delay / 1000) as u32));
            self.tally.streamed += count as u64;
            moved += count;
        }
        if direction.client_writes() && flags.contains(EpollFlags::EPOLLOUT) {
            moved += unless_blocked(peer.blocks.1.write(&mut *stream, &self.buffer))?.unwrap_or(0);
        }
        if moved > 0 {
            self.settle(number);
        }
        Ok(())
    }

    fn hear(&mut self, number: usize) -> io::Result<()> {
        loop {
            let peer = &mut self.peers[number];
            let Some(stream) = &mut peer.stream else { return Ok(()) };
            let Kind { part, .. } = self.kinds[peer.kind];
            let fresh = matches!(part, Part::Get { fresh: true, .. });
            match unless_blocked(stream.read(&mut self.buffer))? {
                None => return Ok(()),
                Some(0) if fresh && peer.left == 0 => return self.ended(number),
                Some(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "an answer was cut short")),
                Some(count) if count > peer.left => return Err(io::Error::other("an answer was too long")),
                Some(count) => {
                    peer.left -= count;
                    if peer.left == 0 && !fresh {
                        return self.answered(number);
                    }
                    if count < self.buffer.len() && !fresh {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn answered(&mut self, number: usize) -> io::Result<()> {
        self.count_answer(number);
        self.settle(number);
        let peer = &mut self.peers[number];
        let kind = &self.kinds[peer.kind];
        if let (Part::Get { .. }, Some(stream)) = (kind.part, &mut peer.stream) {
            peer.left = kind.answer;
            stream.write_all(&kind.request)?;
        }
        Ok(())
    }

    /// The server has answered and closed; the next connection takes the place of this one.
    fn ended(&mut self, number: usize) -> io::Result<()> {
        self.count_answer(number);
        self.settle(number);
        self.peers[number].stream = None;
        self.open(number).map_err(io::Error::other)
    }

    fn count_answer(&mut self, number: usize) {
        let time = now();
        let peer = &mut self.peers[number];
        self.tally.answers += 1;
        self.tally.waits.push(((time - peer.since) / 1000) as u32);
        peer.since = time;
    }

    fn settle(&mut self, number: usize) {
        let peer = &mut self.peers[number];
        if !peer.settled {
            peer.settled = true;
            self.settled += 1;
            self.opening -= 1;
        }
    }

    /// The first bytes have come; from now on time decides when more is read.
    fn settle_slow(&mut self, number: usize) -> io::Result<()> {
        let peer = &mut self.peers[number];
        if peer.settled {
            return Ok(());
        }
        if let Some(stream) = &mut peer.stream
            && unless_blocked(stream.read(&mut self.buffer[..SIP]))?.is_some()
        {
            self.slow.push(number);
            self.settle(number);
        }
        Ok(())
    }

    /// Lets those slow readers read whose time has come.
    fn sip(&mut self) {
        let turns = self.sipping_since.elapsed().as_secs_f64() / SIP_EVERY.as_secs_f64();
        let due = (turns * self.slow.len() as f64) as usize;
        while self.next_sip < due {
            let number = self.slow[self.next_sip % self.slow.len()];
            self.next_sip += 1;
            if let Some(stream) = &mut self.peers[number].stream
                && let Err(error) = unless_blocked(stream.read(&mut self.buffer[..SIP]))
            {
                self.tally.failures += 1;
                self.tally.complaint.get_or_insert_with(|| error.to_string());
            }
        }
    }

    fn count_lost(&mut self) {
        let time = now();
        let waiting = |peer: &&Peer| {
            matches!(self.kinds[peer.kind].part, Part::Get { .. }) && time.saturating_sub(peer.since) > LOST
        };
        let lost = self.peers.iter().filter(waiting).count() as u64;
        if lost > 0 {
            self.tally.failures += lost;
            self.tally.complaint.get_or_insert_with(|| "no answer for more than a second".to_owned());
        }
    }
}
