//! The server behind all contestants: one thread, one epoll loop, in the server's namespace. It never corks, and
//! answers in one write when the socket takes it.

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use mio::net::{TcpListener, TcpStream};
use nix::sched::{CloneFlags, setns};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::sendfile::sendfile64;

use crate::wire::{Asked, BLOCK, Blocks, Direction, SOCKS_PORT, WEB_PORT};

/// What the load wants to know of the origin.
#[derive(Debug, Default)]
pub struct Origin {
    /// Bytes of streams that have arrived.
    pub received: AtomicU64,
    /// Bytes of answers that the kernel has taken.
    pub sent: AtomicU64,
    /// Connections that are open.
    pub guests: AtomicUsize,
    /// Whether delays are kept.
    pub recording: AtomicBool,
    /// Microseconds for which the blocks that arrived were under way.
    delays: Mutex<Vec<u32>>,
}

impl Origin {
    /// Takes out the delays that were kept.
    pub fn take_delays(&self) -> Vec<u32> {
        std::mem::take(&mut *self.delays.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn arrived(&self, delay: u64) {
        if self.recording.load(Ordering::Relaxed) {
            self.delays.lock().unwrap_or_else(PoisonError::into_inner).push((delay / 1000) as u32);
        }
    }
}

/// Starts it in a network namespace, for as long as this process lives. With a file, objects are sent from there.
pub fn start(namespace: &str, file: Option<&Path>) -> io::Result<Arc<Origin>> {
    let origin = Arc::new(Origin::default());
    let netns = File::open(Path::new("/run/netns").join(namespace))?;
    let mut server = Server {
        origin: Arc::clone(&origin),
        epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
        guests: Vec::new(),
        free: Vec::new(),
        filler: vec![b'x'; FILLER].into_boxed_slice(),
        buffer: vec![0; BLOCK].into_boxed_slice(),
        file: file.map(File::open).transpose()?,
    };
    let (ready, started) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let doors = setns(&netns, CloneFlags::CLONE_NEWNET).map_err(io::Error::from).and_then(|()| server.open_doors());
        match doors {
            Ok(doors) => {
                let _ = ready.send(Ok(()));
                server.serve(&doors)
            }
            Err(error) => ready.send(Err(error)).unwrap_or(()),
        }
    });
    started.recv().unwrap_or_else(|_| Err(io::Error::other("the origin did not start"))).map(|()| origin)
}

/// Bytes at hand for one write of an object.
const FILLER: usize = 1024 * 1024;

/// Length of the file from which objects are sent.
pub const FILE_LENGTH: usize = 16 * 1024 * 1024;

/// Numbers from here on are listeners, those below are guests.
const DOORS: u64 = 1 << 32;

struct Server {
    origin: Arc<Origin>,
    epoll: Epoll,
    guests: Vec<Option<Guest>>,
    free: Vec<usize>,
    filler: Box<[u8]>,
    buffer: Box<[u8]>,
    file: Option<File>,
}

struct Guest {
    stream: TcpStream,
    heard: Vec<u8>,
    greetings: u8,
    saying: Saying,
    blocks: (Blocks, Blocks),
}

enum Saying {
    Nothing,
    Object { head: Vec<u8>, size: usize, sent: usize, close: bool },
    Stream(Direction),
}

/// Whether a connection goes on.
#[derive(PartialEq, Eq)]
enum Verdict {
    Stay,
    Leave,
}

