//! The answers of a proxy, read as far as it takes to know which request each of them is for.
//!
//! ```text
//!   Status ──► Field ... ──► Body ───────────────────────────────────────► Status
//!                │
//!                ├─────────► Size ──► Chunk ──► ChunkEnd ──► Size ... ──► Trailer ──► Status
//!                │
//!                ├─────────► UntilClose
//!                └─────────► Switched after 101 to an upgrade, or 2xx to a CONNECT
//! ```
//!
//! A request may ask the proxy to make something else of the connection. Whether it does is known from the answer to
//! that request (RFC 9110, 7.8 and 9.3.6), and until then the client's bytes are requests: a proxy that does not agree
//! reads them as such (RFC 9931). So answers are counted against requests, from the first one of a connection on.
//!
//! Answers pass as they are, and no line of them is held back. What is not understood ends the counting: it is an error
//! while a request waits for a decision, and else no later request of the connection can ask for one.

use std::collections::VecDeque;
use std::mem;

use crate::protocol::request::answer_head::{AnswerHead, LINE};
use crate::protocol::request::framing::{AnswerBody, number};

/// Requests with HEAD that may be unanswered at a time.
const HEADS: usize = 64;

/// What a request asks the proxy to make of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// Another protocol (RFC 9110, 7.8).
    Upgrade,
    /// A tunnel (RFC 9110, 9.3.6).
    Tunnel,
}

/// The answers of one connection.
#[derive(Debug, Default)]
pub struct Answers {
    stage: Stage,
    /// Requests so far, and those of them whose final answer has come.
    asked: u32,
    answered: u32,
    /// What the last request asks for, until it is answered.
    switch: Option<Switch>,
    rare: Option<Box<Rare>>,
}

/// What most connections do without.
#[derive(Debug, Default)]
struct Rare {
    /// The numbers of the unanswered requests with HEAD: there is no body in their answers.
    heads: VecDeque<u32>,
    /// A head or a line that has not ended. Most end in the read that they begin in.
    head: AnswerHead,
    line: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Stage {
    #[default]
    Status,
    Field,
    Body(u64),
    Size,
    Chunk(u64),
    ChunkEnd,
    Trailer,
    /// The rest of the connection is the body of one answer.
    UntilClose,
    /// The proxy has agreed: the rest belongs to another protocol.
    Switched,
    /// Something was not understood.
    Lost,
}

/// An answer that is not understood, while a request waits for a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadAnswer {
    /// Bytes that came before it.
    pub good: usize,
}

/// A line that is not understood.
struct BadLine;

impl Answers {
    /// A request goes to the proxy.
    pub fn expect(&mut self, is_head: bool, switch: Option<Switch>) {
        self.switch = switch;
        if is_head && self.stage != Stage::Lost {
            let heads = &mut self.rare.get_or_insert_default().heads;
            heads.push_back(self.asked);
            if heads.len() > HEADS {
                self.lose();
            }
        }
        match self.asked.checked_add(1) {
            Some(asked) => self.asked = asked,
            None => self.lose(),
        }
    }

    /// Whether it is open what becomes of the connection: what the client sends must wait.
    pub fn is_undecided(&self) -> bool {
        self.switch.is_some()
    }

    /// Whether the proxy has agreed: all bytes belong to another protocol, in both directions.
    pub fn has_switched(&self) -> bool {
        self.stage == Stage::Switched
    }

    /// Whether the answers cannot be told apart any more.
    pub fn is_lost(&self) -> bool {
        self.stage == Stage::Lost
    }

    /// Whether an answer has begun and not ended.
    pub fn is_inside(&self) -> bool {
        !matches!(self.stage, Stage::Status | Stage::Lost)
    }

    /// How many of the next bytes need not be shown; `u64::MAX` means all that will ever come.
    pub fn opaque(&self) -> u64 {
        match self.stage {
            Stage::Body(left) | Stage::Chunk(left) => left,
            Stage::UntilClose | Stage::Switched | Stage::Lost => u64::MAX,
            Stage::Status | Stage::Field | Stage::Size | Stage::ChunkEnd | Stage::Trailer => 0,
        }
    }

    /// Counts bytes that were not shown.
    pub fn passed(&mut self, count: u64) {
        match &mut self.stage {
            Stage::Body(left) | Stage::Chunk(left) if *left > count => *left -= count,
            Stage::Body(_) => self.stage = Stage::Status,
            Stage::Chunk(_) => self.stage = Stage::ChunkEnd,
            _ => {}
        }
    }

