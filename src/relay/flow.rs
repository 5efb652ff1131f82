//! One direction of a relay.
//!
//! ```text
//!             source                                        sink
//!   small   recv ──────────► shared buffer ──────────► send
//!   stream  splice ────────► lent pipe ──────────────► splice
//!   blocked                  pipe, or a copy in memory   (held until the sink takes it)
//!   scarce  peek ──────────► shared buffer ──────────► send, and discard what was sent
//!
//!   Open ── end of source ──► Eof ── all delivered, FIN sent ──► Closed
//! ```
//!
//! When pipes are scarce because sinks are slow, what a sink does not take stays in the source's receive queue, and the
//! flow holds nothing.
//!
//! A flow holds bytes only when the sink could not take them, and reads only when it holds none. So it needs a pipe only
//! while bytes are under way. Readiness is sticky: an event sets it, EAGAIN clears it. The socket is edge-triggered, so
//! clearing without that proof would wait for ever.

use std::io::{self, ErrorKind};

use crate::relay::filter::{Filter, FilterRefusal, Readiness, SeenRefusal, Sight};
use crate::relay::held::{Held, unless_blocked};
use crate::relay::io::{Fill, Io, PipeIo, PipePool, PipeSize, Socket};
use crate::relay::side::{Link, SMALL, Shared, Side};

/// A flow that has moved more bytes than this since the other direction last carried a message is bulk.
const BULK: u32 = 4 * 1024 * 1024;

/// Where a flow is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Open,
    /// Nothing more is read. What is held is still to be delivered.
    Eof,
    Closed,
}

/// How bytes are written.
type Write<S> = fn(&S, &[u8]) -> io::Result<usize>;

/// One direction.
#[derive(Debug)]
pub(crate) struct Flow<I: Io> {
    held: Held<I>,
    moved: u64,
    stage: Stage,
    /// The source is a stream: splice.
    stream: bool,
    /// The sink was full since the source was last dry.
    overtaken: bool,
    /// Bytes moved since the other flow last carried a message.
    run: u32,
}

/// What became of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pumped {
    /// Nothing can be done before the next event.
    Waiting,
    /// The budget is spent and there may be more: no event will come for it.
    Again,
    /// All is delivered, and the FIN as well.
    Closed,
}

/// What stopped a flow.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The socket that is read from failed.
    Source,
    /// The socket that is written to failed.
    Sink,
    /// The filter refuses what came.
    Refused,
}

/// What to do when the source has ended and all is delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnEof {
    /// Send the sink a FIN.
    Forward,
    /// Nothing: the sink is going to be closed or reset at once.
    Ignore,
}

impl<I: Io> Flow<I> {
    pub(crate) fn new() -> Flow<I> {
        Flow { held: Held::Nothing, moved: 0, stage: Stage::Open, stream: false, overtaken: false, run: 0 }
    }

    /// Bytes delivered to the sink's kernel so far.
    pub(crate) fn moved(&self) -> u64 {
        self.moved
    }

    /// Counts what this flow and the opposite one have moved in a turn.
    ///
    /// A message in the other direction may be a question, and what moves next the answer that somebody waits for. A
    /// stream in the other direction is none.
    pub(crate) fn note(&mut self, moved: u64, other: u64) {
        let asked = (1..SMALL as u64).contains(&other);
        self.run = if asked { 0 } else { self.run.saturating_add(u32::try_from(moved).unwrap_or(u32::MAX)) };
    }

    /// Whether this is a bulk stream: nothing that moves is the answer to something.
    pub(crate) fn is_bulk(&self) -> bool {
        self.run >= BULK
    }

    /// Whether the source has ended and all is delivered.
    pub(crate) fn is_closed(&self) -> bool {
        self.stage == Stage::Closed
    }

