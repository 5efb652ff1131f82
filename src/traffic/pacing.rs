//! Towards whom the kernel sends what is written at a pace of its own.

use std::io;
use std::net::TcpListener;

use crate::redirection::RedirectionId;
use crate::sys::congestion::Algorithm;

/// Whether the sockets of a redirection pace. It is asked once: accepted connections have the congestion control of their
/// listener, and those to upstreams the chosen or the usual one.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Pacing {
    pub client: bool,
    pub upstream: bool,
}

impl Pacing {
    /// That of a redirection with these listeners. `upstream` is the congestion control that was chosen for upstreams.
    pub(crate) fn behind(
        listeners: &[(TcpListener, RedirectionId)],
        id: RedirectionId,
        upstream: Option<&Algorithm>,
    ) -> io::Result<Pacing> {
        let own = listeners.iter().find(|(_, redirection)| *redirection == id);
        let client = own.map(|(listener, _)| Algorithm::of(listener)).transpose()?;
        let upstream = upstream.cloned().map_or_else(Algorithm::usual, Ok)?;
        Ok(Pacing { client: client.is_some_and(|client| client.paces()), upstream: upstream.paces() })
    }
}
