//! What a worker has to know of one redirection.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::rc::Rc;
use std::time::Duration;

use ipnet::IpNet;

use crate::protocol::hostname::HostName;
use crate::protocol::local_names::LocalNames;
use crate::protocol::proxy_header::Version;
use crate::protocol::request::Rewriting;
use crate::relay::timeouts::Timeouts;
use crate::relay::tunnel::Tunnel;

/// One redirection that is relayed.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    pub interception: Interception,
    /// Whether connections are kept out of connection tracking.
    pub untracked: bool,
    pub destination: Destination,
    pub source: Source,
    pub via: Via,
    /// Whether connections begin with a PROXY header, which names the client and the original destination.
    pub accept_proxy: bool,
    pub balance: Balance,
    /// When no upstream can be reached, connect to the original destination.
    pub fallback: bool,
    /// Networks of the clients that are served; empty means all.
    pub allow: Vec<IpNet>,
    /// Whether connections that were not redirected are reset.
    pub only_redirected: bool,
    /// Networks that clients are not relayed to because they were going there.
    pub deny: Vec<IpNet>,
    /// Whether host names that clients claim are looked up.
    pub check_host: bool,
    /// The names that are judged even if they are not looked up.
    pub local_names: Rc<LocalNames>,
    pub timeouts: Timeouts,
    /// How the upstreams are checked.
    pub check: Option<UpstreamCheck>,
}

impl Service {
    /// Whether the proxy is asked for the name that the client asks for.
    pub(crate) fn asks_by_name(&self) -> bool {
        matches!(&self.via, Via::Tunnel(Tunnel { by_name: true, .. }))
    }

    /// Whether what clients say decides where the proxy goes.
    pub(crate) fn trusts_hosts(&self) -> bool {
        self.asks_by_name() || matches!(self.via, Via::Http(..))
    }

    /// Whether clients choose where their connections end, directly or through a proxy.
    pub(crate) fn clients_choose(&self) -> bool {
        self.destination == Destination::Original || !matches!(self.via, Via::Tcp(_))
    }

    /// Whether connections from addresses of clients have a zone of their own in connection tracking. What TPROXY
    /// intercepts is not translated, so its answers would be those of ours in a zone; it needs none.
    pub(crate) fn zoned(&self) -> bool {
        self.interception == Interception::Redirect
    }

    /// Whether the original destination has to be known.
    pub(crate) fn needs_original(&self) -> bool {
        self.clients_choose() || self.destination.follows_port()
    }
}

/// How connections get to our listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interception {
    /// With our address as their new destination (REDIRECT). Connection tracking knows the original one.
    Redirect,
    /// As they are (TPROXY): our address of the connection is its original destination.
    Tproxy,
}

/// Where connections are relayed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Destination {
    /// To their original destination.
    Original,
    /// The first of these that can be reached.
    Hosts(Vec<HostPort>),
}

impl Destination {
    /// The upstreams; none when connections go to their original destination.
    pub(crate) fn hosts(&self) -> &[HostPort] {
        match self {
            Destination::Original => &[],
            Destination::Hosts(hosts) => hosts,
        }
    }

    /// Whether one of the upstreams is reached at the port that the client asked for.
    pub(crate) fn follows_port(&self) -> bool {
        self.hosts().iter().any(|host| host.port.is_none())
    }
}

/// The address that connections to upstreams leave from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// One that the kernel chooses.
    System,
    /// This one of its family; the kernel chooses for a family without one.
    Address { v4: Option<Ipv4Addr>, v6: Option<Ipv6Addr> },
    /// The client's, with the client's port if that is possible.
    Client {
        same_port: bool,
        /// Connections of clients on this host leave from the address that the kernel chooses. Otherwise they are refused.
        serves_own: bool,
    },
}

