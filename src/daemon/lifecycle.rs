//! How far a worker is in its life.

use crate::sys::clock::Tick;

/// Ticks for which a worker that stops still accepts: clients that were redirected before the jumps were deleted.
const LAST_CALL: Tick = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lifecycle {
    Serving,
    /// Accepts until the first time, then drains until the second one; `None` is until the last connection ends.
    LastCall(Tick, Option<Tick>),
    /// Accepts nothing more; resets what is left at this time.
    Draining(Option<Tick>),
}

impl Lifecycle {
    /// One that begins to drain now, for so many ticks.
    pub(crate) fn leaving(now: Tick, drain: Option<Tick>) -> Lifecycle {
        let last_call = now.saturating_add(LAST_CALL);
        Lifecycle::LastCall(last_call, drain.map(|drain| last_call.saturating_add(drain)))
    }

    /// When its next step is due.
    pub(crate) fn due(self) -> Option<Tick> {
        match self {
            Lifecycle::Serving => None,
            Lifecycle::LastCall(until, _) => Some(until),
            Lifecycle::Draining(until) => until,
        }
    }
}
