//! The connections of a worker: from admission to the line in the log.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token};

use crate::logging::Limiter;
use crate::protocol::addr_pair::AddrPair;
use crate::protocol::proxy_header::{self, Version};
use crate::redirection::RedirectionId;
use crate::sys::{message, sockopt};
use crate::traffic::access_log::{AccessLog, ConnectionId, LogRecord};
use crate::traffic::bulk::BulkStreams;
use crate::traffic::counters::Counters;
use crate::traffic::dialer::{Dialed, Dialer};
use crate::traffic::flow::{Shared, Side, Socket};
use crate::traffic::host_check::HostCheck;
use crate::traffic::http_filter::HttpFilter;
use crate::traffic::pipe::{Pipe, Pool};
use crate::traffic::preread::{Preread, PrereadStep};
use crate::traffic::relay::{CloseReason, Front, Progress, Relay, Route};
use crate::traffic::service::{Destination, Service, Via};
use crate::traffic::slots::Slots;
use crate::traffic::timers::{Deadlines, TICK, Tick};
use crate::traffic::token::{EventToken, Key, Peer};
use crate::traffic::tunnel::TunnelHandshake;

/// A relay of real sockets through real pipes.
type TcpRelay = Relay<TcpStream, Pipe>;

/// Who has a slot.
#[derive(Debug)]
enum Connection {
    Preread(Preread),
    Relay(TcpRelay),
}

/// How the events of a socket are asked for: the first time, or again with another token.
type Register = fn(&Registry, &mut TcpStream, Token, Interest) -> io::Result<()>;

const INTEREST: Interest = Interest::READABLE.add(Interest::WRITABLE).add(Interest::PRIORITY);

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

/// All connections, and what they share.
#[derive(Debug)]
pub(crate) struct Connections {
    table: Slots<Connection>,
    places: usize,
    deadlines: Deadlines,
    queue: VecDeque<Key>,
    bulk: BulkStreams,
    shared: Shared<Pool>,
    dialer: Dialer,
    host_check: HostCheck,
    access_log: AccessLog,
    counters: Counters,
    next_id: u64,
    start: Instant,
    milliseconds: u64,
    trouble: Limiter,
    /// Set when a connection has ended, until somebody takes notice.
    pub freed: bool,
    registry: Registry,
}

impl Connections {
    /// For at most `places` connections at once.
    pub(crate) fn new(
        dialer: Dialer,
        places: usize,
        pool: Pool,
        access_log: AccessLog,
        registry: Registry,
    ) -> io::Result<Connections> {
        Ok(Connections {
            table: Slots::with_capacity(places),
            places,
            deadlines: Deadlines::with_capacity(places),
            queue: VecDeque::with_capacity(places),
            bulk: BulkStreams::new(places)?,
            shared: Shared::new(pool),
            dialer,
            host_check: HostCheck::default(),
            next_id: access_log.first_id(),
            access_log,
            counters: Counters::default(),
            start: Instant::now(),
            milliseconds: 0,
            trouble: Limiter::new(),
            freed: false,
            registry,
        })
    }

    /// Looks at the clock, once per turn of the loop.
    pub(crate) fn tell_time(&mut self) {
        self.milliseconds = self.start.elapsed().as_millis() as u64;
    }

    /// The time of this turn.
    pub(crate) fn time(&self) -> Tick {
        (self.milliseconds / TICK.as_millis() as u64) as Tick
    }

    /// Connections that can still be admitted.
    pub(crate) fn room(&self) -> usize {
        self.places - self.table.len()
    }

    /// How many connections there are.
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there is no connection.
    pub(crate) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Who decides about new connections.
    pub(crate) fn dialer(&mut self) -> &mut Dialer {
        &mut self.dialer
    }

    /// Tries whether upstreams answer again.
    pub(crate) fn probe(&mut self) {
        self.dialer.probe(self.time(), &self.registry);
    }

    /// Where the lines go.
    pub(crate) fn access_log(&mut self) -> &mut AccessLog {
        &mut self.access_log
    }

