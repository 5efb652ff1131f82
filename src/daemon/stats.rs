//! The counters of workers that have ended, and the question after those of the others.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::daemon::worker_record::WorkerRecord;
use crate::traffic::totals::Totals;

/// How long to wait for the answers of the workers.
const PATIENCE: Duration = Duration::from_secs(1);

/// What workers have counted, and which of them have been asked.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    /// The counters of workers that have ended.
    past: Totals,
    asked: Option<Asked>,
}

/// A question that not all workers have answered.
#[derive(Debug)]
struct Asked {
    waiting: BTreeSet<u32>,
    until: Instant,
}

impl Stats {
    /// These workers have been asked to log their connections. There is one question at a time: asking again does not
    /// extend the time.
    pub(crate) fn ask(&mut self, pids: impl Iterator<Item = u32>, now: Instant) {
        let until = self.asked.as_ref().map_or(now + PATIENCE, |asked| asked.until);
        self.asked = Some(Asked { waiting: pids.collect(), until });
    }

    /// The counters of workers that have ended.
    pub(crate) fn past(&self) -> &Totals {
        &self.past
    }

    /// Takes over what workers have counted that ended before an upgrade.
    pub(crate) fn inherit(&mut self, past: Totals) {
        self.past = past;
    }

    /// A worker has answered: it was asked, or it ends.
    pub(crate) fn heard(&mut self, pid: u32) {
        if let Some(asked) = &mut self.asked {
            asked.waiting.remove(&pid);
        }
    }

    /// A child has ended, which may have been a worker.
    pub(crate) fn lost(&mut self, pid: u32, worker: Option<&WorkerRecord>) {
        if let Some(record) = worker {
            self.past.add_ended(record.slot, &record.counters.read());
        }
        self.heard(pid);
    }

    /// When the answer is given, even if it is not complete.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.asked.as_ref().map(|asked| asked.until)
    }

    /// Once, when all have answered or the time is over: the words about those that have not answered.
    pub(crate) fn answer(&mut self, now: Instant) -> Option<String> {
        let asked = self.asked.take_if(|asked| asked.waiting.is_empty() || asked.until <= now)?;
        Some(match asked.waiting.len() {
            0 => String::new(),
            1 => "; 1 worker has not answered".to_owned(),
            count => format!("; {count} workers have not answered"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_answer_is_not_waited_for_longer_than_the_first_question_says() {
        let (mut stats, now) = (Stats::default(), Instant::now());
        stats.ask([1, 2].into_iter(), now);
        stats.heard(1);
        assert_eq!(stats.answer(now), None);
        stats.ask([1, 2].into_iter(), now + PATIENCE / 2);
        assert_eq!(stats.answer(now + PATIENCE / 2), None);
        stats.heard(1);
        let answer = stats.answer(stats.due().unwrap());
        assert_eq!(answer.as_deref(), Some("; 1 worker has not answered"));
        stats.ask([2].into_iter(), now);
        stats.lost(2, None);
        assert_eq!(stats.answer(now).as_deref(), Some(""));
        assert_eq!(stats.answer(now), None);
    }
}
