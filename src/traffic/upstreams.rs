//! The addresses of a redirection's upstreams: which to try first, and which failed not long ago.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr};

use crate::sys::clock::Tick;
use crate::traffic::service::{self, Balance};

/// The most addresses of one upstream.
pub const ADDRESSES: usize = 16;

/// The most upstreams of one redirection.
pub(crate) const HOSTS: usize = 8;

/// The most addresses of all upstreams together that are tried for one connection: the bits of [`Attempt`].
const CANDIDATES: usize = u32::BITS as usize;

/// Ticks after which an address that failed is probed; doubled with each probe that fails, up to the longest.
const FIRST_PAUSE: Tick = 20;
const LONGEST_PAUSE: Tick = 600;

/// Ticks without an answer after which other clients go elsewhere, and the address is probed. The kernel has sent its
/// second SYN after one second.
const SLOW: Tick = 20;

/// All upstreams of one redirection.
#[derive(Debug)]
pub(crate) struct Upstreams {
    hosts: Vec<Vec<Candidate>>,
    balance: Balance,
    /// The upstreams that an administrator has taken out.
    out: Vec<bool>,
    turn: usize,
    hasher: RandomState,
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    address: SocketAddr,
    down: Option<Down>,
    /// The first time since its last answer at which a client's connection to it was begun.
    asked: Option<Tick>,
    /// The checks say that it does not answer as it should.
    failing: bool,
    /// A client from whose address a connection to it was begun, and when, since its last answer to such a connection.
    unheard: Option<(IpAddr, Tick)>,
}

/// An address that failed.
#[derive(Debug, Clone, Copy)]
struct Down {
    at: Tick,
    pause: Tick,
    /// It gave no answer at all, so the next connection to it would wait in vain.
    silent: bool,
}

/// How good a choice an address is. The best come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Up,
    /// It has failed, and says so at once.
    Refuses,
    /// An answer is overdue.
    Slow,
    Silent,
}

impl Candidate {
    /// Whether this was connected to. A connection does not remember the interface of a link-local address.
    fn is_at(&self, address: SocketAddr) -> bool {
        let same_port = self.address.port() == address.port() || service::follows_port(&self.address);
        self.address.ip() == address.ip() && same_port
    }

    fn rank(&self, now: Tick) -> Rank {
        match self.down {
            _ if self.failing => Rank::Silent,
            Some(Down { silent: true, .. }) => Rank::Silent,
            Some(_) => Rank::Refuses,
            None if self.asked.is_some_and(|asked| asked.saturating_add(SLOW) <= now) => Rank::Slow,
            None => Rank::Up,
        }
    }

    /// When to probe it.
    fn probe_due(&self) -> Option<Tick> {
        let asked = self.asked.map(|asked| asked.saturating_add(SLOW));
        self.down.map(|down| down.at.saturating_add(down.pause)).or(asked)
    }
}

/// Which candidates a connection has tried: from its own start on, the best first.
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
    /// The address is left alone from now on, as long as others answer.
    Down,
    /// The address is used again.
    Up,
}

impl Upstreams {
    /// `hosts` are the addresses of each upstream, in the resolver's order of preference.
    pub(crate) fn new(hosts: &[Vec<SocketAddr>], balance: Balance) -> Upstreams {
        let mut upstreams = Upstreams {
            hosts: vec![Vec::new(); hosts.len()],
            out: vec![false; hosts.len()],
            balance,
            turn: 0,
            hasher: RandomState::new(),
        };
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
        let health = |address| known.iter().find(|candidate| candidate.address == address).copied();
        let new = |address| Candidate { address, down: None, asked: None, failing: false, unheard: None };
        *known = addresses.into_iter().map(|address| health(address).unwrap_or(new(address))).collect();
    }

    /// The attempt of a new connection.
    pub(crate) fn begin(&mut self, client: IpAddr) -> Attempt {
        let hosts = self.hosts.len().max(1);
        let host = match self.balance {
            Balance::First => 0,
            Balance::RoundRobin => self.take_turn(),
            Balance::Source => (self.hasher.hash_one(client) % hosts as u64) as usize,
        };
        let start = self.hosts.iter().take(host).map(Vec::len).sum::<usize>() as u8;
        Attempt { start, tried: 0, fell_back: false, out_of_ports: false }
    }

