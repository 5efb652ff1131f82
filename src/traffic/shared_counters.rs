//! The counters of a worker, in memory that it shares with the guardian and the control process.
//!
//! Each worker has memory of its own, which only it writes, word by word and without a lock: a load and a store, for nobody
//! else stores there. The others read it at any time. What a worker has counted outlives it, because the guardian has the
//! memory, too.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering::Relaxed;

use crate::redirection::RedirectionId;
use crate::relay::close::CloseKind;
use crate::sys::shared_memory::{ReadWords, SharedWords};

/// What is counted of a worker as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WorkerWord {
    /// How often accepting had to pause.
    Pauses,
    /// Pipes that hold bytes now.
    Pipes,
    /// Bytes that were spliced.
    Spliced,
    /// Nanoseconds of processor time.
    Cpu,
    /// Lines of the log that its reader did not take.
    LostLines,
    /// Connections that left from our own address instead of the client's.
    OwnAddress,
    /// Those that left from another port than the client's, where that was wanted.
    OtherPort,
}

/// Words of a worker as a whole, with room for more.
pub(crate) const WORKER_WORDS: usize = 8;

/// What is counted of a redirection, in front of its close reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RedirectionWord {
    Accepted,
    /// Bytes that reached upstreams, and clients.
    Up,
    Down,
    /// The same of connections that are closed.
    ClosedUp,
    ClosedDown,
}

const REASONS: usize = 5;

pub(crate) const REDIRECTION_WORDS: usize = REASONS + CloseKind::COUNT;

/// What is counted of an upstream, in front of the histogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UpstreamWord {
    /// Connections now.
    Open,
    Connected,
    /// Attempts that failed.
    Failed,
    /// Addresses now, and how many of them are down.
    Addresses,
    Down,
    /// Microseconds that connecting has taken in all.
    ConnectTime,
}

const BUCKETS: usize = 6;

/// The upper bounds of the histogram of connect times, in microseconds. What took longer is in one more bucket.
pub(crate) const BOUNDS: [u64; 13] =
    [500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 10_000_000];

pub(crate) const UPSTREAM_WORDS: usize = BUCKETS + BOUNDS.len() + 1;

/// Which words a redirection and its upstreams have. All processes make it of the same configuration.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct CounterLayout {
    /// The upstreams of each redirection, as `HOST:PORT`.
    upstreams: Vec<Vec<String>>,
    /// The first word of each redirection.
    starts: Vec<usize>,
    words: usize,
}

impl CounterLayout {
    pub(crate) fn new(upstreams: Vec<Vec<String>>) -> CounterLayout {
        let mut words = WORKER_WORDS;
        let starts = upstreams.iter().map(|hosts| {
            let start = words;
            words += REDIRECTION_WORDS + hosts.len() * UPSTREAM_WORDS;
            start
        });
        let starts = starts.collect();
        CounterLayout { upstreams, starts, words }
    }

    /// The upstreams of each redirection.
    pub(crate) fn upstreams(&self) -> &[Vec<String>] {
        &self.upstreams
    }

    fn upstream(&self, id: RedirectionId, host: usize) -> Option<usize> {
        let hosts = self.upstreams.get(id.index())?;
        let start = self.starts.get(id.index())? + REDIRECTION_WORDS;
        (host < hosts.len()).then_some(start + host * UPSTREAM_WORDS)
    }
}

/// An upstream among those of its redirection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UpstreamPlace {
    pub redirection: RedirectionId,
    pub host: usize,
}

/// The counters of a worker, as it writes them and the guardian reads them.
#[derive(Debug)]
pub(crate) struct WorkerCounters {
    words: SharedWords,
    layout: CounterLayout,
}

impl WorkerCounters {
    /// All zero.
    pub(crate) fn new(layout: CounterLayout) -> io::Result<WorkerCounters> {
        Ok(WorkerCounters { words: SharedWords::new(layout.words)?, layout })
    }

    /// Those of a worker, whose memory the guardian has passed on.
    ///
    /// Errors: the memory does not fit to the layout.
    pub(crate) fn map(memory: &File, layout: CounterLayout) -> io::Result<WorkerCounters> {
        WorkerCounters::of(SharedWords::map(memory)?, layout)
    }

    /// Those that the former program of this process has kept.
    pub(crate) fn adopt(memory: File, layout: CounterLayout) -> io::Result<WorkerCounters> {
        WorkerCounters::of(SharedWords::adopt(memory)?, layout)
    }

