//! A relay: two sides, two flows, and how it ends.

use std::fmt;
use std::io;

use crate::protocol::request::Refusal;
use crate::traffic::deadline::Tick;
use crate::traffic::destinations::Ground;
use crate::traffic::endpoint::Endpoint;
use crate::traffic::flow::{AtEnd, Conduit, Fault, Flow, Kit, Lender, Plain, Pumped, Side, Socket};
use crate::traffic::handshake::{Handshake, Heard};
use crate::traffic::rewriter::Rewriter;
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
    /// Its source has as many connections as it may have.
    Crowded,
    /// It was not redirected.
    Direct,
    /// Nobody is relayed to where it was going.
    Forbidden(Ground),
    /// The proxy did not connect us through.
    Refused(String),
    /// The client or the proxy was longer than `--handshake-timeout` about what comes before the payload.
    Unheard,
    /// The client did not begin with the PROXY header that it should.
    NoHeader(String),
    /// The client did not speak HTTP, or in a way that is not passed on.
    BadRequest(Refusal),
    /// The daemon stopped before the connection had ended.
    Stopped,
}

impl Ending {
    /// Whether the peers must see a reset, because the connection did not end by itself.
    pub fn is_reset(&self) -> bool {
        // Whose request was refused has been told so.
        !matches!(self, Ending::Finished | Ending::BadRequest(_))
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
            Ending::Crowded => f.write_str("too many from this source"),
            Ending::Direct => f.write_str("not redirected"),
            Ending::Forbidden(ground) => write!(f, "forbidden: {ground}"),
            Ending::Refused(words) => write!(f, "refused by proxy: {words}"),
            Ending::Unheard => f.write_str("handshake timed out"),
            Ending::NoHeader(why) => write!(f, "bad PROXY header: {why}"),
            Ending::BadRequest(why) => write!(f, "bad request: {why}"),
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
    /// The proxy is being asked to connect us through.
    Asking,
    Flowing,
    /// This end has failed; what came from it is being delivered to the other.
    Broken(End),
    /// The same, all is handed to the kernel, and the other end's acknowledgement is awaited: a reset throws away what
    /// is still in the send queue.
    Settling(End),
    /// This end has failed, and then the other did.
    Lost(End),
}

/// What is between the two sides besides the bytes that move.
#[derive(Debug)]
pub enum Front {
    /// The proxy is to be asked to connect us through.
    Handshake(Handshake),
    /// The client's requests are rewritten.
    Rewriter(Rewriter),
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
    /// Whether it is in the lane of endless streams.
    pub in_lane: bool,
    front: Option<Box<Front>>,
    phase: Phase,
    /// When the last byte moved, or the phase began.
    touched: Tick,
}

impl<S: Socket, P: Conduit<S>> Relay<S, P> {
    /// A relay whose upstream is being connected.
    pub fn connecting(
        client: Side<S>,
        upstream: S,
        route: Route,
        attempt: Attempt,
        front: Option<Box<Front>>,
    ) -> Relay<S, P> {
        Relay {
            client,
            upstream: Side::new(upstream),
            up: Flow::new(),
            down: Flow::new(),
            id: 0,
            started: 0,
            route,
            line: 0,
            attempt,
            queued: false,
            in_lane: false,
            front,
            phase: Phase::Connecting,
            touched: 0,
        }
    }

    /// Whether the upstream has not answered yet.
    pub fn is_connecting(&self) -> bool {
        self.phase == Phase::Connecting
    }

    /// Whether the proxy is being asked to connect us through.
    pub fn is_asking(&self) -> bool {
        self.phase == Phase::Asking
    }

    /// Bytes delivered, from client to upstream and back.
    pub fn moved(&self) -> (u64, u64) {
        (self.up.moved(), self.down.moved())
    }

