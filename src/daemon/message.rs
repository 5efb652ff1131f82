//! The messages between the processes. All have one fixed size, and each field is checked on arrival: a child that was
//! taken over can send any bytes, and they decode to a valid message or to none.
//!
//! A change of their meaning needs another version in the header of `handover.rs`: after an upgrade the workers of the
//! former program talk to the new one.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::indexing_slicing))]

use std::net::{IpAddr, SocketAddr};

use crate::control::command::{LONGEST_UPSTREAM, UpstreamOrder};
use crate::redirection::RedirectionId;
use crate::traffic::compact_addr::CompactAddr;
use crate::traffic::stock::{SocketCounts, SocketKind};
use crate::traffic::upstreams::ADDRESSES;

/// Bytes of the longest host name (RFC 1035, 2.3.4).
pub const NAME: usize = 253;

/// Bytes of every message.
pub const SIZE: usize = 640;

/// Bytes of an address with its port ([`CompactAddr`]).
const ADDRESS: usize = 18;

/// The most addresses in one message of an answer, and in a whole answer. An answer of the DNS that fits into one
/// datagram has fewer than a hundred.
pub const PART: usize = (SIZE - 2) / ADDRESS;
pub const ANSWER: usize = 1024;

/// The place of a redirection's number.
const ID: usize = 2;

/// The place of a name in a message with its addresses: behind the longest list, after the length of the name.
const NAMED: usize = 2 + ADDRESSES * ADDRESS;
const _: () = assert!(NAMED + 1 + NAME <= SIZE, "all fields fit");

/// A message as it travels.
pub type Bytes = [u8; SIZE];

/// From the guardian to a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToWorker {
    /// A name has these addresses now.
    Addresses {
        /// The name.
        name: String,
        /// The addresses.
        addresses: Vec<IpAddr>,
    },
    /// Write the access log to the file whose descriptor comes along.
    AccessLog,
    /// The channel to another resolver, the process with this id, comes along (`--host-check`).
    PooledResolver(u32),
    /// Reset all connections now. A second SIGTERM would not do: two pending signals are one (signal(7)).
    Reset,
    /// A new connection to syslog comes along.
    SystemLog,
    /// Say that you are alive, and what you have counted.
    Ping,
    /// Sockets for connections from addresses of clients come along, all of one kind.
    Sockets(SocketKind),
    /// The channel to the control process comes along.
    Desk,
    /// What an administrator has said about the upstreams that are written so.
    Upstream {
        /// `HOST:PORT`
        name: String,
        order: UpstreamOrder,
    },
    /// Log debug messages, or not.
    Verbose(bool),
    /// Stop: connections have so many seconds.
    Stop(u32),
}

/// From a worker to the guardian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToGuardian {
    /// The worker takes connections.
    Ready,
    /// The worker drains: another one must take new connections.
    Leaving,
    /// No upstream of this redirection could be reached.
    Unreachable(RedirectionId),
    /// An upstream of this redirection answers again.
    Reachable(RedirectionId),
    /// The worker logs its connections, as it was asked to, or it ends.
    Answered,
    /// The worker has lost its connection to syslog and cannot make another one itself.
    Unheard,
    /// The worker needs so many sockets for connections from addresses of clients.
    Sockets(SocketCounts),
    /// The worker ends, and has not been able to tell how many lines of its log were lost.
    LostLines(u64),
    /// The answer to [`ToWorker::Ping`].
    Alive,
    /// This resolver has not answered for too long (`--host-check`).
    ResolverHangs(u32),
}

/// From the guardian to the resolver: look up the addresses of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The name.
    pub name: String,
}

/// From a resolver to whoever has asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The name has these addresses, at least one.
    Addresses(Vec<IpAddr>),
    /// It has these addresses, at least one, and those in the next message.
    Part(Vec<IpAddr>),
    /// It could not be resolved, with the reason in words.
    Failed(String),
}

