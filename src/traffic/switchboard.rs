//! The connections of a worker: from admission to the line in the log.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use crate::logging::Limiter;
use crate::sys::sockopt;
use crate::traffic::deadline::{Deadlines, TICK, Tick};
use crate::traffic::dialer::{Dialed, Dialer};
use crate::traffic::flow::{Kit, Side, Socket};
use crate::traffic::journal::{Entry, Journal};
use crate::traffic::pipe::{Pipe, Pool};
use crate::traffic::relay::{Ending, Relay, Route, Step};
use crate::traffic::table::Table;
use crate::traffic::wake::{End, Key, Wake};

/// A relay of real sockets through real pipes.
pub type TcpRelay = Relay<TcpStream, Pipe>;

const INTEREST: Interest = Interest::READABLE.add(Interest::WRITABLE).add(Interest::PRIORITY);

impl Socket for TcpStream {
    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        io::Read::read(&mut &*self, buffer)
    }
    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        io::Write::write(&mut &*self, bytes)
    }
    fn finish(&self) -> io::Result<()> {
        self.shutdown(std::net::Shutdown::Write)
    }
    fn unacknowledged(&self) -> io::Result<usize> {
        sockopt::unacknowledged(self)
    }
}

/// What happened so far.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counters {
    accepted: u64,
    finished: u64,
    reset: u64,
    timed_out: u64,
    unreachable: u64,
    refused: u64,
    stopped: u64,
    up: u64,
    down: u64,
}

/// All connections, and what they share.
#[derive(Debug)]
pub struct Switchboard {
    relays: Table<TcpRelay>,
    places: usize,
    deadlines: Deadlines,
    queue: VecDeque<Key>,
    kit: Kit<Pool>,
    dialer: Dialer,
    journal: Journal,
    counters: Counters,
    next_id: u64,
    start: Instant,
    milliseconds: u64,
    trouble: Limiter,
    /// Set when a connection has ended, until somebody takes notice.
    pub freed: bool,
    registry: Registry,
}

impl Switchboard {
    /// For at most `places` connections at once.
    pub fn new(dialer: Dialer, places: usize, pool: Pool, journal: Journal, registry: Registry) -> Switchboard {
        Switchboard {
            relays: Table::with_capacity(places),
            places,
            deadlines: Deadlines::with_capacity(places),
            queue: VecDeque::with_capacity(places),
            kit: Kit::new(pool),
            dialer,
            journal,
            counters: Counters::default(),
            next_id: 1,
            start: Instant::now(),
            milliseconds: 0,
            trouble: Limiter::new(),
            freed: false,
            registry,
        }
    }

    /// Looks at the clock, once per turn of the loop.
    pub fn tell_time(&mut self) {
        self.milliseconds = self.start.elapsed().as_millis() as u64;
    }

    /// The time of this turn.
    pub fn time(&self) -> Tick {
        (self.milliseconds / TICK.as_millis() as u64) as Tick
    }

    /// Connections that can still be admitted.
    pub fn room(&self) -> usize {
        self.places - self.relays.len()
    }

    /// How many connections there are.
    pub fn len(&self) -> usize {
        self.relays.len()
    }

    /// Whether there is no connection.
    pub fn is_empty(&self) -> bool {
        self.relays.is_empty()
    }

    /// Who decides about new connections.
    pub fn dialer(&mut self) -> &mut Dialer {
        &mut self.dialer
    }

    /// Tries whether upstreams answer again.
    pub fn probe(&mut self) {
        self.dialer.probe(self.time(), &self.registry);
    }

    /// Where the lines go.
    pub fn journal(&mut self) -> &mut Journal {
        &mut self.journal
    }

    /// Takes an accepted connection of a redirection in, or resets it with a line in the log.
    pub fn admit(&mut self, line: u16, client: TcpStream, peer: SocketAddr) {
        self.counters.accepted += 1;
        let id = self.next_id;
        self.next_id += 1;
        let mut route = match self.dialer.route(line, &client, peer) {
            Ok(route) => route,
            Err((route, ending)) => return self.refuse(id, line, client, &route, &ending),
        };
        let mut attempt = self.dialer.begin(line, &route);
        let dialed = match self.dialer.dial(line, &route, &mut attempt, None, self.time()) {
            Ok(dialed) => dialed,
            Err(ending) => return self.refuse(id, line, client, &route, &ending),
        };
        (route.local, route.upstream) = (dialed.local, dialed.upstream);
        let mut relay = Relay::connecting(client, dialed.socket, id, line, route, attempt);
        relay.started = self.milliseconds;
        relay.touch(self.time());
        match self.place(relay) {
            Ok(key) => self.set_deadline(key),
            Err(error) => log::warn!("#{id}: registering: {error}"),
        }
    }

