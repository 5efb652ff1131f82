//! A relay: two sides, two flows, and how it ends.

use std::fmt;
use std::io;

use crate::traffic::deadline::Tick;
use crate::traffic::endpoint::Endpoint;
use crate::traffic::flow::{AtEnd, Conduit, Fault, Flow, Kit, Lender, Pumped, Side, Socket};
use crate::traffic::service::Patience;
use crate::traffic::upstream::Attempt;
use crate::traffic::wake::End;

/// How a relay ended.
#[derive(Debug)]
pub enum Ending {
    /// Both directions were delivered to their end.
    Finished,
    /// One side reset the connection; what it had sent before was delivered.
    Reset(End),
    /// No byte for longer than `--idle-timeout`.
    Idle,
    /// One direction had ended and the other was silent for longer than `--fin-timeout`.
    HalfClosed,
    /// No address of the upstream could be reached.
    ConnectFailed(io::Error),
    /// Its source is not in `-a`.
    Denied,
    /// It would have led back to ourselves.
    Loop,
    /// The daemon stopped before the connection had ended.
    Stopped,
}

impl Ending {
    /// Whether the peers must see a reset, because the connection did not end by itself.
    pub fn is_reset(&self) -> bool {
        !matches!(self, Ending::Finished)
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ending::Finished => f.write_str("finished"),
            Ending::Reset(end) => write!(f, "reset by {}", end.name()),
            Ending::Idle => f.write_str("idle"),
            Ending::HalfClosed => f.write_str("half-closed"),
            Ending::ConnectFailed(error) => write!(f, "connect failed: {error}"),
            Ending::Denied => f.write_str("denied"),
            Ending::Loop => f.write_str("loop"),
            Ending::Stopped => f.write_str("stopped"),
        }
    }
}

/// The four addresses of a relay, as the log shows them.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// Who connected.
    pub client: Endpoint,
    /// Where it wanted to go.
    pub original: Endpoint,
    /// Our end of the connection to the upstream.
    pub local: Endpoint,
    /// Where we connected.
    pub upstream: Endpoint,
}

/// What a relay needs next.
#[derive(Debug)]
pub enum Step {
    /// An event, or its deadline.
    Waiting,
    /// Another turn after the others had theirs.
    Again,
    /// To be closed.
    Done(Ending),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Connecting,
    Flowing,
    /// This end has failed; what came from it is being delivered to the other.
    Broken(End),
    /// The same, all is handed to the kernel, and the other end's acknowledgement is awaited: a reset throws away what
    /// is still in the send queue.
    Settling(End),
    /// This end has failed, and then the other did.
    Lost(End),
}

/// Two connected sockets (or soon to be) and the two flows between them.
#[derive(Debug)]
pub struct Relay<S, P> {
    /// Who connected.
    pub client: Side<S>,
    /// Whom we connected to.
    pub upstream: Side<S>,
    up: Flow<P>,
    down: Flow<P>,
    /// Number in the log.
    pub id: u64,
    /// Milliseconds since the worker's start.
    pub started: u64,
    /// Its addresses.
    pub route: Route,
    /// Which redirection it belongs to.
    pub line: u16,
    /// Which upstreams have been tried.
    pub attempt: Attempt,
    /// Whether it waits in the run queue.
    pub queued: bool,
    phase: Phase,
    /// When the last byte moved, or the phase began.
    touched: Tick,
}

impl<S: Socket, P: Conduit<S>> Relay<S, P> {
    /// A relay whose upstream is being connected.
    pub fn connecting(client: S, upstream: S, id: u64, line: u16, route: Route, attempt: Attempt) -> Relay<S, P> {
        Relay {
            client: Side::new(client),
            upstream: Side::new(upstream),
            up: Flow::new(),
            down: Flow::new(),
            id,
            started: 0,
            route,
            line,
            attempt,
            queued: false,
            phase: Phase::Connecting,
            touched: 0,
        }
    }

    /// Whether the upstream has not answered yet.
    pub fn is_connecting(&self) -> bool {
        self.phase == Phase::Connecting
    }

    /// Bytes delivered, from client to upstream and back.
    pub fn moved(&self) -> (u64, u64) {
        (self.up.moved(), self.down.moved())
    }

    /// One of the sides.
    pub fn side(&mut self, end: End) -> &mut Side<S> {
        match end {
            End::Client => &mut self.client,
            End::Upstream => &mut self.upstream,
        }
    }

    /// Starts the clock.
    pub fn touch(&mut self, now: Tick) {
        self.touched = now;
    }

    /// Another address is being tried with another socket.
    pub fn reconnecting(&mut self, upstream: S, now: Tick) {
        self.upstream = Side::new(upstream);
        self.touched = now;
    }

    /// The upstream has answered.
    pub fn connected(&mut self, now: Tick) {
        self.phase = Phase::Flowing;
        self.touched = now;
        self.upstream.can_write = true;
        self.client.can_write = true;
    }

    /// The kernel reported an error on one socket (`SO_ERROR`), which a read or write may not report again.
    pub fn failed(&mut self, end: End, now: Tick, pool: &mut impl Lender<Pipe = P>) -> Step {
        match self.phase {
            Phase::Connecting => Step::Done(Ending::Reset(end)),
            Phase::Flowing => {
                self.break_at(end, now, pool);
                Step::Waiting
            }
            Phase::Broken(by) | Phase::Settling(by) if by != end => Step::Done(Ending::Reset(by)),
            Phase::Broken(_) | Phase::Settling(_) | Phase::Lost(_) => Step::Waiting,
        }
    }

