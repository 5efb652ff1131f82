//! The world of one relay: its two connections, its pipes, and the rules that what it does must keep. Whatever breaks
//! one is noted, and the first note is kept.

use std::cell::{RefCell, RefMut};
use std::fmt::Display;
use std::io;

use tproxy::testing::Peer;
use tproxy::testing::Tick;
use tproxy::testing::request::Refusal;

use super::acts::Act;
use super::kernel::{Wire, Wires};
use super::scene::{self, Cast, Decided, Parts, Rewritten};
use super::sockets::Load;
use super::speech::{Hearing, Script};

/// More system calls than any one step can need.
const SPINS: u32 = 20_000;

/// What sequences must come to, or else they prove little.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Bytes went through a pipe, and those of a short read past it.
    Spliced,
    Copied,
    /// What a sink did not take stayed with the source.
    Peeked,
    /// A socket took a part of what it was given, or nothing.
    TakenInPart,
    Blocked,
    /// What was not taken was put into a pipe, or did not fit, or there was no pipe to be had.
    Stored,
    StoredInPart,
    NoPipe,
    /// An end was told.
    Finished,
    /// Something happened in the middle of a step.
    Meanwhile,
}

impl Seen {
    /// All of them.
    pub const ALL: [Seen; 10] = {
        use Seen::{Blocked, Copied, Finished, Meanwhile, NoPipe, Peeked, Spliced, Stored, StoredInPart, TakenInPart};
        [Spliced, Copied, Peeked, TakenInPart, Blocked, Stored, StoredInPart, NoPipe, Finished, Meanwhile]
    };
}

/// All of it.
#[derive(Debug)]
pub struct State {
    /// The connections.
    pub wires: Wires,
    /// Who says what, and who does once the client is found not to speak HTTP.
    pub parts: Parts,
    pub other: Option<Box<Parts>>,
    /// What will be done when so many more system calls have been made.
    pub soon: Vec<(u32, Act)>,
    /// System calls of the step that is under way.
    pub calls: u32,
    /// Whether splice(2) is to be had, how many pipes, and with how many slots.
    pub splices: bool,
    pub pipes: u32,
    pub slots: u32,
    /// Pipes that are lent, and those of them with bytes in them.
    pub lent: u32,
    pub loaded: u32,
    /// The time, and what the worker takes for it: it looks at the clock once a turn.
    pub clock: Tick,
    pub now: Tick,
    /// When a byte was written last.
    pub last_byte: Tick,
    /// When the connections were reset.
    pub reset_at: [Option<Tick>; 2],
    /// What has been seen.
    pub seen: [bool; Seen::ALL.len()],
    breach: Option<String>,
}

/// Where what belongs to an end stands.
pub fn index(end: Peer) -> usize {
    usize::from(end == Peer::Upstream)
}

impl State {
    /// Notes that something must not be.
    pub fn breach(&mut self, what: impl Display) {
        self.breach.get_or_insert_with(|| what.to_string());
    }

    /// Notes that something was seen.
    pub fn see(&mut self, what: Seen) {
        self.seen[what as usize] = true;
    }

    /// What was noted first.
    pub fn verdict(&mut self) -> Result<(), String> {
        self.breach.take().map_or(Ok(()), Err)
    }

    /// The relay makes a system call. What was to happen before it happens.
    pub fn call(&mut self) {
        self.calls += 1;
        assert!(self.calls < SPINS, "the relay spins");
        for at in (0..self.soon.len()).rev() {
            self.soon[at].0 = self.soon[at].0.saturating_sub(1);
            if self.soon[at].0 == 0 {
                let (_, act) = self.soon.remove(at);
                self.see(Seen::Meanwhile);
                self.perform(act);
            }
        }
    }

    /// Whether the proxy has answered that it does not connect us.
    pub fn denies(&self) -> bool {
        self.parts.manners.is_silent_then && self.wires[Peer::Upstream].arrived > 0
    }

    /// Whether anything of what the client has said can be read. An urgent byte that a read passed over cannot.
    fn has_client_spoken(&self) -> bool {
        let client = &self.wires[Peer::Client];
        client.arrived > client.holes.len() as u64
    }

