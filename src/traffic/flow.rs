//! One direction of a relay.
//!
//! ```text
//!             source                                        sink
//!   small   recv ──────────► shared buffer ──────────► send
//!   stream  splice ────────► lent pipe ──────────────► splice
//!   blocked                  pipe, or a copy in memory   (held until the sink takes it)
//!   scarce  peek ──────────► shared buffer ──────────► send, and discard what was sent
//!
//!   Open ── end of source ──► Ended ── all delivered, end passed on ──► Shut
//! ```
//!
//! When pipes become scarce because sinks do not take what they are given, what a sink does not take is left with the
//! source's kernel, and nothing is held.
//!
//! A flow holds bytes only when the sink could not take them, reads only when it holds none, and so needs a pipe only
//! for as long as bytes are under way. Readiness is sticky: an event sets it, EAGAIN clears it. The socket is
//! edge-triggered, so clearing without that proof would wait for ever.

use std::io::{self, ErrorKind};

use crate::traffic::pipe::{Fill, LARGE_SIZE, Pipe, PipeSize, Pool};

/// A connected, non-blocking stream socket, as far as a flow uses it.
pub trait Socket {
    /// Reads; zero bytes are the end.
    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize>;
    /// Reads what a read will return once more.
    fn peek(&self, buffer: &mut [u8]) -> io::Result<usize>;
    /// Reads as much as `buffer` takes, which is left as it is.
    fn discard(&self, buffer: &mut [u8]) -> io::Result<usize>;
    /// Writes.
    fn send(&self, bytes: &[u8]) -> io::Result<usize>;
    /// The same; the end follows at once, and may be told in the same packet.
    fn send_before_end(&self, bytes: &[u8]) -> io::Result<usize>;
    /// Tells the peer that nothing more will come.
    fn finish(&self) -> io::Result<()>;
    /// Does not keep the peer waiting for the acknowledgement of what was read.
    fn acknowledge(&self) -> io::Result<()>;
    /// Bytes sent that the peer has not acknowledged.
    fn unacknowledged(&self) -> io::Result<usize>;
}

/// A pipe between two sockets of type `S`.
pub trait PipeIo<S> {
    /// Bytes in it.
    fn held(&self) -> usize;
    /// Moves up to `max` bytes in; only called when it is empty.
    fn fill(&mut self, from: &S, max: usize) -> io::Result<Fill>;
    /// Moves bytes out; `None` when the sink takes nothing now.
    fn drain(&mut self, to: &S) -> io::Result<Option<usize>>;
    /// Puts bytes from memory in; less than all when they do not fit.
    fn store(&mut self, bytes: &[u8]) -> io::Result<usize>;
}

/// Where pipes come from and go to.
pub trait PipePool {
    /// The pipes.
    type Pipe;
    /// An empty pipe, if one is to be had.
    fn lend(&mut self, size: PipeSize) -> Option<Self::Pipe>;
    /// Takes a pipe back, empty or not.
    fn give_back(&mut self, pipe: Self::Pipe);
    /// Whether pipes are not to be held for long any more.
    fn is_scarce(&mut self) -> bool;
}

impl<S: std::os::fd::AsFd> PipeIo<S> for Pipe {
    fn held(&self) -> usize {
        Pipe::held(self)
    }
    fn fill(&mut self, from: &S, max: usize) -> io::Result<Fill> {
        Pipe::fill(self, from, max)
    }
    fn drain(&mut self, to: &S) -> io::Result<Option<usize>> {
        Pipe::drain(self, to)
    }
    fn store(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Pipe::store(self, bytes)
    }
}

impl PipePool for Pool {
    type Pipe = Pipe;
    fn lend(&mut self, size: PipeSize) -> Option<Pipe> {
        Pool::lend(self, size)
    }
    fn give_back(&mut self, pipe: Pipe) {
        Pool::give_back(self, pipe);
    }
    fn is_scarce(&mut self) -> bool {
        Pool::is_scarce(self)
    }
}

