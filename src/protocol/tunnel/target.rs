//! The host that a proxy is asked for.

use std::fmt;
use std::net::SocketAddr;

/// Where the proxy is asked to connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TunnelTarget<'a> {
    Address(SocketAddr),
    /// A host name as [`crate::protocol::sniff`] returns it, and a port.
    Name(&'a str, u16),
}

impl fmt::Display for TunnelTarget<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TunnelTarget::Address(address) => SocketAddr::new(address.ip().to_canonical(), address.port()).fmt(f),
            TunnelTarget::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}
