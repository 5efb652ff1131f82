//! What is known of a connection from its acceptance to its line in the log.

use std::fmt;
use std::net::SocketAddr;

use crate::redirection::RedirectionId;
use crate::traffic::compact_addr::CompactAddr;

/// The identity of a connection and its addresses. It moves with the connection from one stage to the next.
#[derive(Debug)]
pub(crate) struct Session {
    pub id: ConnectionId,
    /// Milliseconds from the start of the worker to the acceptance.
    pub started: u64,
    pub redirection: RedirectionId,
    /// Whether it is counted for `--max-per-source`.
    pub counted: bool,
    /// Whether a balancer on another host has brought it (`--accept-proxy`): its client is not on this host, whatever
    /// address the header names.
    pub from_elsewhere: bool,
    /// Whether the upstream sees the client's address.
    pub as_client: bool,
    pub route: Route,
}

/// The number of a connection, unique in the daemon: the number of the worker, counted from 1 in the order in which the
/// daemon started them, then that of the connection at that worker.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConnectionId(u64);

impl ConnectionId {
    /// Bits of the connection's part; the rest are the worker's.
    const BITS: u32 = 40;

    /// The first connection of a worker.
    pub(crate) fn first(worker: u32) -> ConnectionId {
        ConnectionId((u64::from(worker) << ConnectionId::BITS) + 1)
    }

    /// As a plain number ([`split_id`]).
    pub(crate) fn number(self) -> u64 {
        self.0
    }

    /// Returns this number, and goes on to the next.
    pub(crate) fn take(&mut self) -> ConnectionId {
        let taken = *self;
        self.0 += 1;
        taken
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}-{}", self.0 >> ConnectionId::BITS, self.0 & ((1 << ConnectionId::BITS) - 1))
    }
}

/// The four addresses of a connection, as the log shows them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Route {
    pub client: CompactAddr,
    /// The original destination.
    pub original: CompactAddr,
    /// Our address towards the upstream.
    pub local: CompactAddr,
    pub upstream: CompactAddr,
}

impl Route {
    /// All that is known when a client is accepted.
    pub(crate) fn from(client: SocketAddr) -> Route {
        let unknown = CompactAddr::UNKNOWN;
        Route { client: client.into(), original: unknown, local: unknown, upstream: unknown }
    }
}

/// The number of a worker and that of its connection, as one number has both.
pub(crate) fn split_id(id: u64) -> (u64, u64) {
    (id >> ConnectionId::BITS, id & ((1 << ConnectionId::BITS) - 1))
}

/// The way back from [`split_id`].
pub(crate) fn join_id(worker: u32, number: u64) -> u64 {
    (u64::from(worker) << ConnectionId::BITS) | number
}
