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
use crate::protocol::proxy_header::{self, Version};
use crate::protocol::request::Ends;
use crate::sys::{message, sockopt};
use crate::traffic::counters::Counters;
use crate::traffic::deadline::{Deadlines, TICK, Tick};
use crate::traffic::dialer::{Dialed, Dialer};
use crate::traffic::flow::{Kit, Side, Socket};
use crate::traffic::guest::{Guest, Said};
use crate::traffic::handshake::Handshake;
use crate::traffic::hosts::Hosts;
use crate::traffic::journal::{Entry, Journal, Number};
use crate::traffic::lane::Lane;
use crate::traffic::pipe::{Pipe, Pool};
use crate::traffic::relay::{Ending, Front, Relay, Route, Step};
use crate::traffic::rewriter::Rewriter;
use crate::traffic::service::{Destination, Service, Via};
use crate::traffic::table::Table;
use crate::traffic::wake::{End, Key, Wake};

/// A relay of real sockets through real pipes.
type TcpRelay = Relay<TcpStream, Pipe>;

/// Who has a slot.
#[derive(Debug)]
enum Seat {
    Guest(Guest),
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
pub struct Switchboard {
    seats: Table<Seat>,
    places: usize,
    deadlines: Deadlines,
    queue: VecDeque<Key>,
    lane: Lane,
    kit: Kit<Pool>,
    dialer: Dialer,
    hosts: Hosts,
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
    pub fn new(
        dialer: Dialer,
        places: usize,
        pool: Pool,
        journal: Journal,
        registry: Registry,
    ) -> io::Result<Switchboard> {
        Ok(Switchboard {
            seats: Table::with_capacity(places),
            places,
            deadlines: Deadlines::with_capacity(places),
            queue: VecDeque::with_capacity(places),
            lane: Lane::new(places)?,
            kit: Kit::new(pool),
            dialer,
            hosts: Hosts::default(),
            next_id: journal.first_id(),
            journal,
            counters: Counters::default(),
            start: Instant::now(),
            milliseconds: 0,
            trouble: Limiter::new(),
            freed: false,
            registry,
        })
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
        self.places - self.seats.len()
    }

    /// How many connections there are.
    pub fn len(&self) -> usize {
        self.seats.len()
    }

    /// Whether there is no connection.
    pub fn is_empty(&self) -> bool {
        self.seats.is_empty()
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
        let now = self.time();
        self.counters.accepted += 1;
        let id = self.next_id;
        self.next_id += 1;
        let (route, ending) = match self.dialer.route(line, &client, peer, now) {
            Ok(route) => (route, None),
            Err((route, ending)) => (route, Some(ending)),
        };
        let mut guest = Guest::new(client, line, route, id, self.milliseconds);
        if let Some(ending) = ending {
            return self.refuse(&guest, &ending);
        }
        guest.enrolled = !self.dialer.service(line).accept_proxy;
        guest.await_words(self.dialer.service(line), now);
        match listen(&mut guest, &mut self.dialer, &mut self.kit.buffer, now) {
            Said::Waiting => self.seat(guest),
            said => self.heard(guest, said, Registry::register),
        }
    }

    /// Gives a guest a place to wait in.
    fn seat(&mut self, mut guest: Guest) {
        let due = guest.due().max(self.time() + 1);
        let Some(key) = self.seats.next_key() else { return };
        let token = Token::from(Wake::Relay(key, End::Client));
        if let Err(error) = self.registry.register(&mut guest.side.socket, token, INTEREST) {
            return self.refuse(&guest, &Ending::ConnectFailed(error));
        }
        if self.seats.insert(Seat::Guest(guest)).is_ok() {
            self.deadlines.set(key.slot, due);
        }
    }

    /// A guest that was waiting has said enough.
    fn leave(&mut self, key: Key, said: Said) {
        if let Some(Seat::Guest(guest)) = self.seats.remove(key) {
            self.deadlines.cancel(key.slot);
            self.heard(guest, said, Registry::reregister);
        }
    }