    /// Reads what the proxy has sent.
    pub fn hear(&mut self, bytes: &[u8]) -> Result<(), BadAnswer> {
        let mut rare = self.rare.take().map_or_else(Rare::default, |rare| *rare);
        let (mut rest, mut good) = (bytes, 0);
        while !rest.is_empty() {
            if self.stage == Stage::Status && rare.line.is_empty() {
                good = bytes.len() - rest.len();
            }
            let opaque = self.opaque();
            if opaque > 0 {
                let count = usize::try_from(opaque).unwrap_or(usize::MAX).min(rest.len());
                self.passed(count as u64);
                rest = rest.get(count..).unwrap_or_default();
                continue;
            }
            let Some((line, behind)) = split_line(rest) else {
                rare.keep(rest);
                break;
            };
            if self.take_line(line, &mut rare).is_err() {
                if self.is_undecided() {
                    return Err(BadAnswer { good });
                }
                self.lose();
                rare = Rare::default();
            }
            rest = behind;
        }
        if self.stage == Stage::Field || !rare.line.is_empty() || !rare.heads.is_empty() {
            self.rare = Some(Box::new(rare));
        }
        Ok(())
    }

    /// The proxy will send nothing more, so it has not agreed to anything.
    pub fn end(&mut self) {
        self.switch = None;
    }

    fn lose(&mut self) {
        self.stage = Stage::Lost;
        self.rare = None;
    }

    /// A line has ended; `end` is the part of it that has come now.
    fn take_line(&mut self, end: &[u8], rare: &mut Rare) -> Result<(), BadLine> {
        if rare.line.is_empty() {
            return self.read_line(end, rare);
        }
        rare.keep(end);
        let line = mem::take(&mut rare.line);
        self.read_line(&line, rare)
    }

    fn read_line(&mut self, line: &[u8], rare: &mut Rare) -> Result<(), BadLine> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match self.stage {
            // Some servers send an empty line behind a body.
            Stage::Status if line.is_empty() => {}
            Stage::Status => {
                let expected = self.answered < self.asked;
                rare.head = AnswerHead::begin(line).filter(|_| expected).ok_or(BadLine)?;
                self.stage = Stage::Field;
            }
            Stage::Field if line.is_empty() => self.stage = self.end_head(rare)?,
            Stage::Field => rare.head.field(line).ok_or(BadLine)?,
            Stage::Size => {
                self.stage = match size(line).ok_or(BadLine)? {
                    0 => Stage::Trailer,
                    size => Stage::Chunk(size),
                }
            }
            Stage::ChunkEnd if line.is_empty() => self.stage = Stage::Size,
            Stage::ChunkEnd => return Err(BadLine),
            Stage::Trailer if line.is_empty() => self.stage = Stage::Status,
            _ => {}
        }
        Ok(())
    }

    /// What follows a complete head.
    fn end_head(&mut self, rare: &mut Rare) -> Result<Stage, BadLine> {
        let status = rare.head.status();
        // The request that asks for a switch is the last one: what came behind it waits.
        let switch = self.switch.filter(|_| self.answered + 1 == self.asked);
        match (status, switch) {
            (101, Some(Switch::Upgrade)) | (200..300, Some(Switch::Tunnel)) => {
                self.switch = None;
                return Ok(Stage::Switched);
            }
            (101, _) => return Err(BadLine),
            (100..200, _) => return Ok(Stage::Status),
            _ => {}
        }
        let body = rare.head.body().ok_or(BadLine)?;
        let is_head = rare.heads.front() == Some(&self.answered);
        if is_head {
            rare.heads.pop_front();
        }
        self.answered += 1;
        self.switch = self.switch.filter(|_| switch.is_none());
        Ok(match body {
            _ if is_head || matches!(status, 204 | 304) => Stage::Status,
            AnswerBody::Length(0) => Stage::Status,
            AnswerBody::Length(length) => Stage::Body(length),
            AnswerBody::Chunked => Stage::Size,
            AnswerBody::UntilClose => Stage::UntilClose,
        })
    }
}

impl Rare {
    fn keep(&mut self, part: &[u8]) {
        let room = (LINE + 1).saturating_sub(self.line.len());
        self.line.extend_from_slice(part.get(..room).unwrap_or(part));
    }
}

fn split_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let (line, rest) = bytes.split_at_checked(end)?;
    Some((line, rest.get(1..)?))
}

/// The size of a chunk. Some servers fill the line up with blanks.
fn size(line: &[u8]) -> Option<u64> {
    let digits = line.split(|byte| *byte == b';').next()?.trim_ascii_end();
    number(digits, 16).filter(|_| digits.len() <= 16)
}

#[cfg(test)]
#[path = "answers_tests.rs"]
mod tests;