impl ToWorker {
    pub fn encode(&self) -> Bytes {
        match self {
            ToWorker::Addresses { name, addresses } => {
                let mut bytes = put_addresses(1, start_of(addresses, ADDRESSES));
                let name = start(name, NAME);
                bytes[NAMED] = name.len() as u8;
                bytes[NAMED + 1..].iter_mut().zip(name).for_each(|(place, byte)| *place = *byte);
                bytes
            }
            ToWorker::AccessLog => put(2, 0, &[]),
            ToWorker::Reset => put(3, 0, &[]),
            ToWorker::PooledResolver(pid) => put(4, 0, &pid.to_be_bytes()),
            ToWorker::SystemLog => put(5, 0, &[]),
            ToWorker::Ping => put(6, 0, &[]),
            ToWorker::Sockets(kind) => put(7, kind.place() as u8, &[]),
            ToWorker::Desk => put(8, 0, &[]),
            ToWorker::Upstream { name, order } => put_text(9 + *order as u8, name, LONGEST_UPSTREAM),
            ToWorker::Verbose(on) => put(12, 0, &[u8::from(*on)]),
            ToWorker::Stop(seconds) => put(13, 0, &seconds.to_be_bytes()),
        }
    }

    /// `None` if the bytes are no valid message.
    pub fn decode(bytes: &[u8]) -> Option<ToWorker> {
        let bytes: &Bytes = bytes.try_into().ok()?;
        match bytes[0] {
            1 => {
                let addresses = take_addresses(bytes, ADDRESSES)?;
                let name = bytes[NAMED + 1..].get(..bytes[NAMED].into())?;
                Some(ToWorker::Addresses { name: str::from_utf8(name).ok()?.to_owned(), addresses })
            }
            2 => Some(ToWorker::AccessLog),
            3 => Some(ToWorker::Reset),
            4 => process(bytes).map(ToWorker::PooledResolver),
            5 => Some(ToWorker::SystemLog),
            6 => Some(ToWorker::Ping),
            7 => SocketKind::ALL.get(usize::from(bytes[1])).copied().map(ToWorker::Sockets),
            8 => Some(ToWorker::Desk),
            kind @ 9..12 => {
                let order = *UpstreamOrder::ALL.get(usize::from(kind - 9))?;
                Some(ToWorker::Upstream { name: take_text(bytes)?, order })
            }
            12 => Some(ToWorker::Verbose(bytes[2] == 1)),
            13 => bytes[2..].first_chunk().map(|seconds| ToWorker::Stop(u32::from_be_bytes(*seconds))),
            _ => None,
        }
    }
}

impl ToGuardian {
    pub fn encode(self) -> Bytes {
        let (kind, id) = match self {
            ToGuardian::Ready => (1, 0),
            ToGuardian::Leaving => (2, 0),
            ToGuardian::Unheard => (6, 0),
            ToGuardian::Sockets(SocketCounts(counts)) => {
                return put(10, 0, counts.map(u16::to_be_bytes).as_flattened());
            }
            ToGuardian::LostLines(count) => return put(7, 0, &count.to_be_bytes()),
            ToGuardian::Alive => (8, 0),
            ToGuardian::ResolverHangs(pid) => return put(9, 0, &pid.to_be_bytes()),
            ToGuardian::Unreachable(id) => (3, id.0),
            ToGuardian::Reachable(id) => (4, id.0),
            ToGuardian::Answered => (5, 0),
        };
        let mut bytes = put(kind, 0, &[]);
        [bytes[ID], bytes[ID + 1]] = id.to_be_bytes();
        bytes
    }

    /// `None` if the bytes are no valid message.
    pub fn decode(bytes: &[u8]) -> Option<ToGuardian> {
        let bytes: &Bytes = bytes.try_into().ok()?;
        match bytes[0] {
            1 => Some(ToGuardian::Ready),
            2 => Some(ToGuardian::Leaving),
            3 => Some(ToGuardian::Unreachable(redirection(bytes))),
            4 => Some(ToGuardian::Reachable(redirection(bytes))),
            5 => Some(ToGuardian::Answered),
            6 => Some(ToGuardian::Unheard),
            10 => {
                let counts = bytes[2..].first_chunk::<8>()?;
                let count = |place: usize| counts.as_chunks().0.get(place).map_or(0, |two| u16::from_be_bytes(*two));
                Some(ToGuardian::Sockets(SocketCounts(std::array::from_fn(count))))
            }
            7 => bytes[2..].first_chunk().map(|count| ToGuardian::LostLines(u64::from_be_bytes(*count))),
            8 => Some(ToGuardian::Alive),
            9 => process(bytes).map(ToGuardian::ResolverHangs),
            _ => None,
        }
    }
}