    fn of(words: SharedWords, layout: CounterLayout) -> io::Result<WorkerCounters> {
        if words.len() < layout.words {
            return Err(io::Error::other("the memory of the counters is too small"));
        }
        Ok(WorkerCounters { words, layout })
    }

    /// The memory to pass on.
    pub(crate) fn memory(&self) -> Option<BorrowedFd<'_>> {
        self.words.memory()
    }

    pub(crate) fn layout(&self) -> &CounterLayout {
        &self.layout
    }

    fn add(&self, word: usize, count: u64) {
        if let Some(word) = self.words.get(word) {
            word.store(word.load(Relaxed).wrapping_add(count), Relaxed);
        }
    }

    fn set(&self, word: usize, value: u64) {
        if let Some(word) = self.words.get(word) {
            word.store(value, Relaxed);
        }
    }

    fn redirection(&self, id: RedirectionId) -> usize {
        self.layout.starts.get(id.index()).copied().unwrap_or(usize::MAX - REDIRECTION_WORDS)
    }

    /// Sets something of the worker as a whole.
    pub(crate) fn set_worker(&self, word: WorkerWord, value: u64) {
        self.set(word as usize, value);
    }

    /// Counts something of the worker as a whole.
    pub(crate) fn count(&self, word: WorkerWord) {
        self.add(word as usize, 1);
    }

    pub(crate) fn accepted(&self, id: RedirectionId) {
        self.add(self.redirection(id) + RedirectionWord::Accepted as usize, 1);
    }

    /// So many bytes have reached the upstream and the client.
    pub(crate) fn moved(&self, id: RedirectionId, up: u64, down: u64) {
        let start = self.redirection(id);
        self.add(start + RedirectionWord::Up as usize, up);
        self.add(start + RedirectionWord::Down as usize, down);
    }

    /// A connection that has moved so many bytes is closed.
    pub(crate) fn closed(&self, id: RedirectionId, kind: CloseKind, moved: (u64, u64)) {
        let start = self.redirection(id);
        self.add(start + REASONS + kind as usize, 1);
        self.add(start + RedirectionWord::ClosedUp as usize, moved.0);
        self.add(start + RedirectionWord::ClosedDown as usize, moved.1);
    }

    fn upstream(&self, place: UpstreamPlace, word: usize) -> usize {
        self.layout.upstream(place.redirection, place.host).map_or(usize::MAX, |start| start + word)
    }

    /// A connection to an upstream was made, in so many microseconds.
    pub(crate) fn connected(&self, place: UpstreamPlace, microseconds: u64) {
        self.add(self.upstream(place, UpstreamWord::Open as usize), 1);
        self.add(self.upstream(place, UpstreamWord::Connected as usize), 1);
        self.add(self.upstream(place, UpstreamWord::ConnectTime as usize), microseconds);
        let bucket = BOUNDS.iter().position(|bound| microseconds <= *bound).unwrap_or(BOUNDS.len());
        self.add(self.upstream(place, BUCKETS + bucket), 1);
    }

    /// A connection to an upstream is closed.
    pub(crate) fn left(&self, place: UpstreamPlace) {
        self.add(self.upstream(place, UpstreamWord::Open as usize), u64::MAX);
    }

    /// An attempt to reach an upstream has failed.
    pub(crate) fn failed(&self, place: UpstreamPlace) {
        self.add(self.upstream(place, UpstreamWord::Failed as usize), 1);
    }

    /// How many addresses an upstream has, and how many of them are down.
    pub(crate) fn set_health(&self, place: UpstreamPlace, addresses: usize, down: usize) {
        self.set(self.upstream(place, UpstreamWord::Addresses as usize), addresses as u64);
        self.set(self.upstream(place, UpstreamWord::Down as usize), down as u64);
    }

    /// What is there now.
    pub(crate) fn read(&self) -> CounterReading<'_> {
        CounterReading { words: Words::Written(&self.words), layout: &self.layout }
    }
}

/// The counters of a worker, as another process reads them.
#[derive(Debug)]
pub(crate) struct ForeignCounters {
    words: ReadWords,
    layout: CounterLayout,
}

