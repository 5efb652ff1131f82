//! A worker with one relay. What `Connections` (src/traffic/connections.rs) does to a relay is done here in the same
//! order, function by function; what it does for the log and the table is left out.

use std::collections::VecDeque;
use std::io;

use tproxy::testing::Peer;
use tproxy::testing::Tick;
use tproxy::testing::Timeouts;
use tproxy::testing::{CloseReason, Progress, ProxyLayer, Relay};
use tproxy::testing::{Shared, Side};

use super::kernel::Event;
use super::net::Net;
use super::scene;
use super::sockets::{Lending, Model, Sock};

/// A turn may end without progress so often in a row.
const IDLE_TURNS: u32 = 4;

/// The worker.
#[derive(Debug)]
pub struct Worker<'n> {
    net: &'n Net,
    relay: Relay<Model<'n>>,
    queued: bool,
    shared: Shared<Model<'n>>,
    timeouts: Timeouts,
    header: Option<&'static [u8]>,
    /// Addresses of the upstream that were not tried.
    addresses: u32,
    /// Whether questions are answered at once.
    knows_names: bool,
    question: Option<Box<str>>,
    deadline: Option<Tick>,
    /// What epoll_wait has returned and was not looked at.
    batch: VecDeque<(Peer, Event)>,
    next: Next,
    idle_turns: u32,
    traces: (u64, u64, u8),
    /// How it ended, and which timeout counted before.
    pub ended: Option<(CloseReason, u8)>,
}

/// Where in the loop of src/daemon/worker.rs it is.
#[derive(Debug, Clone, Copy)]
enum Next {
    Events,
    Queue,
    Deadlines,
    Wait,
}