/// The id of a process.
fn process(bytes: &Bytes) -> Option<u32> {
    bytes[2..].first_chunk().map(|pid| u32::from_be_bytes(*pid))
}

/// The redirection's number.
fn redirection(bytes: &Bytes) -> RedirectionId {
    RedirectionId(u16::from_be_bytes([bytes[ID], bytes[ID + 1]]))
}

impl Question {
    /// Encodes the question. A name that is too long is cut, so it will not be found.
    pub fn encode(&self) -> Bytes {
        put_text(1, &self.name, NAME)
    }

    /// `None` if the bytes are no valid message.
    pub fn decode(bytes: &[u8]) -> Option<Question> {
        take_text(bytes.try_into().ok()?).map(|name| Question { name })
    }
}

impl Answer {
    pub fn encode(&self) -> Bytes {
        match self {
            Answer::Addresses(list) => put_addresses(1, start_of(list, PART)),
            Answer::Part(list) => put_addresses(3, start_of(list, PART)),
            Answer::Failed(why) => put_text(2, why, 200),
        }
    }

    /// `None` if the bytes are no valid message.
    pub fn decode(bytes: &[u8]) -> Option<Answer> {
        let bytes: &Bytes = bytes.try_into().ok()?;
        match bytes[0] {
            1 => take_addresses(bytes, PART).filter(|list| !list.is_empty()).map(Answer::Addresses),
            2 => take_text(bytes).map(Answer::Failed),
            3 => take_addresses(bytes, PART).filter(|list| !list.is_empty()).map(Answer::Part),
            _ => None,
        }
    }

    /// The messages with these addresses.
    pub fn messages(addresses: &[IpAddr]) -> impl Iterator<Item = Bytes> {
        let parts = addresses.chunks(PART);
        let last = parts.len().saturating_sub(1);
        parts.enumerate().map(move |(number, part)| {
            let part = part.to_vec();
            if number == last { Answer::Addresses(part) } else { Answer::Part(part) }.encode()
        })
    }
}

/// Puts the messages of one answer together.
#[derive(Debug, Default)]
pub struct AnswerParts(Vec<IpAddr>);

impl AnswerParts {
    /// Takes the next message. Returns the addresses with the last one, or why there are none.
    pub fn add(&mut self, message: Answer) -> Option<Result<Vec<IpAddr>, String>> {
        let (list, last) = match message {
            Answer::Part(list) => (list, false),
            Answer::Addresses(list) => (list, true),
            Answer::Failed(why) => {
                self.0.clear();
                return Some(Err(why));
            }
        };
        self.0.extend(list);
        if self.0.len() > ANSWER {
            self.0.clear();
            return Some(Err("the resolver's answer does not end".into()));
        }
        last.then(|| Ok(std::mem::take(&mut self.0)))
    }
}

fn put(kind: u8, count: u8, content: &[u8]) -> Bytes {
    let mut bytes = [0; SIZE];
    (bytes[0], bytes[1]) = (kind, count);
    bytes[2..].iter_mut().zip(content).for_each(|(place, byte)| *place = *byte);
    bytes
}

fn put_addresses(kind: u8, list: &[IpAddr]) -> Bytes {
    let mut content = Vec::with_capacity(list.len() * ADDRESS);
    for ip in list {
        content.extend_from_slice(&CompactAddr::from(SocketAddr::new(*ip, 1)).to_bytes());
    }
    put(kind, list.len() as u8, &content)
}

fn start_of(list: &[IpAddr], most: usize) -> &[IpAddr] {
    list.get(..most).unwrap_or(list)
}

fn take_addresses(bytes: &Bytes, most: usize) -> Option<Vec<IpAddr>> {
    let count = usize::from(bytes[1]);
    if count > most {
        return None;
    }
    let list = bytes[2..].chunks_exact(ADDRESS).take(count);
    list.map(|chunk| Some(CompactAddr::from_bytes(chunk.try_into().ok()?).socket_addr().ip())).collect()
}

fn put_text(kind: u8, text: &str, most: usize) -> Bytes {
    let text = start(text, most);
    put(kind, text.len() as u8, text)
}

