//! How connections end.

use std::fmt;
use std::io;

use crate::protocol::request::Refusal;
use crate::relay::side::Peer;

/// How a connection ended.
#[derive(Debug)]
pub enum CloseReason {
    /// Both directions were delivered to their end.
    Finished,
    /// One side reset the connection; what it had sent before was delivered.
    Reset(Peer),
    /// No byte moved for longer than `--idle-timeout`.
    Idle,
    /// One direction had ended and the other was silent for longer than `--fin-timeout`.
    HalfClosed,
    /// No address of the upstream could be reached.
    ConnectFailed(io::Error),
    /// This host was short of something that the connection needed.
    Resources(io::Error),
    /// The client is not in `-a`.
    Denied,
    /// The connection would have led back to this daemon.
    Loop,
    /// The source has as many connections as `--max-per-source` allows.
    SourceLimit,
    /// `--only-redirected`, and the connection was not redirected.
    NotRedirected,
    /// The original destination is one that clients may not be relayed to.
    Forbidden(DenyReason),
    /// Nobody is to be connected to from the client's address (`--source client`).
    BadSource(DenyReason),
    /// The proxy refused the connection to the original destination.
    ProxyRefused(String),
    /// The client or the proxy took longer than `--handshake-timeout` for what comes before the payload.
    HandshakeTimeout,
    /// The connection did not begin with a valid PROXY header.
    BadProxyHeader(String),
    /// The client did not speak HTTP, or made a request that is not passed on.
    BadRequest(Refusal),
    /// The daemon stopped before the connection had ended.
    Stopped,
    /// A reload or an upgrade has retired the worker, and its time was over (`--retire-timeout`).
    Retired,
}

impl CloseReason {
    /// Whether the peers must see a reset, because the connection did not end by itself.
    pub fn is_reset(&self) -> bool {
        // The client of a bad request has got a status line, which a reset could overtake.
        !matches!(self, CloseReason::Finished | CloseReason::BadRequest(_))
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CloseReason::Finished => f.write_str("finished"),
            CloseReason::Reset(peer) => write!(f, "reset by {}", peer.name()),
            CloseReason::Idle => f.write_str("idle"),
            CloseReason::HalfClosed => f.write_str("half-closed"),
            CloseReason::ConnectFailed(error) => write!(f, "connect failed: {error}"),
            CloseReason::Resources(error) => write!(f, "no resources: {error}"),
            CloseReason::Denied => f.write_str("denied"),
            CloseReason::Loop => f.write_str("loop"),
            CloseReason::SourceLimit => f.write_str("too many from this source"),
            CloseReason::NotRedirected => f.write_str("not redirected"),
            CloseReason::Forbidden(why) => write!(f, "forbidden: {why}"),
            CloseReason::BadSource(why) => write!(f, "source refused: {why}"),
            CloseReason::ProxyRefused(text) => write!(f, "refused by proxy: {text}"),
            CloseReason::HandshakeTimeout => f.write_str("handshake timed out"),
            CloseReason::BadProxyHeader(why) => write!(f, "bad PROXY header: {why}"),
            CloseReason::BadRequest(why) => write!(f, "bad request: {why}"),
            CloseReason::Stopped => f.write_str("stopped"),
            CloseReason::Retired => f.write_str("retired"),
        }
    }
}

/// Why clients are not relayed to a destination, or not connected for from their address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DenyReason {
    /// It is in `--deny`.
    Denied,
    /// No host has this address: unspecified, which the kernel takes for this host, multicast or broadcast.
    NoHost,
    /// Loopback.
    Loopback,
    /// Link-local. Routers do not forward to it (RFC 3927, 7; RFC 4291, 2.5.6).
    LinkLocal,
    /// An address of this host.
    Own,
}

impl fmt::Display for DenyReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DenyReason::Denied => "in --deny",
            DenyReason::NoHost => "address of no host",
            DenyReason::Loopback => "loopback address",
            DenyReason::LinkLocal => "link-local address",
            DenyReason::Own => "address of this host",
        })
    }
}
