//! From an accepted connection to one that is relayed: admission, the first bytes, and the dialing of the upstream.

use std::io;
use std::net::SocketAddr;

use mio::Registry;
use mio::net::TcpStream;

use super::Connections;
use crate::redirection::RedirectionId;
use crate::relay::close::CloseReason;
use crate::relay::io::Socket;
use crate::relay::relay::Relay;
use crate::relay::side::{Peer, Side};
use crate::relay::tcp::Tcp;
use crate::sys::clock::Tick;
use crate::sys::shortage;
use crate::traffic::connection::{Connection, INTEREST, Register, Relayed, reset, token};
use crate::traffic::dialer::{Dialed, Dialer, NotDialed};
use crate::traffic::layer;
use crate::traffic::preread::{Preread, PrereadStep};
use crate::traffic::service::{Destination, Via};
use crate::traffic::session::{Route, Session};
use crate::traffic::token::Key;

impl Connections {
    /// Takes in an accepted connection, or resets it with a line in the log.
    pub(crate) fn admit(&mut self, redirection: RedirectionId, client: TcpStream, from: SocketAddr) {
        let now = self.time();
        self.records.counters.accepted(redirection);
        let (id, route) = (self.next_id.take(), Route::from(from));
        let session = Session {
            id,
            started: self.milliseconds,
            redirection,
            counted: false,
            from_elsewhere: false,
            as_client: false,
            route,
        };
        let mut preread = Preread::new(client, session);
        if let Err(reason) = self.dialer.admit(&mut preread.session, &preread.side.socket) {
            return self.refuse(&preread, &reason);
        }
        preread.begin(self.dialer.service(redirection), now);
        match read_ahead(&mut preread, &mut self.dialer, &mut self.shared.buffer, now) {
            PrereadStep::Waiting => drop(self.insert_preread(preread, Registry::register)),
            step => self.leave_preread(preread, step, Registry::register),
        }
    }

    fn insert_preread(&mut self, mut preread: Preread, register: Register) -> Option<Key> {
        let due = preread.due().max(self.time() + 1);
        let key = self.table.next_key()?;
        if let Err(error) = register(&self.registry, &mut preread.side.socket, token(key, Peer::Client), INTEREST) {
            let reason = self.dialer.admission.shortage(error, preread.session.route.client, None);
            self.refuse(&preread, &reason);
            return None;
        }
        let key = self.table.insert(Connection::Preread(preread)).ok()?;
        self.deadlines.set(key.slot, due);
        Some(key)
    }

    /// A preread that has its place in the table is over.
    pub(super) fn remove_preread(&mut self, key: Key, step: PrereadStep) {
        if let Some(Connection::Preread(preread)) = self.table.remove(key) {
            self.deadlines.cancel(key.slot);
            self.leave_preread(preread, step, Registry::reregister);
        }
    }

    fn leave_preread(&mut self, preread: Preread, step: PrereadStep, register: Register) {
        match step {
            PrereadStep::Ready(Some(name)) => match self.believes(&preread.session, &name) {
                Some(believed) => self.dial(preread, Some(&*name).filter(|_| believed), register),
                None => self.look_up(preread, name, register),
            },
            PrereadStep::Ready(None) => self.dial(preread, None, register),
            PrereadStep::Close(reason) => self.refuse(&preread, &reason),
            PrereadStep::Waiting | PrereadStep::Header(_) => {}
        }
    }

    /// Has the name looked up that the client asks for.
    fn look_up(&mut self, mut preread: Preread, name: String, register: Register) {
        let now = self.time();
        preread.await_answer(self.dialer.service(preread.session.redirection), now);
        let Some(key) = self.insert_preread(preread, register) else { return };
        if !self.host_check.ask(name.into(), key, now) {
            self.remove_preread(key, PrereadStep::Ready(None));
        }
    }

    /// It is known whether the name of a connection that waits is believed.
    pub(super) fn answer_preread(&mut self, key: Key, name: Option<&str>) {
        if let Some(Connection::Preread(preread)) = self.table.remove(key) {
            self.deadlines.cancel(key.slot);
            self.dial(preread, name, Registry::reregister);
        }
    }

    /// Starts connecting to the upstream. `name` is the one that the client asks for.
    fn dial(&mut self, mut preread: Preread, name: Option<&str>, register: Register) {
        let now = self.time();
        let mut attempt = self.dialer.begin(&preread.session);
        let dialed = match self.dialer.dial(&preread.session, &mut attempt, None, now) {
            Ok(dialed) => dialed,
            Err(NotDialed::Closed(reason)) => return self.refuse(&preread, &reason),
            Err(NotDialed::NoSocket) => return self.await_socket(preread, name, register),
        };
        self.records.count_departure(dialed.departure);
        let route = &mut preread.session.route;
        (route.local, route.upstream) = (dialed.local, dialed.upstream);
        let Preread { session, mut side, .. } = preread;
        let layer = layer::proxy_layer(self.dialer.service(session.redirection), &session.route, name);
        let pacing = self.dialer.redirections.pacing(session.redirection);
        side.paces = pacing.client;
        let upstream = Side { paces: pacing.upstream, ..Side::new(dialed.socket) };
        let relay = Relay::connecting(side, upstream, layer, now);
        let mut relayed = Relayed::new(session, relay, attempt, self.microseconds as u32);
        if let Err(error) = self.register(&mut relayed.relay, register) {
            let reason = self.dialer.admission.shortage(error, relayed.session.route.client, None);
            return self.closed(relayed, &reason);
        }
        if let Ok(key) = self.table.insert(Connection::Relayed(relayed)) {
            self.set_deadline(key);
        }
    }

