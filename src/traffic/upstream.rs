//! The addresses behind an upstream's name, and which of them to try first.

use std::net::SocketAddr;

/// The most addresses of a name that are kept.
pub const ADDRESSES: usize = 16;

/// The addresses, as they were last resolved.
#[derive(Debug, Clone, Default)]
pub struct Upstream {
    addresses: Vec<SocketAddr>,
    /// The one that worked last.
    first: usize,
}

impl Upstream {
    /// With these addresses, in the resolver's order of preference.
    pub fn new(addresses: Vec<SocketAddr>) -> Upstream {
        let mut upstream = Upstream::default();
        upstream.replace(addresses);
        upstream
    }

    /// Takes new addresses; the one that worked last stays first if it is among them.
    pub fn replace(&mut self, mut addresses: Vec<SocketAddr>) {
        addresses.truncate(ADDRESSES);
        let favourite = self.addresses.get(self.first).copied();
        self.first = addresses.iter().position(|address| Some(*address) == favourite).unwrap_or(0);
        self.addresses = addresses;
    }

    /// All of them, in the resolver's order.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What to try when `attempts` addresses have been tried in vain.
    pub fn candidate(&self, attempts: usize) -> Option<SocketAddr> {
        let count = self.addresses.len();
        (attempts < count).then(|| self.addresses[(self.first + attempts) % count])
    }

    /// Remembers an address that answered.
    pub fn worked(&mut self, address: SocketAddr) {
        if let Some(first) = self.addresses.iter().position(|known| *known == address) {
            self.first = first;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(count: u8) -> Vec<SocketAddr> {
        (1..=count).map(|last| SocketAddr::from(([10, 0, 0, last], 80))).collect()
    }

    #[test]
    fn every_address_is_tried_once_from_the_one_that_worked() {
        let list = addresses(3);
        let mut upstream = Upstream::new(list.clone());
        upstream.worked(list[1]);
        let tried: Vec<_> = (0..).map_while(|attempts| upstream.candidate(attempts)).collect();
        assert_eq!(tried, [list[1], list[2], list[0]]);
    }

    #[test]
    fn the_one_that_worked_stays_first_when_the_name_is_resolved_again() {
        let list = addresses(3);
        let mut upstream = Upstream::new(list.clone());
        upstream.worked(list[2]);
        upstream.replace(vec![list[0], list[2]]);
        assert_eq!(upstream.candidate(0), Some(list[2]));
        upstream.replace(vec![list[0]]);
        assert_eq!(upstream.candidate(0), Some(list[0]));
        assert_eq!(upstream.candidate(1), None);
    }
}
