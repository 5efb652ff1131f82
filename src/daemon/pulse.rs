//! Whether a worker answers.

use std::time::{Duration, Instant};

/// A worker that has not answered for so long, and so many questions, is replaced. Both, because the guardian may have
/// been stopped together with it (cgroup freezer, a paused virtual machine): then it has not had its chance to answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
const QUESTIONS: u32 = 4;

/// What a worker has left unanswered.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    unanswered: u32,
    since: Option<Instant>,
}

impl Pulse {
    pub(crate) fn answered(&mut self) {
        *self = Pulse::default();
    }

    pub(crate) fn asked(&mut self, now: Instant) {
        self.unanswered = self.unanswered.saturating_add(1);
        self.since.get_or_insert(now);
    }

    /// The last question has no answer yet.
    pub(crate) fn is_late(&self) -> bool {
        self.unanswered > 0
    }

    pub(crate) fn has_stopped(&self, now: Instant) -> bool {
        self.unanswered >= QUESTIONS && self.since.is_some_and(|since| now.duration_since(since) >= PATIENCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_needs_both_time_and_questions() {
        let (begin, second) = (Instant::now(), Duration::from_secs(1));
        let mut pulse = Pulse::default();
        assert!(!pulse.has_stopped(begin) && !pulse.is_late());
        (0..3).for_each(|at| pulse.asked(begin + at * second));
        assert!(pulse.is_late() && !pulse.has_stopped(begin + 100 * second), "three questions are not enough");
        pulse.asked(begin + 3 * second);
        assert!(!pulse.has_stopped(begin + 19 * second));
        assert!(pulse.has_stopped(begin + 20 * second));
        pulse.answered();
        assert!(!pulse.has_stopped(begin + 100 * second) && !pulse.is_late());
    }
}