/// The first `most` bytes of a text, or fewer: no letter is cut.
fn start(text: &str, most: usize) -> &[u8] {
    (0..=most).rev().find_map(|end| text.get(..end)).unwrap_or_default().as_bytes()
}

fn take_text(bytes: &Bytes) -> Option<String> {
    let text = std::str::from_utf8(bytes.get(2..2 + usize::from(bytes[1]))?).ok()?;
    Some(text.chars().filter(|c| !c.is_control()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_line() {
        let list: Vec<IpAddr> = vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        let order = |addresses| ToWorker::Addresses { name: "n".repeat(NAME), addresses };
        for order in [
            order(list.clone()),
            order(vec![]),
            ToWorker::AccessLog,
            ToWorker::Reset,
            ToWorker::PooledResolver(u32::MAX - 7),
            ToWorker::SystemLog,
            ToWorker::Ping,
            ToWorker::Sockets(SocketKind::ALL[0]),
            ToWorker::Sockets(SocketKind::ALL[3]),
        ] {
            assert_eq!(ToWorker::decode(&order.encode()), Some(order));
        }
        let lines = [ToGuardian::Unreachable(RedirectionId(499)), ToGuardian::Reachable(RedirectionId(1))];
        let words = [
            ToGuardian::Ready,
            ToGuardian::Leaving,
            ToGuardian::Unheard,
            ToGuardian::Answered,
            ToGuardian::LostLines(u64::MAX - 7),
            ToGuardian::Alive,
            ToGuardian::ResolverHangs(u32::MAX - 7),
            ToGuardian::Sockets(SocketCounts([506, u16::MAX, 7, 0])),
        ];
        for word in words.into_iter().chain(lines) {
            assert_eq!(ToGuardian::decode(&word.encode()), Some(word));
        }
        let question = Question { name: "a".repeat(NAME) };
        assert_eq!(Question::decode(&question.encode()), Some(question));
        for answer in [Answer::Addresses(list.clone()), Answer::Part(list), Answer::Failed("no such name".into())] {
            assert_eq!(Answer::decode(&answer.encode()), Some(answer));
        }
    }

    #[test]
    fn an_answer_of_any_length_arrives_whole() {
        for count in [1, PART - 1, PART, PART + 1, 2 * PART, ANSWER] {
            let list: Vec<IpAddr> = (0..count as u32).map(|number| IpAddr::from(number.to_be_bytes())).collect();
            let (mut parts, mut whole) = (AnswerParts::default(), None);
            for message in Answer::messages(&list) {
                assert_eq!(whole, None, "{count}");
                whole = parts.add(Answer::decode(&message).unwrap());
            }
            assert_eq!(whole, Some(Ok(list)));
        }
    }

    #[test]
    fn an_answer_without_end_is_none_and_the_next_one_begins_anew() {
        let one = || vec![IpAddr::from([10, 0, 0, 1])];
        let mut parts = AnswerParts::default();
        let full = ANSWER / PART;
        let many = || vec![IpAddr::from([10, 0, 0, 1]); PART];
        assert!((0..full).all(|_| parts.add(Answer::Part(many())).is_none()));
        assert!(matches!(parts.add(Answer::Part(many())), Some(Err(_))));
        assert_eq!(parts.add(Answer::Part(one())), None);
        assert!(matches!(parts.add(Answer::Failed("gone".into())), Some(Err(_))));
        assert_eq!(parts.add(Answer::Addresses(one())), Some(Ok(one())));
    }

    #[test]
    fn bytes_that_mean_nothing_are_nothing() {
        assert_eq!(ToGuardian::decode(&[]), None);
        assert_eq!(ToGuardian::decode(&[1]), None);
        assert_eq!(ToGuardian::decode(&[99; SIZE]), None);
        assert_eq!(ToWorker::decode(&[1, 255]), None);
        let mut nameless = put_addresses(1, &[]);
        nameless[NAMED] = 255;
        nameless[NAMED + 1] = 0xff;
        assert_eq!(ToWorker::decode(&nameless), None);
        let mut crowd = [0; SIZE];
        (crowd[0], crowd[1]) = (1, 255);
        assert_eq!(Answer::decode(&crowd), None);
        crowd[1] = 0;
        assert_eq!(Answer::decode(&crowd), None);
    }
}
