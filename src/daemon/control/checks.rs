//! Checks of upstreams (`--check-interval`): one process finds out for all workers, so an upstream is asked once.

use std::hash::{BuildHasher, RandomState};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use crate::control::command::UpstreamOrder;
use crate::control::picture::Picture;
use crate::logging::Limiter;
use crate::protocol::client_hello::client_hello;
use crate::redirection::RedirectionId;
use crate::sys::outgoing::{self, ThirdPacket};
use crate::sys::shortage::ConnectError;
use crate::sys::sockopt;
use crate::traffic::compact_addr::CompactAddr;
use crate::traffic::listing::FromDesk;
use crate::traffic::service::{CheckKind, UpstreamCheck};

/// The first of the tokens of checks.
pub(super) const CHECK: usize = 1 << 34;

/// Bytes of an answer that are looked at.
const ANSWER: usize = 512;

/// All addresses that are checked.
#[derive(Debug, Default)]
pub(super) struct Checks {
    all: Vec<Check>,
    /// It has been told what to check.
    begun: bool,
    /// The log line about checks that this host cannot make.
    unmade: Limiter,
}

/// An address that is checked.
#[derive(Debug)]
struct Check {
    id: RedirectionId,
    name: String,
    address: SocketAddr,
    /// The address of this host that it leaves from, if the kernel does not choose.
    source: Option<IpAddr>,
    how: UpstreamCheck,
    limit: Duration,
    due: Instant,
    running: Option<RunningCheck>,
    /// Results in a row.
    good: u8,
    bad: u8,
}

#[derive(Debug)]
struct RunningCheck {
    stream: TcpStream,
    since: Instant,
    connected: bool,
    answer: Vec<u8>,
}

/// A result, and what it comes to.
#[derive(Debug)]
pub(super) struct CountedCheck {
    pub id: RedirectionId,
    pub address: SocketAddr,
    pub name: String,
    pub text: String,
    pub time: Duration,
    /// As many as `--rise` and `--fall` say were so in a row.
    pub rises: bool,
    pub falls: bool,
    /// This one makes it so many.
    pub decides: bool,
}

/// How a check has ended.
#[derive(Debug)]
pub(super) struct CheckResult {
    place: usize,
    result: Result<String, String>,
    time: Duration,
}

impl Checks {
    /// Checks what is configured now. What is known of addresses that are checked already is kept.
    pub(super) fn follow(&mut self, picture: &mut Picture) {
        let mut before = std::mem::take(&mut self.all);
        let now = Instant::now();
        for (index, one) in picture.description.redirections.iter().enumerate() {
            let Some((how, limit)) = &one.check else { continue };
            let id = RedirectionId::from(index);
            for upstream in &one.upstreams {
                for address in upstream.addresses.iter().filter(|address| address.port() != 0) {
                    let source = one.leaves_from.iter().copied().find(|ip| ip.is_ipv4() == address.is_ipv4());
                    let known = before.iter().position(|check| {
                        (check.id, check.address, check.source) == (id, *address, source)
                            && check.how == *how
                            && check.name == upstream.name
                    });
                    let new = (0, self.first_bad(how, picture), now);
                    let (good, bad, due) = known.map_or(new, |place| {
                        let check = before.swap_remove(place);
                        (check.good, check.bad, check.due)
                    });
                    self.all.push(Check {
                        id,
                        name: upstream.name.clone(),
                        address: *address,
                        source,
                        how: how.clone(),
                        limit: *limit,
                        due,
                        running: None,
                        good,
                        bad,
                    });
                }
            }
        }
        self.begun = true;
        picture
            .checks
            .retain(|(id, address), _| self.all.iter().any(|check| check.id == *id && check.address == *address));
    }

    /// With how many failures an address begins. A process that follows another one, also after an upgrade, does not know
    /// what that has counted: the first failure decides, so that no upstream is used anew that has failed all the time.
    fn first_bad(&self, how: &UpstreamCheck, picture: &Picture) -> u8 {
        let follows = !self.begun && picture.uptime() > how.interval;
        if follows { how.fall.saturating_sub(1) } else { 0 }
    }

    /// When something is due.
    pub(super) fn due(&self) -> Option<Instant> {
        let due = |check: &Check| check.running.as_ref().map_or(check.due, |running| running.since + check.limit);
        self.all.iter().map(due).min()
    }