/// What is done to the bytes of a flow on their way.
pub(crate) trait Filter {
    /// Bytes that come next and pass as they are; 0 when the next ones have to be looked at.
    fn opaque(&self) -> u64;
    /// So many of these have passed.
    fn passed(&mut self, count: u64);
    /// Puts what was kept of the last look at the front of `buffer`, and returns how much that is.
    fn restore(&mut self, buffer: &mut [u8]) -> usize;
    /// Looks at `input`, appends to `output` what is to be sent in its place, and keeps the rest.
    fn look(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<(), FilterRefusal>;
    /// The source has ended.
    fn end(&mut self) -> Result<(), FilterRefusal>;
    /// Whether to wait, or to look once more without new bytes.
    fn readiness(&self) -> Readiness;
}

/// What a filter needs before it looks again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// More bytes.
    Bytes,
    /// An answer to its question.
    Answer,
    /// Nothing.
    Nothing,
}

/// A filter does not let pass what has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FilterRefusal;

/// Lets everything pass.
#[derive(Debug)]
pub(crate) struct Plain;

impl Filter for Plain {
    fn opaque(&self) -> u64 {
        u64::MAX
    }
    fn passed(&mut self, _count: u64) {}
    fn restore(&mut self, _buffer: &mut [u8]) -> usize {
        0
    }
    fn look(&mut self, _input: &[u8], _output: &mut Vec<u8>) -> Result<(), FilterRefusal> {
        Ok(())
    }
    fn end(&mut self) -> Result<(), FilterRefusal> {
        Ok(())
    }
    fn readiness(&self) -> Readiness {
        Readiness::Bytes
    }
}

/// What all flows of a worker share.
#[derive(Debug)]
pub struct Shared<L> {
    /// Small messages pass through here.
    pub buffer: Box<[u8]>,
    /// What a filter puts in their place.
    pub rewritten: Vec<u8>,
    /// Pipes.
    pub pool: L,
    /// Cleared for good when the kernel refuses to splice these sockets.
    pub splice_works: bool,
    /// Bytes that one flow may move in a turn before the others get theirs.
    pub budget: u64,
}

impl<L> Shared<L> {
    /// A kit with the usual buffer.
    pub fn new(pool: L) -> Shared<L> {
        let buffer = vec![0; SMALL].into_boxed_slice();
        Shared { buffer, rewritten: Vec::new(), pool, splice_works: true, budget: BUDGET }
    }
}

/// PipeSize in bytes of the shared buffer. What fits is a message and cheaper to copy; a read that fills it is taken for a
/// stream and spliced from then on.
pub const SMALL: usize = 16 * 1024;

/// The usual budget of a turn.
const BUDGET: u64 = 512 * 1024;

/// A flow of more bytes than this without a word from the other side is taken for a stream without end.
const ENDLESS: u32 = 4 * 1024 * 1024;

/// A socket with what is known of it.
#[derive(Debug)]
pub struct Side<S> {
    /// The socket.
    pub socket: S,
    /// Not proven to be dry.
    pub can_read: bool,
    /// Not proven to be full.
    pub can_write: bool,
    /// The peer has sent its end (`EPOLLRDHUP`): no further edge will tell of it.
    pub hung_up: bool,
    /// Urgent data came in. A splice stops before it for ever (`tcp_read_sock`, net/ipv4/tcp.c), and a short read is
    /// no proof of dryness.
    pub urgent: bool,
    /// The peer was told the end: it can be told nothing more.
    pub finished: bool,
}

impl<S> Side<S> {
    /// A socket of which nothing is known yet.
    pub fn new(socket: S) -> Side<S> {
        Side { socket, can_read: false, can_write: false, hung_up: false, urgent: false, finished: false }
    }
}

/// Where a flow is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Open,
    Ended,
    Shut,
}

/// Bytes taken from the source and not yet by the sink.
#[derive(Debug)]
enum Held<P> {
    Nothing,
    Pipe(P),
    /// No pipe was to be had.
    Memory {
        bytes: Box<[u8]>,
        sent: u32,
    },
}

/// How bytes are written.
type Way<S> = fn(&S, &[u8]) -> io::Result<usize>;

/// One direction.
#[derive(Debug)]
pub(crate) struct Flow<P> {
    held: Held<P>,
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
    /// All is delivered, and the end as well.
    Over,
}

/// Which socket failed.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The one read from.
    Source,
    /// The one written to.
    Sink,
    /// None: the filter refuses what came.
    Refused,
}

