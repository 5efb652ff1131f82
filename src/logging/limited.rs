//! Lets a message that repeats through only once in a while.

use std::fmt;
use std::time::{Duration, Instant};

/// The least time between two messages of a kind.
const INTERVAL: Duration = Duration::from_secs(10);

/// Decides for one kind of message.
#[derive(Debug, Default)]
pub(crate) struct Limiter {
    next: Option<Instant>,
    held_back: u64,
}

impl Limiter {
    pub(crate) const fn new() -> Limiter {
        Limiter { next: None, held_back: 0 }
    }

    /// Whether to log the message now; if so, with the number of those that were held back before it.
    pub(crate) fn pass(&mut self) -> Option<HeldBack> {
        let now = Instant::now();
        if self.next.is_some_and(|next| now < next) {
            self.held_back += 1;
            return None;
        }
        self.next = Some(now + INTERVAL);
        Some(HeldBack(std::mem::take(&mut self.held_back)))
    }
}

/// How many messages were held back. Shown behind the message, and only if there were any.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeldBack(u64);

impl fmt::Display for HeldBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 { Ok(()) } else { write!(f, " (and {} more like this)", self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limiter_passes_one_message_and_counts_the_rest() {
        let mut limiter = Limiter::new();
        assert_eq!(limiter.pass().map(|more| more.to_string()), Some(String::new()));
        assert!(limiter.pass().is_none());
        assert!(limiter.pass().is_none());
        limiter.next = Some(Instant::now());
        assert_eq!(limiter.pass().map(|more| more.to_string()), Some(" (and 2 more like this)".into()));
    }
}
