//! The guardian: its loop and its signals. It touches no payload and takes no input from the network.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use nix::unistd::Pid;

use crate::config::Config;
use crate::daemon::change::{Change, Request};
use crate::daemon::children::{Children, Ended, GenerationId, Role};
use crate::daemon::inherited::Inherited;
use crate::daemon::instance::Instance;
use crate::daemon::listeners;
use crate::daemon::message::ToGuardian;
use crate::daemon::pidfile::PidFile;
use crate::daemon::ready;
use crate::daemon::reconciler::Reconciler;
use crate::daemon::shutdown::Shutdown;
use crate::daemon::terminal::Terminal;
use crate::daemon::transition::{Kind, Outcome, Transition};
use crate::daemon::upgrade;
use crate::error::Error;
use crate::logging;
use crate::sys::process;
use crate::traffic::counters::CounterLine;
use crate::traffic::token::EventToken;

mod requests;

/// The running guardian.
#[derive(Debug)]
pub(crate) struct Guardian {
    poll: Poll,
    signals: SignalFd,
    /// What it guards.
    pub instance: Instance,
    change: Change,
    /// What was asked for while a change was under way: the file may have changed again.
    deferred: Option<Request>,
    shutdown: Option<Shutdown>,
    /// When the stop begins that was asked for (`--drain-delay`).
    stop_due: Option<Instant>,
    /// The error that ends the daemon.
    failure: Option<Error>,
    /// The shell that waits for the start to succeed.
    terminal: Terminal,
    pidfile: Option<PidFile>,
    /// The program to execute at an upgrade.
    program: PathBuf,
}

impl Guardian {
    /// A guardian of nothing yet.
    pub(crate) fn new(inherited: Inherited, terminal: Terminal, pidfile: Option<PidFile>) -> Result<Guardian, Error> {
        let failed = |error| Error::sys("setting up the guardian", error);
        let signals = process::signals(&process::BLOCKED).map_err(failed)?;
        let poll = Poll::new().map_err(failed)?;
        let registered = poll.registry().register(
            &mut SourceFd(&signals.as_fd().as_raw_fd()),
            Token::from(EventToken::Signals),
            Interest::READABLE,
        );
        registered.map_err(failed)?;
        let children = Children::new(poll.registry().try_clone().map_err(failed)?)?;
        let program = upgrade::program().map_err(failed)?;
        Ok(Guardian {
            poll,
            signals,
            instance: Instance::new(children, inherited),
            change: Change::Nothing,
            deferred: None,
            shutdown: None,
            stop_due: None,
            failure: None,
            terminal,
            pidfile,
            program,
        })
    }

    /// Begins a change.
    pub(crate) fn begin(&mut self, kind: Kind, config: Config) {
        self.instance.control.covered = self.instance.control.asked;
        self.change = Change::Transition(Transition::begin(kind, config, &mut self.instance));
    }

    /// Guards until the daemon has stopped. Returns the exit status; an error is reported before the shell hears of it.
    pub(crate) fn run(mut self) -> Result<u8, Error> {
        let mut events = Events::with_capacity(64);
        // Children of the former program of this process may have ended during the upgrade.
        self.reap();
        loop {
            self.work();
            if self.shutdown.as_ref().is_some_and(Shutdown::is_done) {
                break;
            }
            self.wait(&mut events)?;
            for event in events.iter() {
                match EventToken::from(event.token()) {
                    EventToken::Signals => self.take_signals()?,
                    EventToken::Channel(pid) => self.hear(Pid::from_raw(pid.cast_signed())),
                    EventToken::Listener(_) => self.instance.listeners_have_changed(),
                    EventToken::Rules => self.instance.rules.iter_mut().for_each(Reconciler::heard_of_changes),
                    EventToken::Probe(_) | EventToken::Connection(..) => {}
                }
            }
        }
        if self.instance.children.workers_started > 0 && self.failure.is_none() {
            log::info!("counters: {}", CounterLine(&self.instance.totals()));
        }
        drop(self.pidfile);
        match self.failure {
            Some(error) => Ok(self.terminal.fail(&error)),
            None => Ok(self.shutdown.map_or(0, |shutdown| shutdown.conclude())),
        }
    }

