//! What a relay needs of the operating system. The daemon gives it sockets and pipes ([`Tcp`](super::tcp::Tcp)), the
//! tests a model of the kernel.

use std::fmt::Debug;
use std::io;

/// The types that belong together.
pub trait Io: Debug {
    /// A connected, non-blocking stream socket.
    type Socket: Socket + Debug;
    /// A pipe between two of these sockets.
    type Pipe: PipeIo<Socket = Self::Socket> + Debug;
    /// Where these pipes come from.
    type Pool: PipePool<Pipe = Self::Pipe> + Debug;
}

/// A connected, non-blocking stream socket.
pub trait Socket {
    /// Reads. Zero bytes mean that the peer has sent its FIN.
    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize>;
    /// Reads and leaves the bytes in the socket (`MSG_PEEK`).
    fn peek(&self, buffer: &mut [u8]) -> io::Result<usize>;
    /// Drops as many bytes from the socket as `buffer` is long. The buffer stays as it is.
    fn discard(&self, buffer: &mut [u8]) -> io::Result<usize>;
    /// Writes.
    fn send(&self, bytes: &[u8]) -> io::Result<usize>;
    /// Writes bytes that the FIN follows at once, so that both may go in one packet.
    fn send_before_end(&self, bytes: &[u8]) -> io::Result<usize>;
    /// Sends the FIN.
    fn finish(&self) -> io::Result<()>;
    /// Acknowledges at once what was read.
    fn acknowledge(&self) -> io::Result<()>;
    /// Bytes sent that the peer has not acknowledged.
    fn unacknowledged(&self) -> io::Result<usize>;
}

/// A pipe between two sockets.
pub trait PipeIo {
    /// The sockets.
    type Socket;
    /// Bytes in the pipe.
    fn held(&self) -> usize;
    /// Moves up to `max` bytes from a socket into the pipe, which must be empty.
    fn fill(&mut self, from: &Self::Socket, max: usize) -> io::Result<Fill>;
    /// Moves what the pipe holds into a socket. `None` when the socket takes nothing now.
    fn drain(&mut self, to: &Self::Socket) -> io::Result<Option<usize>>;
    /// Puts bytes from memory into the empty pipe; less than all of them when they do not fit.
    fn store(&mut self, bytes: &[u8]) -> io::Result<usize>;
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

/// Lends pipes.
pub trait PipePool {
    /// The pipes.
    type Pipe;
    /// An empty pipe. `None` when there is none to be had; the caller copies then.
    fn lend(&mut self, size: PipeSize) -> Option<Self::Pipe>;
    /// Takes a pipe back, empty or not.
    fn give_back(&mut self, pipe: Self::Pipe);
    /// Whether a pipe may only be borrowed to be given back at once.
    fn is_scarce(&mut self) -> bool;
}

/// A pipe smaller than this is not worth having: it is what the kernel gives a user over its quota
/// (`fs.pipe-user-pages-soft`, pipe(7)), and copying is cheaper than splicing two pages at a time.
pub const USEFUL_SIZE: usize = 64 * 1024;

/// The size of a large pipe. A slot of a pipe takes a page at most, so one packet of a fast network fills the 16 slots of
/// 64 KiB; what counts is how much is moved at once.
pub const LARGE_SIZE: usize = 1024 * 1024;

/// Which pipe is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PipeSize {
    /// One of [`USEFUL_SIZE`].
    Usual,
    /// One of [`LARGE_SIZE`], or a usual one when there is none.
    Large,
}

impl PipeSize {
    /// The most bytes that are moved through such a pipe at once.
    pub fn bytes(self) -> usize {
        match self {
            PipeSize::Usual => USEFUL_SIZE,
            PipeSize::Large => LARGE_SIZE,
        }
    }
}
