//! What a worker and the control process say to each other: lists of connections in pieces, connections to be reset, results
//! of checks, and upstreams that fail or answer again.
//!
//! The control process asks for each piece, so a worker remembers nothing, and a reader that does not read costs it nothing.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::indexing_slicing))]

use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};

use crate::redirection::RedirectionId;
use crate::traffic::compact_addr::CompactAddr;
use crate::traffic::session::Route;

/// Slots of the table that are looked at for one piece of a list.
pub(crate) const PIECE: u32 = 128;

/// The same when connections are looked for that are to be reset.
pub(crate) const SEARCH: u32 = 2048;

/// Bytes of the longest message.
pub(crate) const MOST: usize = 9 + PIECE as usize * ENTRY;

const ENTRY: usize = 8 + 8 + 2 + 1 + 4 * 18 + 16;

/// Where a connection is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnectionState {
    Preread,
    Connecting,
    Handshake,
    Open,
}

impl ConnectionState {
    pub(crate) const ALL: [ConnectionState; 4] =
        [ConnectionState::Preread, ConnectionState::Connecting, ConnectionState::Handshake, ConnectionState::Open];

    pub(crate) fn name(self) -> &'static str {
        match self {
            ConnectionState::Preread => "preread",
            ConnectionState::Connecting => "connecting",
            ConnectionState::Handshake => "handshake",
            ConnectionState::Open => "open",
        }
    }
}

/// A connection in a list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ListedConnection {
    /// The number of its worker and its own, as [`crate::traffic::session::ConnectionId`] has them.
    pub id: u64,
    /// Milliseconds since it was accepted.
    pub age: u64,
    pub redirection: RedirectionId,
    pub state: ConnectionState,
    pub route: Route,
    /// Bytes that reached the upstream and the client.
    pub moved: (u64, u64),
}

/// Connections to be reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condemned {
    Connection(u64),
    /// All of this source.
    Source(IpNet),
}

impl Condemned {
    pub(crate) fn includes(&self, id: u64, client: CompactAddr) -> bool {
        match self {
            Condemned::Connection(one) => *one == id,
            Condemned::Source(net) => net.contains(&client.ip()),
        }
    }
}

/// From the control process to a worker. `tag` comes back with the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FromDesk {
    /// Which connections are in the slots from `first` on?
    List { tag: u32, first: u32 },
    /// Reset those in the slots from `first` on.
    Kill { tag: u32, first: u32, which: Condemned },
    /// The last check of this address of an upstream.
    Checked { redirection: RedirectionId, address: CompactAddr, failing: bool },
}

/// From a worker to the control process. `next` is the slot to go on with, if there are more.
#[derive(Debug, Clone)]
pub(crate) enum ToDesk {
    List {
        tag: u32,
        next: Option<u32>,
        connections: Vec<ListedConnection>,
    },
    Killed {
        tag: u32,
        next: Option<u32>,
        count: u32,
    },
    /// An address of an upstream has failed, or answers again.
    Health {
        redirection: RedirectionId,
        address: CompactAddr,
        up: bool,
    },
}

/// Takes numbers from the start of bytes.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const COUNT: usize>(&mut self) -> Option<[u8; COUNT]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn address(&mut self) -> Option<CompactAddr> {
        self.array().map(CompactAddr::from_bytes)
    }

    fn next(&mut self) -> Option<Option<u32>> {
        self.u32().map(|next| Some(next).filter(|next| *next != u32::MAX))
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromDesk {
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            FromDesk::List { tag, first } => [&[1][..], &tag.to_be_bytes(), &first.to_be_bytes()].concat(),
            FromDesk::Kill { tag, first, which: Condemned::Connection(id) } => {
                [&[2][..], &tag.to_be_bytes(), &first.to_be_bytes(), &id.to_be_bytes()].concat()
            }
            FromDesk::Kill { tag, first, which: Condemned::Source(net) } => {
                let (ip, length) = match net {
                    IpNet::V4(net) => (net.addr().to_ipv6_mapped(), 96 + net.prefix_len()),
                    IpNet::V6(net) => (net.addr(), net.prefix_len()),
                };
                [&[3][..], &tag.to_be_bytes(), &first.to_be_bytes(), &ip.octets(), &[length]].concat()
            }
            FromDesk::Checked { redirection, address, failing } => {
                [&[4][..], &redirection.0.to_be_bytes(), &address.to_bytes(), &[u8::from(*failing)]].concat()
            }
        }
    }

    /// `None` if the bytes are no valid message.
    pub(crate) fn decode(bytes: &[u8]) -> Option<FromDesk> {
        let mut reader = Reader(bytes);
        let message = match reader.u8()? {
            1 => FromDesk::List { tag: reader.u32()?, first: reader.u32()? },
            2 => {
                FromDesk::Kill { tag: reader.u32()?, first: reader.u32()?, which: Condemned::Connection(reader.u64()?) }
            }
            3 => {
                let (tag, first, ip) = (reader.u32()?, reader.u32()?, Ipv6Addr::from(reader.array()?));
                let length = reader.u8()?;
                let net = match ip.to_canonical() {
                    IpAddr::V4(v4) if length >= 96 => IpNet::new(v4.into(), length - 96).ok()?,
                    _ => Ipv6Net::new(ip, length).ok()?.into(),
                };
                FromDesk::Kill { tag, first, which: Condemned::Source(net) }
            }
            4 => FromDesk::Checked {
                redirection: RedirectionId(reader.u16()?),
                address: reader.address()?,
                failing: reader.u8()? != 0,
            },
            _ => return None,
        };
        reader.is_empty().then_some(message)
    }
}

