//! Changing what serves without a client noticing: the next configuration (SIGHUP), or the next program (SIGUSR2), is
//! brought up beside the one that serves, and takes over when it is ready. If it does not come up, nothing has changed.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::config::{self, Config};
use crate::daemon::change::{Reload, Step, Successor};
use crate::daemon::generation::Generation;
use crate::daemon::guardian::{self, GRACE, Guardian};
use crate::daemon::inherited::{Handover, Inherited};
use crate::daemon::instance_lock::InstanceLock;
use crate::daemon::message::ToWorker;
use crate::daemon::reconciler::{Reconciler, RulesState};
use crate::error::Error;
use crate::logging;
use crate::rules::ruleset::RuleSet;
use crate::sys::process::{self, Report};
use crate::traffic::token::EventToken;

/// How long a reload or an upgrade may take.
const PATIENCE: Duration = Duration::from_secs(30);

impl Guardian {
    /// SIGHUP: the logs are opened again, and the configuration is read again.
    pub(crate) fn begin_reload(&mut self) {
        logging::reopen();
        if self.reload.is_some() || self.successor.is_some() {
            return self.defer(Signal::SIGHUP);
        }
        let config = match config::read_again(&self.generation.config.command_line) {
            Ok(config) => config,
            Err(error) => return log::error!("reload: {error}; nothing has changed"),
        };
        self.notifier.tell_reloading();
        let mut wanted = config.names();
        wanted.extend(self.generation.config.names());
        let followed = [config.names_to_follow(), self.generation.config.names_to_follow()].concat();
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
            Step::Starting(generation) if generation.is_ready() => self.change_rules(generation),
            Step::Ruling(generation, before) => {
                match self.reconciler.as_ref().map_or(RulesState::Settled, Reconciler::state) {
                    RulesState::Settled => return self.finish_reload(*generation),
                    RulesState::Failed => {
                        return self.end_failed(Some(*generation), before, "the rules could not be installed");
                    }
                    RulesState::Working => Ok(Step::Ruling(generation, before)),
                }
            }
            step => Ok(step),
        };
        match next {
            Ok(step) if late && !matches!(step, Step::Ruling(..)) => {
                let generation = if let Step::Starting(generation) = step { Some(*generation) } else { None };
                self.end_failed(generation, None, "the new workers are not ready in time");
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
        let mut generation = Generation::prepare(config, &self.generation.listeners, &mut Inherited::default())?;
        for slot in 0..generation.slots.len() {
            let number = self.next_number();
            if let Err(error) = generation.start_worker(slot, number, &self.names, self.poll.registry()) {
                dismiss(&generation);
                return Err(error);
            }
        }
        Ok(Step::Starting(Box::new(generation)))
    }

    fn change_rules(&mut self, generation: Box<Generation>) -> Result<Step, Error> {
        let rules = generation.rules(&self.names).inspect_err(|_| dismiss(&generation))?;
        let before = self.reconciler.as_ref().map(|reconciler| reconciler.set().clone());
        match (&mut self.reconciler, rules) {
            (Some(reconciler), Some(set)) => reconciler.replace(set),
            (Some(reconciler), None) => {
                let empty = RuleSet { specs: Vec::new(), ..reconciler.set().clone() };
                reconciler.replace(empty);
            }
            (None, Some(set)) => {
                let reconciler = self.claim_name(&set.name).and_then(|()| Reconciler::new(set, None));
                self.reconciler = Some(reconciler.inspect_err(|_| dismiss(&generation))?);
            }
            (None, None) => {}
        }
        if let Some(reconciler) = &mut self.reconciler {
            reconciler.every(generation.config.process.verify);
            reconciler.check_soon();
            reconciler.work();
        }
        Ok(Step::Ruling(generation, before))
    }

    fn claim_name(&mut self, name: &str) -> Result<(), Error> {
        if self.lock.is_none() {
            self.lock = Some(InstanceLock::stake(name)?);
        }
        Ok(())
    }

    /// The new shift serves; the former one's workers serve what they have to its end.
    fn finish_reload(&mut self, generation: Generation) {
        self.signal_shift(Signal::SIGHUP);
        if self.generation.config.process.user != generation.config.process.user {
            self.names.dismiss();
        }
        let former = std::mem::replace(&mut self.generation, generation);
        self.leaving.extend(former.slots.into_iter().filter_map(|slot| slot.child));
        self.forget_unreachable();
        let config = &self.generation.config;
        self.names.want(&config.names(), &config.names_to_follow());
        if let Some(file) = &self.generation.access_log {
            use std::os::fd::AsFd;
            self.tell_workers(&ToWorker::AccessLog, Some(file.as_fd()));
        }
        match config.redirections.len() {
            1 => log::info!("reloaded: 1 redirection"),
            count => log::info!("reloaded: {count} redirections"),
        }
        self.local.look(&self.generation.config);
        // Names may have got other addresses while the rules were being installed.
        self.refresh_rules();
        self.notifier.tell("READY=1");
    }

    /// AddrPair a reload that is under way.
    pub(crate) fn fail_reload(&mut self, why: &str) {
        if let Some(reload) = self.reload.take() {
            match reload.step {
                Step::Resolving(_) => self.end_failed(None, None, why),
                Step::Starting(generation) => self.end_failed(Some(*generation), None, why),
                Step::Ruling(generation, before) => self.end_failed(Some(*generation), before, why),
            }
        }
    }

    fn end_failed(&mut self, generation: Option<Generation>, before: Option<RuleSet>, why: &str) {
        log::error!("reload: {why}; nothing has changed");
        if let Some(generation) = generation {
            dismiss(&generation);
        }
        if let (Some(reconciler), Some(before)) = (&mut self.reconciler, before) {
            reconciler.replace(before);
            reconciler.every(self.generation.config.process.verify);
        }
        let config = &self.generation.config;
        self.names.want(&config.names(), &config.names_to_follow());
        self.notifier.tell("READY=1");
    }
}

/// Workers that never served.
fn dismiss(generation: &Generation) {
    for child in generation.children() {
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
        let (report, theirs) = process::report_pipe().map_err(|error| Error::sys("pipe", error))?;
        let (lock, workers, listeners) = (self.lock.as_ref(), self.workers, self.generation.listeners());
        let serving = self.generation.children().map(|child| child.pid).collect();
        let handover = Handover { report: theirs, lock, workers, serving, listeners };
        let process = handover.start(&self.program, &self.generation.config.command_line);
        let process = process.map_err(|error| Error::sys("starting it", error))?;
        guardian::watch(&self.poll, &report, EventToken::Channel(0))?;
        Ok(Successor { process, report, limit: Instant::now() + PATIENCE, dismissed: false })
    }

    /// The successor reports, or is gone.
    pub(crate) fn hear_successor(&mut self) {
        let Some(successor) = &self.successor else { return };
        match process::read_report(&successor.report, Some(Duration::ZERO)) {
            // It has been told to stop, too, and its end is waited for: it has connections of its own by now.
            Report::Status(0) if self.is_stopping() => {
                self.relieve(successor.pid());
                self.dismiss_successor(Signal::SIGTERM, self.generation.config.process.drain + 2 * GRACE);
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

    /// AddrPair a successor that has taken too long; first gently, for it may have children by now.
    pub(crate) fn limit_successor(&mut self) {
        if let Some(successor) = self.successor.as_ref().filter(|successor| successor.limit <= Instant::now()) {
            let signal = if successor.dismissed { Signal::SIGKILL } else { Signal::SIGTERM };
            log::error!("upgrade: the new program does not come up; {signal} is sent to process {}", successor.pid());
            // It may be waiting for the lock of the tables, and is better not killed then.
            self.dismiss_successor(signal, 3 * GRACE);
        }
    }

    /// Tells the successor to end, within that time.
    pub(crate) fn dismiss_successor(&mut self, signal: Signal, timeouts: Duration) {
        let Some(successor) = &mut self.successor else { return };
        (successor.dismissed, successor.limit) = (true, Instant::now() + timeouts);
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
        if let Some(reconciler) = &mut self.reconciler {
            reconciler.check_soon();
        }
    }
}
