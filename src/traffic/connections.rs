//! The table of a worker's connections: their events, turns and deadlines, and their close.

mod establish;
mod listing;
mod names;

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::{Events, Poll, Registry};

use crate::relay::close::CloseReason;
use crate::relay::pipe::Pool;
use crate::relay::relay::Progress;
use crate::relay::side::{Peer, Shared};
use crate::relay::tcp::Tcp;
use crate::sys::clock::{TICK, Tick};
use crate::traffic::access_log::AccessLog;
use crate::traffic::connection::{Connection, Relayed, move_events, observe, reset};
use crate::traffic::dialer::Dialer;
use crate::traffic::host_check::HostCheck;
use crate::traffic::preread::PrereadStep;
use crate::traffic::records::Records;
use crate::traffic::session::{ConnectionId, Session};
use crate::traffic::shared_counters::{WorkerCounters, WorkerWord};
use crate::traffic::slots::Slots;
use crate::traffic::timers::Deadlines;
use crate::traffic::token::{EventToken, Key};
use crate::traffic::turns::Turns;

/// All connections, and what they share.
#[derive(Debug)]
pub(crate) struct Connections {
    table: Slots<Connection>,
    capacity: usize,
    deadlines: Deadlines,
    /// Connections that wait for a socket to connect with, in their order.
    awaiting_sockets: VecDeque<Key>,
    turns: Turns,
    shared: Shared<Tcp>,
    dialer: Dialer,
    host_check: HostCheck,
    records: Records,
    next_id: ConnectionId,
    start: Instant,
    /// The time of this turn of the loop, since `start`.
    microseconds: u64,
    /// The same.
    milliseconds: u64,
    /// Set when a connection was closed; cleared by the event loop.
    pub freed: bool,
    registry: Registry,
}

impl Connections {
    /// For at most `capacity` connections at once.
    pub(crate) fn new(
        dialer: Dialer,
        capacity: usize,
        pool: Pool,
        records: Records,
        registry: Registry,
    ) -> io::Result<Connections> {
        Ok(Connections {
            table: Slots::with_capacity(capacity),
            capacity,
            deadlines: Deadlines::with_capacity(capacity),
            awaiting_sockets: VecDeque::new(),
            turns: Turns::new(capacity)?,
            shared: Shared::with_heads(pool, dialer.redirections.longest_head()),
            dialer,
            host_check: HostCheck::default(),
            next_id: records.access_log.first_id(),
            records,
            start: Instant::now(),
            microseconds: 0,
            milliseconds: 0,
            freed: false,
            registry,
        })
    }

    /// Reads the clock, once per turn of the loop.
    pub(crate) fn update_time(&mut self) {
        self.microseconds = self.start.elapsed().as_micros() as u64;
        self.milliseconds = self.microseconds / 1000;
    }

    /// The time of this turn.
    pub(crate) fn time(&self) -> Tick {
        (self.milliseconds / TICK.as_millis() as u64) as Tick
    }

