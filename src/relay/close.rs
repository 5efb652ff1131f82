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
    /// An administrator has reset it.
    Killed,
}

impl CloseReason {
    /// Whether the peers must see a reset, because the connection did not end by itself.
    pub fn is_reset(&self) -> bool {
        // The client of a bad request has got a status line, which a reset could overtake.
        !matches!(self, CloseReason::Finished | CloseReason::BadRequest(_))
    }
}

/// What kind of end a connection had: the words of the log without what may stand behind a colon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseKind {
    Finished,
    ResetByClient,
    ResetByUpstream,
    Idle,
    HalfClosed,
    ConnectFailed,
    Resources,
    ProxyRefused,
    HandshakeTimeout,
    BadRequest,
    BadProxyHeader,
    Denied,
    Loop,
    SourceLimit,
    NotRedirected,
    Forbidden,
    BadSource,
    Stopped,
    Retired,
    Killed,
}

impl CloseKind {
    pub const COUNT: usize = 20;

    /// All kinds, in their order, each with its name.
    pub const NAMES: [(CloseKind, &str); CloseKind::COUNT] = [
        (CloseKind::Finished, "finished"),
        (CloseKind::ResetByClient, "reset by client"),
        (CloseKind::ResetByUpstream, "reset by upstream"),
        (CloseKind::Idle, "idle"),
        (CloseKind::HalfClosed, "half-closed"),
        (CloseKind::ConnectFailed, "connect failed"),
        (CloseKind::Resources, "no resources"),
        (CloseKind::ProxyRefused, "refused by proxy"),
        (CloseKind::HandshakeTimeout, "handshake timed out"),
        (CloseKind::BadRequest, "bad request"),
        (CloseKind::BadProxyHeader, "bad PROXY header"),
        (CloseKind::Denied, "denied"),
        (CloseKind::Loop, "loop"),
        (CloseKind::SourceLimit, "too many from this source"),
        (CloseKind::NotRedirected, "not redirected"),
        (CloseKind::Forbidden, "forbidden"),
        (CloseKind::BadSource, "source refused"),
        (CloseKind::Stopped, "stopped"),
        (CloseKind::Retired, "retired"),
        (CloseKind::Killed, "killed"),
    ];

    /// As the log, the metrics and the control socket name it.
    pub fn name(self) -> &'static str {
        CloseKind::NAMES[self as usize].1
    }
}

impl CloseReason {
    /// What kind of end it was.
    pub fn kind(&self) -> CloseKind {
        match self {
            CloseReason::Finished => CloseKind::Finished,
            CloseReason::Reset(Peer::Client) => CloseKind::ResetByClient,
            CloseReason::Reset(Peer::Upstream) => CloseKind::ResetByUpstream,
            CloseReason::Idle => CloseKind::Idle,
            CloseReason::HalfClosed => CloseKind::HalfClosed,
            CloseReason::ConnectFailed(_) => CloseKind::ConnectFailed,
            CloseReason::Resources(_) => CloseKind::Resources,
            CloseReason::ProxyRefused(_) => CloseKind::ProxyRefused,
            CloseReason::HandshakeTimeout => CloseKind::HandshakeTimeout,
            CloseReason::BadRequest(_) => CloseKind::BadRequest,
            CloseReason::BadProxyHeader(_) => CloseKind::BadProxyHeader,
            CloseReason::Denied => CloseKind::Denied,
            CloseReason::Loop => CloseKind::Loop,
            CloseReason::SourceLimit => CloseKind::SourceLimit,
            CloseReason::NotRedirected => CloseKind::NotRedirected,
            CloseReason::Forbidden(_) => CloseKind::Forbidden,
            CloseReason::BadSource(_) => CloseKind::BadSource,
            CloseReason::Stopped => CloseKind::Stopped,
            CloseReason::Retired => CloseKind::Retired,
            CloseReason::Killed => CloseKind::Killed,
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.kind().name();
        match self {
            CloseReason::ConnectFailed(error) | CloseReason::Resources(error) => write!(f, "{name}: {error}"),
            CloseReason::Forbidden(why) => write!(f, "{name}: {why}"),
            CloseReason::ProxyRefused(text) | CloseReason::BadProxyHeader(text) => write!(f, "{name}: {text}"),
            CloseReason::BadSource(why) => write!(f, "{name}: {why}"),
            CloseReason::BadRequest(why) => write!(f, "{name}: {why}"),
            _ => f.write_str(name),
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