    /// The upstream whose turn it is. One that is down has none: the next one would serve its clients besides its own.
    fn take_turn(&mut self) -> usize {
        let hosts = self.hosts.len().max(1);
        let mut turns = (1..=hosts).map(|step| (self.turn + step) % hosts);
        let works = |one: &Candidate| one.down.is_none() && !one.failing;
        let is_up = |host: &usize| {
            let is_out = self.out.get(*host).is_some_and(|out| *out);
            !is_out && self.hosts.get(*host).is_some_and(|all| all.iter().any(works))
        };
        self.turn = turns.find(is_up).unwrap_or((self.turn + 1) % hosts);
        self.turn
    }

    /// How many addresses can be tried.
    pub(crate) fn count(&self) -> usize {
        self.hosts.iter().map(Vec::len).sum::<usize>().min(CANDIDATES)
    }

    /// The next address to try, if any is left. With a last resort, an address that is known to be silent is not tried.
    pub(crate) fn next(&mut self, attempt: &mut Attempt, now: Tick, last_resort: bool) -> Option<SocketAddr> {
        let count = self.count();
        let order = (0..count).map(|step| (usize::from(attempt.start) + step) % count);
        let untried = order.filter(|index| attempt.tried & (1 << index) == 0);
        let rank = |index: usize| {
            let (candidate, usable) = self.candidates().nth(index)?;
            usable.then(|| candidate.rank(now))
        };
        let ranked = untried.filter_map(|index| Some((rank(index)?, index)));
        // The first of the best.
        let (rank, index) = ranked.min_by_key(|(rank, _)| *rank)?;
        if rank == Rank::Silent && last_resort {
            return None;
        }
        attempt.tried |= 1 << index;
        let candidate = self.hosts.iter_mut().flatten().nth(index)?;
        // What one port does not answer says nothing of the others, and it is the client that has chosen it.
        if !service::follows_port(&candidate.address) {
            candidate.asked.get_or_insert(now);
        }
        Some(candidate.address)
    }

    /// When an address is to be probed that has failed, or whose answer is overdue.
    pub(crate) fn probe_due(&self) -> Option<Tick> {
        self.candidates().filter(|(_, usable)| *usable).filter_map(|(candidate, _)| candidate.probe_due()).min()
    }

    /// The first address that is to be probed now.
    pub(crate) fn to_probe(&self, now: Tick) -> Option<SocketAddr> {
        let is_due = |candidate: &&Candidate| candidate.probe_due().is_some_and(|due| due <= now);
        let usable = self.candidates().filter(|(_, usable)| *usable).map(|(candidate, _)| candidate);
        usable.into_iter().find(is_due).map(|candidate| candidate.address)
    }

    /// The upstream that has this address.
    pub(crate) fn host_of(&self, address: SocketAddr) -> Option<usize> {
        let is = |candidate: &Candidate| candidate.is_at(address);
        self.hosts.iter().position(|host| host.iter().any(is))
    }

    /// An administrator takes an upstream out, or back.
    pub(crate) fn take_out(&mut self, host: usize, is_out: bool) {
        if let Some(out) = self.out.get_mut(host) {
            *out = is_out;
        }
    }

    /// The checks have found out how an address is.
    pub(crate) fn checked(&mut self, address: SocketAddr, failing: bool) {
        if let Some((host, at)) = self.find(address) {
            host[at].failing = failing;
        }
    }

    /// All addresses, each with whether it may be used.
    fn candidates(&self) -> impl Iterator<Item = (&Candidate, bool)> {
        let hosts = self.hosts.iter().zip(&self.out);
        hosts.flat_map(|(host, out)| host.iter().map(move |candidate| (candidate, !out)))
    }

    /// How many addresses each upstream has, and how many of them are down.
    pub(crate) fn health(&self) -> impl Iterator<Item = (usize, usize)> {
        let down = |host: &Vec<Candidate>| {
            host.iter().filter(|candidate| candidate.down.is_some() || candidate.failing).count()
        };
        self.hosts.iter().map(move |host| (host.len(), down(host)))
    }

    /// The candidate of an address that was connected to.
    fn find(&mut self, address: SocketAddr) -> Option<(&mut Vec<Candidate>, usize)> {
        let is = |candidate: &Candidate| candidate.is_at(address);
        self.hosts.iter_mut().find_map(|host| {
            let at = host.iter().position(is)?;
            Some((host, at))
        })
    }

