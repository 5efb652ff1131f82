//! Two TCP connections as Linux shows them to a process that waits with edge-triggered epoll: what is ready is told
//! when something new comes, once, as it is at the time of asking.
//!
//! Each rule here was seen on a kernel (6.18) or read in its source (net/ipv4/tcp.c, tcp_input.c, fs/eventpoll.c).

use std::io::{self, ErrorKind};

use tproxy::testing::Peer;

/// What epoll tells of a socket, in mio's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// EPOLLIN or EPOLLPRI.
    pub readable: bool,
    /// EPOLLOUT.
    pub writable: bool,
    /// EPOLLERR.
    pub error: bool,
    /// EPOLLRDHUP or EPOLLHUP.
    pub read_closed: bool,
    /// EPOLLPRI.
    pub priority: bool,
}

/// What a splice from the socket did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spliced {
    /// These bytes went into the pipe.
    Took { at: u64, count: usize },
    /// EAGAIN.
    Dry,
    /// It returned 0.
    Eof,
}

/// One connection: the daemon's socket, and of the peer what the socket knows of it.
#[derive(Debug)]
pub struct Wire {
    /// The handshake is not over.
    pub connecting: bool,
    /// Bytes that have come from the peer, and how many of them were read.
    pub arrived: u64,
    pub read: u64,
    /// How far was looked without reading.
    pub seen: u64,
    /// Where the segments end that are in the receive queue. Only a splice sees them.
    segments: Vec<u64>,
    /// The urgent byte, while it is unread.
    pub mark: Option<u64>,
    /// `SO_OOBINLINE`.
    pub inline: bool,
    /// Urgent bytes that a read went past without it.
    pub holes: Vec<u64>,
    /// The peer's FIN has come.
    pub ended: bool,
    /// The connection is reset.
    pub gone: bool,
    /// `sk_err`.
    error: Option<ErrorKind>,
    /// Bytes that were written, and how many of them the peer has acknowledged.
    pub accepted: u64,
    pub acknowledged: u64,
    /// PipeSize of the send buffer.
    pub room: u64,
    /// `SOCK_NOSPACE`: a write or a poll has found the buffer full, and its emptying is to be told.
    no_space: bool,
    /// So many writes will find no memory.
    pub choked: u32,
    /// The next write finds memory for so much, if not 0.
    pub nibble: usize,
    /// `shutdown(SHUT_WR)` was called, and the FIN acknowledged.
    pub finished: bool,
    finish_acknowledged: bool,
    /// In epoll's list of those that may have something to tell.
    pub ready: bool,
}

impl Wire {
    /// A connection with a send buffer of `room` bytes.
    pub fn new(connecting: bool, room: u64) -> Wire {
        Wire {
            connecting,
            arrived: 0,
            read: 0,
            seen: 0,
            segments: Vec::new(),
            mark: None,
            inline: false,
            holes: Vec::new(),
            ended: false,
            gone: false,
            error: None,
            accepted: 0,
            acknowledged: 0,
            room,
            no_space: false,
            choked: 0,
            nibble: 0,
            finished: false,
            finish_acknowledged: false,
            ready: false,
        }
    }

    /// Whether both ends have said their last, or one has reset it.
    pub fn is_closed(&self) -> bool {
        self.gone || self.ended && self.finished && self.finish_acknowledged
    }

    fn queued(&self) -> u64 {
        self.accepted - self.acknowledged
    }

    fn free(&self) -> u64 {
        self.room.saturating_sub(self.queued())
    }

    /// A third of the buffer is free (`sk_stream_is_writeable`).
    fn is_writable(&self) -> bool {
        self.free() > 0 && self.free() * 2 >= self.queued()
    }

    /// Something happened at the socket.
    pub fn wake(&mut self) {
        self.ready = true;
    }

    /// What the peer and the network do.
    pub fn connect(&mut self) {
        self.connecting = false;
        self.wake();
    }

    pub fn say(&mut self, segments: u32, size: u64) {
        for _ in 0..segments {
            self.arrived += size;
            self.segments.push(self.arrived);
        }
        self.wake();
    }

    /// The last byte of the segment is urgent. There is one urgent mark at a time.
    pub fn say_urgently(&mut self, size: u64) {
        self.say(1, size);
        self.mark.get_or_insert(self.arrived - 1);
    }

    pub fn end(&mut self) {
        self.ended = true;
        self.wake();
    }

    /// `tcp_reset`. What was received stays, what was to be sent is thrown away.
    pub fn reset(&mut self) {
        self.error = Some(match () {
            () if self.connecting => ErrorKind::ConnectionRefused,
            () if self.ended => ErrorKind::BrokenPipe,
            () => ErrorKind::ConnectionReset,
        });
        self.gone = true;
        self.wake();
    }

    pub fn acknowledge(&mut self, count: u64) {
        self.acknowledged += count.min(self.queued());
        if self.queued() == 0 {
            self.finish_acknowledged = self.finished;
        }
        self.tell_space();
    }

    /// The send buffer gets another size.
    pub fn resize(&mut self, room: u64) {
        self.room = room;
        self.tell_space();
    }

