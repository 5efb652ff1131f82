//! Rewrites the requests of a client on their way to an HTTP proxy, keeps what is incomplete between two reads, and reads
//! the answers.

use std::mem;
use std::rc::Rc;

use crate::protocol::addr_pair::AddrPair;
use crate::protocol::request::{BadAnswer, Refusal, Requests, Rewriting, head};
use crate::protocol::sniff::{self, Sniff};
use crate::relay::filter::{Filter, FilterRefusal, Readiness, SeenRefusal, Sight};
use crate::relay::side::SMALL;
use crate::relay::tunnel::{Tunnel, TunnelHandshake};

/// Bytes that are rewritten at once, and bytes of output after which the filter stops: credentials and URLs make a request
/// many times as long.
const PIECE: usize = 1024;
const ENOUGH: usize = 16 * 1024;

/// Rewrites the requests of one connection.
#[derive(Debug)]
pub struct HttpFilter {
    requests: Requests,
    addrs: AddrPair,
    rewriting: Rc<Rewriting>,
    tunnel: Option<Rc<Tunnel>>,
    /// Bytes that were read and not used: mostly the beginning of a head.
    kept: Box<[u8]>,
    /// The host that the client names, until it is known whether the proxy may be asked for it.
    question: Option<Box<str>>,
    /// Whether the tunnel may be asked for by name; `None` if that was not asked yet.
    tunnel_name: Option<bool>,
    readiness: Readiness,
    refusal: Option<Refusal>,
    answered: bool,
}

impl HttpFilter {
    /// For a connection with these addresses; what is not HTTP goes through `tunnel`, if there is one.
    pub fn new(addrs: AddrPair, rewriting: Rc<Rewriting>, tunnel: Option<Rc<Tunnel>>) -> HttpFilter {
        HttpFilter {
            requests: Requests::new(),
            addrs,
            rewriting,
            tunnel,
            kept: Box::default(),
            question: None,
            tunnel_name: None,
            readiness: Readiness::Bytes,
            refusal: None,
            answered: false,
        }
    }

    /// Whether a head has begun and not ended, and the filter waits for the client only.
    pub fn is_reading(&self) -> bool {
        !self.kept.is_empty() && self.refusal.is_none() && self.readiness() == Readiness::Bytes
    }

    /// Whether what the client sends waits for an answer of the proxy.
    pub fn awaits_proxy(&self) -> bool {
        self.requests.is_waiting()
    }

    /// The proxy will send nothing more.
    pub fn proxy_ended(&mut self) {
        self.requests.answers.end();
        self.go_on();
    }

    /// What was kept may be looked at, unless it still waits for an answer of the proxy.
    fn go_on(&mut self) {
        if !self.kept.is_empty() && self.readiness == Readiness::Bytes && !self.awaits_proxy() {
            self.readiness = Readiness::Nothing;
        }
    }

    /// The name that has to be looked up; once.
    pub fn question(&mut self) -> Option<Box<str>> {
        self.question.take()
    }

    /// `genuine` says whether the name leads to the original destination.
    pub fn answer(&mut self, genuine: bool) {
        if self.readiness == Readiness::Answer {
            self.requests.host_is(genuine);
            self.tunnel_name = Some(genuine);
            self.readiness = Readiness::Nothing;
        }
    }

    /// Why the client is not served any further.
    pub fn refusal(&self) -> Option<Refusal> {
        self.refusal
    }

    /// The response to a refused request; once. In the middle of an answer it would be taken for a part of that.
    pub fn error_response(&mut self) -> Option<&'static [u8]> {
        let response = self.refusal?.response()?;
        (!mem::replace(&mut self.answered, true) && !self.requests.answers.is_inside()).then_some(response)
    }

    /// The bytes that were refused because they are not HTTP, and the handshake for a tunnel that they go through.
    pub fn tunnel(&mut self) -> Option<(Vec<u8>, TunnelHandshake)> {
        let tunnel = self.tunnel.take().filter(|_| self.refusal == Some(Refusal::NotHttp))?;
        let name = match sniff::name(&self.kept) {
            Sniff::Name(name) if tunnel.by_name && self.tunnel_name != Some(false) => Some(name),
            _ => None,
        };
        let handshake = TunnelHandshake::new(&tunnel, self.addrs.original, name.as_deref());
        Some((mem::take(&mut self.kept).into_vec(), handshake))
    }

    /// Whether bytes that are not HTTP may still contain the name for the tunnel.
    fn awaits_name(&self, input: &[u8]) -> bool {
        self.tunnel.as_ref().is_some_and(|tunnel| tunnel.by_name) && sniff::name(input) == Sniff::More
    }

    /// The name for the tunnel, if it has to be asked whether it is believed.
    fn tunnel_question(&self, input: &[u8]) -> Option<Box<str>> {
        let asks = self.tunnel.as_ref().is_some_and(|tunnel| tunnel.by_name) && self.tunnel_name.is_none();
        match sniff::name(input) {
            Sniff::Name(name) if asks && self.rewriting.doubts(&name) => Some(name.into()),
            _ => None,
        }
    }

    fn keep(&mut self, rest: &[u8], readiness: Readiness) {
        self.kept = rest.into();
        self.readiness = readiness;
    }

    fn refuse(&mut self, refusal: Refusal) -> Result<(), FilterRefusal> {
        self.refusal = Some(refusal);
        Err(FilterRefusal)
    }
}

