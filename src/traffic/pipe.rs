//! Pipes that are lent while they hold bytes. An idle connection has none.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::sys::splice::{self, Moved};

/// A pipe smaller than this is not worth having: it is what the kernel gives a user over its quota
/// (`fs.pipe-user-pages-soft`, pipe(7)), and copying is cheaper than splicing two pages at a time.
pub const USEFUL_SIZE: usize = 64 * 1024;

/// A pipe and how many bytes are in it.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    held: usize,
}

/// What came of filling a pipe from a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// So many bytes came in.
    Took(usize),
    /// The socket has nothing more now.
    Dry,
    /// The socket has ended.
    Eof,
}

impl Pipe {
    fn new() -> io::Result<Pipe> {
        let (read, write) = splice::pipe()?;
        if splice::pipe_size(&write)? < USEFUL_SIZE {
            return Err(io::Error::from(io::ErrorKind::QuotaExceeded));
        }
        Ok(Pipe { read, write, held: 0 })
    }

    /// Bytes in the pipe.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Moves up to `max` bytes from a socket into the pipe, which must be empty.
    ///
    /// Only an empty pipe is ever filled, and that is what gives EAGAIN its meaning: with bytes in the pipe it could be
    /// the pipe that is out of slots (a segment takes a whole one, however short it is) and not the socket that is dry.
    pub fn fill(&mut self, from: impl AsFd, max: usize) -> io::Result<Fill> {
        debug_assert_eq!(self.held, 0, "only an empty pipe is filled");
        Ok(match splice::splice_once(from, &self.write, max)? {
            Moved::Bytes(count) => {
                self.held = count.get();
                Fill::Took(self.held)
            }
            Moved::Blocked => Fill::Dry,
            Moved::Eof => Fill::Eof,
        })
    }

    /// Moves what the pipe holds into a socket. `None` when the socket takes nothing now.
    pub fn drain(&mut self, to: impl AsFd) -> io::Result<Option<usize>> {
        match splice::splice_once(&self.read, to, self.held)? {
            Moved::Bytes(count) => {
                self.held -= count.get();
                Ok(Some(count.get()))
            }
            Moved::Blocked => Ok(None),
            Moved::Eof => Err(io::Error::other("a pipe ended that was thought to hold bytes")),
        }
    }

    /// Puts bytes from memory into the empty pipe; less than all of them when they do not fit.
    pub fn store(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = nix::unistd::write(&self.write, bytes)?;
        self.held += count;
        Ok(count)
    }
}

/// The pipes of one worker: those at rest, and a bound on all.
#[derive(Debug)]
pub struct Pool {
    resting: Vec<Pipe>,
    lent: usize,
    most: usize,
}

/// How many empty pipes are kept for the next borrower.
const RESTING: usize = 32;

impl Pool {
    /// A pool that never has more than `most` pipes, lent and at rest together.
    pub fn new(most: usize) -> Pool {
        Pool { resting: Vec::with_capacity(RESTING), lent: 0, most }
    }

    /// An empty pipe, or `None` when there are no more to be had: the bound is reached, or the kernel has no
    /// descriptor or only a tiny pipe for us. The caller copies then.
    pub fn lend(&mut self) -> Option<Pipe> {
        let pipe = match self.resting.pop() {
            Some(pipe) => pipe,
            None if self.lent < self.most => Pipe::new().ok()?,
            None => return None,
        };
        self.lent += 1;
        Some(pipe)
    }

    /// Takes a pipe back. One that still holds bytes is closed: they belong to a connection that is gone.
    pub fn give_back(&mut self, pipe: Pipe) {
        self.lent -= 1;
        if pipe.held == 0 && self.resting.len() < RESTING {
            self.resting.push(pipe);
        }
    }

    /// Pipes in use now.
    pub fn lent(&self) -> usize {
        self.lent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let a = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (b, _) = listener.accept().unwrap();
        a.set_nonblocking(true).unwrap();
        b.set_nonblocking(true).unwrap();
        (a, b)
    }

    #[test]
    fn bytes_go_through_and_the_end_is_seen() {
        let ((mut a, b), (c, mut d)) = (connected(), connected());
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
        let mut pipe = pool.lend().unwrap();
        assert!(pool.lend().is_none());
        pipe.store(b"secret of another connection").unwrap();
        pool.give_back(pipe);
        assert_eq!(pool.lent(), 0);
        assert_eq!(pool.lend().unwrap().held(), 0);
    }

    #[test]
    fn an_empty_pipe_is_used_again() {
        let mut pool = Pool::new(4);
        let pipe = pool.lend().unwrap();
        pool.give_back(pipe);
        assert_eq!(pool.resting.len(), 1);
        assert!(pool.lend().is_some());
        assert!(pool.resting.is_empty());
    }
}
