//! Bytes that a flow has taken from its source and that its sink has not taken yet.

use std::io::{self, ErrorKind};

use crate::relay::io::{Io, PipeIo, PipePool, PipeSize, Socket};

/// What a flow holds.
#[derive(Debug)]
pub(crate) enum Held<I: Io> {
    Nothing,
    Pipe(I::Pipe),
    /// No pipe was to be had.
    Memory {
        bytes: Box<[u8]>,
        sent: u32,
    },
}

impl<I: Io> Held<I> {
    /// Keeps bytes in memory.
    pub(crate) fn in_memory(bytes: &[u8]) -> Held<I> {
        if bytes.is_empty() { Held::Nothing } else { Held::Memory { bytes: bytes.into(), sent: 0 } }
    }

    /// Keeps bytes in a pipe, which costs no memory of ours, or else in memory.
    pub(crate) fn keep(bytes: &[u8], pool: &mut I::Pool) -> Held<I> {
        if let Some(mut pipe) = pool.lend(PipeSize::Usual) {
            if matches!(pipe.store(bytes), Ok(count) if count == bytes.len()) {
                return Held::Pipe(pipe);
            }
            pool.give_back(pipe);
        }
        Held::in_memory(bytes)
    }

    pub(crate) fn is_nothing(&self) -> bool {
        matches!(self, Held::Nothing)
    }

    /// Sends as much as the socket takes at once, and adds to `spliced` what it takes from a pipe. `None` when it takes
    /// nothing now.
    pub(crate) fn send(&mut self, socket: &I::Socket, spliced: &mut u64) -> io::Result<Option<usize>> {
        match self {
            Held::Nothing => Ok(Some(0)),
            Held::Pipe(pipe) => {
                let count = pipe.drain(socket)?;
                *spliced += count.unwrap_or(0) as u64;
                Ok(count)
            }
            Held::Memory { bytes, sent } => {
                let count = unless_blocked(socket.send(&bytes[*sent as usize..]))?;
                *sent += count.unwrap_or(0) as u32;
                Ok(count)
            }
        }
    }

    /// Whether all of it was sent.
    pub(crate) fn is_sent(&self) -> bool {
        match self {
            Held::Nothing => true,
            Held::Pipe(pipe) => pipe.held() == 0,
            Held::Memory { bytes, sent } => *sent as usize == bytes.len(),
        }
    }

    /// Holds nothing any more. What was not sent is lost.
    pub(crate) fn clear(&mut self, pool: &mut I::Pool) {
        if let Held::Pipe(pipe) = std::mem::replace(self, Held::Nothing) {
            pool.give_back(pipe);
        }
    }
}

/// `None` for "would block".
pub(crate) fn unless_blocked(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}