/// What to do with the end of the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtEnd {
    /// Tell the sink.
    PassOn,
    /// Nothing: the sink is going to be closed or reset at once.
    Keep,
}

impl<P> Flow<P> {
    /// A flow in which nothing has moved yet.
    pub(crate) fn new() -> Flow<P> {
        Flow { held: Held::Nothing, moved: 0, stage: Stage::Open, stream: false, overtaken: false, run: 0 }
    }

    /// Bytes delivered to the sink's kernel so far.
    pub(crate) fn moved(&self) -> u64 {
        self.moved
    }

    /// Takes in that this flow has `moved` so many bytes in a turn and the one of the other direction so many.
    ///
    /// A message from the sink may be a question, and what moves next the answer that it waits for. A stream in the
    /// other direction is none.
    pub(crate) fn note(&mut self, moved: u64, other: u64) {
        let asked = (1..SMALL as u64).contains(&other);
        self.run = if asked { 0 } else { self.run.saturating_add(u32::try_from(moved).unwrap_or(u32::MAX)) };
    }

    /// Whether this is a stream without end: nothing that moves is the answer to something.
    pub(crate) fn is_endless(&self) -> bool {
        self.run >= ENDLESS
    }

    /// Whether the source has ended and all is delivered.
    pub(crate) fn is_over(&self) -> bool {
        self.stage == Stage::Shut
    }