    /// Connections that can still be admitted.
    pub(crate) fn room(&self) -> usize {
        self.capacity - self.table.len()
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    pub(crate) fn dialer(&mut self) -> &mut Dialer {
        &mut self.dialer
    }

    pub(crate) fn access_log(&mut self) -> &mut AccessLog {
        &mut self.records.access_log
    }

    /// Starts and ends the probes that are due.
    pub(crate) fn probe(&mut self) {
        self.dialer.redirections.probe(self.time(), &self.registry);
    }

    /// The probe of the redirection of this number has something to tell.
    pub(crate) fn probed(&mut self, number: u32, event: &Event) {
        self.dialer.redirections.probed(number, event, self.time());
    }

    /// The sockets of a connection have something to tell.
    pub(crate) fn event(&mut self, key: Key, peer: Peer, event: &Event) {
        let relay = match self.table.get_mut(key) {
            Some(Connection::Relayed(relayed)) => &mut relayed.relay,
            Some(Connection::Preread(preread)) => {
                observe(&mut preread.side, event);
                return match event.is_error() {
                    true => self.remove_preread(key, PrereadStep::Close(CloseReason::Reset(Peer::Client))),
                    false => self.read_preread(key),
                };
            }
            None => return,
        };
        observe(relay.side(peer), event);
        if event.is_error() && relay.is_in_handshake() && peer == Peer::Upstream {
            // What the proxy sent before it failed comes first.
            self.advance(key);
        }
        let now = self.time();
        let Some(Relayed { relay, .. }) = self.relayed(key) else { return };
        let socket = &relay.side(peer).socket;
        let error = if event.is_error() { socket.take_error().ok().flatten() } else { None };
        if relay.is_connecting() && peer == Peer::Upstream {
            match error {
                Some(error) => return self.dial_again(key, error),
                None if event.is_writable() && !event.is_error() => return self.connected(key),
                None => return,
            }
        } else if error.is_some() {
            let Some(Connection::Relayed(Relayed { relay, .. })) = self.table.get_mut(key) else { return };
            if let Progress::Done(reason) = relay.socket_failed(peer, now, &mut self.shared.pool) {
                return self.close(key, &reason);
            }
            // Another timeout than before counts now, where there may have been none.
            self.set_deadline(key);
        }
        self.advance(key);
    }

    fn relayed(&mut self, key: Key) -> Option<&mut Relayed> {
        match self.table.get_mut(key) {
            Some(Connection::Relayed(relayed)) => Some(relayed),
            _ => None,
        }
    }

    /// Gives a connection its turn.
    fn advance(&mut self, key: Key) {
        let now = self.time();
        let Some(Connection::Relayed(relayed)) = self.table.get_mut(key) else { return };
        let Relayed { relay, in_bulk, .. } = relayed;
        let before = relay.due_class();
        let moved = relay.moved();
        let progress = relay.advance(&mut self.shared, now);
        let in_bulk = *in_bulk;
        relayed.count_since(moved, &self.records.counters);
        if moved.1 == 0 && relayed.relay.moved().1 > 0 {
            self.dialer.admission.remove_outgoing(&relayed.session.route);
        }
        let relay = &mut relayed.relay;
        let again = match progress {
            Progress::Waiting => false,
            Progress::Again => true,
            Progress::Done(reason) => return self.close(key, &reason),
        };
        let question = relay.question();
        let due_changed = relay.due_class() != before;
        if relay.is_bulk() != in_bulk {
            self.change_bulk(key);
        }
        if due_changed {
            self.set_deadline(key);
        }
        if question.is_some_and(|name| self.is_answered(key, name)) || again {
            self.enqueue(key);
        }
    }

    /// Gives a connection another turn, after the others had theirs.
    fn enqueue(&mut self, key: Key) {
        let Some(Connection::Relayed(relayed)) = self.table.get_mut(key) else { return };
        if !relayed.queued {
            relayed.queued = true;
            self.turns.push(key, relayed.in_bulk);
        }
    }

    /// Moves a connection to the bulk streams or back. It stays where it is if its events cannot be moved.
    fn change_bulk(&mut self, key: Key) {
        let Some(Connection::Relayed(Relayed { session, relay, in_bulk, .. })) = self.table.get_mut(key) else {
            return;
        };
        let bulk = &mut self.turns.bulk;
        let (from, to) = if *in_bulk { (bulk.registry(), &self.registry) } else { (&self.registry, bulk.registry()) };
        if let Err(error) = move_events(key, relay, from, to) {
            return log::debug!("{}: registering: {error}", session.id);
        }
        *in_bulk = !*in_bulk;
        if *in_bulk { bulk.enter() } else { bulk.leave() }
    }

    /// Whether some connection can go on without an event.
    pub(crate) fn has_work(&self) -> bool {
        self.turns.has_work()
    }

    /// Waits for an event of `others` or of a bulk stream, if there is one. Returns whether it has waited.
    pub(crate) fn wait_with_streams(&self, others: &Poll, timeout: Option<Duration>) -> io::Result<bool> {
        if self.turns.bulk.is_empty() {
            return Ok(false);
        }
        self.turns.bulk.wait(others, timeout)?;
        Ok(true)
    }

    /// Gives one bulk stream its turn; the others come first. `events` is room for the events of bulk streams.
    pub(crate) fn run_stream(&mut self, events: &mut Events) -> io::Result<()> {
        if self.turns.bulk.is_empty() && !self.turns.bulk.has_work() {
            return Ok(());
        }
        self.turns.bulk.collect(events)?;
        for event in &*events {
            if let EventToken::Connection(key, peer) = EventToken::from(event.token()) {
                self.stream_event(key, peer, event);
            }
        }
        let Some(key) = self.turns.bulk.pop() else { return Ok(()) };
        let Some(relayed) = self.relayed(key) else { return Ok(()) };
        relayed.queued = false;
        let (up, down) = relayed.relay.moved();
        self.advance(key);
        if let Some(Relayed { relay, .. }) = self.relayed(key) {
            let moved = relay.moved();
            self.turns.bulk.note(moved.0 - up + moved.1 - down);
        }
        Ok(())
    }

    fn stream_event(&mut self, key: Key, peer: Peer, event: &Event) {
        match self.relayed(key) {
            Some(Relayed { relay, .. }) if !event.is_error() => {
                observe(relay.side(peer), event);
                self.enqueue(key);
            }
            _ => self.event(key, peer, event),
        }
    }

    /// Gives each connection in the run queue one turn.
    pub(crate) fn run_queue(&mut self) {
        for _ in 0..self.turns.len() {
            let Some(key) = self.turns.pop() else { return };
            if let Some(relayed) = self.relayed(key) {
                relayed.queued = false;
                self.advance(key);
            }
        }
    }

    fn set_deadline(&mut self, key: Key) {
        let next = self.time() + 1;
        let Some(Connection::Relayed(Relayed { session, relay, .. })) = self.table.get_mut(key) else { return };
        match relay.due(self.dialer.timeouts(session.redirection)) {
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

    /// Handles the deadlines that have come.
    pub(crate) fn expire(&mut self) {
        let now = self.time();
        while let Some(slot) = self.deadlines.expire(now) {
            let Some(key) = self.table.key_at(slot) else { continue };
            let progress = match self.table.get_mut(key) {
                Some(Connection::Relayed(Relayed { session, relay, .. })) => {
                    relay.expire(self.dialer.timeouts(session.redirection), now)
                }
                Some(Connection::Preread(preread)) => {
                    let step = preread.timed_out();
                    self.remove_preread(key, step);
                    continue;
                }
                None => continue,
            };
            match progress {
                Progress::Done(CloseReason::ConnectFailed(error)) => self.dial_again(key, error),
                Progress::Done(reason) => self.close(key, &reason),
                Progress::Waiting | Progress::Again => self.set_deadline(key),
            }
        }
        self.expire_questions();
    }

    fn close(&mut self, key: Key, reason: &CloseReason) {
        let Some(Connection::Relayed(relayed)) = self.table.remove(key) else { return };
        self.deadlines.cancel(key.slot);
        self.closed(relayed, reason);
    }

    /// Closes a connection that is not in the table any more, or not yet.
    fn closed(&mut self, mut relayed: Relayed, reason: &CloseReason) {
        if relayed.in_bulk {
            self.turns.bulk.leave();
        }
        if let Some(upstream) = relayed.counted_at() {
            self.records.counters.left(upstream);
        }
        let Relayed { session, relay, .. } = &mut relayed;
        relay.release(&mut self.shared.pool);
        if reason.is_reset() {
            reset(&relay.client.socket);
            reset(&relay.upstream.socket);
        }
        self.dialer.admission.remove_outgoing(&session.route);
        self.dialer.redirections.note_length(session.redirection, relay.moved().1);
        self.account(session, relay.moved(), reason);
    }

    /// Frees what a connection had, and records its close.
    fn account(&mut self, session: &Session, moved: (u64, u64), reason: &CloseReason) {
        self.freed = true;
        self.dialer.admission.release(session);
        if matches!(reason, CloseReason::ConnectFailed(_)) {
            self.dialer.redirections.unreachable(session.redirection, self.time());
        }
        self.records.closed(session, moved, self.milliseconds.saturating_sub(session.started), reason);
    }

    /// Resets all connections, for a reason that holds for each of them.
    pub(crate) fn close_all(&mut self, why: impl Fn() -> CloseReason) {
        for slot in 0..self.table.slots() {
            let Some(key) = self.table.key_at(slot) else { continue };
            match self.table.get_mut(key) {
                Some(Connection::Preread(_)) => self.remove_preread(key, PrereadStep::Close(why())),
                _ => self.close(key, &why()),
            }
        }
    }

    /// Publishes what is known at the end of a turn only.
    pub(crate) fn publish(&self) {
        let counters = &self.records.counters;
        counters.set_worker(WorkerWord::Pipes, self.shared.pool.lent() as u64);
        counters.set_worker(WorkerWord::Spliced, self.shared.spliced);
    }

    /// What was counted.
    pub(crate) fn counters(&self) -> &WorkerCounters {
        &self.records.counters
    }

    /// Logs the connections in the slots from `first` on, a bounded number of them. Returns where to go on.
    pub(crate) fn log_connections(&mut self, first: u32) -> Option<u32> {
        const SLICE: u32 = 64;
        let after = first.saturating_add(SLICE).min(self.table.slots());
        for slot in first..after {
            if let Some(key) = self.table.key_at(slot)
                && let Some(Connection::Relayed(Relayed { session, relay, .. })) = self.table.get_mut(key)
            {
                let lasted = self.milliseconds.saturating_sub(session.started);
                let state = if relay.is_connecting() { "connecting" } else { "open" };
                Records::show(session, relay.moved(), lasted, &state);
            }
        }
        (after < self.table.slots()).then_some(after)
    }
}