impl Source {
    /// The addresses of this host that connections leave from, at most one of each family.
    pub(crate) fn own_addresses(self) -> impl Iterator<Item = IpAddr> {
        let (v4, v6) = match self {
            Source::Address { v4, v6 } => (v4, v6),
            Source::System | Source::Client { .. } => (None, None),
        };
        v4.map(IpAddr::V4).into_iter().chain(v6.map(IpAddr::V6))
    }

    /// The one that connections to `upstream` leave from; `None` if the kernel chooses.
    pub(crate) fn own_address(self, upstream: SocketAddr) -> Option<IpAddr> {
        self.own_addresses().find(|ip| ip.is_ipv4() == upstream.is_ipv4())
    }
}

/// How the upstreams are spoken to.
#[derive(Debug, Clone)]
pub(crate) enum Via {
    /// The client's bytes as they are, after a PROXY header if one is wanted.
    Tcp(Option<Version>),
    /// Requests to an HTTP proxy. What is not HTTP is refused, or goes through a tunnel.
    Http(Rc<Rewriting>, Option<Rc<Tunnel>>),
    /// Through a proxy that connects to the original destination.
    Tunnel(Tunnel),
}

/// An upstream as it is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostPort {
    /// A name or an address.
    pub name: HostName,
    /// The port; `None` is the one that the client asked for (`same`).
    pub port: Option<u16>,
    /// The number of the interface behind which a link-local address is; 0 for all others.
    pub interface: u32,
}

impl HostPort {
    /// The name, unless it is an address.
    pub(crate) fn name_to_look_up(&self) -> Option<String> {
        self.name.literal().is_none().then(|| self.name.to_string())
    }

    /// The socket addresses of this upstream, with port 0 in place of the client's. Only a name is looked up. Link-local addresses of a name are left out:
    /// nobody says behind which interface they are, and connect(2) refuses them so.
    pub(crate) fn addresses(&self, look_up: impl FnOnce(&str) -> Vec<IpAddr>) -> Vec<SocketAddr> {
        let port = self.port.unwrap_or(0);
        let address = |ip| match ip {
            IpAddr::V6(v6) if v6.is_unicast_link_local() && self.interface == 0 => None,
            IpAddr::V6(v6) => Some(SocketAddrV6::new(v6, port, 0, self.interface).into()),
            IpAddr::V4(v4) => Some(SocketAddr::from((v4, port))),
        };
        self.name.addresses(look_up).into_iter().filter_map(address).collect()
    }
}

impl fmt::Display for HostPort {
    /// As it is written in the log, in commands and in metrics.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HostPort { name, port, interface } = self;
        let port = port.map_or_else(|| SAME.to_owned(), |port| port.to_string());
        match (name.literal(), interface) {
            (Some(IpAddr::V6(v6)), 0) => write!(f, "[{v6}]:{port}"),
            (Some(IpAddr::V6(v6)), _) => write!(f, "[{v6}%{interface}]:{port}"),
            _ => write!(f, "{name}:{port}"),
        }
    }
}

/// The word for the port that the client asked for.
pub(crate) const SAME: &str = "same";

/// Whether an address of an upstream takes the client's port.
pub(crate) fn follows_port(address: &SocketAddr) -> bool {
    address.port() == 0
}

/// An address of an upstream, as people read it.
pub(crate) fn shown(address: &SocketAddr) -> String {
    if !follows_port(address) {
        return address.to_string();
    }
    let text = address.to_string();
    text.strip_suffix('0').map(|start| format!("{start}{SAME}")).unwrap_or(text)
}

/// How upstreams are checked (`--check-interval`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UpstreamCheck {
    pub interval: Duration,
    pub kind: CheckKind,
    /// So many good results in a row, and an address is used again.
    pub rise: u8,
    /// So many bad ones, and it is used no longer.
    pub fall: u8,
}

/// What a check does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CheckKind {
    Connect,
    /// A request for this path.
    Http(String),
    Tls,
}

/// Which upstream a connection is tried with first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Balance {
    /// The first one in the order of the command line.
    First,
    /// Each in turn.
    RoundRobin,
    /// The same one for the same client address.
    Source,
}
