//! Whose turn it is: the run queue, and apart from it the bulk streams, whose wake-ups are moderated.
//!
//! With a bulk stream a wake-up costs more than the bytes it brings: the sender's next segment wakes us, what we write
//! wakes the receiver, its acknowledgement wakes the sender, and each of them finds little to do. So the sockets of bulk
//! streams are in an epoll set of their own, and after a turn that moved much that set is not read for `REST`, as a
//! network card holds its interrupt back. What came in the meantime is moved at once, with one wake-up for everybody.
//!
//! No bulk stream carries anything that may wait for an answer (see [`Flow::is_bulk`](crate::relay::flow::Flow::is_bulk)),
//! and no other connection waits for the end of a rest: the others are looked at whenever one of them is ready, and come
//! first.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Registry};

use crate::sys::wait;
use crate::traffic::token::Key;

/// How long the bulk streams rest after a turn that moved much. docs/BENCHMARKS.md has what less and more of it do.
const REST: Duration = Duration::from_micros(100);

/// Bytes of all bulk streams together after which they rest.
const MUCH: u64 = 64 * 1024;

/// The connections that want a turn.
#[derive(Debug)]
pub(crate) struct Turns {
    queue: VecDeque<Key>,
    pub bulk: BulkStreams,
}

impl Turns {
    pub(crate) fn new(capacity: usize) -> io::Result<Turns> {
        Ok(Turns { queue: VecDeque::with_capacity(capacity), bulk: BulkStreams::new(capacity)? })
    }

    /// Adds a connection at the end of its queue.
    pub(crate) fn push(&mut self, key: Key, in_bulk: bool) {
        if in_bulk { self.bulk.ready.push_back(key) } else { self.queue.push_back(key) }
    }

    /// The next connection that is not a bulk stream.
    pub(crate) fn pop(&mut self) -> Option<Key> {
        self.queue.pop_front()
    }

    /// How many connections [`Turns::pop`] has now.
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether some connection can go on without an event.
    pub(crate) fn has_work(&self) -> bool {
        !self.queue.is_empty() || self.bulk.has_work()
    }
}

/// The bulk streams: their events and their turns.
#[derive(Debug)]
pub(crate) struct BulkStreams {
    poll: Poll,
    members: usize,
    ready: VecDeque<Key>,
    moved: u64,
    rests_until: Option<Instant>,
}

impl BulkStreams {
    fn new(capacity: usize) -> io::Result<BulkStreams> {
        let poll = Poll::new()?;
        Ok(BulkStreams { poll, members: 0, ready: VecDeque::with_capacity(capacity), moved: 0, rests_until: None })
    }

    /// The epoll set of their sockets.
    pub(crate) fn registry(&self) -> &Registry {
        self.poll.registry()
    }

    pub(crate) fn enter(&mut self) {
        self.members += 1;
    }

    pub(crate) fn leave(&mut self) {
        self.members -= 1;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.members == 0
    }

    pub(crate) fn has_work(&self) -> bool {
        !self.ready.is_empty()
    }

    pub(crate) fn pop(&mut self) -> Option<Key> {
        self.ready.pop_front()
    }

    /// A turn has moved so many bytes.
    pub(crate) fn note(&mut self, moved: u64) {
        self.moved += moved;
        if self.ready.is_empty() {
            self.rests_until = (self.moved >= MUCH).then(|| Instant::now() + REST);
            self.moved = 0;
        }
    }

    /// Waits until a socket of `others` is ready, or one of a bulk stream unless they rest, or the rest is over; at most
    /// for `timeout`.
    pub(crate) fn wait(&self, others: &Poll, timeout: Option<Duration>) -> io::Result<()> {
        let rest = self.rests_until.map(|until| until.saturating_duration_since(Instant::now()));
        let own = self.registry().as_fd();
        wait::for_either(
            others.registry().as_fd(),
            rest.is_none().then_some(own),
            rest.into_iter().chain(timeout).min(),
        )
    }

    /// Takes the events of the bulk streams, unless they rest.
    pub(crate) fn collect(&mut self, events: &mut Events) -> io::Result<()> {
        events.clear();
        if self.has_work() || self.rests_until.is_some_and(|until| Instant::now() < until) {
            return Ok(());
        }
        self.rests_until = None;
        match self.poll.poll(events, Some(Duration::ZERO)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
            _ => Ok(()),
        }
    }
}