    /// Whether nothing in it may wait for an answer.
    pub fn is_endless(&self) -> bool {
        self.up.is_endless() || self.down.is_endless()
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

    /// The upstream is no proxy: it is spoken to as the client speaks.
    pub fn be_plain(&mut self) {
        self.front = None;
    }

    /// The upstream has answered.
    pub fn connected(&mut self, now: Tick) {
        self.phase = match self.front.as_deref() {
            Some(Front::Handshake(_)) => Phase::Asking,
            _ => Phase::Flowing,
        };
        self.touched = now;
        self.upstream.can_write = true;
        self.client.can_write = true;
    }

    /// The kernel reported an error on one socket (`SO_ERROR`), which a read or write may not report again.
    pub fn failed(&mut self, end: End, now: Tick, pool: &mut impl Lender<Pipe = P>) -> Step {
        match self.phase {
            Phase::Connecting | Phase::Asking => Step::Done(Ending::Reset(end)),
            Phase::Flowing => {
                self.break_at(end, now, pool);
                Step::Waiting
            }
            Phase::Broken(by) | Phase::Settling(by) if by != end => Step::Done(self.cut(by)),
            Phase::Broken(_) | Phase::Settling(_) | Phase::Lost(_) => Step::Waiting,
        }
    }

    /// One end is lost: nothing can be delivered to it, but what it sent is still ours to deliver.
    fn break_at(&mut self, end: End, now: Tick, pool: &mut impl Lender<Pipe = P>) {
        match end {
            End::Client => self.down.abandon(pool),
            End::Upstream => self.up.abandon(pool),
        }
        let side = self.side(end);
        side.can_read = true;
        // There may be some that no event has told of, and a splice says of what is behind it that the socket failed.
        side.urgent = true;
        self.phase = Phase::Broken(end);
        self.touched = now;
    }

    /// Tells the upstream who the client is, in one segment with what the client has said already.
    pub fn introduce<L: Lender<Pipe = P>>(&mut self, words: &[u8], kit: &mut Kit<L>, now: Tick) {
        if let Err(fault) = self.up.lead_with(words, &mut self.client, &mut self.upstream, kit) {
            self.fault(End::Client, &fault, kit, now);
        }
    }

    /// The name that a request claims to be for, when that has to be looked up before it can go on.
    pub fn question(&mut self) -> Option<Box<str>> {
        match self.front.as_deref_mut() {
            Some(Front::Rewriter(rewriter)) => rewriter.question(),
            _ => None,
        }
    }

    /// Whether the name that was asked for leads to where the client was going.
    pub fn answer(&mut self, genuine: bool) {
        if let Some(Front::Rewriter(rewriter)) = self.front.as_deref_mut() {
            rewriter.answer(genuine);
        }
    }

    /// Moves what can be moved.
    pub fn advance<L: Lender<Pipe = P>>(&mut self, kit: &mut Kit<L>, now: Tick) -> Step {
        if self.phase == Phase::Asking
            && let Some(step) = self.ask(kit, now)
        {
            return step;
        }
        if self.phase == Phase::Connecting {
            return Step::Waiting;
        }
        let before = self.moved();
        let reading = self.is_reading();
        let up = self.pump(End::Client, kit, now);
        let down = self.pump(End::Upstream, kit, now);
        let moved = (self.up.moved() - before.0, self.down.moved() - before.1);
        self.up.note(moved.0, moved.1);
        self.down.note(moved.1, moved.0);
        if moved != (0, 0) || self.is_reading() && !reading {
            self.touched = now;
        }
        if self.down.is_over()
            && !self.client.finished
            && !matches!(self.phase, Phase::Broken(End::Client) | Phase::Settling(End::Client) | Phase::Lost(_))
            && let Some(Front::Rewriter(rewriter)) = self.front.as_deref_mut()
            && let Some(words) = rewriter.last_words()
        {
            self.down.end_with(words, &mut kit.pool);
            self.touched = now;
            return Step::Again;
        }
        if let Phase::Broken(by) = self.phase
            && self.flow_from(by).is_over()
        {
            self.phase = Phase::Settling(by);
            self.touched = now;
        }
        match self.phase {
            Phase::Settling(by) => self.settle(by),
            Phase::Lost(by) => Step::Done(self.cut(by)),
            Phase::Asking => Step::Again,
            _ if self.up.is_over() && self.down.is_over() => self.finish(now),
            _ if up == Pumped::Again || down == Pumped::Again => Step::Again,
            _ => Step::Waiting,
        }
    }

    /// Goes on with the dialogue with the proxy. `None` when we are through.
    fn ask<L>(&mut self, kit: &mut Kit<L>, now: Tick) -> Option<Step> {
        if let Some(Front::Handshake(handshake)) = self.front.as_deref_mut() {
            match handshake.advance(&mut self.upstream, &mut kit.buffer) {
                Ok(Heard::Waiting) => return Some(Step::Waiting),
                Ok(Heard::Through(payload)) => self.down.begin_with(&payload),
                Err(words) => return Some(Step::Done(Ending::Refused(words))),
            }
        }
        self.front = None;
        self.phase = Phase::Flowing;
        self.touched = now;
        None
    }

    /// Both directions have ended. Whoever was refused has unread bytes with us, for which the kernel sends a reset at
    /// the close; it must not overtake the words.
    fn finish(&mut self, now: Tick) -> Step {
        if self.refusal().is_none() {
            return Step::Done(Ending::Finished);
        }
        self.phase = Phase::Settling(End::Upstream);
        self.touched = now;
        self.settle(End::Upstream)
    }

    fn refusal(&self) -> Option<Refusal> {
        match self.front.as_deref() {
            Some(Front::Rewriter(rewriter)) => rewriter.refusal(),
            _ => None,
        }
    }

    /// Whether the head of a request has begun and not ended, and the client is free to send the rest.
    fn is_reading(&self) -> bool {
        let begun = matches!(self.front.as_deref(), Some(Front::Rewriter(rewriter)) if rewriter.is_reading());
        begun && self.up.is_empty()
    }

    /// The ending when one end has failed, or was made to by a refusal.
    fn cut(&self, by: End) -> Ending {
        let refusal = self.refusal().filter(|_| by == End::Upstream);
        refusal.map_or(Ending::Reset(by), Ending::BadRequest)
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
        let pumped = match (from, self.front.as_deref_mut()) {
            (End::Client, Some(Front::Rewriter(rewriter))) => flow.pump(source, sink, kit, rewriter, at_end),
            _ => flow.pump(source, sink, kit, &mut Plain, at_end),
        };
        pumped.unwrap_or_else(|fault| {
            self.fault(from, &fault, kit, now);
            Pumped::Again
        })
    }

    /// Takes in what stopped the flow that comes from `from`.
    fn fault<L: Lender<Pipe = P>>(&mut self, from: End, fault: &Fault, kit: &mut Kit<L>, now: Tick) {
        let lost = match fault {
            Fault::Refused => return self.refuse(kit, now),
            Fault::Source(_) => from,
            Fault::Sink(_) => from.other(),
        };
        match (self.phase, from) {
            // A failed source is read to its end: whoever said that it failed may have said so too early.
            (Phase::Flowing, _) => self.break_at(lost, now, &mut kit.pool),
            (Phase::Broken(by), _) if lost != by => self.phase = Phase::Lost(by),
            (_, End::Client) => self.up.abandon(&mut kit.pool),
            (_, End::Upstream) => self.down.abandon(&mut kit.pool),
        }
    }

    /// The client's words go no further: they go through a tunnel instead, or the client is told after the answers to
    /// its earlier requests.
    fn refuse<L: Lender<Pipe = P>>(&mut self, kit: &mut Kit<L>, now: Tick) {
        let Some(Front::Rewriter(rewriter)) = self.front.as_deref_mut() else { return };
        // A client that has reset its connection is not connected through any more.
        if self.phase == Phase::Flowing
            && let Some((words, handshake)) = rewriter.tunnel()
        {
            self.up.begin_with(&words);
            self.front = Some(Box::new(Front::Handshake(handshake)));
            self.phase = Phase::Asking;
            self.touched = now;
            return;
        }
        if self.up.moved() > 0 || !self.up.is_empty() {
            return self.up.end();
        }
        self.up.abandon(&mut kit.pool);
        self.down.abandon(&mut kit.pool);
    }

    fn settle(&self, by: End) -> Step {
        let other = match by {
            End::Client => &self.upstream,
            End::Upstream => &self.client,
        };
        match other.socket.unacknowledged() {
            Ok(0) | Err(_) => Step::Done(self.cut(by)),
            Ok(_) => Step::Waiting,
        }
    }

    /// When to look at this relay again if nothing happens before.
    pub fn due(&self, patience: &Patience) -> Option<Tick> {
        let wait = match self.phase {
            Phase::Connecting => Some(patience.connect),
            Phase::Asking => Some(patience.handshake),
            Phase::Flowing if self.is_reading() => Some(patience.handshake),
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
            Phase::Asking => 1,
            Phase::Flowing if self.is_reading() => 2,
            Phase::Flowing if self.is_half_closed() => 3,
            Phase::Flowing => 4,
            Phase::Broken(_) => 5,
            Phase::Settling(_) | Phase::Lost(_) => 6,
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
            Phase::Asking => Step::Done(Ending::Unheard),
            Phase::Flowing if self.is_reading() => Step::Done(Ending::Unheard),
            Phase::Flowing if self.is_half_closed() => Step::Done(Ending::HalfClosed),
            Phase::Flowing => Step::Done(Ending::Idle),
            Phase::Broken(by) | Phase::Lost(by) => Step::Done(self.cut(by)),
            Phase::Settling(by) => match self.settle(by) {
                Step::Waiting if self.settling_ends(patience) <= now => Step::Done(self.cut(by)),
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

#[cfg(test)]
#[path = "relay_tests.rs"]
mod tests;
