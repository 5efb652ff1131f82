//! What our processes say to each other: messages of one fixed size each, checked field by field on arrival. A child
//! that was taken over can send any bytes; it gets no further than a message that means something or none.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::indexing_slicing))]

use std::net::{IpAddr, SocketAddr};

use crate::redirection::RedirectionId;
use crate::traffic::compact_addr::CompactAddr;
use crate::traffic::counters::{COUNT, Counters};
use crate::traffic::upstreams::ADDRESSES;

/// Bytes of the longest host name (RFC 1035, 2.3.4).
pub const NAME: usize = 253;

/// Bytes of every message.
pub const SIZE: usize = 640;

const ENDPOINT: usize = 18;

/// Where the number of a redirection stands.
const LINE: usize = 2;

/// Where a name stands with its addresses: behind the longest list of them, after its length.
const NAMED: usize = 2 + ADDRESSES * ENDPOINT;
const _: () = assert!(NAMED + 1 + NAME <= SIZE && 2 + 8 * COUNT <= SIZE, "all fields fit");

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
    /// The access log goes on in the file whose descriptor comes along.
    AccessLog,
    /// The line to another resolver for the names that clients claim to ask for comes along.
    PooledResolver,
    /// All connections are to be reset now. Not a second signal: two that wait are one (signal(7)).
    Reset,
    /// A fresh connection to syslog comes along.
    SystemLog,
}

/// From a worker to the guardian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToGuardian {
    /// The worker takes connections.
    Ready,
    /// The worker takes no new connections any more: somebody else must.
    Leaving,
    /// No upstream of this redirection could be reached.
    Unreachable(RedirectionId),
    /// An upstream of this redirection answers again.
    Reachable(RedirectionId),
    /// What has happened at the worker so far.
    Counters(Counters),
    /// The worker's connection to syslog is dead, and from where it is it can make no other.
    Unheard,
}

/// From the guardian to the resolver: which addresses has this name?
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The name.
    pub name: String,
}

/// From the resolver to the guardian.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The name has these addresses, at least one.
    Addresses(Vec<IpAddr>),
    /// It could not be resolved; why, in words.
    Failed(String),
}

impl ToWorker {
    /// For sending.
    pub fn encode(&self) -> Bytes {
        match self {
            ToWorker::Addresses { name, addresses } => {
                let mut bytes = put_addresses(1, addresses);
                let name = start(name, NAME);
                bytes[NAMED] = name.len() as u8;
                bytes[NAMED + 1..].iter_mut().zip(name).for_each(|(place, byte)| *place = *byte);
                bytes
            }
            ToWorker::AccessLog => put(2, 0, &[]),
            ToWorker::Reset => put(3, 0, &[]),
            ToWorker::PooledResolver => put(4, 0, &[]),
            ToWorker::SystemLog => put(5, 0, &[]),
        }
    }

    /// `None` when it means nothing.
    pub fn decode(bytes: &[u8]) -> Option<ToWorker> {
        let bytes: &Bytes = bytes.try_into().ok()?;
        match bytes[0] {
            1 => {
                let addresses = take_addresses(bytes)?;
                let name = bytes[NAMED + 1..].get(..bytes[NAMED].into())?;
                Some(ToWorker::Addresses { name: str::from_utf8(name).ok()?.to_owned(), addresses })
            }
            2 => Some(ToWorker::AccessLog),
            3 => Some(ToWorker::Reset),
            4 => Some(ToWorker::PooledResolver),
            5 => Some(ToWorker::SystemLog),
            _ => None,
        }
    }
}

impl ToGuardian {
    /// For sending.
    pub fn encode(self) -> Bytes {
        let (kind, id) = match self {
            ToGuardian::Ready => (1, 0),
            ToGuardian::Leaving => (2, 0),
            ToGuardian::Unheard => (6, 0),
            ToGuardian::Unreachable(id) => (3, id.0),
            ToGuardian::Reachable(id) => (4, id.0),
            ToGuardian::Counters(counters) => {
                let numbers = counters.numbers().map(u64::to_be_bytes);
                return put(5, 0, numbers.as_flattened());
            }
        };
        let mut bytes = put(kind, 0, &[]);
        [bytes[LINE], bytes[LINE + 1]] = id.to_be_bytes();
        bytes
    }

