//! What an administrator asks for: reload, upgrade, stop.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::Guardian;
use crate::config;
use crate::daemon::change::{Change, Request};
use crate::daemon::control_link::MOST_AWAITING;
use crate::daemon::control_message::FromControl;
use crate::daemon::handover::HandoverSource;
use crate::daemon::shutdown::Shutdown;
use crate::daemon::transition::Kind;
use crate::daemon::upgrade::{self, Rehearsal};
use crate::error::Error;
use crate::logging;
use crate::sys::process::{self, Death};

impl Guardian {
    /// SIGHUP: the logs are opened again, and the configuration is read again.
    pub(super) fn reload(&mut self) {
        logging::reopen();
        if let Some(config) = self.change.start_from() {
            match config::read_again(&config.command_line) {
                Ok(config) => {
                    log::info!("the start begins again with the configuration as it is now");
                    self.begin(Kind::Start, config);
                }
                Err(error) => log::error!("reload: {error}; the start goes on"),
            }
            return;
        }
        let (Change::Nothing, Some(serving)) = (&self.change, &self.instance.serving) else {
            return self.defer(Request::Reload);
        };
        match config::read_again(&serving.config.command_line) {
            Ok(config) => self.begin(Kind::Reload, config),
            Err(error) => {
                self.instance.control.covered = self.instance.control.asked;
                self.not_changed(false, &error);
            }
        }
    }

    /// A reload or an upgrade has failed.
    pub(super) fn not_changed(&mut self, upgrade: bool, error: &Error) {
        let name = if upgrade { Kind::Upgrade.name() } else { Kind::Reload.name() };
        log::error!("{name}: {error}; nothing has changed");
        self.instance.control.changed(upgrade, Err(format!("{name}: {error}; nothing has changed")));
    }

    /// SIGUSR2: the program on the disk rehearses, and is executed if that goes well.
    pub(super) fn upgrade(&mut self) {
        let (Change::Nothing, Some(_)) = (&self.change, &self.instance.serving) else {
            return self.defer(Request::Upgrade);
        };
        self.instance.control.covered = self.instance.control.asked;
        let started = self.hand_over(upgrade::start_rehearsal);
        let started = started.and_then(|child| Rehearsal::begin(child, &mut self.instance.children));
        match started {
            Ok(rehearsal) => {
                log::info!("upgrade: process {} rehearses with {}", rehearsal.pid, self.program.display());
                self.change = Change::Rehearsal(rehearsal);
            }
            Err(error) => self.not_changed(true, &Error::Failed(format!("{}: {error}", self.program.display()))),
        }
    }

