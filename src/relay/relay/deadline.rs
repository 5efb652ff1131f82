//! How long a relay may stay as it is.

use std::io;

use super::{Phase, Progress, Relay};
use crate::relay::close::CloseReason;
use crate::relay::io::Io;
use crate::relay::timeouts::Timeouts;
use crate::sys::clock::Tick;

/// Ticks for which the acknowledgement of the last bytes before a reset is awaited.
const FLUSH_AT_MOST: Tick = 300;

impl<I: Io> Relay<I> {
    /// When to look at this relay again if nothing happens before.
    pub fn due(&self, timeouts: &Timeouts) -> Option<Tick> {
        let wait = match self.phase {
            Phase::Connecting => Some(timeouts.connect),
            Phase::Handshake => Some(timeouts.handshake),
            Phase::Flowing if self.is_reading() => Some(timeouts.handshake),
            Phase::Flowing if self.is_half_closed() => timeouts.fin,
            Phase::Flowing => timeouts.idle,
            Phase::Failed(_) => Some(timeouts.fin.unwrap_or(FLUSH_AT_MOST)),
            // No event tells that the last byte was acknowledged.
            Phase::Flushing(_) | Phase::BothFailed(_) => Some(1),
        };
        wait.map(|wait| self.touched.saturating_add(wait))
    }

    /// Which of the timeouts counts now; when it changes, the deadline has to be set anew.
    pub fn due_class(&self) -> u8 {
        match self.phase {
            Phase::Connecting => 0,
            Phase::Handshake => 1,
            Phase::Flowing if self.is_reading() => 2,
            Phase::Flowing if self.is_half_closed() => 3,
            Phase::Flowing => 4,
            Phase::Failed(_) => 5,
            Phase::Flushing(_) | Phase::BothFailed(_) => 6,
        }
    }

    fn is_half_closed(&self) -> bool {
        self.up.is_closed() || self.down.is_closed()
    }

    /// The deadline has come. `Progress::Waiting` when the relay has moved on since it was set.
    pub fn expire(&mut self, timeouts: &Timeouts, now: Tick) -> Progress {
        match self.due(timeouts) {
            Some(due) if due <= now => {}
            _ => return Progress::Waiting,
        }
        match self.phase {
            Phase::Connecting => Progress::Done(CloseReason::ConnectFailed(io::ErrorKind::TimedOut.into())),
            Phase::Handshake => Progress::Done(CloseReason::HandshakeTimeout),
            Phase::Flowing if self.is_reading() => Progress::Done(CloseReason::HandshakeTimeout),
            Phase::Flowing if self.is_half_closed() => Progress::Done(CloseReason::HalfClosed),
            Phase::Flowing => Progress::Done(CloseReason::Idle),
            Phase::Failed(by) | Phase::BothFailed(by) => Progress::Done(self.reset_reason(by)),
            Phase::Flushing(by) => match self.flush(by) {
                Progress::Waiting if self.flushing_ends(timeouts) <= now => Progress::Done(self.reset_reason(by)),
                step => step,
            },
        }
    }

    fn flushing_ends(&self, timeouts: &Timeouts) -> Tick {
        let wait = timeouts.fin.map_or(FLUSH_AT_MOST, |fin| fin.min(FLUSH_AT_MOST));
        self.touched.saturating_add(wait)
    }
}
