//! Accepting: in bounded batches, never spinning, never giving up on the listening socket.

use std::io;
use std::net::SocketAddr;

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};

use crate::logging::Limiter;
use crate::redirection::RedirectionId;
use crate::sys::clock::Tick;
use crate::sys::sockopt;
use crate::traffic::token::EventToken;

/// Connections accepted in one turn of the loop before the established ones get theirs.
const BATCH: usize = 64;

/// Ticks to wait after the kernel had no descriptor or memory for another connection.
const PAUSE: Tick = 10;

/// Ticks to wait after a whole batch of failures. A security module that forbids accept(2) leaves the client in the queue.
const SHORT_PAUSE: Tick = 1;

/// The listening sockets of a worker.
#[derive(Debug)]
pub(crate) struct Acceptor {
    listeners: Vec<Listener>,
    paused_until: Option<Tick>,
    /// Failures since the last connection that was accepted.
    failures: usize,
    limiter: Limiter,
    /// How often accepting was paused.
    pub pauses: u64,
}

#[derive(Debug)]
struct Listener {
    socket: TcpListener,
    redirection: RedirectionId,
    /// Its queue is not proven to be empty.
    ready: bool,
    /// Its queue was empty once. What is accepted since then has inherited the options of the listener: a service manager
    /// starts this program because of a connection that waits, and knows none of them.
    emptied: bool,
}

impl Acceptor {
    /// Takes over listening sockets, which are non-blocking, each with the number of its redirection.
    pub(crate) fn new(listeners: Vec<(std::net::TcpListener, RedirectionId)>) -> Acceptor {
        let listener = |(socket, redirection)| {
            let socket = TcpListener::from_std(socket);
            Listener { socket, redirection, ready: false, emptied: false }
        };
        let listeners = listeners.into_iter().map(listener);
        Acceptor { listeners: listeners.collect(), paused_until: None, failures: 0, limiter: Limiter::new(), pauses: 0 }
    }

    /// Asks for events.
    pub(crate) fn register(&mut self, registry: &Registry) -> io::Result<()> {
        for (number, listener) in self.listeners.iter_mut().enumerate() {
            registry.register(
                &mut listener.socket,
                Token::from(EventToken::Listener(number as u32)),
                Interest::READABLE,
            )?;
        }
        Ok(())
    }

    /// Connections are waiting at this listener.
    pub(crate) fn readable(&mut self, number: u32) {
        if let Some(listener) = self.listeners.get_mut(number as usize) {
            listener.ready = true;
        }
    }

    /// Whether connections may be waiting that can be accepted now. No further event will tell of them.
    pub(crate) fn has_work(&self, now: Tick) -> bool {
        !self.is_paused(now) && self.listeners.iter().any(|listener| listener.ready)
    }

    /// When a pause ends in which connections may be waiting.
    pub(crate) fn pause_ends(&self) -> Option<Tick> {
        self.paused_until.filter(|_| self.listeners.iter().any(|listener| listener.ready))
    }

    fn is_paused(&self, now: Tick) -> bool {
        self.paused_until.is_some_and(|until| now < until)
    }

    /// A connection was closed, which frees what accepting was paused for.
    pub(crate) fn resume(&mut self) {
        self.paused_until = None;
    }

    /// Accepts at most a batch of connections, and no more than there is `room` for.
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
        for number in 0..self.listeners.len() {
            while left > 0 && self.listeners[number].ready {
                match self.listeners[number].socket.accept() {
                    Ok((stream, peer)) => {
                        left -= 1;
                        self.failures = 0;
                        if !self.listeners[number].emptied
                            && let Err(error) = sockopt::be_prompt(&stream)
                        {
                            log::debug!("{peer}: {error}");
                        }
                        admit(self.listeners[number].redirection, stream, peer);
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
                self.listeners[number].ready = false;
                self.listeners[number].emptied = true;
                true
            }
            Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                self.pause(now.saturating_add(PAUSE), error);
                false
            }
            // An error of that one connection, which is gone; accept(2) lists them.
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

    /// Clients wait because there are as many connections as there may be.
    pub(crate) fn full(&mut self, places: usize) {
        if self.listeners.iter().any(|listener| listener.ready)
            && let Some(more) = self.limiter.pass()
        {
            self.pauses += 1;
            log::warn!("all {places} places are taken: new clients wait until a connection ends{more}");
        }
    }

    /// Closes the listeners.
    pub(crate) fn close(&mut self) {
        self.listeners.clear();
    }
}