    /// Gives the relay a slot and asks for the events of its sockets.
    fn place(&mut self, mut relay: TcpRelay) -> io::Result<Key> {
        let key = self.relays.next_key().ok_or_else(|| io::Error::other("the table is full"))?;
        for end in [End::Client, End::Upstream] {
            let token = Token::from(Wake::Relay(key, end));
            self.registry.register(&mut relay.side(end).socket, token, INTEREST)?;
        }
        self.relays.insert(relay).map_err(|_| io::Error::other("the table is full"))
    }

    fn refuse(&mut self, id: u64, line: u16, client: TcpStream, route: &Route, ending: &Ending) {
        reset(&client);
        drop(client);
        self.freed = true;
        self.report(id, line, route, (0, 0), self.milliseconds, ending);
    }

    /// The sockets of a relay have something to tell.
    pub fn event(&mut self, key: Key, end: End, event: &Event) {
        let now = self.time();
        let Some(relay) = self.relays.get_mut(key) else { return };
        let side = relay.side(end);
        observe(side, event);
        let error = if event.is_error() { side.socket.take_error().ok().flatten() } else { None };
        if relay.is_connecting() && end == End::Upstream {
            match error {
                Some(error) => return self.dial_again(key, error),
                None if event.is_writable() && !event.is_error() => {
                    relay.connected(now);
                    self.dialer.worked(relay.line, relay.route.upstream.socket_addr());
                    self.set_deadline(key);
                }
                None => return,
            }
        } else if error.is_some()
            && let Step::Done(ending) = relay.failed(end, now, &mut self.kit.pool)
        {
            return self.close(key, &ending);
        }
        self.advance(key);
    }

    /// Tries the next address of the upstream.
    fn dial_again(&mut self, key: Key, error: io::Error) {
        let now = self.time();
        let Some(relay) = self.relays.get_mut(key) else { return };
        self.dialer.forget(&relay.route);
        self.dialer.failed(relay.line, relay.route.upstream.socket_addr(), &error, now);
        let Dialed { mut socket, local, upstream } =
            match self.dialer.dial(relay.line, &relay.route, &mut relay.attempt, Some(error), now) {
                Ok(dialed) => dialed,
                Err(ending) => return self.close(key, &ending),
            };
        let token = Token::from(Wake::Relay(key, End::Upstream));
        if let Err(error) = self.registry.register(&mut socket, token, INTEREST) {
            return self.close(key, &Ending::ConnectFailed(error));
        }
        (relay.route.local, relay.route.upstream) = (local, upstream);
        relay.reconnecting(socket, now);
        self.set_deadline(key);
    }

    /// Gives a relay its turn.
    fn advance(&mut self, key: Key) {
        let now = self.time();
        let Some(relay) = self.relays.get_mut(key) else { return };
        let before = relay.due_class();
        match relay.advance(&mut self.kit, now) {
            Step::Waiting => {}
            Step::Again if relay.queued => {}
            Step::Again => {
                relay.queued = true;
                self.queue.push_back(key);
            }
            Step::Done(ending) => return self.close(key, &ending),
        }
        if self.relays.get_mut(key).is_some_and(|relay| relay.due_class() != before) {
            self.set_deadline(key);
        }
    }

