//! What the guardian keeps of each worker that it has started.

use std::time::SystemTime;

use crate::traffic::shared_counters::WorkerCounters;

/// A worker, as the guardian knows it.
#[derive(Debug)]
pub(crate) struct WorkerRecord {
    /// Its number, from 1.
    pub number: u32,
    /// The slot that it has or had.
    pub slot: usize,
    /// Seconds since 1970.
    pub started: u64,
    /// How many connections it may have.
    pub places: usize,
    pub counters: WorkerCounters,
}

/// The time now, in seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
