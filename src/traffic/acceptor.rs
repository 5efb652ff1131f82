//! Accepting: in bounded batches, never spinning, never giving up on the listening socket.

use std::io;
use std::net::SocketAddr;

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};

use crate::logging::Limiter;
use crate::redirection::RedirectionId;
use crate::traffic::timers::Tick;
use crate::traffic::token::EventToken;

/// Connections accepted in one turn of the loop before the established ones get theirs.
const BATCH: usize = 64;

/// Ticks to wait after the kernel had no descriptor or memory for another connection.
const PAUSE: Tick = 10;

/// Ticks to wait after a whole batch of failures: whoever forbids accepting leaves the client in the queue.
const SHORT_PAUSE: Tick = 1;

/// The listening sockets of a worker.
#[derive(Debug)]
pub(crate) struct Acceptor {
    doors: Vec<Door>,
    paused_until: Option<Tick>,
    /// Failures since the last client that was let in.
    failures: usize,
    limiter: Limiter,
    /// How often accepting was paused.
    pub pauses: u64,
}

#[derive(Debug)]
struct Door {
    listener: TcpListener,
    /// The redirection whose clients come in here.
    redirection: RedirectionId,
    /// Not proven to have nobody waiting.
    ready: bool,
}

impl Acceptor {
    /// Takes over listening sockets, which are non-blocking, each with the number of its redirection.
    pub(crate) fn new(listeners: Vec<(std::net::TcpListener, RedirectionId)>) -> Acceptor {
        let door =
            |(listener, redirection)| Door { listener: TcpListener::from_std(listener), redirection, ready: false };
        let doors = listeners.into_iter().map(door);
        Acceptor { doors: doors.collect(), paused_until: None, failures: 0, limiter: Limiter::new(), pauses: 0 }
    }

    /// Asks for events.
    pub(crate) fn register(&mut self, registry: &Registry) -> io::Result<()> {
        for (number, door) in self.doors.iter_mut().enumerate() {
            registry.register(
                &mut door.listener,
                Token::from(EventToken::Listener(number as u32)),
                Interest::READABLE,
            )?;
        }
        Ok(())
    }

    /// Somebody is waiting at this door.
    pub(crate) fn rung(&mut self, number: u32) {
        if let Some(door) = self.doors.get_mut(number as usize) {
            door.ready = true;
        }
    }

    /// Whether clients may be waiting that can be let in now; no further event will tell of them.
    pub(crate) fn has_work(&self, now: Tick) -> bool {
        !self.is_paused(now) && self.doors.iter().any(|door| door.ready)
    }

    /// When a pause ends in which clients may be waiting.
    pub(crate) fn pause_ends(&self) -> Option<Tick> {
        self.paused_until.filter(|_| self.doors.iter().any(|door| door.ready))
    }

    fn is_paused(&self, now: Tick) -> bool {
        self.paused_until.is_some_and(|until| now < until)
    }

    /// A connection has ended, and with it the reason for a pause.
    pub(crate) fn resume(&mut self) {
        self.paused_until = None;
    }

    /// The next clients: at most a batch of them, and no more than there is `room` for.
    pub(crate) fn accept(
        &mut self,
        room: usize,
        now: Tick,
        mut admit: impl FnMut(RedirectionId, TcpStream, SocketAddr),
    ) {
        if self.is_paused(now) {
            return;
        }
        self.paused_until = None;
        let mut left = BATCH.min(room);
        for number in 0..self.doors.len() {
            while left > 0 && self.doors[number].ready {
                match self.doors[number].listener.accept() {
                    Ok((stream, peer)) => {
                        left -= 1;
                        self.failures = 0;
                        admit(self.doors[number].redirection, stream, peer);
                    }
                    Err(error) => {
                        if !self.survive(number, &error, now) {
                            return;
                        }
                    }
                }
            }
        }
    }

    /// Classifies a failed accept(2). `false` when accepting has to pause.
    fn survive(&mut self, number: usize, error: &io::Error, now: Tick) -> bool {
        match error.raw_os_error() {
            Some(libc::EAGAIN) => {
                self.doors[number].ready = false;
                true
            }
            Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                self.pause(now.saturating_add(PAUSE), error);
                false
            }
            // Trouble of that one connection, which is gone; accept(2) lists them.
            _ => {
                log::debug!("accept: {error}");
                self.failures += 1;
                if self.failures < BATCH {
                    return true;
                }
                self.failures = 0;
                self.pause(now.saturating_add(SHORT_PAUSE), error);
                false
            }
        }
    }

    fn pause(&mut self, until: Tick, error: &io::Error) {
        self.paused_until = Some(until);
        self.pauses += 1;
        if let Some(more) = self.limiter.pass() {
            log::warn!("accepting pauses: {error}; clients wait{more}");
        }
    }

    /// Clients wait because all places are taken.
    pub(crate) fn full(&mut self, places: usize) {
        if self.doors.iter().any(|door| door.ready)
            && let Some(more) = self.limiter.pass()
        {
            self.pauses += 1;
            log::warn!("all {places} places are taken: new clients wait until a connection ends{more}");
        }
    }

    /// Closes the doors.
    pub(crate) fn close(&mut self) {
        self.doors.clear();
    }
}
