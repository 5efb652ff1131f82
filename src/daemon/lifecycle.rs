//! How far a worker is in its life.

use crate::relay::close::CloseReason;
use crate::sys::clock::Tick;

/// Ticks for which a worker that drains still accepts: clients that were redirected before the jumps were deleted.
const LAST_CALL: Tick = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lifecycle {
    Serving,
    /// Accepts until this time, and drains then.
    LastCall(Tick, Drain),
    /// Accepts nothing more.
    Draining(Drain),
}

/// How a worker drains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Drain {
    /// What is left then is reset; `None` is never.
    until: Option<Tick>,
    /// Another worker has taken over. Otherwise this one has been told to stop.
    retired: bool,
}

impl Lifecycle {
    /// Of a worker that serves what it has, and then ends.
    pub(crate) fn last_connections() -> Lifecycle {
        Lifecycle::Draining(Drain { until: None, retired: false })
    }

    /// Drains from now on because it is to stop: at most for so many ticks, and not longer than it would have anyway.
    pub(crate) fn stop(&mut self, now: Tick, ticks: Tick) {
        let before = self.drain().and_then(|drain| drain.until);
        let until = now.saturating_add(LAST_CALL).saturating_add(ticks);
        let until = Some(before.map_or(until, |before| before.min(until)));
        *self = Lifecycle::LastCall(now.saturating_add(LAST_CALL), Drain { until, retired: false });
    }

    /// Drains from now on because another worker has taken over.
    pub(crate) fn retire(&mut self, now: Tick, ticks: Option<Tick>) {
        let last_call = now.saturating_add(LAST_CALL);
        let until = ticks.map(|ticks| last_call.saturating_add(ticks));
        *self = Lifecycle::LastCall(last_call, Drain { until, retired: true });
    }

    /// Accepts nothing more, and what is left is reset.
    pub(crate) fn end(&mut self, now: Tick) {
        let retired = self.drain().is_some_and(|drain| drain.retired);
        *self = Lifecycle::Draining(Drain { until: Some(now), retired });
    }

    /// Whether the worker accepts no longer, as of now.
    pub(crate) fn stops_accepting(&mut self, now: Tick) -> bool {
        match *self {
            Lifecycle::LastCall(until, drain) if until <= now => {
                *self = Lifecycle::Draining(drain);
                true
            }
            _ => false,
        }
    }

    fn drain(self) -> Option<Drain> {
        match self {
            Lifecycle::Serving => None,
            Lifecycle::LastCall(_, drain) | Lifecycle::Draining(drain) => Some(drain),
        }
    }

    /// The worker has been told to stop.
    pub(crate) fn is_stopping(self) -> bool {
        self.drain().is_some_and(|drain| drain.until.is_some() && !drain.retired)
    }

    /// The time of the connections that are left is over.
    pub(crate) fn is_over(self, now: Tick) -> bool {
        matches!(self, Lifecycle::Draining(Drain { until: Some(until), .. }) if until <= now)
    }

    /// Why those are closed that are left.
    pub(crate) fn close_reason(self) -> CloseReason {
        let retired = self.drain().is_some_and(|drain| drain.retired);
        if retired { CloseReason::Retired } else { CloseReason::Stopped }
    }

    /// When its next step is due.
    pub(crate) fn due(self) -> Option<Tick> {
        match self {
            Lifecycle::Serving => None,
            Lifecycle::LastCall(until, _) => Some(until),
            Lifecycle::Draining(drain) => drain.until,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(lifecycle: Lifecycle) -> String {
        lifecycle.close_reason().to_string()
    }

    #[test]
    fn a_retired_worker_drains_until_its_time_is_over() {
        let mut lifecycle = Lifecycle::Serving;
        lifecycle.retire(100, Some(50));
        assert_eq!((lifecycle.due(), lifecycle.is_stopping()), (Some(100 + LAST_CALL), false));
        assert!(!lifecycle.stops_accepting(101) && lifecycle.stops_accepting(102) && !lifecycle.stops_accepting(103));
        assert_eq!((lifecycle.due(), text(lifecycle).as_str()), (Some(152), "retired"));
        assert!(!lifecycle.is_over(151) && lifecycle.is_over(152));
        lifecycle.retire(0, None);
        assert!(lifecycle.stops_accepting(102) && lifecycle.due().is_none() && !lifecycle.is_over(Tick::MAX));
    }

    #[test]
    fn a_stop_makes_the_time_shorter_and_never_longer() {
        for (retired, drain, wanted) in [(Some(50), 500, 152), (Some(500), 50, 162), (None, 50, 162)] {
            let mut lifecycle = Lifecycle::Serving;
            lifecycle.retire(100, retired);
            lifecycle.stop(110, drain);
            assert!(lifecycle.is_stopping() && lifecycle.stops_accepting(112));
            assert_eq!((lifecycle.due(), text(lifecycle).as_str()), (Some(wanted), "stopped"));
        }
    }

    #[test]
    fn what_is_ended_at_once_keeps_its_reason() {
        let mut lifecycle = Lifecycle::Serving;
        lifecycle.retire(100, None);
        lifecycle.end(105);
        assert_eq!((lifecycle.is_over(105), text(lifecycle).as_str()), (true, "retired"));
        let mut lifecycle = Lifecycle::last_connections();
        assert!(!lifecycle.is_stopping() && !lifecycle.is_over(Tick::MAX));
        lifecycle.end(105);
        assert_eq!((lifecycle.is_over(105), text(lifecycle).as_str()), (true, "stopped"));
    }
}
