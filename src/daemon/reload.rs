//! Changing what serves without a client noticing: the next configuration (SIGHUP), or the next program (SIGUSR2), is
//! brought up beside the one that serves, and takes over when it is ready. If it does not come up, nothing has changed.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::config::{self, Config};
use crate::daemon::change::{Reload, Step, Successor};
use crate::daemon::claim::Claim;
use crate::daemon::guardian::{self, GRACE, Guardian};
use crate::daemon::keeper::{Keeper, State};
use crate::daemon::message::Order;
use crate::daemon::passed::{Handover, Passed};
use crate::daemon::shift::Shift;
use crate::error::Error;
use crate::logging;
use crate::rules::rule::RuleSet;
use crate::sys::process::{self, Report};
use crate::traffic::wake::Wake;

/// How long a reload or an upgrade may take.
const PATIENCE: Duration = Duration::from_secs(30);

impl Guardian {
    /// SIGHUP: the logs are opened again, and the configuration is read again.
    pub(crate) fn begin_reload(&mut self) {
        logging::reopen();
        if self.reload.is_some() || self.successor.is_some() {
            return self.defer(Signal::SIGHUP);
        }
        let config = match config::read_again(&self.shift.config.arguments) {
            Ok(config) => config,
            Err(error) => return log::error!("reload: {error}; nothing has changed"),
        };
        self.notifier.tell_reloading();
        let mut wanted = config.names();
        wanted.extend(self.shift.config.names());
        let followed = [config.names_to_follow(), self.shift.config.names_to_follow()].concat();
        self.names.want(&wanted, &followed);
        self.names.refresh();
        self.reload = Some(Reload { limit: Instant::now() + PATIENCE, step: Step::Resolving(Box::new(config)) });
    }

    /// What was asked for while something else was under way is done after it: the file may have changed again.
    fn defer(&mut self, signal: Signal) {
        log::info!("a reload or an upgrade is under way; another one follows");
        // An upgrade reads the configuration, too.
        if self.deferred != Some(Signal::SIGUSR2) {
            self.deferred = Some(signal);
        }
    }

    /// Begins what was deferred, if nothing is under way any more.
    pub(crate) fn do_deferred(&mut self) {
        if self.reload.is_some() || self.successor.is_some() {
            return;
        }
        match self.deferred.take() {
            Some(Signal::SIGUSR2) => self.begin_upgrade(),
            Some(_) => self.begin_reload(),
            None => {}
        }
    }

    /// Takes the next step of a reload, if it is due.
    pub(crate) fn go_on_reloading(&mut self) {
        let Some(reload) = self.reload.take() else { return };
        let late = reload.limit <= Instant::now();
        let (limit, step) = (reload.limit, reload.step);
        let before = std::mem::discriminant(&step);
        let next = match step {
            Step::Resolving(config) => match self.names.unknown() {
                Some(name) if late => {
                    let why = format!("'{name}' does not resolve");
                    return self.end_failed(None, None, &why);
                }
                Some(_) => Ok(Step::Resolving(config)),
                None => self.prepare(*config),
            },
            Step::Starting(shift) if shift.is_ready() => self.change_rules(shift),
            Step::Ruling(shift, before) => match self.keeper.as_ref().map_or(State::Settled, Keeper::state) {
                State::Settled => return self.finish_reload(*shift),
                State::Failed => return self.end_failed(Some(*shift), before, "the rules could not be installed"),
                State::Working => Ok(Step::Ruling(shift, before)),
            },
            step => Ok(step),
        };
        match next {
            Ok(step) if late && !matches!(step, Step::Ruling(..)) => {
                let shift = if let Step::Starting(shift) = step { Some(*shift) } else { None };
                self.end_failed(shift, None, "the new workers are not ready in time");
            }
            Ok(step) => {
                let went_on = std::mem::discriminant(&step) != before;
                self.reload = Some(Reload { limit, step });
                if went_on {
                    // The next step may have nothing to wait for.
                    self.go_on_reloading();
                }
            }
            Err(error) => self.end_failed(None, None, &error.to_string()),
        }
    }

