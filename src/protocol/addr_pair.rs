//! The two addresses that say which connection a client made.

use std::net::SocketAddr;

/// A client and where it was going.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddrPair {
    /// The source address that the client connected from.
    pub client: SocketAddr,
    /// The original destination.
    pub original: SocketAddr,
}