impl Server {
    fn open_doors(&mut self) -> io::Result<[TcpListener; 2]> {
        let open = |port| TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)));
        let doors = [open(WEB_PORT)?, open(SOCKS_PORT)?];
        for (number, door) in doors.iter().enumerate() {
            self.epoll.add(door, EpollEvent::new(EpollFlags::EPOLLIN, DOORS + number as u64))?;
        }
        Ok(doors)
    }

    fn serve(&mut self, doors: &[TcpListener]) {
        let mut events = [EpollEvent::empty(); 512];
        loop {
            let count = self.epoll.wait(&mut events, EpollTimeout::NONE).unwrap_or(0);
            for event in &events[..count] {
                match event.data().checked_sub(DOORS) {
                    Some(number) => self.accept(&doors[number as usize], number == 1),
                    None => self.attend(event.data() as usize, event.events()),
                }
            }
        }
    }

    fn accept(&mut self, door: &TcpListener, socks: bool) {
        while let Ok((stream, _)) = door.accept() {
            let _ = stream.set_nodelay(true);
            let slot = self.free.pop().unwrap_or_else(|| {
                self.guests.push(None);
                self.guests.len() - 1
            });
            let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
            if self.epoll.add(&stream, EpollEvent::new(flags, slot as u64)).is_err() {
                self.free.push(slot);
                continue;
            }
            let greetings = if socks { 2 } else { 0 };
            let blocks = Default::default();
            self.guests[slot] = Some(Guest { stream, heard: Vec::new(), greetings, saying: Saying::Nothing, blocks });
            self.origin.guests.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn attend(&mut self, slot: usize, flags: EpollFlags) {
        let Some(mut guest) = self.guests[slot].take() else { return };
        let verdict = match guest.saying {
            Saying::Stream(direction) => self.stream(&mut guest, direction, flags),
            // What came in meanwhile was announced meanwhile.
            Saying::Object { .. } => self.say(&mut guest).and_then(|verdict| self.go_on(&mut guest, slot, verdict)),
            // The end that comes with a request is announced with it.
            Saying::Nothing if flags.contains(EpollFlags::EPOLLRDHUP) => {
                self.hear(&mut guest, slot).and_then(|verdict| self.go_on(&mut guest, slot, verdict))
            }
            Saying::Nothing => self.hear(&mut guest, slot),
        };
        match verdict {
            Ok(Verdict::Stay) => self.guests[slot] = Some(guest),
            Ok(Verdict::Leave) | Err(_) => {
                self.free.push(slot);
                self.origin.guests.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    fn hear(&mut self, guest: &mut Guest, slot: usize) -> io::Result<Verdict> {
        loop {
            let count = match guest.stream.read(&mut self.buffer) {
                Ok(0) => return Ok(Verdict::Leave),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Verdict::Stay),
                Err(error) => return Err(error),
            };
            guest.heard.extend_from_slice(&self.buffer[..count]);
            guest.greet()?;
            let Some((asked, length)) = Asked::parse(&guest.heard) else { continue };
            guest.blocks.1.read(&guest.heard[length..], |_| ());
            guest.heard.clear();
            match asked {
                Asked::Object { size, close } => {
                    let head = Asked::head(size, close);
                    guest.saying = Saying::Object { head, size, sent: 0, close };
                    return self.say(guest);
                }
                Asked::Stream(direction) => {
                    guest.saying = Saying::Stream(direction);
                    // Level-triggered from now on: every stream gets one block in each turn of the loop.
                    let flags = wanted(direction.client_writes(), direction.client_reads());
                    self.epoll.modify(&guest.stream, &mut EpollEvent::new(flags, slot as u64))?;
                    return Ok(Verdict::Stay);
                }
            }
        }
    }

    fn go_on(&mut self, guest: &mut Guest, slot: usize, verdict: Verdict) -> io::Result<Verdict> {
        let listening = verdict == Verdict::Stay && matches!(guest.saying, Saying::Nothing);
        if listening { self.hear(guest, slot) } else { Ok(verdict) }
    }

    fn say(&mut self, guest: &mut Guest) -> io::Result<Verdict> {
        let Saying::Object { head, size, sent, close } = &mut guest.saying else { return Ok(Verdict::Stay) };
        while *sent < head.len() + *size {
            match self.send(&mut guest.stream, head, *size, *sent) {
                Ok(count) => *sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Verdict::Stay),
                Err(error) => return Err(error),
            }
        }
        if *close {
            return Ok(Verdict::Leave);
        }
        guest.saying = Saying::Nothing;
        Ok(Verdict::Stay)
    }

    fn send(&self, stream: &mut TcpStream, head: &[u8], size: usize, sent: usize) -> io::Result<usize> {
        let rest = (head.len() + size - sent.max(head.len())).min(FILLER);
        let count = match &self.file {
            None => stream.write_vectored(&[&head[sent.min(head.len())..], &self.filler[..rest]].map(IoSlice::new))?,
            Some(_) if sent < head.len() => stream.write(&head[sent..])?,
            Some(file) => {
                let mut from = ((sent - head.len()) % (FILE_LENGTH - FILLER)) as i64;
                sendfile64(&*stream, file, Some(&mut from), rest)?
            }
        };
        self.origin.sent.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }

    /// One block each way.
    fn stream(&mut self, guest: &mut Guest, direction: Direction, flags: EpollFlags) -> io::Result<Verdict> {
        if flags.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP | EpollFlags::EPOLLRDHUP) {
            return Ok(Verdict::Leave);
        }
        if direction.client_reads() && flags.contains(EpollFlags::EPOLLOUT) {
            unless_blocked(guest.blocks.0.write(&mut guest.stream, &self.filler))?;
        }
        if flags.contains(EpollFlags::EPOLLIN) {
            let Some(count) = unless_blocked(guest.stream.read(&mut self.buffer))? else { return Ok(Verdict::Stay) };
            if count == 0 {
                return Ok(Verdict::Leave);
            }
            self.origin.received.fetch_add(count as u64, Ordering::Relaxed);
            guest.blocks.1.read(&self.buffer[..count], |delay| self.origin.arrived(delay));
        }
        Ok(Verdict::Stay)
    }
}

impl Guest {
    /// The two answers of a SOCKS5 proxy (RFC 1928), whatever was asked.
    fn greet(&mut self) -> io::Result<()> {
        let (length, answer): (usize, &[u8]) = match self.greetings {
            0 => return Ok(()),
            1 => (10, &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]),
            _ => (2 + usize::from(self.heard.get(1).copied().unwrap_or(u8::MAX)), &[5, 0]),
        };
        if self.heard.len() < length {
            return Ok(());
        }
        self.heard.drain(..length);
        self.greetings -= 1;
        self.stream.write_all(answer)?;
        self.greet()
    }
}

/// The events of a stream. Who does not read hears of the end all the same.
fn wanted(read: bool, write: bool) -> EpollFlags {
    let reading = if read { EpollFlags::EPOLLIN } else { EpollFlags::EPOLLRDHUP };
    if write { reading | EpollFlags::EPOLLOUT } else { reading }
}

/// `None` for "would block".
pub fn unless_blocked(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        other => other.map(Some),
    }
}

/// The file from which objects are sent, if they are.
pub fn write_file(path: &Path) -> io::Result<()> {
    std::fs::write(path, vec![b'x'; FILE_LENGTH])
}

const _: () = assert!(FILLER >= BLOCK);
