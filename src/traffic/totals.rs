//! The counters of all workers together, also of those that are gone.

use std::collections::BTreeMap;

use crate::redirection::RedirectionId;
use crate::relay::close::CloseKind;
use crate::traffic::shared_counters::{
    CounterReading, REDIRECTION_WORDS, RedirectionWord, UPSTREAM_WORDS, UpstreamWord, WORKER_WORDS, WorkerWord,
    reason_word,
};

/// Sums of what workers have counted.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Totals {
    pub worker: [u64; WORKER_WORDS],
    /// By number, as far as there are any.
    pub redirections: Vec<RedirectionTotals>,
    pub upstreams: BTreeMap<(RedirectionId, String), [u64; UPSTREAM_WORDS]>,
    /// Nanoseconds of processor time, for each slot that workers have or had.
    pub cpu: BTreeMap<usize, u64>,
}

/// What was counted of one redirection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RedirectionTotals {
    words: [u64; REDIRECTION_WORDS],
    /// Connections whose worker was killed, and what they had moved up and down.
    pub lost: [u64; 3],
}

impl Default for RedirectionTotals {
    fn default() -> RedirectionTotals {
        RedirectionTotals { words: [0; REDIRECTION_WORDS], lost: [0; 3] }
    }
}

impl RedirectionTotals {
    pub(crate) fn get(&self, word: RedirectionWord) -> u64 {
        self.words[word as usize]
    }

    /// How many ended in this way.
    pub(crate) fn reason(&self, kind: CloseKind) -> u64 {
        self.words[reason_word(kind)]
    }

    /// Connections now.
    pub(crate) fn open(&self) -> u64 {
        let closed = CloseKind::NAMES.iter().map(|(kind, _)| self.reason(*kind));
        closed.chain([self.lost[0]]).fold(self.get(RedirectionWord::Accepted), u64::saturating_sub)
    }

    fn add(&mut self, words: &[u64; REDIRECTION_WORDS], lost: [u64; 3]) {
        add(&mut self.words, words);
        add(&mut self.lost, &lost);
    }
}

/// What a worker says of itself may be anything.
fn add<const COUNT: usize>(sum: &mut [u64; COUNT], numbers: &[u64; COUNT]) {
    sum.iter_mut().zip(numbers).for_each(|(sum, number)| *sum = sum.saturating_add(*number));
}

impl Totals {
    /// Adds what a living worker has counted so far.
    pub(crate) fn add_living(&mut self, slot: usize, reading: &CounterReading<'_>) {
        self.add(slot, reading, false);
    }

    /// Adds what a worker has counted that has ended. The connections that it still had are lost.
    pub(crate) fn add_ended(&mut self, slot: usize, reading: &CounterReading<'_>) {
        self.add(slot, reading, true);
    }

    fn add(&mut self, slot: usize, reading: &CounterReading<'_>, ended: bool) {
        let mut worker = reading.worker();
        let cpu = self.cpu.entry(slot).or_default();
        *cpu = cpu.saturating_add(worker[WorkerWord::Cpu as usize]);
        if ended {
            worker[WorkerWord::Pipes as usize] = 0;
        }
        add(&mut self.worker, &worker);
        for (index, words) in reading.redirections().enumerate() {
            if self.redirections.len() <= index {
                self.redirections.resize(index + 1, RedirectionTotals::default());
            }
            let own = RedirectionTotals { words, lost: [0; 3] };
            let moved = |all, closed| own.get(all).saturating_sub(own.get(closed));
            let lost = [
                own.open(),
                moved(RedirectionWord::Up, RedirectionWord::ClosedUp),
                moved(RedirectionWord::Down, RedirectionWord::ClosedDown),
            ];
            self.redirections[index].add(&words, if ended { lost } else { [0; 3] });
        }
        for (id, name, mut words) in reading.upstreams() {
            if ended {
                for word in [UpstreamWord::Open, UpstreamWord::Addresses, UpstreamWord::Down] {
                    words[word as usize] = 0;
                }
            }
            add(self.upstreams.entry((id, name.to_owned())).or_insert([0; UPSTREAM_WORDS]), &words);
        }
    }

    /// The sum over all redirections.
    pub(crate) fn sum(&self) -> RedirectionTotals {
        let mut sum = RedirectionTotals::default();
        self.redirections.iter().for_each(|one| sum.add(&one.words, one.lost));
        sum
    }

