//! The time of a worker that drains. It knows its time itself; the guardian makes sure that it ends, also if it hangs, or
//! if a later configuration gives it less time (`--retire-timeout`).

use std::time::{Duration, Instant};

/// How much longer than its time a worker may take until it is told to end.
const SLACK: Duration = Duration::from_secs(1);

/// How long a worker that was told to end may take until it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// Since when a worker drains, and what was done about it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Retirement {
    since: Instant,
    told: Option<Instant>,
    killed: bool,
}

/// What is to be done about a worker whose time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overdue {
    /// Tell it to reset what it has.
    Tell,
    Kill,
}

impl Retirement {
    pub(crate) fn begin(now: Instant) -> Retirement {
        Retirement { since: now, told: None, killed: false }
    }

    /// When something is to be done. `limit` is the time that it has; `None` is for ever.
    pub(crate) fn due(&self, limit: Option<Duration>) -> Option<Instant> {
        match self.told {
            _ if self.killed => None,
            Some(told) => Some(told + GRACE),
            None => limit.map(|limit| self.since + limit + SLACK),
        }
    }

    /// What is to be done now, once.
    pub(crate) fn overdue(&mut self, limit: Option<Duration>, now: Instant) -> Option<Overdue> {
        if self.due(limit).is_none_or(|due| now < due) {
            return None;
        }
        if self.told.is_none() {
            self.told = Some(now);
            return Some(Overdue::Tell);
        }
        self.killed = true;
        Some(Overdue::Kill)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_told_and_then_killed_each_once() {
        let (begin, second) = (Instant::now(), Duration::from_secs(1));
        let limit = Some(10 * second);
        let mut retirement = Retirement::begin(begin);
        assert_eq!((retirement.due(None), retirement.due(limit)), (None, Some(begin + 11 * second)));
        let after: Vec<Option<Overdue>> = (0..30).map(|at| retirement.overdue(limit, begin + at * second)).collect();
        let acted: Vec<usize> = (0..30).filter(|at| after[*at].is_some()).collect();
        assert_eq!((acted, after[11], after[16]), (vec![11, 16], Some(Overdue::Tell), Some(Overdue::Kill)));
        assert_eq!(retirement.due(limit), None);
    }

    #[test]
    fn a_shorter_time_counts_at_once() {
        let begin = Instant::now();
        let mut retirement = Retirement::begin(begin);
        let now = begin + Duration::from_secs(60);
        assert_eq!(retirement.overdue(Some(Duration::from_secs(86_400)), now), None);
        assert_eq!(retirement.overdue(Some(Duration::from_secs(1)), now), Some(Overdue::Tell));
    }
}
