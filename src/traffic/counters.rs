//! The counters of a worker.

use std::fmt;
use std::ops::AddAssign;

pub const COUNT: usize = 15;

/// What happened so far, and how much is held now.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// Connections that were accepted.
    pub accepted: u64,
    /// Those that ended on both sides.
    pub finished: u64,
    /// Those that one side reset.
    pub reset: u64,
    /// Those on which too little happened for too long.
    pub timed_out: u64,
    /// Those for which no upstream could be reached.
    pub unreachable: u64,
    /// Those that were not admitted, or that a proxy refused.
    pub refused: u64,
    /// Those that this host was short of something for.
    pub no_resources: u64,
    /// Those that were cut at a stop.
    pub stopped: u64,
    /// Bytes that reached an upstream.
    pub up: u64,
    /// Bytes that reached a client.
    pub down: u64,
    /// How often accepting had to pause.
    pub pauses: u64,
    /// Those that left from our own address instead of the client's.
    pub own_source: u64,
    /// Those that left from another port than the client's, where that was wanted.
    pub other_port: u64,
    /// Connections now.
    pub open: u64,
    /// Pipes that hold bytes now.
    pub pipes: u64,
}

impl Counters {
    /// All numbers, in the order of the fields.
    pub fn numbers(mut self) -> [u64; COUNT] {
        self.fields().map(|number| *number)
    }

    /// From the numbers, in the order of the fields.
    pub fn from_numbers(numbers: [u64; COUNT]) -> Counters {
        let mut counters = Counters::default();
        for (field, number) in counters.fields().into_iter().zip(numbers) {
            *field = number;
        }
        counters
    }

    /// All fields, in their order. A field that is not named here does not compile.
    fn fields(&mut self) -> [&mut u64; COUNT] {
        let Counters {
            accepted,
            finished,
            reset,
            timed_out,
            unreachable,
            refused,
            no_resources,
            stopped,
            up,
            down,
            pauses,
            own_source,
            other_port,
            open,
            pipes,
        } = self;
        [
            accepted,
            finished,
            reset,
            timed_out,
            unreachable,
            refused,
            no_resources,
            stopped,
            up,
            down,
            pauses,
            own_source,
            other_port,
            open,
            pipes,
        ]
    }

    /// What remains of them when the worker has ended.
    pub fn of_the_past(self) -> Counters {
        Counters { open: 0, pipes: 0, ..self }
    }
}

impl AddAssign for Counters {
    fn add_assign(&mut self, other: Counters) {
        for (sum, number) in self.fields().into_iter().zip(other.numbers()) {
            // What a worker says of itself may be anything.
            *sum = sum.saturating_add(number);
        }
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counters { accepted, finished, reset, timed_out, unreachable, refused, no_resources, stopped, .. } = self;
        let Counters { up, down, pauses, own_source, other_port, open, pipes, .. } = self;
        write!(
            f,
            "{accepted} accepted, {open} open, {finished} finished, {reset} reset, {timed_out} timed out, \
             {unreachable} unreachable, {refused} refused, {no_resources} without resources, {stopped} stopped; {up} bytes up, {down} bytes down; \
             {pipes} pipes lent; {pauses} pauses; \
             {own_source} from our own address, {other_port} from another port"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_keeps_its_place_and_sums_do_not_overflow() {
        let numbers: [u64; COUNT] = std::array::from_fn(|place| place as u64 + 1);
        let mut counters = Counters::from_numbers(numbers);
        assert_eq!(counters.numbers(), numbers);
        assert_eq!(
            counters.to_string(),
            "1 accepted, 14 open, 2 finished, 3 reset, 4 timed out, 5 unreachable, 6 refused, 7 without resources, \
             8 stopped; 9 bytes up, 10 bytes down; 15 pipes lent; 11 pauses; \
             12 from our own address, 13 from another port"
        );
        counters += counters;
        assert_eq!(counters.numbers(), numbers.map(|number| 2 * number));
        counters += Counters::from_numbers([u64::MAX; COUNT]);
        assert_eq!(counters.numbers(), [u64::MAX; COUNT]);
        assert_eq!((counters.of_the_past().open, counters.of_the_past().accepted), (0, u64::MAX));
    }
}