impl ForeignCounters {
    /// Errors: the memory does not fit to the layout.
    pub(crate) fn map(memory: &File, layout: CounterLayout) -> io::Result<ForeignCounters> {
        let words = ReadWords::map(memory)?;
        if words.len() < layout.words {
            return Err(io::Error::other("the memory of the counters is too small"));
        }
        Ok(ForeignCounters { words, layout })
    }

    /// What is there now.
    pub(crate) fn read(&self) -> CounterReading<'_> {
        CounterReading { words: Words::Foreign(&self.words), layout: &self.layout }
    }
}

#[derive(Debug, Clone, Copy)]
enum Words<'a> {
    Written(&'a SharedWords),
    Foreign(&'a ReadWords),
}

/// The counters of one worker at the moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CounterReading<'a> {
    words: Words<'a>,
    layout: &'a CounterLayout,
}

impl<'a> CounterReading<'a> {
    fn word(&self, place: usize) -> u64 {
        match self.words {
            Words::Written(words) => words.get(place).map_or(0, |word| word.load(Relaxed)),
            Words::Foreign(words) => words.load(place),
        }
    }

    pub(crate) fn worker(&self) -> [u64; WORKER_WORDS] {
        std::array::from_fn(|word| self.word(word))
    }

    /// All redirections, in their order.
    pub(crate) fn redirections(&self) -> impl Iterator<Item = [u64; REDIRECTION_WORDS]> {
        self.layout.starts.iter().map(|start| std::array::from_fn(|word| self.word(start + word)))
    }

    /// All upstreams.
    pub(crate) fn upstreams(&self) -> impl Iterator<Item = (RedirectionId, &'a str, [u64; UPSTREAM_WORDS])> {
        let layout = self.layout;
        layout.upstreams.iter().zip(&layout.starts).enumerate().flat_map(move |(index, (hosts, start))| {
            hosts.iter().enumerate().map(move |(host, name)| {
                let first = start + REDIRECTION_WORDS + host * UPSTREAM_WORDS;
                (RedirectionId::from(index), name.as_str(), std::array::from_fn(|word| self.word(first + word)))
            })
        })
    }
}

/// The place of a close reason among the words of a redirection.
pub(crate) fn reason_word(kind: CloseKind) -> usize {
    REASONS + kind as usize
}

/// The buckets of the histogram among the words of an upstream.
pub(crate) fn buckets(words: &[u64; UPSTREAM_WORDS]) -> &[u64] {
    &words[BUCKETS..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_worker_counts_stands_where_others_read_it() {
        let layout = CounterLayout::new(vec![vec!["a:1".into(), "b:2".into()], vec![], vec!["a:1".into()]]);
        let counters = WorkerCounters::new(layout.clone()).unwrap();
        let file = File::from(counters.memory().unwrap().try_clone_to_owned().unwrap());
        let reader = ForeignCounters::map(&file, layout).unwrap();
        let (first, last) = (RedirectionId(0), RedirectionId(2));
        counters.accepted(first);
        counters.moved(first, 3, 4);
        counters.closed(first, CloseKind::Retired, (3, 4));
        let place = UpstreamPlace { redirection: last, host: 0 };
        counters.connected(place, 700);
        counters.connected(place, u64::MAX / 4);
        counters.left(place);
        counters.set_worker(WorkerWord::Cpu, 9);
        // What is in no layout is counted nowhere.
        counters.accepted(RedirectionId(77));
        counters.connected(UpstreamPlace { redirection: RedirectionId(1), host: 0 }, 1);
        let reading = reader.read();
        assert_eq!(reading.worker()[WorkerWord::Cpu as usize], 9);
        let redirections: Vec<_> = reading.redirections().collect();
        assert_eq!(redirections[0][..5], [1, 3, 4, 3, 4]);
        assert_eq!(redirections[0][reason_word(CloseKind::Retired)], 1);
        assert!(redirections[1..].iter().flatten().all(|word| *word == 0));
        let upstreams: Vec<_> = reading.upstreams().collect();
        assert_eq!(
            upstreams.iter().map(|(id, name, _)| (id.0, *name)).collect::<Vec<_>>(),
            [(0, "a:1"), (0, "b:2"), (2, "a:1")]
        );
        let (.., words) = upstreams[2];
        assert_eq!((words[UpstreamWord::Open as usize], words[UpstreamWord::Connected as usize]), (1, 2));
        assert_eq!((buckets(&words)[1], buckets(&words)[BOUNDS.len()]), (1, 1));
    }
}