    /// `sk_stream_write_space`.
    fn tell_space(&mut self) {
        if self.no_space && self.is_writable() {
            self.no_space = false;
            self.wake();
        }
    }

    /// What epoll has to tell, if anything.
    pub fn poll(&mut self) -> Option<Event> {
        self.ready = false;
        if self.connecting && self.error.is_none() {
            return None;
        }
        let no_more = self.ended || self.gone;
        let urgent_only = self.mark == Some(self.read) && !self.inline;
        let input = no_more || self.arrived - self.read > u64::from(urgent_only);
        let writable = self.finished || self.gone || self.is_writable();
        self.no_space |= !writable;
        let event = Event {
            readable: input || self.mark.is_some(),
            writable,
            error: self.error.is_some(),
            read_closed: no_more,
            priority: self.mark.is_some(),
        };
        (event.readable || event.writable || event.error).then_some(event)
    }

    /// The system calls. First `SO_ERROR`.
    pub fn take_error(&mut self) -> Option<ErrorKind> {
        self.error.take()
    }

    /// A read of up to `most` bytes: where they begin and how many there are.
    pub fn receive(&mut self, most: usize) -> io::Result<(u64, usize)> {
        let (at, count) = self.peek(most)?;
        self.consume(count as u64);
        Ok((at, count))
    }

    /// The same without taking them. An urgent byte that is not in line is passed over for good.
    pub fn peek(&mut self, most: usize) -> io::Result<(u64, usize)> {
        if self.mark == Some(self.read) {
            self.mark = None;
            if !self.inline {
                self.holes.push(self.read);
                self.consume(1);
            }
        }
        let stop = self.mark.unwrap_or(self.arrived);
        if stop == self.read {
            return match self.nothing_to_read()? {
                Spliced::Dry => Err(ErrorKind::WouldBlock.into()),
                _ => Ok((self.read, 0)),
            };
        }
        let count = (stop - self.read).min(most as u64);
        self.seen = self.read + count;
        Ok((self.read, count as usize))
    }

    fn nothing_to_read(&mut self) -> io::Result<Spliced> {
        match self.error {
            Some(_) if !self.ended => Err(self.error.take().unwrap_or(ErrorKind::Other).into()),
            _ if self.ended || self.gone => Ok(Spliced::Eof),
            _ => Ok(Spliced::Dry),
        }
    }

    fn consume(&mut self, count: u64) {
        self.read += count;
        let read = self.read;
        self.segments.retain(|end| *end > read);
    }

    /// A splice of up to `most` bytes into an empty pipe, of which each segment takes a slot. It stops before an urgent
    /// byte, and then says of what it finds there what it would say of an empty queue.
    pub fn splice(&mut self, most: usize, slots: usize) -> io::Result<Spliced> {
        let stop = self.mark.unwrap_or(self.arrived);
        if stop == self.read {
            return self.nothing_to_read();
        }
        let last = self.segments.iter().take(slots).next_back().copied().unwrap_or(self.arrived);
        let (at, count) = (self.read, (last.min(stop) - self.read).min(most as u64));
        self.consume(count);
        Ok(Spliced::Took { at, count: count as usize })
    }

    /// How many of `most` bytes a write takes.
    pub fn send(&mut self, most: usize) -> io::Result<usize> {
        if let Some(error) = self.error.take() {
            return Err(error.into());
        }
        if self.gone || self.finished {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let nibble = if self.nibble == 0 { usize::MAX } else { std::mem::take(&mut self.nibble) };
        let count = self.free().min(most.min(nibble) as u64);
        if count == 0 || self.choked > 0 {
            return self.blocked();
        }
        self.no_space |= count < most as u64;
        self.accepted += count;
        Ok(count as usize)
    }

    /// With nothing under way no acknowledgement would come to tell that there is memory again: the kernel wakes at
    /// once (`tcp_sendmsg_locked`).
    fn blocked(&mut self) -> io::Result<usize> {
        self.no_space = true;
        self.choked = self.choked.saturating_sub(1);
        if self.queued() == 0 {
            self.tell_space();
        }
        Err(ErrorKind::WouldBlock.into())
    }

    /// `shutdown(SHUT_WR)`.
    pub fn finish(&mut self) -> io::Result<()> {
        if self.gone {
            return Err(ErrorKind::NotConnected.into());
        }
        self.finished = true;
        Ok(())
    }

    /// `SIOCOUTQ`. The FIN counts as a byte; a reset leaves the figure as it was.
    pub fn unacknowledged(&self) -> usize {
        self.queued() as usize + usize::from(self.finished && !self.finish_acknowledged)
    }
}

/// The two sockets of a relay.
#[derive(Debug)]
pub struct Wires(pub [Wire; 2]);

impl std::ops::Index<Peer> for Wires {
    type Output = Wire;
    fn index(&self, end: Peer) -> &Wire {
        &self.0[usize::from(end == Peer::Upstream)]
    }
}

impl std::ops::IndexMut<Peer> for Wires {
    fn index_mut(&mut self, end: Peer) -> &mut Wire {
        &mut self.0[usize::from(end == Peer::Upstream)]
    }
}
