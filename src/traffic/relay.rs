//! A relay: two sides, two flows, and how it ends.

use std::fmt;
use std::io;

use crate::protocol::request::Refusal;
use crate::redirection::RedirectionId;
use crate::traffic::compact_addr::CompactAddr;
use crate::traffic::destinations::DenyReason;
use crate::traffic::flow::{AtEnd, Fault, Flow, PipeIo, PipePool, Plain, Pumped, Shared, Side, Socket};
use crate::traffic::http_filter::HttpFilter;
use crate::traffic::service::Timeouts;
use crate::traffic::timers::Tick;
use crate::traffic::token::Peer;
use crate::traffic::tunnel::{TunnelHandshake, TunnelProgress};
use crate::traffic::upstreams::Attempt;

/// How a relay ended.
#[derive(Debug)]
pub enum CloseReason {
    /// Both directions were delivered to their end.
    Finished,
    /// One side reset the connection; what it had sent before was delivered.
    Reset(Peer),
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
    Forbidden(DenyReason),
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

impl CloseReason {
    /// Whether the peers must see a reset, because the connection did not end by itself.
    pub fn is_reset(&self) -> bool {
        // Whose request was refused has been told so.
        !matches!(self, CloseReason::Finished | CloseReason::BadRequest(_))
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CloseReason::Finished => f.write_str("finished"),
            CloseReason::Reset(peer) => write!(f, "reset by {}", peer.name()),
            CloseReason::Idle => f.write_str("idle"),
            CloseReason::HalfClosed => f.write_str("half-closed"),
            CloseReason::ConnectFailed(error) => write!(f, "connect failed: {error}"),
            CloseReason::Denied => f.write_str("denied"),
            CloseReason::Loop => f.write_str("loop"),
            CloseReason::Crowded => f.write_str("too many from this source"),
            CloseReason::Direct => f.write_str("not redirected"),
            CloseReason::Forbidden(ground) => write!(f, "forbidden: {ground}"),
            CloseReason::Refused(words) => write!(f, "refused by proxy: {words}"),
            CloseReason::Unheard => f.write_str("handshake timed out"),
            CloseReason::NoHeader(why) => write!(f, "bad PROXY header: {why}"),
            CloseReason::BadRequest(why) => write!(f, "bad request: {why}"),
            CloseReason::Stopped => f.write_str("stopped"),
        }
    }
}

/// The four addresses of a relay, as the log shows them.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// Who connected.
    pub client: CompactAddr,
    /// Where it wanted to go.
    pub original: CompactAddr,
    /// Our end of the connection to the upstream.
    pub local: CompactAddr,
    /// Where we connected.
    pub upstream: CompactAddr,
}

/// What a relay needs next.
#[derive(Debug)]
pub enum Progress {
    /// An event, or its deadline.
    Waiting,
    /// Another turn after the others had theirs.
    Again,
    /// To be closed.
    Done(CloseReason),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Connecting,
    /// The proxy is being asked to connect us through.
    Asking,
    Flowing,
    /// This end has failed; what came from it is being delivered to the other.
    Broken(Peer),
    /// The same, all is handed to the kernel, and the other end's acknowledgement is awaited: a reset throws away what
    /// is still in the send queue.
    Settling(Peer),
    /// This end has failed, and then the other did.
    Lost(Peer),
}

/// What is between the two sides besides the bytes that move.
#[derive(Debug)]
pub enum Front {
    /// The proxy is to be asked to connect us through.
    TunnelHandshake(TunnelHandshake),
    /// The client's requests are rewritten.
    HttpFilter(HttpFilter),
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
    pub redirection: RedirectionId,
    /// Which upstreams have been tried.
    pub attempt: Attempt,
    /// Whether it waits in the run queue.
    pub queued: bool,
    /// Whether it is in the lane of endless streams.
    pub is_bulk: bool,
    front: Option<Box<Front>>,
    phase: Phase,
    /// When the last byte moved, or the phase began.
    touched: Tick,
}

