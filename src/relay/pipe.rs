//! Pipes that are lent while they hold bytes. An idle connection has none.

use std::io;
use std::os::fd::OwnedFd;

use mio::net::TcpStream;

use crate::relay::io::{Fill, LARGE_SIZE, PipeIo, PipePool, PipeSize, USEFUL_SIZE};
use crate::sys::splice::{self, Moved};

/// The most large pipes that a worker has. They are a quarter of what a user may have (`fs.pipe-user-pages-soft`), and
/// more than are lent at a time as long as sinks take what they are given.
const MOST_LARGE: usize = 16;

/// A pipe and how many bytes are in it.
#[derive(Debug)]
pub(crate) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    held: u32,
    large: bool,
}

impl Pipe {
    fn new() -> io::Result<Pipe> {
        let (read, write) = splice::pipe()?;
        if splice::pipe_size(&write)? < USEFUL_SIZE {
            return Err(io::Error::from(io::ErrorKind::QuotaExceeded));
        }
        Ok(Pipe { read, write, held: 0, large: false })
    }

    fn new_large() -> io::Result<Pipe> {
        let pipe = Pipe::new()?;
        let large = splice::resize_pipe(&pipe.write, LARGE_SIZE)? >= LARGE_SIZE;
        Ok(Pipe { large, ..pipe })
    }

    fn note(&mut self, held: usize) {
        debug_assert!(held <= LARGE_SIZE, "more than it has room for");
        self.held = held as u32;
    }
}

impl PipeIo for Pipe {
    type Socket = TcpStream;

    fn held(&self) -> usize {
        self.held as usize
    }

    /// Only an empty pipe is ever filled, and that is what gives EAGAIN its meaning: with bytes in the pipe it could be
    /// the pipe that is out of slots (a segment takes a whole one, however short it is) and not the socket that is dry.
    fn fill(&mut self, from: &TcpStream, max: usize) -> io::Result<Fill> {
        debug_assert_eq!(self.held, 0, "only an empty pipe is filled");
        Ok(match splice::splice_once(from, &self.write, max.min(LARGE_SIZE))? {
            Moved::Bytes(count) => {
                self.note(count.get());
                Fill::Took(count.get())
            }
            Moved::Blocked => Fill::Dry,
            Moved::Eof => Fill::Eof,
        })
    }

    fn drain(&mut self, to: &TcpStream) -> io::Result<Option<usize>> {
        match splice::splice_once(&self.read, to, self.held())? {
            Moved::Bytes(count) => {
                self.note(self.held() - count.get());
                Ok(Some(count.get()))
            }
            Moved::Blocked => Ok(None),
            Moved::Eof => Err(io::Error::other("a pipe ended that was thought to hold bytes")),
        }
    }

    fn store(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = nix::unistd::write(&self.write, bytes)?;
        self.note(self.held() + count);
        Ok(count)
    }
}

/// The pipes of one worker: those at rest, and a bound on all.
#[derive(Debug)]
pub(crate) struct Pool {
    resting: Vec<Pipe>,
    resting_large: Vec<Pipe>,
    large: usize,
    lent: usize,
    most: usize,
    /// How often the kernel is not asked for a pipe any more, because it has refused one.
    backoff: u32,
}

/// How many empty pipes are kept for the next borrower.
const RESTING: usize = 32;

/// How often [`PipePool::is_scarce`] is called before the kernel is asked again for what it has refused.
const BACKOFF: u32 = 64;

impl Pool {
    /// A pool that never has more than `most` pipes, lent and at rest together; none where they would be of no use.
    pub(crate) fn new(most: usize) -> Pool {
        let refusal = splice::refusal();
        refusal.iter().for_each(|error| log::warn!("splice does not work here ({error}): data is copied"));
        Pool {
            resting: Vec::with_capacity(RESTING),
            resting_large: Vec::with_capacity(MOST_LARGE),
            large: 0,
            lent: 0,
            most: if refusal.is_some() { 0 } else { most },
            backoff: 0,
        }
    }

    fn usual(&mut self) -> Option<Pipe> {
        if let Some(pipe) = self.resting.pop() {
            return Some(pipe);
        }
        if self.lent >= self.most || self.backoff > 0 {
            return None;
        }
        let pipe = Pipe::new().ok();
        if pipe.is_none() {
            self.backoff = BACKOFF;
        }
        pipe
    }

    fn large(&mut self) -> Option<Pipe> {
        match self.resting_large.pop() {
            Some(pipe) => Some(pipe),
            None if self.large < MOST_LARGE && self.lent < self.most => {
                let pipe = Pipe::new_large().ok().filter(|pipe| pipe.large)?;
                self.large += 1;
                Some(pipe)
            }
            None => None,
        }
    }

    /// Pipes in use now.
    pub(crate) fn lent(&self) -> usize {
        self.lent
    }
}

impl PipePool for Pool {
    type Pipe = Pipe;