    /// Whether some relay could go on without an event.
    pub fn has_work(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Gives each relay in the queue one turn.
    pub fn run_queue(&mut self) {
        for _ in 0..self.queue.len() {
            let Some(key) = self.queue.pop_front() else { return };
            if let Some(relay) = self.relays.get_mut(key) {
                relay.queued = false;
                self.advance(key);
            }
        }
    }

    fn set_deadline(&mut self, key: Key) {
        let next = self.time() + 1;
        let Some(relay) = self.relays.get_mut(key) else { return };
        match relay.due(self.dialer.patience(relay.line)) {
            Some(due) => self.deadlines.set(key.slot, due.max(next)),
            None => self.deadlines.cancel(key.slot),
        }
    }

    /// How many ticks may pass before [`Switchboard::expire`] has something to do.
    pub fn wait(&self) -> Option<Tick> {
        self.deadlines.wait(self.time())
    }

    /// Looks at the relays whose deadline has come.
    pub fn expire(&mut self) {
        let now = self.time();
        while let Some(slot) = self.deadlines.expire(now) {
            let Some(key) = self.relays.key_at(slot) else { continue };
            let Some(relay) = self.relays.get_mut(key) else { continue };
            match relay.expire(self.dialer.patience(relay.line), now) {
                Step::Done(Ending::ConnectFailed(error)) => self.dial_again(key, error),
                Step::Done(ending) => self.close(key, &ending),
                Step::Waiting | Step::Again => self.set_deadline(key),
            }
        }
    }

    /// Ends a relay: resets what has to be reset, tells the log, frees the slot.
    fn close(&mut self, key: Key, ending: &Ending) {
        let Some(mut relay) = self.relays.remove(key) else { return };
        self.deadlines.cancel(key.slot);
        self.dialer.forget(&relay.route);
        relay.release(&mut self.kit.pool);
        if ending.is_reset() {
            reset(&relay.client.socket);
            reset(&relay.upstream.socket);
        }
        self.freed = true;
        self.report(relay.id, relay.line, &relay.route, relay.moved(), relay.started, ending);
    }

    /// Resets all that is left.
    pub fn close_all(&mut self) {
        for slot in 0..self.relays.slots() {
            if let Some(key) = self.relays.key_at(slot) {
                self.close(key, &Ending::Stopped);
            }
        }
    }

    fn report(&mut self, id: u64, line: u16, route: &Route, moved: (u64, u64), started: u64, ending: &Ending) {
        let counters = &mut self.counters;
        counters.up += moved.0;
        counters.down += moved.1;
        match ending {
            Ending::Finished => counters.finished += 1,
            Ending::Reset(_) => counters.reset += 1,
            Ending::Idle | Ending::HalfClosed => counters.timed_out += 1,
            Ending::ConnectFailed(_) => counters.unreachable += 1,
            Ending::Denied | Ending::Loop => counters.refused += 1,
            Ending::Stopped => counters.stopped += 1,
        }
        let lasted = self.milliseconds.saturating_sub(started);
        self.journal.write(&Entry { id, route, moved, lasted, ending });
        if let Ending::ConnectFailed(error) = ending {
            self.dialer.unreachable(line, self.time());
            if let Some(more) = self.trouble.pass() {
                let Route { client, upstream, .. } = route;
                log::warn!("cannot reach the upstream {upstream} for {client}: {error}{more}");
            }
        }
    }

    /// Tells the log the counters.
    pub fn log_counters(&self, pauses: u64) {
        let Counters { accepted, finished, reset, timed_out, unreachable, refused, stopped, up, down } = self.counters;
        log::info!(
            "counters: {accepted} accepted, {} open, {finished} finished, {reset} reset, {timed_out} timed out, \
             {unreachable} unreachable, {refused} refused, {stopped} stopped; {up} bytes up, {down} bytes down; \
             {} pipes lent; {pauses} pauses",
            self.relays.len(),
            self.kit.pool.lent(),
        );
    }

    /// Tells the log of the connections in the slots from `first` on, a bounded number of them. Returns where to go on.
    pub fn log_connections(&mut self, first: u32) -> Option<u32> {
        const SLICE: u32 = 64;
        let end = first.saturating_add(SLICE).min(self.relays.slots());
        for slot in first..end {
            if let Some(key) = self.relays.key_at(slot)
                && let Some(relay) = self.relays.get_mut(key)
            {
                let lasted = self.milliseconds.saturating_sub(relay.started);
                let ending = if relay.is_connecting() { "connecting" } else { "open" };
                let (id, route, moved) = (relay.id, &relay.route, relay.moved());
                log::info!("{}", Entry { id, route, moved, lasted, ending: &ending });
            }
        }
        (end < self.relays.slots()).then_some(end)
    }
}

fn observe(side: &mut Side<TcpStream>, event: &Event) {
    side.can_read |= event.is_readable() || event.is_read_closed() || event.is_error();
    side.can_write |= event.is_writable() || event.is_error();
    side.hung_up |= event.is_read_closed() || event.is_error();
    if event.is_priority() && !side.urgent {
        side.urgent = true;
        if let Err(error) = sockopt::urgent_inline(&side.socket) {
            log::debug!("urgent data cannot be kept in line: {error}");
        }
    }
}

/// The peer shall see that this was not a regular end.
fn reset(socket: &TcpStream) {
    if let Err(error) = sockopt::reset_on_close(socket) {
        log::debug!("reset: {error}");
    }
}