    fn heard(&mut self, guest: Guest, said: Said, register: Register) {
        match said {
            Said::Asked(name) => self.dial(guest, name.as_deref(), register),
            Said::Wrong(ending) => self.refuse(&guest, &ending),
            Said::Waiting | Said::Introduced(_) => {}
        }
    }

    /// Makes a relay of a guest.
    fn dial(&mut self, guest: Guest, name: Option<&str>, register: Register) {
        let now = self.time();
        let Guest { line, id, started, mut route, .. } = guest;
        let mut attempt = self.dialer.begin(line, &route);
        let dialed = match self.dialer.dial(line, &route, &mut attempt, None, now) {
            Ok(dialed) => dialed,
            Err(ending) => return self.refuse(&guest, &ending),
        };
        (route.local, route.upstream) = (dialed.local, dialed.upstream);
        let front = front(self.dialer.service(line), &route, name);
        let mut relay = Relay::connecting(guest.side, dialed.socket, route, attempt, front);
        (relay.line, relay.id, relay.started) = (line, id, started);
        relay.touch(now);
        if let Err(error) = self.watch(&mut relay, register) {
            reset(&relay.client.socket);
            self.dialer.forget(&route);
            self.dialer.discharge(&route);
            self.freed = true;
            return self.report(id, line, &route, (0, 0), started, &Ending::ConnectFailed(error));
        }
        if let Ok(key) = self.seats.insert(Seat::Relay(relay)) {
            self.set_deadline(key);
        }
    }

    /// Asks for the events of a relay's sockets, in the name of the slot that it will get.
    fn watch(&self, relay: &mut TcpRelay, register: Register) -> io::Result<()> {
        let key = self.seats.next_key().ok_or_else(|| io::Error::other("the table is full"))?;
        let token = |end| Token::from(Wake::Relay(key, end));
        register(&self.registry, &mut relay.client.socket, token(End::Client), INTEREST)?;
        self.registry.register(&mut relay.upstream.socket, token(End::Upstream), INTEREST)
    }

    fn refuse(&mut self, guest: &Guest, ending: &Ending) {
        reset(&guest.side.socket);
        self.discharge(guest);
        self.freed = true;
        self.report(guest.id, guest.line, &guest.route, (0, 0), guest.started, ending);
    }

    fn discharge(&mut self, guest: &Guest) {
        if guest.enrolled {
            self.dialer.discharge(&guest.route);
        }
    }

    /// The sockets of a relay have something to tell.
    pub fn event(&mut self, key: Key, end: End, event: &Event) {
        let now = self.time();
        let relay = match self.seats.get_mut(key) {
            Some(Seat::Relay(relay)) => relay,
            Some(Seat::Guest(guest)) => {
                observe(&mut guest.side, event);
                return match event.is_error() {
                    true => self.leave(key, Said::Wrong(Ending::Reset(End::Client))),
                    false => self.overhear(key),
                };
            }
            None => return,
        };
        observe(relay.side(end), event);
        if event.is_error() && relay.is_asking() && end == End::Upstream {
            // What the proxy said before it failed comes first.
            self.advance(key);
        }
        let Some(Seat::Relay(relay)) = self.seats.get_mut(key) else { return };
        let socket = &relay.side(end).socket;
        let error = if event.is_error() { socket.take_error().ok().flatten() } else { None };
        if relay.is_connecting() && end == End::Upstream {
            match error {
                Some(error) => return self.dial_again(key, error),
                None if event.is_writable() && !event.is_error() => return self.connected(key),
                None => return,
            }
        } else if error.is_some() {
            if let Step::Done(ending) = relay.failed(end, now, &mut self.kit.pool) {
                return self.close(key, &ending);
            }
            // Whoever has failed has another patience than before, which may have been none.
            self.set_deadline(key);
        }
        self.advance(key);
    }