    /// `None` when the bound is reached, or the kernel has no descriptor or only a tiny pipe for this user.
    fn lend(&mut self, size: PipeSize) -> Option<Pipe> {
        let pipe = match size {
            PipeSize::Large => self.large().or_else(|| self.usual()),
            PipeSize::Usual => self.usual(),
        }?;
        self.lent += 1;
        Some(pipe)
    }

    /// A pipe that still holds bytes is closed: they belong to a connection that is gone.
    fn give_back(&mut self, pipe: Pipe) {
        self.lent -= 1;
        match pipe {
            Pipe { held: 0, large: true, .. } => self.resting_large.push(pipe),
            Pipe { large: true, .. } => self.large -= 1,
            Pipe { held: 0, .. } if self.resting.len() < RESTING => self.resting.push(pipe),
            _ => {}
        }
    }

    /// Half of the pipes are lent, or the kernel has refused one.
    fn is_scarce(&mut self) -> bool {
        let refused = self.backoff > 0 && self.resting.is_empty();
        self.backoff -= u32::from(refused);
        refused || self.lent >= self.most / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream as StdStream};

    fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let a = StdStream::connect(listener.local_addr().unwrap()).unwrap();
        let (b, _) = listener.accept().unwrap();
        a.set_nonblocking(true).unwrap();
        b.set_nonblocking(true).unwrap();
        (TcpStream::from_std(a), TcpStream::from_std(b))
    }

    #[test]
    fn bytes_go_through_and_the_end_is_seen() {
        let ((mut a, b), (c, d)) = (connected(), connected());
        let mut d = StdStream::from(std::os::fd::OwnedFd::from(d));
        let mut pipe = Pipe::new().unwrap();
        assert_eq!(pipe.fill(&b, USEFUL_SIZE).unwrap(), Fill::Dry);
        a.write_all(b"hello").unwrap();
        assert_eq!(pipe.fill(&b, USEFUL_SIZE).unwrap(), Fill::Took(5));
        assert_eq!(pipe.drain(&c).unwrap(), Some(5));
        assert_eq!(pipe.held(), 0);
        let mut read = [0; 5];
        d.set_nonblocking(false).unwrap();
        d.read_exact(&mut read).unwrap();
        assert_eq!(&read, b"hello");
        drop(a);
        assert_eq!(pipe.fill(&b, USEFUL_SIZE).unwrap(), Fill::Eof);
    }

    #[test]
    fn a_pipe_with_bytes_in_it_is_not_lent_again() {
        let mut pool = Pool::new(1);
        let mut pipe = pool.lend(PipeSize::Usual).unwrap();
        assert!(pool.lend(PipeSize::Usual).is_none());
        pipe.store(b"secret of another connection").unwrap();
        pool.give_back(pipe);
        assert_eq!(pool.lent(), 0);
        assert_eq!(pool.lend(PipeSize::Usual).unwrap().held(), 0);
    }

    #[test]
    fn an_empty_pipe_is_used_again() {
        let mut pool = Pool::new(4);
        let pipe = pool.lend(PipeSize::Usual).unwrap();
        pool.give_back(pipe);
        assert_eq!(pool.resting.len(), 1);
        assert!(pool.lend(PipeSize::Usual).is_some());
        assert!(pool.resting.is_empty());
    }

    #[test]
    fn large_pipes_are_few_and_those_that_come_back_empty_are_lent_again() {
        let mut pool = Pool::new(100);
        let mut pipes: Vec<Pipe> = (0..MOST_LARGE + 3).map(|_| pool.lend(PipeSize::Large).unwrap()).collect();
        assert_eq!(pipes.iter().filter(|pipe| pipe.large).count(), MOST_LARGE);
        pipes[0].store(b"of another connection").unwrap();
        pipes.into_iter().for_each(|pipe| pool.give_back(pipe));
        assert_eq!((pool.resting_large.len(), pool.large), (MOST_LARGE - 1, MOST_LARGE - 1));
        assert!(pool.lend(PipeSize::Large).unwrap().large);
    }

    #[test]
    fn pipes_are_scarce_when_half_of_them_are_lent() {
        let mut pool = Pool::new(4);
        let first = pool.lend(PipeSize::Usual).unwrap();
        assert!(!pool.is_scarce());
        let second = pool.lend(PipeSize::Usual).unwrap();
        assert!(pool.is_scarce());
        pool.give_back(first);
        assert!(!pool.is_scarce());
        drop(second);
    }

    #[test]
    fn after_a_refusal_the_kernel_is_left_alone_for_a_while() {
        let mut pool = Pool::new(4);
        pool.backoff = 2;
        assert!(pool.lend(PipeSize::Usual).is_none());
        assert!(pool.is_scarce() && pool.is_scarce());
        assert!(!pool.is_scarce());
        assert!(pool.lend(PipeSize::Usual).is_some());
    }
}
