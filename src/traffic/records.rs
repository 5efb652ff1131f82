//! The log line and the counters of a connection that is closed.

use std::fmt;

use crate::logging::Limiter;
use crate::relay::close::CloseReason;
use crate::traffic::access_log::{AccessLog, LogRecord};
use crate::traffic::counters::Counters;
use crate::traffic::dialer::Departure;
use crate::traffic::session::{Route, Session};

/// The access log and the counters of a worker.
#[derive(Debug)]
pub(crate) struct Records {
    pub access_log: AccessLog,
    pub counters: Counters,
    connect_failures: Limiter,
}

impl Records {
    pub(crate) fn new(access_log: AccessLog) -> Records {
        Records { access_log, counters: Counters::default(), connect_failures: Limiter::new() }
    }

    /// Records the close of a connection that lasted so many milliseconds.
    pub(crate) fn closed(&mut self, session: &Session, moved: (u64, u64), lasted: u64, reason: &CloseReason) {
        let counters = &mut self.counters;
        counters.up += moved.0;
        counters.down += moved.1;
        *match reason {
            CloseReason::Finished => &mut counters.finished,
            CloseReason::Reset(_) => &mut counters.reset,
            CloseReason::Idle | CloseReason::HalfClosed | CloseReason::HandshakeTimeout => &mut counters.timed_out,
            CloseReason::ConnectFailed(_) => &mut counters.unreachable,
            CloseReason::Resources(_) => &mut counters.no_resources,
            CloseReason::Denied
            | CloseReason::Loop
            | CloseReason::SourceLimit
            | CloseReason::NotRedirected
            | CloseReason::Forbidden(_)
            | CloseReason::BadSource(_)
            | CloseReason::ProxyRefused(_)
            | CloseReason::BadProxyHeader(_)
            | CloseReason::BadRequest(_) => &mut counters.refused,
            CloseReason::Stopped | CloseReason::Retired => &mut counters.stopped,
        } += 1;
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
            Departure::OtherPort => self.counters.other_port += 1,
            Departure::OwnAddress => self.counters.own_source += 1,
        }
    }

    /// Writes the line of an open connection to the log.
    pub(crate) fn show(session: &Session, moved: (u64, u64), lasted: u64, state: &dyn fmt::Display) {
        log::info!("{}", LogRecord { session, moved, lasted, reason: state });
    }
}
