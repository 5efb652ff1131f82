//! TCP sockets of the kernel, with its pipes between them.

use std::io;

use mio::net::TcpStream;

use crate::relay::io::{Io, Socket};
use crate::relay::pipe::{Pipe, Pool};
use crate::sys::{message, sockopt};

/// The sockets and pipes of the kernel.
#[derive(Debug)]
pub(crate) enum Tcp {}

impl Io for Tcp {
    type Socket = TcpStream;
    type Pipe = Pipe;
    type Pool = Pool;
}

impl Socket for TcpStream {
    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        uninterrupted(|| io::Read::read(&mut &*self, buffer))
    }
    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        uninterrupted(|| io::Write::write(&mut &*self, bytes))
    }
    fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        uninterrupted(|| TcpStream::peek(self, buffer))
    }
    fn discard(&self, buffer: &mut [u8]) -> io::Result<usize> {
        uninterrupted(|| message::discard(self, buffer))
    }
    fn send_before_end(&self, bytes: &[u8]) -> io::Result<usize> {
        uninterrupted(|| message::send_with_more(self, bytes))
    }
    fn finish(&self) -> io::Result<()> {
        self.shutdown(std::net::Shutdown::Write)
    }
    fn acknowledge(&self) -> io::Result<()> {
        sockopt::acknowledge(self)
    }
    fn unacknowledged(&self) -> io::Result<usize> {
        sockopt::unacknowledged(self)
    }
}

/// Calls again when a signal came in between.
fn uninterrupted(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