    /// A guest may have said something.
    fn overhear(&mut self, key: Key) {
        let now = self.time();
        let Some(Seat::Guest(guest)) = self.seats.get_mut(key) else { return };
        match listen(guest, &mut self.dialer, &mut self.kit.buffer, now) {
            // Also when that is over: bytes that drip in do not put it off.
            Said::Waiting => self.deadlines.set(key.slot, guest.due()),
            said => self.leave(key, said),
        }
    }

    /// The upstream of a relay has answered.
    fn connected(&mut self, key: Key) {
        let now = self.time();
        let Some(Seat::Relay(relay)) = self.seats.get_mut(key) else { return };
        let service = self.dialer.service(relay.line);
        let to_proxy = !relay.attempt.fell_back || service.destination == Destination::Original;
        if !to_proxy {
            relay.be_plain();
        }
        relay.connected(now);
        if let Via::Tcp(Some(version)) = service.via
            && to_proxy
        {
            let header = introduction(version, &relay.route, &relay.client.socket);
            relay.introduce(&header, &mut self.kit, now);
        }
        self.dialer.worked(relay.line, relay.route.upstream.socket_addr());
        self.set_deadline(key);
        self.advance(key);
        if let Some(Seat::Relay(relay)) = self.seats.get_mut(key)
            && relay.moved().0 == 0
            && let Err(error) = relay.upstream.socket.acknowledge()
        {
            log::debug!("{}: {error}", Number(relay.id));
        }
    }

