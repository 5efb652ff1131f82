//! How a worker ends: it drains because it is to stop or another one takes over, or resets what it has.

use std::io;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::Worker;
use crate::daemon::lifecycle::Lifecycle;
use crate::daemon::message::ToGuardian;
use crate::logging;
use crate::sys::clock::ticks;
use crate::sys::process;
use crate::traffic::access_log;

impl Worker<'_> {
    pub(super) fn take_signals(&mut self) -> io::Result<()> {
        while let Some(signal) = process::next_signal(&self.signals)? {
            match signal {
                Signal::SIGTERM | Signal::SIGINT => self.stop(),
                Signal::SIGHUP | Signal::SIGURG if self.alone => self.reopen(),
                Signal::SIGHUP => self.retire(),
                Signal::SIGUSR1 => {
                    self.tell_counters();
                    self.dump_from = Some(0);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The first call begins to drain, the second one resets all connections.
    pub(super) fn stop(&mut self) {
        if self.lifecycle.is_stopping() {
            return self.reset_all();
        }
        self.stop_within(self.config.process.drain);
    }

    /// Begins to drain, for so long.
    pub(super) fn stop_within(&mut self, drain: Duration) {
        let now = self.connections.time();
        let (seconds, open) = (drain.as_secs(), self.connections.len());
        log::info!("stopping: {open} connections have {seconds} seconds to end");
        self.leave();
        self.lifecycle.stop(now, ticks(drain));
    }

    /// Tells the guardian that another worker must take the slot.
    pub(super) fn leave(&mut self) {
        self.connections.dialer().admission.stop_counting();
        self.say(ToGuardian::Leaving);
    }

    pub(super) fn reset_all(&mut self) {
        if !self.connections.is_empty() {
            log::info!("stopping at once, {} connections are reset", self.connections.len());
        }
        self.acceptor.close();
        self.lifecycle.end(self.connections.time());
        self.connections.close_all(|| self.lifecycle.close_reason());
    }

    /// Another worker takes over.
    pub(super) fn retire(&mut self) {
        if self.lifecycle == Lifecycle::Serving {
            self.leave();
            let (open, limit) = (self.connections.len(), self.config.process.retire_timeout);
            let at_most = limit.map(|limit| format!(", for at most {} seconds", limit.as_secs())).unwrap_or_default();
            log::info!("retiring: {open} connections are served to their end{at_most}");
            self.lifecycle.retire(self.connections.time(), limit.map(ticks));
        }
    }

    pub(super) fn reopen(&mut self) {
        logging::reopen();
        let Some(path) = &self.config.process.access_log else { return };
        match access_log::open(path) {
            Ok(file) => self.connections.access_log().reopen(file),
            Err(error) => log::error!("the access log stays the old one: {error}"),
        }
    }

    /// Takes the steps of draining that are due. Returns whether the worker has ended.
    pub(super) fn is_done(&mut self) -> bool {
        let now = self.connections.time();
        if self.lifecycle.stops_accepting(now) {
            self.acceptor.close();
        }
        if !matches!(self.lifecycle, Lifecycle::Draining(_)) {
            return false;
        }
        if self.lifecycle.is_over(now) && !self.connections.is_empty() {
            log::info!("{} connections had not ended in time and are reset", self.connections.len());
            self.connections.close_all(|| self.lifecycle.close_reason());
            self.connections.access_log().flush();
        }
        let ended = self.has_ended();
        if ended {
            self.tell_counters();
            if let (Some(_), Some(lost)) = (&self.guardian, logging::hand_losses_over()) {
                self.say(ToGuardian::LostLines(lost));
            }
        }
        ended
    }

    /// Whether there is nothing left to serve. The only connection may be refused before the loop begins.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.lifecycle, Lifecycle::Draining(_)) && self.connections.is_empty()
    }
}
