//! The sockets for connections that leave from addresses of clients (`--source client`). Making them takes privileges, so
//! the guardian makes them, and a worker has some in stock: no connection waits for one unless that is used up.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use crate::sys::clock::Tick;

/// The most sockets of one family that a worker has in stock: two messages full. Half of them are enough for the time that
/// the guardian takes, at 20,000 connections a second.
pub(crate) const MOST: usize = 506;

/// The most sockets that one attempt takes: a port may turn out to be taken after bind(2).
const AT_MOST: usize = 2;

/// Ticks after which a request that was not answered is made again.
const AGAIN: Tick = 10;

/// How many sockets of each family are asked for.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct SocketCounts {
    pub v4: u16,
    pub v6: u16,
}

/// The sockets of a worker.
#[derive(Debug, Default)]
pub(crate) struct Stock {
    v4: Shelf,
    v6: Shelf,
    /// Nobody makes any more.
    is_cut_off: bool,
}

/// Those of one family.
#[derive(Debug, Default)]
struct Shelf {
    sockets: Vec<OwnedFd>,
    /// How many there should be; 0 when none are needed.
    target: usize,
    /// When others were asked for, until they have come.
    asked: Option<Tick>,
}

impl Shelf {
    fn is_low(&self) -> bool {
        self.target > 0 && self.sockets.len() <= self.target / 2
    }

    /// How many to ask for now.
    fn request(&mut self, now: Tick) -> u16 {
        if !self.is_low() || self.asked.is_some_and(|asked| now < asked.saturating_add(AGAIN)) {
            return 0;
        }
        self.asked = Some(now);
        (self.target - self.sockets.len()) as u16
    }
}

impl Stock {
    /// One that is empty, for these families and so many sockets of each.
    pub(crate) fn new(v4: bool, v6: bool, size: usize) -> Stock {
        let shelf = |wanted| Shelf { target: if wanted { size } else { 0 }, ..Shelf::default() };
        Stock { v4: shelf(v4), v6: shelf(v6), is_cut_off: false }
    }

    fn shelf(&mut self, address: SocketAddr) -> &mut Shelf {
        if address.is_ipv4() { &mut self.v4 } else { &mut self.v6 }
    }

    /// Whether a connection from this address has to wait for sockets. Some are kept for those that try another upstream:
    /// they cannot wait.
    pub(crate) fn must_wait(&mut self, from: SocketAddr, is_first: bool) -> bool {
        let is_cut_off = self.is_cut_off;
        let shelf = self.shelf(from);
        let kept = if is_first { shelf.target / 8 } else { 0 };
        !is_cut_off && shelf.sockets.len() < kept + AT_MOST
    }

    /// A socket for a connection from this address.
    pub(crate) fn take(&mut self, from: SocketAddr) -> Option<OwnedFd> {
        self.shelf(from).sockets.pop()
    }

    /// The guardian has sent sockets of one family. What is too much is closed.
    pub(crate) fn add(&mut self, is_v4: bool, sockets: Vec<OwnedFd>) {
        let shelf = if is_v4 { &mut self.v4 } else { &mut self.v6 };
        let room = shelf.target.saturating_sub(shelf.sockets.len());
        shelf.sockets.extend(sockets.into_iter().take(room));
        if !shelf.is_low() {
            shelf.asked = None;
        }
    }

    /// The guardian is gone.
    pub(crate) fn cut_off(&mut self) {
        self.is_cut_off = true;
    }

    /// What to ask the guardian for now.
    pub(crate) fn request(&mut self, now: Tick) -> Option<SocketCounts> {
        if self.is_cut_off || !(self.v4.is_low() || self.v6.is_low()) {
            return None;
        }
        let counts = SocketCounts { v4: self.v4.request(now), v6: self.v6.request(now) };
        (counts != SocketCounts::default()).then_some(counts)
    }

    /// When to ask again.
    pub(crate) fn due(&self) -> Option<Tick> {
        let due = |shelf: &Shelf| shelf.asked.map(|asked| asked.saturating_add(AGAIN));
        [due(&self.v4), due(&self.v6)].into_iter().flatten().min().filter(|_| !self.is_cut_off)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sockets(count: usize) -> Vec<OwnedFd> {
        (0..count).map(|_| OwnedFd::from(std::net::UdpSocket::bind("127.0.0.1:0").unwrap())).collect()
    }

    #[test]
    fn sockets_are_asked_for_before_there_are_none() {
        let (v4, v6) = (SocketAddr::from(([10, 0, 0, 1], 1)), SocketAddr::from(([1; 16], 1)));
        let mut stock = Stock::new(true, false, 10);
        assert!(stock.must_wait(v4, true));
        assert_eq!(stock.request(5), Some(SocketCounts { v4: 10, v6: 0 }));
        assert_eq!((stock.request(14), stock.due()), (None, Some(15)), "it has been asked for");
        assert_eq!(stock.request(15), Some(SocketCounts { v4: 10, v6: 0 }), "nothing has come");
        stock.add(true, sockets(7));
        assert_eq!((stock.request(100), stock.due()), (None, None));
        stock.add(true, sockets(7));
        assert!((0..5).all(|_| stock.take(v4).is_some()), "ten and no more");
        assert_eq!(stock.request(100), Some(SocketCounts { v4: 5, v6: 0 }));
        assert!((0..3).all(|_| stock.take(v4).is_some()));
        assert!(stock.must_wait(v4, true) && !stock.must_wait(v4, false));
        assert!((0..2).all(|_| stock.take(v4).is_some()) && stock.take(v4).is_none() && stock.take(v6).is_none());
        assert!(stock.must_wait(v4, false));
        stock.cut_off();
        assert!(!stock.must_wait(v4, true), "there is nothing to wait for");
        assert_eq!((stock.request(1000), stock.due()), (None, None));
    }

    #[test]
    fn where_none_are_needed_none_are_asked_for() {
        assert_eq!(Stock::default().request(0), None);
        assert_eq!(Stock::new(false, false, 100).request(0), None);
    }
}