    /// Whether the sink has taken all that came from the source.
    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_nothing()
    }

    /// Takes nothing more from the source. What is held is delivered, and then the FIN.
    pub(crate) fn stop_reading(&mut self) {
        self.stage = Stage::Eof;
    }

    /// Closes the flow where it stands. What it holds is lost.
    pub(crate) fn abandon(&mut self, pool: &mut I::Pool) {
        self.held.clear(pool);
        self.stage = Stage::Closed;
    }

    /// Sends the sink `bytes`, which did not come from the source, before anything else.
    pub(crate) fn begin_with(&mut self, bytes: &[u8]) {
        self.held = Held::in_memory(bytes);
    }

    /// Sends the sink `bytes` in place of what the source might still send, and then the FIN.
    pub(crate) fn close_with(&mut self, bytes: &[u8], pool: &mut I::Pool) {
        self.abandon(pool);
        self.begin_with(bytes);
        self.stage = Stage::Eof;
    }

    /// Sends the sink `prefix`, and in the same segment what the source has sent already.
    pub(crate) fn lead_with(&mut self, prefix: &[u8], link: &mut Link<'_, I>) -> Result<(), Fault> {
        let Link { source, sink, shared } = link;
        let Shared { buffer, pool, .. } = &mut **shared;
        buffer[..prefix.len()].copy_from_slice(prefix);
        let count = self.receive(source, &mut buffer[prefix.len()..])?;
        self.send(&buffer[..prefix.len() + count], I::Socket::send, sink, pool)
    }

    /// Moves bytes until the source is dry, the sink full or the budget spent.
    pub(crate) fn pump(
        &mut self,
        link: &mut Link<'_, I>,
        filter: &mut impl Filter,
        on_eof: OnEof,
    ) -> Result<Pumped, Fault> {
        let before = self.moved;
        loop {
            self.deliver(link)?;
            if !self.is_empty() {
                return Ok(Pumped::Waiting);
            }
            match self.stage {
                Stage::Open => {}
                Stage::Eof => {
                    if on_eof == OnEof::Forward {
                        link.sink.socket.finish().map_err(|_| Fault::Sink)?;
                        link.sink.finished = true;
                    }
                    self.stage = Stage::Closed;
                    return Ok(Pumped::Closed);
                }
                Stage::Closed => return Ok(Pumped::Closed),
            }
            let ready = match filter.readiness() {
                Readiness::Bytes => link.source.can_read,
                Readiness::Answer => false,
                Readiness::AnswerOrEnd if self.has_ended(link)? => continue,
                Readiness::AnswerOrEnd => false,
                Readiness::Nothing => true,
            };
            if !ready || !link.sink.can_write {
                return Ok(Pumped::Waiting);
            }
            let turn = self.moved - before;
            // A pipe for each bulk stream in turn: towards a socket that paces, the next write comes when its timer is over.
            let is_next = turn > 0 && link.sink.paces && self.is_bulk();
            if is_next || turn >= link.shared.budget {
                return Ok(Pumped::Again);
            }
            self.take(link, filter, turn)?;
        }
    }

    /// Sends the sink what is held.
    fn deliver(&mut self, link: &mut Link<'_, I>) -> Result<(), Fault> {
        while link.sink.can_write && !self.is_empty() {
            match self.held.send(&link.sink.socket, &mut link.shared.spliced).map_err(|_| Fault::Sink)? {
                Some(count) => self.moved += count as u64,
                None => {
                    link.sink.can_write = false;
                    self.overtaken = true;
                }
            }
            if self.held.is_sent() {
                self.held.clear(&mut link.shared.pool);
            }
        }
        Ok(())
    }

    /// Takes more from the source, one way or the other; `turn` bytes have been moved in this turn already.
    fn take(&mut self, link: &mut Link<'_, I>, filter: &mut impl Filter, turn: u64) -> Result<(), Fault> {
        let (opaque, unseen) = match filter.sight() {
            Sight::Replaced => return self.rewrite(link, filter),
            Sight::Unseen(count) => (usize::try_from(count).unwrap_or(usize::MAX), true),
            Sight::Seen => (usize::MAX, false),
        };
        let Link { source, sink, shared } = link;
        let scarce = shared.pool.is_scarce();
        let size = self.pipe_size(sink);
        if unseen
            && self.stream
            && shared.splice_works
            && !source.urgent
            && !(scarce && self.overtaken)
            && let Some(pipe) = shared.pool.lend(size)
        {
            let took = self.splice(pipe, link, opaque.min(size.bytes()), turn)?;
            filter.passed(took as u64);
            return Ok(());
        }
        let room = opaque.min(SMALL);
        if scarce {
            let sent = self.offer(source, sink, &mut shared.buffer[..room])?;
            return filter.seen(&shared.buffer[..sent]).map_err(|_| Fault::Refused);
        }
        let Shared { buffer, pool, .. } = &mut **shared;
        let count = self.receive(source, &mut buffer[..room])?;
        if let Err(SeenRefusal { good }) = filter.seen(&buffer[..count]) {
            self.send(&buffer[..good], I::Socket::send, sink, pool)?;
            return Err(Fault::Refused);
        }
        // After a short read there is only the end left, if that has been announced.
        let is_last = source.hung_up && !source.urgent && count > 0 && count < room;
        let write = if is_last { I::Socket::send_before_end } else { I::Socket::send };
        self.send(&buffer[..count], write, sink, pool)
    }

    /// A pipe for as much as is worth moving at once.
    ///
    /// More at once costs fewer calls, and pays everywhere but towards a socket that paces (BBR without the fq queueing
    /// discipline): what it may not send yet waits for a timer of the socket (`tcp_internal_pacing`,
    /// net/ipv4/tcp_output.c), and every write meets it. 64 KiB are gone before the next ones come.
    fn pipe_size(&self, sink: &Side<I>) -> PipeSize {
        if sink.paces && !self.is_bulk() { PipeSize::Usual } else { PipeSize::Large }
    }

    /// Peeks, sends what the sink takes of that, drops as much from the source, and returns how much that is.
    fn offer(&mut self, source: &mut Side<I>, sink: &mut Side<I>, buffer: &mut [u8]) -> Result<usize, Fault> {
        let peeked = source.socket.peek(buffer);
        let count = self.interpret(source, peeked, buffer.len())?;
        if count == 0 {
            return Ok(0);
        }
        let sent = unless_blocked(sink.socket.send(&buffer[..count])).map_err(|_| Fault::Sink)?;
        sink.can_write = sent.is_some();
        let sent = sent.unwrap_or(0);
        source.can_read |= sent < count;
        self.overtaken |= sent < count;
        self.moved += sent as u64;
        let mut left = sent;
        while left > 0 {
            left -= source.socket.discard(&mut buffer[..left]).map_err(|_| Fault::Source)?.max(1);
        }
        Ok(sent)
    }

    /// Moves up to `max` bytes into the pipe, and returns how many.
    fn splice(&mut self, mut pipe: I::Pipe, link: &mut Link<'_, I>, max: usize, turn: u64) -> Result<usize, Fault> {
        let Link { source, shared, .. } = link;
        match pipe.fill(&source.socket, max) {
            Ok(Fill::Took(count)) => {
                self.held = Held::Pipe(pipe);
                return Ok(count);
            }
            Ok(Fill::Dry) => {
                source.can_read = false;
                self.overtaken = false;
                // Less than a message's worth since the last event: what comes next may be a message.
                self.stream = turn >= SMALL as u64;
            }
            // Or urgent data that no event has told of yet: in front of it a splice says whatever it would say of an
            // empty socket. A read knows.
            Ok(Fill::Eof) => self.stream = false,
            Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => {
                log::warn!("splice does not work here ({error}): copying from now on");
                shared.splice_works = false;
            }
            Err(_) => {
                shared.pool.give_back(pipe);
                return Err(Fault::Source);
            }
        }
        shared.pool.give_back(pipe);
        Ok(0)
    }

    /// Reads, and sends what the filter makes of it.
    fn rewrite(&mut self, link: &mut Link<'_, I>, filter: &mut impl Filter) -> Result<(), Fault> {
        let Link { source, sink, shared } = link;
        let fresh = filter.readiness() == Readiness::Bytes;
        let kept = filter.restore(&mut shared.buffer);
        let room = shared.buffer.len().min(kept + SMALL);
        let count = if fresh { self.receive(source, &mut shared.buffer[kept..room])? } else { 0 };
        shared.rewritten.clear();
        let mut verdict = filter.look(&shared.buffer[..kept + count], &mut shared.rewritten);
        if self.stage == Stage::Eof {
            verdict = verdict.and_then(|()| filter.eof());
        }
        let Shared { rewritten, pool, .. } = &mut **shared;
        self.send(rewritten, I::Socket::send, sink, pool)?;
        verdict.map_err(|FilterRefusal| Fault::Refused)
    }

    /// Whether the source has ended. A byte that has come stays there.
    fn has_ended(&mut self, link: &mut Link<'_, I>) -> Result<bool, Fault> {
        if !link.source.can_read {
            return Ok(false);
        }
        let peeked = link.source.socket.peek(&mut link.shared.buffer[..1]);
        match unless_blocked(peeked).map_err(|_| Fault::Source)? {
            None => link.source.can_read = false,
            Some(0) => self.stage = Stage::Eof,
            Some(_) => {}
        }
        Ok(self.stage == Stage::Eof)
    }

    fn receive(&mut self, source: &mut Side<I>, buffer: &mut [u8]) -> Result<usize, Fault> {
        let received = source.socket.receive(buffer);
        self.interpret(source, received, buffer.len())
    }

    /// Interprets a read or peek of at most `most` bytes: updates readiness and stage. Returns the number of bytes; 0
    /// means that there is nothing now, or the end.
    fn interpret(&mut self, source: &mut Side<I>, result: io::Result<usize>, most: usize) -> Result<usize, Fault> {
        let count = match unless_blocked(result).map_err(|_| Fault::Source)? {
            None => {
                source.can_read = false;
                self.overtaken = false;
                return Ok(0);
            }
            Some(0) => {
                self.stage = Stage::Eof;
                return Ok(0);
            }
            Some(count) => count,
        };
        self.stream = count >= SMALL / 2 && count == most;
        if count < most && !source.hung_up && !source.urgent {
            // A short read has emptied the socket, and whatever comes after it comes with an event of its own. Only
            // the end of the stream may have been announced before.
            source.can_read = false;
        }
        Ok(count)
    }

    /// Sends `bytes`, and holds what the sink does not take.
    fn send(
        &mut self,
        bytes: &[u8],
        write: Write<I::Socket>,
        sink: &mut Side<I>,
        pool: &mut I::Pool,
    ) -> Result<(), Fault> {
        let mut sent = 0;
        while sent < bytes.len() {
            match unless_blocked(write(&sink.socket, &bytes[sent..])).map_err(|_| Fault::Sink)? {
                Some(more) => {
                    sent += more;
                    self.moved += more as u64;
                }
                None => {
                    sink.can_write = false;
                    self.overtaken = true;
                    self.held = Held::keep(&bytes[sent..], pool);
                    break;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::tcp::Tcp;

    #[test]
    fn much_without_a_message_from_the_other_side_is_bulk() {
        let mut flow = Flow::<Tcp>::new();
        for _ in 0..4 {
            assert!(!flow.is_bulk());
            flow.note(1 << 20, 0);
        }
        assert!(flow.is_bulk());
        flow.note(u64::MAX, 0);
        assert!(flow.is_bulk());
    }

    #[test]
    fn a_message_from_the_other_side_ends_bulk_and_a_stream_does_not() {
        let mut flow = Flow::<Tcp>::new();
        flow.note(5 << 20, 1 << 20);
        assert!(flow.is_bulk());
        flow.note(1 << 20, 1);
        assert!(!flow.is_bulk());
    }
}
