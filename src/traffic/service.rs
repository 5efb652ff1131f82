//! What the data path has to know of one redirection.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use ipnet::IpNet;

use crate::protocol::credentials::Credentials;
use crate::protocol::hostname::HostName;
use crate::protocol::proxy_header::Version;
use crate::protocol::request::Rewriting;
use crate::protocol::tunnel::Dialect;
use crate::traffic::timers::Tick;

/// One redirection that is relayed.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    /// Where to.
    pub destination: Destination,
    /// How the upstreams are spoken to.
    pub via: Via,
    /// Whether connections begin with a PROXY header, which says who the client is and where it wanted to go.
    pub accept_proxy: bool,
    /// Which upstream a connection is tried with first.
    pub balance: Balance,
    /// When no upstream can be reached, connect to where the client was going.
    pub fallback: bool,
    /// Who is served; empty means everybody.
    pub allow: Vec<IpNet>,
    /// Whether connections that were not redirected are reset.
    pub only_redirected: bool,
    /// Where nobody is relayed to because he was going there.
    pub deny: Vec<IpNet>,
    /// How long connections may be silent.
    pub timeouts: Timeouts,
}

impl Service {
    /// Whether the proxy is asked for the name that the client asks for.
    pub(crate) fn asks_by_name(&self) -> bool {
        matches!(&self.via, Via::Tunnel(Tunnel { by_name: true, .. }))
    }

    /// Whether it has to be known where the client was going.
    pub(crate) fn needs_original(&self) -> bool {
        self.destination == Destination::Original || !matches!(self.via, Via::Tcp(_))
    }
}

/// Where connections are relayed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Destination {
    /// Where they were going before they were redirected.
    Original,
    /// The first of these that can be reached.
    Hosts(Vec<HostPort>),
}

impl Destination {
    /// The upstreams; none when connections go where they were going.
    pub(crate) fn hosts(&self) -> &[HostPort] {
        match self {
            Destination::Original => &[],
            Destination::Hosts(hosts) => hosts,
        }
    }
}

/// How the upstreams are spoken to.
#[derive(Debug, Clone)]
pub(crate) enum Via {
    /// As the client would speak to them, after a PROXY header if one is wanted.
    Tcp(Option<Version>),
    /// As to an HTTP proxy; what is not HTTP is refused, or goes through a tunnel.
    Http(Rc<Rewriting>, Option<Rc<Tunnel>>),
    /// As to a proxy that connects us through to the original destination.
    Tunnel(Tunnel),
}

/// How a proxy is asked to connect us through.
#[derive(Debug, Clone)]
pub struct Tunnel {
    /// What it speaks.
    pub dialect: Dialect,
    /// Who we are to it.
    pub credentials: Option<Credentials>,
    /// Whether it is asked for the name that the client asks for, where there is one, instead of the address.
    pub by_name: bool,
}

/// An upstream as it was named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostPort {
    /// A name or an address.
    pub name: HostName,
    /// The port.
    pub port: u16,
}

impl HostPort {
    /// The name, unless it is an address.
    pub(crate) fn name_to_look_up(&self) -> Option<String> {
        self.name.literal().is_none().then(|| self.name.to_string())
    }

    /// The socket addresses of this upstream. Only a name is looked up.
    pub(crate) fn addresses(&self, look_up: impl FnOnce(&str) -> Vec<IpAddr>) -> Vec<SocketAddr> {
        self.name.addresses(look_up).into_iter().map(|ip| SocketAddr::new(ip, self.port)).collect()
    }
}

/// Which upstream comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// The first one in the order of the command line.
    First,
    /// Each in turn.
    RoundRobin,
    /// The same one for the same client address.
    Source,
}

/// How long a relay may be silent, in ticks; `None` is for ever.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// For one address of the upstream to answer.
    pub connect: Tick,
    /// For the client or the proxy to say what comes before the payload, and for the head of a request.
    pub handshake: Tick,
    /// With both directions open.
    pub idle: Option<Tick>,
    /// With one direction ended, or waiting for the last bytes before a reset.
    pub fin: Option<Tick>,
}