    /// The connection waits until the guardian has sent sockets.
    fn await_socket(&mut self, mut preread: Preread, name: Option<&str>, register: Register) {
        self.dialer.admission.warn_empty_stock(preread.session.route.client);
        preread.await_socket(name, self.dialer.service(preread.session.redirection), self.time());
        let key = self.insert_preread(preread, register);
        if self.awaiting_sockets.len() >= self.capacity {
            // Some have waited for too long, and are closed.
            self.awaiting_sockets.retain(|key| self.table.get_mut(*key).is_some());
        }
        self.awaiting_sockets.extend(key);
    }

    /// The guardian has sent sockets, or is gone: the connections go on that wait for them.
    pub(crate) fn sockets_have_come(&mut self) {
        for _ in 0..self.awaiting_sockets.len() {
            let Some(key) = self.awaiting_sockets.pop_front() else { return };
            let Some(Connection::Preread(preread)) = self.table.get_mut(key) else { continue };
            if let Some(name) = preread.socket_has_come() {
                self.answer_preread(key, name.as_deref());
            }
        }
    }

    /// Registers both sockets of a relay with the key that it will get.
    fn register(&self, relay: &mut Relay<Tcp>, register: Register) -> io::Result<()> {
        let key = self.table.next_key().ok_or_else(|| io::Error::other("the table is full"))?;
        register(&self.registry, &mut relay.client.socket, token(key, Peer::Client), INTEREST)?;
        self.registry.register(&mut relay.upstream.socket, token(key, Peer::Upstream), INTEREST)
    }

    /// Closes a connection that is not relayed.
    fn refuse(&mut self, preread: &Preread, reason: &CloseReason) {
        reset(&preread.side.socket);
        self.account(&preread.session, (0, 0), reason);
    }

    /// There may be more to read ahead.
    pub(super) fn read_preread(&mut self, key: Key) {
        let now = self.time();
        let Some(Connection::Preread(preread)) = self.table.get_mut(key) else { return };
        match read_ahead(preread, &mut self.dialer, &mut self.shared.buffer, now) {
            // Also when that is over: bytes that drip in do not put it off.
            PrereadStep::Waiting => self.deadlines.set(key.slot, preread.due()),
            step => self.remove_preread(key, step),
        }
    }

    /// The upstream has answered.
    pub(super) fn connected(&mut self, key: Key) {
        let now = self.time();
        let Some(Connection::Relayed(relayed)) = self.table.get_mut(key) else { return };
        let address = relayed.session.route.upstream.socket_addr();
        if let Some(upstream) = self.dialer.redirections.place(relayed.session.redirection, address) {
            self.records
                .counters
                .connected(upstream, u64::from((self.microseconds as u32).wrapping_sub(relayed.dialed)));
            relayed.counts_at(upstream);
        }
        let Relayed { session, relay, attempt, .. } = relayed;
        let service = self.dialer.service(session.redirection);
        let to_proxy = !attempt.fell_back || service.destination == Destination::Original;
        if !to_proxy {
            relay.be_plain();
        }
        relay.connected(now);
        if let Via::Tcp(Some(version)) = service.via
            && to_proxy
        {
            let header = layer::proxy_header(version, &session.route, &relay.client.socket);
            relay.send_header(&header, &mut self.shared, now);
            self.records.counters.moved(session.redirection, relay.moved().0, 0);
        }
        self.dialer.redirections.worked(session.redirection, address);
        self.set_deadline(key);
        self.advance(key);
        if let Some(Relayed { session, relay, .. }) = self.relayed(key)
            && relay.moved().0 == 0
            && let Err(error) = relay.upstream.socket.acknowledge()
        {
            log::debug!("{}: {error}", session.id);
        }
    }

    /// Tries the next address of the upstreams.
    pub(super) fn dial_again(&mut self, key: Key, error: io::Error) {
        let now = self.time();
        let Some(Connection::Relayed(Relayed { session, relay, attempt, dialed, .. })) = self.table.get_mut(key) else {
            return;
        };
        *dialed = self.microseconds as u32;
        let address = session.route.upstream.socket_addr();
        self.dialer.admission.remove_outgoing(&session.route);
        if shortage::missing(&error).is_some() {
            let reason = self.dialer.admission.shortage(error, session.route.client, Some((address, None)));
            return self.close(key, &reason);
        }
        self.dialer.redirections.failed(session.redirection, address, &error, now);
        let Dialed { mut socket, local, upstream, departure } =
            match self.dialer.dial(session, attempt, Some(error), now) {
                Ok(dialed) => dialed,
                Err(NotDialed::Closed(reason)) => return self.close(key, &reason),
                Err(NotDialed::NoSocket) => {
                    self.dialer.admission.warn_empty_stock(session.route.client);
                    let reason = CloseReason::Resources(io::Error::other("the guardian has made no socket"));
                    return self.close(key, &reason);
                }
            };
        self.records.count_departure(departure);
        (session.route.local, session.route.upstream) = (local, upstream);
        if let Err(error) = self.registry.register(&mut socket, token(key, Peer::Upstream), INTEREST) {
            let reason = self.dialer.admission.shortage(error, session.route.client, None);
            return self.close(key, &reason);
        }
        let upstream = Side { paces: relay.upstream.paces, ..Side::new(socket) };
        relay.reconnecting(upstream, now);
        self.set_deadline(key);
    }
}

/// Reads ahead until there is a decision, or more bytes are needed.
fn read_ahead(preread: &mut Preread, dialer: &mut Dialer, buffer: &mut [u8], now: Tick) -> PrereadStep {
    loop {
        match preread.read(dialer.service(preread.session.redirection), buffer, now) {
            PrereadStep::Header(addresses) => {
                if let Err(reason) = dialer.apply_header(&mut preread.session, addresses) {
                    return PrereadStep::Close(reason);
                }
            }
            step => return step,
        }
    }
}
