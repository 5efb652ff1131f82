//! A relay: two sides, two flows, and how it ends.

mod deadline;

use crate::protocol::request::Refusal;
use crate::relay::close::CloseReason;
use crate::relay::filter::Plain;
use crate::relay::flow::{Fault, Flow, OnEof, Pumped};
use crate::relay::http_filter::AnswerFilter;
use crate::relay::io::{Io, Socket};
use crate::relay::proxy_layer::ProxyLayer;
use crate::relay::side::{Link, Peer, Shared, Side};
use crate::relay::tunnel::TunnelProgress;
use crate::sys::clock::Tick;

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
    /// The handshake with a proxy.
    Handshake,
    Flowing,
    /// This side has failed. What came from it is being delivered to the other.
    Failed(Peer),
    /// The same, all is handed to the kernel, and the other side's acknowledgement is awaited: a reset throws away what
    /// is still in the send queue.
    Flushing(Peer),
    /// This side has failed, and then the other did.
    BothFailed(Peer),
}

/// Two connected sockets (or soon to be) and the two flows between them.
#[derive(Debug)]
pub struct Relay<I: Io> {
    /// The side that connected to us.
    pub client: Side<I>,
    /// The side that we connected to.
    pub upstream: Side<I>,
    up: Flow<I>,
    down: Flow<I>,
    layer: Option<Box<ProxyLayer>>,
    phase: Phase,
    /// When the last byte moved, or the phase began.
    touched: Tick,
}

impl<I: Io> Relay<I> {
    /// A relay whose upstream is being connected.
    pub fn connecting(client: Side<I>, upstream: Side<I>, layer: Option<Box<ProxyLayer>>, now: Tick) -> Relay<I> {
        let (up, down) = (Flow::new(), Flow::new());
        Relay { client, upstream, up, down, layer, phase: Phase::Connecting, touched: now }
    }

    /// Whether the upstream has not answered yet.
    pub fn is_connecting(&self) -> bool {
        self.phase == Phase::Connecting
    }

    /// Whether the handshake with a proxy is under way.
    pub fn is_in_handshake(&self) -> bool {
        self.phase == Phase::Handshake
    }

    /// Bytes delivered, from client to upstream and back.
    pub fn moved(&self) -> (u64, u64) {
        (self.up.moved(), self.down.moved())
    }

    /// Whether it is a bulk stream: nothing that moves is an answer that somebody waits for.
    pub fn is_bulk(&self) -> bool {
        self.up.is_bulk() || self.down.is_bulk()
    }

    /// One of the sides.
    pub fn side(&mut self, peer: Peer) -> &mut Side<I> {
        match peer {
            Peer::Client => &mut self.client,
            Peer::Upstream => &mut self.upstream,
        }
    }

    /// Another address is being tried with another socket.
    pub fn reconnecting(&mut self, upstream: Side<I>, now: Tick) {
        self.upstream = upstream;
        self.touched = now;
    }

    /// The upstream is not a proxy: the bytes pass as they are.
    pub fn be_plain(&mut self) {
        self.layer = None;
    }

    /// The upstream has answered.
    pub fn connected(&mut self, now: Tick) {
        self.phase = match self.layer.as_deref() {
            Some(ProxyLayer::TunnelHandshake(_)) => Phase::Handshake,
            _ => Phase::Flowing,
        };
        self.touched = now;
        self.upstream.can_write = true;
        self.client.can_write = true;
    }

    /// The kernel reported an error on one socket (`SO_ERROR`), which a read or write may not report again.
    pub fn socket_failed(&mut self, peer: Peer, now: Tick, pool: &mut I::Pool) -> Progress {
        match self.phase {
            Phase::Connecting | Phase::Handshake => Progress::Done(CloseReason::Reset(peer)),
            Phase::Flowing => {
                self.fail_side(peer, now, pool);
                Progress::Waiting
            }
            Phase::Failed(by) | Phase::Flushing(by) if by != peer => Progress::Done(self.reset_reason(by)),
            Phase::Failed(_) | Phase::Flushing(_) | Phase::BothFailed(_) => Progress::Waiting,
        }
    }

    /// One side has failed: nothing can be delivered to it, but what it sent is still delivered.
    fn fail_side(&mut self, peer: Peer, now: Tick, pool: &mut I::Pool) {
        match peer {
            Peer::Client => self.down.abandon(pool),
            Peer::Upstream => self.up.abandon(pool),
        }
        let side = self.side(peer);
        side.can_read = true;
        // There may be urgent data that no event has told of, and a splice says of what is behind it that the socket
        // failed.
        side.urgent = true;
        self.phase = Phase::Failed(peer);
        self.touched = now;
    }