    /// One end is lost: nothing can be delivered to it, but what it sent is still ours to deliver.
    fn break_at(&mut self, end: End, now: Tick, pool: &mut impl Lender<Pipe = P>) {
        match end {
            End::Client => self.down.abandon(pool),
            End::Upstream => self.up.abandon(pool),
        }
        self.side(end).can_read = true;
        self.phase = Phase::Broken(end);
        self.touched = now;
    }

    /// Moves what can be moved.
    pub fn advance<L: Lender<Pipe = P>>(&mut self, kit: &mut Kit<L>, now: Tick) -> Step {
        if self.phase == Phase::Connecting {
            return Step::Waiting;
        }
        let before = self.moved();
        let up = self.pump(End::Client, kit, now);
        let down = self.pump(End::Upstream, kit, now);
        if self.moved() != before {
            self.touched = now;
        }
        if let Phase::Broken(by) = self.phase
            && self.flow_from(by).is_over()
        {
            self.phase = Phase::Settling(by);
            self.touched = now;
        }
        match self.phase {
            Phase::Settling(by) => self.settle(by),
            Phase::Lost(by) => Step::Done(Ending::Reset(by)),
            _ if self.up.is_over() && self.down.is_over() => Step::Done(Ending::Finished),
            _ if up == Pumped::Again || down == Pumped::Again => Step::Again,
            _ => Step::Waiting,
        }
    }

    fn flow_from(&self, end: End) -> &Flow<P> {
        match end {
            End::Client => &self.up,
            End::Upstream => &self.down,
        }
    }

    /// Pumps the flow that comes from `from`, and takes the failure of a socket in.
    fn pump<L: Lender<Pipe = P>>(&mut self, from: End, kit: &mut Kit<L>, now: Tick) -> Pumped {
        let last = self.flow_from(from.other()).is_over();
        let (flow, source, sink) = match from {
            End::Client => (&mut self.up, &mut self.client, &mut self.upstream),
            End::Upstream => (&mut self.down, &mut self.upstream, &mut self.client),
        };
        // The other flow is over: either the relay ends now and the close says what a shutdown would have said, or the
        // source is broken and its end is no end to pass on.
        let at_end = if last { AtEnd::Keep } else { AtEnd::PassOn };
        match flow.pump(source, sink, kit, at_end) {
            Ok(pumped) => pumped,
            Err(fault) => {
                let lost = match fault {
                    Fault::Source(_) => {
                        flow.abandon(&mut kit.pool);
                        from
                    }
                    Fault::Sink(_) => from.other(),
                };
                match self.phase {
                    Phase::Flowing => self.break_at(lost, now, &mut kit.pool),
                    Phase::Broken(by) if lost != by => self.phase = Phase::Lost(by),
                    _ => {}
                }
                Pumped::Again
            }
        }
    }

    fn settle(&self, by: End) -> Step {
        let other = match by {
            End::Client => &self.upstream,
            End::Upstream => &self.client,
        };
        match other.socket.unacknowledged() {
            Ok(0) | Err(_) => Step::Done(Ending::Reset(by)),
            Ok(_) => Step::Waiting,
        }
    }

    /// When to look at this relay again if nothing happens before.
    pub fn due(&self, patience: &Patience) -> Option<Tick> {
        let wait = match self.phase {
            Phase::Connecting => Some(patience.connect),
            Phase::Flowing if self.is_half_closed() => patience.fin,
            Phase::Flowing => patience.idle,
            Phase::Broken(_) => Some(patience.fin.unwrap_or(SETTLE_AT_MOST)),
            // No event tells that the last byte was acknowledged.
            Phase::Settling(_) | Phase::Lost(_) => Some(1),
        };
        wait.map(|wait| self.touched.saturating_add(wait))
    }

    /// Which of the timeouts counts now; when it changes, the deadline has to be set anew.
    pub fn due_class(&self) -> u8 {
        match self.phase {
            Phase::Connecting => 0,
            Phase::Flowing if self.is_half_closed() => 1,
            Phase::Flowing => 2,
            Phase::Broken(_) => 3,
            Phase::Settling(_) | Phase::Lost(_) => 4,
        }
    }

    fn is_half_closed(&self) -> bool {
        self.up.is_over() || self.down.is_over()
    }

    /// The deadline has come. `Step::Waiting` when the relay has moved on since it was set.
    pub fn expire(&mut self, patience: &Patience, now: Tick) -> Step {
        match self.due(patience) {
            Some(due) if due <= now => {}
            _ => return Step::Waiting,
        }
        match self.phase {
            Phase::Connecting => Step::Done(Ending::ConnectFailed(io::ErrorKind::TimedOut.into())),
            Phase::Flowing if self.is_half_closed() => Step::Done(Ending::HalfClosed),
            Phase::Flowing => Step::Done(Ending::Idle),
            Phase::Broken(by) | Phase::Lost(by) => Step::Done(Ending::Reset(by)),
            Phase::Settling(by) => match self.settle(by) {
                Step::Waiting if self.settling_ends(patience) <= now => Step::Done(Ending::Reset(by)),
                step => step,
            },
        }
    }

    fn settling_ends(&self, patience: &Patience) -> Tick {
        let patience = patience.fin.map_or(SETTLE_AT_MOST, |fin| fin.min(SETTLE_AT_MOST));
        self.touched.saturating_add(patience)
    }

    /// Gives back what the relay has borrowed; it must be closed afterwards.
    pub fn release(&mut self, pool: &mut impl Lender<Pipe = P>) {
        self.up.abandon(pool);
        self.down.abandon(pool);
    }
}

/// Ticks for which the acknowledgement of the last bytes before a reset is awaited.
const SETTLE_AT_MOST: Tick = 300;
