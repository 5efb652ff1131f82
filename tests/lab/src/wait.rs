//! Waiting by polling, with a deadline and the name of what was waited for.

use std::time::{Duration, Instant};

/// Long enough for anything that is going to happen at all, on a busy two-core machine.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// Polls `probe` until it gives a value; panics with `what` after `patience`.
pub fn until_within<T>(patience: Duration, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    match try_until(patience, &mut probe) {
        Some(value) => value,
        None => panic!("waited {patience:?} in vain: {what}"),
    }
}

/// [`until_within`] with the usual patience.
pub fn until<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    until_within(PATIENCE, what, probe)
}

/// Waits until `probe` is true.
pub fn until_true(what: &str, mut probe: impl FnMut() -> bool) {
    until(what, || probe().then_some(()));
}

/// Polls `probe` until it gives a value or the time is over.
pub fn try_until<T>(patience: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + patience;
    let mut gap = Duration::from_millis(1);
    loop {
        if let Some(value) = probe() {
            return Some(value);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(gap);
        gap = (gap * 2).min(Duration::from_millis(20));
    }
}

/// Watches for the whole of `span` that `probe` stays true; for claims that something does NOT happen.
pub fn holds_for(span: Duration, what: &str, mut probe: impl FnMut() -> bool) {
    let end = Instant::now() + span;
    while Instant::now() < end {
        assert!(probe(), "did not hold for {span:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