impl<S: Socket, P: PipeIo<S>> Relay<S, P> {
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
            redirection: RedirectionId(0),
            attempt,
            queued: false,
            is_bulk: false,
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
    pub fn side(&mut self, peer: Peer) -> &mut Side<S> {
        match peer {
            Peer::Client => &mut self.client,
            Peer::Upstream => &mut self.upstream,
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
            Some(Front::TunnelHandshake(_)) => Phase::Asking,
            _ => Phase::Flowing,
        };
        self.touched = now;
        self.upstream.can_write = true;
        self.client.can_write = true;
    }

    /// The kernel reported an error on one socket (`SO_ERROR`), which a read or write may not report again.
    pub fn failed(&mut self, peer: Peer, now: Tick, pool: &mut impl PipePool<Pipe = P>) -> Progress {
        match self.phase {
            Phase::Connecting | Phase::Asking => Progress::Done(CloseReason::Reset(peer)),
            Phase::Flowing => {
                self.break_at(peer, now, pool);
                Progress::Waiting
            }
            Phase::Broken(by) | Phase::Settling(by) if by != peer => Progress::Done(self.cut(by)),
            Phase::Broken(_) | Phase::Settling(_) | Phase::Lost(_) => Progress::Waiting,
        }
    }

    /// One end is lost: nothing can be delivered to it, but what it sent is still ours to deliver.
    fn break_at(&mut self, peer: Peer, now: Tick, pool: &mut impl PipePool<Pipe = P>) {
        match peer {
            Peer::Client => self.down.abandon(pool),
            Peer::Upstream => self.up.abandon(pool),
        }
        let side = self.side(peer);
        side.can_read = true;
        // There may be some that no event has told of, and a splice says of what is behind it that the socket failed.
        side.urgent = true;
        self.phase = Phase::Broken(peer);
        self.touched = now;
    }

    /// Tells the upstream who the client is, in one segment with what the client has said already.
    pub fn introduce<L: PipePool<Pipe = P>>(&mut self, words: &[u8], shared: &mut Shared<L>, now: Tick) {
        if let Err(fault) = self.up.lead_with(words, &mut self.client, &mut self.upstream, shared) {
            self.fault(Peer::Client, &fault, shared, now);
        }
    }

    /// The name that a request claims to be for, when that has to be looked up before it can go on.
    pub fn question(&mut self) -> Option<Box<str>> {
        match self.front.as_deref_mut() {
            Some(Front::HttpFilter(http_filter)) => http_filter.question(),
            _ => None,
        }
    }

    /// Whether the name that was asked for leads to where the client was going.
    pub fn answer(&mut self, genuine: bool) {
        if let Some(Front::HttpFilter(http_filter)) = self.front.as_deref_mut() {
            http_filter.answer(genuine);
        }
    }

    /// Moves what can be moved.
    pub fn advance<L: PipePool<Pipe = P>>(&mut self, shared: &mut Shared<L>, now: Tick) -> Progress {
        if self.phase == Phase::Asking
            && let Some(step) = self.ask(shared, now)
        {
            return step;
        }
        if self.phase == Phase::Connecting {
            return Progress::Waiting;
        }
        let before = self.moved();
        let reading = self.is_reading();
        let up = self.pump(Peer::Client, shared, now);
        let down = self.pump(Peer::Upstream, shared, now);
        let moved = (self.up.moved() - before.0, self.down.moved() - before.1);
        self.up.note(moved.0, moved.1);
        self.down.note(moved.1, moved.0);
        if moved != (0, 0) || self.is_reading() && !reading {
            self.touched = now;
        }
        if self.down.is_over()
            && !self.client.finished
            && !matches!(self.phase, Phase::Broken(Peer::Client) | Phase::Settling(Peer::Client) | Phase::Lost(_))
            && let Some(Front::HttpFilter(http_filter)) = self.front.as_deref_mut()
            && let Some(words) = http_filter.last_words()
        {
            self.down.end_with(words, &mut shared.pool);
            self.touched = now;
            return Progress::Again;
        }
        if let Phase::Broken(by) = self.phase
            && self.flow_from(by).is_over()
        {
            self.phase = Phase::Settling(by);
            self.touched = now;
        }
        match self.phase {
            Phase::Settling(by) => self.settle(by),
            Phase::Lost(by) => Progress::Done(self.cut(by)),
            Phase::Asking => Progress::Again,
            _ if self.up.is_over() && self.down.is_over() => self.finish(now),
            _ if up == Pumped::Again || down == Pumped::Again => Progress::Again,
            _ => Progress::Waiting,
        }
    }

