//! The two sides of a relay, and what all relays of a worker share.

use crate::relay::io::Io;

/// One side of a relay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Peer {
    /// The one that connected to us.
    Client,
    /// The one that we connected to.
    Upstream,
}

impl Peer {
    /// The opposite side.
    pub fn other(self) -> Peer {
        match self {
            Peer::Client => Peer::Upstream,
            Peer::Upstream => Peer::Client,
        }
    }

    /// As the log names it.
    pub fn name(self) -> &'static str {
        match self {
            Peer::Client => "client",
            Peer::Upstream => "upstream",
        }
    }
}

/// One socket of a connection, and what is known about its readiness.
#[derive(Debug)]
pub struct Side<I: Io> {
    /// The socket.
    pub socket: I::Socket,
    /// Not proven to be dry.
    pub can_read: bool,
    /// Not proven to be full.
    pub can_write: bool,
    /// The peer has sent its FIN (`EPOLLRDHUP`). No further edge will tell of it.
    pub hung_up: bool,
    /// Urgent data came in. A splice stops before it for ever (`tcp_read_sock`, net/ipv4/tcp.c), and a short read is
    /// no proof of dryness.
    pub urgent: bool,
    /// Our FIN was sent.
    pub finished: bool,
    /// The kernel sends what is written here at a pace of its own, by a timer in TCP.
    pub paces: bool,
}

impl<I: Io> Side<I> {
    /// A socket of which nothing is known yet.
    pub fn new(socket: I::Socket) -> Side<I> {
        Side { socket, can_read: false, can_write: false, hung_up: false, urgent: false, finished: false, paces: false }
    }
}

/// What a flow needs for a turn: where bytes come from, where they go, and what it may use meanwhile.
#[derive(Debug)]
pub(crate) struct Link<'a, I: Io> {
    pub source: &'a mut Side<I>,
    pub sink: &'a mut Side<I>,
    pub shared: &'a mut Shared<I>,
}

/// What all relays of a worker share.
#[derive(Debug)]
pub struct Shared<I: Io> {
    /// Small messages pass through here. It is longer than [`SMALL`] if heads of requests may be.
    pub buffer: Box<[u8]>,
    /// What a filter sends in place of what it has read.
    pub rewritten: Vec<u8>,
    /// Pipes.
    pub pool: I::Pool,
    /// Cleared for good when the kernel refuses to splice these sockets.
    pub splice_works: bool,
    /// Bytes that one flow may move in a turn before the others get theirs.
    pub budget: u64,
    /// Bytes that were spliced so far, and have reached their sink.
    pub spliced: u64,
}

/// Size of the shared buffer in bytes. What fits is a message and cheaper to copy; a read that fills it is taken for a
/// stream and spliced from then on.
pub const SMALL: usize = 16 * 1024;

/// The usual budget of a turn.
const BUDGET: u64 = 512 * 1024;

impl<I: Io> Shared<I> {
    /// With a buffer of the usual size.
    pub fn new(pool: I::Pool) -> Shared<I> {
        Shared::with_heads(pool, SMALL)
    }

    /// With a buffer that holds a head of this length.
    pub fn with_heads(pool: I::Pool, longest: usize) -> Shared<I> {
        let buffer = vec![0; longest.max(SMALL)].into_boxed_slice();
        Shared { buffer, rewritten: Vec::new(), pool, splice_works: true, budget: BUDGET, spliced: 0 }
    }
}