    /// Sends the upstream a PROXY header, in one segment with what the client has sent already.
    pub fn send_header(&mut self, header: &[u8], shared: &mut Shared<I>, now: Tick) {
        let mut link = Link { source: &mut self.client, sink: &mut self.upstream, shared };
        if let Err(fault) = self.up.lead_with(header, &mut link) {
            self.fault(Peer::Client, &fault, shared, now);
        }
    }

    /// The host name of a request, when it has to be looked up before the request can go on.
    pub fn question(&mut self) -> Option<Box<str>> {
        self.layer.as_mut()?.http_filter_mut()?.question()
    }

    /// Whether the name of [`Relay::question`] has the address of the original destination.
    pub fn answer(&mut self, genuine: bool) {
        if let Some(http_filter) = self.layer.as_mut().and_then(|layer| layer.http_filter_mut()) {
            http_filter.answer(genuine);
        }
    }

    /// Moves what can be moved.
    pub fn advance(&mut self, shared: &mut Shared<I>, now: Tick) -> Progress {
        if self.phase == Phase::Handshake
            && let Some(step) = self.continue_handshake(shared, now)
        {
            return step;
        }
        if self.phase == Phase::Connecting {
            return Progress::Waiting;
        }
        let before = self.moved();
        let reading = self.is_reading();
        let up = self.pump(Peer::Client, shared, now);
        let waited = self.awaits_proxy();
        let mut down = self.pump(Peer::Upstream, shared, now);
        if waited && self.is_decided() {
            // What the client has sent meanwhile can go on.
            down = Pumped::Again;
        }
        let moved = (self.up.moved() - before.0, self.down.moved() - before.1);
        self.up.note(moved.0, moved.1);
        self.down.note(moved.1, moved.0);
        if moved != (0, 0) || self.is_reading() && !reading {
            self.touched = now;
        }
        if self.down.is_closed()
            && !self.client.finished
            && !matches!(self.phase, Phase::Failed(Peer::Client) | Phase::Flushing(Peer::Client) | Phase::BothFailed(_))
            && let Some(ProxyLayer::HttpFilter(http_filter)) = self.layer.as_deref_mut()
            && let Some(response) = http_filter.error_response()
        {
            self.down.close_with(response, &mut shared.pool);
            self.touched = now;
            return Progress::Again;
        }
        if let Phase::Failed(by) = self.phase
            && self.flow_from(by).is_closed()
        {
            self.phase = Phase::Flushing(by);
            self.touched = now;
        }
        match self.phase {
            Phase::Flushing(by) => self.flush(by),
            Phase::BothFailed(by) => Progress::Done(self.reset_reason(by)),
            Phase::Handshake => Progress::Again,
            _ if self.up.is_closed() && self.down.is_closed() => self.finish(now),
            _ if up == Pumped::Again || down == Pumped::Again => Progress::Again,
            _ => Progress::Waiting,
        }
    }

    /// Goes on with the handshake. `None` when the proxy has connected.
    fn continue_handshake(&mut self, shared: &mut Shared<I>, now: Tick) -> Option<Progress> {
        if let Some(ProxyLayer::TunnelHandshake(handshake)) = self.layer.as_deref_mut() {
            match handshake.advance(&mut self.upstream, &mut shared.buffer) {
                Ok(TunnelProgress::Waiting) => return Some(Progress::Waiting),
                Ok(TunnelProgress::Connected(payload)) => self.down.begin_with(&payload),
                Err(text) => return Some(Progress::Done(CloseReason::ProxyRefused(text))),
            }
        }
        self.layer = None;
        self.phase = Phase::Flowing;
        self.touched = now;
        None
    }

    /// Both directions are closed. After a bad request there may be unread bytes of the client, for which the kernel
    /// sends a reset at the close; it must not overtake the error response.
    fn finish(&mut self, now: Tick) -> Progress {
        if self.refusal().is_none() {
            return Progress::Done(CloseReason::Finished);
        }
        self.phase = Phase::Flushing(Peer::Upstream);
        self.touched = now;
        self.flush(Peer::Upstream)
    }

    fn refusal(&self) -> Option<Refusal> {
        self.layer.as_ref()?.http_filter()?.refusal()
    }

    /// Whether the head of a request has begun and not ended, and the client is free to send the rest.
    fn is_reading(&self) -> bool {
        let http_filter = self.layer.as_ref().and_then(|layer| layer.http_filter());
        http_filter.is_some_and(|http_filter| http_filter.is_reading()) && self.up.is_empty()
    }

    /// Whether what the client sends waits for an answer of the proxy.
    fn awaits_proxy(&self) -> bool {
        let http_filter = self.layer.as_ref().and_then(|layer| layer.http_filter());
        http_filter.is_some_and(|http_filter| http_filter.awaits_proxy())
    }

    /// Whether the client need not wait for the proxy any more: it has answered, or its answers have ended.
    fn is_decided(&mut self) -> bool {
        if self.down.is_closed()
            && let Some(ProxyLayer::HttpFilter(http_filter)) = self.layer.as_deref_mut()
        {
            http_filter.proxy_ended();
        }
        !self.awaits_proxy()
    }

