//! How many connections and pipes a worker can have with its descriptors.

use crate::traffic::stock::MOST;

/// Descriptors for everything but connections and pipes: listeners, logs, channels, epoll, and some to spare.
const RESERVE: u64 = 64;

/// The most pipes of one worker. The default quota of a user (`fs.pipe-user-pages-soft`, 16,384 pages) is enough for the
/// large ones, which take 4,096 pages, and for 768 others.
const PIPES: u64 = 750;

/// How many connections and pipes the descriptors allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Capacity {
    /// Connections, each with two descriptors.
    pub places: usize,
    /// Pipes, each with two descriptors.
    pub pipes: usize,
    /// Sockets of each kind in stock for connections from addresses of clients.
    pub sockets: usize,
}

impl Capacity {
    /// Divides `descriptors` among connections and pipes; `wanted` bounds the connections. `stocks` says how many kinds
    /// of sockets are in stock, each for both families.
    pub(crate) fn plan(descriptors: u64, wanted: Option<usize>, stocks: usize) -> Capacity {
        let sockets = MOST.min(descriptors as usize / 32).checked_div(stocks).unwrap_or(0);
        let free = descriptors.saturating_sub(RESERVE + (2 * sockets * stocks) as u64);
        let pipes = PIPES.min(free / 8);
        let most = ((free - 2 * pipes) / 2).clamp(1, 1_000_000) as usize;
        Capacity { places: wanted.unwrap_or(most).min(most), pipes: pipes as usize, sockets }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_enough_for_all_connections_and_pipes() {
        for descriptors in [100, 1024, 4096, 20_000, 1_048_576] {
            for stocks in 0..3 {
                let Capacity { places, pipes, sockets } = Capacity::plan(descriptors, None, stocks);
                assert!((2 * (places + pipes + sockets * stocks)) as u64 + RESERVE <= descriptors, "{descriptors}");
                assert!(places > 0 && pipes > 0 && (sockets > 0) == (stocks > 0));
            }
        }
        assert_eq!(Capacity::plan(20_000, Some(10), 0).places, 10);
        assert_eq!(Capacity::plan(1024, Some(100_000), 0), Capacity::plan(1024, None, 0));
    }
}