    /// Goes on with the dialogue with the proxy. `None` when we are through.
    fn ask<L>(&mut self, shared: &mut Shared<L>, now: Tick) -> Option<Progress> {
        if let Some(Front::TunnelHandshake(handshake)) = self.front.as_deref_mut() {
            match handshake.advance(&mut self.upstream, &mut shared.buffer) {
                Ok(TunnelProgress::Waiting) => return Some(Progress::Waiting),
                Ok(TunnelProgress::Through(payload)) => self.down.begin_with(&payload),
                Err(words) => return Some(Progress::Done(CloseReason::Refused(words))),
            }
        }
        self.front = None;
        self.phase = Phase::Flowing;
        self.touched = now;
        None
    }

    /// Both directions have ended. Whoever was refused has unread bytes with us, for which the kernel sends a reset at
    /// the close; it must not overtake the words.
    fn finish(&mut self, now: Tick) -> Progress {
        if self.refusal().is_none() {
            return Progress::Done(CloseReason::Finished);
        }
        self.phase = Phase::Settling(Peer::Upstream);
        self.touched = now;
        self.settle(Peer::Upstream)
    }

    fn refusal(&self) -> Option<Refusal> {
        match self.front.as_deref() {
            Some(Front::HttpFilter(http_filter)) => http_filter.refusal(),
            _ => None,
        }
    }

    /// Whether the head of a request has begun and not ended, and the client is free to send the rest.
    fn is_reading(&self) -> bool {
        let begun = matches!(self.front.as_deref(), Some(Front::HttpFilter(http_filter)) if http_filter.is_reading());
        begun && self.up.is_empty()
    }

    /// The ending when one end has failed, or was made to by a refusal.
    fn cut(&self, by: Peer) -> CloseReason {
        let refusal = self.refusal().filter(|_| by == Peer::Upstream);
        refusal.map_or(CloseReason::Reset(by), CloseReason::BadRequest)
    }

    fn flow_from(&self, peer: Peer) -> &Flow<P> {
        match peer {
            Peer::Client => &self.up,
            Peer::Upstream => &self.down,
        }
    }

    /// Pumps the flow that comes from `from`, and takes the failure of a socket in.
    fn pump<L: PipePool<Pipe = P>>(&mut self, from: Peer, shared: &mut Shared<L>, now: Tick) -> Pumped {
        let last = self.flow_from(from.other()).is_over();
        let (flow, source, sink) = match from {
            Peer::Client => (&mut self.up, &mut self.client, &mut self.upstream),
            Peer::Upstream => (&mut self.down, &mut self.upstream, &mut self.client),
        };
        // The other flow is over: either the relay ends now and the close says what a shutdown would have said, or the
        // source is broken and its end is no end to pass on.
        let at_end = if last { AtEnd::Keep } else { AtEnd::PassOn };
        let pumped = match (from, self.front.as_deref_mut()) {
            (Peer::Client, Some(Front::HttpFilter(http_filter))) => {
                flow.pump(source, sink, shared, http_filter, at_end)
            }
            _ => flow.pump(source, sink, shared, &mut Plain, at_end),
        };
        pumped.unwrap_or_else(|fault| {
            self.fault(from, &fault, shared, now);
            Pumped::Again
        })
    }

