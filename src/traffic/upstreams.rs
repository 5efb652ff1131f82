//! The addresses of a redirection's upstreams: which to try first, and which failed not long ago.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};

use crate::sys::clock::Tick;
use crate::traffic::service::Balance;

/// The most addresses of one upstream.
pub const ADDRESSES: usize = 16;

/// The most upstreams of one redirection.
pub(crate) const HOSTS: usize = 8;

/// The most addresses of all upstreams together that are tried for one connection: the bits of [`Attempt`].
const CANDIDATES: usize = u32::BITS as usize;

/// Ticks for which an address that failed is tried last; doubled with each further failure, up to the longest.
const FIRST_PAUSE: Tick = 20;
const LONGEST_PAUSE: Tick = 600;

/// All upstreams of one redirection.
#[derive(Debug)]
pub(crate) struct Upstreams {
    hosts: Vec<Vec<Candidate>>,
    balance: Balance,
    turn: usize,
    hasher: RandomState,
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    address: SocketAddr,
    down: Option<Down>,
}

impl Candidate {
    /// Whether it has not failed, or is to be tried again.
    fn is_up(&self, now: Tick) -> bool {
        self.down.is_none_or(|down| down.at.saturating_add(down.pause) <= now)
    }
}

/// An address that failed.
#[derive(Debug, Clone, Copy)]
struct Down {
    at: Tick,
    pause: Tick,
}

/// Which candidates a connection has tried: first those that are up, from its own start on, then the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attempt {
    start: u8,
    /// One bit for each candidate.
    tried: u32,
    /// The original destination, the last resort, has been tried.
    pub fell_back: bool,
    /// There was no local port towards one of them, so it is not known whether that answers.
    pub out_of_ports: bool,
}

/// How a failure or a success has changed the health of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HealthChange {
    None,
    /// The address is tried last from now on.
    Down,
    /// The address is used again.
    Up,
}

impl Upstreams {
    /// `hosts` are the addresses of each upstream, in the resolver's order of preference.
    pub(crate) fn new(hosts: &[Vec<SocketAddr>], balance: Balance) -> Upstreams {
        let mut upstreams =
            Upstreams { hosts: vec![Vec::new(); hosts.len()], balance, turn: 0, hasher: RandomState::new() };
        for (host, addresses) in hosts.iter().enumerate() {
            upstreams.replace(host, addresses.clone());
        }
        upstreams
    }

    /// Takes new addresses of an upstream. The health of an address is kept, and the one that worked last stays first.
    pub(crate) fn replace(&mut self, host: usize, mut addresses: Vec<SocketAddr>) {
        let Some(known) = self.hosts.get_mut(host) else { return };
        addresses.truncate(ADDRESSES);
        if let Some(first) = known.first()
            && let Some(at) = addresses.iter().position(|address| *address == first.address)
        {
            addresses[..=at].rotate_right(1);
        }
        let down = |address| known.iter().find(|candidate| candidate.address == address).and_then(|found| found.down);
        *known = addresses.into_iter().map(|address| Candidate { address, down: down(address) }).collect();
    }

    /// The attempt of a new connection.
    pub(crate) fn begin(&mut self, client: IpAddr) -> Attempt {
        let hosts = self.hosts.len().max(1);
        let host = match self.balance {
            Balance::First => 0,
            Balance::RoundRobin => {
                self.turn = (self.turn + 1) % hosts;
                self.turn
            }
            Balance::Source => (self.hasher.hash_one(client) % hosts as u64) as usize,
        };
        let start = self.hosts.iter().take(host).map(Vec::len).sum::<usize>() as u8;
        Attempt { start, tried: 0, fell_back: false, out_of_ports: false }
    }

    /// The next address to try, if any is left.
    pub(crate) fn next(&self, attempt: &mut Attempt, now: Tick) -> Option<SocketAddr> {
        let count = self.hosts.iter().map(Vec::len).sum::<usize>().min(CANDIDATES);
        let order = (0..count).map(|step| (usize::from(attempt.start) + step) % count);
        let untried = order.filter(|index| attempt.tried & (1 << index) == 0);
        let candidate = |index: usize| self.hosts.iter().flatten().nth(index);
        let up = |index: &usize| candidate(*index).is_some_and(|candidate| candidate.is_up(now));
        let index = untried.clone().find(up).or_else(|| untried.clone().next())?;
        attempt.tried |= 1 << index;
        candidate(index).map(|candidate| candidate.address)
    }

    fn find(&mut self, address: SocketAddr) -> Option<(&mut Vec<Candidate>, usize)> {
        self.hosts.iter_mut().find_map(|host| {
            let at = host.iter().position(|candidate| candidate.address == address)?;
            Some((host, at))
        })
    }