    /// Tries the next address of the upstream.
    fn dial_again(&mut self, key: Key, error: io::Error) {
        let now = self.time();
        let Some(Seat::Relay(relay)) = self.seats.get_mut(key) else { return };
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
        let Some(Seat::Relay(relay)) = self.seats.get_mut(key) else { return };
        let before = relay.due_class();
        let again = match relay.advance(&mut self.kit, now) {
            Step::Waiting => false,
            Step::Again => true,
            Step::Done(ending) => return self.close(key, &ending),
        };
        let question = relay.question();
        let due_changed = relay.due_class() != before;
        if relay.is_endless() != relay.in_lane {
            self.change_lane(key);
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
        let Some(Seat::Relay(relay)) = self.seats.get_mut(key) else { return };
        if !relay.queued {
            relay.queued = true;
            if relay.in_lane { self.lane.push(key) } else { self.queue.push_back(key) }
        }
    }

    /// An endless stream goes to the lane, what has turned out to be none comes back. Whose events cannot be asked for
    /// there stays where it is.
    fn change_lane(&mut self, key: Key) {
        let Some(Seat::Relay(relay)) = self.seats.get_mut(key) else { return };
        let (from, to) = match relay.in_lane {
            true => (self.lane.registry(), &self.registry),
            false => (&self.registry, self.lane.registry()),
        };
        if let Err(error) = move_events(key, relay, from, to) {
            return log::debug!("{}: registering: {error}", Number(relay.id));
        }
        relay.in_lane = !relay.in_lane;
        if relay.in_lane { self.lane.enter() } else { self.lane.leave() }
    }

    /// Answers the question of a relay, if it does not have to wait for that.
    fn is_answered(&mut self, key: Key, name: Box<str>) -> bool {
        let now = self.time();
        let Some(Seat::Relay(relay)) = self.seats.get_mut(key) else { return false };
        let genuine = match self.hosts.leads_to(&name, relay.route.original.ip(), now) {
            Some(genuine) => genuine,
            None if self.hosts.ask(name, key, now) => return false,
            None => false,
        };
        relay.answer(genuine);
        true
    }

    /// The next name that has to be looked up.
    pub fn question(&mut self) -> Option<Box<str>> {
        self.hosts.question()
    }

    /// A name that was looked up has these addresses.
    pub fn learn(&mut self, name: &str, addresses: Vec<IpAddr>) {
        let now = self.time();
        let waiting = self.hosts.learn(name, addresses.clone(), now);
        self.tell(&waiting, &addresses);
    }

    fn tell(&mut self, waiting: &[Key], addresses: &[IpAddr]) {
        for key in waiting {
            if let Some(Seat::Relay(relay)) = self.seats.get_mut(*key) {
                relay.answer(addresses.contains(&relay.route.original.ip()));
                self.advance(*key);
            }
        }
    }

    /// Whether some relay could go on without an event.
    pub fn has_work(&self) -> bool {
        !self.queue.is_empty() || self.lane.has_work()
    }

    /// Waits for an event of `others` or of an endless stream, if there is one. Whether it has waited.
    pub fn wait_with_streams(&self, others: &Poll, timeout: Option<Duration>) -> io::Result<bool> {
        if self.lane.is_empty() {
            return Ok(false);
        }
        self.lane.wait(others, timeout)?;
        Ok(true)
    }

    /// Gives the next endless stream its turn, just one: the others come first. `events` is room for theirs.
    pub fn run_stream(&mut self, events: &mut Events) -> io::Result<()> {
        if self.lane.is_empty() && !self.lane.has_work() {
            return Ok(());
        }
        self.lane.collect(events)?;
        for event in &*events {
            if let Wake::Relay(key, end) = Wake::from(event.token()) {
                self.stream_event(key, end, event);
            }
        }
        let Some(key) = self.lane.pop() else { return Ok(()) };
        let Some(Seat::Relay(relay)) = self.seats.get_mut(key) else { return Ok(()) };
        relay.queued = false;
        let (up, down) = relay.moved();
        self.advance(key);
        if let Some(Seat::Relay(relay)) = self.seats.get_mut(key) {
            let moved = relay.moved();
            self.lane.note(moved.0 - up + moved.1 - down);
        }
        Ok(())
    }

    fn stream_event(&mut self, key: Key, end: End, event: &Event) {
        match self.seats.get_mut(key) {
            Some(Seat::Relay(relay)) if !event.is_error() => {
                observe(relay.side(end), event);
                self.enqueue(key);
            }
            _ => self.event(key, end, event),
        }
    }

    /// Gives each relay in the queue one turn.
    pub fn run_queue(&mut self) {
        for _ in 0..self.queue.len() {
            let Some(key) = self.queue.pop_front() else { return };
            if let Some(Seat::Relay(relay)) = self.seats.get_mut(key) {
                relay.queued = false;
                self.advance(key);
            }
        }
    }

    fn set_deadline(&mut self, key: Key) {
        let next = self.time() + 1;
        let Some(Seat::Relay(relay)) = self.seats.get_mut(key) else { return };
        match relay.due(self.dialer.patience(relay.line)) {
            Some(due) => self.deadlines.set(key.slot, due.max(next)),
            None => self.deadlines.cancel(key.slot),
        }
    }

    /// How many ticks may pass before [`Switchboard::expire`] has something to do.
    pub fn wait(&self) -> Option<Tick> {
        let now = self.time();
        let hosts = self.hosts.due().map(|due| due.saturating_sub(now));
        [self.deadlines.wait(now), hosts].into_iter().flatten().min()
    }

    /// Looks at the relays whose deadline has come.
    pub fn expire(&mut self) {
        let now = self.time();
        while let Some(slot) = self.deadlines.expire(now) {
            let Some(key) = self.seats.key_at(slot) else { continue };
            let step = match self.seats.get_mut(key) {
                Some(Seat::Relay(relay)) => relay.expire(self.dialer.patience(relay.line), now),
                Some(Seat::Guest(guest)) => {
                    let said = guest.give_up();
                    self.leave(key, said);
                    continue;
                }
                None => continue,
            };
            match step {
                Step::Done(Ending::ConnectFailed(error)) => self.dial_again(key, error),
                Step::Done(ending) => self.close(key, &ending),
                Step::Waiting | Step::Again => self.set_deadline(key),
            }
        }
        loop {
            let waiting = self.hosts.expire(now);
            if waiting.is_empty() {
                return;
            }
            self.tell(&waiting, &[]);
        }
    }

    /// Ends a relay: resets what has to be reset, tells the log, frees the slot.
    fn close(&mut self, key: Key, ending: &Ending) {
        let Some(Seat::Relay(mut relay)) = self.seats.remove(key) else { return };
        self.deadlines.cancel(key.slot);
        self.dialer.forget(&relay.route);
        self.dialer.discharge(&relay.route);
        if relay.in_lane {
            self.lane.leave();
        }
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
        for slot in 0..self.seats.slots() {
            let Some(key) = self.seats.key_at(slot) else { continue };
            match self.seats.get_mut(key) {
                Some(Seat::Guest(_)) => self.leave(key, Said::Wrong(Ending::Stopped)),
                _ => self.close(key, &Ending::Stopped),
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
            Ending::Idle | Ending::HalfClosed | Ending::Unheard => counters.timed_out += 1,
            Ending::ConnectFailed(_) | Ending::Refused(_) => counters.unreachable += 1,
            Ending::Denied | Ending::Loop | Ending::Crowded | Ending::Direct | Ending::Forbidden(_) => {
                counters.refused += 1;
            }
            Ending::NoHeader(_) | Ending::BadRequest(_) => counters.refused += 1,
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

    /// What happened so far, and what is held now.
    pub fn counters(&self) -> Counters {
        Counters { open: self.seats.len() as u64, pipes: self.kit.pool.lent() as u64, ..self.counters }
    }

    /// Tells the log of the connections in the slots from `first` on, a bounded number of them. Returns where to go on.
    pub fn log_connections(&mut self, first: u32) -> Option<u32> {
        const SLICE: u32 = 64;
        let end = first.saturating_add(SLICE).min(self.seats.slots());
        for slot in first..end {
            if let Some(key) = self.seats.key_at(slot)
                && let Some(Seat::Relay(relay)) = self.seats.get_mut(key)
            {
                let lasted = self.milliseconds.saturating_sub(relay.started);
                let ending = if relay.is_connecting() { "connecting" } else { "open" };
                let (id, route, moved) = (relay.id, &relay.route, relay.moved());
                log::info!("{}", Entry { id, route, moved, lasted, ending: &ending });
            }
        }
        (end < self.seats.slots()).then_some(end)
    }
}

/// What a guest has said, as far as that decides something.
fn listen(guest: &mut Guest, dialer: &mut Dialer, buffer: &mut [u8], now: Tick) -> Said {
    loop {
        match guest.listen(dialer.service(guest.line), buffer, now) {
            Said::Introduced(ends) => {
                if let Err(ending) = dialer.introduce(guest.line, &mut guest.route, ends, now) {
                    return Said::Wrong(ending);
                }
                guest.enrolled = true;
            }
            said => return said,
        }
    }
}

/// Has the events of both sockets told by `to` and no longer by `from`. In between they are told by both, which does no
/// harm; of a socket that is ready already the new one tells at once.
fn move_events(key: Key, relay: &TcpRelay, from: &Registry, to: &Registry) -> io::Result<()> {
    let sides = [(End::Client, relay.client.socket.as_raw_fd()), (End::Upstream, relay.upstream.socket.as_raw_fd())];
    for (end, descriptor) in sides {
        to.register(&mut SourceFd(&descriptor), Token::from(Wake::Relay(key, end)), INTEREST)?;
    }
    sides.iter().try_for_each(|(_, descriptor)| from.deregister(&mut SourceFd(descriptor)))
}

/// What stands between the client and a proxy.
fn front(service: &Service, route: &Route, name: Option<&str>) -> Option<Box<Front>> {
    let (client, original) = (route.client.socket_addr(), route.original.socket_addr());
    Some(Box::new(match &service.via {
        Via::Tcp(_) => return None,
        Via::Tunnel(tunnel) => Front::Handshake(Handshake::new(tunnel, original, name)),
        Via::Http(rewriting, tunnel) => {
            Front::Rewriter(Rewriter::new(Ends { client, original }, rewriting.clone(), tunnel.clone()))
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
