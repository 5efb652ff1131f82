//! What our processes say to each other: messages of one fixed size each, checked field by field on arrival. A child
//! that was taken over can send any bytes; it gets no further than a message that means something or none.

use std::net::{IpAddr, SocketAddr};

use crate::traffic::counters::{COUNT, Counters};
use crate::traffic::endpoint::Endpoint;
use crate::traffic::upstream::ADDRESSES;

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
pub enum Order {
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
    Asker,
    /// All connections are to be reset now. Not a second signal: two that wait are one (signal(7)).
    Reset,
}

/// From a worker to the guardian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// The worker takes connections.
    Ready,
    /// The worker takes no new connections any more: somebody else must.
    Leaving,
    /// No upstream of this redirection could be reached.
    Unreachable(u16),
    /// An upstream of this redirection answers again.
    Reachable(u16),
    /// What has happened at the worker so far.
    Counters(Counters),
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

impl Order {
    /// For sending.
    pub fn encode(&self) -> Bytes {
        match self {
            Order::Addresses { name, addresses } => {
                let mut bytes = put_addresses(1, addresses);
                let length = name.len().min(NAME);
                bytes[NAMED] = length as u8;
                bytes[NAMED + 1..][..length].copy_from_slice(&name.as_bytes()[..length]);
                bytes
            }
            Order::AccessLog => put(2, 0, &[]),
            Order::Reset => put(3, 0, &[]),
            Order::Asker => put(4, 0, &[]),
        }
    }

    /// `None` when it means nothing.
    pub fn decode(bytes: &[u8]) -> Option<Order> {
        match *bytes.first()? {
            1 => {
                let addresses = take_addresses(bytes)?;
                let name = bytes[NAMED + 1..].get(..bytes[NAMED].into())?;
                Some(Order::Addresses { name: str::from_utf8(name).ok()?.to_owned(), addresses })
            }
            2 => Some(Order::AccessLog),
            3 => Some(Order::Reset),
            4 => Some(Order::Asker),
            _ => None,
        }
    }
}

impl Word {
    /// For sending.
    pub fn encode(self) -> Bytes {
        let (kind, line) = match self {
            Word::Ready => (1, 0),
            Word::Leaving => (2, 0),
            Word::Unreachable(line) => (3, line),
            Word::Reachable(line) => (4, line),
            Word::Counters(counters) => {
                let numbers = counters.numbers().map(u64::to_be_bytes);
                return put(5, 0, numbers.as_flattened());
            }
        };
        let mut bytes = put(kind, 0, &[]);
        bytes[LINE..LINE + 2].copy_from_slice(&line.to_be_bytes());
        bytes
    }

    /// `None` when it means nothing.
    pub fn decode(bytes: &[u8]) -> Option<Word> {
        match (bytes.len(), *bytes.first()?) {
            (SIZE, 1) => Some(Word::Ready),
            (SIZE, 2) => Some(Word::Leaving),
            (SIZE, 3) => Some(Word::Unreachable(line(bytes))),
            (SIZE, 4) => Some(Word::Reachable(line(bytes))),
            (SIZE, 5) => Some(Word::Counters(counters(bytes))),
            _ => None,
        }
    }
}

/// Reads the counters from a message of full length.
fn counters(bytes: &[u8]) -> Counters {
    let (numbers, _) = bytes[2..].as_chunks();
    Counters::from_numbers(std::array::from_fn(|place| u64::from_be_bytes(numbers[place])))
}

/// Reads the redirection's number from a message of full length.
fn line(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[LINE], bytes[LINE + 1]])
}

impl Question {
    /// For sending; a name that is too long is cut, and will not be found.
    pub fn encode(&self) -> Bytes {
        put_text(1, &self.name, NAME)
    }

    /// `None` when it means nothing.
    pub fn decode(bytes: &[u8]) -> Option<Question> {
        take_text(bytes).map(|name| Question { name })
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
        match *bytes.first()? {
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
    bytes[2..2 + content.len()].copy_from_slice(content);
    bytes
}

fn put_addresses(kind: u8, list: &[IpAddr]) -> Bytes {
    let mut content = Vec::with_capacity(ADDRESSES * ENDPOINT);
    for ip in list.iter().take(ADDRESSES) {
        content.extend_from_slice(&Endpoint::from(SocketAddr::new(*ip, 1)).to_bytes());
    }
    put(kind, (content.len() / ENDPOINT) as u8, &content)
}

fn take_addresses(bytes: &[u8]) -> Option<Vec<IpAddr>> {
    let count = usize::from(*bytes.get(1)?);
    if bytes.len() != SIZE || count > ADDRESSES {
        return None;
    }
    let list = bytes[2..].chunks_exact(ENDPOINT).take(count);
    list.map(|chunk| Some(Endpoint::from_bytes(chunk.try_into().ok()?).socket_addr().ip())).collect()
}

fn put_text(kind: u8, text: &str, most: usize) -> Bytes {
    let end = (0..=text.len().min(most)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    put(kind, end as u8, &text.as_bytes()[..end])
}

fn take_text(bytes: &[u8]) -> Option<String> {
    let count = usize::from(*bytes.get(1)?);
    if bytes.len() != SIZE {
        return None;
    }
    let text = std::str::from_utf8(&bytes[2..2 + count]).ok()?;
    Some(text.chars().filter(|c| !c.is_control()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_line() {
        let list: Vec<IpAddr> = vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        let order = |addresses| Order::Addresses { name: "n".repeat(NAME), addresses };
        for order in [order(list.clone()), order(vec![]), Order::AccessLog, Order::Reset, Order::Asker] {
            assert_eq!(Order::decode(&order.encode()), Some(order));
        }
        let counters = Counters::from_numbers(std::array::from_fn(|place| u64::MAX - place as u64));
        let lines = [Word::Unreachable(499), Word::Reachable(1)];
        for word in [Word::Ready, Word::Leaving, Word::Counters(counters)].into_iter().chain(lines) {
            assert_eq!(Word::decode(&word.encode()), Some(word));
        }
        let question = Question { name: "a".repeat(NAME) };
        assert_eq!(Question::decode(&question.encode()), Some(question));
        for answer in [Answer::Addresses(list), Answer::Failed("no such name".into())] {
            assert_eq!(Answer::decode(&answer.encode()), Some(answer));
        }
    }

    #[test]
    fn bytes_that_mean_nothing_are_nothing() {
        assert_eq!(Word::decode(&[]), None);
        assert_eq!(Word::decode(&[1]), None);
        assert_eq!(Word::decode(&[9; SIZE]), None);
        assert_eq!(Order::decode(&[1, 255]), None);
        let mut nameless = put_addresses(1, &[]);
        nameless[NAMED] = 255;
        nameless[NAMED + 1] = 0xff;
        assert_eq!(Order::decode(&nameless), None);
        let mut crowd = [0; SIZE];
        (crowd[0], crowd[1]) = (1, 255);
        assert_eq!(Answer::decode(&crowd), None);
        crowd[1] = 0;
        assert_eq!(Answer::decode(&crowd), None);
    }
}
