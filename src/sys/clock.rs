//! The time that deadlines are counted in.

use std::time::Duration;

/// Time in tenths of a second since the worker started.
pub type Tick = u32;

/// Length of a [`Tick`].
pub(crate) const TICK: Duration = Duration::from_millis(100);

/// Turns a duration into ticks, rounded up.
pub(crate) fn ticks(duration: Duration) -> Tick {
    let ticks = duration.as_millis().div_ceil(TICK.as_millis());
    Tick::try_from(ticks).unwrap_or(Tick::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_rounded_up() {
        assert_eq!(ticks(Duration::from_millis(1)), 1);
        assert_eq!(ticks(Duration::from_secs(2)), 20);
    }
}
