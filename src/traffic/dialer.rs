//! From an accepted connection to the one that leaves for its upstream: who may pass, where it goes, and whether it
//! would come back to ourselves.

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io;
use std::net::SocketAddr;

use mio::net::TcpStream;

use crate::logging::Limiter;
use crate::sys::sockopt;
use crate::traffic::endpoint::Endpoint;
use crate::traffic::relay::{Ending, Route};
use crate::traffic::service::{Destination, Service};
use crate::traffic::upstream::Upstream;

/// What decides about new connections.
#[derive(Debug)]
pub struct Dialer {
    service: Service,
    upstream: Upstream,
    outgoing: Outgoing,
    loops: Limiter,
    lookups: Limiter,
}

/// A connection on its way out.
#[derive(Debug)]
pub struct Dialed {
    /// The socket, connecting.
    pub socket: TcpStream,
    /// Our end of it.
    pub local: Endpoint,
    /// The other end.
    pub upstream: Endpoint,
    /// How many addresses were tried, this one included.
    pub attempts: u8,
}

/// The two ends of our outgoing connections. When one of them is redirected, it comes back to us with the same two
/// ends: as its client address and as its original destination. No other connection on this host can have both.
#[derive(Debug)]
struct Outgoing {
    ends: HashSet<u64>,
    hasher: RandomState,
}

impl Outgoing {
    fn hash(&self, local: Endpoint, remote: Endpoint) -> u64 {
        self.hasher.hash_one((local, remote))
    }
}

impl Dialer {
    /// For one redirection; `places` connections can be out at once.
    pub fn new(service: Service, upstream: Upstream, places: usize) -> Dialer {
        let outgoing = Outgoing { ends: HashSet::with_capacity(places), hasher: RandomState::new() };
        Dialer { service, upstream, outgoing, loops: Limiter::new(), lookups: Limiter::new() }
    }

    /// The upstream has other addresses now.
    pub fn readdress(&mut self, addresses: Vec<SocketAddr>) {
        self.upstream.replace(addresses);
    }

    /// Where an accepted connection comes from and wanted to go.
    ///
    /// Errors: its ending, when it may not pass.
    pub fn route(&mut self, client: &TcpStream, peer: SocketAddr) -> Result<Route, (Route, Ending)> {
        let mut route = Route {
            client: peer.into(),
            original: Endpoint::UNKNOWN,
            local: Endpoint::UNKNOWN,
            upstream: Endpoint::UNKNOWN,
        };
        let allow = &self.service.allow;
        if !allow.is_empty() && !allow.iter().any(|network| network.contains(&route.client.ip())) {
            return Err((route, Ending::Denied));
        }
        match sockopt::original_destination(client, peer.ip()) {
            Ok(original) => route.original = original.into(),
            Err(error) => self.unknown_original(&error),
        }
        // Without a redirection the client wanted to go where it arrived.
        let transparent = self.service.destination == Destination::Original;
        if transparent || !route.original.is_known() {
            let Ok(arrived) = client.local_addr().map(Endpoint::from) else {
                return Err((route, Ending::Loop));
            };
            if transparent && (route.original == arrived || !route.original.is_known()) {
                self.tell_loop(route.client, "connected to us directly: there is no other destination to relay to");
                return Err((route, Ending::Loop));
            }
            if !route.original.is_known() && self.is_ours(route.client, arrived) {
                return Err((route, Ending::Loop));
            }
        }
        if route.original.is_known() && self.is_ours(route.client, route.original) {
            return Err((route, Ending::Loop));
        }
        Ok(route)
    }

    fn is_ours(&mut self, client: Endpoint, original: Endpoint) -> bool {
        let ours = self.outgoing.ends.contains(&self.outgoing.hash(client, original));
        if ours {
            self.tell_loop(client, "is our own connection to the upstream: the rules redirect it back to us");
        }
        ours
    }

    fn tell_loop(&mut self, client: Endpoint, what: &str) {
        if let Some(more) = self.loops.pass() {
            log::warn!("loop: {client} {what}{more}");
        }
    }

    fn unknown_original(&mut self, error: &io::Error) {
        if self.service.destination == Destination::Original
            && let Some(more) = self.lookups.pass()
        {
            log::warn!("original destination: {error}; was the connection redirected?{more}");
        }
    }

    /// Starts connecting to the first address of the destination that is left after `attempts`, and passes over those
    /// that fail at once.
    ///
    /// Errors: the ending, with what the last address said, when none is left.
    pub fn dial(&mut self, route: &Route, attempts: u8, last: Option<io::Error>) -> Result<Dialed, Ending> {
        let mut last = last.unwrap_or_else(|| io::Error::other("no address is known"));
        let mut tried = attempts;
        while let Some(address) = self.candidate(route, tried) {
            tried += 1;
            if self.is_ourselves(address) {
                self.tell_loop(route.client, "would be relayed to our own listening port");
                return Err(Ending::Loop);
            }
            match self.connect(address) {
                Ok((socket, local)) => {
                    let upstream = Endpoint::from(address);
                    let hash = self.outgoing.hash(local, upstream);
                    self.outgoing.ends.insert(hash);
                    return Ok(Dialed { socket, local, upstream, attempts: tried });
                }
                Err(error) => last = error,
            }
        }
        Err(Ending::ConnectFailed(last))
    }

    fn candidate(&self, route: &Route, tried: u8) -> Option<SocketAddr> {
        match self.service.destination {
            Destination::Original => (tried == 0).then(|| route.original.socket_addr()),
            Destination::Host { .. } => self.upstream.candidate(usize::from(tried)),
        }
    }

    fn connect(&self, address: SocketAddr) -> io::Result<(TcpStream, Endpoint)> {
        let socket = TcpStream::connect(address)?;
        sockopt::prepare_outgoing(&socket)?;
        // The kernel chose our end in connect(2) already, before any answer; it must be known before the connection
        // can come back to us.
        let local = socket.local_addr()?;
        Ok((socket, local.into()))
    }

    /// Whether connecting there would reach our own listening socket. Asked before connecting: a connection that is
    /// closed again has reached our backlog already. Only for our own port the routing table is asked.
    fn is_ourselves(&self, address: SocketAddr) -> bool {
        let bound = self.service.bind.is_none_or(|ip| ip.is_unspecified() || ip == address.ip());
        address.port() == self.service.port && bound && sockopt::is_local(address)
    }

    /// The upstream of this relay has answered.
    pub fn worked(&mut self, route: &Route) {
        self.upstream.worked(route.upstream.socket_addr());
    }

    /// The outgoing connection is closed.
    pub fn forget(&mut self, route: &Route) {
        let hash = self.outgoing.hash(route.local, route.upstream);
        self.outgoing.ends.remove(&hash);
    }
}