    /// `None` when it means nothing.
    pub fn decode(bytes: &[u8]) -> Option<ToGuardian> {
        let bytes: &Bytes = bytes.try_into().ok()?;
        match bytes[0] {
            1 => Some(ToGuardian::Ready),
            2 => Some(ToGuardian::Leaving),
            3 => Some(ToGuardian::Unreachable(redirection(bytes))),
            4 => Some(ToGuardian::Reachable(redirection(bytes))),
            5 => Some(ToGuardian::Counters(counters(bytes))),
            6 => Some(ToGuardian::Unheard),
            _ => None,
        }
    }
}

fn counters(bytes: &Bytes) -> Counters {
    let mut numbers = bytes[2..].as_chunks().0.iter();
    Counters::from_numbers(std::array::from_fn(|_| numbers.next().map_or(0, |number| u64::from_be_bytes(*number))))
}

/// The redirection's number.
fn redirection(bytes: &Bytes) -> RedirectionId {
    RedirectionId(u16::from_be_bytes([bytes[LINE], bytes[LINE + 1]]))
}

impl Question {
    /// For sending; a name that is too long is cut, and will not be found.
    pub fn encode(&self) -> Bytes {
        put_text(1, &self.name, NAME)
    }

    /// `None` when it means nothing.
    pub fn decode(bytes: &[u8]) -> Option<Question> {
        take_text(bytes.try_into().ok()?).map(|name| Question { name })
    }
}

impl Answer {
    /// For sending.
    pub fn encode(&self) -> Bytes {
        match self {
            Answer::Addresses(list) => put_addresses(1, list),
            Answer::Failed(why) => put_text(2, why, 200),
        }
    }

    /// `None` when it means nothing.
    pub fn decode(bytes: &[u8]) -> Option<Answer> {
        let bytes: &Bytes = bytes.try_into().ok()?;
        match bytes[0] {
            1 => {
                let list = take_addresses(bytes)?;
                (!list.is_empty()).then_some(Answer::Addresses(list))
            }
            2 => take_text(bytes).map(Answer::Failed),
            _ => None,
        }
    }
}

fn put(kind: u8, count: u8, content: &[u8]) -> Bytes {
    let mut bytes = [0; SIZE];
    (bytes[0], bytes[1]) = (kind, count);
    bytes[2..].iter_mut().zip(content).for_each(|(place, byte)| *place = *byte);
    bytes
}

fn put_addresses(kind: u8, list: &[IpAddr]) -> Bytes {
    let mut content = Vec::with_capacity(ADDRESSES * ENDPOINT);
    for ip in list.iter().take(ADDRESSES) {
        content.extend_from_slice(&CompactAddr::from(SocketAddr::new(*ip, 1)).to_bytes());
    }
    put(kind, (content.len() / ENDPOINT) as u8, &content)
}

fn take_addresses(bytes: &Bytes) -> Option<Vec<IpAddr>> {
    let count = usize::from(bytes[1]);
    if count > ADDRESSES {
        return None;
    }
    let list = bytes[2..].chunks_exact(ENDPOINT).take(count);
    list.map(|chunk| Some(CompactAddr::from_bytes(chunk.try_into().ok()?).socket_addr().ip())).collect()
}

fn put_text(kind: u8, text: &str, most: usize) -> Bytes {
    let text = start(text, most);
    put(kind, text.len() as u8, text)
}

/// So many bytes of a text, less if a letter would be cut.
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
            ToWorker::PooledResolver,
            ToWorker::SystemLog,
        ] {
            assert_eq!(ToWorker::decode(&order.encode()), Some(order));
        }
        let counters = Counters::from_numbers(std::array::from_fn(|place| u64::MAX - place as u64));
        let lines = [ToGuardian::Unreachable(RedirectionId(499)), ToGuardian::Reachable(RedirectionId(1))];
        let words = [ToGuardian::Ready, ToGuardian::Leaving, ToGuardian::Unheard, ToGuardian::Counters(counters)];
        for word in words.into_iter().chain(lines) {
            assert_eq!(ToGuardian::decode(&word.encode()), Some(word));
        }
        let question = Question { name: "a".repeat(NAME) };
        assert_eq!(Question::decode(&question.encode()), Some(question));
        for answer in [Answer::Addresses(list), Answer::Failed("no such name".into())] {
            assert_eq!(Answer::decode(&answer.encode()), Some(answer));
        }
    }

    #[test]
    fn bytes_that_mean_nothing_are_nothing() {
        assert_eq!(ToGuardian::decode(&[]), None);
        assert_eq!(ToGuardian::decode(&[1]), None);
        assert_eq!(ToGuardian::decode(&[9; SIZE]), None);
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