    fn prepare(&mut self, config: Config) -> Result<Step, Error> {
        let mut shift = Shift::prepare(config, &self.shift.sockets, &mut Passed::default())?;
        for post in 0..shift.posts.len() {
            let number = self.next_number();
            if let Err(error) = shift.start_worker(post, number, &self.names, self.poll.registry()) {
                dismiss(&shift);
                return Err(error);
            }
        }
        Ok(Step::Starting(Box::new(shift)))
    }

    fn change_rules(&mut self, shift: Box<Shift>) -> Result<Step, Error> {
        let rules = shift.rules(&self.names).inspect_err(|_| dismiss(&shift))?;
        let before = self.keeper.as_ref().map(|keeper| keeper.set().clone());
        match (&mut self.keeper, rules) {
            (Some(keeper), Some(set)) => keeper.replace(set),
            (Some(keeper), None) => {
                let empty = RuleSet { lines: Vec::new(), ..keeper.set().clone() };
                keeper.replace(empty);
            }
            (None, Some(set)) => {
                let keeper = self.claim_name(&set.name).and_then(|()| Keeper::new(set, None));
                self.keeper = Some(keeper.inspect_err(|_| dismiss(&shift))?);
            }
            (None, None) => {}
        }
        if let Some(keeper) = &mut self.keeper {
            keeper.every(shift.config.process.verify);
            keeper.check_soon();
            keeper.work();
        }
        Ok(Step::Ruling(shift, before))
    }

    fn claim_name(&mut self, name: &str) -> Result<(), Error> {
        if self.claim.is_none() {
            self.claim = Some(Claim::stake(name)?);
        }
        Ok(())
    }

    /// The new shift serves; the former one's workers serve what they have to its end.
    fn finish_reload(&mut self, shift: Shift) {
        self.signal_shift(Signal::SIGHUP);
        if self.shift.config.process.user != shift.config.process.user {
            self.names.dismiss();
        }
        let former = std::mem::replace(&mut self.shift, shift);
        self.leaving.extend(former.posts.into_iter().filter_map(|post| post.child));
        self.forget_unreachable();
        let config = &self.shift.config;
        self.names.want(&config.names(), &config.names_to_follow());
        if let Some(file) = &self.shift.access_log {
            use std::os::fd::AsFd;
            self.tell_workers(&Order::AccessLog, Some(file.as_fd()));
        }
        match config.redirections.len() {
            1 => log::info!("reloaded: 1 redirection"),
            count => log::info!("reloaded: {count} redirections"),
        }
        self.local.look(&self.shift.config);
        // Names may have got other addresses while the rules were being installed.
        self.refresh_rules();
        self.notifier.tell("READY=1");
    }

    /// Ends a reload that is under way.
    pub(crate) fn fail_reload(&mut self, why: &str) {
        if let Some(reload) = self.reload.take() {
            match reload.step {
                Step::Resolving(_) => self.end_failed(None, None, why),
                Step::Starting(shift) => self.end_failed(Some(*shift), None, why),
                Step::Ruling(shift, before) => self.end_failed(Some(*shift), before, why),
            }
        }
    }

    fn end_failed(&mut self, shift: Option<Shift>, before: Option<RuleSet>, why: &str) {
        log::error!("reload: {why}; nothing has changed");
        if let Some(shift) = shift {
            dismiss(&shift);
        }
        if let (Some(keeper), Some(before)) = (&mut self.keeper, before) {
            keeper.replace(before);
            keeper.every(self.shift.config.process.verify);
        }
        let config = &self.shift.config;
        self.names.want(&config.names(), &config.names_to_follow());
        self.notifier.tell("READY=1");
    }
}

