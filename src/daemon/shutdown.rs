//! Stopping: no new connection is redirected, those that there are drain, then the rules go.
//!
//! The rules stay until the last connection has ended, only their jumps go first: with the last rule that needs it the
//! kernel would switch connection tracking off, and the connections with it.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::daemon::children::Children;
use crate::daemon::instance::Instance;
use crate::daemon::instance_lock::LockAttempt;
use crate::daemon::message::ToWorker;
use crate::daemon::reconciler::Reconciler;
use crate::error::Error;

/// How much longer than `--drain` a worker may take to end.
const GRACE: Duration = Duration::from_secs(5);

/// While the jumps stand, connections go to sockets that are about to close: deleting them is tried this often.
const ATTEMPTS: u8 = 3;

/// The exit status when rules are left behind: EX_OSERR of sysexits(3), as for every firewall command that fails.
const LEFT_BEHIND: u8 = 71;

/// A stop under way.
#[derive(Debug)]
pub(crate) struct Shutdown {
    phase: Phase,
    /// The rules of this instance stay.
    leaves_rules: bool,
    /// The signal came again: connections are reset.
    reset: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Work on the rules is awaited that began before.
    Waiting,
    /// The jumps to the rules are deleted, after so many attempts that failed.
    Unhooking(u8),
    /// The workers end, or are killed at this time.
    Draining(Instant),
    /// The name of the rules is locked again, which was free meanwhile.
    Locking(LockAttempt),
    /// The rules are removed.
    Removing,
    Done,
}

impl Shutdown {
    /// Begins to stop.
    pub(crate) fn begin(instance: &Instance) -> Shutdown {
        log::info!("stopping");
        instance.notifier.tell("STOPPING=1\nSTATUS=stopping: what is established may end");
        Shutdown { phase: Phase::Waiting, leaves_rules: false, reset: false }
    }

    /// Ends a start that has failed. No client is served yet, and nothing is left behind.
    pub(crate) fn abandon(instance: &Instance) -> Shutdown {
        instance.children.signal_workers(Signal::SIGKILL);
        Shutdown { phase: Phase::Draining(Instant::now() + GRACE), leaves_rules: false, reset: false }
    }

    /// The signal to stop has come again.
    pub(crate) fn hurry(&mut self, instance: &Instance) {
        self.reset = true;
        if matches!(self.phase, Phase::Draining(_)) {
            instance.children.tell_workers(&ToWorker::Reset, None);
        }
    }

    /// When to call [`Shutdown::advance`] at the latest: workers are killed that have not ended.
    pub(crate) fn due(&self) -> Option<Instant> {
        match self.phase {
            Phase::Draining(until) => Some(until),
            Phase::Locking(_) => Some(LockAttempt::due()),
            _ => None,
        }
    }

    /// Says how it ended. Returns the exit status.
    pub(crate) fn conclude(&self) -> u8 {
        if self.leaves_rules {
            log::error!("ended, but the rules are left behind: `tproxy --flush` removes them");
            return LEFT_BEHIND;
        }
        log::info!("stopped");
        0
    }

    /// Everything has ended.
    pub(crate) fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }

    /// Takes all steps that need not wait.
    pub(crate) fn advance(&mut self, instance: &mut Instance) {
        if let Some(rules) = &mut instance.rules {
            rules.hurry();
            rules.limit_work(&instance.children);
        }
        loop {
            let next = match self.phase {
                Phase::Waiting if instance.works_on_rules() => return,
                Phase::Waiting => {
                    let begun = start_rules_work(instance, "unhooked", Reconciler::unhook);
                    Phase::Unhooking(if begun { 0 } else { ATTEMPTS })
                }
                Phase::Unhooking(_) if instance.works_on_rules() => return,
                Phase::Unhooking(attempts) => {
                    let failed = report_failure(instance, "unhooked");
                    if failed && attempts + 1 < ATTEMPTS && start_rules_work(instance, "unhooked", Reconciler::unhook) {
                        Phase::Unhooking(attempts + 1)
                    } else {
                        self.drain(instance)
                    }
                }
                Phase::Draining(until) if instance.children.workers().next().is_some() => {
                    let now = Instant::now();
                    if now < until {
                        return;
                    }
                    log::error!("workers did not end in time and are killed");
                    instance.children.signal_workers(Signal::SIGKILL);
                    self.phase = Phase::Draining(now + GRACE);
                    return;
                }
                Phase::Draining(_) if instance.works_on_rules() => return,
                Phase::Draining(_) => Phase::Locking(LockAttempt::begin()),
                Phase::Locking(mut attempt) => {
                    let locked = self.lock(instance, &mut attempt);
                    if !locked {
                        self.phase = Phase::Locking(attempt);
                        return;
                    }
                    self.leaves_rules |= !start_rules_work(instance, "removed", Reconciler::remove);
                    Phase::Removing
                }
                Phase::Removing if instance.works_on_rules() => return,
                Phase::Removing => {
                    self.leaves_rules |= report_failure(instance, "removed");
                    Phase::Done
                }
                Phase::Done => return,
            };
            self.phase = next;
        }
    }

    /// Locks the name of the rules, unless they are not ours any more. Returns `false` if that must be tried again.
    fn lock(&mut self, instance: &mut Instance, attempt: &mut LockAttempt) -> bool {
        let Some(rules) = instance.rules.as_ref().filter(|_| instance.lock.is_none()) else { return true };
        match attempt.again(&rules.configured().name) {
            Ok(lock) => {
                instance.lock = lock;
                return instance.lock.is_some();
            }
            // Since the rules were unhooked another daemon has begun to use the name, and with it the rules.
            Err(error @ Error::Taken(_)) => log::info!("{error}"),
            Err(error) => {
                log::error!("the rules could not be removed: {error}");
                self.leaves_rules = true;
            }
        }
        instance.rules = None;
        true
    }

    fn drain(&self, instance: &mut Instance) -> Phase {
        // The next daemon may lock the name now.
        instance.lock = None;
        instance.names.dismiss(&mut instance.children);
        let mut time = Duration::ZERO;
        if let Some(serving) = &mut instance.serving {
            serving.listeners.all.clear();
            time = instance.drain.unwrap_or(serving.config.process.drain);
        }
        instance.notifier.ask_for_time(time);
        let seconds = instance.drain.map(|drain| u32::try_from(drain.as_secs()).unwrap_or(u32::MAX));
        for pid in instance.children.workers() {
            let told = seconds.is_some_and(|seconds| instance.children.tell(pid, &ToWorker::Stop(seconds), None));
            if !told {
                instance.children.signal(pid, Signal::SIGTERM);
            }
        }
        if self.reset {
            instance.children.tell_workers(&ToWorker::Reset, None);
        }
        Phase::Draining(Instant::now() + time + GRACE)
    }
}

/// Returns whether the work has begun, or there is none.
fn start_rules_work(
    instance: &mut Instance,
    what: &str,
    work: fn(&mut Reconciler, &mut Children) -> Result<(), Error>,
) -> bool {
    let Some(rules) = &mut instance.rules else { return true };
    // A failure from before does not matter any more.
    drop(rules.take_failure());
    if let Err(error) = work(rules, &mut instance.children) {
        log::error!("the rules could not be {what}: {error}");
        return false;
    }
    true
}

/// Returns whether the last work on the rules has failed.
fn report_failure(instance: &mut Instance, what: &str) -> bool {
    let Some(error) = instance.rules.as_mut().and_then(Reconciler::take_failure) else { return false };
    log::error!("the rules could not be {what}: {error}");
    true
}
