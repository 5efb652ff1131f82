//! How many connections each source has. Each worker counts its own, in memory that all workers share, so that
//! `--max-per-source` holds for all of them together.
//!
//! Each worker has a table that only it writes, with one word for each source. The hash of the source says where the word
//! may be: in one of a few words next to each other, the first that was free. So nothing moves when a source leaves, the
//! other workers read without a lock, and a worker that dies leaves nothing half-done: its successor begins with an empty
//! table.

use std::fs::File;
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::atomic::Ordering::SeqCst;

use crate::sys::shared_memory::SharedWords;

/// The prefix length that identifies a client. It chooses the rest of its address by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SourcePrefix {
    pub v4: u8,
    pub v6: u8,
}

impl SourcePrefix {
    /// A host has one IPv4 address, and any number of addresses of its IPv6 network.
    pub(crate) const DEFAULT: SourcePrefix = SourcePrefix { v4: 32, v6: 64 };

    /// The address with all bits after the prefix cleared.
    fn of(self, ip: IpAddr) -> Ipv6Addr {
        let (bits, length) = match ip.to_canonical() {
            IpAddr::V4(v4) => (v4.to_ipv6_mapped(), 96 + u32::from(self.v4)),
            // All link-local addresses have the same network.
            IpAddr::V6(v6) if v6.is_unicast_link_local() => (v6, 128),
            IpAddr::V6(v6) => (v6, u32::from(self.v6)),
        };
        Ipv6Addr::from_bits(bits.to_bits() & u128::MAX.checked_shl(128 - length).unwrap_or(0))
    }
}

/// The number of words in which the count of a source may be. A table is at most a quarter full, and then so many words in
/// a row are taken with a probability of less than 10^-12.
const REACH: usize = 64;

/// The low bits of a word are the count, the others are bits of the source's hash. Two sources in the same place with the
/// same bits would be counted as one.
const COUNT_BITS: u32 = 20;
const COUNT: u64 = (1 << COUNT_BITS) - 1;

/// The most that can be counted, and so the highest limit.
pub(crate) const MOST: usize = 1_000_000;
const _: () = assert!((MOST as u64) < COUNT);

/// How many numbers a view is made of.
pub(crate) const NUMBERS: usize = 6;

/// The counts of all workers, as one of them sees them.
#[derive(Debug, Clone)]
pub(crate) struct SourceLimit {
    words: Rc<SharedWords>,
    /// Words of one worker, a power of two.
    size: usize,
    /// This worker's number among them.
    own: usize,
    limit: u64,
    block: SourcePrefix,
    /// Hashed with each source, so that clients cannot choose addresses that share a place. All workers have the same one.
    secret: u64,
    stopped: bool,
}

impl SourceLimit {
    /// For `workers` with `places` connections each. A source may have `limit` of them, at most [`MOST`].
    pub(crate) fn new(limit: usize, block: SourcePrefix, workers: usize, places: usize) -> io::Result<SourceLimit> {
        let size = (4 * places).next_power_of_two().max(REACH);
        let words = Rc::new(SharedWords::new(size * workers)?);
        let secret = RandomState::new().hash_one(size);
        Ok(SourceLimit { words, size, own: 0, limit: limit as u64, block, secret, stopped: false })
    }

    /// All but the memory, for [`SourceLimit::from_numbers`] in a worker.
    pub(crate) fn numbers(&self) -> [u64; NUMBERS] {
        let SourceLimit { words: _, size, own, limit, block, secret, stopped: _ } = *self;
        [size as u64, own as u64, limit, block.v4.into(), block.v6.into(), secret]
    }

    /// The view of a worker to which another process has passed the memory. `None` if the numbers do not fit to it.
    pub(crate) fn from_numbers(memory: &File, numbers: [u64; NUMBERS]) -> Option<SourceLimit> {
        let [size, own, limit, v4, v6, secret] = numbers;
        let (size, own) = (usize::try_from(size).ok()?, usize::try_from(own).ok()?);
        let block = SourcePrefix { v4: u8::try_from(v4).ok()?, v6: u8::try_from(v6).ok()? };
        let words = Rc::new(SharedWords::map(memory).ok()?);
        let fits = size.is_power_of_two() && own.checked_add(1)?.checked_mul(size)? <= words.len();
        fits.then_some(SourceLimit { words, size, own, limit, block, secret, stopped: false })
    }

