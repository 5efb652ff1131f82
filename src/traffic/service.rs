//! What the data path has to know of one redirection.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use crate::traffic::deadline::Tick;

/// One redirection, as it is relayed.
#[derive(Debug, Clone)]
pub struct Service {
    /// The port to listen on.
    pub port: u16,
    /// The address to listen on; `None` is all.
    pub bind: Option<IpAddr>,
    /// Where to.
    pub destination: Destination,
    /// Who is served; empty means everybody.
    pub allow: Vec<IpNet>,
    /// How long connections may be silent.
    pub patience: Patience,
}

impl Service {
    /// The addresses to listen on.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let all = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let wanted = self.bind.map_or(all.to_vec(), |address| vec![address]);
        wanted.into_iter().map(|ip| SocketAddr::new(ip, self.port)).collect()
    }

    /// The host name that has to be resolved, if the upstream is not given as an address.
    pub fn name(&self) -> Option<&str> {
        match &self.destination {
            Destination::Host { host, .. } if host.parse::<IpAddr>().is_err() => Some(host),
            _ => None,
        }
    }
}

/// Where connections are relayed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Where they were going before they were redirected.
    Original,
    /// A host, by name or address, and its port.
    Host {
        /// A name or an address.
        host: String,
        /// The port.
        port: u16,
    },
}

/// How long a relay may be silent, in ticks; `None` is for ever.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For one address of the upstream to answer.
    pub connect: Tick,
    /// With both directions open.
    pub idle: Option<Tick>,
    /// With one direction ended, or waiting for the last bytes before a reset.
    pub fin: Option<Tick>,
}