    /// Takes in what stopped the flow that comes from `from`.
    fn fault<L: PipePool<Pipe = P>>(&mut self, from: Peer, fault: &Fault, shared: &mut Shared<L>, now: Tick) {
        let lost = match fault {
            Fault::Refused => return self.refuse(shared, now),
            Fault::Source => from,
            Fault::Sink => from.other(),
        };
        match (self.phase, from) {
            // A failed source is read to its end: whoever said that it failed may have said so too early.
            (Phase::Flowing, _) => self.break_at(lost, now, &mut shared.pool),
            (Phase::Broken(by), _) if lost != by => self.phase = Phase::Lost(by),
            (_, Peer::Client) => self.up.abandon(&mut shared.pool),
            (_, Peer::Upstream) => self.down.abandon(&mut shared.pool),
        }
    }

    /// The client's words go no further: they go through a tunnel instead, or the client is told after the answers to
    /// its earlier requests.
    fn refuse<L: PipePool<Pipe = P>>(&mut self, shared: &mut Shared<L>, now: Tick) {
        let Some(Front::HttpFilter(http_filter)) = self.front.as_deref_mut() else { return };
        // A client that has reset its connection is not connected through any more.
        if self.phase == Phase::Flowing
            && let Some((words, handshake)) = http_filter.tunnel()
        {
            self.up.begin_with(&words);
            self.front = Some(Box::new(Front::TunnelHandshake(handshake)));
            self.phase = Phase::Asking;
            self.touched = now;
            return;
        }
        if self.up.moved() > 0 || !self.up.is_empty() {
            return self.up.end();
        }
        self.up.abandon(&mut shared.pool);
        self.down.abandon(&mut shared.pool);
    }

    fn settle(&self, by: Peer) -> Progress {
        let other = match by {
            Peer::Client => &self.upstream,
            Peer::Upstream => &self.client,
        };
        match other.socket.unacknowledged() {
            Ok(0) | Err(_) => Progress::Done(self.cut(by)),
            Ok(_) => Progress::Waiting,
        }
    }

    /// When to look at this relay again if nothing happens before.
    pub fn due(&self, timeouts: &Timeouts) -> Option<Tick> {
        let wait = match self.phase {
            Phase::Connecting => Some(timeouts.connect),
            Phase::Asking => Some(timeouts.handshake),
            Phase::Flowing if self.is_reading() => Some(timeouts.handshake),
            Phase::Flowing if self.is_half_closed() => timeouts.fin,
            Phase::Flowing => timeouts.idle,
            Phase::Broken(_) => Some(timeouts.fin.unwrap_or(SETTLE_AT_MOST)),
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

    /// The deadline has come. `Progress::Waiting` when the relay has moved on since it was set.
    pub fn expire(&mut self, timeouts: &Timeouts, now: Tick) -> Progress {
        match self.due(timeouts) {
            Some(due) if due <= now => {}
            _ => return Progress::Waiting,
        }
        match self.phase {
            Phase::Connecting => Progress::Done(CloseReason::ConnectFailed(io::ErrorKind::TimedOut.into())),
            Phase::Asking => Progress::Done(CloseReason::Unheard),
            Phase::Flowing if self.is_reading() => Progress::Done(CloseReason::Unheard),
            Phase::Flowing if self.is_half_closed() => Progress::Done(CloseReason::HalfClosed),
            Phase::Flowing => Progress::Done(CloseReason::Idle),
            Phase::Broken(by) | Phase::Lost(by) => Progress::Done(self.cut(by)),
            Phase::Settling(by) => match self.settle(by) {
                Progress::Waiting if self.settling_ends(timeouts) <= now => Progress::Done(self.cut(by)),
                step => step,
            },
        }
    }

    fn settling_ends(&self, timeouts: &Timeouts) -> Tick {
        let timeouts = timeouts.fin.map_or(SETTLE_AT_MOST, |fin| fin.min(SETTLE_AT_MOST));
        self.touched.saturating_add(timeouts)
    }

    /// Gives back what the relay has borrowed; it must be closed afterwards.
    pub fn release(&mut self, pool: &mut impl PipePool<Pipe = P>) {
        self.up.abandon(pool);
        self.down.abandon(pool);
    }
}

/// Ticks for which the acknowledgement of the last bytes before a reset is awaited.
const SETTLE_AT_MOST: Tick = 300;

#[cfg(test)]
#[path = "relay_tests.rs"]
mod tests;