    /// Takes an accepted connection of a redirection in, or resets it with a line in the log.
    pub(crate) fn admit(&mut self, redirection: RedirectionId, client: TcpStream, peer: SocketAddr) {
        let now = self.time();
        self.counters.accepted += 1;
        let id = self.next_id;
        self.next_id += 1;
        let (route, reason) = match self.dialer.route(redirection, &client, peer, now) {
            Ok(route) => (route, None),
            Err((route, reason)) => (route, Some(reason)),
        };
        let mut preread = Preread::new(client, redirection, route, id, self.milliseconds);
        if let Some(reason) = reason {
            return self.refuse(&preread, &reason);
        }
        preread.enrolled = !self.dialer.service(redirection).accept_proxy;
        preread.await_words(self.dialer.service(redirection), now);
        match listen(&mut preread, &mut self.dialer, &mut self.shared.buffer, now) {
            PrereadStep::Waiting => self.seat(preread),
            said => self.heard(preread, said, Registry::register),
        }
    }

    /// Gives a guest a place to wait in.
    fn seat(&mut self, mut preread: Preread) {
        let due = preread.due().max(self.time() + 1);
        let Some(key) = self.table.next_key() else { return };
        let token = Token::from(EventToken::Connection(key, Peer::Client));
        if let Err(error) = self.registry.register(&mut preread.side.socket, token, INTEREST) {
            return self.refuse(&preread, &CloseReason::ConnectFailed(error));
        }
        if self.table.insert(Connection::Preread(preread)).is_ok() {
            self.deadlines.set(key.slot, due);
        }
    }

    /// A guest that was waiting has said enough.
    fn leave(&mut self, key: Key, said: PrereadStep) {
        if let Some(Connection::Preread(preread)) = self.table.remove(key) {
            self.deadlines.cancel(key.slot);
            self.heard(preread, said, Registry::reregister);
        }
    }

    fn heard(&mut self, preread: Preread, said: PrereadStep, register: Register) {
        match said {
            PrereadStep::Asked(name) => self.dial(preread, name.as_deref(), register),
            PrereadStep::Wrong(reason) => self.refuse(&preread, &reason),
            PrereadStep::Waiting | PrereadStep::Introduced(_) => {}
        }
    }

    /// Makes a relay of a guest.
    fn dial(&mut self, preread: Preread, name: Option<&str>, register: Register) {
        let now = self.time();
        let Preread { redirection, id, started, mut route, .. } = preread;
        let mut attempt = self.dialer.begin(redirection, &route);
        let dialed = match self.dialer.dial(redirection, &route, &mut attempt, None, now) {
            Ok(dialed) => dialed,
            Err(reason) => return self.refuse(&preread, &reason),
        };
        (route.local, route.upstream) = (dialed.local, dialed.upstream);
        let front = front(self.dialer.service(redirection), &route, name);
        let mut relay = Relay::connecting(preread.side, dialed.socket, route, attempt, front);
        (relay.redirection, relay.id, relay.started) = (redirection, id, started);
        relay.touch(now);
        if let Err(error) = self.watch(&mut relay, register) {
            reset(&relay.client.socket);
            self.dialer.forget(&route);
            self.dialer.discharge(&route);
            self.freed = true;
            return self.report(id, redirection, &route, (0, 0), started, &CloseReason::ConnectFailed(error));
        }
        if let Ok(key) = self.table.insert(Connection::Relay(relay)) {
            self.set_deadline(key);
        }
    }

    /// Asks for the events of a relay's sockets, in the name of the slot that it will get.
    fn watch(&self, relay: &mut TcpRelay, register: Register) -> io::Result<()> {
        let key = self.table.next_key().ok_or_else(|| io::Error::other("the table is full"))?;
        let token = |peer| Token::from(EventToken::Connection(key, peer));
        register(&self.registry, &mut relay.client.socket, token(Peer::Client), INTEREST)?;
        self.registry.register(&mut relay.upstream.socket, token(Peer::Upstream), INTEREST)
    }

    fn refuse(&mut self, preread: &Preread, reason: &CloseReason) {
        reset(&preread.side.socket);
        self.discharge(preread);
        self.freed = true;
        self.report(preread.id, preread.redirection, &preread.route, (0, 0), preread.started, reason);
    }

    fn discharge(&mut self, preread: &Preread) {
        if preread.enrolled {
            self.dialer.discharge(&preread.route);
        }
    }