    /// The reason when one side has failed, or a request or an answer was refused.
    fn reset_reason(&self, by: Peer) -> CloseReason {
        match self.refusal().filter(|_| by == Peer::Upstream) {
            None => CloseReason::Reset(by),
            Some(refusal @ Refusal::Answer) => CloseReason::ProxyRefused(refusal.to_string()),
            Some(refusal) => CloseReason::BadRequest(refusal),
        }
    }

    fn flow_from(&self, peer: Peer) -> &Flow<I> {
        match peer {
            Peer::Client => &self.up,
            Peer::Upstream => &self.down,
        }
    }

    /// Pumps the flow that comes from `from`, and handles a fault.
    fn pump(&mut self, from: Peer, shared: &mut Shared<I>, now: Tick) -> Pumped {
        let last = self.flow_from(from.other()).is_closed();
        let (flow, source, sink) = match from {
            Peer::Client => (&mut self.up, &mut self.client, &mut self.upstream),
            Peer::Upstream => (&mut self.down, &mut self.upstream, &mut self.client),
        };
        // The other flow is closed: either the relay ends now and the close says what a FIN would have said, or the
        // source has failed and its end is none to pass on.
        let on_eof = if last { OnEof::Ignore } else { OnEof::Forward };
        let mut link = Link { source, sink, shared };
        let pumped = match (from, self.layer.as_deref_mut()) {
            (Peer::Client, Some(ProxyLayer::HttpFilter(http_filter))) => flow.pump(&mut link, http_filter, on_eof),
            (Peer::Upstream, Some(ProxyLayer::HttpFilter(http_filter))) => {
                flow.pump(&mut link, &mut AnswerFilter(http_filter), on_eof)
            }
            _ => flow.pump(&mut link, &mut Plain, on_eof),
        };
        pumped.unwrap_or_else(|fault| {
            self.fault(from, &fault, shared, now);
            Pumped::Again
        })
    }

    /// Handles what stopped the flow that comes from `from`.
    fn fault(&mut self, from: Peer, fault: &Fault, shared: &mut Shared<I>, now: Tick) {
        let lost = match fault {
            Fault::Refused if from == Peer::Upstream => return self.refuse_answer(shared, now),
            Fault::Refused => return self.refuse(shared, now),
            Fault::Source => from,
            Fault::Sink => from.other(),
        };
        match (self.phase, from) {
            // A failed source is read to its end: bytes may still be in its receive queue.
            (Phase::Flowing, _) => self.fail_side(lost, now, &mut shared.pool),
            (Phase::Failed(by), _) if lost != by => self.phase = Phase::BothFailed(by),
            (_, Peer::Client) => self.up.abandon(&mut shared.pool),
            (_, Peer::Upstream) => self.down.abandon(&mut shared.pool),
        }
    }

    /// What the client sent is no request that can be passed on. It goes through a tunnel instead, or the client gets an
    /// error response after the answers to its earlier requests.
    fn refuse(&mut self, shared: &mut Shared<I>, now: Tick) {
        let Some(ProxyLayer::HttpFilter(http_filter)) = self.layer.as_deref_mut() else { return };
        // A client that has reset its connection is not connected through any more.
        if self.phase == Phase::Flowing
            && let Some((payload, handshake)) = http_filter.tunnel()
        {
            self.up.begin_with(&payload);
            self.layer = Some(Box::new(ProxyLayer::TunnelHandshake(handshake)));
            self.phase = Phase::Handshake;
            self.touched = now;
            return;
        }
        if self.up.moved() > 0 || !self.up.is_empty() {
            return self.up.stop_reading();
        }
        self.up.abandon(&mut shared.pool);
        self.down.abandon(&mut shared.pool);
    }

    /// An answer of the proxy is not understood, so nobody knows what it takes the client's bytes for. The client gets the
    /// answers before that one, and then a reset.
    fn refuse_answer(&mut self, shared: &mut Shared<I>, now: Tick) {
        self.up.abandon(&mut shared.pool);
        self.down.stop_reading();
        if self.phase == Phase::Flowing {
            self.phase = Phase::Failed(Peer::Upstream);
        }
        self.touched = now;
    }

    fn flush(&self, by: Peer) -> Progress {
        let other = match by {
            Peer::Client => &self.upstream,
            Peer::Upstream => &self.client,
        };
        match other.socket.unacknowledged() {
            Ok(0) | Err(_) => Progress::Done(self.reset_reason(by)),
            Ok(_) => Progress::Waiting,
        }
    }

    /// Gives back what the relay has borrowed; it must be closed afterwards.
    pub fn release(&mut self, pool: &mut I::Pool) {
        self.up.abandon(pool);
        self.down.abandon(pool);
    }
}

#[cfg(test)]
#[path = "relay_tests.rs"]
mod tests;