    /// Tells a worker what is known.
    pub(super) fn tell(&self, picture: &Picture, mut say: impl FnMut(&FromDesk)) {
        for ((redirection, address), _) in picture.checks.iter().filter(|(_, checked)| checked.is_failing) {
            say(&FromDesk::Checked { redirection: *redirection, address: CompactAddr::from(*address), failing: true });
        }
    }

    /// Begins the checks that are due, and ends those that take too long.
    pub(super) fn expire(&mut self, now: Instant, picture: &Picture, registry: &Registry) -> Vec<CheckResult> {
        let mut ended = Vec::new();
        for (place, check) in self.all.iter_mut().enumerate() {
            if let Some(running) = &check.running {
                if running.since + check.limit <= now {
                    let what = if running.connected { "no answer in time" } else { "no connection in time" };
                    ended.push(check.end(place, Err(what.to_owned())));
                }
            } else if check.due <= now {
                check.due = now + check.how.interval;
                if picture.order(&check.name) == Some(UpstreamOrder::Disable) {
                    continue;
                }
                match check.begin(place, now, registry) {
                    Ok(()) => {}
                    Err(ConnectError::Upstream(error)) => {
                        ended.push(CheckResult { place, result: Err(error.to_string()), time: Duration::ZERO });
                    }
                    // This says nothing about the upstream.
                    Err(ConnectError::Source(error) | ConnectError::Shortage(error)) => {
                        if let Some(more) = self.unmade.pass() {
                            log::warn!("upstream {} ({}) cannot be checked: {error}{more}", check.name, check.address);
                        }
                    }
                }
            }
        }
        ended
    }

    /// The socket of a check has something to tell.
    pub(super) fn event(&mut self, place: usize, event: &Event) -> Vec<CheckResult> {
        let Some(check) = self.all.get_mut(place) else { return Vec::new() };
        let result = check.advance(event);
        result.map(|result| check.end(place, result)).into_iter().collect()
    }
}

impl Checks {
    /// Counts a result.
    pub(super) fn count(&mut self, CheckResult { place, result, time }: CheckResult) -> Option<CountedCheck> {
        let check = self.all.get_mut(place)?;
        (check.good, check.bad) = match result {
            Ok(_) => (check.good.saturating_add(1), 0),
            Err(_) => (0, check.bad.saturating_add(1)),
        };
        let (rises, falls) = (check.good >= check.how.rise, check.bad >= check.how.fall);
        let decides = check.good == check.how.rise || check.bad == check.how.fall;
        let (id, address, name) = (check.id, check.address, check.name.clone());
        Some(CountedCheck { id, address, name, text: result.unwrap_or_else(|why| why), time, rises, falls, decides })
    }
}

impl Check {
    fn begin(&mut self, place: usize, now: Instant, registry: &Registry) -> Result<(), ConnectError> {
        let (socket, _) = outgoing::connecting(self.address, self.source, None, ThirdPacket::AtOnce)?;
        let mut stream = TcpStream::from_std(socket);
        let registered = registry.register(&mut stream, Token(CHECK + place), Interest::READABLE | Interest::WRITABLE);
        registered.map_err(ConnectError::Shortage)?;
        self.running = Some(RunningCheck { stream, since: now, connected: false, answer: Vec::new() });
        Ok(())
    }

    fn end(&mut self, place: usize, result: Result<String, String>) -> CheckResult {
        let running = self.running.take();
        let time = running.as_ref().map_or(Duration::ZERO, |running| running.since.elapsed());
        if let Some(running) = running {
            // The upstream need not remember it.
            let _ = sockopt::reset_on_close(&running.stream);
        }
        CheckResult { place, result, time }
    }

    /// Goes on. `None`: it is not over.
    fn advance(&mut self, event: &Event) -> Option<Result<String, String>> {
        let request = self.request();
        let running = self.running.as_mut()?;
        match running.stream.take_error() {
            Ok(Some(error)) | Err(error) => return Some(Err(error.to_string())),
            Ok(None) => {}
        }
        if !running.connected {
            if !event.is_writable() || running.stream.peer_addr().is_err() {
                return None;
            }
            running.connected = true;
            if request.is_empty() {
                return Some(Ok("connected".to_owned()));
            }
            // It is short, and the socket is empty.
            match running.stream.write(&request) {
                Ok(count) if count == request.len() => {}
                Ok(_) => return Some(Err("the request could not be sent".to_owned())),
                Err(error) => return Some(Err(error.to_string())),
            }
        }
        running.read(&self.how.kind)
    }