    /// The sockets of a relay have something to tell.
    pub(crate) fn event(&mut self, key: Key, peer: Peer, event: &Event) {
        let now = self.time();
        let relay = match self.table.get_mut(key) {
            Some(Connection::Relay(relay)) => relay,
            Some(Connection::Preread(preread)) => {
                observe(&mut preread.side, event);
                return match event.is_error() {
                    true => self.leave(key, PrereadStep::Wrong(CloseReason::Reset(Peer::Client))),
                    false => self.overhear(key),
                };
            }
            None => return,
        };
        observe(relay.side(peer), event);
        if event.is_error() && relay.is_asking() && peer == Peer::Upstream {
            // What the proxy said before it failed comes first.
            self.advance(key);
        }
        let Some(Connection::Relay(relay)) = self.table.get_mut(key) else { return };
        let socket = &relay.side(peer).socket;
        let error = if event.is_error() { socket.take_error().ok().flatten() } else { None };
        if relay.is_connecting() && peer == Peer::Upstream {
            match error {
                Some(error) => return self.dial_again(key, error),
                None if event.is_writable() && !event.is_error() => return self.connected(key),
                None => return,
            }
        } else if error.is_some() {
            if let Progress::Done(reason) = relay.failed(peer, now, &mut self.shared.pool) {
                return self.close(key, &reason);
            }
            // Whoever has failed has another patience than before, which may have been none.
            self.set_deadline(key);
        }
        self.advance(key);
    }

    /// A guest may have said something.
    fn overhear(&mut self, key: Key) {
        let now = self.time();
        let Some(Connection::Preread(preread)) = self.table.get_mut(key) else { return };
        match listen(preread, &mut self.dialer, &mut self.shared.buffer, now) {
            // Also when that is over: bytes that drip in do not put it off.
            PrereadStep::Waiting => self.deadlines.set(key.slot, preread.due()),
            said => self.leave(key, said),
        }
    }

    /// The upstream of a relay has answered.
    fn connected(&mut self, key: Key) {
        let now = self.time();
        let Some(Connection::Relay(relay)) = self.table.get_mut(key) else { return };
        let service = self.dialer.service(relay.redirection);
        let to_proxy = !relay.attempt.fell_back || service.destination == Destination::Original;
        if !to_proxy {
            relay.be_plain();
        }
        relay.connected(now);
        if let Via::Tcp(Some(version)) = service.via
            && to_proxy
        {
            let header = introduction(version, &relay.route, &relay.client.socket);
            relay.introduce(&header, &mut self.shared, now);
        }
        self.dialer.worked(relay.redirection, relay.route.upstream.socket_addr());
        self.set_deadline(key);
        self.advance(key);
        if let Some(Connection::Relay(relay)) = self.table.get_mut(key)
            && relay.moved().0 == 0
            && let Err(error) = relay.upstream.socket.acknowledge()
        {
            log::debug!("{}: {error}", ConnectionId(relay.id));
        }
    }

    /// Tries the next address of the upstream.
    fn dial_again(&mut self, key: Key, error: io::Error) {
        let now = self.time();
        let Some(Connection::Relay(relay)) = self.table.get_mut(key) else { return };
        self.dialer.forget(&relay.route);
        self.dialer.failed(relay.redirection, relay.route.upstream.socket_addr(), &error, now);
        let Dialed { mut socket, local, upstream } =
            match self.dialer.dial(relay.redirection, &relay.route, &mut relay.attempt, Some(error), now) {
                Ok(dialed) => dialed,
                Err(reason) => return self.close(key, &reason),
            };
        let token = Token::from(EventToken::Connection(key, Peer::Upstream));
        if let Err(error) = self.registry.register(&mut socket, token, INTEREST) {
            return self.close(key, &CloseReason::ConnectFailed(error));
        }
        (relay.route.local, relay.route.upstream) = (local, upstream);
        relay.reconnecting(socket, now);
        self.set_deadline(key);
    }

