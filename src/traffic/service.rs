//! What the data path has to know of one redirection.

use ipnet::IpNet;

use crate::traffic::deadline::Tick;

/// One redirection that is relayed.
#[derive(Debug, Clone)]
pub struct Service {
    /// Where to.
    pub destination: Destination,
    /// Which upstream a connection is tried with first.
    pub balance: Balance,
    /// When no upstream can be reached, connect to where the client was going.
    pub fallback: bool,
    /// Who is served; empty means everybody.
    pub allow: Vec<IpNet>,
    /// How long connections may be silent.
    pub patience: Patience,
}

/// Where connections are relayed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Where they were going before they were redirected.
    Original,
    /// The first of these that can be reached.
    Hosts(Vec<Host>),
}

impl Destination {
    /// The upstreams; none when connections go where they were going.
    pub fn hosts(&self) -> &[Host] {
        match self {
            Destination::Original => &[],
            Destination::Hosts(hosts) => hosts,
        }
    }
}

/// An upstream as it was named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// A name or an address.
    pub name: String,
    /// The port.
    pub port: u16,
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
pub struct Patience {
    /// For one address of the upstream to answer.
    pub connect: Tick,
    /// With both directions open.
    pub idle: Option<Tick>,
    /// With one direction ended, or waiting for the last bytes before a reset.
    pub fin: Option<Tick>,
}