    /// What the client has said so far, rewritten, if that is what is done to it.
    pub fn rewritten(&self) -> Option<Rewritten> {
        let checks = self.parts.requests?;
        let words = &self.parts.scripts[0].words;
        if words.is_empty() {
            let refusal = self.has_client_spoken().then_some(Refusal::NotHttp);
            return Some(Rewritten { words: Vec::new(), refusal, is_unfinished: false });
        }
        let upstream = &self.wires[Peer::Upstream];
        let decided = match self.is_through() {
            true => Decided::Answered,
            false if upstream.ended && upstream.read == upstream.arrived => Decided::Never,
            false => Decided::Open,
        };
        Some(scene::rewritten(words, self.wires[Peer::Client].arrived as usize, checks, decided))
    }

    /// Why the client is not served any further: for what it has said, or for saying no more.
    pub fn refusal(&self) -> Option<Refusal> {
        let rewritten = self.rewritten()?;
        let no_more = self.wires[Peer::Client].ended || self.wires[Peer::Client].gone;
        rewritten
            .refusal
            .or((rewritten.is_unfinished && no_more).then_some(Refusal::Malformed("it ends in the middle")))
    }

    /// Whether a peer has been handed all that it must hear of what was said so far.
    pub fn is_complete(&self, to: Peer) -> bool {
        let hearing = &self.parts.hearings[index(to)];
        let words_wait = self.parts.words_wait && (self.parts.requests.is_some() || !self.has_client_spoken());
        (words_wait || hearing.words_heard() == hearing.words.len()) && self.has_heard(to)
    }

    /// The same without the words of the relay's own, which are of no use when nothing was said.
    pub fn has_heard(&self, to: Peer) -> bool {
        let hearing = &self.parts.hearings[index(to)];
        if let (Peer::Upstream, Some(rewritten)) = (to, self.rewritten()) {
            return hearing.words_heard() == rewritten.words.len();
        }
        let from = &self.wires[to.other()];
        hearing.heard_to(&from.holes).is_some_and(|heard| heard >= from.arrived)
    }

    /// Bytes of payload that were written to that end.
    pub fn payload(&self, to: Peer) -> u64 {
        let accepted = self.wires[to].accepted;
        if to == Peer::Upstream { accepted - accepted.min(self.parts.dialogue) } else { accepted }
    }

    /// How the client was told of a refusal.
    pub fn last_words(&self) -> &Hearing {
        &self.parts.hearings[0]
    }

    /// A new connection to the upstream is tried.
    pub fn redial(&mut self) {
        self.wires[Peer::Upstream] = Wire::new(true, self.wires[Peer::Upstream].room);
        self.reset_at[1] = None;
    }

    /// The system calls.
    pub fn receive(&mut self, end: Peer, buffer: &mut [u8]) -> io::Result<usize> {
        self.call();
        let (at, count) = self.wires[end].receive(buffer.len())?;
        self.see(Seen::Copied);
        self.parts.scripts[index(end)].copy(at, &mut buffer[..count]);
        Ok(count)
    }

    pub fn peek(&mut self, end: Peer, buffer: &mut [u8]) -> io::Result<usize> {
        self.call();
        let (at, count) = self.wires[end].peek(buffer.len())?;
        self.see(Seen::Peeked);
        self.parts.scripts[index(end)].copy(at, &mut buffer[..count]);
        Ok(count)
    }

    pub fn discard(&mut self, end: Peer, most: usize) -> io::Result<usize> {
        self.call();
        Ok(self.wires[end].receive(most)?.1)
    }

    pub fn send(&mut self, end: Peer, bytes: &[u8]) -> io::Result<usize> {
        self.call();
        let count = self.write(end, bytes.len())?;
        self.heard(end, |hearing, script, holes| hearing.hear(&bytes[..count], script, holes), &bytes[..count]);
        Ok(count)
    }

    fn write(&mut self, end: Peer, most: usize) -> io::Result<usize> {
        let result = self.wires[end].send(most);
        match &result {
            Ok(count) if *count < most => self.see(Seen::TakenInPart),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.see(Seen::Blocked),
            _ => {}
        }
        result
    }

    pub fn splice_out(&mut self, end: Peer, load: &Load) -> io::Result<usize> {
        self.call();
        let count = self.write(end, load.len())?;
        match load {
            Load::Range(from, at, _) if *from == end.other() => {
                self.heard(end, |hearing, script, holes| hearing.hear_through(*at, count, script, holes), &[]);
            }
            Load::Range(..) => self.breach("a pipe leads back to where it came from"),
            Load::Bytes(bytes) => {
                let bytes = &bytes[..count];
                self.heard(end, |hearing, script, holes| hearing.hear(bytes, script, holes), bytes);
            }
        }
        Ok(count)
    }