    /// The view of one worker, numbered from 0, which begins without connections.
    pub(crate) fn of(&self, own: usize) -> SourceLimit {
        let source_limit = SourceLimit { own, ..self.clone() };
        let table = source_limit.table(own);
        source_limit.words[table].iter().filter(|word| word.load(SeqCst) != 0).for_each(|word| word.store(0, SeqCst));
        source_limit
    }

    /// The words of a worker.
    fn table(&self, worker: usize) -> Range<usize> {
        worker * self.size..(worker + 1) * self.size
    }

    /// The hash bits of a source, and the first place in each table where its count may be.
    fn find(&self, source: IpAddr) -> (u64, usize) {
        // SipHash with a secret in front of the address.
        let mut hasher = DefaultHasher::new();
        (self.secret, self.block.of(source)).hash(&mut hasher);
        let hash = hasher.finish();
        (hash & !COUNT, hash as usize & (self.size - 1))
    }

    /// The words in a worker's table where the count of a source with this place may be.
    fn reach(&self, worker: usize, place: usize) -> impl Iterator<Item = usize> {
        let (first, mask) = (worker * self.size, self.size - 1);
        (0..REACH).map(move |step| first + ((place + step) & mask))
    }

    /// The word of a source in a worker's table, and its count.
    fn count(&self, worker: usize, mark: u64, place: usize) -> Option<(usize, u64)> {
        let counts = self.reach(worker, place).map(|at| (at, self.words[at].load(SeqCst)));
        counts
            .filter(|(_, word)| word & COUNT != 0)
            .find(|(_, word)| word & !COUNT == mark)
            .map(|(at, word)| (at, word & COUNT))
    }

    /// Counts one more connection of a source, unless it has as many as it may have.
    pub(crate) fn enter(&mut self, source: IpAddr) -> bool {
        if self.stopped {
            return true;
        }
        let (mark, place) = self.find(source);
        let known = self.count(self.own, mark, place);
        let free = || self.reach(self.own, place).find(|at| self.words[*at].load(SeqCst) == 0).map(|at| (at, 0));
        let Some((at, count)) = known.or_else(free) else { return false };
        // First write, then read the other tables: of two workers that do so at once, one sees the other's count.
        self.words[at].store(mark | (count + 1), SeqCst);
        let workers = self.words.len() / self.size;
        let all: u64 = (0..workers).filter_map(|worker| self.count(worker, mark, place)).map(|(_, count)| count).sum();
        if all > self.limit {
            self.set(at, mark, count);
        }
        all <= self.limit
    }

    /// The memory that all workers share.
    pub(crate) fn memory(&self) -> Option<BorrowedFd<'_>> {
        self.words.memory()
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// A connection of a source that was counted has ended.
    pub(crate) fn leave(&mut self, source: IpAddr) {
        let (mark, place) = self.find(source);
        if !self.stopped
            && let Some((at, count)) = self.count(self.own, mark, place)
        {
            self.set(at, mark, count - 1);
        }
    }

    fn set(&self, at: usize, mark: u64, count: u64) {
        self.words[at].store(if count == 0 { 0 } else { mark | count }, SeqCst);
    }