impl Filter for HttpFilter {
    fn sight(&self) -> Sight {
        match self.requests.opaque() {
            // What was kept comes first.
            count if count > 0 && self.kept.is_empty() => Sight::Unseen(count),
            _ => Sight::Replaced,
        }
    }

    fn passed(&mut self, count: u64) {
        self.requests.passed(count);
    }

    fn restore(&mut self, buffer: &mut [u8]) -> usize {
        buffer[..self.kept.len()].copy_from_slice(&self.kept);
        self.kept.len()
    }

    fn look(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<(), FilterRefusal> {
        let (mut used, mut shown) = (0, self.requests.searched().min(input.len()));
        while shown < input.len() {
            if output.len() >= ENOUGH {
                self.keep(&input[used..], Readiness::Nothing);
                return Ok(());
            }
            shown = input.len().min(shown + PIECE);
            match self.requests.take(&input[used..shown], &self.addrs, &self.rewriting, output) {
                Ok(taken) => {
                    used += taken.used;
                    self.question = taken.ask.map(Box::from);
                }
                Err(Refusal::NotHttp) if self.awaits_name(input) => break,
                Err(refusal) => {
                    self.question = if refusal == Refusal::NotHttp { self.tunnel_question(input) } else { None };
                    if self.question.is_none() {
                        self.keep(&input[used..], Readiness::Bytes);
                        return self.refuse(refusal);
                    }
                }
            }
            if self.question.is_some() {
                self.keep(&input[used..], Readiness::Answer);
                return Ok(());
            }
            if self.awaits_proxy() {
                break;
            }
        }
        self.keep(&input[used..], Readiness::Bytes);
        Ok(())
    }

    fn eof(&mut self) -> Result<(), FilterRefusal> {
        if self.kept.is_empty() {
            return Ok(());
        }
        // Too few bytes to be recognised as a request may be a whole message of another protocol.
        let is_request = self.requests.requests() > 0 || head::is_meant(&self.kept) == Some(true);
        let is_other = !is_request && self.tunnel.is_some();
        self.refuse(if is_other { Refusal::NotHttp } else { Refusal::Malformed("it ends in the middle") })
    }

    fn readiness(&self) -> Readiness {
        match self.readiness {
            Readiness::Bytes if self.awaits_proxy() && self.kept.is_empty() => Readiness::AnswerOrEnd,
            Readiness::Bytes if self.awaits_proxy() => Readiness::Answer,
            readiness => readiness,
        }
    }
}

/// Reads the answers to the requests of a filter.
#[derive(Debug)]
pub(crate) struct AnswerFilter<'a>(pub &'a mut HttpFilter);

impl Filter for AnswerFilter<'_> {
    fn sight(&self) -> Sight {
        match self.0.requests.answers.opaque() {
            // A read brings as much, and what comes behind it as well.
            count if count < SMALL as u64 => Sight::Seen,
            count => Sight::Unseen(count),
        }
    }

    fn passed(&mut self, count: u64) {
        self.0.requests.answers.passed(count);
    }

    fn seen(&mut self, bytes: &[u8]) -> Result<(), SeenRefusal> {
        let waited = self.0.awaits_proxy();
        let heard = self.0.requests.answers.hear(bytes);
        if waited {
            self.0.go_on();
        }
        heard.map_err(|BadAnswer { good }| {
            self.0.refusal = Some(Refusal::Answer);
            SeenRefusal { good }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::credentials::Credentials;

    #[test]
    fn what_requests_become_is_bounded_and_none_is_lost() {
        const COUNT: usize = 800;
        let credentials = Credentials::parse(&format!("{0}:{0}", "x".repeat(255))).unwrap();
        let rewriting = Rewriting { credentials: Some(credentials), ..Rewriting::default() };
        let addrs = AddrPair { client: ([10, 1, 0, 2], 40_000).into(), original: ([10, 2, 0, 5], 80).into() };
        let mut http_filter = HttpFilter::new(addrs, Rc::new(rewriting), None);
        let input = "GET / HTTP/1.0\r\n\r\n".repeat(COUNT) + "GET /inc";
        let (mut buffer, mut all, mut looks) = (vec![0; 16 * 1024], Vec::new(), 0);
        buffer[..input.len()].copy_from_slice(input.as_bytes());
        let mut length = input.len();
        loop {
            let mut output = Vec::new();
            assert_eq!(http_filter.look(&buffer[..length], &mut output), Ok(()));
            assert!(output.len() < 4 * ENOUGH, "{}", output.len());
            all.extend(output);
            looks += 1;
            if http_filter.readiness() == Readiness::Bytes {
                break;
            }
            length = http_filter.restore(&mut buffer);
        }
        let requests = String::from_utf8(all).unwrap();
        assert_eq!(requests.matches("GET http://10.2.0.5/ HTTP/1.0\r\nProxy-Authorization: Basic ").count(), COUNT);
        assert!(looks > 5 && http_filter.is_reading());
        assert_eq!(http_filter.restore(&mut buffer), 8);
    }
}