    /// Gives a relay its turn.
    fn advance(&mut self, key: Key) {
        let now = self.time();
        let Some(Connection::Relay(relay)) = self.table.get_mut(key) else { return };
        let before = relay.due_class();
        let again = match relay.advance(&mut self.shared, now) {
            Progress::Waiting => false,
            Progress::Again => true,
            Progress::Done(reason) => return self.close(key, &reason),
        };
        let question = relay.question();
        let due_changed = relay.due_class() != before;
        if relay.is_endless() != relay.is_bulk {
            self.change_bulk(key);
        }
        if due_changed {
            self.set_deadline(key);
        }
        if question.is_some_and(|name| self.is_answered(key, name)) || again {
            self.enqueue(key);
        }
    }

    /// Gives a relay another turn, after the others had theirs.
    fn enqueue(&mut self, key: Key) {
        let Some(Connection::Relay(relay)) = self.table.get_mut(key) else { return };
        if !relay.queued {
            relay.queued = true;
            if relay.is_bulk { self.bulk.push(key) } else { self.queue.push_back(key) }
        }
    }

    /// An endless stream goes to the lane, what has turned out to be none comes back. Whose events cannot be asked for
    /// there stays where it is.
    fn change_bulk(&mut self, key: Key) {
        let Some(Connection::Relay(relay)) = self.table.get_mut(key) else { return };
        let (from, to) = match relay.is_bulk {
            true => (self.bulk.registry(), &self.registry),
            false => (&self.registry, self.bulk.registry()),
        };
        if let Err(error) = move_events(key, relay, from, to) {
            return log::debug!("{}: registering: {error}", ConnectionId(relay.id));
        }
        relay.is_bulk = !relay.is_bulk;
        if relay.is_bulk { self.bulk.enter() } else { self.bulk.leave() }
    }

    /// Answers the question of a relay, if it does not have to wait for that.
    fn is_answered(&mut self, key: Key, name: Box<str>) -> bool {
        let now = self.time();
        let Some(Connection::Relay(relay)) = self.table.get_mut(key) else { return false };
        let genuine = match self.host_check.leads_to(&name, relay.route.original.ip(), now) {
            Some(genuine) => genuine,
            None if self.host_check.ask(name, key, now) => return false,
            None => false,
        };
        relay.answer(genuine);
        true
    }

    /// The next name that has to be looked up.
    pub(crate) fn question(&mut self) -> Option<Box<str>> {
        self.host_check.question()
    }

    /// A name that was looked up has these addresses.
    pub(crate) fn learn(&mut self, name: &str, addresses: Vec<IpAddr>) {
        let now = self.time();
        let waiting = self.host_check.learn(name, addresses.clone(), now);
        self.tell(&waiting, &addresses);
    }

    fn tell(&mut self, waiting: &[Key], addresses: &[IpAddr]) {
        for key in waiting {
            if let Some(Connection::Relay(relay)) = self.table.get_mut(*key) {
                relay.answer(addresses.contains(&relay.route.original.ip()));
                self.advance(*key);
            }
        }
    }

    /// Whether some relay could go on without an event.
    pub(crate) fn has_work(&self) -> bool {
        !self.queue.is_empty() || self.bulk.has_work()
    }

    /// Waits for an event of `others` or of an endless stream, if there is one. Whether it has waited.
    pub(crate) fn wait_with_streams(&self, others: &Poll, timeout: Option<Duration>) -> io::Result<bool> {
        if self.bulk.is_empty() {
            return Ok(false);
        }
        self.bulk.wait(others, timeout)?;
        Ok(true)
    }

    /// Gives the next endless stream its turn, just one: the others come first. `events` is room for theirs.
    pub(crate) fn run_stream(&mut self, events: &mut Events) -> io::Result<()> {
        if self.bulk.is_empty() && !self.bulk.has_work() {
            return Ok(());
        }
        self.bulk.collect(events)?;
        for event in &*events {
            if let EventToken::Connection(key, peer) = EventToken::from(event.token()) {
                self.stream_event(key, peer, event);
            }
        }
        let Some(key) = self.bulk.pop() else { return Ok(()) };
        let Some(Connection::Relay(relay)) = self.table.get_mut(key) else { return Ok(()) };
        relay.queued = false;
        let (up, down) = relay.moved();
        self.advance(key);
        if let Some(Connection::Relay(relay)) = self.table.get_mut(key) {
            let moved = relay.moved();
            self.bulk.note(moved.0 - up + moved.1 - down);
        }
        Ok(())
    }