    /// Whether the sink has taken all that came from the source.
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self.held, Held::Nothing)
    }

    /// Takes nothing more from the source: what is held is delivered, and then the end.
    pub(crate) fn end(&mut self) {
        self.stage = Stage::Ended;
    }

    /// AddrPair the flow where it stands; what it holds is lost.
    pub(crate) fn abandon<L: PipePool<Pipe = P>>(&mut self, pool: &mut L) {
        if let Held::Pipe(pipe) = std::mem::replace(&mut self.held, Held::Nothing) {
            pool.give_back(pipe);
        }
        self.stage = Stage::Shut;
    }

    /// The sink is given `words`, which did not come from the source, before anything else.
    pub(crate) fn begin_with(&mut self, words: &[u8]) {
        if !words.is_empty() {
            self.held = Held::Memory { bytes: words.into(), sent: 0 };
        }
    }

    /// The sink is given `words` in place of what the source might still have said, and then its end.
    pub(crate) fn end_with<L: PipePool<Pipe = P>>(&mut self, words: &[u8], pool: &mut L) {
        self.abandon(pool);
        self.begin_with(words);
        self.stage = Stage::Ended;
    }

    /// Gives the sink `words`, and in the same segment what the source has said already.
    pub(crate) fn lead_with<S, L>(
        &mut self,
        words: &[u8],
        source: &mut Side<S>,
        sink: &mut Side<S>,
        shared: &mut Shared<L>,
    ) -> Result<(), Fault>
    where
        S: Socket,
        P: PipeIo<S>,
        L: PipePool<Pipe = P>,
    {
        shared.buffer[..words.len()].copy_from_slice(words);
        let room = shared.buffer.len();
        let count = self.receive(source, &mut shared.buffer[words.len()..room])?;
        self.pass_on(words.len() + count, S::send, sink, shared)
    }

    /// Moves bytes until the source is dry, the sink full or the budget spent.
    pub(crate) fn pump<S, L>(
        &mut self,
        source: &mut Side<S>,
        sink: &mut Side<S>,
        shared: &mut Shared<L>,
        filter: &mut impl Filter,
        at_end: AtEnd,
    ) -> Result<Pumped, Fault>
    where
        S: Socket,
        P: PipeIo<S>,
        L: PipePool<Pipe = P>,
    {
        let before = self.moved;
        loop {
            self.deliver(sink, shared)?;
            if !self.is_empty() {
                return Ok(Pumped::Waiting);
            }
            match self.stage {
                Stage::Open => {}
                Stage::Ended => {
                    if at_end == AtEnd::PassOn {
                        sink.socket.finish().map_err(|_| Fault::Sink)?;
                        sink.finished = true;
                    }
                    self.stage = Stage::Shut;
                    return Ok(Pumped::Over);
                }
                Stage::Shut => return Ok(Pumped::Over),
            }
            let ready = match filter.readiness() {
                Readiness::Bytes => source.can_read,
                Readiness::Answer => false,
                Readiness::Nothing => true,
            };
            if !ready || !sink.can_write {
                return Ok(Pumped::Waiting);
            }
            let turn = self.moved - before;
            if turn >= shared.budget {
                return Ok(Pumped::Again);
            }
            self.take(source, sink, shared, filter, turn)?;
        }
    }

    /// Gives the sink what is held.
    fn deliver<S, L>(&mut self, sink: &mut Side<S>, shared: &mut Shared<L>) -> Result<(), Fault>
    where
        S: Socket,
        P: PipeIo<S>,
        L: PipePool<Pipe = P>,
    {
        while sink.can_write {
            let sent = match &mut self.held {
                Held::Nothing => return Ok(()),
                Held::Pipe(pipe) => pipe.drain(&sink.socket).map_err(|_| Fault::Sink)?,
                Held::Memory { bytes, sent } => {
                    let count = unless_blocked(sink.socket.send(&bytes[*sent as usize..])).map_err(|_| Fault::Sink)?;
                    *sent += count.unwrap_or(0) as u32;
                    count
                }
            };
            match sent {
                Some(count) => self.moved += count as u64,
                None => {
                    sink.can_write = false;
                    self.overtaken = true;
                }
            }
            let empty = match &self.held {
                Held::Nothing => true,
                Held::Pipe(pipe) => pipe.held() == 0,
                Held::Memory { bytes, sent } => *sent as usize == bytes.len(),
            };
            if empty && let Held::Pipe(pipe) = std::mem::replace(&mut self.held, Held::Nothing) {
                shared.pool.give_back(pipe);
            }
        }
        Ok(())
    }

    /// Takes more from the source, one way or the other; `turn` bytes have been moved in this turn already.
    fn take<S, L>(
        &mut self,
        source: &mut Side<S>,
        sink: &mut Side<S>,
        shared: &mut Shared<L>,
        filter: &mut impl Filter,
        turn: u64,
    ) -> Result<(), Fault>
    where
        S: Socket,
        P: PipeIo<S>,
        L: PipePool<Pipe = P>,
    {
        let opaque = usize::try_from(filter.opaque()).unwrap_or(usize::MAX);
        if opaque == 0 {
            return self.rewrite(source, sink, shared, filter);
        }
        let scarce = shared.pool.is_scarce();
        if self.stream
            && shared.splice_works
            && !source.urgent
            && !(scarce && self.overtaken)
            && let Some(pipe) = shared.pool.lend(PipeSize::Large)
        {
            let took = self.splice(pipe, source, shared, opaque.min(LARGE_SIZE), turn)?;
            filter.passed(took as u64);
            return Ok(());
        }
        let room = opaque.min(shared.buffer.len());
        if scarce {
            let sent = self.offer(source, sink, &mut shared.buffer[..room])?;
            filter.passed(sent as u64);
            return Ok(());
        }
        let count = self.receive(source, &mut shared.buffer[..room])?;
        filter.passed(count as u64);
        // After a short read there is only the end left, if that has been announced.
        let is_last = source.hung_up && !source.urgent && count > 0 && count < room;
        self.pass_on(count, if is_last { S::send_before_end } else { S::send }, sink, shared)
    }

    /// Gives the sink what it takes of what has come, takes as much from the source, and returns how much that is.
    fn offer<S: Socket>(
        &mut self,
        source: &mut Side<S>,
        sink: &mut Side<S>,
        buffer: &mut [u8],
    ) -> Result<usize, Fault> {
        let peeked = source.socket.peek(buffer);
        let count = self.hear(source, peeked, buffer.len())?;
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
    fn splice<S, L>(
        &mut self,
        mut pipe: P,
        source: &mut Side<S>,
        shared: &mut Shared<L>,
        max: usize,
        turn: u64,
    ) -> Result<usize, Fault>
    where
        P: PipeIo<S>,
        L: PipePool<Pipe = P>,
    {
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

    /// Reads what has come, with the filter's word on it.
    fn rewrite<S, L>(
        &mut self,
        source: &mut Side<S>,
        sink: &mut Side<S>,
        shared: &mut Shared<L>,
        filter: &mut impl Filter,
    ) -> Result<(), Fault>
    where
        S: Socket,
        P: PipeIo<S>,
        L: PipePool<Pipe = P>,
    {
        let fresh = filter.readiness() == Readiness::Bytes;
        let kept = filter.restore(&mut shared.buffer);
        let count = if fresh { self.receive(source, &mut shared.buffer[kept..])? } else { 0 };
        shared.rewritten.clear();
        let mut verdict = filter.look(&shared.buffer[..kept + count], &mut shared.rewritten);
        if self.stage == Stage::Ended {
            verdict = verdict.and_then(|()| filter.end());
        }
        let Shared { rewritten, pool, .. } = shared;
        self.send(rewritten, S::send, sink, pool)?;
        verdict.map_err(|FilterRefusal| Fault::Refused)
    }

    /// Reads into `buffer` and returns how many bytes have come; draws its conclusions from a short read and from the
    /// end.
    fn receive<S: Socket>(&mut self, source: &mut Side<S>, buffer: &mut [u8]) -> Result<usize, Fault> {
        let received = source.socket.receive(buffer);
        self.hear(source, received, buffer.len())
    }

    /// Takes in what a read, or a look, of up to `most` bytes has brought, and returns how many bytes have come.
    fn hear<S>(&mut self, source: &mut Side<S>, result: io::Result<usize>, most: usize) -> Result<usize, Fault> {
        let count = match unless_blocked(result).map_err(|_| Fault::Source)? {
            None => {
                source.can_read = false;
                self.overtaken = false;
                return Ok(0);
            }
            Some(0) => {
                self.stage = Stage::Ended;
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

    /// Gives the sink the first `count` bytes of the shared buffer.
    fn pass_on<S, L>(
        &mut self,
        count: usize,
        way: Way<S>,
        sink: &mut Side<S>,
        shared: &mut Shared<L>,
    ) -> Result<(), Fault>
    where
        S: Socket,
        P: PipeIo<S>,
        L: PipePool<Pipe = P>,
    {
        let Shared { buffer, pool, .. } = shared;
        self.send(&buffer[..count], way, sink, pool)
    }

    fn send<S, L>(&mut self, bytes: &[u8], way: Way<S>, sink: &mut Side<S>, pool: &mut L) -> Result<(), Fault>
    where
        S: Socket,
        P: PipeIo<S>,
        L: PipePool<Pipe = P>,
    {
        let mut sent = 0;
        while sent < bytes.len() {
            match unless_blocked(way(&sink.socket, &bytes[sent..])).map_err(|_| Fault::Sink)? {
                Some(more) => {
                    sent += more;
                    self.moved += more as u64;
                }
                None => {
                    sink.can_write = false;
                    self.overtaken = true;
                    self.hold::<S, L>(&bytes[sent..], pool);
                    break;
                }
            }
        }
        Ok(())
    }

    /// Keeps what the sink did not take: in a pipe, which costs no memory of ours, or else in memory.
    fn hold<S, L>(&mut self, rest: &[u8], pool: &mut L)
    where
        P: PipeIo<S>,
        L: PipePool<Pipe = P>,
    {
        if let Some(mut pipe) = pool.lend(PipeSize::Usual) {
            if matches!(pipe.store(rest), Ok(count) if count == rest.len()) {
                self.held = Held::Pipe(pipe);
                return;
            }
            pool.give_back(pipe);
        }
        self.held = Held::Memory { bytes: rest.into(), sent: 0 };
    }
}

impl<P> Default for Flow<P> {
    fn default() -> Flow<P> {
        Flow::new()
    }
}

/// `None` for "would block".
fn unless_blocked(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn much_without_a_word_from_the_other_side_is_a_stream_without_end() {
        let mut flow = Flow::<Pipe>::new();
        for _ in 0..4 {
            assert!(!flow.is_endless());
            flow.note(1 << 20, 0);
        }
        assert!(flow.is_endless());
        flow.note(u64::MAX, 0);
        assert!(flow.is_endless());
    }

    #[test]
    fn a_message_from_the_other_side_ends_it_and_a_stream_does_not() {
        let mut flow = Flow::<Pipe>::new();
        flow.note(5 << 20, 1 << 20);
        assert!(flow.is_endless());
        flow.note(1 << 20, 1);
        assert!(!flow.is_endless());
    }
}