    fn request(&self) -> Vec<u8> {
        let host = self.name.rsplit_once(':').map_or(self.name.as_str(), |(host, _)| host);
        match &self.how.kind {
            CheckKind::Connect => Vec::new(),
            CheckKind::Http(path) => {
                let name = &self.name;
                let head = format!(
                    "GET {path} HTTP/1.1\r\nHost: {name}\r\nUser-Agent: tproxy-check\r\nAccept: */*\r\nConnection: close\r\n\r\n"
                );
                head.into_bytes()
            }
            CheckKind::Tls => client_hello(host, random()),
        }
    }
}

/// Nobody relies on it: the keys of the standard library's hash tables are random.
fn random() -> [u8; 32] {
    let words: [[u8; 8]; 4] = std::array::from_fn(|place| RandomState::new().hash_one(place).to_be_bytes());
    std::array::from_fn(|place| words[place / 8][place % 8])
}

impl RunningCheck {
    /// Reads the beginning of the answer. `None`: it has not come yet.
    fn read(&mut self, kind: &CheckKind) -> Option<Result<String, String>> {
        let mut buffer = [0; ANSWER];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Some(Err("closed without an answer".to_owned())),
                Ok(count) => self.answer.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Some(Err(error.to_string())),
            }
            if let Some(judged) = judge(kind, &self.answer) {
                return Some(judged);
            }
        }
    }
}

/// What the beginning of an answer says. `None`: it is too short.
fn judge(kind: &CheckKind, answer: &[u8]) -> Option<Result<String, String>> {
    match kind {
        CheckKind::Connect => Some(Ok("connected".to_owned())),
        CheckKind::Tls => match answer {
            [0x16, _, _, _, _, 0x02, ..] => Some(Ok("ServerHello".to_owned())),
            [0x16, rest @ ..] if rest.len() < 5 => None,
            [0x15, ..] => Some(Err("TLS alert".to_owned())),
            _ => Some(Err("no TLS".to_owned())),
        },
        CheckKind::Http(_) => {
            const START: usize = "HTTP/1.1 200".len();
            if answer.len() < START {
                return if b"HTTP/1.".starts_with(&answer[..answer.len().min(7)]) {
                    None
                } else {
                    Some(Err("no HTTP".to_owned()))
                };
            }
            let head = str::from_utf8(&answer[..START]).unwrap_or_default();
            let status = head.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..)?.parse::<u16>().ok());
            Some(match status {
                Some(status @ 200..=399) => Ok(format!("status {status}")),
                Some(status) => Err(format!("status {status}")),
                None => Err("no HTTP".to_owned()),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_judged_by_its_beginning() {
        let http = CheckKind::Http("/".into());
        let judged = |kind: &CheckKind, answer: &[u8]| judge(kind, answer).map(|result| result.is_ok());
        for (answer, expected) in [
            (&b""[..], None),
            (b"HTTP/1.", None),
            (b"SSH-2.0-x", Some(false)),
            (b"HTTP/1.1 204 No", Some(true)),
            (b"HTTP/1.0 302 Found", Some(true)),
            (b"HTTP/1.1 503 Down", Some(false)),
            (b"HTTP/1.1 abc\r\n\r\n", Some(false)),
            (b"HTTP/1.1 \xff\xff\xff\r\n", Some(false)),
        ] {
            assert_eq!(judged(&http, answer), expected, "{answer:?}");
        }
        assert_eq!(judged(&CheckKind::Tls, &[0x16, 3, 3, 0, 90, 2, 0]), Some(true));
        assert_eq!(judged(&CheckKind::Tls, &[0x16, 3]), None);
        assert_eq!(judged(&CheckKind::Tls, &[0x15, 3, 3, 0, 2, 2, 40]), Some(false));
        assert_eq!(judged(&CheckKind::Tls, b"HTTP/1.1 400 Bad"), Some(false));
    }
}
