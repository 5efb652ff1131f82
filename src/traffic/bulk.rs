//! The lane of endless streams: where wake-ups are moderated.
//!
//! With a stream a wake-up costs more than the bytes it brings: the sender's next segment wakes us, what we write wakes
//! the receiver, its acknowledgement wakes the sender, and each of them finds little to do. So the sockets of endless
//! streams stand in an epoll set of their own, and after a turn that moved much nobody looks at it for `REST`, as a
//! network card holds its interrupt back. What came in the meantime is moved at once, and everybody is woken once for
//! it.
//!
//! Nothing that may wait for an answer is in here (see [`Flow::is_endless`](crate::traffic::flow::Flow::is_endless)),
//! and nothing outside waits for the end of a rest: the others are looked at whenever one of them is ready, and come
//! first.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Registry};

use crate::sys::wait;
use crate::traffic::token::Key;

/// How long nobody looks at endless streams after a turn that moved much. docs/BENCHMARKS.md has what less and more
/// of it do.
const REST: Duration = Duration::from_micros(100);

/// Bytes, for all streams together, that make a rest worth while.
const MUCH: u64 = 64 * 1024;

/// The relays in the lane: their events and their turns.
#[derive(Debug)]
pub(crate) struct BulkStreams {
    poll: Poll,
    members: usize,
    ready: VecDeque<Key>,
    moved: u64,
    rests_until: Option<Instant>,
}

impl BulkStreams {
    /// An empty one.
    pub(crate) fn new(capacity: usize) -> io::Result<BulkStreams> {
        let poll = Poll::new()?;
        Ok(BulkStreams { poll, members: 0, ready: VecDeque::with_capacity(capacity), moved: 0, rests_until: None })
    }

    /// Where sockets in the lane are registered.
    pub(crate) fn registry(&self) -> &Registry {
        self.poll.registry()
    }

    /// One more relay has come.
    pub(crate) fn enter(&mut self) {
        self.members += 1;
    }

    /// One has left.
    pub(crate) fn leave(&mut self) {
        self.members -= 1;
    }

    /// Whether there is no stream.
    pub(crate) fn is_empty(&self) -> bool {
        self.members == 0
    }

    /// Whether some stream could have its turn now.
    pub(crate) fn has_work(&self) -> bool {
        !self.ready.is_empty()
    }

    /// A relay shall have a turn.
    pub(crate) fn push(&mut self, key: Key) {
        self.ready.push_back(key);
    }

    /// Whose turn it is.
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

    /// Waits until a socket of `others` is ready, or one in the lane while it does not rest, or the rest is over; at
    /// most for `timeout`.
    pub(crate) fn wait(&self, others: &Poll, timeout: Option<Duration>) -> io::Result<()> {
        let rest = self.rests_until.map(|until| until.saturating_duration_since(Instant::now()));
        let own = self.registry().as_fd();
        wait::for_either(
            others.registry().as_fd(),
            rest.is_none().then_some(own),
            rest.into_iter().chain(timeout).min(),
        )
    }

    /// Takes the events of the lane, unless it rests.
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