    /// An address did not answer, or refused. Failures of connections that were begun together count as one.
    pub(crate) fn failed(&mut self, address: SocketAddr, error: &io::Error, now: Tick) -> HealthChange {
        let Some((host, at)) = self.find(address) else { return HealthChange::None };
        let candidate = &mut host[at];
        if service::follows_port(&candidate.address) {
            return HealthChange::None;
        }
        let silent = matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable);
        candidate.asked = None;
        candidate.unheard = candidate.unheard.filter(|_| silent);
        let before = candidate.down;
        candidate.down = Some(match before {
            None => Down { at: now, pause: FIRST_PAUSE, silent },
            Some(Down { at, pause, .. }) if now < at.saturating_add(pause) => Down { at, pause, silent },
            Some(Down { pause, .. }) => Down { at: now, pause: (pause * 2).min(LONGEST_PAUSE), silent },
        });
        if before.is_some() { HealthChange::None } else { HealthChange::Down }
    }

    /// A connection was begun from the address of a client (`--source client`).
    pub(crate) fn asked_as(&mut self, address: SocketAddr, client: IpAddr, now: Tick) {
        if let Some((host, at)) = self.find(address) {
            host[at].unheard.get_or_insert((client, now));
        }
    }

    /// The client whose connection an address owes an answer for too long.
    pub(crate) fn unheard(&mut self, address: SocketAddr, now: Tick) -> Option<IpAddr> {
        let (host, at) = self.find(address)?;
        host[at].unheard.filter(|(_, since)| since.saturating_add(SLOW) <= now).map(|(client, _)| client)
    }

    /// An address answered.
    pub(crate) fn worked(&mut self, address: SocketAddr) -> HealthChange {
        let Some((host, at)) = self.find(address) else { return HealthChange::None };
        let before = host[at].down.take();
        (host[at].asked, host[at].unheard) = (None, None);
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
        std::iter::from_fn(|| upstreams.next(&mut attempt, now, false)).collect()
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

    fn error(number: i32) -> io::Error {
        io::Error::from_raw_os_error(number)
    }

    #[test]
    fn one_that_failed_is_left_to_the_probe_and_for_longer_each_time() {
        let (a, b) = (addresses(1, 1)[0], addresses(2, 1)[0]);
        let mut upstreams = Upstreams::new(&[vec![a], vec![b]], Balance::First);
        let silent = error(libc::ETIMEDOUT);
        assert_eq!(upstreams.failed(a, &silent, 100), HealthChange::Down);
        let mut due = 100 + FIRST_PAUSE;
        for pause in [40, 80, 160, 320, 600, 600] {
            assert_eq!(tried(&mut upstreams, 1, due - 1), [b, a]);
            assert_eq!(upstreams.to_probe(due - 1), None);
            assert_eq!((upstreams.to_probe(due), upstreams.probe_due()), (Some(a), Some(due)));
            assert_eq!(tried(&mut upstreams, 1, due), [b, a], "the probe finds out, not a client");
            upstreams.worked(b);
            assert_eq!(upstreams.failed(a, &silent, due), HealthChange::None);
            due += pause;
        }
        assert_eq!(upstreams.worked(a), HealthChange::Up);
        assert_eq!(tried(&mut upstreams, 1, due), [a, b]);
    }

    #[test]
    fn failures_of_connections_that_were_begun_together_count_as_one() {
        let a = addresses(1, 1)[0];
        let mut upstreams = Upstreams::new(&[vec![a]], Balance::First);
        (0..20).for_each(|more| _ = upstreams.failed(a, &error(libc::ETIMEDOUT), 100 + more / 2));
        assert_eq!(upstreams.probe_due(), Some(100 + FIRST_PAUSE));
    }

    #[test]
    fn while_an_answer_is_overdue_others_go_elsewhere() {
        let (a, b) = (addresses(1, 1)[0], addresses(2, 1)[0]);
        let mut upstreams = Upstreams::new(&[vec![a], vec![b]], Balance::First);
        let mut attempt = upstreams.begin(IpAddr::from([10, 9, 9, 1]));
        assert_eq!(upstreams.next(&mut attempt, 50, false), Some(a));
        assert_eq!(tried(&mut upstreams, 1, 50 + SLOW - 1)[0], a);
        assert_eq!(upstreams.to_probe(50 + SLOW - 1), None);
        assert_eq!(tried(&mut upstreams, 1, 50 + SLOW), [b, a]);
        assert_eq!(upstreams.to_probe(50 + SLOW), Some(a));
        assert_eq!(upstreams.worked(a), HealthChange::None);
        assert_eq!(tried(&mut upstreams, 1, 50 + SLOW), [a, b]);
    }

    #[test]
    fn what_refuses_at_once_comes_before_what_is_silent_and_the_last_resort_before_that() {
        let [a, b, c] = [1, 2, 3].map(|net| addresses(net, 1)[0]);
        let mut upstreams = Upstreams::new(&[vec![a], vec![b], vec![c]], Balance::First);
        upstreams.failed(a, &error(libc::EHOSTUNREACH), 100);
        upstreams.failed(b, &error(libc::ECONNREFUSED), 100);
        assert_eq!(tried(&mut upstreams, 1, 101), [c, b, a]);
        let mut attempt = upstreams.begin(IpAddr::from([10, 9, 9, 1]));
        let mut next = || upstreams.next(&mut attempt, 101, true);
        assert_eq!([next(), next(), next()], [Some(c), Some(b), None]);
    }

    #[test]
    fn what_failed_for_this_connection_is_not_tried_again_by_it() {
        let (a, b) = (addresses(1, 1)[0], addresses(2, 1)[0]);
        let mut upstreams = Upstreams::new(&[vec![a], vec![b]], Balance::First);
        let mut attempt = upstreams.begin(IpAddr::from([10, 9, 9, 1]));
        assert_eq!(upstreams.next(&mut attempt, 50, false), Some(a));
        upstreams.failed(a, &error(libc::ECONNREFUSED), 50);
        assert_eq!(upstreams.next(&mut attempt, 51, false), Some(b));
        upstreams.failed(b, &error(libc::ECONNREFUSED), 50);
        assert_eq!(upstreams.next(&mut attempt, 51, false), None);
    }

    #[test]
    fn the_failure_of_one_port_is_not_remembered_of_an_upstream_with_the_port_of_the_client() {
        let (a, b) = (SocketAddr::from(([10, 0, 1, 1], 0)), addresses(2, 1)[0]);
        let at = |port| SocketAddr::new(a.ip(), port);
        let mut upstreams = Upstreams::new(&[vec![a], vec![b]], Balance::First);
        assert_eq!(tried(&mut upstreams, 1, 0), [a, b]);
        for failure in [libc::ETIMEDOUT, libc::ECONNREFUSED] {
            assert_eq!(upstreams.failed(at(81), &error(failure), 0), HealthChange::None);
        }
        assert_eq!(tried(&mut upstreams, 1, SLOW)[0], a);
        assert_eq!(upstreams.worked(at(80)), HealthChange::None);
        assert_eq!(upstreams.to_probe(LONGEST_PAUSE), Some(b), "only the one that has a port");
    }

    #[test]
    fn round_robin_shares_the_clients_of_one_that_is_down_among_the_others() {
        let [a, b, c] = [1, 2, 3].map(|net| addresses(net, 1)[0]);
        let mut upstreams = Upstreams::new(&[vec![a], vec![b], vec![c]], Balance::RoundRobin);
        upstreams.failed(a, &error(libc::ECONNREFUSED), 0);
        let mut firsts =
            |count: usize| -> Vec<SocketAddr> { (0..count).map(|_| tried(&mut upstreams, 1, 0)[0]).collect() };
        let served = firsts(30);
        for one in [b, c] {
            assert_eq!(served.iter().filter(|address| **address == one).count(), 15, "{served:?}");
        }
        upstreams.worked(a);
        assert_eq!((0..30).filter(|_| tried(&mut upstreams, 1, 0)[0] == a).count(), 10);
        [a, b, c].iter().for_each(|one| _ = upstreams.failed(*one, &error(libc::ECONNREFUSED), 0));
        assert_eq!((0..30).filter(|_| tried(&mut upstreams, 1, 0)[0] == a).count(), 10, "all are down");
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