impl<'n> Worker<'n> {
    /// A worker that has just dialled.
    pub fn new(net: &'n Net, layer: Option<Box<ProxyLayer>>, timeouts: Timeouts, addresses: u32) -> Worker<'n> {
        let (client, upstream) = (Side::new(Sock(net, Peer::Client)), Side::new(Sock(net, Peer::Upstream)));
        let relay = Relay::connecting(client, upstream, layer, 0);
        net.state().wires[Peer::Client].wake();
        let mut worker = Worker {
            net,
            relay,
            queued: false,
            shared: Shared::new(Lending(net)),
            timeouts,
            header: None,
            addresses,
            knows_names: true,
            question: None,
            deadline: None,
            batch: VecDeque::new(),
            next: Next::Events,
            idle_turns: 0,
            traces: (0, 0, 0),
            ended: None,
        };
        worker.set_deadline();
        worker
    }

    /// One that begins with a PROXY header, has to wait for the addresses of names, or moves little in a turn.
    pub fn with(mut self, header: Option<&'static [u8]>, knows_names: bool, budget: Option<u64>) -> Worker<'n> {
        (self.header, self.knows_names) = (header, knows_names);
        self.shared.budget = budget.unwrap_or(self.shared.budget);
        self
    }

    /// Does the next thing there is to do. False if there is none before the next event.
    pub fn work(&mut self) -> bool {
        // The rest of a turn, and the beginning of the next one.
        for _ in 0..5 {
            if self.ended.is_some() {
                return false;
            }
            self.net.state().calls = 0;
            let done = match self.next {
                Next::Events => self.next_event(),
                Next::Queue => {
                    self.next = Next::Deadlines;
                    self.run_queue()
                }
                Next::Deadlines => {
                    self.next = Next::Wait;
                    self.expire()
                }
                Next::Wait => {
                    self.next = Next::Events;
                    self.wait();
                    false
                }
            };
            if done {
                self.check();
                return true;
            }
        }
        false
    }

    /// What must hold after each step.
    fn check(&mut self) {
        let mut state = self.net.state();
        let (lent, loaded) = (state.lent, state.loaded);
        if lent != loaded {
            state.breach(format_args!("{lent} pipes are lent, and {loaded} hold anything"));
        }
        let moved = (state.payload(Peer::Upstream), state.payload(Peer::Client));
        if self.relay.moved() != moved {
            state.breach(format_args!("it says that {:?} bytes moved, and {moved:?} did", self.relay.moved()));
        }
        if self.ended.is_some() && lent > 0 {
            state.breach(format_args!("{lent} pipes are not given back"));
        }
    }

    /// `epoll_wait`, and then a look at the clock.
    fn wait(&mut self) {
        let mut state = self.net.state();
        state.now = state.clock;
        for end in [Peer::Client, Peer::Upstream] {
            if state.wires[end].ready
                && let Some(event) = state.wires[end].poll()
            {
                self.batch.push_back((end, event));
            }
        }
    }

    fn next_event(&mut self) -> bool {
        match self.batch.pop_front() {
            Some((end, event)) => {
                self.event(end, event);
                true
            }
            None => {
                self.next = Next::Queue;
                false
            }
        }
    }

    /// An event that says what is no longer so.
    pub fn rumour(&mut self, end: Peer) {
        if !(self.relay.is_connecting() && end == Peer::Upstream) {
            let event = Event { readable: true, writable: true, error: false, read_closed: false, priority: false };
            self.batch.push_back((end, event));
        }
    }

    /// `Connections::event`.
    fn event(&mut self, end: Peer, event: Event) {
        self.observe(end, event);
        if event.error && self.relay.is_in_handshake() && end == Peer::Upstream {
            self.advance();
            if self.ended.is_some() {
                return;
            }
        }
        let error = if event.error { self.net.state().wires[end].take_error() } else { None };
        if self.relay.is_connecting() && end == Peer::Upstream {
            match error {
                Some(error) => return self.dial_again(error.into()),
                None if event.writable && !event.error => self.connected(),
                None => return,
            }
        } else if error.is_some() {
            if let Progress::Done(reason) = self.relay.socket_failed(end, self.now(), &mut self.shared.pool) {
                return self.close(reason);
            }
            self.set_deadline();
        }
        self.advance();
    }

    fn observe(&mut self, end: Peer, event: Event) {
        let side = self.relay.side(end);
        side.can_read |= event.readable || event.read_closed || event.error;
        side.can_write |= event.writable || event.error;
        side.hung_up |= event.read_closed || event.error;
        if event.priority && !side.urgent {
            side.urgent = true;
            self.net.state().wires[end].inline = true;
        }
    }

    fn connected(&mut self) {
        let now = self.now();
        self.relay.connected(now);
        if let Some(header) = self.header {
            self.relay.send_header(header, &mut self.shared, now);
        }
        self.set_deadline();
    }

    fn dial_again(&mut self, error: io::Error) {
        if self.addresses == 0 {
            return self.close(CloseReason::ConnectFailed(error));
        }
        self.addresses -= 1;
        self.net.state().redial();
        self.relay.reconnecting(Side::new(Sock(self.net, Peer::Upstream)), self.now());
        self.set_deadline();
    }

    fn advance(&mut self) {
        let (now, before) = (self.now(), self.relay.due_class());
        let again = match self.relay.advance(&mut self.shared, now) {
            Progress::Waiting => false,
            Progress::Again => true,
            Progress::Done(reason) => return self.close_from(reason, before),
        };
        if again {
            self.watch_turns();
        }
        let question = self.relay.question();
        if self.relay.due_class() != before {
            self.set_deadline();
        }
        let answered = question.is_some_and(|name| self.is_answered(name));
        self.queued |= answered || again;
    }

    /// Whoever wants another turn must have used the last one.
    fn watch_turns(&mut self) {
        let state = self.net.state();
        let traces = (
            state.wires[Peer::Client].read + state.wires[Peer::Client].accepted,
            state.wires[Peer::Upstream].read + state.wires[Peer::Upstream].accepted,
            self.relay.due_class(),
        );
        drop(state);
        self.idle_turns = if traces == self.traces { self.idle_turns + 1 } else { 0 };
        self.traces = traces;
        if self.idle_turns > IDLE_TURNS {
            self.net.state().breach("it wants turn after turn and does nothing with them");
        }
    }

    fn is_answered(&mut self, name: Box<str>) -> bool {
        if self.knows_names {
            self.relay.answer(scene::is_genuine(&name));
        } else {
            self.question = Some(name);
        }
        self.knows_names
    }

    /// The addresses of a name have come. False if nobody asked.
    pub fn answer(&mut self) -> bool {
        let Some(name) = self.question.take() else { return false };
        self.relay.answer(scene::is_genuine(&name));
        self.net.state().calls = 0;
        self.advance();
        self.check();
        true
    }

    fn run_queue(&mut self) -> bool {
        let queued = std::mem::take(&mut self.queued);
        if queued {
            self.advance();
        }
        queued
    }

    fn set_deadline(&mut self) {
        let next = self.now() + 1;
        self.deadline = self.relay.due(&self.timeouts).map(|due| due.max(next));
    }

    fn expire(&mut self) -> bool {
        let now = self.now();
        if self.deadline.is_none_or(|due| due > now) {
            return false;
        }
        self.deadline = None;
        match self.relay.expire(&self.timeouts, now) {
            Progress::Done(CloseReason::ConnectFailed(error)) => self.dial_again(error),
            Progress::Done(reason) => self.close(reason),
            Progress::Waiting | Progress::Again => self.set_deadline(),
        }
        true
    }

    fn close(&mut self, reason: CloseReason) {
        let class = self.relay.due_class();
        self.close_from(reason, class);
    }

    fn close_from(&mut self, reason: CloseReason, class: u8) {
        self.relay.release(&mut self.shared.pool);
        self.ended = Some((reason, class));
    }

    fn now(&self) -> Tick {
        self.net.state().now
    }

    /// Which timeout counts now.
    pub fn class(&self) -> u8 {
        self.relay.due_class()
    }

    /// Whether all addresses of the upstream were tried.
    pub fn is_at_last_address(&self) -> bool {
        self.addresses == 0
    }
}
