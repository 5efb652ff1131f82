//! The requests of one connection.

use std::mem;

use crate::protocol::addr_pair::AddrPair;
use crate::protocol::request::answers::Answers;
use crate::protocol::request::authority::{Authority, HostClaim};
use crate::protocol::request::chunked;
use crate::protocol::request::framing::Body;
use crate::protocol::request::head::{self, Head};
use crate::protocol::request::lines::{self, HEAD};
use crate::protocol::request::refusal::Refusal;
use crate::protocol::request::rewriting::{RequestTarget, Rewriting};
use crate::protocol::request::target::{self, Form};

/// Bytes of the empty lines that may stand before a request. Some clients send one behind each body (RFC 9112, 2.2).
const BLANK: usize = 1024;

/// Parses the requests of one connection and rewrites them for a proxy. Of bodies it only finds the end.
#[derive(Debug)]
pub struct Requests {
    stage: Stage,
    /// The answers to these requests.
    pub answers: Answers,
    host: Belief,
    /// Complete heads so far.
    count: u32,
    /// Bytes of an incomplete head or trailer that were already searched.
    seen: usize,
    /// Bytes of the empty lines that were dropped before the next request.
    blank: usize,
}

/// The part of a message that comes next. See the picture at the top of [`crate::protocol::request`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Head,
    Body(u64),
    Size,
    Chunk(u64),
    ChunkEnd,
    Trailer,
}

/// Whether the host that the next head names is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Belief {
    Unasked,
    Asked,
    Answered(bool),
}

/// The result of [`Requests::take`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken<'a> {
    /// Bytes of the input that are done. The others are incomplete, and must be shown again with more bytes.
    pub used: usize,
    /// The host that the next head names, or an address without brackets. Before the head can go on,
    /// [`Requests::host_is`] must say whether the proxy may be asked for it.
    pub ask: Option<&'a str>,
}

/// How far one part of the input led.
enum Advance<'a> {
    Used(usize),
    Incomplete,
    Ask(&'a str),
}

impl Requests {
    pub fn new() -> Requests {
        Requests { stage: Stage::Head, answers: Answers::default(), host: Belief::Unasked, count: 0, seen: 0, blank: 0 }
    }

    /// How many of the next bytes pass unchanged; `u64::MAX` means all that will ever come. These need not be shown
    /// here.
    pub fn opaque(&self) -> u64 {
        match self.stage {
            Stage::Body(left) | Stage::Chunk(left) => left,
            Stage::Head if self.answers.has_switched() => u64::MAX,
            Stage::Head | Stage::Size | Stage::ChunkEnd | Stage::Trailer => 0,
        }
    }

    /// Counts opaque bytes that have passed.
    pub fn passed(&mut self, count: u64) {
        match self.stage {
            Stage::Body(left) if left > count => self.stage = Stage::Body(left - count),
            Stage::Body(_) => self.stage = Stage::Head,
            Stage::Chunk(left) if left > count => self.stage = Stage::Chunk(left - count),
            Stage::Chunk(_) => self.stage = Stage::ChunkEnd,
            _ => {}
        }
    }

    /// Whether no request has begun: here a client may be idle, or close the connection.
    pub fn is_between(&self) -> bool {
        self.stage == Stage::Head && self.seen == 0 && !self.is_waiting() && !self.answers.has_switched()
    }

    /// Whether what comes next waits for the answer of the proxy.
    pub fn is_waiting(&self) -> bool {
        self.stage == Stage::Head && self.answers.is_undecided()
    }

    /// Bytes at the beginning of the input that were looked at in vain: a head or a trailer does not end there.
    pub fn searched(&self) -> usize {
        self.seen
    }

    /// The number of requests, with the one whose body has not ended.
    pub fn requests(&self) -> u32 {
        self.count
    }

    /// Answers [`Taken::ask`]. The input must be shown again after that.
    pub fn host_is(&mut self, genuine: bool) {
        if self.host == Belief::Asked {
            self.host = Belief::Answered(genuine);
        }
    }

