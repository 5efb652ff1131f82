//! When a dead worker is replaced: at once, unless workers die too fast.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// So many deaths within [`WITHIN`] mean that no worker can be kept alive.
const DEATHS: usize = 10;

const WITHIN: Duration = Duration::from_secs(10);

/// A worker that lives this long shows that workers can be kept alive again.
const ALIVE: Duration = Duration::from_secs(5);

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What to do after a death.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Start another one now.
    AtOnce,
    /// No worker can be kept alive: close the redirections, and try again after the pause.
    GiveUp,
    /// Still no worker can be kept alive: try again after the pause.
    Later,
}

/// The recent deaths.
#[derive(Debug)]
pub(crate) struct Respawn {
    deaths: VecDeque<Instant>,
    given_up: bool,
    pause: Duration,
    /// When to start another worker, or when the last one counts as alive.
    pub next: Option<Instant>,
}

impl Respawn {
    /// No deaths yet.
    pub(crate) fn new() -> Respawn {
        Respawn { deaths: VecDeque::with_capacity(DEATHS), given_up: false, pause: FIRST_PAUSE, next: None }
    }

    /// A worker died at `now`.
    pub(crate) fn death(&mut self, now: Instant) -> Verdict {
        if self.given_up {
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            self.next = Some(now + self.pause);
            return Verdict::Later;
        }
        self.deaths.push_back(now);
        while self.deaths.front().is_some_and(|death| now.duration_since(*death) > WITHIN) {
            self.deaths.pop_front();
        }
        if self.deaths.len() < DEATHS {
            return Verdict::AtOnce;
        }
        self.deaths.clear();
        (self.given_up, self.pause) = (true, FIRST_PAUSE);
        self.next = Some(now + self.pause);
        Verdict::GiveUp
    }

    /// Whether workers cannot be kept alive.
    pub(crate) fn has_given_up(&self) -> bool {
        self.given_up
    }

    /// A worker was started at `now`.
    pub(crate) fn started(&mut self, now: Instant) {
        self.next = self.given_up.then_some(now + ALIVE);
    }

    /// The last worker has lived long enough. Returns whether workers had been given up before.
    pub(crate) fn survived(&mut self) -> bool {
        self.next = None;
        std::mem::take(&mut self.given_up)
    }
}

impl Default for Respawn {
    fn default() -> Respawn {
        Respawn::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deaths_now_and_then_are_replaced_at_once() {
        let mut respawn = Respawn::new();
        let start = Instant::now();
        for second in 0..100 {
            assert_eq!(respawn.death(start + Duration::from_secs(2 * second)), Verdict::AtOnce);
        }
    }

    #[test]
    fn a_series_of_deaths_is_given_up_until_one_survives() {
        let mut respawn = Respawn::new();
        let now = Instant::now();
        for _ in 1..DEATHS {
            assert_eq!(respawn.death(now), Verdict::AtOnce);
        }
        assert_eq!(respawn.death(now), Verdict::GiveUp);
        assert_eq!(respawn.next, Some(now + FIRST_PAUSE));
        respawn.started(now);
        assert_eq!(respawn.death(now), Verdict::Later);
        assert_eq!(respawn.next, Some(now + 2 * FIRST_PAUSE));
        respawn.started(now);
        assert!(respawn.survived());
        assert!(!respawn.survived());
        assert_eq!(respawn.death(now), Verdict::AtOnce);
    }
}