impl ToDesk {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let end = |next: &Option<u32>| next.unwrap_or(u32::MAX).to_be_bytes();
        match self {
            ToDesk::List { tag, next, connections } => {
                let mut bytes = [&[1][..], &tag.to_be_bytes(), &end(next)].concat();
                bytes.reserve(connections.len() * ENTRY);
                connections.iter().for_each(|one| one.put(&mut bytes));
                bytes
            }
            ToDesk::Killed { tag, next, count } => {
                [&[2][..], &tag.to_be_bytes(), &end(next), &count.to_be_bytes()].concat()
            }
            ToDesk::Health { redirection, address, up } => {
                [&[3][..], &redirection.0.to_be_bytes(), &address.to_bytes(), &[u8::from(*up)]].concat()
            }
        }
    }

    /// `None` if the bytes are no valid message.
    pub(crate) fn decode(bytes: &[u8]) -> Option<ToDesk> {
        let mut reader = Reader(bytes);
        let message = match reader.u8()? {
            1 => {
                let (tag, next) = (reader.u32()?, reader.next()?);
                let mut connections = Vec::new();
                while !reader.is_empty() {
                    connections.push(ListedConnection::take(&mut reader)?);
                }
                if connections.len() > PIECE as usize {
                    return None;
                }
                ToDesk::List { tag, next, connections }
            }
            2 => ToDesk::Killed { tag: reader.u32()?, next: reader.next()?, count: reader.u32()? },
            3 => ToDesk::Health {
                redirection: RedirectionId(reader.u16()?),
                address: reader.address()?,
                up: reader.u8()? != 0,
            },
            _ => return None,
        };
        reader.is_empty().then_some(message)
    }
}

impl ListedConnection {
    fn put(&self, bytes: &mut Vec<u8>) {
        let Route { client, original, local, upstream } = self.route;
        bytes.extend(self.id.to_be_bytes());
        bytes.extend(self.age.to_be_bytes());
        bytes.extend(self.redirection.0.to_be_bytes());
        bytes.push(self.state as u8);
        [client, original, local, upstream].iter().for_each(|address| bytes.extend(address.to_bytes()));
        bytes.extend(self.moved.0.to_be_bytes());
        bytes.extend(self.moved.1.to_be_bytes());
    }

    fn take(reader: &mut Reader<'_>) -> Option<ListedConnection> {
        Some(ListedConnection {
            id: reader.u64()?,
            age: reader.u64()?,
            redirection: RedirectionId(reader.u16()?),
            state: *ConnectionState::ALL.get(usize::from(reader.u8()?))?,
            route: Route {
                client: reader.address()?,
                original: reader.address()?,
                local: reader.address()?,
                upstream: reader.address()?,
            },
            moved: (reader.u64()?, reader.u64()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_arrives_and_nothing_else_is_one() {
        let net = |text: &str| Condemned::Source(text.parse().unwrap());
        for message in [
            FromDesk::List { tag: 7, first: u32::MAX },
            FromDesk::Kill { tag: 7, first: 1, which: Condemned::Connection(u64::MAX) },
            FromDesk::Kill { tag: 7, first: 1, which: net("10.0.0.0/8") },
            FromDesk::Kill { tag: 7, first: 1, which: net("fd00::/64") },
            FromDesk::Checked { redirection: RedirectionId(9), address: CompactAddr::UNKNOWN, failing: true },
        ] {
            let bytes = message.encode();
            assert_eq!(FromDesk::decode(&bytes), Some(message));
            assert_eq!(FromDesk::decode(&bytes[..bytes.len() - 1]), None);
            assert_eq!(FromDesk::decode(&[&bytes[..], &[0]].concat()), None);
        }
        let route = Route::from("10.1.0.2:4000".parse().unwrap());
        let one = ListedConnection {
            id: 5,
            age: 6,
            redirection: RedirectionId(1),
            state: ConnectionState::Handshake,
            route,
            moved: (8, 9),
        };
        let full = ToDesk::List { tag: 3, next: None, connections: vec![one; PIECE as usize] }.encode();
        assert_eq!(full.len(), MOST);
        let Some(ToDesk::List { tag: 3, next: None, connections }) = ToDesk::decode(&full) else { panic!("no list") };
        let last = connections.last().unwrap();
        assert_eq!((connections.len(), last.state, last.moved, last.age), (PIECE as usize, one.state, (8, 9), 6));
        assert_eq!(last.route.client, route.client);
        assert!(ToDesk::decode(&full[..full.len() - 1]).is_none() && ToDesk::decode(&[]).is_none());
        let killed = ToDesk::Killed { tag: 1, next: Some(4), count: 2 }.encode();
        assert!(matches!(ToDesk::decode(&killed), Some(ToDesk::Killed { tag: 1, next: Some(4), count: 2 })));
    }
}
