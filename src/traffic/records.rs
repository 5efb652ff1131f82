//! The log line and the counters of a connection that is closed.

use std::fmt;
use std::rc::Rc;

use crate::logging::Limiter;
use crate::relay::close::CloseReason;
use crate::traffic::access_log::{AccessLog, LogRecord};
use crate::traffic::dialer::Departure;
use crate::traffic::session::{Route, Session};
use crate::traffic::shared_counters::{WorkerCounters, WorkerWord};

/// The access log and the counters of a worker.
#[derive(Debug)]
pub(crate) struct Records {
    pub access_log: AccessLog,
    pub counters: Rc<WorkerCounters>,
    connect_failures: Limiter,
}

impl Records {
    pub(crate) fn new(access_log: AccessLog, counters: Rc<WorkerCounters>) -> Records {
        Records { access_log, counters, connect_failures: Limiter::new() }
    }

    /// Records the close of a connection that lasted so many milliseconds.
    pub(crate) fn closed(&mut self, session: &Session, moved: (u64, u64), lasted: u64, reason: &CloseReason) {
        self.counters.closed(session.redirection, reason.kind(), moved);
        self.access_log.write(&LogRecord { session, moved, lasted, reason });
        if let CloseReason::ConnectFailed(error) = reason
            && let Some(more) = self.connect_failures.pass()
        {
            let Route { client, upstream, .. } = &session.route;
            log::warn!("cannot reach the upstream {upstream} for {client}: {error}{more}");
        }
    }

    /// Counts a connection that has left from elsewhere than wanted.
    pub(crate) fn count_departure(&mut self, departure: Departure) {
        match departure {
            Departure::AsWanted => {}
            Departure::OtherPort => self.counters.count(WorkerWord::OtherPort),
            Departure::OwnAddress => self.counters.count(WorkerWord::OwnAddress),
        }
    }

    /// Writes the line of an open connection to the log.
    pub(crate) fn show(session: &Session, moved: (u64, u64), lasted: u64, state: &dyn fmt::Display) {
        log::info!("{}", LogRecord { session, moved, lasted, reason: state });
    }
}