/// Workers that never served.
fn dismiss(shift: &Shift) {
    for child in shift.children() {
        if let Err(error) = process::send_signal(child.pid, Signal::SIGKILL) {
            log::error!("worker {}: {error}", child.pid);
        }
    }
}

impl Guardian {
    /// SIGUSR2: starts the program that now stands on the disk, with the same arguments and sockets.
    pub(crate) fn begin_upgrade(&mut self) {
        if self.successor.is_some() {
            return log::warn!("an upgrade is under way already");
        }
        if self.reload.is_some() {
            return self.defer(Signal::SIGUSR2);
        }
        match self.start_successor() {
            Ok(successor) => {
                log::info!("upgrade: process {} is starting", successor.process.id());
                self.successor = Some(successor);
            }
            Err(error) => log::error!("upgrade: {}: {error}; nothing has changed", self.program.display()),
        }
    }

    fn start_successor(&self) -> Result<Successor, Error> {
        let (report, theirs) = process::report_line().map_err(|error| Error::sys("pipe", error))?;
        let (claim, workers, listeners) = (self.claim.as_ref(), self.workers, self.shift.listeners());
        let serving = self.shift.children().map(|child| child.pid).collect();
        let handover = Handover { report: theirs, claim, workers, serving, listeners };
        let process = handover.start(&self.program, &self.shift.config.arguments);
        let process = process.map_err(|error| Error::sys("starting it", error))?;
        guardian::watch(&self.poll, &report, Wake::Line(0))?;
        Ok(Successor { process, report, limit: Instant::now() + PATIENCE, dismissed: false })
    }

    /// The successor reports, or is gone.
    pub(crate) fn hear_successor(&mut self) {
        let Some(successor) = &self.successor else { return };
        match process::read_report(&successor.report, Some(Duration::ZERO)) {
            // It has been told to stop, too, and its end is waited for: it has connections of its own by now.
            Report::Status(0) if self.is_stopping() => {
                self.relieve(successor.pid());
                self.dismiss_successor(Signal::SIGTERM, self.shift.config.process.drain + 2 * GRACE);
            }
            Report::Status(0) => {
                let heir = successor.pid();
                log::info!("upgrade: process {heir} serves; this one ends with its connections");
                self.notifier.tell(&format!("MAINPID={heir}"));
                self.successor = None;
                self.relieve(heir);
                // What was deferred is the heir's to do.
                self.deferred.take().iter().for_each(|signal| self.send(heir, *signal));
            }
            // Its end, which is near, tells how.
            Report::Late | Report::Status(_) | Report::Gone => {}
        }
    }

    /// Ends a successor that has taken too long; first gently, for it may have children by now.
    pub(crate) fn limit_successor(&mut self) {
        if let Some(successor) = self.successor.as_ref().filter(|successor| successor.limit <= Instant::now()) {
            let signal = if successor.dismissed { Signal::SIGKILL } else { Signal::SIGTERM };
            log::error!("upgrade: the new program does not come up; {signal} is sent to process {}", successor.pid());
            // It may be waiting for the lock of the tables, and is better not killed then.
            self.dismiss_successor(signal, 3 * GRACE);
        }
    }

    /// Tells the successor to end, within that time.
    pub(crate) fn dismiss_successor(&mut self, signal: Signal, patience: Duration) {
        let Some(successor) = &mut self.successor else { return };
        (successor.dismissed, successor.limit) = (true, Instant::now() + patience);
        let pid = successor.pid();
        self.send(pid, signal);
    }

    /// The successor has ended before it served.
    pub(crate) fn successor_ended(&mut self, how: &str) {
        self.successor = None;
        if self.is_stopping() {
            return;
        }
        log::error!("upgrade: the new program {how}; nothing has changed");
        // It may have been killed in the middle of its rules.
        if let Some(keeper) = &mut self.keeper {
            keeper.check_soon();
        }
    }
}
