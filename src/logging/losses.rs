//! Lines that a sink did not take: they are counted, and the count is told when it takes lines again.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

/// The lines that this process has lost, told or not.
static LOST: AtomicU64 = AtomicU64::new(0);

/// How many lines this process has lost so far.
pub(crate) fn lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// The lines that one sink has lost.
#[derive(Debug, Default)]
pub(super) struct Losses {
    count: u64,
    /// The sink was full: whoever reads it may make room at any time.
    full: bool,
}

impl Losses {
    /// A line could not be written.
    pub(super) fn add(&mut self, full: bool) {
        LOST.fetch_add(1, Ordering::Relaxed);
        self.count += 1;
        self.full = full;
    }

    /// So many lines that another process has lost are to be told with these.
    pub(super) fn take_over(&mut self, count: u64) {
        self.count = self.count.saturating_add(count);
        self.full = true;
    }

    /// How many there are to tell, which another process does from now on.
    pub(super) fn hand_over(&mut self) -> u64 {
        std::mem::take(&mut self.count)
    }

    /// There is something to tell.
    pub(super) fn any(&self) -> bool {
        self.count > 0
    }

    /// Telling it may work a little later, without another line.
    pub(super) fn can_be_told_soon(&self) -> bool {
        self.count > 0 && self.full
    }

    /// It has been told.
    pub(super) fn told(&mut self) {
        self.count = 0;
    }
}

impl fmt::Display for Losses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count {
            1 => f.write_str("1 log line was lost"),
            count => write!(f, "{count} log lines were lost"),
        }
    }
}

/// Whether an error says that a sink is full, and not that it is broken.
pub(super) fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}
