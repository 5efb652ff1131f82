//! The sockets and pipes that the relay is given. What it does with them happens to the [`State`](super::net::State).

use std::io::{self, ErrorKind};
use std::marker::PhantomData;

use tproxy::testing::Peer;
use tproxy::testing::{Fill, LARGE_SIZE, PipeSize, USEFUL_SIZE};
use tproxy::testing::{Io, PipeIo, PipePool, Socket};

use super::kernel::Spliced;
use super::net::{Net, Seen};

/// Bytes in a page, which is what a slot of a pipe takes when written to.
const PAGE: usize = 4096;

/// The sockets and pipes of the model.
#[derive(Debug)]
pub struct Model<'n>(PhantomData<&'n Net>);

impl<'n> Io for Model<'n> {
    type Socket = Sock<'n>;
    type Pipe = Tube<'n>;
    type Pool = Lending<'n>;
}

/// A socket of the relay.
#[derive(Debug)]
pub struct Sock<'n>(pub &'n Net, pub Peer);

impl Socket for Sock<'_> {
    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.state().receive(self.1, buffer)
    }
    fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.state().peek(self.1, buffer)
    }
    fn discard(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.state().discard(self.1, buffer.len())
    }
    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.state().send(self.1, bytes)
    }
    fn send_before_end(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.state().send(self.1, bytes)
    }
    fn finish(&self) -> io::Result<()> {
        self.0.state().finish(self.1)
    }
    fn acknowledge(&self) -> io::Result<()> {
        Ok(())
    }
    fn unacknowledged(&self) -> io::Result<usize> {
        Ok(self.0.state().wires[self.1].unacknowledged())
    }
}

/// What a pipe holds.
#[derive(Debug)]
pub enum Load {
    /// So many bytes that were said there, from this one on.
    Range(Peer, u64, usize),
    /// These, from memory.
    Bytes(Vec<u8>),
}

impl Load {
    /// How many bytes that is.
    pub fn len(&self) -> usize {
        match self {
            Load::Range(.., count) => *count,
            Load::Bytes(bytes) => bytes.len(),
        }
    }

    fn drop_front(&mut self, count: usize) {
        match self {
            Load::Range(_, at, left) => (*at, *left) = (*at + count as u64, *left - count),
            Load::Bytes(bytes) => drop(bytes.drain(..count)),
        }
    }
}

/// A pipe.
#[derive(Debug)]
pub struct Tube<'n> {
    net: &'n Net,
    load: Load,
    slots: usize,
}

impl<'n> PipeIo for Tube<'n> {
    type Socket = Sock<'n>;

    fn held(&self) -> usize {
        self.load.len()
    }

    fn fill(&mut self, from: &Sock<'n>, max: usize) -> io::Result<Fill> {
        let mut state = self.net.state();
        state.call();
        if self.load.len() > 0 {
            state.breach("a pipe is filled that is not empty");
        }
        if !state.splices {
            return Err(ErrorKind::InvalidInput.into());
        }
        Ok(match state.wires[from.1].splice(max, self.slots)? {
            Spliced::Took { at, count } => {
                self.load = Load::Range(from.1, at, count);
                state.loaded += 1;
                state.see(Seen::Spliced);
                Fill::Took(count)
            }
            Spliced::Dry => Fill::Dry,
            Spliced::Eof => Fill::Eof,
        })
    }

    fn drain(&mut self, to: &Sock<'n>) -> io::Result<Option<usize>> {
        let mut state = self.net.state();
        match state.splice_out(to.1, &self.load) {
            Ok(count) => {
                self.load.drop_front(count);
                state.loaded -= u32::from(self.load.len() == 0);
                Ok(Some(count))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn store(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(self.slots * PAGE);
        let mut state = self.net.state();
        state.call();
        state.loaded += 1;
        state.see(if count < bytes.len() { Seen::StoredInPart } else { Seen::Stored });
        self.load = Load::Bytes(bytes[..count].into());
        Ok(count)
    }
}

/// Where the pipes come from.
#[derive(Debug)]
pub struct Lending<'n>(pub &'n Net);

impl<'n> PipePool for Lending<'n> {
    type Pipe = Tube<'n>;

    fn lend(&mut self, size: PipeSize) -> Option<Tube<'n>> {
        let mut state = self.0.state();
        if state.lent >= state.pipes {
            state.see(Seen::NoPipe);
            return None;
        }
        state.lent += 1;
        if state.lent > 2 {
            state.breach("a flow has more than one pipe");
        }
        let slots = state.slots as usize * if size == PipeSize::Large { LARGE_SIZE / USEFUL_SIZE } else { 1 };
        Some(Tube { net: self.0, load: Load::Bytes(Vec::new()), slots })
    }

    fn give_back(&mut self, pipe: Tube<'n>) {
        let mut state = self.0.state();
        state.lent -= 1;
        state.loaded -= u32::from(pipe.load.len() > 0);
    }

    fn is_scarce(&mut self) -> bool {
        let state = self.0.state();
        state.lent >= state.pipes / 2
    }
}