    fn stream_event(&mut self, key: Key, peer: Peer, event: &Event) {
        match self.table.get_mut(key) {
            Some(Connection::Relay(relay)) if !event.is_error() => {
                observe(relay.side(peer), event);
                self.enqueue(key);
            }
            _ => self.event(key, peer, event),
        }
    }

    /// Gives each relay in the queue one turn.
    pub(crate) fn run_queue(&mut self) {
        for _ in 0..self.queue.len() {
            let Some(key) = self.queue.pop_front() else { return };
            if let Some(Connection::Relay(relay)) = self.table.get_mut(key) {
                relay.queued = false;
                self.advance(key);
            }
        }
    }

    fn set_deadline(&mut self, key: Key) {
        let next = self.time() + 1;
        let Some(Connection::Relay(relay)) = self.table.get_mut(key) else { return };
        match relay.due(self.dialer.timeouts(relay.redirection)) {
            Some(due) => self.deadlines.set(key.slot, due.max(next)),
            None => self.deadlines.cancel(key.slot),
        }
    }

    /// How many ticks may pass before [`Connections::expire`] has something to do.
    pub(crate) fn wait(&self) -> Option<Tick> {
        let now = self.time();
        let host_check = self.host_check.due().map(|due| due.saturating_sub(now));
        [self.deadlines.wait(now), host_check].into_iter().flatten().min()
    }

    /// Looks at the relays whose deadline has come.
    pub(crate) fn expire(&mut self) {
        let now = self.time();
        while let Some(slot) = self.deadlines.expire(now) {
            let Some(key) = self.table.key_at(slot) else { continue };
            let step = match self.table.get_mut(key) {
                Some(Connection::Relay(relay)) => relay.expire(self.dialer.timeouts(relay.redirection), now),
                Some(Connection::Preread(preread)) => {
                    let said = preread.give_up();
                    self.leave(key, said);
                    continue;
                }
                None => continue,
            };
            match step {
                Progress::Done(CloseReason::ConnectFailed(error)) => self.dial_again(key, error),
                Progress::Done(reason) => self.close(key, &reason),
                Progress::Waiting | Progress::Again => self.set_deadline(key),
            }
        }
        loop {
            let waiting = self.host_check.expire(now);
            if waiting.is_empty() {
                return;
            }
            self.tell(&waiting, &[]);
        }
    }

    /// AddrPair a relay: resets what has to be reset, tells the log, frees the slot.
    fn close(&mut self, key: Key, reason: &CloseReason) {
        let Some(Connection::Relay(mut relay)) = self.table.remove(key) else { return };
        self.deadlines.cancel(key.slot);
        self.dialer.forget(&relay.route);
        self.dialer.discharge(&relay.route);
        if relay.is_bulk {
            self.bulk.leave();
        }
        relay.release(&mut self.shared.pool);
        if reason.is_reset() {
            reset(&relay.client.socket);
            reset(&relay.upstream.socket);
        }
        self.freed = true;
        self.report(relay.id, relay.redirection, &relay.route, relay.moved(), relay.started, reason);
    }

    /// Resets all that is left.
    pub(crate) fn close_all(&mut self) {
        for slot in 0..self.table.slots() {
            let Some(key) = self.table.key_at(slot) else { continue };
            match self.table.get_mut(key) {
                Some(Connection::Preread(_)) => self.leave(key, PrereadStep::Wrong(CloseReason::Stopped)),
                _ => self.close(key, &CloseReason::Stopped),
            }
        }
    }