    /// An address did not answer.
    pub(crate) fn failed(&mut self, address: SocketAddr, now: Tick) -> HealthChange {
        let Some((host, at)) = self.find(address) else { return HealthChange::None };
        let before = host[at].down.take();
        let pause = before.map_or(FIRST_PAUSE, |down| (down.pause * 2).min(LONGEST_PAUSE));
        host[at].down = Some(Down { at: now, pause });
        if before.is_some() { HealthChange::None } else { HealthChange::Down }
    }

    /// An address answered.
    pub(crate) fn worked(&mut self, address: SocketAddr) -> HealthChange {
        let Some((host, at)) = self.find(address) else { return HealthChange::None };
        let before = host[at].down.take();
        host[..=at].rotate_right(1);
        if before.is_some() { HealthChange::Up } else { HealthChange::None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(net: u8, count: u8) -> Vec<SocketAddr> {
        (1..=count).map(|last| SocketAddr::from(([10, 0, net, last], 80))).collect()
    }

    fn tried(upstreams: &mut Upstreams, client: u8, now: Tick) -> Vec<SocketAddr> {
        let mut attempt = upstreams.begin(IpAddr::from([10, 9, 9, client]));
        std::iter::from_fn(|| upstreams.next(&mut attempt, now)).collect()
    }

    #[test]
    fn every_address_is_tried_once_in_the_order_given() {
        let (a, b) = (addresses(1, 2), addresses(2, 1));
        let mut upstreams = Upstreams::new(&[a.clone(), b.clone()], Balance::First);
        assert_eq!(tried(&mut upstreams, 1, 0), [a[0], a[1], b[0]]);
    }

    #[test]
    fn the_address_that_worked_stays_first_of_its_host_when_resolved_again() {
        let list = addresses(1, 3);
        let mut upstreams = Upstreams::new(std::slice::from_ref(&list), Balance::First);
        upstreams.worked(list[1]);
        assert_eq!(tried(&mut upstreams, 1, 0), [list[1], list[0], list[2]]);
        upstreams.replace(0, list.clone());
        assert_eq!(tried(&mut upstreams, 1, 0)[0], list[1]);
        upstreams.replace(0, vec![list[2]]);
        assert_eq!(tried(&mut upstreams, 1, 0), [list[2]]);
    }

    #[test]
    fn one_that_failed_is_left_alone_for_a_while_and_longer_each_time() {
        let (a, b) = (addresses(1, 1)[0], addresses(2, 1)[0]);
        let mut upstreams = Upstreams::new(&[vec![a], vec![b]], Balance::First);
        assert_eq!(upstreams.failed(a, 100), HealthChange::Down);
        assert_eq!(tried(&mut upstreams, 1, 101), [b, a]);
        assert_eq!(tried(&mut upstreams, 1, 100 + FIRST_PAUSE), [a, b]);
        assert_eq!(upstreams.failed(a, 200), HealthChange::None);
        assert_eq!(tried(&mut upstreams, 1, 200 + FIRST_PAUSE), [b, a]);
        assert_eq!(upstreams.worked(a), HealthChange::Up);
        assert_eq!(tried(&mut upstreams, 1, 201), [a, b]);
    }

    #[test]
    fn what_failed_for_this_connection_is_not_tried_again_by_it() {
        let (a, b) = (addresses(1, 1)[0], addresses(2, 1)[0]);
        let mut upstreams = Upstreams::new(&[vec![a], vec![b]], Balance::First);
        let mut attempt = upstreams.begin(IpAddr::from([10, 9, 9, 1]));
        assert_eq!(upstreams.next(&mut attempt, 50), Some(a));
        upstreams.failed(a, 50);
        assert_eq!(upstreams.next(&mut attempt, 51), Some(b));
        upstreams.failed(b, 51);
        assert_eq!(upstreams.next(&mut attempt, 51), None);
    }

    #[test]
    fn round_robin_takes_turns_and_source_keeps_a_client_where_it_is() {
        let hosts = [addresses(1, 1), addresses(2, 1), addresses(3, 1)];
        let mut upstreams = Upstreams::new(&hosts, Balance::RoundRobin);
        let mut firsts: Vec<_> = (0..3).map(|_| tried(&mut upstreams, 1, 0)[0]).collect();
        firsts.sort_unstable();
        assert_eq!(firsts, hosts.concat());

        let mut upstreams = Upstreams::new(&hosts, Balance::Source);
        let mut seen = std::collections::HashSet::new();
        for client in 0..100 {
            let first = tried(&mut upstreams, client, 0);
            assert_eq!(tried(&mut upstreams, client, 0), first);
            seen.insert(first[0]);
        }
        assert_eq!(seen.len(), 3);
    }
}
