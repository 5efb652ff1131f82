//! The counters of all workers together.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::traffic::counters::Counters;

/// How long to wait for the answers of the workers.
const PATIENCE: Duration = Duration::from_secs(1);

/// The counters that the workers have sent.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    /// The last counters of workers that have ended.
    past: Counters,
    /// The last counters of the others, by process id.
    said: BTreeMap<u32, Counters>,
    asked: Option<Asked>,
}

/// A question that not all workers have answered.
#[derive(Debug)]
struct Asked {
    waiting: BTreeSet<u32>,
    until: Instant,
}

impl Stats {
    /// These workers have been asked. There is one question at a time: asking again does not extend the time.
    pub(crate) fn ask(&mut self, pids: impl Iterator<Item = u32>, now: Instant) {
        let until = self.asked.as_ref().map_or(now + PATIENCE, |asked| asked.until);
        self.asked = Some(Asked { waiting: pids.collect(), until });
    }

    /// The counters of workers that have ended.
    pub(crate) fn past(&self) -> Counters {
        self.past
    }

    /// Adds the counters of workers that ended before an upgrade.
    pub(crate) fn inherit(&mut self, past: Counters) {
        self.past += past;
    }

    /// A worker has sent its counters: it was asked, or it ends.
    pub(crate) fn heard(&mut self, pid: u32, counters: Counters) {
        self.said.insert(pid, counters);
        self.wait_no_more(pid);
    }

    /// A worker has ended.
    pub(crate) fn lost(&mut self, pid: u32) {
        if let Some(last) = self.said.remove(&pid) {
            self.past += last.of_the_past();
        }
        self.wait_no_more(pid);
    }

    fn wait_no_more(&mut self, pid: u32) {
        if let Some(asked) = &mut self.asked {
            asked.waiting.remove(&pid);
        }
    }

    /// When the answer is given, even if it is not complete.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.asked.as_ref().map(|asked| asked.until)
    }

    /// The answer, once: when all have answered, or the time is over.
    pub(crate) fn answer(&mut self, now: Instant) -> Option<String> {
        let asked = self.asked.take_if(|asked| asked.waiting.is_empty() || asked.until <= now)?;
        let silent = match asked.waiting.len() {
            0 => String::new(),
            1 => "; 1 worker has not answered".to_owned(),
            count => format!("; {count} workers have not answered"),
        };
        Some(format!("{}{silent}", self.sum()))
    }

    /// The sum of all workers.
    pub(crate) fn sum(&self) -> Counters {
        let mut sum = self.past;
        self.said.values().for_each(|counters| sum += *counters);
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(accepted: u64, open: u64) -> Counters {
        Counters { accepted, open, ..Counters::default() }
    }

    #[test]
    fn the_sum_keeps_what_workers_said_that_are_gone() {
        let (mut stats, now) = (Stats::default(), Instant::now());
        stats.heard(1, accepted(10, 4));
        stats.lost(1);
        stats.lost(2);
        stats.ask([3, 4].into_iter(), now);
        stats.heard(3, accepted(5, 1));
        assert_eq!(stats.answer(now), None);
        stats.heard(4, accepted(7, 2));
        assert_eq!(stats.sum(), accepted(22, 3));
        assert_eq!(stats.answer(now), Some(accepted(22, 3).to_string()));
        assert_eq!(stats.answer(now), None);
    }

    #[test]
    fn a_worker_that_says_more_replaces_what_it_said_before() {
        let mut stats = Stats::default();
        stats.heard(1, accepted(10, 4));
        stats.heard(1, accepted(11, 0));
        assert_eq!(stats.sum(), accepted(11, 0));
    }

    #[test]
    fn who_does_not_answer_is_not_waited_for_longer_than_the_first_question_says() {
        let (mut stats, now) = (Stats::default(), Instant::now());
        stats.ask([1, 2].into_iter(), now);
        stats.heard(1, accepted(3, 0));
        stats.ask([1, 2].into_iter(), now + PATIENCE / 2);
        assert_eq!(stats.answer(now + PATIENCE / 2), None);
        stats.heard(1, accepted(4, 0));
        let answer = stats.answer(stats.due().unwrap()).unwrap();
        assert!(answer.starts_with("4 accepted") && answer.ends_with("; 1 worker has not answered"), "{answer}");
        stats.ask([2].into_iter(), now);
        stats.lost(2);
        assert!(stats.answer(now).is_some_and(|answer| !answer.contains("not answered")));
    }
}