    pub(crate) fn worker(&self, word: WorkerWord) -> u64 {
        self.worker[word as usize]
    }

    /// As lines of words, which [`Totals::take`] takes back.
    pub(crate) fn lines(&self) -> Vec<Vec<String>> {
        let line = |head: Vec<String>, numbers: &[u64]| {
            head.into_iter().chain(numbers.iter().map(ToString::to_string)).collect::<Vec<_>>()
        };
        let mut lines = vec![line(vec!["worker".into()], &self.worker)];
        for (index, one) in self.redirections.iter().enumerate() {
            lines.push(line(vec!["redirection".into(), index.to_string()], &[&one.words[..], &one.lost].concat()));
        }
        for ((id, name), words) in &self.upstreams {
            lines.push(line(vec!["upstream".into(), id.0.to_string(), name.clone()], words));
        }
        lines.extend(self.cpu.iter().map(|(slot, time)| vec!["cpu".into(), slot.to_string(), time.to_string()]));
        lines
    }

    /// Takes one line. `None` if it is none of ours.
    pub(crate) fn take(&mut self, words: &[&str]) -> Option<()> {
        let numbers = |texts: &[&str]| texts.iter().map(|text| text.parse()).collect::<Result<Vec<u64>, _>>().ok();
        match words {
            ["worker", rest @ ..] => self.worker = numbers(rest)?.try_into().ok()?,
            ["redirection", index, rest @ ..] => {
                let index = usize::from(index.parse::<u16>().ok()?);
                let (words, lost) =
                    numbers(rest)?.split_at_checked(REDIRECTION_WORDS).map(|(a, b)| (a.to_vec(), b.to_vec()))?;
                if self.redirections.len() <= index {
                    self.redirections.resize(index + 1, RedirectionTotals::default());
                }
                self.redirections[index] =
                    RedirectionTotals { words: words.try_into().ok()?, lost: lost.try_into().ok()? };
            }
            ["upstream", id, name, rest @ ..] => {
                let words = numbers(rest)?.try_into().ok()?;
                self.upstreams.insert((RedirectionId(id.parse().ok()?), (*name).to_owned()), words);
            }
            ["cpu", slot, time] => _ = self.cpu.insert(slot.parse().ok()?, time.parse().ok()?),
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::shared_counters::{CounterLayout, UpstreamPlace, WorkerCounters};

    fn worker() -> WorkerCounters {
        let counters = WorkerCounters::new(CounterLayout::new(vec![vec!["a:1".into()]])).unwrap();
        let id = RedirectionId(0);
        (0..5).for_each(|_| counters.accepted(id));
        counters.moved(id, 10, 20);
        counters.closed(id, CloseKind::Finished, (4, 5));
        counters.closed(id, CloseKind::Idle, (1, 1));
        counters.connected(UpstreamPlace { redirection: id, host: 0 }, 1);
        counters.set_worker(WorkerWord::Pipes, 2);
        counters
    }

    #[test]
    fn what_a_worker_had_open_is_lost_with_it() {
        let (worker, mut totals) = (worker(), Totals::default());
        totals.add_living(3, &worker.read());
        assert_eq!((totals.sum().open(), totals.sum().lost), (3, [0; 3]));
        totals.add_ended(3, &worker.read());
        let sum = totals.sum();
        assert_eq!((sum.get(RedirectionWord::Accepted), sum.open(), sum.lost), (10, 3, [3, 5, 14]));
        assert_eq!((totals.worker(WorkerWord::Pipes), sum.reason(CloseKind::Idle)), (2, 2));
        let (_, words) = totals.upstreams.first_key_value().unwrap();
        assert_eq!((words[UpstreamWord::Open as usize], words[UpstreamWord::Connected as usize]), (1, 2));
    }

    #[test]
    fn every_line_is_taken_back() {
        let mut totals = Totals::default();
        totals.add_ended(3, &worker().read());
        let mut again = Totals::default();
        for line in totals.lines() {
            let words: Vec<&str> = line.iter().map(String::as_str).collect();
            again.take(&words).unwrap();
            assert_eq!(again.take(&words[..words.len() - 1]), None, "{line:?}");
        }
        assert_eq!(again, totals);
        assert_eq!(again.take(&["cow"]), None);
    }
}