    fn report(
        &mut self,
        id: u64,
        redirection: RedirectionId,
        route: &Route,
        moved: (u64, u64),
        started: u64,
        reason: &CloseReason,
    ) {
        let counters = &mut self.counters;
        counters.up += moved.0;
        counters.down += moved.1;
        match reason {
            CloseReason::Finished => counters.finished += 1,
            CloseReason::Reset(_) => counters.reset += 1,
            CloseReason::Idle | CloseReason::HalfClosed | CloseReason::Unheard => counters.timed_out += 1,
            CloseReason::ConnectFailed(_) | CloseReason::Refused(_) => counters.unreachable += 1,
            CloseReason::Denied
            | CloseReason::Loop
            | CloseReason::Crowded
            | CloseReason::Direct
            | CloseReason::Forbidden(_) => {
                counters.refused += 1;
            }
            CloseReason::NoHeader(_) | CloseReason::BadRequest(_) => counters.refused += 1,
            CloseReason::Stopped => counters.stopped += 1,
        }
        let lasted = self.milliseconds.saturating_sub(started);
        self.access_log.write(&LogRecord { id, route, moved, lasted, reason });
        if let CloseReason::ConnectFailed(error) = reason {
            self.dialer.unreachable(redirection, self.time());
            if let Some(more) = self.trouble.pass() {
                let Route { client, upstream, .. } = route;
                log::warn!("cannot reach the upstream {upstream} for {client}: {error}{more}");
            }
        }
    }

    /// What happened so far, and what is held now.
    pub(crate) fn counters(&self) -> Counters {
        Counters { open: self.table.len() as u64, pipes: self.shared.pool.lent() as u64, ..self.counters }
    }

    /// Tells the log of the connections in the slots from `first` on, a bounded number of them. Returns where to go on.
    pub(crate) fn log_connections(&mut self, first: u32) -> Option<u32> {
        const SLICE: u32 = 64;
        let peer = first.saturating_add(SLICE).min(self.table.slots());
        for slot in first..peer {
            if let Some(key) = self.table.key_at(slot)
                && let Some(Connection::Relay(relay)) = self.table.get_mut(key)
            {
                let lasted = self.milliseconds.saturating_sub(relay.started);
                let reason = if relay.is_connecting() { "connecting" } else { "open" };
                let (id, route, moved) = (relay.id, &relay.route, relay.moved());
                log::info!("{}", LogRecord { id, route, moved, lasted, reason: &reason });
            }
        }
        (peer < self.table.slots()).then_some(peer)
    }
}

/// What a guest has said, as far as that decides something.
fn listen(preread: &mut Preread, dialer: &mut Dialer, buffer: &mut [u8], now: Tick) -> PrereadStep {
    loop {
        match preread.listen(dialer.service(preread.redirection), buffer, now) {
            PrereadStep::Introduced(addrs) => {
                if let Err(reason) = dialer.introduce(preread.redirection, &mut preread.route, addrs, now) {
                    return PrereadStep::Wrong(reason);
                }
                preread.enrolled = true;
            }
            said => return said,
        }
    }
}

/// Has the events of both sockets told by `to` and no longer by `from`. In between they are told by both, which does no
/// harm; of a socket that is ready already the new one tells at once.
fn move_events(key: Key, relay: &TcpRelay, from: &Registry, to: &Registry) -> io::Result<()> {
    let sides = [(Peer::Client, relay.client.socket.as_raw_fd()), (Peer::Upstream, relay.upstream.socket.as_raw_fd())];
    for (peer, descriptor) in sides {
        to.register(&mut SourceFd(&descriptor), Token::from(EventToken::Connection(key, peer)), INTEREST)?;
    }
    sides.iter().try_for_each(|(_, descriptor)| from.deregister(&mut SourceFd(descriptor)))
}

/// What stands between the client and a proxy.
fn front(service: &Service, route: &Route, name: Option<&str>) -> Option<Box<Front>> {
    let (client, original) = (route.client.socket_addr(), route.original.socket_addr());
    Some(Box::new(match &service.via {
        Via::Tcp(_) => return None,
        Via::Tunnel(tunnel) => Front::TunnelHandshake(TunnelHandshake::new(tunnel, original, name)),
        Via::Http(rewriting, tunnel) => {
            Front::HttpFilter(HttpFilter::new(AddrPair { client, original }, rewriting.clone(), tunnel.clone()))
        }
    }))
}

/// The PROXY header of a connection. One that was not redirected was going to where it arrived.
fn introduction(version: Version, route: &Route, client: &TcpStream) -> Vec<u8> {
    let destination = match route.original.is_known() {
        true => route.original.socket_addr(),
        false => client.local_addr().unwrap_or_else(|_| route.local.socket_addr()),
    };
    let mut header = Vec::new();
    proxy_header::write(version, route.client.socket_addr(), destination, &mut header);
    header
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