    pub(super) fn hand_over<T>(
        &self,
        work: impl FnOnce(&HandoverSource<'_>, &Path) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let serving = self.instance.serving.as_ref().ok_or_else(|| Error::Failed("nothing serves yet".into()))?;
        let pidfile = self.pidfile.as_ref();
        work(
            &HandoverSource { serving, instance: &self.instance, pidfile, logs_to_stderr: self.terminal.is_kept() },
            &self.program,
        )
    }

    pub(super) fn rehearsed(&mut self, how: Death) {
        let Change::Rehearsal(rehearsal) = std::mem::replace(&mut self.change, Change::Nothing) else { return };
        match rehearsal.ended(how) {
            Ok(()) => self.change = Change::Execution,
            Err(error) => self.not_changed(true, &error),
        }
    }

    /// Replaces the program of this process.
    pub(super) fn execute(&mut self) {
        self.change = Change::Nothing;
        // The next program starts one of its own.
        self.instance.names.dismiss(&mut self.instance.children);
        let deferred = self.deferred.take();
        if deferred == Some(Request::Upgrade) {
            // It waits until the next program takes signals. A reload need not: the next program reads the file.
            let _ = process::send_signal(Pid::this(), Signal::SIGUSR2);
        }
        log::info!("upgrade: executing {}", self.program.display());
        self.instance.control.flush(&self.instance.children);
        self.instance.control.sockets.iter_mut().for_each(|sockets| sockets.leave(true));
        if let Err(error) = self.hand_over(upgrade::execute) {
            self.instance.control.sockets.iter_mut().for_each(|sockets| sockets.leave(false));
            self.not_changed(true, &Error::Failed(format!("{}: {error}", self.program.display())));
            self.deferred = deferred.filter(|request| *request != Request::Upgrade);
        }
    }

    pub(super) fn defer(&mut self, request: Request) {
        log::info!("another change is under way; this one follows it");
        self.deferred = self.deferred.max(Some(request));
    }

    pub(super) fn begin_deferred(&mut self) {
        match self.deferred.take_if(|_| self.change.is_nothing()) {
            Some(Request::Upgrade) => self.upgrade(),
            Some(Request::Reload) => self.reload(),
            Some(Request::ReopenLogs) => self.instance.reopen_logs(),
            None => {}
        }
    }

    /// The first time begins to stop; the second time, connections are reset.
    pub(super) fn stop(&mut self) {
        if let Some(shutdown) = &mut self.shutdown {
            return shutdown.hurry(&self.instance);
        }
        let delay = self.instance.serving.as_ref().map_or(Duration::ZERO, |serving| serving.config.process.drain_delay);
        if !self.instance.control.stopping && !delay.is_zero() {
            log::info!("stopping in {} seconds: the instance is unhealthy from now on", delay.as_secs());
            self.instance.control.stopping = true;
            self.instance.notifier.ask_for_time(delay);
            self.stop_due = Some(Instant::now() + delay);
            return;
        }
        self.begin_shutdown();
    }

    /// From now on no new client is served.
    pub(super) fn begin_shutdown(&mut self) {
        self.stop_due = None;
        self.instance.control.stopping = true;
        let cancelled = self.change.cancel(Error::Failed("the daemon stops".into()), &mut self.instance);
        if let Some((kind, error)) = cancelled.filter(|(kind, _)| *kind != Kind::Start) {
            log::error!("{}: {error}; nothing has changed", kind.name());
        }
        self.shutdown = Some(Shutdown::begin(&self.instance));
    }

    /// What the control process asks for.
    pub(super) fn asked(&mut self, message: FromControl) {
        match message {
            FromControl::Ready => {}
            FromControl::Unheard => self.instance.control.give_system_log(),
            FromControl::Reload(number) | FromControl::Upgrade(number) if self.is_stopping() => {
                self.instance.control.done(number, Err("the instance stops".into()));
            }
            FromControl::Reload(number) => {
                self.instance.control.asked = number;
                self.reload();
            }
            FromControl::Upgrade(number) => {
                self.instance.control.asked = number;
                self.upgrade();
            }
            FromControl::Reopen(number) => {
                self.reopen();
                self.instance.control.done(number, Ok("ok: the log files are opened again".into()));
            }
            FromControl::Stop { number, drain } => {
                if let Some(seconds) = drain {
                    self.instance.drain = Some(Duration::from_secs(seconds.into()));
                }
                self.stop();
                self.instance.work_on_control(true);
                self.instance.control.done(number, Ok("ok: stopping".into()));
            }
            FromControl::Verbose { number, on } => {
                // Workers that are started later are told by the configuration.
                if let Some(serving) = &mut self.instance.serving {
                    serving.config.process.verbose = on;
                }
                self.instance.set_verbose(on);
                let state = if on { "on" } else { "off" };
                self.instance.control.done(number, Ok(format!("ok: debug messages are {state}")));
            }
            FromControl::Upstream { number, order, name } => {
                let result = self.instance.order_upstream(order, &name);
                self.instance.work_on_control(true);
                self.instance.control.done(number, result);
            }
            FromControl::Redirection { number, .. } if self.instance.control.awaits_rules.len() >= MOST_AWAITING => {
                self.instance.control.done(number, Err("too many changes of the rules at once".into()));
            }
            FromControl::Redirection { number, id, enable } => {
                match self.instance.order_redirection(id, enable) {
                    Ok(text) => self.instance.control.awaits_rules.push((number, text)),
                    Err(why) => self.instance.control.done(number, Err(why)),
                }
                self.instance.work_on_control(true);
            }
        }
        self.instance.control.flush(&self.instance.children);
    }

    fn is_stopping(&self) -> bool {
        self.shutdown.is_some()
    }

    /// SIGURG: log files are opened again, and nothing else.
    pub(super) fn reopen(&mut self) {
        self.instance.reopen_logs();
        self.deferred = self.deferred.max(self.change.also(Request::ReopenLogs));
    }
}