    /// Something was written to one end: is it what must come next?
    fn heard(&mut self, end: Peer, hear: impl Fn(&mut Hearing, &Script, &[u64]) -> bool, bytes: &[u8]) {
        self.last_byte = self.now;
        let other = index(end.other());
        let (hearing, script) = (&mut self.parts.hearings[index(end)], &self.parts.scripts[other]);
        let before = hearing.clone();
        let is_right = !hearing.is_closing() && hear(hearing, script, &self.wires.0[other].holes);
        // An error response begins like the answer that has not been read yet.
        let is_refused = end == Peer::Client && self.may_close().is_some();
        if is_right && !(is_refused && self.is_early(end)) {
            return self.heard_in_time(end);
        }
        self.parts.hearings[index(end)] = before;
        let last_words = if end == Peer::Client { self.may_close() } else { None };
        if !last_words
            .is_some_and(|refusal| self.parts.hearings[0].hear_last(bytes, refusal.response().unwrap_or_default()))
        {
            self.breach(format_args!("the {} hears what was not said, or not yet", end.name()));
        }
    }

    /// Nothing is heard before it was read or looked at, and nothing of the client before the proxy has granted it.
    fn heard_in_time(&mut self, end: Peer) {
        if self.is_early(end) {
            self.breach(format_args!("the {} hears what was not read", end.name()));
        }
        if end == Peer::Upstream && self.parts.requests.is_none() && !self.is_through() && self.payload(end) > 0 {
            self.breach("the proxy is given payload before it has granted it");
        }
    }

    /// Whether one end has heard more than was read or looked at.
    fn is_early(&self, end: Peer) -> bool {
        let from = &self.wires[end.other()];
        self.parts.hearings[index(end)].heard_to(&[]).is_some_and(|heard| heard > from.read.max(from.seen))
    }

    /// Whether the proxy has connected us through, if it is asked to.
    pub fn is_through(&self) -> bool {
        self.wires[Peer::Upstream].read >= self.parts.scripts[1].words.len() as u64
    }

    /// What the client may be told, if it is refused: after the answers to its earlier requests.
    fn may_close(&self) -> Option<Refusal> {
        let upstream = &self.wires[Peer::Upstream];
        let asked = self.rewritten().is_some_and(|it| !it.words.is_empty());
        let answered = (upstream.ended || upstream.gone) && self.has_heard(Peer::Client);
        self.refusal().filter(|_| !asked || answered)
    }

    pub fn finish(&mut self, end: Peer) -> io::Result<()> {
        self.call();
        let twice = self.wires[end].finished;
        self.wires[end].finish()?;
        self.see(Seen::Finished);
        if twice {
            self.breach(format_args!("the {} is told the end twice", end.name()));
        }
        if !self.is_complete(end) {
            self.breach(format_args!("the {} is told the end before the last byte", end.name()));
        }
        let was_said = self.wires[end.other()].ended || end == Peer::Upstream && self.refusal().is_some();
        if !was_said {
            self.breach(format_args!("the {} is told an end that was never said", end.name()));
        }
        Ok(())
    }
}

/// The state, as the relay's sockets and pipes share it.
#[derive(Debug)]
pub struct Net(RefCell<State>);

impl Net {
    /// A world in which nothing has happened yet.
    pub fn new(cast: Cast, rooms: [u32; 2], splices: bool) -> Net {
        let wire = |connecting, room: u32| Wire::new(connecting, room.max(1).into());
        Net(RefCell::new(State {
            wires: Wires([wire(false, rooms[0]), wire(true, rooms[1])]),
            parts: cast.parts,
            other: cast.other,
            soon: Vec::new(),
            calls: 0,
            splices,
            pipes: u32::MAX,
            slots: 16,
            lent: 0,
            loaded: 0,
            clock: 0,
            now: 0,
            last_byte: 0,
            reset_at: [None; 2],
            seen: [false; Seen::ALL.len()],
            breach: None,
        }))
    }

    /// To look at it, or to change it.
    pub fn state(&self) -> RefMut<'_, State> {
        self.0.borrow_mut()
    }
}
