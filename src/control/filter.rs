//! Which connections `show connections` shows.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::redirection::RedirectionId;
use crate::traffic::compact_addr::{CompactAddr, network_with_length};
use crate::traffic::listing::{ConnectionState, ListedConnection};

/// Conditions, all of which have to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConnectionFilter {
    client: Vec<IpNet>,
    original: Vec<IpNet>,
    upstream: Vec<IpNet>,
    port: Vec<u16>,
    redirection: Vec<RedirectionId>,
    worker: Vec<u32>,
    state: Vec<ConnectionState>,
    older: Vec<u64>,
}

/// An address, or a network.
pub(crate) fn network(text: &str) -> Result<IpNet, String> {
    let ip = || text.parse::<IpAddr>().ok().map(|ip| IpNet::from(ip.to_canonical()));
    let found = network_with_length(text).or_else(ip);
    found.ok_or_else(|| format!("'{}': expected an address or a network such as 10.0.0.0/8", shown(text)))
}

fn number<T: std::str::FromStr>(name: &str, text: &str, what: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{name}: '{}': expected {what}", shown(text)))
}

/// What a client has said, in a sentence.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(60).map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// The number of a redirection, from 1.
pub(crate) fn redirection(text: &str) -> Result<RedirectionId, String> {
    let index = text.parse::<u32>().ok().and_then(|number| u16::try_from(number.checked_sub(1)?).ok());
    index.map(RedirectionId).ok_or_else(|| format!("'{}': expected the number of a redirection, from 1", shown(text)))
}

impl ConnectionFilter {
    /// Reads pairs of words.
    pub(crate) fn parse(words: &[&str]) -> Result<ConnectionFilter, String> {
        let mut filter = ConnectionFilter::default();
        for pair in words.chunks(2) {
            let [name, value] = pair else { return Err(format!("'{}': a value is missing", shown(&pair.join(" ")))) };
            match *name {
                "client" | "source" => filter.client.push(network(value)?),
                "original" => filter.original.push(network(value)?),
                "upstream" => filter.upstream.push(network(value)?),
                "port" => filter.port.push(number(name, value, "a port from 0 to 65535")?),
                "redirection" => filter.redirection.push(redirection(value)?),
                "worker" => filter.worker.push(number(name, value, "the number of a worker")?),
                "older" => filter.older.push(number(name, value, "a number of seconds")?),
                "state" => {
                    let state = ConnectionState::ALL.into_iter().find(|state| state.name() == *value);
                    let names = ConnectionState::ALL.map(ConnectionState::name).join(", ");
                    filter
                        .state
                        .push(state.ok_or_else(|| format!("state: '{}': expected one of {names}", shown(value)))?);
                }
                _ => {
                    let known = "client, source, original, upstream, port, redirection, worker, state, older";
                    return Err(format!("'{}': expected one of {known}", shown(name)));
                }
            }
        }
        Ok(filter)
    }

    /// The worker alone that has such connections.
    pub(crate) fn permits_worker(&self, worker: u32) -> bool {
        self.worker.iter().all(|one| *one == worker)
    }

    pub(crate) fn permits(&self, one: &ListedConnection) -> bool {
        let is_in = |nets: &[IpNet], address: CompactAddr| nets.iter().all(|net| net.contains(&address.ip()));
        is_in(&self.client, one.route.client)
            && is_in(&self.original, one.route.original)
            && is_in(&self.upstream, one.route.upstream)
            && self.port.iter().all(|port| *port == one.route.original.port())
            && self.redirection.iter().all(|id| *id == one.redirection)
            && self.state.iter().all(|state| *state == one.state)
            && self.older.iter().all(|seconds| one.age >= seconds.saturating_mul(1000))
    }
}