    fn wait(&mut self, events: &mut Events) -> Result<(), Error> {
        let instance = match &self.shutdown {
            Some(shutdown) => [shutdown.due(), self.instance.due_at_stop()],
            None => [self.instance.due(self.change.resolves()), self.change.due()],
        };
        let log = logging::behind().map(|after| Instant::now() + after);
        let due = instance.into_iter().flatten().chain(self.terminal.due()).chain(self.stop_due).chain(log).min();
        // mio rounds to whole milliseconds; a little late is better than a busy loop until it is time.
        let timeout = due.map(|due| due.saturating_duration_since(Instant::now()) + Duration::from_millis(1));
        match self.poll.poll(events, timeout) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(Error::sys("waiting for events", error)),
            _ => Ok(()),
        }
    }

    /// Does what is due.
    fn work(&mut self) {
        let now = Instant::now();
        for pid in self.instance.children.unmute(now) {
            self.hear(pid);
        }
        self.terminal.leave_if_due(now);
        logging::catch_up();
        if self.stop_due.take_if(|due| *due <= now).is_some() {
            self.begin_shutdown();
        }
        if self.shutdown.is_none() {
            self.advance();
        }
        match &mut self.shutdown {
            // A start that has just failed may have nothing to wait for.
            Some(shutdown) => shutdown.advance(&mut self.instance),
            None => self.guard(now),
        }
        if let Some(silent) = self.instance.stats.answer(now) {
            log::info!("counters: {}{silent}", CounterLine(&self.instance.totals()));
        }
        self.instance.work_on_control(false);
    }

    fn guard(&mut self, now: Instant) {
        self.begin_deferred();
        // While the rules of the next generation are installed, the gates of the serving one do not apply to them.
        if !self.change.installs_rules() {
            self.instance.set_gates();
        }
        self.instance.work(now);
        // A failure of the rules is a transition's while one installs them.
        if self.change.is_nothing() {
            self.instance.forget_former_rules();
            self.instance.report_rules();
        }
    }

    fn advance(&mut self) {
        match &mut self.change {
            Change::Nothing => {}
            Change::Transition(transition) => {
                let (kind, outcome) = (transition.kind(), transition.advance(&mut self.instance));
                match outcome {
                    Outcome::Pending => {}
                    Outcome::Done => self.changed(kind),
                    Outcome::Failed(error) => self.failed(kind, error),
                }
            }
            Change::Rehearsal(rehearsal) => rehearsal.limit(&self.instance.children),
            Change::Execution => {
                if !self.instance.works_on_rules() {
                    self.execute();
                }
            }
        }
    }

    /// A change has succeeded.
    fn changed(&mut self, kind: Kind) {
        self.change = Change::Nothing;
        let Some(serving) = &self.instance.serving else { return };
        listeners::retire_orphans(&serving.listeners.orphans);
        ready::log_change(kind, serving, &self.instance.names);
        self.instance.set_verbose(serving.config.process.verbose);
        self.instance.work_on_control(true);
        if kind != Kind::Start {
            let upgrade = kind == Kind::Upgrade;
            self.instance.control.changed(upgrade, Ok(format!("ok: {} done", kind.name())));
            if upgrade {
                self.instance.control.renew(&mut self.instance.children);
            }
        }
        self.terminal.ready();
        self.instance.notifier.tell(&format!("READY=1\nMAINPID={}", std::process::id()));
    }

    /// A change has failed: nothing has changed, and after a start that means that the daemon ends.
    fn failed(&mut self, kind: Kind, error: Error) {
        self.change = Change::Nothing;
        if kind == Kind::Start {
            self.failure = Some(error);
            self.shutdown = Some(Shutdown::abandon(&self.instance));
        } else {
            self.not_changed(kind == Kind::Upgrade, &error);
            self.instance.notifier.tell("READY=1");
        }
    }

    /// Acts on all signals that wait.
    fn take_signals(&mut self) -> Result<(), Error> {
        let failed = |error| Error::sys("reading signals", error);
        while let Some(signal) = process::next_signal(&self.signals).map_err(failed)? {
            match signal {
                Signal::SIGTERM | Signal::SIGINT => self.stop(),
                Signal::SIGHUP if self.shutdown.is_none() => self.reload(),
                Signal::SIGUSR2 if self.shutdown.is_none() => self.upgrade(),
                Signal::SIGUSR1 => self.instance.ask_for_counters(),
                Signal::SIGURG => self.reopen(),
                Signal::SIGCHLD => self.reap(),
                _ => {}
            }
        }
        Ok(())
    }

    /// A child has sent something.
    fn hear(&mut self, pid: Pid) {
        match self.instance.children.role(pid) {
            Some(Role::Resolver) => {
                let moved = self.instance.heard_from_resolver();
                if moved && !matches!(self.change, Change::Transition(_)) {
                    self.instance.refresh_rules();
                }
            }
            Some(role @ (Role::Worker { .. } | Role::Draining)) => {
                for message in self.instance.children.hear(pid) {
                    self.heard(pid, role, message);
                }
            }
            Some(Role::Control) => {
                for message in self.instance.children.hear_control(pid) {
                    self.asked(message);
                }
            }
            Some(Role::PoolResolver | Role::Rules | Role::TableOwner | Role::Rehearsal) | None => {}
        }
    }

    fn heard(&mut self, pid: Pid, role: Role, message: ToGuardian) {
        self.instance.heard_from_worker(pid, message);
        let Role::Worker { generation, slot } = role else { return };
        let serves = self.instance.serving.as_ref().is_some_and(|serving| serving.id == generation);
        match (&mut self.change, message) {
            _ if serves && self.shutdown.is_none() => self.instance.heard_from_slot(pid, slot, message),
            (Change::Transition(transition), ToGuardian::Ready) => transition.worker_is_ready(generation, slot),
            (Change::Transition(_), ToGuardian::Leaving) => {
                self.start_fails(generation, slot, Error::Failed(format!("worker {pid} drains while it started")));
            }
            _ => {}
        }
    }

    fn reap(&mut self) {
        while let Some(ended) = self.instance.children.reap() {
            let Ended { pid, role, how, .. } = ended;
            for message in &ended.last {
                self.heard(pid, role, *message);
            }
            self.instance.stats.lost(pid.as_raw().cast_unsigned(), ended.worker.as_ref());
            self.instance.control.worker_ended(pid, how.is_well());
            match role {
                Role::Rehearsal => self.rehearsed(how),
                Role::Worker { generation, slot } => self.worker_ended(&ended, generation, slot),
                // Another one would fail in the same way.
                Role::Resolver if how.is_failure() && self.change.start_from().is_some() => {
                    self.cancel(ended.failure("resolver"));
                }
                _ => self.instance.ended(&ended),
            }
        }
    }

    fn worker_ended(&mut self, ended: &Ended, generation: GenerationId, slot: usize) {
        if self.instance.serving.as_ref().is_some_and(|serving| serving.id == generation) {
            if self.shutdown.is_none() {
                self.instance.ended(ended);
            }
            return;
        }
        self.start_fails(generation, slot, ended.failure("worker"));
    }

    /// A worker of a generation is of no use. If that generation is coming up, it cannot.
    fn start_fails(&mut self, generation: GenerationId, slot: usize, why: Error) {
        if let Change::Transition(transition) = &mut self.change
            && transition.worker_has_ended(generation, slot)
        {
            self.cancel(why);
        }
    }

    fn cancel(&mut self, why: Error) {
        if let Some((kind, error)) = self.change.cancel(why, &mut self.instance) {
            self.failed(kind, error);
        }
    }
}
