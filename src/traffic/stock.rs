//! The sockets for connections that leave from addresses of clients (`--source client`). Making them takes privileges, so
//! the guardian makes them, and a worker has some in stock: no connection waits for one unless that is used up.

use std::os::fd::OwnedFd;

use crate::sys::clock::Tick;

/// The most sockets of one kind that a worker has in stock: two messages full. Half of them are enough for the time that
/// the guardian takes, at 20,000 connections a second.
pub(crate) const MOST: usize = 506;

/// The most sockets that one attempt takes: a port may turn out to be taken after bind(2).
const AT_MOST: usize = 2;

/// Ticks after which a request that was not answered is made again.
const AGAIN: Tick = 10;

/// What tells sockets in stock apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketKind {
    pub is_v4: bool,
    /// Its connections have a zone of their own in connection tracking.
    pub zoned: bool,
}

impl SocketKind {
    pub(crate) const ALL: [SocketKind; 4] = [
        SocketKind { is_v4: false, zoned: false },
        SocketKind { is_v4: true, zoned: false },
        SocketKind { is_v4: false, zoned: true },
        SocketKind { is_v4: true, zoned: true },
    ];

    /// Its place in [`SocketKind::ALL`].
    pub(crate) fn place(self) -> usize {
        usize::from(self.is_v4) + 2 * usize::from(self.zoned)
    }
}

/// How many sockets of each kind are asked for, in the order of `SocketKind::ALL`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct SocketCounts(pub [u16; 4]);

/// The sockets of a worker.
#[derive(Debug, Default)]
pub(crate) struct Stock {
    /// In the order of [`SocketKind::ALL`].
    shelves: [Shelf; 4],
    /// Nobody makes any more.
    is_cut_off: bool,
}

/// Those of one kind.
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
    /// One that is empty, for so many sockets of each of these kinds.
    pub(crate) fn new(kinds: impl Fn(SocketKind) -> bool, size: usize) -> Stock {
        let shelf = |kind| Shelf { target: if kinds(kind) { size } else { 0 }, ..Shelf::default() };
        Stock { shelves: SocketKind::ALL.map(shelf), is_cut_off: false }
    }

    fn shelf(&mut self, kind: SocketKind) -> &mut Shelf {
        let [v6, v4, zoned_v6, zoned_v4] = &mut self.shelves;
        match (kind.is_v4, kind.zoned) {
            (false, false) => v6,
            (true, false) => v4,
            (false, true) => zoned_v6,
            (true, true) => zoned_v4,
        }
    }

    /// Whether a connection that needs one of this kind has to wait for it. Some are kept for those that try another
    /// upstream: they cannot wait.
    pub(crate) fn must_wait(&mut self, kind: SocketKind, is_first: bool) -> bool {
        let is_cut_off = self.is_cut_off;
        let shelf = self.shelf(kind);
        let kept = if is_first { shelf.target / 8 } else { 0 };
        !is_cut_off && shelf.sockets.len() < kept + AT_MOST
    }

    /// A socket of this kind.
    pub(crate) fn take(&mut self, kind: SocketKind) -> Option<OwnedFd> {
        self.shelf(kind).sockets.pop()
    }

    /// The guardian has sent sockets of one kind. What is too much is closed.
    pub(crate) fn add(&mut self, kind: SocketKind, sockets: Vec<OwnedFd>) {
        let shelf = self.shelf(kind);
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
        if self.is_cut_off || !self.shelves.iter().any(Shelf::is_low) {
            return None;
        }
        let counts = SocketCounts(self.shelves.each_mut().map(|shelf| shelf.request(now)));
        (counts != SocketCounts::default()).then_some(counts)
    }

    /// When to ask again.
    pub(crate) fn due(&self) -> Option<Tick> {
        let due = |shelf: &Shelf| shelf.asked.map(|asked| asked.saturating_add(AGAIN));
        self.shelves.iter().filter_map(due).min().filter(|_| !self.is_cut_off)
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
        let [v6, v4, _, zoned] = SocketKind::ALL;
        let mut stock = Stock::new(|kind| kind == v4, 10);
        assert!(stock.must_wait(v4, true));
        assert_eq!(stock.request(5), Some(SocketCounts([0, 10, 0, 0])));
        assert_eq!((stock.request(14), stock.due()), (None, Some(15)), "it has been asked for");
        assert_eq!(stock.request(15), Some(SocketCounts([0, 10, 0, 0])), "nothing has come");
        stock.add(v4, sockets(7));
        assert_eq!((stock.request(100), stock.due()), (None, None));
        stock.add(v4, sockets(7));
        assert!((0..5).all(|_| stock.take(v4).is_some()), "ten and no more");
        assert_eq!(stock.request(100), Some(SocketCounts([0, 5, 0, 0])));
        assert!((0..3).all(|_| stock.take(v4).is_some()));
        assert!(stock.must_wait(v4, true) && !stock.must_wait(v4, false));
        assert!((0..2).all(|_| stock.take(v4).is_some()) && stock.take(v4).is_none() && stock.take(v6).is_none());
        stock.add(zoned, sockets(1));
        assert!(stock.take(zoned).is_none(), "none of that kind is needed");
        assert!(stock.must_wait(v4, false));
        stock.cut_off();
        assert!(!stock.must_wait(v4, true), "there is nothing to wait for");
        assert_eq!((stock.request(1000), stock.due()), (None, None));
    }

    #[test]
    fn where_none_are_needed_none_are_asked_for() {
        assert_eq!(Stock::default().request(0), None);
        assert_eq!(Stock::new(|_| false, 100).request(0), None);
    }

    #[test]
    fn each_kind_has_its_place() {
        assert!(SocketKind::ALL.iter().enumerate().all(|(place, kind)| kind.place() == place));
    }
}
