//! What the peers say, and what each of them must hear.

use std::rc::Rc;
use std::sync::LazyLock;

use tproxy::testing::Peer;
use tproxy::testing::SMALL;

/// A prime, so that no power of two falls on the same byte again.
const PERIOD: usize = 65_521;

/// Where in the noise a peer begins: what one says is never taken for what the other said.
const UPSTREAM_BEGINS: usize = 30_011;

/// None of these bytes is ASCII, so that no word of a protocol is among them.
static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut byte = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8 | 0x80
    };
    let mut noise: Vec<u8> = (0..PERIOD).map(|_| byte()).collect();
    noise.extend_from_within(..SMALL);
    noise
});

/// All that a peer will ever say.
#[derive(Debug, Clone)]
pub struct Script {
    /// The words of a protocol.
    pub words: Rc<[u8]>,
    begins: usize,
}

impl Script {
    /// These words, and then noise without end.
    pub fn new(end: Peer, words: impl Into<Rc<[u8]>>) -> Script {
        Script { words: words.into(), begins: if end == Peer::Client { 0 } else { UPSTREAM_BEGINS } }
    }

    /// Up to `most` of the bytes from `at` on; at least one.
    fn piece(&self, at: u64, most: usize) -> &[u8] {
        let at = at as usize;
        let rest = match self.words.get(at..) {
            Some(words) if !words.is_empty() => words,
            _ => &NOISE[(self.begins + at - self.words.len()) % PERIOD..],
        };
        &rest[..rest.len().min(most)]
    }

    /// Writes the bytes from `at` on into the buffer.
    pub fn copy(&self, at: u64, buffer: &mut [u8]) {
        let mut done = 0;
        while done < buffer.len() {
            let piece = self.piece(at + done as u64, buffer.len() - done);
            buffer[done..done + piece.len()].copy_from_slice(piece);
            done += piece.len();
        }
    }
}

/// What a peer must hear, and how much of it was handed to its connection so far.
#[derive(Debug, Clone)]
pub struct Hearing {
    /// First these words of the relay.
    pub words: Rc<[u8]>,
    words_heard: usize,
    /// Then what the other peer says, from this byte on. `None` if nothing of it comes as it is.
    next: Option<u64>,
    /// At last these words of the relay, if it has refused something.
    last_words: Option<&'static [u8]>,
}

impl Hearing {
    /// Words of the relay, and then what the other peer says from byte `from` on.
    pub fn new(words: impl Into<Rc<[u8]>>, from: Option<u64>) -> Hearing {
        Hearing { words: words.into(), words_heard: 0, next: from, last_words: None }
    }

    /// How many of the first words were heard.
    pub fn words_heard(&self) -> usize {
        self.words_heard
    }

    /// How far the other peer was heard, if it is to be heard. Bytes in `holes` were never part of what it said.
    pub fn heard_to(&self, holes: &[u64]) -> Option<u64> {
        let mut next = self.next?;
        while holes.contains(&next) {
            next += 1;
        }
        Some(next)
    }

    /// Whether the last words have begun.
    pub fn is_closing(&self) -> bool {
        self.last_words.is_some()
    }

    /// Whether the last words are complete.
    pub fn is_closed(&self) -> bool {
        self.last_words.is_some_and(<[u8]>::is_empty)
    }

    /// Takes bytes; false if they are not those that come next.
    pub fn hear(&mut self, mut bytes: &[u8], other: &Script, holes: &[u64]) -> bool {
        while !bytes.is_empty() {
            let Some(expected) = self.expected(bytes.len(), other, holes) else { return false };
            let (now, later) = bytes.split_at(expected.len());
            if now != expected {
                return false;
            }
            self.advance(now.len());
            bytes = later;
        }
        true
    }

    /// Takes `count` bytes which the other peer said at `at`; false if they are not those that come next.
    pub fn hear_through(&mut self, at: u64, count: usize, other: &Script, holes: &[u64]) -> bool {
        let mut done = 0;
        while done < count && self.words_heard < self.words.len() {
            let piece = other.piece(at + done as u64, (count - done).min(self.words.len() - self.words_heard));
            if !self.hear(piece, other, holes) {
                return false;
            }
            done += piece.len();
        }
        if done == count {
            return true;
        }
        self.next = self.heard_to(holes);
        let follows = self.next == Some(at + done as u64);
        self.advance(count - done);
        follows
    }

    /// Takes some of the last words, which are `all`; false if these are others.
    pub fn hear_last(&mut self, bytes: &[u8], all: &'static [u8]) -> bool {
        let left = self.last_words.unwrap_or(all).strip_prefix(bytes);
        self.last_words = left.or(self.last_words);
        left.is_some()
    }

    fn advance(&mut self, count: usize) {
        if self.words_heard < self.words.len() {
            self.words_heard += count;
        } else if let Some(next) = &mut self.next {
            *next += count as u64;
        }
    }

    /// Up to `most` of the bytes that come next. Skips what was never part of it.
    fn expected<'a>(&'a mut self, most: usize, other: &'a Script, holes: &[u64]) -> Option<&'a [u8]> {
        if self.words_heard < self.words.len() {
            let rest = &self.words[self.words_heard..];
            return Some(&rest[..rest.len().min(most)]);
        }
        let next = self.heard_to(holes)?;
        self.next = Some(next);
        let up_to_hole = holes.iter().filter(|hole| **hole > next).map(|hole| (hole - next) as usize).min();
        Some(other.piece(next, most.min(up_to_hole.unwrap_or(most))))
    }
}