    /// Counts no more: the table belongs to a successor from now on.
    pub(crate) fn stop(&mut self) {
        self.stopped = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(number: u32) -> IpAddr {
        IpAddr::from(number.to_be_bytes())
    }

    fn of(limit: usize, workers: usize, places: usize) -> Vec<SourceLimit> {
        let source_limit = SourceLimit::new(limit, SourcePrefix::DEFAULT, workers, places).unwrap();
        (0..workers).map(|own| source_limit.of(own)).collect()
    }

    #[test]
    fn a_source_has_no_more_than_it_may_and_others_do_not_suffer() {
        let source_limit = &mut of(2, 1, 10)[0];
        assert!(source_limit.enter(ip(1)) && source_limit.enter(ip(1)));
        assert!(!source_limit.enter(ip(1)) && !source_limit.enter(ip(1)));
        assert!(source_limit.enter(ip(2)));
        source_limit.leave(ip(1));
        assert!(source_limit.enter(ip(1)) && !source_limit.enter(ip(1)));
    }

    #[test]
    fn the_limit_holds_for_all_workers_together() {
        let mut all = of(3, 4, 10);
        assert_eq!(
            all.iter_mut().map(|source_limit| source_limit.enter(ip(1))).collect::<Vec<_>>(),
            [true, true, true, false]
        );
        all[1].leave(ip(1));
        assert!(all[3].enter(ip(1)) && !all[0].enter(ip(1)));
    }

    #[test]
    fn full_of_different_sources_it_has_a_place_for_each_and_is_empty_afterwards() {
        const PLACES: u32 = 50_000;
        let source_limit = &mut of(1, 1, PLACES as usize)[0];
        assert!((0..PLACES).all(|number| source_limit.enter(ip(number))));
        assert!((0..PLACES).all(|number| !source_limit.enter(ip(number))));
        (0..PLACES).for_each(|number| source_limit.leave(ip(number)));
        assert!(source_limit.words.iter().all(|word| word.load(SeqCst) == 0));
    }

    #[test]
    fn it_counts_as_a_plain_map_does_whatever_the_order() {
        let mut all = of(5, 2, 100);
        let mut plain = std::collections::HashMap::<(usize, u32), u64>::new();
        let mut random = 1_u64;
        for _ in 0..100_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (worker, source, comes) = ((random >> 33) as usize % 2, (random >> 40) as u32 % 20, random >> 63 == 0);
            let sum: u64 = (0..2).filter_map(|worker| plain.get(&(worker, source))).sum();
            let count = plain.entry((worker, source)).or_default();
            if comes {
                assert_eq!(all[worker].enter(ip(source)), sum < 5);
                *count += u64::from(sum < 5);
            } else if *count > 0 {
                all[worker].leave(ip(source));
                *count -= 1;
            }
        }
    }

    #[test]
    fn a_successor_begins_without_a_connection_and_its_predecessor_counts_no_more() {
        let guardian = SourceLimit::new(1, SourcePrefix::DEFAULT, 2, 10).unwrap();
        let (mut former, mut other) = (guardian.of(0), guardian.of(1));
        assert!(former.enter(ip(1)) && !other.enter(ip(1)));
        former.stop();
        let mut successor = guardian.of(0);
        assert!(successor.enter(ip(1)));
        former.leave(ip(1));
        assert!(!other.enter(ip(1)), "the former worker's connections are not the successor's");
    }

    #[test]
    fn a_network_of_one_host_is_one_source() {
        let [a, b, c] = ["2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1"].map(|text| text.parse().unwrap());
        let one = SourcePrefix::DEFAULT;
        assert_eq!(one.of(a), one.of(b));
        assert_ne!(one.of(a), one.of(c));
        assert_ne!(SourcePrefix { v4: 32, v6: 128 }.of(a), SourcePrefix { v4: 32, v6: 128 }.of(b));
        let [a, b, mapped] = ["10.1.2.3", "10.1.2.4", "::ffff:10.1.2.3"].map(|text| text.parse().unwrap());
        assert_ne!(one.of(a), one.of(b));
        assert_eq!(one.of(a), one.of(mapped));
        assert_eq!(SourcePrefix { v4: 24, v6: 64 }.of(a), SourcePrefix { v4: 24, v6: 64 }.of(b));
        let [a, b] = ["fe80::1", "fe80::2"].map(|text| text.parse().unwrap());
        assert_ne!(one.of(a), one.of(b));
        assert_eq!(
            SourcePrefix { v4: 0, v6: 0 }.of("1.2.3.4".parse().unwrap()),
            SourcePrefix { v4: 0, v6: 0 }.of("::ffff:9.9.9.9".parse().unwrap())
        );
    }
}