    /// Parses received bytes and appends to `out` what the proxy gets. On a refusal, `out` has everything before it.
    pub fn take<'a>(
        &mut self,
        input: &'a [u8],
        addrs: &AddrPair,
        rewriting: &Rewriting,
        out: &mut Vec<u8>,
    ) -> Result<Taken<'a>, Refusal> {
        let mut used = 0;
        while let Some(rest) = input.get(used..).filter(|rest| !rest.is_empty()) {
            let advance = match self.stage {
                Stage::Head if self.answers.is_undecided() => break,
                Stage::Head if self.answers.has_switched() => self.pass(rest, out),
                Stage::Head => self.head(rest, addrs, rewriting, out)?,
                Stage::Body(_) | Stage::Chunk(_) => self.pass(rest, out),
                Stage::Size | Stage::ChunkEnd | Stage::Trailer => self.between_chunks(rest, out)?,
            };
            match advance {
                Advance::Used(count) => used += count,
                Advance::Incomplete => break,
                Advance::Ask(name) => return Ok(Taken { used, ask: Some(name) }),
            }
        }
        Ok(Taken { used, ask: None })
    }

    fn head<'a>(
        &mut self,
        input: &'a [u8],
        addrs: &AddrPair,
        rewriting: &Rewriting,
        out: &mut Vec<u8>,
    ) -> Result<Advance<'a>, Refusal> {
        let blank = lines::empty_lines(input);
        if self.blank + blank > BLANK || matches!(input.get(blank..), Some([b'\r', next, ..]) if *next != b'\n') {
            return Err(Refusal::Malformed("empty lines before a request"));
        }
        if self.count > 0 && blank > 0 {
            self.blank += blank;
            self.seen = 0;
            return Ok(Advance::Used(blank));
        }
        if matches!(input.get(blank..), Some([b'\r'])) {
            return Ok(self.incomplete(input));
        }
        if self.count == 0 && head::is_meant(input.get(blank..).unwrap_or_default()) == Some(false) {
            return Err(Refusal::NotHttp);
        }
        let Some(end) = lines::section(input, self.seen.max(blank), rewriting.max_head)? else {
            return Ok(self.incomplete(input));
        };
        let head = Head::parse(input.get(blank..end).unwrap_or_default())?;
        let form = Form::of(head.method, head.target)?;
        if head.switch.is_some() && self.answers.is_lost() {
            return Err(Refusal::Answer);
        }
        match self.target(&head, form, addrs, rewriting) {
            Ok(target) => {
                rewriting.write(&head, target, addrs, out);
                self.follow(&head);
                Ok(Advance::Used(end))
            }
            Err(name) => {
                self.host = Belief::Asked;
                self.seen = end - 1;
                Ok(Advance::Ask(name))
            }
        }
    }

    fn incomplete<'a>(&mut self, input: &[u8]) -> Advance<'a> {
        self.seen = input.len();
        Advance::Incomplete
    }

    /// The new target, or the name that must be looked up before it is known.
    fn target<'a: 't, 't>(
        &self,
        head: &Head<'a>,
        form: Form,
        addrs: &AddrPair,
        rewriting: &'t Rewriting,
    ) -> Result<RequestTarget<'t>, &'a str> {
        let page = rewriting.page_for(head.referer).filter(|_| form != Form::Authority);
        let (claimed, path) = match (page, form) {
            (Some(page), _) => return Ok(RequestTarget::Page(page)),
            (None, Form::Absolute) if rewriting.check_host && !target::is_plain_http(head.target) => {
                (None, target::url(head.target).1)
            }
            (None, Form::Absolute) => target::url(head.target),
            (None, Form::Authority) => (Authority::parse(head.target), &b""[..]),
            (None, Form::Origin) => (head.host.and_then(Authority::parse), head.target),
            (None, Form::Asterisk) => (head.host.and_then(Authority::parse), &b""[..]),
        };
        let claim = claimed.map_or(HostClaim::False, |host| rewriting.claim(&host, addrs.original));
        let believed = match (claim, self.host) {
            (HostClaim::True, _) => claimed,
            (HostClaim::False, _) => None,
            (HostClaim::Ask(_), Belief::Answered(genuine)) => claimed.filter(|_| genuine),
            (HostClaim::Ask(host), _) => return Err(host),
        };
        Ok(match (believed, form) {
            (Some(_), Form::Absolute | Form::Authority) => RequestTarget::Same,
            (None, Form::Authority) => RequestTarget::Through,
            (Some(host), _) => RequestTarget::At(host, path),
            (None, _) => RequestTarget::AtOriginal(path),
        })
    }

    /// Goes on behind a head.
    fn follow(&mut self, head: &Head<'_>) {
        self.count = self.count.saturating_add(1);
        self.seen = 0;
        self.blank = 0;
        self.host = Belief::Unasked;
        self.answers.expect(head.method == "HEAD", head.switch);
        match head.body {
            Body::Length(0) => self.stage = Stage::Head,
            Body::Length(length) => self.stage = Stage::Body(length),
            Body::Chunked => self.stage = Stage::Size,
        }
    }

    fn pass<'a>(&mut self, input: &[u8], out: &mut Vec<u8>) -> Advance<'a> {
        let count = usize::try_from(self.opaque()).unwrap_or(usize::MAX);
        let passed = input.get(..count).unwrap_or(input);
        out.extend_from_slice(passed);
        self.passed(passed.len() as u64);
        Advance::Used(passed.len())
    }

    fn between_chunks<'a>(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Advance<'a>, Refusal> {
        let used = match self.stage {
            Stage::Size => chunked::size(input)?.map(|(length, size)| {
                self.stage = if size == 0 { Stage::Trailer } else { Stage::Chunk(size) };
                length
            }),
            Stage::ChunkEnd => chunked::end(input)?.inspect(|_| self.stage = Stage::Size),
            _ => self.trailer(input)?,
        };
        out.extend_from_slice(used.and_then(|used| input.get(..used)).unwrap_or_default());
        Ok(used.map_or(Advance::Incomplete, Advance::Used))
    }

    fn trailer(&mut self, input: &[u8]) -> Result<Option<usize>, Refusal> {
        let Some(end) = lines::section(input, mem::take(&mut self.seen), HEAD)? else {
            self.seen = input.len();
            return Ok(None);
        };
        chunked::check_trailer(input.get(..end).unwrap_or(input))?;
        self.stage = Stage::Head;
        Ok(Some(end))
    }
}

impl Default for Requests {
    fn default() -> Requests {
        Requests::new()
    }
}

#[cfg(test)]
#[path = "requests_tests.rs"]
mod tests;
