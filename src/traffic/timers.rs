//! When to look at a connection again: a timer wheel without a timer per event.
//!
//! A connection that is busy does not touch its entry. When the entry comes due, the owner compares with the time of
//! the last byte and enters the connection anew if it is still alive. So a byte costs nothing, and a connection that
//! ends early leaves no entry behind.

use crate::sys::clock::Tick;

const BUCKETS: usize = 1024;
const NONE: u32 = u32::MAX;

/// The wheel. An entry is named by the slot of its connection; each slot has at most one entry.
#[derive(Debug)]
pub(crate) struct Deadlines {
    entries: Vec<Entry>,
    buckets: Box<[u32; BUCKETS]>,
    filled: [u64; BUCKETS / 64],
    /// All ticks before this one have been looked at.
    now: Tick,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    due: Tick,
    previous: u32,
    next: u32,
}

const VACANT: Entry = Entry { due: Tick::MAX, previous: NONE, next: NONE };

fn bucket(tick: Tick) -> usize {
    tick as usize % BUCKETS
}

impl Deadlines {
    /// For slots below `capacity`; the memory is touched only as far as slots are used.
    pub(crate) fn with_capacity(capacity: usize) -> Deadlines {
        Deadlines {
            entries: Vec::with_capacity(capacity),
            buckets: Box::new([NONE; BUCKETS]),
            filled: [0; BUCKETS / 64],
            now: 0,
        }
    }

    /// Enters `slot` for `due`, in place of what it had. A time in the past is taken as the next tick.
    pub(crate) fn set(&mut self, slot: u32, due: Tick) {
        self.cancel(slot);
        if self.entries.len() <= slot as usize {
            self.entries.resize(slot as usize + 1, VACANT);
        }
        let due = due.max(self.now).min(Tick::MAX - 1);
        let at = bucket(due);
        let next = self.buckets[at];
        self.entries[slot as usize] = Entry { due, previous: NONE, next };
        if next != NONE {
            self.entries[next as usize].previous = slot;
        }
        self.buckets[at] = slot;
        self.filled[at / 64] |= 1 << (at % 64);
    }

    /// Forgets the entry of `slot`, if it has one.
    pub(crate) fn cancel(&mut self, slot: u32) {
        let Some(&Entry { due, previous, next }) = self.entries.get(slot as usize) else { return };
        if due == Tick::MAX {
            return;
        }
        if next != NONE {
            self.entries[next as usize].previous = previous;
        }
        if previous != NONE {
            self.entries[previous as usize].next = next;
        } else {
            let at = bucket(due);
            self.buckets[at] = next;
            if next == NONE {
                self.filled[at / 64] &= !(1 << (at % 64));
            }
        }
        self.entries[slot as usize] = VACANT;
    }

    /// Takes out one slot that is due at `now`. Call it until it says `None`.
    pub(crate) fn expire(&mut self, now: Tick) -> Option<u32> {
        // A clock that was stopped for long is caught up with in one round of the wheel.
        if now.saturating_sub(self.now) as usize > BUCKETS {
            self.now = now - BUCKETS as Tick;
        }
        loop {
            let mut slot = self.buckets[bucket(self.now)];
            while slot != NONE {
                let entry = self.entries[slot as usize];
                if entry.due <= now {
                    self.cancel(slot);
                    return Some(slot);
                }
                slot = entry.next;
            }
            if self.now >= now {
                return None;
            }
            self.now += 1;
        }
    }

    /// How many ticks after `now` [`Deadlines::expire`] has to be called again; `None` when there is no entry. It may be
    /// early by whole rounds of the wheel, never late.
    pub(crate) fn wait(&self, now: Tick) -> Option<Tick> {
        let first = bucket(now);
        (0..=BUCKETS / 64).find_map(|step| {
            let word = (first / 64 + step) % self.filled.len();
            let mut bits = self.filled[word];
            if step == 0 {
                bits &= !0 << (first % 64);
            }
            if step == BUCKETS / 64 {
                bits &= !(!0 << (first % 64));
            }
            (bits != 0).then(|| {
                let at = word * 64 + bits.trailing_zeros() as usize;
                ((at + BUCKETS - first) % BUCKETS) as Tick
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expired(deadlines: &mut Deadlines, now: Tick) -> Vec<u32> {
        let mut slots: Vec<u32> = std::iter::from_fn(|| deadlines.expire(now)).collect();
        slots.sort_unstable();
        slots
    }

    #[test]
    fn entries_come_due_at_their_tick_and_once() {
        let mut deadlines = Deadlines::with_capacity(8);
        deadlines.set(3, 5);
        deadlines.set(1, 5);
        deadlines.set(2, 7);
        assert_eq!(deadlines.wait(0), Some(5));
        assert_eq!(expired(&mut deadlines, 4), []);
        assert_eq!(expired(&mut deadlines, 6), [1, 3]);
        assert_eq!(expired(&mut deadlines, 7), [2]);
        assert_eq!(deadlines.wait(7), None);
    }

    #[test]
    fn an_entry_beyond_one_round_waits_for_its_own_round() {
        let mut deadlines = Deadlines::with_capacity(1);
        let due = 3 * BUCKETS as Tick + 9;
        deadlines.set(0, due);
        for now in 0..due {
            assert_eq!(deadlines.expire(now), None);
        }
        assert_eq!(deadlines.expire(due), Some(0));
    }

    #[test]
    fn setting_again_replaces_and_cancelling_forgets() {
        let mut deadlines = Deadlines::with_capacity(4);
        deadlines.set(0, 2);
        deadlines.set(0, 9);
        deadlines.set(1, 2);
        deadlines.cancel(1);
        deadlines.cancel(3);
        assert_eq!(expired(&mut deadlines, 8), []);
        assert_eq!(expired(&mut deadlines, 9), [0]);
    }

    #[test]
    fn a_long_pause_loses_no_entry() {
        let mut deadlines = Deadlines::with_capacity(2);
        deadlines.set(0, 10);
        deadlines.set(1, 900);
        assert_eq!(expired(&mut deadlines, 1_000_000), [0, 1]);
    }

    #[test]
    fn waiting_is_never_late() {
        for start in [0, 1, 63, 64, 1000, 1023, 1024, 5000] {
            for distance in [0, 1, 62, 63, 64, 65, 959, 1022, 1023] {
                let mut deadlines = Deadlines::with_capacity(1);
                assert_eq!(deadlines.expire(start), None);
                deadlines.set(0, start + distance);
                assert_eq!(deadlines.wait(start), Some(distance), "from {start} by {distance}");
            }
        }
    }
}
